"""The bytes of a chunk, from calls that are encoded already: its header for the agent, and the one for the worker."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from skyward.remote import wire
from skyward.remote.codec import EncodedCall
from skyward.scheduler.functions import MAX_FUNCTIONS


@lru_cache(MAX_FUNCTIONS)
def heads_of_rows(digest: str, timeout: float | None, worker: int | None) -> tuple[bytes, bytes]:
    """Of a chunk whose payload is nothing but rows of arguments: its header for the agent, and the one for the worker, which
    precedes the payload."""
    head = wire.write_header({"fn": digest, "batch": True})
    return wire.write_header({"needs": [digest], "head": len(head), **_conditions(timeout, worker)}), head


def head_and_calls(
    calls: dict[int, EncodedCall],
    needs: list[str],
    timeout: float | None,
    worker: int | None,
    has_gaps: bool,
) -> tuple[bytes, bytes]:
    """The same of one with calls of all kinds, and after the second one its payload. With `has_gaps` some tasks between the first and
    the last are missing, so all are named."""
    pieces = [call.payload for call in calls.values()]
    named = {"ids": list(calls)} if has_gaps else {}
    head = wire.write_header(
        {
            "fn": needs[0], "batch": False, "calls": [call.header for call in calls.values()],
            "lengths": [len(piece) for piece in pieces], **named,
        }
    )  # fmt: skip
    wholes = [digest for call in calls.values() for digest in _wholes_of(call)]
    given = {"needs": needs, "head": len(head), "wholes": wholes, **named, **_conditions(timeout, worker)}
    return wire.write_header(given), b"".join((head, *pieces))


def _conditions(timeout: float | None, worker: int | None) -> dict[str, Any]:
    given = {"timeout": timeout, "worker": worker}
    return {name: value for name, value in given.items() if value is not None}


def _wholes_of(call: EncodedCall) -> list[str]:
    """Blobs that become one argument each, as they are."""
    return [one["digest"] for _, one in call.header.get("long", ()) if one["form"] in ("bytes", "str")]
