"""A client whose address changes while its pool works: machines let in the new one, and shut out the old one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import skyward as sky
from skyward.testing.ec2 import SimulatedEC2

MOVED = "198.51.100.7"


def let_in(ec2: SimulatedEC2) -> list[str]:
    """The addresses that the pool's group lets in."""
    import boto3

    client = boto3.client("ec2", endpoint_url=ec2.endpoint, region_name=ec2.region)
    filters = [{"Name": "tag:skyward:managed", "Values": ["true"]}]
    (group,) = client.describe_security_groups(Filters=filters)["SecurityGroups"]
    return [one["CidrIp"] for rule in group["IpPermissions"] for one in rule["IpRanges"]]


@pytest.fixture
def walled(ec2: SimulatedEC2) -> SimulatedEC2:
    """A cloud in which groups decide who gets in."""
    ec2.firewall = True
    return ec2


def test_a_client_whose_address_changes_goes_on_with_the_same_machines(
    walled: SimulatedEC2, until: Callable[..., None]
) -> None:
    config = sky.AWS(**walled.config(ssh_cidr=None))
    pool = sky.ComputePool(config, machine="m7i.large", allocation="on-demand", nodes=2, display="quiet")
    finished: list[Any] = []

    def number_of(value: int) -> int:
        import time

        time.sleep(0.5)
        return value

    pool.on(sky.events.TaskFinished, finished.append)
    with pool:
        assert let_in(walled) == ["127.0.0.1/32"]
        futures = [pool.submit(number_of, number) for number in range(40)]
        until(lambda: len(finished) >= 4, 20)

        walled.move_client(MOVED)
        results = [future.result(60) for future in futures]

        assert let_in(walled) == [f"{MOVED}/32"]
        assert pool.map(abs, [-1, -2]) == [1, 2]

    assert results == list(range(40))
    assert Counter(one.report.verdict for one in finished if one.final) == {"succeeded": 42}
    assert len(walled.bill) == 2
    assert walled.running() == []
    assert walled.resources() == {}


def test_who_names_the_network_is_not_let_in_from_elsewhere(walled: SimulatedEC2) -> None:
    config = sky.AWS(**walled.config(ssh_cidr="127.0.0.1/32"))

    with sky.ComputePool(config, machine="m7i.large", allocation="on-demand", display="quiet") as pool:
        walled.move_client(MOVED)
        future = pool.submit(abs, -1)
        time.sleep(5)

        assert not future.done()
        assert let_in(walled) == ["127.0.0.1/32"]
        walled.move_client("127.0.0.1")
        assert future.result(30) == 1
