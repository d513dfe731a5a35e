"""Who we say we are: only what the endpoint allows is ever offered, and a refusal says why."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from skyward.errors import AuthenticationError, HostUnreachable
from skyward.model.instance import Endpoint
from skyward.remote.connection import connect
from skyward.testing.sshd import SSHServer, make_key

MakeSSHD = Callable[..., SSHServer]


class Tripwire:
    """An agent's socket that only counts who knocks."""

    def __init__(self, path: Path) -> None:
        self.path, self.knocks = path, 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        held = []
        while True:
            try:
                held.append(self._socket.accept()[0])
            except OSError:
                return
            self.knocks += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def tripwire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tripwire]:
    wire = Tripwire(tmp_path / "agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(wire.path))
    yield wire
    wire.close()


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """A real ssh-agent; call it to add a key."""
    process = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    while not (tmp_path / "agent").exists():
        pass

    def add(path: Path) -> None:
        subprocess.run(["ssh-add", "-q", path], check=True, capture_output=True)

    yield add
    process.terminate()
    process.wait(5)


def refused(endpoint: Endpoint) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        connect(endpoint)
    return caught.value


def offered(machine: SSHServer) -> int:
    """How many keys the machine saw."""
    return len(re.findall(r"(Failed|Accepted) publickey", machine.log))


def test_the_users_agent_and_keys_are_never_offered_to_a_pinned_machine(
    sshd: SSHServer, empty_home: Path, tripwire: Tripwire
) -> None:
    (empty_home / ".ssh").mkdir()
    mine = make_key(empty_home / ".ssh" / "id_ed25519")
    sshd.authorize(mine.with_suffix(".pub").read_text())

    error = refused(sshd.endpoint)

    assert tripwire.knocks == 0
    assert error.values["offered"] == 1
    assert offered(sshd) == 1, "the pool's own key, and nothing else"


def test_a_hung_agent_does_not_hang_us(sshd: SSHServer, empty_home: Path, tripwire: Tripwire) -> None:
    connect(replace(sshd.endpoint, use_agent=True, connect_timeout_s=2)).close()
    assert tripwire.knocks == 0, "the identity file was enough"

    refused(replace(sshd.endpoint, use_agent=True, identity_files=(), connect_timeout_s=1))

    assert tripwire.knocks == 1


def test_the_agent_is_asked_where_the_user_owns_the_machine(
    sshd: SSHServer, empty_home: Path, agent: Callable[[Path], None]
) -> None:
    agent(sshd.identity)

    connect(replace(sshd.endpoint, use_agent=True, identity_files=())).close()


def test_the_users_default_keys_are_tried_where_the_user_owns_the_machine(
    sshd: SSHServer, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (empty_home / ".ssh").mkdir()
    shutil.copy(sshd.identity, empty_home / ".ssh" / "id_ed25519")

    connect(replace(sshd.endpoint, use_agent=True, identity_files=())).close()


def test_identities_only_keeps_the_agents_other_keys_back(
    sshd: SSHServer, empty_home: Path, agent: Callable[[Path], None], tmp_path: Path
) -> None:
    locked = make_key(tmp_path / "locked", passphrase="secret")
    for name in ("one", "two"):
        agent(make_key(tmp_path / name))
    (empty_home / ".ssh").mkdir()
    (empty_home / ".ssh" / "config").write_text(f"Host *\n  IdentitiesOnly yes\n  IdentityFile {locked}\n")

    refused(replace(sshd.endpoint, use_agent=True, identity_files=()))

    assert offered(sshd) == 0


def test_an_agent_holds_what_is_encrypted_on_disk(
    sshd: SSHServer, empty_home: Path, agent: Callable[[Path], None], tmp_path: Path
) -> None:
    agent(sshd.identity)
    locked = make_key(tmp_path / "locked", passphrase="secret")

    connect(replace(sshd.endpoint, use_agent=True, identity_files=(str(locked),))).close()


def test_a_refusal_says_who_was_refused_and_how_to_look_closer(make_sshd: MakeSSHD, tmp_path: Path) -> None:
    machine = make_sshd(identity=make_key(tmp_path / "authorised"))
    wrong = make_key(tmp_path / "wrong")

    error = refused(replace(machine.endpoint, identity_files=(str(wrong),)))

    assert str(error) == f"{machine.endpoint}: refused our key for user '{machine.user}'"
    assert error.facts == (f"{wrong}: refused",)
    assert error.hints == (f"ssh -v -p 2222 {machine.user}@{machine.address} true",)


def test_a_key_that_is_not_installed_yet_is_accepted_once_it_is(sshd: SSHServer) -> None:
    key = sshd.identity.with_suffix(".pub").read_text()
    sshd.authorize()
    refused(sshd.endpoint)

    sshd.authorize(key)

    connect(sshd.endpoint).close()


def test_every_key_is_tried_and_the_right_one_is_found(sshd: SSHServer, tmp_path: Path) -> None:
    keys = [make_key(tmp_path / "a"), make_key(tmp_path / "b", "ecdsa"), tmp_path / "absent", sshd.identity]

    connect(replace(sshd.endpoint, identity_files=tuple(map(str, keys)))).close()

    assert offered(sshd) == 3


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_every_kind_are_accepted(sshd: SSHServer, tmp_path: Path, kind: str) -> None:
    key = make_key(tmp_path / "key", kind)  # type: ignore[arg-type]
    sshd.authorize(key.with_suffix(".pub").read_text())

    connect(replace(sshd.endpoint, identity_files=(str(key),))).close()


def test_too_many_keys_are_said_to_be_too_many(make_sshd: MakeSSHD, tmp_path: Path) -> None:
    machine = make_sshd(options=["MaxAuthTries 2"])
    keys = [make_key(tmp_path / name) for name in "abcd"]

    error = refused(replace(machine.endpoint, identity_files=tuple(map(str, keys))))

    assert any("Too many authentication failures" in fact for fact in error.facts)


def test_an_encrypted_key_is_named(sshd: SSHServer, tmp_path: Path) -> None:
    locked = make_key(tmp_path / "locked key", passphrase="secret")

    error = refused(replace(sshd.endpoint, identity_files=(str(locked),)))

    assert "encrypted" in str(error)
    assert error.facts == (f"{locked}: encrypted, needs a passphrase",)
    assert error.hints == (f"ssh-keygen -p -f '{locked}'",)
    assert (
        "ssh-add" in refused(replace(sshd.endpoint, identity_files=(str(locked),), use_agent=True)).hints[0]
    )


def test_an_old_encrypted_pem_key_is_named_too(sshd: SSHServer, tmp_path: Path) -> None:
    path = tmp_path / "pem"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", "PEM", "-N", "secret", "-f", path], check=True)

    assert "encrypted" in str(refused(replace(sshd.endpoint, identity_files=(str(path),))))


def test_files_that_hold_no_key_are_named(sshd: SSHServer, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"\x00\xffnot a key")
    names = (str(tmp_path / "absent"), str(tmp_path / "garbage"), str(tmp_path), str(sshd.identity) + ".pub")

    error = refused(replace(sshd.endpoint, identity_files=names))

    assert "no key to offer" in str(error)
    assert [fact.partition(": ")[0] for fact in error.facts] == list(names)


def test_no_key_at_all_is_no_key_to_offer(sshd: SSHServer) -> None:
    assert "no key to offer" in str(refused(replace(sshd.endpoint, identity_files=())))


def test_a_machine_that_wants_a_password_says_so(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(options=["PubkeyAuthentication no", "PasswordAuthentication yes"])

    error = refused(machine.endpoint)

    assert "takes no keys, only: password" in error.facts[0]


def test_a_machine_that_wants_a_second_factor_says_so(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(options=["AuthenticationMethods publickey,password", "PasswordAuthentication yes"])

    error = refused(machine.endpoint)

    assert "accepted, but the machine wants more: password" in error.facts[0]


def test_an_unknown_user_is_refused_like_a_wrong_key(sshd: SSHServer) -> None:
    assert "'nobody-here'" in str(refused(replace(sshd.endpoint, user="nobody-here")))


def test_an_ordinary_user_may_log_in(make_sshd: MakeSSHD) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make accounts")
    machine = make_sshd(user="ubuntu")

    done = connect(machine.endpoint).run("id -un; echo $HOME; pwd")

    assert done.stdout == b"ubuntu\n/home/ubuntu\n/home/ubuntu\n"


def test_a_banner_and_a_message_of_the_day_are_not_output(make_sshd: MakeSSHD, tmp_path: Path) -> None:
    (tmp_path / "banner").write_text("AUTHORISED USERS ONLY\n" * 50)
    machine = make_sshd(options=[f"Banner {tmp_path / 'banner'}", "PrintMotd yes"])

    assert connect(machine.endpoint).run("echo mine").stdout == b"mine\n"


def test_a_noisy_rc_file_is_heard_before_the_command_and_breaks_nothing(sshd: SSHServer) -> None:
    (sshd.home_on_disk / ".ssh").mkdir()
    (sshd.home_on_disk / ".ssh" / "rc").write_text("echo noise; echo more >&2\n")

    done = connect(sshd.endpoint).run("cat", stdin=b"mine")

    assert done.stdout.endswith(b"mine")
    assert done.exit_status == 0


def test_a_machine_that_hangs_up_in_the_authentication_is_unreachable(make_sshd: MakeSSHD) -> None:
    slow = [
        "LoginGraceTime 1",
        "AuthorizedKeysCommand /bin/sleep 30",
        f"AuthorizedKeysCommandUser {getpass.getuser()}",
    ]
    machine = make_sshd(options=slow)
    machine.authorize()

    with pytest.raises(HostUnreachable, match="hung up in the authentication") as caught:
        connect(replace(machine.endpoint, connect_timeout_s=5))

    assert caught.value.values["phase"] == "authentication"
