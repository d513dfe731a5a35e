"""The process that runs tasks on an instance. Standard library (and cloudpickle, when a value needs it) only.

One worker runs one task at a time, on its main thread, in the user's environment. It reads chunks of tasks from its
agent and takes one token from a pipe before each task: a task whose token the agent has taken back is not
started. Every outcome is written to a pipe before the next task begins (the last one of a chunk to the socket that says so),
so that the agent can collect it even when this process dies in the next instant.
"""

from __future__ import annotations

import fcntl
import io
import marshal
import os
import select
import struct
import sys
import time
import zlib

from skyward.remote import wire
from skyward.remote.node.lean import from_json, signal, to_json
from skyward.remote.node.unpack import unpack

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    import mmap
    import pickle
    import traceback
    import types
    from collections.abc import Sequence
    from typing import Any

    # header, tasks, from which up to before which of them to run, payload
    Work = tuple[dict[str, Any], Sequence[int], int, int, bytes]

NOTIFY_EVERY_S = 0.002
"""How often the agent is woken while quick tasks follow each other, seconds."""
REST_S = 50e-6
"""How long what has been told goes before tidying up, seconds."""
READ_AHEAD_S = 0.002
"""How often it is looked whether more of a value has arrived, seconds."""
READ_BYTES = 1 << 20
STALLED_S = 5.0
"""A value of which nothing has come for so long is read when it is complete, seconds."""
TEXT_CAP = 64 << 10
"""How much of an exception's text travels, characters."""
ATOMS = (type(None), bool, int, float, str, bytes)


class Terminated(BaseException):
    """Raised inside a task that has run out of time, so that its `finally` blocks run."""


class Channel:
    """The pipes between this worker and its agent, on descriptors a task is unlikely to touch."""

    def __init__(self, commands: int, tokens: int, results: int) -> None:
        self._commands = _out_of_reach(commands)
        self._tokens = _out_of_reach(tokens)
        self._results = _out_of_reach(results)
        os.set_blocking(self._tokens, False)
        os.set_blocking(self._results, False)
        self._notified_at = 0.0
        self._received = b""
        self._is_pipe_used = False
        self._header: tuple[bytes, dict[str, Any]] = (b"", {})

    def receive(self) -> Work | None:
        """The next chunk, or None when the agent is gone."""
        work = wire.WORK
        data = self._received or os.read(self._commands, 65536)
        if len(data) < work.size:
            data = self._complete(data, work.size)
            if not data:
                return None
        first, count, low, high, head, size = work.unpack_from(data)
        start = work.size + head
        if len(data) < start + size:
            data = self._complete(data, start + size)
            if not data:
                return None
        text, payload = data[work.size : start], data[start : start + size]
        self._received = data[start + size :]
        if text != self._header[0]:
            self._header = text, wire.read_header(text)
        header = self._header[1]
        return header, header.get("ids") or range(first, first + count), low, high, payload

    def _complete(self, data: bytes, n: int) -> bytes:
        """`data` and what follows it, when that is at least so much; nothing when it does not come."""
        growing = bytearray(data)
        while len(growing) < n:
            piece = os.read(self._commands, max(65536, n - len(growing)))
            if not piece:
                return b""
            growing += piece
        return bytes(growing)

    @property
    def has_message(self) -> bool:
        """Whether `receive` would not wait."""
        return bool(self._received or select.select([self._commands], [], [], 0)[0])

    def take_token(self) -> bool:
        """Whether the next task may start."""
        try:
            return len(os.read(self._tokens, 1)) == 1
        except BlockingIOError:
            return False

    def write(self, record: bytes) -> None:
        """Puts one record where it survives this process."""
        view = memoryview(record)
        while view:
            try:
                written = os.write(self._results, view)
                if written == len(view):
                    return
                view = view[written:]
            except BlockingIOError:
                self.notify(force=True)
                select.select([], [self._results], [])

    def notify(self, *, force: bool = False) -> None:
        """Wakes the agent for what is in the pipe now, unless that was done just now."""
        self._is_pipe_used = True
        now = time.monotonic()
        if force or now - self._notified_at >= NOTIFY_EVERY_S:
            self._notified_at = now
            os.write(self._commands, b"n")

    def tell(self, what: bytes) -> None:
        self._notified_at = time.monotonic()
        os.write(self._commands, what)

    def rest(self) -> None:
        """Waits for the next chunk, for a moment: who was just woken may have to run on this very processor."""
        select.select([self._commands], [], [], REST_S)

    def finish(self, record: bytes) -> None:
        """Tells the last outcome of a chunk, in the same breath as that it is the last, and whether there is more in the pipe."""
        if len(record) > wire.RECORD_DONE:
            self.write(record)
            self._is_pipe_used = False
            self.tell(b"d")
        else:
            letters = b"nf" if self._is_pipe_used else b"f"
            self._is_pipe_used = False
            self._notified_at = time.monotonic()
            os.write(self._commands, letters + record)


