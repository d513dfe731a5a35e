"""What a pool will rent, and why nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from skyward.model.offer import Offer
from skyward.model.requirements import Requirements


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One offer that does not fit: the first constraint it failed and by how much."""

    offer: Offer
    constraint: str
    """Name of the constraint, as spelled in the API (`max_price`, `accelerator`, `region`)."""
    detail: str
    """In words: "16.00 GiB, needs at least 32.00"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every offer considered: `ranked` fit, best first; `refused` do not. Launching follows `ranked`."""

    requirements: Requirements
    strategy: str
    ranked: tuple[Offer, ...]
    refused: tuple[Refusal, ...] = ()

    @property
    def chosen(self) -> Offer | None:
        return self.ranked[0] if self.ranked else None

    @property
    def usd_per_hour(self) -> float | None:
        """Price of all nodes together, US dollars per hour; None where unknown or nothing fits."""
        if not self.ranked or self.ranked[0].usd_per_hour is None:
            return None
        return self.ranked[0].usd_per_hour * self.requirements.nodes
