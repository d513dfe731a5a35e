"""The base class of engines: who schedules tasks on the nodes of a pool."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from skyward.model.event import Event
from skyward.model.outcome import Outcome
from skyward.model.report import TaskReport
from skyward.model.task import Task


class Sink(Protocol):
    """Where the outcomes of one group go. Called from connection threads; must be quick and never raise."""

    offset: int
    """Which task of all that were sent together is the first of this group: the `index` of events counts from there."""

    def done(self, index: int, outcome: Outcome) -> None:
        """Task `index` of the group is through. Called exactly once per task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContext:
    """What an engine may know of its pool.

    `emit` publishes an event. `wants` says whether anybody listens to a type of event, so that nobody
    builds a hundred thousand of them for no one. `should_retry` asks the plugins (None: no opinion).
    """

    emit: Callable[[Event], None]
    wants: Callable[[type[Event]], bool]
    should_retry: Callable[[TaskReport], bool | None]
    retries: int = 1
    """How often a lost task is run again."""
    concurrency: int = 1
    """Tasks at once per worker, as the pool was asked for."""
    timeout_s: float | None = None
    """Default of each task's wall seconds on the worker."""
    results: str = "any"
    """`any` unpickles whatever comes, `safe` only allow-listed types."""
    importable: Callable[[str], bool] | None = None
    """Whether the nodes can import a module of this name; what they cannot travels by value. None: all but `__main__`."""


class Engine(ABC):
    """Runs tasks on the nodes of one pool."""

    name: ClassVar[str]
    in_process: ClassVar[bool] = False
    """Whether tasks run in the client's own process: then nothing is connected or prepared, and nodes are
    `Instance` values instead of links."""

    def __init__(self, context: EngineContext) -> None:
        self.context = context

    @abstractmethod
    def add_node(self, node: Any) -> None:
        """A prepared node (`skyward.remote.link.Link`) joins; its slots are used at once."""

    @abstractmethod
    def submit(self, tasks: Sequence[Task], sink: Sink, *, worker: int | None = None) -> object:
        """Queues a group; its outcomes go to `sink` by index. Returns a ticket for `cancel`.

        `worker` is a rank and pins every task of the group to it (that is how `@` broadcasts). An argument
        that cannot travel fails that task alone, with a SerializationError in its outcome.
        """

    @abstractmethod
    def cancel(self, ticket: object, *, running: bool = False) -> None:
        """What has not started is reported as cancelled; with `running`, what runs is killed too."""

    def drain(self, node: Any) -> None:  # noqa: B027 - for engines whose nodes cannot be taken away
        """A node is about to go: it gets no new task, what it has not started moves, what runs there may end."""

    def abandon(self, node: int) -> None:  # noqa: B027 - for engines whose nodes cannot be taken away
        """No machine takes the place of a lost node any more: tasks that are pinned to its workers are lost."""

    def save_logs(
        self, directory: Path, *, room: int, deadline_s: float, redact: Callable[[str], str] = str
    ) -> list[Path]:
        """Writes all that the workers have printed to files in `directory`: at most `room` bytes, the last of each
        worker, with secrets taken out. Called before `stop`; gives the files. For engines that keep no logs: none."""
        return []

    @abstractmethod
    def stop(self) -> None:
        """Says farewell to every node: workers end, the agent removes its files. Idempotent, bounded."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Workers now, over all nodes (nodes x accelerator partitions)."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Tasks that can run at once."""
