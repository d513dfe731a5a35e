"""What Vast.ai costs: a reader of `POST /api/v0/bundles/`, and the calls that fetch both of its markets.

Shapes of replies: vastai 1.9.1, docs.vast.ai and public samples (read 2026-11). What repeats on this marketplace are
machines; the id of an ask is gone tomorrow, so an offer is named after its machine and carries the ask in `details`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from skyward import CredentialsError, Offer
from skyward.http import JSONClient, Reply

SOURCE = "Vast.ai offers API"
MOST_OFFERS = 5000
"""Without a limit the API answers a few rows only."""

DETAILS = ("host_id", "cluster_id", "direct_port_count", "static_ip", "cuda_max_good", "driver_version")
"""What launching or judging an ask needs besides the offer's columns."""

Market = Literal["on-demand", "bid"]


def parse(asks: Iterable[Mapping[str, Any]], market: Market, *, bid_multiplier: float) -> Iterator[Offer]:
    """One offer per ask. In the bidding market the price is what we would bid: the lowest bid times `bid_multiplier`.

    Asks without a machine, a GPU or a size say nothing that could be rented and are left out.
    """
    for ask in asks:
        count, memory_mb = _number(ask, "num_gpus"), _number(ask, "gpu_ram")
        if not count or not memory_mb or not ask.get("gpu_name") or ask.get("machine_id") is None:
            continue
        yield _offer(ask, market, count, memory_mb / 1024, bid_multiplier)


def _offer(
    ask: Mapping[str, Any], market: Market, count: float, memory_gib: float, bid_multiplier: float
) -> Offer:
    floor = _number(ask, "min_bid") if market == "bid" else None
    price = floor * bid_multiplier if floor else _number(ask, "dph_total") if market == "on-demand" else None
    region, zone = _place(str(ask.get("geolocation") or ""))
    cores = _number(ask, "cpu_cores_effective") or _number(ask, "cpu_cores") or 0.0
    return Offer(
        provider="vastai",
        region=region,
        zone=zone,
        instance_type=f"m:{ask['machine_id']}",
        pricing="interruptible" if market == "bid" else "on-demand",
        usd_per_hour=price,
        price_floor=floor,
        vcpus=cores,
        memory_gib=_memory_gib(ask, cores),
        disk_gb=_number(ask, "disk_space"),
        architecture="arm64" if str(ask.get("cpu_arch", "")).startswith(("arm", "aarch")) else "x86_64",
        accelerator=str(ask["gpu_name"]),
        accelerator_count=count,
        accelerator_memory_gib=memory_gib,
        interconnect="NVLink" if _number(ask, "bw_nvlink") else None,
        availability="none" if ask.get("rented") or ask.get("rentable") is False else "available",
        reliability=_number(ask, "reliability2") or _number(ask, "reliability"),
        source=SOURCE,
        details={"ask_id": ask["id"], **{name: ask[name] for name in DETAILS if ask.get(name) is not None}},
    )


def _memory_gib(ask: Mapping[str, Any], cores: float) -> float:
    """Our share of the machine's memory: the API tells all of it, and how many of its cores we get."""
    whole_mb, all_cores = _number(ask, "cpu_ram") or 0.0, _number(ask, "cpu_cores")
    return whole_mb / 1024 * (min(1.0, cores / all_cores) if all_cores and cores else 1.0)


def _place(geolocation: str) -> tuple[str, str | None]:
    """Country and state: "Texas, US" or "Quebec, CA, NA" or ", CN"; without a place it is "unknown"."""
    parts = [part.strip() for part in geolocation.split(",")]
    if len(parts) == 1:
        return parts[0] or "unknown", None
    return parts[1] or "unknown", parts[0] or None


def _number(ask: Mapping[str, Any], name: str) -> float | None:
    """A number above zero; the API mixes numbers, strings and null."""
    try:
        value = float(str(ask.get(name)))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def fetch(api: JSONClient, *, bid_multiplier: float) -> Iterator[Offer]:
    """Every verified machine that can be rented now, on demand and by bid."""
    for market in _MARKETS:
        reply = api.post("/api/v0/bundles/", _search(market), repeatable=True)
        yield from parse(reply.get("offers") or (), market, bid_multiplier=bid_multiplier)


_MARKETS: tuple[Market, ...] = ("on-demand", "bid")


def _search(market: Market) -> dict[str, Any]:
    yes, no = {"eq": True}, {"eq": False}
    return {
        "type": market,
        "verified": yes,
        "rentable": yes,
        "rented": no,
        "external": no,
        "order": [["dph_total", "asc"]],
        "limit": MOST_OFFERS,
    }


def refuses_key(reply: Reply) -> Exception | None:
    """A search with a wrong key is answered 404 "Invalid user key"."""
    if reply.status in (401, 403, 404) and "user key" in reply.text():
        return CredentialsError("vastai: the API key is not accepted", provider="vastai")
    return None
