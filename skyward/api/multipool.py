"""Several pools that are there at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        with ThreadPoolExecutor(len(self.pools), thread_name_prefix="skyward-pools") as executor:
            try:
                starts = [executor.submit(pool._bring_up) for pool in self.pools]
                _first_error(wait(starts, return_when=FIRST_EXCEPTION).done)
            except BaseException as error:
                self._end(error)
                wait(starts)
                self._end(error)  # a start that had not begun at the first time
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
            with ThreadPoolExecutor(len(self.pools), thread_name_prefix="skyward-pools") as executor:
                _first_error([executor.submit(pool.stop) for pool in self.pools])
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


def _first_error(futures: Iterable[Future[None]]) -> None:
    """Waits for all of them, and raises what the first one that failed raised."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
