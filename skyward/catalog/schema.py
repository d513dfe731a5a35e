"""The shape of every compiled table, and how it is written. Imports pyarrow only inside functions.

All tables are Parquet, zstd, default row groups, without Arrow metadata, so that equal rows give equal bytes with
one pyarrow version. Moments are UTC without a time zone. Reading checks names and types against this page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA_VERSION = 1
"""Files of a higher version were written by a newer Skyward and are refused; lower ones are not supported yet."""

ROW_GROUP = 122_880
"""DuckDB's own size of row groups. pyarrow's default is eight times that, and a group is read whole: at a million
offers a question takes four times as long."""

Columns = tuple[tuple[str, str], ...]

OFFERS: Columns = (
    ("provider", "VARCHAR"),
    ("region", "VARCHAR"),
    ("zone", "VARCHAR"),
    ("instance_type", "VARCHAR"),
    ("pricing", "VARCHAR"),
    ("usd_per_hour", "DOUBLE"),
    ("usd_per_gpu_hour", "DOUBLE"),
    ("price_floor", "DOUBLE"),
    ("vcpus", "DOUBLE"),
    ("memory_gib", "DOUBLE"),
    ("disk_gb", "DOUBLE"),
    ("architecture", "VARCHAR"),
    ("accelerator", "VARCHAR"),
    ("accelerator_count", "DOUBLE"),
    ("accelerator_memory_gib", "DOUBLE"),
    ("interconnect", "VARCHAR"),
    ("availability", "VARCHAR"),
    ("reliability", "DOUBLE"),
    ("observed_at", "TIMESTAMP"),
    ("source", "VARCHAR"),
    ("quality", "VARCHAR"),
    ("accelerator_raw", "VARCHAR"),
    ("zones", "VARCHAR[]"),
    ("details", "VARCHAR"),
)
"""One row per priced way to rent one machine; sorted by `OFFER_ORDER`."""

HISTORY: Columns = (*OFFERS, ("change", "VARCHAR"))
"""An offer as it was from `observed_at` on; `change` is new, price, gone, or past: the cloud told it afterwards."""

INSTANCE_TYPES: Columns = (
    ("provider", "VARCHAR"),
    ("instance_type", "VARCHAR"),
    ("alias_of", "VARCHAR"),
    ("vcpus", "DOUBLE"),
    ("memory_gib", "DOUBLE"),
    ("architecture", "VARCHAR"),
    ("accelerator", "VARCHAR"),
    ("accelerator_count", "DOUBLE"),
    ("accelerator_memory_gib", "DOUBLE"),
    ("accelerator_raw", "VARCHAR"),
    ("accelerator_memory_raw_gib", "DOUBLE"),
    ("local_disk_gb", "DOUBLE"),
    ("network", "VARCHAR"),
    ("efa_interfaces", "DOUBLE"),
    ("bare_metal", "BOOLEAN"),
    ("markets", "VARCHAR[]"),
    ("note", "VARCHAR"),
    ("source", "VARCHAR"),
)
"""One row per machine model; `alias_of` is set where people use a name the provider does not know."""

ACCELERATORS: Columns = (
    ("name", "VARCHAR"),
    ("family", "VARCHAR"),
    ("vendor", "VARCHAR"),
    ("kind", "VARCHAR"),
    ("architecture", "VARCHAR"),
    ("compute_capability", "VARCHAR"),
    ("memory_gib", "DOUBLE"),
    ("memory_reported_gib", "DOUBLE"),
    ("memory_type", "VARCHAR"),
    ("form_factor", "VARCHAR"),
    ("interconnect", "VARCHAR"),
    ("interconnect_gbps", "DOUBLE"),
    ("fp16_tflops_dense", "DOUBLE"),
    ("mig_profiles", "VARCHAR[]"),
    ("aliases", "VARCHAR[]"),
    ("usd_low", "DOUBLE"),
    ("usd_high", "DOUBLE"),
    ("confidence", "VARCHAR"),
    ("notes", "VARCHAR"),
)
"""One row per accelerator; an hour of one device costs between `usd_low` and `usd_high` or is not believed."""

SNAPSHOTS: Columns = (
    ("provider", "VARCHAR"),
    ("source", "VARCHAR"),
    ("file", "VARCHAR"),
    ("sha256", "VARCHAR"),
    ("oldest", "TIMESTAMP"),
    ("newest", "TIMESTAMP"),
    ("rows", "DOUBLE"),
    ("priced", "DOUBLE"),
    ("schema_version", "DOUBLE"),
)
"""One row per source of a provider's rows: the reviewable file it was compiled from, and its digest."""

TABLES: Mapping[str, Columns] = {
    "offers": OFFERS,
    "instance_types": INSTANCE_TYPES,
    "accelerators": ACCELERATORS,
    "snapshots": SNAPSHOTS,
}

OFFER_ORDER: tuple[str, ...] = (
    "accelerator",
    "accelerator_count",
    "pricing",
    "provider",
    "region",
    "usd_per_hour",
    "instance_type",
    "zone",
)
"""Sort key of the offers file: what queries ask for comes first, so that row groups can be skipped."""


def arrow_schema(columns: Columns) -> pa.Schema:
    import pyarrow as pa

    types = {
        "VARCHAR": pa.string(),
        "DOUBLE": pa.float64(),
        "TIMESTAMP": pa.timestamp("us"),
        "VARCHAR[]": pa.list_(pa.string()),
        "BOOLEAN": pa.bool_(),
    }
    return pa.schema([pa.field(name, types[kind]) for name, kind in columns])


def table_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> pa.Table:
    """The rows as a table of exactly these columns; a column a row lacks is unknown."""
    return table_of_columns(([row.get(name) for row in rows] for name, _ in columns), columns)


def table_of_columns(values: Iterable[Sequence[Any]], columns: Columns) -> pa.Table:
    """The values of each column, in order, as a table; no columns at all are a table without rows."""
    import pyarrow as pa

    schema = arrow_schema(columns)
    arrays = [pa.array(column, type=field.type) for column, field in zip(values, schema, strict=False)]
    return pa.Table.from_arrays(arrays, schema=schema) if arrays else schema.empty_table()


def sorted_offers(table: pa.Table) -> pa.Table:
    """The offers in the order the file keeps; unknown values last."""
    return table.sort_by([(name, "ascending") for name in OFFER_ORDER])


def write_table(table: pa.Table, path: Path) -> None:
    """Writes Parquet beside `path`, syncs it and renames it into place."""
    import pyarrow.parquet as pq

    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(
            table,
            staged,
            compression="zstd",
            compression_level=15,
            row_group_size=ROW_GROUP,
            store_schema=False,
        )
        settle(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def settle(staged: Path, path: Path) -> None:
    """Makes `staged` durable and visible as `path` in one step."""
    with staged.open("rb") as file:
        os.fsync(file.fileno())
    staged.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_text(text: str, path: Path) -> None:
    """Writes a small file durably and in one step."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staged.write_text(text, encoding="utf-8")
        settle(staged, path)
    finally:
        staged.unlink(missing_ok=True)


def differences(found: Iterable[tuple[str, str]], expected: Columns) -> list[str]:
    """In words, how a file's columns differ from the expected ones; empty when they do not."""
    have, want = dict(found), dict(expected)
    words = [f"column {name!r} is missing" for name in want if name not in have]
    words += [f"column {name!r} is not ours" for name in have if name not in want]
    words += [
        f"column {name!r} holds {have[name]}, not {kind}"
        for name, kind in want.items()
        if name in have and have[name] != kind
    ]
    return words
