"""What EC2 costs: readers of its price list, spot history and offerings, and the calls that fetch them.

The readers are pure and take what the APIs really answer: prices as strings, price lists as JSON inside JSON,
pages that are short or end in an empty token. Sources: botocore 1.44.5 service models and the price list file
format of `offers/v1.0/aws/AmazonEC2` (both read 2026-11).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyward import Offer
from skyward_aws.shapes import Shape

PREAMBLE_LINES = 5
"""Rows before the header of a bulk price file."""

Prices = dict[str, float]
"""Instance type -> USD per hour."""


# -- reading ---------------------------------------------------------------------------------------------------


def usd(text: object) -> float | None:
    """A price as the APIs write it; None where it is missing, zero or no number."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


_BULK = {
    "TermType": {"OnDemand"},
    "Tenancy": {"Shared"},
    "Operating System": {"Linux"},
    "CapacityStatus": {"Used"},
    "Unit": {"Hrs"},
    "Currency": {"USD"},
    "Pre Installed S/W": {"", "NA"},
    "MarketOption": {"OnDemand", ""},
}
"""The one product that is an hour of a plain Linux machine; a type has dozens of others."""


def bulk_prices(lines: Iterable[str]) -> Iterator[tuple[str, str, float]]:
    """(region, instance type, USD per hour) out of a bulk price file, line by line; it may be gigabytes long."""
    rows = iter(lines)
    for _ in range(PREAMBLE_LINES):
        next(rows, None)
    for row in csv.DictReader(rows):
        if all(row.get(column, "") in values for column, values in _BULK.items() if column in row):
            price = usd(row.get("PricePerUnit"))
            if price is not None and row.get("Instance Type"):
                yield row.get("Region Code", ""), row["Instance Type"], price


def listed_prices(price_list: Iterable[str | Mapping[str, Any]]) -> Iterator[tuple[str, str, float]]:
    """(region, instance type, USD per hour) out of `PriceList` of GetProducts, whose items are JSON strings."""
    for item in price_list:
        product = json.loads(item) if isinstance(item, str) else item
        attributes = product.get("product", {}).get("attributes", {})
        for term in product.get("terms", {}).get("OnDemand", {}).values():
            for dimension in term.get("priceDimensions", {}).values():
                price = usd(dimension.get("pricePerUnit", {}).get("USD"))
                if price is not None and dimension.get("unit") == "Hrs" and "instanceType" in attributes:
                    yield attributes.get("regionCode", ""), attributes["instanceType"], price


def spot_prices(history: Iterable[Mapping[str, Any]]) -> dict[str, dict[tuple[str, str], float]]:
    """Instance type -> (zone id, zone name) -> USD per hour; of several prices of one place the newest."""
    newest: dict[tuple[str, str, str], Any] = {}
    found: dict[str, dict[tuple[str, str], float]] = {}
    for item in history:
        name = item.get("AvailabilityZone", "")
        place = (item.get("AvailabilityZoneId") or name, name)
        price, key = usd(item.get("SpotPrice")), (item["InstanceType"], *place)
        if price is None or (key in newest and newest[key] >= item["Timestamp"]):
            continue
        newest[key] = item["Timestamp"]
        found.setdefault(item["InstanceType"], {})[place] = price
    return found


