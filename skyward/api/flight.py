"""Groups of tasks in flight: what hands them to the engine, collects their outcomes, and waits for them.

Outcomes come in from connection threads, a hundred thousand a second when tasks are small; so there is one
lock per group, no object per task, and a waiting thread is woken only when it has something to do.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from itertools import islice
from typing import TYPE_CHECKING, Any

from skyward.errors import TaskCancelled
from skyward.remote.lull import before_waiting

if TYPE_CHECKING:
    from skyward.contracts.engine import Engine
    from skyward.model.outcome import Outcome
    from skyward.model.task import Task

FIRST_PORTION = 64
"""Tasks handed over at first, so that work begins while a slow iterable is still being read."""
LARGEST_PORTION = 4096
AHEAD = 65536
"""Unfinished tasks of one group at most; the rest of its iterable waits."""
LOOK_UP_S = 0.3
"""How long a thread waits before it looks up: a signal that arrives between Python's last check for signals and the
wait does not end the wait, so that a Ctrl-C in that moment would be heard when everything is over."""
STREAM_AHEAD = 8192
"""The same for a stream, whose finished results wait in memory for their reader."""


class Flight:
    """One group in flight. One thread feeds it and waits for it; any thread may `abort` it."""

    def __init__(self, engine: Engine, tasks: Iterable[Task], *, ahead: int = AHEAD) -> None:
        self._engine = engine
        self._tasks = iter(tasks)
        self._ahead = ahead
        self._portion = FIRST_PORTION
        self._tickets: list[object] = []
        self._is_read = False
        self.lock = (
            threading.RLock()
        )  # itself, not through the condition: that takes twice as long, for every outcome
        self.changed = threading.Condition(self.lock)
        self.handed = 0
        """Tasks given to the engine so far."""
        self.unfinished = 0
        self.failure: BaseException | None = None
        """What ends the wait: the first failure, or why the group was aborted."""

    def abort(self, error: BaseException) -> None:
        """Ends the wait with `error`, unless the group has failed already."""
        with self.changed:
            if self.failure is None:
                self.failure = error
            self.changed.notify_all()

    def cancel(self) -> None:
        """Takes back what has not started; what runs is left alone and its outcome dropped."""
        for ticket in self._tickets:
            self._engine.cancel(ticket)

    def pin(self, task: Task, workers: int) -> None:
        """Hands over `task` once for every worker, by rank."""
        self._is_read = True
        for rank in range(workers):
            self._hand_over([task], worker=rank)

    def _feed(self) -> None:
        """Hands tasks over until there is enough in flight."""
        while not self._is_read and self.failure is None and self._in_memory() < self._ahead:
            portion = list(islice(self._tasks, self._portion))
            self._is_read = len(portion) < self._portion
            self._portion = min(2 * self._portion, LARGEST_PORTION)
            if portion:
                self._hand_over(portion)

    def _hand_over(self, portion: Sequence[Task], worker: int | None = None) -> None:
        sink = self._sink(self.handed)
        with self.changed:
            self._make_room(len(portion))
            self.handed += len(portion)
            self.unfinished += len(portion)
        self._tickets.append(self._engine.submit(portion, sink, worker=worker))

    def _end(self) -> None:
        """Nobody waits any longer."""
        if self.unfinished:
            self.cancel()

    def _in_memory(self) -> int:
        return self.unfinished

    def _make_room(self, count: int) -> None:
        raise NotImplementedError

    def _sink(self, offset: int) -> Any:
        raise NotImplementedError


class Collection(Flight):
    """All results in the order of the tasks."""

    def __init__(self, engine: Engine, tasks: Iterable[Task] = (), *, keep_errors: bool = False) -> None:
        super().__init__(engine, tasks)
        self.keep_errors = keep_errors
        self.values: list[Any] = []
        self.wake_at = 0

    def results(self) -> list[Any]:
        """Waits for all of them.

        Raises the first failure as soon as it is known; then, as on Ctrl-C, what has not started is cancelled.
        """
        try:
            self._feed()
            while not self._is_read and self.failure is None:
                self._wait_for(self._ahead // 2)
                self._feed()
            self._wait_for(0)
        finally:
            self._end()
        if self.failure is not None:
            raise self.failure
        return self.values

    def _wait_for(self, unfinished: int) -> None:
        with self.changed:
            self.wake_at = unfinished
            while self.unfinished > unfinished and self.failure is None:
                self.changed.wait(LOOK_UP_S)

    def _make_room(self, count: int) -> None:
        self.values.extend([None] * count)

    def _sink(self, offset: int) -> CollectionSink:
        return CollectionSink(self, offset)


class CollectionSink:
    """Puts the outcomes of one portion into their places."""

    __slots__ = ("flight", "offset")

    def __init__(self, flight: Collection, offset: int) -> None:
        self.flight = flight
        self.offset = offset

    def done(self, index: int, outcome: Outcome) -> None:
        flight = self.flight
        with flight.lock:
            flight.unfinished -= 1
            if outcome.verdict == "succeeded":
                flight.values[self.offset + index] = outcome.value
            elif flight.keep_errors:
                flight.values[self.offset + index] = _error_of(outcome)
            elif flight.failure is None:
                flight.failure = _error_of(outcome)
                flight.changed.notify_all()
            if flight.unfinished <= flight.wake_at:
                flight.changed.notify_all()


class Stream(Flight):
    """Results as they finish."""

    def __init__(self, engine: Engine, tasks: Iterable[Task], *, keep_errors: bool = False) -> None:
        super().__init__(engine, tasks, ahead=STREAM_AHEAD)
        self.keep_errors = keep_errors
        self.finished: deque[Any] = deque()

    def start(self) -> Iterator[Any]:
        """Starts the first tasks at once, and gives the iterator over results."""
        try:
            self._feed()
        except BaseException:
            self._end()
            raise
        return self._drain()

    def _drain(self) -> Iterator[Any]:
        try:
            while self._wait():
                while self.finished:
                    yield self.finished.popleft()
                    if not self._is_read and self.unfinished <= self._ahead // 2:
                        self._feed()
                self._feed()
            if self.failure is not None:
                raise self.failure
        finally:
            self._end()

    def _wait(self) -> bool:
        """Whether there is more to come; what finished before a failure still does."""
        with self.changed:
            while not self.finished and self.unfinished and self.failure is None:
                self.changed.wait(LOOK_UP_S)
            return bool(self.finished) or (self.failure is None and not self._is_read)

    def _in_memory(self) -> int:
        return self.unfinished + len(self.finished)

    def _make_room(self, count: int) -> None:
        """Results need no place of their own."""

    def _sink(self, offset: int) -> StreamSink:
        return StreamSink(self, offset)


class StreamSink:
    """Puts outcomes behind those that are there."""

    __slots__ = ("flight", "offset")

    def __init__(self, flight: Stream, offset: int) -> None:
        self.flight = flight
        self.offset = offset

    def done(self, index: int, outcome: Outcome) -> None:
        flight = self.flight
        with flight.lock:
            flight.unfinished -= 1
            if outcome.verdict == "succeeded":
                flight.finished.append(outcome.value)
            elif flight.keep_errors:
                flight.finished.append(_error_of(outcome))
            elif flight.failure is None:
                flight.failure = _error_of(outcome)
            flight.changed.notify_all()


class Sequel(Flight):
    """Results one by one in the order of the tasks, each as soon as it and all before it are there.

    Everything is handed over at once, as `concurrent.futures` promises.
    """

    def __init__(self, engine: Engine, tasks: Sequence[Task], *, timeout_s: float | None = None) -> None:
        super().__init__(engine, tasks, ahead=len(tasks) + 1)
        self.outcomes: list[Outcome | None] = []
        self.awaited = 0
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s

    def start(self) -> None:
        self._feed()

    def wait(self) -> None:
        """Until every task is through, or the group was aborted."""
        with self.changed:
            while self.unfinished and self.failure is None:
                self.changed.wait(LOOK_UP_S)

    def results(self) -> Iterator[Any]:
        """One by one; raises a failure at its place. Closing the iterator cancels what has not started."""
        try:
            for index in range(self.handed):
                outcome = self._wait_for(index)
                self.outcomes[index] = None
                if outcome.verdict != "succeeded":
                    raise _error_of(outcome)
                yield outcome.value
        finally:
            self._end()

    def _wait_for(self, index: int) -> Outcome:
        with self.changed:
            self.awaited = index
            while (outcome := self.outcomes[index]) is None:
                if self.failure is not None:
                    raise self.failure
                left = LOOK_UP_S if self._deadline is None else self._deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the results were not all there in time")
                self.changed.wait(min(LOOK_UP_S, left))
            return outcome

    def _make_room(self, count: int) -> None:
        self.outcomes.extend([None] * count)

    def _sink(self, offset: int) -> SequelSink:
        return SequelSink(self, offset)


class SequelSink:
    """Puts the outcomes of one portion into their places."""

    __slots__ = ("flight", "offset")

    def __init__(self, flight: Sequel, offset: int) -> None:
        self.flight = flight
        self.offset = offset

    def done(self, index: int, outcome: Outcome) -> None:
        flight, place = self.flight, self.offset + index
        with flight.lock:
            flight.unfinished -= 1
            flight.outcomes[place] = outcome
            if place == flight.awaited or not flight.unfinished:
                flight.changed.notify_all()


class Call:
    """One task whose value somebody waits for here and now: what a round trip takes is what matters."""

    offset = 0
    __slots__ = ("_engine", "_failure", "_outcome", "_over", "_task")

    def __init__(self, engine: Engine, task: Task) -> None:
        self._engine = engine
        self._task = task
        self._outcome: Outcome | None = None
        self._failure: BaseException | None = None
        self._over = threading.Lock()  # let go when the wait is over
        self._over.acquire()

    def result(self) -> Any:
        """Hands it over, waits, and gives its value. Raises its error; then, as on Ctrl-C, it is taken back if it has
        not started."""
        if self._failure is not None:
            raise self._failure
        ticket = self._engine.submit((self._task,), self)
        try:
            while not self._over.acquire(timeout=LOOK_UP_S):
                pass
        finally:
            if self._outcome is None:
                self._engine.cancel(ticket)
        if self._outcome is None:
            raise self._failure or TaskCancelled("the task was cancelled before it started")
        if self._outcome.verdict != "succeeded":
            raise _error_of(self._outcome)
        return self._outcome.value

    def abort(self, error: BaseException) -> None:
        """Ends the wait with `error`, unless there is an outcome."""
        if self._failure is None:
            self._failure = error
        self._wake()

    def done(self, index: int, outcome: Outcome) -> None:
        self._outcome = outcome
        before_waiting(self._wake)

    def _wake(self) -> None:
        try:
            self._over.release()
        except RuntimeError:  # it is over already
            pass


class TaskFuture(Future[Any]):
    """The result of one task, as `concurrent.futures` has it."""

    def __init__(self, engine: Engine, task: Task) -> None:
        super().__init__()
        self._engine = engine
        self._ticket = engine.submit([task], FutureSink(self))

    def cancel(self) -> bool:
        """Takes the task back unless it has started. What has been sent to a machine is given back a moment
        later: then this is False at first, and `cancelled()` becomes true."""
        if not self.done():
            self._engine.cancel(self._ticket)
        return self.cancelled()

    def abort(self, error: BaseException) -> None:
        """Ends the wait with `error`, unless there is a result."""
        try:
            self.set_exception(error)
        except InvalidStateError:
            pass


class FutureSink:
    """Puts one outcome into its future."""

    offset = 0
    __slots__ = ("future",)

    def __init__(self, future: TaskFuture) -> None:
        self.future = future

    def done(self, index: int, outcome: Outcome) -> None:
        future = self.future
        try:
            if outcome.verdict == "succeeded":
                future.set_result(outcome.value)
            elif outcome.verdict == "cancelled" and Future.cancel(future):
                future.set_running_or_notify_cancel()
            else:
                future.set_exception(_error_of(outcome))
        except InvalidStateError:  # aborted by now
            pass


def _error_of(outcome: Outcome) -> BaseException:
    return outcome.error or TaskCancelled("the task was cancelled before it started")
