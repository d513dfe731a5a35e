"""The recipe of the bundled catalog: the tables in `sources/`, and EC2's shapes from moto, become the snapshot.

Run by `skyward catalog build`. Deterministic: the same sources, the same moto and the same pyarrow give the same
bytes. Anything wrong with a row stops the build before a byte is written.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.catalog.compile import BuildReport, write_snapshot
from skyward.catalog.engine import connect
from skyward.catalog.ingest import Ingested, ingest
from skyward.catalog.manifest import sha256_of
from skyward.catalog.rules import broken_sql, describe, duplicates_sql
from skyward.catalog.schema import (
    ACCELERATORS,
    INSTANCE_TYPES,
    SCHEMA_VERSION,
    SNAPSHOTS,
    table_of,
)
from skyward.model.accelerator import default_registry
from skyward.model.accelerator_model import Registry
from skyward.model.offer import Offer, Pricing
from skyward_aws import prices
from skyward_aws.shapes import Shape, aliases, shapes_of

from .checks import Reader, Table, count, day, number, one_of, optional, read_table, text, words

if TYPE_CHECKING:
    import pyarrow as pa

Row = dict[str, Any]

TABLES: Mapping[str, tuple[tuple[str, ...], Mapping[str, Reader]]] = {
    "aws_on_demand": (
        ("instance_type", "region"),
        {"instance_type": text, "region": text, "usd_per_hour": number, "observed_on": day, "source": text},
    ),
    "moto": (("version",), {"version": text, "observed_on": day, "source": text}),
    "digitalocean_sizes": (
        ("size",),
        {
            "size": text,
            "vcpus": number,
            "memory_gib": number,
            "disk_gb": number,
            "accelerator": optional(text),
            "accelerator_count": count,
            "usd_per_hour": optional(number),
            "quality": one_of("exact", "estimated"),
            "confidence": text,
            "observed_on": day,
            "source": text,
        },
    ),
    "digitalocean_regions": (
        ("region", "kind"),
        {
            "region": text,
            "kind": one_of("cpu", "gpu"),
            "observed_on": day,
            "source": text,
            "confidence": text,
        },
    ),
    "verda_instance_types": (
        ("instance_type",),
        {
            "instance_type": text,
            "vcpus": number,
            "memory_gib": number,
            "accelerator": optional(text),
            "accelerator_count": count,
            "regions": words,
            "usd_per_hour_on_demand": optional(number),
            "usd_per_hour_spot": optional(number),
            "observed_on": day,
            "source": text,
        },
    ),
    "vastai_indicative": (
        ("gpu_name", "accelerator_memory_gib", "num_gpus"),
        {
            "gpu_name": text,
            "accelerator_memory_gib": optional(number),
            "num_gpus": number,
            "usd_per_hour_median": number,
            "observed_on": day,
            "source": text,
            "confidence": text,
        },
    ),
    "price_windows": (
        ("accelerator",),
        {"accelerator": text, "usd_low": number, "usd_high": number, "basis": text, "observed_on": day},
    ),
}


@dataclass(slots=True)
class Gathered:
    """What the recipe has so far: rows of offers per source, and what is to be told about them."""

    registry: Registry
    offers: list[tuple[Any, ...]] = field(default_factory=list)
    snapshots: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, provider: str, found: Ingested, file: str, digest: str) -> None:
        self.notes += [f"{file}: {reason} ({number})" for reason, number in sorted(found.skipped.items())]
        self.offers += found.rows
        self.snapshots += _snapshots(provider, found, file, digest)


def build(sources: Path, out: Path) -> BuildReport:
    """Compiles the sources into `out`; with problems, reports them and writes nothing."""
    tables = {
        name: read_table(sources / f"{name}.csv", columns, key) for name, (key, columns) in TABLES.items()
    }
    gathered = Gathered(registry=default_registry())
    gathered.problems += [problem for table in tables.values() for problem in table.problems]
    digests = {name: sha256_of(sources / f"{name}.csv") for name in tables}
    _check_windows(gathered, tables["price_windows"])
    moto = _moto_release(gathered, tables["moto"])
    if gathered.problems:
        return _refused(gathered, out)
    shapes = _gather_aws(gathered, tables, digests, moto)
    _gather_digitalocean(gathered, tables, digests)
    _gather_verda(gathered, tables["verda_instance_types"], digests)
    _gather_vastai(gathered, tables["vastai_indicative"], digests)
    compiled = {
        "offers": Ingested(rows=gathered.offers).table(),
        "instance_types": table_of(_instance_types(shapes, gathered.registry), INSTANCE_TYPES),
        "accelerators": table_of(_accelerators(gathered.registry, tables["price_windows"]), ACCELERATORS),
        "snapshots": table_of(gathered.snapshots, SNAPSHOTS),
    }
    newest = max(Ingested(rows=gathered.offers).column("observed_at"))
    gathered.problems += _implausible(compiled, newest)
    if gathered.problems:
        return _refused(gathered, out)
    inputs = {f"{name}.csv": digest for name, digest in digests.items()} | _other_inputs()
    return write_snapshot(compiled, out, version=f"{newest:%Y.%m.%d}", inputs=inputs, notes=gathered.notes)


def _refused(gathered: Gathered, out: Path) -> BuildReport:
    return BuildReport(out=out, problems=tuple(gathered.problems), notes=tuple(gathered.notes))


def _other_inputs() -> dict[str, str]:
    """What the snapshot is made of besides the tables beside this recipe."""
    plugin, accelerators = find_spec("skyward_aws"), find_spec("skyward.builtin")
    places = {"corrections.csv": plugin, "accelerators.csv": accelerators}
    found = {
        name: sha256_of(Path(spec.submodule_search_locations[0], name))
        for name, spec in places.items()
        if spec and spec.submodule_search_locations
    }
    return found | {name: installed_version(name) for name in ("moto", "pyarrow")}


def _implausible(compiled: Mapping[str, pa.Table], newest: datetime) -> list[str]:
    """Rows that break the rules every price must obey."""
    with connect() as db:
        db.register("offers", compiled["offers"])
        db.register("accelerators", compiled["accelerators"])
        broken = db.execute(broken_sql("offers"), {"latest": newest}).fetchall()
        doubled = db.execute(duplicates_sql("offers")).fetchall()
    problems = [describe(row[0], row[1:-1], row[-1]) for row in broken]
    return problems + [f"{' '.join(map(str, row[:-1]))}: there {row[-1]} times" for row in doubled]


def _snapshots(provider: str, found: Ingested, file: str, digest: str) -> Iterator[Row]:
    """One row per source the offers name."""
    by_source: dict[str, list[tuple[datetime, float | None]]] = {}
    for source, *dated in zip(*map(found.column, ("source", "observed_at", "usd_per_hour")), strict=True):
        by_source.setdefault(source, []).append((dated[0], dated[1]))
    for source, group in sorted(by_source.items()):
        yield {
            "provider": provider,
            "source": source,
            "file": file,
            "sha256": digest,
            "oldest": min(moment for moment, _ in group),
            "newest": max(moment for moment, _ in group),
            "rows": float(len(group)),
            "priced": float(sum(price is not None for _, price in group)),
            "schema_version": float(SCHEMA_VERSION),
        }


# -- EC2 -------------------------------------------------------------------------------------------------------


def _gather_aws(
    gathered: Gathered, tables: Mapping[str, Table], digests: Mapping[str, str], moto: Row
) -> dict[str, Shape]:
    shapes = shapes_of(_moto_json("instance_types.json.gz").values())
    listed = {(row["region"], row["instance_type"]): row for row in tables["aws_on_demand"].rows}
    offered: set[tuple[str, str]] = set()
    for region, zones in _moto_offerings():
        offered |= {(region, name) for name in zones}
        on_demand = {name: row["usd_per_hour"] for (where, name), row in listed.items() if where == region}
        offers = prices.regional_offers(
            region, shapes, zones, on_demand=on_demand, spot={}, source=moto["source"]
        )
        dated = [_dated(offer, listed.get((region, offer.instance_type))) for offer in offers]
        found = ingest(dated, "aws", gathered.registry, moto["observed_on"])
        gathered.add("aws", found, "aws_on_demand.csv, moto", digests["aws_on_demand"])
    gathered.notes += _not_offered(listed, offered, shapes)
    gathered.snapshots = _merged(gathered.snapshots)
    return shapes


def _moto_release(gathered: Gathered, table: Table) -> Row:
    installed = installed_version("moto")
    for row in table.rows:
        if row["version"] == installed:
            return row
    gathered.problems.append(
        f"moto.csv: no row for the installed moto {installed}: add it, with the day you read it"
    )
    return {"observed_on": datetime(1970, 1, 1), "source": "moto"}


def _moto_directory() -> Path:
    spec = find_spec("moto")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("EC2's shapes are compiled from moto: uv pip install moto")
    return Path(spec.submodule_search_locations[0], "ec2", "resources")


def _moto_json(name: str) -> Any:
    return json.loads(gzip.decompress((_moto_directory() / name).read_bytes()))


def _moto_offerings() -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Region -> instance type -> zone ids, in order of regions. A type offered in no zone is offered in the region."""
    for path in sorted((_moto_directory() / "instance_type_offerings" / "region").glob("*.json.gz")):
        name = path.name
        zones = prices.zones_of(_moto_json(f"instance_type_offerings/availability-zone-id/{name}"))
        regional = prices.zones_of(_moto_json(f"instance_type_offerings/region/{name}"))
        yield name.removesuffix(".json.gz"), {kind: zones.get(kind, []) for kind in regional}


