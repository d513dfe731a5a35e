"""What machines of EC2 are prepared with, run on machines; and SSH through Session Manager."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_cloud import CPU, SPOT, await_running, await_that, client, order, without_machines

from skyward import Endpoint, Image, Instance, ProviderError, Step
from skyward.remote.connection import connect
from skyward.testing.ec2 import SimulatedEC2
from skyward_aws import AWSProvider, skyward_bootstrap
from skyward_aws.steps import POLL_VARIABLE, steps_for

MakeAWS = Callable[..., AWSProvider]
GPU = replace(CPU, instance_type="g6.xlarge", accelerator="L4", accelerator_count=1)
FRACTION = replace(GPU, instance_type="g6f.large", accelerator_count=0.125)
NEURON = replace(GPU, instance_type="trn1.2xlarge", accelerator="Trainium1")


def instance(offer: Any, **more: Any) -> Instance:
    return Instance(id="i-1", provider="aws", offer=offer, **more)


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


# -- which ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (instance(CPU), []),
        (instance(GPU), []),
        (instance(SPOT, spot=True), ["spot notices"]),
        (instance(FRACTION), ["grid driver"]),
        (instance(FRACTION, spot=True), ["spot notices", "grid driver"]),
        (instance(NEURON), ["neuron"]),
    ],
)
def test_a_machine_gets_the_steps_it_needs(machine: Instance, expected: list[str]) -> None:
    assert names(steps_for(machine)) == expected
    assert names(list(skyward_bootstrap(machine, Image()) or ())) == expected


def test_machines_of_others_are_left_alone() -> None:
    machine = replace(instance(FRACTION, spot=True), provider="elsewhere")

    assert skyward_bootstrap(machine, Image()) is None


def test_notices_are_looked_for_every_five_seconds_unless_it_is_said_otherwise() -> None:
    (usual,) = steps_for(instance(SPOT, spot=True), {})
    (quick,) = steps_for(instance(SPOT, spot=True), {POLL_VARIABLE: "0.25"})

    assert (usual.input["interval_s"], quick.input["interval_s"]) == (5.0, 0.25)


def test_scripts_are_posix_shell() -> None:
    for step in (*steps_for(instance(FRACTION, spot=True)), *steps_for(instance(NEURON))):
        done = subprocess.run(["sh", "-n"], input=step.script, text=True, capture_output=True, timeout=10)
        assert (done.returncode, done.stderr) == (0, "")


# -- on machines ---------------------------------------------------------------------------------------------------


def reach(aws: AWSProvider, machine: Instance, ec2: SimulatedEC2, key: Path) -> Endpoint:
    """As a pool reaches it: with the host key it knows, and its own client key."""
    public = ec2.machine(machine.id).run("cat /etc/ssh/ssh_host_ed25519_key.pub || ssh-keygen -A >/dev/null")
    return replace(
        aws.connect(machine), host_keys=(" ".join(public.split()[:2]),), identity_files=(str(key),)
    )


def run_step(endpoint: Endpoint, step: Step) -> Any:
    """As the pool runs it."""
    connection = connect(endpoint, deadline_s=20)
    try:
        return connection.run(
            f"sh -c {shlex.quote(step.script)}",
            stdin=json.dumps(step.input).encode(),
            timeout_s=step.timeout_s,
        )
    finally:
        connection.close()


HOST_KEY = "#!/bin/sh\n[ -s /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key\n"


def test_a_spot_notice_is_written_where_the_agent_looks(
    aws: AWSProvider, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key
    (launched,) = aws.launch(order(SPOT, public_key=public, user_data=HOST_KEY))
    (running,) = await_running(aws)
    machine = ec2.machine(launched.id)
    (step,) = steps_for(running, {POLL_VARIABLE: "0.1"})
    endpoint = reach(aws, running, ec2, key)
    for _ in range(2):  # a second one finds the first, and starts nothing
        done = run_step(endpoint, step)
        assert (done.exit_status, done.stderr) == (0, b"")
    assert machine.run("pgrep -fc '[w]atch.py http'").strip() == "1"
    assert machine.read("/run/skyward/notice") == ""

    machine.interrupt(after_s=60)

    notice = json.loads(await_that(lambda: machine.read("/run/skyward/notice"), deadline_s=10))
    assert notice["action"] == "terminate"
    assert notice["time"].endswith("Z")
    await_that(lambda: machine.run("pgrep -fc '[w]atch.py http' || true").strip() == "0")


def write_program(machine: Any, name: str, text: str) -> None:
    machine.run(
        f"cat >/usr/local/bin/{name} <<'END'\n#!/bin/sh\n{text}\nEND\nchmod 755 /usr/local/bin/{name}"
    )


def test_a_fraction_of_a_gpu_gets_its_driver(
    aws: AWSProvider, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key
    (launched,) = aws.launch(order(FRACTION, public_key=public, user_data=HOST_KEY))
    (running,) = await_running(aws)
    machine = ec2.machine(launched.id)
    listing = "".join(
        f"<Key>latest/NVIDIA-Linux-$(uname -m)-{version}-grid-aws.run</Key>"
        for version in ("570.9.1", "570.133.20")
    )
    write_program(
        machine,
        "curl",
        f"""case "$*" in
  *list-type*) echo "{listing}" ;;
  *570.133.20*) while [ $# -gt 0 ]; do [ "$1" != -o ] || place=$2; shift; done
     printf '%s\\n' 'id -u >/root/installed-by' 'printf "#!/bin/sh\\necho GPU 0: NVIDIA L4\\n" >/usr/local/bin/nvidia-smi' \\
       'chmod 755 /usr/local/bin/nvidia-smi' >"$place" ;;
  *) exit 22 ;;
