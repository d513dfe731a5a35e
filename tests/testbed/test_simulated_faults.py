"""Every scripted fault, as unmodified boto3 and paramiko meet it."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectionError,
    HTTPClientError,
    ReadTimeoutError,
)
from simdesk import Desk, needs_namespaces

from skyward.testing.ec2 import KINDS, SimulatedEC2

PATIENCE_S = 10.0


def code_of(call: Callable[[], Any]) -> tuple[str, int]:
    """The error and its HTTP status."""
    with pytest.raises(ClientError) as caught:
        call()
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def eventually(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "still not true"
        time.sleep(0.02)


def test_every_kind_of_fault_is_on_the_page() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "simulated-cloud.md"
    told = re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", page.read_text(), re.MULTILINE)))

    assert set(KINDS) <= set(told)


def test_an_unknown_kind_is_refused(cloud: SimulatedEC2) -> None:
    with pytest.raises(ValueError, match="'lots'"):
        cloud.fault("RunInstances", "lots")


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("throttle", "RequestLimitExceeded", 503),
        ("capacity", "InsufficientInstanceCapacity", 500),
        ("quota", "VcpuLimitExceeded", 400),
        ("5xx", "InternalError", 500),
        ("unavailable", "Unavailable", 503),
        ("expired", "RequestExpired", 400),
        ("auth", "AuthFailure", 401),
        ("unauthorized", "UnauthorizedOperation", 403),
    ],
)
def test_a_launch_meets_an_error_so_many_times_and_launches_nothing(
    desk: Desk, cloud: SimulatedEC2, kind: str, code: str, status: int
) -> None:
    cloud.fault("RunInstances", kind, times=2)

    assert [code_of(desk.launch) for _ in range(2)] == [(code, status)] * 2
    assert cloud.bill == []
    assert len(desk.launch()) == 1
    assert [request.fault for request in cloud.requests if request.action == "RunInstances"] == [
        kind,
        kind,
        None,
    ]


def test_credentials_expire_everywhere_until_they_are_renewed(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("*", "expired", times=None)

    assert code_of(desk.ec2.describe_instances)[0] == "RequestExpired"
    assert code_of(desk.client("sts").get_caller_identity)[0] == "ExpiredToken"
    assert code_of(lambda: desk.client("ssm").get_parameter(Name="x"))[0] == "ExpiredTokenException"
    cloud.heal()
    assert desk.client("sts").get_caller_identity()["Account"] == cloud.account


def test_a_fault_may_have_a_code_and_a_message_of_its_own(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "error", status=400, code="OptInRequired", message="sign up first")

    with pytest.raises(ClientError, match="sign up first"):
        desk.launch()


def test_a_fault_waits_for_the_call_it_is_meant_for(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "capacity", times=None, match={"InstanceType": "p5*"})
    cloud.fault("RunInstances", "quota", match={"Market": "spot", "AvailabilityZone": "us-east-1a"})
    spot = {"InstanceMarketOptions": {"MarketType": "spot"}}

    assert code_of(lambda: desk.launch(InstanceType="p5.48xlarge"))[0] == "InsufficientInstanceCapacity"
    assert len(desk.launch()) == 1
    assert len(desk.launch(SubnetId=desk.subnets["us-east-1b"], **spot)) == 1
    assert code_of(lambda: desk.launch(**spot))[0] == "VcpuLimitExceeded"


def test_some_calls_meet_a_fault_by_chance_and_the_seed_decides_which(
    make_cloud: Callable[..., SimulatedEC2], identity: Any
) -> None:
    def met(seed: int) -> list[bool]:
        with SimulatedEC2(seed=seed) as cloud:
            desk = Desk(cloud, identity)
            cloud.fault("DescribeVpcs", "throttle", times=None, fraction=0.5)
            for _ in range(20):
                try:
                    desk.ec2.describe_vpcs()
                except ClientError:
                    pass
            return [
                request.fault is not None for request in cloud.requests if request.action == "DescribeVpcs"
            ]

    first = met(1)
    assert met(1) == first
    assert 0 < sum(first) < 20
    assert met(2) != first


@pytest.mark.parametrize("kind", ["capacity", "quota"])
def test_a_fleet_tells_such_errors_in_its_answer(desk: Desk, cloud: SimulatedEC2, kind: str) -> None:
    desk.template()
    a, b = ({"InstanceType": "g5.xlarge", "SubnetId": desk.subnets[f"us-east-1{z}"]} for z in "ab")
    cloud.fault("CreateFleet", kind, match={"AvailabilityZone": "us-east-1a"})
    cloud.fault("CreateFleet", kind)
    code = {"capacity": "InsufficientInstanceCapacity", "quota": "MaxSpotInstanceCountExceeded"}[kind]

    ids, errors = desk.fleet(2, a)
    assert (ids, errors) == ([], [(code, "us-east-1a")])
    ids, errors = desk.fleet(2, a, b)
    assert (ids, errors) == ([], [(code, "us-east-1a"), (code, "us-east-1b")])
    assert len(desk.fleet(2, a, b)[0]) == 2


def test_a_zone_that_is_full_leaves_the_other(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    a, b = ({"InstanceType": "g5.xlarge", "SubnetId": desk.subnets[f"us-east-1{z}"]} for z in "ab")
    cloud.fault("CreateFleet", "capacity", match={"AvailabilityZone": "us-east-1a"})

    ids, _ = desk.fleet(2, a, b)

    assert {row["Placement"]["AvailabilityZone"] for row in desk.describe(*ids)} == {"us-east-1b"}


def test_a_partial_fleet(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    cloud.fault("CreateFleet", "partial", count=3)

    ids, errors = desk.fleet(4)

    assert len(ids) == 3
    assert errors == [("InsufficientInstanceCapacity", "us-east-1a")]
    assert sorted(cloud.running()) == sorted(ids)


def test_a_fleet_may_be_refused_for_any_reason(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    cloud.fault("CreateFleet", "refused", code="UnauthorizedOperation", message="may not pass the role")

    assert desk.fleet(1) == ([], [("UnauthorizedOperation", "us-east-1a")])


# -- answers that do not come ---------------------------------------------------------------------------------------


def test_a_lost_answer_leaves_the_machines_behind(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "lost")
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        desk.launch(2, ClientToken="once")

    assert len(cloud.running()) == 2
    assert sorted(desk.launch(2, ClientToken="once")) == sorted(cloud.running())


def test_the_token_of_boto3_itself_survives_one_lost_answer(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "lost")
    patient = desk.client("ec2", attempts=3)

    patient.run_instances(ImageId=desk.image, InstanceType="g5.xlarge", MinCount=2, MaxCount=2)

    assert len(cloud.running()) == 2
    assert cloud.count("RunInstances") == 2


@pytest.mark.parametrize("kind", ["reset", "hang"])
def test_a_call_that_never_arrives_launches_nothing(desk: Desk, cloud: SimulatedEC2, kind: str) -> None:
    cloud.fault("RunInstances", kind)
    hasty = desk.client("ec2", read_timeout=0.5)
    started = time.monotonic()
    with pytest.raises((ConnectionError, HTTPClientError, ReadTimeoutError)):
        hasty.run_instances(ImageId=desk.image, InstanceType="g5.xlarge", MinCount=1, MaxCount=1)

    assert time.monotonic() - started < 5
    assert cloud.bill == []


def test_a_call_may_hang_after_it_was_carried_out(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "hang", executed=True)
    hasty = desk.client("ec2", read_timeout=1.0)
    with pytest.raises(ReadTimeoutError):
        hasty.run_instances(ImageId=desk.image, InstanceType="g5.xlarge", MinCount=1, MaxCount=1)

    assert len(cloud.running()) == 1


def test_healing_lets_go_of_what_hangs(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("DescribeVpcs", "hang", times=None)
    failed = threading.Event()

    def ask() -> None:
        try:
            desk.client("ec2", read_timeout=60).describe_vpcs()
        except (ConnectionError, HTTPClientError):
            failed.set()

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: cloud.count("DescribeVpcs") == 1)
    cloud.heal()

    assert failed.wait(PATIENCE_S)
    asking.join(PATIENCE_S)
    desk.ec2.describe_vpcs()


def test_a_slow_answer_comes(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("DescribeVpcs", "slow", seconds=0.4)
    started = time.monotonic()
    desk.ec2.describe_vpcs()

    assert time.monotonic() - started >= 0.4


# -- what a launch yields -------------------------------------------------------------------------------------------


def test_slow_boot(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "slow-boot", seconds=1.0)
    started = time.monotonic()
    (id,) = desk.launch()
    desk.await_state("running", id)

    assert time.monotonic() - started >= 1.0
    assert cloud.running() == [id]


def test_every_machine_of_a_cloud_may_boot_slowly(
    make_cloud: Callable[..., SimulatedEC2], identity: Any
) -> None:
    cloud = make_cloud(boot_s=0.7)
    desk = Desk(cloud, identity)
    started = time.monotonic()
    ids = desk.launch(3)
    desk.await_state("running", *ids)

    assert 0.7 <= time.monotonic() - started < 0.7 * 3 + PATIENCE_S


def test_a_new_instance_is_unknown_for_a_while(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "missing", seconds=3.0)
    (id,) = desk.launch()

    assert code_of(lambda: desk.describe(id))[0] == "InvalidInstanceID.NotFound"
    assert desk.describe() == []
    assert code_of(lambda: desk.ec2.terminate_instances(InstanceIds=[id]))[0] == "InvalidInstanceID.NotFound"
    assert cloud.running() == [id]
    eventually(desk.describe)


def test_an_instance_may_die_while_it_boots(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "slow-boot", seconds=30)
    cloud.fault(
        "RunInstances",
        "dies",
        seconds=0.2,
        code="Client.VolumeLimitExceeded",
        message="Volume limit exceeded",
    )
    (id,) = desk.launch()
    (row,) = desk.await_state("terminated", id)

    assert row["StateReason"] == {"Code": "Client.VolumeLimitExceeded", "Message": "Volume limit exceeded"}
    assert cloud.running() == []


def test_nobody_answers_where_sshd_does_not_start(desk: Desk, cloud: SimulatedEC2) -> None:
    cloud.fault("RunInstances", "no-sshd")
    (id,) = desk.launch()
    desk.await_state("running", id)

    with pytest.raises((OSError, paramiko.SSHException)):
        desk.connect(id, timeout_s=2)
    assert cloud.machine(id).is_alive


def test_a_machine_may_have_another_host_key_than_it_was_given(desk: Desk, cloud: SimulatedEC2) -> None:
    key = paramiko.Ed25519Key.from_private_key_file(str(desk.identity))
    user_data = "#cloud-config\n" + json.dumps(
        {"ssh_keys": {"ed25519_private": desk.identity.read_text(), "ed25519_public": key.get_base64()}}
    )
    cloud.fault("RunInstances", "wrong-host-key")
    wrong, right = desk.launch(UserData=user_data), desk.launch(UserData=user_data)
    desk.await_state("running", *wrong, *right)
    keys = [desk.connect(id).get_transport().get_remote_server_key() for id in (*wrong, *right)]  # type: ignore[union-attr]

    assert keys[1] == key
    assert keys[0] != key


# -- terminating ----------------------------------------------------------------------------------------------------


def test_terminate_fails_twice(desk: Desk, cloud: SimulatedEC2) -> None:
    (id,) = desk.launch()
    desk.await_state("running", id)
    cloud.fault("TerminateInstances", "5xx", times=2)

    def terminate() -> Any:
        return desk.ec2.terminate_instances(InstanceIds=[id])

    assert [code_of(terminate)[0] for _ in range(2)] == ["InternalError"] * 2
    assert cloud.running() == [id]
    terminate()
    desk.await_state("terminated", id)


def test_an_instance_may_never_leave_shutting_down(desk: Desk, cloud: SimulatedEC2) -> None:
    (id,) = desk.launch()
    desk.await_state("running", id)
    cloud.fault("TerminateInstances", "stuck")
    desk.ec2.terminate_instances(InstanceIds=[id])
    time.sleep(0.5)

    assert desk.state(id) == "shutting-down"
    assert cloud.running() == [id]
    cloud.heal()
    desk.await_state("terminated", id)
    assert cloud.running() == []


# -- spot -----------------------------------------------------------------------------------------------------------

ASK_METADATA = """
token=$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/api/token")
curl -s -w ' %{http_code}' -H "X-aws-ec2-metadata-token: $token" "${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/meta-data/spot/instance-action"
"""


def test_an_interruption_is_told_first_and_has_its_reason(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one(InstanceMarketOptions={"MarketType": "spot"})
    before = desk.ask(client, ASK_METADATA)
    cloud.machine(id).interrupt(after_s=1.0)
    notice = desk.ask(client, ASK_METADATA)
    (row,) = desk.await_state("terminated", id)

    assert before.endswith("404")
    assert notice.startswith('{"action": "terminate", "time": "20')
    assert row["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert cloud.running() == []


def test_an_interruption_may_be_scripted_before_the_launch(desk: Desk, cloud: SimulatedEC2) -> None:
    desk.template()
    cloud.fault("CreateFleet", "interrupt", seconds=0.5)
    ids, _ = desk.fleet(1)
    (row,) = desk.await_state("terminated", *ids)

    assert row["StateReason"]["Code"] == "Server.SpotInstanceTermination"


# -- the network and the machine ------------------------------------------------------------------------------------


def test_a_partition_is_silent_and_heals(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    (other,) = desk.launch()
    desk.await_state("running", other)
    machine = cloud.machine(id)
    _, out, _ = client.exec_command("sleep 0.5; echo still here", timeout=30)
    machine.partition()

    with pytest.raises((TimeoutError, socket.timeout, paramiko.SSHException)):
        desk.connect(id, timeout_s=1.5)
    assert desk.state(id) == "running"
    desk.connect(other)
    assert client.get_transport().is_active()  # type: ignore[union-attr]
    machine.heal()
    assert out.read() == b"still here\n"
    desk.connect(id)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_partition_may_have_one_direction(desk: Desk, cloud: SimulatedEC2, direction: str) -> None:
    (id,) = desk.launch()
    desk.await_state("running", id)
    cloud.machine(id).partition(direction)

    with pytest.raises((TimeoutError, socket.timeout, paramiko.SSHException)):
        desk.connect(id, timeout_s=1.5)
    cloud.heal()
    desk.connect(id)


def test_a_dead_sshd_is_not_a_dead_machine(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    machine = cloud.machine(id)
    machine.kill_sshd()

    with pytest.raises((OSError, paramiko.SSHException)):
        desk.connect(id, timeout_s=2)
    assert desk.ask(client, "echo alive") == "alive"
    assert desk.state(id) == "running"
    machine.start_sshd()
    eventually(lambda: _can_connect(desk, id))
    machine.kill_sshd(sessions=True)
    eventually(lambda: not client.get_transport().is_active())  # type: ignore[union-attr]
    assert machine.is_alive


def _can_connect(desk: Desk, id: str) -> bool:
    try:
        desk.connect(id, timeout_s=2).close()
    except (OSError, paramiko.SSHException):
        return False
    return True


def test_a_frozen_machine_is_silent_until_it_thaws(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    machine = cloud.machine(id)
    machine.freeze()

    with pytest.raises((TimeoutError, socket.timeout, paramiko.SSHException, EOFError)):
        desk.connect(id, timeout_s=1.5)
    machine.thaw()
    assert desk.ask(client, "echo thawed") == "thawed"


def test_another_host_key_may_answer_later(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    before = client.get_transport().get_remote_server_key()  # type: ignore[union-attr]
    cloud.machine(id).wrong_host_key()
    after = desk.connect(id).get_transport().get_remote_server_key()  # type: ignore[union-attr]

    assert after != before
    assert f"{after.get_name()} {after.get_base64()}" == cloud.machine(id).host_key


def test_a_machine_may_vanish_without_a_word(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    cloud.machine(id).vanish()
    time.sleep(0.5)

    assert not cloud.machine(id).is_alive
    assert client.get_transport().is_active()  # type: ignore[union-attr] # nobody told it
    assert desk.state(id) == "running"
    with pytest.raises((TimeoutError, socket.timeout, paramiko.SSHException)):
        desk.connect(id, timeout_s=1.5)
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)
    assert cloud.running() == []


def test_groups_decide_who_gets_in(make_cloud: Callable[..., SimulatedEC2], identity: Path) -> None:
    cloud = make_cloud(firewall=True)
    desk = Desk(cloud, identity)
    group = desk.ec2.create_security_group(GroupName="mine", Description="mine")["GroupId"]
    rule = {"GroupId": group, "IpProtocol": "tcp", "FromPort": cloud.ssh_port, "ToPort": cloud.ssh_port}
    (id,) = desk.launch(SecurityGroupIds=[group])
    desk.await_state("running", id)
    silent = pytest.raises((TimeoutError, socket.timeout, paramiko.SSHException))

    with silent:
        desk.connect(id, timeout_s=1.0)
    desk.ec2.authorize_security_group_ingress(**rule, CidrIp="203.0.113.7/32")
    with silent:
        desk.connect(id, timeout_s=1.0)
    desk.ec2.authorize_security_group_ingress(**rule, CidrIp="127.0.0.1/32")
    desk.connect(id)
    cloud.machine(id).partition()
    cloud.machine(id).heal()
    desk.connect(id)
    desk.ec2.revoke_security_group_ingress(**rule, CidrIp="127.0.0.1/32")
    cloud.heal()
    with silent:
        desk.connect(id, timeout_s=1.0)


@needs_namespaces
def test_terminating_a_partitioned_machine_ends_it_and_frees_its_address(
    desk: Desk, cloud: SimulatedEC2
) -> None:
    id, _ = desk.one()
    address = cloud.machine(id).address
    cloud.machine(id).partition()
    desk.ec2.terminate_instances(InstanceIds=[id])
    desk.await_state("terminated", id)

    with socket.create_server((address, 22)) as server, socket.create_connection((address, 22), timeout=2):
        server.accept()[0].close()
