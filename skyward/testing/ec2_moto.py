"""moto, made to behave: where its EC2 is changed, and how it is put back. The only module that knows moto's insides.

Checked against moto 5.2.5 (2026-11). What is changed: instances are pending until told otherwise, terminating and
stopping are asked of us first, the images and public parameters that are on sale exist, and a template's answers count.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any, Protocol
from unittest.mock import patch

from skyward.testing.ec2_images import IMAGES, PARAMETERS, image_id

ACCOUNT = "123456789012"
_SERVICES = ("ec2", "iam", "s3", "ssm", "sts", "servicequotas")
_ENVIRONMENT = {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}
_POLICIES = (
    "AmazonSSMManagedInstanceCore",
    "AmazonS3ReadOnlyAccess",
    "AmazonS3FullAccess",
    "AdministratorAccess",
)
"""The managed policies that exist; to make all of them takes moto a second each time."""


class Hooks(Protocol):
    """What is asked of us while moto works."""

    def launched(self, instance: Any) -> None: ...

    def end(self, instance: Any, reason: tuple[str, str]) -> None: ...

    def stop(self, instance: Any) -> None: ...

    def start(self, instance: Any) -> None: ...

    def is_visible(self, instance: Any) -> bool: ...


@dataclass(frozen=True)
class State:
    name: str
    code: int


PENDING, RUNNING, SHUTTING_DOWN = State("pending", 0), State("running", 16), State("shutting-down", 32)
TERMINATED, STOPPING, STOPPED = State("terminated", 48), State("stopping", 64), State("stopped", 80)
whole_answers = threading.RLock()
"""Held while an answer is written and while a state changes, so that no answer is half old and half new."""
BY_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")


@contextmanager
def moto_for(hooks: Hooks) -> Iterator[Callable[[Mapping[str, Any], Any], Any]]:
    """moto's WSGI application with an empty account whose instances are ours."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, _ENVIRONMENT))
        from moto.ec2.models import instances as models
        from moto.iam.models import IAMBackend
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.ssm.models import ParameterDict

        _forget_everything()
        stack.callback(_forget_everything)
        for what, name, replacement in (
            *_instance_patches(models, hooks),
            (IAMBackend, "_init_aws_policies", _aws_policies),
            (ParameterDict, "_check_loading_status", _with_parameters(ParameterDict._check_loading_status)),
        ):
            stack.enter_context(patch.object(what, name, replacement))
        app: Any = DomainDispatcherApplication(create_backend_app)
        yield app


def backend(region: str) -> Any:
    """EC2 of one region, with the images that are on sale there."""
    from moto.ec2.models import ec2_backends

    found = ec2_backends[ACCOUNT][region]
    if not any(id in found.amis for id in (image_id(image, region) for image in IMAGES)):
        _register_images(found, region)
    return found


def regions_in_use() -> list[str]:
    from moto.ec2.models import ec2_backends

    return list(ec2_backends[ACCOUNT])


def set_state(instance: Any, state: State, reason: tuple[str, str] | None = None) -> None:
    """The state of an instance, and (code, message) of why."""
    from moto.ec2.models.instances import InstanceState, StateReason

    with whole_answers:
        instance._state = InstanceState(state.name, state.code)
        if reason is not None:
            code, message = reason
            instance.state_reason = StateReason(message, code)
            instance._reason = f"{message} ({time.strftime('%Y-%m-%d %H:%M:%S GMT', time.gmtime())})"


def dispose(instance: Any) -> None:
    """Terminated, as moto does it: addresses, disks and roles go. The reason stays the one we gave."""
    with whole_answers:
        reason, text = instance.state_reason, instance._reason
        instance.moto_terminate()
        instance.state_reason, instance._reason = reason, text


def user_data_of(instance: Any) -> str:
    return instance.user_data.decode() if instance.user_data else ""


