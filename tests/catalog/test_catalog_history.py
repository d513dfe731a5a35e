"""What prices were: as of a day, over time, and between two states."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from catalog_rows import DAY, MakeCatalog, bundle, offer

from skyward.catalog.history import backfill, parts
from skyward.catalog.ingest import ingest
from skyward.catalog.query import KEY_COLUMNS, OfferQuery
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
        row["instance_type"]: row["usd_per_hour"]
        for row in catalog.rows(OfferQuery(as_of=moment, include_unpriced=False)).dicts()
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
        ("unpriced", "new", None),
        ("m1", "price", 0.25),
        ("m2", "gone", None),
        ("m3", "new", 0.40),
        ("unpriced", "gone", None),
    ]


def test_the_first_refresh_ends_the_prices_of_the_snapshot_that_it_does_not_list(
    make_catalog: MakeCatalog,
) -> None:
    opened = make_catalog(offer(instance_type="m1"), offer(instance_type="median", quality="indicative"))
    refreshed(opened, day(5), at(day(5), instance_type="m1"))
    refreshed(opened, day(6), at(day(6), instance_type="m1"))

    with Catalog(opened.places, opened.bundled) as catalog:
        series = catalog.history(OfferQuery(machine=None)).dicts()

    assert [(row["observed_at"], row["change"]) for row in series if row["instance_type"] == "median"] == [
        (DAY, "new"),
        (day(5), "gone"),
    ]


def test_what_was_offered_without_a_price_is_remembered_and_is_no_price(catalog: Catalog) -> None:
    then = OfferQuery(as_of=day(7), machine=None)

    assert "unpriced" in catalog.rows(then).column("instance_type")
    assert "unpriced" not in catalog.rows(OfferQuery(as_of=day(12))).column("instance_type")
    assert "unpriced" not in catalog.history(OfferQuery()).column("instance_type")
    for changes in (catalog.diff(day(3), day(7)), catalog.diff(day(7), "now")):
        assert "unpriced" not in (*changes.new.column("instance_type"), *changes.gone.column("instance_type"))


def test_a_price_that_is_no_longer_told_ends_the_series(catalog: Catalog) -> None:
    refreshed(catalog, day(15), at(day(15), instance_type="m1", usd_per_hour=None))
    refreshed(catalog, day(16), at(day(16), instance_type="m1", usd_per_hour=0.35))

    with Catalog(catalog.places, catalog.bundled) as again:
        series = again.history(OfferQuery(machine="m1"), since=day(9)).dicts()
        changes = again.diff(day(12), day(15))

    assert [(row["change"], row["usd_per_hour"]) for row in series] == [
        ("held", 0.20),
        ("price", 0.25),
        ("price", None),
        ("price", 0.35),
    ]
    assert changes.gone.column("instance_type") == ["m1", "m3", "m4"]


def october(number: int) -> datetime:
    return datetime(2026, 10, number, 12, tzinfo=UTC)


NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def autumn(make_catalog: MakeCatalog) -> Catalog:
    """Two refreshes in a month that is over, and none since."""
    opened = make_catalog(at(october(1), instance_type="m1", usd_per_hour=0.10))
    refreshed(opened, october(5), at(october(5), instance_type="m1", usd_per_hour=0.20))
    refreshed(
        opened,
        october(10),
        at(october(10), instance_type="m1", usd_per_hour=0.25),
        at(october(10), instance_type="m2", usd_per_hour=None),
    )
    return Catalog(opened.places, opened.bundled)


def test_of_a_month_that_is_over_one_part_is_left_with_every_row(autumn: Catalog) -> None:
    told = "SELECT * FROM history WHERE observed_at < TIMESTAMP '2026-11-01' ORDER BY ALL"
    before, answers = autumn.sql(told), [prices(autumn, october(number)) for number in range(2, 14)]
    assert len(parts(autumn.places)) == 2

    refreshed(autumn, NOVEMBER, at(NOVEMBER, instance_type="m1", usd_per_hour=0.30))

    month, new = parts(autumn.places)
    assert (month.parent.name, new.parent.name) == ("date=2026-10", "date=2026-11-01")
    assert not (month.parent.parent / "date=2026-10-05").exists()
    with Catalog(autumn.places, autumn.bundled) as again:
        assert again.sql(told) == before
        assert [prices(again, october(number)) for number in range(2, 14)] == answers
        assert not again.warnings
        assert all(finding.ok for finding in again.verify())


def test_a_compaction_that_was_cut_short_loses_and_doubles_nothing(
    autumn: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [prices(autumn, october(number)) for number in range(2, 14)]
    series = autumn.history(OfferQuery())
    with monkeypatch.context() as power:
        power.setattr("skyward.catalog.history._remove", lambda path: (_ for _ in ()).throw(OSError("off")))
        with pytest.raises(OSError, match="off"):
            refreshed(autumn, NOVEMBER, at(NOVEMBER, instance_type="m1", usd_per_hour=0.30))
    assert len(parts(autumn.places)) == 4

    with Catalog(autumn.places, autumn.bundled) as again:
        assert [prices(again, october(number)) for number in range(2, 14)] == answers
        assert again.history(OfferQuery(), until=october(20)) == series
        refreshed(again, NOVEMBER, at(NOVEMBER, instance_type="m1", usd_per_hour=0.30))
        assert len(parts(again.places)) == 2


def test_a_month_with_a_damaged_part_stays_as_it_is(autumn: Catalog) -> None:
    parts(autumn.places)[0].write_bytes(b"PAR1")

    refreshed(autumn, NOVEMBER, at(NOVEMBER, instance_type="m1", usd_per_hour=0.30))

    assert len(parts(autumn.places)) == 3


def filled(catalog: Catalog, *past: Offer) -> int:
    key = (*KEY_COLUMNS, "observed_at")
    found = ingest(past, "acme", default_registry(), day(13), key=key)
    return backfill(catalog, "acme", found.table(), day(13))


def test_what_a_cloud_remembers_comes_before_what_we_do(catalog: Catalog) -> None:
    m1 = [(october(1), 0.10), (october(2), 0.10), (october(20), 0.15), (day(11), 9.0)]
    past = [at(moment, instance_type="m1", usd_per_hour=price) for moment, price in m1]
    past += [
        at(moment, instance_type="m9", usd_per_hour=price)
        for moment, price in ((october(20), 0.90), (day(3), 0.95))
    ]

    assert filled(catalog, *past) == 4, "neither what did not change nor what we knew better"
    assert filled(catalog, *past) == 0, "asked again, nothing is new"

    with Catalog(catalog.places, catalog.bundled) as again:
        series = again.history(OfferQuery(machine="m1"), since=october(1), until=day(12)).dicts()
        assert prices(again, october(15)) == {"m1": 0.10}
        assert prices(again, october(25)) == {"m1": 0.15, "m9": 0.90}
        assert prices(again, day(4)) == {"m1": 0.20, "m2": 0.30, "m9": 0.95}, (
            "the snapshot speaks of the rest"
        )
        assert all(finding.ok for finding in again.verify())
    assert [(row["change"], row["usd_per_hour"]) for row in series][:2] == [("past", 0.10), ("past", 0.15)]


def test_a_past_price_that_makes_no_sense_is_left_out(catalog: Catalog) -> None:
    sound, absurd = at(october(1), instance_type="m1", usd_per_hour=0.10), at(october(2), usd_per_hour=1e9)

    assert filled(catalog, sound, absurd) == 1


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