def _dated(offer: Offer, listed: Row | None) -> Offer:
    """The offer with the day and source of its list price, where it has one."""
    if offer.usd_per_hour is None or listed is None:
        return offer
    return replace(offer, observed_at=listed["observed_on"], source=listed["source"])


def _not_offered(
    listed: Mapping[tuple[str, str], Row], offered: set[tuple[str, str]], shapes: Mapping[str, Shape]
) -> list[str]:
    names = sorted(name for where, name in listed if (where, name) not in offered or name not in shapes)
    return [f"aws_on_demand.csv: EC2 no longer describes these types: {', '.join(names)}"] if names else []


def _merged(snapshots: Iterable[Row]) -> list[Row]:
    """One row per provider and source, whatever number of regions it came in."""
    merged: dict[tuple[str, str], Row] = {}
    for row in snapshots:
        known = merged.setdefault((row["provider"], row["source"]), row)
        if known is not row:
            known.update(
                oldest=min(known["oldest"], row["oldest"]),
                newest=max(known["newest"], row["newest"]),
                rows=known["rows"] + row["rows"],
                priced=known["priced"] + row["priced"],
            )
    return list(merged.values())


# -- the others --------------------------------------------------------------------------------------------------


def _gather_digitalocean(gathered: Gathered, tables: Mapping[str, Table], digests: Mapping[str, str]) -> None:
    for size in tables["digitalocean_sizes"].rows:
        kind = "gpu" if size["accelerator"] else "cpu"
        offers = [
            Offer(
                provider="digitalocean",
                region=region["region"],
                instance_type=size["size"],
                usd_per_hour=size["usd_per_hour"],
                vcpus=size["vcpus"],
                memory_gib=size["memory_gib"],
                disk_gb=size["disk_gb"],
                accelerator=size["accelerator"],
                accelerator_count=size["accelerator_count"],
                availability="listed" if kind == "cpu" else "unknown",
                observed_at=size["observed_on"],
                source=size["source"],
                quality=size["quality"],
            )
            for region in tables["digitalocean_regions"].rows
            if region["kind"] == kind
        ]
        _gather(gathered, "digitalocean", offers, "digitalocean_sizes.csv", digests["digitalocean_sizes"])


