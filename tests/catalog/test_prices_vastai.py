"""Vast.ai's asks: megabytes, shares of machines, two markets, and strings where numbers should be."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api import Answer, Request, serving

from skyward import CredentialsError, Offer
from skyward.http import JSONClient
from skyward.model.accelerator import default_registry
from skyward_vastai.prices import fetch, parse, refuses_key


def ask(**changes: Any) -> dict[str, Any]:
    """As `POST /api/v0/bundles/` gives it, trimmed."""
    plain = {
        "id": 12345678,
        "machine_id": 4321,
        "host_id": 99,
        "gpu_name": "RTX 4090",
        "num_gpus": 2,
        "gpu_ram": 24564,
        "gpu_total_ram": 49128,
        "gpu_frac": 0.5,
        "compute_cap": 890,
        "cuda_max_good": 12.8,
        "driver_version": "570.86.15",
        "cpu_cores": 64,
        "cpu_cores_effective": 32.0,
        "cpu_ram": 257_000,
        "disk_space": 812.5,
        "dph_base": 0.70,
        "dph_total": 0.7266,
        "min_bid": 0.30,
        "reliability2": 0.9953,
        "geolocation": "Texas, US",
        "direct_port_count": 124,
        "static_ip": True,
        "cluster_id": None,
        "bw_nvlink": 0.0,
        "rentable": True,
        "rented": False,
        "verification": "verified",
    }
    return {**plain, **changes}


def only(raw: dict[str, Any], market: Any = "on-demand") -> Offer:
    (found,) = parse([raw], market, bid_multiplier=1.2)
    return found


def test_an_ask_is_an_offer_of_its_machine() -> None:
    offer = only(ask())

    assert (offer.instance_type, offer.pricing, offer.usd_per_hour) == ("m:4321", "on-demand", 0.7266)
    assert (offer.accelerator, offer.accelerator_count) == ("RTX 4090", 2.0)
    assert offer.accelerator_memory_gib == pytest.approx(23.99, abs=0.01)
    assert (offer.region, offer.zone) == ("US", "Texas")
    assert offer.reliability == 0.9953
    assert offer.disk_gb == 812.5
    assert offer.details["ask_id"] == 12345678


def test_memory_and_cores_are_our_share_of_the_machine() -> None:
    offer = only(ask())

    assert offer.vcpus == 32.0
    assert offer.memory_gib == pytest.approx(257_000 / 1024 / 2)


def test_where_we_bid_the_price_is_what_we_would_bid() -> None:
    offer = only(ask(), "bid")

    assert (offer.pricing, offer.price_floor) == ("interruptible", 0.30)
    assert offer.usd_per_hour == pytest.approx(0.36)


@pytest.mark.parametrize(
    ("name", "ram_mb", "meant"),
    [
        ("RTX 4090", 24564, "RTX-4090"),
        ("H100 SXM", 81559, "H100-SXM"),
        ("H100 PCIE", 81559, "H100-PCIe"),
        ("H100 NVL", 95830, "H100-NVL"),
        ("H200", 143771, "H200-SXM"),
        ("A100 SXM4", 40960, "A100-40GB"),
        ("A100 SXM4", 81920, "A100-80GB"),
        ("A100 PCIE", 81920, "A100-80GB"),
        ("RTX 6000Ada", 49140, "RTX-6000-Ada"),
        ("RTX A6000", 49140, "RTX-A6000"),
        ("RTX PRO 6000 S", 97887, "RTX-PRO-6000"),
        ("Tesla V100", 16384, "V100-16GB"),
        ("Tesla V100", 32768, "V100-32GB"),
        ("RTX_4090", 24564, "RTX-4090"),
    ],
)
def test_every_card_resolves_by_its_name_and_memory(name: str, ram_mb: int, meant: str) -> None:
    offer = only(ask(gpu_name=name, gpu_ram=ram_mb))

    found = default_registry().resolve(offer.accelerator or "", offer.accelerator_memory_gib, "vastai")

    assert found is not None
    assert found.name == meant


def test_a_modified_card_is_not_the_one_it_is_called_after() -> None:
    offer = only(ask(gpu_ram=49140))

    found = default_registry().resolve(offer.accelerator or "", offer.accelerator_memory_gib, "vastai")

    assert found is None or found.name != "RTX-4090"


@pytest.mark.parametrize(
    ("geolocation", "place"),
    [
        ("Texas, US", ("US", "Texas")),
        ("Quebec, CA, NA", ("CA", "Quebec")),
        (", CN", ("CN", None)),
        ("SE", ("SE", None)),
        ("", ("unknown", None)),
        (None, ("unknown", None)),
    ],
)
def test_a_place_is_a_country_and_perhaps_a_state(
    geolocation: str | None, place: tuple[str, str | None]
) -> None:
    offer = only(ask(geolocation=geolocation))

    assert (offer.region, offer.zone) == place


def test_numbers_may_come_as_strings() -> None:
    offer = only(ask(num_gpus="2", gpu_ram="24564", dph_total="0.7266", cpu_ram="257000"))

    assert (offer.accelerator_count, offer.usd_per_hour) == (2.0, 0.7266)


@pytest.mark.parametrize("price", [0, None, "", "NaN", -1, "inf"])
def test_what_is_no_price_is_unknown(price: Any) -> None:
    assert only(ask(dph_total=price)).usd_per_hour is None
    bid = only(ask(min_bid=price), "bid")
    assert (bid.usd_per_hour, bid.price_floor) == (None, None)


@pytest.mark.parametrize(
    "broken", [{"num_gpus": 0}, {"gpu_ram": None}, {"gpu_name": ""}, {"machine_id": None}]
)
def test_an_ask_that_says_nothing_is_left_out(broken: dict[str, Any]) -> None:
    assert list(parse([ask(**broken)], "on-demand", bid_multiplier=1.2)) == []


def test_what_is_rented_is_not_available() -> None:
    assert only(ask()).availability == "available"
    assert only(ask(rented=True)).availability == "none"
    assert only(ask(rentable=False)).availability == "none"


def test_wires_are_told_only_where_the_machine_has_them() -> None:
    assert only(ask()).interconnect is None
    assert only(ask(bw_nvlink=112.0)).interconnect == "NVLink"


def test_both_markets_are_asked_for_everything_that_can_be_rented() -> None:
    def respond(request: Request) -> Answer:
        return Answer({"offers": [ask(id=1 if request.json()["type"] == "bid" else 2)]})

    with serving(respond) as api:
        found = list(fetch(JSONClient(api.url, name="vastai", token="k"), bid_multiplier=1.5))

    assert [(o.pricing, o.details["ask_id"]) for o in found] == [("on-demand", 2), ("interruptible", 1)]
    assert {r.path for r in api.asked} == {"/api/v0/bundles/"}, (
        "without the slash at the end the server redirects"
    )
    for request in api.asked:
        body = request.json()
        assert body["limit"] >= 1000
        assert (body["rentable"], body["rented"]) == ({"eq": True}, {"eq": False})


def test_a_wrong_key_is_a_credentials_error_although_the_answer_is_404() -> None:
    wrong = Answer({"success": False, "error": "not_found", "msg": "Invalid user key"}, 404)
    with serving(lambda request: wrong) as api, pytest.raises(CredentialsError):
        list(fetch(JSONClient(api.url, name="vastai", token="k", translate=refuses_key), bid_multiplier=1.2))
