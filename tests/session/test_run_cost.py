"""What a run cost, read out of its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward import Instance, Offer, TaskReport, events
from skyward.errors import UsageError
from skyward.session.cost import PARTS, find_run, run_cost
from skyward.session.store import Store

START = 1_795_000_000.0


def machine(name: str = "i-1", usd_per_hour: float | None = 3.6, **changes: Any) -> Instance:
    fields = {
        "provider": "acme",
        "region": "north",
        "instance_type": "m1",
        "usd_per_hour": usd_per_hour,
        "vcpus": 4.0,
        "memory_gib": 16.0,
    }
    return Instance(id=name, provider="acme", offer=Offer(**{**fields, **changes}))


def report(node: int, verdict: Any, duration_s: float) -> TaskReport:
    return TaskReport(
        task="main", index=0, attempt=1, verdict=verdict, node=node, worker=0, duration_s=duration_s
    )


def told(state: Path, *happened: events.Event, ended: bool = True, run: str = "r-00000001") -> Path:
    """The directory of a run in which this happened."""
    store = Store.create(state, run)
    store.write("run.json", {"run": run, "target": "t:main", "started_at": "2026-11-20T10:00:00Z"})
    for event in happened:
        store.event(event)
    if ended:
        store.write("report.json", {"run": run})
    store.close()
    return store.directory


def life(node: int, instance: Instance, *moments: float, slots: int = 1) -> list[events.Event]:
    """Launched, reached, ready and ended, at seconds after the start."""
    launched, reached, ready, ended = (START + second for second in moments)
    return [
        events.InstanceLaunched(at=launched, instance=instance, node=node),
        events.StepFinished(at=reached, node=node, step="connect", duration_s=1.0),
        events.NodeReady(at=ready, node=node, instance=instance, slots=slots, duration_s=1.0),
        events.InstanceTerminated(at=ended, instance=instance, node=node),
    ]


def test_every_second_is_paid_for_once_and_told_what_for(tmp_path: Path) -> None:
    launched, reached, ready, ended = life(0, machine(), 0, 40, 60, 200, slots=2)
    work = [
        events.TaskFinished(at=START + 100, report=report(0, "lost", 20.0), final=False),
        events.TaskFinished(at=START + 150, report=report(0, "failed", 30.0)),
        events.TaskFinished(at=START + 190, report=report(0, "succeeded", 100.0)),
    ]

    cost = run_cost(told(tmp_path, launched, reached, ready, *work, ended))

    (node,) = cost.nodes
    assert node.parts_s() == {
        "boot": 40, "environment": 20, "useful": 50, "retried": 10, "wasted": 15, "idle": 65,
    }  # fmt: skip
    assert cost.usd == pytest.approx(0.2)
    assert sum(cost.parts_usd().values()) == pytest.approx(0.2)
    assert (cost.target, cost.is_ended) == ("t:main", True)


@given(
    st.lists(st.floats(0, 5000), min_size=4, max_size=4),
    st.lists(st.tuples(st.sampled_from(["succeeded", "failed", "lost"]), st.floats(0, 9000), st.booleans())),
    st.integers(0, 8),
    st.integers(1, 4),
)
def test_the_parts_add_up_to_the_whole_whatever_happened(
    tmp_path_factory: pytest.TempPathFactory,
    moments: list[float],
    attempts: list[tuple[Any, float, bool]],
    slots: int,
    heard: int,
) -> None:
    story = life(0, machine(), *sorted(moments), slots=slots)
    tasks = [
        events.TaskFinished(at=START + sorted(moments)[3], report=report(0, verdict, seconds), final=final)
        for verdict, seconds, final in attempts
    ]
    told_so_far = [*story[:3], *tasks, story[3]][: heard if heard < 4 else None]

    cost = run_cost(told(tmp_path_factory.mktemp("run"), *told_so_far))

    (node,) = cost.nodes
    assert set(node.parts_s()) == set(PARTS)
    assert all(seconds >= 0 for seconds in node.parts_s().values())
    assert sum(node.parts_s().values()) == pytest.approx(node.seconds)
    assert sum(cost.parts_usd().values()) == pytest.approx(cost.usd)


def test_a_killed_run_is_counted_to_the_last_thing_that_was_heard(tmp_path: Path) -> None:
    launched, reached, ready, _ = life(0, machine(), 0, 40, 60, 200)
    directory = told(tmp_path, launched, reached, ready, ended=False)
    with (directory / "events.jsonl").open("a") as file:
        file.write('{"event":"TaskStar')

    cost = run_cost(directory)

    assert not cost.is_ended
    assert (cost.nodes[0].seconds, cost.nodes[0].is_ended) == (60, False)


def test_a_machine_that_took_a_lost_ones_place_is_one_more(tmp_path: Path) -> None:
    first, second = life(0, machine("i-1"), 0, 10, 20, 100), life(0, machine("i-2"), 100, 110, 120, 300)
    done = events.TaskFinished(at=START + 200, report=report(0, "succeeded", 50.0))

    cost = run_cost(told(tmp_path, *first, *second[:3], done, second[3]))

    assert [(node.instance["id"], node.seconds) for node in cost.nodes] == [("i-1", 100), ("i-2", 200)]
    assert [node.parts_s()["useful"] for node in cost.nodes] == [0, 50]


def test_an_unknown_price_makes_the_sum_unknown_and_ones_own_machine_is_free(tmp_path: Path) -> None:
    unknown = run_cost(told(tmp_path, *life(0, machine(usd_per_hour=None), 0, 1, 2, 3)))
    own = run_cost(
        told(tmp_path, *life(0, machine(usd_per_hour=0.0, is_owned=True), 0, 1, 2, 3600), run="r-00000002")
    )

    assert unknown.usd is None
    assert own.usd == 0


def test_a_run_that_is_not_there_is_refused_with_the_newest_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run 'r-00000009' is kept here"):
        find_run(tmp_path, "r-00000009")
    told(tmp_path, run="r-00000001")
    told(tmp_path, run="r-00000002")

    assert find_run(tmp_path, "last").name == "r-00000002"
    assert find_run(tmp_path, "r-00000001").name == "r-00000001"
    with pytest.raises(UsageError) as refused:
        find_run(tmp_path, "r-00000009")
    assert refused.value.facts == ("the newest: r-00000002, r-00000001",)
