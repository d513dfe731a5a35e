"""From a target to the tasks of a run, and the names they go by. Imports `api`, `model` and its neighbours."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyward.api.compute import Compute, PendingCompute, _Group
from skyward.errors import ArgumentError, TargetError
from skyward.model.task import Task, TaskOptions
from skyward.session.arguments import Call, Signature
from skyward.session.target import Function, Target, is_driver, is_source, name_of, undecorated


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One task of a run and its name: `train.py::fold[3]`."""

    id: str
    task: Task

    @property
    def name(self) -> str:
        """The name without its file: `fold[3]`."""
        return self.id.rpartition("::")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by parameter; by position where the function does not tell its parameters."""
        args, kwargs = self.task.args, self.task.kwargs or {}
        try:
            bound = inspect.signature(inspect.unwrap(self.task.fn)).bind(*args, **kwargs)
        except (TypeError, ValueError):
            return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
        return dict(bound.arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A function that runs here, with the pool active, and sends calls of its own making."""

    id: str
    function: Function
    call: Call

    @property
    def name(self) -> str:
        return self.id.rpartition("::")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line says about the tasks."""

    words: Sequence[str] = ()
    """Arguments, as the shell gave them."""
    rows: Sequence[Any] | None = None
    """One call per row, from `--map`."""
    each: bool = False
    """Every task once on every worker."""
    retries: int | None = None


def driver_of(target: Target, wishes: Wishes) -> Driver | None:
    """The target's driver, where it is one.

    Raises:
        ArgumentError: the words do not fit, or `--map` and `--each` are asked of a driver.
    """
    if len(target.functions) != 1 or not is_driver(target.functions[0]):
        return None
    function = target.functions[0]
    signature = Signature.of(function, target.spelled(function))
    for option, given in (("--map", wishes.rows is not None), ("--each", wishes.each)):
        if given:
            raise ArgumentError(
                f"{option} is for tasks, and {target.spelled(function)} is a driver: it sends its own",
                hints=["name the @sky.compute function instead"],
            )
    call = signature.from_words(wishes.words)
    return Driver(id=target.label(function), function=undecorated(function), call=call)


def collect(target: Target, wishes: Wishes) -> list[Task]:
    """The tasks of a target that has no driver: one per function, or one per row.

    Raises:
        ArgumentError: arguments that do not fit the signature; nothing has started.
        TargetError: rows, and several functions they could be for.
    """
    if wishes.rows is not None and len(target.functions) > 1:
        names = ", ".join(target.spelled(each) for each in target.functions)
        raise TargetError(
            f"--map needs one task, and {target.text} has {len(target.functions)}", facts=[names]
        )
    rows: Sequence[Any] = [None] if wishes.rows is None else wishes.rows
    tasks: list[Task] = []
    for function in target.functions:
        signature = Signature.of(function, target.spelled(function))
        for call in [signature.from_words(wishes.words, row) for row in rows]:
            tasks += _tasks_of(function, call)
    return tasks


def _tasks_of(function: Function, call: Call) -> list[Task]:
    """The call itself, or the calls that a generator yields."""
    if is_source(function):
        yielded = undecorated(function)(*call.args, **call.kwargs)
        return pending_calls(yielded, name_of(function)) or []
    if isinstance(function, Compute):
        return [as_task(function(*call.args, **call.kwargs))]
    return [Task(function, call.args, call.kwargs or None)]


def as_task(pending: PendingCompute[Any]) -> Task:
    """A pending call that the run is going to send."""
    pending._sent = True
    return pending


def pending_calls(value: Any, driver: str) -> list[Task] | None:
    """The calls a driver gave back to be run; None where it gave back an ordinary value.

    Raises:
        TargetError: calls and ordinary values, mixed.
    """
    if isinstance(value, PendingCompute):
        return [as_task(value)]
    if isinstance(value, _Group):
        value._sent = True
        return list(value.tasks())
    if not isinstance(value, list | tuple | Iterator):
        return None
    values = list(value)
    if not any(isinstance(each, PendingCompute | _Group) for each in values):
        return None if isinstance(value, list | tuple) else _refuse_mixture(values, driver)
    return [
        task for each in values for task in (pending_calls(each, driver) or _refuse_mixture([each], driver))
    ]


def _refuse_mixture(values: Sequence[Any], driver: str) -> list[Task]:
    if not values:
        return []
    raise TargetError(
        f"{driver} gave {values[0]!r}, which is no call of a @sky.compute function",
        hints=["yield calls only, or send them yourself: sky.gather(...) >> sky"],
    )


def with_retries(tasks: Iterable[Task], retries: int | None) -> list[Task]:
    """The same tasks, run again when they fail unless their decorator says otherwise."""
    if retries is None:
        return list(tasks)
    shared: dict[TaskOptions, TaskOptions] = {}  # tasks with one options value travel together

    def options_of(task: Task) -> TaskOptions:
        if task.options.retries is not None:
            return task.options
        return shared.setdefault(task.options, replace(task.options, retries=retries))

    return [Task(task.fn, task.args, task.kwargs, options_of(task)) for task in tasks]


def named(tasks: Sequence[Task], location: str) -> list[Item]:
    """Items with names: those of one function that is called several times are numbered."""
    names = [f"{location}::{task.name}" for task in tasks]
    counts: dict[str, int] = {}
    items = []
    for name, task in zip(names, tasks, strict=True):
        number = counts.get(name, 0)
        counts[name] = number + 1
        items.append((name, number, task))
    return [
        Item(id=f"{name}[{number}]" if counts[name] > 1 else name, task=task) for name, number, task in items
    ]


def per_worker(items: Sequence[Item], workers: int) -> list[Item]:
    """Each item once for every worker: `hello[w0]`, `hello[w1]`."""
    return [replace(item, id=f"{item.id}[w{rank}]") for item in items for rank in range(workers)]


def read_rows(file: str) -> list[Any]:
    """The rows of a file of JSON lines, `-` for standard input; empty lines count for nothing.

    Raises:
        ArgumentError: the file cannot be read, or a line of it is no JSON.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"--map {file}: {error}", value=file) from None
    return [_row(line, number, file) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _row(line: str, number: int, file: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ArgumentError(
            f"--map {file}: line {number} is no JSON: {error}",
            facts=[line[:200]],
            hints=['one call per line: {"epochs": 3} or ["data.csv", 3] or "data.csv"'],
            value=line,
        ) from None
