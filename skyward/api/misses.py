"""Offers that fit and offers that nearly fit, found in the catalog without reading all of it.

A plan explains itself by what it refused, yet forty thousand refusals are read by nobody. Only offers that fail
at most one wish about the machine become values; the others are counted under the first wish they fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from skyward.catalog.query import KEY_COLUMNS, OFFER_COLUMNS, Clause, clauses
from skyward.catalog.store import offer_of
from skyward.planner import CONSTRAINTS

if TYPE_CHECKING:
    from skyward.catalog.query import OfferQuery
    from skyward.catalog.store import Catalog
    from skyward.model.offer import Offer

PER_WISH = 300
"""Near misses kept per wish: so many of the nearest, and so many of the cheapest."""

_DISTANCE = {
    "cpu": "vcpus",
    "memory": "memory_gib",
    "disk": "disk_gb",
    "accelerator_count": "accelerator_count",
}
"""Wishes that are missed by a number -> the column it is in."""

_ONE_SIZE = frozenset(("accelerator_count", "fraction", "accelerator_memory"))
"""What one asks of the number of accelerators; a slice misses two of these and is one step away."""


def near_misses(
    catalog: Catalog, query: OfferQuery, akin: Iterable[str] = ()
) -> tuple[list[Offer], dict[str, int]]:
    """The offers that pass every wish of `query` or miss one, and how many others fail first at which wish.

    `akin` are the accelerators that may miss the wish for another one.
    """
    wishes = _in_plan_order(clauses(query))
    parameters = {key: value for wish in wishes for key, value in wish.parameters.items()}
    rows = catalog.ask(_near_sql(wishes, sorted(akin)), parameters).rows
    counts = dict(catalog.ask(_count_sql(wishes), parameters).rows)
    listed = Counter(row[-1] for row in rows)
    unlisted = {
        wish.name: counts[number] - listed[number]
        for number, wish in enumerate(wishes)
        if counts.get(number, 0) > listed[number]
    }
    return [offer_of(row[:-1]) for row in rows], unlisted


def _in_plan_order(wishes: Iterable[Clause]) -> list[Clause]:
    order = {name: number for number, (name, _) in enumerate(CONSTRAINTS)}
    return sorted(wishes, key=lambda wish: order[wish.name])


def _fails(wish: Clause) -> str:
    return f"NOT coalesce({wish.sql}, FALSE)"


def _first_failed(wishes: Sequence[Clause]) -> str:
    cases = " ".join(f"WHEN {_fails(wish)} THEN {number}" for number, wish in enumerate(wishes))
    return f"CASE {cases} END" if cases else "NULL::INTEGER"


def _count_sql(wishes: Sequence[Clause]) -> str:
    return f"SELECT {_first_failed(wishes)} AS failed, count(*)\nFROM offers\nGROUP BY failed"


def _near_sql(wishes: Sequence[Clause], akin: Sequence[str]) -> str:
    misses = " + ".join(f"({fails})::INTEGER" for fails in _together(wishes)) or "0"
    cheap = ", ".join(f"{name} NULLS LAST" for name in ("usd_per_hour", *KEY_COLUMNS))
    return (
        f"WITH judged AS (\n"
        f"  SELECT *, {_first_failed(wishes)} AS failed, {misses} AS misses, {_distance(wishes)} AS distance\n"
        f"  FROM offers\n)\n"
        f"SELECT {', '.join(OFFER_COLUMNS)}, failed\nFROM judged\n"
        f"WHERE misses = 0 OR (misses = 1 AND {_is_akin(wishes, akin)})\n"
        f"QUALIFY misses = 0\n"
        f"  OR row_number() OVER (PARTITION BY failed ORDER BY distance, {cheap}) <= {PER_WISH}\n"
        f"  OR row_number() OVER (PARTITION BY failed ORDER BY {cheap}) <= {PER_WISH}\n"
        f"ORDER BY {cheap}"
    )


def _together(wishes: Sequence[Clause]) -> list[str]:
    """Whether each wish is missed; those that are given up together are one."""
    parts: dict[str, list[str]] = {}
    for wish in wishes:
        parts.setdefault("size" if wish.name in _ONE_SIZE else wish.name, []).append(_fails(wish))
    return [" OR ".join(fails) for fails in parts.values()]


def _distance(wishes: Sequence[Clause]) -> str:
    """How far the failed wish is missed; 0 for what is no number."""
    cases = []
    for wish in wishes:
        column = _DISTANCE.get(wish.name)
        ends = [f"abs({column} - ${key})" for key in wish.parameters]
        if column is not None:
            cases.append(f"WHEN {_fails(wish)} THEN least({', '.join(ends)})")
    return f"CASE {' '.join(cases)} ELSE 0 END" if cases else "0"


def _is_akin(wishes: Sequence[Clause], akin: Sequence[str]) -> str:
    """Another accelerator is a near miss only where it is of the kind that was asked for."""
    places = [number for number, wish in enumerate(wishes) if wish.name == "accelerator"]
    if not places:
        return "TRUE"
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in akin) or "NULL"
    return f"(failed <> {places[0]} OR accelerator IN ({names}))"
