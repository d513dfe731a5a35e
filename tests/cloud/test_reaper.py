"""What becomes of machines when their client ends without a word, or in a hurry. The cloud's own bill decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import toycloud

import skyward as sky
from skyward.cloud import journal as journals
from skyward.cloud.account import Account
from skyward.cloud.client import Client
from skyward.cloud.journal import Journal
from skyward.cloud.reaper import Reaper, start

Accounts = Callable[[], dict[str, Account]]
Until = Callable[..., None]
Start = Callable[..., "subprocess.Popen[str]"]

PROGRAM = """
    import os, sys, time
    import skyward as sky
    import toycloud
    from skyward.testing.engines import ThreadEngine

    class Engine(ThreadEngine):
        name = "slow"
        def add_node(self, node):
            if os.environ.get("PHASE") == "bootstrap":
                print("bootstrap", flush=True)
                time.sleep(60)
            super().add_node(node)

    def nap(seconds):
        print("napping", flush=True)
        time.sleep(seconds)

    toy = toycloud.Toy(directory=os.environ["TOY"])
    pool = sky.ComputePool(provider=toy, engine=Engine, nodes=2, display="quiet")
    try:
        with pool:
            print("up", flush=True)
            exec(os.environ.get("BODY", "pool.run(sky.compute(nap)(60))"))
        print("down", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def start_client(toy: toycloud.Toy, empty_home: Path) -> Iterator[Start]:
    """A client of its own, in a process group of its own."""
    clients: list[subprocess.Popen[str]] = []

    def begin(**environ: str) -> subprocess.Popen[str]:
        here = str(Path(__file__).parent)
        variables = {
            **os.environ,
            "TOY": toy.directory,
            "SKYWARD_PLUGINS": "toycloud",
            "PYTHONPATH": here,
            **environ,
        }
        client = subprocess.Popen(
            [sys.executable, "-c", dedent(PROGRAM)],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        clients.append(client)
        return client

    yield begin
    for client in clients:
        client.kill()
        client.communicate()


def waits(client: subprocess.Popen[str], word: str) -> None:
    assert client.stdout
    for line in client.stdout:
        if word in line:
            return
    raise AssertionError(f"{word!r} never came: {client.communicate()[1]}")


PHASES: dict[str, Callable[[toycloud.Toy], None]] = {
    "launch in flight": lambda toy: toy.fault("launch", "slow", seconds=60),
    "answer on its way": lambda toy: toy.fault("launch", "late", seconds=60),
    "boot": lambda toy: toy.fault("launch", "boot", seconds=60),
    "bootstrap": lambda toy: None,
    "work": lambda toy: None,
    "idle": lambda toy: None,
    "teardown": lambda toy: toy.fault("terminate", "slow", seconds=60),
    "teardown that fails": lambda toy: toy.fault("terminate", "error", times=4),
}


def bring_to(phase: str, start_client: Start, toy: toycloud.Toy, until: Until) -> subprocess.Popen[str]:
    """A client in the midst of a phase."""
    PHASES[phase](toy)
    body = {"idle": "while True: time.sleep(0.05)", "teardown": "pass", "teardown that fails": "pass"}.get(
        phase, ""
    )
    client = start_client(PHASE=phase, **({"BODY": body} if body else {}))
    match phase:
        case "launch in flight":
            until(lambda: toy.count("launch"))
        case "answer on its way" | "boot":
            until(lambda: len(toy.running) == 2)
        case "bootstrap":
            waits(client, "bootstrap")
        case "work":
            waits(client, "napping")
        case "idle":
            waits(client, "up")
        case _:
            until(lambda: toy.count("terminate"))
    return client


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_is_killed_leaves_no_machine(
    phase: str, start_client: Start, toy: toycloud.Toy, until: Until
) -> None:
    client = bring_to(phase, start_client, toy, until)

    client.kill()
    client.wait()

    took = toy.await_empty(10)
    assert took < 10
    assert phase == "launch in flight" or len(toy.machines) == 2


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_client_that_is_asked_to_end_leaves_no_machine(
    phase: str, signum: signal.Signals, start_client: Start, toy: toycloud.Toy, until: Until
) -> None:
    client = bring_to(phase, start_client, toy, until)

    os.killpg(client.pid, signum)  # as a terminal does: the whole group hears it
    sent = time.monotonic()
    client.communicate(timeout=10)

    assert time.monotonic() - sent < 1.0
    toy.await_empty(10)


def test_a_second_ctrl_c_only_detaches(start_client: Start, toy: toycloud.Toy, until: Until) -> None:
    toy.fault("terminate", "slow", seconds=2)
    client = bring_to("work", start_client, toy, until)

    os.killpg(client.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(client.pid, signal.SIGINT)
    client.communicate(timeout=5)

    toy.await_empty(15)


def test_a_terminal_that_is_closed_ends_the_client_and_not_the_reaper(
    start_client: Start, toy: toycloud.Toy, until: Until
) -> None:
    client = bring_to("work", start_client, toy, until)

    os.killpg(client.pid, signal.SIGHUP)
    client.communicate(timeout=10)

    toy.await_empty(10)


def test_a_child_that_the_client_forked_does_not_keep_machines_alive(
    start_client: Start, toy: toycloud.Toy, until: Until
) -> None:
    body = "os.fork(); print('forked', flush=True); time.sleep(60)"
    client = start_client(BODY=body)
    waits(client, "forked")

    client.kill()

    toy.await_empty(10)
    os.killpg(client.pid, signal.SIGKILL)


def test_a_forked_child_ends_no_machine_of_its_parent(start_client: Start, toy: toycloud.Toy) -> None:
    body = (
        "child = os.fork()\n"
        "if child == 0:\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print('child is gone', flush=True)\n"
        "time.sleep(60)"
    )
    client = start_client(BODY=body)
    waits(client, "child is gone")

    time.sleep(0.3)
    assert len(toy.running) == 2
    client.kill()
    toy.await_empty(10)


def test_a_program_that_never_stops_its_pool_leaves_no_machine(
    start_client: Start, toy: toycloud.Toy
) -> None:
    client = start_client(BODY="os._exit(0)")
    client.communicate(timeout=20)

    toy.await_empty(10)


def test_a_reaper_that_dies_is_started_again(
    toy: toycloud.Toy, make_pool: Callable[..., sky.ComputePool], reapers: Any, empty_home: Path, until: Until
) -> None:
    with make_pool() as pool:
        (pid,) = reapers()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not reapers())
        fleet = pool._need().fleet
        fleet._acquisition.launch(toycloud.toy_offers()[0], 1)
        assert reapers()

    assert toy.running == []
    until(lambda: not reapers())


def test_the_reaper_goes_when_the_pool_has_ended_well(
    toy: toycloud.Toy, make_pool: Callable[..., sky.ComputePool], reapers: Any, empty_home: Path, until: Until
) -> None:
    with make_pool():
        assert len(reapers()) == 1

    until(lambda: not reapers(), 5)
    assert not list((empty_home / "skyward" / "state" / "pools").glob("pool-*"))


def test_no_reaper_no_launch(
    toy: toycloud.Toy, make_pool: Callable[..., sky.ComputePool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(sky.SkywardError, match="does not start") as caught:
        make_pool().start()

    assert caught.value.exit_code == 4
    assert toy.count("launch") == 0


def test_a_reaper_needs_its_credentials_again_and_again(
    start_client: Start, toy: toycloud.Toy, until: Until
) -> None:
    client = bring_to("work", start_client, toy, until)
    toy.fault("terminate", "credentials", times=3)
    toy.fault("instances", "credentials", times=2)

    client.kill()

    toy.await_empty(20)


def test_two_reapers_do_not_work_on_one_pool(tmp_path: Path, toy: toycloud.Toy) -> None:
    journal = Journal.of(tmp_path / "pools", "p")
    journal.intend(token="t", count=1, client=Client.current().plain(), provider="toy", region="r1")
    assert journal.path is not None
    pipe, one = start(journal.path)

    with pytest.raises(RuntimeError, match="somebody else finishes it"):
        start(journal.path)

    assert one.is_alive
    pipe.write(b"goodbye\n")
    pipe.close()


def test_a_reaper_is_small_and_sleeps(tmp_path: Path) -> None:
    import psutil

    journal = Journal.of(tmp_path / "pools", "p")
    journal.intend(token="t", count=1, client=Client.current().plain(), provider="toy", region="r1")
    assert journal.path is not None
    reaper = Reaper(journal.path)
    reaper.ensure()
    assert reaper._process is not None
    process: Any = psutil.Process(reaper._process.pid)

    assert process.memory_info().rss < 40 << 20
    assert process.cwd() == "/"
    assert os.getsid(process.pid) == process.ppid() or os.getsid(process.pid) != os.getsid(0)
    assert not any("boto" in one.path or "duckdb" in one.path for one in process.memory_maps())
    reaper.dismiss()


def test_closed_journals_are_left_alone(
    accounts: Accounts, make_pool: Callable[..., sky.ComputePool]
) -> None:
    with make_pool():
        pass

    assert accounts() == {}
    assert len(journals.paths(journals.directory() / journals.CLOSED)) == 1
