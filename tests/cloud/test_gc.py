"""Machines that nobody holds are found and ended, and no other one is ever touched."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toycloud

import skyward as sky
from skyward.cloud import gc as collector
from skyward.cloud import journal as journals
from skyward.cloud import survey
from skyward.cloud.gc import judge, read_moment
from skyward.cloud.journal import Journal

Skyward = Callable[..., Any]
MakeOrphan = Callable[..., str]
Until = Callable[..., None]
NOW = 1_800_000_000.0
OLD, PAST, FUTURE = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z", "2099-01-01T00:00:00Z"


def machine(state: str = "running", **tags: str) -> sky.Instance:
    return sky.Instance(
        id="i-1",
        provider="toy",
        offer=toycloud.toy_offers()[0],
        state=sky.InstanceState(state),
        tags={f"skyward:{name}": value for name, value in tags.items()},
    )


def ours(**tags: str) -> dict[str, str]:
    return {"managed": "true", "pool": "p-1", "created": OLD, **tags}


def pool(state: survey.State) -> survey.Pool:
    from skyward.cloud.account import Account

    return survey.Pool(account=Account("p-1"), path=Path("p-1.jsonl"), state=state)


# -- judging -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "known", "is_orphan"),
    [
        (machine(), None, False),  # untagged
        (machine(pool="p-1", created=OLD, expires=PAST), None, False),  # tagged, but not by us
        (machine(managed="true", created=OLD, expires=PAST), None, False),  # of no pool
        (machine(**ours(managed="false")), "orphaned", False),
        (machine(**ours(keep="")), "orphaned", False),  # kept
        (machine(**ours(keep="until the paper is out", expires=PAST)), None, False),
        (machine("terminated", **ours(expires=PAST)), None, False),
        (machine("terminating", **ours()), "orphaned", False),
        (machine(**ours(created="2027-01-15T07:59:45Z")), "orphaned", False),  # 15 s old
        (machine(**ours(created="yesterday")), "orphaned", False),
        (machine(**ours()), "running", False),  # under a living client
        (machine(**ours(expires=PAST)), "running", False),
        (machine(**ours()), "elsewhere", False),
        (machine(**ours()), None, False),  # somebody else's, and it never expires
        (machine(**ours(expires=FUTURE)), None, False),  # somebody else's lease
        (machine(**ours(expires="soon")), None, False),
        (machine(**ours(expires=PAST)), None, True),  # somebody else's, over its time
        (machine(**ours()), "orphaned", True),
        (machine(**ours(expires=FUTURE)), "orphaned", True),
        (machine("pending", **ours()), "ending", True),
    ],
)
def test_only_what_nobody_holds_is_an_orphan(one: sky.Instance, known: Any, is_orphan: bool) -> None:
    found, why = judge(one, {"p-1": pool(known)} if known else {}, (), NOW)

    assert found is is_orphan
    assert why


def test_a_machine_of_a_pool_that_is_over_is_an_orphan() -> None:
    assert judge(machine(**ours(expires=FUTURE)), {}, ["p-1"], NOW)[0]
    assert not judge(machine(**ours(expires=FUTURE, keep="yes")), {}, ["p-1"], NOW)[0]


def test_moments_of_tags_are_utc() -> None:
    assert read_moment("1970-01-01T00:01:00Z") == 60
    assert read_moment("") is None
    assert read_moment("next week") is None


# -- on every entry ------------------------------------------------------------------------------------------------


def test_without_debt_nobody_is_asked_and_no_time_is_lost(toy: toycloud.Toy, skyward: Skyward) -> None:
    collector.sweep()
    began = time.perf_counter()
    for _ in range(10):
        collector.sweep()

    assert (time.perf_counter() - began) / 10 < 0.05
    assert toy.calls == []


def test_the_next_command_ends_what_a_dead_client_left(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy
) -> None:
    make_orphan(machines=2)

    done = skyward("config", "path")

    assert "pool left-1: its client is gone; 2 machines at $2.00/h are ended in the background" in done.err
    toy.await_empty(10)
    assert done.code == 0


def test_the_next_pool_does_so_too(
    make_pool: Callable[..., sky.ComputePool], make_orphan: MakeOrphan, toy: toycloud.Toy
) -> None:
    make_orphan("left-2")
    told: list[str] = []
    new = make_pool()
    new.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with new:
        pass

    toy.await_empty(10)
    assert "pool left-2: its client is gone" in told[0]


def test_what_could_not_be_ended_is_told_by_every_next_command(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy, until: Until, accounts: Any
) -> None:
    make_orphan("left-3")
    toy.fault("terminate", "error", times=-1)
    skyward("config", "path")
    until(lambda: accounts()["left-3"].trouble)
    collector._told.clear()

    done = skyward("config", "path")

    assert "left-3: 1 machine at $1.00/h may still be billed: toy: 503 three times" in done.err
    assert "hint: skyward down left-3" in done.err


def test_a_living_pool_is_left_alone(
    make_pool: Callable[..., sky.ComputePool], skyward: Skyward, toy: toycloud.Toy
) -> None:
    with make_pool(nodes=2):
        assert skyward("config", "path").err == ""
        assert collector.sweep() == []
        time.sleep(0.2)
        assert len(toy.running) == 2


def test_a_client_on_another_machine_is_left_alone(
    make_orphan: MakeOrphan, toy: toycloud.Toy, dead_client: dict[str, Any]
) -> None:
    make_orphan("far-1", machines=0)
    journal = Journal.open(journals.directory() / "far-1.jsonl")
    client = {**dead_client, "host": "another-host"}
    journal.intend(token="far-1", count=1, client=client, provider="toy", region="r1", config={})
    journal.leave()

    assert collector.sweep() == []
    assert survey.pools()[0].state == "elsewhere"


def test_a_journal_without_debt_is_put_aside(make_orphan: MakeOrphan) -> None:
    make_orphan("paid-1", machines=0)
    journal = Journal.open(journals.directory() / "paid-1.jsonl")
    journal.record("released", provider="toy", region="r1")
    journal.leave()

    collector.sweep()

    assert journals.paths(journals.directory()) == []


# -- the command ---------------------------------------------------------------------------------------------------


def strangers(toy: toycloud.Toy) -> None:
    """One of each kind; only `expired` may be ended."""
    toy.add("untagged", age_s=1000)
    toy.add("foreign", age_s=1000, pool="theirs", created=OLD)
    toy.add("kept", **ours(pool="old", expires=PAST, keep="yes"))
    toy.add("leased", **ours(pool="theirs-1", expires=FUTURE, owner="them@there"))
    toy.add("endless", **ours(pool="theirs-2"))
    toy.add("expired", **ours(pool="old", expires=PAST, owner="them@there"))


@pytest.mark.usefixtures("configured")
def test_gc_ends_what_has_expired_and_nothing_else(skyward: Skyward, toy: toycloud.Toy) -> None:
    strangers(toy)

    done = skyward("gc", "--yes")

    assert done.code == 0, done.err
    assert sorted(toy.running) == ["endless", "foreign", "kept", "leased", "untagged"]
    assert "expired" in done.out
    assert "kept" not in done.out
    assert toy.count("release") == 0  # a machine of that pool goes on


@pytest.mark.usefixtures("configured")
def test_gc_shows_first_and_ends_nothing_unless_it_may(skyward: Skyward, toy: toycloud.Toy) -> None:
    strangers(toy)

    dry = skyward("gc", "--dry-run")
    refused = skyward("gc")

    assert dry.code == 0
    assert "expired" in dry.out
    assert refused.code == 2
    assert "pass --yes" in refused.err
    assert len(toy.running) == 6
    assert toy.count("terminate") == 0


@pytest.mark.usefixtures("configured")
def test_gc_says_why_each_machine_is_left_alone(skyward: Skyward, toy: toycloud.Toy) -> None:
    strangers(toy)

    items = {item["id"]: item for item in skyward("gc", "--dry-run", "--json").document["items"]}

    assert [id for id, item in items.items() if item["is_orphan"]] == ["expired"]
    assert "them@there" in items["leased"]["why"]
    assert "skyward:keep" in items["kept"]["why"]
    assert "left alone" in skyward("gc", "--dry-run", "-v").out


@pytest.mark.usefixtures("configured")
def test_gc_finishes_pools_of_dead_clients(
    skyward: Skyward, toy: toycloud.Toy, make_orphan: MakeOrphan, closed: Any
) -> None:
    make_orphan("left-9", machines=3)

    done = skyward("gc", "--yes")

    assert done.code == 0, done.err
    assert toy.running == []
    assert [account.pool for account in closed()] == ["left-9"]
    assert toy.calls[-1] == "release left-9"


@pytest.mark.usefixtures("configured")
def test_a_kept_machine_outlives_the_clean_up_of_its_pool(
    skyward: Skyward, toy: toycloud.Toy, make_orphan: MakeOrphan, accounts: Any
) -> None:
    make_orphan("left-8", machines=2)
    with toy.state() as state:
        state["machines"]["left-8-m1"]["tags"]["skyward:keep"] = "mine"

    done = skyward("gc", "--yes")

    assert done.code == 0, done.err
    assert toy.running == ["left-8-m1"]
    assert accounts() == {}
    assert toy.count("release") == 0


@pytest.mark.usefixtures("configured")
def test_gc_during_a_living_pool_leaves_it_alone(
    skyward: Skyward, toy: toycloud.Toy, make_pool: Callable[..., sky.ComputePool], monkeypatch: Any
) -> None:
    monkeypatch.setattr(collector, "GRACE_S", 0.0)
    with make_pool(nodes=2):
        done = skyward("gc", "--yes")
        assert len(toy.running) == 2

    assert (done.code, "nothing to end" in done.err) == (0, True)


@pytest.mark.usefixtures("configured")
def test_gc_looks_where_journals_and_options_say(
    skyward: Skyward, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dataclasses

    monkeypatch.setenv("TOY_REGIONS", "r1,r2,r3")
    dataclasses.replace(toy, region="r3").add("far", **ours(pool="old", expires=PAST))
    (Path(os.environ["SKYWARD_HOME"]) / "config" / "config.toml").write_text(
        f'[providers.toy]\ndirectory = "{toy.directory}"\nregion = "r1"\n'
    )

    assert "nothing to end" in skyward("gc", "--yes").err
    assert skyward("gc", "--yes", "--region", "r3").code == 0
    assert toy.running == []


@pytest.mark.usefixtures("configured")
def test_a_cloud_that_does_not_answer_is_told(skyward: Skyward, toy: toycloud.Toy) -> None:
    toy.fault("instances", "error")

    done = skyward("gc", "--yes")

    assert done.code == 4
    assert "toy: 503 three times" in done.err


@pytest.mark.usefixtures("configured")
def test_what_gc_cannot_end_is_exit_7(
    skyward: Skyward, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.cloud.teardown.TROUBLE_S", 0.3)
    strangers(toy)
    toy.fault("terminate", "error", times=-1)

    done = skyward("gc", "--yes")

    assert done.code == 7
    assert "expired" in done.err


@pytest.mark.usefixtures("configured")
def test_a_machine_that_changes_before_the_last_look_is_let_be(
    skyward: Skyward, toy: toycloud.Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    strangers(toy)
    real = collector.judgements
    looks: list[int] = []

    def keep_it_now(*args: Any) -> Any:
        looks.append(1)
        if len(looks) == 2:
            with toy.state() as state:
                state["machines"]["expired"]["tags"]["skyward:keep"] = "wait!"
            args = (
                [
                    survey._ask(survey.Place(desk=one.desk, find=lambda one=one: one.provider))
                    for one in args[0]
                ],
                *args[1:],
            )
        return real(*args)

    monkeypatch.setattr(collector, "judgements", keep_it_now)

    assert skyward("gc", "--yes").code == 0
    assert "expired" in toy.running
