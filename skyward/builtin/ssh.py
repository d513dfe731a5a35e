"""Machines the user already has, reached over SSH: `sky.SSH(hosts=[...])`. Imports public names only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyward import (
    Capabilities,
    CapacityError,
    CredentialsError,
    Endpoint,
    Instance,
    LaunchRequest,
    Offer,
    Provider,
    UsageError,
    hookimpl,
)

_HOSTS_VARIABLE = "SKYWARD_SSH_HOSTS"
_EXAMPLE = 'sky.SSH(hosts=["me@gpu1", "me@10.0.0.7:2222"])'


@dataclass(frozen=True, slots=True)
class SSH:
    """Machines one already has, as ssh knows them.

    `hosts` are `[user@]host[:port]`; a host may be an alias of ~/.ssh/config, whose HostName, User, Port, keys and
    jumps count. `key` is a private key file, tried before the agent and the configuration's keys; `known_hosts`
    a file to use instead of the user's; `jump` a host to go through.

    Raises:
        UsageError: a host cannot be one, or there is none.
    """

    hosts: Sequence[str] = ()
    key: str | None = None
    known_hosts: str | None = None
    jump: str | None = None
    directory: str | None = None
    """Where on the machines environments and runs are kept; None chooses ~/.cache/skyward."""

    def __post_init__(self) -> None:
        if isinstance(self.hosts, str):
            raise UsageError(f"hosts is a list: hosts=[{self.hosts!r}]", value=self.hosts)
        object.__setattr__(self, "hosts", tuple(self.hosts))
        for host in (*self.hosts, *([self.jump] if self.jump else [])):
            if not isinstance(host, str):
                raise UsageError(f"not a host: {host!r}: want [user@]host[:port]", value=host)
            Endpoint.parse(host)

    @property
    def default_nodes(self) -> int:
        """How many nodes a pool has that does not say: one per host."""
        return max(1, len(self.hosts or _hosts_of(os.environ)))

    def endpoints(self) -> list[Endpoint]:
        """How to reach each host, in order."""
        shared: dict[str, Any] = {
            "use_agent": True,
            "identity_files": (self.key,) if self.key else (),
            "known_hosts": (self.known_hosts,) if self.known_hosts else (),
        }
        jump = Endpoint.parse(self.jump, alias=self.jump, **shared) if self.jump else None
        return [
            Endpoint.parse(host, alias=host, jump=jump, directory=self.directory, **shared)
            for host in self.hosts
        ]


def _hosts_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(host.strip() for host in environ.get(_HOSTS_VARIABLE, "").split(",") if host.strip())


class SSHProvider(Provider):
    """Hands out the user's hosts in order; they go on running whatever happens here."""

    name = "ssh"
    Config = SSH
    capabilities = Capabilities(off_means="nothing")

    def __init__(self, config: SSH) -> None:
        super().__init__(config)
        self._hosts = dict(enumerate(config.endpoints()))
        self._held: dict[str, tuple[int, str, Instance]] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> SSHProvider:
        """With hosts from SKYWARD_SSH_HOSTS (separated by commas) where the configuration names none."""
        config = config or SSH()
        if config.hosts:
            return cls(config)
        hosts = _hosts_of(os.environ if environ is None else environ)
        if not hosts:
            raise CredentialsError(f"ssh: no hosts: name them, {_EXAMPLE}, or set {_HOSTS_VARIABLE}")
        return cls(SSH(hosts, config.key, config.known_hosts, config.jump, config.directory))

    def offers(self) -> Iterable[Offer]:
        """One offer per host at 0 USD per hour. What a host is made of shows only when it is connected to: 0 means
        unknown."""
        return [self._offer(index, endpoint) for index, endpoint in self._hosts.items()]

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        """The first hosts that nobody holds, the one that was asked for before others. The same token gives the same
        ones.

        Raises:
            CapacityError: there are fewer hosts.
        """
        with self._lock:
            ids = [f"ssh-{request.token}-{number}" for number in range(request.count)]
            missing = [id for id in ids if id not in self._held]
            for id, index in zip(missing, self._free(request, len(missing)), strict=True):
                self._held[id] = index, request.pool, self._instance(id, index, request)
            return [self._held[id][2] for id in ids]

    def instances(self, pool: str | None) -> Sequence[Instance]:
        """The hosts this provider has handed out to a pool, or to any."""
        with self._lock:
            return [instance for _, owner, instance in self._held.values() if pool in (None, owner)]

    def terminate(self, ids: Iterable[str]) -> None:
        """The hosts are free again; nothing is done to them."""
        with self._lock:
            for id in ids:
                self._held.pop(id, None)

    def connect(self, instance: Instance) -> Endpoint:
        return self._hosts[int(instance.offer.details["host"])]

    def _free(self, request: LaunchRequest, count: int) -> list[int]:
        held = {index for index, _, _ in self._held.values()}
        wanted = request.offer.details.get("host", 0)
        free = sorted((index for index in self._hosts if index not in held), key=lambda index: index < wanted)
        if len(free) < count:
            total, left = len(self._hosts), len(free)
            asked = f"{_count(request.count, 'node')} {'was' if request.count == 1 else 'were'} asked for"
            there = f"there {'is' if total == 1 else 'are'} {_count(total, 'host')}"
            if left == 0:
                there = "every host is in use"
            elif held:
                there += f", {len(held)} of them in use"
            raise CapacityError(
                f"ssh: {asked}, and {there}: add hosts"
                + (f", or ask for {_count(left, 'node')}" if left else ""),
                asked=request.count,
                hosts=total,
                free=left,
            )
        return free[:count]

    def _offer(self, index: int, endpoint: Endpoint) -> Offer:
        return Offer(
            provider=self.name,
            region=endpoint.host,
            instance_type=self.config.hosts[index],
            usd_per_hour=0.0,
            vcpus=0.0,
            memory_gib=0.0,
            availability="listed",
            source="the user's hosts",
            details={"host": index},
        )

    def _instance(self, id: str, index: int, request: LaunchRequest) -> Instance:
        endpoint = self._hosts[index]
        return Instance(
            id=id,
            provider=self.name,
            offer=self._offer(index, endpoint),
            region=endpoint.host,
            public_address=endpoint.host,
            port=endpoint.port,
            user=endpoint.user or "",
            tags=dict(request.tags),
        )


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return (SSHProvider,)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
