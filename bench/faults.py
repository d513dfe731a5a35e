"""The same faults for Skyward and its peers, in one run: what arrives, what is run again, how long it takes.

    python bench/faults.py [kill] [odd]

`kill`: 800 tasks of 50 ms on 4 processes, of which a random one is killed every second, ten times. `odd`: one task that misbehaves
among 60 that do not, then 20 more. Every task appends to a file when it begins, so executions are counted from
outside. Peers besides `concurrent.futures` run where the environment of BENCH_PYTHON has them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WORKERS, TASKS, NAP_S = 4, 800, 0.05
KILLS = 10
PATIENCE_S = 60.0
HERE = Path(__file__).resolve()


class Stubborn(Exception):
    """Cannot be made again from what it holds, so it cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(str(one))


def nap(index: int, journal: str) -> int:
    _note(journal, index)
    time.sleep(NAP_S)
    return index


def odd(index: int, journal: str, how: str) -> int:
    _note(journal, index)
    if index == 30:
        {
            "os._exit(1)": lambda: os._exit(1),
            "SIGSEGV": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "sys.exit(3)": lambda: sys.exit(3),
            "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
            "stubborn exception": lambda: _raise(Stubborn(1, 2)),
        }[how]()
    time.sleep(0.01)
    return index


def _raise(error: BaseException) -> None:
    raise error


def _note(journal: str, index: int) -> None:
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{index} {os.getpid()}\n".encode())
    os.close(file)


# -- systems: how a call is sent, how its result is had, and how to wait for many ------------------------------------------


class System:
    """Functions of one system, by the names `concurrent.futures` has for them."""

    def __init__(self, submit: Callable[..., Any], wait: Callable[[list[Any], float], object]) -> None:
        self.submit = submit
        self.wait = wait


def _wait(futures: list[Any], timeout: float) -> object:
    from concurrent.futures import wait

    return wait(futures, timeout)


@contextmanager
def skyward() -> Iterator[System]:
    import skyward as sky

    with sky.ComputePool(concurrency=WORKERS, display="quiet") as pool:
        yield System(pool.submit, _wait)


@contextmanager
def processes() -> Iterator[System]:
    from concurrent.futures import ProcessPoolExecutor

    executor = ProcessPoolExecutor(WORKERS)
    try:
        yield System(executor.submit, _wait)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def dask() -> Iterator[System]:
    from distributed import Client, LocalCluster, wait

    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield System(lambda fn, *args: client.submit(fn, *args, pure=False), wait)


@contextmanager
def ray() -> Iterator[System]:
    import ray as peer

    peer.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")

    class Future:
        def __init__(self, reference: Any) -> None:
            self.reference = reference

        def result(self, timeout: float) -> Any:
            return peer.get(self.reference, timeout=timeout)

    remote: dict[Any, Any] = {}
    try:
        yield System(
            lambda fn, *args: Future(remote.setdefault(fn, peer.remote(fn)).remote(*args)),
            lambda futures, timeout: peer.wait(
                [one.reference for one in futures], num_returns=len(futures), timeout=timeout
            ),
        )
    finally:
        peer.shutdown()


SYSTEMS = {"skyward": skyward, "concurrent.futures": processes, "dask": dask, "ray": ray}


# -- the two runs ---------------------------------------------------------------------------------------------------


def kill(system: str) -> dict[str, Any]:
    """`kills`, `results`, `again` (executions beyond one) and `seconds` of a run whose workers are killed."""
    with tempfile.TemporaryDirectory() as directory, SYSTEMS[system]() as peer:
        journal = f"{directory}/journal"
        [peer.submit(nap, -1, journal) for _ in range(WORKERS)][-1].result(PATIENCE_S)
        killer = _Killer(journal)
        began = time.monotonic()
        futures = []
        with suppress(Exception):  # a pool that broke takes no more
            futures = [peer.submit(nap, index, journal) for index in range(TASKS)]
        killer.start()
        results = _collect(peer, futures)
        seconds = time.monotonic() - began
        killer.stop()
        counts = _executions(journal)
        return {
            "kills": killer.kills,
            "results": len(results),
            "of": TASKS,
            "again": sum(count - 1 for index, count in counts.items() if index >= 0),
            "wrong": sum(index != value for index, value in results.items()),
            "seconds": round(seconds, 2),
        }


