"""Fixtures of every room: real machines behind SSH, an empty home, and proof that nothing is left running."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from skyward.testing.sshd import SSHServer, make_key, require_sshd

MakeSSHD = Callable[..., SSHServer]


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
        if name != "SKYWARD_NO_SSHD":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SKYWARD_HOME", str(home / "skyward"))
    return home
