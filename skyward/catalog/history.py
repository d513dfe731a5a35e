"""What prices were: an append-only record of changes, questions about a day in the past, and differences.

A part is written at each refresh, holds only offers whose price changed, appeared or went, and carries the
digest of its bytes in its name, so that a damaged part is noticed and left out by name. The parts of a month that
is over become one; no row is ever changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.catalog import layers as files
from skyward.catalog.engine import empty_sql, literal, offers_sql, parquet
from skyward.catalog.layers import Layer
from skyward.catalog.manifest import refusal, sha256_of
from skyward.catalog.query import KEY_COLUMNS, OfferQuery, clauses, naive_utc
from skyward.catalog.result import Result, aware
from skyward.catalog.rules import sound_sql
from skyward.catalog.schema import HISTORY, OFFERS, arrow_schema, write_table
from skyward.errors import DamagedCatalogError, QueryError

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.catalog.store import Catalog
    from skyward.config import Places

_PART = re.compile(r"part-\d{8}T\d{6}Z-([0-9a-f]{16})\.parquet")

SERIES = (
    "observed_at",
    *KEY_COLUMNS,
    "accelerator",
    "usd_per_hour",
    "usd_per_gpu_hour",
    "change",
    "source",
    "quality",
)
"""Columns of a price series. `change` is new, price or gone; `held` is the price that held when the series starts."""

_KEYS = ", ".join(KEY_COLUMNS)
_COLUMNS = ", ".join(name for name, _ in OFFERS)


def parts(places: Places) -> list[Path]:
    """The parts of the history, by provider and day."""
    root = files.history_directory(places)
    found = root.glob("provider=*/date=*/part-*.parquet") if root.is_dir() else ()
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def check_part(catalog: Catalog, path: Path) -> None:
    """Whether a part is as it was written, and its rows make sense.

    Raises:
        DamagedCatalogError: it is not, or they do not.
    """
    _check_digest(path)
    _check_content(catalog, path)


def _check_digest(path: Path) -> None:
    match = _PART.fullmatch(path.name)
    if match is None:
        raise refusal(path, "has a name no part of the history has")
    if not sha256_of(path).startswith(match[1]):
        raise refusal(path, "was changed after it was written: its digest is not the one in its name")


def _check_content(catalog: Catalog, *paths: Path) -> None:
    from skyward.catalog.belief import check_columns, check_rows

    for path in paths[:1]:
        check_columns(catalog, path, HISTORY)
    check_rows(catalog, parquet(*paths), paths[0], key=(*KEY_COLUMNS, "observed_at"))


def provide_history(catalog: Catalog) -> None:
    """Makes the view `history` of all good parts known to the connection; warns of the others."""
    good = _good(catalog, parts(catalog.places))
    source = f"FROM {parquet(*good)}" if good else empty_sql(HISTORY)
    catalog.ask(f"CREATE OR REPLACE TEMP VIEW history AS {source}")


def _good(catalog: Catalog, paths: Sequence[Path]) -> list[Path]:
    """The parts that can be believed. All are looked at together, and one by one only where something is wrong."""
    whole = [path for path in paths if _passes(catalog, _check_digest, path)]
    try:
        if whole:
            _check_content(catalog, *whole)
    except DamagedCatalogError:
        return [path for path in whole if _passes(catalog, _check_content, catalog, path)]
    return whole


def _passes(catalog: Catalog, check: Callable[..., None], *given: Any) -> bool:
    try:
        check(*given)
    except DamagedCatalogError as error:
        catalog.warn(f"{error.message}; left out of the history")
        return False
    return True


# -- a day in the past ----------------------------------------------------------------------------------------


def provide_as_of(catalog: Catalog, query: OfferQuery) -> None:
    """Makes `offers_as_of(moment)` known: the last price of each offer before it, where it had not gone.

    A provider without history before the moment is answered from the bundled snapshot.

    Raises:
        QueryError: there was no price yet.
    """
    provide_history(catalog)
    _provide_bundled(catalog)
    catalog.ask(_AS_OF)
    first = _first_price(catalog, query.providers)
    moment = query.as_of or datetime.now(UTC)
    if first is None or naive_utc(moment) < naive_utc(first):
        since = f"the first is of {first:%Y-%m-%d}" if first else "there is none at all"
        raise QueryError(f"no price is known of {moment:%Y-%m-%d}: {since}", first=first)


def _provide_bundled(catalog: Catalog) -> None:
    base = " UNION ALL ".join(f"SELECT {_COLUMNS} FROM {parquet(layer.path)}" for layer in catalog.base)
    catalog.ask(f"CREATE OR REPLACE TEMP VIEW bundled AS {base or empty_sql(OFFERS)}")


_AS_OF = f"""\
CREATE OR REPLACE TEMP MACRO offers_as_of(moment) AS TABLE
WITH told AS (
    SELECT {_COLUMNS}, change, 'history' AS layer FROM history WHERE observed_at <= moment
    UNION ALL
    SELECT {_COLUMNS}, 'new' AS change, 'bundled' AS layer FROM bundled WHERE observed_at <= moment
),
latest AS (
    SELECT *
    FROM told
    QUALIFY row_number() OVER (PARTITION BY {_KEYS} ORDER BY observed_at DESC, layer DESC) = 1
),
refreshed AS (
    SELECT provider
    FROM history h
    WHERE observed_at <= moment AND change <> 'past'
    GROUP BY provider
    HAVING max(observed_at) > coalesce((SELECT max(observed_at) FROM bundled b WHERE b.provider = h.provider),
                                       TIMESTAMP '-infinity')
)
SELECT {_COLUMNS}, layer
FROM latest
WHERE change <> 'gone' AND (layer = 'history' OR provider NOT IN (SELECT provider FROM refreshed))"""
"""What was known last of each offer. After a refresh, what it did not list is not answered from the snapshot."""


def _first_price(catalog: Catalog, providers: Sequence[str]) -> datetime | None:
    among = f"WHERE provider IN ({', '.join(map(literal, providers))})" if providers else ""
    rows = catalog.ask(
        f"SELECT min(observed_at) AS first FROM (SELECT provider, observed_at FROM history "
        f"UNION ALL SELECT provider, observed_at FROM bundled WHERE usd_per_hour IS NOT NULL) {among}"
    ).rows
    return aware(rows[0][0]) if rows else None


# -- a series of prices ----------------------------------------------------------------------------------------


def series(catalog: Catalog, query: OfferQuery, since: datetime | None, until: datetime | None) -> Result:
    """Each price the matching offers had, with the moment it was first seen; oldest first. Columns are `SERIES`."""
    provide_history(catalog)
    conditions = clauses(query)
    parameters: dict[str, Any] = {k: v for clause in conditions for k, v in clause.parameters.items()}
    parameters["since"] = naive_utc(since) if since else datetime.min
    parameters["until"] = naive_utc(until) if until else datetime.max
    wishes = "".join(f"\n  AND ({clause.sql})" for clause in conditions)
    base = "".join(
        f"\n  UNION ALL SELECT *, 'new' AS change FROM {parquet(layer.path)}" for layer in catalog.base
    )
    return catalog.ask(
        f"WITH told AS (\n  SELECT DISTINCT * FROM (SELECT * FROM history{base})\n"
        f"  WHERE observed_at <= $until{wishes}\n"
        f"  QUALIFY usd_per_hour IS NOT NULL OR lag(usd_per_hour) OVER (PARTITION BY {_KEYS} ORDER BY observed_at) > 0\n"
        "),\n"
        f"held AS (\n  SELECT * FROM told WHERE observed_at < $since\n"
        f"  QUALIFY row_number() OVER (PARTITION BY {_KEYS} ORDER BY observed_at DESC) = 1\n)\n"
        f"SELECT {', '.join(SERIES)} FROM told WHERE observed_at >= $since\n"
        f"UNION ALL BY NAME SELECT {', '.join(SERIES)} FROM (\n"
        "  SELECT * REPLACE ($since AS observed_at, 'held' AS change) FROM held WHERE usd_per_hour IS NOT NULL)\n"
        f"ORDER BY observed_at, {_KEYS}",
        parameters,
    )


# -- differences --------------------------------------------------------------------------------------------------

DIFF_COLUMNS = (*KEY_COLUMNS, "accelerator", "before", "after", "percent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Offers that are new, gone, or cost something else; columns are `DIFF_COLUMNS`, prices USD per hour.

    One whose price is unknown is not there: it is new when its price is told, and gone when it is no longer.
    """

    before: str
    after: str
    new: Result
    gone: Result
    moved: Result
    """The largest change first, up or down."""


