"""Which machines to rent: requirements, offers and a strategy become a plan that explains itself.

Pure: no files, no network, no clock; equal inputs give equal plans. Imports nothing above the contracts. Whoever
calls it has read the catalog and let plugins modify the offers (`skyward.api.queries.plan_from_catalog` does both).

An offer is refused for the first constraint it fails, in the order of `CONSTRAINTS`. What unknown values mean is
what the catalog's queries mean by them: an unknown price satisfies no cap, an unknown disk is storage sized on
request, an unknown reliability is one that nobody measures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from skyward.contracts.strategy import Strategy
from skyward.errors import ConfigError, PluginError
from skyward.model.accelerator import default_registry
from skyward.model.money import format_usd
from skyward.model.offer import Offer
from skyward.model.plan import Plan, Refusal, is_interruptible, spot_nodes
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range, format_count, format_memory

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator
    from skyward.model.accelerator_model import Registry

ALLOCATIONS = ("spot-if-available", "spot", "always-spot", "on-demand", "cheapest")

SHORTEST_USE_S = 600.0
"""A pool that cannot pay for this long ends before its machines are prepared (the default `bootstrap_timeout`)."""


def make_plan(
    requirements: Requirements,
    offers: Iterable[Offer],
    strategy: Strategy,
    *,
    registry: Registry | None = None,
) -> Plan:
    """The offers that satisfy `requirements`, best first, and why each other one does not.

    Every offer is in exactly one of the two. Refusals keep the order of `offers`, and so do ties in a ranking.
    `registry` knows which accelerators a name means; None is the default one.

    Raises:
        ConfigError: `allocation` is none of the known ones.
        PluginError: the strategy lost, doubled or invented offers.
    """
    requirements = replace(requirements, allocation=parse_allocation(requirements.allocation))
    checks = _checks(_Asked(requirements, strategy, registry))
    judged = [(offer, _first_failure(offer, checks)) for offer in offers]
    if isinstance(requirements.allocation, float):
        pairing = [
            ("allocation", _pairing(requirements, [offer for offer, refusal in judged if refusal is None]))
        ]
        judged = [(offer, refusal or _first_failure(offer, pairing)) for offer, refusal in judged]
    fitting = [offer for offer, refusal in judged if refusal is None]
    return Plan(
        requirements=requirements,
        strategy=strategy.name,
        ranked=_ranked(strategy, fitting, requirements),
        refused=tuple(refusal for _, refusal in judged if refusal is not None),
    )


def cost_bound(plan: Plan, duration_s: float) -> float | None:
    """US dollars the plan's machines can cost in `duration_s`; None where a price is unknown or nothing fits.

    Storage, traffic and tax are not in it. `max_lifetime` and `max_cost` cap it, because they end the pool.
    """
    rate = plan.usd_per_hour
    if rate is None:
        return None
    lifetime_s = plan.requirements.max_lifetime_s
    bound = rate * (duration_s if lifetime_s is None else min(duration_s, lifetime_s)) / 3600
    limit = plan.requirements.max_cost
    return bound if limit is None else min(bound, limit)


def parse_allocation(value: str | float) -> str | float:
    """One of `ALLOCATIONS`, or a share of spot from 0 to 1 ("0.5" too).

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, str) and value in ALLOCATIONS:
        return value
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if isinstance(value, bool) or not 0 <= share <= 1:
        known = ", ".join(ALLOCATIONS)
        raise ConfigError(f"unknown allocation {value!r}: say one of {known}, or a share of spot from 0 to 1")
    return share


class ChosenBy(Strategy):
    """A strategy made of the user's own function `(providers, spec) -> provider`.

    Each candidate has `.name`, `.config` and `.offers(spec)`; `spec` is the requirements. The provider it returns
    (a candidate or its name) comes first, the others follow in their order as fallbacks, each cheapest first.
    """

    name = "callable"

    def __init__(self, choose: Callable[..., Any], configs: Mapping[str, Any] | None = None) -> None:
        self.choose = choose
        self.configs = configs or {}

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        names = requirements.providers or tuple(dict.fromkeys(offer.provider for offer in offers))
        if not names:
            return ()
        candidates = [
            Candidate(name, self.configs.get(name), tuple(o for o in offers if o.provider == name))
            for name in names
        ]
        chosen = self._name_of(self.choose(candidates, requirements), names)
        order = {name: number for number, name in enumerate(sorted(names, key=lambda name: name != chosen))}
        return sorted(offers, key=lambda offer: (order[offer.provider], *by_price(offer, requirements)))

    def _name_of(self, answer: Any, names: Sequence[str]) -> str:
        name = answer if isinstance(answer, str) else getattr(answer, "name", None)
        if name in names:
            return str(name)
        known = ", ".join(names)
        raise ConfigError(
            f"selection {_called(self.choose)} returned {answer!r}: return one of the providers it is given ({known})"
        )


