"""The catalog, opened: DuckDB over the files that `layers` trusts. Imports DuckDB only when opened.

One connection per `Catalog`; not to be shared between threads. Nothing here writes, and nothing imports pyarrow,
pandas or numpy: answers are fetched as plain tuples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.catalog import layers as files
from skyward.catalog.engine import connect, empty_sql, fetch, offers_sql, parquet
from skyward.catalog.layers import Layer
from skyward.catalog.manifest import checked_file
from skyward.catalog.query import (
    OFFER_COLUMNS,
    OfferQuery,
    build_funnel_sql,
    build_provenance_sql,
    build_sql,
    clauses,
)
from skyward.catalog.result import Matched, Provenance, Result, aware, in_words, provenance_of
from skyward.catalog.schema import SCHEMA_VERSION, TABLES
from skyward.errors import CatalogError, DamagedCatalogError, QueryError, StalePricesError
from skyward.model.offer import Offer

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.catalog.audit import Finding
    from skyward.catalog.history import Diff
    from skyward.catalog.refresh import RefreshResult
    from skyward.config import Places
    from skyward.contracts.provider import Provider
    from skyward.model.accelerator import Registry

Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogInfo:
    """What the catalog holds and where it lies."""

    version: str
    """Of the bundled snapshot: day of its newest price, `2026.11.20`."""
    schema_version: int
    providers: tuple[Provenance, ...]
    files: tuple[Layer, ...]
    history: Path
    history_parts: int
    warnings: tuple[str, ...]


def open_catalog(
    places: Places | None = None, *, bundled: Path | None = None, in_memory: bool = False
) -> Catalog:
    """The catalog as it is now. A context manager; `warnings` says which files are not used and why.

    With `in_memory` every offer is read once and kept (a million take 0.3 s and 260 MB): worth it for a process
    that asks hundreds of questions.

    Raises:
        DamagedCatalogError: neither the bundled snapshot nor anything else can be read.
    """
    if places is None:
        from skyward.config import Places

        places = Places.find()
    return Catalog(places, bundled or files.bundled_directory(), in_memory=in_memory)


class Catalog:
    """Offers of all providers, each row from the layer that speaks for its provider."""

    def __init__(self, places: Places, bundled: Path, *, in_memory: bool = False) -> None:
        self.places = places
        self.bundled = bundled
        self._warnings: list[str] = []
        self._tables: set[str] = set()
        self._sold: set[tuple[str, str]] = set()
        self.base = self._bundled_layer()
        overlays = self._overlays()
        self._db = connect([layer.path for layer in (*overlays, *self.base)])
        try:
            self.layers = (*self._accepted(overlays), *self.base)
            self._refuse_nothing()
            kind = "TABLE" if in_memory else "VIEW"
            self._db.execute(f"CREATE TEMP {kind} offers AS {offers_sql(self.layers)}")
        except BaseException:
            self._db.close()
            raise

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that are refused, why, and what is used instead."""
        return tuple(self._warnings)

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees the connection. Idempotent."""
        self._db.close()

    # -- asking -----------------------------------------------------------------------------------------------

    def rows(self, query: OfferQuery) -> Result:
        """The rows that answer `query`, best first; nothing found is an empty result.

        Raises:
            QueryError: an unknown column, region or machine, or a day before the first price.
            StalePricesError: `max_age_s` is given and the answer would draw on older prices.
        """
        query = self._prepared(query)
        self._refuse_stale(query)
        return self.ask(*build_sql(query))

    def offers(self, query: OfferQuery) -> list[Offer]:
        """As `rows`, as offers. An indicative offer of unknown size has 0 vCPUs and 0 GiB."""
        query = self._prepared(replace(query, columns=OFFER_COLUMNS, group_by=()))
        self._refuse_stale(query)
        with _files_still_there():
            return [offer_of(row) for row in self._db.execute(*build_sql(query)).fetchall()]

    def matched(self, query: OfferQuery) -> Matched:
        """How much matches before the limit, and from where, provider by provider."""
        return self._matched(self._prepared(query))

    def funnel(self, query: OfferQuery) -> list[tuple[str | None, int, float | None]]:
        """Per wish: its name, how many offers fail it first, and the cheapest of them; None is what fits."""
        query = self._prepared(query)
        names = [clause.name for clause in clauses(query)]
        return [
            (None if number is None else names[number], count, cheapest)
            for number, count, cheapest in self.ask(*build_funnel_sql(query)).rows
        ]

    def machine(self, name: str) -> tuple[str, str | None]:
        """The instance type `name` means, and a warning where it is not the provider's own name.

        Raises:
            QueryError: no provider has such a machine; carries the nearest names.
        """
        if self._sells("instance_type", name):
            return name, None
        self.table("instance_types")
        for meant, note in self.ask(_ALIAS, {"name": name}).rows:
            return meant, f"{name!r} is taken for {meant!r}: {note}"
        raise _unknown("machine", name, self._distinct("instance_type"))

    def accelerators(self) -> Result:
        """Every accelerator of the snapshot: its facts, the providers that sell it, the lowest price per hour."""
        self.table("accelerators")
        return self.ask(_ACCELERATORS)

    def sellers(self, name: str) -> Result:
        """Who sells an accelerator, per provider and way of paying, cheapest first. `name` is canonical."""
        return self.ask(_SELLERS, {"name": name})

    def info(self) -> CatalogInfo:
        """What there is: providers, layers, ages, files."""
        from skyward.catalog.history import parts

        return CatalogInfo(
            version=next((layer.manifest.version for layer in self.base if layer.manifest), ""),
            schema_version=SCHEMA_VERSION,
            providers=self._matched(OfferQuery()).providers,
            files=self.layers,
            history=files.history_directory(self.places),
            history_parts=len(parts(self.places)),
            warnings=self.warnings,
        )

    def sql(self, text: str) -> Result:
        """The answer to one SELECT over `offers`, `instance_types`, `accelerators`, `snapshots` and `history`.

        It runs on a copy in memory that can reach no file, no network, no extension and no variable.

        Raises:
            QueryError: not exactly one statement that reads, or one DuckDB cannot run.
        """
        from skyward.catalog.sandbox import run_sql

        return run_sql(self, text)

    def history(
        self, query: OfferQuery, since: datetime | None = None, until: datetime | None = None
    ) -> Result:
        """Prices over time of the offers that match, oldest first; columns are `history.SERIES`."""
        from skyward.catalog.history import series

        return series(self, self._named(query), since, until)

    def diff(self, before: object, after: object, query: OfferQuery | None = None) -> Diff:
        """What is new, gone and moved between two states: "bundled", "live", "now", a datetime, or a file."""
        from skyward.catalog.history import diff

        return diff(self, before, after, self._named(query or OfferQuery()))

    def verify(self) -> list[Finding]:
        """Every file of the catalog, and what is wrong with it."""
        from skyward.catalog.audit import verify

        return verify(self)

    def refresh(
        self,
        providers: Iterable[Provider],
        progress: Callable[[str, str], None] = lambda provider, message: None,
        *,
        registry: Registry,
        force: bool = False,
        since: datetime | None = None,
    ) -> list[RefreshResult]:
        """Fetches each provider's offers; one that fails keeps its old prices and their date.

        With `since`, clouds that remember what prices were are asked for those, too.

        This object goes on answering from what it opened: open the catalog again for the new prices.
        """
        from skyward.catalog.refresh import refresh

        return refresh(self, providers, progress, registry=registry, force=force, since=since)

    # -- for the modules of this package ----------------------------------------------------------------------

    def ask(self, sql: str, parameters: Parameters | None = None) -> Result:
        """Runs one statement on the catalog's connection."""
        with _files_still_there():
            return fetch(self._db.execute(sql, parameters or {}))

    def arrow(self, sql: str, parameters: Parameters) -> pa.Table:
        """As `ask`, as an Arrow table; for what is written on, because it imports pyarrow."""
        return self._db.sql(sql, params=parameters).to_arrow_table()

    def statements(self, text: str) -> list[str]:
        """The kind of each statement in `text`, as DuckDB names them.

        Raises:
            duckdb.Error: it cannot be parsed.
        """
        return [statement.type.name for statement in self._db.extract_statements(text)]

    def table(self, name: str) -> str:
        """The name of a table of the snapshot, after making it known to the connection.

        Raises:
            DamagedCatalogError: its file is broken.
        """
        if name not in self._tables:
            source = empty_sql(TABLES[name])
            for layer in self.base:
                if layer.manifest and name in layer.manifest.files:
                    source = f"FROM {parquet(checked_file(self.bundled, layer.manifest.files[name]))}"
            self._db.execute(f"CREATE TEMP VIEW {name} AS {source}")
            self._tables.add(name)
        return name

    def warn(self, message: str) -> None:
        if message not in self._warnings:
            self._warnings.append(message)

    # -- opening ----------------------------------------------------------------------------------------------

    def _bundled_layer(self) -> tuple[Layer, ...]:
        try:
            return (files.bundled_layer(self.bundled),)
        except DamagedCatalogError as error:
            self.warn(error.message)
            return ()

    def _overlays(self) -> list[Layer]:
        found = []
        for item in (*files.user_layers(self.places), *files.live_layers(self.places)):
            if isinstance(item, str):
                self.warn(item)
            else:
                found.append(item)
        return found

    def _accepted(self, overlays: Sequence[Layer]) -> list[Layer]:
        """At most one overlay per provider: the first whose rows can be believed, the user's before live ones."""
        if not overlays:
            return []
        from skyward.catalog.belief import believable

        accepted: dict[str, Layer] = {}
        for layer in overlays:
            if layer.provider not in accepted and (good := believable(self, layer)) is not None:
                accepted[layer.provider] = good
        return list(accepted.values())

    def _refuse_nothing(self) -> None:
        if not self.layers:
            raise DamagedCatalogError(
                self._warnings[0],
                facts=self._warnings[1:],
                hints=["uv pip install --reinstall skyward", "skyward catalog refresh"],
            )

    # -- within -----------------------------------------------------------------------------------------------

    def _matched(self, query: OfferQuery) -> Matched:
        found = provenance_of(self.ask(*build_provenance_sql(query)).rows)
        return Matched(sum(item.rows for item in found), sum(item.priced for item in found), found)

    def _prepared(self, query: OfferQuery) -> OfferQuery:
        """The query with its names checked, and the relation it reads in place."""
        query = self._named(query)
        if query.as_of is not None:
            from skyward.catalog.history import provide_as_of

            provide_as_of(self, query)
        return query

    def _named(self, query: OfferQuery) -> OfferQuery:
        for region in query.regions:
            if not self._sells("region", region):
                raise _unknown("region", region, self._distinct("region"))
        return query if query.machine is None else replace(query, machine=self.machine(query.machine)[0])

    def _sells(self, column: str, name: str) -> bool:
        """Whether some offer has this value; found, the rest of the catalog is not read, and it is not asked again."""
        if (column, name) in self._sold:
            return True
        found = self.ask(f"SELECT 1 FROM offers WHERE {column} = $name LIMIT 1", {"name": name}).rows
        self._sold |= {(column, name)} if found else set()
        return bool(found)

    def _distinct(self, column: str) -> set[str]:
        return set(self.ask(f"SELECT DISTINCT {column} FROM offers").column(column))

    def _refuse_stale(self, query: OfferQuery) -> None:
        if query.max_age_s is None:
            return
        now = query.as_of or datetime.now(UTC)
        ages = {item.provider: item.age_s(now) for item in self._matched(query).providers}
        old = {name: age for name, age in ages.items() if age > query.max_age_s}
        if not old:
            return
        words = ", ".join(f"{name} {in_words(age)}" for name, age in old.items())
        raise StalePricesError(
            f"prices are older than {in_words(query.max_age_s)} allows: {words}",
            hints=[f"skyward catalog refresh {' '.join(f'--provider {name}' for name in old)}"],
            providers=old,
        )


