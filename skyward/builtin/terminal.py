"""The terminal report: what happens, to people, line by line. A plugin on `skyward_event` like any other.

`Display` turns events into lines and works for itself: `ComputePool(display=...)` gives one the events of its pool.
`skyward run` shows one instead, and then this module hands it every event; `-p no:terminal` leaves it out.
"""

from __future__ import annotations

import heapq
import itertools
import os
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

import skyward
from skyward import Instance, RemoteError, RunReport, SkywardError, TaskReport, events, hookimpl
from skyward.builtin.screen import MODES, Mode, Screen, cells, clean, clip

FEW_TASKS = 20
"""Up to so many tasks get a line each when they end; more of them only when they fail."""
TAIL_LINES = 20
"""How much of what a task printed is shown again under its failure."""
MAX_TAILS = 1000
MAX_FAILURES = 25
HELD_S = 2.0
"""How long the beginning of a line waits for its end."""
HELD_CHARACTERS = 4000
PROGRESS_EVERY_S = 10.0
"""How often a stream that is no terminal hears how far many tasks have come."""
_ENDED_BY = {6: "stopped by a guard", 129: "hung up", 130: "interrupted", 143: "terminated"}
"""Exit codes of runs that somebody cut short."""
_PLAIN_STEPS = ("connect", "workers")
"""Steps of every node, whose details are worth a look only with -v."""
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

skyward_event_types: tuple[type[events.Event], ...] = ()
"""What this plugin listens to: nothing, until a display is shown."""
_shown: Display | None = None


@hookimpl
def skyward_event(event: events.Event) -> None:
    if _shown is not None:
        _shown(event)


@contextmanager
def shown(display: Display) -> Iterator[Display]:
    """Gives `display` every event of this process while the block runs."""
    global _shown, skyward_event_types
    before = _shown, skyward_event_types
    _shown, skyward_event_types = display, display.skyward_event_types
    try:
        yield display
    finally:
        _shown, skyward_event_types = before
        display.close()


