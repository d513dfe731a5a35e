"""The write-ahead journal of a pool: what is going to be rented is on disk before it is asked for.

One file per pool, readable by its owner only: a JSON object and its checksum on every line, appended and forced to
disk. Whoever comes later (the reaper, `skyward gc`, the next command) can finish what is written there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import stat
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skyward.cloud.account import Account
from skyward.errors import JournalError

POOLS = "pools"
_PASSING = frozenset({"ready"})
"""Events that no debt depends on: they are with the system when they are written, and nobody waits for the disk."""
CLOSED = "closed"
ROOM = 64 * 1024
"""Bytes that are reserved on the disk with the first line, so that the end of a pool can still be written down when
the disk is full."""
_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of linux/falloc.h: blocks are reserved, the size of the file stays."""


class Journal:
    """The journal of one pool, for writing. May be used from several threads; other processes may append, too.

    Without a `path` nothing is written: machines that cost nothing need no journal.
    """

    def __init__(self, path: Path | None, account: Account) -> None:
        self.path = path
        self.account = account
        self._fd = -1
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._read = 0
        self._missed = 0
        self._unwritten: set[tuple[str, str]] = set()
        """Providers and regions whose machines cost nothing: only this process needs to know of them."""

    @classmethod
    def of(cls, directory: Path, pool: str) -> Journal:
        """A journal that is written to `directory` as soon as something is."""
        return cls(directory / f"{pool}.jsonl", Account(pool))

    @classmethod
    def open(cls, path: Path) -> Journal:
        """One that is there already, with all it says.

        Raises:
            JournalError: it cannot be read, or others may write to it.
        """
        journal = cls(path, Account(path.stem))
        journal._open(os.O_RDWR)
        journal.refresh()
        return journal

    # -- writing ---------------------------------------------------------------------------------------------------

    def intend(self, **fields: Any) -> None:
        """Writes down a launch that is about to be asked for.

        Raises:
            JournalError: that cannot be done, so the launch must not be asked for.
        """
        event = {"event": "intent", "at": _now(), **fields}
        with self._lock:
            if not fields.get("is_verifiable", True):
                self._unwritten.add((fields["provider"], fields["region"]))
            else:
                if self.path is None:
                    raise JournalError(f"pool {self.account.pool} has no journal: nothing is launched")
                try:
                    self._append(event)
                except OSError as error:
                    raise JournalError(
                        f"{self.path}: {error.strerror or error}: a launch that cannot be written down is not made",
                        facts=["without it nobody could end the machines of a client that dies"],
                        hints=["make room there", "SKYWARD_HOME=/another/place"],
                        path=str(self.path),
                    ) from error
            self.account.apply(event)

    def record(self, event: str, **fields: Any) -> None:
        """Writes down what has happened. That it cannot be written stops nothing: ending machines matters more."""
        written = {"event": event, "at": _now(), **fields}
        with self._lock:
            self.account.apply(written)
            if self._fd >= 0 and (fields.get("provider"), fields.get("region")) not in self._unwritten:
                try:
                    self._append(written)
                except OSError:
                    self._missed += 1

    def close(self) -> None:
        """Everything is gone: the file is put aside."""
        with self._lock:
            if self.account.is_closed:
                self._shut()
                return
            self.record("closed")
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size)  # the reserved room is given back
            self._shut()
            if self.path is not None and self.path.exists():
                aside = self.path.parent / CLOSED
                with contextlib.suppress(OSError):
                    aside.mkdir(mode=0o700, exist_ok=True)
                    os.replace(self.path, aside / self.path.name)

    def leave(self) -> None:
        """Lets go of the file; others go on with it."""
        with self._lock:
            self._shut()

    def _append(self, event: Mapping[str, Any]) -> None:
        if os.getpid() != self._pid:
            raise OSError(errno.EPERM, "a forked child writes no journal of its parent's")
        if self._fd < 0:
            self._create()
        data = encode(event)
        done = os.write(self._fd, data)
        if done != len(data):  # cut short; what follows must not be glued to it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if event["event"] not in _PASSING:
            os.fsync(self._fd)

    def _create(self) -> None:
        assert self.path is not None
        _make_private(self.path.parent)
        self._open(os.O_RDWR | os.O_CREAT | os.O_EXCL)
        with contextlib.suppress(OSError):
            _reserve(self._fd, ROOM)
        _sync_directory(self.path.parent)

    def _open(self, flags: int) -> None:
        assert self.path is not None
        try:
            fd = os.open(self.path, flags | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if flags & os.O_CREAT:
                raise
            raise JournalError(f"{self.path}: {error.strerror}", path=str(self.path)) from error
        status = os.fstat(fd)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            os.close(fd)
            raise JournalError(
                f"{self.path}: others may write to it: it is not trusted",
                hints=[f"chmod 600 {self.path}"],
                path=str(self.path),
            )
        self._fd = fd
        size = status.st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")  # the last line was torn; ours begins anew

    def _shut(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # -- reading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> Account:
        """Reads the whole file again; what others have appended is known afterwards."""
        with self._lock:
            if self._fd >= 0 and not self._missed:
                account = Account(self.account.pool)
                for event in decode(_contents(self._fd)):
                    account.apply(event)
                self.account = account
            return self.account

    def is_condemned(self) -> bool:
        """Whether somebody ends this pool from outside."""
        with self._lock:
            if self._fd < 0:
                return False
            size = os.fstat(self._fd).st_size
            if size > self._read:
                text = os.pread(self._fd, size - self._read, self._read)
                self._read = size
                if b'"condemned"' in text:
                    self.account.is_condemned = True
            return self.account.is_condemned

    def take(self) -> bool:
        """Whether this process is now the one that finishes the pool; nobody else does as long as it lives."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


# -- the form of a line --------------------------------------------------------------------------------------------


def encode(event: Mapping[str, Any]) -> bytes:
    """One line: the event as JSON, with the checksum of all before it as its last key."""
    text = json.dumps(event, separators=(",", ":"), default=str)[:-1]
    return f'{text},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def decode(data: bytes) -> Iterator[dict[str, Any]]:
    """The events of a file. Lines that are torn or damaged are passed over."""
    for line in data.split(b"\n"):
        text, mark, crc = line.rpartition(b',"crc":"')
        if not mark or crc != b'%08x"}' % zlib.crc32(text):
            continue
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


# -- all pools -----------------------------------------------------------------------------------------------------


def directory() -> Path:
    """Where the journals of this user are."""
    from skyward.config import Places

    return Places.find().state / POOLS


def paths(place: Path) -> list[Path]:
    """Journals of pools that are not through, the oldest first."""
    try:
        found = [entry for entry in os.scandir(place) if entry.name.endswith(".jsonl")]
    except OSError:
        return []
    return [Path(entry.path) for entry in sorted(found, key=lambda one: (one.stat().st_mtime, one.name))]


def read(path: Path) -> Account:
    """What a journal says, without touching it.

    Raises:
        JournalError: it cannot be read.
    """
    account = Account(path.stem)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}", path=str(path)) from error
    for event in decode(data):
        account.apply(event)
    return account


def _contents(fd: int) -> bytes:
    size, parts, at = os.fstat(fd).st_size, [], 0
    while at < size:
        part = os.pread(fd, size - at, at)
        if not part:
            break
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _now() -> float:
    return round(time.time(), 3)


def _make_private(place: Path) -> None:
    """The directory, for its owner only; one that is others', or that others may write to, is refused."""
    from skyward.config import make_private

    make_private(place)
    status = place.stat()
    if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise OSError(errno.EPERM, f"{place} belongs to others, or others may write to it")


def _reserve(fd: int, room: int) -> None:
    """Blocks for what will be appended. Where the system cannot, there are none, and nothing else changes."""
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
    if fallocate is not None:
        fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        fallocate(fd, _KEEP_SIZE, 0, room)


def _sync_directory(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def machine_fields(instance: Any, *, was_seen: bool = False) -> dict[str, Any]:
    """What a journal keeps of a machine."""
    return {
        "id": instance.id,
        "instance_type": instance.offer.instance_type,
        "pricing": instance.offer.pricing,
        "usd_per_hour": instance.offer.price,
        "was_seen": was_seen,
    }
