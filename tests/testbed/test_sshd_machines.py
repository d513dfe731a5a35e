"""The machines of the tests behave as machines do, and leave nothing behind."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from skyward.errors import ConnectionLost, HostUnreachable
from skyward.remote.connection import connect
from skyward.testing.sshd import SSHServer, can_isolate, free_address, make_key, require_sshd

MakeSSHD = Callable[..., SSHServer]

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(params=["isolated", "plain"])
def machine(request: pytest.FixtureRequest, make_sshd: MakeSSHD) -> SSHServer:
    """With namespaces, and as somebody without root gets it."""
    if request.param == "isolated" and not can_isolate():
        pytest.skip("no namespaces here")
    return make_sshd(isolated=request.param == "isolated")


def run(machine: SSHServer, command: str) -> str:
    connection = connect(machine.endpoint)
    try:
        return connection.run(command).stdout.decode().strip()
    finally:
        connection.close()


def detach(machine: SSHServer) -> psutil.Process:
    """A process on the machine that no session holds any more."""
    run(machine, "setsid sleep 614 >/dev/null 2>&1 </dev/null & sleep 0.1")
    (process,) = [p for p in machine.processes() if _command(p) == ["sleep", "614"]]
    return process


def test_openssh_itself_can_log_in(machine: SSHServer, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(machine.known_hosts_lines)
    ssh = ["ssh", "-F", "none", "-i", str(machine.identity), "-o", f"UserKnownHostsFile={tmp_path / 'known'}"]

    done = subprocess.run(
        [*ssh, "-p", str(machine.port), f"{machine.user}@{machine.address}", "echo in"],
        capture_output=True,
        timeout=20,
    )

    assert done.stdout == b"in\n"


def test_a_session_has_a_home_of_its_own(machine: SSHServer) -> None:
    run(machine, "echo mine > ~/file")

    assert (machine.home_on_disk / "file").read_text() == "mine\n"
    assert not Path("~/file").expanduser().exists()


def test_machines_have_addresses_of_their_own(sshd_pair: tuple[SSHServer, SSHServer]) -> None:
    one, two = sshd_pair

    assert one.address != two.address
    assert one.host_keys != two.host_keys
    assert run(one, "echo 1") + run(two, "echo 2") == "12"


def test_a_killed_machine_takes_every_process_with_it(machine: SSHServer) -> None:
    connection = connect(machine.endpoint)
    stream = connection.open("exec sleep 615")
    detached = detach(machine)

    machine.kill()

    assert stream.read(1) == b""
    assert not _is_alive(detached.pid)
    assert machine.processes() == []
    with pytest.raises(HostUnreachable):
        connect(machine.endpoint)


def test_a_machine_boots_again_with_its_disk_and_its_key(machine: SSHServer) -> None:
    run(machine, "echo kept > ~/file")
    machine.kill()

    machine.restart()

    assert run(machine, "cat ~/file") == "kept"


def test_killing_the_listener_leaves_sessions_and_daemons(machine: SSHServer) -> None:
    connection = connect(machine.endpoint)
    detached = detach(machine)

    machine.kill("listener")

    assert connection.run("echo on").stdout == b"on\n"
    assert _is_alive(detached.pid)
    with pytest.raises(HostUnreachable):
        connect(machine.endpoint)
    machine.restart()
    assert run(machine, "echo back") == "back"
    assert connection.run("echo still").stdout == b"still\n"


def test_killing_the_sessions_leaves_the_listener_and_daemons(machine: SSHServer) -> None:
    connection = connect(machine.endpoint)
    stream = connection.open("exec cat")
    detached = detach(machine)

    machine.kill("sessions")

    assert stream.read(1) == b""
    with pytest.raises(ConnectionLost):
        connection.run("true")
    assert _is_alive(detached.pid)
    assert run(machine, "echo new") == "new"


def test_a_frozen_machine_is_silent_and_goes_on_when_thawed(machine: SSHServer) -> None:
    connection = connect(machine.endpoint)
    stream = connection.open("exec cat")
    ticks = machine.home_on_disk / "ticks"
    ticker = connection.open("while :; do echo >> ~/ticks; sleep 0.02; done")
    time.sleep(0.2)

    machine.freeze()
    stream.write(b"x")
    time.sleep(0.1)
    before = ticks.stat().st_size
    time.sleep(0.3)
    assert ticks.stat().st_size == before
    machine.thaw()

    assert stream.read(1) == b"x"
    time.sleep(0.2)
    assert ticks.stat().st_size > before
    ticker.close()


def test_keys_can_be_withdrawn_and_installed(machine: SSHServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "late").with_suffix(".pub").read_text()

    machine.authorize(key)

    assert "late" not in machine.log
    assert (machine.directory / "authorized_keys").read_text().strip() == key.strip()


def test_its_log_says_who_came(machine: SSHServer) -> None:
    run(machine, "true")

    assert f"Accepted publickey for {machine.user}" in machine.log


def test_nothing_is_left_when_it_is_left() -> None:
    for isolated in {False, can_isolate()}:
        with SSHServer(isolated=isolated) as machine:
            detached = detach(machine)
            session = connect(machine.endpoint)
            session.open("exec sleep 616")
            known = [detached, *machine.processes()]
            directory = machine.directory

        assert not any(_is_alive(process.pid) for process in known)
        assert not directory.exists()
        session.close()


def test_a_frozen_machine_can_be_left_quickly() -> None:
    for isolated in {False, can_isolate()}:
        machine = SSHServer(isolated=isolated)
        machine.start()
        machine.freeze()
        began = time.monotonic()

        machine.stop()

        assert time.monotonic() - began < 3
        assert machine.processes() == []


@ROOT
def test_an_isolated_machine_has_its_own_processes_hostname_and_accounts(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(user="ubuntu")

    said = run(machine, "hostname; id -un; grep -c . /proc/1/cmdline; ls -d /proc/[0-9]* | wc -l; echo $HOME")

    hostname, user, _, processes, home = said.splitlines()
    assert hostname == machine.hostname
    assert user == "ubuntu"
    assert int(processes) < 20
    assert home == "/home/ubuntu"
    assert "ubuntu" not in Path("/etc/passwd").read_text()


def test_an_account_cannot_be_made_up_without_namespaces() -> None:
    with pytest.raises(RuntimeError, match="only root"):
        SSHServer(user="somebody-else", isolated=False)


def test_a_taken_address_is_passed_over() -> None:
    with SSHServer() as first, SSHServer(address=first.address, port=first.port + 1) as second:
        assert run(second, "echo two") == "two"
        with (
            pytest.raises(RuntimeError, match="does not start"),
            SSHServer(address=first.address, port=first.port),
        ):
            pass


def test_free_addresses_differ() -> None:
    assert len({free_address() for _ in range(50)}) == 50


def test_many_machines_start_side_by_side() -> None:
    machines = [SSHServer() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(SSHServer.start, machines))
        try:
            assert list(pool.map(lambda machine: run(machine, "echo up"), machines)) == ["up"] * 8
        finally:
            list(pool.map(SSHServer.stop, machines))


@pytest.fixture
def orphan(tmp_path: Path) -> Path:
    """A program that runs a machine, and writes the machine's processes into a file."""
    code = (
        "import sys,time; from skyward.testing.sshd import SSHServer\n"
        "m=SSHServer(isolated=sys.argv[2]=='True'); m.start()\n"
        "open(sys.argv[1],'w').write(' '.join(str(p.pid) for p in m.processes())+' end')\n"
        "time.sleep(60)\n"
    )
    script = tmp_path / "orphan.py"
    script.write_text(code)
    return script


@pytest.mark.parametrize("isolated", sorted({False, can_isolate()}))
def test_a_machine_does_not_outlive_a_killed_test(orphan: Path, tmp_path: Path, isolated: bool) -> None:
    out = tmp_path / "pids"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, orphan, out, str(isolated)], env=environment)
    deadline = time.monotonic() + 20
    while not (out.exists() and out.read_text().endswith("end")) and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = [int(word) for word in out.read_text().split()[:-1]]

    process.kill()
    process.wait()

    assert pids
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_missing_sshd_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="apt-get install openssh-server"):
        require_sshd(str(tmp_path))


def test_machines_are_skipped_aloud_only_where_that_is_asked_for() -> None:
    one = "tests/testbed/test_sshd_machines.py::test_machines_have_addresses_of_their_own"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SKYWARD_NO_SSHD": "1",
    }

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", one],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )

    assert "1 skipped" in done.stdout
    assert "SKYWARD_NO_SSHD=1" in done.stdout


def test_the_current_user_is_who_logs_in_by_default(machine: SSHServer) -> None:
    assert run(machine, "id -un") == getpass.getuser()


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []
