"""What is shown and kept of one attempt, and of one run."""

from __future__ import annotations

from dataclasses import dataclass, field

from skyward.model.outcome import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """One attempt at one task, as hooks see it."""

    task: str
    """What reports call it: the function's name, with the index in its group (`fold[3]`)."""
    index: int
    """Position in its group."""
    attempt: int
    verdict: Verdict
    node: int
    worker: int
    duration_s: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run ended. Money is US dollars; None where a price is unknown."""

    run: str
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    cancelled: int = 0
    duration_s: float = 0.0
    nodes: int = 0
    usd: float | None = None
    exit_code: int = 0
    failures: tuple[TaskReport, ...] = field(default=())