def zones_of(offerings: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Instance type -> places, out of `InstanceTypeOfferings`, in order."""
    found: dict[str, set[str]] = {}
    for item in offerings:
        found.setdefault(item["InstanceType"], set()).add(item["Location"])
    return {name: sorted(places) for name, places in found.items()}


# -- offers ----------------------------------------------------------------------------------------------------


def regional_offers(
    region: str,
    shapes: Mapping[str, Shape],
    zones: Mapping[str, Sequence[str]],
    *,
    on_demand: Mapping[str, float],
    spot: Mapping[str, Mapping[tuple[str, str], float]],
    blocks: Iterable[Mapping[str, Any]] = (),
    source: str = "EC2 price list and spot price history",
) -> Iterator[Offer]:
    """Every way to rent every type offered in a region; a price nobody told is unknown.

    Spot is one offer per zone whose price is known, else one of the region without a price. A capacity block is
    paid ahead as a whole; its price is that of one of its hours, and of several in a zone the lowest.
    """
    yield from _block_offers(region, shapes, blocks)
    for name in sorted(zones):
        shape = shapes.get(name)
        if shape is None:
            continue
        places = tuple(zones[name])
        if "on-demand" in shape.markets:
            yield _offer(shape, region, "on-demand", on_demand.get(name), source, zones=places)
        if "spot" not in shape.markets:
            continue
        for (zone_id, zone_name), price in sorted(spot.get(name, {}).items()):
            yield _offer(shape, region, "spot", price, source, zone=zone_id, zones=(zone_id, zone_name))
        if not spot.get(name):
            yield _offer(shape, region, "spot", None, source, zones=places)


def _block_offers(
    region: str, shapes: Mapping[str, Shape], blocks: Iterable[Mapping[str, Any]]
) -> Iterator[Offer]:
    best: dict[tuple[str, str], tuple[float, Mapping[str, Any]]] = {}
    for block in blocks:
        fee, hours = usd(block.get("UpfrontFee")), block.get("CapacityBlockDurationHours") or 0
        place = (str(block.get("InstanceType")), str(block.get("AvailabilityZone")))
        if fee is None or not hours or place[0] not in shapes or block.get("CurrencyCode", "USD") != "USD":
            continue
        price = fee / hours / (block.get("InstanceCount") or 1)
        if place not in best or price < best[place][0]:
            best[place] = (price, block)
    for (name, zone), (price, block) in sorted(best.items(), key=lambda item: item[0]):
        offer = _offer(
            shapes[name],
            region,
            "capacity-block",
            price,
            "EC2 capacity block offerings",
            zone=zone,
            zones=(zone,),
        )
        yield replace(offer, availability="available", details=_block_details(block))


def _block_details(block: Mapping[str, Any]) -> dict[str, Any]:
    """What buying it takes, and what it holds."""
    dates = {
        key: block[name].isoformat()
        for key, name in (("start", "StartDate"), ("end", "EndDate"))
        if name in block
    }
    return {
        "capacity_block_offering_id": block.get("CapacityBlockOfferingId"),
        "hours": block["CapacityBlockDurationHours"],
        "upfront_usd": usd(block.get("UpfrontFee")),
        **dates,
    }


def past_offers(
    region: str, shapes: Mapping[str, Shape], history: Iterable[Mapping[str, Any]]
) -> Iterator[Offer]:
    """One spot offer per entry of `SpotPriceHistory`, observed when its price began to hold."""
    for item in history:
        shape, price = shapes.get(item["InstanceType"]), usd(item.get("SpotPrice"))
        name = item.get("AvailabilityZone", "")
        zone = item.get("AvailabilityZoneId") or name
        if shape is not None and price is not None:
            offer = _offer(
                shape, region, "spot", price, "EC2 spot price history", zone=zone, zones=(zone, name)
            )
            yield replace(offer, observed_at=item["Timestamp"])


def _offer(
    shape: Shape,
    region: str,
    pricing: Any,
    price: float | None,
    source: str,
    *,
    zone: str | None = None,
    zones: tuple[str, ...] = (),
) -> Offer:
    return Offer(
        provider="aws",
        region=region,
        zone=zone,
        zones=tuple(dict.fromkeys(zones)),
        instance_type=shape.instance_type,
        pricing=pricing,
        usd_per_hour=price,
        vcpus=shape.vcpus,
        memory_gib=shape.memory_gib,
        architecture=shape.architecture,
        accelerator=shape.accelerator,
        accelerator_count=shape.accelerator_count,
        accelerator_memory_gib=shape.accelerator_memory_gib,
        availability="listed",
        source=source,
    )
