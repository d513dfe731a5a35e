"""AWS EC2 as a provider of Skyward: `sky.AWS(region="us-east-1")`, or "aws"."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skyward import Provider, hookimpl
from skyward_aws.config import AWS
from skyward_aws.provider import AWSProvider

if TYPE_CHECKING:
    from skyward import Image, Instance, Step

__all__ = ["AWS", "AWSProvider"]


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return [AWSProvider]


@hookimpl
def skyward_bootstrap(instance: Instance, image: Image) -> Iterable[Step] | None:
    if instance.provider != AWSProvider.name:
        return None
    from skyward_aws.steps import steps_for

    return steps_for(instance)
