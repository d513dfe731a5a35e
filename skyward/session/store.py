"""The directory of a run: what was asked, every event, every outcome, and how it ended.

Lines are appended as they come and never rewritten, so what a killed run leaves can be read up to its last whole
line. Imports `config`, `model` and `kinds`.

    run.json        what was asked: target, arguments, requirements, versions, when
    plan.json       what was going to be rented, and the price
    items.jsonl     the tasks, in order: id, name, arguments
    events.jsonl    every event, in order
    outcomes.jsonl  what became of each task: verdict, node, attempt, seconds, value or error
    logs/           what workers printed, in full: `n0-worker-0.log` is that of the first one on node 0
    report.json     how the run ended; written last, so a run without one did not end
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
import re
import reprlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from skyward.config import make_private
from skyward.model.event import Event, TaskFinished, TaskStarted
from skyward.model.outcome import Outcome
from skyward.session.kinds import to_json

RUNS = "runs"
LOGS = "logs"
KEEP = "30d"
"""How long a run is kept where the configuration does not say it."""
PRUNED_AT_ONCE = 100
LOGS_KEPT = 4 << 30
"""How much of what workers printed is kept over all runs, bytes; the logs of the oldest runs go first."""
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: sorts like numbers, and no letter is mistaken for a digit."""
_ID = re.compile(f"r-[{_ALPHABET}]{{8}}")
_EPOCH_S = 1_704_067_200
"""2024-01-01 UTC; seven letters of 1/32 s since then last until 2058."""
VALUE_ROOM = 16 * 1024
"""Values and characters of one value that are kept; a larger one is kept shortened, as its `repr`."""


def new_id(now: float | None = None) -> str:
    """A name for a run: `r-` and eight letters that sort by time, the last one at random."""
    ticks = int(((time.time() if now is None else now) - _EPOCH_S) * 32)
    letters = ""
    for _ in range(7):
        ticks, digit = divmod(ticks, 32)
        letters = _ALPHABET[digit] + letters
    return f"r-{letters}{secrets.choice(_ALPHABET)}"


def prune(state: Path, keep_s: float) -> int:
    """Removes what is kept of runs in which nothing has happened for `keep_s`, oldest first, some at a time; of those that
    stay, the logs for which there is no room.

    Gives how many are gone. An hour is waited in any case: a run may be going on. Whatever else lies in the
    directory is left alone, and what cannot be removed stays.
    """
    try:
        found = sorted(one for one in (state / RUNS).iterdir() if _ID.fullmatch(one.name))
    except OSError:
        return 0
    before = time.time() - max(keep_s, 3600)
    old = [one for one in found if _touched_at(one) < before][:PRUNED_AT_ONCE]
    for directory in old:
        shutil.rmtree(directory, ignore_errors=True)
    _make_room([one for one in found if one not in old])
    return sum(not directory.exists() for directory in old)


def _make_room(runs: list[Path]) -> None:
    """Removes the logs of the oldest `runs` beyond what is kept over all; not of one that may be going on."""
    room = LOGS_KEPT
    for run in reversed(runs):
        room -= _weight(run / LOGS)
        if room < 0 and _touched_at(run) < time.time() - 3600:
            shutil.rmtree(run / LOGS, ignore_errors=True)


def _weight(directory: Path) -> int:
    """Bytes of the files in a directory; 0 where there is none."""
    try:
        with os.scandir(directory) as files:
            return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def run_directories(state: Path, at_most: int) -> list[Path]:
    """The directories of the newest runs, newest first."""
    try:
        found = [one for one in (state / RUNS).iterdir() if _ID.fullmatch(one.name)]
    except OSError:
        return []
    return sorted(found, reverse=True)[:at_most]


def _touched_at(directory: Path) -> float:
    """When something was last written there; now, where that cannot be known."""
    try:
        with os.scandir(directory) as files:
            return max(directory.stat().st_mtime, *(file.stat().st_mtime for file in files), 0.0)
    except OSError:
        return time.time()


