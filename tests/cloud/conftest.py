"""A cloud in a directory, and pools on it whose tasks run in threads of this process."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import skyward as sky
from skyward.cloud import journal as journals
from skyward.cloud.account import Account
from skyward.plugins import get_plugins
from skyward.testing.engines import ThreadEngine

sys.path.append(str(Path(__file__).parent))
import toycloud


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
def until() -> Callable[..., None]:
    def wait(is_true: Callable[[], Any], within_s: float = 10.0) -> None:
        deadline = time.monotonic() + within_s
        while not is_true():
            assert time.monotonic() < deadline, "it did not come true in time"
            time.sleep(0.02)

    return wait
