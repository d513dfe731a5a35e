"""A question to the catalog, and the SQL that answers it. Pure: no file, no clock, no DuckDB.

`build_sql` turns an `OfferQuery` into one statement over the relation `offers` (or `offers_as_of`), with every
value a parameter. What unknown values mean is decided here, once:

- an unknown price never satisfies `max_price` and sorts last;
- an unknown disk means storage is sized on request, so it satisfies `disk_gb`;
- an unknown reliability means nobody measures it (no marketplace), so it satisfies `min_reliability`;
- any other unknown does not satisfy a wish about it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from skyward.errors import QueryError

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator
    from skyward.model.accelerator_model import Registry
    from skyward.model.offer import Availability, Pricing
    from skyward.model.requirements import Requirements
    from skyward.model.sizes import Range

OFFER_COLUMNS: tuple[str, ...] = (
    "provider",
    "region",
    "zone",
    "instance_type",
    "pricing",
    "usd_per_hour",
    "usd_per_gpu_hour",
    "price_floor",
    "vcpus",
    "memory_gib",
    "disk_gb",
    "architecture",
    "accelerator",
    "accelerator_count",
    "accelerator_memory_gib",
    "interconnect",
    "availability",
    "reliability",
    "observed_at",
    "source",
    "quality",
    "accelerator_raw",
    "zones",
    "details",
    "layer",
)
"""The columns of a catalog row, in the order they are answered."""

COMPUTED = {
    "usd_per_vram_gib_hour": "usd_per_hour / nullif(accelerator_count * accelerator_memory_gib, 0)",
    "total_vram_gib": "accelerator_count * accelerator_memory_gib",
}
"""Columns that can be asked for, sorted by and grouped by besides `OFFER_COLUMNS`."""

ALIASES = {
    "price": "usd_per_hour",
    "gpu": "accelerator",
    "gpus": "accelerator_count",
    "count": "accelerator_count",
    "vram": "accelerator_memory_gib",
    "memory": "memory_gib",
    "disk": "disk_gb",
    "cpu": "vcpus",
    "machine": "instance_type",
    "age": "observed_at",
}
"""Short names of columns, as people type them."""

GROUP_AGGREGATES = {
    "offers": "count(*)",
    "priced": "count(usd_per_hour)",
    "min_usd_per_hour": "min(usd_per_hour)",
    "median_usd_per_hour": "median(usd_per_hour)",
    "min_usd_per_gpu_hour": "min(usd_per_gpu_hour)",
    "oldest_observed_at": "min(observed_at)",
}
"""Columns of a grouped answer after the columns grouped by."""

KEY_COLUMNS: tuple[str, ...] = (
    "provider",
    "region",
    "zone",
    "instance_type",
    "pricing",
    "accelerator_count",
)
"""What identifies an offer within one snapshot, and what price history is kept by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferQuery:
    """A question to the catalog. Empty and None mean that anything will do; ranges include both ends.

    Raises:
        QueryError: at construction, when the filters contradict each other.
    """

    providers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    """Zones by the provider's own name or id. A row of a whole region fits when the zone is one of its `zones`
    or is named after the region (`us-east-1a`)."""
    accelerators: tuple[str, ...] | None = None
    """Canonical names, any of them; `()` matches nothing. See `accelerator_fields`."""
    accelerator_count: Range | None = None
    """Accelerators per machine."""
    accelerator_memory_gib: Range | None = None
    """Memory of one accelerator; of the slice, where a fraction is sold."""
    has_accelerator: bool | None = None
    """True: only machines with one; False: only machines without."""
    fractions: bool = False
    """Whether a slice of an accelerator satisfies a wish for one."""
    total_accelerators: float | None = None
    """"8 in all": adds `nodes_needed` and `usd_per_hour_total` to the answer."""
    vcpus: Range | None = None
    memory_gib: Range | None = None
    disk_gb: Range | None = None
    architecture: str | None = None
    machine: str | None = None
    """An instance type by its provider's own name."""
    pricing: tuple[Pricing, ...] = ()
    """See `pricing_of` for what an allocation means."""
    max_price: float | None = None
    """USD per hour for one machine."""
    min_reliability: float | None = None
    availability: tuple[Availability, ...] = ()
    include_indicative: bool = True
    """False where an answer may be rented: `cheapest` and plans."""
    include_unpriced: bool = True
    as_of: datetime | None = None
    """The catalog as it was then, UTC."""
    max_age_s: float | None = None
    """Answers drawing on older prices are refused."""
    sort: tuple[str, ...] = ("usd_per_hour",)
    """Columns, best first; a leading `-` turns one around. Unknown values come last either way."""
    group_by: tuple[str, ...] = ()
    limit: int = 0
    """0 means all."""
    columns: tuple[str, ...] = ()
    """What to answer; empty means `OFFER_COLUMNS`."""

    def __post_init__(self) -> None:
        for problem in _contradictions(self):
            raise QueryError(problem)


