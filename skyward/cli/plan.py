"""`skyward plan`: what would be rented, why, why nothing else, and for how much. Rents nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.render import (
    Column,
    age,
    devices,
    format_option,
    markdown,
    show,
    show_json,
    show_table,
)
from skyward.cli.requirements import MACHINE, MONEY, POOL, requirement_options, requirements_of, sized
from skyward.cli.shell import Shell, pass_shell
from skyward.cloud.refusals import key, recent
from skyward.errors import CredentialsError, UsageError
from skyward.model.money import format_usd
from skyward.model.sizes import format_duration

if TYPE_CHECKING:
    from skyward.model.offer import Offer
    from skyward.model.plan import Plan, Refusal
    from skyward.model.requirements import Requirements

SHOWN = 5
"""Ranked offers shown without `--all`: the choice and what it falls back to."""
LIFETIME_S = 24 * 3600.0
"""What a pool's `max_lifetime` is when nobody says otherwise."""


@click.command()
@click.argument("target", required=False)
@requirement_options((*MACHINE, *MONEY, *POOL))
@click.option("--for", "duration", metavar="TIME", help="Say what it costs for so long: 3h, 90m.")
@click.option(
    "--explain", is_flag=True, help="Show what was refused, why, and what relaxing a wish would give."
)
@click.option("--why-not", metavar="MACHINE", help="Only why this instance type is not chosen.")
@click.option("--all", "everything", is_flag=True, help="Show every offer, not only the best.")
@format_option
@pass_shell
def plan(
    shell: Shell,
    /,
    target: str | None,
    duration: str | None,
    explain: bool,
    why_not: str | None,
    everything: bool,
    format: str,
    **given: Any,
) -> None:
    """Show what `skyward run` with the same options would rent, and why. Nothing is started.

    TARGET is what run would take (pkg.mod:func, file.py:func); it is checked and may be left out.
    """
    from skyward.advice import no_offer

    if target is not None:
        check_target(target)
    made = planned(shell, given, explain=explain or why_not is not None, everything=everything)
    bound = Bound.of(made, duration, given.get("timeout"), shell.config.defaults)
    report = PlanReport(plan=made, bound=bound, target=target, explain=explain, everything=everything)
    if why_not is not None:
        report = report.about(why_not)
    report.show(format)
    if made.chosen is None:
        raise no_offer(made)
    if format == "table":
        _say_what_is_missing(shell, made)


def planned(
    shell: Shell, given: Mapping[str, Any], *, explain: bool = False, everything: bool = False
) -> Plan:
    """The plan for option values, with the defaults of the configuration under them."""
    from skyward.api.planning import Source, owned_offers
    from skyward.api.prices import plan_from_catalog, regions_of
    from skyward.plugins import get_plugins

    typed = {key: value for key, value in given.items() if value not in (None, ())}
    said = {**shell.config.defaults, **typed}
    wants = requirements_of(said)
    plugins = get_plugins()
    kinds = [plugins.provider(name) for name in wants.providers] or _home(wants, plugins)
    sources = [Source(kind, kind.Config(**shell.config.provider(kind.name))) for kind in kinds]
    pairs = [(source.name, source.config) for source in sources]
    wants = replace(wants, providers=tuple(name for name, _ in pairs), provider_regions=regions_of(pairs))
    return plan_from_catalog(
        wants,
        said.get("selection", "first"),
        plugins=plugins,
        configs=dict(pairs),
        also=owned_offers(sources),
        explain=explain,
        everything=everything,
    )


def _say_what_is_missing(shell: Shell, made: Plan) -> None:
    """Which of the providers the plan would turn to cannot be used from here; a plan needs no credentials itself."""
    kinds = shell.plugins().providers()
    for name in dict.fromkeys(offer.provider for offer in made.ranked[:SHOWN]):
        if name not in kinds:
            shell.hint(f"{name} has prices but no plugin: nothing can be rented there")
            continue
        try:
            kinds[name].from_env(kinds[name].Config(**shell.config.provider(name)))
        except CredentialsError as error:
            shell.hint(error.message)


def _home(wants: Requirements, plugins: Any) -> list[Any]:
    """Nothing named and nothing wished is this machine."""
    said = (wants.accelerator, wants.cpu, wants.memory_gib, wants.disk_gb, wants.architecture, wants.machine)
    is_wishless = not any(said) and not (
        wants.regions or wants.zones or wants.total_accelerators or wants.max_price
    )
    return [plugins.provider("local")] if is_wishless else []


