"""The SQL of a question against plain Python over the same rows, and what a question may not be."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from catalog_rows import DAY, bundle, offer

from skyward.catalog.query import (
    KEY_COLUMNS,
    OFFER_COLUMNS,
    OfferQuery,
    accelerator_fields,
    build_sql,
    clauses,
    of_requirements,
    pricing_of,
)
from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.errors import QueryError
from skyward.model.accelerator import Accelerator, default_registry
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range

# -- a reference in plain Python -------------------------------------------------------------------------------

Row = dict[str, Any]


def within(value: float | None, wish: Range | None) -> bool:
    return wish is None or (value is not None and value in wish)


def wants_accelerator(query: OfferQuery) -> bool:
    return (
        query.accelerators is not None
        or query.accelerator_memory_gib is not None
        or query.total_accelerators is not None
        or bool(query.accelerator_count and query.accelerator_count.low)
        or query.has_accelerator is True
    )


def zone_fits(row: Row, zone: str) -> bool:
    named_after = zone[:-1] if zone[-1:].isalpha() and zone[-2:-1].isdigit() else None
    return (
        row["zone"] == zone
        or zone in (row["zones"] or ())
        or (row["zone"] is None and row["region"] == named_after)
    )


def fits(row: Row, query: OfferQuery) -> bool:
    count, memory, price = row["accelerator_count"], row["accelerator_memory_gib"], row["usd_per_hour"]
    slice_gib = None if memory is None else memory * min(count, 1)
    return all(
        (
            not query.providers or row["provider"] in query.providers,
            not query.regions or row["region"] in query.regions,
            not query.zones or any(zone_fits(row, zone) for zone in query.zones),
            query.accelerators is None or row["accelerator"] in query.accelerators,
            not wants_accelerator(query) or row["accelerator"] is not None,
            not wants_accelerator(query) or query.fractions or count >= 1,
            query.has_accelerator is not False or row["accelerator"] is None,
            within(count, query.accelerator_count),
            within(slice_gib, query.accelerator_memory_gib),
            within(row["vcpus"], query.vcpus),
            within(row["memory_gib"], query.memory_gib),
            row["disk_gb"] is None or within(row["disk_gb"], query.disk_gb),
            query.architecture is None or row["architecture"] == query.architecture,
            query.machine is None or row["instance_type"] == query.machine,
            not query.pricing or row["pricing"] in query.pricing,
            query.max_price is None or (price is not None and price <= query.max_price),
            query.min_reliability is None
            or row["reliability"] is None
            or row["reliability"] >= query.min_reliability,
            not query.availability or row["availability"] in query.availability,
            query.include_indicative or row["quality"] != "indicative",
            query.include_unpriced or price is not None,
        )
    )


def computed(row: Row, query: OfferQuery) -> Row:
    total = row["accelerator_count"] * (row["accelerator_memory_gib"] or 0) or None
    price = row["usd_per_hour"]
    more: Row = {"total_vram_gib": total, "usd_per_vram_gib_hour": price / total if price and total else None}
    if query.total_accelerators is not None and row["accelerator_count"]:
        more["nodes_needed"] = math.ceil(query.total_accelerators / row["accelerator_count"])
        more["usd_per_hour_total"] = price * more["nodes_needed"] if price else None
    return {**row, **more}


def order(rows: list[Row], keys: tuple[str, ...]) -> list[Row]:
    """Stable sorts from the last key to the first; unknown values last either way."""
    for key in reversed((*keys, "usd_per_hour", *KEY_COLUMNS)):
        name, turned = key.removeprefix("-"), key.startswith("-")
        known = sorted(
            (row for row in rows if row[name] is not None), key=lambda row: row[name], reverse=False
        )
        if turned:
            known = sorted(
                (row for row in rows if row[name] is not None), key=lambda row: row[name], reverse=True
            )
        rows = known + [row for row in rows if row[name] is None]
    return rows


def reference(rows: list[Row], query: OfferQuery) -> list[Row]:
    found = order([computed(row, query) for row in rows if fits(row, query)], query.sort)
    return found[: query.limit] if query.limit else found


# -- random catalogs and questions -----------------------------------------------------------------------------

NAMES = ("H100-SXM", "A100-80GB", "L4", "T4", "Trainium2")


def random_offer(chance: random.Random, number: int) -> Offer:
    name = chance.choice((*NAMES, None, None))
    pricing = chance.choice(("on-demand", "spot", "interruptible", "capacity-block"))
    price = chance.choice((None, round(chance.uniform(0.05, 12), 3), float(chance.randint(1, 9))))
    return offer(
        provider=chance.choice(("aws", "verda", "vastai")),
        region=chance.choice(("us-east-1", "us-west-2", "FIN-01", "US")),
        zone=chance.choice((None, None, "use1-az1", "us-east-1b")),
        zones=chance.choice(((), ("use1-az1", "use1-az2"), ("us-west-2a",))),
        instance_type=f"t{number % 40}",
        pricing=pricing,
        usd_per_hour=price,
        price_floor=chance.choice((None, 0.04)),
        vcpus=float(chance.choice((2, 4, 8, 96))),
        memory_gib=float(chance.choice((4, 16, 64, 1152))),
        disk_gb=chance.choice((None, 100.0, 500.0)),
        architecture=chance.choice(("x86_64", "x86_64", "arm64")),
        accelerator=name,
        accelerator_count=chance.choice((0.125, 0.5, 1.0, 2.0, 4.0, 8.0)) if name else 0.0,
        availability=chance.choice(("available", "listed", "none", "unknown")),
        reliability=chance.choice((None, 0.9, 0.99)),
        quality=chance.choice(("exact", "estimated", "indicative")),
        observed_at=DAY - timedelta(days=chance.randint(0, 40)),
    )


def maybe(chance: random.Random, value: Any, otherwise: Any = None, share: float = 0.3) -> Any:
    return value if chance.random() < share else otherwise


def random_range(chance: random.Random, *values: float) -> Range:
    low, high = sorted(chance.choices(values, k=2))
    return Range(chance.choice((None, low)), chance.choice((None, high)))


def random_query(chance: random.Random) -> OfferQuery:
    total = maybe(chance, float(chance.randint(1, 20)), share=0.15)
    sortable = [
        "usd_per_hour",
        "usd_per_gpu_hour",
        "memory_gib",
        "vcpus",
        "observed_at",
        "usd_per_vram_gib_hour",
    ]
    sortable += ["usd_per_hour_total"] if total else []
    sort = tuple(chance.choice(("", "-")) + name for name in chance.sample(sortable, chance.randint(1, 2)))
    has_accelerator = maybe(
        chance, chance.choice((True, None)) if total else chance.choice((True, False)), share=0.2
    )
    free = has_accelerator is not False
    return OfferQuery(
        providers=maybe(chance, tuple(chance.sample(("aws", "verda", "vastai"), chance.randint(1, 2))), ()),
        regions=maybe(chance, tuple(chance.sample(("us-east-1", "FIN-01", "US"), chance.randint(1, 2))), ()),
        zones=maybe(chance, tuple(chance.sample(("use1-az1", "us-east-1b", "us-west-2a"), 1)), (), 0.15),
        accelerators=maybe(chance, tuple(chance.sample(NAMES, chance.randint(0, 3)))) if free else None,
        accelerator_count=maybe(chance, random_range(chance, 0.125, 1, 2, 8)) if free else None,
        accelerator_memory_gib=maybe(chance, random_range(chance, 3, 12, 24, 80), share=0.15)
        if free
        else None,
        has_accelerator=has_accelerator,
        fractions=chance.random() < 0.4,
        total_accelerators=total if free else None,
        vcpus=maybe(chance, random_range(chance, 2, 4, 96)),
        memory_gib=maybe(chance, random_range(chance, 4, 64, 1152)),
        disk_gb=maybe(chance, random_range(chance, 50, 100, 500)),
        architecture=maybe(chance, "arm64", share=0.1),
        pricing=maybe(chance, pricing_of(chance.choice(("spot", "on-demand", "cheapest", 0.5))), ()),
        max_price=maybe(chance, chance.choice((0.5, 3.0, 9.0))),
        min_reliability=maybe(chance, 0.95),
        availability=maybe(chance, ("available", "listed"), ()),
        include_indicative=chance.random() < 0.5,
        include_unpriced=chance.random() < 0.5,
        sort=sort if free or total is None else ("usd_per_hour",),
        columns=maybe(chance, ("instance_type", *chance.sample(KEY_COLUMNS, 2), "usd_per_vram_gib_hour"), ()),
        limit=chance.choice((0, 0, 1, 5)),
    )


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    home = tmp_path_factory.mktemp("query")
    chance = random.Random(20261101)
    offers = [random_offer(chance, number) for number in range(700)]
    with Catalog(Places.find({"SKYWARD_HOME": str(home)}), bundle(offers, home / "bundle")) as opened:
        yield opened


@pytest.fixture(scope="module")
def rows(catalog: Catalog) -> list[Row]:
    return catalog.rows(OfferQuery()).dicts()


@pytest.mark.parametrize("seed", range(20))
def test_the_sql_and_plain_python_agree_on_random_questions(
    catalog: Catalog, rows: list[Row], seed: int
) -> None:
    chance = random.Random(seed)
    hits = 0
    for _ in range(120):
        query = random_query(chance)

        answered = catalog.rows(query).dicts()

        expected = reference(rows, query)
        assert [row["instance_type"] for row in answered] == [row["instance_type"] for row in expected], query
        names = tuple(answered[0]) if answered else ()
        assert answered == [{name: row[name] for name in names} for row in expected]
        hits += bool(expected)
    assert hits > 40, "the questions are too narrow to prove anything"


@pytest.mark.parametrize("seed", range(4))
def test_what_matches_is_counted_per_provider_and_the_funnel_adds_up(
    catalog: Catalog, rows: list[Row], seed: int
) -> None:
    chance = random.Random(1000 + seed)
    for _ in range(60):
        query = random_query(chance)

        matched, funnel = catalog.matched(query), catalog.funnel(query)

        expected = [row for row in rows if fits(row, query)]
        assert {p.provider: p.rows for p in matched.providers} == Counter(row["provider"] for row in expected)
        assert matched.priced == sum(row["usd_per_hour"] is not None for row in expected)
        assert sum(count for _, count, _ in funnel) == len(rows)
        assert sum(count for name, count, _ in funnel if name is None) == len(expected)
        assert {name for name, _, _ in funnel} <= {clause.name for clause in clauses(query)} | {None}


def test_groups_count_and_price_what_is_in_them(catalog: Catalog, rows: list[Row]) -> None:
    query = OfferQuery(group_by=("gpu", "provider"), include_indicative=False, sort=("-offers",))

    groups = catalog.rows(query).dicts()

    expected = Counter(
        (row["accelerator"], row["provider"]) for row in rows if row["quality"] != "indicative"
    )
    assert {(g["accelerator"], g["provider"]): g["offers"] for g in groups} == expected
    assert [g["offers"] for g in groups] == sorted((g["offers"] for g in groups), reverse=True)
    for group in groups:
        prices = [
            row["usd_per_hour"]
            for row in rows
            if (row["accelerator"], row["provider"]) == (group["accelerator"], group["provider"])
            and row["quality"] != "indicative"
            and row["usd_per_hour"] is not None
        ]
        assert group["min_usd_per_hour"] == (min(prices) if prices else None)
        assert group["priced"] == len(prices)


def test_equal_questions_give_equal_answers_in_equal_order(catalog: Catalog) -> None:
    query = OfferQuery(sort=("architecture",))

    assert catalog.rows(query) == catalog.rows(query)


def test_every_value_of_a_question_travels_as_a_parameter() -> None:
    query = OfferQuery(
        providers=("x'; DROP TABLE offers; --",),
        zones=("z'",),
        machine="m'",
        architecture="a'",
        max_price=1.5,
        vcpus=Range(3, 5),
    )

    sql, parameters = build_sql(query)

    assert "'" not in sql
    assert {"x'; DROP TABLE offers; --", "z'", "m'", "a'", 1.5, 3.0, 5.0} <= set(parameters.values())


def test_an_unknown_price_never_satisfies_a_cap_and_sorts_last(catalog: Catalog) -> None:
    assert None not in catalog.rows(OfferQuery(max_price=10_000)).column("usd_per_hour")
    for sort in ("usd_per_hour", "-usd_per_hour"):
        prices = catalog.rows(OfferQuery(sort=(sort,))).column("usd_per_hour")
        assert None in prices
        assert None not in prices[: prices.index(None)]
        assert set(prices[prices.index(None) :]) == {None}


def test_an_indicative_offer_is_shown_but_not_when_the_answer_may_be_rented(catalog: Catalog) -> None:
    registry = default_registry()

    assert "indicative" in catalog.rows(OfferQuery()).column("quality")
    rentable = of_requirements(Requirements(allocation="cheapest"), registry)
    assert "indicative" not in catalog.rows(rentable).column("quality")


@pytest.mark.parametrize(
    ("spelled", "counts"),
    [("L4", {1.0, 2.0, 4.0, 8.0}), ("L4:0.5", {0.5, 1.0, 2.0, 4.0, 8.0}), ("L4:0.125..0.5", {0.125, 0.5})],
)
def test_a_slice_is_only_given_to_who_asks_for_one(
    catalog: Catalog, spelled: str, counts: set[float]
) -> None:
    fields = accelerator_fields(Accelerator.parse(spelled), default_registry())

    found = catalog.rows(OfferQuery(**fields))

    assert set(found.column("accelerator_count")) == counts
    assert set(found.column("accelerator")) == {"L4"}


def test_a_family_means_every_member_and_eight_means_at_least_eight() -> None:
    fields = accelerator_fields(Accelerator.parse("A100:8"), default_registry())

    assert fields["accelerators"] == ("A100-40GB", "A100-80GB")
    assert fields["accelerator_count"] == Range(8, None)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_price": 0}, "max_price"),
        ({"max_price": -1}, "max_price"),
        ({"max_price": float("nan")}, "max_price"),
        ({"min_reliability": 95}, "min_reliability"),
        ({"limit": -1}, "limit"),
        ({"has_accelerator": False, "accelerators": ("L4",)}, "excluded at once"),
        ({"has_accelerator": False, "accelerator_count": Range(1, None)}, "excluded at once"),
    ],
)
def test_filters_that_contradict_each_other_are_refused_at_once(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(QueryError, match=said) as refused:
        OfferQuery(**fields)

    assert refused.value.code == "SKW150"
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("field", ["sort", "group_by", "columns"])
def test_an_unknown_column_is_refused_with_the_nearest_one(field: str) -> None:
    with pytest.raises(QueryError, match="did you mean 'memory_gib'"):
        build_sql(OfferQuery(**{field: ("memry_gib",)}))


def test_a_grouped_answer_says_what_it_can_be_sorted_by() -> None:
    with pytest.raises(QueryError, match="min_usd_per_hour"):
        build_sql(OfferQuery(group_by=("provider",), sort=("vcpus",)))


@pytest.mark.parametrize(
    ("typed", "meant"), [("price", "usd_per_hour"), ("-vram", "accelerator_memory_gib"), ("vCPUs", "vcpus")]
)
def test_columns_may_be_typed_short(typed: str, meant: str) -> None:
    sql, _ = build_sql(OfferQuery(sort=(typed,)))

    assert f"ORDER BY {meant} " in sql


@pytest.mark.parametrize("allocation", ["sometimes", -0.1, 1.5, True])
def test_an_unknown_allocation_is_refused(allocation: Any) -> None:
    with pytest.raises(QueryError, match="allocation"):
        pricing_of(allocation)


def test_a_share_of_spot_between_none_and_all_allows_both() -> None:
    assert pricing_of(0.0) == ("on-demand",)
    assert pricing_of(1.0) == ("spot", "interruptible")
    assert pricing_of(0.3) == pricing_of("cheapest") == pricing_of("spot-if-available")
    assert "capacity-block" not in pricing_of("cheapest")


def test_a_total_that_no_column_and_no_order_needs_still_means_machines_with_accelerators(
    catalog: Catalog,
) -> None:
    found = catalog.rows(OfferQuery(total_accelerators=8, columns=("provider", "accelerator")))

    assert found.rows
    assert None not in found.column("accelerator")


def test_in_memory_the_answers_are_the_same(catalog: Catalog) -> None:
    chance = random.Random(7)
    with Catalog(catalog.places, catalog.bundled, in_memory=True) as kept:
        for _ in range(100):
            query = random_query(chance)

            assert kept.rows(query) == catalog.rows(query)
            assert kept.matched(query) == catalog.matched(query)


def test_ages_are_those_of_known_prices_where_there_are_any(tmp_path: Path) -> None:
    old = DAY - timedelta(days=30)
    offers = [
        offer(),
        offer(instance_type="m2", usd_per_hour=None, observed_at=old, source="another"),
        offer(provider="zeta", usd_per_hour=None, observed_at=old),
        offer(provider="spotty", pricing="spot"),
    ]
    places = Places.find({"SKYWARD_HOME": str(tmp_path)})
    with Catalog(places, bundle(offers, tmp_path / "bundle")) as catalog:
        acme, spotty, zeta = catalog.matched(OfferQuery()).providers

    assert (acme.rows, acme.priced, acme.oldest, acme.newest) == (2, 1, DAY, DAY)
    assert acme.sources == "another; test"
    assert acme.expires == DAY + timedelta(days=7)
    assert spotty.expires == DAY + timedelta(hours=1)
    assert (zeta.rows, zeta.priced, zeta.oldest) == (1, 0, old)


def test_rows_are_answered_with_the_documented_columns(catalog: Catalog) -> None:
    assert catalog.rows(OfferQuery(limit=1)).columns == OFFER_COLUMNS
    assert catalog.rows(OfferQuery(columns=("provider", "price"), limit=1)).columns == (
        "provider",
        "usd_per_hour",
    )
