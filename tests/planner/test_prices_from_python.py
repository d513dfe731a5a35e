"""`sky.offers`, `sky.cheapest` and `sky.plan`: the catalog from Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from bundles import catalog_of
from market import offer

import skyward as sky
from skyward import plugins as loaded
from skyward.catalog import store
from skyward.errors import AcceleratorError, ConfigError, NoOfferError, QueryError, UsageError
from skyward.model.accelerator import set_registry

H100 = offer(provider="aws", region="us-east-1", instance_type="h1", accelerator="H100-SXM", usd_per_hour=4.0)
MARKET = [
    H100,
    replace(H100, pricing="spot", usd_per_hour=1.5),
    replace(H100, instance_type="h8", accelerator_count=8.0, usd_per_hour=24.0),
    replace(H100, provider="verda", region="FIN-01", usd_per_hour=2.0),
    replace(H100, provider="verda", region="FIN-02", usd_per_hour=None),
    replace(H100, provider="vastai", region="anywhere", usd_per_hour=1.0, quality="indicative"),
]


@pytest.fixture
def market(tmp_path: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A catalog of six offers, whoever opens one."""
    with catalog_of(MARKET, tmp_path) as made:
        bundle = made.bundled
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store.files, "bundled_directory", lambda: bundle)
    monkeypatch.setattr(loaded, "_current", None)
    monkeypatch.setattr(loaded, "_is_loaded", False)
    yield
    set_registry(None)


def test_offers_are_values_in_the_order_of_their_price(market: None) -> None:
    found = sky.offers(accelerator="H100")

    assert [o.usd_per_hour for o in found] == [1.0, 1.5, 2.0, 4.0, 24.0, None]
    assert found[0].quality == "indicative"
    assert (len(found), found.total) == (6, 6)


def test_offers_are_a_table_for_everything_else(market: None) -> None:
    found = sky.offers("H100:8")

    assert found.to_arrow().column("instance_type").to_pylist() == ["h8"]
    assert found.dicts()[0]["usd_per_gpu_hour"] == 3.0
    assert "<td>h8</td>" in found._repr_html_()
    assert repr(found) == "<1 of 1 offers, first aws h8 us-east-1 $24/h>"


def test_offers_take_the_wishes_of_a_pool(market: None) -> None:
    assert [o.instance_type for o in sky.offers(provider="aws", allocation="on-demand", sort="-price")] == [
        "h8",
        "h1",
    ]
    assert len(sky.offers(region="FIN-01", max_price=3)) == 1
    assert len(sky.offers(accelerator="H100", limit=2)) == 2
    assert repr(sky.offers(cpu=1000)) == "<no offers>"


def test_the_cheapest_is_never_indicative_or_unknown(market: None) -> None:
    (best,) = sky.cheapest(accelerator="H100")

    assert (best.provider, best.pricing, best.usd_per_hour) == ("aws", "spot", 1.5)
    assert [o.usd_per_hour for o in sky.cheapest("H100", n=9)] == [1.5, 2.0, 4.0, 24.0]
    assert sky.cheapest("H100", per="gpu", allocation="on-demand", provider="aws")[0].instance_type == "h8"


def test_nothing_says_what_to_relax(market: None) -> None:
    with pytest.raises(NoOfferError) as caught:
        sky.cheapest("H100", max_price=1.2)

    assert caught.value.hints == ("relax one: --max-price 1.50",)


def test_a_plan_is_a_value_with_its_refusals(market: None) -> None:
    plan = sky.plan(accelerator="H100", nodes=2, max_price=3)

    assert plan.chosen is not None
    assert (plan.chosen.instance_type, plan.usd_per_hour) == ("h1", 3.0)
    assert {r.constraint for r in plan.refused} == {"max_price", "price", "quality"}
    table = plan.to_arrow()
    assert table.column("status").to_pylist()[:2] == ["chosen", "fallback"]
    assert table.num_rows == 6
    assert "chosen" in plan._repr_html_()


def test_a_plan_of_several_providers_ranks_by_the_selection(market: None) -> None:
    first = sky.plan(provider=["verda", "aws"], accelerator="H100", allocation="on-demand")
    cheapest = sky.plan(
        provider=["aws", "verda"], accelerator="H100", selection="cheapest", allocation="on-demand"
    )
    chosen = sky.plan(
        provider=["aws", "verda"], accelerator="H100", selection=lambda providers, spec: providers[1]
    )

    assert [plan.ranked[0].provider for plan in (first, cheapest, chosen)] == ["verda"] * 3
    assert cheapest.strategy == "cheapest"


def test_a_region_in_a_providers_own_value_binds_that_provider(market: None) -> None:
    plan = sky.plan(
        provider=[sky.AWS(region="us-east-1"), "verda"], accelerator="H100", allocation="on-demand"
    )

    assert {o.region for o in plan.ranked} == {"us-east-1", "FIN-01", "FIN-02"}
    assert sky.plan(provider=sky.AWS(region="eu-west-1"), accelerator="H100").chosen is None


def test_a_plan_without_a_choice_is_returned(market: None) -> None:
    plan = sky.plan(accelerator="H100", max_price=0.1)

    assert plan.chosen is None
    assert plan.usd_per_hour is None


def test_bad_input_is_refused_as_on_the_command_line(market: None) -> None:
    with pytest.raises(AcceleratorError, match="H1000"):
        sky.offers(accelerator="H1000")
    with pytest.raises(QueryError, match="prise"):
        sky.offers(sort="prise")
    with pytest.raises(QueryError, match="FIN-09"):
        sky.cheapest(region="FIN-09")
    with pytest.raises(UsageError):
        sky.offers(provider="nobody")
    with pytest.raises(ConfigError, match="per="):
        sky.cheapest("H100", per="rack")
    with pytest.raises(ConfigError, match="memmory"):
        sky.plan(memmory=3)
