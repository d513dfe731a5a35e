"""What a plan says about itself: the funnel of its refusals, what relaxing one wish would give, and the error
when nothing fits. Pure, like the planner it reads. Imports `planner` and below."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skyward.contracts.strategy import Strategy
from skyward.errors import NoOfferError
from skyward.model.accelerator import Accelerator, default_registry
from skyward.model.money import format_usd
from skyward.model.offer import Offer
from skyward.model.plan import Plan, Refusal, is_interruptible
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range, format_count, format_memory
from skyward.planner import CONSTRAINTS, SHORTEST_USE_S, by_price, make_plan

if TYPE_CHECKING:
    from skyward.model.accelerator_model import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One constraint of the funnel: how many offers it refused and how many were left after it."""

    constraint: str
    refused: int
    left: int
    wish: str
    """What the offers left have in common, as a verb phrase in the plural: "are in FIN-01"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """What giving up, or easing, one wish would give."""

    constraint: str
    change: str
    """As an option that can be pasted (`--max-price 2.90`)."""
    offer: Offer
    """The cheapest that would fit then."""
    usd_per_hour: float | None
    """Of all nodes."""
    offers: int
    """How many would fit then."""

    def __str__(self) -> str:
        if "--max-price" in self.change or self.usd_per_hour is None:
            return self.change
        return f"{self.change} (from {format_usd(self.usd_per_hour)}/h)"


def funnel(plan: Plan) -> tuple[Stage, ...]:
    """The constraints that refused something, in the order they were checked.

    `left` of the last one is the number of offers that fit.
    """
    refused = Counter(refusal.constraint for refusal in plan.refused)
    refused.update(plan.unlisted)
    left = plan.considered
    stages = []
    for name, _ in CONSTRAINTS:
        if refused[name]:
            left -= refused[name]
            wish = wish_in_words(name, plan.requirements)
            stages.append(Stage(constraint=name, refused=refused[name], left=left, wish=wish))
    return tuple(stages)


def no_offer(plan: Plan, *, registry: Registry | None = None) -> NoOfferError:
    """The error for a plan that chose nothing: its cause is the funnel, its hint what to relax."""
    options = [str(relaxation) for relaxation in relaxations(plan, registry=registry)]
    hints = [f"relax one: {' | '.join(options)}"] if options else []
    return NoOfferError("no offer fits", facts=[funnel_in_words(plan)], hints=hints, plan=plan)


def funnel_in_words(plan: Plan) -> str:
    """ "61 offers have an H200; 9 are in FIN-01; the cheapest of those is $2.90/h, over 1.00"."""
    stages = funnel(plan)
    if not stages:
        return f"{len(plan.ranked):,} offers fit" if plan.ranked else "the catalog has no offers"
    if plan.ranked:
        return in_words(stages)
    last = [refusal for refusal in plan.refused if refusal.constraint == stages[-1].constraint]
    nearest = min(
        last, key=lambda refusal: (refusal.short_by or 0.0, by_price(refusal.offer, plan.requirements))
    )
    return in_words(stages, nearest, [refusal.offer for refusal in last])


def in_words(stages: Sequence[Stage], nearest: Refusal | None = None, others: Sequence[Offer] = ()) -> str:
    """A funnel as one line. `nearest` is the nearest miss of its last stage, `others` all that missed there."""
    parts = [_counted(stage, first=number == 0) for number, stage in enumerate(stages) if stage.left]
    if stages[-1].left == 0:
        parts.append(_end(stages[-1], nearest, others, among=bool(parts)))
    return "; ".join(parts)


def _counted(stage: Stage, *, first: bool) -> str:
    offers = (" offer" if stage.left == 1 else " offers") if first else ""
    return f"{stage.left:,}{offers} {stage.wish if stage.left != 1 else _singular(stage.wish)}"


def _singular(wish: str) -> str:
    verb, _, rest = wish.partition(" ")
    return f"{ {'have': 'has', 'are': 'is', 'cost': 'costs'}.get(verb, verb) } {rest}"


def _end(stage: Stage, nearest: Refusal | None, others: Sequence[Offer], *, among: bool) -> str:
    """How the last offers fell: the nearest miss, or what they are instead."""
    those = " of those" if among else ""
    if nearest is not None and nearest.short_by is not None:
        which = "cheapest" if stage.constraint in ("max_price", "max_cost") else "nearest"
        return f"the {which}{those} {nearest.detail}"
    none = f"{'none of those' if among else 'no offer'} {_singular(stage.wish)}"
    if others and stage.constraint in _FEW:
        preposition, of = _FEW[stage.constraint]
        return f"{none} (they are {preposition}{_listed(map(of, others))})"
    return none


_FEW: dict[str, tuple[str, Callable[[Offer], str]]] = {
    "provider": ("from ", lambda offer: offer.provider),
    "architecture": ("", lambda offer: offer.architecture),
    "region": ("in ", lambda offer: offer.region),
    "zone": ("in ", lambda offer: offer.zone or offer.region),
    "allocation": ("sold as ", lambda offer: offer.pricing),
}
"""Constraints whose alternatives are few enough to be told: a preposition, and what an offer is instead."""


def _listed(words: Iterable[str], limit: int = 3) -> str:
    """The most frequent words first."""
    counted = [word for word, _ in Counter(words).most_common()]
    rest = f" and {len(counted) - limit} more" if len(counted) > limit else ""
    return ", ".join(counted[:limit]) + rest


# -- wishes in words -----------------------------------------------------------------------------------------------


def wish_in_words(constraint: str, requirements: Requirements) -> str:
    """What offers that pass a constraint have in common: "have at least 32GB of memory"."""
    return _WISHES[constraint](requirements)


def _span(wish: Range | None, form: Callable[[float], str], unit: str) -> str:
    low, high = (None, None) if wish is None else (wish.low, wish.high)
    if low is not None and low == high:
        return f"have exactly {form(low)} {unit}"
    if low is None:
        return f"have at most {form(high or 0)} {unit}"
    if high is None:
        return f"have at least {form(low)} {unit}"
    return f"have {form(low)} to {form(high)} {unit}"


def _accelerator_wish(requirements: Requirements) -> str:
    wish = requirements.accelerator
    if wish is None:
        return "have an accelerator"
    memory = "" if wish.memory is None else f" with {wish.memory.spelled(format_memory)}"
    name = ":".join(part for part in (wish.name, wish.form_factor) if part)
    if name.islower():  # a vendor or a kind
        return f"have {_article(name)} {'GPU' if name == 'gpu' else name + ' accelerator'}{memory}"
    return f"have {_article(name)} {name}{memory}"


def _article(name: str) -> str:
    """As it is read aloud: letters one by one ("an H100", "a T4"), words as words ("a Gaudi", "an nvidia")."""
    if name in ("nvidia", "hpu"):
        return "an"
    is_word = name[1:2].islower()
    return "an" if name[0] in ("AEIOUaeiou" if is_word else "AEFHILMNORSX") else "a"


def _count_wish(requirements: Requirements) -> str:
    wish = requirements.accelerator
    return _span(None if wish is None else wish.counts, format_count, "of them")


def _region_wish(requirements: Requirements) -> str:
    if requirements.regions:
        return f"are in {_either(requirements.regions)}"
    configured = (f"{name} in {_either(regions)}" for name, regions in requirements.provider_regions.items())
    return f"are where the provider is configured ({', '.join(configured)})"


def _allocation_wish(requirements: Requirements) -> str:
    allocation = requirements.allocation
    if isinstance(allocation, float) and 0 < allocation < 1:
        return f"are sold both on-demand and as spot (allocation={allocation:g})"
    if allocation in ("spot", "always-spot", 1.0):
        return "are sold as spot"
    if allocation in ("on-demand", 0.0):
        return "are sold on-demand"
    return "are sold without a reservation"


def _either(words: Sequence[str]) -> str:
    return " or ".join(words)


_WISHES: dict[str, Callable[[Requirements], str]] = {
    "provider": lambda wants: f"are from {_either(wants.providers)}",
    "accelerator": _accelerator_wish,
    "fraction": lambda wants: "are whole accelerators",
    "accelerator_count": _count_wish,
    "accelerator_memory": lambda wants: "have the memory in their slice",
    "mig": lambda wants: f"have MIG profile {wants.accelerator.mig if wants.accelerator else ''}",
    "machine": lambda wants: f"are {wants.machine}",
    "architecture": lambda wants: f"are {wants.architecture}",
    "cpu": lambda wants: _span(wants.cpu, format_count, "vCPUs"),
    "memory": lambda wants: _span(wants.memory_gib, format_memory, "of memory"),
    "disk": lambda wants: _span(wants.disk_gb, format_memory, "of disk"),
    "region": _region_wish,
    "zone": lambda wants: f"are in {_either(wants.zones)}",
    "allocation": _allocation_wish,
    "availability": lambda wants: "are not sold out",
    "min_reliability": lambda wants: f"are at least {wants.min_reliability or 0:g} reliable",
    "quality": lambda wants: "are offers that can be launched",
    "price": lambda wants: "have a known price",
    "max_price": lambda wants: f"cost at most {format_usd(wants.max_price)}/h",
    "max_cost": lambda wants: f"are payable within {format_usd(wants.max_cost)}",
}


# -- relaxations ---------------------------------------------------------------------------------------------------


def relaxations(plan: Plan, *, registry: Registry | None = None) -> tuple[Relaxation, ...]:
    """For each wish, what giving it up would admit; the cheapest of that is the suggestion.

    Where the plan has a choice already, only what would be cheaper. In the order people relax things: price,
    place, the way of paying, the machine, the accelerator.
    """
    found = [_relaxed(plan, easing, registry) for easing in _EASINGS]
    if plan.chosen is None and plan.requirements.max_price is not None and not any(found):
        # One wish alone does not help: the price may have to give way together with another.
        found = [_relaxed(plan, _with_price(easing), registry) for easing in _EASINGS[1:]]
    return tuple(relaxation for relaxation in found if relaxation is not None)


@dataclass(frozen=True, slots=True)
class _Easing:
    """How one wish is given up: the constraints it stands for, the requirements without it, the option to type."""

    constraints: tuple[str, ...]
    without: Callable[[Requirements], Requirements]
    change: Callable[[Requirements, Offer], str]


def _with_price(easing: _Easing) -> _Easing:
    return _Easing(
        easing.constraints,
        lambda wants: replace(easing.without(wants), max_price=None),
        lambda wants, offer: f"{easing.change(wants, offer)} --max-price {_up(offer.usd_per_hour or 0)}",
    )


def _relaxed(plan: Plan, easing: _Easing, registry: Registry | None) -> Relaxation | None:
    # Only offers that this wish refused first can come in: any other one still fails an earlier constraint.
    candidates = [refusal for refusal in plan.refused if refusal.constraint in easing.constraints]
    if not candidates:
        return None
    wants = easing.without(plan.requirements)
    offers = [*plan.ranked, *(refusal.offer for refusal in candidates)]
    eased = make_plan(wants, offers, _ByPrice(), registry=registry)
    known = set(map(id, plan.ranked))
    fresh = [offer for offer in eased.ranked if id(offer) not in known]
    if "accelerator" in easing.constraints:
        fresh = _akin(fresh, plan.requirements, registry or default_registry())
    fresh = [offer for offer in fresh if _is_better(plan, eased.rate(offer))]
    if not fresh:
        return None
    short_by = {id(refusal.offer): refusal.short_by or 0.0 for refusal in candidates}
    nearest = min(fresh, key=lambda offer: short_by[id(offer)])  # ties: the cheapest comes first
    return Relaxation(
        constraint=easing.constraints[0],
        change=easing.change(plan.requirements, nearest),
        offer=nearest,
        usd_per_hour=eased.rate(nearest),
        offers=len(fresh),
    )


class _ByPrice(Strategy):
    name = "price"

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        return sorted(offers, key=lambda offer: by_price(offer, requirements))


def _is_better(plan: Plan, usd_per_hour: float | None) -> bool:
    if plan.chosen is None:
        return True
    return usd_per_hour is not None and (plan.usd_per_hour is None or usd_per_hour < plan.usd_per_hour)


def akin(wish: Accelerator, registry: Registry) -> tuple[frozenset[str], ...]:
    """Canonical names that may stand in for a wish: those of its family, then those of its architecture that
    have at least half the memory."""
    group = registry.group(wish.name)
    models = () if group is None else group.models
    least = min((model.memory_gib or 0.0 for model in models), default=0.0) / 2
    families = {model.family for model in models} - {""}
    architectures = {model.architecture for model in models} - {""}
    return (
        frozenset(model.name for model in registry.models if model.family in families),
        frozenset(
            model.name
            for model in registry.models
            if model.architecture in architectures and (model.memory_gib or 0.0) >= least
        ),
    )


def _akin(offers: Sequence[Offer], requirements: Requirements, registry: Registry) -> list[Offer]:
    wish = requirements.accelerator
    for names in () if wish is None else akin(wish, registry):
        found = [o for o in offers if o.accelerator in names and wish and wish.allows(o.accelerator_count)]
        if found:
            return found
    return []


def change_in_words(constraint: str, requirements: Requirements, offer: Offer) -> str | None:
    """The option that makes `offer` fit, where it fails nothing but `constraint`."""
    for easing in _EASINGS:
        if constraint in easing.constraints:
            return easing.change(requirements, offer)
    return None


def _up(usd: float) -> str:
    """Rounded up to the cent, so that the price it was made of fits under it."""
    return f"{math.ceil(usd * 100 - 1e-6) / 100:.2f}"


def _wider(wish: Range | None, value: float | None, form: Callable[[float], str]) -> str:
    """The range, stretched just enough to hold `value`."""
    low, high = (None, None) if wish is None else (wish.low, wish.high)
    if value is None:
        return ""
    if low is not None and value < low:
        return form(value) if high is None else Range(value, high).spelled(form)
    return Range(low, value).spelled(form)


def _any_count(wish: Accelerator | None) -> Accelerator | None:
    return None if wish is None else wish(count=0.001)


def _uncut(wish: Accelerator | None) -> Accelerator | None:
    return None if wish is None else Accelerator(wish.name, wish.counts, wish.memory, wish.form_factor)


def _counted_name(name: str | None, count: float) -> str:
    return f"{name}" if count == 1 else f"{name}:{format_count(count)}"


def _least_reliable(offer: Offer) -> str:
    return f"{math.floor((offer.reliability or 0) * 1000) / 1000:g}"


def _zone_option(wants: Requirements, offer: Offer) -> str:
    return f"--zone {offer.zone}" if offer.zone else f"--region {offer.region} without --zone"


_EASINGS = (
    _Easing(
        ("max_price",),
        lambda wants: replace(wants, max_price=None),
        lambda wants, offer: f"--max-price {_up(offer.usd_per_hour or 0)}",
    ),
    _Easing(
        ("max_cost",),
        lambda wants: replace(wants, max_cost=None),
        lambda wants, offer: (
            f"--max-cost {_up((offer.usd_per_hour or 0) * wants.nodes_of(offer) * SHORTEST_USE_S / 3600)}"
        ),
    ),
    _Easing(("zone",), lambda wants: replace(wants, zones=()), _zone_option),
    _Easing(
        ("region",),
        lambda wants: replace(wants, regions=(), provider_regions={}),
        lambda wants, offer: f"--region {offer.region}",
    ),
    _Easing(
        ("provider",),
        lambda wants: replace(wants, providers=()),
        lambda wants, offer: f"--provider {offer.provider}",
    ),
    _Easing(
        ("allocation",),
        lambda wants: replace(wants, allocation="cheapest"),
        lambda wants, offer: f"--allocation {'spot' if is_interruptible(offer) else 'on-demand'}",
    ),
    _Easing(
        ("min_reliability",),
        lambda wants: replace(wants, min_reliability=None),
        lambda wants, offer: f"--min-reliability {_least_reliable(offer)}",
    ),
    _Easing(
        ("disk",),
        lambda wants: replace(wants, disk_gb=None),
        lambda wants, offer: f"--disk {_wider(wants.disk_gb, offer.disk_gb, format_memory)}",
    ),
    _Easing(
        ("memory",),
        lambda wants: replace(wants, memory_gib=None),
        lambda wants, offer: f"--memory {_wider(wants.memory_gib, offer.memory_gib, format_memory)}",
    ),
    _Easing(
        ("cpu",),
        lambda wants: replace(wants, cpu=None),
        lambda wants, offer: f"--cpu {_wider(wants.cpu, offer.vcpus, format_count)}",
    ),
    _Easing(
        ("architecture",),
        lambda wants: replace(wants, architecture=None),
        lambda wants, offer: f"--architecture {offer.architecture}",
    ),
    _Easing(
        ("machine",),
        lambda wants: replace(wants, machine=None),
        lambda wants, offer: f"--machine {offer.instance_type}",
    ),
    _Easing(
        ("mig",),
        lambda wants: replace(wants, accelerator=_uncut(wants.accelerator)),
        lambda wants, offer: f"--accelerator {_uncut(wants.accelerator)}",
    ),
    _Easing(
        ("accelerator_count", "fraction", "accelerator_memory"),
        lambda wants: replace(wants, accelerator=_any_count(wants.accelerator)),
        lambda wants, offer: f"--accelerator {_counted_name(offer.accelerator, offer.accelerator_count)}",
    ),
    _Easing(
        ("accelerator",),
        lambda wants: replace(wants, accelerator=None),
        lambda wants, offer: f"--accelerator {_counted_name(offer.accelerator, offer.accelerator_count)}",
    ),
)
