"""What a row of prices must be like to be believed. Pure SQL text; the same rules hold when a snapshot is compiled,
when a refresh arrives and when a file is opened.

A price of zero is not a price, a marketplace joke of 0.0001 USD for eight H100 is not an offer, and a name with a
slash or an escape sequence in it is not a region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skyward.catalog.query import KEY_COLUMNS

HIGHEST_USD_PER_HOUR = 10_000
"""No machine costs more; the dearest on public lists in 2026 are below 500."""

CPU_USD_PER_VCPU_HOUR, CPU_USD_PER_GIB_HOUR = 0.03, 0.004
"""A rough price of a machine without accelerators (EC2 m and r families, us-east-1, 2026-07-20)."""
CPU_LOW, CPU_HIGH = 0.02, 25.0
"""How far from the rough price a plausible one may be; EC2's f2 with FPGAs is near 6, marketplaces near 0.1."""

ANY_DEVICE_LOW, ANY_DEVICE_HIGH = 0.003, 200.0
"""USD per hour of one accelerator where `accelerators` has no window for it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`broken` is true of rows that break it; over `o` (a row of offers) and `a` (its accelerator or nothing)."""

    says: str
    column: str
    broken: str


def _price(column: str) -> str:
    return f"o.{column} IS NOT NULL AND NOT (isfinite(o.{column}) AND o.{column} > 0 AND o.{column} <= {HIGHEST_USD_PER_HOUR})"


def _size(column: str, highest: float, *, unless_indicative: bool = True) -> str:
    missing = f"o.{column} IS NULL AND o.quality <> 'indicative' OR " if unless_indicative else ""
    return f"{missing}o.{column} IS NOT NULL AND NOT (isfinite(o.{column}) AND o.{column} > 0 AND o.{column} <= {highest})"


def _one_of(column: str, *values: str) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"o.{column} IS NULL OR o.{column} NOT IN ({listed})"


def _unsafe(column: str, pattern: str = r"[\x00-\x1f\x7f-\x9f/\\]|\.\.") -> str:
    return f"regexp_matches(o.{column}, '{pattern}') OR length(o.{column}) > 200"


_PER_DEVICE = "o.usd_per_hour / nullif(o.accelerator_count, 0)"
_ROUGH_CPU = f"({CPU_USD_PER_VCPU_HOUR} * o.vcpus + {CPU_USD_PER_GIB_HOUR} * o.memory_gib)"

