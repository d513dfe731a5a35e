"""The machines of one pool, how far each of them is, and where whoever waits for that waits."""

from __future__ import annotations

import threading
import time

from skyward.cloud.account import Desk
from skyward.contracts.provider import Provider
from skyward.model.instance import Instance, InstanceState
from skyward.remote.link import Link


class Node:
    """One machine of the pool and how far it is."""

    def __init__(
        self, index: int, instance: Instance, desk: Desk, provider: Provider, *, is_young: bool = False
    ):
        self.index = index
        self.instance = instance
        self.desk = desk
        self.provider = provider
        self.is_billed = provider.capabilities.off_means != "nothing"
        self.is_young = is_young or self.is_billed
        """Whether it may still be booting: then refusals are retried."""
        self.link: Link | None = None
        self.is_ready = False
        self.is_lost = False
        self.is_told = False
        """It was said that no machine takes its place."""
        self.is_leaving = False
        """Its end was announced."""
        self.replacing = threading.Lock()
        self.letting_in = threading.Lock()
        self.error: BaseException | None = None
        self.distrust: BaseException | None = None
        """Why it could not be given a host key that nobody else has seen."""
        self.launched_at = time.monotonic()
        self.ended_at: float | None = None

    @property
    def usd(self) -> float | None:
        """What it has cost so far; None where its price is unknown. Machines of one's own cost nothing."""
        if not self.is_billed:
            return 0.0
        rate = self.instance.offer.usd_per_hour
        if not rate:
            return None
        return rate * ((self.ended_at or time.monotonic()) - self.launched_at) / 3600

    @property
    def is_pending(self) -> bool:
        return self.instance.state is InstanceState.PENDING

    @property
    def is_nowhere(self) -> bool:
        """Whether it boots, and nobody knows where."""
        return self.is_pending and self.instance.public_address is None

    @property
    def is_over(self) -> bool:
        """Whether its cloud has ended it, or is about to."""
        return self.instance.state in (InstanceState.TERMINATED, InstanceState.TERMINATING)


class Roster:
    """All of them. Whoever changes what others wait for says so on `changed`."""

    def __init__(self, needed: int) -> None:
        self.needed = needed
        """Nodes without which the pool is not worth starting."""
        self.nodes: list[Node] = []
        """By rank."""
        self.others: list[Node] = []
        """Lost ones whose place was taken, and those that are about to take one."""
        self.changed = threading.Condition()
        self.is_started = False
        self.is_stopping = False

    @property
    def everyone(self) -> list[Node]:
        return [*self.nodes, *self.others]

    @property
    def lacks_nodes(self) -> bool:
        return sum(node.error is None for node in self.nodes) < self.needed

    @property
    def is_complete(self) -> bool:
        return sum(node.is_ready for node in self.nodes) >= self.needed

    def lost_node(self, index: int) -> Node | None:
        """While one takes the place of another, two have its number: the one that is not up was lost."""
        alive = [one for one in self.everyone if one.index == index and one.ended_at is None]
        down = [one for one in alive if one.link is not None and not one.link.is_up]
        return next(iter(down or alive), None)

    def stop(self) -> None:
        """Makes whoever waits give up."""
        with self.changed:
            self.is_stopping = True
            self.changed.notify_all()

    def fail(self, node: Node, error: BaseException) -> None:
        with self.changed:
            node.error = error
            self.changed.notify_all()

    def put_in_place_of(self, old: Node, new: Node) -> None:
        """`new` takes the place of `old`, which is forgotten: it never came up."""
        with self.changed:
            for place in (self.nodes, self.others):
                if old in place:
                    place[place.index(old)] = new
            self.others.append(old)
            self.changed.notify_all()

    def promote(self, old: Node, new: Node) -> None:
        """`new`, one of the others so far, takes the place of `old`, which is one of them from now on."""
        with self.changed:
            self.nodes[self.nodes.index(old)] = new
            self.others.remove(new)
            self.others.append(old)
