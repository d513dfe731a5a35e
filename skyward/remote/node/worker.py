"""The process that runs tasks on an instance. Standard library (and cloudpickle, when a value needs it) only.

One worker runs one task at a time, on its main thread, in the user's environment. It reads chunks of tasks from its
agent and takes one token from a pipe before each task: a task whose token the agent has taken back is not
started. Every outcome is written to a pipe before the next task begins (the last one of a chunk to the socket that says so),
so that the agent can collect it even when this process dies in the next instant.
"""

from __future__ import annotations

import io
import os
import sys
import time

from skyward.remote import wire
from skyward.remote.node import inputs, outcomes
from skyward.remote.node.channel import Channel
from skyward.remote.node.inputs import Inputs
from skyward.remote.node.lean import from_json, signal, to_json
from skyward.remote.node.outcomes import NoRoom, ResultTooLarge, describe, dump
from skyward.remote.node.runtime import Runtime
from skyward.remote.node.surroundings import Surroundings

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    import pickle
    import types
    from collections.abc import Sequence
    from typing import Any

    from skyward.remote.node.channel import Work


class Terminated(BaseException):
    """Raised inside a task that has run out of time, so that its `finally` blocks run."""


class Printer(io.RawIOBase):
    """What replaces sys.stdout and sys.stderr: text goes to the agent tagged with the task that wrote it."""

    def __init__(self, worker: Worker, kind: int, descriptor: int) -> None:
        self._worker = worker
        self._kind = kind
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        worker = self._worker
        if os.getpid() != worker.pid:  # a forked child shares the pipe: let it use its own descriptor
            return os.write(self._descriptor, view)
        for start in range(0, len(view), 16384):
            piece = view[start : start + 16384]
            head = wire.RECORD.pack(len(piece), worker.current, self._kind, 0.0)
            worker.channel.write(head + piece)
        worker.channel.notify()
        return len(view)


