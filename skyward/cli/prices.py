"""What the price commands share: the catalog opened, questions out of options, ages, and what to say of nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from skyward.cli import console
from skyward.cli.render import Column, age, column_of, devices, vram
from skyward.errors import ExitCode, NoOfferError, UnknownProviderError
from skyward.model.accelerator import default_registry
from skyward.model.money import format_usd
from skyward.model.sizes import format_memory

if TYPE_CHECKING:
    from skyward.advice import Stage
    from skyward.catalog.query import OfferQuery
    from skyward.catalog.result import Matched, Provenance, Result
    from skyward.catalog.store import Catalog
    from skyward.cli.shell import Shell
    from skyward.model.offer import Offer
    from skyward.model.requirements import Requirements

EXCLUDED = "USD, ex. tax, storage, egress"
"""What no price of the catalog holds."""


@contextmanager
def opened(shell: Shell) -> Iterator[Catalog]:
    """The catalog; what it refused to read is told after the answer. It lives as long as the shell: the process
    ends right after, and closing a database takes longer than a question."""
    from skyward.catalog.store import open_catalog

    catalog = open_catalog()
    shell.held.append(catalog)
    yield catalog
    for warning in catalog.warnings:
        shell.warn(warning)


def question(catalog: Catalog, wants: Requirements, **more: Any) -> OfferQuery:
    """The query for `wants`; `more` sets further fields of OfferQuery.

    Raises:
        UnknownProviderError: a provider that neither the catalog nor a plugin knows.
    """
    from skyward.catalog.query import of_requirements

    if wants.providers:
        _check_providers(catalog, wants.providers)
    return of_requirements(wants, default_registry(), **more)


def _check_providers(catalog: Catalog, names: Sequence[str]) -> None:
    known = set(catalog.ask("SELECT DISTINCT provider FROM offers").column("provider"))
    for name in names:
        if name not in known:
            from skyward.plugins import get_plugins

            installed = get_plugins().providers()
            if name not in installed:
                raise unknown_provider(name, sorted({*known, *installed}))


def unknown_provider(name: str, known: Sequence[str]) -> UnknownProviderError:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return UnknownProviderError(
        f"no provider {name!r} is installed",
        facts=[f"known: {', '.join(known)}"],
        hints=[f"did you mean {near[0]!r}?"] if near else ["skyward providers"],
        provider=name,
    )


# -- what every answer says around its rows ------------------------------------------------------------------------


def version(catalog: Catalog) -> str:
    """Of the bundled snapshot, "" without one."""
    return next((layer.manifest.version for layer in catalog.base if layer.manifest), "")


def around(catalog: Catalog, matched: Matched | None, as_of: datetime | None = None) -> dict[str, Any]:
    """The `catalog` block of a JSON document: where the prices come from and, with `matched`, how old they are."""
    providers = {} if matched is None else {"providers": [provenance(item) for item in matched.providers]}
    return {
        "version": version(catalog),
        "currency": "USD",
        "excludes": ["tax", "storage", "egress"],
        "as_of": as_of,
        **providers,
        "warnings": list(catalog.warnings),
    }


def provenance(item: Provenance) -> dict[str, Any]:
    """Where one provider's prices come from, for JSON."""
    return {
        "provider": item.provider,
        "layer": item.layer,
        "offers": item.rows,
        "priced": item.priced,
        "oldest_observed_at": item.oldest,
        "newest_observed_at": item.newest,
        "is_stale": item.is_stale(),
        "sources": item.sources,
    }


def footer(shell: Shell, catalog: Catalog, matched: Matched, shown: str, result: Result) -> None:
    """How much is shown, how old it is, what is not in the prices, what the marks in them mean, and what to refresh.
    Only on a terminal."""
    import sys

    if not console.is_terminal(sys.stdout):
        return
    now = datetime.now(UTC)
    layers = ", ".join(f"{layer} {_in_words(moment, now)} old" for layer, moment in _layers(matched))
    shell.say(f"{shown} · catalog {version(catalog)} ({layers}) · {EXCLUDED}{legend(result)}")
    stale = [item for item in matched.providers if item.is_stale(now)]
    if stale:
        ages = ", ".join(f"{item.provider} {_in_words(item.oldest, now)}" for item in stale)
        only = f" --provider {stale[0].provider}" if len(stale) == 1 else ""
        shell.hint(f"prices marked ! are old ({ages}): `skyward catalog refresh{only}`")


def counted(shown: int, total: int, noun: str = "offers") -> str:
    """ "4 of 61 offers"."""
    return (
        f"{shown:,} of {total:,} {noun}"
        if shown < total
        else f"{shown:,} {noun if shown != 1 else noun[:-1]}"
    )


def _layers(matched: Matched) -> list[tuple[str, datetime]]:
    oldest: dict[str, datetime] = {}
    for item in matched.providers:
        oldest[item.layer] = min(item.oldest, oldest.get(item.layer, item.oldest))
    return list(oldest.items())


def _in_words(moment: datetime, now: datetime) -> str:
    text = age(moment, now)
    return f"{text[:-1]} {text[-1]}"


# -- offers as people see them -------------------------------------------------------------------------------------


MARKS = {"indicative": "~", "estimated": "≈"}
"""Quality of a price -> how it is marked; what is exact is not."""


def marked(row: Mapping[str, Any]) -> str:
    """The price; "~" marks what is indicative, a figure to think with and no offer, "≈" what is estimated."""
    mark = MARKS.get(row.get("quality") or "", "") if row["usd_per_hour"] is not None else ""
    return f"{mark}{format_usd(row['usd_per_hour'])}"


def legend(result: Result) -> str:
    """What the marks of these rows mean."""
    found = set(result.column("quality")) if "quality" in result.columns else set()
    return "".join(f" · {mark} {quality}" for quality, mark in MARKS.items() if quality in found)


@dataclass(frozen=True, slots=True)
class View:
    """How offers are shown: which columns, and whose prices are stale."""

    stale: frozenset[str]
    """Providers."""
    now: datetime

    @classmethod
    def of(cls, matched: Matched) -> View:
        now = datetime.now(UTC)
        return cls(frozenset(item.provider for item in matched.providers if item.is_stale(now)), now)

    def columns(self, *more: Column) -> list[Column]:
        """The usual ones; `more` goes before the age."""
        return [
            Column(title="PROVIDER", text=lambda row: row["provider"], weight=9),
            Column(title="INSTANCE", text=lambda row: row["instance_type"], weight=9, least=14),
            Column(title="REGION", text=lambda row: row["region"] or "-", weight=7),
            Column(title="ZONE", text=lambda row: row["zone"] or "-", weight=2),
            Column(title="GPU", text=devices, weight=8),
            Column(title="VRAM", text=vram, right=True, weight=4),
            Column(title="VCPU", text=lambda row: _plain(row["vcpus"]), right=True, weight=3),
            Column(title="RAM", text=lambda row: _memory(row["memory_gib"]), right=True, weight=3),
            Column(title="SOLD AS", text=lambda row: row["pricing"], weight=8),
            Column(title="PRICE/H", text=marked, right=True, weight=9),
            Column(
                title="$/GPU-H", text=lambda row: format_usd(row["usd_per_gpu_hour"]), right=True, weight=5
            ),
            *more,
            Column(title="SEEN", text=self.seen, right=True, weight=6),
        ]

    def seen(self, row: Mapping[str, Any]) -> str:
        """Age; "!" marks what is older than such prices are expected to hold."""
        mark = "!" if row["provider"] in self.stale else ""
        return f"{age(row['observed_at'], self.now)}{mark}"


def generic(result: Result) -> list[Column]:
    """Each column by its name; what was asked for by name never leaves."""
    return [replace(column_of(name), weight=9) for name in result.columns]


def _plain(value: float | None) -> str:
    return "-" if not value else f"{value:g}"


def _memory(value: float | None) -> str:
    return format_memory(value) if value else "-"


# -- nothing ---------------------------------------------------------------------------------------------------------


def nothing(catalog: Catalog, wants: Requirements, query: OfferQuery) -> NoOfferError:
    """The error for a query that matched nothing: which wish emptied it, and what to relax."""
    from skyward.advice import in_words

    stages = _stages(catalog, wants, query)
    fact = "the catalog has no offers"
    if stages:
        last = stages[-1].constraint
        missed = _ask(catalog, _without(query, _from(query, last)), last, query)
        fact = in_words(stages, _miss(wants, missed, last), missed)
    options = _options(catalog, wants, query, [stage.constraint for stage in stages])
    hints = [f"relax one: {' | '.join(options)}"] if options else []
    if not options and wants.accelerator is not None:
        hints = [f"skyward accelerators {wants.accelerator.name}"]
    return NoOfferError(
        "nothing matches",
        facts=[fact],
        hints=hints,
        exit_code=ExitCode.NOTHING_SELECTED,
    )


