"""A cloud in a directory, and pools on it whose tasks run in threads of this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import skyward as sky
from skyward.cloud import journal as journals
from skyward.cloud.account import Account
from skyward.cloud.client import Client
from skyward.cloud.journal import Journal
from skyward.plugins import get_plugins
from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.engines import ThreadEngine

sys.path.append(str(Path(__file__).parent))
import toycloud


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="module", autouse=True)
def _toy_plugin() -> Iterator[None]:
    get_plugins().register(toycloud, "toycloud")
    yield
    get_plugins().unregister(toycloud)


@pytest.fixture(autouse=True)
def _own_home(empty_home: Path) -> Iterator[None]:
    """Journals of these tests only; reapers that still watch when a test is over are ended."""
    yield
    for pid in _reapers_of(empty_home):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def reapers(empty_home: Path) -> Callable[[], list[int]]:
    """Processes that finish the pools of this test."""
    return lambda: _reapers_of(empty_home)


def _reapers_of(home: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            entry.name.isdigit()
            and b"skyward.cloud.reaper" in words
            and any(os.fsencode(home) in w for w in words)
        ):
            found.append(int(entry.name))
    return found


@pytest.fixture
def toy(tmp_path: Path) -> toycloud.Toy:
    return toycloud.Toy(directory=str(tmp_path / "cloud"))


@pytest.fixture
def make_pool(toy: toycloud.Toy) -> Callable[..., sky.ComputePool]:
    def make(**options: Any) -> sky.ComputePool:
        return sky.ComputePool(**{"provider": toy, "engine": ThreadEngine, "display": "quiet", **options})

    return make


@pytest.fixture
def accounts() -> Callable[[], dict[str, Account]]:
    """What the open journals say, by pool."""
    return lambda: {path.stem: journals.read(path) for path in journals.paths(journals.directory())}


@pytest.fixture
def closed() -> Callable[[], list[Account]]:
    """What the journals say that are through."""
    return lambda: [journals.read(path) for path in journals.paths(journals.directory() / journals.CLOSED)]


@pytest.fixture
def skyward(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """One command line in this process."""
    from skyward.cli import invoke

    def run(*words: str) -> Done:
        code = invoke(words)
        said = capsys.readouterr()
        return Done(code=code, out=said.out, err=said.err)

    return run


@pytest.fixture
def configured(toy: toycloud.Toy, empty_home: Path) -> None:
    """The user's configuration names the toy cloud, as it would name credentials."""
    place = empty_home / "skyward" / "config"
    place.mkdir(parents=True)
    (place / "config.toml").write_text(f'[providers.toy]\ndirectory = "{toy.directory}"\n')


@pytest.fixture
def dead_client() -> dict[str, Any]:
    """What a journal says of a process that is gone."""
    process = subprocess.Popen(["true"])
    client = Client.of(process.pid).plain()
    process.wait()
    return {**client, "pid_start": client["pid_start"] or "1"}


@pytest.fixture
def make_orphan(toy: toycloud.Toy, dead_client: dict[str, Any]) -> Callable[..., str]:
    """A pool with machines whose client died and whose reaper did, too; gives its id."""

    def make(pool: str = "left-1", machines: int = 1, **more: Any) -> str:
        journal = Journal.of(journals.directory(), pool)
        place = {"provider": "toy", "region": "r1"}
        source = {"module": "toycloud", "directory": str(Path(__file__).parent)}
        journal.intend(
            token=f"{pool}-0", count=machines, client=dead_client, plugin=source, owner="me@here",
            config={"directory": toy.directory}, **{**place, **more},
        )  # fmt: skip
        ids = [f"{pool}-m{number}" for number in range(machines)]
        journal.record(
            "launched", token=f"{pool}-0", machines=[{"id": id, "usd_per_hour": 1.0} for id in ids], **place
        )
        journal.leave()
        for id in ids:
            toy.add(
                id, age_s=100, pool=pool, managed="true", token=f"{pool}-0", created="2026-01-01T00:00:00Z"
            )
        return pool

    return make


@pytest.fixture
def until() -> Callable[..., None]:
    def wait(is_true: Callable[[], Any], within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not is_true():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.02)

    return wait


# -- a simulated EC2 ------------------------------------------------------------------------------------------------


@pytest.fixture
def ec2(empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedEC2]:
    """A simulated EC2 that this user's environment and configuration lead to."""
    with SimulatedEC2() as cloud:
        for name, value in cloud.environ.items():
            monkeypatch.setenv(name, value)
        fields = "".join(f"{key} = {value!r}\n" for key, value in cloud.config().items())
        config = empty_home / "skyward" / "config"
        config.mkdir(parents=True)
        (config / "config.toml").write_text(f"[providers.aws]\n{fields}")
        yield cloud
        cloud.heal()


@pytest.fixture
def make_aws(ec2: SimulatedEC2) -> Callable[..., sky.ComputePool]:
    """Pools of two on-demand machines there."""

    def make(**options: Any) -> sky.ComputePool:
        usual = {"machine": "m7i.large", "allocation": "on-demand", "nodes": 2, "display": "quiet"}
        return sky.ComputePool(**{"provider": sky.AWS(**ec2.config()), **usual, **options})

    return make
