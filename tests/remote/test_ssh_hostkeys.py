"""A machine is the one we know, or nothing is sent to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.errors import HostKeyError
from skyward.model.instance import Endpoint
from skyward.remote.connection import connect
from skyward.remote.ssh.config import Route
from skyward.remote.ssh.knownhosts import HostKey, known_keys
from skyward.testing.sshd import HostKeyType, SSHServer, make_key

MakeSSHD = Callable[..., SSHServer]


def trusting(machine: SSHServer, *files: Path) -> Endpoint:
    """An endpoint that believes files instead of a pinned key."""
    return replace(machine.endpoint, host_keys=(), known_hosts=tuple(map(str, files)))


def refused(endpoint: Endpoint) -> HostKeyError:
    with pytest.raises(HostKeyError) as caught:
        connect(endpoint)
    return caught.value


def fingerprint(path: Path) -> str:
    return subprocess.run(
        ["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True
    ).stdout.split()[1]


def public(path: Path) -> str:
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def test_a_pinned_machine_is_entered(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)

    assert connection.run("echo in").stdout == b"in\n"
    connection.close()


def test_a_machine_with_another_key_than_the_pinned_one_is_refused_before_anything_is_sent(
    sshd: SSHServer, tmp_path: Path
) -> None:
    other = make_key(tmp_path / "other")

    error = refused(replace(sshd.endpoint, host_keys=(public(other),)))

    assert "NOT the machine we pinned" in str(error)
    assert error.values["state"] == "changed"
    assert error.values["fingerprint"] == fingerprint(sshd.directory / "host_ed25519.pub")
    assert any(fingerprint(other) in fact for fact in error.facts)
    assert "Accepted" not in sshd.log
    assert "Failed publickey" not in sshd.log
    assert "root" not in sshd.log, "not even the user's name"


def test_a_machine_that_shows_only_another_type_of_key_is_refused(
    make_sshd: MakeSSHD, tmp_path: Path
) -> None:
    machine = make_sshd(host_keys=("rsa",))
    pinned = make_key(tmp_path / "pinned")

    error = refused(replace(machine.endpoint, host_keys=(public(pinned),)))

    assert error.values["fingerprint"] == fingerprint(machine.directory / "host_rsa.pub")
    assert "Accepted" not in machine.log


def test_any_of_several_pinned_keys_will_do(make_sshd: MakeSSHD, tmp_path: Path) -> None:
    machine = make_sshd(host_keys=("rsa",))
    keys = (public(make_key(tmp_path / "first")), *machine.host_keys)

    connect(replace(machine.endpoint, host_keys=keys)).close()


def test_pinned_keys_exclude_what_files_say(sshd: SSHServer, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(sshd.known_hosts_lines)
    other = make_key(tmp_path / "other")

    refused(replace(sshd.endpoint, host_keys=(public(other),), known_hosts=(str(tmp_path / "known"),)))


def test_an_unknown_machine_is_refused_with_its_fingerprint_and_what_to_do(
    sshd: SSHServer, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.touch()

    error = refused(trusting(sshd, known))

    assert "unknown" in str(error)
    assert "nothing was sent" in str(error)
    assert fingerprint(sshd.directory / "host_ed25519.pub") in error.facts[0]
    assert "Accepted" not in sshd.log
    compare, add = error.hints
    assert "ssh-keyscan" in compare
    shown = subprocess.run(["sh", "-c", compare], capture_output=True, text=True).stdout
    assert error.values["fingerprint"] in shown

    subprocess.run(["sh", "-c", add], check=True)

    connect(trusting(sshd, known)).close()


def test_a_changed_key_is_refused_loudly_with_the_line_that_says_so(sshd: SSHServer, tmp_path: Path) -> None:
    other, known = make_key(tmp_path / "other"), tmp_path / "known_hosts"
    known.write_text(f"# mine\n\n[{sshd.address}]:{sshd.port} {public(other)}\n")

    error = refused(trusting(sshd, known))

    assert "HOST KEY HAS CHANGED" in str(error)
    assert error.values["state"] == "changed"
    assert any(f"{known}:3" in fact and fingerprint(other) in fact for fact in error.facts)
    subprocess.run(["sh", "-c", error.hints[1]], check=True, capture_output=True)
    assert "unknown" in str(refused(trusting(sshd, known))), (
        "the hint removes the old key and trusts no new one"
    )


def test_a_revoked_key_is_refused_although_it_is_listed(sshd: SSHServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts_lines + f"@revoked * {sshd.host_keys[0]}\n")

    error = refused(trusting(sshd, known))

    assert error.values["state"] == "revoked"
    assert f"{known}:2" in str(error)


def test_a_certificate_authority_trusts_nobody_and_is_said_to_be_unsupported(
    sshd: SSHServer, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"@cert-authority * {sshd.host_keys[0]}\n")

    error = refused(trusting(sshd, known))

    assert error.values["state"] == "unknown"
    assert any(f"(@cert-authority, {known}:1) are not supported" in fact for fact in error.facts)
    known.write_text(known.read_text() + sshd.known_hosts_lines)
    connect(trusting(sshd, known)).close()


def test_the_machine_is_asked_for_the_type_of_key_that_we_know(make_sshd: MakeSSHD, tmp_path: Path) -> None:
    machine = make_sshd(host_keys=("ed25519", "ecdsa", "rsa"))
    known = tmp_path / "known_hosts"

    for line in machine.known_hosts_lines.splitlines():
        known.write_text(line + "\n")
        connect(trusting(machine, known)).close()


def test_a_second_type_of_key_beside_a_known_one_is_unknown_not_changed(
    make_sshd: MakeSSHD, tmp_path: Path
) -> None:
    machine, rsa = make_sshd(host_keys=("ed25519",)), make_key(tmp_path / "rsa", "rsa")
    known = tmp_path / "known_hosts"
    known.write_text(f"[{machine.address}]:{machine.port} {public(rsa)}\n")

    error = refused(trusting(machine, known))

    assert error.values["state"] == "unknown"
    assert any("known, but not shown" in fact for fact in error.facts)


def test_a_host_listed_without_its_port_is_trusted_and_never_called_changed(
    sshd: SSHServer, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"{sshd.address} {sshd.host_keys[0]}\n")
    connect(trusting(sshd, known)).close()

    known.write_text(f"{sshd.address} {public(make_key(tmp_path / 'other'))}\n")
    assert refused(trusting(sshd, known)).values["state"] == "unknown"


def test_hashed_names_are_found(sshd: SSHServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(sshd.known_hosts_lines)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert sshd.address not in known.read_text()

    connect(trusting(sshd, known)).close()


def test_several_files_count_as_one_and_absent_ones_as_empty(sshd: SSHServer, tmp_path: Path) -> None:
    known = tmp_path / "second"
    known.write_text(sshd.known_hosts_lines)

    connect(trusting(sshd, tmp_path / "absent", known)).close()


def test_the_users_own_file_is_the_default(sshd: SSHServer, empty_home: Path) -> None:
    (empty_home / ".ssh").mkdir()
    assert "unknown" in str(refused(trusting(sshd)))

    (empty_home / ".ssh" / "known_hosts").write_text(sshd.known_hosts_lines)

    connect(trusting(sshd)).close()


def test_a_machine_that_is_rebuilt_is_refused_until_its_key_is_known(
    make_sshd: MakeSSHD, tmp_path: Path
) -> None:
    machine, known = make_sshd(), tmp_path / "known_hosts"
    known.write_text(machine.known_hosts_lines)
    connect(trusting(machine, known)).close()

    for name in ("host_ed25519", "host_ed25519.pub"):
        (machine.directory / name).unlink()
    make_key(machine.directory / "host_ed25519")
    machine.restart()

    assert "HAS CHANGED" in str(refused(trusting(machine, known)))


def test_garbage_in_a_file_is_skipped(sshd: SSHServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_bytes(
        b"\xff\xfe\n|1|bad|hash ssh-ed25519 AAAA\n|1| x y\n@cert-authority * ssh-ed25519 AAAA\n"
        b"host\nhost ssh-ed25519\nhost ssh-ed25519 not-base64!\n" + sshd.known_hosts_lines.encode()
    )

    connect(trusting(sshd, known)).close()


def test_a_pinned_text_that_is_no_key_is_said_to_be_none(sshd: SSHServer) -> None:
    with pytest.raises(HostKeyError, match="not a public host key: 'ssh-ed25519'"):
        connect(replace(sshd.endpoint, host_keys=("ssh-ed25519",)))


# -- the file format, against ssh-keygen ---------------------------------------------------------------------

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIJdEB9ElOcaPyxNGaEV1iRs7gQ0zZt5o2nM0b1Ek1mQn"

names = st.from_regex(r"[a-c]{1,2}(\.[a-c]{1,2}){0,2}", fullmatch=True)
patterns = st.lists(
    st.one_of(names, st.from_regex(r"!?[a-c?*]{1,3}(\.[a-c*?]{1,2})?", fullmatch=True)),
    min_size=1,
    max_size=3,
).map(",".join)


def hashed(name: str) -> str:
    salt = b"0123456789abcdefghij"
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


@settings(max_examples=60)
@given(lines=st.lists(st.one_of(patterns, names.map(hashed)), min_size=1, max_size=4), name=names)
def test_names_match_as_ssh_keygen_finds_them(
    lines: list[str], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "known_hosts_property"
    path.write_text("".join(f"{line} ssh-ed25519 {KEY}\n" for line in lines))

    ours = known_keys(Route(label="x", host=name, user="u", known_as=name, known_hosts=(path,)))

    found = subprocess.run(["ssh-keygen", "-F", name, "-f", path], capture_output=True, text=True).stdout
    theirs = [line.split()[-1] for line in found.splitlines() if line.startswith("# Host")]
    assert [known.origin.rpartition(":")[2] for known in ours] == theirs


def test_fingerprints_are_those_of_ssh_keygen(tmp_path: Path) -> None:
    kinds: tuple[HostKeyType, ...] = ("ed25519", "ecdsa", "rsa")
    for kind in kinds:
        path = make_key(tmp_path / kind, kind)

        assert HostKey.parse(path.with_suffix(".pub").read_text()).fingerprint == fingerprint(path)
