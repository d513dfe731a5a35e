"""What a task may do, and what its caller sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyward.errors import (
    RemoteError,
    ResultTooLarge,
    SerializationError,
    TaskTimeout,
    WorkerDied,
    remote_traceback,
)
from skyward.model.event import TaskOutput
from skyward.model.instance import Endpoint
from skyward.model.task import Task


def square(x: int) -> int:
    return x * x


def test_values_come_back_in_order(remote: Any) -> None:
    outcomes = remote.map(square, range(500))

    assert [outcome.value for outcome in outcomes] == [x * x for x in range(500)]
    assert {outcome.node for outcome in outcomes} == {0, 1}


def test_arguments_of_every_kind_travel(local: Any) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    def show(a: Any, *rest: Any, key: Any = None) -> Any:
        return a, rest, key

    values = [
        1,
        2.5,
        None,
        "é\ud800",
        b"\0",
        [1, [2]],
        {"a": (1,)},
        {1, 2},
        float("inf"),
        10**40,
        "x" * 200_000,
        b"y" * 200_000,
        bytearray(b"z" * 200_000),
    ]
    for value in values:
        sink, _ = local.start([Task(show, (value, value), {"key": value})])
        assert sink.wait()[0].result() == (value, (value,), value)
    assert local.call(lambda p: p.x + 1, Point(4)).result() == 5


def test_arrays_arrive_writable_and_private(local: Any) -> None:
    np = pytest.importorskip("numpy")
    array = np.arange(200_000, dtype="f8")

    def change(values: Any, i: int) -> Any:
        values[0] = i
        return values

    results = local.map(change, [array] * 4, range(4))

    assert [outcome.result()[0] for outcome in results] == [0, 1, 2, 3]
    assert array[0] == 0
    results[0].value[1] = 5  # what came back may be written to


def test_one_object_given_twice_to_a_task_stays_one_object(local: Any) -> None:
    assert local.call(lambda a, b: a is b, [1], [1]).result() is False
    for shared in ([1], ["a" * 100_000], bytearray(100_000)):
        assert local.call(lambda a, b: a is b, shared, shared).result() is True
        named = Task(lambda a, *, b: a is b, (shared,), {"b": shared})
        assert local.start([named])[0].wait()[0].result() is True
    assert local.call(lambda a, b: a is b, bytearray(100_000), bytearray(100_000)).result() is False


def test_what_two_long_arguments_hold_stays_one_object_where_they_travel_as_one_argument(local: Any) -> None:
    inner = [1]
    first, second = [inner, "a" * 100_000], [inner, "b" * 100_000]

    pair = (first, second)
    assert local.call(lambda a, b: (a[0] == b[0], a[0] is b[0]), *pair).result() == (True, False)
    assert local.call(lambda both: both[0][0] is both[1][0], pair).result() is True


def test_tasks_do_not_share_what_they_return_or_get(local: Any) -> None:
    kept: list[int] = []

    def remember(i: int) -> list[int]:
        kept.append(i)
        return kept

    lengths = [len(outcome.result()) for outcome in local.map(remember, range(50))]

    assert all(length >= 1 for length in lengths)
    values = local.map(remember, range(4))
    assert values[0].value is not values[1].value


def test_a_coroutine_function_is_awaited_on_the_node(local: Any) -> None:
    async def later(x: int) -> int:
        import asyncio

        await asyncio.sleep(0.01)
        return x

    assert local.call(later, 3).result() == 3


def test_an_exception_comes_back_as_itself_with_the_remote_traceback(local: Any) -> None:
    def broken(x: int) -> int:
        return 1 // x

    outcome = local.call(broken, 0)

    assert outcome.verdict == "failed"
    assert isinstance(outcome.error, ZeroDivisionError)
    assert "in broken" in remote_traceback(outcome.error)
    assert "<skyward" not in remote_traceback(outcome.error)


class Spoilt:
    """Cannot be read where it arrives."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def test_an_argument_that_cannot_be_read_is_told_without_our_own_frames(local: Any) -> None:
    outcome = local.call(repr, Spoilt())

    assert isinstance(outcome.error, ValueError)
    assert "no number" in remote_traceback(outcome.error)
    assert "<skyward" not in remote_traceback(outcome.error)


