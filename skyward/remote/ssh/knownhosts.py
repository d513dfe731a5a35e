"""Which key a host must show: the ones pinned by us, else what known_hosts files say. Nobody is trusted on first sight.

The format is sshd(8)'s, "SSH_KNOWN_HOSTS FILE FORMAT": plain names with `*`, `?` and `!`, hashed names,
`[host]:port`, `@revoked`. Host certificates (`@cert-authority`) are not supported; such lines trust nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from skyward.errors import HostKeyError
from skyward.remote.ssh.config import Route

_MARKERS = ("", "@revoked", "@cert-authority")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostKey:
    """A public host key: its type ("ssh-ed25519") and its base64 text."""

    kind: str
    text: str

    @classmethod
    def parse(cls, line: str) -> HostKey:
        """From "ssh-ed25519 AAAA... comment".

        Raises:
            HostKeyError: it is not a public key.
        """
        kind, _, rest = line.strip().partition(" ")
        text = rest.split(" ", 1)[0]
        if not _is_base64(text):
            raise HostKeyError(f"not a public host key: {line!r}")
        return cls(kind=kind, text=text)

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: SHA256:..."""
        digest = hashlib.sha256(base64.b64decode(self.text)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownKey:
    """One key that we know of a host, and where it is written."""

    key: HostKey
    origin: str
    """file:line, or "pinned"."""
    revoked: bool = False
    authority: bool = False
    """It signs host certificates, which we cannot check."""
    exact: bool = True
    """False where the host is listed without its port: enough to trust, not to call another key a change."""


def known_keys(route: Route) -> list[KnownKey]:
    """All keys we know of a host; pinned ones exclude what files say. A revoked key is revoked for every host."""
    if route.host_keys:
        return [KnownKey(key=HostKey.parse(line), origin="pinned") for line in route.host_keys]
    lines = [line for path in route.known_hosts for line in _read(path)]
    revoked = [known for _, known in lines if known.revoked]
    listed = [entry for entry in lines if not entry[1].revoked]
    name = _listed_as(route.known_as, route.port)
    exact = [known for patterns, known in listed if _matches(patterns, name)]
    if not any(_is_trusted(known) for known in exact):
        bare = [known for patterns, known in listed if _matches(patterns, route.known_as)]
        exact += [replace(known, exact=False) for known in bare if known not in exact]
    return exact + revoked


def _is_trusted(known: KnownKey) -> bool:
    return not known.revoked and not known.authority


def preferred_types(known: Sequence[KnownKey], offered: Sequence[str]) -> list[str]:
    """The algorithms we can verify first, so that the host shows a key we know if it has one."""
    kinds = {kind for entry in known if _is_trusted(entry) for kind in _algorithms(entry.key.kind)}
    return sorted(offered, key=lambda name: name not in kinds)


def check_host_key(shown: HostKey, known: Sequence[KnownKey], route: Route) -> None:
    """Nothing, if the host shows a key we know.

    Raises:
        HostKeyError: it does not; says which key, and what can be done.
    """
    matching = [entry for entry in known if entry.key.text == shown.text and not entry.authority]
    trusted = [entry for entry in known if _is_trusted(entry)]
    if revoked := [entry for entry in matching if entry.revoked]:
        what = f"shows a host key that is revoked in {revoked[0].origin}"
        raise _error(what, shown, route, state="revoked")
    if matching:
        return
    if route.host_keys:
        raise _error(
            "is NOT the machine we pinned: it shows another host key",
            shown,
            route,
            state="changed",
            facts=[f"pinned: {entry.key}" for entry in trusted],
        )
    replaced = [entry for entry in trusted if entry.exact and entry.key.kind == shown.kind]
    raise _changed(shown, replaced, route) if replaced else _unknown(shown, known, route)


def _changed(shown: HostKey, old: Sequence[KnownKey], route: Route) -> HostKeyError:
    path = old[0].origin.rpartition(":")[0]
    return _error(
        "HOST KEY HAS CHANGED: this may be another machine, or somebody in between",
        shown,
        route,
        state="changed",
        facts=[f"known: {entry.key} in {entry.origin}" for entry in old],
        hints=[
            f"{_scan(route)} | ssh-keygen -lf -",
            f"ssh-keygen -R {shlex.quote(_listed_as(route.known_as, route.port))} -f {shlex.quote(path)}",
        ],
    )


def _unknown(shown: HostKey, known: Sequence[KnownKey], route: Route) -> HostKeyError:
    files = [str(path) for path in route.known_hosts if path.exists()] or [str(route.known_hosts[0])]
    others = [
        f"not used: host certificates (@cert-authority, {entry.origin}) are not supported"
        if entry.authority
        else f"known, but not shown: {entry.key} in {entry.origin}"
        for entry in known
        if not entry.revoked
    ]
    return _error(
        "host key is unknown, so nothing was sent",
        shown,
        route,
        state="unknown",
        facts=[f"looked in: {', '.join(files)}", *others],
        hints=_ways_to_know(route, files[0]),
    )


def _ways_to_know(route: Route, file: str) -> list[str]:
    """Commands that show the key, to be compared with the machine's own, and that add it."""
    if route.proxy_command:
        proxy = shlex.quote(f"ProxyCommand={route.proxy_command}")
        return [
            f"ssh -o {proxy} -p {route.port} {shlex.quote(f'{route.user}@{route.host}')} true    # asks first"
        ]
    return [
        f"{_scan(route)} | ssh-keygen -lf -    # compare with the machine's own fingerprint",
        f"{_scan(route)} >> {shlex.quote(file)}",
    ]


def _error(
    what: str,
    shown: HostKey,
    route: Route,
    *,
    state: str,
    facts: Iterable[str] = (),
    hints: Iterable[str] = (),
) -> HostKeyError:
    return HostKeyError(
        f"{route.label}: {what}",
        facts=[f"shown: {shown}", *facts],
        hints=hints,
        host=route.host,
        port=route.port,
        fingerprint=shown.fingerprint,
        state=state,
    )


def _scan(route: Route) -> str:
    port = "" if route.port == 22 else f"-p {route.port} "
    scan = f"ssh-keyscan -t ed25519,ecdsa,rsa {port}{shlex.quote(route.host)} 2>/dev/null"
    if route.jump is None:
        return scan
    jump = route.jump
    return f"ssh -p {jump.port} {shlex.quote(f'{jump.user}@{jump.host}')} {shlex.quote(scan)}"


def _listed_as(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def _algorithms(kind: str) -> tuple[str, ...]:
    """Signature algorithms that a key of this type serves."""
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == "ssh-rsa" else (kind,)


def _read(path: Path) -> Iterator[tuple[str, KnownKey]]:
    """Name patterns and key of each line that can be used."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in _MARKERS:
            continue
        patterns, kind, key = fields[:3]
        if _is_base64(key):
            known = HostKey(kind=kind, text=key)
            origin, authority = f"{path}:{number}", marker == "@cert-authority"
            yield (
                patterns,
                KnownKey(key=known, origin=origin, revoked=marker == "@revoked", authority=authority),
            )


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def _matches(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        return _matches_hash(patterns, name)
    found = False
    for pattern in patterns.lower().split(","):
        if _matches_pattern(pattern.removeprefix("!"), name.lower()):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _matches_pattern(pattern: str, name: str) -> bool:
    """Only `*` and `?` are special; brackets belong to `[host]:port`."""
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _matches_hash(patterns: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in patterns.split("|")[2:4])
    except ValueError:
        return False
    return hmac.compare_digest(hmac.new(salt, name.lower().encode(), "sha1").digest(), digest)
