"""A simulated EC2 and a provider for it. Whatever a test asks of it must be allowed by the policy we print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aws_cloud import QUICK, requests_of_providers
from aws_policy_judge import not_allowed

from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWS, AWSProvider


@pytest.fixture
def ec2(request: pytest.FixtureRequest) -> Iterator[SimulatedEC2]:
    with SimulatedEC2(boot_s=getattr(request, "param", 0.0)) as cloud:
        cloud.by_hand = []
        yield cloud
    assert not_allowed(AWSProvider(AWS()).policy(), requests_of_providers(cloud)) == []


@pytest.fixture
def make_aws(ec2: SimulatedEC2) -> Callable[..., AWSProvider]:
    """A provider for the simulated cloud; arguments are fields of `sky.AWS`."""

    def make(**config: Any) -> AWSProvider:
        ready = AWSProvider.from_env(AWS(**{**ec2.config(ssh_cidr=None), **config}), environ=ec2.environ)
        ready.account.patience = QUICK
        return ready

    return make


@pytest.fixture
def aws(make_aws: Callable[..., AWSProvider]) -> AWSProvider:
    return make_aws()


@pytest.fixture
def pool_key(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client key as a pool makes one: (file of the private half, public line)."""
    import paramiko
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    file = tmp_path_factory.mktemp("key") / "id_ed25519"
    private = Ed25519PrivateKey.generate()
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    file.chmod(0o600)
    key = paramiko.Ed25519Key.from_private_key_file(str(file))
    return file, f"ssh-ed25519 {key.get_base64()} pool"
