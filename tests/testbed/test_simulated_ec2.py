"""The simulated EC2 behaves as the real one does, and its bill is true."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from simdesk import Desk, needs_namespaces

from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.ec2_images import IMAGES, image_id
from skyward.testing.ec2_launch import Choice, allocate

TAG = [{"ResourceType": "instance", "Tags": [{"Key": "pool", "Value": "one"}]}]


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=code)


# -- launching --------------------------------------------------------------------------------------------------


def test_an_instance_is_pending_until_its_sshd_answers(desk: Desk, cloud: SimulatedEC2) -> None:
    (id,) = desk.launch()
    at_once = desk.state(id)
    (row,) = desk.await_state("running", id)
    client = desk.connect(id)

    assert at_once == "pending"
    assert row["PublicIpAddress"].startswith("127.77.")
    assert desk.ask(client, "echo $0; id -un").split()[-1] == cloud.user
    assert cloud.running() == [id]


def test_a_launch_that_is_repeated_with_its_token_launches_nothing(desk: Desk, cloud: SimulatedEC2) -> None:
    first = desk.launch(2, ClientToken="once")
    again = desk.launch(2, ClientToken="once")

    assert again == first
    assert sorted(cloud.running()) == sorted(first)
    with refused("IdempotentParameterMismatch"):
        desk.launch(3, ClientToken="once")
    assert desk.launch(ClientToken="twice") != first[:1]


def test_a_failed_launch_does_not_use_up_its_token(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.set_capacity(0)
    with refused("InsufficientInstanceCapacity"):
        desk.launch(ClientToken="once")
    cloud.set_capacity(None)

    assert len(desk.launch(ClientToken="once")) == 1


def test_a_launch_gets_what_there_is_between_minimum_and_maximum(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.set_capacity(2, instance_type="g5.xlarge")

    assert len(desk.launch(MinCount=1, MaxCount=5)) == 2
    with refused("InsufficientInstanceCapacity"):
        desk.launch()
    assert len(desk.launch(InstanceType="m5.large")) == 1


def test_a_fleet_launches_what_its_template_says(desk: Desk, cloud: SimulatedEC2) -> None:
    group = desk.ec2.create_security_group(GroupName="mine", Description="mine")["GroupId"]
    desk.template(
        SecurityGroupIds=[group],
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "from", "Value": "template"}]}],
        InstanceInitiatedShutdownBehavior="terminate",
        MetadataOptions={"HttpTokens": "required"},
    )
    ids, errors = desk.fleet(2, TagSpecifications=TAG)
    rows = desk.await_state("running", *ids)

    assert len(ids) == 2
    assert not errors
    for row in rows:
        assert {tag["Key"]: tag["Value"] for tag in row["Tags"]} == {"from": "template", "pool": "one"}
        assert [each["GroupId"] for each in row["SecurityGroups"]] == [group]
        assert row["InstanceLifecycle"] == "spot"
        assert row["PublicIpAddress"].startswith("127.77.")
        assert row["MetadataOptions"]["HttpTokens"] == "required"
    assert {charge.market for charge in cloud.bill} == {"spot"}


def test_every_instance_of_a_fleet_has_the_profile(desk: Desk) -> None:
    iam = desk.client("iam")
    iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    profile = iam.create_instance_profile(InstanceProfileName="profile")["InstanceProfile"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="role")
    desk.template(IamInstanceProfile={"Arn": profile})
    ids, _ = desk.fleet(2)

    assert [row["IamInstanceProfile"]["Arn"] for row in desk.describe(*ids)] == [profile] * 2


def test_a_fleet_says_what_it_could_not_get(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    a, b = ({"InstanceType": "g5.xlarge", "SubnetId": desk.subnets[f"us-east-1{z}"]} for z in "ab")
    cloud.set_capacity(1, zone="us-east-1a")
    cloud.set_capacity(2, zone="us-east-1b")
    ids, errors = desk.fleet(4, a, b)

    assert len(ids) == 3
    assert errors == [
        ("InsufficientInstanceCapacity", "us-east-1a"),
        ("InsufficientInstanceCapacity", "us-east-1b"),
    ]
    assert desk.fleet(1, a, b) == ([], errors)


def test_a_fleet_with_a_token_is_launched_once(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    first, _ = desk.fleet(2, ClientToken="once")

    assert desk.fleet(2, ClientToken="once")[0] == first
    assert len(cloud.running()) == 2


def test_a_bid_below_the_price_is_refused(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    cloud.set_price(0.5, instance_type="g5.xlarge", market="spot")
    override = {"InstanceType": "g5.xlarge", "SubnetId": desk.subnets["us-east-1a"]}

    assert desk.fleet(1, {**override, "MaxPrice": "0.4"})[1] == [("SpotMaxPriceTooLow", "us-east-1a")]
    assert len(desk.fleet(1, {**override, "MaxPrice": "0.5"})[0]) == 1
    rows = desk.ec2.describe_spot_price_history(
        InstanceTypes=["g5.xlarge"], ProductDescriptions=["Linux/UNIX"]
    )
    assert {row["SpotPrice"] for row in rows["SpotPriceHistory"]} == {"0.500000"}


def test_quotas_count_what_runs(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.market.quotas["L-DB2E81BA"] = 8  # two g5.xlarge
    quota = desk.client("service-quotas").get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")
    ids = desk.launch(2)

    assert quota["Quota"]["Value"] == 8
    with refused("VcpuLimitExceeded"):
        desk.launch()
    desk.launch(InstanceType="m5.large")
    desk.ec2.terminate_instances(InstanceIds=ids)
    desk.await_state("terminated", *ids)
    assert len(desk.launch()) == 1


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("InvalidAMIID.NotFound", {"ImageId": "ami-00000000000000000"}),
        ("InvalidKeyPair.NotFound", {"KeyName": "nobody"}),
        ("InvalidParameterValue.*InstanceType", {"InstanceType": "z9.huge"}),
        ("architecture", {"InstanceType": "m7g.large"}),
        ("User data is limited", {"UserData": "x" * 16385}),
        ("Unsupported", {"InstanceType": "p4de.24xlarge", "SubnetId": "us-east-1e"}),
        ("InvalidSubnetID", {"SubnetId": "subnet-00000000"}),
        ("InvalidGroup.NotFound", {"SecurityGroupIds": ["sg-00000000"]}),
    ],
)
def test_a_launch_that_cannot_be_is_refused(
    desk: Desk, cloud: SimulatedEC2, code: str, wrong: dict[str, Any]
) -> None:
    if wrong.get("SubnetId") in desk.subnets:
        wrong = {**wrong, "SubnetId": desk.subnets[wrong["SubnetId"]]}
    with refused(code):
        desk.launch(**wrong)
    assert not cloud.bill


def test_a_dry_run_launches_nothing(desk: Desk, cloud: SimulatedEC2) -> None:
    with refused("DryRunOperation"):
        desk.launch(DryRun=True)
    assert not cloud.bill


def test_images_are_found_by_parameter_and_by_name(desk: Desk) -> None:
    ssm = desk.client("ssm")
    for image in IMAGES:
        (found,) = desk.ec2.describe_images(
            Owners=[image.owner], Filters=[{"Name": "name", "Values": [image.name]}]
        )["Images"]
        assert found["ImageId"] == image_id(image, "us-east-1")
        assert found["Architecture"] == image.architecture
        assert found["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == image.root_gib
        for name in image.parameters:
            assert ssm.get_parameter(Name=name)["Parameter"]["Value"] == found["ImageId"]


def test_regions_are_apart(desk: Desk, cloud: SimulatedEC2) -> None:
    far = desk.client("ec2", region_name="eu-west-1")
    id = far.run_instances(
        ImageId=image_id(IMAGES[0], "eu-west-1"), InstanceType="m5.large", MinCount=1, MaxCount=1
    )["Instances"][0]["InstanceId"]

    assert desk.describe() == []
    assert [(charge.id, charge.region, charge.zone) for charge in cloud.bill] == [
        (id, "eu-west-1", "eu-west-1a")
    ]


# -- allocation, decided without a cloud ------------------------------------------------------------------------

STRATEGIES = (
    "lowest-price",
    "diversified",
    "capacity-optimized",
    "capacity-optimized-prioritized",
    "price-capacity-optimized",
)


def choice(number: int, *, price: float = 1.0, free: int = 10, zone: str = "a", **override: str) -> Choice:
    return Choice(
        number=number,
        template={},
        override=override,
        instance_type="t",
        zone=zone,
        market="spot",
        subnet="",
        price=price,
        free=free,
    )


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("lowest-price", {1: 3, 2: 1}),
        ("diversified", {0: 2, 1: 1, 2: 1}),
        ("capacity-optimized", {0: 4}),
        ("capacity-optimized-prioritized", {2: 4}),
        ("price-capacity-optimized", {2: 4}),
    ],
)
def test_each_strategy_has_its_own_order(strategy: str, expected: dict[int, int]) -> None:
    choices = [
        choice(0, price=3.0, free=9, Priority="2"),
        choice(1, price=1.0, free=3, Priority="1"),
        choice(2, price=2.0, free=5, Priority="0"),
    ]

    got = allocate(choices, 4, {"AllocationStrategy": strategy})

    assert {each.number: count for each, count in got} == expected


@given(
    free=st.lists(st.integers(0, 5), max_size=6),
    count=st.integers(0, 20),
    strategy=st.sampled_from(STRATEGIES),
)
def test_a_fleet_gets_all_there_is_and_never_more(free: list[int], count: int, strategy: str) -> None:
    choices = [choice(number, free=each) for number, each in enumerate(free)]

    got = allocate(choices, count, {"AllocationStrategy": strategy})

    assert sum(number for _, number in got) == min(count, sum(free))
    assert all(0 < number <= each.free for each, number in got)


def test_a_fleet_may_want_one_zone_or_a_minimum() -> None:
    choices = [choice(0, free=2, zone="a"), choice(1, free=3, zone="b"), choice(2, free=3, zone="b")]

    one_zone = allocate(choices, 5, {"SingleAvailabilityZone": "true"})
    enough = allocate(choices, 9, {"MinTargetCapacity": "8"})
    too_few = allocate(choices, 9, {"MinTargetCapacity": "9"})

    assert {each.zone for each, _ in one_zone} == {"b"}
    assert sum(count for _, count in enough) == 8
    assert too_few == []


# -- ending -----------------------------------------------------------------------------------------------------


def test_terminating_ends_the_machine_and_the_bill(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    processes = cloud.machine(id).processes()
    answer = desk.ec2.terminate_instances(InstanceIds=[id])["TerminatingInstances"][0]
    (row,) = desk.await_state("terminated", id)

    assert answer["CurrentState"]["Name"] == "shutting-down"
    assert row["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert processes
    assert not any(process.is_running() for process in processes)
    assert not client.get_transport().is_active() or desk_is_cut_off(desk, client)
    assert cloud.running() == []
    assert cloud.bill[0].gone_at is not None
    assert cloud.bill[0].gone_at > cloud.bill[0].launched_at
    desk.ec2.terminate_instances(InstanceIds=[id])  # may be repeated


def desk_is_cut_off(desk: Desk, client: Any) -> bool:
    deadline = time.monotonic() + 5
    while client.get_transport().is_active() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not client.get_transport().is_active()


def test_an_unknown_instance_is_an_error_of_its_own(desk: Desk) -> None:
    with refused("InvalidInstanceID.NotFound"):
        desk.ec2.terminate_instances(InstanceIds=["i-0123456789abcdef0"])


def test_a_group_in_use_cannot_be_deleted(desk: Desk, cloud: SimulatedEC2) -> None:
    group = desk.ec2.create_security_group(GroupName="mine", Description="mine")["GroupId"]
    (id,) = desk.launch(SecurityGroupIds=[group])
    with refused("DependencyViolation"):
        desk.ec2.delete_security_group(GroupId=group)
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)

    desk.ec2.delete_security_group(GroupId=group)
    assert "security-group" not in cloud.resources()


def test_what_is_left_beside_machines_is_listed(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template("mine")
    (id,) = desk.launch()
    desk.await_state("running", id)
    volume = desk.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)

    assert cloud.resources() == {"key-pair": ["desk"], "launch-template": ["mine"], "volume": [volume]}
    desk.ec2.delete_volume(VolumeId=volume)
    desk.ec2.delete_launch_template(LaunchTemplateName="mine")
    desk.ec2.delete_key_pair(KeyName="desk")
    assert cloud.resources() == {}


def test_a_stopped_instance_is_still_billed(desk: Desk, cloud: SimulatedEC2) -> None:
    (id,) = desk.launch()
    desk.await_state("running", id)
    desk.ec2.stop_instances(InstanceIds=[id])
    desk.await_state("stopped", id)

    assert cloud.running() == [id]
    desk.ec2.start_instances(InstanceIds=[id])
    desk.await_state("running", id)
    desk.connect(id)
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)
    assert cloud.running() == []


@needs_namespaces
@pytest.mark.parametrize(
    ("behaviour", "state", "billed"), [("terminate", "terminated", 0), ("stop", "stopped", 1)]
)
def test_a_machine_that_powers_itself_off_is_terminated_or_stopped(
    desk: Desk, cloud: SimulatedEC2, behaviour: str, state: str, billed: int
) -> None:
    id, client = desk.one(InstanceInitiatedShutdownBehavior=behaviour)
    client.exec_command("sudo -n poweroff")
    (row,) = desk.await_state(state, id)

    assert row["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert len(cloud.running()) == billed


# -- disks ------------------------------------------------------------------------------------------------------


@needs_namespaces
def test_a_disk_of_the_template_can_be_formatted_and_mounted(desk: Desk, cloud: SimulatedEC2) -> None:
    extra = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    id, _ = desk.one(BlockDeviceMappings=[extra])
    (row,) = desk.describe(id)
    volume = next(
        each["Ebs"]["VolumeId"] for each in row["BlockDeviceMappings"] if each["DeviceName"] == "/dev/sdf"
    )
    device = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
    machine = cloud.machine(id)

    machine.run(
        f"mkfs.ext4 -q {device} && mkdir /data && mount {device} /data && mountpoint -q /data && date >/data/x"
    )
    assert machine.run("df --output=target /data/x").split()[-1] == "/data"
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)
    assert "volume" not in cloud.resources()


@needs_namespaces
def test_a_disk_keeps_its_content_from_machine_to_machine(desk: Desk, cloud: SimulatedEC2) -> None:
    volume = desk.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    device = f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}"
    first, second = desk.launch(2)
    desk.await_state("running", first, second)

    desk.ec2.attach_volume(VolumeId=volume, InstanceId=first, Device="/dev/sdf")
    cloud.machine(first).run(f"printf found >{device}; sync")
    desk.ec2.detach_volume(VolumeId=volume, InstanceId=first, Device="/dev/sdf")
    desk.ec2.attach_volume(VolumeId=volume, InstanceId=second, Device="/dev/sdf")

    assert cloud.machine(second).run(f"head -c 5 {device}") == "found"
    assert cloud.machine(first).run(f"[ -e {device} ] || echo gone").strip() == "gone"
    with refused("VolumeInUse"):
        desk.ec2.delete_volume(VolumeId=volume)


# -- the cloud itself ---------------------------------------------------------------------------------------------


def test_calls_are_written_down(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.launch(2, ClientToken="once")
    desk.describe()

    assert cloud.count("RunInstances") == 1
    (request,) = [request for request in cloud.requests if request.action == "RunInstances"]
    assert request.parameters["ClientToken"] == "once"
    assert (request.service, request.region, request.fault) == ("ec2", "us-east-1", None)


@pytest.mark.usefixtures("_sshd_installed")
def test_what_moto_cannot_do_fails_the_test(identity: Path) -> None:
    cloud = SimulatedEC2().__enter__()
    try:
        with refused("NotSimulated"):
            Desk(cloud, identity).ec2.get_spot_placement_scores(TargetCapacity=1, InstanceTypes=["m5.large"])
    finally:
        with pytest.raises(AssertionError, match="GetSpotPlacementScores"):
            cloud.__exit__()


def test_strangers_are_refused(cloud: SimulatedEC2) -> None:
    import boto3

    stranger = boto3.Session("AKIASTRANGER", "secret", region_name="us-east-1")
    with refused("AuthFailure"):
        stranger.client("ec2", endpoint_url=cloud.endpoint).describe_instances()
    with refused("InvalidClientTokenId"):
        stranger.client("sts", endpoint_url=cloud.endpoint).get_caller_identity()


def test_one_cloud_at_a_time(cloud: SimulatedEC2) -> None:
    with pytest.raises(RuntimeError, match="another SimulatedEC2"), SimulatedEC2():
        pass
    assert cloud.endpoint


def test_the_next_cloud_knows_nothing_of_the_last(make_cloud: Callable[..., Any], identity: Path) -> None:
    with SimulatedEC2() as first:
        Desk(first, identity).launch(2)
    second = make_cloud()

    assert second.bill == []
    assert second.resources() == {}
    assert Desk(second, identity).describe() == []


def test_s3_answers_too(desk: Desk) -> None:
    s3 = desk.client("s3")
    s3.create_bucket(Bucket="skyward-bucket")
    s3.put_object(Bucket="skyward-bucket", Key="a/b", Body=b"text")

    assert s3.get_object(Bucket="skyward-bucket", Key="a/b")["Body"].read() == b"text"
    s3.head_bucket(Bucket="skyward-bucket")
    with refused("404"):
        s3.head_bucket(Bucket="skyward-nothing")
