"""Launching: what each answer of a cloud leads to, and what it leaves on the bill."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import toycloud

import skyward as sky
from skyward.cloud import launch as launching
from skyward.cloud.account import Account
from skyward.cloud.client import Client
from skyward.cloud.launch import over_limit, token_of
from skyward.testing.engines import ThreadEngine

MakePool = Callable[..., sky.ComputePool]
Accounts = Callable[[], dict[str, Account]]
Closed = Callable[[], list[Account]]


@sky.compute
def double(x: int) -> int:
    return 2 * x


def launches(toy: toycloud.Toy) -> list[str]:
    return [call for call in toy.calls if call.startswith("launch")]


def warnings_of(pool: sky.ComputePool) -> list[str]:
    told: list[str] = []
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))
    return told


# -- the usual -----------------------------------------------------------------------------------------------------


def test_a_pool_comes_in_one_call_and_goes_in_one(
    make_pool: MakePool, toy: toycloud.Toy, closed: Closed
) -> None:
    with make_pool(nodes=20) as pool:
        assert len(toy.running) == 20
        assert double(4) >> pool == 8

    assert toy.running == []
    assert [call.split()[0] for call in toy.calls] == ["launch", "terminate", "instances", "release"]
    (account,) = closed()
    assert account.is_closed
    assert not account.is_debt


def test_what_is_written_comes_before_what_is_asked(
    make_pool: MakePool, toy: toycloud.Toy, accounts: Accounts, until: Any
) -> None:
    toy.fault("launch", "slow", seconds=1.0)
    pool = make_pool()

    import threading

    thread = threading.Thread(target=pool.start)
    thread.start()
    until(lambda: toy.calls)
    (account,) = accounts().values()
    thread.join()
    pool.stop()

    (doubt,) = account.doubts
    assert doubt.count == 1
    assert account.client == Client.current()


def test_machines_carry_our_tags_from_birth(make_pool: MakePool, toy: toycloud.Toy) -> None:
    with make_pool(name="train", max_lifetime="2h") as pool:
        (machine,) = toy.machines.values()

    tags = machine["tags"]
    assert tags["skyward:managed"] == "true"
    assert tags["skyward:pool"] == f"train-{tags['skyward:pool'].rpartition('-')[2]}"
    assert tags["skyward:name"] == "train"
    assert "@" in tags["skyward:owner"]
    created, expires = (
        time.mktime(time.strptime(tags[f"skyward:{name}"], "%Y-%m-%dT%H:%M:%SZ"))
        for name in ("created", "expires")
    )
    assert 7190 <= expires - created <= 7200
    assert pool.cost is not None


def test_a_slow_cloud_is_asked_once_per_poll_for_all_machines(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "boot", seconds=1.5)

    with make_pool(nodes=10):
        asked = toy.count("instances")

    assert asked <= 8


def test_tokens_are_short_and_the_same_for_the_same_launch() -> None:
    long = "a" * 70

    assert token_of("train-1a2b3c", 0) == "train-1a2b3c-0"
    assert token_of(long, 1) == token_of(long, 1) != token_of(long, 2)
    assert len(token_of(long, 1)) <= 64


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [1, 5])
def test_the_next_offer_in_plan_order_is_tried(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    monkeypatch.setenv("TOY_OFFERS", "6")
    toy.fault("launch", "capacity", times=full)
    pool = make_pool()
    told = warnings_of(pool)

    with pool:
        assert pool.instances[0].offer.instance_type == f"t{full}"

    assert launches(toy) == [f"launch 1 t{number} r1" for number in range(full + 1)]
    assert told == [f"toy t{number} in r1: toy: no t{number} to be had" for number in range(full)]
    assert toy.running == []


def test_where_no_offer_is_to_be_had_one_error_lists_them_all(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "capacity", times=-1)

    with pytest.raises(sky.CapacityError, match="0 of 2 machines could be had") as caught:
        make_pool(nodes=2).start()

    assert caught.value.facts == tuple(f"toy t{n} in r1: toy: no t{n} to be had" for n in range(3))
    assert toy.running == []


def test_one_reason_for_one_machine_in_many_places_is_one_line() -> None:
    offer = toycloud.toy_offers()[0]
    here, there = replace(offer, region="r1"), replace(offer, region="r2")
    full, broken = sky.CapacityError("toy: t0 in r: full", reason="full"), sky.ProviderError("toy: broken")

    error = launching.no_machines([(here, full), (there, full), (here, broken)], 0, 1)

    assert error.facts == ("toy t0 in r1, r2: full", "toy t0 in r1: toy: broken")


@pytest.mark.parametrize("kind", ["quota", "credentials"])
def test_what_covers_the_whole_provider_is_not_asked_again(
    make_pool: MakePool, toy: toycloud.Toy, kind: str
) -> None:
    toy.fault("launch", kind, times=-1)

    with pytest.raises(sky.ProviderError):
        make_pool().start()

    assert len(launches(toy)) == 1


def test_a_quota_may_say_what_it_covers() -> None:
    cheap, dear, other = toycloud.toy_offers()
    error = sky.QuotaError("quota", covers=lambda offer: offer.instance_type == "t1")

    assert launching.is_ruled_out(cheap, [(cheap, error)])
    assert launching.is_ruled_out(dear, [(cheap, error)])
    assert not launching.is_ruled_out(other, [(cheap, error)])


def test_offers_that_were_tried_along_are_not_tried_again() -> None:
    cheap, dear, other = toycloud.toy_offers()
    error = sky.CapacityError("full", tried=(cheap, dear))

    assert launching.is_ruled_out(dear, [(cheap, error)])
    assert not launching.is_ruled_out(other, [(cheap, error)])


def test_a_throttled_launch_is_repeated(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "throttle", times=2)

    with make_pool():
        assert len(toy.running) == 1

    assert len(launches(toy)) == 3
    assert toy.running == []


def test_a_cloud_that_throttles_for_ever_is_given_up(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "THROTTLED_S", 1.0)
    toy.fault("launch", "throttle", times=-1, match="t0")

    with make_pool() as pool:
        assert pool.instances[0].offer.instance_type == "t1"

    assert toy.running == []


def test_what_was_not_to_be_had_is_tried_last_for_a_while(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.fault("launch", "capacity", match="t0")
    with make_pool():
        pass

    def order(selection: str) -> list[str]:
        return [offer.instance_type for offer in make_pool(selection=selection).plan().ranked]

    assert order("available") == ["t1", "t2", "t0"]
    assert order("cheapest") == ["t0", "t1", "t2"]
    later = time.time() + 1801
    monkeypatch.setattr("skyward.cloud.refusals.time.time", lambda: later)
    assert order("available") == ["t0", "t1", "t2"]


# -- part of what was asked for ------------------------------------------------------------------------------------


def test_missing_machines_are_taken_from_the_next_offer(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "partial", missing=1)

    with make_pool(nodes=4) as pool:
        assert [one.offer.instance_type for one in pool.instances] == ["t0", "t0", "t0", "t1"]

    assert toy.running == []


def test_min_nodes_decides_whether_part_of_a_fleet_will_do(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "partial", missing=1)
    toy.fault("launch", "capacity", times=-1)

    with make_pool(nodes=4, min_nodes=3) as pool:
        assert len(pool.instances) == 3
        assert len(toy.running) == 3

    assert toy.running == []


def test_too_few_machines_are_all_given_back(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "partial", missing=1)
    toy.fault("launch", "capacity", times=-1)

    with pytest.raises(sky.CapacityError, match="3 of 4 machines could be had"):
        make_pool(nodes=4).start()

    assert len(toy.machines) == 3
    assert toy.running == []


# -- answers that never came ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 9])
def test_a_lost_answer_makes_no_second_machine_and_loses_none(
    make_pool: MakePool, toy: toycloud.Toy, times: int
) -> None:
    toy.fault("launch", "lost", times=times)

    with make_pool(nodes=3) as pool:
        assert len(pool.instances) == 3
        assert len(toy.machines) == 3

    assert toy.running == []


def test_a_launch_nobody_knows_of_stays_on_the_books(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch, accounts: Accounts
) -> None:
    monkeypatch.setattr(launching, "REPEATS", (0.05,))
    monkeypatch.setattr(launching, "LISTED_S", 0.3)
    monkeypatch.setattr("skyward.cloud.teardown.DOUBT_S", 0.5)
    toy.fault("launch", "vanish", times=-1)

    with pytest.raises(sky.AmbiguousLaunchError):
        make_pool().start()

    (account,) = accounts().values()  # the reaper goes on looking for as long as a cloud may hide a machine
    assert account.is_handed_over
    assert len(account.doubts) == 3
    assert toy.running == []


def test_machines_that_appear_late_are_ended_all_the_same(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launching, "REPEATS", ())
    monkeypatch.setattr(launching, "LISTED_S", 0.3)
    monkeypatch.setattr("skyward.cloud.teardown.DOUBT_S", 0.5)
    monkeypatch.setenv("TOY_OFFERS", "1")
    toy.fault("launch", "unlisted", seconds=4, then="lost")

    with pytest.raises(sky.AmbiguousLaunchError):
        make_pool().start()

    assert len(toy.running) == 1
    toy.await_empty(15)


def test_a_machine_that_is_not_listed_yet_is_waited_for(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("launch", "unlisted", seconds=1.5)

    with make_pool() as pool:
        assert pool.instances[0].state is sky.InstanceState.RUNNING

    assert toy.running == []


def test_a_cloud_that_cannot_be_asked_while_machines_boot_is_asked_again(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    toy.fault("launch", "boot", seconds=0.5)
    toy.fault("instances", "error", times=3)

    with make_pool(nodes=2) as pool:
        assert len(pool.instances) == 2

    assert toy.running == []


# -- machines that never come up -----------------------------------------------------------------------------------


def test_a_machine_the_cloud_takes_away_is_replaced_and_the_reason_is_told(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    toy.fault("launch", "die")
    pool = make_pool()
    told = warnings_of(pool)

    with pool:
        assert pool.instances[0].offer.instance_type == "t1"
        assert double(2) >> pool == 4

    assert "Toy.NoDisk: no room for its disk; another machine is launched" in told[0]
    assert toy.running == []


def test_where_every_machine_is_taken_away_the_pool_fails_with_the_reason(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    toy.fault("launch", "die", times=-1)

    with pytest.raises(sky.BootstrapError, match=r"Toy\.NoDisk"):
        make_pool().start()

    assert len(toy.machines) == 4  # three offers, and the last of them once more
    assert toy.running == []


def test_without_another_offer_a_machine_that_was_taken_away_is_asked_for_again(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_OFFERS", "1")
    toy.fault("launch", "die", times=1)

    with make_pool() as pool:
        assert [one.state for one in pool.instances] == ["running"]

    assert len(toy.machines) == 2
    assert toy.running == []


def test_a_machine_that_never_runs_is_ended_at_the_deadline(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_OFFERS", "1")
    toy.fault("launch", "boot", times=-1, seconds=60)

    with pytest.raises(sky.BootstrapError, match="is pending after") as caught:
        make_pool(bootstrap_timeout=0.5).start()

    assert toy.running == []
    assert caught.value.hints == ('bootstrap_timeout="1s", or -o bootstrap_timeout=1s',)


# -- limits --------------------------------------------------------------------------------------------------------


def test_a_pool_that_cannot_be_paid_for_is_refused_before_the_first_call(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    with pytest.raises(sky.NoOfferError, match="no offer fits"):
        make_pool(nodes=2, max_cost=0.01).start()

    assert toy.calls == []


def test_what_was_spent_counts_for_what_may_be_launched() -> None:
    offer = toycloud.toy_offers()[2]
    wish = sky.Requirements(max_cost=0.10)
    account = Account("p")
    intent = {"event": "intent", "token": "t", "provider": "toy", "region": "r1", "count": 1, "client": {}}
    account.apply({**intent, "at": 0.0})
    machine = {"id": "i-1", "usd_per_hour": 3.0}
    account.apply({**intent, "event": "launched", "machines": [machine], "at": 0.0})

    def refusal(now: float) -> Any:
        return over_limit(account, wish, offer, 1, most=10, now=now)

    assert refusal(0.0) is None
    assert isinstance(refusal(60.0), sky.GuardError)
    assert over_limit(Account("p"), wish, offer, 3, most=10, now=0.0) is not None


def test_a_price_nobody_knows_cannot_be_kept_within_anything() -> None:
    offer = sky.Offer(
        provider="toy", region="r1", instance_type="t9", usd_per_hour=None, vcpus=1, memory_gib=1
    )

    refusal = over_limit(Account("p"), sky.Requirements(max_cost=5), offer, 1, most=10, now=0.0)

    assert isinstance(refusal, sky.GuardError)
    assert over_limit(Account("p"), sky.Requirements(), offer, 1, most=10, now=0.0) is None


def test_a_pool_launches_a_bounded_number_of_machines_in_its_life() -> None:
    refusal = over_limit(Account("p"), sky.Requirements(), toycloud.toy_offers()[0], 5, most=4, now=0.0)

    assert isinstance(refusal, sky.ProviderError)


def test_the_machine_is_told_how_long_its_budget_lasts(make_pool: MakePool, toy: toycloud.Toy) -> None:
    with make_pool(nodes=2, max_cost=4.0, max_lifetime="24h"):
        tags = next(iter(toy.machines.values()))["tags"]

    created, expires = (
        time.mktime(time.strptime(tags[f"skyward:{name}"], "%Y-%m-%dT%H:%M:%SZ"))
        for name in ("created", "expires")
    )
    assert 7190 <= expires - created <= 7201  # 2 machines at 1 USD/h


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_terminate_that_fails_twice_is_repeated(make_pool: MakePool, toy: toycloud.Toy) -> None:
    toy.fault("terminate", "error", times=2)

    with make_pool(nodes=2):
        pass

    assert toy.running == []
    assert toy.count("terminate") == 3


def test_what_was_made_for_a_pool_is_released_after_its_machines(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    toy.fault("release", "error", times=2)

    with make_pool():
        pass

    assert toy.calls[-1].startswith("release")
    assert toy.count("release") == 3


def test_what_cannot_be_ended_is_an_error_that_names_it(
    make_pool: MakePool,
    toy: toycloud.Toy,
    monkeypatch: pytest.MonkeyPatch,
    accounts: Accounts,
    closed: Closed,
) -> None:
    monkeypatch.setattr("skyward.cloud.teardown.TROUBLE_S", 0.5)
    toy.fault("terminate", "error", times=-1)
    pool = make_pool(nodes=2).start()

    with pytest.raises(
        sky.CleanupError, match=r"2 machines of pool \S+ may still be running at \$2\.00/h: i-"
    ) as caught:
        pool.stop()

    assert caught.value.exit_code == 7
    assert caught.value.facts == ("toy r1: toy: 503 three times",)
    assert caught.value.hints[0].startswith("skyward down pool-")
    assert sorted(caught.value.ids) == sorted(toy.running)  # type: ignore[attr-defined]
    (account,) = accounts().values()
    assert account.trouble == "toy: 503 three times"

    toy.heal()
    toy.await_empty(20)  # the reaper did not give up
    pool.stop()


def test_a_machine_that_only_has_to_finish_ending_keeps_nobody_waiting_for_ever(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.cloud.fleet.PATIENCE_S", 0.5)
    toy.fault("launch", "stubborn")
    pool = make_pool()
    told = warnings_of(pool)

    with pool:
        pass

    assert "still shutting down" in told[-1]
    with toy.state() as state:
        for machine in state["machines"].values():
            machine["stubborn"] = False
    toy.await_empty(15)  # told again, by the reaper


def test_an_exception_keeps_its_place_and_nothing_is_left(make_pool: MakePool, toy: toycloud.Toy) -> None:
    with pytest.raises(ZeroDivisionError), make_pool(nodes=2):
        1 / 0

    assert toy.running == []


class Broken(ThreadEngine):
    name = "broken"

    def add_node(self, node: sky.Instance) -> None:
        raise RuntimeError("a plugin's mistake")


def test_whatever_goes_wrong_while_a_pool_starts_leaves_nothing(
    make_pool: MakePool, toy: toycloud.Toy
) -> None:
    with pytest.raises(RuntimeError, match="a plugin's mistake"):
        make_pool(nodes=3, engine=Broken).start()

    assert toy.running == []


def test_each_region_is_asked_where_it_is(
    make_pool: MakePool, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch, closed: Closed
) -> None:
    monkeypatch.setenv("TOY_REGIONS", "r1,r2")
    monkeypatch.setenv("TOY_OFFERS", "1")
    toy.fault("launch", "partial", missing=2)

    with make_pool(nodes=4) as pool:
        assert [one.region for one in pool.instances] == ["r1", "r1", "r2", "r2"]

    assert toy.running == []
    (account,) = closed()
    assert [desk.region for desk in account.desks] == ["r1", "r2"]
