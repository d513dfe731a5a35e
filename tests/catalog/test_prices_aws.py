"""EC2's shapes and prices as the APIs write them, and unmodified boto3 against a server on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from fake_api import Answer, serving

from skyward import CapacityError, CredentialsError, Offer, ProviderError, QuotaError, RateLimitError
from skyward_aws.errors import aws_errors
from skyward_aws.fetch import client_for, fetch, fetch_past
from skyward_aws.prices import bulk_prices, listed_prices, regional_offers, spot_prices, usd, zones_of
from skyward_aws.shapes import corrections, shape_of, shapes_of

# -- shapes --------------------------------------------------------------------------------------------------------


def described(name: str, **changes: Any) -> dict[str, Any]:
    """One of `InstanceTypes`, trimmed."""
    plain = {
        "InstanceType": name,
        "VCpuInfo": {"DefaultVCpus": 4},
        "MemoryInfo": {"SizeInMiB": 16384},
        "ProcessorInfo": {"SupportedArchitectures": ["x86_64"]},
        "SupportedUsageClasses": ["on-demand", "spot"],
        "NetworkInfo": {"NetworkPerformance": "Up to 10 Gigabit"},
    }
    return {**plain, **changes}


def gpus(name: str, count: int, mib: int, **more: Any) -> dict[str, Any]:
    return {"GpuInfo": {"Gpus": [{"Name": name, "Count": count, "MemoryInfo": {"SizeInMiB": mib}, **more}]}}


@pytest.mark.parametrize(
    ("name", "share", "mib"),
    [("g6f.large", 0.125, 2861), ("g6f.2xlarge", 0.25, 5722), ("gr6f.4xlarge", 0.5, 11444)],
)
def test_a_slice_of_an_l4_has_count_0_in_the_api(name: str, share: float, mib: int) -> None:
    shape = shape_of(described(name, **gpus("L4", 0, mib, LogicalGpuCount=1, GpuPartitionSize=share)))

    assert shape is not None
    assert (shape.accelerator, shape.accelerator_count) == ("L4", share)
    assert shape.accelerator_memory_gib == pytest.approx(22.35, abs=0.01), "memory of the whole card"


def test_the_table_of_corrections_agrees_with_the_rule_for_slices() -> None:
    shares = {
        fact.instance_type: float(fact.value)
        for fact in corrections()
        if fact.instance_type.startswith(("g6f", "gr6f"))
    }

    assert len(shares) == 5
    for name, share in shares.items():
        by_rule = shape_of(
            described(f"x{name}", **gpus("L4", 0, 2861, LogicalGpuCount=1, GpuPartitionSize=share))
        )
        assert by_rule is not None
        assert by_rule.accelerator_count == share


def test_a_trainium2_has_96_gib_where_the_api_says_512() -> None:
    device = {"Name": "Trainium2", "Count": 16, "MemoryInfo": {"SizeInMiB": 524288}}
    shape = shape_of(described("trn2.48xlarge", NeuronInfo={"NeuronDevices": [device]}))

    assert shape is not None
    assert (shape.accelerator_count, shape.accelerator_memory_gib) == (16.0, 96.0)


def test_a_trn2u_has_trainium_the_api_does_not_tell() -> None:
    shape = shape_of(described("trn2u.48xlarge"))

    assert shape is not None
    assert (shape.accelerator, shape.accelerator_count, shape.accelerator_memory_gib) == (
        "Trainium2",
        16.0,
        96.0,
    )


def test_inferentia_is_counted_once_although_listed_twice() -> None:
    device = {"Name": "Inferentia2", "Count": 12, "MemoryInfo": {"SizeInMiB": 32768}}
    shape = shape_of(
        described(
            "inf2.48xlarge",
            NeuronInfo={"NeuronDevices": [device]},
            InferenceAcceleratorInfo={"Accelerators": [device]},
        )
    )

    assert shape is not None
    assert (shape.accelerator, shape.accelerator_count) == ("Inferentia2", 12.0)


def test_machines_by_the_day_are_left_out_and_old_ones_are_64_bit() -> None:
    shapes = shapes_of(
        [
            described("mac2.metal", ProcessorInfo={"SupportedArchitectures": ["arm64_mac"]}),
            described("m1.small", ProcessorInfo={"SupportedArchitectures": ["i386", "x86_64"]}),
            described("c7g.large", ProcessorInfo={"SupportedArchitectures": ["arm64"]}),
        ]
    )

    assert {name: shape.architecture for name, shape in shapes.items()} == {
        "m1.small": "x86_64",
        "c7g.large": "arm64",
    }


def test_every_correction_says_why_and_whence() -> None:
    for fact in corrections():
        assert fact.reason
        assert fact.source
        assert fact.observed_on.startswith("20")


# -- prices ----------------------------------------------------------------------------------------------------------

BULK = """"FormatVersion","v1.0"
"Disclaimer","This pricing list is for informational purposes only."
"Publication Date","2026-11-18T01:00:00Z"
"Version","20261118010000"
"OfferCode","AmazonEC2"
"SKU","TermType","PriceDescription","Unit","PricePerUnit","Currency","Location","Region Code","Instance Type","Tenancy","Operating System","CapacityStatus","Pre Installed S/W","MarketOption"
"A","OnDemand","$0.1008 per On Demand Linux m7i.large","Hrs","0.1008000000","USD","US East","us-east-1","m7i.large","Shared","Linux","Used","NA","OnDemand"
"B","OnDemand","$0.00 per Reservation Linux m7i.large","Hrs","0.0000000000","USD","US East","us-east-1","m7i.large","Shared","Linux","AllocatedCapacityReservation","NA","OnDemand"
"K","OnDemand","$0.1111 per Unused Reservation Linux m7i.large","Hrs","0.1111000000","USD","US East","us-east-1","m7i.large","Shared","Linux","UnusedCapacityReservation","NA","OnDemand"
"C","OnDemand","Windows","Hrs","0.1928000000","USD","US East","us-east-1","m7i.large","Shared","Windows","Used","NA","OnDemand"
"D","OnDemand","SQL","Hrs","0.5000000000","USD","US East","us-east-1","m7i.large","Shared","Linux","Used","SQL Std","OnDemand"
"E","OnDemand","Dedicated","Hrs","0.1109000000","USD","US East","us-east-1","m7i.large","Dedicated","Linux","Used","NA","OnDemand"
"F","Reserved","Reserved","Hrs","0.0600000000","USD","US East","us-east-1","m7i.large","Shared","Linux","Used","NA","OnDemand"
"G","OnDemand","Storage","GB-Mo","0.0800000000","USD","US East","us-east-1","","","","","",""
"H","OnDemand","Yuan","Hrs","0.9000000000","CNY","Beijing","cn-north-1","m7i.large","Shared","Linux","Used","NA","OnDemand"
"I","OnDemand","Block","Hrs","31.0000000000","USD","US East","us-east-1","p5.48xlarge","Shared","Linux","Used","NA","CapacityBlock"
"J","OnDemand","$55.04 per On Demand Linux p5.48xlarge","Hrs","55.0400000000","USD","US East","us-east-1","p5.48xlarge","Shared","Linux","Used","","OnDemand"
"""


def test_of_a_bulk_file_only_the_plain_hour_is_read() -> None:
    assert list(bulk_prices(BULK.splitlines(keepends=True))) == [
        ("us-east-1", "m7i.large", 0.1008),
        ("us-east-1", "p5.48xlarge", 55.04),
    ]


@pytest.mark.parametrize("lines", [0, 3, 5, 6])
def test_a_bulk_file_that_was_cut_has_fewer_prices_and_no_wrong_ones(lines: int) -> None:
    assert list(bulk_prices(BULK.splitlines(keepends=True)[:lines])) == []


def product(name: str, price: str, region: str = "us-east-1", unit: str = "Hrs") -> str:
    """One item of `PriceList`: JSON in a string, prices as strings."""
    dimension = {"unit": unit, "pricePerUnit": {"USD": price}, "description": "..."}
    return json.dumps(
        {
            "product": {
                "productFamily": "Compute Instance",
                "attributes": {"instanceType": name, "regionCode": region},
            },
            "serviceCode": "AmazonEC2",
            "terms": {
                "OnDemand": {
                    "SKU.JRTCKXETXF": {
                        "priceDimensions": {"SKU.JRTCKXETXF.6YS6EN2CT7": dimension},
                        "effectiveDate": "2026-11-01T00:00:00Z",
                    }
                }
            },
        }
    )


def test_list_prices_are_json_in_strings() -> None:
    items = [
        product("m7i.large", "0.1008000000"),
        product("p5e.48xlarge", "0.0000000000"),
        product("x", "1", unit="Quantity"),
        "{}",
    ]

    assert list(listed_prices(items)) == [("us-east-1", "m7i.large", 0.1008)]


def seen(
    name: str, price: str, zone: str = "us-east-1a", zone_id: str | None = "use1-az1", minutes: int = 0
) -> dict[str, Any]:
    item = {
        "InstanceType": name,
        "SpotPrice": price,
        "AvailabilityZone": zone,
        "ProductDescription": "Linux/UNIX",
        "Timestamp": datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minutes),
    }
    return {**item, "AvailabilityZoneId": zone_id} if zone_id else item


def test_of_spot_prices_the_newest_of_each_zone_counts() -> None:
    found = spot_prices(
        [
            seen("g5.xlarge", "0.40", minutes=5),
            seen("g5.xlarge", "0.50", minutes=1),
            seen("g5.xlarge", "0.45", "us-east-1b", "use1-az2"),
            seen("g5.xlarge", "0.00", "us-east-1c", "use1-az3"),
            seen("m1.small", "0.01", "us-east-1d", None),
        ]
    )

    assert found == {
        "g5.xlarge": {("use1-az1", "us-east-1a"): 0.40, ("use1-az2", "us-east-1b"): 0.45},
        "m1.small": {("us-east-1d", "us-east-1d"): 0.01},
    }


@pytest.mark.parametrize("text", ["", None, "free", "0", "0.000", "-1", "inf", "nan"])
def test_what_is_no_price_is_none(text: Any) -> None:
    assert usd(text) is None


def test_a_region_is_on_demand_once_and_spot_per_zone() -> None:
    shapes = shapes_of(
        [
            described("g5.xlarge", **gpus("A10G", 1, 22888)),
            described("t3.micro"),
            described("u-24tb1.metal", SupportedUsageClasses=["on-demand"]),
        ]
    )
    offers = list(
        regional_offers(
            "us-east-1",
            shapes,
            {
                "g5.xlarge": ["use1-az1", "use1-az2"],
                "t3.micro": ["use1-az1"],
                "u-24tb1.metal": [],
                "unheard.of": ["use1-az1"],
            },
            on_demand={"g5.xlarge": 1.006},
            spot={"g5.xlarge": {("use1-az1", "us-east-1a"): 0.4, ("use1-az2", "us-east-1b"): 0.45}},
        )
    )

    assert [(o.instance_type, o.pricing, o.zone, o.usd_per_hour) for o in offers] == [
        ("g5.xlarge", "on-demand", None, 1.006),
        ("g5.xlarge", "spot", "use1-az1", 0.4),
        ("g5.xlarge", "spot", "use1-az2", 0.45),
        ("t3.micro", "on-demand", None, None),
        ("t3.micro", "spot", None, None),
        ("u-24tb1.metal", "on-demand", None, None),
    ]
    assert offers[0].zones == ("use1-az1", "use1-az2")
    assert offers[1].zones == ("use1-az1", "us-east-1a"), "by id and by the name it has in this account"


# -- the calls ------------------------------------------------------------------------------------------------------


class FakeAWS:
    """moto's EC2, and what moto cannot say: list prices and spot prices. Written as a WSGI program."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.pricing_denied = False
        self.silent_regions: set[str] = set()
        self.spot_asked: list[dict[str, list[str]]] = []
        self.asked: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        region = environ.get("HTTP_AUTHORIZATION", "////").split("/")[2]
        action = target or parse_qs(body.decode()).get("Action", [""])[0]
        self.asked.append(f"{region} {action}")
        if region in self.silent_regions:
            return self._say(
                start_response, "401 Unauthorized", "text/xml", _ec2_error("AuthFailure", "not enabled")
            )
        if target.endswith("GetProducts"):
            return self._products(start_response, json.loads(body))
        if action == "DescribeCapacityBlockOfferings":
            return self._blocks(start_response, region, parse_qs(body.decode()))
        if action == "DescribeSpotPriceHistory":
            return self._spot(start_response, region, parse_qs(body.decode()))
        import io

        environ["wsgi.input"] = io.BytesIO(body)
        return self._moto(environ, start_response)

    @staticmethod
    def _say(start_response: Callable[..., Any], status: str, kind: str, text: str) -> list[bytes]:
        data = text.encode()
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(data)))])
        return [data]

    def _products(self, start_response: Callable[..., Any], asked: dict[str, Any]) -> list[bytes]:
        kind = "application/x-amz-json-1.1"
        if self.pricing_denied:
            text = json.dumps(
                {"__type": "AccessDeniedException", "Message": "not authorized: pricing:GetProducts"}
            )
            return self._say(start_response, "400 Bad Request", kind, text)
        region = next(f["Value"] for f in asked["Filters"] if f["Field"] == "regionCode")
        first = "NextToken" not in asked
        prices = (
            {"m5.large": "0.0960000000"}
            if first
            else {"g6f.large": "0.2020000000", "p5e.48xlarge": "0.0000000000"}
        )
        reply: dict[str, Any] = {
            "FormatVersion": "aws_v1",
            "PriceList": [product(n, p, region) for n, p in prices.items()],
        }
        if first:
            reply["NextToken"] = "more"
        return self._say(start_response, "200 OK", kind, json.dumps(reply))

    def _blocks(
        self, start_response: Callable[..., Any], region: str, asked: dict[str, list[str]]
    ) -> list[bytes]:
        """Two blocks of p5.48xlarge in one zone; in eu-west-1 nobody may look."""
        assert asked["CapacityDurationHours"] == ["24"]
        if region == "eu-west-1":
            text = _ec2_error("UnauthorizedOperation", "not authorized")
            return self._say(start_response, "403 Forbidden", "text/xml", text)
        fees = ("1200.00", "960.00") if asked["InstanceType"] == ["p5.48xlarge"] else ()
        found = "".join(
            f"<item><capacityBlockOfferingId>cb-{number}</capacityBlockOfferingId><instanceType>p5.48xlarge</instanceType>"
            f"<availabilityZone>{region}a</availabilityZone><instanceCount>1</instanceCount>"
            "<startDate>2026-11-23T11:30:00.000Z</startDate><endDate>2026-11-24T11:30:00.000Z</endDate>"
            f"<capacityBlockDurationHours>24</capacityBlockDurationHours><upfrontFee>{fee}</upfrontFee>"
            "<currencyCode>USD</currencyCode><tenancy>default</tenancy></item>"
            for number, fee in enumerate(fees)
        )
        return self._say(
            start_response,
            "200 OK",
            "text/xml",
            '<DescribeCapacityBlockOfferingsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>r</requestId><capacityBlockOfferingSet>{found}</capacityBlockOfferingSet>"
            "</DescribeCapacityBlockOfferingsResponse>",
        )

    def _spot(
        self, start_response: Callable[..., Any], region: str, asked: dict[str, list[str]]
    ) -> list[bytes]:
        """Three pages: a full one, an empty one that has a token all the same, and one whose token is empty."""
        assert asked["ProductDescription.1"] == ["Linux/UNIX"]
        self.spot_asked.append(asked)
        page = asked.get("NextToken", ["one"])[0]
        items = {
            "one": [("m5.large", "0.0400", "a", "az1"), ("m5.large", "0.0500", "b", "az2")],
            "two": [],
            "three": [("g6f.large", "0.0808", "a", "az1")],
        }[page]
        following = {"one": "two", "two": "three", "three": ""}[page]
        found = "".join(
            f"<item><instanceType>{name}</instanceType><productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price}</spotPrice><timestamp>2026-11-01T00:00:00.000Z</timestamp>"
            f"<availabilityZone>{region}{zone}</availabilityZone>"
            f"<availabilityZoneId>{region[:2]}{region[3]}{region[-1]}-{zone_id}</availabilityZoneId></item>"
            for name, price, zone, zone_id in items
        )
        return self._say(
            start_response,
            "200 OK",
            "text/xml",
            '<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>r</requestId><spotPriceHistorySet>{found}</spotPriceHistorySet>"
            f"<nextToken>{following}</nextToken></DescribeSpotPriceHistoryResponse>",
        )