class TwoArguments(Exception):
    def __init__(self, a: str, b: str) -> None:
        super().__init__(a + b)


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__("boom")
        self.lock = threading.Lock()


def raise_it(kind: str) -> None:
    if kind == "system-exit":
        sys.exit(3)
    if kind == "keyboard":
        raise KeyboardInterrupt("from the task")
    if kind == "two":
        raise TwoArguments("a", "b")
    if kind == "locked":
        raise Locked
    if kind == "generator":
        raise GeneratorExit
    if kind == "stop":
        raise StopIteration(3)

    class Nasty(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    raise Nasty


@pytest.mark.parametrize(
    ("kind", "name"),
    [("system-exit", "SystemExit"), ("keyboard", "KeyboardInterrupt"), ("two", "TwoArguments"), ("locked", "Locked"),
     ("generator", "GeneratorExit"), ("stop", "StopIteration")],
)  # fmt: skip
def test_what_cannot_be_raised_here_is_told(local: Any, kind: str, name: str) -> None:
    error = local.call(raise_it, kind).error

    assert isinstance(error, RemoteError)
    assert error.type_name.split(".")[-1] == name
    assert "raise_it" in error.remote_traceback
    assert local.call(square, 2).result() == 4


def test_an_exception_without_text_is_told(local: Any) -> None:
    assert local.call(raise_it, "nasty").error is not None
    assert local.call(square, 2).result() == 4


def test_endless_recursion_is_an_error_of_bounded_length(local: Any) -> None:
    def deep(n: int) -> int:
        return deep(n + 1)

    error = local.call(deep, 0).error

    assert isinstance(error, RecursionError)
    assert len(remote_traceback(error)) < 100_000


def test_an_argument_that_cannot_travel_is_named_and_fails_alone(local: Any) -> None:
    sink, _ = local.start(
        [Task(square, (1,)), Task(square, ({"conn": [threading.Lock()]},)), Task(square, (3,))]
    )

    good, bad, other = sink.wait()

    assert (good.value, other.value) == (1, 9)
    assert isinstance(bad.error, SerializationError)
    assert "'conn'" in str(bad.error)
    assert "lock" in str(bad.error)


def test_what_travels_beside_arguments_that_cannot_finds_its_own_place(local: Any) -> None:
    rows = [[i] if i % 7 else threading.Lock() for i in range(600)]

    outcomes = local.map(lambda row: row, rows)

    for i, outcome in enumerate(outcomes):
        if i % 7:
            assert outcome.result() == [i]
        else:
            assert isinstance(outcome.error, SerializationError)


def test_a_closure_that_cannot_travel_is_named(local: Any) -> None:
    conn = threading.Lock()

    def f() -> None:
        conn.acquire()

    error = local.call(f).error

    assert isinstance(error, SerializationError)
    assert "'conn'" in str(error)


def test_a_result_that_cannot_travel_is_named_and_runs_once(local: Any, journal: Any) -> None:
    path = str(journal.path)

    def give() -> Any:
        with open(path, "a") as file:
            file.write(f"S 0 {os.getpid()}\n")
        return {"a": [threading.Lock()]}

    error = local.call(give).error

    assert isinstance(error, SerializationError)
    assert "'a'" in str(error)
    assert journal.count("S") == {0: 1}


def die(how: str) -> None:
    if how == "exit":
        sys.stderr.write("last words\n")
        os._exit(7)
    if how == "segv":
        import ctypes

        ctypes.string_at(0)
    if how == "abort":
        os.abort()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "expected"), [("exit", 7), ("segv", "SIGSEGV"), ("abort", "SIGABRT"), ("kill", "SIGKILL")]
)
def test_a_dying_worker_fails_its_task_alone(local: Any, how: str, expected: Any) -> None:
    tasks = [Task(square, (i,)) for i in range(60)]
    tasks.insert(30, Task(die, (how,)))
    began = time.monotonic()

    outcomes = local.start(tasks)[0].wait()

    error = outcomes.pop(30).error
    assert isinstance(error, WorkerDied)
    assert expected in (error.exit_status, error.signal)
    assert [outcome.result() for outcome in outcomes] == [i * i for i in range(60)]
    assert time.monotonic() - began < 10
    if how == "exit":
        assert "last words" in error.stderr_tail
    if how == "segv":
        assert "Segmentation fault" in error.stderr_tail
    assert local.call(square, 3).result() == 9