class Store:
    """One run's directory, open for appending. Writing may come from any thread. `redact` takes secrets out."""

    def __init__(self, directory: Path, redact: Callable[[str], str] = str) -> None:
        self.directory = directory
        self._redact = redact
        self._opening = threading.Lock()
        self._files: dict[str, tuple[IO[str], threading.Lock]] = {}
        self._is_closed = False

    @classmethod
    def create(cls, state: Path, run: str, redact: Callable[[str], str] = str) -> Store:
        """A new directory below `state`, readable by its owner only.

        Raises:
            OSError: it cannot be made.
        """
        directory = make_private(state / RUNS) / run
        directory.mkdir(mode=0o700)
        return cls(directory, redact)

    def write(self, name: str, document: Mapping[str, Any]) -> None:
        """One JSON document as a whole file; a reader sees all of it or none."""
        text = json.dumps(self._plain(document), indent=2, ensure_ascii=False) + "\n"
        beside = self.directory / f".{name}"
        with os.fdopen(
            os.open(beside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        os.replace(beside, self.directory / name)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """One line of JSON; after `close` it is dropped."""
        self._append(name, self._plain(record))

    def event(self, event: Event) -> None:
        """The event as a line."""
        self._append("events.jsonl", event_record(event, self._redact))

    def outcome(self, index: int, name: str, outcome: Outcome) -> None:
        """What became of one item, its value shortened where it is large."""
        told = {
            **describe_value(outcome.value, VALUE_ROOM),
            "error": None if outcome.error is None else describe_error(outcome.error),
        }
        self._append(
            "outcomes.jsonl",
            {
                "index": index,
                "id": name,
                "verdict": outcome.verdict,
                "node": outcome.node,
                "attempt": outcome.attempt,
                "duration_s": outcome.duration_s,
                **redacted(told, self._redact),
            },
        )

    def close(self) -> None:
        with self._opening:
            self._is_closed = True
            for file, lock in self._files.values():
                with lock:
                    file.close()

    def _plain(self, record: Mapping[str, Any]) -> Any:
        return redacted(plain(record), self._redact)

    def _append(self, name: str, record: Any) -> None:
        line = json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n"
        file, lock = self._files.get(name) or self._open(name)
        with lock:
            if not file.closed:
                file.write(line)

    def _open(self, name: str) -> tuple[IO[str], threading.Lock]:
        """Files have a lock each: two threads that write to two files never wait for each other."""
        with self._opening:
            if name not in self._files:
                flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
                descriptor = os.open(self.directory / name, flags, 0o600)
                file = os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
                if self._is_closed:
                    file.close()
                self._files[name] = file, threading.Lock()
            return self._files[name]


def event_record(event: Event, redact: Callable[[str], str]) -> dict[str, Any]:
    """An event as JSON. Those that come by the thousand hold plain values only, and nothing to hide."""
    record = {"event": type(event).__name__, **fields(event)}
    if isinstance(event, TaskFinished) and event.report.error is None:
        record["report"] = fields(event.report)
    elif not isinstance(event, TaskStarted):
        record = redacted(plain(record), redact)
    return record


# -- JSON of what is not JSON ------------------------------------------------------------------------------------


def fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, unconverted."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


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


def redacted(value: Any, redact: Callable[[str], str]) -> Any:
    """JSON with every text redacted, keys left alone."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted(each, redact) for each in value]
    if isinstance(value, dict):
        return {key: redacted(each, redact) for key, each in value.items()}
    return value


def describe_error(error: BaseException) -> dict[str, Any]:
    """Type and text of an exception, and the traceback of the other side where there is one."""
    return {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "message": safe_str(error),
        "code": getattr(error, "code", None) if isinstance(getattr(error, "code", None), str) else None,
    }


def describe_value(value: Any, room: float = math.inf) -> dict[str, Any]:
    """`value` where JSON can hold it, otherwise its `repr`; the other one is None.

    What takes more than `room` values and characters is shown shortened.
    """
    try:
        return {"value": to_json(value, room), "repr": None}
    except (TypeError, RecursionError):
        return {"value": None, "repr": safe_repr(value) if room == math.inf else short_repr(value)}


def brief(named: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name, each as JSON where that is small, else as a shortened `repr`."""
    described = {name: describe_value(value, VALUE_ROOM) for name, value in named.items()}
    return {name: each["value"] if each["repr"] is None else each["repr"] for name, each in described.items()}


def short_repr(value: Any) -> str:
    """`repr` with the middle of everything long left out."""
    return _SHORT.repr(value)[:8000]


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxother, _SHORT.maxstring, _SHORT.maxlong = 6, 2000, 2000, 2000
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = _SHORT.maxarray = 50


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
