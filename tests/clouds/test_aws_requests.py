"""What is asked of EC2 and what its answers mean: pure functions, no cloud."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward import (
    CapacityError,
    CredentialsError,
    InstanceState,
    LaunchRequest,
    Offer,
    ProviderError,
    QuotaError,
    RateLimitError,
    S3Volume,
    Volume,
)
from skyward_aws.account import with_real_type
from skyward_aws.calls import all_calls
from skyward_aws.cloud import Patience
from skyward_aws.config import ALLOCATION_STRATEGIES
from skyward_aws.errors import kind_of, make_error
from skyward_aws.fetch import PERMISSIONS
from skyward_aws.fleet import (
    DEVICES,
    Order,
    client_token,
    fleet_request,
    is_profile_unknown,
    name_of,
    read_machines,
    template_data,
    template_name,
    why_not,
)
from skyward_aws.images import MachineImage, kind_of_image, read_image, user_of
from skyward_aws.machines import read_instance
from skyward_aws.network import Place, describe_group, one_per_zone, places_for
from skyward_aws.policy import make_policy, partition_of
from skyward_aws.storage import bucket_policy

OFFER = Offer(
    provider="aws",
    region="us-east-1",
    instance_type="g6.xlarge",
    usd_per_hour=0.8,
    vcpus=4,
    memory_gib=16,
    accelerator="L4",
    accelerator_count=1,
)
SPOT = replace(OFFER, pricing="spot")
A = Place(subnet="subnet-a", zone="us-east-1a", zone_id="use1-az1", vpc="vpc-1", free=10)
B = Place(subnet="subnet-b", zone="us-east-1b", zone_id="use1-az2", vpc="vpc-1", free=20)
IMAGE = MachineImage(id="ami-1", architecture="x86_64", root_device="/dev/sda1", root_gb=75, user="ubuntu")


def make_order(offer: Offer = OFFER, strategy: str = "price-capacity-optimized", **more: Any) -> Order:
    request = LaunchRequest(offer=offer, count=4, pool="p", token="t", tags={"skyward:name": "n"}, **more)
    return Order(
        request=request,
        image=IMAGE,
        places=((A, offer), (B, offer)),
        group="sg-1",
        user="ubuntu",
        strategy=strategy,
    )


def overrides(request: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request["LaunchTemplateConfigs"][0]["Overrides"]
    return found


# -- fleets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ALLOCATION_STRATEGIES)
def test_a_spot_fleet_is_instant_and_takes_the_strategy_it_is_given(strategy: str) -> None:
    request = fleet_request(make_order(SPOT, strategy), "t")

    assert request["Type"] == "instant"
    assert request["ClientToken"] == "t"
    assert request["SpotOptions"]["AllocationStrategy"] == strategy
    assert request["TargetCapacitySpecification"] == {
        "TotalTargetCapacity": 4,
        "DefaultTargetCapacityType": "spot",
    }
    assert [one["SubnetId"] for one in overrides(request)] == ["subnet-a", "subnet-b"]
    assert all(
        ("Priority" in one) == (strategy == "capacity-optimized-prioritized") for one in overrides(request)
    )


def test_on_demand_machines_are_taken_from_zones_in_the_order_of_the_plan() -> None:
    request = fleet_request(make_order(), "t")

    assert request["OnDemandOptions"] == {"AllocationStrategy": "prioritized"}
    assert "SpotOptions" not in request
    assert [one["Priority"] for one in overrides(request)] == [0.0, 1.0]


def test_a_price_limit_is_given_only_where_it_was_asked_for() -> None:
    assert all("MaxPrice" not in one for one in overrides(fleet_request(make_order(SPOT), "t")))
    limited = overrides(fleet_request(make_order(SPOT, max_price=0.5), "t"))
    assert [one["MaxPrice"] for one in limited] == ["0.500000", "0.500000"]
    assert all("MaxPrice" not in one for one in overrides(fleet_request(make_order(max_price=0.5), "t")))


def test_everything_a_launch_makes_is_tagged_as_it_is_made() -> None:
    order = make_order(SPOT)
    fleet = {spec["ResourceType"]: spec["Tags"] for spec in fleet_request(order, "t")["TagSpecifications"]}
    template = {spec["ResourceType"]: spec["Tags"] for spec in template_data(order)["TagSpecifications"]}

    assert set(fleet) == {"fleet", "instance", "volume", "network-interface"}
    assert set(template) == {"spot-instances-request"}
    for tags in (*fleet.values(), *template.values()):
        assert {"Key": "skyward:managed", "Value": "true"} in tags
        assert {"Key": "skyward:pool", "Value": "p"} in tags


def test_a_machine_ends_when_it_powers_itself_off_and_answers_metadata_to_itself_alone() -> None:
    data = template_data(make_order(user_data="#!/bin/sh\necho hi\n"))

    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["DisableApiTermination"] is False
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert base64.b64decode(data["UserData"]) == b"#!/bin/sh\necho hi\n"
    assert "KeyName" not in data
    assert "IamInstanceProfile" not in data


@pytest.mark.parametrize(("asked", "size"), [(None, 115), (50, 115), (200.5, 201), (1000, 1000)])
def test_the_root_disk_has_room_beside_the_image_or_what_was_asked_for(
    asked: float | None, size: int
) -> None:
    (root,) = template_data(make_order(disk_gb=asked))["BlockDeviceMappings"]

    assert root == {
        "DeviceName": "/dev/sda1",
        "Ebs": {"VolumeSize": size, "VolumeType": "gp3", "DeleteOnTermination": True},
    }


def test_disks_are_made_with_their_machine_and_end_with_it() -> None:
    volumes = (
        Volume(size_gb="500GB", mount_path="/data"),
        S3Volume("/set", "my-data"),
        Volume(size_gb=1.5, mount_path="/scratch"),
    )
    order = make_order(volumes=volumes)
    _, *disks = template_data(order)["BlockDeviceMappings"]
    tags = {tag["Key"]: tag["Value"] for tag in fleet_request(order, "t")["TagSpecifications"][1]["Tags"]}

    assert [(disk["DeviceName"], disk["Ebs"]["VolumeSize"]) for disk in disks] == [
        ("/dev/sdf", 500),
        ("/dev/sdg", 2),
    ]
    assert all(disk["Ebs"]["DeleteOnTermination"] for disk in disks)
    assert tags["skyward:volume:/dev/sdf"] == "/data"
    assert tags["skyward:volume:/dev/sdg"] == "/scratch"


def test_more_than_ec2_takes_is_refused_before_it_is_asked() -> None:
    many = tuple(Volume(size_gb=1, mount_path=f"/d{n}") for n in range(len(DEVICES) + 1))

    with pytest.raises(ProviderError, match="12 volumes: EC2 attaches 11"):
        template_data(make_order(volumes=many))
    with pytest.raises(ProviderError, match="user data of 16385 bytes: EC2 takes 16384"):
        template_data(make_order(user_data="x" * 16385))


@given(st.text(), st.text(), st.integers(0, 20))
def test_tokens_are_what_ec2_takes_and_differ_where_launches_do(one: str, other: str, attempt: int) -> None:
    token = client_token(one, attempt)

    assert len(token) <= 64
    assert token.isascii()
    assert token == client_token(one, attempt)
    assert one == other or client_token(other, attempt) != token
    assert attempt == 0 or client_token(one) != token


@given(st.text(), st.text())
def test_names_are_what_ec2_takes(pool: str, token: str) -> None:
    request = LaunchRequest(offer=OFFER, count=1, pool=pool, token=token)

    assert set(name_of(pool) + template_name(request)) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
    )
    assert len(template_name(request)) <= 128
    assert len(describe_group(pool, token)) <= 255


# -- answers -------------------------------------------------------------------------------------------------------


def entry(subnet: str, *ids: str) -> dict[str, Any]:
    return {"InstanceIds": list(ids), "LaunchTemplateAndOverrides": {"Overrides": {"SubnetId": subnet}}}


def error(code: str, said: str = "so it is", subnet: str = "subnet-a") -> dict[str, Any]:
    return {
        "ErrorCode": code,
        "ErrorMessage": said,
        "LaunchTemplateAndOverrides": {"Overrides": {"SubnetId": subnet}},
    }


def test_each_machine_is_the_offer_of_the_zone_it_stands_in() -> None:
    cheap, dear = replace(SPOT, zone="us-east-1a"), replace(SPOT, zone="us-east-1b", usd_per_hour=0.9)
    order = replace(make_order(cheap), places=((A, cheap), (B, dear)))
    answer = {"Instances": [entry("subnet-b", "i-1", "i-2"), entry("subnet-a", "i-3")]}

    got = read_machines(answer, order)

    assert [(one.id, one.offer.usd_per_hour, one.zone) for one in got] == [
        ("i-1", 0.9, "us-east-1b"),
        ("i-2", 0.9, "us-east-1b"),
        ("i-3", 0.8, "us-east-1a"),
    ]


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (["InsufficientInstanceCapacity"], CapacityError),
        (["InvalidFleetConfiguration", "InsufficientInstanceCapacity"], CapacityError),
        (["InsufficientInstanceCapacity", "VcpuLimitExceeded"], QuotaError),
        (["MaxSpotInstanceCountExceeded"], QuotaError),
        (["VcpuLimitExceeded", "UnauthorizedOperation"], CredentialsError),
        (["InsufficientInstanceCapacity", "InvalidAMIID.NotFound"], ProviderError),
        ([], CapacityError),
    ],
)
def test_the_gravest_reason_of_an_empty_fleet_is_its_error(
    codes: list[str], kind: type[ProviderError]
) -> None:
    told = why_not({"Errors": [error(code) for code in codes]}, make_order())

    assert type(told) is kind
    assert not getattr(told, "was_sent", False)
    assert all(any(code in fact for fact in told.facts) or code in told.message for code in codes)
    assert not codes or all(fact.startswith(("us-east-1a: ", "AWS calls")) for fact in told.facts)


def test_only_the_news_of_a_profile_is_worth_waiting_for() -> None:
    said = "Value (skyward-instance-profile) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"

    assert is_profile_unknown({"Errors": [error("InvalidParameterValue", said)]})
    assert not is_profile_unknown({"Errors": [error("InvalidParameterValue", "no such image")]})
    assert not is_profile_unknown(
        {"Errors": [error("InvalidParameterValue", said)], "Instances": [entry("s", "i-1")]}
    )
    assert not is_profile_unknown({})


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("InsufficientInstanceCapacity", CapacityError),
        ("UnfulfillableCapacity", CapacityError),
        ("SpotMaxPriceTooLow", CapacityError),
        ("Unsupported", CapacityError),
        ("VcpuLimitExceeded", QuotaError),
        ("MaxSpotInstanceCountExceeded", QuotaError),
        ("VolumeLimitExceeded", QuotaError),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", CredentialsError),
        ("ExpiredToken", CredentialsError),
        ("UnauthorizedOperation", CredentialsError),
        ("RequestLimitExceeded", RateLimitError),
        ("ThrottlingException", RateLimitError),
        ("InternalError", ProviderError),
        ("Whatever", ProviderError),
    ],
)
def test_codes_mean_what_they_are_taken_for(code: str, kind: type[ProviderError]) -> None:
    assert kind_of(code) is kind


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        ("InsufficientInstanceCapacity", "none", "us-west-2"),
        ("InsufficientInstanceCapacity", "none", "spot-if-available"),
        (
            "UnauthorizedOperation",
            "You are not authorized to perform: iam:PassRole on x",
            "instance_profile_arn",
        ),
        ("UnauthorizedOperation", "You are not authorized", "skyward check aws --policy"),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", "no", "create-service-linked-role"),
        ("VcpuLimitExceeded", "0 of 0", "skyward check aws"),
        ("ExpiredToken", "expired", "aws sso login"),
        ("InvalidClientTokenId", "no such key", "aws configure"),
        ("OperationNotPermitted", "protected", "--no-disable-api-termination"),
        ("Whatever", "what", "skyward check aws"),
    ],
)
def test_errors_say_what_can_be_done(code: str, said: str, hint: str) -> None:
    assert any(hint in one for one in make_error(code, said).hints)


def test_an_encoded_message_is_left_out() -> None:
    told = make_error("UnauthorizedOperation", "You may not. Encoded authorization failure message: aGVsbG8=")

    assert "aGVsbG8" not in str(told)
    assert told.message == "aws: You may not"


@given(st.integers(0, 50), st.floats(0, 1))
def test_pauses_grow_and_end_at_the_longest(attempt: int, chance: float) -> None:
    patience = Patience()

    assert 0 <= patience.pause(attempt, lambda: chance) <= patience.longest_s
    assert patience.pause(attempt, lambda: 1.0) == min(8.0, 0.5 * 2**attempt)


# -- images, places, machines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance_type", "accelerator", "count", "kind"),
    [
        ("m7i.large", None, 0, "cpu"),
        ("p5.48xlarge", "H100-SXM", 8, "gpu"),
        ("p6-b200.48xlarge", "B200", 8, "gpu"),
        ("g5.xlarge", "A10G", 1, "gpu"),
        ("g5g.xlarge", "T4G", 1, "gpu"),
        ("g4dn.xlarge", "T4", 1, "gpu"),
        ("gr6.4xlarge", "L4", 1, "gpu"),
        ("g4ad.xlarge", "Radeon-Pro-V520", 1, "cpu"),
        ("p3.2xlarge", "V100-16GB", 1, "older-gpu"),
        ("p3dn.24xlarge", "V100-32GB", 8, "older-gpu"),
        ("g6f.large", "L4", 0.125, "fractional"),
        ("gr6f.4xlarge", "L4", 0.5, "fractional"),
        ("trn1.2xlarge", "Trainium1", 1, "neuron"),
        ("trn2.48xlarge", "Trainium2", 16, "neuron"),
        ("trn2u.48xlarge", "Trainium2", 16, "neuron"),
        ("inf2.xlarge", "Inferentia2", 1, "neuron"),
        ("inf1.xlarge", "Inferentia1", 1, "older-gpu"),
        ("dl1.24xlarge", "Gaudi", 8, "cpu"),
    ],
)
def test_the_image_is_of_the_kind_its_family_needs(
    instance_type: str, accelerator: str | None, count: float, kind: str
) -> None:
    offer = replace(OFFER, instance_type=instance_type, accelerator=accelerator, accelerator_count=count)

    assert kind_of_image(offer) == kind


def test_root_devices_are_what_the_image_says() -> None:
    described = {
        "ImageId": "ami-1",
        "Architecture": "arm64",
        "Name": "al2023-ami-2023",
        "RootDeviceName": "/dev/xvda",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"},
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30}},
        ],
    }

    assert read_image(described) == MachineImage(
        id="ami-1", architecture="arm64", root_device="/dev/xvda", root_gb=30, user="ec2-user"
    )


@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-amd64-server-1", "ubuntu"),
        ("amzn2-ami-hvm-2.0", "ec2-user"),
        ("Deep Learning Base Proprietary Nvidia Driver AMI (Amazon Linux 2)", "ec2-user"),
        ("debian-12-amd64-20240717", "admin"),
        ("RHEL-9.4", "ec2-user"),
        ("my own", "ubuntu"),
    ],
)
def test_who_logs_in_is_guessed_from_the_name(name: str, user: str) -> None:
    assert user_of({"Name": name}) == user


def test_a_zone_gives_one_subnet_the_roomiest() -> None:
    small = replace(A, subnet="subnet-small", free=3)

    assert one_per_zone([small, B, A]) == (A, B)


@pytest.mark.parametrize("name", ["us-east-1b", "use1-az2"])
def test_zones_are_known_by_name_and_by_id(name: str) -> None:
    offers = [replace(SPOT, zone=name), replace(SPOT, zone="us-east-1a", usd_per_hour=2.0)]

    found = places_for(offers, [A, B], frozenset({"us-east-1a", "us-east-1b"}))

    assert [(place.subnet, offer.usd_per_hour) for place, offer in found] == [
        ("subnet-b", 0.8),
        ("subnet-a", 2.0),
    ]


def test_zones_that_do_not_sell_the_type_are_left_out_and_none_left_is_no_capacity() -> None:
    found = places_for([OFFER], [A, B], frozenset({"us-east-1b"}))

    assert [place.subnet for place, _ in found] == ["subnet-b"]
    with pytest.raises(
        CapacityError, match="is sold in us-east-1f of us-east-1, and the subnets are in us-east-1a"
    ):
        places_for([OFFER], [A, B], frozenset({"us-east-1f"}))


def described(**more: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-1",
        "InstanceType": "g6.xlarge",
        "State": {"Name": "running"},
        "Placement": {"AvailabilityZone": "us-east-1b", "AvailabilityZoneId": "use1-az2"},
        "Tags": [
            {"Key": "skyward:user", "Value": "ec2-user"},
            {"Key": "skyward:volume:/dev/sdf", "Value": "/data"},
        ],
        "CpuOptions": {"CoreCount": 2, "ThreadsPerCore": 2},
        **more,
    }


def test_a_machine_keeps_the_price_it_was_launched_for() -> None:
    here, there = replace(OFFER, zone="use1-az2"), replace(OFFER, zone="use1-az1", usd_per_hour=3.0)

    assert read_instance(described(), "us-east-1", [there, here]).offer is here
    assert (
        read_instance(described(InstanceLifecycle="spot"), "us-east-1", [there, here]).offer.usd_per_hour
        is None
    )


def test_a_machine_of_a_stranger_has_no_price_but_a_shape() -> None:
    instance = read_instance(described(), "us-east-1")

    assert instance.offer.usd_per_hour is None
    assert (instance.offer.vcpus, instance.offer.zone) == (4.0, "us-east-1b")
    assert instance.user == "ec2-user"


def test_buckets_are_looked_for_where_the_machines_are_from() -> None:
    assert "s3_endpoint" not in read_instance(described(), "us-east-1").details
    elsewhere = read_instance(described(), "us-east-1", endpoint="http://127.0.0.1:5000")
    assert elsewhere.details["s3_endpoint"] == "http://127.0.0.1:5000"


def test_disks_are_known_by_their_path() -> None:
    disks = [
        {"DeviceName": "/dev/sda1", "Ebs": {"VolumeId": "vol-root"}},
        {"DeviceName": "/dev/sdf", "Ebs": {"VolumeId": "vol-data"}},
    ]

    assert read_instance(described(BlockDeviceMappings=disks), "us-east-1").details == {
        "volumes": {"vol-data": "/data"}
    }


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("pending", InstanceState.PENDING),
        ("running", InstanceState.RUNNING),
        ("stopping", InstanceState.RUNNING),
        ("stopped", InstanceState.RUNNING),
        ("shutting-down", InstanceState.TERMINATING),
        ("terminated", InstanceState.TERMINATED),
    ],
)
def test_states_are_those_of_the_bill(state: str, expected: InstanceState) -> None:
    assert read_instance(described(State={"Name": state}), "us-east-1").state is expected


def test_why_a_machine_ended_is_told_in_ec2s_words() -> None:
    code = "Server.SpotInstanceTermination"
    ended = described(
        State={"Name": "terminated"},
        StateReason={"Code": code, "Message": f"{code}: Spot instance termination"},
    )

    assert read_instance(ended, "us-east-1").reason == f"{code}: Spot instance termination"
    assert read_instance(described(State={"Name": "stopped"}), "us-east-1").reason == "EC2 says stopped"
    assert read_instance(described(), "us-east-1").reason is None


def test_p5n_is_taken_as_p5en_with_a_warning() -> None:
    offer = replace(OFFER, instance_type="p5n.48xlarge")
    request = LaunchRequest(
        offer=offer, count=1, pool="p", token="t", alternatives=(replace(offer, zone="x"),)
    )

    with pytest.warns(Warning, match=r"p5n\.48xlarge is taken as p5en\.48xlarge"):
        real = with_real_type(request)

    assert real.offer.instance_type == "p5en.48xlarge"
    assert [one.instance_type for one in real.alternatives] == ["p5en.48xlarge"]


# -- policy --------------------------------------------------------------------------------------------------------


def statements(action: str) -> list[dict[str, Any]]:
    return [one for one in make_policy("us-east-1")["Statement"] if action in one["Action"]]


def test_the_policy_is_made_of_every_call_and_of_nothing_else() -> None:
    granted = {action for call in all_calls() for grant in call.grants for action in grant.actions}
    written = {action for one in make_policy("us-east-1")["Statement"] for action in one["Action"]}

    assert written == granted
    assert set(PERMISSIONS) <= written
    assert not [action for action in written if "*" in action]


@pytest.mark.parametrize("action", ["ec2:TerminateInstances", "ec2:DeleteSecurityGroup", "ec2:DeleteVolume"])
def test_what_destroys_may_only_touch_what_is_ours(action: str) -> None:
    (statement,) = statements(action)

    assert statement["Condition"] == {"StringEquals": {"ec2:ResourceTag/skyward:managed": "true"}}
    assert "*" not in statement["Resource"]


def test_machines_may_only_be_made_with_our_tag_and_tags_only_be_given_as_things_are_made() -> None:
    making = [
        one for one in statements("ec2:RunInstances") if any(":instance/" in name for name in one["Resource"])
    ]

    assert [one["Condition"]["StringEquals"] for one in making] == [
        {"aws:RequestTag/skyward:managed": "true"}
    ]
    for one in statements("ec2:CreateTags"):
        assert "RunInstances" in one["Condition"]["StringEquals"]["ec2:CreateAction"]


def test_one_role_may_be_passed_and_to_ec2_alone() -> None:
    (statement,) = statements("iam:PassRole")

    assert statement["Resource"] == ["arn:aws:iam::*:role/skyward-role"]
    assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_the_policy_is_written_for_the_part_of_aws_it_is_used_in(region: str, partition: str) -> None:
    text = json.dumps(make_policy(region))

    assert partition_of(region) == partition
    assert "{partition}" not in text
    assert f"arn:{partition}:ec2" in text


def test_the_policy_fits_into_one_managed_policy() -> None:
    """6,144 characters, white space not counted: IAM user guide, "IAM and STS quotas" (2026-11)."""
    assert len(json.dumps(make_policy("us-gov-west-1"), separators=(",", ":"))) <= 6144


def test_a_bucket_may_be_read_below_its_prefix_alone_unless_it_is_writable() -> None:
    name, text = bucket_policy(S3Volume("/d", "my-data", "sets/a/"))
    listing, objects = text["Statement"]

    assert name.startswith("read-")
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["sets/a", "sets/a/*"]}}
    assert objects == {
        "Effect": "Allow",
        "Action": ["s3:GetObject"],
        "Resource": ["arn:aws:s3:::my-data/sets/a/*"],
    }
    name, text = bucket_policy(S3Volume("/d", "my-data", read_only=False))
    assert name.startswith("write-")
    assert "s3:PutObject" in text["Statement"][1]["Action"]
    assert "Condition" not in text["Statement"][0]
