"""DigitalOcean's sizes: shapes of its API description, and the mistakes of the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_api import Answer, Request, serving

from skyward import CredentialsError, Offer
from skyward.http import JSONClient
from skyward.model.accelerator import default_registry
from skyward_digitalocean.prices import fetch, parse

SPEC = Path(__file__).resolve().parents[3] / "shared" / "api-specs" / "digitalocean.openapi.yaml"


def size(**changes: Any) -> dict[str, Any]:
    """As `GET /v2/sizes` gives it."""
    plain = {
        "slug": "s-1vcpu-1gb",
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "transfer": 1.0,
        "price_monthly": 6.0,
        "price_hourly": 0.008929999545216560,
        "regions": ["nyc3", "sfo3"],
        "available": True,
        "description": "Basic",
        "networking_throughput": 2000,
    }
    return {**plain, **changes}


def gpu(slug: str, count: int, model: str | None, total_gib: int, **changes: Any) -> dict[str, Any]:
    info: dict[str, Any] = {"count": count, "vram": {"amount": total_gib, "unit": "gib"}}
    if model:
        info["model"] = model
    shape = {
        "memory": 245_760 * count,
        "vcpus": 20 * count,
        "disk": 720,
        "gpu_info": info,
        "regions": ["nyc2", "tor1"],
    }
    return size(slug=slug, price_hourly=3.39 * count, **{**shape, **changes})


def only(raw: dict[str, Any]) -> Offer:
    (found,) = parse([raw], region="nyc3")
    return found


def test_a_size_is_sold_in_each_of_its_regions() -> None:
    found = list(parse([size()], region="nyc3"))

    assert [(o.region, o.availability) for o in found] == [("nyc3", "available"), ("sfo3", "available")]
    assert {(o.vcpus, o.memory_gib, o.disk_gb, o.usd_per_hour) for o in found} == {(1.0, 1.0, 25.0, 0.00893)}


def test_the_memory_the_api_tells_is_that_of_all_gpus() -> None:
    (offer, _) = parse([gpu("gpu-h100x8-640gb", 8, "nvidia_h100", 640)], region="nyc3")

    assert (offer.accelerator, offer.accelerator_count, offer.accelerator_memory_gib) == (
        "nvidia_h100",
        8.0,
        80.0,
    )
    assert offer.usd_per_hour == pytest.approx(27.12)


@pytest.mark.parametrize(
    ("slug", "count", "model", "total_gib", "name"),
    [
        ("gpu-h100x8-640gb", 8, "nvidia_h100", 640, "H100-SXM"),
        ("gpu-h200x1-141gb", 1, "nvidia_h200", 141, "H200-SXM"),
        ("gpu-mi300x8-1536gb", 8, "amd_mi300x", 1536, "MI300X"),
        ("gpu-mi325x8-2048gb", 8, "amd_mi325x", 2048, "MI325X"),
        ("gpu-6000adax1-48gb", 1, "nvidia_rtx6000_ada", 48, "RTX-6000-Ada"),
        ("gpu-4000adax1-20gb", 1, "nvidia_rtx4000_ada", 20, "RTX-4000-Ada"),
        ("gpu-l40sx1-48gb", 1, "nvidia_l40s", 48, "L40S"),
        ("gpu-mi350x8-2304gb-spot", 8, None, 2304, "MI350X"),
        ("gpu-b300x1-288gb-lc-spot", 1, None, 288, "B300"),
    ],
)
def test_every_gpu_size_resolves_to_its_card(
    slug: str, count: int, model: str | None, total_gib: int, name: str
) -> None:
    offer = next(iter(parse([gpu(slug, count, model, total_gib)], region="nyc3")))

    found = default_registry().resolve(offer.accelerator or "", offer.accelerator_memory_gib, "digitalocean")

    assert found is not None
    assert (found.name, offer.accelerator_count) == (name, float(count))


def test_a_gpu_size_without_gpu_info_is_read_from_its_slug() -> None:
    raw = size(slug="gpu-mi355x8-2304gb-spot", regions=["ric1"], price_hourly=23.76)

    offer = only(raw)

    assert (offer.accelerator, offer.accelerator_count, offer.pricing) == (
        "gpu-mi355x8-2304gb-spot",
        8.0,
        "spot",
    )


def test_spot_is_told_by_the_slug() -> None:
    assert only(gpu("gpu-b300x8-2304gb-spot", 8, None, 2304, regions=["mkc1"])).pricing == "spot"
    assert only(gpu("gpu-h100x1-80gb", 1, "nvidia_h100", 80, regions=["nyc2"])).pricing == "on-demand"


def test_available_without_regions_is_listed_only() -> None:
    offer = only(gpu("gpu-h200x8-1128gb", 8, "nvidia_h200", 1128, regions=[]))

    assert (offer.region, offer.availability) == ("nyc3", "listed")


def test_what_cannot_be_created_is_not_available() -> None:
    assert only(size(available=False, regions=["nyc3"])).availability == "none"


@pytest.mark.parametrize("price", [0, None, 0.0, "0"])
def test_a_price_of_zero_is_unknown(price: Any) -> None:
    assert only(size(price_hourly=price, regions=["nyc3"])).usd_per_hour is None


def pages(total: int, per_page: int) -> Any:
    """Serves `total` sizes in pages that may be shorter than asked for; links name the real cloud's host."""

    def respond(request: Request) -> Answer:
        if request.headers.get("authorization") != "Bearer good":
            return Answer({"id": "unauthorized", "message": "Unable to authenticate you"}, 401)
        page = int(request.params["page"][0])
        first = (page - 1) * per_page
        sizes = [size(slug=f"s-{n}", regions=["nyc3"]) for n in range(first, min(total, first + per_page))]
        links = (
            {"next": f"https://api.digitalocean.com/v2/sizes?page={page + 1}&per_page=200"}
            if first + per_page < total
            else {}
        )
        return Answer({"sizes": sizes, "links": {"pages": links}, "meta": {"total": total}})

    return respond