def diff(catalog: Catalog, before: object, after: object, query: OfferQuery) -> Diff:
    """What changed between two states. `live` compares only the providers that were refreshed.

    Raises:
        QueryError: a state is none we know.
        DamagedCatalogError: a file given as a state cannot be believed.
    """
    conditions = clauses(query)
    parameters = {k: v for clause in conditions for k, v in clause.parameters.items()}
    wishes = "".join(f"\n  AND ({clause.sql})" for clause in conditions)
    if "live" in (before, after):
        refreshed = [layer.provider for layer in catalog.layers if layer.name == "live"]
        wishes += f"\n  AND provider IN ({', '.join(map(literal, refreshed)) or 'NULL'})"
    for name, state in (("diff_before", before), ("diff_after", after)):
        source = _state(catalog, state)
        catalog.ask(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM ({source}) WHERE usd_per_hour IS NOT NULL{wishes}",
            parameters,
        )
    return Diff(
        before=_state_name(before),
        after=_state_name(after),
        new=catalog.ask(_DIFF.format(where="b.provider IS NULL", order="")),
        gone=catalog.ask(_DIFF.format(where="a.provider IS NULL", order="")),
        moved=catalog.ask(_DIFF.format(where=_MOVED, order="abs(percent) DESC NULLS LAST, ")),
    )