def odd_one(system: str, how: str) -> dict[str, Any]:
    """`executions` of the task that misbehaves, good ones `lost`, good ones run `again`, and whether 20 more run."""
    with tempfile.TemporaryDirectory() as directory, SYSTEMS[system]() as peer:
        journal = f"{directory}/journal"
        futures = []
        with suppress(Exception):
            futures = [peer.submit(odd, index, journal, how) for index in range(61)]
        began = time.monotonic()
        good = _collect(peer, futures, but=30)
        said = _said(futures)
        seconds = time.monotonic() - began
        counts = _executions(journal)
        more: dict[int, Any] = {}
        with suppress(Exception):
            more = _collect(peer, [peer.submit(odd, index, journal, how) for index in range(100, 120)])
        again = sum(count - 1 for index, count in counts.items() if index not in (30, -1))
        return {
            "executions": counts[30],
            "lost": 60 - len(good),
            "again": again,
            "then": len(more),
            "said": said,
            "seconds": round(seconds, 2),
        }


def _said(futures: list[Any]) -> str:
    try:
        futures[30].result(PATIENCE_S)
    except BaseException as error:
        return type(error).__name__
    return "nothing"


def _collect(peer: System, futures: list[Any], but: int = -1) -> dict[int, Any]:
    """What has come when all are through, or patience is over."""
    found = {}
    with suppress(Exception):
        peer.wait(futures, PATIENCE_S)
    for index, future in enumerate(futures):
        if index != but:
            with suppress(BaseException):
                found[index] = future.result(1.0)
    return found


def _executions(journal: str) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in Path(journal).read_text().splitlines())


class _Killer(threading.Thread):
    """Kills one of the last four processes that began a task, every second, ten times at most."""

    def __init__(self, journal: str) -> None:
        super().__init__(daemon=True)
        self.kills = 0
        self._journal = journal
        self._over = threading.Event()
        self._random = random.Random(7)

    def run(self) -> None:
        while self.kills < KILLS and not self._over.wait(1.0):
            lines = Path(self._journal).read_text().splitlines()
            living = list(dict.fromkeys(int(line.split()[1]) for line in reversed(lines[-40:])))[:WORKERS]
            with suppress(ProcessLookupError):
                os.kill(self._random.choice(living), signal.SIGKILL)
                self.kills += 1

    def stop(self) -> None:
        self._over.set()
        self.join()


# -- all of them ----------------------------------------------------------------------------------------------------

ODD = ("os._exit(1)", "SIGSEGV", "sys.exit(3)", "KeyboardInterrupt", "stubborn exception")


def run(system: str, what: str, *how: str) -> dict[str, Any]:
    """One run in a process of its own: some systems take their client with them."""
    python = sys.executable
    if system in ("dask", "ray"):
        python = os.environ.get("BENCH_PYTHON", "")
        if not python:
            return {}
    done = subprocess.run(
        [python, str(HERE), "--one", system, what, *how], capture_output=True, text=True, timeout=600
    )
    try:
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": (done.stderr.splitlines() or ["?"])[-1][:120]}
    return told


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        system, what, *how = sys.argv[2:]
        print(json.dumps(kill(system) if what == "kill" else odd_one(system, *how)))
        sys.stdout.flush()
        os._exit(0)  # whatever the peer left behind must not keep us
    wanted = sys.argv[1:] or ["kill", "odd"]
    for system in SYSTEMS:
        for what in wanted:
            for how in ODD if what == "odd" else ("",):
                if told := run(system, what, *filter(None, [how])):
                    words = "  ".join(f"{key} {value}" for key, value in told.items())
                    print(f"{what:5s} {system:20s} {how:20s} {words}", flush=True)


if __name__ == "__main__":
    main()