def _ec2_error(code: str, message: str) -> str:
    return f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r</RequestID></Response>"


@contextmanager
def running(app: FakeAWS) -> Iterator[str]:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(5)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.usefixtures("credentials")
def test_unmodified_boto3_fetches_every_region_that_answers(caplog: pytest.LogCaptureFixture) -> None:
    aws = FakeAWS()
    aws.silent_regions = {"eu-central-1"}
    with running(aws) as url:
        silent: set[str] = set()
        regions = ("us-east-1", "eu-west-1", "eu-central-1")
        offers = list(fetch(client_for(url), "us-east-1", regions=regions, silent=silent))

    assert silent == {"eu-central-1"}
    assert {o.region for o in offers} == {"us-east-1", "eu-west-1"}
    assert "eu-central-1 is left out" in caplog.text
    home = [o for o in offers if o.region == "us-east-1"]
    prices = {(o.instance_type, o.pricing, o.zone): o.usd_per_hour for o in home}
    assert prices["m5.large", "on-demand", None] == 0.096
    assert prices["m5.large", "spot", "use1-az1"] == 0.04
    assert prices["g6f.large", "on-demand", None] == 0.202
    assert prices["g6f.large", "spot", "use1-az1"] == 0.0808, "the page after an empty one is read too"
    (block,) = [o for o in offers if o.pricing == "capacity-block"]
    assert (block.instance_type, block.zone, block.usd_per_hour) == ("p5.48xlarge", "us-east-1a", 40.0)
    assert block.details["capacity_block_offering_id"] == "cb-1"
    assert (block.details["hours"], block.details["upfront_usd"]) == (24, 960.0)
    (slice_,) = [o for o in home if o.instance_type == "g6f.large" and o.pricing == "on-demand"]
    assert (slice_.accelerator, slice_.accelerator_count) == ("L4", 0.125)
    assert any(zone.startswith("use1-az") for zone in slice_.zones)
    assert any(zone.startswith("us-east-1") for zone in slice_.zones)
    assert aws.asked.count("us-east-1 DescribeInstanceTypes") > 10
    assert aws.asked.count("eu-west-1 DescribeInstanceTypes") == 1, "only what the home region does not have"


