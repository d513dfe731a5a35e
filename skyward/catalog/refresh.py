"""Fetching prices: each provider's offers are checked, compared with what we had, and put in place in one step.

A provider that fails, answers nonsense or is implausible keeps its old file *with its old date*, and never hurts
another. What changed goes into the history.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.catalog import layers as files
from skyward.catalog.belief import broken_rows, latest_moment
from skyward.catalog.engine import parquet
from skyward.catalog.history import backfill, remember
from skyward.catalog.ingest import Ingested, ingest
from skyward.catalog.layers import Layer
from skyward.catalog.manifest import FileEntry, Manifest, sha256_of
from skyward.catalog.query import KEY_COLUMNS
from skyward.catalog.rules import broken_keys_sql
from skyward.catalog.schema import OFFERS, sorted_offers, write_table, write_text
from skyward.errors import ImplausiblePricesError, ProviderError, SkywardError

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.catalog.store import Catalog
    from skyward.contracts.provider import Provider
    from skyward.model.accelerator_model import Registry
    from skyward.model.offer import Offer

Progress = Callable[[str, str], None]

TELL_EVERY_S = 2.0

KEPT_SHARE = 0.5
"""A refresh with less than this share of the priced offers before is not believed..."""
COMPARABLE = 20
"""...where there were at least so many."""
JUMP = 3.0
"""A refresh whose prices moved by more than this factor, in the median, is not believed."""
BROKEN_SHARE = 0.02
"""Rows that break a rule are left out one by one, up to this share; above it something is wrong with all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult:
    """What became of one provider's refresh. Without `ok`, `error` says why and the old prices stay in use."""

    provider: str
    ok: bool
    rows: int = 0
    priced: int = 0
    changed: int = 0
    """Offers that are new, gone, or cost something else than at the last refresh."""
    past: int = 0
    """Prices of before the first refresh that the cloud remembered."""
    seconds: float = 0.0
    skipped: tuple[str, ...] = ()
    """What was left out: reason and number, most frequent first."""
    error: SkywardError | None = None


def refresh(
    catalog: Catalog,
    providers: Iterable[Provider],
    progress: Progress,
    *,
    registry: Registry,
    force: bool,
    since: datetime | None = None,
) -> list[RefreshResult]:
    """Asks each provider in turn. `force` puts implausible prices in place too; broken rows stay out.

    `since` also asks what prices were from then on, where a cloud remembers.
    """
    return [_refreshed(catalog, provider, progress, registry, force, since) for provider in providers]


def _refreshed(
    catalog: Catalog,
    provider: Provider,
    progress: Progress,
    registry: Registry,
    force: bool,
    since: datetime | None,
) -> RefreshResult:
    name, started = provider.name, time.monotonic()
    try:
        past = _remember_past(catalog, provider, progress, registry, since) if since else 0
        result = _refresh_one(catalog, provider, progress, registry, force)
    except SkywardError as error:
        failure = error
    except Exception as error:  # a stranger's plugin; whatever it raises must not stop the other providers
        failure = ProviderError(f"{name}: the plugin failed: {type(error).__name__}: {error}", provider=name)
        failure.__cause__ = error
    else:
        rows, priced, changed, skipped = result
        progress(name, f"{rows} offers, {changed} changed")
        return RefreshResult(
            provider=name,
            ok=True,
            rows=rows,
            priced=priced,
            changed=changed,
            past=past,
            skipped=skipped,
            seconds=time.monotonic() - started,
        )
    progress(name, f"failed: {failure.message}")
    return RefreshResult(provider=name, ok=False, error=failure, seconds=time.monotonic() - started)


def _remember_past(
    catalog: Catalog, provider: Provider, progress: Progress, registry: Registry, since: datetime
) -> int:
    progress(provider.name, f"asking for prices since {since:%Y-%m-%d}")
    now = datetime.now(UTC).replace(microsecond=0)
    offers = provider.past_offers(since)
    found = ingest(offers, provider.name, registry, now, key=(*KEY_COLUMNS, "observed_at"))
    count = backfill(catalog, provider.name, found.table(), now) if found.rows else 0
    progress(provider.name, f"{count} past prices")
    return count


def _refresh_one(
    catalog: Catalog, provider: Provider, progress: Progress, registry: Registry, force: bool
) -> tuple[int, int, int, tuple[str, ...]]:
    observed_at = datetime.now(UTC).replace(microsecond=0)
    progress(provider.name, "asking for offers")
    stranger = not provider.capabilities.trusted
    found = ingest(_counted(provider, progress), provider.name, registry, observed_at, marketplace=stranger)
    silent = sorted(provider.unanswered)
    if silent:
        progress(provider.name, f"no answer from {', '.join(silent)}: the prices from before stay")
    return publish(catalog, provider.name, found, observed_at, force=force, silent=silent)


def _counted(provider: Provider, progress: Progress) -> Iterator[Offer]:
    """The provider's offers, telling how many have come while it takes long."""
    told = time.monotonic()
    for count, offer in enumerate(provider.offers(), start=1):
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            progress(provider.name, f"{count} offers so far")
        yield offer


