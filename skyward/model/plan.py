"""What a pool will rent, and why nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from skyward.model.offer import Offer
from skyward.model.requirements import Requirements


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One offer that does not fit: the first constraint it failed and by how much."""

    offer: Offer
    constraint: str
    """Name of the constraint, as spelled in the API (`max_price`, `accelerator`, `region`)."""
    detail: str
    """In words, with the offer as the subject: "has 16GB of memory, needs at least 32GB"."""
    short_by: float | None = None
    """By how much, in the unit of the constraint (USD/h, GiB, vCPUs); None where it is not a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Every offer considered: `ranked` fit, best first; `refused` do not. Launching follows `ranked`."""

    requirements: Requirements
    strategy: str
    ranked: tuple[Offer, ...]
    refused: tuple[Refusal, ...] = ()
    unlisted: Mapping[str, int] = field(default_factory=dict)
    """Offers that were only counted, by the first constraint they fail: nothing near what was asked for."""

    @property
    def considered(self) -> int:
        """How many offers there were."""
        return len(self.ranked) + len(self.refused) + sum(self.unlisted.values())

    @property
    def chosen(self) -> Offer | None:
        return self.ranked[0] if self.ranked else None

    @property
    def nodes(self) -> int:
        """Machines the chosen offer takes; what was asked for where nothing fits."""
        return self.requirements.nodes if self.chosen is None else self.requirements.nodes_of(self.chosen)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of all nodes together, US dollars per hour; None where unknown or nothing fits."""
        return None if self.chosen is None else self.rate(self.chosen)

    def rate(self, offer: Offer) -> float | None:
        """US dollars per hour of all nodes when `offer` is launched; None where a price is unknown."""
        total = 0.0
        for machine, count in self.machines(offer):
            if machine.price is None:
                return None
            total += machine.price * count
        return round(total, 6)

    def machines(self, offer: Offer) -> tuple[tuple[Offer, int], ...]:
        """What launching `offer` means: offers, and how many nodes of each.

        More than one only where `allocation` is a share of spot: then a spot offer brings its on-demand
        counterpart for the rest of the nodes.
        """
        nodes = self.requirements.nodes_of(offer)
        spot = spot_nodes(self.requirements.allocation, nodes)
        if spot is None or spot in (0, nodes) or not is_interruptible(offer):
            return ((offer, nodes),)
        other = self.counterpart(offer)
        return ((offer, nodes),) if other is None else ((offer, spot), (other, nodes - spot))

    def counterpart(self, offer: Offer) -> Offer | None:
        """The same machine in the same region, paid for the other way: what the missing part falls back to."""
        for other in self.ranked:
            if same_machine(other, offer) and is_interruptible(other) != is_interruptible(offer):
                return other
        return None


def is_interruptible(offer: Offer) -> bool:
    """Whether the provider may take the machine back."""
    return offer.pricing in ("spot", "interruptible")


def same_machine(one: Offer, other: Offer) -> bool:
    """Whether two offers differ only in how, where in the region, and for how much they are sold."""
    return (one.provider, one.region, one.instance_type) == (
        other.provider,
        other.region,
        other.instance_type,
    )


def spot_nodes(allocation: str | float, nodes: int) -> int | None:
    """How many of `nodes` are spot where `allocation` is a share (halves round up); None where it is a word."""
    if isinstance(allocation, str):
        return None
    return int(allocation * nodes + 0.5)
