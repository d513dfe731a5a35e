"""Machines of EC2 from launch to bill: unmodified boto3 and paramiko against a simulated EC2 with real sshds."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import paramiko
import pytest
from aws_cloud import CPU, SPOT, await_running, await_that, client, order, without_machines

from skyward import Endpoint, Instance, InstanceState, Offer, S3Volume, Volume
from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWSProvider
from skyward_aws.config import ALLOCATION_STRATEGIES
from skyward_aws.images import find_image

MakeAWS = Callable[..., AWSProvider]
GPU = replace(CPU, instance_type="g6.xlarge", accelerator="L4", accelerator_count=1)
ARM = replace(CPU, instance_type="m7g.large", architecture="arm64")


def log_in(endpoint: Endpoint, key: Path) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect(
        endpoint.host,
        endpoint.port,
        endpoint.user,
        key_filename=str(key),
        timeout=10,
        allow_agent=False,
        look_for_keys=False,
    )
    return client


def asked(ec2: SimulatedEC2, action: str) -> list[Any]:
    return [request for request in ec2.requests if request.action == action]


def end(aws: AWSProvider, ec2: SimulatedEC2, pool: str = "p-1") -> None:
    """The pool's teardown, and the bill's word on it."""
    aws.terminate([instance.id for instance in aws.instances(pool)])
    await_that(lambda: not ec2.running())
    aws.release(pool)
    assert ec2.resources() == {}


# -- from launch to bill -------------------------------------------------------------------------------------------


def test_machines_are_launched_reached_ended_and_nothing_is_left(
    aws: AWSProvider, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key

    launched = aws.launch(
        order(count=2, public_key=public, user_data="#!/bin/sh\necho hello >/etc/motd-of-ours\n")
    )
    running = await_running(aws, count=2)

    assert {one.id for one in launched} == {one.id for one in running} == set(ec2.running())
    assert all(one.state is InstanceState.PENDING and one.offer is CPU for one in launched)
    assert all(one.offer == CPU and one.user == "ubuntu" and one.public_address for one in running)
    with log_in(aws.connect(running[0]), key) as ssh:
        said = ssh.exec_command("id -un; cat /etc/motd-of-ours")[1].read().decode()
    assert said == "ubuntu\nhello\n"
    end(aws, ec2)
    assert [charge.gone_at is not None for charge in ec2.bill] == [True, True]


def test_a_launch_is_one_request_to_fleet_and_a_poll_is_one_describe(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order(count=5))
    before = ec2.count("DescribeInstances")
    aws.instances("p-1")
    found = await_running(aws, count=5)

    assert ec2.count("CreateFleet") == 1
    assert ec2.count("RunInstances") == 0
    assert before == 0
    before = ec2.count("TerminateInstances")
    aws.terminate([one.id for one in found])
    assert ec2.count("TerminateInstances") == before + 1


@without_machines
def test_what_was_found_is_kept_for_the_next_launch(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.launch(order(token="one"))
    before = len(ec2.requests)

    aws.launch(order(token="two"))

    assert [request.action for request in ec2.requests[before:]] == ["CreateLaunchTemplate", "CreateFleet"]


@without_machines
def test_every_page_is_read(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.account.per_call = 5
    for number in range(6):
        aws.launch(order(token=f"t-{number}"))

    assert len(aws.instances("p-1")) == 6
    assert ec2.count("DescribeInstances") == 2
    aws.terminate(one.id for one in aws.instances("p-1"))
    assert ec2.count("TerminateInstances") == 2


@without_machines
def test_everything_is_tagged_and_machines_of_others_are_not_ours(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order(count=1, volumes=(Volume(size_gb=10, mount_path="/data"),), public_key=KEY))
    aws.launch(order(pool="p-2", token="t-2"))
    cloud = client(ec2)
    cloud.run_instances(
        ImageId=aws.account.site("us-east-1").image(CPU).id, InstanceType="t3.micro", MinCount=1, MaxCount=1
    )

    assert len(ec2.running()) == 3
    assert [one.tags["skyward:pool"] for one in aws.instances("p-1")] == ["p-1"]
    assert sorted(one.tags["skyward:pool"] for one in aws.instances(None)) == ["p-1", "p-2"]
    mine = [
        {"Name": "tag:skyward:pool", "Values": ["p-1"]},
        {"Name": "tag:skyward:managed", "Values": ["true"]},
    ]
    kinds = {
        tag["ResourceType"]
        for tag in cloud.describe_tags(Filters=[{"Name": "key", "Values": ["skyward:pool"]}])["Tags"]
    }
    assert {"instance", "volume", "security-group", "key-pair", "launch-template"} <= kinds
    assert len(cloud.describe_volumes(Filters=mine)["Volumes"]) == 2


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA nobody"


def test_a_machine_that_powers_itself_off_is_gone_and_says_why(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    (launched,) = aws.launch(order())
    await_running(aws)

    ec2.machine(launched.id).run("setsid sh -c 'sleep 0.2; poweroff -f' >/dev/null 2>&1 &")

    await_that(lambda: not ec2.running())
    (gone,) = await_that(
        lambda: [one for one in aws.instances("p-1") if one.state is InstanceState.TERMINATED]
    )
    assert gone.reason.startswith("Client.InstanceInitiatedShutdown")


def test_metadata_is_only_told_to_who_shows_a_token(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    (launched,) = aws.launch(order())
    await_running(aws)
    ask = (
        "curl -s -o /dev/null -w %{http_code} $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/instance-id"
    )

    assert ec2.machine(launched.id).run(ask) == "401"
    (described,) = client(ec2).describe_instances(InstanceIds=[launched.id])["Reservations"][0]["Instances"]
    assert described["MetadataOptions"]["HttpTokens"] == "required"
    assert described["MetadataOptions"]["HttpPutResponseHopLimit"] == 1


def test_a_provider_made_anew_finds_and_ends_what_another_launched(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    make_aws().launch(order(count=2, public_key=KEY))
    other = make_aws()

    found = await_running(other, count=2)

    assert [one.offer.usd_per_hour for one in found] == [None, None]
    end(other, ec2)


def test_a_launch_goes_where_its_offer_is(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    there = replace(CPU, region="eu-west-1", zones=("eu-west-1a",))

    (launched,) = aws.launch(order(there))

    assert [charge.region for charge in ec2.bill] == ["eu-west-1"]
    assert [one.region for one in await_running(aws)] == ["eu-west-1"]
    aws.terminate([launched.id])
    await_that(lambda: not ec2.running())
    aws.release("p-1")
    assert ec2.resources() == {}


# -- zones and strategies ------------------------------------------------------------------------------------------


@without_machines
@pytest.mark.parametrize("strategy", ALLOCATION_STRATEGIES)
def test_every_strategy_launches_spot_machines(make_aws: MakeAWS, ec2: SimulatedEC2, strategy: str) -> None:
    ec2.set_capacity(2, zone="us-east-1a")
    aws = make_aws(allocation_strategy=strategy)

    launched = aws.launch(order(SPOT, count=3))

    (fleet,) = asked(ec2, "CreateFleet")
    assert fleet.parameters["SpotOptions.AllocationStrategy"] == strategy
    assert len(launched) == 3
    assert all(one.spot for one in launched)
    assert {charge.market for charge in ec2.bill} == {"spot"}
    zones = {one.zone for one in launched}
    assert zones == {charge.zone for charge in ec2.bill}
    assert strategy != "diversified" or len(zones) == 3


def test_machines_come_from_any_zone_of_the_alternatives_and_are_the_offer_they_are(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.set_capacity(1, zone="us-east-1a")
    first = replace(SPOT, zone="us-east-1a", zones=("us-east-1a",), usd_per_hour=0.01)
    second = replace(SPOT, zone="us-east-1b", zones=("us-east-1b",), usd_per_hour=0.02)
    ec2.set_capacity(1, zone="us-east-1b")

    launched = aws.launch(order(first, count=2, alternatives=(second,)))

    assert sorted((one.zone, one.offer.usd_per_hour) for one in launched) == [
        ("us-east-1a", 0.01),
        ("us-east-1b", 0.02),
    ]
    assert {one.id: one.offer for one in await_running(aws, count=2)} == {
        one.id: one.offer for one in launched
    }


def test_zones_are_taken_by_the_id_that_the_catalog_has(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    (subnet,) = client(ec2).describe_subnets(
        Filters=[{"Name": "availability-zone", "Values": ["us-east-1b"]}]
    )["Subnets"]
    offer = replace(
        SPOT, zone=subnet["AvailabilityZoneId"], zones=(subnet["AvailabilityZoneId"], "us-east-1b")
    )

    (launched,) = aws.launch(order(offer))

    assert launched.zone == "us-east-1b"


def test_a_price_limit_reaches_ec2_only_where_it_was_asked_for(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.launch(order(SPOT, token="a"))
    aws.launch(order(SPOT, token="b", max_price=1.25))

    limits = [
        [value for name, value in one.parameters.items() if name.endswith("MaxPrice")]
        for one in asked(ec2, "CreateFleet")
    ]
    assert limits[0] == []
    assert set(limits[1]) == {"1.250000"}


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "named"),
    [
        (CPU, "ubuntu-jammy-22.04-amd64"),
        (ARM, "ubuntu-jammy-22.04-arm64"),
        (GPU, "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04)"),
        (replace(GPU, instance_type="g5g.xlarge", architecture="arm64"), "Deep Learning ARM64 Base OSS"),
        (replace(GPU, instance_type="g6f.large", accelerator_count=0.125), "ubuntu-jammy-22.04-amd64"),
        (
            replace(GPU, instance_type="trn1.2xlarge", accelerator="Trainium1"),
            "Deep Learning AMI Neuron (Ubuntu 22.04)",
        ),
        (
            replace(GPU, instance_type="p3.2xlarge", accelerator="V100-16GB"),
            "Deep Learning Base Proprietary Nvidia Driver AMI (Amazon Linux 2)",
        ),
    ],
    ids=lambda value: value.instance_type if isinstance(value, Offer) else "",
)
@pytest.mark.parametrize("has_parameters", [True, False], ids=["by parameter", "by name"])
def test_the_image_fits_the_machine(
    aws: AWSProvider, ec2: SimulatedEC2, offer: Offer, named: str, has_parameters: bool
) -> None:
    if not has_parameters:
        ec2.fault(
            "GetParameter",
            "error",
            times=None,
            code="ParameterNotFound",
            message="no such parameter",
            status=400,
        )

    image = aws.account.site("us-east-1").image(offer)

    (described,) = client(ec2).describe_images(ImageIds=[image.id])["Images"]
    assert named in described["Name"]
    assert image.architecture == offer.architecture
    assert image.root_device == described["RootDeviceName"]
    assert image.root_gb == described["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]


@without_machines
@pytest.mark.parametrize(
    ("name", "user"),
    [
        ("Deep Learning Base Proprietary Nvidia Driver AMI (Amazon Linux 2) Version 71.6", "ec2-user"),
        ("Deep Learning Base Proprietary Nvidia Driver GPU AMI (Ubuntu 20.04) 20240429", "ubuntu"),
    ],
)
def test_images_with_the_older_driver_go_by_several_names(
    aws: AWSProvider, ec2: SimulatedEC2, name: str, user: str
) -> None:
    ec2.fault("GetParameter", "error", times=None, code="ParameterNotFound", message="none", status=400)
    cloud = aws.account.site("us-east-1").cloud
    ask, looked_for = cloud.ask, []

    def answer(call: Any, **parameters: Any) -> Any:
        if call.operation != "DescribeImages":
            return ask(call, **parameters)
        (patterns,) = (one["Values"] for one in parameters["Filters"] if one["Name"] == "name")
        looked_for.extend(patterns)
        shown = [one for one in patterns if fnmatch(name, one)]
        return {"Images": [{"ImageId": "ami-1", "Name": name}] if shown else []}

    cloud.ask = answer  # type: ignore[method-assign]  # the simulated cloud has the newest only

    assert find_image(cloud, kind="older-gpu", architecture="x86_64").user == user
    assert len(looked_for) == 3


def test_a_custom_image_is_booted_as_its_own_user(
    make_aws: MakeAWS, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key
    filters = [{"Name": "name", "Values": ["al2023-ami-*-x86_64"]}]
    ami = client(ec2).describe_images(Filters=filters)["Images"][0]["ImageId"]
    aws = make_aws(ami=ami)

    aws.launch(order(public_key=public))
    (running,) = await_running(aws)

    assert running.user == "ec2-user"
    with log_in(aws.connect(running), key) as ssh:
        assert ssh.exec_command("id -un")[1].read() == b"ec2-user\n"


def test_the_user_and_the_port_can_be_named(make_aws: MakeAWS) -> None:
    aws = make_aws(username="me", ssh_port=2222)
    instance = Instance(id="i-1", provider="aws", offer=CPU, public_address="203.0.113.7", port=2222)

    assert aws.connect(instance) == Endpoint(host="203.0.113.7", port=2222, user="me")


# -- networks ------------------------------------------------------------------------------------------------------


def rules(ec2: SimulatedEC2, pool: str = "p-1") -> list[tuple[str, Any, list[str]]]:
    (group,) = client(ec2).describe_security_groups(Filters=[{"Name": "tag:skyward:pool", "Values": [pool]}])[
        "SecurityGroups"
    ]
    return sorted(
        (rule["IpProtocol"], rule.get("FromPort"), [one["CidrIp"] for one in rule["IpRanges"]])
        for rule in group["IpPermissions"]
    )


@without_machines
def test_ssh_is_open_to_this_client_alone_and_members_reach_each_other(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order())

    assert rules(ec2) == [("-1", None, []), ("tcp", 22, ["127.0.0.1/32"])]
    (group,) = client(ec2).describe_security_groups(
        Filters=[{"Name": "tag:skyward:pool", "Values": ["p-1"]}]
    )["SecurityGroups"]
    assert group["GroupName"] == "skyward-p-1"
    assert "expires 2026-11-22T10:00:00Z" in group["Description"]


@without_machines
def test_two_pools_have_two_groups_and_each_releases_its_own(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.launch(order())
    aws.launch(order(pool="p-2", token="t-2"))
    assert len(ec2.resources()["security-group"]) == 2

    aws.terminate([one.id for one in aws.instances("p-1")])
    await_that(lambda: len(ec2.running()) == 1)
    aws.release("p-1")

    assert [name.split()[1] for name in ec2.resources()["security-group"]] == ["skyward-p-2"]


@without_machines
def test_another_network_may_be_let_in_and_the_whole_world_with_a_warning(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    make_aws(ssh_cidr="203.0.113.0/24").launch(order())
    assert rules(ec2)[1] == ("tcp", 22, ["203.0.113.0/24"])

    with pytest.warns(Warning, match="open to the whole internet"):
        make_aws(ssh_cidr="0.0.0.0/0").launch(order(pool="p-2", token="t-2"))
    assert rules(ec2, "p-2")[1] == ("tcp", 22, ["0.0.0.0/0"])


def test_a_client_that_moves_is_let_in_anew_and_its_old_address_shut_out(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order())
    (running,) = await_running(aws)
    site = aws.account.site("us-east-1")
    before = len(ec2.requests)
    aws.connect(running)
    assert len(ec2.requests) == before  # nothing has changed, and nothing is asked

    site._address = (float("inf"), "198.51.100.4/32")
    aws.connect(running)

    assert rules(ec2)[1] == ("tcp", 22, ["198.51.100.4/32"])


@without_machines
def test_a_client_with_an_address_of_version_six_is_let_in_alone(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    ec2.client_address = "2001:db8::7"

    make_aws(ssh_cidr=None).launch(order())

    (group,) = client(ec2).describe_security_groups(
        Filters=[{"Name": "tag:skyward:pool", "Values": ["p-1"]}]
    )["SecurityGroups"]
    assert [one["CidrIpv6"] for rule in group["IpPermissions"] for one in rule["Ipv6Ranges"]] == [
        "2001:db8::7/128"
    ]
    assert [one for rule in group["IpPermissions"] for one in rule["IpRanges"]] == []


def test_another_client_of_the_pool_is_let_in_beside_the_first(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    make_aws().launch(order())
    other = make_aws()
    (running,) = await_running(other)
    other.account.site("us-east-1")._address = (float("inf"), "198.51.100.4/32")

    other.connect(running)

    assert sorted(cidr for _, _, cidrs in rules(ec2) for cidr in cidrs) == ["127.0.0.1/32", "198.51.100.4/32"]


def test_a_group_and_a_subnet_of_the_users_own_are_taken_and_left_alone(
    make_aws: MakeAWS, ec2: SimulatedEC2
) -> None:
    cloud = client(ec2)
    (subnet,) = cloud.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1c"]}])[
        "Subnets"
    ]
    group = cloud.create_security_group(GroupName="mine", Description="mine", VpcId=subnet["VpcId"])[
        "GroupId"
    ]
    aws = make_aws(subnet_id=subnet["SubnetId"], security_group_id=group)

    (launched,) = aws.launch(order())
    await_running(aws)

    assert launched.zone == "us-east-1c"
    assert len(ec2.resources()["security-group"]) == 1
    aws.terminate([launched.id])
    await_that(lambda: not ec2.running())
    aws.release("p-1")
    assert ec2.resources() == {"security-group": [f"{group} mine"]}


# -- storage -------------------------------------------------------------------------------------------------------


def test_disks_are_in_the_machines_zone_known_by_path_and_gone_with_it(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    volumes = (Volume(size_gb=500, mount_path="/data"), Volume(size_gb=20, mount_path="/scratch"))

    aws.launch(order(count=2, volumes=volumes))
    running = await_running(aws, count=2)

    described = {one["VolumeId"]: one for one in client(ec2).describe_volumes()["Volumes"]}
    for machine in running:
        disks = machine.details["volumes"]
        assert sorted(disks.values()) == ["/data", "/scratch"]
        assert all(described[id]["AvailabilityZone"] == machine.zone for id in disks)
        assert sorted(described[id]["Size"] for id in disks) == [20, 500]
        assert {one["InstanceId"] for id in disks for one in described[id]["Attachments"]} == {machine.id}
    aws.terminate([one.id for one in running])
    await_that(lambda: not ec2.running())
    assert "volume" not in ec2.resources()


@without_machines
def test_disks_that_were_left_are_deleted_with_the_rest_of_the_pool(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    tags = [{"Key": "skyward:pool", "Value": "p-1"}, {"Key": "skyward:managed", "Value": "true"}]
    cloud = client(ec2)
    cloud.create_volume(
        AvailabilityZone="us-east-1a", Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]
    )
    kept = cloud.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]

    aws.release("p-1")

    assert ec2.resources() == {"volume": [kept]}


@without_machines
def test_a_role_and_a_bucket_are_made_once_and_only_where_a_volume_asks(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    aws.launch(order(token="plain"))
    assert ec2.count("GetInstanceProfile") == ec2.count("CreateRole") == ec2.count("HeadBucket") == 0
    volume = S3Volume("/set", "skyward-123456789012-us-east-1", "sets/", read_only=False)

    (launched,) = aws.launch(order(token="one", volumes=(volume,)))
    aws.launch(order(token="two", volumes=(volume,)))

    assert ec2.count("CreateRole") == ec2.count("CreateInstanceProfile") == ec2.count("CreateBucket") == 1
    assert client(ec2, "s3").head_bucket(Bucket=volume.bucket)
    iam = client(ec2, "iam")
    (policy,) = iam.list_role_policies(RoleName="skyward-role")["PolicyNames"]
    assert policy.startswith("write-")
    (found,) = client(ec2).describe_instances(InstanceIds=[launched.id])["Reservations"][0]["Instances"]
    assert found["IamInstanceProfile"]["Arn"].endswith("instance-profile/skyward-instance-profile")
    end(aws, ec2)
    assert iam.get_role(RoleName="skyward-role")


@without_machines
def test_a_second_client_uses_the_role_that_is_there(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    volume = S3Volume("/set", "skyward-data")
    make_aws().launch(order(token="one", volumes=(volume,)))
    make_aws().launch(order(token="two", pool="p-2", volumes=(volume,)))

    assert ec2.count("CreateRole") == 1
    assert ec2.count("CreateBucket") == 1


@without_machines
def test_a_profile_of_the_users_own_is_taken_as_it_is(make_aws: MakeAWS, ec2: SimulatedEC2) -> None:
    iam = client(ec2, "iam")
    arn = iam.create_instance_profile(InstanceProfileName="mine")["InstanceProfile"]["Arn"]
    client(ec2, "s3").create_bucket(Bucket="my-data")
    aws = make_aws(instance_profile_arn=arn)

    (launched,) = aws.launch(order(volumes=(S3Volume("/set", "my-data"),)))

    (found,) = client(ec2).describe_instances(InstanceIds=[launched.id])["Reservations"][0]["Instances"]
    assert found["IamInstanceProfile"]["Arn"] == arn
    assert ec2.count("CreateRole") == 0


# -- ending --------------------------------------------------------------------------------------------------------


@without_machines
def test_terminate_of_unknown_ids_is_silent_and_ends_the_known_ones(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    known = [one.id for one in aws.launch(order(count=3))]

    aws.terminate(["i-0123456789abcdef0", *known, "i-0123456789abcdef1", "no id at all"])

    await_that(lambda: not ec2.running())
    assert ec2.count("TerminateInstances") <= 3
    aws.terminate(known)
    aws.terminate(["i-0123456789abcdef0"])
    aws.terminate([])


@without_machines
def test_release_may_be_repeated_and_waits_for_a_group_in_use(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.release("nobody")
    (launched,) = aws.launch(order(public_key=KEY))
    ended = threading.Timer(0.5, aws.terminate, [[launched.id]])
    ended.start()

    aws.release("p-1")

    ended.join()
    assert ec2.resources() == {}
    assert ec2.count("DeleteSecurityGroup") > 1
    aws.release("p-1")


@without_machines
def test_secrets_are_in_no_request(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.launch(order(public_key=KEY))

    text = repr(ec2.requests)
    assert ec2.environ["AWS_SECRET_ACCESS_KEY"] not in text
    assert not re.search("PRIVATE KEY", text)
    assert ec2.environ["AWS_SECRET_ACCESS_KEY"] not in repr(aws) + repr(vars(aws).get("config"))


def test_prices_of_machines_of_the_pool_survive_a_poll(aws: AWSProvider) -> None:
    aws.launch(order(SPOT))

    (found,) = await_running(aws)

    assert found.offer.usd_per_hour == SPOT.usd_per_hour