def vcpus(instance_type: str) -> int:
    """0 for a type that does not exist."""
    shape = _shapes().get(instance_type)
    return int(shape["VCpuInfo"]["DefaultVCpus"]) if shape else 0


def architectures(instance_type: str) -> list[str]:
    shape = _shapes().get(instance_type)
    return list(shape["ProcessorInfo"]["SupportedArchitectures"]) if shape else []


def is_offered(region: str, instance_type: str, zone: str) -> bool:
    return zone in _offerings(region).get(instance_type, ())


def types_offered(region: str) -> list[str]:
    return list(_offerings(region))


def zone_of(region: str, parameters: Mapping[str, str]) -> str:
    """The zone in which RunInstances would launch."""
    subnet = parameters.get("SubnetId")
    for name, value in parameters.items():
        if name.startswith("NetworkInterface.") and name.endswith(".SubnetId"):
            subnet = value
    for zone, subnets in backend(region).subnets.items():
        if subnet in subnets:
            return str(zone)
    return parameters.get("Placement.AvailabilityZone") or parameters.get("AvailabilityZone") or f"{region}a"


def set_addresses(instance: Any, *, public: str, private: str) -> None:
    """The public address only where the subnet or the request wants one."""
    nic = instance.nics[0]
    nic.private_ip_address = private
    nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": private}]
    if nic.public_ip:
        nic.public_ip = public


def groups_of(instance: Any) -> list[Any]:
    return [group for nic in instance.nics.values() for group in nic.group_set]


def lets_in(instance: Any, address: str, port: int) -> bool:
    """Whether some group of the instance allows TCP from an IPv4 address to a port."""
    return any(_allows(rule, address, port) for group in groups_of(instance) for rule in group.ingress_rules)


def _allows(rule: Any, address: str, port: int) -> bool:
    if rule.ip_protocol not in ("-1", "tcp") or not rule.cidr_ipv4:
        return False
    is_port = rule.ip_protocol == "-1" or rule.from_port <= port <= rule.to_port
    return is_port and ip_address(address) in ip_network(rule.cidr_ipv4, strict=False)


def disks_of(instance: Any) -> list[tuple[Any, str]]:
    """Volumes beside the root disk, and the devices they were attached as."""
    volumes = instance.ec2_backend.volumes
    return [
        (volumes[block.volume_id], device)
        for device, block in instance.get_block_device_mapping
        if device not in (instance.root_device_name, "/dev/sda1") and block.volume_id in volumes
    ]


def leftovers(region: str) -> dict[str, list[str]]:
    """What somebody made there beside instances, by kind."""
    here = backend(region)
    groups = [group for vpc in here.groups.values() for group in vpc.values() if group.name != "default"]
    return {
        "security-group": [f"{group.id} {group.name}" for group in groups],
        "key-pair": list(here.key_pairs),
        "launch-template": [template.name for template in here.launch_templates.values()],
        "volume": list(here.volumes),
    }


def give_profile(region: str, ids: list[str], profile: str) -> None:
    """moto gives the profile to the first instance of a launch only."""
    here = backend(region)
    kind = "iam_instance_profile_arn" if profile.startswith("arn:") else "iam_instance_profile_name"
    for id in ids:
        if id not in here.iam_instance_profile_associations:
            here.associate_iam_instance_profile(instance_id=id, **{kind: profile})


def role_of(instance: Any) -> str | None:
    """The role whose credentials the instance has."""
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    roles = association.iam_instance_profile.roles if association else []
    return roles[0].name if roles else None


def terminate(region: str, id: str) -> None:
    instance = backend(region).get_instance_by_id(id)
    if instance is not None:
        instance.terminate()


def _shapes() -> Mapping[str, Any]:
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    return INSTANCE_TYPES


@cache
def _offerings(region: str) -> Mapping[str, frozenset[str]]:
    """Zones by instance type."""
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS

    found: dict[str, set[str]] = {}
    for row in INSTANCE_TYPE_OFFERINGS["availability-zone"].get(region, ()):
        found.setdefault(row["InstanceType"], set()).add(row["Location"])
    return {name: frozenset(zones) for name, zones in found.items()}


