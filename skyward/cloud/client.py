"""Who rents: one process, told apart from whatever has its number later. Imports the standard library only."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A process that holds machines. Its number comes back; together with when it started, and on which boot, it does
    not."""

    host: str
    boot_id: str
    space: str
    """The process namespace its number counts in: containers have their own."""
    pid: int
    pid_start: str

    @classmethod
    def current(cls) -> Client:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Client:
        host, boot_id, space = _here()
        return cls(host=host, boot_id=boot_id, space=space, pid=pid, pid_start=_started(pid) or "")

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Client:
        """Out of a journal; what is missing there is unknown."""
        values = {field.name: plain.get(field.name, "") for field in fields(cls)}
        return cls(**{**values, "pid": int(values["pid"] or 0)})

    def plain(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def is_alive(self) -> bool | None:
        """Whether it still runs; None where that cannot be seen from here: another machine, another container."""
        host, boot_id, space = _here()
        if self.host != host:
            return None
        if self.boot_id != boot_id:
            return False
        if self.space != space:
            return None
        return _started(self.pid) == self.pid_start != ""


def owner() -> str:
    """`user@host`, as machines are tagged with it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@cache
def _here() -> tuple[str, str, str]:
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:
        boot_id = ""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return socket.gethostname(), boot_id, space


def _started(pid: int) -> str | None:
    """When a process started, in whatever unit the system has; None where there is none, or only a dead one."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _started_elsewhere(pid) if not Path("/proc/self/stat").exists() else None
    return None if words[0] in "ZX" else words[19]


def _started_elsewhere(pid: int) -> str | None:
    """Where there is no /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
    except psutil.Error:
        return None
