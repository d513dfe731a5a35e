"""What DigitalOcean costs: a reader of `GET /v2/sizes`, and the call that fetches all its pages.

Shapes of replies: DigitalOcean's OpenAPI description (snapshot of 2026-08-07) and dumps of GPU sizes of 2026-10.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from skyward import Offer
from skyward.http import JSONClient

PAGE = 200
MOST_PAGES = 100
SOURCE = "DigitalOcean sizes API"

_COUNT_IN_SLUG = re.compile(r"x(\d+)-")


def parse(sizes: Iterable[Mapping[str, Any]], *, region: str) -> Iterator[Offer]:
    """One offer per size and region it is sold in.

    A size without regions is listed, but not for this account or not now: one offer in `region`, whose
    availability is `listed`. Slugs that end in `-spot` are spot.
    """
    for size in sizes:
        regions = tuple(size.get("regions") or ())
        sold = "available" if size.get("available") else "none"
        for place in regions or (region,):
            yield _offer(size, place, sold if regions else "listed")


def _offer(size: Mapping[str, Any], region: str, availability: Any) -> Offer:
    slug = str(size["slug"])
    name, count, memory_gib = _accelerator(size)
    return Offer(
        provider="digitalocean",
        region=region,
        instance_type=slug,
        pricing="spot" if slug.endswith("-spot") else "on-demand",
        usd_per_hour=_usd(size.get("price_hourly")),
        vcpus=float(size["vcpus"]),
        memory_gib=float(size["memory"]) / 1024,
        disk_gb=float(size["disk"]) or None,
        accelerator=name,
        accelerator_count=count,
        accelerator_memory_gib=memory_gib,
        availability=availability,
        source=SOURCE,
    )


def _accelerator(size: Mapping[str, Any]) -> tuple[str | None, float, float | None]:
    """Model, count and GiB of one GPU. The API tells the memory of the whole droplet; a spot size may lack the model."""
    gpu = size.get("gpu_info") or {}
    slug = str(size["slug"])
    if not gpu and not slug.startswith("gpu-"):
        return None, 0.0, None
    written = _COUNT_IN_SLUG.search(slug)
    count = float(gpu.get("count") or (written[1] if written else 1))
    total_gib = (gpu.get("vram") or {}).get("amount")
    return str(gpu.get("model") or slug), count, float(total_gib) / count if total_gib else None


def _usd(value: object) -> float | None:
    """A price; the API's numbers are 32-bit floats (0.00743999984115362). Zero is unknown."""
    price = round(float(str(value or 0)), 6)
    return price if price > 0 else None


def fetch(api: JSONClient, *, region: str) -> Iterator[Offer]:
    """All sizes, every page. A page link is followed by its number only: it may name another host."""
    page = 1
    for _ in range(MOST_PAGES):
        reply = api.get("/v2/sizes", params={"page": page, "per_page": PAGE})
        yield from parse(reply.get("sizes", ()), region=region)
        following = _next_page(reply)
        if following is None or following <= page:
            return
        page = following


def _next_page(reply: Mapping[str, Any]) -> int | None:
    link = ((reply.get("links") or {}).get("pages") or {}).get("next")
    number = parse_qs(urlsplit(str(link)).query).get("page", [""])[0] if link else ""
    return int(number) if number.isdigit() else None