def _called(function: Callable[..., Any]) -> str:
    return repr(getattr(function, "__qualname__", function))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One provider, as a selection function sees it."""

    name: str
    config: Any
    fitting: tuple[Offer, ...]

    def offers(self, spec: Requirements | None = None) -> tuple[Offer, ...]:
        """Its offers that fit, in catalog order; they fit `spec` already."""
        return self.fitting


def by_price(offer: Offer, requirements: Requirements) -> tuple[bool, float, bool]:
    """A sort key: the price of all nodes; unknown prices last; at one price, machines that stay before spot."""
    price = offer.price
    return (price is None, (price or 0.0) * requirements.nodes_of(offer), is_interruptible(offer))


# -- constraints -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asked:
    """All that a check may depend on."""

    requirements: Requirements
    strategy: Strategy
    registry: Registry | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """What an offer is instead, and how far off in the constraint's own unit where that is a number."""

    detail: str
    short_by: float | None = None


_Check = Callable[[Offer], _Failure | None]


def _provider(asked: _Asked) -> _Check | None:
    wanted = asked.requirements.providers
    if not wanted:
        return None
    return lambda offer: None if offer.provider in wanted else _Failure(f"is from {offer.provider}")


def _accelerator(asked: _Asked) -> _Check | None:
    if not _wants_accelerator(asked.requirements):
        return None
    is_wanted = _kin(asked.requirements.accelerator, asked.registry)

    def check(offer: Offer) -> _Failure | None:
        if offer.accelerator is None:
            return _Failure("has no accelerator")
        return None if is_wanted(offer.accelerator) else _Failure(f"has {offer.accelerator}")

    return check


def _kin(wish: Accelerator | None, registry: Registry | None) -> Callable[[str], bool]:
    """Whether a canonical name is one that `wish` accepts, whatever the count and the partition."""
    if wish is None:
        return lambda name: True
    group = (registry or default_registry()).group(wish.name)
    models = () if group is None else group.models
    names = {
        model.name
        for model in models
        if (wish.memory is None or model.has_memory(wish.memory))
        and (wish.form_factor is None or model.has_form_factor(wish.form_factor))
    }
    return names.__contains__


def _accelerator_count(asked: _Asked) -> _Check | None:
    wish = asked.requirements.accelerator
    if wish is None:
        return None
    return _within(wish.counts, lambda offer: offer.accelerator_count, format_count, "of them")


def _fraction(asked: _Asked) -> _Check | None:
    """A slice satisfies only who asks for one."""
    if not _wants_accelerator(asked.requirements) or asked.requirements.takes_fractions:
        return None

    def check(offer: Offer) -> _Failure | None:
        if offer.accelerator_count >= 1:
            return None
        return _Failure(f"is {format_count(offer.accelerator_count)} of one", 1 - offer.accelerator_count)

    return check


def _wants_accelerator(requirements: Requirements) -> bool:
    return requirements.accelerator is not None or requirements.total_accelerators is not None


def _accelerator_memory(asked: _Asked) -> _Check | None:
    """Of the slice, where one is sold; that of whole accelerators is a matter of their name."""
    wish = asked.requirements.accelerator
    if wish is None or wish.memory is None or not asked.requirements.takes_fractions:
        return None
    within = _within(wish.memory, _memory_of_slice, format_memory, "each")
    if within is None:
        return None
    return lambda offer: within(offer) if offer.accelerator_count < 1 else None


def _memory_of_slice(offer: Offer) -> float | None:
    memory = offer.accelerator_memory_gib
    return None if memory is None else memory * offer.accelerator_count


def _mig(asked: _Asked) -> _Check | None:
    wish = asked.requirements.accelerator
    if wish is None or wish.mig is None:
        return None
    registry, profile = asked.registry or default_registry(), wish.mig

    def check(offer: Offer) -> _Failure | None:
        model = registry.get(offer.accelerator or "")
        if offer.accelerator_count < 1:
            return _Failure("is a slice already")
        if model is None or model.profile(profile) is None:
            return _Failure(f"is {offer.accelerator}, which has no such profile")
        return None

    return check


def _machine(asked: _Asked) -> _Check | None:
    wanted = asked.requirements.machine
    if wanted is None:
        return None
    return lambda offer: None if offer.instance_type == wanted else _Failure(f"is {offer.instance_type}")


