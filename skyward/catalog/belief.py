"""Whether the rows of a file can be believed, and how a user's own file is taken in.

Digests say that a file is as it was written; these checks say that what was written makes sense. They run on
every opened layer but the bundled one, whose digest ships with the code that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.catalog import layers as files
from skyward.catalog.engine import empty_sql, literal, parquet, relation
from skyward.catalog.layers import Layer
from skyward.catalog.manifest import refusal
from skyward.catalog.query import KEY_COLUMNS, naive_utc
from skyward.catalog.rules import broken_sql, describe, duplicates_sql
from skyward.catalog.schema import ACCELERATORS, OFFERS, Columns, differences
from skyward.errors import DamagedCatalogError

if TYPE_CHECKING:
    from skyward.catalog.store import Catalog

CLOCK_SKEW = timedelta(days=2)
"""How far in the future a price may have been observed: clocks differ."""


def believable(catalog: Catalog, layer: Layer) -> Layer | None:
    """The layer, or the refresh before it, whichever can be believed first; warns of what is refused."""
    try:
        if layer.name == "user":
            take_in(catalog, layer)
        else:
            check_columns(catalog, layer.path, OFFERS)
        check_rows(catalog, relation(layer), layer.path, layer.provider)
    except DamagedCatalogError as error:
        before = _before(catalog, layer)
        used = f"the prices of {before.manifest.version}" if before and before.manifest else "the next layer"
        catalog.warn(f"{error.message}; using {used}")
        return believable(catalog, before) if before else None
    return layer


def _before(catalog: Catalog, layer: Layer) -> Layer | None:
    directory = layer.path.parent
    if layer.name != "live" or not (directory / files.PREVIOUS).exists():
        return None
    try:
        before = files.live_layer(directory, files.PREVIOUS)
    except DamagedCatalogError as error:
        catalog.warn(error.message)
        return None
    return None if before.path == layer.path else before


def check_columns(catalog: Catalog, path: Path, expected: Columns) -> None:
    """Whether a Parquet file has exactly these columns.

    Raises:
        DamagedCatalogError: it has others, or is no Parquet.
    """
    if words := differences(_columns(catalog, path, parquet(path)), expected):
        raise refusal(path, f"is not a table of ours: {words[0]}")


def _columns(catalog: Catalog, path: Path, source: str) -> list[tuple[str, str]]:
    import duckdb

    try:
        return [(row[0], row[1]) for row in catalog.ask(f"DESCRIBE FROM {source}").rows]
    except duckdb.Error as error:
        raise refusal(path, f"cannot be read: {_first_line(error)}") from error


def check_rows(
    catalog: Catalog, source: str, path: Path, provider: str = "", key: Sequence[str] = KEY_COLUMNS
) -> None:
    """Whether every row obeys `rules.RULES`, is of `provider` where one is given, and no `key` is there twice.

    Raises:
        DamagedCatalogError: names the first row that does not.
    """
    import duckdb

    _provide_windows(catalog)
    try:
        problems = [*_strangers(catalog, source, provider), *broken_rows(catalog, source, key)]
    except duckdb.Error as error:
        raise refusal(path, f"cannot be read: {_first_line(error)}") from error
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise refusal(path, f"is not believed: {problems[0]}{more}")


def _provide_windows(catalog: Catalog) -> None:
    """The table of plausible prices; an empty one where it is damaged, because the general limits hold without it."""
    try:
        catalog.table("accelerators")
    except DamagedCatalogError as error:
        catalog.warn(error.message)
        catalog.ask(f"CREATE OR REPLACE TEMP VIEW accelerators AS {empty_sql(ACCELERATORS)}")


def _strangers(catalog: Catalog, source: str, provider: str) -> list[str]:
    """A file speaks for the provider it is named after, and for nobody else."""
    if not provider:
        return []
    others = catalog.ask(
        f"SELECT DISTINCT provider FROM {source} WHERE provider IS DISTINCT FROM $provider LIMIT 3",
        {"provider": provider},
    )
    return [f"it has offers of {name!r}" for name in others.column("provider")]


def broken_rows(catalog: Catalog, source: str, key: Sequence[str] = KEY_COLUMNS) -> list[str]:
    """In words, rows of the relation `source` that break a rule or a key; at most ten of each."""
    broken = catalog.ask(broken_sql(source), {"latest": latest_moment()}).rows
    words = [describe(row[0], row[1:-1], row[-1]) for row in broken]
    for *parts, count in catalog.ask(duplicates_sql(source, key)).rows:
        words.append(f"{' '.join(str(part) for part in parts if part is not None)}: there {count} times")
    return words


def latest_moment() -> datetime:
    """No price can have been observed after it."""
    return naive_utc(datetime.now(UTC)) + CLOCK_SKEW


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]


# -- the user's own file --------------------------------------------------------------------------------------

REQUIRED = ("region", "instance_type", "usd_per_hour", "vcpus", "memory_gib")


def take_in(catalog: Catalog, layer: Layer) -> None:
    """Reads the user's CSV or Parquet into the table `user_<provider>`, with defaults for columns it lacks.

    Raises:
        DamagedCatalogError: a column is unknown, missing or of the wrong kind.
    """
    import duckdb

    source = _user_source(layer.path)
    given = [name for name, _ in _columns(catalog, layer.path, source)]
    _check_user_columns(layer.path, given)
    catalog.table("accelerators")
    selected = ",\n       ".join(f"{sql} AS {name}" for name, sql in _user_columns(layer, given))
    try:
        catalog.ask(
            f"CREATE OR REPLACE TEMP TABLE user_{layer.provider} AS\n"
            f"SELECT * REPLACE (usd_per_hour / nullif(accelerator_count, 0) AS usd_per_gpu_hour) FROM (\n"
            f"SELECT {selected}\nFROM {source} u)"
        )
    except duckdb.Error as error:
        raise refusal(layer.path, f"cannot be read: {_first_line(error)}") from error
    _warn_of_names(catalog, layer)


def _warn_of_names(catalog: Catalog, layer: Layer) -> None:
    """A wish for an H100 asks for "H100-SXM" and its kin; a row that says "H100" would never be found."""
    named = catalog.ask(
        f"SELECT DISTINCT accelerator FROM {relation(layer)} ANTI JOIN accelerators ON accelerator = name"
    )
    known = catalog.ask("SELECT name FROM accelerators").column("name")
    for name in filter(None, named.column("accelerator")):
        near = get_close_matches(name, known, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        catalog.warn(f"{layer.path}: no accelerator is called {name!r}, and no wish will find it{hint}")


def _user_source(path: Path) -> str:
    if path.suffix == ".parquet":
        return parquet(path)
    return f"read_csv({literal(str(path))}, header = TRUE, all_varchar = TRUE, delim = ',', quote = '\"')"


def _check_user_columns(path: Path, given: Sequence[str]) -> None:
    known = [name for name, _ in OFFERS]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise refusal(
                path, f"has a column {name!r} nobody knows" + (f": did you mean {near[0]!r}?" if near else "")
            )
    for name in REQUIRED:
        if name not in given:
            raise refusal(path, f"lacks the column {name!r}")


def _user_columns(layer: Layer, given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, kind in OFFERS:
        default = _DEFAULTS.get(name, "NULL")
        if name == "provider":
            default = literal(layer.provider)
        elif name == "source":
            default = literal(layer.path.name)
        elif name == "observed_at":
            written = datetime.fromtimestamp(int(layer.path.stat().st_mtime), UTC)
            default = literal(str(naive_utc(written)))
        if name in given:
            text = f"nullif(trim(u.{name}::VARCHAR), '')"
            read = (
                f"string_split({text}, ' ')" if kind == "VARCHAR[]" and layer.path.suffix == ".csv" else text
            )
            read = f"u.{name}" if kind == "VARCHAR[]" and layer.path.suffix != ".csv" else read
            yield name, f"coalesce({read}::{kind}, {default})" if default != "NULL" else f"{read}::{kind}"
        elif name == "accelerator_count" and "accelerator" in given:
            yield name, "CASE WHEN nullif(trim(u.accelerator), '') IS NULL THEN 0 ELSE 1 END::DOUBLE"
        else:
            yield name, f"{default}::{kind}"


_DEFAULTS = {
    "pricing": "'on-demand'",
    "architecture": "'x86_64'",
    "availability": "'listed'",
    "quality": "'exact'",
    "accelerator_count": "0",
}
