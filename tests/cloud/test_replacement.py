"""A node that is lost: what another machine in its place is looked for, and what is said where there is none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import toycloud

import skyward as sky
from skyward.cloud import replacement
from skyward.cloud.fleet import Fleet
from skyward.cloud.launch import MOST_NAMED, causes, is_ruled_out
from skyward.model.instance import Endpoint

Until = Callable[..., None]


@dataclass
class LostLink:
    """What leads to a machine that does not answer."""

    is_closed: bool
    """Whether it is given up for good."""
    is_up: bool = False
    endpoint: ClassVar[Endpoint] = Endpoint(kind="local")

    def give_up(self, reason: str) -> None:
        self.is_closed = True

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Lossy:
    """A pool of two nodes in the toy cloud, whose nodes can be lost."""

    pool: sky.ComputePool
    told: list[sky.events.WarningRaised]

    @property
    def fleet(self) -> Fleet:
        running: Any = self.pool._running
        fleet: Fleet = running.fleet
        return fleet

    def lose(self, index: int, *, for_good: bool) -> LostLink:
        link: Any = LostLink(is_closed=for_good)
        self.fleet.nodes[index].link = link
        self.fleet.lose(index, replace_it=True)
        return link  # type: ignore[no-any-return]

    @property
    def messages(self) -> list[str]:
        return [event.message for event in self.told]


@pytest.fixture
def lossy(make_pool: Callable[..., sky.ComputePool], monkeypatch: pytest.MonkeyPatch) -> Iterator[Lossy]:
    monkeypatch.setattr(replacement, "RETURN_S", 0.1)
    pool, told = make_pool(nodes=2), list[sky.events.WarningRaised]()
    with pool:
        pool.on(sky.events.WarningRaised, told.append)
        yield Lossy(pool, told)


def launches(toy: toycloud.Toy) -> list[str]:
    return [call for call in toy.calls if call.startswith("launch")]


def test_a_lost_node_that_nothing_can_replace_is_told_of_once_with_every_cause_and_what_follows(
    lossy: Lossy, toy: toycloud.Toy, until: Until
) -> None:
    toy.fault("launch", "capacity", times=-1)

    lossy.lose(0, for_good=True)
    until(lambda: lossy.fleet.nodes[0].ended_at)

    assert lossy.messages == [
        "node 0 is lost, and no machine to take its place could be had: toy: no t2 to be had (toy t2 in r1); "
        "toy: no t1 to be had (toy t1 in r1); toy: no t0 to be had (toy t0 in r1); the pool goes on with 1 node, and "
        "tasks pinned to this one are lost"
    ]
    assert launches(toy)[1:] == ["launch 1 t0 r1", "launch 1 t1 r1", "launch 1 t2 r1"]


def test_what_many_offers_met_is_said_once(lossy: Lossy, toy: toycloud.Toy, until: Until) -> None:
    toy.fault("launch", "error", times=-1)

    lossy.lose(1, for_good=True)
    until(lambda: lossy.fleet.nodes[1].ended_at)

    (message,) = lossy.messages
    assert (
        "could be had: toy: 503 three times (toy t2 in r1, toy t1 in r1, toy t0 in r1); the pool" in message
    )


def test_many_causes_and_offers_are_told_in_one_line_of_bounded_length() -> None:
    offer = toycloud.toy_offers()[0]
    places = [replace(offer, region=f"r{number}") for number in range(50)]
    full = [(place, sky.CapacityError("none is left")) for place in places]
    odd = [(place, sky.CapacityError(f"odd {place.region}")) for place in places]

    assert causes(full) == "none is left (toy t0 in r49, r48, r47, r46, and 46 more)"
    assert causes(odd).endswith(f"; and {50 - MOST_NAMED} more")
    assert causes([]) == ""


def test_a_node_that_may_come_back_is_told_of_as_such_and_not_again_when_it_does_not(
    lossy: Lossy, toy: toycloud.Toy, until: Until
) -> None:
    toy.fault("launch", "capacity", times=-1)

    link = lossy.lose(0, for_good=False)
    until(lambda: lossy.told)
    link.is_closed = True
    lossy.fleet.lose(0, replace_it=True)
    until(lambda: lossy.fleet.nodes[0].ended_at)

    (message,) = lossy.messages
    assert message.endswith("and tasks pinned to this one wait a while for it to come back")
    assert len(launches(toy)) == 1 + 3 + 3, "it was looked for again"


def test_the_next_loss_of_a_node_that_came_back_is_another_one(
    lossy: Lossy, toy: toycloud.Toy, until: Until
) -> None:
    toy.fault("launch", "capacity", times=-1)
    link = lossy.lose(0, for_good=False)
    until(lambda: lossy.told)
    assert not lossy.fleet.lose(0, replace_it=True), "known already"

    link.is_up = True
    lossy.fleet.regain(0)
    link.is_up = False

    assert lossy.fleet.lose(0, replace_it=True)
    until(lambda: len(lossy.told) == 2)


def test_where_no_other_node_is_left_that_is_what_follows(
    lossy: Lossy, toy: toycloud.Toy, until: Until
) -> None:
    toy.fault("launch", "credentials", times=-1)

    for index in (0, 1):
        lossy.lose(index, for_good=True)
        until(lambda index=index: lossy.fleet.nodes[index].ended_at)

    assert "the pool goes on with 1 node" in lossy.messages[0]
    assert lossy.messages[1] == (
        "node 1 is lost, and no machine to take its place could be had: toy: the token has expired (toy t0 in r1); "
        "no other node is left: tasks that are not done are lost"
    )


def test_a_machine_of_another_offer_that_takes_the_place_is_told_of_once_with_the_reason(
    lossy: Lossy, toy: toycloud.Toy, until: Until
) -> None:
    toy.fault("launch", "capacity", times=-1, match="t0")
    toy.fault("launch", "capacity", times=-1, match="t1")

    lossy.lose(0, for_good=True)
    until(lambda: lossy.fleet.nodes[0].instance.offer.instance_type == "t2")

    assert lossy.messages == [
        "node 0: toy t2 in r1 is launched in its place: toy: no t1 to be had (toy t1 in r1); "
        "toy: no t0 to be had (toy t0 in r1)"
    ]


def test_a_pool_that_is_being_stopped_misses_nobody(
    lossy: Lossy, toy: toycloud.Toy, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replacement, "RETURN_S", 30.0)

    lossy.lose(0, for_good=False)
    lossy.fleet.abandon()
    until(lambda: not [one for one in threading.enumerate() if one.name.startswith("skyward-replace")])

    assert lossy.told == []
    assert len(launches(toy)) == 1


def test_an_offer_that_came_with_a_machine_is_ruled_out_like_the_same_one_of_the_plan() -> None:
    offer = toycloud.toy_offers()[0]
    full = sky.CapacityError("none is left")

    assert is_ruled_out(replace(offer), [(offer, full)])
    assert not is_ruled_out(replace(offer, details={"ask": 2}), [(offer, full)])
