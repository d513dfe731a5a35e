"""Gets the machines of one pool: offer after offer in plan order, remembering why each could not be had.

Imports `launch`, `roster` and below.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from skyward.cloud.desks import Desks
from skyward.cloud.launch import Failure, Launcher, alternatives, because, is_ruled_out, no_machines, words
from skyward.cloud.order import FleetOrder
from skyward.cloud.refusals import remember
from skyward.cloud.roster import Node, Roster
from skyward.errors import CapacityError, CredentialsError, ProviderError
from skyward.model.event import InstanceLaunched, WarningRaised
from skyward.model.instance import Instance
from skyward.model.offer import Offer

REPLACEMENTS = 3
"""Machines that are replaced, for each node the pool was asked for."""


class Acquisition:
    """The machines of one pool as its plan gives them."""

    def __init__(
        self,
        order: FleetOrder,
        roster: Roster,
        desks: Desks,
        launcher: Launcher,
        *,
        end: Callable[[Sequence[Node]], None],
    ) -> None:
        """`end` ends machines that were not asked for."""
        self._order = order
        self._roster = roster
        self._desks = desks
        self._launcher = launcher
        self._end = end
        self._launching = threading.Lock()
        self._replaced = 0
        self.failures: list[Failure] = []
        """What could not be had, and why; read to decide what is tried next."""

    def acquire(self) -> None:
        """Launches in plan order until there are enough machines: all, or else at least those that are needed.

        Raises:
            ProviderError: there are not; names every offer that was tried.
        """
        roster, wanted = self._roster, self._order.plan.nodes
        for goal in sorted({wanted, roster.needed}, reverse=True):
            if len(roster.nodes) >= roster.needed:
                return
            self.failures = []
            self._acquire_until(goal)
        if len(roster.nodes) < roster.needed:
            raise no_machines(self.failures, len(roster.nodes), roster.needed)

    def _acquire_until(self, goal: int) -> None:
        nodes = self._roster.nodes
        for offer, count in self._attempts(lambda: goal - len(nodes), self.failures):
            for instance in self.launch(offer, count):
                node = self._node(len(nodes), instance, offer)
                nodes.append(node)
                self._order.emit(InstanceLaunched(instance=instance, node=node.index))

    def one_more(
        self,
        index: int,
        *,
        first: Offer | None = None,
        last: Offer | None = None,
        failures: list[Failure] | None = None,
    ) -> Node | None:
        """One more machine for the node `index`: of the offer `first`, or of what comes next in the plan; of `last` if
        there is no other, whatever became of it before. Why others could not be had is told as it comes, or noted in
        `failures` for the caller to tell."""
        known = self.failures if failures is None else failures
        for offer in self._candidates(first, last, known):
            for instance in self.launch(offer, 1, failures):
                node = self._node(index, instance, offer, is_young=True)
                self._order.emit(InstanceLaunched(instance=instance, node=index))
                return node
        return None

    def _candidates(
        self, first: Offer | None, last: Offer | None, failures: list[Failure]
    ) -> Iterator[Offer]:
        if first is not None and not is_ruled_out(first, failures):
            yield first
        yield from (offer for offer, _ in self._attempts(lambda: 1, failures))
        if last is not None:
            yield last

    def may_replace(self) -> bool:
        """Whether another machine may be launched in place of one; counts it."""
        with self._roster.changed:
            self._replaced += 1
            return self._replaced <= REPLACEMENTS * self._order.plan.nodes

    def _attempts(self, missing: Callable[[], int], failures: list[Failure]) -> Iterator[tuple[Offer, int]]:
        """What to launch next, as long as machines are missing; reads the failures as they come."""
        plan = self._order.plan
        for offer in plan.ranked:
            for machine, share in plan.machines(offer):
                if missing() <= 0:
                    return
                if machine.provider in self._desks and not is_ruled_out(machine, failures):
                    yield machine, min(share, missing())

    def launch(self, offer: Offer, count: int, failures: list[Failure] | None = None) -> list[Instance]:
        """Machines of an offer, `count` at most. None where they cannot be had: why is told and remembered, or only
        noted in `failures`."""
        known = self.failures if failures is None else failures
        with self._launching:
            try:
                found = self._launcher.launch(offer, count, alternatives(self._order.plan, offer, known))
            except ProviderError as error:
                known.append((offer, error))
                if isinstance(error, CapacityError):
                    remember(offer)
                if failures is None:
                    self._tell(offer, error)
                return []
        if surplus := found[count:]:
            self._end([self._node(-1, one, offer) for one in surplus])
        return found[:count]

    def _tell(self, offer: Offer, error: ProviderError) -> None:
        """Where there is another offer to try; where not, the error that follows tells it."""
        if isinstance(error, CredentialsError) or len(self._order.plan.ranked) > 1:
            self._order.emit(WarningRaised(message=f"{words(offer)}: {because(error)}"))

    def _node(self, index: int, instance: Instance, offer: Offer, *, is_young: bool = False) -> Node:
        desk, provider = self._desks.of(offer)
        return Node(index, instance, desk, provider, is_young=is_young)