esac""",
    )
    for name in ("apt-get", "modprobe"):
        write_program(machine, name, 'echo "$(basename "$0") $*" >>/tmp/called; chmod 666 /tmp/called')
    (step,) = steps_for(running)

    done = run_step(reach(aws, running, ec2, key), step)

    assert (done.exit_status, done.stdout) == (0, b"GPU 0: NVIDIA L4\n"), done.stderr
    assert machine.read("/root/installed-by") == "0\n"
    assert "apt-get" in machine.read("/tmp/called")
    assert "linux-headers-" in machine.read("/tmp/called")
    assert "blacklist nouveau" in machine.read("/etc/modprobe.d/skyward-nouveau.conf")
    machine.run("rm /usr/local/bin/curl")
    assert run_step(reach(aws, running, ec2, key), step).exit_status == 0  # there already


def test_a_driver_that_is_not_to_be_had_is_an_error_that_says_so(
    aws: AWSProvider, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key
    (launched,) = aws.launch(order(FRACTION, public_key=public, user_data=HOST_KEY))
    (running,) = await_running(aws)
    for name in ("apt-get", "curl"):
        write_program(ec2.machine(launched.id), name, "exit 0")

    done = run_step(reach(aws, running, ec2, key), steps_for(running)[0])

    assert done.exit_status == 1
    assert b"no GRID driver for" in done.stderr


def test_neuron_devices_are_shown_to_be_there(
    aws: AWSProvider, ec2: SimulatedEC2, pool_key: tuple[Path, str]
) -> None:
    key, public = pool_key
    (launched,) = aws.launch(order(NEURON, public_key=public, user_data=HOST_KEY))
    (running,) = await_running(aws)
    machine = ec2.machine(launched.id)
    machine.run("mkdir -p /opt/aws/neuron/bin")
    write_program(machine, "../../../opt/aws/neuron/bin/neuron-ls", "echo one device")
    (step,) = steps_for(running)

    assert run_step(reach(aws, running, ec2, key), step).stdout == b"one device\n"
    machine.run("printf '#!/bin/sh\\nexit 1\\n' >/opt/aws/neuron/bin/neuron-ls")
    assert run_step(reach(aws, running, ec2, key), step).exit_status == 1


# -- Session Manager -----------------------------------------------------------------------------------------------

RELAY = """#!{python}
# Stands for the aws command: relays its standard input and output to the machine, as Session Manager would.
import os, socket, sys, threading
with open({log!r}, "w") as log:
    print(*sys.argv[1:], sep="\\n", file=log)