@pytest.mark.usefixtures("credentials")
def test_past_spot_prices_are_those_of_types_with_accelerators() -> None:
    since = datetime(2026, 8, 25, tzinfo=UTC)
    aws = FakeAWS()
    aws.silent_regions = {"eu-central-1"}
    with running(aws) as url:
        found = list(fetch_past(client_for(url), "us-east-1", since, regions=("us-east-1", "eu-central-1")))

    assert aws.spot_asked[0]["StartTime"] == ["2026-08-25T00:00:00Z"]
    asked = {names[0] for key, names in aws.spot_asked[0].items() if key.startswith("InstanceType.")}
    assert "g6f.large" in asked
    assert "m5.large" not in asked
    (price,) = [offer for offer in found if offer.instance_type == "g6f.large"]
    assert (price.usd_per_hour, price.zone, price.accelerator_count) == (0.0808, "use1-az1", 0.125)
    assert price.observed_at == datetime(2026, 11, 1, tzinfo=UTC), "the moment it began to hold"


@pytest.mark.usefixtures("credentials")
def test_where_the_price_list_may_not_be_asked_the_public_file_is_read() -> None:
    aws = FakeAWS()
    aws.pricing_denied = True
    csv = BULK.replace("m7i.large", "m5.large").encode()
    with (
        running(aws) as url,
        serving(lambda request: Answer(csv, headers={"Content-Type": "text/csv"})) as files,
    ):
        offers = list(
            fetch(
                client_for(url),
                "us-east-1",
                regions=("us-east-1", "eu-west-1"),
                bulk_url=f"{files.url}/{{region}}/index.csv",
            )
        )

    on_demand = {(o.region, o.instance_type): o.usd_per_hour for o in offers if o.pricing == "on-demand"}
    assert on_demand["us-east-1", "m5.large"] == 0.1008
    assert on_demand["eu-west-1", "m5.large"] is None, (
        "a file of hundreds of megabytes is read for one region only"
    )
    assert [request.path for request in files.asked] == ["/us-east-1/index.csv"]


