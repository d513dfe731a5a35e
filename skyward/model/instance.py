"""One machine we hold, and how to reach it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from skyward.errors import UsageError
from skyward.model.offer import Offer
from skyward.model.volume import S3Volume, Volume


class InstanceState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One machine, as its provider describes it. `id` is the provider's."""

    id: str
    provider: str
    offer: Offer
    state: InstanceState = InstanceState.RUNNING
    region: str = ""
    zone: str | None = None
    public_address: str | None = None
    private_address: str | None = None
    port: int = 22
    user: str = "root"
    spot: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    reason: str | None = None
    """Why it is in this state, where the provider says."""
    details: dict[str, Any] = field(default_factory=dict, compare=False)
    """What preparing or ending this machine needs to know (its disks, and where they belong); plain data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How to open a connection to an instance.

    `kind="local"` is this machine, without SSH. `host_keys` are OpenSSH public key texts
    ("ssh-ed25519 AAAA...") pinned by us; without them the `known_hosts` files decide, and a host that
    neither knows is refused.
    """

    kind: Literal["ssh", "local"] = "ssh"
    host: str = ""
    port: int = 22
    user: str | None = None
    alias: str | None = None
    """What the user typed; shown in messages."""
    host_keys: tuple[str, ...] = ()
    known_hosts: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    use_agent: bool = False
    """Whether the user's SSH agent and default identities may be offered; only for machines the user owns."""
    jump: Endpoint | None = None
    proxy_command: str | None = None
    connect_timeout_s: float = 10.0
    directory: str | None = None
    """Where on the instance our one directory goes; None chooses ~/.cache/skyward."""

    @classmethod
    def parse(cls, text: str, **fields: Any) -> Endpoint:
        """From `[user@]host[:port]`; the host may be an alias of the SSH configuration, or an IPv6 address, which
        needs brackets before a port. `fields` are further fields of the endpoint.

        Raises:
            UsageError: it is nothing of the kind.
        """
        user, at, rest = text.rpartition("@")
        found = re.fullmatch(_HOST, rest)
        address = found and (found["bracketed"] or found["bare"])
        port = int(found["port"]) if found and found["port"] else 22
        if found is None or (at and not re.fullmatch(_USER, user)):
            problem = "want [user@]host[:port]"
        elif address and not _is_ipv6(address):
            problem = f"{address!r} is not an IPv6 address"
        elif not 0 < port < 65536:
            problem = "a port is 1 to 65535"
        else:
            return cls(host=address or found["name"], port=port, user=user or None, **fields)
        raise UsageError(f"not a host: {text!r}: {problem}", value=text)

    def __str__(self) -> str:
        if self.kind == "local":
            return self.alias or "this machine"
        host = f"[{self.host}]" if ":" in self.host else self.host
        name = f"{self.user}@{host}" if self.user else host
        return name if self.port == 22 else f"{name}:{self.port}"


# Nothing that could be an option of ssh, or that a shell or a configuration file would read in its own way.
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.+\\-]*\$?"
_HOST = r"(?:\[(?P<bracketed>[^\[\]\s]+)\]|(?P<name>\w[\w.-]*))(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[^\[\]\s]*:[^\[\]\s]*:[^\[\]\s]*)"


def _is_ipv6(text: str) -> bool:
    from ipaddress import IPv6Address

    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """`count` machines of one offer. Repeating a request with the same `token` never launches twice."""

    offer: Offer
    count: int
    pool: str
    """Id of the pool; also in `tags`."""
    token: str
    tags: dict[str, str] = field(default_factory=dict)
    public_key: str = ""
    """Of the pool's own client key, one OpenSSH line."""
    user_data: str = ""
    """Plain text that the machine runs when it boots; the provider encodes it."""
    alternatives: tuple[Offer, ...] = ()
    """The same machine in other zones of the region, in the order of the plan; any of them will do as well."""
    volumes: tuple[Volume | S3Volume, ...] = ()
    lifetime_s: float | None = None
    """After how many seconds the machine ends itself; None is never."""
    disk_gb: float | None = None
    """What its disk should hold at least, where a disk is sized on request."""
    max_price: float | None = None
    """USD per hour that a machine whose price moves may come to, where the user set a limit."""
