"""Concurrent calls on the client that keep the active pool: what a new thread would otherwise not know.

def fold(index: int) -> float:
    return train(index) >> sky

with sky.ComputePool(nodes=4):
    scores = sky.conc.map_async(fold, range(10))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, TypeVar, overload

R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

__all__ = ["for_each_async", "map_async"]

MAX_THREADS = 32


@overload
def map_async(fn: Callable[[A], R], xs: Iterable[A], /, *, max_workers: int | None = None) -> list[R]: ...
@overload
def map_async(
    fn: Callable[[A, B], R], xs: Iterable[A], ys: Iterable[B], /, *, max_workers: int | None = None
) -> list[R]: ...
@overload
def map_async(
    fn: Callable[[A, B, C], R],
    xs: Iterable[A],
    ys: Iterable[B],
    zs: Iterable[C],
    /,
    *,
    max_workers: int | None = None,
) -> list[R]: ...
@overload
def map_async(
    fn: Callable[..., R], /, *iterables: Iterable[Any], max_workers: int | None = None
) -> list[R]: ...
def map_async(fn: Callable[..., R], /, *iterables: Iterable[Any], max_workers: int | None = None) -> list[R]:
    """Calls `fn` in threads, each with the active pool of the caller; results in the order of the arguments.

    The first exception is raised once the calls that run have ended; calls that have not begun are dropped.
    """
    with ThreadPoolExecutor(max_workers or MAX_THREADS, thread_name_prefix="skyward-conc") as executor:
        futures = [executor.submit(copy_context().run, fn, *row) for row in zip(*iterables, strict=False)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            return [future.result() for future in _failed_first(futures)]
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def for_each_async(
    fn: Callable[..., object], /, *iterables: Iterable[Any], max_workers: int | None = None
) -> None:
    """Like `map_async`, for what the calls do."""
    map_async(fn, *iterables, max_workers=max_workers)


def _failed_first(futures: list[Future[R]]) -> list[Future[R]]:
    """`futures`, unless one has failed: then that one alone, so that its exception is what is seen."""
    failed = next((future for future in futures if future.done() and future.exception() is not None), None)
    return futures if failed is None else [failed]
