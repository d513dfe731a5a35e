"""From what a provider says to rows of the catalog: names normalised, unknown prices unknown, keys unique.

Pure but for pyarrow; used when a snapshot is compiled and when a provider is refreshed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from skyward.catalog.query import KEY_COLUMNS, naive_utc
from skyward.catalog.schema import OFFERS, sorted_offers, table_of_columns
from skyward.model.offer import Offer

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.model.accelerator_model import AcceleratorModel, Registry

Row = tuple[Any, ...]
"""The values of one offer, in the order of `schema.OFFERS`."""

_PLACES = {name: place for place, (name, _) in enumerate(OFFERS)}
_PRICE = _PLACES["usd_per_hour"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Rows for the catalog, and what was left out and why."""

    rows: list[Row]
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many offers."""

    def table(self) -> pa.Table:
        """The rows as the offers file keeps them."""
        return sorted_offers(table_of_columns(zip(*self.rows, strict=True), OFFERS))

    def column(self, name: str) -> list[Any]:
        """One column's values, in the order of the rows."""
        return [row[_PLACES[name]] for row in self.rows]


def ingest(
    offers: Iterable[Offer],
    provider: str,
    registry: Registry,
    observed_at: datetime,
    *,
    marketplace: bool = False,
    key: Sequence[str] = KEY_COLUMNS,
) -> Ingested:
    """The offers of one provider as rows. `observed_at` is when they were asked for, where they do not say.

    An accelerator keeps the name its provider gave it (`accelerator_raw`) beside the canonical one; an offer whose
    accelerator nobody knows is left out, because it could be matched by no wish. Of offers with one `key` the
    cheapest stays. On a `marketplace` nothing is presumed about how accelerators are connected.
    """
    moment = naive_utc(observed_at)
    skipped: Counter[str] = Counter()
    places = [_PLACES[name] for name in key]
    best: dict[tuple[Any, ...], Row] = {}
    for offer in offers:
        row = _row(offer, provider, registry, moment, marketplace)
        if isinstance(row, str):
            skipped[row] += 1
            continue
        identity = tuple([row[place] for place in places])
        if identity in best:
            skipped["same machine at a higher price"] += 1
            if _dearer(row[_PRICE], best[identity][_PRICE]):
                continue
        best[identity] = row
    return Ingested(rows=list(best.values()), skipped=skipped)


def _dearer(price: float | None, known: float | None) -> bool:
    return price is None or (known is not None and price >= known)


def _row(offer: Offer, provider: str, registry: Registry, moment: datetime, marketplace: bool) -> Row | str:
    """The row of one offer, or why there is none."""
    if offer.provider != provider:
        return f"offer of {offer.provider!r} from provider {provider!r}"
    model = None
    if offer.accelerator:
        model = registry.resolve(offer.accelerator, offer.accelerator_memory_gib, provider)
        if model is None:
            memory = f" of {offer.accelerator_memory_gib:.4g} GiB" if offer.accelerator_memory_gib else ""
            return f"unknown accelerator {offer.accelerator!r}{memory}"
    price = known_price(offer.usd_per_hour)
    count = float(offer.accelerator_count) if model else 0.0
    return (
        provider,
        offer.region,
        offer.zone,
        offer.instance_type,
        offer.pricing,
        price,
        price / count if price and count else None,
        known_price(offer.price_floor),
        offer.vcpus or None,
        offer.memory_gib or None,
        offer.disk_gb,
        offer.architecture,
        model.name if model else None,
        count,
        (model.memory_gib or offer.accelerator_memory_gib) if model else None,
        _interconnect(offer, model, marketplace),
        offer.availability,
        offer.reliability,
        naive_utc(offer.observed_at) if offer.observed_at else moment,
        offer.source,
        offer.quality,
        offer.accelerator if model else None,
        offer.zones or None,
        _compact(offer.details),
    )


def _interconnect(offer: Offer, model: AcceleratorModel | None, marketplace: bool) -> str | None:
    """What the offer says; else what the card usually has, where there are several and nobody tinkered."""
    if offer.interconnect or model is None:
        return offer.interconnect
    return (model.interconnect or None) if offer.accelerator_count > 1 and not marketplace else None


def known_price(usd: float | None) -> float | None:
    """The price, or None where zero or nothing was said; what is no price at all is left for the checks to refuse."""
    if usd is None or usd == 0 or math.isnan(usd):
        return None
    return float(usd)


def _compact(details: dict[str, Any]) -> str | None:
    if not details:
        return None
    import json

    return json.dumps(details, sort_keys=True, separators=(",", ":"))
