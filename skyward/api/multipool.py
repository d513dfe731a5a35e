"""Several pools that are there at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, NoReturn

from skyward.api import target
from skyward.api.pool import ComputePool, _deactivate
from skyward.errors import ArgumentError, CleanupError, UsageError


class MultiPool(target.Target):
    """Enters all its pools at once, so that waiting takes as long as the slowest, not the sum.

        with sky.MultiPool(cheap, fast) as (cheap, fast):
            preprocess() >> cheap

    If one cannot be had, every other one is ended and its error is raised. Inside, `sky` means none of them.
    """

    def __init__(self, *pools: ComputePool) -> None:
        if not pools or not all(isinstance(pool, ComputePool) for pool in pools):
            raise ArgumentError(
                f"MultiPool takes pools, not {pools!r}", hints=["sky.MultiPool(pool_a, pool_b)"]
            )
        if len({id(pool) for pool in pools}) < len(pools):
            raise ArgumentError("MultiPool was given one pool twice")
        self.pools = pools
        self._tokens: list[Any] = []

    def __enter__(self) -> tuple[ComputePool, ...]:
        try:
            _all_at_once([pool._bring_up for pool in self.pools])
        except BaseException as error:
            self._end(error)
            raise
        self._tokens.append(target.active.set(self))
        return self.pools

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _deactivate(self._tokens.pop())
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Ends every pool, whatever the others do; an error in flight is kept."""
        try:
            _all_at_once([pool.stop for pool in self.pools], to_the_end=True)
        except CleanupError as problem:
            if error is None:
                raise
            error.add_note(f"clean-up is incomplete: {problem}")

    def __iter__(self) -> Iterator[ComputePool]:
        return iter(self.pools)

    def __getitem__(self, index: int) -> ComputePool:
        return self.pools[index]

    def __len__(self) -> int:
        return len(self.pools)

    def _refuse(self) -> NoReturn:
        raise UsageError(
            f"{len(self.pools)} pools are active: say which one is meant",
            hints=["with sky.MultiPool(a, b) as (a, b): f(1) >> a"],
        )

    def run(self, pending: object, /) -> NoReturn:
        self._refuse()

    def broadcast(self, pending: object, /) -> NoReturn:
        self._refuse()

    def gather(self, group: object, /) -> NoReturn:
        self._refuse()

    def stream(self, group: object, /) -> NoReturn:
        self._refuse()


def _all_at_once(calls: list[Callable[[], Any]], *, to_the_end: bool = False) -> None:
    """Makes every call in a thread of its own and raises the first error: at once, or when all have ended."""
    executor = ThreadPoolExecutor(len(calls), thread_name_prefix="skyward-pools")
    try:
        futures: list[Future[Any]] = [executor.submit(call) for call in calls]
        done, _ = wait(futures, return_when="ALL_COMPLETED" if to_the_end else FIRST_EXCEPTION)
        for future in futures:
            if future in done:
                future.result()
    finally:
        executor.shutdown(wait=to_the_end)
