"""This machine, reached without SSH: commands are child processes behind the same protocol as remote ones."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from skyward.errors import ConnectionLost
from skyward.model.instance import Endpoint
from skyward.remote.connection import Completed
from skyward.remote.lull import hear, lull
from skyward.remote.running import run_to_end
from skyward.remote.tail import TAIL_BYTES, Tail

_PIPE_BYTES = 1 << 20
_READ_AT_ONCE = 1 << 20
_PATIENCE_S = 1.0
"""How long a command whose pipes were closed may take to notice, before its process group is ended."""
_TOGETHER_S = 0.2
"""How long the end of standard error may come after the end; a daemon left behind may hold it for ever."""


class LocalConnection:
    """Runs commands with `sh -c`, each in a session of its own, so that Ctrl-C here does not reach them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._streams: set[LocalStream] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def open(self, command: str) -> LocalStream:
        return self._start(command, TAIL_BYTES)

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return run_to_end(self._start, command, stdin=stdin, timeout_s=timeout_s, where=str(self.endpoint))

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            streams, self._streams = self._streams, set()
        for stream in streams:
            stream.close()
        deadline = time.monotonic() + 3 * _PATIENCE_S
        for stream in streams:
            stream.wait(deadline - time.monotonic())

    @property
    def is_alive(self) -> bool:
        return not self._is_closed

    def _start(self, command: str, stderr_bytes: int) -> LocalStream:
        with self._lock:
            if self._is_closed:
                raise ConnectionLost(f"{self.endpoint}: the connection is closed")
            stream = LocalStream(command, where=str(self.endpoint), stderr_bytes=stderr_bytes)
            self._streams = {known for known in self._streams if known.is_running} | {stream}
        return stream


class LocalStream:
    """One child process and its pipes. Closing it ends its process group if it does not end by itself."""

    def __init__(self, command: str, *, where: str, stderr_bytes: int = TAIL_BYTES) -> None:
        self._where = where
        self._tail = Tail(stderr_bytes)
        self._process = _start_shell(command, where)
        self._stdin, self._stdout, self._stderr = map(
            _present, (self._process.stdin, self._process.stdout, self._process.stderr)
        )
        os.set_blocking(self._stdin.fileno(), False)
        self._reading, self._writing, self._closing = threading.Lock(), threading.Lock(), threading.Lock()
        self._is_closed = False
        # Closing a descriptor does not wake a thread that waits for it; the end of this pipe does.
        self._wake, self._waker = os.pipe()
        self._drain = threading.Thread(target=self._drain_stderr, name="skyward-stderr", daemon=True)
        self._drain.start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def read(self, n: int, /) -> bytes:
        with self._reading:
            data = self._read_from(self._stdout, n)
        if not data:
            self._drain.join(_TOGETHER_S)  # so that what was said on standard error is known too
        return data

    def on_data(self, callback: Callable[[bytes], None]) -> None:
        def pump() -> None:
            late = hear()
            try:
                while chunk := self.read(_READ_AT_ONCE):
                    callback(chunk)
                    lull(late)
                callback(b"")
            finally:
                lull(late)

        threading.Thread(target=pump, name="skyward-stdout", daemon=True).start()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        left = memoryview(data).cast("B")
        with self._writing:
            while left:
                if self._is_closed or self._stdin.closed:
                    raise ConnectionLost(f"{self._where}: the stream is closed")
                left = left[self._write_some(left) :]

    def try_write(self, data: bytes, /) -> bool:
        return False  # a pipe takes a part of it and leaves the rest

    def close_write(self) -> None:
        with self._writing:
            self._stdin.close()

    def close(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            os.close(self._waker)
        with self._writing:
            self._stdin.close()
        with self._reading:
            self._stdout.close()
        self._drain.join()
        os.close(self._wake)
        if self.is_running:
            threading.Thread(target=self._end_process, name="skyward-reap", daemon=True).start()

    def stderr_tail(self) -> str:
        return self._tail.text()

    def stderr(self) -> bytes:
        return self._tail.content()

    def exit_status(self, timeout_s: float = 5.0) -> int | None:
        status = self.wait(timeout_s)
        if status is not None:
            self._drain.join(_TOGETHER_S)
        return status

    def wait(self, timeout_s: float) -> int | None:
        try:
            status = self._process.wait(max(0.0, timeout_s))
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else 128 - status

    def _read_from(self, pipe: IO[bytes], n: int) -> bytes:
        if self._is_closed:
            return b""
        _wait_for((pipe, select.POLLIN), (self._wake, select.POLLIN))
        return b"" if self._is_closed else os.read(pipe.fileno(), min(n, _READ_AT_ONCE))

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._stdin.fileno(), data)
        except BlockingIOError:
            _wait_for((self._stdin, select.POLLOUT), (self._wake, select.POLLIN))
            return 0
        except OSError as error:
            raise ConnectionLost(f"{self._where}: the command does not read any more") from error

    def _drain_stderr(self) -> None:
        with self._stderr:
            while chunk := self._read_from(self._stderr, _READ_AT_ONCE):
                self._tail.feed(chunk)

    def _end_process(self) -> None:
        """The command sees its pipes closed; one that does not care is ended with all of its group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.wait(_PATIENCE_S) is not None:
                return
            try:
                os.killpg(self._process.pid, number)
            except (ProcessLookupError, PermissionError):
                pass
        self._process.wait()


def _start_shell(command: str, where: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            pipesize=_PIPE_BYTES,
        )
    except OSError as error:
        raise ConnectionLost(f"{where}: cannot start a command: {error.strerror}") from error


def _present(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # asked for with PIPE
    return pipe


def _wait_for(*interests: tuple[IO[bytes] | int, int]) -> None:
    poll = select.poll()
    for descriptor, events in interests:
        poll.register(descriptor, events)
    poll.poll()
