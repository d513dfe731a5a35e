"""What happens to tasks when workers, agents, connections and machines break."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from skyward.errors import (
    BootstrapError,
    HostKeyError,
    HostUnreachable,
    TaskLost,
    TransportError,
)
from skyward.model.event import NodeLost, NodeReattached, NodeSuspected
from skyward.model.instance import Endpoint
from skyward.model.task import Task
from skyward.remote import wire
from skyward.remote.connection import Connection, Stream, connect
from skyward.remote.link import Link
from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer


def note(path: str, i: int, seconds: float) -> int:
    """Returns `i`; writes when it began and when it ended."""

    def mark(what: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.write(descriptor, f"{what} {i} {os.getpid()}\n".encode())
        os.close(descriptor)

    mark("S")
    time.sleep(seconds)
    mark("E")
    return i


@pytest.fixture
def chaotic(make_harness: Callable[..., Any], sshd: SSHServer) -> Iterator[tuple[Any, ChaosProxy]]:
    """One node behind a network that can be told to misbehave."""
    with ExitStack() as stack:
        proxy = stack.enter_context(ChaosProxy(sshd.address, sshd.port))
        harness = make_harness()
        harness.add(proxy.endpoint(sshd.endpoint), lost_s=3.0)
        yield harness, proxy
        harness.engine.stop()


def test_workers_killed_once_a_second_cost_no_result(local: Any, journal: Any) -> None:
    seed = 7
    chooser = random.Random(seed)
    sink, _ = local.start([Task(note, (str(journal.path), i, 0.02)) for i in range(300)])
    kills = 0
    while sink.left > 20 and kills < 10:
        time.sleep(0.4)
        running = [pid for what, task, pid in journal.read() if what == "S"]
        victims = [pid for pid in set(running[-4:]) if psutil.pid_exists(pid)]
        if victims:
            os.kill(chooser.choice(victims), signal.SIGKILL)
            kills += 1

    outcomes = sink.wait(60)

    assert [outcome.result() for outcome in outcomes] == list(range(300)), f"seed {seed}"
    starts, ends = journal.count("S"), journal.count("E")
    assert sum(starts.values()) - 300 <= kills
    assert max(ends.values()) <= 2
    assert sum(ends.values()) - 300 <= 1, (
        "finished work is not run again (but for a kill within the same instant)"
    )


@pytest.mark.parametrize("length", [10, 3000, 30_000])
def test_an_outcome_survives_its_worker_that_dies_while_nobody_listens(
    make_harness: Callable[..., Any], tmp_path: Path, length: int
) -> None:
    """Short ones are in the socket of the worker then, longer ones in its pipe."""
    harness = make_harness()
    harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))

    def stop_agent_and_die(place: str, n: int) -> bytes:
        agent = os.getppid()
        os.kill(agent, signal.SIGSTOP)
        Path(place).write_text(str(agent))
        threading.Timer(0.1, os._exit, (7,)).start()
        return b"x" * n

    sink, _ = harness.start([Task(stop_agent_and_die, (str(tmp_path / "agent"), length))])
    deadline = time.monotonic() + 10
    while not (tmp_path / "agent").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    os.kill(int((tmp_path / "agent").read_text()), signal.SIGCONT)

    (outcome,) = sink.wait(20)

    assert outcome.result() == b"x" * length
    assert outcome.attempt == harness.engine.executions == 1
    assert harness.call(abs, -2).result() == 2, "by the worker that took its place"


def test_a_connection_that_breaks_is_replaced_and_nothing_runs_again(chaotic: Any, journal: Any) -> None:
    harness, proxy = chaotic
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(20)])
    time.sleep(0.4)

    proxy.cut()
    outcomes = sink.wait(30)

    assert [outcome.result() for outcome in outcomes] == list(range(20))
    assert journal.count("S") == dict.fromkeys(range(20), 1)
    assert len(harness.of(NodeReattached)) == 1
    assert harness.of(NodeReattached)[0].duration_s < 5


def test_a_session_killed_on_the_machine_is_replaced(remote: Any, sshd_pair: Any, journal: Any) -> None:
    sink, _ = remote.start([Task(note, (str(journal.path), i, 0.1)) for i in range(30)])
    time.sleep(0.4)

    sshd_pair[0].kill("sessions")
    outcomes = sink.wait(30)

    assert [outcome.result() for outcome in outcomes] == list(range(30))
    assert set(journal.count("S").values()) == {1}


def test_the_listener_may_die_while_work_goes_on(remote: Any, sshd_pair: Any) -> None:
    sshd_pair[0].kill("listener")

    assert [outcome.result() for outcome in remote.map(abs, range(100))] == list(range(100))


def test_a_machine_that_dies_gives_its_tasks_to_the_others(
    make_harness: Any, sshd_pair: Any, journal: Any
) -> None:
    harness = make_harness()
    for server in sshd_pair:
        harness.add(server.endpoint, lost_s=2.0)
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(40)])
    time.sleep(0.5)
    began = time.monotonic()

    sshd_pair[1].kill()
    outcomes = sink.wait(30)

    assert [outcome.result() for outcome in outcomes] == list(range(40))
    assert max(journal.count("S").values()) <= 2
    assert max(journal.count("E").values()) == 1
    assert harness.of(NodeLost)[0].node == 1
    assert harness.of(NodeLost)[0].at - time.time() + time.monotonic() - began < 8
    assert [(told.node, told.reason != "") for told in harness.of(NodeSuspected)] == [(1, True)]
    assert harness.of(NodeSuspected)[0].at < harness.of(NodeLost)[0].at


def test_five_silent_seconds_cost_nothing(make_harness: Any, sshd: Any, journal: Any) -> None:
    harness = make_harness()
    harness.add(sshd.endpoint)
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(20)])
    time.sleep(0.4)

    sshd.freeze()
    time.sleep(5)
    sshd.thaw()
    outcomes = sink.wait(30)

    assert [outcome.result() for outcome in outcomes] == list(range(20))
    assert journal.count("S") == dict.fromkeys(range(20), 1)
    assert harness.of(NodeSuspected)
    assert not harness.of(NodeLost)


def test_a_frozen_machine_is_given_up_and_its_late_answers_are_ignored(
    make_harness: Any, sshd_pair: Any, journal: Any
) -> None:
    harness = make_harness()
    for server in sshd_pair:
        harness.add(server.endpoint, lost_s=4.0)
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(40)])
    time.sleep(0.5)

    sshd_pair[1].freeze()
    outcomes = sink.wait(30)
    sshd_pair[1].thaw()
    time.sleep(1.5)

    assert [outcome.result() for outcome in outcomes] == list(range(40))
    assert not sink.twice
    assert [event.node for event in harness.of(NodeLost)] == [1]
    assert [outcome.result() for outcome in harness.map(abs, range(10))] == list(range(10))


def test_a_partition_is_noticed_and_healed(chaotic: Any, journal: Any) -> None:
    harness, proxy = chaotic
    sink, _ = harness.start([Task(note, (str(journal.path), i, 0.1)) for i in range(30)])
    time.sleep(0.4)

    proxy.partition()
    time.sleep(4.5)
    assert harness.of(NodeLost)
    proxy.heal()
    outcomes = sink.wait(40)

    assert [outcome.result() for outcome in outcomes] == list(range(30))
    assert set(journal.count("S").values()) == {1}, "the only node keeps its tasks while it may come back"


def test_one_silent_direction_is_as_bad_as_two(chaotic: Any) -> None:
    harness, proxy = chaotic
    sink, _ = harness.start([Task(time.sleep, (0.2,)) for _ in range(10)])
    time.sleep(0.3)
    proxy.down.is_flowing = False
    time.sleep(4)

    assert harness.of(NodeLost)
    proxy.down.is_flowing = True
    assert all(outcome.succeeded for outcome in sink.wait(40))


def test_an_agent_that_dies_is_started_again(remote: Any, journal: Any) -> None:
    sink, _ = remote.start([Task(note, (str(journal.path), i, 0.2)) for i in range(16)])
    time.sleep(0.5)
    agents = _agents(remote.links[0])
    assert agents

    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    outcomes = sink.wait(40)

    assert [outcome.result() for outcome in outcomes] == list(range(16))
    assert max(journal.count("S").values()) <= 2


def test_what_an_agent_said_when_it_died_is_told(remote: Any) -> None:
    remote.map(abs, range(4))

    remote.links[0].send(
        wire.RECALL, {}
    )  # no client of ours sends that, and no agent knows what to do with it

    outcomes = remote.map(abs, range(-40, 0), wait_s=40)
    deadline = time.monotonic() + 20
    while not remote.of(NodeLost):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert remote.of(NodeLost)[0].reason == "the agent on it died: KeyError: 'count'"
    assert [outcome.result() for outcome in outcomes] == list(range(40, 0, -1))


def _agents(link: Link) -> list[int]:
    """The agents of a link: processes whose directory of open files names its run directory's log."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.readlink(f"/proc/{process.pid}/fd/2").endswith(
                f"{os.path.basename(link.probe.run_directory)}/agent.log"
            ):
                found.append(process.pid)
        except OSError:
            continue
    return [pid for pid in found if psutil.Process(pid).ppid() not in found]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("what", ["cut_at", "corrupt_at"])
