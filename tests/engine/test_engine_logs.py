"""What tasks print is kept in full where they run, and brought here before it goes; what does nothing is told of."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyward.model.event import TaskOutput, TaskStalled
from skyward.model.instance import Endpoint
from skyward.model.task import Task
from skyward.testing.sshd import SSHServer


def wait_for(is_so: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


# -- the full output -----------------------------------------------------------------------------------------------


def test_what_was_cut_off_arrives_in_full_with_the_logs(
    make_harness: Callable[..., Any], sshd: SSHServer, tmp_path: Path
) -> None:
    harness = make_harness()
    harness.add(sshd.endpoint)

    def flood() -> None:
        for i in range(40_000):
            print(f"line {i:06} {'x' * 80}")

    harness.call(flood)
    files = harness.engine.save_logs(tmp_path / "logs", room=1 << 28, deadline_s=30)

    assert [file.name for file in files] == ["n0-worker-0.log"]
    assert files[0].read_text() == "".join(f"line {i:06} {'x' * 80}\n" for i in range(40_000))
    printed = sum(len(event.text) for event in harness.of(TaskOutput) if not event.dropped)
    assert printed + sum(event.dropped for event in harness.of(TaskOutput)) == files[0].stat().st_size


def test_only_the_end_of_a_log_comes_where_there_is_little_room(local: Any, tmp_path: Path) -> None:
    def flood() -> None:
        for i in range(10_000):
            print(f"line {i:06}")

    local.call(flood)
    files = local.engine.save_logs(tmp_path / "logs", room=2400, deadline_s=30)

    assert [file.stat().st_size for file in files] == [1200]  # half of the room for each of two workers
    assert files[0].read_text().endswith("line 009999\n")


def test_workers_that_printed_nothing_leave_no_file(local: Any, tmp_path: Path) -> None:
    local.call(abs, -1)

    assert local.engine.save_logs(tmp_path / "logs", room=1 << 20, deadline_s=30) == []
    assert not (tmp_path / "logs").exists()


def test_secrets_are_taken_out_of_logs_and_every_other_byte_is_kept(local: Any, tmp_path: Path) -> None:
    def say() -> None:
        os.write(1, b"before hush-hush after\n\xff\xfe\x1b[1m bytes\nwithout end: hush-hush")
        time.sleep(0.3)

    local.call(say)
    files = local.engine.save_logs(
        tmp_path / "logs", room=1 << 20, deadline_s=30, redact=lambda text: text.replace("hush-hush", "***")
    )

    assert files[0].read_bytes() == b"before *** after\n\xff\xfe\x1b[1m bytes\nwithout end: ***"
    assert files[0].stat().st_mode & 0o777 == 0o600


def test_a_node_that_is_frozen_holds_up_no_other_logs(
    make_harness: Callable[..., Any], make_sshd: Callable[..., SSHServer], tmp_path: Path
) -> None:
    frozen, other = make_sshd(), make_sshd()
    harness = make_harness()
    for machine in (frozen, other):
        harness.add(machine.endpoint)
    sink, _ = harness.start([Task(print, ("hello",)) for _ in range(40)])
    sink.wait()
    frozen.freeze()
    began = time.monotonic()

    files = harness.engine.save_logs(tmp_path / "logs", room=1 << 20, deadline_s=2)

    frozen.thaw()
    assert time.monotonic() - began < 10
    assert [file.name for file in files] == ["n1-worker-0.log"]


# -- workers that do nothing ---------------------------------------------------------------------------------------


def pid_of_worker(link: Any) -> int:
    return int(link._answers.ready["workers"][0][2])


def test_a_worker_that_a_signal_has_stopped_is_told_of_and_goes_on_when_it_may(local: Any) -> None:
    def nap() -> str:
        time.sleep(3)
        return "woke"

    pid = pid_of_worker(local.links[0])
    sink, _ = local.start([Task(nap)])
    time.sleep(0.2)
    os.kill(pid, signal.SIGSTOP)

    told = wait_for(lambda: local.of(TaskStalled))[0]
    os.kill(pid, signal.SIGCONT)

    assert (told.task.endswith("nap"), told.node, told.pid, told.is_stopped) == (True, 0, pid, True)
    assert sink.wait()[0].result() == "woke"
    assert len(local.of(TaskStalled)) == 1


def test_a_worker_that_is_stopped_before_it_begins_is_told_of_too(make_harness: Callable[..., Any]) -> None:
    harness = make_harness()
    link = harness.add(Endpoint(kind="local"))
    harness.call(abs, -1)
    pid = pid_of_worker(link)
    os.kill(pid, signal.SIGSTOP)
    sink, _ = harness.start([Task(abs, (-2,))])

    told = wait_for(lambda: harness.of(TaskStalled))[0]
    os.kill(pid, signal.SIGCONT)

    assert told.is_stopped
    assert sink.wait()[0].result() == 2


@pytest.mark.parametrize("hangs", ["waits", "waits for a child that waits"])
def test_a_task_that_does_nothing_is_told_of_without_a_timeout(
    make_harness: Callable[..., Any], hangs: str
) -> None:
    def hang() -> None:
        if hangs == "waits":
            threading.Event().wait(30)
        else:
            subprocess.run(["sleep", "30"])

    harness = make_harness()
    harness.add(Endpoint(kind="local"), stalled_s=1.5)
    _, ticket = harness.start([Task(hang)])

    told = wait_for(lambda: harness.of(TaskStalled))[0]
    harness.engine.cancel(ticket, running=True)

    assert not told.is_stopped
    assert told.idle_s >= 1.5


def test_a_task_that_computes_or_prints_or_whose_children_do_is_left_in_peace(
    make_harness: Callable[..., Any],
) -> None:
    def compute() -> None:
        end = time.monotonic() + 6
        while time.monotonic() < end:
            sum(range(100_000))

    def talk() -> None:
        for _ in range(12):
            print("still here")
            time.sleep(0.5)

    def parent() -> None:
        subprocess.run(["sh", "-c", "i=0; while [ $i -lt 2500000 ]; do i=$((i+1)); done"])

    harness = make_harness()
    harness.add(Endpoint(kind="local"), stalled_s=3.0, concurrency=3)
    sink, _ = harness.start([Task(compute), Task(talk), Task(parent)])
    sink.wait()

    assert harness.of(TaskStalled) == []