def test_a_poison_task_runs_twice_and_nobody_else_again(local: Any, journal: Any) -> None:
    path = str(journal.path)

    def body(i: int) -> int:
        with open(path, "a") as file:
            file.write(f"S {i} {os.getpid()}\n")
        if i == 31:
            os._exit(1)
        return i

    outcomes = local.map(body, range(60))

    assert isinstance(outcomes[31].error, WorkerDied)
    assert journal.count("S") == {i: 2 if i == 31 else 1 for i in range(60)}


def test_a_task_over_its_time_is_killed_and_may_clean_up(local: Any, tmp_path: Path) -> None:
    mark = str(tmp_path / "cleaned")

    def slow() -> None:
        try:
            time.sleep(60)
        finally:
            open(mark, "w").close()

    began = time.monotonic()
    error = local.call(slow, timeout_s=0.5).error

    assert isinstance(error, TaskTimeout)
    assert time.monotonic() - began < 5
    assert os.path.exists(mark)
    assert local.call(square, 2).result() == 4


def test_a_task_that_ignores_the_polite_signal_is_killed_all_the_same(local: Any) -> None:
    def stubborn() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(0.1)

    began = time.monotonic()

    assert isinstance(local.call(stubborn, timeout_s=0.3).error, TaskTimeout)
    assert time.monotonic() - began < 6


def test_a_frozen_worker_is_ended_by_its_timeout(local: Any) -> None:
    def freeze() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    assert isinstance(local.call(freeze, timeout_s=0.5).error, TaskTimeout)
    assert local.call(square, 2).result() == 4


def test_what_a_task_prints_is_tagged_with_it(local: Any) -> None:
    def say(i: int) -> None:
        print(f"hello {i}")
        sys.stderr.write(f"warn {i}\n")

    local.map(say, range(20))
    time.sleep(0.3)

    events = local.of(TaskOutput)
    for i in range(20):
        assert any(
            event.index == i and event.stream == "out" and f"hello {i}\n" in event.text for event in events
        )
        assert any(
            event.index == i and event.stream == "err" and f"warn {i}\n" in event.text for event in events
        )


def test_what_c_code_and_children_print_comes_too(local: Any) -> None:
    def say() -> None:
        os.write(1, b"from descriptor 1\n")
        subprocess.run(["sh", "-c", "echo from a child"], check=True)
        time.sleep(0.2)

    local.call(say)
    time.sleep(0.2)

    assert "from descriptor 1" in local.printed()
    assert "from a child" in local.printed()


def test_ten_megabytes_of_output_are_cut_and_nothing_breaks(local: Any) -> None:
    def flood() -> int:
        for _ in range(100_000):
            print("x" * 99)
        return 5

    assert local.call(flood).result() == 5
    time.sleep(0.5)
    assert len(local.printed()) < 3 << 20
    assert "more bytes are not shown" in local.printed()


def test_control_sequences_do_not_reach_the_terminal(local: Any) -> None:
    def nasty() -> None:
        print("\x1b]0;owned\x07\x1b[2J\x1b]52;c;ZXZpbA==\x07plain\x00\x9b31m")

    local.call(nasty)
    time.sleep(0.2)

    assert "plain" in local.printed()
    assert not set(local.printed()) & {"\x1b", "\x07", "\x00", "\x9b"}


