"""One command from its start to its end, on any connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from skyward.errors import ConnectionLost
from skyward.remote.connection import Completed, Stream

STDERR_BYTES = 1 << 20
"""How much of a command's standard error `run` keeps: its end."""


class CommandStream(Stream, Protocol):
    def stderr(self) -> bytes: ...


def run_to_end(
    start: Callable[[str, int], CommandStream], command: str, *, stdin: bytes, timeout_s: float, where: str
) -> Completed:
    """Starts `command`, feeds it, and collects what it says.

    Raises:
        ConnectionLost: it did not end within `timeout_s`, or how it ended is unknown.
    """
    deadline = time.monotonic() + timeout_s
    stream = start(command, STDERR_BYTES)
    watchdog = threading.Timer(timeout_s, stream.close)
    watchdog.daemon = True
    watchdog.start()
    try:
        _feed(stream, stdin)
        stdout = b"".join(iter(lambda: stream.read(1 << 20), b""))
        status = stream.exit_status(max(0.0, deadline - time.monotonic()))
    finally:
        watchdog.cancel()
        stream.close()
    if status is not None:
        return Completed(exit_status=status, stdout=stdout, stderr=stream.stderr())
    if time.monotonic() >= deadline:
        raise ConnectionLost(f"{where}: the command did not end within {timeout_s:g} s", facts=[command])
    raise ConnectionLost(f"{where}: the connection broke while a command ran", facts=[command])


def _feed(stream: Stream, stdin: bytes) -> None:
    """Writes beside the reader, because a command may talk before it has listened to all."""
    if not stdin:
        stream.close_write()
        return

    def write() -> None:
        try:
            stream.write(stdin)
        except ConnectionLost:
            pass  # the command need not read its input; its exit status tells
        stream.close_write()

    threading.Thread(target=write, name="skyward-stdin", daemon=True).start()
