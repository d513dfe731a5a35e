"""Answers of the catalog: rows with named columns, and where they come from."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from skyward.model.offer import Pricing

FRESH_FOR_S: Mapping[Pricing, int] = {
    "on-demand": 7 * 86400,
    "capacity-block": 7 * 86400,
    "spot": 3600,
    "interruptible": 300,
}
"""How long a price of each kind is expected to hold; older ones are shown as stale."""


@dataclass(frozen=True, slots=True)
class Result:
    """Rows and the names of their columns. Moments are aware, UTC."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.rows)

    def dicts(self) -> list[dict[str, Any]]:
        """One mapping per row, column -> value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """One column's values, in the order of the rows."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def to_arrow(self) -> pa.Table:
        """The same as a `pyarrow.Table`."""
        import pyarrow as pa

        return pa.table({name: self.column(name) for name in self.columns})

    def df(self) -> Any:
        """The same as a `pandas.DataFrame`; pandas must be installed."""
        return self.to_arrow().to_pandas()

    def _repr_html_(self) -> str:
        import html

        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in self.rows[:100])
        more = f"<p>{len(self.rows) - 100} more rows</p>" if len(self.rows) > 100 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def _cell(value: Any) -> str:
    import html

    if isinstance(value, float):
        return f"<td style='text-align:right'>{value:g}</td>"
    return f"<td>{'-' if value is None else html.escape(str(value))}</td>"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one provider's rows come from, and how old they are."""

    provider: str
    layer: str
    """`bundled` with Skyward, `live` from a refresh, or `user` from the user's own file."""
    rows: int
    priced: int
    """Rows whose price is known."""
    oldest: datetime
    newest: datetime
    sources: str
    expires: datetime
    """When the first of its prices is older than its kind is expected to hold."""

    def age_s(self, now: datetime | None = None) -> float:
        """Age of the oldest price, seconds."""
        return max(0.0, ((now or datetime.now(UTC)) - self.oldest).total_seconds())

    def is_stale(self, now: datetime | None = None) -> bool:
        """Whether some price is older than its kind is expected to hold."""
        return (now or datetime.now(UTC)) > self.expires


def provenance_of(counted: Iterable[Sequence[Any]]) -> tuple[Provenance, ...]:
    """What `build_provenance_sql` counted, per provider and layer. Ages are those of known prices, where there are any."""
    groups: dict[tuple[str, str], list[Sequence[Any]]] = {}
    for row in counted:
        groups.setdefault((row[0], row[1]), []).append(row[2:])
    return tuple(_provenance(*key, groups[key]) for key in sorted(groups))


def _provenance(provider: str, layer: str, counted: Sequence[Sequence[Any]]) -> Provenance:
    aged = [row for row in counted if row[2]] or counted
    return Provenance(
        provider=provider,
        layer=layer,
        rows=sum(row[3] for row in counted),
        priced=sum(row[3] for row in counted if row[2]),
        oldest=min(row[4] for row in aged),
        newest=max(row[5] for row in aged),
        sources="; ".join(sorted({row[0] for row in counted if row[0]})),
        expires=min(row[4] + timedelta(seconds=FRESH_FOR_S[row[1]]) for row in aged),
    )


@dataclass(frozen=True, slots=True)
class Matched:
    """What a query matched before its limit."""

    total: int
    priced: int
    providers: tuple[Provenance, ...]


def aware(value: Any) -> Any:
    """A moment of the catalog with its time zone; other values as they are."""
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def aware_rows(rows: Sequence[tuple[Any, ...]], moments: Collection[int]) -> tuple[tuple[Any, ...], ...]:
    """The rows with the moments in the given places made aware."""
    found = rows
    for place in moments:
        known: dict[Any, Any] = {}  # a catalog has a handful of different moments
        for row in found:
            value = row[place]
            if value not in known:
                known[value] = aware(value)
        found = [(*row[:place], known[row[place]], *row[place + 1 :]) for row in found]
    return tuple(found)


def in_words(seconds: float) -> str:
    """An age as people say it: `45 s`, `12 min`, `5 h`, `3 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