def test_closing_the_standard_descriptors_hurts_nobody(local: Any) -> None:
    def close_them() -> int:
        os.closerange(0, 256)
        return 1

    assert local.call(close_them).result() == 1
    assert local.call(lambda: print("still here") or 2).result() == 2
    time.sleep(0.2)
    assert "still here" in local.printed()


def test_closing_every_descriptor_ends_the_worker_and_says_so(local: Any) -> None:
    def close_all() -> int:
        os.closerange(3, 65536)
        return 1

    assert isinstance(local.call(close_all).error, WorkerDied)
    assert local.call(square, 2).result() == 4


def test_what_a_task_leaves_behind_is_put_back(local: Any) -> None:
    def disturb(i: int) -> None:
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        os.umask(0)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])

    def look(i: int) -> Any:
        before = os.umask(0o22)
        return os.getcwd(), os.environ.get("LEFT"), before, signal.pthread_sigmask(signal.SIG_BLOCK, [])

    clean = {outcome.result()[:3] for outcome in local.map(look, range(8))}
    local.map(disturb, range(8))
    after = local.map(look, range(8))

    assert {outcome.result()[:3] for outcome in after} == clean
    assert all(not outcome.result()[3] for outcome in after)


def test_children_a_task_leaves_are_ended_with_it(local: Any, tmp_path: Path) -> None:
    def leave() -> int:
        child = os.fork()
        if child == 0:
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            os._exit(0)
        os.waitpid(child, 0)
        return subprocess.Popen(["sleep", "601"], start_new_session=True).pid

    pid = local.call(leave).result()
    time.sleep(0.3)

    assert not Path(f"/proc/{pid}").exists()


def test_children_may_stay_as_long_as_their_worker_where_that_is_asked_for(
    make_harness: Callable[..., Any],
) -> None:
    def leave() -> int:
        return subprocess.Popen(["sleep", "602"], start_new_session=True).pid

    harness = make_harness()
    harness.add(Endpoint(kind="local"), env={"SKYWARD_KEEP_CHILDREN": "1"})
    pid = harness.call(leave).result()
    harness.call(abs, -1)
    time.sleep(0.3)
    is_there = Path(f"/proc/{pid}").exists()
    harness.stop()

    assert is_there
    assert not Path(f"/proc/{pid}").exists()


def test_a_child_that_falls_out_of_the_task_does_not_answer_for_it(local: Any) -> None:
    def fork() -> str:
        return "child" if os.fork() == 0 else "parent"

    assert local.call(fork).result() == "parent"
    assert local.call(square, 2).result() == 4


def test_a_long_result_arrives_whole(remote: Any) -> None:
    def make(n: int) -> bytes:
        return bytes([n % 251]) * (n << 20)

    outcomes = remote.map(make, [1, 7, 30])

    assert [len(outcome.result()) for outcome in outcomes] == [1 << 20, 7 << 20, 30 << 20]
    assert all(outcome.value[:1] == bytes([n]) for outcome, n in zip(outcomes, [1, 7, 30], strict=True))


def test_a_result_over_the_cap_is_refused_where_it_is(make_harness: Any, tmp_path: Path) -> None:
    harness = make_harness()
    harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")), result_cap=1 << 20)

    assert isinstance(harness.call(lambda: b"x" * (2 << 20)).error, ResultTooLarge)
    assert harness.call(square, 2).result() == 4


