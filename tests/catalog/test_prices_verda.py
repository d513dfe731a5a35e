"""Verda's instance types: prices as strings, memory of all GPUs together, availability by place and market."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api import Answer, Request, serving

from skyward import CredentialsError, Offer
from skyward.model.accelerator import default_registry
from skyward_verda.prices import availability_of, fetch, login, parse


def kind(**changes: Any) -> dict[str, Any]:
    """As `GET /instance-types` gives it."""
    plain = {
        "id": "c01dd00d-0000-480b-ae4e-d429115d055b",
        "instance_type": "4H100.80S.128V",
        "model": "H100",
        "name": "H100 SXM5 80GB",
        "description": "Dedicated Hardware Instance",
        "cpu": {"description": "128 CPU", "number_of_cores": 128},
        "gpu": {"description": "4x H100 SXM5 80GB", "number_of_gpus": 4},
        "memory": {"description": "740GB RAM", "size_in_gigabytes": 740},
        "gpu_memory": {"description": "320GB GPU RAM", "size_in_gigabytes": 320},
        "storage": {"description": "dynamic"},
        "price_per_hour": "9.16",
        "spot_price": "3.206",
        "currency": "usd",
        "manufacturer": "NVIDIA",
        "p2p": "900 GB/s",
        "deploy_warning": None,
        "supported_os": ["ubuntu-24.04-cuda-12.8-open"],
    }
    return {**plain, **changes}


CPU = {
    "instance_type": "CPU.4V.16G",
    "model": "CPU Node",
    "name": "AMD EPYC",
    "cpu": {"number_of_cores": 4},
    "gpu": {"description": "", "number_of_gpus": 0},
    "memory": {"size_in_gigabytes": 16},
    "gpu_memory": {"description": "", "size_in_gigabytes": 0},
    "price_per_hour": "0.0279",
    "spot_price": "0",
}


def offers(*kinds: dict[str, Any], on_demand: Any = None, spot: Any = None) -> list[Offer]:
    return list(parse(kinds, ["FIN-01"], on_demand=on_demand or {}, spot=spot or {}))


def test_prices_are_strings_and_memory_is_that_of_all_gpus() -> None:
    on_demand, spot = offers(kind())

    assert (on_demand.pricing, on_demand.usd_per_hour) == ("on-demand", 9.16)
    assert (spot.pricing, spot.usd_per_hour) == ("spot", 3.206)
    assert (on_demand.accelerator_count, on_demand.accelerator_memory_gib) == (4.0, 80.0)
    assert (on_demand.vcpus, on_demand.memory_gib) == (128.0, 740.0)
    assert on_demand.disk_gb is None, "storage is sized on request"


@pytest.mark.parametrize(
    ("name", "count", "total_gib", "meant"),
    [
        ("H100 SXM5 80GB", 4, 320, "H100-SXM"),
        ("H200 SXM5 141GB", 2, 282, "H200-SXM"),
        ("A100 SXM4 40GB", 1, 40, "A100-40GB"),
        ("A100 SXM4 80GB", 8, 640, "A100-80GB"),
        ("B200 SXM6 180GB", 8, 1440, "B200"),
        ("B300 SXM6 268GB", 1, 268, "B300"),
        ("Tesla V100 16GB", 1, 16, "V100-16GB"),
        ("RTX PRO 6000 96GB", 2, 192, "RTX-PRO-6000"),
        ("RTX6000 Ada 48GB", 1, 48, "RTX-6000-Ada"),
        ("L40S 48GB", 1, 48, "L40S"),
    ],
)
def test_every_card_resolves_to_itself(name: str, count: int, total_gib: int, meant: str) -> None:
    gpu = {"description": f"{count}x {name}", "number_of_gpus": count}
    for spelled in ({"name": name}, {"name": None}):
        offer = offers(kind(gpu=gpu, gpu_memory={"size_in_gigabytes": total_gib}, **spelled))[0]

        found = default_registry().resolve(offer.accelerator or "", offer.accelerator_memory_gib, "verda")

        assert found is not None
        assert found.name == meant


def test_availability_is_by_place_and_market() -> None:
    found = offers(
        kind(),
        on_demand=availability_of([{"location_code": "FIN-02", "availabilities": ["4H100.80S.128V"]}]),
        spot=availability_of(
            [
                {"location_code": "FIN-03", "availabilities": ["4H100.80S.128V"]},
                {"location_code": "ICE-01", "availabilities": None},
            ]
        ),
    )

    assert {(o.region, o.pricing): o.availability for o in found} == {
        ("FIN-01", "on-demand"): "none", ("FIN-01", "spot"): "none",
        ("FIN-02", "on-demand"): "available", ("FIN-02", "spot"): "none",
        ("FIN-03", "on-demand"): "none", ("FIN-03", "spot"): "available",
        ("ICE-01", "on-demand"): "none", ("ICE-01", "spot"): "none",
    }  # fmt: skip


def test_a_machine_without_gpus_has_no_accelerator() -> None:
    (offer,) = offers(CPU)

    assert (offer.accelerator, offer.accelerator_count, offer.accelerator_memory_gib) == (None, 0.0, None)


@pytest.mark.parametrize("price", ["0", 0, None, "", "n/a", "nan", "-1"])
def test_what_is_no_price_is_unknown(price: Any) -> None:
    assert offers(kind(price_per_hour=price))[0].usd_per_hour is None


def test_a_type_never_sold_as_spot_has_no_spot_offer() -> None:
    assert [o.pricing for o in offers(kind(spot_price=None))] == ["on-demand"]


def test_a_spot_price_may_have_its_older_name() -> None:
    raw = kind(spot_price_per_hour="3.3")
    del raw["spot_price"]

    assert offers(raw)[1].usd_per_hour == 3.3


def test_another_currency_is_no_price_of_ours() -> None:
    assert offers(kind(currency="eur"))[0].usd_per_hour is None


def test_an_arm_host_is_arm() -> None:
    gpu = {"description": "4x GB200", "number_of_gpus": 4}

    assert (
        offers(kind(name="GB200", gpu=gpu, gpu_memory={"size_in_gigabytes": 744}))[0].architecture == "arm64"
    )


def respond(request: Request) -> Answer:
    """As the API answers; a market flag of the wrong spelling is ignored without a word."""
    if request.path == "/v1/oauth2/token":
        good = request.json()["client_secret"] == "secret"
        return (
            Answer({"access_token": "t0", "expires_in": 3600})
            if good
            else Answer(
                {"code": "unauthorized_request", "message": "Invalid client id or client secret"}, 401
            )
        )
    if request.headers.get("authorization") != "Bearer t0":
        return Answer({"code": "unauthorized_request", "message": "no"}, 401)
    if request.path == "/v1/instance-types":
        assert request.params == {"currency": ["usd"]}
        return Answer([kind(), CPU])
    if request.path == "/v1/locations":
        return Answer([{"code": "FIN-01", "name": "Finland 1", "country_code": "FI"}, {"code": "FIN-03"}])
    spot = request.params.get("isSpot") == ["true"]
    return Answer(
        [{"location_code": "FIN-03", "availabilities": ["4H100.80S.128V"] if spot else ["CPU.4V.16G"]}]
    )


def test_everything_is_fetched_with_a_token() -> None:
    with serving(respond) as api:
        found = list(fetch(login(f"{api.url}/v1", "id", "secret")))

    available = {(o.instance_type, o.region, o.pricing) for o in found if o.availability == "available"}
    assert available == {("4H100.80S.128V", "FIN-03", "spot"), ("CPU.4V.16G", "FIN-03", "on-demand")}
    markets = [r.params for r in api.asked if r.path.endswith("availability")]
    assert markets == [{"isSpot": [word], "is_spot": [word]} for word in ("false", "true")]


def test_a_wrong_secret_is_a_credentials_error_that_does_not_tell_it() -> None:
    with serving(respond) as api, pytest.raises(CredentialsError) as raised:
        login(f"{api.url}/v1", "id", "hunter2")

    assert "Invalid client id" in str(raised.value)
    assert "hunter2" not in repr(raised.value)
