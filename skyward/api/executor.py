"""A pool as a `concurrent.futures.Executor`, for code that already speaks that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future, wait
from itertools import chain, islice
from typing import Any, ParamSpec, Self, TypeVar, Unpack
from weakref import WeakSet

from skyward.api import target
from skyward.api.flight import Sequel
from skyward.api.pool import ComputePool, PoolArguments, _deactivate, call, calls
from skyward.errors import ArgumentError
from skyward.model.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class Executor(StandardExecutor):
    """Runs functions on a pool. Takes the arguments of ComputePool; the machines are rented at the first use.

    `map` is eager and its results come in order, each as soon as it is there; `shutdown` waits for what was
    submitted and ends the machines.
    """

    def __init__(self, provider: object = None, **options: Unpack[PoolArguments]) -> None:
        self.pool = ComputePool(provider, **options)
        self._lock = threading.Lock()
        self._is_shut = False
        self._futures: WeakSet[Future[Any]] = WeakSet()
        self._maps: list[Sequel] = []
        self._tokens: list[Any] = []

    def __enter__(self) -> Self:
        self._start()
        self._tokens.append(target.active.set(self.pool))
        return self

    def __exit__(self, *error: object) -> None:
        _deactivate(self._tokens.pop())
        self.shutdown()

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Sends `fn(*args, **kwargs)`; fn is plain, partial or `@sky.compute`."""
        self._start()
        future = self.pool._need().submit(call(fn, args, kwargs))
        self._futures.add(future)
        return future

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Sends every call now; the iterator gives results in order and raises the first failure at its place.

        `chunksize` makes one task of so many calls; small tasks share a frame anyway, so it only matters for
        calls of a few microseconds. `buffersize` is accepted and means nothing: results are kept here.

        Raises:
            TimeoutError: from the iterator, when the next result is not there `timeout` seconds after the call.
        """
        if chunksize < 1:
            raise ArgumentError(f"map takes a chunksize from 1, not {chunksize!r}")
        self._start()
        rows = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._send(list(calls(fn, rows)), timeout)
        tasks = [Task(_run_rows, (fn, chunk)) for chunk in _chunks(rows, chunksize)]
        return chain.from_iterable(self._send(tasks, timeout))

    def _send(self, tasks: list[Task], timeout_s: float | None) -> Iterator[Any]:
        flight = self.pool._need().sequel(tasks, timeout_s)
        self._maps = [one for one in self._maps if one.unfinished]
        self._maps.append(flight)
        return flight.results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more work, and ends the machines when what was submitted is through.

        With `wait=False` that happens in the background; the process stays alive until then.
        """
        with self._lock:
            self._is_shut = True
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
            for flight in self._maps:
                flight.cancel()
        if wait:
            self._finish()
        else:
            threading.Thread(target=self._finish, name="skyward-shutdown").start()

    def _finish(self) -> None:
        wait(list(self._futures))
        for flight in self._maps:
            flight.wait()
        self.pool.stop()

    def _start(self) -> None:
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
        self.pool._bring_up()

    @property
    def _max_workers(self) -> int:
        """What libraries that tune themselves to an executor ask for."""
        return max(1, self.pool.total_slots)


def _run_rows(fn: Callable[..., R], rows: list[tuple[Any, ...]]) -> list[R]:
    """Many calls as one task; runs on the worker."""
    function = getattr(fn, "__wrapped__", fn) if getattr(fn, "__skyward_compute__", False) else fn
    return [function(*row) for row in rows]


def _chunks(rows: Iterable[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
