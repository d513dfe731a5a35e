"""The answer of a run, on standard output: values in the order of the input, or one JSON document.

Imports `model` and its neighbours.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyward.errors import remote_traceback
from skyward.model.outcome import Outcome
from skyward.model.report import RunReport
from skyward.session.record import Recorder
from skyward.session.store import describe_error, describe_value, plain, safe_str, utc

SCHEMA = "skyward.run/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One item and what became of it; no outcome where the run ended before."""

    id: str
    index: int
    arguments: dict[str, Any]
    outcome: Outcome | None = None

    def as_json(self) -> dict[str, Any]:
        outcome = self.outcome
        shown = {"task": self.id, "index": self.index, "arguments": plain(self.arguments)}
        if outcome is None:
            return {**shown, "verdict": "cancelled", "value": None, "repr": None, "error": None} | _NOWHERE
        return {
            **shown,
            "verdict": outcome.verdict,
            **(describe_value(outcome.value) if outcome.succeeded else {"value": None, "repr": None}),
            "error": None if outcome.error is None else _error(outcome.error),
            "node": outcome.node if outcome.node >= 0 else None,
            "attempt": outcome.attempt,
            "duration_s": round(outcome.duration_s, 6),
        }


_NOWHERE = {"node": None, "attempt": None, "duration_s": None}


def lines(answers: Sequence[Answer]) -> list[str]:
    """What standard output shows.

    A single value is printed as `print` would, and None is nothing. Several values are one line each, JSON where
    JSON can hold them and `repr` otherwise; an item without a value leaves its line empty. Where no item has a value
    nothing is shown.
    """
    values = [answer.outcome.value for answer in answers if answer.outcome and answer.outcome.succeeded]
    if len(answers) == 1:
        return [safe_str(value) for value in values if value is not None]
    return [_line(answer) for answer in answers] if values else []


def _write(text: str) -> None:
    """Text on standard output, now; a reader that has left is fine."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(text)
        sys.stdout.flush()


def _line(answer: Answer) -> str:
    if answer.outcome is None or not answer.outcome.succeeded:
        return ""
    described = describe_value(answer.outcome.value)
    if described["repr"] is not None:
        return " ".join(described["repr"].splitlines())
    return json.dumps(described["value"], ensure_ascii=False)


def write_lines(answers: Sequence[Answer]) -> None:
    _write("".join(f"{line}\n" for line in lines(answers)))


def write_json(about: Mapping[str, Any], answers: Sequence[Answer]) -> None:
    """One document: what is known of the run, and its items."""
    document = {**about, "items": [answer.as_json() for answer in answers]}
    _write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def document(
    *,
    report: RunReport,
    target: str,
    started_at: float,
    recorder: Recorder,
    usd_per_hour: float | None,
    error: BaseException | None,
) -> dict[str, Any]:
    """Everything about a run but its items. Times are UTC, money US dollars, unknown is null."""
    is_free = report.usd == 0
    return {
        "schema": SCHEMA,
        "run": report.run,
        "target": target,
        "started_at": utc(started_at),
        "duration_s": round(report.duration_s, 6),
        "items": [],
        "tasks": {
            "succeeded": report.succeeded,
            "failed": report.failed,
            "lost": report.lost,
            "cancelled": report.cancelled,
        },
        "nodes": [node.as_json(is_free=is_free) for _, node in sorted(recorder.nodes.items())],
        "cost": {"currency": "USD", "usd": report.usd, "usd_per_hour": 0.0 if is_free else usd_per_hour},
        "error": None if error is None else _error(error),
        "exit_code": int(report.exit_code),
    }


def _error(error: BaseException) -> dict[str, Any]:
    text = remote_traceback(error)
    return {**describe_error(error), "traceback": text or None}
