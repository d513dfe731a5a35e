"""Who comes first: `first`, `cheapest`, `available`, and the user's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from market import offer

from skyward.builtin.strategies import Available, Cheapest, First
from skyward.errors import ConfigError
from skyward.model.plan import Plan
from skyward.model.requirements import Requirements
from skyward.planner import Candidate, ChosenBy, make_plan
from skyward.plugins import Plugins

AWS, AWS_SPOT = offer(usd_per_hour=2.0), offer(usd_per_hour=0.9, pricing="spot")
VERDA = offer(provider="verda", usd_per_hour=1.0)
VAST = offer(provider="vastai", usd_per_hour=0.5, availability="available")
UNKNOWN = offer(provider="vastai", usd_per_hour=None, availability="available")
MARKET = (VERDA, AWS, UNKNOWN, AWS_SPOT, VAST)


def plan_of(strategy: Any, *providers: str, **wishes: Any) -> Plan:
    return make_plan(Requirements(providers=providers, **wishes), MARKET, strategy)


def test_first_keeps_the_order_in_which_providers_were_named() -> None:
    plan = plan_of(First(), "verda", "aws", "vastai")

    assert plan.ranked == (VERDA, AWS_SPOT, AWS, VAST, UNKNOWN)


def test_first_without_providers_is_the_lowest_price() -> None:
    assert plan_of(First()).ranked == (VAST, AWS_SPOT, VERDA, AWS, UNKNOWN)


def test_cheapest_looks_at_prices_alone_and_refuses_unknown_ones() -> None:
    plan = plan_of(Cheapest(), "verda", "aws", "vastai")

    assert plan.ranked == (VAST, AWS_SPOT, VERDA, AWS)
    assert [(r.offer, r.constraint) for r in plan.refused] == [(UNKNOWN, "price")]


def test_available_prefers_what_was_seen_available() -> None:
    plan = plan_of(Available(), "verda", "aws", "vastai")

    assert plan.ranked == (VAST, UNKNOWN, VERDA, AWS_SPOT, AWS)


def test_at_one_price_a_machine_that_stays_comes_before_one_that_may_be_taken_back() -> None:
    spot, firm = offer(pricing="spot"), offer()

    assert make_plan(Requirements(), [spot, firm], Cheapest()).ranked == (firm, spot)


def test_ties_keep_the_order_of_the_catalog() -> None:
    one, other = offer(region="south"), offer(region="north")

    assert make_plan(Requirements(), [one, other], Cheapest()).ranked == (one, other)
    assert make_plan(Requirements(), [other, one], Cheapest()).ranked == (other, one)


def test_the_strategies_are_found_as_plugins() -> None:
    found = Plugins().load(environ={"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"}).strategies()

    assert {name: kind().name for name, kind in found.items()} == {
        "first": "first",
        "cheapest": "cheapest",
        "available": "available",
    }


# -- functions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    region: str | None = None


def prefer_us_east(providers: Sequence[Candidate], spec: Requirements) -> Candidate:
    """The function of the documentation."""
    for provider in providers:
        if hasattr(provider.config, "region") and "us-east" in (provider.config.region or ""):
            return provider
    return providers[0]


def test_a_function_chooses_the_provider_and_the_others_stay_as_fallbacks() -> None:
    configs = {"verda": Config(), "aws": Config("us-east-1"), "vastai": None}

    plan = plan_of(ChosenBy(prefer_us_east, configs), "verda", "aws", "vastai")

    assert plan.ranked == (AWS_SPOT, AWS, VERDA, VAST, UNKNOWN)
    assert plan.strategy == "callable"


def test_a_function_may_look_at_the_offers_that_fit() -> None:
    def least(providers: Sequence[Candidate], spec: Requirements) -> str:
        prices = {
            p.name: min(o.usd_per_hour or 99.0 for o in p.offers(spec)) for p in providers if p.offers(spec)
        }
        return min(prices, key=prices.__getitem__)

    assert plan_of(ChosenBy(least), "verda", "aws", "vastai", max_price=0.8).chosen is VAST


def test_a_function_may_choose_a_provider_without_offers() -> None:
    plan = plan_of(
        ChosenBy(lambda providers, spec: providers[0]), "verda", "aws", regions=("north",), max_price=0.95
    )

    assert plan.ranked == (AWS_SPOT,)


def test_a_function_is_not_asked_when_there_is_nobody_to_choose_from() -> None:
    assert make_plan(Requirements(), [], ChosenBy(lambda providers, spec: providers[0])).ranked == ()


@pytest.mark.parametrize("answer", [None, "digitalocean", 7])
def test_a_function_that_returns_no_provider_is_told_what_it_may_return(answer: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"returned .*: return one of the providers it is given \(verda, aws\)"
    ):
        plan_of(ChosenBy(lambda providers, spec: answer), "verda", "aws")
