"""Long values, bad lines, jumping clocks and unlucky moments: slower perhaps, never wrong, never twice."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from skyward.errors import AuthenticationError, RemoteError, TaskLost, TaskTimeout, remote_traceback
from skyward.model.event import NodeLost, NodeSuspected
from skyward.model.instance import Endpoint
from skyward.model.task import Task, TaskOptions
from skyward.remote.link import Link
from skyward.remote.program import agent_command
from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer

HAS_ROOM = psutil.virtual_memory().available > 6 << 30
LONG_BYTES = int(os.environ.get("SKYWARD_TEST_LONG_MB", "1000" if HAS_ROOM else "300")) << 20
"""A gigabyte, where there is room for it and what is made of it."""


def note(path: str, i: int, seconds: float = 0.0, then_die_s: float | None = None) -> int:
    """Returns `i`; writes when it began. The process may be killed a little after it has answered."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, f"S {i} {os.getpid()}\n".encode())
    os.close(descriptor)
    time.sleep(seconds)
    if then_die_s is not None:
        threading.Timer(then_die_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return i


# -- long values ---------------------------------------------------------------------------------------------------


class Watch:
    """The largest memory of this process, and the longest silence of a node, while the block runs."""

    def __init__(self, links: list[Any]) -> None:
        self.links = links
        self.more_bytes = 0
        self.silence_s = 0.0

    def look(self, base: int) -> None:
        self.more_bytes = max(self.more_bytes, _resident() - base)
        for link in self.links:
            self.silence_s = max(self.silence_s, time.monotonic() - link.last_heard)


@contextmanager
def watched(links: list[Any]) -> Iterator[Watch]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    watch, base, is_over = Watch(links), _resident(), threading.Event()

    def run() -> None:
        while not is_over.wait(0.01):
            watch.look(base)

    watcher = threading.Thread(target=run)
    watcher.start()
    try:
        yield watch
    finally:
        is_over.set()
        watcher.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _weigh(blob: bytes) -> tuple[int, int, int]:
    """Length, a sample, and the most memory the worker ever had."""
    import resource

    return len(blob), blob[len(blob) // 2], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _make(size: int) -> bytes:
    return b"\7" * size


def test_a_very_long_argument_fits_in_memory_and_hides_no_heartbeat(
    make_harness: Callable[..., Any], sshd: SSHServer
) -> None:
    harness = make_harness()
    harness.add(sshd.endpoint)
    harness.call(abs, -1)

    with watched(harness.links) as watch:
        data = _make(LONG_BYTES)
        length, middle, worker_bytes = harness.call(_weigh, data, wait_s=300).result()

    assert (length, middle) == (LONG_BYTES, 7)
    assert watch.more_bytes <= 2.2 * LONG_BYTES
    assert worker_bytes <= 2.2 * LONG_BYTES
    assert watch.silence_s < 3
    assert not harness.of(NodeSuspected)


def test_a_very_long_result_fits_in_memory_and_hides_no_heartbeat(
    make_harness: Callable[..., Any], sshd: SSHServer
) -> None:
    harness = make_harness()
    harness.add(sshd.endpoint)
    harness.call(abs, -1)

    with watched(harness.links) as watch:
        data = harness.call(_make, LONG_BYTES, wait_s=300).result()

    assert data == _make(LONG_BYTES)
    assert watch.more_bytes <= 2.2 * LONG_BYTES
    assert watch.silence_s < 3
    assert not harness.of(NodeSuspected)


# -- bad lines -----------------------------------------------------------------------------------------------------


def test_a_line_that_loses_every_fifth_packet_and_is_slow_and_narrow_costs_time_only(
    make_harness: Callable[..., Any], sshd: SSHServer, make_chaos: Callable[..., ChaosProxy], journal: Any
) -> None:
    """20 % loss, 200 ms there and back, 1 Mbit/s: what is silent for a while is not lost."""
    proxy = make_chaos(sshd)
    for lane in (proxy.up, proxy.down):
        lane.loss, lane.delay_s, lane.bytes_per_s = 0.2, 0.1, 125_000
    harness = make_harness()
    harness.add(proxy.endpoint(sshd.endpoint))
    blobs = [os.urandom(1 << size) for size in range(0, 17, 4)]

    sink, _ = harness.start([Task(note, (str(journal.path), i)) for i in range(200)])
    long = harness.map(bytes, blobs, wait_s=120)

    assert [outcome.result() for outcome in sink.wait(120)] == list(range(200))
    assert [outcome.result() for outcome in long] == blobs
    assert journal.count("S") == dict.fromkeys(range(200), 1)
    assert not harness.of(NodeLost)


def _itself(i: int) -> int:
    return i


def _byte_at(blob: bytes, i: int) -> int:
    return blob[i]


ROUND_TRIP_S, BYTES_PER_S, REPEATS_S = 0.2, 125_000, 1.0
"""200 ms, 1 Mbit/s, and what the repeats of a line that loses every fifth packet may cost at the end of each burst: TCP
waits 0.2 s, then 0.4, then 0.8."""
TASK_BYTES = 64
"""What a small task may cost, there and back."""


def test_time_on_a_bad_line_goes_by_bytes_and_by_few_round_trips_and_not_by_tasks(
    make_harness: Callable[..., Any], sshd: SSHServer, make_chaos: Callable[..., ChaosProxy]
) -> None:
    """Each of two groups costs two round trips: its first tasks go alone, because nobody knows yet how long they take.
    Everything crosses once. That is 14 s, of which all is believed that takes half as long again; a round trip for each
    task would be 500 s, the long argument with each of its tasks 160 s."""
    small, argument, calls = range(2500), os.urandom(1_000_000), range(20)
    proxy = make_chaos(sshd)
    proxy.up.loss = proxy.down.loss = 0.2
    harness = make_harness()
    harness.add(proxy.endpoint(sshd.endpoint))
    for lane in (proxy.up, proxy.down):
        lane.delay_s, lane.bytes_per_s = ROUND_TRIP_S / 2, BYTES_PER_S
    ideal_bytes = len(small) * TASK_BYTES + len(argument)
    model_s = 4 * (ROUND_TRIP_S + REPEATS_S) + ideal_bytes / BYTES_PER_S

    before, began = proxy.up.forwarded + proxy.down.forwarded, time.monotonic()
    numbers = harness.map(_itself, small, wait_s=50)
    found = harness.map(_byte_at, [argument] * len(calls), calls, wait_s=50)
    took_s, sent = time.monotonic() - began, proxy.up.forwarded + proxy.down.forwarded - before

    assert [outcome.result() for outcome in numbers] == list(small)
    assert [outcome.result() for outcome in found] == list(argument[: len(calls)])
    assert sent <= 1.2 * ideal_bytes, "everything crosses once"
    assert took_s <= 1.5 * model_s
    assert not harness.of(NodeLost)


def test_an_upload_that_takes_longer_than_a_node_may_be_silent_is_no_silence(
    make_harness: Callable[..., Any], sshd: SSHServer, make_chaos: Callable[..., ChaosProxy]
) -> None:
    proxy = make_chaos(sshd)
    proxy.up.bytes_per_s = 1_000_000
    harness = make_harness()
    harness.add(proxy.endpoint(sshd.endpoint), lost_s=2.0)

    outcome = harness.call(len, os.urandom(6_000_000), wait_s=60)

    assert outcome.result() == 6_000_000
    assert not harness.of(NodeLost)
    assert proxy.accepted == 1, "the connection was never given up"


# -- clocks that jump ----------------------------------------------------------------------------------------------

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    char text[32] = "";
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    if (file < 0) return 0;
    if (read(file, text, 31) < 0) text[0] = 0;
    close(file);
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(id, at);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) at->tv_sec += offset();
    return code;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class WallClock:
    """The time of day of every process with these variables; it may jump while they run."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o755)
        (directory / "shim.c").write_text(SHIM)
        library, self.file = directory / "shim.so", directory / "offset"
        build = ["cc", "-shared", "-fPIC", "-o", str(library), str(directory / "shim.c"), "-ldl"]
        subprocess.run(build, check=True)
        self.variables = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self.file)}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """So far from the true time, from now on."""
        beside = self.file.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self.file)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make a clock with")
    return WallClock(tmp_path)


def _today() -> float:
    return time.time()


def test_a_clock_that_jumps_on_the_machine_changes_nothing(
    make_harness: Callable[..., Any], sshd: SSHServer, wall_clock: WallClock, journal: Any
) -> None:
    harness = make_harness()
    under = f"exec env {' '.join(f'{k}={v}' for k, v in wall_clock.variables.items())} "
    harness.add(
        sshd.endpoint,
        env=wall_clock.variables,
        lost_s=3.0,
        command=lambda endpoint: agent_command(endpoint).replace("exec ", under, 1),
    )
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(30)])

    for days in (3, -1, 0):
        time.sleep(0.7)
        wall_clock.jump(days * 86_400)
    wall_clock.jump(3 * 86_400)

    assert [outcome.result() for outcome in sink.wait(30)] == list(range(30))
    assert abs(harness.call(_today).result() - time.time() - 3 * 86_400) < 60, "the clock did jump"
    assert journal.count("S") == dict.fromkeys(range(30), 1)
    assert not harness.of(NodeSuspected)
    assert isinstance(harness.call(time.sleep, 30, timeout_s=0.5).error, TaskTimeout)
    assert harness.call(time.sleep, 0.3, timeout_s=20).succeeded


CLIENT = """
import sys, time
import skyward as sky

host, key, known_hosts, clock = sys.argv[1:]

@sky.compute
def nap(i):
    time.sleep(0.1)
    return i

with sky.ComputePool(
    sky.SSH(hosts=[host], key=key, known_hosts=known_hosts), max_lifetime="5m", timeout="4m", display="quiet"
) as pool:
    future = pool.submit(nap, -1)
    results = []
    for i, value in enumerate(sky.gather(map(nap, range(30)), stream=True) >> pool):
        results.append(value)
        if i in (5, 12, 20):
            open(clock, "w").write(str({5: 3 * 86400, 12: -3600, 20: 0}[i]))
            jumped = time.time()
    print(sorted(results) == list(range(30)), future.result(), round(pool.cost, 4))
    open(clock, "w").write(str(3 * 86400))
    began = time.monotonic()
    try:
        pool.run(sky.compute(timeout="500ms")(time.sleep)(30))
    except sky.TaskTimeout:
        print(time.monotonic() - began < 10)
"""


def test_a_clock_that_jumps_at_the_client_changes_nothing(
    sshd: SSHServer, wall_clock: WallClock, tmp_path: Path
) -> None:
    (tmp_path / "known_hosts").write_text(sshd.known_hosts_lines)
    (tmp_path / "client.py").write_text(CLIENT)
    host = f"{sshd.user}@{sshd.address}:{sshd.port}"
    words = [host, str(sshd.identity), str(tmp_path / "known_hosts"), str(wall_clock.file)]

    done = subprocess.run(
        [sys.executable, str(tmp_path / "client.py"), *words],
        env={**os.environ, **wall_clock.variables, "SKYWARD_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.stdout.split("\n") == ["True -1 0.0", "True", ""], done.stderr


# -- unlucky moments -----------------------------------------------------------------------------------------------


def test_a_worker_that_dies_right_after_its_answer_has_answered(local: Any, journal: Any) -> None:
    for i in range(8):
        outcome = local.call(note, str(journal.path), i, 0.0, 0.003 * (i + 1))
        assert outcome.result() == i
        time.sleep(0.05)

    assert journal.count("S") == dict.fromkeys(range(8), 1)
    assert local.call(abs, -1).result() == 1


def test_an_answer_that_was_sent_and_not_confirmed_counts_once(
    make_harness: Callable[..., Any], sshd: SSHServer, make_chaos: Callable[..., ChaosProxy], journal: Any
) -> None:
    """The line goes deaf on our side, the answers are sent, and then the connection breaks."""
    proxy = make_chaos(sshd)
    harness = make_harness()
    harness.add(proxy.endpoint(sshd.endpoint))
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.02)) for i in range(20)])
    while sink.left > 18:
        time.sleep(0.005)

    proxy.down.is_flowing = False
    time.sleep(0.5)
    assert len(journal.count("S")) > 20 - sink.left, "every answer was heard; the test shows nothing"
    proxy.cut()
    proxy.heal()

    assert [outcome.result() for outcome in sink.wait(30)] == list(range(20))
    assert journal.count("S") == dict.fromkeys(range(20), 1)


def test_ten_thousand_quick_tasks_while_workers_die(local: Any, tmp_path: Path) -> None:
    victims = {local.call(os.getpid).result() for _ in range(6)}
    sink, _ = local.start([Task(pow, (i, 2)) for i in range(10_000)])

    for pid in victims:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)

    assert [outcome.result() for outcome in sink.wait(60)] == [i * i for i in range(10_000)]


def test_a_killed_worker_is_back_within_a_second(local: Any) -> None:
    pids = {outcome.result() for outcome in local.map(_own_pid_slowly, range(4))}

    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    fresh = {outcome.result() for outcome in local.map(_own_pid_slowly, range(4))}

    assert time.monotonic() - began < 1.5, "half a second of that is work"
    assert not fresh & pids
    assert not any(psutil.pid_exists(pid) for pid in pids)


def _own_pid_slowly(i: int) -> int:
    time.sleep(0.25)
    return os.getpid()


def test_an_end_and_a_cancellation_at_the_same_moment_count_once(local: Any) -> None:
    for delay in range(20):
        sink, ticket = local.start([Task(time.sleep, (0.01,)) for _ in range(4)])
        time.sleep(delay / 1000)
        local.engine.cancel(ticket, running=delay % 2 == 0)
        assert {outcome.verdict for outcome in sink.wait(10)} <= {"succeeded", "cancelled"}
    time.sleep(0.2)

    assert local.call(abs, -1).result() == 1


def test_what_is_sent_at_the_moment_of_a_cancellation_is_cancelled_too(
    make_harness: Callable[..., Any], tmp_path: Path
) -> None:
    """The end of one task sends the next one, and tells the caller, who cancels: at once, from two threads."""
    harness = make_harness()
    harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))
    for _ in range(12):
        sink, ticket = harness.start([Task(time.sleep, (0.12,)) for _ in range(6)])
        while sink.left == 6:
            time.sleep(0.0005)
        harness.engine.cancel(ticket, running=True)

        verdicts = [outcome.verdict for outcome in sink.wait(10)]
        assert verdicts == ["succeeded", *["cancelled"] * 5]


def test_what_is_pinned_to_a_node_that_is_gone_for_good_is_lost_and_the_rest_keeps_its_place(
    make_harness: Callable[..., Any], make_sshd: Callable[..., SSHServer]
) -> None:
    harness, servers = make_harness(), [make_sshd(), make_sshd(), make_sshd()]
    for server in servers:
        harness.add(server.endpoint)
    hostnames = [
        harness.start([Task(socket.gethostname)], worker=rank)[0].wait()[0].result() for rank in range(3)
    ]
    sinks = [harness.start([Task(_slow_hostname)] * 3, worker=rank)[0] for rank in range(3)]

    servers[1].kill()
    harness.links[1].give_up("it is gone")
    time.sleep(0.5)
    assert not sinks[1].all[2], "another one might take its place"
    harness.engine.abandon(1)

    outcomes = [sink.wait(30) for sink in sinks]
    assert [outcome.result() for outcome in outcomes[0]] == [hostnames[0]] * 3
    assert [outcome.result() for outcome in outcomes[2]] == [hostnames[2]] * 3
    assert all(isinstance(outcome.error, TaskLost) for outcome in outcomes[1])
    assert harness.engine.workers == 2
    assert harness.start([Task(socket.gethostname)], worker=1)[0].wait()[0].result() == hostnames[2]


def _slow_hostname() -> str:
    time.sleep(1.0)
    return socket.gethostname()


# -- what only tasks can think of ----------------------------------------------------------------------------------


def test_a_result_of_a_class_that_is_not_here_names_its_module(local: Any) -> None:
    def give() -> Any:
        module = types.ModuleType("only_over_there")
        exec("class Model: pass", module.__dict__)
        sys.modules["only_over_there"] = module
        return module.Model()

    error = local.call(give).error

    assert isinstance(error, RemoteError)
    assert "only_over_there" in str(error)
    assert any("only_over_there" in hint for hint in error.hints)
    assert local.call(abs, -2).result() == 2


def test_a_very_long_chain_of_exceptions_is_an_error_of_bounded_length(local: Any) -> None:
    def chain() -> None:
        error: Exception = ValueError("the first")
        for number in range(10_000):
            later = ValueError(f"number {number}")
            later.__cause__ = error
            error = later
        raise error

    outcome = local.call(chain)

    assert "number 9999" in str(outcome.error)
    assert len(remote_traceback(outcome.error)) < 200_000  # type: ignore[arg-type]
    assert local.call(abs, -2).result() == 2


def test_a_task_that_never_lets_go_of_the_interpreter_is_ended_by_its_timeout(local: Any) -> None:
    def hold() -> None:
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the lock of the interpreter while C runs

    began = time.monotonic()

    assert isinstance(local.call(hold, timeout_s=0.5).error, TaskTimeout)
    assert time.monotonic() - began < 6
    assert local.call(abs, -2).result() == 2


@pytest.mark.parametrize(
    "piece", [b"x" * 4096, b"y\n", bytes(range(256)) * 16], ids=["one line", "lines", "binary"]
)
def test_output_without_end_stops_with_its_task_and_hinders_no_other(local: Any, piece: bytes) -> None:
    def flood() -> None:
        while True:
            os.write(1, piece)

    sink, _ = local.start([Task(flood, (), None, TaskOptions(timeout_s=1.5))])
    time.sleep(0.2)
    outcomes = local.map(abs, range(-200, 0), wait_s=10)

    assert [outcome.result() for outcome in outcomes] == list(range(200, 0, -1))
    assert isinstance(sink.wait(20)[0].error, TaskTimeout)
    assert len(local.printed()) < 6 << 20
    assert "more bytes are not shown" in local.printed()


# -- machines that are not ready to be entered ---------------------------------------------------------------------


def test_a_key_that_is_installed_late_is_waited_for_while_the_machine_boots(
    make_harness: Callable[..., Any], sshd: SSHServer
) -> None:
    key = sshd.identity.with_suffix(".pub").read_text().strip()
    sshd.authorize()
    timer = threading.Timer(1.5, sshd.authorize, [key])
    timer.start()
    harness = make_harness()

    harness.add(sshd.endpoint, is_booting=True)

    timer.join()
    assert harness.call(abs, -3).result() == 3


def test_a_key_that_is_never_installed_is_given_up_at_the_deadline(sshd: SSHServer) -> None:
    sshd.authorize()
    link = Link(sshd.endpoint, node=0, session="late", is_booting=True)
    began = time.monotonic()

    with pytest.raises(AuthenticationError):
        link.open(2.0)

    assert time.monotonic() - began < 5
    link.close()
