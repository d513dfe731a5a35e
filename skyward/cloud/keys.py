"""The keys of one pool: what its machines let in, and what they show. Imports `hostkeys` and below.

They live in a directory beside the pool's journal, for its owner only, and go with the pool.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.model.instance import Endpoint

if TYPE_CHECKING:
    from skyward.cloud.hostkeys import KeyPair

IDENTITY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
_PUBLIC_LINE = re.compile(r"(?:ssh-|ecdsa-|sk-)[\w@.-]+ [A-Za-z0-9+/=]+(?: [^\r\n]*)?")
MAX_OWN_KEYS = 4


class PoolKeys:
    """A client key that only this pool knows, and a host key for its machines to begin with."""

    def __init__(self, place: Path, pool: str) -> None:
        """Makes both, and writes the client key to `place`.

        Raises:
            OSError: it cannot be written.
        """
        from skyward.cloud.hostkeys import make_key_pair

        self._place = place
        self._lock = threading.Lock()
        self._pins: dict[str, str] = {}
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        client: KeyPair = make_key_pair(f"skyward {pool}")
        self.host: KeyPair = make_key_pair(f"skyward {pool} host")
        self.public = client.public.strip()
        self.identity = place / IDENTITY
        _write(self.identity, client.private)
        _write(place / f"{IDENTITY}.pub", f"{self.public}\n")

    @property
    def authorized(self) -> list[str]:
        """Whom the machines let in: this pool, and the user's own keys, so that plain ssh works."""
        return [self.public, *own_public_keys()]

    def pin(self, machine: str, endpoint: Endpoint) -> None:
        """Notes the host keys of a machine where `skyward ssh` finds them."""
        name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"
        with self._lock:
            self._pins[machine] = "".join(f"{name} {key}\n" for key in endpoint.host_keys)
            beside = self._place / f".{KNOWN_HOSTS}"
            beside.unlink(missing_ok=True)
            _write(beside, "".join(self._pins.values()))
            os.replace(beside, self._place / KNOWN_HOSTS)


def own_public_keys(home: Path | None = None) -> list[str]:
    """Public keys of the user, `~/.ssh/id_*.pub`; the private ones are never read."""
    found = []
    for path in sorted(((home or Path.home()) / ".ssh").glob("id_*.pub")):
        try:
            line = path.read_text().strip()
        except (OSError, UnicodeDecodeError):
            continue
        if _PUBLIC_LINE.fullmatch(line):
            found.append(line)
    return found[:MAX_OWN_KEYS]


def forget(place: Path) -> None:
    """Removes the keys of a pool, and what else is kept for it while it lives."""
    shutil.rmtree(place, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text if text.endswith("\n") or not text else f"{text}\n")
