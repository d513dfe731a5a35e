"""The directory of a run: what was asked, every event, every outcome, and how it ended.

Lines are appended as they come and never rewritten, so what a killed run leaves can be read up to its last whole
line. Imports `config`, `model` and `kinds`.

    run.json        what was asked: target, arguments, requirements, versions, when
    plan.json       what was going to be rented, and the price
    items.jsonl     the tasks, in order: id, name, arguments
    events.jsonl    every event, in order
    outcomes.jsonl  what became of each task: verdict, node, attempt, seconds, value or error
    report.json     how the run ended; written last, so a run without one did not end
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from skyward.config import make_private
from skyward.model.event import Event
from skyward.session.kinds import to_json

RUNS = "runs"
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: sorts like numbers, and no letter is mistaken for a digit."""
_EPOCH_S = 1_704_067_200
"""2024-01-01 UTC; six letters of seconds since then last until 2058."""
MAX_VALUE_BYTES = 64 * 1024
"""Values whose JSON or `repr` is longer are kept cut, and say so."""


def new_id(now: float | None = None) -> str:
    """A name for a run: `r-` and eight letters that sort by time (to the second)."""
    seconds = int((time.time() if now is None else now) - _EPOCH_S)
    letters = ""
    for _ in range(6):
        seconds, digit = divmod(seconds, 32)
        letters = _ALPHABET[digit] + letters
    return f"r-{letters}{secrets.choice(_ALPHABET)}{secrets.choice(_ALPHABET)}"


class Store:
    """One run's directory, open for appending. Writing may come from any thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._files: dict[str, IO[str]] = {}
        self._is_closed = False

    @classmethod
    def create(cls, state: Path, run: str) -> Store:
        """A new directory below `state`, readable by its owner only.

        Raises:
            OSError: it cannot be made.
        """
        directory = make_private(state / RUNS) / run
        directory.mkdir(mode=0o700)
        return cls(directory)

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """One JSON document as a whole file; a reader sees all of it or none."""
        text = json.dumps(plain(document), indent=2, ensure_ascii=False) + "\n"
        beside = self.directory / f".{name}"
        with os.fdopen(
            os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        os.replace(beside, self.directory / name)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """One line of JSON; after `close` it is dropped."""
        line = json.dumps(plain(record), ensure_ascii=False, separators=(",", ":")) + "\n"
        with self._lock:
            if self._is_closed:
                return
            if name not in self._files:
                self._files[name] = self._open(name)
            self._files[name].write(line)

    def event(self, event: Event) -> None:
        self.append("events.jsonl", {"event": type(event).__name__, **fields(event)})

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files, self._is_closed = {}, True

    def _open(self, name: str) -> IO[str]:
        path = self.directory / name
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


# -- JSON of what is not JSON ------------------------------------------------------------------------------------


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, unconverted."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def plain(value: Any) -> Any:
    """The value as JSON for people to read later. Never fails: what has no form becomes its `repr`."""
    try:
        return _plain(value)
    except RecursionError:
        return safe_repr(value)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseException):
        return describe_error(value)
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return utc(value.timestamp())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(fields(value))
    try:
        return to_json(value)
    except TypeError:
        return safe_repr(value)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Type and text of an exception, and the traceback of the other side where there is one."""
    return {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "message": safe_str(error),
        "code": getattr(error, "code", None) if isinstance(getattr(error, "code", None), str) else None,
    }


def describe_value(value: Any) -> dict[str, Any]:
    """`value` where JSON can hold it, otherwise its `repr`; the other one is None."""
    try:
        return {"value": to_json(value), "repr": None}
    except (TypeError, RecursionError):
        return {"value": None, "repr": safe_repr(value)}


def clipped(described: Mapping[str, Any]) -> dict[str, Any]:
    """The same, unless it is large: then the beginning of its text."""
    text = described["repr"] if described["repr"] is not None else json.dumps(described["value"])
    if len(text) <= MAX_VALUE_BYTES:
        return dict(described)
    return {"value": None, "repr": text[:MAX_VALUE_BYTES], "cut_bytes": len(text) - MAX_VALUE_BYTES}


def safe_repr(value: Any) -> str:
    """`repr`, also of objects whose own fails."""
    try:
        return repr(value)
    except Exception as error:  # the user's __repr__
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def safe_str(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # the user's __str__
        return f"<{type(value).__name__} whose str raised {type(error).__name__}>"


def utc(seconds: float) -> str:
    """Seconds since the epoch as an ISO time in UTC: `2025-01-31T12:00:00.123Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