@pytest.mark.usefixtures("credentials")
def test_a_home_region_that_refuses_us_is_an_error() -> None:
    aws = FakeAWS()
    aws.silent_regions = {"us-east-1"}
    with running(aws) as url, pytest.raises(CredentialsError, match="not enabled"):
        list(fetch(client_for(url), "us-east-1", regions=("us-east-1",)))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", CapacityError),
        ("Unsupported", CapacityError),
        ("VcpuLimitExceeded", QuotaError),
        ("AuthFailure", CredentialsError),
        ("UnauthorizedOperation", CredentialsError),
        ("ExpiredToken", CredentialsError),
        ("RequestLimitExceeded", RateLimitError),
        ("ThrottlingException", RateLimitError),
        ("InternalError", ProviderError),
    ],
)
def test_aws_says_what_kind_of_no_it_is(code: str, kind: type[ProviderError]) -> None:
    from botocore.exceptions import ClientError

    with pytest.raises(ProviderError) as raised, aws_errors():
        raise ClientError({"Error": {"Code": code, "Message": "because"}}, "RunInstances")

    assert type(raised.value) is kind
    assert str(raised.value) == "aws: RunInstances: because"


def test_no_credentials_is_a_credentials_error() -> None:
    from botocore.exceptions import NoCredentialsError

    with pytest.raises(CredentialsError), aws_errors():
        raise NoCredentialsError


def test_places_are_in_order() -> None:
    offerings = [
        {"InstanceType": "a", "Location": "z2"},
        {"InstanceType": "a", "Location": "z1"},
        {"InstanceType": "b", "Location": "z1"},
    ]

    assert zones_of(offerings) == {"a": ["z1", "z2"], "b": ["z1"]}


def test_an_offer_is_frozen_and_names_its_provider() -> None:
    (offer,) = regional_offers(
        "r",
        shapes_of([described("x", SupportedUsageClasses=["on-demand"])]),
        {"x": []},
        on_demand={},
        spot={},
    )

    assert isinstance(offer, Offer)
    assert offer.provider == "aws"
