"""moto, made to behave: where its EC2 is changed, and how it is put back. The only module that knows moto's insides.

Checked against moto 5.2.5 (2026-11). What is changed: instances are pending until told otherwise, terminating and
stopping are asked of us first, the images and public parameters that are on sale exist, and a template's answers count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

from skyward.testing.ec2_images import IMAGES, PARAMETERS, image_id

ACCOUNT = "123456789012"
_SERVICES = ("ec2", "iam", "s3", "ssm", "sts", "servicequotas")
_ENVIRONMENT = {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true", "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}


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
BY_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")


@contextmanager
def moto_for(hooks: Hooks) -> Iterator[Callable[[Mapping[str, Any], Any], Any]]:
    """moto's WSGI application with an empty account whose instances are ours."""
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, _ENVIRONMENT))
        from moto.ec2.models import instances as models
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from moto.ssm.models import ParameterDict

        _forget_everything()
        stack.callback(_forget_everything)
        for what, name, replacement in (
            *_instance_patches(models, hooks),
            (ParameterDict, "_check_loading_status", _with_parameters(ParameterDict._check_loading_status)),
        ):
            stack.enter_context(patch.object(what, name, replacement))
        yield DomainDispatcherApplication(create_backend_app)


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

    instance._state = InstanceState(state.name, state.code)
    if reason is not None:
        code, message = reason
        instance.state_reason = StateReason(message, code)
        instance._reason = f"{message} ({time.strftime('%Y-%m-%d %H:%M:%S GMT', time.gmtime())})"


def dispose(instance: Any) -> None:
    """What moto does when an instance has ended: addresses, disks and roles go. The state is ours to set."""
    reason, text = instance.state_reason, instance._reason
    instance.moto_terminate()
    instance.state_reason, instance._reason = reason, text


def user_data_of(instance: Any) -> str:
    return instance.user_data.decode() if instance.user_data else ""


def vcpus(region: str, instance_type: str) -> int:
    """0 for a type that does not exist."""
    shape = _shape(region, instance_type)
    return int(shape["VCpuInfo"]["DefaultVCpus"]) if shape else 0


def architectures(region: str, instance_type: str) -> list[str]:
    shape = _shape(region, instance_type)
    return list(shape["ProcessorInfo"]["SupportedArchitectures"]) if shape else []


def is_offered(region: str, instance_type: str, zone: str) -> bool:
    offerings = backend(region).describe_instance_type_offerings("availability-zone", {})
    return any(row["InstanceType"] == instance_type and row["Location"] == zone for row in offerings)


def _shape(region: str, instance_type: str) -> Any:
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    return INSTANCE_TYPES.get(instance_type)


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
        from moto.ssm.models import Parameter

        original(self, key)
        image = PARAMETERS.get(str(key))
        if image is not None and not dict.__contains__(self, key):
            parameter = Parameter(
                account_id=self.account_id,
                name=key,
                value=image_id(image, self.region_name),
                parameter_type="String",
                description=None,
                allowed_pattern=None,
                keyid=None,
                last_modified_date=time.time(),
                version=1,
                data_type="text",
            )
            dict.__setitem__(self, key, [parameter])

    return check


def _register_images(backend: Any, region: str) -> None:
    from datetime import datetime

    from moto.ec2.models.amis import Ami

    for image in IMAGES:
        backend.amis[image_id(image, region)] = Ami(
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


def _forget_everything() -> None:
    from moto.backends import get_backend

    for service in _SERVICES:
        backends: Any = get_backend(service)  # type: ignore[call-overload]
        backends.reset()
