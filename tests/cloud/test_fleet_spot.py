"""Machines of EC2 that are taken back: announced, they are emptied and replaced; unannounced, they are found out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import skyward as sky
from skyward.plugins import get_plugins
from skyward.testing.ec2 import SimulatedEC2

Until = Callable[..., None]


class SpotPrices:
    """What spot machines cost; the bundled prices do not know."""

    @sky.hookimpl
    def skyward_modify_offers(self, offers: list[sky.Offer], requirements: sky.Requirements) -> None:
        offers[:] = [
            replace(offer, usd_per_hour=0.03) if offer.pricing == "spot" else offer for offer in offers
        ]


@pytest.fixture(autouse=True)
def _spot_prices() -> Iterator[None]:
    prices = SpotPrices()
    get_plugins().register(prices, "spot-prices")
    yield
    get_plugins().unregister(prices)


def warnings_of(pool: sky.ComputePool) -> list[str]:
    told: list[str] = []
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))
    return told


def test_a_machine_that_is_announced_to_go_is_emptied_and_replaced(
    make_aws: Any, ec2: SimulatedEC2, until: Until
) -> None:
    pool = make_aws(allocation="spot", region="us-east-1")
    told = warnings_of(pool)
    finished: list[Any] = []
    pool.on(sky.events.TaskFinished, finished.append)

    with pool:
        first = pool.instances[0].id
        futures = [pool.submit(abs, -number) for number in range(4)]
        nap = [pool.submit(time.sleep, 0.5) for _ in range(30)]
        ec2.machine(first).interrupt(after_s=20)
        until(lambda: any("takes" in one for one in told), 15)
        until(lambda: first not in {one.id for one in pool.instances}, 20)
        assert len(pool.instances) == 2
        assert [future.result(30) for future in futures] == [0, 1, 2, 3]
        assert [future.result(60) for future in nap] == [None] * 30

    ends = Counter(event.report.verdict for event in finished if event.final)
    assert ends == {"succeeded": 34}
    assert not [event for event in finished if not event.final]  # nothing ran twice
    assert len(ec2.bill) == 3
    assert ec2.running() == []
    assert ec2.resources() == {}


def test_the_only_machine_may_take_long_to_be_replaced(
    make_aws: Any, ec2: SimulatedEC2, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the agent of the lost one would have waited for us."""
    monkeypatch.setattr("skyward.cloud.preparation.LINGER_S", 8.0)
    pool = make_aws(allocation="spot", region="us-east-1", nodes=1, lease="3s")

    with pool:
        first = pool.instances[0].id
        assert pool.map(abs, [-1]) == [1]
        ec2.fault("CreateFleet", "slow-boot", seconds=12)
        ec2.machine(first).interrupt(after_s=0)
        future = pool.submit(abs, -7)
        assert future.result(90) == 7
        assert [one.id for one in pool.instances] != [first]

    assert len(ec2.bill) == 2
    assert ec2.running() == []


def test_a_machine_that_is_taken_without_a_word_is_replaced_with_its_reason(
    make_aws: Any, ec2: SimulatedEC2, until: Until
) -> None:
    pool = make_aws(allocation="spot", region="us-east-1")
    told = warnings_of(pool)

    with pool:
        first = pool.instances[0].id
        ec2.machine(first).interrupt(after_s=0)
        until(lambda: first not in {one.id for one in pool.instances} and len(ec2.running()) == 2, 40)
        assert pool.map(abs, range(-8, 0)) == list(range(8, 0, -1))

    assert any("SpotInstanceTermination" in one for one in told), told
    assert ec2.running() == []


def test_a_pool_that_only_shrinks_replaces_nothing(make_aws: Any, ec2: SimulatedEC2, until: Until) -> None:
    pool = make_aws(allocation="spot", region="us-east-1", preemption="shrink")

    with pool:
        first = pool.instances[0].id
        ec2.machine(first).interrupt(after_s=0)
        until(lambda: len(pool.instances) == 1, 40)
        assert pool.map(abs, range(-8, 0)) == list(range(8, 0, -1))

    assert len(ec2.bill) == 2
    assert ec2.running() == []


@pytest.mark.parametrize("fault", ["partition", "sshd"])
def test_a_machine_that_is_silent_is_given_up_within_ten_seconds_and_its_work_moves(
    make_aws: Any, ec2: SimulatedEC2, until: Until, fault: str
) -> None:
    pool = make_aws()
    noticed: list[float] = []
    lost: list[float] = []
    finished: list[Any] = []

    def number_of(value: int, seconds: float) -> int:
        import time

        time.sleep(seconds)
        return value

    pool.on(sky.events.NodeSuspected, lambda event: noticed.append(time.monotonic()))
    pool.on(sky.events.NodeLost, lambda event: lost.append(time.monotonic()))
    pool.on(sky.events.TaskFinished, finished.append)

    with pool:
        machine = ec2.machine(pool.instances[0].id)
        futures = [pool.submit(number_of, number, 1.0) for number in range(30)]
        until(lambda: any(event.report.node == 0 for event in finished), 20)
        began = time.monotonic()
        if fault == "partition":
            machine.partition()
        else:
            machine.kill_sshd(sessions=True)
        results = [future.result(60) for future in futures]
        until(lambda: lost, 20)
        until(lambda: machine.id not in ec2.running(), 20)

    assert results == list(range(30))
    assert lost[0] - began <= 10
    assert fault == "sshd" or noticed[0] - began < 5
    assert Counter(event.report.verdict for event in finished if event.final) == {"succeeded": 30}
    assert len(ec2.bill) == 3
    assert ec2.running() == []
    assert ec2.resources() == {}
