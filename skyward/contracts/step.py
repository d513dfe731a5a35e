"""One named step of preparing an instance."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A constant shell script run on the instance; what varies travels on its standard input.

    Never put a user's string into `script`: give it in `input` (JSON) and read it there.
    """

    name: str
    script: str
    input: dict[str, object] = field(default_factory=dict)
    order: int = 50
    """Steps run in this order; equal orders by name."""
    timeout_s: float = 600.0
