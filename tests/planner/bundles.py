"""A catalog made of offers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from skyward.catalog.compile import write_snapshot
from skyward.catalog.ingest import ingest
from skyward.catalog.schema import ACCELERATORS, INSTANCE_TYPES, SNAPSHOTS, sorted_offers, table_of
from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.model.accelerator import default_registry
from skyward.model.offer import Offer

DAY = datetime(2026, 11, 1, tzinfo=UTC)


def catalog_of(offers: Sequence[Offer], directory: Path) -> Catalog:
    """An opened catalog whose bundled snapshot has these offers and nothing else."""
    providers = sorted({item.provider for item in offers})
    parts = [
        ingest((o for o in offers if o.provider == name), name, default_registry(), DAY).table()
        for name in providers
    ]
    accelerators = [
        {**{name: getattr(model, name, None) for name, _ in ACCELERATORS}, "mig_profiles": [], "aliases": []}
        for model in default_registry().models
    ]
    tables = {
        "offers": sorted_offers(pa.concat_tables(parts)),
        "accelerators": table_of(accelerators, ACCELERATORS),
        "instance_types": table_of([], INSTANCE_TYPES),
        "snapshots": table_of([], SNAPSHOTS),
    }
    write_snapshot(tables, directory / "bundle", version="2026.11.01", inputs={})
    return Catalog(Places.find({"SKYWARD_HOME": str(directory / "home")}), directory / "bundle")
