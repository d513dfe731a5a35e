"""What tests of AWS share: offers, requests as a pool makes them, and looking until something is so."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from skyward import Instance, InstanceState, LaunchRequest, Offer
from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWSProvider
from skyward_aws.cloud import Patience

QUICK = Patience(first_s=0.01, longest_s=0.05)
"""The real deadlines, and pauses a hundred times shorter."""
CPU = Offer(
    provider="aws",
    region="us-east-1",
    instance_type="m7i.large",
    usd_per_hour=0.1008,
    vcpus=2,
    memory_gib=8,
    zones=("us-east-1a", "us-east-1b", "us-east-1c"),
)
SPOT = replace(CPU, pricing="spot", usd_per_hour=0.04)


without_machines = pytest.mark.parametrize("ec2", [3600.0], indirect=True, ids=["no machines"])
"""For tests that look at what is asked and answered: instances stay pending, and nothing boots."""


def requests_of_providers(cloud: SimulatedEC2) -> list[Any]:
    """The requests that a test did not make itself."""
    own = Counter(cloud.by_hand)
    found = []
    for request in cloud.requests:
        own[request.action] -= 1
        if own[request.action] < 0:
            found.append(request)
    return found


def client(cloud: SimulatedEC2, service: str = "ec2") -> Any:
    """A boto3 client for what tests do and look at by hand."""
    import boto3

    made = boto3.client(
        service,
        endpoint_url=cloud.endpoint,
        region_name=cloud.region,
        aws_access_key_id=cloud.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=cloud.environ["AWS_SECRET_ACCESS_KEY"],
    )
    made.meta.events.register("before-call", lambda model, **_: cloud.by_hand.append(model.name))
    return made


def order(offer: Offer = CPU, count: int = 1, **more: Any) -> LaunchRequest:
    """A request as a pool makes it."""
    pool = more.pop("pool", "p-1")
    tags = {
        "skyward:managed": "true",
        "skyward:pool": pool,
        "skyward:name": "train",
        "skyward:token": "t-1",
        "skyward:owner": "ada@laptop",
        "skyward:created": "2026-11-21T10:00:00Z",
        "skyward:expires": "2026-11-22T10:00:00Z",
    }
    return LaunchRequest(
        offer=offer,
        count=count,
        pool=pool,
        token=more.pop("token", "t-1"),
        tags=more.pop("tags", tags),
        **more,
    )


def await_running(aws: AWSProvider, pool: str = "p-1", count: int = 1) -> Sequence[Instance]:
    """The machines of a pool, once `count` of them run."""
    return await_that(
        lambda: [one for one in aws.instances(pool) if one.state is InstanceState.RUNNING],
        lambda found: len(found) >= count,
    )


def await_that(
    look: Callable[[], Any], is_enough: Callable[[Any], bool] = bool, deadline_s: float = 30.0
) -> Any:
    """What `look` finds, once it is enough."""
    end = time.monotonic() + deadline_s
    while not is_enough(found := look()):
        assert time.monotonic() < end, f"after {deadline_s:g} s there is {found!r}"
        time.sleep(0.05)
    return found