def test_no_cut_and_no_flipped_bit_ever_gives_a_wrong_value(chaotic: Any, direction: str, what: str) -> None:
    harness, proxy = chaotic
    lane = getattr(proxy, direction)
    chooser = random.Random(11)
    for round_number in range(8):
        setattr(lane, what, chooser.randrange(50, 4000))
        if what == "corrupt_at" or round_number == 0:
            proxy.cut()  # offsets count from the start of a connection
        values = [os.urandom(chooser.randrange(1, 3000)) for _ in range(30)]

        outcomes = harness.map(bytes, values, wait_s=40)

        assert [outcome.result() for outcome in outcomes] == values
        setattr(lane, what, None)


def test_a_long_value_survives_a_cut_in_its_middle(chaotic: Any) -> None:
    harness, proxy = chaotic
    for pause_s in (0.05, 0.08, 0.11, 0.05):
        data = os.urandom(8 << 20)
        sink, _ = harness.start([Task(bytes, (data,)), Task(len, (data,))])
        time.sleep(pause_s)
        proxy.cut()
        same, length = sink.wait(40)

        assert same.result() == data
        assert length.result() == len(data)

    sink, _ = harness.start([Task(os.urandom, (12 << 20,))])
    time.sleep(0.12)
    proxy.cut()
    assert len(sink.wait(40)[0].result()) == 12 << 20


