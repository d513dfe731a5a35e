"""Where pending calls go: a pool, or `sky` itself, which means the active pool. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any

from skyward.errors import ArgumentError, UsageError

if TYPE_CHECKING:
    from skyward.api.compute import PendingCompute, _Group


class Target:
    """What can stand on the right of `>>` and `@`. A plain class: asking whether something is one is part of every call."""

    def run(self, pending: PendingCompute[Any], /) -> Any:
        """Runs one call on one worker, and gives what it returns."""
        raise NotImplementedError

    def broadcast(self, pending: PendingCompute[Any], /) -> tuple[Any, ...]:
        """Runs one call on every worker; results by rank."""
        raise NotImplementedError

    def gather(self, group: _Group, /) -> tuple[Any, ...]:
        """Runs a group; results in its order."""
        raise NotImplementedError

    def stream(self, group: _Group, /) -> Iterator[Any]:
        """Runs a group; results as they finish."""
        raise NotImplementedError


active: ContextVar[Target | None] = ContextVar("skyward_active_pool", default=None)
"""What `sky` means as a target: set by `with pool` and `@sky.pool`, carried into threads by `sky.conc`."""

started: list[Target] = []
"""Pools that were started by hand: notebooks run each cell in a context of its own."""


def resolve(target: object) -> Target:
    """The target a user means.

    Raises:
        UsageError: `sky` is meant and no pool is active here.
        ArgumentError: `target` is nothing that runs calls.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, ModuleType) and target is sys.modules.get("skyward"):
        return current()
    raise ArgumentError(
        f"cannot send a call to {target!r}: a target is a pool, or sky inside an active pool",
        hints=["with sky.ComputePool() as pool: f(1) >> pool"],
    )


def current() -> Target:
    """The active pool: of this context, else the only one that was started by hand."""
    pool = active.get()
    if pool is not None:
        return pool
    if len(started) == 1:
        return started[0]
    if started:
        raise UsageError(f"{len(started)} pools are started: say which one is meant", hints=["f(1) >> pool"])
    raise UsageError(
        "no pool is active here: `>> sky` needs one",
        facts=["a new thread has none, unless sky.conc or an executor carries it there"],
        hints=[
            "with sky.ComputePool() as pool: f(1) >> sky",
            "decorate the calling function with @sky.pool(...)",
            "inside a task, or without a pool: f.local(1)",
        ],
    )
