"""The tasks of one `submit`, and each of them with where it is. Imports nothing of this room."""

from __future__ import annotations

from skyward.contracts.engine import Sink
from skyward.errors import SerializationError
from skyward.model.task import Task
from skyward.remote.codec import Blob, Identities
from skyward.remote.link import Link


class Group:
    """The tasks of one `submit`, and what has been learned of them."""

    __slots__ = (
        "functions",
        "identities",
        "is_alone",
        "is_cancelled",
        "is_killed",
        "mean_s",
        "place",
        "sink",
    )

    def __init__(self, sink: Sink, place: tuple[int, int] | None, *, is_alone: bool = False) -> None:
        self.sink = sink
        self.is_alone = is_alone
        """Whether it is one task: how long that takes tells nothing about others."""
        self.place = place
        """Number of the node, and which of its workers, that runs all of it; None is any."""
        self.mean_s: float | None = None
        self.is_cancelled = self.is_killed = False
        self.functions: dict[int, Blob | SerializationError] = {}
        self.identities: Identities | None = None

    def learn(self, total_s: float, count: float) -> None:
        """So many tasks have taken so long."""
        mean, weight = total_s / count, min(0.5, 0.1 * count)
        self.mean_s = mean if self.mean_s is None else (1 - weight) * self.mean_s + weight * mean


class Entry:
    """One task and where it is. `wire_id` is new for every attempt, so that late answers to old ones find nobody."""

    __slots__ = (
        "attempt",
        "avoid",
        "blobs",
        "chunk",
        "failures",
        "group",
        "index",
        "link",
        "sent_at",
        "task",
        "wire_id",
    )

    def __init__(self, task: Task, group: Group, index: int) -> None:
        self.task = task
        self.group = group
        self.index = index
        self.attempt = 1
        self.failures = 0
        self.wire_id = 0
        self.chunk = 0
        self.link: Link | None = None
        self.avoid: Link | None = None
        self.blobs: tuple[Blob, ...] = ()
        self.sent_at = 0.0

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def number(self) -> int:
        """Its index among all that were sent together, as events tell it."""
        return self.group.sink.offset + self.index
