"""What Verda costs: readers of its instance types and availability, and the calls that fetch them.

Shapes of replies: the verda SDK 1.25.0 and Verda's API documentation (read 2026-11). Prices are strings and have no
region; only availability has. The price history endpoint is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from skyward import Offer
from skyward.http import JSONClient

SOURCE = "Verda instance types API"

Availability = Mapping[str, frozenset[str]]
"""Location -> instance types that can be had there."""


def parse(
    types: Iterable[Mapping[str, Any]],
    locations: Iterable[str],
    *,
    on_demand: Availability,
    spot: Availability,
) -> Iterator[Offer]:
    """One offer per type, location and way of paying. A type that is never sold as spot has no spot offer."""
    places = sorted({*locations, *on_demand, *spot})
    for kind in types:
        name = str(kind["instance_type"])
        price = _usd(kind, "price_per_hour")
        spot_price = _usd(kind, "spot_price", "spot_price_per_hour")
        sold_as_spot = spot_price is not None or any(name in there for there in spot.values())
        for place in places:
            yield _offer(kind, place, "on-demand", price, name in on_demand.get(place, ()))
            if sold_as_spot:
                yield _offer(kind, place, "spot", spot_price, name in spot.get(place, ()))


def availability_of(reply: Iterable[Mapping[str, Any]]) -> Availability:
    """The reply of `/instance-availability`, by location."""
    return {str(item["location_code"]): frozenset(item.get("availabilities") or ()) for item in reply}


def _offer(
    kind: Mapping[str, Any],
    region: str,
    pricing: Literal["on-demand", "spot"],
    price: float | None,
    available: bool,
) -> Offer:
    count = float((kind.get("gpu") or {}).get("number_of_gpus") or 0)
    name = _name(kind) if count else None
    total_gib = (kind.get("gpu_memory") or {}).get("size_in_gigabytes")
    return Offer(
        provider="verda",
        region=region,
        instance_type=str(kind["instance_type"]),
        pricing=pricing,
        usd_per_hour=price,
        vcpus=float(kind["cpu"]["number_of_cores"]),
        memory_gib=float(kind["memory"]["size_in_gigabytes"]),
        architecture="arm64" if name and name.startswith(("GB", "GH")) else "x86_64",
        accelerator=name,
        accelerator_count=count,
        accelerator_memory_gib=float(total_gib) / count if total_gib and count else None,
        availability="available" if available else "none",
        source=SOURCE,
    )


def _name(kind: Mapping[str, Any]) -> str:
    """ "H100 SXM5 80GB"; some types only describe it, with the count in front ("1x H100 SXM5 80GB")."""
    described = str((kind.get("gpu") or {}).get("description") or "")
    return str(kind.get("name") or described.partition("x ")[2] or kind.get("model") or kind["instance_type"])


def _usd(kind: Mapping[str, Any], *fields: str) -> float | None:
    """The first of the fields that holds a price; None where it is zero, missing, no number or another currency."""
    if str(kind.get("currency") or "usd").lower() != "usd":
        return None
    for field in fields:
        try:
            price = float(str(kind.get(field)))
        except ValueError:
            continue
        if 0 < price < float("inf"):
            return price
    return None


def fetch(api: JSONClient) -> Iterator[Offer]:
    """All instance types with today's prices and where they can be had."""
    types = api.get("/instance-types", params={"currency": "usd"})
    locations = [str(place["code"]) for place in api.get("/locations")]
    return parse(
        types,
        locations,
        on_demand=availability_of(api.get("/instance-availability", params=_market(False))),
        spot=availability_of(api.get("/instance-availability", params=_market(True))),
    )


def _market(spot: bool) -> Mapping[str, str]:
    """Both spellings: the SDK says isSpot, other clients is_spot, and the wrong one is ignored without a word."""
    word = "true" if spot else "false"
    return {"isSpot": word, "is_spot": word}


def login(base_url: str, client_id: str, client_secret: str) -> JSONClient:
    """A client with a token of an hour.

    Raises:
        CredentialsError: Verda does not know the id, or the secret is wrong.
    """
    anonymous = JSONClient(base_url, name="verda", secrets=(client_secret,))
    reply = anonymous.post(
        "/oauth2/token",
        {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret},
        repeatable=True,
    )
    return JSONClient(base_url, name="verda", token=str(reply["access_token"]), secrets=(client_secret,))
