"""Machines of a simulated EC2, from their first boot to the end they make themselves; what they cost is what EC2 says."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from skyward.cloud import userdata
from skyward.cloud.bootstrap import core_steps
from skyward.cloud.hostkeys import KeyPair, make_key_pair, rotate
from skyward.contracts.step import Step
from skyward.errors import HostKeyError
from skyward.model.accelerator import Accelerator
from skyward.model.instance import Endpoint, Instance
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.volume import Volume
from skyward.remote.connection import Connection, connect
from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.sshd import can_isolate

pytestmark = pytest.mark.skipif(not can_isolate(), reason="needs root and namespaces")

BOOT_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Rented:
    """One machine, and everything that is known of it."""

    ec2: SimulatedEC2
    id: str
    endpoint: Endpoint
    connect: Callable[[Endpoint], Connection]

    @property
    def billed_s(self) -> float | None:
        """How long it was billed; None while it is."""
        (charge,) = [charge for charge in self.ec2.bill if charge.id == self.id]
        return None if charge.gone_at is None else charge.gone_at - charge.launched_at

    @property
    def gone_at(self) -> float | None:
        return next(charge.gone_at for charge in self.ec2.bill if charge.id == self.id)


Rent = Callable[..., Rented]


@pytest.fixture(scope="module")
def ec2() -> Iterator[SimulatedEC2]:
    with SimulatedEC2() as cloud:
        yield cloud


@pytest.fixture(scope="module")
def client(ec2: SimulatedEC2) -> Any:
    import boto3

    return boto3.client(
        "ec2",
        endpoint_url=ec2.endpoint,
        region_name=ec2.region,
        aws_access_key_id=ec2.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ec2.environ["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture
def rent(ec2: SimulatedEC2, client: Any, tmp_path: Path) -> Iterator[Rent]:
    """Launches one machine with our user data, as a pool does: `rent(lifetime_s=..., lease_s=...)`."""
    with ExitStack() as stack:
        numbers = itertools.count()

        def make(
            *,
            lifetime_s: float | None = 600.0,
            lease_s: float | None = 300.0,
            data: str = "",
            host: KeyPair | None = None,
        ) -> Rented:
            host, own = host or make_key_pair("host"), make_key_pair("client")
            identity = tmp_path / f"identity-{next(numbers)}"
            identity.touch(0o600)
            identity.write_text(own.private)
            given = data or userdata.render(
                host_key=host,
                authorized_keys=[own.public],
                lifetime_s=lifetime_s,
                lease_s=lease_s,
                login_user="ubuntu",
            )
            image = client.describe_images()["Images"][0]["ImageId"]
            launched = client.run_instances(
                ImageId=image,
                InstanceType="m5.large",
                MinCount=1,
                MaxCount=1,
                UserData=given,
                InstanceInitiatedShutdownBehavior="terminate",
            )
            id = launched["Instances"][0]["InstanceId"]
            stack.callback(client.terminate_instances, InstanceIds=[id])
            endpoint = Endpoint(
                host=_address(client, id),
                port=ec2.ssh_port,
                user="ubuntu",
                host_keys=(host.public,),
                identity_files=(str(identity),),
            )
            return Rented(ec2=ec2, id=id, endpoint=endpoint, connect=connect_)

        def connect_(endpoint: Endpoint) -> Connection:
            connection = connect(endpoint)
            stack.callback(connection.close)
            return connection

        yield make


def _address(client: Any, id: str) -> str:
    deadline = time.monotonic() + BOOT_S
    while time.monotonic() < deadline:
        (found,) = client.describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"]
        if found["State"]["Name"] == "running":
            return str(found["PublicIpAddress"])
        time.sleep(0.05)
    raise AssertionError(f"{id} does not run after {BOOT_S} s")


def until(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def instance(rented: Rented, **details: Any) -> Instance:
    offer = Offer(
        provider="aws",
        region="us-east-1",
        instance_type="m5.large",
        usd_per_hour=0.1,
        vcpus=2.0,
        memory_gib=8.0,
    )
    return Instance(id=rented.id, provider="aws", offer=offer, details=details)


def run(connection: Connection, step: Step) -> tuple[int, str, str]:
    done = connection.run(step.script, stdin=json.dumps(step.input).encode(), timeout_s=step.timeout_s)
    return done.exit_status, done.stdout.decode(), done.stderr.decode()


# -- host keys -------------------------------------------------------------------------------------------------


def test_the_first_connection_is_pinned_and_later_ones_know_a_key_that_nobody_else_saw(rent: Rent) -> None:
    machine = rent()
    connection = machine.connect(machine.endpoint)

    new = rotate(connection)

    with pytest.raises(HostKeyError, match="NOT the machine we pinned"):
        connect(machine.endpoint)
    again = machine.connect(replace(machine.endpoint, host_keys=(new,)))
    assert again.run("id -un").stdout == b"ubuntu\n"
    assert connection.run("echo still").stdout == b"still\n", "our own connection goes on"


def test_the_key_a_machine_was_born_with_is_nowhere_on_its_disk_afterwards(rent: Rent) -> None:
    host = make_key_pair("host")
    machine = rent(host=host)
    connection = machine.connect(machine.endpoint)
    secret = host.private.splitlines()[2]
    look = 'grep -rslF -e "$(cat)" /etc/ssh /run /var/lib /root /home /tmp; ls /etc/ssh/ssh_host_*'
    before = connection.run(f"sudo sh -c '{look}'", stdin=secret.encode()).stdout.decode()

    rotate(connection)

    after = connection.run(f"sudo sh -c '{look}'", stdin=secret.encode()).stdout.decode()
    assert before.splitlines()[0] == "/etc/ssh/ssh_host_ed25519_key"
    assert after.splitlines() == ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub"]


def test_a_machine_that_lost_our_key_is_refused_before_it_is_told_anything(rent: Rent) -> None:
    machine = rent()
    machine.ec2.machine(machine.id).wrong_host_key()

    with pytest.raises(HostKeyError):
        connect(machine.endpoint)

    log = machine.ec2.machine(machine.id).read("/var/log/auth.log")
    assert "Accepted" not in log
    assert "ubuntu" not in log


# -- the switch ------------------------------------------------------------------------------------------------


def test_a_machine_nobody_asks_for_ends_itself_within_its_lease(rent: Rent) -> None:
    machine = rent(lease_s=2)

    assert until(lambda: machine.gone_at is not None, 2 + 5 + BOOT_S)

    assert machine.billed_s is not None
    assert machine.billed_s <= 2 + 5 + 2, "launch, boot and lease"


def test_a_machine_lives_as_long_as_somebody_is_heard_and_no_longer_than_a_lease_after(rent: Rent) -> None:
    machine = rent(lease_s=2)
    connection = machine.connect(machine.endpoint)

    for beat in range(24):
        assert connection.run(f"echo {beat} >/run/skyward/lease").exit_status == 0
        time.sleep(0.25)
    assert machine.billed_s is None
    last_heard = time.monotonic()

    assert until(lambda: machine.gone_at is not None, 2 + 5)
    assert machine.gone_at is not None
    assert machine.gone_at - last_heard <= 2 + 5


def test_a_machine_ends_itself_when_its_lifetime_is_over_however_well_it_is_loved(rent: Rent) -> None:
    machine = rent(lifetime_s=3, lease_s=60)
    machine.connect(machine.endpoint).open(
        "while echo $((n = n + 1)) >/run/skyward/lease; do sleep 0.2; done"
    )

    assert until(lambda: machine.gone_at is not None, 3 + 5)


def test_ending_every_process_of_its_user_does_not_disarm_a_machine(rent: Rent) -> None:
    machine = rent(lease_s=3)
    connection = machine.connect(machine.endpoint)
    assert connection.run("cat /run/skyward/armed").exit_status == 0
    stream = connection.open("kill -9 -1")
    stream.exit_status(2)

    assert until(lambda: machine.gone_at is not None, 3 + 5)


def test_the_user_who_logs_in_may_renew_and_nothing_else(rent: Rent) -> None:
    machine = rent()
    connection = machine.connect(machine.endpoint)

    assert until(lambda: connection.run("stat -c %U:%a /run/skyward/lease").stdout == b"ubuntu:600\n", 7)
    for forbidden in (
        "rm /run/skyward/lease",
        "echo 0 >/run/skyward/began",
        "kill $(cat /run/skyward/armed)",
    ):
        assert connection.run(forbidden).exit_status != 0


def test_the_switch_is_armed_before_anybody_can_log_in(rent: Rent) -> None:
    machine = rent()
    connection = machine.connect(machine.endpoint)

    (step,) = [
        one
        for one in core_steps(
            instance(machine), Requirements(), [], has_user_data=True, lifetime_s=600, lease_s=300
        )
        if one.name == "switch"
    ]
    began = time.monotonic()

    assert run(connection, step)[0] == 0
    assert time.monotonic() - began < 7


def test_a_machine_without_user_data_is_armed_over_ssh_and_ends_itself_too(rent: Rent) -> None:
    host, own = make_key_pair(), make_key_pair()
    machine = rent(
        host=host,
        data="#cloud-config\n"
        + json.dumps({"ssh_keys": {"ed25519_private": host.private, "ed25519_public": host.public}}),
    )
    key = Path(machine.endpoint.identity_files[0])
    key.write_text(own.private)
    machine.ec2.machine(machine.id).run(f"echo '{own.public}' >>/home/ubuntu/.ssh/authorized_keys")
    connection = machine.connect(machine.endpoint)

    steps = core_steps(instance(machine), Requirements(), [], has_user_data=False, lifetime_s=60, lease_s=2)
    results = [run(connection, step) for step in steps]

    assert [status for status, _, _ in results] == [0, 0], results
    assert connection.run("stat -c %U /run/skyward/lease").stdout == b"ubuntu\n"
    assert until(lambda: machine.gone_at is not None, 2 + 5)


# -- the rest --------------------------------------------------------------------------------------------------


def test_a_disk_is_attached_formatted_mounted_and_the_users(rent: Rent, client: Any) -> None:
    machine = rent()
    zone = client.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]["Placement"]
    volume = client.create_volume(AvailabilityZone=zone["AvailabilityZone"], Size=1, VolumeType="gp3")[
        "VolumeId"
    ]
    client.attach_volume(VolumeId=volume, InstanceId=machine.id, Device="/dev/sdf")
    connection = machine.connect(machine.endpoint)

    steps = core_steps(
        instance(machine, volumes={volume: "/data"}),
        Requirements(),
        [Volume(size_gb=1, mount_path="/data")],
        has_user_data=True,
        lifetime_s=600,
        lease_s=300,
    )
    results = [run(connection, step) for step in steps]

    assert [status for status, _, _ in results] == [0, 0, 0], results
    done = connection.run("mountpoint -q /data && echo mine >/data/file && stat -c %U /data")
    assert done.stdout == b"ubuntu\n", (
        results,
        connection.run("id; ls -lan /data; mount | grep data").stdout,
        done,
    )


def test_a_gpu_is_cut_as_root_by_whoever_may_use_sudo(rent: Rent) -> None:
    machine = rent()
    machine.ec2.machine(machine.id).run(
        """cat >/usr/bin/nvidia-smi <<'END'
#!/bin/sh
[ "$(id -u)" = 0 ] || { echo 'only root'; exit 4; }
case "$1 $4" in
    --query*) echo "0, $(cat /run/mode 2>/dev/null || echo Disabled)" ;;
    -L*) echo 'GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)'; [ ! -e /run/cut ] || echo '  MIG 7g.80gb     Device  0: (UUID: MIG-only)' ;;
    *-mig* | -i*) echo Enabled >/run/mode ;;
    *-cgi*) touch /run/cut ;;
esac
END
chmod 755 /usr/bin/nvidia-smi"""
    )
    connection = machine.connect(machine.endpoint)
    wish = Requirements(accelerator=Accelerator.parse("H100-SXM:7g.80gb"))

    steps = core_steps(instance(machine), wish, [], has_user_data=True, lifetime_s=600, lease_s=300)
    results = [run(connection, step) for step in steps]

    assert [status for status, _, _ in results] == [0, 0, 0], results
    assert connection.run("cat /run/skyward/partitions").stdout == b'["MIG-only"]'