_MOVED = "a.usd_per_hour <> b.usd_per_hour"
_JOINED = ", ".join(f"coalesce(a.{name}, b.{name}) AS {name}" for name in (*KEY_COLUMNS, "accelerator"))
_ON = " AND ".join(f"a.{name} IS NOT DISTINCT FROM b.{name}" for name in KEY_COLUMNS)
_DIFF = f"""\
SELECT {_JOINED}, b.usd_per_hour AS before, a.usd_per_hour AS after,
       100 * (a.usd_per_hour / b.usd_per_hour - 1) AS percent
FROM diff_after a FULL JOIN diff_before b ON {_ON}
WHERE {{where}}
ORDER BY {{order}}{_KEYS}"""


def _state_name(state: object) -> str:
    return f"{state:%Y-%m-%d %H:%M}" if isinstance(state, datetime) else str(state)


def _state(catalog: Catalog, state: object) -> str:
    """The statement that gives a state's rows."""
    if isinstance(state, datetime):
        provide_as_of(catalog, OfferQuery(as_of=state))
        return f"FROM offers_as_of({literal(str(naive_utc(state)))}::TIMESTAMP)"
    if isinstance(state, Path):
        return f"FROM {parquet(_given_file(catalog, state))}"
    if state == "now":
        return "FROM offers"
    if state == "bundled":
        return offers_sql(catalog.base) if catalog.base else empty_sql(OFFERS)
    if state == "live":
        found = [layer for layer in catalog.layers if layer.name == "live"]
        return offers_sql(found) if found else empty_sql(OFFERS)
    raise QueryError(f"no state of the catalog is called {state!r}: use bundled, live, now, a day, or a file")


def _given_file(catalog: Catalog, path: Path) -> Path:
    """The offers of a snapshot directory, or a file of offers, after its columns and rows were checked."""
    from skyward.catalog.belief import check_columns, check_rows

    if not path.exists():
        raise QueryError(f"no such file: {str(path)!r}")
    file = files.bundled_layer(path).path if path.is_dir() else path
    check_columns(catalog, file, OFFERS)
    check_rows(catalog, parquet(file), file)
    return file


# -- remembering ----------------------------------------------------------------------------------------------


def remember(catalog: Catalog, layer: Layer, observed_at: datetime) -> int:
    """Appends what a refresh changed since the last one; how many offers that is. Writes nothing when it is none.

    The first one ends the prices of the snapshot that it does not list.
    """
    provide_history(catalog)
    _provide_bundled(catalog)
    moment = naive_utc(observed_at)
    table = _changes(catalog, layer, moment)
    directory = files.history_directory(catalog.places) / f"provider={layer.provider}"
    if table.num_rows:
        _append(directory / f"date={moment:%Y-%m-%d}", moment, table)
    _compact(catalog, directory, f"{moment:%Y-%m}")
    return int(table.num_rows)


def _changes(catalog: Catalog, layer: Layer, moment: datetime) -> pa.Table:
    sql = _CHANGES.format(live=parquet(layer.path))
    return catalog.arrow(sql, {"provider": layer.provider, "moment": moment}).cast(arrow_schema(HISTORY))