class Output(io.RawIOBase):
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


class Surroundings:
    """What a task may change about its process, put back after each one."""

    def __init__(self) -> None:
        self._cwd = os.getcwd()
        self._environ = dict(os.environ)
        self._raw_environ = dict(_raw_environ())
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        self._handlers = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
        self._spare = [_out_of_reach(os.dup(number)) for number in (0, 1, 2)]
        # A mark on what is open there: asking for it takes a third of the time of asking which file it is.
        self._pid = os.getpid()
        for number in (0, 1, 2):
            fcntl.fcntl(number, fcntl.F_SETOWN, self._pid)
        self._keep_children = bool(os.environ.get("SKYWARD_KEEP_CHILDREN"))

    def restore(self) -> None:
        try:
            if os.getcwd() != self._cwd:
                os.chdir(self._cwd)
        except OSError:
            os.chdir(self._cwd)
        if _raw_environ() != self._raw_environ:
            os.environ.clear()
            os.environ.update(self._environ)
        os.umask(self._umask)
        if signal.pthread_sigmask(signal.SIG_BLOCK, ()) != self._mask:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._handlers:
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
        for descriptor in (0, 1, 2):
            try:
                is_same = fcntl.fcntl(descriptor, fcntl.F_GETOWN) == self._pid
            except OSError:
                is_same = False
            if not is_same:
                os.dup2(self._spare[descriptor], descriptor)
        if not self._keep_children:
            _end_children()


