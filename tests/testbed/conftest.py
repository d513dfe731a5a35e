"""A simulated cloud for each test, and somebody who uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from simdesk import Desk  # type: ignore[import-not-found]

from skyward.testing.ec2 import SimulatedEC2


@pytest.fixture
def make_cloud(_sshd_installed: None) -> Iterator[Callable[..., SimulatedEC2]]:
    """`make_cloud(boot_s=2.0, ...)`; one at a time."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(SimulatedEC2(**how))


@pytest.fixture
def cloud(make_cloud: Callable[..., SimulatedEC2]) -> SimulatedEC2:
    return make_cloud()


@pytest.fixture
def desk(cloud: SimulatedEC2, identity: Path) -> Iterator[Desk]:
    desk = Desk(cloud, identity)
    yield desk
    desk.close()
