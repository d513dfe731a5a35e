"""The provider: what AWS can do, who we are there, and what is still to come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from skyward import Capabilities, Endpoint, Instance, LaunchRequest, Offer, Provider, ProviderError
from skyward_aws.config import AWS
from skyward_aws.credentials import find_credentials, find_region


class AWSProvider(Provider):
    """EC2 of one region."""

    name: ClassVar[str] = "aws"
    Config: ClassVar[type] = AWS
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True, regions=True, user_data=True, private_network=True, off_means="gone"
    )

    def __init__(self, config: AWS, *, region: str = "us-east-1", credentials_from: str = "") -> None:
        super().__init__(config)
        self.region = region
        self.credentials_from = credentials_from
        """Where the credentials are; never they themselves."""

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> AWSProvider:
        """Ready to call AWS in the region that is configured or that the environment names."""
        wanted = AWS() if config is None else config
        env = os.environ if environ is None else environ
        credentials_from = find_credentials(env)
        here = AWS(region=wanted.region or find_region(env))
        return cls(wanted, region=str(here.region), credentials_from=credentials_from)

    def offers(self) -> Iterable[Offer]:
        """Every way to rent on EC2 in every enabled region, at today's prices; takes a minute or two."""
        from skyward_aws.fetch import client_for, fetch

        return fetch(client_for(self.config.endpoint), self.region)

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        raise self._cannot("launch machines")

    def instances(self, pool: str | None) -> Sequence[Instance]:
        raise self._cannot("list machines")

    def terminate(self, ids: Iterable[str]) -> None:
        unknown = tuple(ids)
        if unknown:
            raise self._cannot(f"end {', '.join(unknown)}")

    def connect(self, instance: Instance) -> Endpoint:
        address = instance.public_address or instance.private_address or ""
        return Endpoint(host=address, port=instance.port, user=self.config.username or instance.user)

    def _cannot(self, what: str) -> ProviderError:
        return ProviderError(
            f"{self.name}: this version cannot {what} there yet: use sky.Local(), or sky.SSH(hosts=[...]) for machines "
            "you have",
            hints=["skyward run TARGET --provider local", "skyward run TARGET --provider ssh"],
            provider=self.name,
        )
