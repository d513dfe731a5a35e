"""A plan in words: the funnel, the nearest miss, and what giving up one wish would bring."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from market import markets, offer, requirements

from skyward.advice import (
    _EASINGS,
    change_in_words,
    funnel,
    funnel_in_words,
    no_offer,
    relaxations,
    wish_in_words,
)
from skyward.builtin.strategies import Cheapest, First
from skyward.errors import ExitCode
from skyward.model.accelerator import Accelerator
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range
from skyward.planner import CONSTRAINTS, make_plan


def h200(**changes: Any) -> Offer:
    return offer(**{"accelerator": "H200-SXM", "provider": "verda", "usd_per_hour": 2.9, **changes})


MARKET = [
    h200(region="FIN-01"),
    h200(region="FIN-02", usd_per_hour=2.61),
    h200(region="FIN-02", usd_per_hour=None, instance_type="m2"),
    offer(accelerator="H100-SXM", usd_per_hour=1.617),
    offer(accelerator="L4", usd_per_hour=0.8),
    offer(usd_per_hour=0.1),
]


def plan_of(*market: Offer, **wishes: Any) -> Plan:
    return make_plan(Requirements(**wishes), market or MARKET, First())


def told(*market: Offer, **wishes: Any) -> str:
    return funnel_in_words(plan_of(*market, **wishes))


def options(*market: Offer, **wishes: Any) -> list[str]:
    return [str(relaxation) for relaxation in relaxations(plan_of(*market, **wishes))]


def test_the_funnel_counts_what_each_wish_left() -> None:
    plan = plan_of(accelerator=Accelerator("H200"), regions=("FIN-02",), max_price=3.0)

    assert [(stage.constraint, stage.refused, stage.left) for stage in funnel(plan)] == [
        ("accelerator", 3, 3),
        ("region", 1, 2),
        ("price", 1, 1),
    ]


@settings(max_examples=100)
@given(requirements(), markets)
def test_the_funnel_adds_up(wants: Requirements, market: list[Offer]) -> None:
    plan = make_plan(wants, market, Cheapest())
    stages = funnel(plan)

    assert sum(stage.refused for stage in stages) + len(plan.ranked) == len(market)
    assert all(stage.refused > 0 for stage in stages)
    assert not stages or stages[-1].left == len(plan.ranked)
    assert funnel_in_words(plan)


def test_the_funnel_reads_as_a_sentence() -> None:
    assert told(accelerator=Accelerator("H200"), regions=("FIN-01",), max_price=1.0) == (
        "3 offers have an H200; 1 is in FIN-01; the cheapest of those is $2.90/h, over $1.00"
    )
    assert told(accelerator=Accelerator("H200"), regions=("ICE-01",)) == (
        "3 offers have an H200; none of those is in ICE-01 (they are in FIN-02, FIN-01)"
    )
    assert told(accelerator=Accelerator("TPU-v4")) == "no offer has a TPU-v4"
    assert told(cpu=Range(64)) == "the nearest has 4 vCPUs, needs at least 64"
    assert funnel_in_words(make_plan(Requirements(), [], First())) == "the catalog has no offers"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("H200", "have an H200"),
        ("A100", "have an A100"),
        ("T4", "have a T4"),
        ("RTX 4090", "have an RTX-4090"),
        ("Gaudi2", "have a Gaudi2"),
        ("Inferentia2", "have an Inferentia2"),
        ("MI300X", "have an MI300X"),
        ("nvidia", "have an nvidia accelerator"),
        ("24GB..80GB", "have a GPU with 24GB..80GB"),
    ],
)
def test_an_accelerator_has_the_article_it_is_read_with(spec: str, words: str) -> None:
    assert wish_in_words("accelerator", Requirements(accelerator=Accelerator(spec))) == words


def test_every_constraint_has_words() -> None:
    wants = Requirements(
        accelerator=Accelerator("A100:2:1g.10gb"),
        cpu=Range(2, 4),
        memory_gib=Range(None, 64),
        disk_gb=Range(100),
        machine="m1",
        architecture="arm64",
        regions=("north", "south"),
        zones=("north-1a",),
        providers=("aws",),
        min_reliability=0.9,
        max_price=2.0,
        max_cost=3.0,
    )

    assert [wish_in_words(name, wants) for name, _ in CONSTRAINTS] == [
        "are from aws",
        "have an A100",
        "are whole accelerators",
        "have at least 2 of them",
        "have the memory in their slice",
        "have MIG profile 1g.10gb",
        "are m1",
        "are arm64",
        "have 2 to 4 vCPUs",
        "have at most 64GB of memory",
        "have at least 100GB of disk",
        "are in north or south",
        "are in north-1a",
        "are sold without a reservation",
        "are not sold out",
        "are at least 0.9 reliable",
        "are offers that can be launched",
        "have a known price",
        "cost at most $2.00/h",
        "are payable within $3.00",
    ]


# -- relaxations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"accelerator": Accelerator("H200"), "max_price": 1.0}, ["--max-price 2.61"]),
        ({"accelerator": Accelerator("H200"), "regions": ("ICE-01",)}, ["--region FIN-02 (from $2.61/h)"]),
        ({"accelerator": Accelerator("H200:2")}, ["--accelerator H200-SXM (from $2.61/h)"]),
        ({"accelerator": Accelerator("H200"), "providers": ("aws",)},
         ["--provider verda (from $2.61/h)", "--accelerator H100-SXM (from $1.62/h)"]),
        ({"cpu": Range(8)}, ["--cpu 4 (from $0.10/h)"]),
        ({"cpu": Range(1, 2)}, ["--cpu 1..4 (from $0.10/h)"]),
        ({"memory_gib": Range(64)}, ["--memory 16GB (from $0.10/h)"]),
        ({"architecture": "arm64"}, ["--architecture x86_64 (from $0.10/h)"]),
        ({"accelerator": Accelerator("H100"), "allocation": "spot"}, ["--allocation on-demand (from $1.62/h)"]),
        ({"accelerator": Accelerator("H100"), "max_cost": 0.2}, ["--max-cost 0.27 (from $1.62/h)"]),
        ({"accelerator": Accelerator("H200"), "regions": ("ICE-01",), "max_price": 1.0},
         ["--region FIN-02 --max-price 2.61"]),
        ({"accelerator": Accelerator("TPU-v4")}, []),
    ],
)  # fmt: skip
def test_relaxing_says_the_option_and_the_price_it_brings(
    wishes: dict[str, Any], expected: list[str]
) -> None:
    assert options(**wishes) == expected


def test_another_accelerator_is_suggested_only_when_it_is_akin() -> None:
    assert options(offer(accelerator="A100-80GB"), accelerator=Accelerator("A100-40GB")) == [
        "--accelerator A100-80GB (from $1.00/h)"
    ]
    assert options(offer(accelerator="L4"), accelerator=Accelerator("A100-40GB")) == []


def test_with_a_choice_only_what_is_cheaper_is_suggested() -> None:
    near, far = offer(usd_per_hour=1.0), offer(region="south", usd_per_hour=0.4)
    dear = offer(region="south", usd_per_hour=3.0)

    assert options(near, far, regions=("north",)) == ["--region south (from $0.40/h)"]
    assert options(near, dear, regions=("north",)) == []


@settings(max_examples=150)
@given(requirements(), markets)
def test_a_suggested_offer_fits_once_its_wish_is_given_up(wants: Requirements, market: list[Offer]) -> None:
    plan = make_plan(wants, market, Cheapest())
    easings = {easing.constraints[0]: easing for easing in _EASINGS}

    for relaxation in relaxations(plan):
        from dataclasses import replace

        eased = easings[relaxation.constraint].without(plan.requirements)
        if "--max-price" in relaxation.change:
            eased = replace(eased, max_price=None)
        ranked = make_plan(eased, market, First()).ranked
        assert any(offer is relaxation.offer for offer in ranked)
        assert not any(offer is relaxation.offer for offer in plan.ranked)


def test_the_error_for_nothing_has_the_funnel_as_cause_and_the_options_as_hint() -> None:
    error = no_offer(plan_of(accelerator=Accelerator("H200"), max_price=1.0))

    assert error.message == "no offer fits"
    assert error.facts == (
        "3 offers have an H200; 2 have a known price; the cheapest of those is $2.61/h, over $1.00",
    )
    assert error.hints == ("relax one: --max-price 2.61",)
    assert (error.code, error.exit_code) == ("SKW210", ExitCode.NO_COMPUTE)


def test_a_suggested_price_is_high_enough() -> None:
    wants = Requirements(max_price=0.1)

    assert change_in_words("max_price", wants, offer(usd_per_hour=2.3734)) == "--max-price 2.38"
    assert change_in_words("max_price", wants, offer(usd_per_hour=2.37)) == "--max-price 2.37"


def test_a_wish_without_an_option_has_no_change() -> None:
    assert change_in_words("quality", Requirements(), offer()) is None
