"""What machines cost in the simulated EC2, how many there are, and how many the account may have."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from skyward.testing.ec2_launch import UNLIMITED, Refusal

Pool = tuple[str, str, str]
"""(instance type, zone, market)."""

QUOTAS: Mapping[str, tuple[str, str, re.Pattern[str]]] = {
    code: (name, market, re.compile(pattern))
    for code, name, market, pattern in (
        (
            "L-1216C47A",
            "Running On-Demand Standard instances",
            "on-demand",
            r"(?!inf|trn|dl|hpc|mac)[acdhimrtz]\w*",
        ),
        (
            "L-34B43A08",
            "All Standard Spot Instance Requests",
            "spot",
            r"(?!inf|trn|dl|hpc|mac)[acdhimrtz]\w*",
        ),
        ("L-DB2E81BA", "Running On-Demand G and VT instances", "on-demand", r"g\w*|vt\w*"),
        ("L-3819A6DF", "All G and VT Spot Instance Requests", "spot", r"g\w*|vt\w*"),
        ("L-417A185B", "Running On-Demand P instances", "on-demand", r"p\d\w*(-\w+)?"),
        ("L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests", "spot", r"p[2-4]\w*(-\w+)?"),
        ("L-C4BD4855", "All P5 Spot Instance Requests", "spot", r"p[5-9]\w*(-\w+)?"),
        ("L-2C3B7624", "Running On-Demand Trn instances", "on-demand", r"trn\w*(-\w+)?"),
        ("L-6B0D517C", "All Trn Spot Instance Requests", "spot", r"trn\w*(-\w+)?"),
        ("L-1945791B", "Running On-Demand Inf instances", "on-demand", r"inf\w*"),
        ("L-B5D1601B", "All Inf Spot Instance Requests", "spot", r"inf\w*"),
        ("L-7295265B", "Running On-Demand X instances", "on-demand", r"[xu]\w*(-\w+)?"),
        ("L-E3A00192", "All X Spot Instance Requests", "spot", r"[xu]\w*(-\w+)?"),
    )
}
"""Quotas in vCPUs by their codes: name, market, families. AWS General Reference, "Amazon EC2 endpoints and quotas"
(2026-11)."""
DEFAULT_QUOTA = 1_000_000.0


class Market:
    """Prices, capacity and quotas. What was never set is plentiful."""

    def __init__(self, vcpus: Callable[[str], int], zones: Callable[[str], Iterable[str]]) -> None:
        self._vcpus, self._zones = vcpus, zones
        self._capacity: dict[tuple[str | None, str | None, str | None], int] = {}
        self._prices: dict[tuple[str | None, str | None, str | None], float] = {}
        self._lock = threading.RLock()
        self.quotas: dict[str, float] = dict.fromkeys(QUOTAS, DEFAULT_QUOTA)
        """By code, in vCPUs."""

    # -- capacity -------------------------------------------------------------------------------------------------

    def set_capacity(self, count: int | None, key: tuple[str | None, str | None, str | None]) -> None:
        with self._lock:
            if count is None:
                self._capacity.pop(key, None)
            else:
                self._capacity[key] = count

    def free(self, pool: Pool) -> int:
        with self._lock:
            return max(
                0, min((n for key, n in self._capacity.items() if _covers(key, pool)), default=UNLIMITED)
            )

    def take(self, pool: Pool, count: int) -> None:
        with self._lock:
            for key in self._capacity:
                if _covers(key, pool):
                    self._capacity[key] -= count

    # -- quotas ---------------------------------------------------------------------------------------------------

    def allowed(self, instance_type: str, market: str, running: Iterable[str]) -> int:
        """How many more the account may have beside those that run (their types, of the same market)."""
        code = quota_code(instance_type, market)
        each = self._vcpus(instance_type)
        if code is None or not each:
            return UNLIMITED
        used = sum(self._vcpus(other) for other in running if quota_code(other, market) == code)
        return max(0, int((self.quotas[code] - used) // each))

    # -- prices ---------------------------------------------------------------------------------------------------

    def set_price(self, usd_per_hour: float, key: tuple[str | None, str | None, str | None]) -> None:
        with self._lock:
            self._prices[key] = usd_per_hour

    def price(self, pool: Pool) -> float:
        """USD per hour. Made up where it was not set: by size, cheaper on spot, another in each zone, always the same."""
        instance_type, zone, market = pool
        with self._lock:
            for key in sorted(self._prices, key=lambda key: sum(part is None for part in key)):
                if _covers(key, pool):
                    return self._prices[key]
        on_demand = 0.05 * max(1, self._vcpus(instance_type))
        if market != "spot":
            return round(on_demand, 4)
        wobble = hashlib.sha256(f"{instance_type}/{zone}".encode()).digest()[0] / 2560
        return round(on_demand * (0.3 + wobble), 4)

    def spot_history(self, region: str, types: Iterable[str], when: str) -> list[dict[str, Any]]:
        """Rows of DescribeSpotPriceHistory."""
        return [
            {
                "availabilityZone": zone,
                "instanceType": instance_type,
                "productDescription": "Linux/UNIX",
                "spotPrice": f"{self.price((instance_type, zone, 'spot')):.6f}",
                "timestamp": when,
            }
            for instance_type in types
            for zone in self._zones(region)
        ]

    def products(self, region: str, types: Iterable[str]) -> list[str]:
        """Rows of GetProducts: JSON in JSON, as the real one has it."""
        return [json.dumps(self._product(region, instance_type)) for instance_type in types]

    def _product(self, region: str, instance_type: str) -> dict[str, Any]:
        price = self.price((instance_type, f"{region}a", "on-demand"))
        dimension = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price:.10f}"}, "description": instance_type}
        attributes = {
            "instanceType": instance_type,
            "regionCode": region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "marketoption": "OnDemand",
            "vcpu": str(self._vcpus(instance_type)),
        }
        return {
            "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": instance_type},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {"term": {"priceDimensions": {"rate": dimension}, "sku": instance_type}}},
        }


def quota_code(instance_type: str, market: str) -> str | None:
    """The quota that counts this type, if any is known."""
    family = instance_type.partition(".")[0]
    for code, (_, of, pattern) in QUOTAS.items():
        if of == market and pattern.fullmatch(family):
            return code
    return None


def no_capacity(instance_type: str, zone: str) -> Refusal:
    return Refusal(
        "InsufficientInstanceCapacity",
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). "
        "Our system will be working on provisioning additional capacity.",
    )


def over_quota(instance_type: str, market: str) -> Refusal:
    if market == "spot":
        return Refusal("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    return Refusal(
        "VcpuLimitExceeded",
        f"You have requested more vCPU capacity than your current vCPU limit allows for the instance bucket that the "
        f"specified instance type belongs to ({instance_type}). Please visit http://aws.amazon.com/contact-us/ec2-request "
        "to request an adjustment to this limit.",
    )


def bid_too_low(bid: float, price: float) -> Refusal:
    return Refusal(
        "SpotMaxPriceTooLow",
        f"Your Spot request price of {bid} is lower than the minimum required Spot request fulfillment price of {price}.",
    )


def not_in_zone(instance_type: str, zone: str) -> Refusal:
    return Refusal(
        "Unsupported",
        f"Your requested instance type ({instance_type}) is not supported in your requested Availability Zone ({zone}).",
    )


def _covers(key: tuple[str | None, str | None, str | None], pool: Pool) -> bool:
    return all(wanted is None or wanted == given for wanted, given in zip(key, pool, strict=True))
