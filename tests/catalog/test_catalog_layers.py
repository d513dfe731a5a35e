"""Which file speaks for which provider, how old its prices are, and when an answer is refused for their age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from catalog_rows import DAY, MakeCatalog, bundle, offer

from skyward.catalog import layers as files
from skyward.catalog.ingest import ingest
from skyward.catalog.query import OfferQuery
from skyward.catalog.refresh import publish
from skyward.catalog.store import Catalog, open_catalog
from skyward.config import Places
from skyward.errors import CatalogError, QueryError, StalePricesError
from skyward.model.accelerator import default_registry
from skyward.model.offer import Offer

TODAY = datetime.now(UTC).replace(microsecond=0)


def refresh(catalog: Catalog, *offers: Offer, at: datetime = TODAY, force: bool = True) -> None:
    """As a refresh that brought these offers."""
    provider = offers[0].provider
    found = ingest(offers, provider, default_registry(), at)
    publish(catalog, provider, found, at, force=force)


def user_file(places: Places, name: str, text: str) -> Path:
    path = files.user_directory(places) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def reopened(catalog: Catalog) -> Catalog:
    return Catalog(catalog.places, catalog.bundled)


def test_a_refresh_speaks_for_its_provider_and_for_no_other(make_catalog: MakeCatalog) -> None:
    old = make_catalog(offer(usd_per_hour=0.2), offer(provider="other", usd_per_hour=0.3))

    refresh(old, offer(usd_per_hour=0.25, observed_at=TODAY))

    with reopened(old) as catalog:
        rows = {
            row["provider"]: (row["layer"], row["usd_per_hour"]) for row in catalog.rows(OfferQuery()).dicts()
        }
    assert rows == {"acme": ("live", 0.25), "other": ("bundled", 0.3)}
    assert {row["layer"] for row in old.rows(OfferQuery()).dicts()} == {"bundled"}, (
        "an open catalog does not change"
    )


def test_the_users_own_file_comes_before_everything(make_catalog: MakeCatalog, places: Places) -> None:
    old = make_catalog(offer(usd_per_hour=0.2))
    refresh(old, offer(usd_per_hour=0.25, observed_at=TODAY))
    user_file(
        places,
        "acme.csv",
        "region,instance_type,usd_per_hour,vcpus,memory_gib,accelerator,accelerator_count,zones\n"
        "north,m1,0.11,4,16,,,\nsouth,h1,20,96,1024,H100-SXM,8,s1 s2\nsouth,u1,,4,16,,,\n",
    )

    with reopened(old) as catalog:
        rows = catalog.rows(OfferQuery()).dicts()

    assert [(row["layer"], row["region"], row["usd_per_hour"]) for row in rows] == [
        ("user", "north", 0.11),
        ("user", "south", 20.0),
        ("user", "south", None),
    ]
    assert rows[1]["usd_per_gpu_hour"] == 2.5
    assert rows[1]["zones"] == ["s1", "s2"]
    assert rows[0]["pricing"] == "on-demand"
    assert not catalog.warnings


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "acme.csv",
            "region,instance_type,usd_per_hour,vcpus\nnorth,m1,1,4\n",
            "lacks the column 'memory_gib'",
        ),
        ("acme.csv", "region,instance_type,usd_per_hour,vcpus,memory_gib,pirce\n", "column 'pirce'"),
        ("acme.csv", "region,instance_type,usd_per_hour,vcpus,memory_gib\nnorth,m1,cheap,4,16\n", "cheap"),
        (
            "acme.csv",
            "region,instance_type,usd_per_hour,vcpus,memory_gib\nnorth,m1,0,4,16\n",
            "usd_per_hour 0.0 is not",
        ),
        (
            "acme.csv",
            "region,instance_type,usd_per_hour,vcpus,memory_gib\nnorth,m1,-1,4,16\n",
            "usd_per_hour -1.0 is not",
        ),
        ("acme.csv", "region,instance_type,usd_per_hour,vcpus,memory_gib\nnorth,m1,nan,4,16\n", "nan is not"),
        (
            "acme.csv",
            "region,instance_type,usd_per_hour,vcpus,memory_gib\n../up,m1,0.2,4,16\n",
            "unsafe characters",
        ),
        (
            "acme.csv",
            "provider,region,instance_type,usd_per_hour,vcpus,memory_gib\n../x,n,m1,0.2,4,16\n",
            "offers of '../x'",
        ),
        (
            "acme.csv",
            "region,instance_type,usd_per_hour,vcpus,memory_gib\nnorth,m1,0.2,4,16\nnorth,m1,0.3,4,16\n",
            "there 2 times",
        ),
        ("acme.csv", "", "acme.csv"),
        ("acme.parquet", "PAR1 but not really PAR1", "cannot be read"),
        ("e..vil.csv", "region\n", "name it after a provider"),
        ("Acme Inc.csv", "region\n", "name it after a provider"),
    ],
)
def test_a_users_file_that_makes_no_sense_is_refused_by_name(
    make_catalog: MakeCatalog, places: Places, name: str, text: str, said: str
) -> None:
    path = user_file(places, name, text)

    catalog = make_catalog(offer(usd_per_hour=0.2))

    assert [row["layer"] for row in catalog.rows(OfferQuery()).dicts()] == ["bundled"]
    assert len(catalog.warnings) == 1
    assert str(path) in catalog.warnings[0]
    assert said in catalog.warnings[0]


def test_a_users_accelerator_that_no_wish_will_find_is_told(
    make_catalog: MakeCatalog, places: Places
) -> None:
    path = user_file(
        places,
        "acme.csv",
        "region,instance_type,usd_per_hour,vcpus,memory_gib,accelerator\nnorth,h1,2,4,16,H100\nnorth,h2,2,4,16,H100-SXM\n",
    )

    catalog = make_catalog(offer())

    assert len(catalog.rows(OfferQuery())) == 2
    assert len(catalog.warnings) == 1
    assert f"{path}: no accelerator is called 'H100'" in catalog.warnings[0]
    assert "'H100-SXM'" in catalog.warnings[0]


def test_a_row_of_another_provider_in_a_users_file_is_refused(
    make_catalog: MakeCatalog, places: Places
) -> None:
    user_file(
        places,
        "acme.csv",
        "provider,region,instance_type,usd_per_hour,vcpus,memory_gib\nother,north,m1,0.2,4,16\n",
    )

    catalog = make_catalog(offer(), offer(provider="other", usd_per_hour=0.3))

    assert catalog.warnings
    assert {row["layer"] for row in catalog.rows(OfferQuery()).dicts()} == {"bundled"}


def test_the_age_of_an_answer_is_that_of_its_oldest_price(make_catalog: MakeCatalog) -> None:
    catalog = make_catalog(
        offer(instance_type="m1", observed_at=DAY - timedelta(days=30)),
        offer(instance_type="m2", observed_at=DAY),
        offer(instance_type="m3", observed_at=DAY - timedelta(days=90), usd_per_hour=None),
    )

    (provenance,) = catalog.matched(OfferQuery()).providers

    assert provenance.oldest == DAY - timedelta(days=30), "a row without a price has no price to grow old"
    assert provenance.newest == DAY
    assert provenance.age_s(DAY) == 30 * 86400
    assert provenance.is_stale(DAY)
    assert not provenance.is_stale(DAY - timedelta(days=25))


def test_an_answer_that_draws_on_older_prices_is_refused_with_what_to_do(make_catalog: MakeCatalog) -> None:
    old = make_catalog(offer(usd_per_hour=0.2), offer(provider="other", usd_per_hour=0.3))
    refresh(old, offer(usd_per_hour=0.25, observed_at=TODAY))

    with reopened(old) as catalog:
        fresh = catalog.rows(OfferQuery(providers=("acme",), max_age_s=3600))
        with pytest.raises(StalePricesError) as refused:
            catalog.rows(OfferQuery(max_age_s=3600))

    assert fresh.column("usd_per_hour") == [0.25]
    assert set(refused.value.providers) == {"other"}  # type: ignore[attr-defined]
    assert refused.value.hints == ("skyward catalog refresh --provider other",)
    assert refused.value.exit_code == 4


def test_an_unknown_region_or_machine_is_refused_with_the_nearest_names(make_catalog: MakeCatalog) -> None:
    catalog = make_catalog(offer(region="us-east-1"), offer(region="us-west-2"))

    with pytest.raises(QueryError, match="'us-east-1'"):
        catalog.rows(OfferQuery(regions=("us-esat-1",)))
    with pytest.raises(QueryError, match="'m1'"):
        catalog.rows(OfferQuery(machine="m11"))


def test_an_offer_comes_back_as_it_was_said(make_catalog: MakeCatalog) -> None:
    said = offer(
        zone="z1",
        zones=("z1", "z2"),
        accelerator="A100-80GB",
        accelerator_count=8.0,
        accelerator_memory_gib=80.0,
        usd_per_hour=16.0,
        usd_per_gpu_hour=2.0,
        price_floor=8.0,
        reliability=0.99,
        disk_gb=500.0,
        interconnect="NVLink3",
        details={"ask_id": 7, "note": "ü"},
        pricing="interruptible",
        quality="estimated",
    )

    (found,) = make_catalog(said).offers(OfferQuery())

    assert found == said
    assert found.details == said.details


def test_the_bundled_snapshot_opens_without_any_home(places: Places) -> None:
    with open_catalog(places) as catalog:
        assert catalog.matched(OfferQuery()).total > 40_000
        assert not catalog.warnings
    assert not places.config.exists()
    assert not places.cache.exists()


def test_a_home_with_odd_characters_is_read_to_the_letter(tmp_path: Path) -> None:
    home = tmp_path / "we*rd [home]? 'quoted' ü"
    places = Places.find({"SKYWARD_HOME": str(home)})
    with Catalog(places, bundle([offer()], home / "bundle")) as catalog:
        refresh(catalog, offer(usd_per_hour=0.25, observed_at=TODAY))

    with Catalog(places, home / "bundle") as catalog:
        assert catalog.rows(OfferQuery()).column("usd_per_hour") == [0.25]
        assert catalog.history(OfferQuery()).column("usd_per_hour") == [0.2, 0.25]
        assert not catalog.warnings


def test_a_name_with_a_star_means_itself_and_not_its_neighbours(tmp_path: Path, places: Places) -> None:
    bundle([offer(instance_type="neighbour")], tmp_path / "prices")

    with Catalog(places, bundle([offer(instance_type="own")], tmp_path / "pri*es")) as catalog:
        assert catalog.rows(OfferQuery()).column("instance_type") == ["own"]


def test_verify_reads_every_file(make_catalog: MakeCatalog, places: Places) -> None:
    catalog = make_catalog(offer())
    refresh(catalog, offer(usd_per_hour=0.25, observed_at=TODAY))
    bad = user_file(places, "other.csv", "region\nnorth\n")

    findings = catalog.verify()

    assert {finding.what.split()[0] for finding in findings} == {"bundled", "live", "user", "history"}
    assert [finding.path for finding in findings if not finding.ok] == [bad]


def test_a_catalog_whose_files_have_been_replaced_says_so(make_catalog: MakeCatalog) -> None:
    first = make_catalog(offer(usd_per_hour=0.2))
    refresh(first, offer(usd_per_hour=0.25, observed_at=TODAY))
    with reopened(first) as old:
        for _ in range(3):
            with reopened(first) as other:
                refresh(other, offer(usd_per_hour=0.26, observed_at=TODAY))
        for layer in old.layers:  # as if it had been the last one to hold them
            layer.path.unlink(missing_ok=True)
        with pytest.raises(CatalogError, match="open it again"):
            old.rows(OfferQuery())
        with pytest.raises(CatalogError, match="open it again"):
            old.offers(OfferQuery())
