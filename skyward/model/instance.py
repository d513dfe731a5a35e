"""One machine we hold, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from skyward.model.offer import Offer


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

    def __str__(self) -> str:
        if self.kind == "local":
            return self.alias or "this machine"
        name = f"{self.user}@{self.host}" if self.user else self.host
        return name if self.port == 22 else f"{name}:{self.port}"


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
    user_data: str = ""
