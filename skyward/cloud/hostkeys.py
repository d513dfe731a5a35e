"""Keys that are made for one pool: its machines' host key, pinned before they boot, and the client's own.

A machine is born with a host key of ours, so that the first connection is verified. That key was in its user data,
which others may read; `rotate` replaces it by one that was made on the machine and never left it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from skyward.cloud import scripts
from skyward.errors import BootstrapError
from skyward.remote.connection import Connection
from skyward.remote.ssh.knownhosts import HostKey

ROTATE_S = 60.0
_STEP = "host-key"
_ANSWER = re.compile(rb"^skyward-host-key: (ssh-ed25519 [A-Za-z0-9+/=]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats."""

    private: str = field(repr=False)
    """The text of a private key file, unencrypted."""
    public: str
    """One line: "ssh-ed25519 AAAA... comment"."""


def make_key_pair(comment: str = "") -> KeyPair:
    """A new key pair; nothing is written anywhere.

    Raises:
        ValueError: the comment would not stay on its line.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not comment.isprintable():
        raise ValueError(f"the comment of a key is one line of printable text, not {comment!r}")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private=private.decode(), public=f"{public.decode()} {comment}".strip())


def rotate(connection: Connection) -> str:
    """Replaces the host key of a machine by a new one made there; returns its public half, "ssh-ed25519 AAAA...".

    Afterwards the machine shows the new key to whoever connects, the file of the old one is gone, and this
    connection goes on. Needs root, or sudo without a password.

    Raises:
        BootstrapError: it cannot be done; says why. The machine then should not be used.
        ConnectionLost: the connection broke.
    """
    command = scripts.as_root(scripts.read("rotate.sh"), '"${SSH_CONNECTION:-}"', name="skyward-rotate")
    done = connection.run(command, timeout_s=ROTATE_S)
    answer = _ANSWER.search(done.stdout)
    if done.exit_status == 0 and answer:
        key = HostKey.parse(answer[1].decode())
        return f"{key.kind} {key.text}"
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise BootstrapError(
        f"{connection.endpoint}: its host key cannot be replaced: "
        f"{said[-1] if said else f'exit status {done.exit_status}'}",
        facts=said[-4:-1],
        step=_STEP,
        tail="\n".join(said[-50:]),
    )
