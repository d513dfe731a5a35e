"""One worker process as its agent sees it. Standard library only, any Python >= 3.8: it runs on instances.

A slot hands chunks of tasks to its worker, collects their records, takes back what has not started, and knows which
task was running when the worker dies.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios
import time

from skyward.remote import wire
from skyward.remote.node.descriptors import PIPE_SIZE, widen
from skyward.remote.node.lean import signal, socket, to_json
from skyward.remote.node.process import oom_kills, send_signal, signal_name, start_process

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

GRACE_S = 1.0
"""Between the polite and the final signal, seconds."""
TAIL = 4096
"""How much of what a worker printed is kept for its obituary, bytes."""
START_S = 60.0
"""How long a worker may take to start, seconds."""

WORKER = (
    "import marshal, sys; it = {'parts': marshal.load(open(sys.argv[1], 'rb'))}; "
    "exec(compile(it['parts']['load'], '<skyward load>', 'exec'), it); it['worker']()"
)
"""What a worker's Python is told: argv is a file of our modules (see `program`), and its settings."""


class Chunk:
    """Tasks of one function that one worker runs one after the other. What it needs for that is in `body`, a header and
    a payload that are passed on unread."""

    __slots__ = ("body", "count", "first", "header", "high", "id", "ids", "low", "needs", "timeout", "worker")

    def __init__(self, header: Dict[str, Any], number: int, first: int, count: int, body: memoryview) -> None:
        self.header = header
        self.body = body
        self.id = number
        self.first = first
        self.count = self.high = count
        self.low = 0
        self.ids: Sequence[int] = header.get("ids") or range(first, first + count)
        self.timeout = header.get("timeout")
        self.worker = header.get("worker")
        self.needs: Set[str] = set()
        """What has to come before it can be run."""

    def part(self, low: int, high: int) -> Chunk:
        """The same chunk, from its task `low` up to before `high`."""
        chunk = Chunk(self.header, self.id, self.first, self.count, self.body)
        chunk.low, chunk.high = low, high
        return chunk

    def takes_whole(self, digest: str) -> bool:
        """Whether one of its tasks gets this blob as one value of bytes."""
        return digest in self.header.get("wholes", ())

    @property
    def unstarted(self) -> Sequence[int]:
        return self.ids[self.low : self.high]