@pytest.mark.parametrize(("total", "per_page"), [(5, 200), (7, 3), (6, 3), (0, 200)])
def test_every_page_is_read_from_our_own_endpoint(total: int, per_page: int) -> None:
    with serving(pages(total, per_page)) as api:
        found = list(fetch(JSONClient(api.url, name="digitalocean", token="good"), region="nyc3"))

    assert [o.instance_type for o in found] == [f"s-{n}" for n in range(total)]


def test_a_page_link_that_leads_back_ends_the_reading() -> None:
    links = {"pages": {"next": "https://api.digitalocean.com/v2/sizes?page=1"}}
    with serving(lambda request: Answer({"sizes": [size(regions=["nyc3"])], "links": links})) as api:
        assert len(list(fetch(JSONClient(api.url, name="digitalocean", token="good"), region="nyc3"))) == 1


def test_a_wrong_token_is_a_credentials_error() -> None:
    with serving(pages(1, 1)) as api, pytest.raises(CredentialsError, match="Unable to authenticate"):
        list(fetch(JSONClient(api.url, name="digitalocean", token="bad"), region="nyc3"))


def test_our_replies_and_the_official_example_have_the_shape_of_the_official_description() -> None:
    """Against DigitalOcean's OpenAPI description (Apache-2.0), where it lies beside the checkout."""
    if not SPEC.is_file():
        pytest.skip(
            f"SKIPPED LOUDLY: {SPEC.name} is not beside this checkout; DigitalOcean's replies are unverified here"
        )
    yaml, validators = pytest.importorskip("yaml"), pytest.importorskip("jsonschema")
    document = yaml.load(SPEC.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    content = document["components"]["responses"]["all_sizes"]["content"]["application/json"]
    schema = {**content["schema"], "components": document["components"]}
    check = validators.Draft202012Validator(schema).validate
    for page in (1, 2):
        request = Request("GET", "/v2/sizes", {"page": [str(page)]}, {"authorization": "Bearer good"}, b"")
        check(pages(4, 2)(request).body)
    check({"sizes": [gpu("gpu-h100x8-640gb", 8, "nvidia_h100", 640)], "links": {}, "meta": {"total": 1}})

    found = list(parse(content["schema"]["example"]["sizes"], region="nyc3"))

    assert len(found) == len(content["schema"]["example"]["sizes"][0]["regions"])
    assert {(o.instance_type, o.usd_per_hour, o.availability) for o in found} == {
        ("s-1vcpu-1gb", 0.00744, "available")
    }
