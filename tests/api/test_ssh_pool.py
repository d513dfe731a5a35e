"""The whole way over SSH: machines with nothing but sshd and python3, the user's project, and what goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tasks_without_pytest import double, place, slowly

import skyward as sky
from skyward.cloud import replacement
from skyward.remote.link import Link
from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer

ROOT = Path(sky.__file__).parent.parent


def config_of(servers: list[SSHServer], directory: Path, identity: Path) -> dict[str, object]:
    """Arguments of `sky.SSH`."""
    known = directory / "known_hosts"
    known.write_text("".join(server.known_hosts_lines for server in servers))
    hosts = [f"{server.user}@{server.address}:{server.port}" for server in servers]
    return {"hosts": hosts, "key": str(identity), "known_hosts": str(known)}


@pytest.fixture
def config(sshd_pair: tuple[SSHServer, SSHServer], tmp_path: Path, identity: Path) -> dict[str, object]:
    return config_of(list(sshd_pair), tmp_path, identity)


def test_work_goes_to_every_host_and_comes_back(config: dict[str, object]) -> None:
    with sky.ComputePool(sky.SSH(**config), display="quiet") as pool:  # type: ignore[arg-type]
        assert pool.total_slots == 2
        assert double(3) >> sky == 6
        assert pool.map(double, range(2000)) == [2 * x for x in range(2000)]
        first, second = place() @ pool

    assert first is not None
    assert second is not None
    hosts = [str(host).partition("@")[2] for host in config["hosts"]]  # type: ignore[attr-defined]
    assert [f"{one.ip}:{one.ssh_port}" for one in (first, second)] == hosts
    assert (first.rank, second.rank, first.world_size) == (0, 1, 2)
    assert first.head_addr == second.head_addr == first.ip
    assert second.ip == first.peers[1].ip


PROGRAM = """
import json, sys
import skyward as sky
from package.tools import triple

@sky.compute
def task(x: int) -> int:
    return triple(x)

@sky.pool(provider=sky.SSH(**json.loads(sys.argv[1])), display="quiet")
def main():
    print(sky.gather(task(x) for x in range(5)) >> sky, task(1) @ sky)

if __name__ == "__main__":
    main()