class Display:
    """Shows events on `stream` (standard error). Call it with each event, in order, from any thread.

    Modes: `rich` keeps a status line below the lines, `log` stamps lines with the time, `quiet` tells only what
    went wrong with machines, `auto` chooses `rich` on a terminal and `log` elsewhere. `verbosity` -1 leaves out
    everything but failures and the last line, -2 everything; 1 adds each step and each task, 2 also their starts.
    """

    def __init__(
        self,
        mode: Mode = "auto",
        stream: TextIO | None = None,
        *,
        verbosity: int = 0,
        color: bool | None = None,
        durations: int | None = None,
        label: Callable[[str, int], str] | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        """`redact` takes out of each line what nobody may see."""
        if mode not in MODES:
            raise ValueError(f"display {mode!r} is not one of {', '.join(MODES)}")
        self.mode = mode
        self.verbosity = verbosity
        self.screen = Screen(stream, mode, color=color, redact=redact)
        self._lock = threading.RLock()
        self._pool = _PoolStory()
        self._tasks = _TaskStory(slowest=durations, label=label)
        self._held = _Held()
        self._run: events.RunStarted | None = None
        self._told_progress_at = time.monotonic()
        self._beside: Any = None

    @property
    def skyward_event_types(self) -> tuple[type[events.Event], ...]:
        """What there is anything to say about; nobody needs to build other events for it."""
        kinds = tuple(self._handlers())
        if self.verbosity < 2 and not self.screen.is_live:
            kinds = tuple(kind for kind in kinds if kind is not events.TaskStarted)
        return kinds

    def __call__(self, event: events.Event) -> None:
        handler = self._handlers().get(type(event))
        if handler is not None:
            with self._lock:
                handler(event)
                for text in self._held.overdue():
                    self._show_output(text)

    def close(self) -> None:
        """Shows what still waits for the end of its line, and takes the status line away. Idempotent."""
        with self._lock:
            for text in self._held.all():
                self._show_output(text)
        self._unfollow()

    def note(self, text: str, *styles: str) -> None:
        """A line of the caller's own among the others."""
        if self.mode != "quiet" and self.verbosity > -2:
            self.screen.line(self.screen.paint(text, *styles), stamped=True)

    def _handlers(self) -> dict[type[events.Event], Callable[[Any], None]]:
        if self.mode == "quiet" or self.verbosity < -1:
            return {events.WarningRaised: self._warning, events.NodeLost: self._node_lost}
        return {
            events.RunStarted: self._run_started,
            events.PoolStarting: self._pool_starting,
            events.InstanceLaunched: self._instance_launched,
            events.StepFinished: self._step_finished,
            events.PoolReady: self._pool_ready,
            events.NodeSuspected: self._node_suspected,
            events.NodeReattached: self._node_reattached,
            events.NodeLost: self._node_lost,
            events.InstanceTerminated: self._instance_terminated,
            events.TaskStarted: self._task_started,
            events.TaskFinished: self._task_finished,
            events.TaskOutput: self._task_output,
            events.TaskStalled: self._task_stalled,
            events.WarningRaised: self._warning,
            events.PoolStopped: self._pool_stopped,
            events.RunFinished: self._run_finished,
        }

    # -- the run -----------------------------------------------------------------------------------------------

    def _run_started(self, event: events.RunStarted) -> None:
        self._run = event
        self._tasks.total = event.tasks
        if self.verbosity < 0:
            return
        self.screen.rule("skyward run starts", "=", "bold")
        for line in event.header:
            self.screen.line(line)
        what = f"collected {_count(event.tasks, 'task')} from {event.target}"
        self.screen.line(f"run {event.run}: {what if event.tasks else f'{event.target} sends its own tasks'}")
        self.screen.line()

    def _run_finished(self, event: events.RunFinished) -> None:
        self.close()
        report = event.report
        self._show_failures(report.failures)
        self._show_durations()
        self._show_summary(report)

    # -- machines ----------------------------------------------------------------------------------------------

    def _pool_starting(self, event: events.PoolStarting) -> None:
        self._pool.starting(event)
        self._follow()
        if not self.screen.is_live:
            self._say(f"provision  {_count(event.nodes, 'node')} on {event.provider}")

    def _instance_launched(self, event: events.InstanceLaunched) -> None:
        if self._pool.launched(event):
            self._say(f"{self._phase('provision', self._pool.up)}{self._pool.addresses()}")

    def _phase(self, name: str, nodes: int) -> str:
        """The end of one phase, with its time."""
        took = seconds(self._pool.end_phase(name))
        return f"{name}  {nodes}/{self._pool.wanted}  {self._good('ok')}  {took:>6}   "

    def _step_finished(self, event: events.StepFinished) -> None:
        if event.error is not None:
            self._say(self._bad(f"n{event.node} | {event.step} failed after {seconds(event.duration_s)}:"))
            for line in event.error.rstrip().splitlines():
                self.screen.line(f"n{event.node} | {clean(line)}")
        elif self.verbosity > 0:
            detail = f"  ({event.detail})" if event.detail else ""
            self._say(f"n{event.node} | {event.step}  {seconds(event.duration_s)}{detail}")
        self._pool.step(event)

    def _pool_ready(self, event: events.PoolReady) -> None:
        pool = self._pool
        detail = f"   ({pool.detail})" if pool.detail else ""
        slots = _count(event.slots, "slot")
        self._say(f"{self._phase('bootstrap', event.nodes)}{slots}{detail}")
        pool.ready(event)
        self._tasks.slots += event.slots
        self._told_progress_at = time.monotonic()
        self._follow()

    def _node_suspected(self, event: events.NodeSuspected) -> None:
        what = f"out of reach: {clean(event.reason)}" if event.reason else "nothing heard"
        since = "" if event.reason else f" for {seconds(event.silent_s)}"
        self._say(self._odd(f"n{event.node} | {what}{since}"))

    def _node_reattached(self, event: events.NodeReattached) -> None:
        self._say(f"n{event.node} | back after {seconds(event.duration_s)}; nothing was run again")

    def _node_lost(self, event: events.NodeLost) -> None:
        moved = f"; {_count(event.tasks, 'task')} go elsewhere" if event.tasks else ""
        self._tasks.left(event.node)
        self.screen.line(self._bad(f"n{event.node} | lost: {clean(event.reason)}{moved}"), stamped=True)

    def _instance_terminated(self, event: events.InstanceTerminated) -> None:
        self._pool.ended += 1
        if self.verbosity > 0:
            self._say(f"n{event.node} | {event.instance.id} is gone")

    def _pool_stopped(self, event: events.PoolStopped) -> None:
        if self._run is not None:
            self._pool.phase = ""
            return
        self._unfollow()
        counts = self._tasks.counts() or "no tasks"
        nodes = _count(self._pool.up, "node")
        self._say(f"{counts} in {seconds(event.duration_s)} on {nodes} {self._dot} {money(event.usd)}")

    # -- tasks -------------------------------------------------------------------------------------------------

    def _task_started(self, event: events.TaskStarted) -> None:
        self._tasks.started(event)
        if self.verbosity > 1:
            self._say(f"n{event.node} | {self._tasks.label(event)} starts (attempt {event.attempt})")

    def _task_finished(self, event: events.TaskFinished) -> None:
        report = event.report
        for text in self._held.of(report.task, report.index):
            self._show_output(text)
        self._tasks.finished(report, final=event.final)
        if not event.final:
            reason = first_line(report.error)
            self._say(
                self._odd(
                    f"n{report.node} | {self._tasks.label(report)} again, attempt {report.attempt} {report.verdict}: {reason}"
                )
            )
        elif self._is_worth_a_line(report):
            self._say(self._verdict_line(report))
        self._tell_progress()

    def _is_worth_a_line(self, report: TaskReport) -> bool:
        if report.verdict == "cancelled" and self.verbosity < 1:
            return False
        few = 0 < self._tasks.total <= FEW_TASKS
        return few or self.verbosity > 0 or report.verdict != "succeeded"

    def _verdict_line(self, report: TaskReport) -> str:
        where = f"n{report.node} | " if report.node >= 0 else ""
        if report.verdict == "succeeded":
            return f"{where}{self._tasks.label(report)}  {self._good('ok')}  {seconds(report.duration_s)}{self._share()}"
        return f"{where}{self._tasks.label(report)}  {self._bad(report.verdict.upper())}  {first_line(report.error)}{self._share()}"

    def _share(self) -> str:
        tasks = self._tasks
        return (
            self.screen.paint(f"  [{tasks.done * 100 // tasks.total:3d}%]", "cyan") if tasks.total > 1 else ""
        )

    def _task_output(self, event: events.TaskOutput) -> None:
        if (whole := self._held.whole_lines(event)) is not None:
            self._show_output(whole)

    def _task_stalled(self, event: events.TaskStalled) -> None:
        who = f"n{event.node} | {self._tasks.label(event)}"
        if event.is_stopped:
            again = f"kill -CONT {event.pid}"
            self._say(self._odd(f"{who}: a signal has stopped its worker; there, `{again}` lets it go on"))
        else:
            self._say(
                self._odd(f"{who} has neither computed nor printed anything for {seconds(event.idle_s)}")
            )

    def _show_output(self, event: events.TaskOutput) -> None:
        lines = [clean(line) for line in event.text.rstrip("\n").split("\n")]
        self._tasks.printed(event, lines)
        if self.verbosity < 0:
            return
        tag = f"n{event.node} | " if self.verbosity < 1 else f"n{event.node} {self._tasks.label(event)} | "
        tag = self.screen.paint(tag, "dim")
        for line in lines:
            self.screen.line(
                tag + (self._odd(line) if event.stream in ("err", "stderr") else line), stamped=True
            )

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self.screen.is_live or now - self._told_progress_at < PROGRESS_EVERY_S:
            return
        self._told_progress_at = now
        self._say(self._tasks.progress())

    def _warning(self, event: events.WarningRaised) -> None:
        self.screen.line(self._odd(f"warning: {event.message}"), stamped=True)
        if event.hint:
            self.screen.line(f"  hint: {event.hint}")

    # -- the status line ---------------------------------------------------------------------------------------

    def _follow(self) -> None:
        if self.screen.is_live and self.verbosity >= 0:
            self.screen.follow(self._status)
            if self._beside is None:
                self._beside = self.screen.beside("stdout", "stderr")
                self._beside.__enter__()

    def _unfollow(self) -> None:
        self.screen.unfollow()
        if self._beside is not None:
            self._beside.__exit__(None, None, None)
            self._beside = None

    def _status(self, room: int) -> str:
        """What is going on, in at most `room` columns: what matters least is left out first."""
        pool, tasks = self._pool, self._tasks
        if not pool.phase:
            parts = ["stopping"]
        elif pool.phase == "run":
            parts = tasks.parts()
        else:
            parts = [f"{pool.phase} {pool.up if pool.phase == 'provision' else pool.prepared}/{pool.wanted}"]
        parts += [part for part in (pool.spending(), seconds(time.monotonic() - pool.began)) if part]
        spin = SPINNER[int(time.monotonic() * 8) % len(SPINNER)] if self.screen.is_unicode else "*"
        while len(parts) > 1 and cells(self._joined(spin, parts)) > room:
            parts.pop()
        return self._joined(spin, parts)

    def _joined(self, spin: str, parts: Sequence[str]) -> str:
        return f"{spin} " + f" {self._dot} ".join(parts)

    # -- the report --------------------------------------------------------------------------------------------

    def _show_failures(self, failures: Sequence[TaskReport]) -> None:
        if not failures:
            return
        self.screen.line()
        self.screen.rule("FAILURES", "=", "bold")
        for report in failures[:MAX_FAILURES]:
            where = f" on n{report.node}" if report.node >= 0 else ""
            again = f" (attempt {report.attempt})" if report.attempt > 1 else ""
            self.screen.rule(f"{self._tasks.label(report)}{where}{again}", "_", "red", "bold")
            for line in explain(report.error):
                self.screen.line(self._bad(line) if line.startswith("E ") else line)
            self._show_tail(report)
        if len(failures) > MAX_FAILURES:
            self.screen.line(f"... and {len(failures) - MAX_FAILURES} more")

    def _show_tail(self, report: TaskReport) -> None:
        is_seen = self._tasks.total == 1 and self.verbosity >= 0
        if (tail := self._tasks.tail(report)) and not is_seen:
            self.screen.rule(f"last output (n{report.node})", "-")
            for line in tail:
                self.screen.line(line)

    def _show_durations(self) -> None:
        if slowest := self._tasks.slowest(self._pool.phases):
            self.screen.line()
            self.screen.rule(f"slowest {_count(len(slowest), 'duration')}", "=")
            for duration, what, name in slowest:
                self.screen.line(f"{seconds(duration):>8} {what:<9} {name}".rstrip())

    def _show_summary(self, report: RunReport) -> None:
        if report.failures:
            self.screen.line()
            self.screen.rule("short run summary", "=", "bold")
        elif self.verbosity >= 0:
            self.screen.line()
        for failure in report.failures[:MAX_FAILURES]:
            line = f"{failure.verdict.upper()} {self._tasks.label(failure)} - {first_line(failure.error)}"
            self.screen.line(clip(line, self.screen.width) if self.screen.is_terminal else line)
        self.screen.rule(
            self._last_line(report), "=", *(("green",) if report.exit_code == 0 else ("red", "bold"))
        )

    def _last_line(self, report: RunReport) -> str:
        counts = counted(report.failed, report.lost, report.cancelled, report.succeeded) or "nothing was run"
        if ended := _ENDED_BY.get(report.exit_code):
            counts = f"{ended}: {counts}"
        line = f"{counts} in {seconds(report.duration_s)}"
        if not report.nodes:
            return line
        line += f" on {_count(report.nodes, 'node')} {self._dot} {money(report.usd)}"
        if report.exit_code == 7:
            return f"{line} {self._dot} CLEAN-UP IS INCOMPLETE"
        return f"{line} {self._dot} all nodes terminated" if self._pool.is_given_back() else line

    # -- small words -------------------------------------------------------------------------------------------

    @property
    def _dot(self) -> str:
        return self.screen.sign("·", "-")

    def _say(self, text: str) -> None:
        if self.verbosity >= 0:
            self.screen.line(text, stamped=True)

    def _good(self, text: str) -> str:
        return self.screen.paint(text, "green")

    def _bad(self, text: str) -> str:
        return self.screen.paint(text, "red")

    def _odd(self, text: str) -> str:
        return self.screen.paint(text, "yellow")


class _PoolStory:
    """What is known of the machines: which phase they are in, how many, and what they cost."""

    def __init__(self) -> None:
        self.wanted = self.up = self.prepared = self.ended = 0
        self.phase = "provision"
        self.detail = ""
        self.began = self._phase_began = time.monotonic()
        self.phases: list[tuple[float, str]] = []
        self._instances: list[tuple[int, Instance, float]] = []

    def starting(self, event: events.PoolStarting) -> None:
        if self.phase != "provision" or not self.up:
            self.phase = "provision"
            self.began = self._phase_began = time.monotonic()
        self.wanted += event.nodes

    def launched(self, event: events.InstanceLaunched) -> bool:
        """Whether this was the last one that was waited for."""
        self.up += 1
        self._instances.append((event.node, event.instance, time.monotonic()))
        if self.up != self.wanted or self.phase != "provision":
            return False
        self.phase = "bootstrap"
        return True

    def step(self, event: events.StepFinished) -> None:
        if event.detail and event.error is None and event.step not in _PLAIN_STEPS:
            self.detail = event.detail

    def ready(self, event: events.PoolReady) -> None:
        self.phase, self.prepared = "run", event.nodes

    def end_phase(self, name: str) -> float:
        """Seconds since the one before."""
        now = time.monotonic()
        seconds, self._phase_began = now - self._phase_began, now
        self.phases.append((seconds, name))
        return seconds

    def addresses(self, at_most: int = 4) -> str:
        """Where the first nodes are; the machine itself has no address worth showing."""
        named = [f"n{node} {instance.public_address or instance.id}" for node, instance, _ in self._instances]
        more = f"  and {len(named) - at_most} more" if len(named) > at_most else ""
        return "  ".join(named[:at_most]) + more

    def is_given_back(self) -> bool:
        """Whether every machine that was rented has been ended; those one has anyway just go on."""
        return self.ended >= self.up and any(one.offer.usd_per_hour != 0 for _, one, _ in self._instances)

    def spending(self) -> str:
        """What the machines have cost so far; nothing of those that cost nothing."""
        now, usd = time.monotonic(), 0.0
        for _, instance, since in self._instances:
            usd += (instance.offer.usd_per_hour or 0.0) * (now - since) / 3600
        return f"{money(usd)} so far" if usd else ""


class _Held:
    """Beginnings of lines that tasks have printed: C code and progress bars write them piece by piece."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, str, int, str], tuple[float, events.TaskOutput]] = {}

    def whole_lines(self, event: events.TaskOutput) -> events.TaskOutput | None:
        """What can be shown now: the lines that have come to their end, with what was held of them."""
        key = event.node, event.task, event.index, event.stream
        since, before = self._pieces.pop(key, (time.monotonic(), None))
        text = before.text + event.text if before else event.text
        whole, newline, rest = text.rpartition("\n")
        if len(rest) > HELD_CHARACTERS:
            whole, newline, rest = text, "", ""
        if rest:
            self._pieces[key] = (time.monotonic() if newline else since), replace(event, text=rest)
        return replace(event, text=whole + newline) if whole or newline else None

    def overdue(self) -> list[events.TaskOutput]:
        """What has waited for its end too long."""
        limit = time.monotonic() - HELD_S
        return self._take([key for key, (since, _) in self._pieces.items() if since < limit])

    def of(self, task: str, index: int) -> list[events.TaskOutput]:
        return self._take([key for key in self._pieces if key[1:3] == (task, index)])

    def all(self) -> list[events.TaskOutput]:
        return self._take(list(self._pieces))

    def _take(self, keys: Sequence[tuple[int, str, int, str]]) -> list[events.TaskOutput]:
        return [self._pieces.pop(key)[1] for key in keys]


class _TaskStory:
    """What is known of the tasks: how many, which run, what they printed last, which took longest."""

    def __init__(self, slowest: int | None, label: Callable[[str, int], str] | None) -> None:
        self.total = 0
        self.slots = 0
        self._label = label
        self._numbered: set[str] = set()
        self.verdicts = dict.fromkeys(("failed", "lost", "cancelled", "succeeded"), 0)
        self._running: dict[tuple[str, int, int], int] = {}
        self._tails: dict[tuple[str, int], deque[str]] = {}
        self._wanted = slowest
        self._slowest: list[tuple[float, int, str, int]] = []
        self._tie = itertools.count()

    def label(self, one: events.TaskStarted | events.TaskOutput | events.TaskStalled | TaskReport) -> str:
        """What a task is called: its name, numbered where there are several of that name."""
        if one.index > 0:
            self._numbered.add(one.task)
        return self._called(one.task, one.index)

    def _called(self, task: str, index: int) -> str:
        if self._label is not None and (given := self._label(task, index)):
            return given
        return f"{task}[{index}]" if task in self._numbered and index >= 0 else task

    @property
    def done(self) -> int:
        return sum(self.verdicts.values())

    def started(self, event: events.TaskStarted) -> None:
        self._running[event.task, event.index, event.attempt] = event.node

    def finished(self, report: TaskReport, *, final: bool) -> None:
        self._running.pop((report.task, report.index, report.attempt), None)
        if not final:
            return
        self.verdicts[report.verdict] += 1
        if report.index > 0:
            self._numbered.add(report.task)
        if report.verdict == "succeeded":
            self._tails.pop((report.task, report.index), None)
        if self._wanted is not None and report.node >= 0:
            heapq.heappush(self._slowest, (report.duration_s, next(self._tie), report.task, report.index))
            if self._wanted and len(self._slowest) > self._wanted:
                heapq.heappop(self._slowest)

    def left(self, node: int) -> None:
        """Nothing runs on a node that is lost."""
        self._running = {key: at for key, at in self._running.items() if at != node}

    def printed(self, event: events.TaskOutput, lines: Sequence[str]) -> None:
        key = event.task, event.index
        if key not in self._tails:
            if len(self._tails) >= MAX_TAILS:
                return
            self._tails[key] = deque(maxlen=TAIL_LINES)
        self._tails[key].extend(lines)

    def tail(self, report: TaskReport) -> Sequence[str]:
        return tuple(self._tails.get((report.task, report.index), ()))

    def slowest(self, phases: Sequence[tuple[float, str]]) -> list[tuple[float, str, str]]:
        """Longest first: seconds, what it was, its name. Preparing machines counts like a task."""
        if self._wanted is None:
            return []
        rows = [(duration, "task", self._called(task, index)) for duration, _, task, index in self._slowest]
        rows += [(duration, phase, "") for duration, phase in phases]
        return sorted(rows, reverse=True)[: self._wanted or None]

    def counts(self) -> str:
        return counted(*self.verdicts.values())

    def progress(self) -> str:
        """How far they have come, in a sentence."""
        of = f"/{self.total}" if self.total else ""
        return f"{self.done}{of} done" + "".join(f", {part}" for part in self._odd_counts())

    def parts(self) -> list[str]:
        share = []
        if self.total > 1:
            filled = self.done * 20 // self.total
            share = [f"[{'#' * filled}{'-' * (20 - filled)}] {self.done}/{self.total}"]
        elif self.done:
            share = [f"{self.done} done"]
        count = min(len(self._running), self.slots)  # the others wait on their node already
        running = [f"{count} running"] if count else []
        return [*share, *self._odd_counts(), *running] or ["waiting for tasks"]

    def _odd_counts(self) -> list[str]:
        odd = ((word, self.verdicts[word]) for word in ("failed", "lost", "cancelled"))
        return [f"{count} {word}" for word, count in odd if count]


# -- text ----------------------------------------------------------------------------------------------------------


def counted(failed: int, lost: int, cancelled: int, succeeded: int) -> str:
    """`1 failed, 7 passed`: what is not zero, worst first."""
    named = ((failed, "failed"), (lost, "lost"), (cancelled, "cancelled"), (succeeded, "passed"))
    return ", ".join(f"{count} {word}" for count, word in named if count)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def seconds(value: float) -> str:
    """`85ms`, `4.21s`, `41.2s`, `3m12s`, `2h05m`."""
    if value < 0.995:
        return f"{value * 1000:.0f}ms"
    if value < 59.95:
        return f"{value:.2f}s" if value < 9.995 else f"{value:.1f}s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def money(usd: float | None) -> str:
    """`$1.42`; what is more than nothing never looks like nothing."""
    if usd is None:
        return "cost unknown"
    return "<$0.01" if 0 < usd < 0.005 else f"${usd:,.2f}"


def first_line(error: BaseException | None) -> str:
    """`MemoryError: Unable to allocate 12.4 GiB`."""
    if error is None:
        return ""
    name = getattr(error, "type_name", "") or type(error).__name__
    try:
        text = clean(str(error).strip().split("\n", 1)[0])
    except Exception:  # the user's __str__
        text = ""
    if isinstance(error, RemoteError):  # its text begins with the name already
        short = name.rpartition(".")[2]
        text = "" if text == short else text.removeprefix(f"{short}: ")
    return f"{name}: {text}" if text else name


_FRAME = re.compile(r'^  File "(?P<file>.+)", line (?P<line>\d+)(?:, in (?P<name>.+))?$', re.MULTILINE)


def explain(error: BaseException | None) -> list[str]:
    """An exception as people read it: each frame of the user's code, then the lines of the exception itself."""
    if error is None:
        return []
    text = _traceback_text(error)
    if _FRAME.search(text):
        lines = list(_short(text.rstrip().splitlines()))
    else:
        code = f"  [{error.code}]" if isinstance(error, SkywardError) else ""
        lines = [f"E   {first_line(error)}{code}", *(f"E   {clean(line)}" for line in _later_lines(error))]
    facts = [f"    {clean(fact)}" for fact in getattr(error, "facts", ())]
    return [*lines, *facts, *(f"  hint: {clean(hint)}" for hint in getattr(error, "hints", ()))]


def _traceback_text(error: BaseException) -> str:
    """The text of the other side; of what was raised here, the frames that are not ours; else ""."""
    for text in (getattr(error.__cause__, "text", ""), getattr(error, "remote_traceback", "")):
        if isinstance(text, str) and text:
            return text
    shown = traceback.TracebackException.from_exception(error)
    theirs = [frame for frame in shown.stack if not frame.filename.startswith(_OURS)]
    shown.stack = traceback.StackSummary.from_list(theirs)
    return "".join(shown.format(chain=False)) if theirs else ""


_OURS = os.path.dirname(skyward.__file__) + os.sep


def _later_lines(error: BaseException) -> list[str]:
    try:
        return str(error).strip().split("\n")[1:]
    except Exception:  # the user's __str__
        return []


def _short(lines: Sequence[str]) -> Iterator[str]:
    """A traceback without its ceremony: `train.py:31: in fold`, the line of code, and `E   ` before the end."""
    for raw in lines:
        line = clean(raw)
        if line.startswith("Traceback (most recent call last)"):
            continue
        if frame := _FRAME.match(line):
            name = frame["name"]
            yield f"{_nearer(frame['file'])}:{frame['line']}:" + (f" in {name}" if name else "")
        elif not line.strip(" ^~"):
            continue
        elif line.startswith("    ") or _is_bridge(line):
            yield line
        else:
            yield f"E   {line}"


def _is_bridge(line: str) -> bool:
    return line.startswith(("During handling of the above", "The above exception was the direct"))


_PROJECT = re.compile(r".*/runs/[^/]+-n\d+/project/")
"""Where the user's project lies on a node."""


def _nearer(path: str) -> str:
    """The path relative to here, where it is below; a file of the project has the name it has at home."""
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else _PROJECT.sub("", path, count=1)