def _unknown(what: str, name: str, known: Iterable[str]) -> QueryError:
    from difflib import get_close_matches

    near = get_close_matches(name, sorted(known), n=3)
    guess = f": did you mean {' or '.join(map(repr, near))}?" if near else ""
    hints = [] if near else [f"skyward offers --group-by {what}"]
    return QueryError(f"no offer has {what} {name!r}{guess}", hints=hints, near=near)


def offer_of(row: Sequence[Any]) -> Offer:
    """One row of `OFFER_COLUMNS` as an offer."""
    # Spelled out, because a plan without much of a wish makes forty thousand of them.
    (
        provider, region, zone, instance_type, pricing, usd_per_hour, usd_per_gpu_hour, price_floor, vcpus, memory_gib,
        disk_gb, architecture, accelerator, accelerator_count, accelerator_memory_gib, interconnect, availability,
        reliability, observed_at, source, quality, _accelerator_raw, zones, details, _layer,
    ) = row  # fmt: skip
    return Offer(
        provider=provider,
        region=region,
        zone=zone,
        zones=tuple(zones) if zones else (),
        instance_type=instance_type,
        pricing=pricing,
        usd_per_hour=usd_per_hour,
        usd_per_gpu_hour=usd_per_gpu_hour,
        price_floor=price_floor,
        vcpus=vcpus or 0.0,
        memory_gib=memory_gib or 0.0,
        disk_gb=disk_gb,
        architecture=architecture,
        accelerator=accelerator,
        accelerator_count=accelerator_count,
        accelerator_memory_gib=accelerator_memory_gib,
        interconnect=interconnect,
        availability=availability,
        reliability=reliability,
        observed_at=_moment(observed_at),
        source=source,
        quality=quality,
        details=_details(details) if details else {},
    )


