"""Groups in flight, on an engine that answers at once or when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skyward as sky
from skyward.api.flight import STREAM_AHEAD, Call, Collection, Sequel, Stream, TaskFuture


class Instant(sky.Engine):
    """Every task gives its argument, or fails with it when it is an error, before `submit` returns."""

    name = "instant"

    def __init__(self) -> None:
        super().__init__(
            sky.EngineContext(emit=print, wants=lambda kind: False, should_retry=lambda report: None)
        )
        self.cancelled: list[object] = []
        self.sizes: list[int] = []

    def submit(self, tasks: Sequence[sky.Task], sink: sky.Sink, *, worker: int | None = None) -> object:
        self.sizes.append(len(tasks))
        for index, task in enumerate(tasks):
            (value,) = task.args
            failed = isinstance(value, Exception)
            sink.done(
                index, sky.Outcome("failed", error=value) if failed else sky.Outcome("succeeded", value)
            )
        return len(self.sizes)

    def cancel(self, ticket: object, *, running: bool = False) -> None:
        self.cancelled.append(ticket)

    def add_node(self, node: Any) -> None: ...
    def stop(self) -> None: ...

    workers = slots = 1  # type: ignore[assignment]


class Patient(Instant):
    """Keeps its tasks until `finish` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[sky.Sink, int, Any]] = []

    def submit(self, tasks: Sequence[sky.Task], sink: sky.Sink, *, worker: int | None = None) -> object:
        self.waiting += [(sink, index, task.args[0]) for index, task in enumerate(tasks)]
        return len(self.waiting)

    def finish(self, order: Sequence[int]) -> None:
        for place in order:
            sink, index, value = self.waiting[place]
            sink.done(index, sky.Outcome("succeeded", value))


def tasks(values: Any) -> Iterator[sky.Task]:
    return (sky.Task(print, (value,)) for value in values)


@given(st.integers(0, 20_000))
def test_all_results_come_in_order_whatever_the_portions(count: int) -> None:
    engine = Instant()

    assert Collection(engine, tasks(range(count))).results() == list(range(count))
    assert sum(engine.sizes) == count
    assert engine.sizes == sorted(engine.sizes) or engine.sizes[-1] < engine.sizes[-2]


def test_a_slow_iterable_is_worked_on_while_it_is_read() -> None:
    engine = Instant()
    Collection(engine, tasks(range(10_000))).results()

    assert engine.sizes[0] <= 64
    assert max(engine.sizes) <= 4096


@given(st.permutations(range(12)))
def test_results_in_any_order_find_their_places(order: list[int]) -> None:
    engine = Patient()
    sequel = Sequel(engine, list(tasks("abcdefghijkl")))
    sequel.start()
    engine.finish(order)

    assert "".join(sequel.results()) == "abcdefghijkl"


@given(st.permutations(range(12)))
def test_a_stream_gives_results_in_the_order_they_finish(order: list[int]) -> None:
    engine = Patient()
    results = Stream(engine, tasks(range(12))).start()
    engine.finish(order)

    assert list(results) == order


def test_a_stream_nobody_reads_holds_few_results() -> None:
    engine = Instant()
    results = Stream(engine, tasks(range(100_000))).start()

    assert sum(engine.sizes) < 2 * STREAM_AHEAD
    assert list(results) == list(range(100_000))


def test_an_aborted_group_raises_why_and_gives_back_what_waits() -> None:
    engine = Patient()
    flight = Stream(engine, tasks(range(3)), keep_errors=True)
    results = flight.start()
    flight.abort(sky.GuardError("enough"))
    flight.abort(sky.GuardError("too late"))

    with pytest.raises(sky.GuardError, match="enough"):
        next(results)
    assert engine.cancelled == [3]


def test_nothing_is_cancelled_when_all_is_through() -> None:
    engine = Instant()
    Collection(engine, tasks(range(100))).results()
    list(Stream(engine, tasks(range(100))).start())

    assert engine.cancelled == []


def test_a_failure_stops_the_reading() -> None:
    engine = Instant()
    values = [*range(100), ValueError("bad"), *range(100_000)]

    with pytest.raises(ValueError, match="bad"):
        Collection(engine, tasks(values)).results()

    assert sum(engine.sizes) < 300


def test_a_cancelled_task_is_an_error_with_a_name() -> None:
    class Cancels(Instant):
        def submit(self, tasks: Sequence[sky.Task], sink: sky.Sink, *, worker: int | None = None) -> object:
            for index in range(len(tasks)):
                sink.done(index, sky.Outcome("cancelled"))
            return 1

    with pytest.raises(sky.TaskCancelled, match="before it started"):
        Collection(Cancels(), tasks([1])).results()
    with pytest.raises(sky.TaskCancelled, match="before it started"):
        Call(Cancels(), sky.Task(print, (1,))).result()
    assert TaskFuture(Cancels(), sky.Task(print, (1,))).cancelled()


def test_an_outcome_after_the_abort_changes_nothing() -> None:
    engine = Patient()
    future = TaskFuture(engine, sky.Task(print, (1,)))
    future.abort(sky.GuardError("enough"))
    engine.finish([0])
    future.abort(sky.GuardError("again"))

    with pytest.raises(sky.GuardError, match="enough"):
        future.result()


def test_one_call_gives_its_value_or_raises_its_error() -> None:
    engine = Instant()

    assert Call(engine, sky.Task(print, (7,))).result() == 7
    with pytest.raises(ValueError, match="bad"):
        Call(engine, sky.Task(print, (ValueError("bad"),))).result()
    assert engine.cancelled == []


def test_an_aborted_call_raises_why_and_gives_back_its_task() -> None:
    engine = Patient()
    waits = Call(engine, sky.Task(print, (1,)))
    threading.Timer(
        0.05, lambda: (waits.abort(sky.GuardError("enough")), waits.abort(sky.GuardError("late")))
    ).start()

    with pytest.raises(sky.GuardError, match="enough"):
        waits.result()
    assert engine.cancelled == [1]


def test_a_call_that_is_aborted_at_once_is_never_handed_over() -> None:
    engine = Patient()
    call = Call(engine, sky.Task(print, (1,)))
    call.abort(sky.GuardError("enough"))

    with pytest.raises(sky.GuardError, match="enough"):
        call.result()
    assert engine.waiting == []


def test_an_outcome_is_worth_more_than_an_abort_after_it() -> None:
    engine = Patient()
    call = Call(engine, sky.Task(print, (1,)))
    threading.Timer(0.05, lambda: (engine.finish([0]), call.abort(sky.GuardError("late")))).start()

    assert call.result() == 1
    assert engine.cancelled == []
