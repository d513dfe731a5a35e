"""A simulated machine is a machine of its own: user data, accounts, disk, processes, metadata, and its end."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import paramiko
import pytest
import yaml
from simdesk import Desk, needs_namespaces

from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.machines_userdata import parse_user_data
from skyward.testing.simcloud_network import PacketFilter

PATIENCE_S = 10.0
ROOT = Path(__file__).resolve().parents[2]
DONE = "cloud-init status --wait >/dev/null; "


def cloud_config(**keys: Any) -> str:
    return "#cloud-config\n" + json.dumps(keys)


def eventually(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, "still not true"
        time.sleep(0.02)


def words(process: Any) -> str:
    """Its command line; "" if it has ended meanwhile."""
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


# -- user data ------------------------------------------------------------------------------------------------------


@needs_namespaces
def test_user_data_is_done_in_its_order_as_root(desk: Desk) -> None:
    user_data = cloud_config(
        bootcmd=["mkdir -p /run/mine; id -u >/run/mine/log", ["sh", "-c", "echo 'boot two' >>/run/mine/log"]],
        write_files=[
            {"path": "/run/mine/secret", "content": "s3cret\n", "permissions": "0600"},
            {"path": "/run/mine/log", "content": "written\n", "append": True},
            {
                "path": "/opt/tool",
                "content": "IyEvYmluL3NoCmVjaG8gdG9vbAo=",
                "encoding": "b64",
                "permissions": "0755",
            },
            {"path": "/run/mine/owned", "content": "", "owner": "ubuntu:ubuntu"},
        ],
        runcmd=["/opt/tool >>/run/mine/log", "false", "echo last >>/run/mine/log"],
    )
    _, client = desk.one(UserData=user_data)

    assert desk.ask(client, DONE + "cat /run/mine/log").split("\n") == [
        "0",
        "boot two",
        "written",
        "tool",
        "last",
    ]
    assert "Permission denied" in desk.ask(client, "cat /run/mine/secret")
    assert desk.ask(client, "stat -c %a-%U /run/mine/secret /run/mine/owned") == "600-root\n644-ubuntu"
    assert "failed with 1" in desk.ask(client, "cat /var/log/cloud-init-output.log")


def test_a_script_is_user_data_too(desk: Desk) -> None:
    id, client = desk.one(UserData="#!/bin/sh\necho hello from a script\n")

    assert not desk.ask(client, DONE)
    assert desk.cloud.machine(id).output.endswith("hello from a script\n")


def test_yaml_means_the_same_as_json() -> None:
    keys = {
        "bootcmd": ["echo a", ["echo", "b c"]],
        "runcmd": ["echo d"],
        "ssh_authorized_keys": ["ssh-ed25519 AAAA"],
    }

    assert parse_user_data(cloud_config(**keys)) == parse_user_data("#cloud-config\n" + yaml.safe_dump(keys))


def test_what_is_no_user_data_is_ignored() -> None:
    assert parse_user_data("") == parse_user_data("hello") == parse_user_data("Content-Type: multipart/mixed")


def test_the_host_key_of_the_user_data_is_the_only_one(
    desk: Desk, cloud: SimulatedEC2, identity: Path
) -> None:
    public = identity.with_suffix(".pub").read_text()
    keys = {"ed25519_private": identity.read_text(), "ed25519_public": public}
    id, client = desk.one(UserData=cloud_config(ssh_keys=keys, ssh_deletekeys=True, ssh_genkeytypes=[]))
    shown = client.get_transport().get_remote_server_key()  # type: ignore[union-attr]

    assert (
        f"{shown.get_name()} {shown.get_base64()}"
        == cloud.machine(id).host_key
        == " ".join(public.split()[:2])
    )


def test_keys_of_the_user_data_let_in(desk: Desk) -> None:
    public = desk.identity.with_suffix(".pub").read_text().strip()
    desk.ec2.delete_key_pair(KeyName="desk")
    (id,) = desk.ec2.run_instances(
        ImageId=desk.image,
        InstanceType="m5.large",
        MinCount=1,
        MaxCount=1,
        UserData=cloud_config(ssh_authorized_keys=[public]),
    )["Instances"]
    desk.await_state("running", id["InstanceId"])

    assert desk.ask(desk.connect(id["InstanceId"]), "echo in") == "in"


# -- inside ---------------------------------------------------------------------------------------------------------


@needs_namespaces
@pytest.mark.parametrize("user", ["ubuntu", "ec2-user"])
def test_the_users_of_the_images_log_in_and_become_root(desk: Desk, user: str) -> None:
    (id,) = desk.launch()
    desk.await_state("running", id)
    client = desk.connect(id, user)

    assert desk.ask(client, "id -un; pwd; id -u | grep -v '^0$' >/dev/null && echo not root").split("\n") == [
        user,
        f"/home/{user}",
        "not root",
    ]
    assert desk.ask(client, "sudo -n id -u") == "0"
    assert desk.ask(client, "sudo -n -u ec2-user id -un") == "ec2-user"
    assert desk.ask(
        client, "A=kept B=lost sudo -n C=given sh -c 'echo [$A$B$C] $HOME $AWS_EC2_METADATA_SERVICE_ENDPOINT'"
    ).startswith("[given] /root http://127.79.")
    assert desk.ask(client, "A=kept sudo -n -E sh -c 'echo $A'") == "kept"
    assert "unknown user" in desk.ask(client, "sudo -n -u nobody-at-all true")


@needs_namespaces
def test_what_a_machine_writes_is_its_own(desk: Desk, cloud: SimulatedEC2) -> None:
    ids = desk.launch(2)
    desk.await_state("running", *ids)
    first, second = (cloud.machine(id) for id in ids)
    places = ("/etc", "/usr/bin", "/opt", "/home", "/root", "/tmp", "/var/tmp", "/run", "/srv", "/")
    for place in places:
        first.run(f"touch {place}/only-here; rm -f /etc/hostname")

    for place in places:
        assert first.run(f"ls {place}/only-here")
        assert "only-here" not in second.run(f"ls {place}")
        assert not Path(place, "only-here").exists()
    assert first.run("hostname") != second.run("hostname")


@needs_namespaces
def test_a_machine_sees_its_own_processes_and_has_just_booted(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    machine = cloud.machine(id)
    before = len(machine.processes())
    desk.ask(client, "setsid sleep 321 >/dev/null 2>&1 </dev/null &")
    eventually(lambda: any("321" in words(process) for process in machine.processes()))

    assert len(machine.processes()) > before
    assert float(desk.ask(client, "cut -d' ' -f1 /proc/uptime")) < 60
    assert int(desk.ask(client, "ls /proc | grep -c '^[0-9]*$'")) < 30


def test_python_is_there_in_the_version_of_the_client(desk: Desk) -> None:
    _, client = desk.one()

    said = desk.ask(client, "python3 -c 'import sys, json, ssl, sqlite3; print(*sys.version_info[:2])'")

    assert said == f"{sys.version_info.major} {sys.version_info.minor}"


def test_files_travel_by_sftp(desk: Desk, tmp_path: Path) -> None:
    _, client = desk.one()
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with client.open_sftp() as sftp:
        sftp.put(str(tmp_path / "file"), "file")

    assert desk.ask(client, "wc -c <file") == "100000"


@needs_namespaces
@pytest.mark.parametrize(
    "command",
    ["poweroff", "poweroff -f", "shutdown -P now", "systemctl poweroff --force", "halt", "kill -TERM 1"],
)
def test_every_way_to_power_off(desk: Desk, cloud: SimulatedEC2, command: str) -> None:
    id, client = desk.one(InstanceInitiatedShutdownBehavior="terminate")
    if not command.startswith("kill"):
        assert "only root" in desk.ask(client, command)
    client.exec_command(f"sudo -n {command}")
    desk.await_state("terminated", id)

    assert cloud.running() == []


@needs_namespaces
def test_a_machine_may_power_off_before_its_sshd_starts(desk: Desk, cloud: SimulatedEC2) -> None:
    user_data = cloud_config(bootcmd=["poweroff"])
    (id,) = desk.launch(UserData=user_data, InstanceInitiatedShutdownBehavior="terminate")
    (row,) = desk.await_state("terminated", id)

    assert row["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert cloud.running() == []


@needs_namespaces
@pytest.mark.parametrize("seed", range(3))
def test_machines_may_be_ended_while_they_boot(
    make_cloud: Callable[..., SimulatedEC2], identity: Path, seed: int
) -> None:
    cloud = make_cloud(seed=seed)
    desk = Desk(cloud, identity)
    ids = desk.launch(6)
    time.sleep(cloud.random.random() * 0.3)
    desk.ec2.terminate_instances(InstanceIds=ids[:4])
    desk.await_state("terminated", *ids[:4])
    time.sleep(0.1)

    assert sorted(cloud.running()) == sorted(ids[4:])
    assert not any(machine.is_alive for machine in cloud.machines if machine.id in ids[:4])


@needs_namespaces
def test_a_shutdown_can_be_called_off(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    desk.ask(client, "sudo -n shutdown -P +1; sleep 0.2")
    assert cloud.machine(id).run("ps -eo args").count("exec poweroff")
    desk.ask(client, "sudo -n shutdown -c")

    def is_planned() -> bool:
        return bool(cloud.machine(id).run("ps -eo args").count("exec poweroff"))

    eventually(lambda: not is_planned())


@needs_namespaces
def test_sshd_is_reloaded_as_on_any_distribution(desk: Desk, cloud: SimulatedEC2) -> None:
    id, client = desk.one()
    before = cloud.machine(id).host_key
    desk.ask(
        client,
        'sudo -n sh -c \'rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key;'
        " systemctl reload ssh'",
    )
    after = cloud.machine(id).host_key

    def shown() -> bool:
        try:
            key = desk.connect(id).get_transport().get_remote_server_key()  # type: ignore[union-attr]
        except (OSError, paramiko.SSHException):  # nobody listens while it starts anew
            return False
        return f"{key.get_name()} {key.get_base64()}" == after

    assert after != before
    eventually(shown)


# -- metadata ---------------------------------------------------------------------------------------------------------

GET = 'curl -s -o - -w "|%{http_code}" '
TOKEN = "T=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' ${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/api/token); "


def test_metadata_wants_a_token_and_tells_each_machine_its_own(desk: Desk) -> None:
    ids = desk.launch(2)
    rows = desk.await_state("running", *ids)
    for row in rows:
        client = desk.connect(row["InstanceId"])

        def ask(path: str, client: Any = client) -> str:
            url = "${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/" + path
            return desk.ask(client, f'{TOKEN} {GET} -H "X-aws-ec2-metadata-token: $T" {url}')

        assert (
            desk.ask(client, GET + "${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/meta-data/instance-id")
            == "|401"
        )
        assert desk.ask(client, GET + "-X PUT ${AWS_EC2_METADATA_SERVICE_ENDPOINT}latest/api/token") == "|400"
        assert ask("meta-data/instance-id") == f"{row['InstanceId']}|200"
        assert ask("meta-data/public-ipv4") == f"{row['PublicIpAddress']}|200"
        assert ask("meta-data/placement/availability-zone") == "us-east-1a|200"
        assert "placement/" in ask("meta-data/")
        assert ask("meta-data/spot/instance-action") == "|404"
        assert ask("user-data") == "|404"


def test_the_clients_of_amazon_find_the_metadata(desk: Desk) -> None:
    iam = desk.client("iam")
    iam.create_role(RoleName="role", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="profile")
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="role")
    _, client = desk.one(IamInstanceProfile={"Name": "profile"})
    from botocore.utils import InstanceMetadataFetcher

    endpoint = desk.ask(client, "echo $AWS_EC2_METADATA_SERVICE_ENDPOINT")
    fetcher = InstanceMetadataFetcher(base_url=endpoint, env={}, timeout=2, num_attempts=1)

    assert fetcher.retrieve_iam_role_credentials()["role_name"] == "role"


# -- the end ----------------------------------------------------------------------------------------------------------

HARNESS = """
    import sys, time
    sys.path[:0] = {paths!r}
    from skyward.testing.ec2 import SimulatedEC2
    from simdesk import Desk
    from pathlib import Path
    with SimulatedEC2({arguments}) as cloud:
        desk = Desk(cloud, Path({identity!r}))
        id, client = desk.one()
        client.exec_command("sleep 987")
        cloud.machine(id).partition()
        cloud.machine(id).heal()
        if cloud.isolated:
            (other,) = desk.launch()
            cloud.machine(other).partition()
        print(cloud.directory, cloud.machine(id).spec.name, *[p.pid for p in cloud.machine(id).processes()], flush=True)
        {then}