_moment = lru_cache(maxsize=1024)(aware)
"""A catalog has a handful of different moments."""


def _details(text: str) -> dict[str, Any]:
    import json

    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


_ALIAS = """\
SELECT alias_of, note
FROM instance_types
WHERE instance_type = $name AND alias_of IS NOT NULL"""

_ACCELERATORS = """\
SELECT a.name, a.family, a.vendor, a.kind, a.architecture, a.memory_gib, a.form_factor, a.interconnect,
       a.fp16_tflops_dense, a.mig_profiles, a.aliases, a.confidence,
       list_sort(list(DISTINCT o.provider) FILTER (WHERE o.provider IS NOT NULL)) AS providers,
       min(o.usd_per_gpu_hour) FILTER (WHERE o.quality <> 'indicative') AS min_usd_per_gpu_hour
FROM accelerators a LEFT JOIN offers o ON o.accelerator = a.name
GROUP BY ALL
ORDER BY a.vendor, a.name"""

_SELLERS = """\
SELECT provider, pricing, quality, count(*) AS offers, list_sort(list(DISTINCT region)) AS regions,
       list_sort(list(DISTINCT accelerator_count)) AS counts,
       min(usd_per_gpu_hour) AS min_usd_per_gpu_hour, min(observed_at) AS oldest_observed_at
FROM offers
WHERE accelerator = $name
GROUP BY ALL
ORDER BY min_usd_per_gpu_hour NULLS LAST, provider, pricing, quality"""


@contextmanager
def _files_still_there() -> Iterator[None]:
    """A catalog that stays open keeps the files it found; refreshes replace them, and the second one removes them."""
    import duckdb

    try:
        yield
    except duckdb.IOException as error:
        raise CatalogError(
            "prices were refreshed, and the files this catalog had opened are gone: open it again",
            facts=[str(error).splitlines()[0]],
        ) from error