def _contradictions(query: OfferQuery) -> Iterable[str]:
    for name in ("accelerator_count", "accelerator_memory_gib", "vcpus", "memory_gib", "disk_gb"):
        wish = getattr(query, name)
        if wish is not None and None not in (wish.low, wish.high) and wish.low > wish.high:
            yield f"{name} {wish.low:g}..{wish.high:g} holds nothing: the low end is above the high end"
    if query.has_accelerator is False and (query.accelerators is not None or _wants_accelerator(query)):
        yield "an accelerator is asked for and excluded at once: drop one of the two filters"
    if query.max_price is not None and not query.max_price > 0:
        yield f"max_price {query.max_price!r} fits nothing: give US dollars per hour above 0"
    if query.min_reliability is not None and not 0 <= query.min_reliability <= 1:
        yield f"min_reliability {query.min_reliability!r} is outside 0..1"
    if query.limit < 0:
        yield f"limit {query.limit!r} is negative: 0 means all"


def _wants_accelerator(query: OfferQuery) -> bool:
    """Whether some wish can only be met by a machine with an accelerator."""
    count = query.accelerator_count
    return (
        query.accelerators is not None
        or query.accelerator_memory_gib is not None
        or query.total_accelerators is not None
        or (count is not None and bool(count.low))
        or query.has_accelerator is True
    )


def pricing_of(allocation: str | float) -> tuple[Pricing, ...]:
    """The ways of paying an allocation allows; `()` means all of them.

    `spot-if-available`, `cheapest` and a share of spot between 0 and 1 allow every way that needs no reservation.
    """
    if isinstance(allocation, str):
        if allocation in ("spot", "always-spot"):
            return ("spot", "interruptible")
        if allocation == "on-demand":
            return ("on-demand",)
        if allocation in ("spot-if-available", "cheapest"):
            return ("on-demand", "spot", "interruptible")
    elif not isinstance(allocation, bool) and 0 <= allocation <= 1:
        if allocation == 0:
            return ("on-demand",)
        return ("spot", "interruptible") if allocation == 1 else ("on-demand", "spot", "interruptible")
    raise QueryError(
        f"unknown allocation {allocation!r}: use 'spot', 'spot-if-available', 'on-demand', 'cheapest' "
        "or a share of spot between 0 and 1"
    )


def accelerator_fields(wish: Accelerator | None, registry: Registry) -> dict[str, Any]:
    """The fields of an `OfferQuery` that a wish for an accelerator sets: names, counts, and whether slices do."""
    if wish is None:
        return {}
    return {
        "accelerators": tuple(sorted(model.name for model in registry.select(wish))),
        "accelerator_count": wish.counts,
        "fractions": wish.count < 1,
    }


# -- SQL ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Clause:
    """One condition under the name of the wish it stands for, with its parameters."""

    name: str
    sql: str
    parameters: dict[str, Any]


def build_sql(query: OfferQuery) -> tuple[str, dict[str, Any]]:
    """The statement that answers `query`, over `offers`, and its parameters.

    Ties are broken by the whole key, so equal catalogs give equal answers.

    Raises:
        QueryError: an unknown column in `sort`, `group_by` or `columns`.
    """
    conditions = clauses(query)
    where = _where(conditions)
    if query.group_by:
        return _grouped(query, where), _parameters(query, conditions)
    sql = (
        f"SELECT {', '.join(_selected(query))}\nFROM {_relation(query)}{where}\n"
        f"ORDER BY {_order(query)}{_limit(query)}"
    )
    total = {"total_accelerators": query.total_accelerators} if "$total_accelerators" in sql else {}
    return sql, _parameters(query, conditions) | total


def build_provenance_sql(query: OfferQuery) -> tuple[str, dict[str, Any]]:
    """Where the matching rows come from, counted by what their ages depend on; `result.provenance_of` sums it up.

    Columns: provider, layer, source, pricing, whether the price is known, offers, oldest and newest observed_at.
    """
    conditions = clauses(query)
    return (
        "SELECT provider, layer, source, pricing, usd_per_hour IS NOT NULL, count(*), min(observed_at), "
        f"max(observed_at)\nFROM {_relation(query)}{_where(conditions)}\nGROUP BY ALL"
    ), _parameters(query, conditions)


def build_funnel_sql(query: OfferQuery) -> tuple[str, dict[str, Any]]:
    """Per wish: how many offers fail it first, and the cheapest of those; rows in the order of the wishes.

    Columns: constraint (None for offers that fit), offers, cheapest usd_per_hour.
    """
    conditions = clauses(query)
    cases = " ".join(
        f"WHEN NOT coalesce({clause.sql}, FALSE) THEN {number}" for number, clause in enumerate(conditions)
    )
    first = f"CASE {cases} END" if cases else "NULL"
    return (
        f"SELECT {first} AS failed, count(*), min(usd_per_hour)\nFROM {_relation(query)}\n"
        "GROUP BY failed\nORDER BY failed NULLS LAST"
    ), _parameters(query, conditions)


def clauses(query: OfferQuery) -> list[Clause]:
    """The conditions of a query, most selective kinds first, each under the name of its wish."""
    found = [
        _one_of("provider", query.providers, "provider"),
        _accelerators(query),
        _between("accelerator_count", query.accelerator_count, "accelerator_count"),
        _fractions(query),
        _between(
            "accelerator_memory",
            query.accelerator_memory_gib,
            "accelerator_memory_gib * least(accelerator_count, 1)",
            parameter="accelerator_memory",
        ),
        _one_of("allocation", query.pricing, "pricing"),
        _one_of("region", query.regions, "region"),
        _zones(query.zones),
        _equal("machine", query.machine, "instance_type"),
        _equal("architecture", query.architecture, "architecture"),
        _between("cpu", query.vcpus, "vcpus"),
        _between("memory", query.memory_gib, "memory_gib"),
        _or_unknown(_between("disk", query.disk_gb, "disk_gb"), "disk_gb"),
        _reliability(query.min_reliability),
        _one_of("availability", query.availability, "availability"),
        None if query.include_indicative else Clause("quality", "quality <> 'indicative'", {}),
        None if query.include_unpriced else Clause("price", "usd_per_hour > 0", {}),
        _price_cap(query.max_price),
    ]
    return [clause for clause in found if clause is not None]


def _one_of(name: str, values: Sequence[str], column: str) -> Clause | None:
    if not values:
        return None
    names = {f"{column}_{number}": value for number, value in enumerate(values)}
    if len(names) == 1:
        return Clause(name, f"{column} = ${column}_0", names)
    return Clause(name, f"{column} IN ({', '.join('$' + key for key in names)})", names)


def _accelerators(query: OfferQuery) -> Clause | None:
    if query.accelerators is not None:
        return _between_names(query.accelerators)
    if _wants_accelerator(query):
        return Clause("accelerator", "accelerator IS NOT NULL", {})
    if query.has_accelerator is False:
        return Clause("accelerator", "accelerator IS NULL", {})
    return None


def _between_names(names: Sequence[str]) -> Clause:
    """Any of the names. Offers are sorted by them, so their span is said too: what lies outside is not even read."""
    clause = _one_of("accelerator", names, "accelerator")
    if clause is None or len(names) == 1:
        return clause or Clause("accelerator", "FALSE", {})
    span = {"accelerator_first": min(names), "accelerator_last": max(names)}
    sql = f"accelerator BETWEEN $accelerator_first AND $accelerator_last AND {clause.sql}"
    return replace(clause, sql=sql, parameters={**clause.parameters, **span})


def _fractions(query: OfferQuery) -> Clause | None:
    if query.fractions or not _wants_accelerator(query):
        return None
    return Clause("fraction", "accelerator_count >= 1", {})


def _between(name: str, wish: Range | None, column: str, parameter: str = "") -> Clause | None:
    if wish is None or (wish.low is None and wish.high is None):
        return None
    stem = parameter or column
    if wish.low is not None and wish.low == wish.high:
        return Clause(name, f"{column} = ${stem}", {stem: float(wish.low)})
    parts, parameters = [], {}
    for end, operator in (("low", ">="), ("high", "<=")):
        if (value := getattr(wish, end)) is not None:
            parts.append(f"{column} {operator} ${stem}_{end}")
            parameters[f"{stem}_{end}"] = float(value)
    return Clause(name, " AND ".join(parts), parameters)


def _or_unknown(clause: Clause | None, column: str) -> Clause | None:
    return clause and replace(clause, sql=f"({column} IS NULL OR ({clause.sql}))")


def _equal(name: str, value: str | None, column: str) -> Clause | None:
    return None if value is None else Clause(name, f"{column} = ${column}", {column: value})


def _reliability(least: float | None) -> Clause | None:
    if least is None:
        return None
    sql = "(reliability IS NULL OR reliability >= $min_reliability)"
    return Clause("min_reliability", sql, {"min_reliability": float(least)})


def _price_cap(usd_per_hour: float | None) -> Clause | None:
    if usd_per_hour is None:
        return None
    return Clause("max_price", "usd_per_hour <= $max_price", {"max_price": float(usd_per_hour)})


_ZONE_OF_REGION = re.compile(r"(.+\d)[a-z]")


def _zones(zones: Sequence[str]) -> Clause | None:
    """A row of one zone fits by name; a row of a region by its list of zones, or by the region in the name."""
    if not zones:
        return None
    parameters: dict[str, Any] = {}
    parts = []
    for number, zone in enumerate(zones):
        parameters[f"zone_{number}"] = zone
        parts.append(f"zone = $zone_{number} OR list_contains(zones, $zone_{number})")
        if match := _ZONE_OF_REGION.fullmatch(zone):
            parameters[f"zone_region_{number}"] = match[1]
            parts.append(f"(zone IS NULL AND region = $zone_region_{number})")
    return Clause("zone", f"({' OR '.join(parts)})", parameters)


def _parameters(query: OfferQuery, conditions: Iterable[Clause]) -> dict[str, Any]:
    found = {name: value for clause in conditions for name, value in clause.parameters.items()}
    if query.as_of is not None:
        found["as_of"] = naive_utc(query.as_of)
    return found


def naive_utc(moment: datetime) -> datetime:
    """The moment as the catalog stores it: UTC without a time zone. A moment without one is taken as UTC."""
    from datetime import UTC

    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _where(conditions: Sequence[Clause]) -> str:
    if not conditions:
        return ""
    return "\nWHERE " + "\n  AND ".join(clause.sql for clause in conditions)


def _relation(query: OfferQuery) -> str:
    return "offers" if query.as_of is None else "offers_as_of($as_of)"


def _extra(query: OfferQuery) -> dict[str, str]:
    if query.total_accelerators is None:
        return COMPUTED
    nodes = "ceil($total_accelerators / accelerator_count)"
    return {**COMPUTED, "nodes_needed": nodes, "usd_per_hour_total": f"usd_per_hour * {nodes}"}


def _selected(query: OfferQuery) -> list[str]:
    extra = _extra(query)
    wanted = query.columns
    if not wanted:
        wanted = OFFER_COLUMNS + tuple(name for name in extra if name not in COMPUTED)
    return [_expression(column_name(name, extra), extra, named=True) for name in wanted]


def _expression(name: str, extra: dict[str, str], *, named: bool = False) -> str:
    if name not in extra:
        return name
    return f"{extra[name]} AS {name}" if named else f"({extra[name]})"


def column_name(name: str, extra: Iterable[str] = COMPUTED) -> str:
    """The column `name` means.

    Raises:
        QueryError: there is none; carries the nearest ones.
    """
    known = (*OFFER_COLUMNS, *extra)
    spelled = name.strip().replace("-", "_").lower()
    found = ALIASES.get(spelled, spelled)
    if found in known:
        return found
    from difflib import get_close_matches

    near = get_close_matches(spelled, [*known, *ALIASES], n=2)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise QueryError(f"unknown column {name!r}{hint}", facts=[f"known: {', '.join(known)}"], column=name)


def _sort_keys(keys: Sequence[str], known: dict[str, str]) -> Iterable[tuple[str, str]]:
    """Column -> its place in ORDER BY; a column named twice counts where it is named first."""
    seen: set[str] = set()
    for key in keys:
        name = column_name(key.removeprefix("-"), known)
        if name not in seen:
            seen.add(name)
            yield name, f"{_expression(name, known)} {'DESC' if key.startswith('-') else 'ASC'} NULLS LAST"


def _order(query: OfferQuery) -> str:
    keys = dict(_sort_keys(query.sort, _extra(query)))
    ties = (name for name in ("usd_per_hour", *KEY_COLUMNS) if name not in keys)
    return ", ".join([*keys.values(), *(f"{name} ASC NULLS LAST" for name in ties)])


def _limit(query: OfferQuery) -> str:
    return f"\nLIMIT {int(query.limit)}" if query.limit else ""


def _grouped(query: OfferQuery, where: str) -> str:
    names = [column_name(name) for name in query.group_by]
    groups = [_expression(name, COMPUTED) for name in names]
    selected = [f"{group} AS {name}" for group, name in zip(groups, names, strict=True)]
    selected += [f"{sql} AS {name}" for name, sql in GROUP_AGGREGATES.items()]
    return (
        f"SELECT {', '.join(selected)}\nFROM {_relation(query)}{where}\nGROUP BY {', '.join(groups)}\n"
        f"ORDER BY {_group_order(query, names)}{_limit(query)}"
    )


_AS_AGGREGATE = {
    "usd_per_hour": "min_usd_per_hour",
    "usd_per_gpu_hour": "min_usd_per_gpu_hour",
    "observed_at": "oldest_observed_at",
}


def _group_order(query: OfferQuery, names: Sequence[str]) -> str:
    keys = []
    for key in query.sort:
        turned = key.startswith("-")
        name = key.removeprefix("-")
        if name not in GROUP_AGGREGATES:
            name = column_name(name)
            name = _AS_AGGREGATE.get(name, name)
        if name not in GROUP_AGGREGATES and name not in names:
            raise QueryError(
                f"a grouped answer cannot be sorted by {key!r}: it has {', '.join([*names, *GROUP_AGGREGATES])}",
                column=key,
            )
        keys.append(f"{name} {'DESC' if turned else 'ASC'} NULLS LAST")
    return ", ".join([*keys, *(f"{name} ASC NULLS LAST" for name in names)])


def of_requirements(requirements: Requirements, registry: Registry, **more: Any) -> OfferQuery:
    """The query for offers that fit `requirements`, each on its own; `more` sets further fields."""
    fields: dict[str, Any] = {
        "providers": requirements.providers,
        "regions": requirements.regions,
        "zones": requirements.zones,
        "vcpus": requirements.cpu,
        "memory_gib": requirements.memory_gib,
        "disk_gb": requirements.disk_gb,
        "architecture": requirements.architecture,
        "machine": requirements.machine,
        "pricing": pricing_of(requirements.allocation),
        "max_price": requirements.max_price,
        "min_reliability": requirements.min_reliability,
        "include_indicative": False,
        **accelerator_fields(requirements.accelerator, registry),
    }
    return OfferQuery(**{**fields, **more})
