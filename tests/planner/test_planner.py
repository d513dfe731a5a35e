"""A plan is a stable, total partition of the offers, and each refusal says which wish came first and by how much."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from market import markets, offer, requirements

from skyward.builtin.strategies import Available, Cheapest, First
from skyward.contracts.strategy import Strategy
from skyward.errors import ConfigError, PluginError
from skyward.model.accelerator import Accelerator
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range
from skyward.planner import CONSTRAINTS, cost_bound, make_plan, parse_allocation

STRATEGIES = st.sampled_from((First(), Cheapest(), Available()))
PLANS = settings(max_examples=80)


def plan_of(*offers: Offer, strategy: Strategy | None = None, **wishes: Any) -> Plan:
    return make_plan(Requirements(**wishes), offers, strategy or First())


def refusal_of(machine: Offer, **wishes: Any) -> tuple[str, str, float | None]:
    (refusal,) = plan_of(machine, **wishes).refused
    return refusal.constraint, refusal.detail, refusal.short_by


# -- properties ----------------------------------------------------------------------------------------------------


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_every_offer_is_ranked_or_refused_and_none_is_both(
    wants: Requirements, market: list[Offer], strategy: Strategy
) -> None:
    plan = make_plan(wants, market, strategy)

    found = [*plan.ranked, *(refusal.offer for refusal in plan.refused)]
    assert sorted(map(id, found)) == sorted(map(id, market))
    assert plan.considered == len(market)


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_the_same_inputs_give_the_same_plan(
    wants: Requirements, market: list[Offer], strategy: Strategy
) -> None:
    assert make_plan(wants, market, strategy) == make_plan(wants, list(market), type(strategy)())


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_refusals_keep_the_order_of_the_catalog(
    wants: Requirements, market: list[Offer], strategy: Strategy
) -> None:
    places = [
        next(n for n, o in enumerate(market) if o is r.offer)
        for r in make_plan(wants, market, strategy).refused
    ]

    assert places == sorted(places)


@PLANS
@given(requirements(), markets, STRATEGIES, st.randoms())
def test_shuffled_offers_give_the_same_plan_except_for_ties(
    wants: Requirements, market: list[Offer], strategy: Strategy, chance: random.Random
) -> None:
    shuffled = list(market)
    chance.shuffle(shuffled)

    one, other = make_plan(wants, market, strategy), make_plan(wants, shuffled, strategy)

    assert {id(offer) for offer in one.ranked} == {id(offer) for offer in other.ranked}
    assert [one.rate(offer) for offer in one.ranked] == [other.rate(offer) for offer in other.ranked]
    assert {(id(r.offer), r.constraint, r.detail) for r in one.refused} == {
        (id(r.offer), r.constraint, r.detail) for r in other.refused
    }


RELAXED = {
    "accelerator": None,
    "total_accelerators": None,
    "cpu": None,
    "memory_gib": None,
    "disk_gb": None,
    "architecture": None,
    "machine": None,
    "regions": (),
    "zones": (),
    "allocation": "cheapest",
    "max_price": None,
    "max_cost": None,
    "min_reliability": None,
    "providers": (),
}


@PLANS
@given(requirements(), markets, STRATEGIES, st.sampled_from(sorted(RELAXED)))
def test_giving_up_a_wish_never_loses_an_offer(
    wants: Requirements, market: list[Offer], strategy: Strategy, wish: str
) -> None:
    if wish == "total_accelerators" and isinstance(wants.allocation, float):
        wants = replace(wants, allocation="cheapest")  # another number of nodes is another share of spot
    before = make_plan(wants, market, strategy)

    after = make_plan(replace(wants, **{wish: RELAXED[wish]}), market, strategy)

    if wish == "total_accelerators":
        return  # another number of nodes may cost more than max_cost
    assert {id(offer) for offer in before.ranked} <= {id(offer) for offer in after.ranked}


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_money_is_finite_and_never_negative(
    wants: Requirements, market: list[Offer], strategy: Strategy
) -> None:
    plan = make_plan(wants, market, strategy)

    amounts = [plan.usd_per_hour, cost_bound(plan, 3600.0), *(plan.rate(offer) for offer in plan.ranked)]
    assert all(amount is None or (math.isfinite(amount) and amount > 0) for amount in amounts)
    assert all(r.short_by is None or (math.isfinite(r.short_by) and r.short_by > 0) for r in plan.refused)


@PLANS
@given(requirements(), markets)
def test_the_cheapest_strategy_chooses_the_lowest_known_price(
    wants: Requirements, market: list[Offer]
) -> None:
    wants = replace(wants, allocation="cheapest")
    plan = make_plan(wants, market, Cheapest())

    rates = [rate for offer in plan.ranked if (rate := plan.rate(offer)) is not None]
    assert len(rates) == len(plan.ranked)
    assert rates == sorted(rates)


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_what_is_ranked_can_be_launched(wants: Requirements, market: list[Offer], strategy: Strategy) -> None:
    for chosen in make_plan(wants, market, strategy).ranked:
        assert chosen.quality != "indicative"
        assert chosen.availability != "none"
        assert chosen.pricing != "capacity-block"
        assert wants.max_price is None or (chosen.usd_per_hour and chosen.usd_per_hour <= wants.max_price)


@PLANS
@given(requirements(), markets, STRATEGIES)
def test_the_machines_of_every_ranked_offer_are_as_many_as_its_nodes(
    wants: Requirements, market: list[Offer], strategy: Strategy
) -> None:
    plan = make_plan(wants, market, strategy)

    for chosen in plan.ranked:
        machines = plan.machines(chosen)
        assert sum(count for _, count in machines) == wants.nodes_of(chosen)
        assert all(count > 0 for _, count in machines)


# -- one wish after the other -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "wishes", "constraint", "detail", "short_by"),
    [
        ({}, {"providers": ("verda",)}, "provider", "is from aws", None),
        ({}, {"accelerator": Accelerator("H100")}, "accelerator", "has no accelerator", None),
        ({"accelerator": "L4"}, {"accelerator": Accelerator("H100")}, "accelerator", "has L4", None),
        (
            {"accelerator": "H100-SXM", "accelerator_count": 4.0},
            {"accelerator": Accelerator("H100:8")},
            "accelerator_count",
            "has 4 of them, needs at least 8",
            4.0,
        ),
        (
            {"accelerator": "H100-SXM", "accelerator_count": 8.0},
            {"accelerator": Accelerator("H100:1..4")},
            "accelerator_count",
            "has 8 of them, may have 4",
            4.0,
        ),
        (
            {"accelerator": "L4", "accelerator_count": 0.125},
            {"accelerator": Accelerator("L4")},
            "fraction",
            "is 0.125 of one",
            0.875,
        ),
        (
            {"accelerator": "A100-40GB"},
            {"accelerator": Accelerator("A100-80GB")},
            "accelerator",
            "has A100-40GB",
            None,
        ),
        (
            {"accelerator": "A100-40GB"},
            {"accelerator": Accelerator("A100:1g.10gb")},
            None,
            "",
            None,
        ),
        (
            {"accelerator": "A100-80GB"},
            {"accelerator": Accelerator("nvidia:1g.5gb")},
            "mig",
            "is A100-80GB, which has no such profile",
            None,
        ),
        ({}, {"machine": "m2"}, "machine", "is m1", None),
        ({}, {"architecture": "arm64"}, "architecture", "is x86_64", None),
        ({"architecture": "aarch64"}, {"architecture": "arm64"}, None, "", None),
        ({}, {"cpu": Range(8)}, "cpu", "has 4 vCPUs, needs at least 8", 4.0),
        ({}, {"cpu": Range(1, 2)}, "cpu", "has 4 vCPUs, may have 2", 2.0),
        ({}, {"memory_gib": Range(32)}, "memory", "has 16GB of memory, needs at least 32GB", 16.0),
        ({"disk_gb": 50.0}, {"disk_gb": Range(80)}, "disk", "has 50GB of disk, needs at least 80GB", 30.0),
        ({}, {"disk_gb": Range(80)}, None, "", None),
        ({}, {"regions": ("south",)}, "region", "is in north", None),
        ({}, {"provider_regions": {"aws": ("south",)}}, "region", "is in north", None),
        ({}, {"provider_regions": {"verda": ("south",)}}, None, "", None),
        ({}, {"provider_regions": {"aws": ("south",)}, "regions": ("north",)}, None, "", None),
        ({"zone": "north-1b"}, {"zones": ("north-1a",)}, "zone", "is in north-1b", None),
        ({"region": "us-east-1"}, {"zones": ("us-east-1c",)}, None, "", None),
        ({"region": "us-east-2"}, {"zones": ("us-east-1c",)}, "zone", "is in us-east-2", None),
        ({"zones": ("use1-az1",)}, {"zones": ("use1-az1",)}, None, "", None),
        ({}, {"allocation": "spot"}, "allocation", "is sold as on-demand", None),
        ({"pricing": "spot"}, {"allocation": "on-demand"}, "allocation", "is sold as spot", None),
        ({"pricing": "interruptible"}, {"allocation": "always-spot"}, None, "", None),
        (
            {"pricing": "capacity-block"},
            {"allocation": "cheapest"},
            "allocation",
            "is sold as capacity-block",
            None,
        ),
        ({"availability": "none"}, {}, "availability", "is sold out", None),
        (
            {"reliability": 0.9},
            {"min_reliability": 0.95},
            "min_reliability",
            "is 0.900 reliable, needs at least 0.95",
            0.05,
        ),
        ({}, {"min_reliability": 0.95}, None, "", None),
        ({"quality": "indicative"}, {}, "quality", "is indicative, cannot be launched", None),
        ({"usd_per_hour": None}, {"max_price": 1.0}, "price", "has no known price", None),
        ({"usd_per_hour": 0.0}, {"max_price": 1.0}, "price", "has no known price", None),
        ({"usd_per_hour": 2.9}, {"max_price": 1.0}, "max_price", "is $2.90/h, over $1.00", 1.9),
        ({"usd_per_hour": 1.0}, {"max_price": 1.0}, None, "", None),
        (
            {"usd_per_hour": 60.0},
            {"max_cost": 5.0, "nodes": 2},
            "max_cost",
            "spends $5.00 on 2 in 2.5 min, before it is prepared",
            15.0,
        ),
    ],
)
def test_an_offer_is_refused_for_the_first_wish_it_fails_and_by_how_much(
    machine: dict[str, Any],
    wishes: dict[str, Any],
    constraint: str | None,
    detail: str,
    short_by: float | None,
) -> None:
    plan = plan_of(offer(**machine), **wishes)

    if constraint is None:
        assert plan.refused == ()
    else:
        (refusal,) = plan.refused
        assert (refusal.constraint, refusal.detail) == (constraint, detail)
        assert refusal.short_by == (None if short_by is None else pytest.approx(short_by))


def test_the_first_failed_wish_is_the_one_told() -> None:
    assert refusal_of(offer(), cpu=Range(8), max_price=0.5)[0] == "cpu"
    assert refusal_of(offer(), regions=("south",), max_price=0.5)[0] == "region"


def test_wishes_are_looked_at_in_the_documented_order() -> None:
    assert [name for name, _ in CONSTRAINTS] == [
        "provider", "accelerator", "fraction", "accelerator_count", "accelerator_memory", "mig", "machine",
        "architecture", "cpu", "memory", "disk", "region", "zone", "allocation", "availability",
        "min_reliability", "quality", "price", "max_price", "max_cost",
    ]  # fmt: skip


def test_an_unknown_price_is_never_free() -> None:
    known, unknown, zero = offer(usd_per_hour=9.0), offer(usd_per_hour=None), offer(usd_per_hour=0.0)

    assert plan_of(unknown, zero, known).chosen is known
    assert plan_of(unknown, zero, known, strategy=Cheapest()).ranked == (known,)
    assert plan_of(unknown).usd_per_hour is None


def test_a_slice_satisfies_only_who_asks_for_one() -> None:
    slice_, whole = (offer(accelerator="L4", accelerator_count=count) for count in (0.25, 1.0))

    assert plan_of(slice_, whole, accelerator=Accelerator("L4")).ranked == (whole,)
    assert plan_of(slice_, whole, accelerator=Accelerator("L4:0.25")).ranked == (slice_, whole)
    assert plan_of(slice_, whole, total_accelerators=1.0).ranked == (whole,)


def test_eight_per_node_and_eight_in_all_are_different_questions() -> None:
    one, eight = (
        offer(accelerator="H100-SXM", accelerator_count=count, usd_per_hour=price)
        for count, price in ((1.0, 2.0), (8.0, 20.0))
    )

    per_node = plan_of(one, eight, accelerator=Accelerator("H100:8"))
    in_all = plan_of(one, eight, accelerator=Accelerator("H100"), total_accelerators=8.0, strategy=Cheapest())

    assert (per_node.chosen, per_node.nodes, per_node.usd_per_hour) == (eight, 1, 20.0)
    assert (in_all.chosen, in_all.nodes, in_all.usd_per_hour) == (one, 8, 16.0)
    assert in_all.rate(eight) == 20.0


def test_slices_add_up_to_a_whole_number_of_nodes() -> None:
    slice_ = offer(accelerator="L4", accelerator_count=0.1)

    assert Requirements(total_accelerators=0.3).nodes_of(slice_) == 3


# -- allocation -------------------------------------------------------------------------------------------------------


def test_a_share_of_spot_is_launched_with_its_on_demand_counterpart() -> None:
    spot, firm = offer(pricing="spot", usd_per_hour=0.3), offer(usd_per_hour=1.0)

    plan = plan_of(firm, spot, nodes=4, allocation=0.75)

    assert plan.ranked == (spot, firm)
    assert plan.machines(spot) == ((spot, 3), (firm, 1))
    assert plan.machines(firm) == ((firm, 4),)
    assert plan.usd_per_hour == 1.9


def test_a_share_of_spot_needs_a_machine_that_is_sold_both_ways() -> None:
    lonely = offer(pricing="spot", usd_per_hour=0.1, region="south")

    constraint, detail, _ = refusal_of(lonely, nodes=2, allocation=0.5)

    assert (constraint, detail) == (
        "allocation",
        "has no on-demand counterpart in south for a 0.5 share of spot",
    )


def test_a_share_of_spot_is_ranked_by_the_price_of_the_mixture() -> None:
    def machine(name: str, pricing: str, price: float) -> Offer:
        return offer(instance_type=name, pricing=pricing, usd_per_hour=price)

    market = [machine("a", "spot", 1.0), machine("a", "on-demand", 9.0), machine("b", "spot", 2.0)]
    market.append(machine("b", "on-demand", 3.0))

    plan = plan_of(*market, nodes=2, allocation=0.5, strategy=Cheapest())

    assert plan.chosen is market[2]
    assert plan.usd_per_hour == 5.0


@pytest.mark.parametrize(
    ("share", "nodes", "spot"), [(0.0, 3, 0), (1.0, 3, 3), (0.5, 1, 1), (0.5, 3, 2), (0.1, 2, 0)]
)
def test_a_share_of_spot_is_rounded_to_whole_machines(share: float, nodes: int, spot: int) -> None:
    market = (offer(), offer(pricing="spot"))

    plan = plan_of(*market, nodes=nodes, allocation=share)

    assert plan.chosen is not None
    counts = {machine.pricing: count for machine, count in plan.machines(plan.chosen)}
    assert counts.get("spot", 0) == spot


def test_spot_if_available_falls_back_to_the_same_machine_on_demand() -> None:
    spot, firm, other = (
        offer(pricing="spot", usd_per_hour=0.3),
        offer(),
        offer(instance_type="m2", usd_per_hour=0.5),
    )

    plan = plan_of(firm, spot, other)

    assert plan.ranked == (spot, other, firm)
    assert plan.counterpart(spot) is firm
    assert plan.counterpart(other) is None


@pytest.mark.parametrize("value", ["0.5", 0.5])
def test_a_share_may_be_written_as_text(value: Any) -> None:
    assert parse_allocation(value) == 0.5


@pytest.mark.parametrize("value", ["sometimes", "1.5", -0.1, True, None, float("nan"), "nan"])
def test_an_allocation_nobody_knows_is_refused_with_the_known_ones(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"unknown allocation .*spot-if-available"):
        parse_allocation(value)


# -- the user's own machines ----------------------------------------------------------------------------------------


def test_the_users_own_machines_cost_nothing_and_win() -> None:
    mine = offer(provider="ssh", usd_per_hour=0.0, is_owned=True)

    plan = plan_of(offer(usd_per_hour=0.01), mine, strategy=Cheapest(), max_price=1.0)

    assert plan.chosen is mine
    assert plan.usd_per_hour == 0.0


def test_what_is_not_known_of_the_users_own_machines_is_taken_on_trust() -> None:
    unknown = offer(provider="ssh", vcpus=0.0, memory_gib=0.0, usd_per_hour=0.0, is_owned=True)
    known = offer(provider="local", vcpus=2.0, usd_per_hour=0.0, is_owned=True)

    plan = plan_of(unknown, known, accelerator=Accelerator("A100"), cpu=Range(8), allocation="spot")

    assert plan.ranked == (unknown,)
    assert plan.refused[0].constraint == "accelerator"


# -- strategies ----------------------------------------------------------------------------------------------------------


class Careless(Strategy):
    name = "careless"

    def __init__(self, change: Any) -> None:
        self.change = change

    def rank(self, offers: Sequence[Offer], requirements: Requirements) -> Sequence[Offer]:
        return self.change(list(offers))


@pytest.mark.parametrize("change", [lambda o: o[:1], lambda o: o + o[:1], lambda o: [offer(), *o[1:]]])
def test_a_strategy_that_loses_doubles_or_invents_offers_is_found_out(change: Any) -> None:
    with pytest.raises(PluginError, match="strategy 'careless'"):
        plan_of(offer(), offer(region="south"), strategy=Careless(change))


def test_a_bound_is_capped_by_the_lifetime_and_the_budget() -> None:
    plan = plan_of(offer(usd_per_hour=2.0), nodes=3, max_lifetime_s=7200.0)

    assert cost_bound(plan, 3600.0) == 6.0
    assert cost_bound(plan, 36000.0) == 12.0
    assert cost_bound(plan_of(offer(usd_per_hour=2.0), max_cost=3.0), 36000.0) == 3.0
    assert cost_bound(plan_of(offer(usd_per_hour=None)), 3600.0) is None
