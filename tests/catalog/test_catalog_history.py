"""What prices were: as of a day, over time, and between two states."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from catalog_rows import DAY, MakeCatalog, bundle, offer

from skyward.catalog.history import parts
from skyward.catalog.ingest import ingest
from skyward.catalog.query import OfferQuery
from skyward.catalog.refresh import publish
from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.errors import DamagedCatalogError, QueryError
from skyward.model.accelerator import default_registry
from skyward.model.offer import Offer


def day(number: int) -> datetime:
    return datetime(2026, 11, number, 12, tzinfo=UTC)


def refreshed(catalog: Catalog, at: datetime, *offers: Offer) -> int:
    """A refresh at a moment; how many offers it changed."""
    found = ingest(offers, "acme", default_registry(), at)
    return publish(catalog, "acme", found, at, force=True)[2]


def at(moment: datetime, **changes: object) -> Offer:
    return offer(**{"observed_at": moment, **changes})


def prices(catalog: Catalog, moment: datetime) -> dict[str, float]:
    return {
        row["instance_type"]: row["usd_per_hour"] for row in catalog.rows(OfferQuery(as_of=moment)).dicts()
    }


@pytest.fixture
def catalog(make_catalog: MakeCatalog) -> Catalog:
    """m1 moved, m2 went, m3 came; m4 never changed. The snapshot is of the first of the month."""
    opened = make_catalog(
        offer(instance_type="m1", usd_per_hour=0.20), offer(instance_type="m2", usd_per_hour=0.30)
    )
    refreshed(
        opened,
        day(5),
        at(day(5), instance_type="m1", usd_per_hour=0.20),
        at(day(5), instance_type="m2", usd_per_hour=0.30),
        at(day(5), instance_type="m4", usd_per_hour=0.50),
        at(day(5), instance_type="unpriced", usd_per_hour=None),
    )
    refreshed(
        opened,
        day(10),
        at(day(10), instance_type="m1", usd_per_hour=0.25),
        at(day(10), instance_type="m3", usd_per_hour=0.40),
        at(day(10), instance_type="m4", usd_per_hour=0.50),
    )
    return Catalog(opened.places, opened.bundled)


def test_a_day_in_the_past_has_the_prices_of_that_day(catalog: Catalog) -> None:
    assert prices(catalog, day(3)) == {"m1": 0.20, "m2": 0.30}
    assert prices(catalog, day(7)) == {"m1": 0.20, "m2": 0.30, "m4": 0.50}
    assert prices(catalog, day(12)) == {"m1": 0.25, "m3": 0.40, "m4": 0.50}


def test_a_day_before_the_first_price_is_refused_with_the_first_day(catalog: Catalog) -> None:
    with pytest.raises(QueryError, match="the first is of 2026-11-01"):
        catalog.rows(OfferQuery(as_of=DAY - timedelta(days=1)))


def test_only_changes_are_stored(catalog: Catalog) -> None:
    stored = catalog.sql(
        "SELECT instance_type, change, usd_per_hour FROM history ORDER BY observed_at, instance_type"
    )

    assert [tuple(row) for row in stored] == [
        ("m1", "new", 0.20),
        ("m2", "new", 0.30),
        ("m4", "new", 0.50),
        ("m1", "price", 0.25),
        ("m2", "gone", None),
        ("m3", "new", 0.40),
    ]


def test_a_refresh_that_changes_nothing_writes_nothing(catalog: Catalog) -> None:
    before = parts(catalog.places)
    same = [
        at(day(11), instance_type=name, usd_per_hour=price)
        for name, price in (("m1", 0.25), ("m3", 0.40), ("m4", 0.50))
    ]

    assert refreshed(catalog, day(11), *same) == 0
    assert parts(catalog.places) == before


def test_what_went_and_came_back_is_new_again(catalog: Catalog) -> None:
    assert refreshed(catalog, day(15), at(day(15), instance_type="m2", usd_per_hour=0.30)) == 4

    assert prices(catalog, day(16)) == {"m2": 0.30}
    series = catalog.history(OfferQuery(machine=None, regions=()), since=day(9))
    assert [
        (row["change"], row["usd_per_hour"]) for row in series.dicts() if row["instance_type"] == "m2"
    ] == [
        ("held", 0.30),
        ("gone", None),
        ("new", 0.30),
    ]


def test_a_series_starts_with_the_price_that_held(catalog: Catalog) -> None:
    series = catalog.history(OfferQuery(machine="m1"), since=day(8), until=day(20)).dicts()

    assert [(row["observed_at"], row["usd_per_hour"], row["change"]) for row in series] == [
        (day(8), 0.20, "held"),
        (day(10), 0.25, "price"),
    ]


def test_a_series_ends_where_it_is_told_to(catalog: Catalog) -> None:
    series = catalog.history(OfferQuery(machine="m1"), until=day(6)).dicts()

    assert [row["usd_per_hour"] for row in series] == [0.20, 0.20]
    assert [row["source"] for row in series] == ["test", "test"]


def test_the_past_remembers_prices_after_the_files_of_today_are_gone(catalog: Catalog) -> None:
    for path in (catalog.places.cache / "catalog").rglob("*.parquet"):
        path.unlink()

    with Catalog(catalog.places, catalog.bundled) as again:
        assert prices(again, day(12)) == {"m1": 0.25, "m3": 0.40, "m4": 0.50}


@pytest.mark.parametrize("how", ["flip", "cut", "rename", "foreign"])
def test_a_damaged_part_is_left_out_by_name_and_the_rest_is_used(catalog: Catalog, how: str) -> None:
    path = parts(catalog.places)[-1]
    data = path.read_bytes()
    if how == "flip":
        path.write_bytes(data[:200] + bytes([data[200] ^ 4]) + data[201:])
    elif how == "cut":
        path.write_bytes(data[:-20])
    elif how == "rename":
        path = path.rename(path.with_name("part-20261111T000000Z-0000000000000000.parquet"))
    else:
        path.write_bytes(b"PAR1")

    with Catalog(catalog.places, catalog.bundled) as again:
        assert prices(again, day(12)) == {"m1": 0.20, "m2": 0.30, "m4": 0.50}
        assert any(
            str(path) in warning and "left out of the history" in warning for warning in again.warnings
        )


def test_a_diff_shows_what_is_new_gone_and_moved(catalog: Catalog) -> None:
    diff = catalog.diff("bundled", "now")

    assert diff.new.column("instance_type") == ["m3", "m4"]
    assert diff.gone.column("instance_type") == ["m2"]
    assert [(row["instance_type"], row["before"], row["after"]) for row in diff.moved.dicts()] == [
        ("m1", 0.20, 0.25)
    ]
    assert diff.moved.column("percent") == [pytest.approx(25)]


def test_a_diff_takes_days_and_files_too(catalog: Catalog, tmp_path: Path) -> None:
    other = bundle([offer(instance_type="m1", usd_per_hour=0.10)], tmp_path / "other")

    between_days = catalog.diff(day(7), day(12))
    from_a_directory = catalog.diff(other, "now", OfferQuery(machine="m1"))
    from_a_file = catalog.diff(other / "offers.parquet", "live", OfferQuery(machine="m1"))

    assert between_days.gone.column("instance_type") == ["m2"]
    assert between_days.new.column("instance_type") == ["m3"]
    assert from_a_directory.moved.column("before") == from_a_file.moved.column("before") == [0.10]
    assert not from_a_directory.new.rows


def test_a_diff_of_nothing_known_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")

    with pytest.raises(QueryError, match="yesterday"):
        catalog.diff("yesterday", "now")
    with pytest.raises(QueryError, match="no such file"):
        catalog.diff(tmp_path / "nothing.parquet", "now")
    with pytest.raises(DamagedCatalogError, match=r"x\.parquet"):
        catalog.diff(tmp_path / "x.parquet", "now")


def test_live_is_compared_for_refreshed_providers_only(make_catalog: MakeCatalog) -> None:
    opened = make_catalog(offer(usd_per_hour=0.2), offer(provider="other", usd_per_hour=0.3))
    refreshed(opened, day(5), at(day(5), usd_per_hour=0.25))

    with Catalog(opened.places, opened.bundled) as catalog:
        diff = catalog.diff("bundled", "live")

    assert not diff.gone.rows
    assert diff.moved.column("provider") == ["acme"]


def test_the_shipped_history_of_nobody_is_empty(places: Places) -> None:
    assert parts(places) == []
