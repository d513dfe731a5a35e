"""Waits until machines run: one node asks the cloud for all of them. Imports `roster` and below."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from skyward.cloud.account import Account, verdict
from skyward.cloud.roster import Node, Roster
from skyward.errors import BootstrapError, ProviderError
from skyward.model.instance import Instance, InstanceState

FIRST_POLL_S = 0.1
POLL_S = 2.0
"""How often a provider is asked whether its machines run, in the end, seconds."""
SLOWER = 1.3


class NeverRan(BootstrapError):
    """The cloud took a machine away, or did not bring it up, before we could do anything with it."""


class Arrivals:
    """Who of a roster runs already, and where."""

    def __init__(self, pool: str, roster: Roster, account: Callable[[], Account]) -> None:
        self._pool = pool
        self._roster = roster
        self._account = account
        self._is_polling = False
        self._poll_s = FIRST_POLL_S
        self._asked_at = time.monotonic()
        self._problem: ProviderError | None = None

    def await_address(self, node: Node, deadline: float) -> None:
        """Returns when the machine runs, or where it will is known: its cloud learns that it runs seconds after it can be
        reached, or seconds before.

        Raises:
            NeverRan: as `await_running`.
        """
        began = time.monotonic()
        self._await(lambda: node.is_nowhere, deadline)
        if node.is_over or node.is_nowhere:
            raise self.never_ran(node, time.monotonic() - began)

    def reached(self, node: Node) -> None:
        """Whatever its cloud says: it runs."""
        with self._roster.changed:
            if node.is_pending:
                node.instance = replace(node.instance, state=InstanceState.RUNNING)
                self._roster.changed.notify_all()

    def await_running(self, node: Node, deadline: float) -> None:
        """Returns when the machine runs. Until `deadline`, on the monotonic clock.

        Raises:
            NeverRan: it does not, and will not; or not in time.
        """
        began = time.monotonic()
        self._await(lambda: node.is_pending, deadline)
        if node.instance.state is not InstanceState.RUNNING:
            raise self.never_ran(node, time.monotonic() - began)

    def never_ran(self, node: Node, seconds: float) -> NeverRan:
        """What is to be said of a machine that does not run, `seconds` after it was launched."""
        state, reason = node.instance.state, node.instance.reason
        return NeverRan(
            f"{node.instance.id} is {state} after {seconds:.0f} s{f': {reason}' if reason else ''}",
            facts=[self._problem.message] if self._problem is not None else [],
            step="boot",
        )

    def is_over(self, node: Node) -> bool:
        """Whether a machine that ran and is not reached yet has ended meanwhile; asks now and then."""
        with self._roster.changed:
            is_due = not self._is_polling and time.monotonic() - self._asked_at >= POLL_S
            self._is_polling = self._is_polling or is_due
        if is_due:
            try:
                self._ask([one for one in self._roster.everyone if not one.is_ready and one.error is None])
            finally:
                self._polled()
        return node.is_over

    def await_addresses(self, deadline: float) -> None:
        """Returns when every machine has an address or has failed: tasks are told their peers."""
        self._await(lambda: any(one.is_nowhere and one.error is None for one in self._roster.nodes), deadline)

    def _await(self, is_missing: Callable[[], bool], deadline: float) -> None:
        changed = self._roster.changed
        while is_missing() and not self._roster.is_stopping and time.monotonic() < deadline:
            with changed:
                if self._is_polling:  # one asks for all
                    changed.wait(POLL_S)
                    continue
                self._is_polling = True
            try:
                self._poll()
            finally:
                self._polled()

    def _polled(self) -> None:
        with self._roster.changed:
            self._is_polling = False
            self._roster.changed.notify_all()

    def _poll(self) -> None:
        """Waits a moment and asks each cloud once for all machines that are pending."""
        roster = self._roster
        with roster.changed:
            pause, self._poll_s = self._poll_s, min(POLL_S, self._poll_s * SLOWER)
            roster.changed.wait_for(lambda: roster.is_stopping, pause)
            pending = [one for one in roster.everyone if one.is_pending]
        self._ask(pending)

    def _ask(self, nodes: Sequence[Node]) -> None:
        self._asked_at = time.monotonic()
        for desk in {one.desk for one in nodes}:
            mine = [one for one in nodes if one.desk == desk]
            try:
                shown = {one.id: one for one in mine[0].provider.instances(self._pool)}
            except ProviderError as error:  # it is asked again; what boots does not mind
                self._problem = error
            else:
                self._problem = None
                for node in mine:
                    self._take_in(node, shown.get(node.instance.id))

    def _take_in(self, node: Node, shown: Instance | None) -> None:
        """What one answer says of a machine that boots."""
        machine = self._account().machines.get(node.instance.id)
        old = node.instance
        if shown is not None:
            if shown.state is InstanceState.PENDING and not node.is_pending:
                return  # an old answer; it has been reached
            node.instance = replace(shown, offer=old.offer, details={**old.details, **shown.details})
            if machine is not None:
                machine.was_seen = True
        elif machine is not None and verdict(machine, None, time.time()) == "gone":
            node.instance = replace(old, state=InstanceState.TERMINATED, reason="the cloud lists it no more")
        if node.instance.state is not old.state:
            with self._roster.changed:
                self._poll_s = FIRST_POLL_S
                self._roster.changed.notify_all()
