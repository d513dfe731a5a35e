"""`skyward run` on machines that are reached over SSH."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Skyward = Callable[..., Any]


def host_of(machine: Any) -> str:
    endpoint = machine.endpoint
    return f"{endpoint.user}@{endpoint.host}:{endpoint.port}"


@pytest.fixture
def reach(identity: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The options that reach some machines with our key, their host keys known."""

    def options(*machines: Any) -> list[str]:
        known = tmp_path / "known_hosts"
        known.write_text("".join(machine.known_hosts_lines for machine in machines))
        hosts = [word for machine in machines for word in ("--host", host_of(machine))]
        return [*hosts, "--key", str(identity), "--known-hosts", str(known)]

    return options


def test_two_hosts_share_the_work_and_local_modules_come_along(
    run: Skyward, project: Path, sshd_pair: Any, reach: Any
) -> None:
    (project / "near.py").write_text("def double(x): return 2 * x\n")
    (project / "far.py").write_text(
        "import socket, near, skyward as sky\n"
        "@sky.compute\n"
        "def work(i: int):\n    print('working on', i)\n    return near.double(i), sky.instance_info().node\n"
        "def main():\n    for i in range(20): yield work(i)\n"
    )

    done = run("far.py:main", *reach(*sshd_pair), "--json")

    assert done.code == 0, done.err
    values = [item["value"] for item in done.document["items"]]
    assert [value[0] for value in values] == [2 * i for i in range(20)]
    assert {value[1] for value in values} == {0, 1}
    assert [node["address"] for node in done.document["nodes"]] == [each.endpoint.host for each in sshd_pair]
    assert done.document["cost"]["usd"] == 0.0
    assert f"plan: 2x ssh {', '.join(host_of(each) for each in sshd_pair)}, costs nothing" in done.err
    assert "n0 | working on" in done.err
    assert "n1 | working on" in done.err


def test_a_task_that_fails_over_there_shows_its_traceback_here(run: Skyward, sshd: Any, reach: Any) -> None:
    done = run("train.py:fold", *reach(sshd), "--", "3")

    assert done.code == 1
    assert (
        '\ntrain.py:11: in fold\n    raise ValueError("fold 3 is bad")\nE   ValueError: fold 3 is bad\n'
        in done.err
    )


def test_an_unknown_host_key_exits_4_with_the_command_that_shows_it(
    run: Skyward, sshd: Any, identity: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").write_text("")

    done = run(
        "train.py:hello",
        "--host",
        host_of(sshd),
        "--key",
        str(identity),
        "--known-hosts",
        str(tmp_path / "empty"),
    )

    assert done.code == 4
    assert "error: " in done.err
    assert "ssh-keyscan" in done.err
    assert done.out == ""


def test_a_host_that_refuses_exits_4_and_names_it(run: Skyward) -> None:
    done = run("train.py:hello", "--host", "nobody@127.255.255.1:9", "--json")

    assert done.code == 4
    assert "127.255.255.1" in done.err
    assert json.loads(done.out)["exit_code"] == 4
    assert json.loads(done.out)["cost"]["usd"] == 0.0, "a machine of one's own costs nothing, reached or not"
