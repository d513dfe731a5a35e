"""What goes wrong at AWS, and what comes of it: read off the simulated cloud's own bill and its log of requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from aws_cloud import CPU, QUICK, SPOT, await_running, await_that, client, order, without_machines

from skyward import (
    AmbiguousLaunchError,
    CapacityError,
    CredentialsError,
    InstanceState,
    Offer,
    ProviderError,
    QuotaError,
    RateLimitError,
    S3Volume,
    SkywardWarning,
)
from skyward.cloud.launch import is_ruled_out
from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWS, AWSProvider
from skyward_aws.cloud import Cloud
from skyward_aws.network import own_network

MakeAWS = Callable[..., AWSProvider]


# -- the way there -------------------------------------------------------------------------------------------------


@without_machines
@pytest.mark.parametrize("times", [2, 9])
def test_a_busy_api_is_asked_again_and_launches_once(aws: AWSProvider, ec2: SimulatedEC2, times: int) -> None:
    ec2.fault("CreateFleet", "throttle", times=times)

    launched = aws.launch(order(count=2))

    assert {one.id for one in launched} == set(ec2.running())
    assert ec2.count("CreateFleet") == times + 1
    assert len({one.parameters["ClientToken"] for one in ec2.requests if one.action == "CreateFleet"}) == 1


@without_machines
def test_an_api_that_stays_busy_is_given_up_on_and_nothing_runs(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.account.patience = replace(QUICK, total_s=0.5)
    ec2.fault("CreateFleet", "throttle", times=None)

    with pytest.raises(RateLimitError) as caught:
        aws.launch(order())

    assert not ec2.running()
    assert caught.value.hints


@without_machines
@pytest.mark.parametrize("kind", ["lost", "reset", "5xx", "unavailable"])
def test_an_answer_that_is_lost_once_launches_once(aws: AWSProvider, ec2: SimulatedEC2, kind: str) -> None:
    ec2.fault("CreateFleet", kind, times=1)

    launched = aws.launch(order(count=2))

    assert {one.id for one in launched} == set(ec2.running())
    assert len(ec2.bill) == 2


@without_machines
def test_an_answer_that_is_always_lost_is_ambiguous_and_the_same_request_finds_the_machines(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.fault("CreateFleet", "lost", times=9)

    with pytest.raises(AmbiguousLaunchError) as caught:
        aws.launch(order(count=2))
    assert caught.value.token == "t-1"
    assert len(ec2.running()) == 2
    with pytest.raises(AmbiguousLaunchError):
        aws.launch(order(count=2))
    with pytest.raises(AmbiguousLaunchError):
        aws.launch(order(count=2))
    launched = aws.launch(order(count=2))

    assert {one.id for one in launched} == set(ec2.running())
    assert len(ec2.bill) == 2


@without_machines
def test_machines_of_a_lost_answer_are_found_by_their_tag(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "lost", times=9)
    aws = make_aws()
    with pytest.raises(AmbiguousLaunchError):
        aws.launch(order(count=3))

    assert (
        {one.id for one in aws.instances("p-1")}
        == {one.id for one in make_aws().instances("p-1")}
        == set(ec2.running())
    )


@without_machines
def test_an_answer_lost_before_a_busy_api_is_still_ambiguous(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.account.patience = replace(QUICK, total_s=0.5)
    ec2.fault("CreateFleet", "lost", times=1)
    ec2.fault("CreateFleet", "throttle", times=None)

    with pytest.raises(AmbiguousLaunchError):
        aws.launch(order())

    assert len(ec2.running()) == 1


@without_machines
@pytest.mark.parametrize("executed", [False, True], ids=["unheard", "heard"])
def test_a_call_that_hangs_ends_at_our_deadline_and_is_repeated(
    aws: AWSProvider, ec2: SimulatedEC2, executed: bool
) -> None:
    aws.launch(order(token="warm"))
    aws.account.site("us-east-1").cloud.patience = aws.account.patience = replace(QUICK, read_s=0.5)
    aws.account.site("us-east-1").cloud._clients.clear()
    ec2.fault("CreateFleet", "hang", times=1, executed=executed)
    began = time.monotonic()

    launched = aws.launch(order(count=2))

    assert time.monotonic() - began < 5
    assert len(launched) == 2
    assert len(ec2.bill) == 3


def test_deadlines_are_ten_seconds_to_connect_and_twenty_for_an_answer(aws: AWSProvider) -> None:
    config = AWSProvider(AWS()).account.site("us-east-1").cloud.client("ec2").meta.config

    assert (config.connect_timeout, config.read_timeout) == (10, 20)
    assert config.retries["total_max_attempts"] == 1


@without_machines
def test_another_request_with_a_known_token_is_ambiguous_not_a_second_launch(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order(count=1))

    with pytest.raises(AmbiguousLaunchError, match="nobody answered"):
        aws.launch(order(count=2))

    assert len(ec2.bill) == 1


@without_machines
@pytest.mark.parametrize(
    "action", ["DescribeSubnets", "CreateSecurityGroup", "ImportKeyPair", "CreateLaunchTemplate"]
)
@pytest.mark.parametrize("kind", ["throttle", "lost", "5xx"])
def test_trouble_on_the_way_to_a_launch_is_gone_through(
    aws: AWSProvider, ec2: SimulatedEC2, action: str, kind: str
) -> None:
    ec2.fault(action, kind, times=2)

    aws.launch(
        order(public_key="ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA x")
    )

    assert len(ec2.bill) == 1
    left = ec2.resources()
    assert len(left["security-group"]) == len(left["key-pair"]) == len(left["launch-template"]) == 1


@without_machines
def test_what_fails_before_the_launch_is_not_ambiguous(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateLaunchTemplate", "lost", times=None)

    with pytest.raises(ProviderError) as caught:
        aws.launch(order())

    assert not isinstance(caught.value, AmbiguousLaunchError)
    assert ec2.count("CreateFleet") == 0


def test_a_cloud_that_is_not_there_is_an_error_of_one_line() -> None:
    config = AWS(region="us-east-1", endpoint="http://127.0.0.1:1")
    environ = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "s"}
    aws = AWSProvider.from_env(config, environ)
    aws.account.patience = QUICK

    with pytest.raises(ProviderError) as caught:
        aws.instances("p-1")

    assert "could not connect" in caught.value.message
    assert "\n" not in caught.value.message


# -- no machines ---------------------------------------------------------------------------------------------------


@without_machines
def test_no_capacity_anywhere_is_told_zone_by_zone_and_nothing_runs(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.set_capacity(0, instance_type="m7i.large")

    with pytest.raises(CapacityError) as caught:
        aws.launch(order(SPOT, count=2))

    assert caught.value.message == "aws: m7i.large (spot) in us-east-1: no capacity"
    for zone in ("us-east-1a", "us-east-1b", "us-east-1c"):
        assert any(fact.startswith(f"{zone}: InsufficientInstanceCapacity") for fact in caught.value.facts)
    assert any("us-west-2" in hint for hint in caught.value.hints)
    assert ec2.count("CreateFleet") == 1  # what has no capacity is not asked again
    assert not ec2.bill


@without_machines
def test_fewer_machines_than_asked_for_is_said_by_returning_fewer(
    aws: AWSProvider, ec2: SimulatedEC2, caplog: pytest.LogCaptureFixture
) -> None:
    ec2.set_capacity(3, instance_type="m7i.large", zone="us-east-1a")

    launched = aws.launch(order(replace(CPU, zones=("us-east-1a",)), count=4))

    assert len(launched) == 3
    assert {one.id for one in launched} == set(ec2.running())
    assert "3 of 4" in caplog.text
    assert "InsufficientInstanceCapacity" in caplog.text


@without_machines
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("capacity", CapacityError),
        ("quota", QuotaError),
        ("expired", CredentialsError),
        ("unauthorized", CredentialsError),
        ("auth", CredentialsError),
    ],
)
def test_a_refusal_is_the_error_it_means_and_launched_nothing(
    aws: AWSProvider, ec2: SimulatedEC2, kind: str, expected: type[ProviderError]
) -> None:
    ec2.fault("CreateFleet", kind, times=None)

    with pytest.raises(expected) as caught:
        aws.launch(order())

    assert not isinstance(caught.value, AmbiguousLaunchError)
    assert ec2.count("CreateFleet") == 1
    assert caught.value.hints
    assert not ec2.bill


def test_a_machine_that_ends_while_it_boots_says_why(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "dies", times=1)

    (launched,) = aws.launch(order())

    (ended,) = await_that(
        lambda: [one for one in aws.instances("p-1") if one.state is InstanceState.TERMINATED]
    )
    assert ended.id == launched.id
    assert ended.reason


def test_machines_nobody_has_heard_of_yet_are_missing_and_not_an_error(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.fault("CreateFleet", "missing", times=1, seconds=1.0)

    aws.launch(order())

    assert aws.instances("p-1") == []
    assert len(await_running(aws)) == 1


@without_machines
def test_a_profile_ec2_has_not_heard_of_is_waited_for(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    said = "Value (skyward-instance-profile) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    refused = {"Errors": [{"ErrorCode": "InvalidParameterValue", "ErrorMessage": said}], "Instances": []}
    answers = [refused, refused]
    site = aws.account.site("us-east-1")
    ask = site.cloud.ask

    def not_yet(call: Any, **parameters: Any) -> Any:
        return answers.pop() if call.operation == "CreateFleet" and answers else ask(call, **parameters)

    site.cloud.ask = not_yet  # type: ignore[method-assign]  # the simulated cloud knows a profile at once

    launched = aws.launch(order(volumes=(S3Volume("/set", "skyward-data"),)))

    assert len(launched) == len(ec2.bill) == 1
    (fleet,) = [one for one in ec2.requests if one.action == "CreateFleet"]
    assert fleet.parameters["ClientToken"] == "t-1.2"


# -- ending --------------------------------------------------------------------------------------------------------


@without_machines
@pytest.mark.parametrize("kind", ["throttle", "lost", "5xx"])
def test_trouble_while_ending_is_gone_through(aws: AWSProvider, ec2: SimulatedEC2, kind: str) -> None:
    launched = aws.launch(order(count=2))
    ec2.fault("TerminateInstances", kind, times=2)

    aws.terminate([one.id for one in launched])

    await_that(lambda: not ec2.running())


@without_machines
def test_ending_that_is_refused_is_an_error_and_not_silence(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    launched = aws.launch(order())
    ec2.fault("TerminateInstances", "expired", times=1)

    with pytest.raises(CredentialsError, match="TerminateInstances") as caught:
        aws.terminate([one.id for one in launched])

    assert "aws sso login" in caught.value.hints
    aws.terminate([one.id for one in launched])
    await_that(lambda: not ec2.running())


@without_machines
def test_a_machine_that_is_protected_says_how_it_can_be_ended(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    (launched,) = aws.launch(order())
    ec2.fault(
        "TerminateInstances",
        "error",
        times=1,
        code="OperationNotPermitted",
        message="The instance may not be terminated. Modify its 'disableApiTermination' instance attribute",
        status=400,
    )

    with pytest.raises(ProviderError) as caught:
        aws.terminate([launched.id])

    assert "--no-disable-api-termination" in caught.value.hints[0]


# -- bad input, and what it gets -----------------------------------------------------------------------------------


def refused(aws: AWSProvider, ec2: SimulatedEC2, **more: Any) -> ProviderError:
    """The error of a launch that must not cost anything."""
    with pytest.raises(ProviderError) as caught:
        aws.launch(order(**more))
    assert not ec2.bill
    assert "\n" not in caught.value.message
    return caught.value


@without_machines
def test_keys_nobody_knows_are_told_before_anything_is_rented(ec2: SimulatedEC2) -> None:
    environ = {**ec2.environ, "AWS_ACCESS_KEY_ID": "AKIAWRONG"}
    aws = AWSProvider.from_env(AWS(**ec2.config()), environ)

    error = refused(aws, ec2)

    assert isinstance(error, CredentialsError)
    assert "skyward check aws" in error.hints
    assert ec2.environ["AWS_SECRET_ACCESS_KEY"] not in repr(error.values)


@without_machines
def test_an_image_of_another_architecture_is_refused(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    filters = [{"Name": "architecture", "Values": ["arm64"]}]
    ami = client(ec2).describe_images(Filters=filters)["Images"][0]["ImageId"]

    error = refused(make_aws(ami=ami), ec2)

    assert f"image '{ami}' is for arm64 and m7i.large is x86_64" in error.message
    assert "--architecture arm64" in error.hints


@without_machines
def test_an_image_of_nowhere_is_refused(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    error = refused(make_aws(ami="ami-0123456789abcdef0"), ec2)

    assert error.message.startswith("aws: no image 'ami-0123456789abcdef0' in us-east-1")


@without_machines
def test_a_subnet_without_public_addresses_is_refused_unless_ssm_is_used(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    cloud = client(ec2)
    vpc = cloud.describe_vpcs()["Vpcs"][0]["VpcId"]
    subnet = cloud.create_subnet(VpcId=vpc, CidrBlock="172.31.240.0/24", AvailabilityZone="us-east-1a")[
        "Subnet"
    ]["SubnetId"]

    error = refused(make_aws(subnet_id=subnet), ec2)

    assert f"subnet '{subnet}' gives no public addresses" in error.message
    assert 'connection="ssm"' in error.message


@without_machines
def test_a_subnet_or_a_group_of_nowhere_is_refused(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    error = refused(make_aws(subnet_id="subnet-0123456789abcdef0"), ec2)
    assert error.message.startswith("aws: no subnet 'subnet-0123456789abcdef0' in us-east-1")

    error = refused(make_aws(security_group_id="sg-0123456789abcdef0"), ec2)
    assert error.message.startswith("aws: no security group 'sg-0123456789abcdef0' in us-east-1")


@without_machines
def test_a_group_of_another_vpc_is_refused(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    cloud = client(ec2)
    vpc = cloud.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    group = cloud.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]

    assert "name a subnet of the same VPC" in refused(make_aws(security_group_id=group), ec2).message


@without_machines
def test_a_region_without_a_default_vpc_asks_for_a_subnet(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    cloud = client(ec2)
    (vpc,) = cloud.describe_vpcs()["Vpcs"]
    for subnet in cloud.describe_subnets()["Subnets"]:
        cloud.delete_subnet(SubnetId=subnet["SubnetId"])
    cloud.delete_vpc(VpcId=vpc["VpcId"])

    error = refused(aws, ec2)

    assert error.message.startswith("aws: us-east-1 has no default VPC: name a subnet, sky.AWS(subnet_id=")
    assert any("create-default-vpc" in hint for hint in error.hints)


@without_machines
def test_a_default_vpc_without_public_addresses_says_so(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    cloud = client(ec2)
    for subnet in cloud.describe_subnets()["Subnets"]:
        cloud.modify_subnet_attribute(SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": False})

    assert "gives public addresses" in refused(aws, ec2).message


@without_machines
def test_a_role_that_may_not_be_passed_is_a_matter_of_permissions(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    said = "You are not authorized to perform this operation. User: x is not authorized to perform: iam:PassRole on resource: y"
    ec2.fault("CreateFleet", "unauthorized", times=1, message=said)

    error = refused(aws, ec2)

    assert isinstance(error, CredentialsError)
    assert any("instance_profile_arn" in hint for hint in error.hints)
    assert "skyward check aws --policy" in error.hints


@without_machines
def test_a_type_no_zone_of_the_subnets_sells_is_no_capacity(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    error = refused(aws, ec2, offer=replace(CPU, instance_type="m9z.large", zones=()))

    assert isinstance(error, CapacityError)


@without_machines
def test_p5n_is_launched_as_p5en_with_a_warning(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    offer = replace(CPU, instance_type="p5n.48xlarge", accelerator="H200-SXM", accelerator_count=8, zones=())

    with pytest.warns(SkywardWarning, match="p5n.48xlarge is taken as p5en.48xlarge"):
        aws.launch(order(offer))

    assert [charge.instance_type for charge in ec2.bill] == ["p5en.48xlarge"]


@without_machines
def test_a_bucket_that_does_not_exist_is_told_before_anything_is_rented(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    error = refused(aws, ec2, volumes=(S3Volume("/set", "no-such-bucket"),))

    assert error.message.startswith("aws: no bucket 'no-such-bucket'")
    assert "aws s3 mb s3://no-such-bucket --region us-east-1" in error.hints


@without_machines
def test_a_capacity_block_is_not_rented_by_the_hour(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    assert isinstance(refused(aws, ec2, offer=replace(CPU, pricing="capacity-block")), CapacityError)


@without_machines
def test_credentials_that_end_before_the_machines_are_warned_of(ec2: SimulatedEC2) -> None:
    soon = {"AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}
    aws = AWSProvider.from_env(AWS(**ec2.config()), {**ec2.environ, **soon})

    with pytest.warns(SkywardWarning, match="these credentials expire in"):
        aws.launch(order(lifetime_s=3600.0))


# -- this client's address -----------------------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], str]]:
    """A service that tells who asks what their address is; it says what it is told to."""
    servers: list[ThreadingHTTPServer] = []

    def serve(text: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("said", "network"), [(b"203.0.113.7\n", "203.0.113.7/32"), (b"2001:db8::7", "2001:db8::7/128")]
)
def test_the_clients_address_is_asked_for_where_it_is_told(
    answering: Callable[[bytes], str], said: bytes, network: str
) -> None:
    assert own_network(Cloud("us-east-1"), answering(said)) == network


@pytest.mark.parametrize("said", [b"<html>sign in to this network</html>", b"", b"\xff"])
def test_an_address_that_is_none_is_refused_with_a_way_out(
    answering: Callable[[bytes], str], said: bytes
) -> None:
    with pytest.raises(ProviderError, match=r"ssh_cidr=\"203\.0\.113\.7/32\""):
        own_network(Cloud("us-east-1"), answering(said))


def test_nobody_who_tells_the_address_is_an_error_with_a_way_out() -> None:
    with pytest.raises(ProviderError, match="ssh_cidr"):
        own_network(Cloud("us-east-1"), "http://127.0.0.1:1")


def test_a_simulation_on_this_machine_is_reached_from_this_machine_unless_it_says_otherwise(
    ec2: SimulatedEC2,
) -> None:
    cloud = Cloud("us-east-1", endpoint=ec2.endpoint, environ=ec2.environ)

    assert own_network(cloud) == "127.0.0.1/32"
    ec2.move_client("198.51.100.7")
    assert own_network(cloud, ec2.environ["AWS_ENDPOINT_URL_CHECKIP"]) == "198.51.100.7/32"


# -- what a refusal speaks of --------------------------------------------------------------------------------------


@without_machines
@pytest.mark.parametrize(("offer", "code"), [(CPU, "L-1216C47A"), (SPOT, "L-34B43A08")])
def test_a_quota_has_its_name_and_the_command_that_asks_for_more(
    aws: AWSProvider, ec2: SimulatedEC2, offer: Offer, code: str
) -> None:
    ec2.market.quotas[code] = 0

    with pytest.raises(QuotaError) as caught:
        aws.launch(order(offer, count=30))

    assert code in caught.value.message
    assert caught.value.hints[0].startswith(
        "aws service-quotas request-service-quota-increase --region us-east-1 --service-code ec2 "
        f"--quota-code {code} --desired-value 60"
    )
    assert len([fact for fact in caught.value.facts if "us-east-1a" in fact]) == 1
    assert not ec2.bill


@without_machines
def test_a_region_the_account_has_not_enabled_rules_out_itself_only(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    far = replace(CPU, region="af-south-1", zone=None)
    aws = make_aws(region="af-south-1")
    ec2.fault("DescribeVpcs", "auth", times=1)
    home = aws.account.site("us-east-1").cloud
    home.ask = lambda call, **_: {"Regions": [{"OptInStatus": "not-opted-in"}]}  # type: ignore[method-assign]

    with pytest.raises(ProviderError) as caught:
        aws.launch(order(far))

    assert not isinstance(caught.value, CredentialsError)
    assert "af-south-1: this account has not enabled the region" in caught.value.message
    assert caught.value.hints[0] == "aws account enable-region --region-name af-south-1"
    assert is_ruled_out(replace(far, instance_type="c7i.large"), [(far, caught.value)])
    assert not is_ruled_out(CPU, [(far, caught.value)])


@without_machines
def test_a_refusal_says_whether_anything_was_made(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.account.site("us-east-1").order(order())  # what can be looked up is known from now on
    for action in ("CreateSecurityGroup", "CreateFleet"):
        ec2.fault(action, "expired", times=1)

    def refusal(pool: str) -> CredentialsError:
        with pytest.raises(CredentialsError) as caught:
            aws.launch(order(pool=pool, token=f"t-{pool}"))
        return caught.value

    assert refusal("p-2").made_nothing is True  # type: ignore[attr-defined]
    assert not hasattr(refusal("p-3"), "made_nothing")
    assert [name.split()[1] for name in ec2.resources()["security-group"]] == ["skyward-p-1", "skyward-p-3"]


@without_machines
def test_keys_that_are_good_nowhere_are_no_closed_region(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    ec2.fault("*", "auth", times=None)

    with pytest.raises(CredentialsError):
        make_aws(region="af-south-1").launch(order(replace(CPU, region="af-south-1", zone=None)))