def _gather_verda(gathered: Gathered, table: Table, digests: Mapping[str, str]) -> None:
    """An unknown on-demand price is a row without one; an unknown spot price is no row: it may not be sold so."""
    for kind in table.rows:
        offers = [
            Offer(
                provider="verda",
                region=region,
                instance_type=kind["instance_type"],
                pricing=pricing,
                usd_per_hour=price,
                vcpus=kind["vcpus"],
                memory_gib=kind["memory_gib"],
                accelerator=kind["accelerator"],
                accelerator_count=kind["accelerator_count"],
                availability="listed",
                observed_at=kind["observed_on"],
                source=kind["source"],
            )
            for region in kind["regions"]
            for pricing, price in _ways_of_paying(kind)
        ]
        _gather(gathered, "verda", offers, table.name, digests["verda_instance_types"])


def _ways_of_paying(kind: Row) -> Iterator[tuple[Pricing, float | None]]:
    yield "on-demand", kind["usd_per_hour_on_demand"]
    if kind["usd_per_hour_spot"] is not None:
        yield "spot", kind["usd_per_hour_spot"]


def _gather_vastai(gathered: Gathered, table: Table, digests: Mapping[str, str]) -> None:
    """Medians of a marketplace: no machine, no region, nothing to rent."""
    offers = [
        Offer(
            provider="vastai",
            region="worldwide",
            instance_type=f"median {row['num_gpus']:g}x {row['gpu_name']}"
            + (f" {row['accelerator_memory_gib']:g}GB" if row["accelerator_memory_gib"] else ""),
            usd_per_hour=row["usd_per_hour_median"],
            vcpus=0.0,
            memory_gib=0.0,
            accelerator=row["gpu_name"],
            accelerator_count=row["num_gpus"],
            accelerator_memory_gib=row["accelerator_memory_gib"],
            availability="unknown",
            observed_at=row["observed_on"],
            source=row["source"],
            quality="indicative",
        )
        for row in table.rows
    ]
    _gather(gathered, "vastai", offers, table.name, digests["vastai_indicative"], marketplace=True)


