"""What became of one task."""

from __future__ import annotations

from typing import Any, Literal

Verdict = Literal["succeeded", "failed", "lost", "cancelled"]


class Outcome:
    """What became of one attempt at a task: a value, or the exception to raise.

    `succeeded`: done. `failed`: the user's code raised or its process died. `lost`: our side broke.
    `cancelled`: never started. Times are seconds on the worker's monotonic clock.
    """

    __slots__ = ("attempt", "duration_s", "error", "node", "value", "verdict", "worker")

    def __init__(
        self,
        verdict: Verdict,
        value: Any = None,
        error: BaseException | None = None,
        *,
        node: int = -1,
        worker: int = -1,
        attempt: int = 1,
        duration_s: float = 0.0,
    ) -> None:
        self.verdict = verdict
        self.value = value
        self.error = error
        self.node = node
        self.worker = worker
        self.attempt = attempt
        self.duration_s = duration_s

    @property
    def succeeded(self) -> bool:
        return self.verdict == "succeeded"

    def result(self) -> Any:
        """The value, or raises the error."""
        if self.error is not None:
            raise self.error
        return self.value

    def __repr__(self) -> str:
        what = repr(self.value) if self.error is None else repr(self.error)
        return f"<Outcome {self.verdict} {what} node={self.node} attempt={self.attempt}>"