def _architecture(asked: _Asked) -> _Check | None:
    wanted = asked.requirements.architecture
    if wanted is None:
        return None
    same = {wanted, *_OTHER_NAMES.get(wanted, ())}
    return lambda offer: None if offer.architecture in same else _Failure(f"is {offer.architecture}")


_OTHER_NAMES = {"x86_64": ("amd64",), "arm64": ("aarch64",)}


def _cpu(asked: _Asked) -> _Check | None:
    return _within(asked.requirements.cpu, lambda offer: offer.vcpus, format_count, "vCPUs")


def _memory(asked: _Asked) -> _Check | None:
    return _within(asked.requirements.memory_gib, lambda offer: offer.memory_gib, format_memory, "of memory")


def _disk(asked: _Asked) -> _Check | None:
    within = _within(asked.requirements.disk_gb, lambda offer: offer.disk_gb, format_memory, "of disk")
    if within is None:
        return None
    return lambda offer: None if offer.disk_gb is None else within(offer)


def _region(asked: _Asked) -> _Check | None:
    wanted, configured = asked.requirements.regions, asked.requirements.provider_regions
    if not wanted and not configured:
        return None

    def check(offer: Offer) -> _Failure | None:
        regions = wanted or configured.get(offer.provider, ())
        return None if not regions or offer.region in regions else _Failure(f"is in {offer.region}")

    return check


_REGION_OF_ZONE = re.compile(r"(.+\d)[a-z]")


def _zone(asked: _Asked) -> _Check | None:
    """An offer of one zone fits by name; one of a whole region by its zones, or by the region in the name."""
    wanted = asked.requirements.zones
    if not wanted:
        return None
    regions = {match[1] for zone in wanted if (match := _REGION_OF_ZONE.fullmatch(zone))}

    def check(offer: Offer) -> _Failure | None:
        if offer.zone in wanted or any(zone in wanted for zone in offer.zones):
            return None
        if offer.zone is None and offer.region in regions:
            return None
        return _Failure(f"is in {offer.zone or offer.region}")

    return check


def _allocation(asked: _Asked) -> _Check | None:
    wants = asked.requirements

    def check(offer: Offer) -> _Failure | None:
        if offer.pricing in _markets(wants.allocation, wants.nodes_of(offer)):
            return None
        return _Failure(f"is sold as {offer.pricing}")

    return check


@cache
def _markets(allocation: str | float, nodes: int) -> frozenset[str]:
    """Ways of paying an allocation allows. A capacity block is bought ahead, so no pool can launch one."""
    spot = spot_nodes(allocation, nodes)
    if allocation == "on-demand" or spot == 0:
        return frozenset({"on-demand"})
    if allocation in ("spot", "always-spot") or spot == nodes:
        return frozenset({"spot", "interruptible"})
    return frozenset({"on-demand", "spot", "interruptible"})


def _availability(asked: _Asked) -> _Check | None:
    return lambda offer: None if offer.availability != "none" else _Failure("is sold out")


def _min_reliability(asked: _Asked) -> _Check | None:
    least = asked.requirements.min_reliability
    if least is None:
        return None

    def check(offer: Offer) -> _Failure | None:
        if offer.reliability is None or offer.reliability >= least:
            return None
        return _Failure(
            f"is {offer.reliability:.3f} reliable, needs at least {least:g}", least - offer.reliability
        )

    return check


def _quality(asked: _Asked) -> _Check | None:
    return lambda offer: (
        None if offer.quality != "indicative" else _Failure("is indicative, cannot be launched")
    )


def _price(asked: _Asked) -> _Check | None:
    """A price is needed by whoever compares or caps prices; zero is a missing price, never a free machine."""
    wants = asked.requirements
    if not asked.strategy.needs_price and wants.max_price is None and wants.max_cost is None:
        return None
    return lambda offer: None if offer.price is not None else _Failure("has no known price")


def _max_price(asked: _Asked) -> _Check | None:
    limit = asked.requirements.max_price
    if limit is None:
        return None

    def check(offer: Offer) -> _Failure | None:
        over = (offer.price or 0.0) - limit
        return (
            None if over <= 0 else _Failure(f"is {format_usd(offer.price)}/h, over {format_usd(limit)}", over)
        )

    return check


def _max_cost(asked: _Asked) -> _Check | None:
    """All nodes together must be payable until they are prepared; what comes after is what `max_cost` stops."""
    wants = asked.requirements
    limit = wants.max_cost
    if limit is None:
        return None

    def check(offer: Offer) -> _Failure | None:
        nodes = wants.nodes_of(offer)
        least = (offer.price or 0.0) * nodes * SHORTEST_USE_S / 3600
        if least <= limit:
            return None
        minutes = limit / least * SHORTEST_USE_S / 60
        return _Failure(
            f"spends {format_usd(limit)} on {nodes} in {minutes:.1f} min, before it is prepared",
            least - limit,
        )

    return check


