"""The full output of workers, brought here from the nodes it was written on before it goes with them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from skyward.remote.link import Link

LINE_BYTES = 256 << 10
"""A line may be this long before its beginning is written without its end, bytes."""


def save_logs(
    links: Sequence[Link],
    directory: Path,
    *,
    room: int,
    deadline_s: float,
    redact: Callable[[str], str] = str,
) -> list[Path]:
    """Writes `n<node>-worker-<slot>.log` into `directory` for every worker that has printed something; gives the files.

    Each gets an equal part of `room` bytes and holds the last ones. What has not come within `deadline_s` is not waited
    for: then the file ends where it ends. But for secrets everything stays as it was printed.

    Raises:
        OSError: the directory cannot be made.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = [(link, slot) for link in links for slot in range(link.slots)]
    each = room // max(1, len(wanted))
    files = []
    for link, slot in wanted:
        file = _LogFile(directory / f"n{link.node}-worker-{slot}.log", redact)
        files.append(file)
        link.fetch_log(f"worker-{slot}.log", each, file.write, file.is_complete.set)
    deadline = time.monotonic() + deadline_s
    for file in files:
        file.is_complete.wait(max(0.0, deadline - time.monotonic()))
        file.close()
    with suppress(OSError):
        directory.rmdir()  # where nobody has printed anything
    return [file.path for file in files if file.is_there]


class _LogFile:
    """Takes bytes cut anywhere and writes whole lines, without secrets. Made with its first bytes; never raises: a disk that is
    full ends a log, not a run."""

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        self.path = path
        self.is_complete = threading.Event()
        self.is_there = False
        self._redact = redact
        self._rest = b""
        self._file: IO[bytes] | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def write(self, piece: Any) -> None:
        with self._lock:
            if self._is_over:
                return
            whole, newline, self._rest = (self._rest + bytes(piece)).rpartition(b"\n")
            self._put(whole + newline)
            if len(self._rest) > LINE_BYTES:
                self._put(self._rest)
                self._rest = b""

    def close(self) -> None:
        with self._lock:
            self._put(self._rest)
            self._is_over = True
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()

    def _put(self, data: bytes) -> None:
        if not data or self._is_over:
            return
        try:
            if self._file is None:
                flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW
                self._file = os.fdopen(os.open(self.path, flags, 0o600), "wb")
                self.is_there = True
            text = data.decode("utf-8", "surrogateescape")
            self._file.write(self._redact(text).encode("utf-8", "surrogateescape"))
        except OSError:
            self._is_over = True