def _stages(catalog: Catalog, wants: Requirements, query: OfferQuery) -> list[Stage]:
    from skyward.advice import Stage, wish_in_words

    counted = catalog.funnel(query)
    left = sum(count for _, count, _ in counted)
    stages = []
    for constraint, refused, _ in counted:
        if constraint is not None:
            left -= refused
            wish = _OWN_WISHES.get(constraint) or wish_in_words(constraint, wants)
            stages.append(Stage(constraint=constraint, refused=refused, left=left, wish=wish))
    return stages


_OWN_WISHES = {
    "availability": "are available",
    "accelerator_memory": "have accelerators of that memory",
}
"""Wishes that only queries have, in words."""

_OWN_CHANGES = {"availability": "without --available", "accelerator_memory": "without --vram"}
"""How they are given up."""


def _options(
    catalog: Catalog, wants: Requirements, query: OfferQuery, constraints: Sequence[str]
) -> list[str]:
    """What to relax, as options: one wish where that helps, else one wish and the price together."""
    options = [_option(catalog, wants, query, (name,)) for name in reversed(constraints)]
    if not any(options) and query.max_price is not None:
        options = [_option(catalog, wants, query, (name, "max_price")) for name in reversed(constraints)]
    return list(dict.fromkeys(option for option in options if option))


def _option(catalog: Catalog, wants: Requirements, query: OfferQuery, eased: tuple[str, ...]) -> str | None:
    from skyward.advice import change_in_words

    if eased[0] == "accelerator":
        found = _akin(catalog, wants, _without(query, eased[1:]))
    else:
        found = _ask(catalog, _without(query, eased), eased[0], query)
    changes = [_OWN_CHANGES.get(name) or change_in_words(name, wants, found[0]) for name in eased if found]
    if not changes or None in changes:
        return None
    price = found[0].usd_per_hour
    text = " ".join(map(str, changes))
    return text if price is None or "max_price" in eased else f"{text} (from {format_usd(price)}/h)"


def _akin(catalog: Catalog, wants: Requirements, query: OfferQuery) -> list[Offer]:
    from skyward.advice import akin

    for names in akin(wants.accelerator, default_registry()) if wants.accelerator else ():
        found = _ask(catalog, replace(query, accelerators=tuple(sorted(names))), "accelerator", query)
        if found:
            return found
    return []


def _from(query: OfferQuery, constraint: str) -> tuple[str, ...]:
    """This wish and those that are looked at after it."""
    from skyward.catalog.query import clauses

    names = [clause.name for clause in clauses(query)]
    return tuple(names[names.index(constraint) :])


def _without(query: OfferQuery, constraints: Sequence[str]) -> OfferQuery:
    given_up = dict(_FIELDS[name][:2] for name in constraints if name in _FIELDS)
    if query.total_accelerators is not None:  # a question of how many nodes, not of which machines
        given_up |= {"total_accelerators": None, "has_accelerator": True}
    return replace(query, **given_up, group_by=(), columns=(), limit=200, max_age_s=None)


def _ask(catalog: Catalog, query: OfferQuery, constraint: str, before: OfferQuery) -> list[Offer]:
    """What a query answers once `constraint` is given up: the nearest first, then the cheapest."""
    field, _, nearest = _FIELDS.get(constraint, ("", None, ""))
    low = getattr(getattr(before, field, None), "low", None)
    near = (f"{'' if low is None else '-'}{nearest}",) if nearest else ()
    return catalog.offers(replace(query, sort=(*near, "usd_per_hour")))


_FIELDS: dict[str, tuple[str, Any, str]] = {
    "max_price": ("max_price", None, "usd_per_hour"),
    "availability": ("availability", (), ""),
    "min_reliability": ("min_reliability", None, ""),
    "allocation": ("pricing", (), ""),
    "zone": ("zones", (), ""),
    "region": ("regions", (), ""),
    "disk": ("disk_gb", None, "disk_gb"),
    "memory": ("memory_gib", None, "memory_gib"),
    "cpu": ("vcpus", None, "vcpus"),
    "architecture": ("architecture", None, ""),
    "machine": ("machine", None, ""),
    "accelerator_count": ("accelerator_count", None, "accelerator_count"),
    "accelerator_memory": ("accelerator_memory_gib", None, "accelerator_memory_gib"),
    "fraction": ("fractions", True, "accelerator_count"),
    "provider": ("providers", (), ""),
}
"""Wish -> the field of a query it lives in, the value that gives it up, and the column that says how near one is."""


def _miss(wants: Requirements, offers: Sequence[Offer], constraint: str) -> Any:
    """The planner's word on the nearest offer."""
    from skyward.planner import refusal_of

    return refusal_of(wants, offers[0], constraint) if offers else None