"""


def test_the_users_project_travels(config: dict[str, object], tmp_path: Path) -> None:
    import json

    project = tmp_path / "project"
    (project / "src" / "package").mkdir(parents=True)
    (project / "pyproject.toml").write_text("[project]\nname = 'mine'\nversion = '1'\n")
    (project / "src" / "package" / "__init__.py").touch()
    (project / "src" / "package" / "tools.py").write_text("def triple(x):\n    return 3 * x\n")
    (project / "jobs").mkdir()
    (project / "jobs" / "job.py").write_text(textwrap.dedent(PROGRAM))

    done = subprocess.run(
        [sys.executable, "jobs/job.py", json.dumps(config)],
        cwd=project,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{project / 'src'}"},
        capture_output=True,
        text=True,
        timeout=90,
    )

    assert done.stdout == "(0, 3, 6, 9, 12) (3, 3)\n", done.stderr


def test_what_cannot_come_along_is_told_once_with_how_to_keep_it_back(
    config: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").touch()
    (project / "data").symlink_to("/usr/share")
    (project / "deploy").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(project)
    heard: list[sky.events.WarningRaised] = []

    def run() -> None:
        heard.clear()
        pool = sky.ComputePool(sky.SSH(**config), display="quiet")  # type: ignore[arg-type]
        pool.on(sky.events.WarningRaised, heard.append)
        with pool:
            pass

    run()

    assert [one.message for one in heard] == [
        "project 'project': left here: data: links out of the project; deploy: holds a private key"
    ]
    for _ in range(2):
        subprocess.run(["sh", "-c", heard[0].hint], check=True)
        run()
    assert heard == []


def test_more_nodes_than_hosts_is_refused_before_anything_runs(config: dict[str, object]) -> None:
    with pytest.raises(sky.CapacityError, match="3 nodes were asked for, and there are 2 hosts"):  # noqa: SIM117
        with sky.ComputePool(sky.SSH(**config), nodes=3, display="quiet"):  # type: ignore[arg-type]
            pass


def test_a_host_that_is_down_fails_the_pool_and_is_named(
    make_sshd: Callable[..., SSHServer], tmp_path: Path, identity: Path
) -> None:
    up, down = make_sshd(), make_sshd()
    config = config_of([up, down], tmp_path, identity)
    down.kill()

    with pytest.raises(sky.HostUnreachable, match=down.address):  # noqa: SIM117
        with sky.ComputePool(sky.SSH(**config), display="quiet"):  # type: ignore[arg-type]
            pass


def test_a_host_that_is_down_is_left_out_when_the_others_are_enough(
    make_sshd: Callable[..., SSHServer], tmp_path: Path, identity: Path
) -> None:
    up, down = make_sshd(), make_sshd()
    config = config_of([up, down], tmp_path, identity)
    down.kill()
    told: list[str] = []

    pool = sky.ComputePool(sky.SSH(**config), min_nodes=1, display="quiet")  # type: ignore[arg-type]
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))
    with pool:
        assert pool.map(double, range(10)) == [2 * x for x in range(10)]

    assert len(told) == 1
    assert "node 1 is given up" in told[0]


def test_an_unknown_host_is_refused(
    make_sshd: Callable[..., SSHServer], tmp_path: Path, identity: Path
) -> None:
    server = make_sshd()
    config = config_of([server], tmp_path, identity)
    (tmp_path / "known_hosts").write_text("")

    with pytest.raises(sky.HostKeyError):  # noqa: SIM117
        with sky.ComputePool(sky.SSH(**config), display="quiet"):  # type: ignore[arg-type]
            pass


def test_a_node_that_dies_loses_no_task_and_is_replaced_by_a_free_host(
    make_sshd: Callable[..., SSHServer], tmp_path: Path, identity: Path
) -> None:
    servers = [make_sshd(), make_sshd(), make_sshd()]
    config = config_of(servers, tmp_path, identity)
    told: list[tuple[str, int]] = []
    pool = sky.ComputePool(sky.SSH(**config), nodes=2, display="quiet")  # type: ignore[arg-type]
    kinds = (
        sky.events.NodeLost,
        sky.events.InstanceLaunched,
        sky.events.NodeReady,
        sky.events.InstanceTerminated,
    )
    for kind in kinds:
        pool.on(kind, lambda event: told.append((type(event).__name__, event.node)))

    with pool:
        before = [one.public_address for one in pool.instances]
        results = sky.gather((slowly(x) for x in range(40)), stream=True) >> pool
        got = [next(results)]
        servers[1].kill()
        got += list(results)
        deadline = time.monotonic() + 40
        while ("InstanceTerminated", 1) not in told:
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        after = [one.public_address for one in pool.instances]
        assert [one.rank for one in place() @ pool if one] == [0, 1]
        assert pool.total_slots == 2

    assert sorted(got) == list(range(40))
    assert before == [servers[0].address, servers[1].address]
    assert after == [servers[0].address, servers[2].address]
    names = ["NodeLost", "InstanceLaunched", "NodeReady", "InstanceTerminated"]
    assert told[-6:] == [*((name, 1) for name in names), *told[-2:]]  # the last two are the end of the pool


def test_a_client_that_is_cut_off_from_every_node_launches_nothing_and_goes_on_where_it_was(
    make_sshd: Callable[..., SSHServer],
    make_chaos: Callable[[SSHServer], ChaosProxy],
    tmp_path: Path,
    identity: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody answers: it is rather we who are offline. A third host is free, and stays so."""
    servers = [make_sshd(), make_sshd(), make_sshd()]
    networks = [make_chaos(server) for server in servers]
    known = tmp_path / "known_hosts"
    pairs = list(zip(networks, servers, strict=True))
    known.write_text("".join(f"[{n.host}]:{n.port} {key}\n" for n, s in pairs for key in s.host_keys))
    hosts = [f"{server.user}@{network.host}:{network.port}" for network, server in pairs]
    monkeypatch.setitem(Link.__init__.__kwdefaults__, "lost_s", 1.5)
    monkeypatch.setattr(replacement, "RETURN_S", 0.5)
    told: list[str] = []
    config = sky.SSH(hosts=hosts, key=str(identity), known_hosts=str(known))
    pool = sky.ComputePool(config, nodes=2, display="quiet", on_event=lambda e: told.append(type(e).__name__))

    with pool:
        before = [one.id for one in pool.instances]
        results = sky.gather((slowly(x) for x in range(30)), stream=True) >> pool
        got = [next(results)]
        for network in networks:
            network.partition()
        time.sleep(4)
        lost, launched = told.count("NodeLost"), told.count("InstanceLaunched")
        for network in networks:
            network.heal()
        got += list(results)
        assert [one.id for one in pool.instances] == before

    assert sorted(got) == list(range(30))
    assert (lost, launched, told.count("InstanceLaunched")) == (2, 2, 2)
    assert networks[2].accepted == 0


def test_a_broadcast_to_a_node_that_is_not_replaced_fails_and_the_pool_goes_on(
    sshd_pair: tuple[SSHServer, SSHServer], config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Link.__init__.__kwdefaults__, "lost_s", 2.5)
    monkeypatch.setattr("skyward.remote.link.link.LINGER_S", 1.0)
    monkeypatch.setattr(replacement, "RETURN_S", 0.5)
    told: list[str] = []
    pool = sky.ComputePool(sky.SSH(**config), display="quiet")  # type: ignore[arg-type]
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with pool:
        timer = threading.Timer(0.5, sshd_pair[1].kill)
        timer.start()
        with pytest.raises(sky.TaskLost, match="node 1"):
            _ = sky.compute(time.sleep)(4) @ pool

        assert double(2) @ pool == (4,)
        assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]

    (message,) = told
    assert message.startswith("node 1 is lost, and no machine to take its place could be had: ssh: ")
    assert message.count("every host is in use") == 1