def publish(
    catalog: Catalog,
    provider: str,
    found: Ingested,
    observed_at: datetime,
    *,
    force: bool = False,
    silent: Sequence[str] = (),
) -> tuple[int, int, int, tuple[str, ...]]:
    """Checks the rows and makes them the provider's live layer. Rows, priced rows, changes, and what was left out.

    Of regions that are `silent` the rows from before are taken along, with the day they were observed.

    Raises:
        ImplausiblePricesError: nothing is left, too much is broken, or it is too far from what we had.
    """
    from filelock import FileLock

    directory = files.live_directory(catalog.places) / provider
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock", timeout=120):
        staged = directory / ".staged.parquet"
        try:
            table, skipped = found.table(), found.skipped
            del found  # the rows are several times the size of their table
            if silent:
                table = _with_regions(catalog, table, provider, directory, silent)
            table, left_out = _believable(catalog, table, skipped, staged, provider)
            if not force:
                _refuse_implausible(catalog, provider, staged)
            layer = _put_in_place(directory, provider, staged, table, observed_at)
        finally:
            staged.unlink(missing_ok=True)
        changed = remember(catalog, layer, observed_at)
    priced = table.num_rows - table.column("usd_per_hour").null_count
    return table.num_rows, priced, changed, left_out


def _with_regions(
    catalog: Catalog, table: pa.Table, provider: str, directory: Path, regions: Sequence[str]
) -> pa.Table:
    """The table with the rows that the last refresh, or else the snapshot, has of these regions."""
    import pyarrow as pa

    before = (
        [files.live_layer(directory).path] if _is_good(directory) else [base.path for base in catalog.base]
    )
    if not before:
        return table
    names = ", ".join(name for name, _ in OFFERS)
    kept = catalog.arrow(
        f"SELECT {names} FROM {parquet(*before)} WHERE provider = $provider AND list_contains($regions, region)",
        {"provider": provider, "regions": list(regions)},
    )
    return sorted_offers(pa.concat_tables([table, kept.cast(table.schema)]))


def _believable(
    catalog: Catalog, table: pa.Table, skipped: Counter[str], staged: Path, provider: str
) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows that obey the rules, written to `staged`, and what was left out in words."""
    write_table(table, staged)
    catalog.table("accelerators")
    broken = catalog.ask(broken_keys_sql(parquet(staged)), {"latest": latest_moment()}).rows
    if table.num_rows == 0 or len(broken) > max(3, BROKEN_SHARE * table.num_rows):
        problems = broken_rows(catalog, parquet(staged)) or ["no offer at all"]
        raise _implausible(provider, problems)
    words = [f"{reason} ({count})" for reason, count in skipped.most_common()]
    if broken:
        words += [f"not believed: {text}" for text in broken_rows(catalog, parquet(staged))]
        table = _without(table, {tuple(row) for row in broken})
        write_table(table, staged)
    return table, tuple(words)


def _without(table: pa.Table, keys: set[tuple[object, ...]]) -> pa.Table:
    """The rows whose key is none of these."""
    rows = zip(*(table.column(name).to_pylist() for name in KEY_COLUMNS), strict=True)
    return table.filter([row not in keys for row in rows])


def _implausible(provider: str, problems: list[str]) -> ImplausiblePricesError:
    return ImplausiblePricesError(
        f"{provider}: the refreshed prices are not believed: {problems[0]}",
        facts=[*problems[1:5], "the old prices stay in use, with their old date"],
        hints=[f"skyward catalog refresh --provider {provider} --force"],
        provider=provider,
        problems=problems,
    )


_SAME = " AND ".join(f"n.{name} IS NOT DISTINCT FROM o.{name}" for name in KEY_COLUMNS)
_COMPARED = f"""\
WITH old AS (
    SELECT * FROM offers WHERE provider = $provider AND usd_per_hour IS NOT NULL AND quality <> 'indicative'
),
fresh AS (SELECT * FROM {{staged}} WHERE usd_per_hour IS NOT NULL)
SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM fresh), count(*),
       median(n.usd_per_hour / o.usd_per_hour)
FROM fresh n JOIN old o ON {_SAME}"""


def _refuse_implausible(catalog: Catalog, provider: str, staged: Path) -> None:
    before, after, shared, ratio = catalog.ask(
        _COMPARED.format(staged=parquet(staged)), {"provider": provider}
    ).rows[0]
    problems = []
    if before >= COMPARABLE and after < KEPT_SHARE * before:
        problems.append(f"{after} priced offers where there were {before}")
    if shared >= COMPARABLE and not 1 / JUMP <= ratio <= JUMP:
        problems.append(f"prices are {ratio:.3g} times what they were, in the median of {shared}")
    if problems:
        raise _implausible(provider, problems)


def _put_in_place(
    directory: Path, provider: str, staged: Path, table: pa.Table, observed_at: datetime
) -> Layer:
    """Names the file after its digest, keeps the manifest before as the fallback, and removes what is older."""
    digest = sha256_of(staged)
    entry = FileEntry(
        name=f"offers-{digest[:16]}.parquet", sha256=digest, bytes=staged.stat().st_size, rows=table.num_rows
    )
    manifest = Manifest(version=f"{observed_at:%Y.%m.%d}", provider=provider, files={"offers": entry})
    path = directory / entry.name
    staged.replace(path)
    current = directory / files.CURRENT
    if _is_good(directory):
        write_text(current.read_text(encoding="utf-8"), directory / files.PREVIOUS)
    write_text(manifest.dump(), current)
    _remove_unused(directory)
    return Layer(name="live", provider=provider, path=path, manifest=manifest)


def _is_good(directory: Path) -> bool:
    """Whether the refresh before can serve as the fallback of the one that replaces it."""
    try:
        files.live_layer(directory)
    except SkywardError:
        return False
    return True


def _remove_unused(directory: Path) -> None:
    kept = set()
    for name in (files.CURRENT, files.PREVIOUS):
        try:
            kept.add(files.live_layer(directory, name).path.name)
        except SkywardError:
            continue
    for path in directory.glob("offers-*.parquet"):
        if path.name not in kept:
            path.unlink(missing_ok=True)
