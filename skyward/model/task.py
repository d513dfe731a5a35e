"""One call to make: a function, its arguments, and how hard to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """How hard to try. One value is shared by all calls of one decorated function."""

    name: str = ""
    """What reports call it; empty means the function's qualified name."""
    retries: int | None = None
    """How often a *failed* task (the user's code raised) is run again; None means never."""
    timeout_s: float | None = None
    """Wall seconds on the worker before the task is killed; None leaves it alone."""


DEFAULT_OPTIONS = TaskOptions()


class Task:
    """One call to make. Small and plain because a group may hold a million of them."""

    __slots__ = ("args", "fn", "kwargs", "options")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.options = options

    @property
    def name(self) -> str:
        return self.options.name or getattr(self.fn, "__qualname__", None) or repr(self.fn)
