"""From what a provider says to rows of the catalog: names normalised, unknown prices unknown, keys unique.

Pure but for pyarrow; used when a snapshot is compiled and when a provider is refreshed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from skyward.catalog.query import KEY_COLUMNS, naive_utc
from skyward.catalog.schema import OFFERS, sorted_offers, table_of
from skyward.model.offer import Offer

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.model.accelerator_model import AcceleratorModel, Registry

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """Rows for the catalog, and what was left out and why."""

    rows: list[Row]
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason -> how many offers."""

    def table(self) -> pa.Table:
        """The rows as the offers file keeps them."""
        return sorted_offers(table_of(self.rows, OFFERS))


def ingest(
    offers: Iterable[Offer],
    provider: str,
    registry: Registry,
    observed_at: datetime,
    *,
    marketplace: bool = False,
) -> Ingested:
    """The offers of one provider as rows. `observed_at` is when they were asked for, where they do not say.

    An accelerator keeps the name its provider gave it (`accelerator_raw`) beside the canonical one; an offer whose
    accelerator nobody knows is left out, because it could be matched by no wish. Of offers with one key the
    cheapest stays. On a `marketplace` nothing is presumed about how accelerators are connected.
    """
    moment = naive_utc(observed_at)
    skipped: Counter[str] = Counter()
    best: dict[tuple[Any, ...], Row] = {}
    for offer in offers:
        row = _row(offer, provider, registry, moment, marketplace)
        if isinstance(row, str):
            skipped[row] += 1
            continue
        key = tuple(row[name] for name in KEY_COLUMNS)
        if key in best:
            skipped["same machine at a higher price"] += 1
            if _dearer(row, best[key]):
                continue
        best[key] = row
    return Ingested(rows=list(best.values()), skipped=skipped)


def _dearer(row: Row, other: Row) -> bool:
    price, known = row["usd_per_hour"], other["usd_per_hour"]
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
    row: Row = {name: getattr(offer, name, None) for name, _ in OFFERS}
    row.update(
        usd_per_hour=price,
        usd_per_gpu_hour=price / offer.accelerator_count if price and offer.accelerator_count else None,
        price_floor=known_price(offer.price_floor),
        vcpus=offer.vcpus or None,
        memory_gib=offer.memory_gib or None,
        observed_at=naive_utc(offer.observed_at) if offer.observed_at else moment,
        zones=list(offer.zones) or None,
        details=_compact(offer.details),
        **_accelerator(offer, model, marketplace),
    )
    return row


def _accelerator(offer: Offer, model: AcceleratorModel | None, marketplace: bool) -> Row:
    if model is None:
        return {
            "accelerator": None,
            "accelerator_raw": None,
            "accelerator_count": 0.0,
            "accelerator_memory_gib": None,
        }
    presumed = model.interconnect if offer.accelerator_count > 1 and not marketplace else None
    return {
        "accelerator": model.name,
        "accelerator_raw": offer.accelerator,
        "accelerator_count": float(offer.accelerator_count),
        "accelerator_memory_gib": model.memory_gib or offer.accelerator_memory_gib,
        "interconnect": offer.interconnect or presumed or None,
    }


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
