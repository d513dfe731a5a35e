"""The user's SSH configuration counts for machines the user owns, and for no others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skyward.errors import ConfigError, HostKeyError, HostUnreachable, UsageError
from skyward.model.instance import Endpoint
from skyward.remote.connection import connect
from skyward.remote.ssh.config import Route, plan_route
from skyward.testing.sshd import SSHServer

MakeSSHD = Callable[..., SSHServer]


class Config:
    """~/.ssh of an empty home."""

    def __init__(self, home: Path) -> None:
        self.directory = home / ".ssh"
        self.directory.mkdir()

    def write(self, text: str, name: str = "config") -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def trust(self, *machines: SSHServer) -> None:
        self.write("".join(machine.known_hosts_lines for machine in machines), "known_hosts")


@pytest.fixture
def config(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Config(empty_home)


def owned(host: str, **more: object) -> Endpoint:
    return Endpoint(host=host, use_agent=True, **more)  # type: ignore[arg-type]


def block(name: str, machine: SSHServer, *more: str) -> str:
    lines = [
        f"Host {name}",
        f"HostName {machine.address}",
        f"Port {machine.port}",
        f"User {machine.user}",
        f"IdentityFile {machine.identity}",
        *more,
    ]
    return "\n  ".join(lines) + "\n"


def hostname(endpoint: Endpoint) -> str:
    connection = connect(endpoint)
    try:
        return connection.run("hostname").stdout.decode().strip()
    finally:
        connection.close()


# -- what a route becomes ------------------------------------------------------------------------------------


def test_an_alias_is_resolved(config: Config) -> None:
    config.write(
        "Host gpu\n HostName 10.0.0.7\n Port 2200\n User me\n IdentityFile ~/.ssh/a\n IdentityFile ~/.ssh/b\n"
        " UserKnownHostsFile ~/.ssh/one ~/.ssh/two\n HostKeyAlias the-gpu\n IdentitiesOnly yes\n"
    )

    route = plan_route(owned("gpu", alias="gpu"))

    home = config.directory
    assert (route.host, route.port, route.user, route.known_as) == ("10.0.0.7", 2200, "me", "the-gpu")
    assert route.identity_files == (home / "a", home / "b")
    assert route.known_hosts == (home / "one", home / "two")
    assert route.only_listed
    assert route.default_identities == ()


def test_what_the_endpoint_says_wins(config: Config) -> None:
    config.write("Host gpu\n Port 2200\n User me\n IdentityFile ~/.ssh/a\n")

    route = plan_route(owned("gpu", port=2300, user="you", identity_files=("/k",), known_hosts=("/h",)))

    assert (route.port, route.user) == (2300, "you")
    assert (route.identity_files, route.known_hosts) == ((Path("/k"),), (Path("/h"),))


def test_a_pinned_endpoint_means_exactly_what_it_says(config: Config) -> None:
    config.write(
        "Host *\n HostName 10.9.9.9\n Port 1\n User evil\n ProxyCommand false\n IdentityFile /evil\n"
    )

    route = plan_route(Endpoint(host="10.0.0.7", user="root", host_keys=("ssh-ed25519 AAAA",)))

    assert route == Route(
        label="root@10.0.0.7",
        host="10.0.0.7",
        user="root",
        known_as="10.0.0.7",
        host_keys=("ssh-ed25519 AAAA",),
        known_hosts=route.known_hosts,
    )


def test_included_files_count_and_do_not_end_the_block_they_stand_in(config: Config) -> None:
    config.write("User included\nHost other\n Port 99\n", "conf.d/10")
    config.write("Host gpu\n Port 2200\n Include conf.d/* absent/*\n IdentityFile /later\n")

    route = plan_route(owned("gpu"))

    assert (route.port, route.user, route.identity_files) == (2200, "included", (Path("/later"),))


def test_an_include_of_itself_ends(config: Config) -> None:
    config.write("Include config\nHost gpu\n User me\n")

    assert plan_route(owned("gpu")).user == "me"


def test_match_exec_runs_nothing(config: Config, tmp_path: Path) -> None:
    config.write(
        f'Match exec "touch {tmp_path}/ran"\n User wrong\nMatch host gpu !exec "touch {tmp_path}/ran"\n'
        " User wrong\nHost gpu\n User right\n"
    )

    assert plan_route(owned("gpu")).user == "right"
    assert not (tmp_path / "ran").exists()


def test_what_is_said_first_of_jump_and_command_counts(config: Config) -> None:
    config.write(
        "Host a\n ProxyJump none\n ProxyCommand x %h\nHost a b\n ProxyCommand y %h %p\n ProxyJump z\n"
    )

    assert plan_route(owned("a")).jump is None
    assert plan_route(owned("a")).proxy_command is None
    assert plan_route(owned("b")).proxy_command == "y b 22"
    assert plan_route(owned("b")).jump is None


def test_several_jumps_are_taken_in_order_and_each_is_looked_up(config: Config) -> None:
    config.write(
        "Host far\n ProxyJump ssh://me@near:2201,[::1]:2202\nHost near\n HostName 10.0.0.1\n Port 7\n"
    )

    route = plan_route(owned("far"))

    assert route.jump is not None
    assert (route.jump.host, route.jump.port) == ("::1", 2202)
    assert route.jump.jump is not None
    assert (route.jump.jump.host, route.jump.jump.port, route.jump.jump.user) == ("10.0.0.1", 2201, "me")
    assert route.jump.jump.jump is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "circle"),
        ("Host a\n ProxyJump -oProxyCommand=evil\n", "not a host"),
        ("Host a\n Port ssh\n", "not a port in the SSH configuration: 'ssh'"),
        ('Host "a\n', "cannot read the SSH configuration"),
        ("Match nonsense\n", "cannot read the SSH configuration"),
        ("garbage\n", "cannot read the SSH configuration"),
    ],
)
def test_a_broken_configuration_is_named(config: Config, text: str, said: str) -> None:
    config.write(text)

    with pytest.raises(UsageError, match=said):
        plan_route(owned("a"))


def test_a_configuration_that_cannot_be_decoded_does_not_matter(config: Config) -> None:
    (config.directory / "config").write_bytes(b"# caf\xe9\nHost gpu\n User me\n")

    assert plan_route(owned("gpu")).user == "me"


# -- real machines -------------------------------------------------------------------------------------------


def test_an_alias_leads_to_its_machine(config: Config, sshd: SSHServer) -> None:
    config.write(block("gpu", sshd))
    config.trust(sshd)

    assert hostname(owned("gpu", alias="gpu")) == sshd.hostname


def test_a_jump_host_is_gone_through(config: Config, sshd_pair: tuple[SSHServer, SSHServer]) -> None:
    near, far = sshd_pair
    config.write(block("near", near) + block("far", far, "ProxyJump near"))
    config.trust(near, far)

    assert hostname(owned("far")) == far.hostname
    assert "Accepted publickey" in near.log
    assert f"Connection from {near.address}" in far.log or "Accepted publickey" in far.log


def test_two_jump_hosts_are_gone_through(config: Config, make_sshd: MakeSSHD) -> None:
    first, second, third = make_sshd(), make_sshd(), make_sshd()
    config.write(
        block("first", first) + block("second", second) + block("third", third, "ProxyJump first,second")
    )
    config.trust(first, second, third)

    assert hostname(owned("third")) == third.hostname
    assert all("Accepted publickey" in machine.log for machine in (first, second))


def test_much_data_goes_through_a_jump_host(sshd_pair: tuple[SSHServer, SSHServer]) -> None:
    near, far = sshd_pair
    data = bytes(range(256)) * (40 << 10)

    connection = connect(replace(far.endpoint, jump=near.endpoint))

    assert connection.run("cat", stdin=data).stdout == data
    connection.close()


def test_the_jump_host_is_checked_like_any_other(
    config: Config, sshd_pair: tuple[SSHServer, SSHServer]
) -> None:
    near, far = sshd_pair
    config.write(block("near", near) + block("far", far, "ProxyJump near"))
    config.trust(far)

    with pytest.raises(HostKeyError, match=near.address):
        connect(owned("far"))
    assert "Accepted" not in near.log + far.log


def test_a_host_that_the_jump_host_cannot_reach_is_named_with_the_jump_host(
    sshd_pair: tuple[SSHServer, SSHServer],
) -> None:
    near, far = sshd_pair
    far.kill()

    with pytest.raises(HostUnreachable) as caught:
        connect(replace(far.endpoint, jump=near.endpoint))

    assert str(caught.value).startswith(f"{far.endpoint}: {near.endpoint} cannot reach it: ")
    assert near.processes()


def test_the_connection_to_the_jump_host_ends_with_the_other(
    sshd_pair: tuple[SSHServer, SSHServer],
) -> None:
    near, far = sshd_pair
    connection = connect(replace(far.endpoint, jump=near.endpoint))

    near.kill("sessions")
    stream_end = _outcome(lambda: connection.run("true"))
    connection.close()

    assert stream_end is not None
    assert not connection.is_alive


def test_a_proxy_command_is_gone_through_and_ended(config: Config, sshd: SSHServer, tmp_path: Path) -> None:
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os,socket,sys,threading\n"
        f"open({str(tmp_path / 'pid')!r},'w').write(str(os.getpid()))\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
        "def up():\n"
        "  while d:=os.read(0,65536): s.sendall(d)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while d:=s.recv(65536): os.write(1,d)\n"
    )
    config.write(block("gpu", sshd, f"ProxyCommand {sys.executable} {relay} %h %p"))
    config.trust(sshd)

    connection = connect(owned("gpu"))
    data = bytes(3_000_000)
    assert connection.run("cat", stdin=data).stdout == data
    connection.close()

    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def test_a_proxy_command_that_fails_is_an_unreachable_host(config: Config, sshd: SSHServer) -> None:
    with pytest.raises(HostUnreachable, match="hung up before any SSH greeting"):
        connect(replace(sshd.endpoint, proxy_command="exit 1"))
    with pytest.raises(HostUnreachable, match="hung up before any SSH greeting"):
        connect(replace(sshd.endpoint, proxy_command="/nonexistent/command"))


def test_a_silent_proxy_command_is_bounded(sshd: SSHServer) -> None:
    with pytest.raises(HostUnreachable, match="no SSH greeting"):
        connect(replace(sshd.endpoint, proxy_command="sleep 60", connect_timeout_s=0.5))


def test_config_errors_are_usage_errors() -> None:
    assert issubclass(ConfigError, UsageError)


def _outcome(work: Callable[[], object]) -> BaseException | None:
    try:
        work()
    except Exception as error:
        return error
    return None