RULES: tuple[Rule, ...] = (
    Rule("is not a plain provider name", "provider", "o.provider IS NULL OR NOT regexp_full_match(o.provider, '[a-z][a-z0-9_]{0,39}')"),
    Rule("is missing or has unsafe characters", "region", f"o.region IS NULL OR o.region = '' OR {_unsafe('region')}"),
    Rule("has unsafe characters", "zone", _unsafe("zone")),
    Rule("is missing or has unsafe characters", "instance_type", f"o.instance_type IS NULL OR o.instance_type = '' OR {_unsafe('instance_type')}"),
    Rule("has unsafe characters", "source", _unsafe("source", r"[\x00-\x1f\x7f-\x9f]")),
    Rule("has unsafe characters", "accelerator_raw", _unsafe("accelerator_raw", r"[\x00-\x1f\x7f-\x9f]")),
    Rule("has unsafe characters", "interconnect", _unsafe("interconnect", r"[\x00-\x1f\x7f-\x9f]")),
    Rule("is not a way of paying", "pricing", _one_of("pricing", "on-demand", "spot", "interruptible", "capacity-block")),
    Rule("is not a kind of availability", "availability", _one_of("availability", "available", "listed", "none", "unknown")),
    Rule("is not a kind of quality", "quality", _one_of("quality", "exact", "estimated", "indicative")),
    Rule("is not an architecture", "architecture", _one_of("architecture", "x86_64", "arm64")),
    Rule("is not a positive, finite price", "usd_per_hour", _price("usd_per_hour")),
    Rule("is not a positive, finite price", "price_floor", _price("price_floor")),
    Rule("is not a plausible size", "vcpus", _size("vcpus", 8192)),
    Rule("is not a plausible size", "memory_gib", _size("memory_gib", 131072)),
    Rule("is not a plausible size", "disk_gb", _size("disk_gb", 10_000_000, unless_indicative=False)),
    Rule("is not a plausible count", "accelerator_count", "o.accelerator_count IS NULL OR NOT (isfinite(o.accelerator_count) AND o.accelerator_count >= 0 AND o.accelerator_count <= 1024)"),
    Rule("does not go with the accelerator", "accelerator_count", "(o.accelerator IS NULL) <> (o.accelerator_count = 0)"),
    Rule("is not a plausible size", "accelerator_memory_gib", _size("accelerator_memory_gib", 2048, unless_indicative=False)),
    Rule("is not within 7 % of the card's memory", "accelerator_memory_gib", "abs(o.accelerator_memory_gib - a.memory_gib) > 0.07 * a.memory_gib"),
    Rule(
        "is not the price of one accelerator",
        "usd_per_gpu_hour",
        f"(o.usd_per_gpu_hour IS NULL) <> ({_PER_DEVICE} IS NULL) OR abs(o.usd_per_gpu_hour - {_PER_DEVICE}) > 1e-6 * o.usd_per_hour",
    ),
    Rule(
        "is not a plausible price for this accelerator",
        "usd_per_hour",
        f"{_PER_DEVICE} NOT BETWEEN coalesce(a.usd_low, {ANY_DEVICE_LOW}) AND coalesce(a.usd_high, {ANY_DEVICE_HIGH})",
    ),
    Rule(
        "is not a plausible price for a machine of this size",
        "usd_per_hour",
        f"o.accelerator IS NULL AND o.usd_per_hour / nullif({_ROUGH_CPU}, 0) NOT BETWEEN {CPU_LOW} AND {CPU_HIGH}",
    ),
    Rule("is not a probability", "reliability", "o.reliability IS NOT NULL AND NOT (o.reliability >= 0 AND o.reliability <= 1)"),
    Rule("is missing or in the future", "observed_at", "o.observed_at IS NULL OR o.observed_at > $latest"),
    Rule("is not a small JSON object", "details", "o.details IS NOT NULL AND (left(o.details, 1) <> '{' OR length(o.details) > 4096)"),
)  # fmt: skip

FIRST_BROKEN = "CASE " + " ".join(f"WHEN ({rule.broken}) THEN {n}" for n, rule in enumerate(RULES)) + " END"


def broken_sql(relation: str, accelerators: str = "accelerators") -> str:
    """Rows of `relation` that break a rule, at most ten: rule number, key columns, and the row's value as text.

    Takes the parameter `$latest`: no price can have been observed after it.
    """
    values = " ".join(f"WHEN {n} THEN {rule.column}::VARCHAR" for n, rule in enumerate(RULES))
    return (
        f"SELECT broken, {', '.join(KEY_COLUMNS)}, CASE broken {values} END\n"
        f"FROM ({_judged(relation, accelerators)})\nWHERE broken IS NOT NULL\nLIMIT 10"
    )


def broken_keys_sql(relation: str, accelerators: str = "accelerators") -> str:
    """Keys of all rows that break a rule; takes `$latest` too."""
    return (
        f"SELECT {', '.join(KEY_COLUMNS)}\nFROM ({_judged(relation, accelerators)})\nWHERE broken IS NOT NULL"
    )


def sound_sql(relation: str, accelerators: str = "accelerators") -> str:
    """The rows that break no rule; takes `$latest` too."""
    return f"SELECT * EXCLUDE broken\nFROM ({_judged(relation, accelerators)})\nWHERE broken IS NULL"


def _judged(relation: str, accelerators: str) -> str:
    return (
        f"SELECT o.*, {FIRST_BROKEN} AS broken\n"
        f"FROM {relation} o LEFT JOIN {accelerators} a ON a.name = o.accelerator"
    )


def duplicates_sql(relation: str, key: Sequence[str] = KEY_COLUMNS) -> str:
    """Keys that occur more than once, at most ten."""
    keys = ", ".join(key)
    return f"SELECT {keys}, count(*) FROM {relation} GROUP BY {keys} HAVING count(*) > 1 LIMIT 10"


def describe(broken: int, key: tuple[object, ...], value: str | None) -> str:
    """A broken rule in words: which row, which column, which value."""
    rule = RULES[broken]
    name = " ".join(str(part) for part in key[:5] if part is not None)
    return f"{name}: {rule.column} {value or 'null'!s} {rule.says}"