class Worker:
    """Runs chunks of tasks until its agent goes away."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.pid = os.getpid()
        self.channel = Channel(settings["commands"], settings["tokens"], settings["results"])
        self.current = 0
        self._is_equipped = False
        self._blobs = settings["blobs"]
        self._spool = settings["spool"]
        self._result_cap = settings.get("result_cap") or 0
        self._functions: dict[str, Any] = {}
        self._values: dict[tuple[str, str], Any] = {}
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
                self._read_ahead(header["digest"], header["total"])

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
            function = self._functions.get(header["fn"]) or self._function(header["fn"])
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
        global mmap, pickle, traceback, types
        import mmap
        import pickle
        import traceback
        import types

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
            args, kwargs = self._arguments(call, data)
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

    # -- what came over the wire --

    def _function(self, digest: str) -> Any:
        with open(os.path.join(self._blobs, digest), "rb") as file:
            function = self._functions[digest] = load_function(file.read())
        return function

    def _arguments(self, call: dict[str, Any], data: bytes) -> tuple[Any, dict[str, Any]]:
        buffers = [self._buffer(digest) for digest in call.get("buffers", ())]
        args, kwargs = pickle.loads(data, buffers=buffers)
        for key, reference in call.get("long", ()):
            args = list(args) if type(args) is tuple else args
            place = args if isinstance(key, int) else kwargs
            same = reference.get("same")  # one object that is given twice is made once
            if same is None:
                place[key] = self._value(reference)
            else:
                place[key] = args[same] if isinstance(same, int) else kwargs[same]
        return args, kwargs

    def _value(self, reference: dict[str, Any]) -> Any:
        digest, form = reference["digest"], reference["form"]
        if form == "pickle":
            with open(os.path.join(self._blobs, digest), "rb") as file:
                return pickle.load(file, buffers=[self._buffer(one) for one in reference["buffers"]])
        if (digest, form) not in self._values:
            data = self._values.get((digest, "bytes"))
            if data is None:
                with open(os.path.join(self._blobs, digest), "rb") as file:
                    data = file.read()
            if form == "bytearray":
                return bytearray(data)
            self._keep(digest, form, data.decode("utf-8", "surrogatepass") if form == "str" else data)
        return self._values[digest, form]

    def _keep(self, digest: str, form: str, value: bytes | str) -> None:
        """Immutable, so tasks may share it; one is kept, because a fan-out shares one."""
        self._values.clear()
        self._values[digest, form] = value

    def _read_ahead(self, digest: str, total: int) -> None:
        """Reads a value while it is still arriving, unless there is something better to do before it is complete."""
        try:
            file = open(os.path.join(self._blobs, digest + ".part"), "rb", buffering=0)  # noqa: SIM115 - closed below
        except OSError:
            return
        value = io.BytesIO(bytes(total))  # gives its bytes away without copying them
        grown_at, filled = time.monotonic(), 0
        with file, value.getbuffer() as target:
            while filled < total:
                count = file.readinto(target[filled : filled + READ_BYTES]) or 0
                filled += count
                now = time.monotonic()
                if count:
                    grown_at = now
                elif now - grown_at > STALLED_S:
                    return
                else:
                    time.sleep(READ_AHEAD_S)
                if self.channel.has_message and os.fstat(file.fileno()).st_size < total:
                    return
        self._keep(digest, "bytes", value.getvalue())

    def _buffer(self, digest: str) -> Any:
        """A private, writable view of a blob: pages are copied only where the task writes."""
        with open(os.path.join(self._blobs, digest), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def _on_sigterm(self, number: int, frame: Any) -> None:
        if self._running:
            self._running = False
            raise Terminated
        os._exit(128 + number)


class Runtime:
    """Where tasks find the parts of Skyward, and cloudpickle: the latter came with us, and the rest is unpacked when it
    is asked for, or could be by processes that a task starts. One of the importers of `sys.meta_path`."""

    ASKING = ("skyward", "multiprocessing.spawn")

    def __init__(self, directory: str, codes: dict[str, bytes]) -> None:
        self._directory = directory
        self._codes = codes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in self._codes:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self, is_package=name == "cloudpickle", origin=f"<skyward {name}>")  # type: ignore[arg-type]
        if name in self.ASKING:
            try:
                unpack(f"{self._directory}.zip", self._directory)
            except OSError as error:
                raise NoRoom(f"the runtime cannot be unpacked to {self._directory}: {error}") from None
            sys.path_importer_cache.pop(self._directory, None)  # it may have been looked for in vain
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(marshal.loads(zlib.decompress(self._codes[module.__name__])), module.__dict__)


class ResultTooLarge(Exception):
    """The result is over the cap; refused before it travels."""


class CannotTravel(Exception):
    """A result cannot be pickled; the text says which part of it."""


class NoRoom(Exception):
    """The instance has no place to keep a result until it is fetched."""


_OURS: dict[type[BaseException], str] = {
    CannotTravel: "unpicklable",
    ResultTooLarge: "too-large",
    NoRoom: "no-room",
}


def load_function(blob: bytes) -> Any:
    """The function of a blob: `R` + JSON [module, qualified name], or `V` + a cloudpickle."""
    if blob[:1] == b"V":
        return _unwrap(pickle.loads(blob[1:]))
    module_name, qualified_name = from_json(blob[1:].decode("utf-8", "surrogatepass"))
    __import__(module_name)
    found: Any = sys.modules[module_name]
    for name in qualified_name.split("."):
        found = getattr(found, name)
    return _unwrap(found)


def _unwrap(function: Any) -> Any:
    return function.__wrapped__ if getattr(function, "__skyward_compute__", False) else function


def dump(value: Any, label: str) -> list[Any]:
    """`value` as [pickle, buffer, ...]; long buffers are not copied.

    Raises:
        CannotTravel: names the path to what cannot be pickled.
    """
    if type(value) in ATOMS:
        return [pickle.dumps(value, 5)]
    buffers: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= wire.INLINE:
            return True
        buffers.append(raw)
        return False

    try:
        return [pickle.dumps(value, 5, buffer_callback=keep), *buffers]
    except Exception:
        buffers.clear()
    try:
        import cloudpickle

        return [cloudpickle.dumps(value, 5, buffer_callback=keep), *buffers]
    except Exception as error:
        raise CannotTravel(_explain(value, label, error)) from None


def _explain(value: Any, label: str, error: BaseException) -> str:
    try:
        from skyward.remote.pickling import explain_unpicklable

        return f"{explain_unpicklable(value, label)}: {error}"
    except Exception:
        return f"{label} -> {type(value).__module__}.{type(value).__qualname__}: {error}"


def describe(error: BaseException) -> bytes:
    """An exception as data: u32 length, JSON that tells of it, and its pickle where one can be made and read."""
    frames = traceback.TracebackException(type(error), error, _without_us(error.__traceback__), compact=True)
    try:
        text = "".join(frames.format())
    except Exception:
        text = f"{type(error).__name__}: (its text cannot be made)\n"
    if len(text) > TEXT_CAP:
        text = text[: TEXT_CAP // 2] + "\n  ... cut ...\n" + text[-TEXT_CAP // 2 :]
    story = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": _text_of(error)[:TEXT_CAP],
        "traceback": text,
        "exception": isinstance(error, Exception),
        "kind": _OURS.get(type(error), ""),
    }
    head = to_json(story).encode()
    return struct.pack("<I", len(head)) + head + _pickled(error)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


def _pickled(error: BaseException) -> bytes:
    if not isinstance(error, Exception) or type(error) in _OURS:
        return b""
    try:
        data = pickle.dumps(error, 5)
    except Exception:
        try:
            import cloudpickle

            data = cloudpickle.dumps(error, 5)
        except Exception:
            return b""
    try:
        pickle.loads(data)
    except BaseException:
        return b""
    return data if len(data) <= wire.INLINE else b""


def _without_us(trace: types.TracebackType | None) -> types.TracebackType | None:
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return trace


def _run_coroutine(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass


def _raw_environ() -> Any:
    """The mapping behind os.environ where there is one: comparing it takes 0.3 us instead of 20."""
    return getattr(os.environ, "_data", os.environ)


def _out_of_reach(descriptor: int) -> int:
    """The same file on a high number, not inherited, so that tidy-minded tasks do not close it."""
    for floor in (900, 200, 50):
        try:
            high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor)
        except OSError:
            continue
        os.close(descriptor)
        return high
    return descriptor


def _end_children() -> None:
    """Ends what the task left running, unless it is multiprocessing's own tracker."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    spared = getattr(tracker, "_pid", None)
    for _ in range(20):  # children of what dies come to us: look again
        children = [pid for pid in _children() if pid != spared]
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def _children() -> list[int]:
    found = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children") as file:
                found += [int(pid) for pid in file.read().split()]
    except OSError:
        pass
    return found


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
        Output(worker, wire.RECORD_OUT, 1), "utf-8", "backslashreplace", line_buffering=True
    )
    sys.stderr = io.TextIOWrapper(
        Output(worker, wire.RECORD_ERR, 2), "utf-8", "backslashreplace", line_buffering=True
    )
    worker.serve()
    os._exit(0)