def _gather(
    gathered: Gathered,
    provider: str,
    offers: list[Offer],
    file: str,
    digest: str,
    *,
    marketplace: bool = False,
) -> None:
    found = ingest(offers, provider, gathered.registry, datetime(1970, 1, 1), marketplace=marketplace)
    gathered.add(provider, found, file, digest)
    gathered.snapshots = _merged(gathered.snapshots)


# -- beside the offers ---------------------------------------------------------------------------------------------


def _instance_types(shapes: Mapping[str, Shape], registry: Registry) -> list[Row]:
    rows = [_instance_type(shape, registry) for _, shape in sorted(shapes.items())]
    for name, fact in sorted(aliases().items()):
        row = _instance_type(shapes[fact.value], registry)
        rows.append(
            {**row, "instance_type": name, "alias_of": fact.value, "note": fact.reason, "source": fact.source}
        )
    return rows


def _instance_type(shape: Shape, registry: Registry) -> Row:
    raw, memory = shape.accelerator, shape.accelerator_memory_gib
    model = registry.resolve(raw, memory, "aws") if raw else None
    return {
        "provider": "aws",
        "instance_type": shape.instance_type,
        "vcpus": shape.vcpus,
        "memory_gib": shape.memory_gib,
        "architecture": shape.architecture,
        "accelerator": model.name if model else None,
        "accelerator_count": shape.accelerator_count,
        "accelerator_memory_gib": model.memory_gib if model else None,
        "accelerator_raw": raw,
        "accelerator_memory_raw_gib": memory,
        "local_disk_gb": shape.local_disk_gb,
        "network": shape.network or None,
        "efa_interfaces": float(shape.efa_interfaces),
        "bare_metal": shape.bare_metal,
        "markets": list(shape.markets),
        "source": f"moto {installed_version('moto')}",
    }


def _accelerators(registry: Registry, windows: Table) -> list[Row]:
    by_name = {row["accelerator"]: row for row in windows.rows}
    return [
        {
            **{name: getattr(model, name, None) for name, _ in ACCELERATORS},
            "mig_profiles": [profile.name for profile in model.mig],
            "aliases": list(model.aliases),
            "usd_low": by_name.get(model.name, {}).get("usd_low"),
            "usd_high": by_name.get(model.name, {}).get("usd_high"),
        }
        for model in registry.models
    ]


def _check_windows(gathered: Gathered, windows: Table) -> None:
    known = {model.name for model in gathered.registry.models}
    named = {row["accelerator"] for row in windows.rows}
    gathered.problems += [
        f"price_windows.csv: no accelerator is called {name!r}" for name in sorted(named - known)
    ]
    if missing := sorted(known - named):
        gathered.notes.append(f"price_windows.csv: any price is believed of {', '.join(missing)}")
