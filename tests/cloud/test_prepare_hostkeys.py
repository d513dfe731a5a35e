"""A machine is pinned before it boots, and its key is replaced by one that nobody else has ever seen."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from skyward.cloud.hostkeys import make_key_pair, rotate
from skyward.cloud.scripts import as_root
from skyward.errors import BootstrapError, HostKeyError
from skyward.remote.connection import connect
from skyward.testing.sshd import SSHServer

MakeSSHD = Callable[..., SSHServer]


def test_a_key_pair_is_what_openssh_makes_of_it(tmp_path: Path) -> None:
    pair = make_key_pair("skyward pool-7")

    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(pair.private)
    read = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True).stdout

    assert read.split()[:2] == pair.public.split()[:2]
    assert pair.public.startswith("ssh-ed25519 ")
    assert pair.public.endswith(" skyward pool-7")
    assert make_key_pair().public != make_key_pair().public


def test_the_private_half_is_not_shown() -> None:
    pair = make_key_pair()

    assert pair.private.splitlines()[1] not in repr(pair)


@pytest.mark.parametrize("comment", ["two\nlines", "bell\a", "\0"])
def test_a_comment_that_would_leave_its_line_is_refused(comment: str) -> None:
    with pytest.raises(ValueError, match="comment"):
        make_key_pair(comment)


def test_after_rotation_only_the_new_key_is_shown_and_the_connection_goes_on(sshd: SSHServer) -> None:
    born_with = sshd.endpoint
    file = sshd.directory / "host_ed25519"
    old = file.read_text()
    connection = connect(born_with)
    stream = connection.open("read line; echo got $line")

    new = rotate(connection)

    assert new != born_with.host_keys[0]
    with pytest.raises(HostKeyError, match="NOT the machine we pinned"):
        connect(born_with)
    again = connect(replace(born_with, host_keys=(new,)))
    assert again.run("echo in").stdout == b"in\n"
    stream.write(b"on\n")
    assert stream.read(100) == b"got on\n"
    assert connection.run("echo still").stdout == b"still\n"
    assert file.read_text() != old
    assert not [
        path for path in sshd.directory.rglob("*") if path.is_file() and path.read_bytes() == old.encode()
    ]
    assert file.stat().st_mode & 0o777 == 0o600
    for one in (stream, connection, again):
        one.close()


def test_rotation_can_be_repeated(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)

    first, second = rotate(connection), rotate(connection)

    assert first != second
    connect(replace(sshd.endpoint, host_keys=(second,))).close()
    connection.close()


def test_a_machine_of_several_keys_replaces_the_one_that_was_pinned(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(host_keys=("rsa", "ed25519"))
    rsa = machine.host_keys[0]
    connection = connect(machine.endpoint)

    new = rotate(connection)

    assert machine.host_keys == (rsa, new)
    connect(replace(machine.endpoint, host_keys=(new,))).close()
    connection.close()


def test_a_machine_without_an_ed25519_key_says_so_and_keeps_its_own(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(host_keys=("rsa",))
    connection = connect(machine.endpoint)
    usual = {path: path.stat().st_mtime_ns for path in Path("/etc/ssh").glob("ssh_host_*")}

    with pytest.raises(BootstrapError, match="no ed25519 host key") as caught:
        rotate(connection)

    assert {path: path.stat().st_mtime_ns for path in usual} == usual, "not its sshd's, not its business"

    assert caught.value.step == "host-key"
    connect(machine.endpoint).close()
    connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes accounts")
def test_who_is_not_root_and_may_not_become_it_is_told_so_and_changes_nothing(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(user="ubuntu")
    before = machine.host_keys
    connection = connect(machine.endpoint)

    with pytest.raises(BootstrapError, match="ubuntu is not root and may not use sudo without a password"):
        rotate(connection)

    assert machine.host_keys == before
    connect(machine.endpoint).close()
    connection.close()


def test_a_script_becomes_root_with_sudo_where_it_may_and_only_where_it_must(tmp_path: Path) -> None:
    commands = {
        "id": '[ -n "$SUDO" ] && echo 0 || echo "${ME:-1000}"',
        "sudo": '[ "$1" = -n ] && shift && [ -z "$NO_SUDO" ] && SUDO=yes exec "$@"',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    line = as_root("echo $(id -u) $0 $1; cat", '"$WHAT"', name="skyward-test")

    def said(**env: str) -> str:
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "WHAT": "a'b  c", **env}
        return subprocess.run(["sh", "-c", line], env=env, input="in", capture_output=True, text=True).stdout

    assert said() == "0 skyward-test a'b c\nin"
    assert said(NO_SUDO="yes") == "1000 skyward-test a'b c\nin"
    assert said(ME="0", NO_SUDO="yes") == "0 skyward-test a'b c\nin"