"""


def run_harness(
    identity: Path, arguments: str, then: str, *python: str, paths: Sequence[str] = ()
) -> subprocess.Popen[str]:
    paths = [str(ROOT), str(ROOT / "tests" / "testbed"), *paths]
    program = dedent(HARNESS).format(paths=paths, arguments=arguments, identity=str(identity), then=then)
    return subprocess.Popen(
        [*(python or (sys.executable,)), "-c", program], stdout=subprocess.PIPE, text=True
    )


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@needs_namespaces
@pytest.mark.usefixtures("_sshd_installed")
def test_machines_do_not_outlive_the_process_that_made_them(identity: Path) -> None:
    harness = run_harness(identity, "", "time.sleep(60)")
    assert harness.stdout
    directory, _, *pids = harness.stdout.readline().split()
    assert pids
    assert all(is_running(int(pid)) for pid in pids)
    harness.send_signal(signal.SIGKILL)
    harness.wait(PATIENCE_S)
    harness.stdout.close()

    eventually(lambda: not any(is_running(int(pid)) for pid in pids))
    assert directory not in Path("/proc/self/mounts").read_text()
    with SimulatedEC2():
        assert not Path(directory).exists()  # the next one sweeps


@pytest.mark.usefixtures("_sshd_installed")
def test_leaving_the_context_leaves_nothing(identity: Path) -> None:
    harness = run_harness(identity, "", "raise SystemExit(7)")
    said, _ = harness.communicate(timeout=60)
    directory, _, *pids = said.split()

    assert harness.returncode == 7
    assert not any(is_running(int(pid)) for pid in pids)
    assert not Path(directory).exists()
    assert directory not in Path("/proc/self/mounts").read_text()


@needs_namespaces
def test_the_packet_filter_goes_with_its_socket() -> None:
    network = PacketFilter()
    network.cut("127.77.255.254")
    network.cut("127.77.255.254", "in")
    network.close()

    with PacketFilterListing() as listing:
        assert f"skyward-{os.getpid()}" not in listing


class PacketFilterListing:
    """The names of all tables of the kernel's packet filter."""

    def __enter__(self) -> str:
        import socket
        import struct

        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as kernel:
            kernel.settimeout(5)
            kernel.send(struct.pack("=IHHIIBBH", 20, 10 << 8 | 1, 0x301, 1, 0, 0, 0, 0))
            return kernel.recv(1 << 20).decode("latin-1")

    def __exit__(self, *_: object) -> None: ...


