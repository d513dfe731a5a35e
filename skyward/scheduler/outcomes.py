"""Outcomes that no node has sent: of tasks that cannot travel, are cancelled, or are lost."""

from __future__ import annotations

from skyward.errors import TaskCancelled, TaskLost
from skyward.model.outcome import Outcome
from skyward.model.report import TaskReport
from skyward.remote.link import Link
from skyward.scheduler.entry import Entry

Resolution = tuple[Entry, Outcome]
"""A task, and what one attempt at it has come to."""


def failed(error: BaseException) -> Outcome:
    return Outcome("failed", error=error)


def cancelled(entry: Entry) -> Outcome:
    return Outcome(
        "cancelled", error=TaskCancelled(f"{entry.name}: cancelled before it ended"), attempt=entry.attempt
    )


def gone(entry: Entry, reason: str) -> Outcome:
    """Lost, with nowhere left to run."""
    return Outcome("lost", error=TaskLost(f"{entry.name}: {reason}"), attempt=entry.attempt)


def lost(entry: Entry, link: Link, reason: str) -> Outcome:
    """Lost with its node."""
    error = TaskLost(
        f"{entry.name}: lost with node {link.node} ({link.endpoint}): {reason}",
        hints=["raise `retries` to run lost tasks again more often"],
    )
    return Outcome("lost", error=error, node=link.node, attempt=entry.attempt)


def report_of(entry: Entry, outcome: Outcome) -> TaskReport:
    return TaskReport(
        task=entry.name, index=entry.number, attempt=outcome.attempt, verdict=outcome.verdict, node=outcome.node,
        worker=outcome.worker, duration_s=outcome.duration_s, error=outcome.error,
    )  # fmt: skip
