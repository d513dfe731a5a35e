"""What workers print, chosen on the worker. Standard library only: it runs on instances.

@sky.compute
@sky.stdout(only="head")
def train(): ...

with sky.silent:
    load()
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar, overload

from skyward.api.instance import InstanceInfo, instance_info
from skyward.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])
Only = str | int | Iterable[int] | Callable[[InstanceInfo], bool] | Callable[[], bool]
"""`"head"`, a rank, several ranks, or a function of the place (or of nothing) that says yes."""


def is_head() -> bool:
    """Whether this is the first worker of the pool; true outside of tasks."""
    info = instance_info()
    return info is None or info.is_head


class Output:
    """Lets the chosen workers print to some streams, and throws away what others print there.

    A decorator and a context manager, also around C code and child processes, because the descriptors themselves
    are redirected.
    """

    def __init__(self, streams: tuple[str, ...], only: Only | None) -> None:
        self._streams = streams
        self._only = only
        self._open: list[ExitStack] = []

    def __call__(self, fn: F, /) -> F:
        from skyward.api.compute import Compute

        if isinstance(fn, Compute):
            return Compute(self(fn.__wrapped__), fn._options)  # type: ignore[return-value]
        if not callable(fn):
            raise ArgumentError(f"output control decorates functions, not {fn!r}")

        @functools.wraps(fn)
        def quieted(*args: Any, **kwargs: Any) -> Any:
            with self:
                return fn(*args, **kwargs)

        return quieted  # type: ignore[return-value]

    def __enter__(self) -> None:
        with ExitStack() as stack:
            if not self._is_chosen():
                for name in self._streams:
                    _mute(stack, name)
            self._open.append(stack.pop_all())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.pop().close()

    def _is_chosen(self) -> bool:
        if self._only is None:
            return False
        info = instance_info()
        return info is None or _matches(self._only, info)


class _Silent(Output):
    """`sky.silent`: nobody prints. Works bare and called."""

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, /) -> Output: ...
    def __call__(self, fn: Any = None, /) -> Any:
        return _Silent(self._streams, None) if fn is None else super().__call__(fn)


def stdout(*, only: Only) -> Output:
    """Only the chosen workers print to standard output."""
    return Output(("stdout",), _checked(only))


def stderr(*, only: Only) -> Output:
    """Only the chosen workers print to standard error."""
    return Output(("stderr",), _checked(only))


silent = _Silent(("stdout", "stderr"), None)


def _checked(only: Any) -> Only:
    if isinstance(only, str) and only != "head":
        raise ArgumentError(
            f"only takes 'head', ranks or a function, not {only!r}", hints=['only="head"', "only=0"]
        )
    if isinstance(only, bool) or not (isinstance(only, str | int | Iterable) or callable(only)):
        raise ArgumentError(
            f"only takes 'head', ranks or a function, not {only!r}", hints=['only="head"', "only=0"]
        )
    chosen: Only = tuple(only) if isinstance(only, Iterable) and not isinstance(only, str) else only
    return chosen


def _matches(only: Any, info: InstanceInfo) -> bool:
    if only == "head":
        return info.is_head
    if isinstance(only, int):
        return info.rank == only
    if isinstance(only, tuple):
        return info.rank in only
    return bool(only() if _takes_nothing(only) else only(info))


def _takes_nothing(function: Callable[..., Any]) -> bool:
    import inspect

    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _mute(stack: ExitStack, name: str) -> None:
    """Sends one standard stream nowhere until `stack` ends: Python's object, and the descriptor below it."""
    stream, number = getattr(sys, name), {"stdout": 1, "stderr": 2}[name]
    if stream is not None:
        stream.flush()
    nowhere = stack.enter_context(open(os.devnull, "w"))  # noqa: SIM115 - the stack closes it
    setattr(sys, name, nowhere)
    stack.callback(setattr, sys, name, stream)
    try:
        before = os.dup(number)
    except OSError:  # it is closed: there is nothing to redirect
        return
    os.dup2(nowhere.fileno(), number)
    stack.callback(os.close, before)
    stack.callback(os.dup2, before, number)
