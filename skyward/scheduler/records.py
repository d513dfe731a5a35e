"""Records of a node -> outcomes: what a task returned or raised, and what to say of one whose worker ended."""

from __future__ import annotations

import json
from typing import Any

from skyward.errors import InstanceDiskFull, TaskLost, TaskTimeout, WorkerDied
from skyward.model.outcome import Outcome, Verdict
from skyward.remote import wire
from skyward.remote.codec import read_error, read_value
from skyward.remote.text import last_words
from skyward.scheduler.entry import Entry
from skyward.scheduler.outcomes import cancelled

MAX_RESULT = 1 << 40
"""A part of a long value that is announced to be longer makes no sense, bytes."""
NONSENSE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What reading plain data raises when it is not what we would have written."""
_NONE, _VALUE = wire.RECORD_NONE, wire.RECORD_VALUE


def read_outcome(entry: Entry, kind: int, seconds: float, body: memoryview, node: int, safe: bool) -> Outcome:
    """What a record of node number `node` says; `safe` reads values of allow-listed types only. Never raises."""
    if kind == _NONE:
        return Outcome("succeeded", node=node, attempt=entry.attempt, duration_s=seconds)
    try:
        if kind == _VALUE:
            value = read_value(body, (), safe=safe)
            return Outcome("succeeded", value, node=node, attempt=entry.attempt, duration_s=seconds)
        return _read_bad_outcome(entry, kind, seconds, body, node, safe)
    except NONSENSE as error:
        lost = TaskLost(f"{entry.name}: node {node} sent an outcome that makes no sense: {error}")
        return Outcome("lost", error=lost, node=node, attempt=entry.attempt)
    except Exception as error:  # reading a value runs code of whoever wrote its class
        return Outcome("failed", error=error, node=node, attempt=entry.attempt, duration_s=seconds)


def _read_bad_outcome(
    entry: Entry, kind: int, seconds: float, body: memoryview, node: int, safe: bool
) -> Outcome:
    if kind == wire.RECORD_DEATH:
        return obituary(entry, json.loads(bytes(body)), node)
    error = (
        read_error(body, safe=safe)
        if kind == wire.RECORD_ERROR
        else TaskLost(f"{entry.name}: a record of unknown kind {kind} came")
    )
    verdict: Verdict = "lost" if isinstance(error, (InstanceDiskFull, TaskLost)) else "failed"
    return Outcome(verdict, error=error, node=node, attempt=entry.attempt, duration_s=seconds)


def read_announcement(body: memoryview) -> tuple[str, list[int]]:
    """The form of a long value that has to be fetched, and the sizes of its parts, bytes.

    Raises:
        ValueError, or another of `NONSENSE`: no value is like that.
    """
    story = json.loads(bytes(body))
    form, parts = str(story["form"]), [int(size) for size in story["parts"]]
    if not all(0 <= size <= MAX_RESULT for size in parts):
        raise ValueError(f"a result of {parts} bytes")
    return form, parts


def obituary(entry: Entry, story: dict[str, Any], node: int) -> Outcome:
    """What to say of a task whose worker process ended."""
    name, reason, seconds = entry.name, story.get("reason") or "", 0.0
    if reason == "cancelled" or reason == "shutdown":
        return cancelled(entry)
    tail = str(story.get("tail") or "")
    if reason == "timeout":
        limit = entry.task.options.timeout_s
        error: Exception = TaskTimeout(
            f"{name}: ran longer than its timeout" + (f" of {limit:g} s" if limit is not None else ""),
            timeout_s=limit,
            stderr_tail=tail,
        )
        return Outcome("failed", error=error, node=node, attempt=entry.attempt, duration_s=seconds)
    peak = story.get("peak_rss")
    how = (
        f"was killed by {story['signal']}"
        if story.get("signal")
        else f"ended with exit code {story.get('exit')}"
    )
    if reason == "out-of-memory":
        how = f"was killed by SIGKILL, the machine was out of memory (peak {(peak or 0) / 2**20:.0f} MiB)"
    elif reason == "worker-cannot-start":
        how = "cannot be started"
    last = last_words(tail)
    error = WorkerDied(
        f"{name}: its worker {how}", facts=[*last, *([f"peak memory {peak / 2**20:.0f} MiB"] if peak else [])],
        signal=story.get("signal"), exit_status=story.get("exit"), peak_rss_bytes=peak, stderr_tail=tail,
    )  # fmt: skip
    return Outcome("failed", error=error, node=node, attempt=entry.attempt, duration_s=seconds)
