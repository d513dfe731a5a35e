"""The user's own machines as a provider."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import skyward as sky
from skyward import (
    CapacityError,
    CredentialsError,
    Instance,
    LaunchRequest,
    UsageError,
)
from skyward.builtin.ssh import SSH, SSHProvider
from skyward.remote.connection import connect
from skyward.testing.sshd import SSHServer


def provider(*hosts: str, **more: Any) -> SSHProvider:
    return SSHProvider.from_env(SSH(hosts, **more))


def launch(
    provider: SSHProvider, count: int = 1, *, token: str = "t", offer: int = 0, pool: str = "p"
) -> list[Instance]:
    offers = list(provider.offers())
    return list(provider.launch(LaunchRequest(offer=offers[offer], count=count, pool=pool, token=token)))


def where(provider: SSHProvider, instances: list[Instance]) -> list[str]:
    return [provider.connect(instance).host for instance in instances]


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("gpu1", None, "gpu1", 22),
        ("me@gpu1", "me", "gpu1", 22),
        ("me@10.0.0.7:2222", "me", "10.0.0.7", 2222),
        ("me@[fe80::1%eth0]:2222", "me", "fe80::1%eth0", 2222),
        ("::1", None, "::1", 22),
        ("my_alias.internal", None, "my_alias.internal", 22),
        (r"DOMAIN\me@gpu1", r"DOMAIN\me", "gpu1", 22),
    ],
)
def test_a_host_is_read(text: str, user: str | None, host: str, port: int) -> None:
    (endpoint,) = SSH([text]).endpoints()

    assert (endpoint.user, endpoint.host, endpoint.port) == (user, host, port)
    assert endpoint.alias == text
    assert endpoint.use_agent


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "me@",
        "@gpu1",
        "a b",
        "gpu1:",
        "gpu1:x",
        "gpu1:0",
        "gpu1:65536",
        "gpu1:22:22",
        "-oProxyCommand=touch /tmp/x",
        "me@-oProxyCommand=x",
        "gpu1;reboot",
        "$(reboot)",
        "a@b@c",
        "[::1",
        "[nonsense]:22",
        "gpu1\n",
        "gpu1\0",
        "ssh://gpu1",
        "gpu1/path",
    ],
)
def test_what_is_no_host_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError, match="not a host") as caught:
        SSH([text])
    assert caught.value.values["value"] == text
    with pytest.raises(UsageError):
        SSH(["gpu1"], jump=text or " ")


@pytest.mark.parametrize("hosts", ["gpu1", 7, [7], [None], [b"gpu1"]])
def test_hosts_are_a_list_of_texts(hosts: Any) -> None:
    with pytest.raises((UsageError, TypeError)):
        SSH(hosts)


def test_the_config_is_a_frozen_value_that_can_be_compared_and_hashed() -> None:
    assert SSH(["a", "b"]) == SSH(("a", "b"))
    assert hash(SSH(["a"])) == hash(SSH(["a"]))
    with pytest.raises(AttributeError):
        SSH(["a"]).key = "x"  # type: ignore[misc]
    assert sky.SSH is SSH


def test_a_pool_has_a_node_per_host_unless_it_says_otherwise() -> None:
    assert SSH(["a", "b", "c"]).default_nodes == 3
    assert SSH().default_nodes == 1


def test_hosts_that_are_named_elsewhere_are_all_meant_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYWARD_SSH_HOSTS", "me@a,me@b")

    assert sky.plan(provider="ssh").nodes == 2
    assert sky.ComputePool("ssh").plan().nodes == 2
    assert sky.ComputePool("ssh", nodes=1).plan().nodes == 1
    assert sky.ComputePool(["ssh", "local"]).plan().nodes == 1

    (tmp_path / "skyward.toml").write_text('[providers.ssh]\nhosts = ["one", "two", "three"]\n')

    assert sky.ComputePool("ssh").plan().nodes == 3


def test_every_host_is_an_offer_that_costs_nothing() -> None:
    offers = list(provider("me@a", "b:2222").offers())

    assert [(offer.instance_type, offer.usd_per_hour) for offer in offers] == [("me@a", 0.0), ("b:2222", 0.0)]
    assert len(set(map(repr, offers))) == 2


def test_hosts_are_handed_out_in_order() -> None:
    hosts = provider("a", "b", "c")

    first, second = launch(hosts, 2, token="one"), launch(hosts, 1, token="two")

    assert where(hosts, first) == ["a", "b"]
    assert where(hosts, second) == ["c"]
    assert len({instance.id for instance in first + second}) == 3


def test_the_host_that_was_asked_for_is_handed_out_first() -> None:
    hosts = provider("a", "b", "c")

    assert where(hosts, launch(hosts, 1, offer=1, token="one")) == ["b"]
    assert where(hosts, launch(hosts, 2, offer=2, token="two")) == ["c", "a"]


def test_the_same_token_gives_the_same_hosts() -> None:
    hosts = provider("a", "b", "c")

    assert launch(hosts, 2, token="x") == launch(hosts, 2, token="x")
    assert where(hosts, launch(hosts, 1, token="y")) == ["c"]


def test_more_nodes_than_hosts_are_refused_with_both_numbers() -> None:
    hosts = provider("a", "b")

    with pytest.raises(CapacityError, match="3 nodes were asked for, and there are 2 hosts") as caught:
        launch(hosts, 3)

    assert (caught.value.values["asked"], caught.value.values["hosts"]) == (3, 2)
    assert hosts.instances("p") == []


def test_a_host_in_use_is_not_handed_out_twice_and_free_again_afterwards() -> None:
    hosts = provider("a", "b")
    (first,) = launch(hosts, 1, token="one")

    with pytest.raises(CapacityError, match="1 of them in use"):
        launch(hosts, 2, token="two")
    launch(hosts, 1, token="three")
    with pytest.raises(
        CapacityError, match=r"^ssh: 1 node was asked for, and every host is in use: add hosts$"
    ):
        launch(hosts, 1, token="four")
    hosts.terminate(one.id for one in hosts.instances("p")[1:])
    hosts.terminate([first.id, first.id, "unknown"])
    hosts.terminate([])

    assert where(hosts, launch(hosts, 2, token="two")) == ["a", "b"]


def test_the_instances_of_a_pool_are_its_own() -> None:
    hosts = provider("a", "b", "c")
    mine = launch(hosts, 2, token="one", pool="mine")
    launch(hosts, 1, token="two", pool="yours")

    assert hosts.instances("mine") == mine
    hosts.terminate([mine[0].id])
    assert hosts.instances("mine") == mine[1:]
    assert hosts.instances("nobody's") == []


def test_hosts_come_from_the_environment_where_none_are_named() -> None:
    found = SSHProvider.from_env(None, {"SKYWARD_SSH_HOSTS": "a, me@b:2222 ,"})

    assert [offer.instance_type for offer in found.offers()] == ["a", "me@b:2222"]
    with pytest.raises(CredentialsError, match="SKYWARD_SSH_HOSTS"):
        SSHProvider.from_env(None, {})


def test_key_known_hosts_and_jump_are_for_every_host() -> None:
    for endpoint in SSH(["a", "b"], key="~/k", known_hosts="~/h", jump="me@j:2200").endpoints():
        assert endpoint.identity_files == ("~/k",)
        assert endpoint.known_hosts == ("~/h",)
        assert endpoint.jump is not None
        assert (str(endpoint.jump), endpoint.jump.use_agent) == ("me@j:2200", True)


def test_a_launched_host_can_be_connected_to(sshd_pair: tuple[SSHServer, SSHServer], tmp_path: Any) -> None:
    near, far = sshd_pair
    known = tmp_path / "known_hosts"
    known.write_text(near.known_hosts_lines + far.known_hosts_lines)
    hosts = provider(
        f"{far.user}@{far.address}:{far.port}",
        key=str(far.identity),
        known_hosts=str(known),
        jump=f"{near.user}@{near.address}:{near.port}",
    )

    connection = connect(replace(hosts.connect(launch(hosts)[0]), connect_timeout_s=5))

    assert connection.run("hostname").stdout.decode().strip() == far.hostname
    connection.close()


def test_reading_the_config_imports_no_ssh() -> None:
    code = "import sys; import skyward as sky; sky.SSH(['a']); sky.Local(); print('paramiko' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)

    assert (said.stdout, said.returncode) == ("False\n", 0), said.stderr