CONSTRAINTS: tuple[tuple[str, Callable[[_Asked], _Check | None]], ...] = (
    ("provider", _provider),
    ("accelerator", _accelerator),
    ("fraction", _fraction),
    ("accelerator_count", _accelerator_count),
    ("accelerator_memory", _accelerator_memory),
    ("mig", _mig),
    ("machine", _machine),
    ("architecture", _architecture),
    ("cpu", _cpu),
    ("memory", _memory),
    ("disk", _disk),
    ("region", _region),
    ("zone", _zone),
    ("allocation", _allocation),
    ("availability", _availability),
    ("min_reliability", _min_reliability),
    ("quality", _quality),
    ("price", _price),
    ("max_price", _max_price),
    ("max_cost", _max_cost),
)
"""Every constraint, in the order they are checked: what the machine is, where it is, how it is sold, what it costs.

A share of spot adds one last check, under `allocation`: a machine must be sold both ways.
"""


_SIZES = frozenset(
    (
        "accelerator",
        "fraction",
        "accelerator_count",
        "accelerator_memory",
        "mig",
        "architecture",
        "cpu",
        "memory",
    )
)
"""What is taken on trust of the user's own machines, of which nothing is known before they are reached."""


def _checks(asked: _Asked) -> list[tuple[str, _Check]]:
    built = [(name, build(asked)) for name, build in CONSTRAINTS]
    return [(name, check) for name, check in built if check is not None]


def _first_failure(offer: Offer, checks: Sequence[tuple[str, _Check]]) -> Refusal | None:
    is_unknown = offer.is_owned and not offer.vcpus
    for name, check in checks:
        if (is_unknown and name in _SIZES) or (offer.is_owned and name == "allocation"):
            continue
        failure = check(offer)
        if failure is not None:
            return Refusal(offer=offer, constraint=name, detail=failure.detail, short_by=failure.short_by)
    return None


def _within(
    wish: Range | None, value_of: Callable[[Offer], float | None], form: Callable[[float], str], unit: str
) -> _Check | None:
    """A check that a value lies in a range; an unknown value does not."""
    if wish is None or (wish.low is None and wish.high is None):
        return None
    low, high = wish.low, wish.high

    def check(offer: Offer) -> _Failure | None:
        value = value_of(offer)
        if value is None:
            return _Failure(f"does not say how much {unit}")
        if low is not None and value < low:
            return _Failure(f"has {form(value)} {unit}, needs at least {form(low)}", low - value)
        if high is not None and value > high:
            return _Failure(f"has {form(value)} {unit}, may have {form(high)}", value - high)
        return None

    return check


def refusal_of(requirements: Requirements, offer: Offer, constraint: str) -> Refusal | None:
    """What one constraint says of one offer, whatever the others say."""
    build = dict(CONSTRAINTS)[constraint]
    check = build(_Asked(requirements, _Unranked(), None))
    return None if check is None else _first_failure(offer, [(constraint, check)])


class _Unranked(Strategy):
    name = "unranked"

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        return offers


def _pairing(requirements: Requirements, fitting: Sequence[Offer]) -> _Check:
    """Under a share of spot, a machine must be sold both ways in its region."""
    sold = {(_machine_key(offer), is_interruptible(offer)) for offer in fitting}

    def check(offer: Offer) -> _Failure | None:
        nodes = requirements.nodes_of(offer)
        if spot_nodes(requirements.allocation, nodes) in (0, nodes):
            return None
        if (_machine_key(offer), not is_interruptible(offer)) in sold:
            return None
        missing = "on-demand" if is_interruptible(offer) else "spot"
        return _Failure(
            f"has no {missing} counterpart in {offer.region} for a {requirements.allocation:g} share of spot"
        )

    return check


def _machine_key(offer: Offer) -> tuple[str, str, str]:
    return (offer.provider, offer.region, offer.instance_type)


def _ranked(strategy: Strategy, fitting: list[Offer], requirements: Requirements) -> tuple[Offer, ...]:
    ranked = tuple(strategy.rank(fitting, requirements))
    if Counter(map(id, ranked)) != Counter(map(id, fitting)):
        raise PluginError(
            f"strategy {strategy.name!r} returned {len(ranked)} offers for {len(fitting)}: "
            "it must return the same offers in another order"
        )
    return ranked