def check_target(text: str) -> None:
    """Raises TargetError where there is no such task."""
    from skyward.errors import TargetError
    from skyward.session.target import load

    try:
        load(text)
    except TargetError as error:
        if _is_accelerator(text):
            error.hints = (f"did you mean `skyward plan --accelerator {text}`?", *error.hints)
        raise


def _is_accelerator(text: str) -> bool:
    from skyward.errors import SkywardError
    from skyward.model.accelerator import Accelerator

    try:
        return Accelerator.parse(text) is not None
    except SkywardError:
        return False


# -- how long, and how much at most ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bound:
    """What a plan can cost, and what makes it end there."""

    seconds: float
    reason: str
    """The option that says so."""
    usd: float | None

    @classmethod
    def of(cls, made: Plan, duration: str | None, timeout: str | None, defaults: Mapping[str, Any]) -> Bound:
        from skyward.planner import cost_bound

        lifetime_s = made.requirements.max_lifetime_s
        seconds, reason = LIFETIME_S if lifetime_s is None else lifetime_s, "--max-lifetime"
        for text, option in ((duration, "--for"), (timeout or defaults.get("timeout"), "--timeout")):
            if text is not None:
                seconds, reason = sized("parse_duration")(text, option), option
                break
        usd = cost_bound(made, seconds)
        limit = made.requirements.max_cost
        if usd is not None and limit is not None and usd >= limit:
            reason = "--max-cost"
        return cls(seconds, reason, usd)

    def __str__(self) -> str:
        if self.usd is None:
            return "price unknown, no bound"
        if self.reason == "--max-cost":
            return f"at most {format_usd(self.usd)} (--max-cost)"
        return f"at most {format_usd(self.usd)} ({self.reason} {_hours(self.seconds)})"


def _hours(seconds: float) -> str:
    """ "24h" where that is how people say it."""
    return (
        f"{seconds / 3600:g}h" if seconds % 3600 == 0 and seconds <= 72 * 3600 else format_duration(seconds)
    )


# -- the report --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """A plan as `skyward plan` and `skyward run --dry-run` show it."""

    plan: Plan
    bound: Bound
    target: str | None = None
    explain: bool = False
    everything: bool = False
    only: str | None = None
    """Only offers of this instance type."""

    def about(self, machine: str) -> PlanReport:
        """Only what concerns one instance type.

        Raises:
            UsageError: no offer has it.
        """
        from difflib import get_close_matches

        known = {offer.instance_type for offer in _offers(self.plan)}
        if machine not in known:
            near = get_close_matches(machine, sorted(known), n=2)
            hints = [f"did you mean {' or '.join(near)}?"] if near else ["skyward offers --group-by machine"]
            raise UsageError(f"no offer has machine {machine!r}", hints=hints)
        return replace(self, only=machine, explain=True, everything=True)

    def show(self, format: str) -> None:
        """Prints it on standard output."""
        if format == "json":
            show_json("skyward.plan/1", self.document())
        elif format == "table":
            self._show_text()
        else:
            self._show_rows(format)

    # -- for people ------------------------------------------------------------------------------------------------

    def _show_text(self) -> None:
        console.write(f"{self.head()}\n")
        if rows := self.rows():
            show_table(self.columns(), rows)
        for line in self.tail():
            console.write(f"{line}\n")

    def head(self) -> str:
        """One line: what was asked for."""
        wants = self.plan.requirements
        providers = ", ".join(wants.providers) or "all providers"
        target = f"{self.target}  " if self.target else ""
        return f"plan  {target}{in_short(wants)} · selection={self.plan.strategy} · {providers}"

    def rows(self) -> list[dict[str, Any]]:
        """The choice, what it falls back to and, explained, the nearest of what each constraint refused."""
        fitting = (
            {"rank": number, "offer": offer, "refusal": None}
            for number, offer in enumerate(self.plan.ranked, 1)
            if self.only in (None, offer.instance_type)
        )
        ranked = list(fitting if self.everything else islice(fitting, SHOWN))
        refusals = [r for r in self.plan.refused if self.only in (None, r.offer.instance_type)]
        if not self.everything:
            refusals = _nearest(refusals, self.plan.requirements)
        refused = [{"rank": None, "offer": refusal.offer, "refusal": refusal} for refusal in refusals]
        return [*ranked, *(refused if self.explain or self.everything or not ranked else [])]

    def columns(self) -> list[Column]:
        """Those of the mock-up: one row per offer, the price of one and of all nodes, and its fate."""
        now = datetime.now(UTC)
        refused = recent(now.timestamp())
        nodes = self.plan.nodes
        has_many = nodes > 1 or self._is_varying
        columns = [
            Column(title="", text=lambda row: ">" if row["rank"] == 1 else "", weight=9),
            Column(title="PROVIDER", text=lambda row: row["offer"].provider, weight=9),
            Column(title="INSTANCE", text=lambda row: row["offer"].instance_type, weight=9, least=13),
            Column(
                title="REGION", text=lambda row: row["offer"].zone or row["offer"].region, weight=8, least=9
            ),
            Column(title="GPU", text=lambda row: _devices(row["offer"]), weight=7),
            Column(title="SOLD AS", text=lambda row: row["offer"].pricing, weight=8),
            Column(title="PRICE/H", text=lambda row: format_usd(row["offer"].price), right=True, weight=9),
            Column(
                title="ALL NODES/H" if self._is_varying else f"{nodes} NODES/H",
                text=lambda row: format_usd(self.plan.rate(row["offer"])),
                right=True,
                weight=8 if has_many else -1,
            ),
            Column(title="SEEN", text=lambda row: age(row["offer"].observed_at, now), right=True, weight=4),
            Column(
                title="STATUS",
                text=lambda row: self.status(row) + _last_refusal(row, refused, now),
                weight=9,
                least=30,
            ),
        ]
        return [column for column in columns if column.weight >= 0]

    @property
    def _is_varying(self) -> bool:
        """Whether the number of nodes depends on the offer."""
        return self.plan.requirements.total_accelerators is not None

    def status(self, row: Mapping[str, Any]) -> str:
        refusal, rank = row["refusal"], row["rank"]
        if refusal is not None:
            return f"refused: {refusal.detail.removeprefix('is ').removeprefix('has ')}"
        count = self.plan.requirements.nodes_of(row["offer"])
        nodes = f", {count} node{'' if count == 1 else 's'}" if self._is_varying else ""
        if rank == 1:
            return f"chosen{_mixture(self.plan)}{nodes}"
        return f"{_ordinal(rank)} (fallback){nodes}"

    def tail(self) -> list[str]:
        """What was considered, what relaxing would give, and what it costs."""
        from skyward.advice import relaxations

        lines = []
        if self.explain and self.only is None:
            lines.append(considered(self.plan))
            lines += [f"relax {relaxation}" for relaxation in relaxations(self.plan)]
        if self.plan.chosen is not None and self.only is None:
            rate = self.plan.usd_per_hour
            seen = f" ({age(self.plan.chosen.observed_at, datetime.now(UTC))} ago)" if rate else ""
            cost = "costs nothing" if rate == 0 else f"{_rate(rate)}{seen}, {self.bound}"
            lines.append(f"cost  {cost} · nothing has been started")
        return lines

    # -- for programs ----------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """The JSON document; `items` are all offers considered, the best first, refusals in catalog order."""
        from skyward.advice import funnel, relaxations

        chosen, items = self.plan.chosen, self._items()
        return {
            "target": self.target,
            "requirements": _plain_requirements(self.plan.requirements),
            "selection": self.plan.strategy,
            "currency": "USD",
            "nodes": self.plan.nodes,
            "chosen": next((item for item in items if item["rank"] == 1), None),
            "machines": [
                {"instance_type": offer.instance_type, "pricing": offer.pricing, "nodes": count}
                for offer, count in (self.plan.machines(chosen) if chosen else ())
            ],
            "usd_per_hour": self.plan.usd_per_hour,
            "for_s": self.bound.seconds,
            "usd_at_most": self.bound.usd,
            "considered": self.plan.considered,
            "funnel": [
                {"constraint": s.constraint, "refused": s.refused, "left": s.left, "wish": s.wish}
                for s in funnel(self.plan)
            ],
            "relaxations": [
                {
                    "constraint": r.constraint,
                    "change": r.change,
                    "usd_per_hour": r.usd_per_hour,
                    "offers": r.offers,
                }
                for r in relaxations(self.plan)
            ],
            "items": items,
        }

    def _items(self) -> list[dict[str, Any]]:
        rows = self.plan.rows()
        return [_item(row) for row in rows if self.only in (None, row["instance_type"])]

    def _show_rows(self, format: str) -> None:
        from skyward.catalog.result import Result
        from skyward.cli.render import Answer

        if format == "md":
            console.write(markdown(self.columns(), self.rows()))
            return
        items = self._items()
        columns = tuple(name for name in (items[0] if items else ()) if name not in ("zones", "details"))
        result = Result(columns, tuple(tuple(item[name] for name in columns) for item in items))
        show(Answer(schema="skyward.plan/1", result=result, columns=(), around={}), format)


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    from skyward.cli.render import plain_cell

    return {name: plain_cell("", value) for name, value in row.items()}


def in_short(wants: Requirements) -> str:
    """ "2 nodes · A100:8 · spot-if-available"."""
    from skyward.advice import wish_in_words

    nodes = f"{wants.nodes} node{'s' if wants.nodes > 1 else ''}"
    if wants.total_accelerators is not None:
        nodes = f"{wants.total_accelerators:g} in all"
    words = [nodes, *([str(wants.accelerator)] if wants.accelerator else [])]
    for name, value in (("cpu", wants.cpu), ("memory", wants.memory_gib), ("disk", wants.disk_gb)):
        if value is not None:
            words.append(wish_in_words(name, wants).removeprefix("have "))
    words += [word for word in (wants.machine, wants.architecture, *wants.regions, *wants.zones) if word]
    if wants.max_price is not None:
        words.append(f"at most {format_usd(wants.max_price)}/h each")
    share = wants.allocation
    words.append(share if isinstance(share, str) else f"{share:.0%} spot")
    return " · ".join(words)


def considered(plan: Plan) -> str:
    """ "considered 212 offers: 148 accelerator, 31 max_price, 2 left"."""
    from skyward.advice import funnel

    stages = funnel(plan)
    refused = [f"{stage.refused:,} by {stage.constraint.replace('_', ' ')}" for stage in stages]
    return f"considered {plan.considered:,} offers: {', '.join([*refused, f'{len(plan.ranked):,} left'])}"


def _nearest(refusals: Iterable[Refusal], wants: Requirements) -> list[Refusal]:
    """The two nearest misses of each constraint, the last constraint first: those came closest.

    What is from another provider or has another accelerator is no near miss, and only counted.
    """
    from skyward.planner import CONSTRAINTS, by_price

    groups: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        groups.setdefault(refusal.constraint, []).append(refusal)
    found = []
    for name, _ in reversed(CONSTRAINTS[2:]):
        near = sorted(groups.get(name, ()), key=lambda r: (r.short_by or 0.0, *by_price(r.offer, wants)))
        found += near[:2]
    return found


def _offers(plan: Plan) -> Iterable[Offer]:
    yield from plan.ranked
    yield from (refusal.offer for refusal in plan.refused)


def _devices(offer: Offer) -> str:
    return devices({"accelerator": offer.accelerator, "accelerator_count": offer.accelerator_count})


def _mixture(plan: Plan) -> str:
    """What else is launched beside the choice, under a share of spot."""
    assert plan.chosen is not None
    machines = plan.machines(plan.chosen)
    return (
        ""
        if len(machines) == 1
        else f" ({' + '.join(f'{count} {offer.pricing}' for offer, count in machines)})"
    )


def _last_refusal(row: Mapping[str, Any], refused: Mapping[Any, float], now: datetime) -> str:
    """That its cloud had none a while ago."""
    at = None if row["refusal"] is not None else refused.get(key(row["offer"]))
    return "" if at is None else f", none {age(datetime.fromtimestamp(at, UTC), now)} ago"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _rate(usd_per_hour: float | None) -> str:
    return "price unknown" if usd_per_hour is None else f"{format_usd(usd_per_hour)}/h"


def _plain_requirements(wants: Requirements) -> dict[str, Any]:
    plain = {field.name: getattr(wants, field.name) for field in fields(wants)}
    texts = ("accelerator", "cpu", "memory_gib", "disk_gb")
    return {
        name: str(value)
        if name in texts and value is not None
        else dict(value)
        if isinstance(value, Mapping)
        else value
        for name, value in plain.items()
    }