class Worker:
    """Runs chunks of tasks until its agent goes away."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.pid = os.getpid()
        self.channel = Channel(settings["commands"], settings["tokens"], settings["results"])
        self.current = 0
        self._is_equipped = False
        self._inputs = Inputs(settings["blobs"], self.channel)
        self._spool = settings["spool"]
        self._result_cap = settings.get("result_cap") or 0
        self._running = False
        self._in_chunk = self._is_last = False
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def serve(self) -> None:
        self.channel.tell(b"r")
        surroundings = Surroundings()
        while True:
            message = self.channel.receive()
            if message is None:
                return
            header, ids, *_ = message
            if ids:
                self._run_chunk(message, surroundings)
            else:
                self._inputs.read_ahead(header["digest"], header["total"])

    # -- one chunk --

    def _run_chunk(self, chunk: Work, surroundings: Surroundings) -> None:
        self._in_chunk, self._is_last = True, False
        try:
            self._run_tasks(chunk, surroundings)
        finally:
            if self._in_chunk:
                self._in_chunk = False
                self.channel.tell(b"d")

    def _run_tasks(self, chunk: Work, surroundings: Surroundings) -> None:
        header, ids, low, high, payload = chunk
        try:
            self._equip()
            function = self._inputs.functions.get(header["fn"]) or self._inputs.function(header["fn"])
            rows = pickle.loads(payload) if header["batch"] else None
        except BaseException as error:
            self._fail_all(ids[low:high], error)
            return
        position = 0
        lengths = header.get("lengths")
        for index in range(len(ids)):
            start = position
            if lengths is not None:
                position += lengths[index]
            if index < low:
                continue
            if index >= high or not self.channel.take_token():
                return
            task = self.current = ids[index]
            self._is_last = index == high - 1
            if rows is not None:
                self._run(task, function, rows[index], {}, surroundings)
            else:
                self._run_call(task, function, header["calls"][index], payload[start:position], surroundings)

    def _equip(self) -> None:
        """Loads what running tasks takes: with the first of them, because a machine may be ready without, and before
        it begins, because it might leave nothing that can be imported."""
        if self._is_equipped:
            return
        global pickle, types
        import pickle
        import types

        inputs.equip()
        outcomes.equip()
        self._is_equipped = True

    def _fail_all(self, ids: Sequence[int], error: BaseException) -> None:
        for task in ids:
            if not self.channel.take_token():
                return
            self._finish(task, wire.RECORD_ERROR, describe(error), 0.0)

    def _run_call(
        self, task: int, function: Any, call: dict[str, Any], data: bytes, surroundings: Surroundings
    ) -> None:
        try:
            args, kwargs = self._inputs.arguments(call, data)
        except BaseException as error:
            self._finish(task, wire.RECORD_ERROR, describe(error), 0.0)
            return
        self._run(task, function, args, kwargs, surroundings)

    def _run(self, task: int, function: Any, args: Any, kwargs: Any, surroundings: Surroundings) -> None:
        started = time.perf_counter()
        error: BaseException | None = None
        value = None
        try:
            self._running = True
            value = function(*args, **kwargs)
            if type(value) is types.CoroutineType:
                value = _run_coroutine(value)
            self._running = False
        except BaseException as raised:
            self._running = False
            error = raised
        seconds = time.perf_counter() - started
        if os.getpid() != self.pid:  # a child forked by the task came back out of it
            os._exit(0)
        if type(error) is Terminated:
            sys.stderr.flush()
            os._exit(128 + signal.SIGTERM)
        _flush()
        if error is not None:
            self._finish(task, wire.RECORD_ERROR, describe(error), seconds)
            error.__traceback__ = None
        elif value is None:
            self._finish(task, wire.RECORD_NONE, b"", seconds)
        else:
            self._finish_value(task, value, seconds, getattr(function, "__qualname__", "the task"))
        if self._is_last:
            self.channel.rest()
        surroundings.restore()

    # -- outcomes --

    def _finish(self, task: int, kind: int, body: bytes, seconds: float) -> None:
        record = wire.RECORD.pack(len(body), task, kind, seconds) + body
        if self._is_last:
            self._in_chunk = False
            self.channel.finish(record)
        else:
            self.channel.write(record)
            self.channel.notify()

    def _finish_value(self, task: int, value: Any, seconds: float, name: str) -> None:
        try:
            if type(value) in (bytes, bytearray) and len(value) > wire.INLINE:
                self._finish_long(task, type(value).__name__, [value], seconds)
                return
            parts = dump(value, f"result of {name}")
            if sum(map(len, parts)) <= wire.INLINE and len(parts) == 1:
                self._finish(task, wire.RECORD_VALUE, parts[0], seconds)
            else:
                self._finish_long(task, "pickle", parts, seconds)
        except BaseException as error:
            self._finish(task, wire.RECORD_ERROR, describe(error), seconds)

    def _finish_long(self, task: int, form: str, parts: list[Any], seconds: float) -> None:
        sizes = [len(part) for part in parts]
        if self._result_cap and sum(sizes) > self._result_cap:
            raise ResultTooLarge(f"the result is {sum(sizes)} bytes, over the cap of {self._result_cap}")
        path = os.path.join(self._spool, f"r{task}")
        body = to_json({"form": form, "parts": sizes}).encode()
        try:
            with open(path, "wb", buffering=0) as file:
                # Told before it is written: the client fetches what is there while the rest is being written.
                self.channel.write(wire.RECORD.pack(len(body), task, wire.RECORD_COMING, seconds) + body)
                self.channel.notify(force=True)
                for part in parts:
                    view = memoryview(part)
                    while view:
                        view = view[file.write(view[: 1 << 20]) :]
        except OSError as error:
            if os.path.exists(path):
                os.unlink(path)
            raise NoRoom(f"the result of {sum(sizes)} bytes does not fit in {self._spool}: {error}") from None
        self._finish(task, wire.RECORD_LONG, body, seconds)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        if self._running:
            self._running = False
            raise Terminated
        os._exit(128 + number)


def _run_coroutine(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def main(codes: dict[str, bytes]) -> None:
    """Entry point of the process; argv[2] is the settings as JSON. `codes` are modules for tasks, marshalled and
    compressed."""
    settings = from_json(sys.argv[2])
    sys.path[:1] = settings["sys_path"]
    if settings["runtime"]:
        sys.meta_path.insert(0, Runtime(settings["runtime"], codes))
    sys.argv = ["skyward-worker"]
    import faulthandler

    faulthandler.enable()
    worker = Worker(settings)
    sys.stdout = io.TextIOWrapper(
        Printer(worker, wire.RECORD_OUT, 1), "utf-8", "backslashreplace", line_buffering=True
    )
    sys.stderr = io.TextIOWrapper(
        Printer(worker, wire.RECORD_ERR, 2), "utf-8", "backslashreplace", line_buffering=True
    )
    worker.serve()
    os._exit(0)
