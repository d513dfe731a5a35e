"""The provider plugins feed the catalog: from a cloud's API over real HTTP to a row that a question finds."""

from __future__ import annotations

from typing import Any

import pytest
from fake_api import Answer, FakeAPI, Request, serving

from skyward.catalog.query import OfferQuery
from skyward.catalog.store import open_catalog
from skyward.config import Places
from skyward.errors import CredentialsError
from skyward.model.accelerator import default_registry
from skyward_digitalocean.config import DigitalOcean
from skyward_digitalocean.provider import DigitalOceanProvider
from skyward_vastai.config import VastAI
from skyward_vastai.provider import VastAIProvider
from skyward_verda.config import Verda
from skyward_verda.provider import VerdaProvider

SIZES = {
    "sizes": [
        {
            "slug": "gpu-h100x8-640gb", "memory": 1966080, "vcpus": 160, "disk": 2046, "transfer": 60.0,
            "price_monthly": 20000.0, "price_hourly": 23.92, "regions": ["nyc2"], "available": True,
            "description": "H100 GPU - 8X",
            "gpu_info": {"count": 8, "model": "nvidia_h100", "vram": {"amount": 640, "unit": "gib"}},
        },
        *(
            {
                "slug": f"s-{n}vcpu-{n}gb", "memory": 1024 * n, "vcpus": n, "disk": 25, "transfer": 1.0, "price_monthly": 6.0 * n,
                "price_hourly": 0.009 * n, "regions": ["nyc1", "nyc3", "sfo3", "ams3", "fra1", "tor1", "lon1", "sgp1"],
                "available": True, "description": "Basic",
            }
            for n in range(1, 30)
        ),
    ],
    "links": {},
    "meta": {"total": 30},
}  # fmt: skip

VERDA_TYPES = [
    {
        "instance_type": f"{count}A100.{22 * count}V", "name": "A100 SXM4 80GB", "model": "A100", "currency": "usd",
        "cpu": {"number_of_cores": 22 * count}, "gpu": {"description": f"{count}x A100 SXM4 80GB", "number_of_gpus": count},
        "memory": {"size_in_gigabytes": 120 * count}, "gpu_memory": {"size_in_gigabytes": 80 * count},
        "price_per_hour": f"{1.29 * count:.2f}", "spot_price": f"{0.45 * count:.2f}",
    }
    for count in (1, 2, 4, 8)
]  # fmt: skip

ASK = {
    "id": 77, "machine_id": 5, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564, "cpu_cores": 16,
    "cpu_cores_effective": 16, "cpu_ram": 64000, "disk_space": 300, "dph_total": 0.31, "min_bid": 0.12,
    "reliability2": 0.99, "geolocation": "Texas, US", "rentable": True, "rented": False,
}  # fmt: skip


def respond(request: Request) -> Answer:
    """Three clouds behind one address."""
    answers: dict[str, Any] = {
        "/v2/sizes": SIZES,
        "/v1/oauth2/token": {"access_token": "token-0123456789"},
        "/v1/instance-types": VERDA_TYPES,
        "/v1/locations": [{"code": "FIN-01"}],
        "/v1/instance-availability": [{"location_code": "FIN-01", "availabilities": ["1A100.22V"]}],
        "/api/v0/bundles/": {"offers": [ASK, {**ASK, "machine_id": 6, "gpu_name": "ZX Spectrum"}]},
    }
    return Answer(answers[request.path])


def clouds(api: FakeAPI, digitalocean_token: str = "token-0123456789") -> list[Any]:
    return [
        DigitalOceanProvider(DigitalOcean(endpoint=api.url), token=digitalocean_token),
        VerdaProvider(
            Verda(endpoint=f"{api.url}/v1"), client_id="client-01234", client_secret="secret-0123456789"
        ),
        VastAIProvider(VastAI(endpoint=api.url), key="key-0123456789"),
    ]


def test_refreshed_prices_are_found_by_the_next_question(places: Places) -> None:
    with serving(respond) as api, open_catalog(places) as catalog:
        results = catalog.refresh(clouds(api), registry=default_registry())

    assert [(result.provider, result.ok, result.error) for result in results] == [
        ("digitalocean", True, None),
        ("verda", False, results[1].error),
        ("vastai", True, None),
    ], "four prices where the snapshot has dozens are not believed"
    assert results[2].skipped == ("unknown accelerator 'ZX Spectrum' of 23.99 GiB (2)",)
    with open_catalog(places) as catalog:
        live = OfferQuery(max_age_s=600, providers=("digitalocean", "vastai"), has_accelerator=True)
        rows = {(r["instance_type"], r["pricing"]): r for r in catalog.rows(live).dicts()}
    assert rows["gpu-h100x8-640gb", "on-demand"]["usd_per_gpu_hour"] == 2.99
    assert rows["gpu-h100x8-640gb", "on-demand"]["accelerator_raw"] == "nvidia_h100"
    assert rows["m:5", "interruptible"]["price_floor"] == 0.12
    assert rows["m:5", "interruptible"]["accelerator"] == "RTX-4090"
    assert {row["layer"] for row in rows.values()} == {"live"}


def test_force_believes_what_the_user_knows_better(places: Places) -> None:
    with serving(respond) as api, open_catalog(places) as catalog:
        (result,) = catalog.refresh(clouds(api)[1:2], registry=default_registry(), force=True)

    assert result.ok
    with open_catalog(places) as catalog:
        found = catalog.rows(OfferQuery(providers=("verda",), availability=("available",))).dicts()
    assert {(row["instance_type"], row["pricing"]) for row in found} == {
        ("1A100.22V", "on-demand"),
        ("1A100.22V", "spot"),
    }


def test_one_cloud_without_a_good_token_hurts_no_other(places: Places) -> None:
    def picky(request: Request) -> Answer:
        if request.headers.get("authorization") == "Bearer expired":
            return Answer({"id": "unauthorized", "message": "Unable to authenticate you"}, 401)
        return respond(request)

    with serving(picky) as api, open_catalog(places) as catalog:
        first, _, third = catalog.refresh(clouds(api, "expired"), registry=default_registry())

    assert isinstance(first.error, CredentialsError)
    assert third.ok
    with open_catalog(places) as catalog:
        layers = {row["provider"]: row["layer"] for row in catalog.rows(OfferQuery()).dicts()}
    assert (layers["digitalocean"], layers["vastai"]) == ("bundled", "live")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"null", b'{"sizes": null}', b'{"sizes": [{}]}', b"<html>", b'{"sizes": [1]}']
)
def test_a_reply_of_another_shape_is_one_error_and_the_old_prices_stay(places: Places, body: bytes) -> None:
    with serving(lambda request: Answer(body)) as api, open_catalog(places) as catalog:
        results = catalog.refresh(clouds(api), registry=default_registry())

    assert [result.ok for result in results] == [False, False, False]
    for result in results:
        assert result.error is not None
        assert result.error.message.startswith(f"{result.provider}: ")
    with open_catalog(places) as catalog:
        assert {row["layer"] for row in catalog.rows(OfferQuery()).dicts()} == {"bundled"}
