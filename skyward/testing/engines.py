"""Engines for tests: tasks run in the client's own process, so that nothing is connected, prepared or pickled."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from skyward import (
    Engine,
    EngineContext,
    Instance,
    InstanceInfo,
    Outcome,
    Peer,
    RemoteError,
    Sink,
    Task,
    TaskCancelled,
    TaskReport,
    events,
)
from skyward.api.instance import placed


class ThreadEngine(Engine):
    """Runs tasks in threads of this process: `ComputePool(engine=ThreadEngine)`.

    One worker for each node, `concurrency` threads for each worker. Arguments and results are passed as they are.
    A thread cannot be killed: a running task is left to its end, `timeout` counts for nothing, and output goes
    where the client's goes.
    """

    name = "threads"
    in_process = True

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._changed = threading.Condition()
        self._waiting: deque[_Entry] = deque()
        self._running: set[_Entry] = set()
        self._nodes: list[Instance] = []
        self._threads = 0
        self._is_stopped = False

    def add_node(self, node: Instance) -> None:
        with self._changed:
            rank = len(self._nodes)
            self._nodes.append(node)
            self._threads += self.context.concurrency
        for number in range(self.context.concurrency):
            name = f"skyward-thread-{rank}-{number}"
            threading.Thread(target=self._work, args=(rank,), name=name, daemon=True).start()

    def submit(self, tasks: Sequence[Task], sink: Sink, *, worker: int | None = None) -> object:
        ticket = object()
        entries = [_Entry(task, index, sink, worker, ticket) for index, task in enumerate(tasks)]
        with self._changed:
            if self._is_stopped:
                raise TaskCancelled("the pool is stopped: no task can be submitted to it")
            self._waiting.extend(entries)
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: object, *, running: bool = False) -> None:
        with self._changed:
            gone = [entry for entry in self._waiting if entry.ticket is ticket]
            self._waiting = deque(entry for entry in self._waiting if entry.ticket is not ticket)
        self._cancelled(gone)

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            gone = [*self._waiting, *self._running]
            self._waiting.clear()
            self._running.clear()
            self._changed.notify_all()
        self._cancelled(gone)

    @property
    def workers(self) -> int:
        return len(self._nodes)

    @property
    def slots(self) -> int:
        return self._threads

    # -- one thread ------------------------------------------------------------------------------------------------

    def _work(self, rank: int) -> None:
        while (entry := self._next(rank)) is not None:
            self._started(entry, rank)
            outcome = entry.run(rank, self._info(rank))
            with self._changed:
                if entry not in self._running:  # stopped, and reported, while it ran
                    continue
                self._running.discard(entry)
                if outcome.verdict == "failed" and self._runs_again(entry, outcome):
                    entry.attempt += 1
                    self._waiting.append(entry)
                    self._changed.notify_all()
                    continue
            self._finished(entry, outcome)

    def _next(self, rank: int) -> _Entry | None:
        with self._changed:
            while not self._is_stopped:
                for entry in self._waiting:
                    if entry.worker in (None, rank):
                        self._waiting.remove(entry)
                        self._running.add(entry)
                        return entry
                self._changed.wait()
        return None

    def _runs_again(self, entry: _Entry, outcome: Outcome) -> bool:
        asked = self.context.should_retry(_report(entry, outcome))
        return entry.attempt <= (entry.task.options.retries or 0) if asked is None else asked

    def _info(self, rank: int) -> InstanceInfo:
        node, peers = (
            self._nodes[rank],
            tuple(Peer(node=index, ip="127.0.0.1") for index in range(len(self._nodes))),
        )
        return InstanceInfo(
            node=rank,
            total_nodes=len(peers),
            worker=0,
            workers_per_node=1,
            job_id=node.tags.get("skyward:pool", ""),
            head_addr="127.0.0.1",
            head_port=29500,
            peers=peers,
            id=node.id,
            provider=node.provider,
            region=node.region,
            instance_type=node.offer.instance_type,
            hourly_rate=node.offer.usd_per_hour,
            accelerators=node.offer.accelerator_count,
            gpu_model=node.offer.accelerator,
            vcpus=node.offer.vcpus,
            memory_gb=node.offer.memory_gib,
        )

    # -- telling ---------------------------------------------------------------------------------------------------

    def _started(self, entry: _Entry, rank: int) -> None:
        if self.context.wants(events.TaskStarted):
            self.context.emit(
                events.TaskStarted(
                    task=entry.name, index=entry.number, attempt=entry.attempt, node=rank, worker=rank
                )
            )

    def _finished(self, entry: _Entry, outcome: Outcome) -> None:
        if self.context.wants(events.TaskFinished):
            self.context.emit(events.TaskFinished(report=_report(entry, outcome)))
        entry.sink.done(entry.index, outcome)

    def _cancelled(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            error = TaskCancelled(f"{entry.name} was cancelled before it was through")
            self._finished(entry, Outcome("cancelled", error=error, attempt=entry.attempt))


class _Entry:
    """One task and where its outcome goes."""

    def __init__(self, task: Task, index: int, sink: Sink, worker: int | None, ticket: object) -> None:
        self.task = task
        self.index = index
        self.sink = sink
        self.worker = worker
        self.ticket = ticket
        self.attempt = 1

    @property
    def name(self) -> str:
        return f"{self.task.name}[{self.number}]"

    @property
    def number(self) -> int:
        return self.sink.offset + self.index

    def run(self, rank: int, info: InstanceInfo) -> Outcome:
        fn: Any = self.task.fn
        fn = fn.local if getattr(fn, "__skyward_compute__", False) else fn
        token, began = placed.set(info), time.perf_counter()
        verdict, value, error = "succeeded", None, None
        try:
            value = fn(*self.task.args, **(self.task.kwargs or {}))
        except Exception as raised:
            verdict, error = "failed", raised
        except BaseException as raised:  # SystemExit and KeyboardInterrupt of a task stay its own
            verdict, error = "failed", _contained(raised)
        finally:
            placed.reset(token)
        seconds = time.perf_counter() - began
        return Outcome(
            verdict,  # type: ignore[arg-type]
            value,
            error,
            node=rank,
            worker=rank,
            attempt=self.attempt,
            duration_s=seconds,
        )


def _contained(error: BaseException) -> RemoteError:
    return RemoteError(f"{type(error).__name__}: {error}", type_name=type(error).__name__)


def _report(entry: _Entry, outcome: Outcome) -> TaskReport:
    return TaskReport(
        task=entry.name,
        index=entry.number,
        attempt=entry.attempt,
        verdict=outcome.verdict,
        node=outcome.node,
        worker=outcome.worker,
        duration_s=outcome.duration_s,
        error=outcome.error,
    )