def _instance_patches(models: Any, hooks: Hooks) -> Iterator[tuple[Any, str, Any]]:
    Instance, Backend = models.Instance, models.InstanceBackend
    original_init, original_terminate = Instance.__init__, Instance.terminate
    original_reservations = Backend.all_reservations

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("associate_public_ip") is None:
            kwargs["associate_public_ip"] = None  # what the subnet says
        original_init(self, *args, **kwargs)
        set_state(self, PENDING)
        hooks.launched(self)

    def terminate(self: Any) -> Any:
        previous = self._state
        if previous.name not in ("terminated", "shutting-down"):
            hooks.end(self, BY_USER)
        return previous

    def stop(self: Any) -> Any:
        previous = self._state
        hooks.stop(self)
        return previous

    def start(self: Any) -> Any:
        previous = self._state
        hooks.start(self)
        return previous

    def all_reservations(self: Any, filters: Any = None) -> Any:
        reservations = original_reservations(self, filters)
        for reservation in reservations:
            reservation.instances = [each for each in reservation.instances if hooks.is_visible(each)]
        return [reservation for reservation in reservations if reservation.instances or not filters]

    yield Instance, "__init__", init
    yield Instance, "terminate", terminate
    yield Instance, "stop", stop
    yield Instance, "start", start
    yield Instance, "reboot", lambda self: None
    yield Backend, "all_reservations", all_reservations
    Instance.moto_terminate = original_terminate


def _with_parameters(original: Callable[[Any, str], None]) -> Callable[[Any, str], None]:
    """The public parameters of the image owners, which moto does not have."""

    def check(self: Any, key: str) -> None:
        from datetime import UTC, datetime

        from moto.ssm.models import Parameter

        original(self, key)
        image = PARAMETERS.get(str(key))
        if image is not None:
            parameter = Parameter(  # type: ignore[abstract]
                account_id=self.account_id,
                name=key,
                value=image_id(image, self.region_name),
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=datetime.now(UTC),
                version=1,
                data_type="text",
            )
            dict.__setitem__(self, key, [parameter])

    return check


def _aws_policies(self: Any) -> list[Any]:
    from moto.iam.models import AWSManagedPolicy

    return [
        AWSManagedPolicy.from_data(name, self.account_id, self.region_name, data)
        for name, data in _policy_texts().items()
    ]


@cache
def _policy_texts() -> Mapping[str, Any]:
    import json

    from moto.iam.aws_managed_policies import aws_managed_policies_data

    known = json.loads(aws_managed_policies_data)
    return {name: known[name] for name in _POLICIES}


def _register_images(backend: Any, region: str) -> None:
    from datetime import datetime

    from moto.ec2.models.amis import Ami

    class Sized(Ami):
        """Its root disk is as large as the real one's."""

        root_gib = 8

        @property
        def block_device_mappings(self) -> list[dict[str, Any]]:
            (mapping,) = super().block_device_mappings
            size = {"VolumeSize": self.root_gib, "VolumeType": "gp3", "DeleteOnTermination": True}
            return [{**mapping, "Ebs": {**mapping["Ebs"], **size}}]

    for image in IMAGES:
        made = backend.amis[image_id(image, region)] = Sized(
            backend,
            image_id(image, region),
            name=image.name,
            description=image.name,
            owner_id=image.owner,
            owner_alias=image.owner_alias,
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            creation_date=datetime.fromisoformat(image.created),
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=image.root_device,
            region_name=f"{region}a",
        )
        made.root_gib = image.root_gib


def _forget_everything() -> None:
    from moto.backends import get_backend

    for service in _SERVICES:
        backends: Any = get_backend(service)  # type: ignore[call-overload]
        backends.reset()
