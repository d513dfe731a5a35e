"""What a pool will rent, and why nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

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
    _sold: dict[tuple[tuple[str, str, str], bool], Offer] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """The best ranked offer of each machine and market; filled when first asked for."""

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
        if not self._sold and self.ranked:
            for ranked in reversed(self.ranked):  # so that the best one is the one that stays
                self._sold[_machine(ranked), is_interruptible(ranked)] = ranked
        return self._sold.get((_machine(offer), not is_interruptible(offer)))

    def rows(self) -> list[dict[str, Any]]:
        """One mapping per offer, the best first: its `rank` and `status`, why it was refused, and what it is."""
        chosen = [self._row(offer, rank) for rank, offer in enumerate(self.ranked, 1)]
        return [*chosen, *(self._row(refusal.offer, None, refusal) for refusal in self.refused)]

    def _row(self, offer: Offer, rank: int | None, refusal: Refusal | None = None) -> dict[str, Any]:
        return {
            "rank": rank,
            "status": "refused" if refusal else "chosen" if rank == 1 else "fallback",
            "nodes": self.requirements.nodes_of(offer),
            "usd_per_hour_all_nodes": None if refusal else self.rate(offer),
            "constraint": refusal.constraint if refusal else None,
            "detail": refusal.detail if refusal else None,
            "short_by": refusal.short_by if refusal else None,
            **{
                field.name: getattr(offer, field.name) for field in fields(offer) if field.name not in _INWARD
            },
        }

    def to_arrow(self) -> Any:
        """`rows` as a `pyarrow.Table`, without what only a launch needs."""
        import pyarrow as pa

        return pa.Table.from_pylist(
            [{k: v for k, v in row.items() if k not in ("details", "zones")} for row in self.rows()]
        )

    def df(self) -> Any:
        """`rows` as a `pandas.DataFrame`; pandas must be installed."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        titles = (
            "",
            "provider",
            "machine",
            "region",
            "accelerator",
            "sold as",
            "$/h",
            "$/h all nodes",
            "status",
        )
        head = "".join(f"<th>{title}</th>" for title in titles)
        rows = "".join(f"<tr>{''.join(map(_cell, _shown(row)))}</tr>" for row in self.rows()[:50])
        left = self.considered - min(self.considered, 50)
        more = f"<p>{left:,} more were considered</p>" if left else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


_INWARD = frozenset(("is_owned",))


def _shown(row: Mapping[str, Any]) -> tuple[Any, ...]:
    device = f"{row['accelerator_count']:g}x {row['accelerator']}" if row["accelerator"] else None
    status = f"refused: {row['detail']}" if row["detail"] else row["status"]
    place = (row["rank"], row["provider"], row["instance_type"], row["zone"] or row["region"], device)
    return (*place, row["pricing"], row["usd_per_hour"], row["usd_per_hour_all_nodes"], status)


def _cell(value: Any) -> str:
    import html

    if isinstance(value, float):
        return f"<td style='text-align:right'>{value:,.4g}</td>"
    return f"<td>{'-' if value is None else html.escape(str(value))}</td>"


def is_interruptible(offer: Offer) -> bool:
    """Whether the provider may take the machine back."""
    return offer.pricing in ("spot", "interruptible")


def _machine(offer: Offer) -> tuple[str, str, str]:
    """What two offers share that differ only in how, where in the region, and for how much they are sold."""
    return (offer.provider, offer.region, offer.instance_type)


def spot_nodes(allocation: str | float, nodes: int) -> int | None:
    """How many of `nodes` are spot where `allocation` is a share (halves round up); None where it is a word."""
    if isinstance(allocation, str):
        return None
    return int(allocation * nodes + 0.5)
