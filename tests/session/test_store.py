from __future__ import annotations

import json
import math
import os
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward import Instance, Offer, TaskReport, events
from skyward.session import store as store_module
from skyward.session.store import VALUE_ROOM, Store, describe_value, new_id, plain, prune, utc


@dataclass
class Score:
    name: str
    points: tuple[int, ...]


@given(st.integers(1_710_000_000, 2_700_000_000), st.integers(1, 10**8))
def test_ids_sort_by_time_and_are_short(first: int, later: int) -> None:
    a, b = new_id(first), new_id(min(first + later, 2_770_000_000))

    assert a[:9] < b[:9]
    assert len(a) == 10
    assert a.startswith("r-")


def test_only_the_owner_may_read_a_run(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "r-1")
    store.append("items.jsonl", {"id": "a"})
    store.write("plan.json", {"nodes": 2})
    store.close()

    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in store.directory.iterdir()} == {0o600}
    assert sorted(file.name for file in store.directory.iterdir()) == ["items.jsonl", "plan.json"]


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    Store.create(tmp_path, "r-1")

    with pytest.raises(FileExistsError):
        Store.create(tmp_path, "r-1")


def test_lines_are_there_as_soon_as_they_are_written(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "r-1")
    store.append("outcomes.jsonl", {"id": "a"})

    assert json.loads((store.directory / "outcomes.jsonl").read_text()) == {"id": "a"}
    store.close()


def test_threads_may_write_at_once_and_late_lines_are_dropped(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "r-1")

    def write(number: int) -> None:
        for i in range(200):
            store.append("events.jsonl", {"thread": number, "i": i, "text": "x" * 300})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    store.append("events.jsonl", {"late": True})

    lines = [json.loads(line) for line in (store.directory / "events.jsonl").read_text().splitlines()]
    assert len(lines) == 800
    assert "late" not in lines[-1]


def test_every_event_has_a_form(tmp_path: Path) -> None:
    offer = Offer(provider="p", region="r", instance_type="t", usd_per_hour=None, vcpus=1, memory_gib=1,
                  observed_at=datetime(2025, 1, 31, tzinfo=UTC))  # fmt: skip
    report = TaskReport(task="f", index=0, attempt=1, verdict="failed", node=0, worker=0, duration_s=1.0,
                        error=ValueError("no"))  # fmt: skip
    store = Store.create(tmp_path, "r-1")
    store.event(events.InstanceLaunched(instance=Instance(id="i", provider="p", offer=offer), node=0, at=0.0))
    store.event(events.TaskFinished(report=report, at=0.5))
    store.close()

    first, second = map(json.loads, (store.directory / "events.jsonl").read_text().splitlines())
    assert first["event"] == "InstanceLaunched"
    assert first["instance"]["offer"]["observed_at"] == "2025-01-31T00:00:00.000Z"
    assert first["instance"]["offer"]["usd_per_hour"] is None
    assert second["report"]["error"] == {
        "type": "ValueError",
        "module": "builtins",
        "message": "no",
        "code": None,
    }


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (None, {"value": None, "repr": None}),
        ((1, "a", 2.5, True), {"value": [1, "a", 2.5, True], "repr": None}),
        ({"a": [1]}, {"value": {"a": [1]}, "repr": None}),
        (Score("x", (1, 2)), {"value": {"name": "x", "points": [1, 2]}, "repr": None}),
        (Path("a/b"), {"value": "a/b", "repr": None}),
        ({1: 2}, {"value": None, "repr": "{1: 2}"}),
        ({3}, {"value": None, "repr": "{3}"}),
        (b"x", {"value": None, "repr": "b'x'"}),
        (math.nan, {"value": None, "repr": "nan"}),
        ([math.inf], {"value": None, "repr": "[inf]"}),
        (Score, {"value": None, "repr": repr(Score)}),
    ],
)
def test_a_value_is_json_or_says_that_it_is_a_repr(value: Any, described: dict[str, Any]) -> None:
    assert describe_value(value) == described


def test_a_value_whose_repr_fails_is_described_all_the_same() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError

    assert describe_value(Shy())["repr"] == "<Shy whose repr raised RuntimeError>"


def test_a_value_that_contains_itself_is_described_all_the_same() -> None:
    loop: list[Any] = []
    loop.append(loop)

    assert describe_value(loop)["repr"] == "[[...]]"


@pytest.mark.parametrize("value", ["x" * 10**6, list(range(10**6)), {"a": ["x" * 100] * 10**5}, bytes(10**6)])
def test_large_values_are_kept_shortened(value: Any) -> None:
    kept = describe_value(value, room=VALUE_ROOM)

    assert kept["value"] is None
    assert len(kept["repr"]) < 10_000
    assert "..." in kept["repr"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)))  # fmt: skip
def test_whatever_is_written_can_be_read_as_json(value: Any) -> None:
    json.loads(json.dumps(plain(value), allow_nan=False))


def test_times_are_utc() -> None:
    assert utc(1738324800.5) == "2025-01-31T12:00:00.500Z"


def old(state: Path, run: str, days: float) -> Path:
    """A run in which nothing has happened for so long."""
    store = Store.create(state, run)
    store.append("events.jsonl", {"event": "x"})
    store.close()
    at = time.time() - days * 86_400
    for path in (store.directory / "events.jsonl", store.directory):
        os.utime(path, (at, at))
    return store.directory


def test_runs_that_are_old_are_removed_and_nothing_else(tmp_path: Path) -> None:
    gone, kept = old(tmp_path, "r-00000001", 40), old(tmp_path, "r-00000002", 20)
    unusual = old(tmp_path, "mine", 400)
    busy = old(tmp_path, "r-00000003", 40)
    os.utime(busy / "events.jsonl")

    assert prune(tmp_path, 30 * 86_400) == 1

    assert [path.exists() for path in (gone, kept, unusual, busy)] == [False, True, True, True]
    assert prune(tmp_path / "nowhere", 1) == 0


def test_logs_of_the_oldest_runs_make_room_and_their_runs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "LOGS_KEPT", 250)
    runs = [old(tmp_path, f"r-0000000{number}", 5 - number) for number in range(4)]
    for run in runs:
        (run / "logs").mkdir()
        (run / "logs" / "n0-worker-0.log").write_bytes(b"x" * 100)
        for path in (run / "logs", run) if run != runs[0] else ():  # the first one may be going on
            os.utime(path, (os.stat(run / "events.jsonl").st_mtime,) * 2)

    assert prune(tmp_path, 30 * 86_400) == 0

    assert [(run / "logs").exists() for run in runs] == [True, False, True, True]
    assert all((run / "events.jsonl").exists() for run in runs)


def test_of_very_many_old_runs_the_oldest_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "PRUNED_AT_ONCE", 2)
    runs = [old(tmp_path, f"r-0000000{number}", 40) for number in range(5)]

    assert prune(tmp_path, 0) == 2

    assert [path.exists() for path in runs] == [False, False, True, True, True]
