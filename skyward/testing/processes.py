"""Which processes belong to a machine: those in its process namespace, or those that bear its mark."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def space_of(pid: int | str) -> str | None:
    """The process namespace of a process, or of "self"; None where it is gone or cannot be looked at."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def in_space(space: str, init: int) -> list[Any]:
    """The `psutil.Process` values of a namespace, but for its first process."""
    import psutil

    own = (process for process in psutil.process_iter() if space_of(process.pid) == space)
    return [process for process in own if process.pid != init]


def bearing(mark: bytes) -> list[Any]:
    """The `psutil.Process` values that have `mark` (b"NAME=value") in their environment."""
    import psutil

    return [process for process in psutil.process_iter() if mark in _environ(process.pid)]


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
