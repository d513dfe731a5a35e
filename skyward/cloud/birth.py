"""What the machines of one pool are born with, and how they are known by it: keys, user data, a new host key.

The host key of a machine was in its user data, which others may read: while it is prepared it gets one that nobody else
has seen. The connection that does so was verified, stays open, and is the one that tasks come by, so that they need not
wait for it; whoever connects later is shown the new key. Imports `roster` and below.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from skyward.cloud.journal import Journal
from skyward.cloud.keys import PoolKeys
from skyward.cloud.reaper import place_of
from skyward.cloud.roster import Node
from skyward.contracts.provider import Provider
from skyward.errors import BootstrapError, ConnectionLost, SkywardError
from skyward.model.instance import Endpoint
from skyward.remote.link import Link

RECONNECT_S = 30.0
"""How long a machine whose connection broke in the midst of it may take to be found again, seconds."""


class Birth:
    """Keys and user data of a pool's launches."""

    def __init__(self, pool: str, journal: Journal, *, lease_s: float | None, in_process: bool) -> None:
        """`in_process` says that tasks are not sent to machines over SSH: then they need neither."""
        self._pool = pool
        self._journal = journal
        self._lease_s = lease_s
        self._in_process = in_process
        self._keys: PoolKeys | None = None
        self.lifetime_s: float | None = None
        """How long machines that are launched now may live."""

    def of_launch(self, provider: Provider, lifetime_s: float | None) -> Mapping[str, Any]:
        """What a launch request says of keys and user data."""
        self.lifetime_s = lifetime_s
        if not provider.capabilities.user_data or self._in_process:
            return {}
        from skyward.cloud.userdata import render

        assert self._journal.path is not None
        if self._keys is None:
            self._keys = PoolKeys(place_of(self._journal.path), self._pool)
        keys = self._keys
        data = render(
            host_key=keys.host,
            authorized_keys=keys.authorized,
            lifetime_s=lifetime_s,
            lease_s=self._lease_s,
        )
        return {"public_key": keys.public, "user_data": data}

    def is_ours(self, node: Node, endpoint: Endpoint) -> bool:
        """Whether its host key and who may log in were in user data of ours."""
        return self._keys is not None and node.provider.capabilities.user_data and endpoint.kind == "ssh"

    def known(self, node: Node, endpoint: Endpoint) -> Endpoint:
        """The endpoint with what we know of the machine behind it."""
        if not self.is_ours(node, endpoint):
            return endpoint
        assert self._keys is not None
        return replace(
            endpoint,
            host_keys=(" ".join(self._keys.host.public.split()[:2]),),
            known_hosts=(),
            identity_files=(str(self._keys.identity),),
            use_agent=False,
        )

    def met(self, node: Node, link: Link) -> None:
        """A machine was reached for the first time: `skyward ssh` finds it from now on."""
        self._pin(node, link)
        self._journal.record("ready", id=node.instance.id, node=node.index, endpoint=reachable(link.endpoint))

    def renew(
        self,
        node: Node,
        link: Link,
        *,
        told: Callable[[float, str | None], None],
        failed: Callable[[SkywardError], None],
    ) -> None:
        """Begins to give a machine another host key, in a thread of its own; nothing where it was not born with one of ours.
        `told` hears how long it took, in seconds, and what went wrong; then `failed` is called, unless the link was
        closed."""
        if self.is_ours(node, link.endpoint):
            renewal = Renewal(link, told, failed, lambda: self._pin(node, link))
            threading.Thread(target=renewal.run, name=f"skyward-host-key-n{node.index}", daemon=True).start()

    def _pin(self, node: Node, link: Link) -> None:
        if self._keys is not None and node.is_billed:
            self._keys.pin(node.instance.id, link.endpoint)


class Renewal:
    """One machine gets a host key that nobody else has seen."""

    def __init__(
        self,
        link: Link,
        told: Callable[[float, str | None], None],
        failed: Callable[[SkywardError], None],
        pin: Callable[[], None],
    ) -> None:
        self._link = link
        self._told = told
        self._failed = failed
        self._pin = pin

    def run(self) -> None:
        from skyward.cloud.hostkeys import rotate

        began, link = time.monotonic(), self._link
        try:
            try:
                key = rotate(link.connection)
            except ConnectionLost:
                self._await_link()
                key = rotate(link.connection)
            link.endpoint = replace(link.endpoint, host_keys=(key,))
            self._pin()
        except (SkywardError, OSError) as error:
            if not link.is_closed:
                problem = error if isinstance(error, SkywardError) else BootstrapError(str(error))
                self._told(time.monotonic() - began, str(problem))
                self._failed(problem)
        else:
            self._told(time.monotonic() - began, None)

    def _await_link(self) -> None:
        """Until the link is up again, so that what broke off is done again.

        Raises:
            ConnectionLost: it is not, or was closed.
        """
        deadline = time.monotonic() + RECONNECT_S
        time.sleep(0.2)  # it learns of the break itself
        while not self._link.is_up:
            if self._link.is_closed or time.monotonic() > deadline:
                raise ConnectionLost(
                    f"{self._link.endpoint}: the connection broke while its host key was replaced"
                )
            time.sleep(0.05)


def reachable(endpoint: Endpoint) -> dict[str, Any]:
    """What `skyward ssh` needs to know of an endpoint."""
    if endpoint.kind == "local":
        return {"kind": "local"}
    return {
        "kind": endpoint.kind,
        "host": endpoint.host,
        "port": endpoint.port,
        "user": endpoint.user,
        "proxy_command": endpoint.proxy_command,
    }
