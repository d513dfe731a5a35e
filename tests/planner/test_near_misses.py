"""A plan made of near misses ranks, counts and advises like one made of everything."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundles import catalog_of
from hypothesis import HealthCheck, given, settings
from market import ACCELERATORS, MEMORY, REGIONS, offer, requirements

from skyward.advice import funnel, relaxations
from skyward.api import misses
from skyward.api.prices import plan_from_catalog
from skyward.catalog.store import Catalog
from skyward.errors import QueryError, StalePricesError
from skyward.model.accelerator import Accelerator
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range
from skyward.plugins import Plugins


def a_market(size: int = 400) -> list[Offer]:
    """The same machines every time: what is sold where, both ways, with some prices missing."""
    chance = random.Random(7)
    found = []
    for number in range(size):
        name = chance.choice(ACCELERATORS)
        count = chance.choice((0.125, 0.5, 1.0, 2.0, 8.0)) if name else 0.0
        region = chance.choice(REGIONS)
        base = round(chance.uniform(0.5, 3.0) * (count or 0.3), 3)
        machine = offer(
            provider=chance.choice(("aws", "verda", "vastai")),
            region=region,
            instance_type=f"m{number}",
            vcpus=chance.choice((1.0, 4.0, 16.0, 64.0)),
            memory_gib=chance.choice((1.0, 8.0, 64.0)),
            disk_gb=chance.choice((None, 10.0, 100.0)),
            architecture=chance.choice(("x86_64", "arm64")),
            accelerator=name,
            accelerator_count=count,
            accelerator_memory_gib=MEMORY.get(name or ""),
            availability=chance.choice(("available", "listed", "none")),
            usd_per_hour=chance.choice((base, base, None)),
        )
        found += [
            machine,
            replace(machine, pricing="spot", usd_per_hour=chance.choice((None, round(base / 3, 3)))),
        ]
    return found


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with catalog_of(a_market(), tmp_path_factory.mktemp("catalog")) as opened:
        yield opened


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins().load(environ={"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"})


@pytest.fixture(scope="module")
def all_of_them() -> Iterator[None]:
    """No near miss is left out for being one too many."""
    before, misses.PER_WISH = misses.PER_WISH, 10_000
    yield
    misses.PER_WISH = before


def plan_of(catalog: Catalog, plugins: Plugins, wants: Requirements, **how: Any) -> Plan:
    return plan_from_catalog(wants, "cheapest", plugins=plugins, catalog=catalog, **how)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wants=requirements())
def test_near_misses_rank_count_and_advise_like_everything(
    catalog: Catalog, plugins: Plugins, all_of_them: None, wants: Requirements
) -> None:
    wants = replace(wants, machine=None, zones=())
    full = plan_of(catalog, plugins, wants, everything=True)
    near = plan_of(catalog, plugins, wants, explain=True)
    quick = plan_of(catalog, plugins, wants)

    assert near.ranked == full.ranked == quick.ranked
    assert [(s.constraint, s.refused) for s in funnel(near)] == [
        (s.constraint, s.refused) for s in funnel(full)
    ]
    assert [str(r) for r in relaxations(near)] == [str(r) for r in relaxations(full)]
    assert near.considered == full.considered


def test_most_of_the_catalog_is_only_counted(catalog: Catalog, plugins: Plugins) -> None:
    plan = plan_of(catalog, plugins, Requirements(accelerator=Accelerator("L4"), cpu=Range(64)), explain=True)

    assert plan.unlisted["accelerator"] > len(plan.refused)
    assert all(r.offer.accelerator == "L4" for r in plan.refused if r.constraint != "accelerator")


def test_near_misses_are_the_nearest_and_the_cheapest(
    catalog: Catalog, plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(misses, "PER_WISH", 3)

    plan = plan_of(catalog, plugins, Requirements(cpu=Range(128)), explain=True)
    full = plan_of(catalog, plugins, Requirements(cpu=Range(128)), everything=True)

    assert 3 <= len(plan.refused) <= 6
    assert plan.unlisted == {"cpu": plan.considered - len(plan.refused)}
    assert [str(r) for r in relaxations(plan)] == [str(r) for r in relaxations(full)]


def test_when_nothing_fits_the_quick_plan_explains_itself(catalog: Catalog, plugins: Plugins) -> None:
    plan = plan_of(catalog, plugins, Requirements(cpu=Range(1000)))

    assert plan.chosen is None
    assert [stage.constraint for stage in funnel(plan)] == ["cpu"]
    assert str(relaxations(plan)[0]).startswith("--cpu 64 (from $")


def test_plugins_may_forbid_tax_and_prefer_offers(catalog: Catalog) -> None:
    from skyward import hookimpl

    class Policy:
        @hookimpl
        def skyward_modify_offers(self, offers: list[Offer], requirements: Requirements) -> None:
            offers[:] = [
                replace(o, usd_per_hour=(o.usd_per_hour or 0) + 50) if o.provider == "aws" else o
                for o in offers
                if o.provider != "verda"
            ]

    plugins = Plugins().load(environ={"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"})
    plugins.register(Policy())

    plan = plan_of(catalog, plugins, Requirements(accelerator=Accelerator("L4")))

    assert {o.provider for o in plan.ranked} == {"aws", "vastai"}
    assert plan.chosen is not None
    assert plan.chosen.provider == "vastai"


def test_the_users_own_machines_are_planned_beside_the_catalog(catalog: Catalog, plugins: Plugins) -> None:
    mine = offer(provider="ssh", usd_per_hour=0.0, vcpus=0.0)

    plan = plan_of(catalog, plugins, Requirements(accelerator=Accelerator("L4")), also=[mine])

    assert plan.chosen is not None
    assert (plan.chosen.provider, plan.usd_per_hour) == ("ssh", 0.0)


def test_a_region_nobody_has_is_refused_with_the_nearest(catalog: Catalog, plugins: Plugins) -> None:
    for how in ({}, {"explain": True}, {"everything": True}):
        with pytest.raises(QueryError, match="'nort'"):
            plan_of(catalog, plugins, Requirements(regions=("nort",)), **how)


def test_prices_that_are_too_old_are_refused(catalog: Catalog, plugins: Plugins) -> None:
    for how in ({}, {"explain": True}, {"everything": True}):
        with pytest.raises(StalePricesError):
            plan_of(catalog, plugins, Requirements(cpu=Range(4)), max_age_s=1.0, **how)


def test_two_catalogs_of_the_same_offers_give_the_same_plan(tmp_path: Path, plugins: Plugins) -> None:
    market = a_market(60)
    plans = []
    for number, offers in enumerate((market, market[::-1])):
        with catalog_of(offers, tmp_path / str(number)) as catalog:
            plans.append(plan_of(catalog, plugins, Requirements(cpu=Range(4)), explain=True))

    assert plans[0] == plans[1]