peer = socket.create_connection(({host!r}, 22), timeout=10)
peer.settimeout(None)
def send():
    while data := os.read(0, 65536):
        peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first on the PATH, with no tool in it yet; nothing of AWS is elsewhere."""
    place = tmp_path / "tools"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    return place


def install(place: Path, name: str, text: str = "#!/bin/sh\n") -> None:
    (place / name).write_text(text)
    (place / name).chmod(0o755)


def private_subnet(ec2: SimulatedEC2) -> str:
    cloud = client(ec2)
    subnet = cloud.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}])[
        "Subnets"
    ][0]
    cloud.modify_subnet_attribute(SubnetId=subnet["SubnetId"], MapPublicIpOnLaunch={"Value": False})
    return str(subnet["SubnetId"])


def test_a_private_machine_is_reached_through_session_manager(
    make_aws: MakeAWS, ec2: SimulatedEC2, pool_key: tuple[Path, str], tools: Path, tmp_path: Path
) -> None:
    key, public = pool_key
    aws = make_aws(connection="ssm", subnet_id=private_subnet(ec2))
    install(tools, "session-manager-plugin")
    install(tools, "aws")
    (launched,) = aws.launch(order(public_key=public, user_data=HOST_KEY))
    (running,) = await_running(aws)
    assert running.public_address is None
    relay = RELAY.format(
        python=sys.executable, log=str(tmp_path / "called"), host=ec2.machine(launched.id).address
    )
    install(tools, "aws", relay)

    endpoint = reach(aws, running, ec2, key)
    connection = connect(endpoint, deadline_s=20)
    said = connection.run("echo $((6 * 7)); hostname").stdout
    connection.close()

    assert said.startswith(b"42\nip-127-78-")
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [
        *("ssm", "start-session", "--target", launched.id),
        *("--document-name", "AWS-StartSSHSession", "--parameters", "portNumber=22"),
        *("--region", "us-east-1", "--endpoint-url", ec2.endpoint),
    ]


@without_machines
def test_session_manager_needs_no_open_port_and_a_role_that_may_use_it(
    make_aws: MakeAWS, ec2: SimulatedEC2, tools: Path
) -> None:
    for name in ("aws", "session-manager-plugin"):
        install(tools, name)

    (launched,) = make_aws(connection="ssm").launch(order())

    (group,) = client(ec2).describe_security_groups(
        Filters=[{"Name": "tag:skyward:pool", "Values": ["p-1"]}]
    )["SecurityGroups"]
    assert [rule["IpProtocol"] for rule in group["IpPermissions"]] == ["-1"]
    (policy,) = client(ec2, "iam").list_attached_role_policies(RoleName="skyward-role")["AttachedPolicies"]
    assert policy["PolicyName"] == "AmazonSSMManagedInstanceCore"
    (found,) = client(ec2).describe_instances(InstanceIds=[launched.id])["Reservations"][0]["Instances"]
    assert found["IamInstanceProfile"]["Arn"].endswith("/skyward-instance-profile")


@without_machines
@pytest.mark.parametrize(
    ("there", "missing"),
    [((), ("aws", "session-manager-plugin")), (("aws",), ("session-manager-plugin",))],
)
def test_missing_tools_are_named_before_anything_is_rented(
    make_aws: MakeAWS,
    ec2: SimulatedEC2,
    tools: Path,
    there: tuple[str, ...],
    missing: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tools))  # an `aws` of this computer's own does not count
    for name in there:
        install(tools, name)
    aws = make_aws(connection="ssm")

    for attempt in (lambda: aws.launch(order()), lambda: aws.connect(instance(CPU))):
        with pytest.raises(ProviderError) as caught:
            attempt()
        assert caught.value.values["missing"] == missing
        assert all(f"install {name}: https://" in " ".join(caught.value.hints) for name in missing)
    assert not ec2.requests


def test_a_strange_endpoint_stays_one_word_of_the_command(make_aws: MakeAWS, tools: Path) -> None:
    for name in ("aws", "session-manager-plugin"):
        install(tools, name)
    aws = make_aws(connection="ssm", endpoint="http://h/$(touch${IFS}x);'")

    command = aws.connect(instance(CPU)).proxy_command

    assert command is not None
    assert shlex.split(command)[-1] == "http://h/$(touch${IFS}x);'"
