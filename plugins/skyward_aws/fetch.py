"""The calls behind EC2's prices: which regions, which types where, on-demand from the price list, spot per zone.

Everything is asked per region and in threads, because a disabled region hangs and a busy one throttles. The
permissions this takes are `PERMISSIONS`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Lock
from typing import Any

from skyward import CredentialsError, Offer, ProviderError
from skyward_aws.errors import aws_errors
from skyward_aws.prices import (
    Prices,
    bulk_prices,
    listed_prices,
    past_offers,
    regional_offers,
    spot_prices,
    zones_of,
)
from skyward_aws.shapes import Shape, shapes_of

PERMISSIONS = (
    "ec2:DescribeCapacityBlockOfferings",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeRegions",
    "ec2:DescribeSpotPriceHistory",
    "pricing:GetProducts",
)

PRICING_REGIONS = ("us-east-1", "eu-central-1", "ap-south-1")
"""The only ones with a Price List endpoint; each answers for all regions (AWS user guide, 2026-11)."""

BULK_URL = "https://pricing.us-east-1.amazonaws.com/offers/v1.0/aws/AmazonEC2/current/{region}/index.csv"

THREADS = 16
PER_CALL = 100
"""Instance types one DescribeInstanceTypes takes at most."""

BLOCK_HOURS = 24
"""The shortest capacity block EC2 sells (user guide, 2026-11)."""

ClientFor = Callable[[str, str], Any]
"""(service, region) -> a boto3 client."""


def client_for(endpoint: str | None = None) -> ClientFor:
    """boto3 clients that give up on a silent region after seconds, and slow down when they are told to."""
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": 6},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=4,
    )
    lock = Lock()

    def make(service: str, region: str) -> Any:
        with lock:  # a session makes clients one at a time
            return session.client(service, region_name=region, endpoint_url=endpoint, config=config)

    return make


def fetch(
    client: ClientFor,
    home: str,
    *,
    regions: Sequence[str] = (),
    bulk_url: str = BULK_URL,
    silent: set[str] | None = None,
) -> Iterator[Offer]:
    """Every way to rent every type in every enabled region.

    A region that does not answer is left out and added to `silent`; `home` must answer.

    Raises:
        CredentialsError, RateLimitError, ProviderError: `home` cannot be asked.
    """
    with aws_errors():
        places = list(regions) or _enabled_regions(client("ec2", home))
    places.sort(key=lambda region: (region != home, region))
    catalogue = _Catalogue(client, home, bulk_url, set() if silent is None else silent)
    first = catalogue.region(home)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="aws-prices") as threads:
        others = threads.map(catalogue.region_if_it_answers, (place for place in places if place != home))
        yield from first
        for offers in others:
            yield from offers


def fetch_past(
    client: ClientFor, home: str, since: datetime, *, regions: Sequence[str] = ()
) -> Iterator[Offer]:
    """What spot prices were since then of every type with accelerators, in every region that answers.

    All types together have a million changes in 90 days, those with accelerators some ten thousand.

    Raises:
        CredentialsError, RateLimitError, ProviderError: `home` cannot be asked.
    """
    with aws_errors():
        places = list(regions) or _enabled_regions(client("ec2", home))
    catalogue = _Catalogue(client, home, BULK_URL, set())
    yield from catalogue.past(home, since)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="aws-prices") as threads:
        others = (place for place in places if place != home)
        for offers in threads.map(lambda region: catalogue.past_if_it_answers(region, since), others):
            yield from offers


def _enabled_regions(ec2: Any) -> list[str]:
    return [item["RegionName"] for item in ec2.describe_regions()["Regions"]]


class _Catalogue:
    """What is shared between regions: shapes already described, and where prices may be asked."""

    def __init__(self, client: ClientFor, home: str, bulk_url: str, silent: set[str]) -> None:
        self._client = client
        self._home = home
        self._bulk_url = bulk_url
        self._silent = silent
        self._shapes: dict[str, Shape] = {}
        self._described: set[str] = set()
        self._lock = Lock()

    def region_if_it_answers(self, region: str) -> list[Offer]:
        return self._if_it_answers(region, lambda: self.region(region))

    def past_if_it_answers(self, region: str, since: datetime) -> list[Offer]:
        return self._if_it_answers(region, lambda: self.past(region, since))

    def _if_it_answers(self, region: str, ask: Callable[[], list[Offer]]) -> list[Offer]:
        try:
            return ask()
        except ProviderError as error:
            logging.getLogger("skyward_aws").warning("%s is left out: %s", region, error)
            self._silent.add(region)
            return []

    def past(self, region: str, since: datetime) -> list[Offer]:
        """The spot prices one region had."""
        with aws_errors():
            ec2 = self._client("ec2", region)
            offered = zones_of(_offerings(ec2, "region"))
            self._describe(ec2, offered)
            known = (self._shapes[name] for name in offered if name in self._shapes)
            names = sorted(shape.instance_type for shape in known if shape.accelerator)
            return list(past_offers(region, self._shapes, _spot_history(ec2, since, names) if names else ()))

    def region(self, region: str) -> list[Offer]:
        """All offers of one region."""
        with aws_errors():
            ec2 = self._client("ec2", region)
            offered = zones_of(_offerings(ec2, "region"))
            zones = zones_of(_offerings(ec2, "availability-zone-id"))
            names = zones_of(_offerings(ec2, "availability-zone"))
            self._describe(ec2, offered)
            spot = spot_prices(_spot_history(ec2))
        return list(
            regional_offers(
                region,
                self._shapes,
                {kind: [*zones.get(kind, ()), *names.get(kind, ())] for kind in offered},
                on_demand=self._on_demand(region),
                spot=spot,
                blocks=self._blocks(ec2, region, offered),
            )
        )

    def _blocks(self, ec2: Any, region: str, offered: Iterable[str]) -> list[Mapping[str, Any]]:
        """Capacity blocks of one machine for a day. Nobody's prices depend on them: where they cannot be asked there
        are none."""
        shapes = (self._shapes.get(name) for name in sorted(offered))
        names = [shape.instance_type for shape in shapes if shape and "capacity-block" in shape.markets]
        try:
            with aws_errors():
                return [block for name in names for block in _block_offerings(ec2, name)]
        except ProviderError as error:
            logging.getLogger("skyward_aws").info("no capacity blocks of %s: %s", region, error)
            return []

    def _describe(self, ec2: Any, names: Iterable[str]) -> None:
        """Learns the shapes of types no region has described yet; they are the same everywhere."""
        with self._lock:  # or another region would go on without the types that are being asked for
            unknown = sorted(set(names) - self._described)
            for chunk in _chunks(unknown, PER_CALL):
                self._shapes.update(
                    shapes_of(ec2.describe_instance_types(InstanceTypes=chunk)["InstanceTypes"])
                )
            self._described |= set(unknown)

    def _on_demand(self, region: str) -> Prices:
        """The list prices of a region; from the public file where the account may not ask, and only at home."""
        pricing = self._client(
            "pricing", next((r for r in PRICING_REGIONS if r[:2] == self._home[:2]), PRICING_REGIONS[0])
        )
        try:
            with aws_errors():
                found = listed_prices(_products(pricing, region))
                return {kind: price for where, kind, price in found if where == region}
        except CredentialsError:
            if region != self._home:
                return {}
            return self._bulk(region)

    def _bulk(self, region: str) -> Prices:
        with _lines(self._bulk_url.format(region=region)) as lines:
            return {kind: price for where, kind, price in bulk_prices(lines) if where == region}


def _chunks(names: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(names[start : start + size]) for start in range(0, len(names), size))


def _offerings(ec2: Any, location: str) -> Iterator[Mapping[str, Any]]:
    for page in ec2.get_paginator("describe_instance_type_offerings").paginate(LocationType=location):
        yield from page["InstanceTypeOfferings"]


def _spot_history(
    ec2: Any, since: datetime | None = None, names: Sequence[str] = ()
) -> Iterator[Mapping[str, Any]]:
    """The price now of each type and zone, or every price since then. Pages may be short or empty; an empty token
    ends them."""
    asked = {"ProductDescriptions": ["Linux/UNIX"], "StartTime": since or datetime.now(UTC)}
    token = ""
    while True:
        page = ec2.describe_spot_price_history(
            **asked,
            **({"InstanceTypes": list(names)} if names else {}),
            **({"NextToken": token} if token else {}),
        )
        yield from page.get("SpotPriceHistory", ())
        following = page.get("NextToken", "")
        if not following or following == token:
            return
        token = following


def _block_offerings(ec2: Any, name: str) -> Iterator[Mapping[str, Any]]:
    pages = ec2.get_paginator("describe_capacity_block_offerings").paginate(
        InstanceType=name, InstanceCount=1, CapacityDurationHours=BLOCK_HOURS
    )
    for page in pages:
        yield from page["CapacityBlockOfferings"]


_FILTERS = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}


def _products(pricing: Any, region: str) -> Iterator[str]:
    filters = [
        {"Type": "TERM_MATCH", "Field": field, "Value": value}
        for field, value in {**_FILTERS, "regionCode": region}.items()
    ]
    pages = pricing.get_paginator("get_products").paginate(
        ServiceCode="AmazonEC2", FormatVersion="aws_v1", Filters=filters
    )
    for page in pages:
        yield from page["PriceList"]


class _lines:
    """The lines of a file on the web, read as they come: a region's price file has hundreds of megabytes."""

    def __init__(self, url: str) -> None:
        import urllib3

        try:
            self._reply = urllib3.request(
                "GET", url, preload_content=False, timeout=urllib3.Timeout(10, 60), retries=2
            )
        except urllib3.exceptions.HTTPError as error:
            raise ProviderError(f"aws: the price file {url} cannot be read", provider="aws") from error
        if self._reply.status != 200:
            raise ProviderError(f"aws: the price file {url} answered {self._reply.status}", provider="aws")

    def __enter__(self) -> Iterator[str]:
        # Or it is closed under the wrapper as soon as its last byte was read.
        self._reply.auto_close = False  # type: ignore[attr-defined]
        return io.TextIOWrapper(self._reply, encoding="utf-8", newline="")  # type: ignore[type-var]

    def __exit__(self, *_: object) -> None:
        self._reply.close()
