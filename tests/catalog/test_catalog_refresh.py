"""Fetching prices: what is taken, what is refused, and that old prices never look new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from catalog_rows import DAY, MakeCatalog, offer

from skyward.catalog.query import OfferQuery
from skyward.catalog.refresh import RefreshResult
from skyward.catalog.store import Catalog
from skyward.contracts.provider import Capabilities, Provider
from skyward.errors import CredentialsError, ImplausiblePricesError, ProviderError
from skyward.model.accelerator import default_registry
from skyward.model.instance import Endpoint, Instance, LaunchRequest
from skyward.model.offer import Offer


class Shop(Provider):
    """A cloud that sells what it is told to."""

    name: ClassVar[str] = "acme"
    Config: ClassVar[type] = object

    def __init__(self, *stock: Offer, fails: Exception | None = None, unanswered: Sequence[str] = ()) -> None:
        super().__init__(None)
        self.stock = stock
        self.fails = fails
        self.unanswered = unanswered

    def offers(self) -> Iterable[Offer]:
        yield from self.stock
        if self.fails:
            raise self.fails

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        raise NotImplementedError

    def instances(self, pool: str) -> Sequence[Instance]:
        return ()

    def terminate(self, ids: Iterable[str]) -> None:
        return None

    def connect(self, instance: Instance) -> Endpoint:
        return Endpoint()


class OtherShop(Shop):
    name: ClassVar[str] = "other"


class Market(Shop):
    capabilities: ClassVar[Capabilities] = Capabilities(bids=True, trusted=False)


Refresh = Callable[..., tuple[list[RefreshResult], Catalog]]


@pytest.fixture
def refresh(make_catalog: MakeCatalog) -> Refresh:
    """Refreshes the given shops over a catalog that has `before`; the results, and the catalog opened again."""

    def run(
        *shops: Shop, before: Sequence[Offer] = (), **options: Any
    ) -> tuple[list[RefreshResult], Catalog]:
        old = make_catalog(*before)
        results = old.refresh(shops, registry=default_registry(), **options)
        return results, Catalog(old.places, old.bundled)

    return run


def now(**changes: Any) -> Offer:
    """An offer as a live API gives it: without a day."""
    return offer(**{"observed_at": None, **changes})


def many(count: int, **changes: Any) -> list[Offer]:
    return [now(**{"instance_type": f"m{number}", "usd_per_hour": 0.2, **changes}) for number in range(count)]


def test_fresh_prices_are_dated_now_and_speak_at_once(refresh: Refresh) -> None:
    (result,), catalog = refresh(Shop(now(usd_per_hour=0.25)), before=[offer(usd_per_hour=0.2)])

    (row,) = catalog.rows(OfferQuery(max_age_s=60)).dicts()
    assert (row["usd_per_hour"], row["layer"]) == (0.25, "live")
    assert (result.ok, result.rows, result.priced, result.changed) == (True, 1, 1, 1)


def test_one_provider_failing_never_hurts_another(refresh: Refresh) -> None:
    results, catalog = refresh(
        Shop(now(), fails=CredentialsError("acme: no key")),
        OtherShop(now(provider="other", usd_per_hour=0.4)),
        before=[offer(usd_per_hour=0.2), offer(provider="other", usd_per_hour=0.3)],
    )

    assert [(r.provider, r.ok) for r in results] == [("acme", False), ("other", True)]
    assert isinstance(results[0].error, CredentialsError)
    rows = {row["provider"]: row for row in catalog.rows(OfferQuery()).dicts()}
    assert (rows["acme"]["usd_per_hour"], rows["acme"]["observed_at"]) == (0.2, DAY)
    assert rows["other"]["usd_per_hour"] == 0.4


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("price"), RecursionError(), MemoryError()])
def test_a_plugin_that_crashes_is_reported_with_its_name(refresh: Refresh, error: Exception) -> None:
    (result,), catalog = refresh(Shop(fails=error), before=[offer(usd_per_hour=0.2)])

    assert isinstance(result.error, ProviderError)
    assert str(result.error).startswith("acme: ")
    assert catalog.rows(OfferQuery()).column("observed_at") == [DAY]


def test_a_failed_refresh_keeps_the_last_one_with_its_own_date(
    refresh: Refresh, make_catalog: MakeCatalog
) -> None:
    (result,), catalog = refresh(Shop(now(usd_per_hour=0.25)))
    fetched = catalog.rows(OfferQuery()).column("observed_at")

    (failed,) = catalog.refresh([Shop(fails=ProviderError("acme: 503"))], registry=default_registry())

    with Catalog(catalog.places, catalog.bundled) as again:
        assert (result.ok, failed.ok) == (True, False)
        assert again.rows(OfferQuery()).column("observed_at") == fetched


def test_a_region_that_did_not_answer_keeps_its_prices_and_their_date(refresh: Refresh) -> None:
    old = [offer(region=name, usd_per_hour=0.2) for name in ("north", "south", "west")]
    told: list[str] = []

    (result,), catalog = refresh(
        Shop(now(region="north", usd_per_hour=0.3), unanswered=["south"]),
        before=old,
        progress=lambda provider, message: told.append(message),
    )

    rows = {row["region"]: (row["usd_per_hour"], row["observed_at"]) for row in catalog.rows(OfferQuery())
            .dicts()}  # fmt: skip
    assert set(rows) == {"north", "south"}, "west was asked and sells nothing"
    assert rows["south"] == (0.2, DAY)
    assert rows["north"][0] == 0.3
    assert rows["north"][1] > DAY
    assert result.ok
    assert any("no answer from south" in message for message in told)
    assert catalog.matched(OfferQuery()).providers[0].oldest == DAY


def test_a_region_that_stays_silent_keeps_what_the_last_answer_said(
    make_catalog: MakeCatalog,
) -> None:
    catalog = make_catalog(offer(region="south", usd_per_hour=0.2))
    first, second = (
        Shop(now(region="north"), now(region="south", usd_per_hour=0.4)),
        Shop(now(region="north"), unanswered=["south"]),
    )
    catalog.refresh([first], registry=default_registry())
    with Catalog(catalog.places, catalog.bundled) as once:
        (said,) = once.rows(OfferQuery(regions=("south",))).dicts()
    for _ in range(2):
        with Catalog(catalog.places, catalog.bundled) as again:
            again.refresh([second], registry=default_registry())

    with Catalog(catalog.places, catalog.bundled) as after:
        assert after.rows(OfferQuery(regions=("south",))).dicts() == [said]
        assert said["usd_per_hour"] == 0.4
        moment = datetime.now(UTC) + timedelta(seconds=1)
        then = after.rows(OfferQuery(as_of=moment)).dicts()
        assert {(row["region"], row["usd_per_hour"]) for row in then} == {("north", 0.2), ("south", 0.4)}


def test_prices_taken_along_from_the_snapshot_do_not_hide_the_rest_of_it_in_the_past(
    make_catalog: MakeCatalog,
) -> None:
    catalog = make_catalog(offer(region="south", usd_per_hour=0.2), offer(region="east", usd_per_hour=0.3))
    catalog.refresh([Shop(now(region="north"), unanswered=["south"])], registry=default_registry())

    with Catalog(catalog.places, catalog.bundled) as after:
        before = after.rows(OfferQuery(as_of=DAY + timedelta(days=1))).dicts()
        since = after.rows(OfferQuery(as_of=datetime.now(UTC) + timedelta(seconds=1))).dicts()

    assert {(row["region"], row["usd_per_hour"]) for row in before} == {("south", 0.2), ("east", 0.3)}
    assert {row["region"] for row in since} == {"north", "south"}


def test_a_cloud_is_asked_for_the_past_only_when_that_is_wanted(make_catalog: MakeCatalog) -> None:
    class Old(Shop):
        def past_offers(self, since: datetime) -> Iterable[Offer]:
            return [offer(usd_per_hour=0.15, observed_at=since + timedelta(days=1))]

    catalog = make_catalog(offer())
    since = DAY - timedelta(days=30)

    (plain,) = catalog.refresh([Old(now())], registry=default_registry())
    (asked,) = catalog.refresh([Old(now())], registry=default_registry(), since=since)

    assert (plain.past, asked.past) == (0, 1)
    with Catalog(catalog.places, catalog.bundled) as after:
        assert after.history(OfferQuery()).column("usd_per_hour")[0] == 0.15


def test_a_price_of_zero_or_none_is_unknown_never_free(refresh: Refresh) -> None:
    (result,), catalog = refresh(
        Shop(now(instance_type="zero", usd_per_hour=0.0), now(instance_type="none", usd_per_hour=None), now())
    )

    prices = dict(catalog.rows(OfferQuery(columns=("instance_type", "price"))).rows)
    assert prices == {"zero": None, "none": None, "m1": 0.2}
    assert result.priced == 1
    assert catalog.rows(OfferQuery(limit=1)).column("instance_type") == ["m1"]


def test_a_row_that_makes_no_sense_is_left_out_and_named(refresh: Refresh) -> None:
    (result,), catalog = refresh(Shop(*many(200), now(instance_type="bad", usd_per_hour=-3.0)))

    assert result.ok
    assert result.rows == 200
    assert any("bad" in reason and "-3.0" in reason for reason in result.skipped)
    assert "bad" not in catalog.rows(OfferQuery()).column("instance_type")


def test_too_many_rows_that_make_no_sense_refuse_the_refresh(refresh: Refresh) -> None:
    (result,), catalog = refresh(
        Shop(*many(50), *[now(instance_type=f"bad{n}", usd_per_hour=1e6) for n in range(10)]),
        before=[offer(usd_per_hour=0.2)],
    )

    assert isinstance(result.error, ImplausiblePricesError)
    assert catalog.rows(OfferQuery()).column("observed_at") == [DAY]


def test_nothing_at_all_is_not_a_price_list(refresh: Refresh) -> None:
    (result,), catalog = refresh(Shop(), before=[offer(usd_per_hour=0.2)])

    assert isinstance(result.error, ImplausiblePricesError)
    assert len(catalog.rows(OfferQuery())) == 1


def test_losing_most_offers_is_not_believed_without_force(refresh: Refresh) -> None:
    before = [offer(instance_type=f"m{n}") for n in range(30)]

    (refused,), catalog = refresh(Shop(*many(10)), before=before)
    (forced,) = catalog.refresh([Shop(*many(10))], registry=default_registry(), force=True)

    assert "10 priced offers where there were 30" in str(refused.error)
    assert refused.error is not None
    assert refused.error.hints == ("skyward catalog refresh --provider acme --force",)
    assert forced.ok
    with Catalog(catalog.places, catalog.bundled) as again:
        assert len(again.rows(OfferQuery())) == 10


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_prices_that_all_jumped_are_not_believed_without_force(refresh: Refresh, factor: float) -> None:
    before = [offer(instance_type=f"m{n}") for n in range(30)]

    (result,), catalog = refresh(Shop(*many(30, usd_per_hour=0.2 * factor)), before=before)

    assert isinstance(result.error, ImplausiblePricesError)
    assert set(catalog.rows(OfferQuery()).column("usd_per_hour")) == {0.2}


def test_a_few_prices_may_jump(refresh: Refresh) -> None:
    before = [offer(instance_type=f"m{n}") for n in range(30)]

    (result,), _ = refresh(
        Shop(*many(25), *[now(instance_type=f"m{n}", usd_per_hour=1.0) for n in range(25, 30)]), before=before
    )

    assert result.ok
    assert result.changed == 30


def test_indicative_prices_are_no_measure_of_a_refresh(refresh: Refresh) -> None:
    before = [offer(instance_type=f"median{n}", quality="indicative") for n in range(30)]

    (result,), _ = refresh(Market(*many(3)), before=before)

    assert result.ok


def test_names_are_normalised_and_the_raw_one_is_kept(refresh: Refresh) -> None:
    gpu = {"accelerator_count": 8.0, "usd_per_hour": 20.0}
    _, catalog = refresh(
        Shop(
            now(instance_type="a", accelerator="NVIDIA A100-SXM4-80GB", accelerator_memory_gib=79.3, **gpu),
            now(instance_type="b", accelerator="A100", accelerator_memory_gib=39.6, **gpu),
        )
    )

    rows = {row["instance_type"]: row for row in catalog.rows(OfferQuery()).dicts()}
    assert (rows["a"]["accelerator"], rows["a"]["accelerator_memory_gib"]) == ("A100-80GB", 80.0)
    assert rows["a"]["accelerator_raw"] == "NVIDIA A100-SXM4-80GB"
    assert rows["b"]["accelerator"] == "A100-40GB"
    assert rows["a"]["usd_per_gpu_hour"] == 2.5
    assert rows["a"]["interconnect"] == "NVLink3"


def test_on_a_marketplace_nothing_is_presumed_of_the_wires(refresh: Refresh) -> None:
    gpu = {
        "accelerator_count": 8.0,
        "usd_per_hour": 20.0,
        "accelerator": "A100",
        "accelerator_memory_gib": 80.0,
    }
    _, catalog = refresh(
        Market(now(instance_type="a", **gpu), now(instance_type="b", **gpu, interconnect="NVLink"))
    )

    assert dict(catalog.rows(OfferQuery(columns=("machine", "interconnect"))).rows) == {
        "a": None,
        "b": "NVLink",
    }


def test_an_accelerator_nobody_knows_is_left_out_and_counted(refresh: Refresh) -> None:
    strange = [now(instance_type=f"x{n}", accelerator="ZX-81", accelerator_memory_gib=1.0) for n in range(4)]

    (result,), catalog = refresh(Shop(now(), *strange))

    assert result.rows == 1
    assert result.skipped == ("unknown accelerator 'ZX-81' of 1 GiB (4)",)
    assert len(catalog.rows(OfferQuery())) == 1


def test_of_one_machine_listed_twice_the_cheaper_stays(refresh: Refresh) -> None:
    (result,), catalog = refresh(Shop(now(usd_per_hour=0.3), now(usd_per_hour=0.2), now(usd_per_hour=None)))

    assert catalog.rows(OfferQuery()).column("usd_per_hour") == [0.2]
    assert result.skipped == ("same machine at a higher price (2)",)


def test_an_offer_in_another_providers_name_is_left_out(refresh: Refresh) -> None:
    (result,), _ = refresh(Shop(now(), now(provider="aws", usd_per_hour=0.0001)))

    assert result.rows == 1
    assert "offer of 'aws'" in result.skipped[0]


def test_progress_is_told_provider_by_provider(refresh: Refresh) -> None:
    told: list[tuple[str, str]] = []

    refresh(Shop(now()), OtherShop(fails=ValueError("x")), progress=lambda *said: told.append(said))

    assert [name for name, _ in told] == ["acme", "acme", "other", "other"]
    assert told[1][1] == "1 offers, 1 changed"
    assert told[3][1].startswith("failed: other: the plugin failed: ValueError")


def test_a_long_refresh_is_told_while_it_lasts(refresh: Refresh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skyward.catalog.refresh.TELL_EVERY_S", -1.0)
    told: list[str] = []

    refresh(Shop(*many(3)), progress=lambda name, message: told.append(message))

    assert told[1:4] == ["1 offers so far", "2 offers so far", "3 offers so far"]


def test_a_refresh_leaves_nothing_but_two_good_generations(refresh: Refresh) -> None:
    _, catalog = refresh(Shop(now(usd_per_hour=0.21)))
    for price in (0.22, 0.23, 0.24):
        catalog.refresh([Shop(now(usd_per_hour=price))], registry=default_registry())

    directory = catalog.places.cache / "catalog" / "live" / "acme"

    assert sorted(path.suffix for path in directory.iterdir()) == [
        "",
        ".json",
        ".json",
        ".parquet",
        ".parquet",
    ]


def test_what_a_provider_says_of_the_day_is_kept(refresh: Refresh) -> None:
    yesterday = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)

    _, catalog = refresh(Shop(now(observed_at=yesterday)))

    assert catalog.rows(OfferQuery()).column("observed_at") == [yesterday]
