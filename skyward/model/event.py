"""Typed events: everything that happens, told in order. `sky.events` is this module.

Every event has `at`, seconds since the epoch, UTC, for display only; durations are measured on monotonic clocks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from skyward.model.instance import Instance
from skyward.model.report import RunReport, TaskReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events; subscribe to it to see everything."""

    at: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStarting(Event):
    pool: str
    nodes: int
    provider: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReady(Event):
    pool: str
    nodes: int
    slots: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStopped(Event):
    pool: str
    duration_s: float
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceLaunched(Event):
    instance: Instance
    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished(Event):
    """One named step of preparing an instance; `error` is None when it succeeded."""

    node: int
    step: str
    duration_s: float
    detail: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReady(Event):
    node: int
    instance: Instance
    slots: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSuspected(Event):
    """Nothing has been heard from a node for `silent_s` seconds.

    `reason` says why, where the connection broke and no other one could be made so far.
    """

    node: int
    silent_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReattached(Event):
    """The connection was replaced; nothing was run again."""

    node: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLost(Event):
    """A node is given up. Its unfinished tasks (`tasks` of them) move elsewhere."""

    node: int
    reason: str
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTerminated(Event):
    instance: Instance
    node: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStarted(Event):
    task: str
    index: int
    attempt: int
    node: int
    worker: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFinished(Event):
    """One attempt ended, however it ended; `final` says whether the task is through."""

    report: TaskReport
    final: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutput(Event):
    """What a task printed; `text` is whole lines where possible, control sequences removed.

    A task that prints very much is cut off: the last event then says so in words, and `dropped` in bytes.
    """

    task: str
    index: int
    node: int
    stream: str
    text: str
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStalled(Event):
    """The worker of a running task does nothing: for `idle_s` seconds it has neither computed nor printed anything.

    That may be right (it sleeps, it waits for somebody) or not (it hangs). `is_stopped`: a signal has stopped it.
    Told again each time the silence is twice as long.
    """

    task: str
    index: int
    node: int
    pid: int
    """Of the worker, on its node."""
    idle_s: float
    is_stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningRaised(Event):
    """Something the user should know that stops nothing."""

    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    run: str
    target: str
    tasks: int
    """How many are known; 0 where the target finds that out as it goes."""
    header: tuple[str, ...] = ()
    """Lines to show first: versions, configuration, what is going to be rented."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    report: RunReport