_SAME = " AND ".join(f"n.{name} IS NOT DISTINCT FROM l.{name}" for name in KEY_COLUMNS)
_NOW = ", ".join(f"n.{name}" for name, _ in OFFERS)
_CHANGES = f"""\
WITH last AS (
    SELECT *
    FROM history
    WHERE provider = $provider
    QUALIFY row_number() OVER (PARTITION BY {_KEYS} ORDER BY observed_at DESC) = 1
),
now AS (SELECT * FROM {{live}})
SELECT {_NOW}, CASE WHEN l.provider IS NULL OR l.change = 'gone' THEN 'new' ELSE 'price' END AS change
FROM now n LEFT JOIN last l ON {_SAME}
WHERE l.provider IS NULL OR l.change = 'gone' OR n.usd_per_hour IS DISTINCT FROM l.usd_per_hour
      OR n.price_floor IS DISTINCT FROM l.price_floor
UNION ALL
SELECT l.* REPLACE (NULL AS usd_per_hour, NULL AS usd_per_gpu_hour, NULL AS price_floor, 'none' AS availability,
                    $moment AS observed_at, 'gone' AS change)
FROM last l ANTI JOIN now n ON {_SAME}
WHERE l.change <> 'gone'
UNION ALL
SELECT l.* REPLACE (NULL AS usd_per_hour, NULL AS usd_per_gpu_hour, NULL AS price_floor, 'none' AS availability,
                    $moment AS observed_at), 'gone' AS change
FROM bundled l ANTI JOIN now n ON {_SAME}
WHERE l.provider = $provider AND l.usd_per_hour IS NOT NULL AND NOT EXISTS (FROM last WHERE change <> 'past')
ORDER BY ALL"""


def backfill(catalog: Catalog, provider: str, table: pa.Table, moment: datetime) -> int:
    """Appends what a cloud says prices were before we first asked; how many that is.

    Of each offer only changes, and only those before the first one that is known.
    """
    from skyward.catalog.belief import latest_moment

    provide_history(catalog)
    catalog.table("accelerators")
    directory = files.history_directory(catalog.places) / f"provider={provider}"
    directory.mkdir(parents=True, exist_ok=True)
    staged = directory / ".past.parquet"
    try:
        write_table(table, staged)
        sql = _PAST.format(sound=sound_sql(parquet(staged)))
        found = catalog.arrow(sql, {"latest": latest_moment()}).cast(arrow_schema(HISTORY))
    finally:
        staged.unlink(missing_ok=True)
    if found.num_rows:
        _append(directory / f"date={moment:%Y-%m-%d}", naive_utc(moment), found)
    return int(found.num_rows)


_PAST = f"""\
WITH past AS (SELECT * FROM ({{sound}}) WHERE usd_per_hour IS NOT NULL),
first AS (SELECT {_KEYS}, min(observed_at) AS first FROM history GROUP BY {_KEYS})
SELECT n.*, 'past' AS change
FROM past n LEFT JOIN first l ON {_SAME}
WHERE l.first IS NULL OR n.observed_at < l.first
QUALIFY n.usd_per_hour IS DISTINCT FROM lag(n.usd_per_hour) OVER (
    PARTITION BY {", ".join(f"n.{name}" for name in KEY_COLUMNS)} ORDER BY n.observed_at)
ORDER BY ALL"""


def _append(directory: Path, moment: datetime, table: pa.Table) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    staged = directory / f".part-{moment:%Y%m%dT%H%M%SZ}.parquet"
    write_table(table, staged)
    final = directory / f"part-{moment:%Y%m%dT%H%M%SZ}-{sha256_of(staged)[:16]}.parquet"
    staged.replace(final)
    return final


def _compact(catalog: Catalog, directory: Path, this_month: str) -> None:
    """Makes one part of the parts of each month that is over. A month with a part that is damaged stays as it is.

    The parts are removed after the one that holds their rows is in place; a row that is read twice is one.
    """
    months: dict[str, list[Path]] = {}
    for path in sorted(directory.glob("date=*/part-*.parquet")):
        months.setdefault(path.parent.name[len("date=") :][:7], []).append(path)
    for month, found in months.items():
        if month >= this_month or len(found) < 2 or len(_good(catalog, found)) < len(found):
            continue
        table = catalog.arrow(f"SELECT DISTINCT * FROM {parquet(*found)} ORDER BY ALL", {})
        last = datetime.strptime(found[-1].name[5:20], "%Y%m%dT%H%M%S")
        kept = _append(directory / f"date={month}", last, table.cast(arrow_schema(HISTORY)))
        for path in found:
            if path != kept:
                _remove(path)


def _remove(path: Path) -> None:
    """A part, and the day it was alone in."""
    path.unlink()
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
