"""The items of a run in flight: outcomes as they come, and an end after so many failures.

Imports `api` and `model`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from skyward.api.flight import LOOK_UP_S, Flight

if TYPE_CHECKING:
    from skyward.contracts.engine import Engine
    from skyward.model.outcome import Outcome
    from skyward.model.task import Task


class RunFlight(Flight):
    """All items at once. After `maxfail` failures the rest is cancelled, running ones too; 0 means never."""

    def __init__(self, engine: Engine, tasks: Sequence[Task], *, maxfail: int = 0) -> None:
        super().__init__(engine, tasks, ahead=len(tasks) + 1)
        self._portion = len(tasks) + 1  # one group, so that events count as items do
        self._list = tasks
        self._maxfail = maxfail
        self._failures = 0
        self._finished: deque[tuple[int, Outcome]] = deque()

    def outcomes(self, *, each: bool = False) -> Iterator[tuple[int, Outcome]]:
        """Index and outcome of every item as it finishes. With `each`, every task once per worker: first all
        ranks of the first task, then of the next.

        Raises what ends the pool: a guard, a lost node that may not be replaced.
        """
        try:
            if each:
                for task in self._list:
                    self.pin(task, self._engine.workers)
            else:
                self._feed()
            while self._wait():
                while self._finished:
                    yield self._finished.popleft()
                if self._is_enough():
                    self._stop_early()
        finally:
            self._end()
        if self.failure is not None:
            raise self.failure

    def _wait(self) -> bool:
        """Whether there is more to come."""
        with self.changed:
            while not self._finished and self.unfinished and self.failure is None:
                self.changed.wait(LOOK_UP_S)
            return bool(self._finished)

    def _is_enough(self) -> bool:
        return 0 < self._maxfail <= self._failures

    def _stop_early(self) -> None:
        self._maxfail = 0
        for ticket in self._tickets:
            self._engine.cancel(ticket, running=True)

    def _make_room(self, count: int) -> None:
        """Outcomes are handed on, not kept."""

    def _sink(self, offset: int) -> _RunSink:
        return _RunSink(self, offset)

    def _done(self, index: int, outcome: Outcome) -> None:
        with self.changed:
            self.unfinished -= 1
            self._failures += outcome.verdict in ("failed", "lost")
            self._finished.append((index, outcome))
            self.changed.notify_all()


class _RunSink:
    """Gives the outcomes of one submission their place in the whole."""

    __slots__ = ("_flight", "offset")

    def __init__(self, flight: RunFlight, offset: int) -> None:
        self._flight = flight
        self.offset = offset

    def done(self, index: int, outcome: Outcome) -> None:
        self._flight._done(self.offset + index, outcome)