# -- without root -------------------------------------------------------------------------------------------------------


def test_without_namespaces_a_machine_is_an_sshd_of_the_user(
    make_cloud: Callable[..., SimulatedEC2], identity: Path
) -> None:
    cloud = make_cloud(isolated=False)
    desk = Desk(cloud, identity)
    id, client = desk.one(
        UserData=cloud_config(bootcmd=["echo early >$HOME/early"], runcmd=["echo late >$HOME/late"]),
        InstanceInitiatedShutdownBehavior="terminate",
    )
    machine = cloud.machine(id)

    assert cloud.ssh_port == 2222
    assert cloud.config()["ssh_port"] == 2222
    assert desk.ask(client, "pwd; " + DONE + "cat early late") == f"{machine.directory}/home\nearly\nlate"
    assert desk.ask(client, "sudo -n echo root enough") == "root enough"
    machine.partition()
    with pytest.raises((OSError, Exception)):
        desk.connect(id, timeout_s=1)
    machine.heal()
    desk.connect(id)
    client.exec_command("setsid sleep 654 >/dev/null 2>&1 </dev/null &")
    client.exec_command("sudo -n poweroff")
    desk.await_state("terminated", id)
    assert machine.processes() == []


SHELLS = ("/bin/sh", "/bin/bash", "/usr/bin/bash", "/bin/dash")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.usefixtures("_sshd_installed")
def test_an_ordinary_user_has_machines_too(identity: Path, request: pytest.FixtureRequest) -> None:
    nobody = next((each for each in pwd.getpwall() if each.pw_uid and each.pw_shell in SHELLS), None)
    if nobody is None:
        pytest.skip("nobody but root may log in here")
    place = Path(tempfile.mkdtemp(prefix="skyward-nobody-"))  # pytest closes its own directories to others
    request.addfinalizer(lambda: shutil.rmtree(place))
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    key = place / "id_ed25519"
    for end in ("", ".pub"):
        target = Path(f"{key}{end}")
        target.write_text(Path(f"{identity}{end}").read_text())
        target.chmod(0o600)
        os.chown(target, nobody.pw_uid, nobody.pw_gid)
    python = "/usr/bin/python3"
    packages = Path(yaml.__file__).parents[1]
    if not os.access(python, os.X_OK) or f"python3.{sys.version_info.minor}" not in os.path.realpath(python):
        pytest.skip("nobody may use this Python, and the system's is another")
    become = [
        "setpriv",
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "env",
        f"HOME={place}",
        python,
    ]
    harness = run_harness(key, "", "raise SystemExit(7)", *become, paths=[str(packages)])
    said, _ = harness.communicate(timeout=90)

    assert harness.returncode == 7, said
    directory, _, *pids = said.split()
    assert pids
    assert not any(is_running(int(pid)) for pid in pids)
    assert not Path(directory).exists()
