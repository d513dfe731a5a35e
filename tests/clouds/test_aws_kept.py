"""What one pool looked up is believed by the next one in the same program, until something is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from aws_cloud import CPU, order, requests_of_providers, without_machines

from skyward import ProviderError
from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWSProvider
from skyward_aws.kept import forget, kept, signature

LOOKING_UP = {
    "DescribeImages",
    "DescribeInstanceTypeOfferings",
    "DescribeSubnets",
    "DescribeVpcs",
    "GetParameter",
}


def lookups(ec2: SimulatedEC2) -> list[str]:
    return sorted({request.action for request in requests_of_providers(ec2)} & LOOKING_UP)


@without_machines
def test_the_next_pool_looks_nothing_up_again(
    make_aws: Callable[..., AWSProvider], ec2: SimulatedEC2
) -> None:
    make_aws().launch(order(pool="first", token="first-0"))
    assert lookups(ec2) == sorted(LOOKING_UP)
    ec2.requests.clear()

    make_aws().launch(order(pool="second", token="second-0"))

    assert lookups(ec2) == []
    assert len(ec2.bill) == 2


@without_machines
def test_a_refusal_makes_it_look_again(make_aws: Callable[..., AWSProvider], ec2: SimulatedEC2) -> None:
    make_aws().launch(order(pool="first", token="first-0"))
    ec2.fault("CreateFleet", "capacity")
    with pytest.raises(ProviderError):
        make_aws().launch(order(pool="second", token="second-0"))
    ec2.requests.clear()

    make_aws().launch(order(pool="third", token="third-0"))

    assert lookups(ec2) == sorted(LOOKING_UP)


@without_machines
def test_what_a_launch_takes_is_made_before_it_and_once(
    make_aws: Callable[..., AWSProvider], ec2: SimulatedEC2
) -> None:
    aws, request = make_aws(), order(pool="first", token="first-0")

    aws.warm_up(request)
    assert not ec2.bill
    assert ec2.resources()
    aws.launch(request)

    for action in (*LOOKING_UP, "CreateSecurityGroup", "CreateLaunchTemplate"):
        assert ec2.count(action) == 1
    aws.terminate(ec2.running())
    aws.release("first")
    assert not ec2.resources()


@without_machines
def test_a_type_that_is_an_alias_waits_for_its_launch_which_says_so(
    make_aws: Callable[..., AWSProvider], ec2: SimulatedEC2
) -> None:
    make_aws().warm_up(order(offer=replace(CPU, instance_type="p5n.48xlarge")))

    assert not requests_of_providers(ec2)


def test_keys_of_files_and_roles_are_told_from_nothing() -> None:
    assert signature({"AWS_PROFILE": "work"}) is None
    assert signature({"AWS_ACCESS_KEY_ID": "A"}, 1) != signature({"AWS_ACCESS_KEY_ID": "B"}, 1)
    assert signature({"AWS_ACCESS_KEY_ID": "A", "HOME": "/a"}) == signature({"AWS_ACCESS_KEY_ID": "A"})
    made = iter(range(9))
    assert [kept(None, lambda: next(made)) for _ in range(2)] == [0, 1]


def test_what_is_kept_is_made_anew_when_it_is_old_or_forgotten() -> None:
    made, mine = iter(range(9)), signature({"AWS_ACCESS_KEY_ID": "A"}, "a region")

    first = [kept((mine, "x"), lambda: next(made), 60) for _ in range(2)]
    old = kept((mine, "x"), lambda: next(made), 0)
    forget(mine)

    assert (first, old) == ([0, 0], 1)
    assert kept((mine, "x"), lambda: next(made), 60) == 2
    forget(mine)


def test_a_failure_is_not_kept() -> None:
    mine = signature({"AWS_ACCESS_KEY_ID": "A"}, "another region")

    def fail() -> int:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept((mine, "x"), fail)
    assert kept((mine, "x"), lambda: 7) == 7
    forget(mine)
