"""The pipes between a worker and its agent. Standard library only: it runs in the user's environment."""

from __future__ import annotations

import fcntl
import os
import select
import time

from skyward.remote import wire

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    # header, tasks, from which up to before which of them to run, payload
    Work = tuple[dict[str, Any], Sequence[int], int, int, bytes]

NOTIFY_EVERY_S = 0.002
"""How often the agent is woken while quick tasks follow each other, seconds."""
REST_S = 50e-6
"""How long what has been told goes before tidying up, seconds."""


class Channel:
    """The pipes between this worker and its agent, on descriptors a task is unlikely to touch."""

    def __init__(self, commands: int, tokens: int, results: int) -> None:
        self._commands = out_of_reach(commands)
        self._tokens = out_of_reach(tokens)
        self._results = out_of_reach(results)
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


def out_of_reach(descriptor: int) -> int:
    """The same file on a high number, not inherited, so that tidy-minded tasks do not close it."""
    for floor in (900, 200, 50):
        try:
            high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor)
        except OSError:
            continue
        os.close(descriptor)
        return high
    return descriptor
