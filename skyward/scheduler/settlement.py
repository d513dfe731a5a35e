"""Outcomes -> whoever waits for them, or another attempt."""

from __future__ import annotations

from collections.abc import Sequence

from skyward.contracts.engine import EngineContext
from skyward.errors import SerializationError, TaskTimeout, WorkerDied
from skyward.model.event import TaskFinished
from skyward.model.outcome import Outcome
from skyward.scheduler import outcomes
from skyward.scheduler.board import Board
from skyward.scheduler.entry import Entry
from skyward.scheduler.outcomes import Resolution, report_of

MAX_ATTEMPTS = 100
"""However often a plugin asks for another one."""


class Settlement:
    """Ends tasks, or puts them back on the board. What it is given is on its way no more. Call it without the lock."""

    def __init__(self, board: Board, context: EngineContext) -> None:
        self._board = board
        self._context = context

    def settle(self, resolutions: list[Resolution]) -> None:
        """Delivers what is through and puts back what gets another attempt."""
        through: list[Resolution] = []
        again: list[Entry] = []
        for entry, outcome in resolutions:
            if outcome.error is None or not self._runs_again(entry, outcome):
                through.append((entry, outcome))
                continue
            if self._context.wants(TaskFinished):
                self._context.emit(TaskFinished(report=report_of(entry, outcome), final=False))
            if outcome.verdict == "failed" and not isinstance(outcome.error, WorkerDied):
                entry.failures += 1
            entry.attempt += 1
            entry.avoid = entry.link if outcome.verdict == "lost" else None
            again.append(entry)
        if again:
            with self._board.lock:
                self._board.requeue(again)
            if self._board.abandoned:
                self.lose_abandoned()
        self.deliver(through)
        if again:
            self._board.wake.set()

    def _runs_again(self, entry: Entry, outcome: Outcome) -> bool:
        if entry.group.is_cancelled or self._board.is_stopped or outcome.verdict == "cancelled":
            return False
        asked = self._context.should_retry(report_of(entry, outcome))
        own = entry.task.options.retries
        if asked is not None:
            return asked and entry.attempt < MAX_ATTEMPTS
        if outcome.verdict == "lost" or isinstance(outcome.error, WorkerDied):
            retries = self._context.retries
            return entry.attempt <= (retries if own is None else max(own, retries))
        if isinstance(outcome.error, (SerializationError, TaskTimeout)):
            return False
        return entry.failures < (own or 0)

    def deliver(self, resolutions: Sequence[Resolution]) -> None:
        """These are through, whatever has come of them."""
        wants = self._context.wants(TaskFinished)
        for entry, outcome in resolutions:
            entry.blobs = ()
            if wants:
                self._context.emit(TaskFinished(report=report_of(entry, outcome)))
            entry.group.sink.done(entry.index, outcome)

    def lose_abandoned(self) -> None:
        """What waits for a node that nobody will have again is lost."""
        board = self._board
        with board.lock:
            gone = board.take_waiting(
                lambda one: one.group.place is not None and one.group.place[0] in board.abandoned
            )
        error = "was lost, and no other one took its place"
        self.deliver(
            [
                (one, outcomes.gone(one, f"node {one.group.place[0]} {error}"))
                for one in gone
                if one.group.place
            ]
        )

    def lose_everything(self, reason: str) -> None:
        """Whatever waits is lost."""
        with self._board.lock:
            gone = self._board.take_waiting(lambda _: True)
        self.deliver([(entry, outcomes.gone(entry, reason)) for entry in gone])
