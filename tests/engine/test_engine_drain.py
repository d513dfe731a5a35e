"""A node that is about to be taken away is emptied, and a machine's switch learns that its client lives."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyward.errors import HostUnreachable
from skyward.model.instance import Endpoint
from skyward.model.task import Task, TaskOptions
from skyward.remote.connection import connect
from skyward.remote.link import Link, WorkerSettings


def write_and_wait(path: str, index: int, seconds: float) -> int:
    with open(path, "a") as file:
        file.write(f"start {index} {os.getpid()}\n")
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"end {index} {os.getpid()}\n")
    return index


def wait_until(is_true: Callable[[], Any], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def start(harness: Any, journal: Any, count: int, seconds: float, **how: Any) -> Any:
    tasks = [
        Task(write_and_wait, (str(journal.path), index, seconds), None, TaskOptions())
        for index in range(count)
    ]
    return harness.start(tasks, **how)[0]


def test_a_drained_node_finishes_what_runs_and_gives_back_the_rest(remote: Any, journal: Any) -> None:
    sink = start(remote, journal, 12, 0.3)
    wait_until(lambda: len(journal.count("start")) >= 2)
    remote.engine.drain(remote.links[0])
    before = len(journal.read())
    outcomes = sink.wait(30)
    assert [outcome.value for outcome in outcomes] == list(range(12))
    assert journal.count("start") == journal.count("end") == dict.fromkeys(range(12), 1)
    assert before < 12
    assert sum(outcome.node == 0 for outcome in outcomes) <= 2, "the node that was drained went on working"


def test_nothing_new_goes_to_a_drained_node(remote: Any, journal: Any) -> None:
    remote.engine.drain(remote.links[1])
    assert remote.engine.slots == 1
    outcomes = start(remote, journal, 6, 0.0).wait(30)
    assert {outcome.node for outcome in outcomes} == {0}


def test_what_waits_for_a_drained_node_alone_goes_to_the_one_that_takes_its_place(
    make_harness: Any, tmp_path: Path, journal: Any
) -> None:
    harness = make_harness()
    here = Endpoint(kind="local", directory=str(tmp_path / "sky"))
    harness.add(here)
    harness.engine.drain(harness.links[0])
    sink = start(harness, journal, 4, 0.0)
    pinned = start(harness, journal, 1, 0.0, worker=0)
    time.sleep(0.3)
    assert sink.left == 4
    assert pinned.left == 1
    successor = Link(here, node=0, session="test-successor")
    harness.links.append(successor)
    successor.open(30)
    successor.configure(WorkerSettings(python=sys.executable, sys_path=tuple(sys.path)))
    harness.engine.add_node(successor)
    assert harness.engine.workers == 1, "two links of one node are two ranks"
    assert len(sink.wait(30)) == 4
    assert len(pinned.wait(30)) == 1


def test_a_lease_is_renewed_while_the_client_is_heard(make_harness: Any, tmp_path: Path) -> None:
    harness, lease = make_harness(), tmp_path / "lease"
    lease.write_text("")
    link = harness.add(
        Endpoint(kind="local", directory=str(tmp_path / "sky")),
        lease_file=str(lease),
        lease_s=2.0,
        linger_s=20.0,
    )
    wait_until(lease.read_text)
    before = lease.read_text()
    wait_until(lambda: lease.read_text() != before)
    link.close()
    time.sleep(0.3)
    after = lease.read_text()
    time.sleep(1.5)
    assert lease.read_text() == after, "it is renewed although nobody is there"


def test_a_frozen_client_does_not_renew(make_harness: Any, tmp_path: Path) -> None:
    harness, lease = make_harness(), tmp_path / "lease"
    link = harness.add(
        Endpoint(kind="local", directory=str(tmp_path / "sky")),
        lease_file=str(lease),
        lease_s=2.0,
        linger_s=20.0,
    )
    wait_until(lambda: lease.exists() and lease.read_text())
    with link._line._writing:  # nothing leaves this client any more, as if it slept
        time.sleep(1.6)
        before = lease.read_text()
        time.sleep(1.5)
        assert lease.read_text() == before


def test_a_lease_that_cannot_be_written_disturbs_nothing(make_harness: Any, tmp_path: Path) -> None:
    harness = make_harness()
    harness.add(
        Endpoint(kind="local", directory=str(tmp_path / "sky")), lease_file="/proc/no/lease", lease_s=1.0
    )
    time.sleep(1.2)
    assert harness.call(abs, -3).value == 3


@pytest.mark.parametrize("text", ["{", "", "\xff"])
def test_a_notice_that_is_not_written_out_yet_is_read_again(
    make_harness: Any, tmp_path: Path, text: str
) -> None:
    harness, file, told = make_harness(), tmp_path / "notice", []
    file.write_text(text)
    harness.add(
        Endpoint(kind="local", directory=str(tmp_path / "sky")),
        notice_file=str(file),
        on_notice=lambda link, notice: told.append((link.node, notice)),
    )
    time.sleep(1.5)
    assert told == []
    notice = {"action": "terminate", "time": "2026-11-21T12:00:00Z"}
    file.write_text(json.dumps(notice))
    wait_until(lambda: told)
    time.sleep(1.5)
    assert told == [(0, notice)], "told more than once"
    assert harness.call(abs, -3).value == 3


def test_whoever_guards_a_node_hears_that_it_cannot_be_reached(make_harness: Any, tmp_path: Path) -> None:
    told: list[float] = []
    is_shut = False

    def through_a_gate(endpoint: Endpoint, **how: Any) -> Any:
        if is_shut and len(told) < 3:
            raise HostUnreachable("the gate is shut for this address")
        return connect(endpoint, **how)

    harness = make_harness()
    link = harness.add(
        Endpoint(kind="local", directory=str(tmp_path / "sky")),
        connect=through_a_gate,
        on_unreachable=lambda: told.append(time.monotonic()),
        linger_s=20.0,
    )
    assert not told
    is_shut = True
    link.drop("the address has changed")
    assert harness.call(abs, -3).value == 3
    assert len(told) == 3