def test_a_long_argument_crosses_each_link_once(remote: Any) -> None:
    data = os.urandom(10 << 20)
    sent = []
    for link in remote.links:

        def count(stream: Any, kind: int, header: Any, *payload: Any, send: Any = link._line._send) -> None:
            sent.append(sum(map(len, payload)))
            send(stream, kind, header, *payload)

        link._line._send = count

    outcomes = remote.map(lambda blob, i: len(blob) + i, [data] * 300, range(300))

    assert [outcome.result() for outcome in outcomes] == [(10 << 20) + i for i in range(300)]
    assert 20 << 20 <= sum(sent) < 21 << 20
    assert remote.call(len, bytes(data)).result() == 10 << 20
    assert sum(sent) < 21 << 20, "equal content is the same blob, whoever holds it"


def test_slow_tasks_do_not_hold_up_quick_ones(local: Any) -> None:
    def nap(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    local.map(nap, [0.0] * 200)
    began = time.monotonic()

    local.map(nap, [1.5] + [0.0] * 300 + [0.05] * 10)

    assert time.monotonic() - began < 2.4


def test_a_pinned_group_runs_on_its_worker(local: Any) -> None:
    sinks = [local.start([Task(os.getpid)], worker=rank)[0] for rank in (0, 1, 0, 1)]

    outcomes = [sink.wait()[0] for sink in sinks]

    assert [outcome.node for outcome in outcomes] == [0, 1, 0, 1]
    assert outcomes[0].value == outcomes[2].value != outcomes[1].value


def test_cancelling_stops_what_has_not_started(local: Any, journal: Any) -> None:
    path = str(journal.path)

    def body(i: int) -> int:
        with open(path, "a") as file:
            file.write(f"S {i} {os.getpid()}\n")
        time.sleep(0.3)
        return i

    sink, ticket = local.start([Task(body, (i,)) for i in range(40)])
    time.sleep(0.45)
    local.engine.cancel(ticket)
    outcomes = sink.wait(10)

    verdicts = [outcome.verdict for outcome in outcomes]
    assert verdicts.count("cancelled") >= 34
    assert len(journal.count("S")) == verdicts.count("succeeded")


def test_cancelling_what_runs_kills_it(local: Any) -> None:
    sink, ticket = local.start([Task(time.sleep, (60,)) for _ in range(2)])
    time.sleep(0.4)

    local.engine.cancel(ticket, running=True)

    assert [outcome.verdict for outcome in sink.wait(10)] == ["cancelled"] * 2
    assert local.call(square, 2).result() == 4


def test_a_failed_task_is_retried_only_when_asked(local: Any, tmp_path: Path) -> None:
    count = str(tmp_path / "count")

    def flaky() -> int:
        with open(count, "a") as file:
            file.write("x")
        if os.path.getsize(count) < 3:
            raise ValueError("not yet")
        return os.path.getsize(count)

    assert isinstance(local.call(flaky).error, ValueError)
    os.unlink(count)
    assert local.call(flaky, retries=5).result() == 3


def test_stopping_leaves_no_process_and_no_file(make_harness: Any, tmp_path: Path) -> None:
    harness = make_harness()
    link = harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")), concurrency=2)
    pids = {outcome.result() for outcome in harness.map(_pid_slowly, range(4))}
    run_directory = link.probe.run_directory

    harness.engine.stop()

    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not os.path.exists(run_directory)


def _pid_slowly(i: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def test_what_is_changed_after_it_was_handed_over_is_not_changed_on_its_way(local: Any) -> None:
    data = bytearray(b"a" * (20 << 20))
    sink, _ = local.start([Task(bytes, (data,))])
    data[:] = b"b" * len(data)
    first = sink.wait()[0].result()

    again = local.call(bytes, bytearray(b"b" * (20 << 20))).result()

    assert set(first) == {ord("a")}
    assert set(again) == {ord("b")}


def test_an_agent_is_compiled_where_python_is_not_like_ours(
    make_harness: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skyward.remote import program

    program.modules.cache_clear()
    monkeypatch.setattr(program, "MAGIC_NUMBER", b"none like it")
    try:
        harness = make_harness()
        harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))
        assert b"none like it" in program.modules()
        assert harness.call(square, 3).result() == 9
    finally:
        program.modules.cache_clear()
