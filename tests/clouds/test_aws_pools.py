"""Pools on AWS from Python: which machines a pool gets by the way it is paid for, read off the cloud's own bill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import skyward as sky
from skyward.plugins import get_plugins
from skyward.testing.ec2 import SimulatedEC2


class Prices:
    """What spot machines cost; the bundled prices do not know."""

    @sky.hookimpl
    def skyward_modify_offers(self, offers: list[sky.Offer], requirements: sky.Requirements) -> None:
        offers[:] = [
            replace(offer, usd_per_hour=0.03) if offer.pricing == "spot" else offer for offer in offers
        ]


@pytest.fixture
def at_home(ec2: SimulatedEC2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user of the simulated cloud who has never used Skyward."""
    monkeypatch.setenv("SKYWARD_HOME", str(tmp_path / "skyward"))
    monkeypatch.chdir(tmp_path)
    for name, value in ec2.environ.items():
        monkeypatch.setenv(name, value)
    prices = Prices()
    get_plugins().register(prices, "prices")
    yield
    get_plugins().unregister(prices)
    assert ec2.running() == []
    assert ec2.resources() == {}


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("allocation", "spot_left", "markets"),
    [
        ("on-demand", None, {"on-demand": 3}),
        ("spot", None, {"spot": 3}),
        ("spot-if-available", None, {"spot": 3}),
        ("spot-if-available", 1, {"spot": 1, "on-demand": 2}),
        ("spot-if-available", 0, {"on-demand": 3}),
        (0.34, None, {"spot": 1, "on-demand": 2}),
    ],
)
def test_machines_are_bought_as_they_were_asked_for(
    ec2: SimulatedEC2, allocation: Any, spot_left: int | None, markets: dict[str, int]
) -> None:
    if spot_left is not None:
        for zone in "abcdef":
            ec2.set_capacity(spot_left if zone == "a" else 0, zone=f"us-east-1{zone}", market="spot")

    with sky.ComputePool(
        sky.AWS(**ec2.config()), machine="m7i.large", nodes=3, allocation=allocation, display="quiet"
    ) as pool:
        results = pool.map(abs, range(-6, 0))
        spot = [instance.spot for instance in pool.instances]

    assert results == [6, 5, 4, 3, 2, 1]
    assert Counter(charge.market for charge in ec2.bill) == markets
    assert sum(spot) == markets.get("spot", 0)


@pytest.mark.usefixtures("at_home")
def test_a_pool_that_cannot_be_had_names_every_way_that_was_tried(ec2: SimulatedEC2) -> None:
    ec2.set_capacity(0)

    with (
        pytest.raises(sky.CapacityError) as caught,
        sky.ComputePool(sky.AWS(**ec2.config()), machine="m7i.large", nodes=2, display="quiet"),
    ):
        raise AssertionError("there are no machines")

    told = " ".join([caught.value.message, *caught.value.facts])
    assert "m7i.large spot in us-east-1: no capacity" in told
    assert "m7i.large in us-east-1: no capacity" in told
    assert not ec2.bill