def test_a_slow_and_lossy_line_gives_the_right_values(chaotic: Any) -> None:
    harness, proxy = chaotic
    for lane in (proxy.up, proxy.down):
        lane.delay_s, lane.jitter_s = 0.05, 0.05

    outcomes = harness.map(pow, range(2000), [2] * 2000)

    assert [outcome.result() for outcome in outcomes] == [x * x for x in range(2000)]


def test_a_host_that_is_down_is_told_at_once(make_harness: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    began = time.monotonic()

    with pytest.raises(HostUnreachable):
        Link(Endpoint(host="127.0.0.1", port=port, user="nobody"), node=0, session="x").open(30)

    assert time.monotonic() - began < 5


def test_a_host_that_never_answers_is_bounded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(
            host="127.0.0.1", port=silent.getsockname()[1], user="nobody", connect_timeout_s=0.5
        )
        began = time.monotonic()
        with pytest.raises(TransportError):
            Link(endpoint, node=0, session="x").open(2)
        assert time.monotonic() - began < 5


def test_a_machine_that_boots_late_is_waited_for(make_harness: Any, sshd: SSHServer) -> None:
    sshd.kill("listener")
    timer = threading.Timer(1.5, sshd.restart)
    timer.start()
    harness = make_harness()

    harness.add(sshd.endpoint, is_booting=True)

    timer.join()
    assert harness.call(abs, -3).result() == 3


def test_a_machine_with_another_key_gets_nothing(make_harness: Any, sshd_pair: Any) -> None:
    import dataclasses

    endpoint = dataclasses.replace(sshd_pair[0].endpoint, host_keys=sshd_pair[1].host_keys)

    with pytest.raises(HostKeyError):
        make_harness().add(endpoint)


class WithQuickEnds:
    """A connection whose commands have ended, if they do so by themselves, before anybody writes to them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.close = connection.close

    def open(self, command: str) -> Stream:
        stream = self._connection.open(command)
        assert stream.exit_status(10) is not None
        return stream


@pytest.mark.parametrize("has_ended", [False, True])
@pytest.mark.parametrize("kind", ["ssh", "local"])
def test_a_machine_without_python_is_named(sshd: SSHServer, kind: str, has_ended: bool) -> None:
    def reach(endpoint: Endpoint, **how: Any) -> Any:
        connection = connect(endpoint, **how)
        return WithQuickEnds(connection) if has_ended else connection

    link = Link(
        sshd.endpoint if kind == "ssh" else Endpoint(kind="local"), node=0, session="x", connect=reach,
        command=lambda _: "exec sh -c 'echo \"skyward: no python3 on this machine\" >&2; exit 127'",
    )  # fmt: skip

    with pytest.raises(BootstrapError, match="no python3"):
        link.open(10)


def test_a_python_that_cannot_run_workers_is_named(make_harness: Any, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'broken python' >&2\nexit 3\n")
    broken.chmod(0o755)

    with pytest.raises(BootstrapError, match="broken python"):
        make_harness().add(Endpoint(kind="local", directory=str(tmp_path / "sky")), python=str(broken))


def test_when_the_last_node_is_gone_every_task_says_so(make_harness: Any, sshd: SSHServer) -> None:
    harness = make_harness()
    harness.add(sshd.endpoint, lost_s=1.0, linger_s=3.0)
    sink, _ = harness.start([Task(time.sleep, (30,)) for _ in range(4)])
    time.sleep(0.4)

    sshd.kill()
    outcomes = sink.wait(30)

    assert all(isinstance(outcome.error, TaskLost) for outcome in outcomes)
    assert "node 0" in str(outcomes[0].error) or "no node is left" in str(outcomes[0].error)


def test_a_client_that_vanishes_leaves_nothing_behind(sshd: SSHServer, tmp_path: Path) -> None:
    """The agent ends its workers and itself when nobody has come back for `linger_s`."""
    link = Link(sshd.endpoint, node=0, session=f"gone-{os.getpid()}", linger_s=1.0)
    link.open(10)
    run_directory = link.probe.run_directory
    link.is_closed = True
    link._line.hang_up()  # as if this process had been killed
    time.sleep(3)

    assert not [process for process in psutil.process_iter() if run_directory in _errors_of(process)]


def _errors_of(process: Any) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/fd/2")
    except OSError:
        return ""
