"""Fixtures of every room: real machines behind SSH, an empty home, and proof that nothing is left running."""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer, make_key, require_sshd

MakeSSHD = Callable[..., SSHServer]
MakeChaos = Callable[[SSHServer], ChaosProxy]

# sshd, losetup and mkfs lie where the PATH of an ordinary login does not lead.
os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

# Tests run beside each other on few processors: how long one of them takes tells nothing about it.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# What a command writes where comes in an order that must not depend on this.
os.environ.pop("PYTHONUNBUFFERED", None)

_RUN = "RUN_BY_SKYWARD_TESTS"
_PATIENCE_S = 10.0


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    """Every process the tests start inherits a mark; whoever still carries it at the end is an error, and is ended."""
    mark = os.environ[_RUN] = uuid.uuid4().hex
    yield
    deadline = time.monotonic() + _PATIENCE_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"the tests left processes behind: {left}"


def _marked(mark: str) -> dict[int, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            pid = int(entry.name)
            if pid != os.getpid() and f"{_RUN}={mark}".encode() in (entry / "environ").read_bytes():
                found[pid] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (ValueError, OSError):
            continue
    return found


@pytest.fixture
def forgotten_modules(tmp_path: Path) -> Iterator[None]:
    """Modules that are imported from the test's directory are forgotten again, and so is the way there."""
    known, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that every machine of this test run lets in."""
    return make_key(tmp_path_factory.mktemp("identity") / "id_ed25519")


@pytest.fixture
def make_sshd(_sshd_installed: None, identity: Path) -> Iterator[MakeSSHD]:
    """Boots machines: `make_sshd(user="ubuntu", host_keys=("rsa",), ...)`; they are gone after the test."""
    with ExitStack() as stack:

        def make(**how: Any) -> SSHServer:
            return stack.enter_context(SSHServer(**{"identity": identity, **how}))

        yield make


@pytest.fixture
def sshd(make_sshd: MakeSSHD) -> SSHServer:
    """One machine."""
    return make_sshd()


@pytest.fixture
def sshd_pair(make_sshd: MakeSSHD) -> tuple[SSHServer, SSHServer]:
    """Two machines."""
    return make_sshd(), make_sshd()


@pytest.fixture
def make_chaos() -> Iterator[MakeChaos]:
    """Networks that misbehave, in front of machines: `make_chaos(sshd)`."""
    with ExitStack() as stack:
        yield lambda machine: stack.enter_context(ChaosProxy(machine.address, machine.port))


@pytest.fixture
def chaos(sshd: SSHServer, make_chaos: MakeChaos) -> ChaosProxy:
    """The network in front of `sshd`; connect to `chaos.endpoint(sshd.endpoint)`."""
    return make_chaos(sshd)


@pytest.fixture(scope="session")
def _sshd_installed() -> None:
    if os.environ.get("SKYWARD_NO_SSHD") == "1":
        pytest.skip("SKYWARD_NO_SSHD=1: nothing that needs a real machine is tested")
    require_sshd()


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without configuration, keys or history, for HOME, XDG and SKYWARD_HOME."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [name for name in os.environ if name.startswith(("XDG_", "SKYWARD_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SKYWARD_HOME", str(home / "skyward"))
    return home
