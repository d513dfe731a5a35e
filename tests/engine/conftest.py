"""Nodes, an engine on them, and tasks that keep a journal of their own."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skyward.contracts.engine import EngineContext
from skyward.model.event import Event
from skyward.model.instance import Endpoint
from skyward.model.outcome import Outcome
from skyward.model.task import Task, TaskOptions
from skyward.remote.link import Link, WorkerSettings
from skyward.scheduler.engine import SSHEngine
from skyward.testing.sshd import SSHServer


class Outcomes:
    """A sink that counts: a second outcome for one task is a failure of the engine."""

    offset = 0

    def __init__(self, size: int) -> None:
        self.all: list[Outcome | None] = [None] * size
        self.left = size
        self.twice: list[int] = []
        self._done = threading.Event()
        self._lock = threading.Lock()

    def done(self, index: int, outcome: Outcome) -> None:
        with self._lock:
            if self.all[index] is not None:
                self.twice.append(index)
                return
            self.all[index] = outcome
            self.left -= 1
            if self.left == 0:
                self._done.set()

    def wait(self, timeout_s: float = 60) -> list[Outcome]:
        assert self._done.wait(timeout_s), f"{self.left} of {len(self.all)} tasks have no outcome"
        assert not self.twice
        return self.all  # type: ignore[return-value]


class Harness:
    """An engine on real nodes."""

    def __init__(self, **context: Any) -> None:
        self.events: list[Event] = []
        given: dict[str, Any] = {
            "emit": self.events.append,
            "wants": lambda kind: True,
            "should_retry": lambda report: None,
            "importable": lambda name: not name.startswith("test_"),
        }
        self.engine = SSHEngine(EngineContext(**{**given, **context}))
        self.links: list[Link] = []

    def add(self, endpoint: Endpoint, *, python: str = sys.executable, **how: Any) -> Link:
        settings = {
            name: how.pop(name)
            for name in ("concurrency", "workers", "env", "result_cap", "cwd")
            if name in how
        }
        link = Link(
            endpoint, node=len(self.links), session=f"test-{os.getpid()}-{time.monotonic_ns()}", **how
        )
        self.links.append(link)
        link.open(30)
        link.configure(WorkerSettings(python=python, sys_path=tuple(sys.path), **settings))
        self.engine.add_node(link)
        return link

    def start(self, tasks: Sequence[Task], **how: Any) -> tuple[Outcomes, object]:
        sink = Outcomes(len(tasks))
        return sink, self.engine.submit(tasks, sink, **how)

    def map(
        self, fn: Callable[..., Any], *columns: Sequence[Any], wait_s: float = 60, **options: Any
    ) -> list[Outcome]:
        given = TaskOptions(**options)
        return self.start([Task(fn, row, None, given) for row in zip(*columns, strict=True)])[0].wait(wait_s)

    def call(self, fn: Callable[..., Any], *args: Any, wait_s: float = 60, **options: Any) -> Outcome:
        return self.start([Task(fn, args, None, TaskOptions(**options))])[0].wait(wait_s)[0]

    def stop(self) -> None:
        self.engine.stop()
        for link in self.links:
            link.close()

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def printed(self) -> str:
        from skyward.model.event import TaskOutput

        return "".join(event.text for event in self.of(TaskOutput))


class Journal:
    """A file to which tasks append when they begin and end, so that executions are counted from outside."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[str, int, int]]:
        if not self.path.exists():
            return []
        return [
            (what, int(task), int(pid))
            for what, task, pid in (line.split() for line in self.path.read_text().splitlines())
        ]

    def count(self, what: str) -> dict[int, int]:
        counts: dict[int, int] = {}
        for kind, task, _ in self.read():
            if kind == what:
                counts[task] = counts.get(task, 0) + 1
        return counts


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    tmp_path.chmod(0o777)
    return Journal(tmp_path / "journal")


@pytest.fixture
def make_harness() -> Iterator[Callable[..., Harness]]:
    with ExitStack() as stack:

        def make(**context: Any) -> Harness:
            harness = Harness(**context)
            stack.callback(harness.stop)
            return harness

        yield make


@pytest.fixture
def local(make_harness: Callable[..., Harness], tmp_path: Path) -> Harness:
    """Two nodes on this machine, without SSH."""
    harness = make_harness()
    for _ in range(2):
        harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))
    return harness


@pytest.fixture
def remote(make_harness: Callable[..., Harness], sshd_pair: tuple[SSHServer, SSHServer]) -> Harness:
    """Two nodes behind real SSH."""
    harness = make_harness()
    for server in sshd_pair:
        harness.add(server.endpoint)
    return harness