class Slot:
    """One worker process: started, fed, watched, and replaced when it dies."""

    def __init__(
        self,
        index: int,
        worker: int,
        spawn: Dict[str, Any],
        watch: Callable[..., None],
        unwatch: Callable[[Any], None],
    ) -> None:
        self.index = index
        self.worker = worker
        self.state = "dead"
        self.chunk: Optional[Chunk] = None
        self.finished = 0  # tasks of the chunk whose records have come
        self.failures = 0
        self.tail = b""
        self._spawn = spawn
        self._watch = watch
        self._unwatch = unwatch
        self._partial = b""
        self._letters = b""
        self._ending = ""
        self._kill_at: Optional[float] = None
        self._progress = (0, 0.0)  # tokens left, and since when
        self._oom_before = 0
        self.pid = 0
        self._has_ended = True

    # -- life and death --

    def spawn(self) -> None:
        """Starts the process; it reports by itself when it is ready."""
        ours, theirs = socket.socketpair()
        self._token_read, self._token_write = os.pipe()
        self._result_read, result_write = os.pipe()
        self._out_read, out_write = os.pipe()
        widen(self._result_read)
        widen(self._token_read)
        for descriptor in (self._token_read, self._token_write, self._result_read, self._out_read):
            os.set_blocking(descriptor, False)
        ours.setblocking(False)
        self.commands = ours
        self._unsent, self._is_writing = b"", False
        self._letters = b""
        self._partial = self.tail = b""
        self._ending, self._kill_at = "", None
        settings = dict(
            self._spawn["settings"], commands=theirs.fileno(), tokens=self._token_read, results=result_write
        )
        self._oom_before = oom_kills()
        self.state, self.born_at, self.pid = "starting", time.monotonic(), 0
        arguments = [self._spawn["python"], "-u", "-c", WORKER, self._spawn["modules"], to_json(settings)]
        try:
            self.pid = start_process(
                arguments, env=self._spawn["env"], cwd=self._spawn["cwd"], output=out_write,
                inherited=(theirs.fileno(), self._token_read, result_write),
            )  # fmt: skip
            self._has_ended = False
        finally:
            theirs.close()
            os.close(result_write)
            os.close(out_write)
        self._watch(self.commands, self)
        self._watch(self._out_read, self)

    def poll_death(self) -> Optional[Dict[str, Any]]:
        """How the process ended, or None while it runs."""
        if self._has_ended:
            return None
        try:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        except ChildProcessError:
            pid, status, usage = self.pid, 0, None
        if pid == 0:
            return None
        self._has_ended = True
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        story = {
            "exit": None if number else os.WEXITSTATUS(status),
            "signal": signal_name(number) if number else None,
            "peak_rss": usage.ru_maxrss * 1024 if usage else None,
            "reason": self._ending,
        }
        if number == signal.SIGKILL and not self._ending and oom_kills() > self._oom_before:
            story["reason"] = "out-of-memory"
        return story

    def end(self, reason: str, *, grace: bool = True) -> None:
        """Kills the worker and everything it started; `reason` goes into its obituary."""
        if self._has_ended:
            return
        self._ending = self._ending or reason
        if grace:
            self._kill_at = time.monotonic() + GRACE_S
            send_signal(self.pid, signal.SIGTERM, group=False)
            send_signal(self.pid, signal.SIGCONT, group=False)
        else:
            send_signal(self.pid, signal.SIGKILL, group=True)

    def bury(self) -> None:
        """Ends what is left of the process group and gives the descriptors back."""
        if self.pid:
            send_signal(self.pid, signal.SIGKILL, group=True)
        self.state = "dead"
        for one in (self.commands, self._out_read):
            self._unwatch(one)
        self.commands.close()
        for descriptor in (self._token_read, self._token_write, self._result_read, self._out_read):
            os.close(descriptor)

    # -- work --

    def assign(self, chunk: Chunk) -> None:
        """Gives the worker a chunk; only for an idle worker."""
        self.chunk, self.finished, self.state = chunk, 0, "busy"
        count = chunk.high - chunk.low
        os.write(self._token_write, b"t" * count)
        self._progress = (count, time.monotonic())
        head = chunk.header["head"]
        work = wire.WORK.pack(chunk.first, chunk.count, chunk.low, chunk.high, head, len(chunk.body) - head)
        self._unsent = b"".join((self._unsent, work, chunk.body))
        self.send()

    def announce(self, digest: str, total: int) -> None:
        """Tells an idle worker of a long value that is arriving."""
        head = wire.write_header({"digest": digest, "total": total})
        self._unsent += wire.WORK.pack(0, 0, 0, 0, len(head), 0) + head
        self.send()

    def send(self) -> None:
        """Writes what the command socket takes now; the rest goes when it can."""
        while self._unsent:
            try:
                sent = self.commands.send(self._unsent)
            except BlockingIOError:
                break
            except OSError:
                self._unsent = b""
                return
            self._unsent = self._unsent[sent:]
        if bool(self._unsent) != self._is_writing:
            self._is_writing = bool(self._unsent)
            self._watch(self.commands, self, writing=self._is_writing)

    def read_commands(self) -> Optional[Tuple[bytes, bytes]]:
        """What the worker said, in letters: r(eady), n(ew records in the pipe), d(one), f(inished: done, and the record of the
        last task is here). Then that record. None: it has closed its end."""
        try:
            said = self.commands.recv(2 * wire.RECORD_DONE)
        except BlockingIOError:
            return b"", b""
        except OSError:
            return None
        if not said:
            return None
        said = self._letters + said
        start = said.find(b"f") + 1
        if not start:
            return said, b""
        end = start + wire.RECORD.size
        if len(said) >= end:
            end += wire.RECORD.unpack_from(said, start)[0]
        self._letters = said if len(said) < end else b""
        return (b"", b"") if self._letters else (said[:start] + said[end:], said[start:end])

    def last_record(self) -> bytes:
        """The one that a worker, now dead, told together with the end of its chunk, if nobody has heard it yet."""
        for _ in range(64):
            said = self.read_commands()
            if said is None or said[1]:
                return said[1] if said else b""
        return b""

    def read_output(self) -> bytes:
        """What was written to descriptors 1 and 2 themselves, by C code or child processes."""
        pieces = []
        for _ in range(16):
            try:
                piece = os.read(self._out_read, 65536)
            except (BlockingIOError, OSError):
                break
            if not piece:
                self._unwatch(self._out_read)
                break
            pieces.append(piece)
            if len(piece) < 4096:
                break
        return b"".join(pieces)

    def read_records(self) -> List[Tuple[int, int, bytes]]:
        """What has come through the pipe, see `split`."""
        pieces = [self._partial]
        for _ in range(64):
            try:
                piece = os.read(self._result_read, PIPE_SIZE)
            except (BlockingIOError, OSError):
                break
            if not piece:
                break
            pieces.append(piece)
            if len(piece) < 65536:
                break
        self._partial = b""
        return self.split(b"".join(pieces))

    def split(self, data: bytes) -> List[Tuple[int, int, bytes]]:
        """Records in order: (kind, task, text) of what was printed, and in between (-1, 0, records) of outcomes, as they are."""
        found: List[Tuple[int, int, bytes]] = []
        unpack, head, size = wire.RECORD.unpack_from, wire.RECORD.size, len(data)
        begin = position = 0
        while position + head <= size:
            length, task, kind, _ = unpack(data, position)
            end = position + head + length
            if end > size:
                break
            if kind == wire.RECORD_OUT or kind == wire.RECORD_ERR:
                if begin < position:
                    found.append((-1, 0, data[begin:position]))
                found.append((kind, task, data[position + head : end]))
                begin = end
            elif kind != wire.RECORD_COMING:
                self.finished += 1
            position = end
        if begin < position:
            found.append((-1, 0, data[begin:position]))
        if position < size:
            self._partial = data[position:]
        return found

    @property
    def python(self) -> str:
        """The Python that its workers are started with."""
        python: str = self._spawn["python"]
        return python

    @property
    def begun_at(self) -> float:
        """When the chunk was given to the worker; later, if its tasks have a time-out and one of them has begun since."""
        return self._progress[1]

    def tokens_left(self) -> int:
        """Tasks of the chunk that may still start."""
        return int.from_bytes(fcntl.ioctl(self._token_read, termios.FIONREAD, bytes(4)), sys.byteorder)

    def take_back(self, most: int) -> Optional[Chunk]:
        """Unstarted tasks from the end of the chunk, at most so many. Taken tokens cannot be used by the worker."""
        chunk = self.chunk
        if chunk is None or most <= 0:
            return None
        try:
            taken = len(os.read(self._token_read, most))
        except (BlockingIOError, OSError):
            return None
        if not taken:
            return None
        part = chunk.part(chunk.high - taken, chunk.high)
        chunk.high -= taken
        return part

    @property
    def current(self) -> Optional[int]:
        """The task that runs now, or None between tasks."""
        chunk = self.chunk
        if chunk is None:
            return None
        begun = chunk.high - chunk.low - self.tokens_left()
        return chunk.ids[chunk.low + begun - 1] if begun > self.finished else None

    @property
    def next(self) -> Optional[int]:
        """The task that runs now, or that the worker should begin."""
        chunk = self.chunk
        if chunk is None or chunk.low + self.finished >= chunk.high:
            return None
        return chunk.ids[chunk.low + self.finished]

    def split_at_death(self) -> Tuple[Optional[int], Optional[Chunk]]:
        """(the task that died with the worker, the tasks that had not started); call after the last records."""
        chunk = self.chunk
        if chunk is None:
            return None, None
        begun = chunk.high - chunk.low - self.tokens_left()
        victim = chunk.ids[chunk.low + self.finished] if begun > self.finished else None
        rest = chunk.part(chunk.low + begun, chunk.high) if chunk.low + begun < chunk.high else None
        return victim, rest

    def tick(self, now: float) -> None:
        """Enforces time-outs: of the task that runs, of a worker that starts, of a grace that is over."""
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            send_signal(self.pid, signal.SIGKILL, group=True)
        if self.state == "starting" and now - self.born_at > START_S:
            self.end("start-timeout", grace=False)
        chunk = self.chunk
        if chunk is None or chunk.timeout is None or self._ending:
            return
        left = self.tokens_left()
        if left != self._progress[0]:
            self._progress = (left, now)
        elif now - self._progress[1] > chunk.timeout:
            self.end("timeout")

    def keep_tail(self, data: bytes) -> None:
        self.tail = (self.tail + data)[-TAIL:]
