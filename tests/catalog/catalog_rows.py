"""Offers and small snapshots for the tests of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skyward.catalog.compile import write_snapshot
from skyward.catalog.ingest import ingest
from skyward.catalog.schema import ACCELERATORS, INSTANCE_TYPES, OFFERS, SNAPSHOTS, sorted_offers, table_of
from skyward.catalog.store import Catalog
from skyward.model.accelerator import default_registry
from skyward.model.offer import Offer

MakeCatalog = Callable[..., Catalog]
DAY = datetime(2026, 11, 1, tzinfo=UTC)


def offer(**changes: Any) -> Offer:
    """A plain machine of a provider nobody knows; name what matters to the test."""
    fields: dict[str, Any] = {
        "provider": "acme",
        "region": "north",
        "instance_type": "m1",
        "usd_per_hour": 0.2,
        "vcpus": 4.0,
        "memory_gib": 16.0,
        "availability": "listed",
        "observed_at": DAY,
        "source": "test",
    }
    fields.update(changes)
    if fields.get("accelerator") and "accelerator_count" not in changes:
        fields["accelerator_count"] = 1.0
    return Offer(**fields)


def rows_of(offers: list[Offer]) -> list[dict[str, Any]]:
    """The offers as catalog rows, whoever sells them."""
    registry = default_registry()
    providers = dict.fromkeys(item.provider for item in offers)
    names = [name for name, _ in OFFERS]
    return [
        dict(zip(names, row, strict=True))
        for provider in providers
        for row in ingest([o for o in offers if o.provider == provider], provider, registry, DAY).rows
    ]


def accelerator_rows() -> list[dict[str, Any]]:
    windows = {"H100-SXM": (0.2, 30.0), "A100-80GB": (0.1, 20.0), "L4": (0.04, 20.0)}
    return [
        {
            **{name: getattr(model, name, None) for name, _ in ACCELERATORS},
            "mig_profiles": [],
            "aliases": list(model.aliases),
            "usd_low": windows.get(model.name, (None, None))[0],
            "usd_high": windows.get(model.name, (None, None))[1],
        }
        for model in default_registry().models
    ]


def bundle(offers: list[Offer], out: Path) -> Path:
    """A snapshot directory of these offers."""
    tables = {
        "offers": sorted_offers(table_of(rows_of(offers), OFFERS)),
        "accelerators": table_of(accelerator_rows(), ACCELERATORS),
        "instance_types": table_of([], INSTANCE_TYPES),
        "snapshots": table_of([], SNAPSHOTS),
    }
    write_snapshot(tables, out, version="2026.11.01", inputs={})
    return out
