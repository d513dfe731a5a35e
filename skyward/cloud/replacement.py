"""Nodes that are lost, or about to be: waits for them to come back, or puts another machine in their place.

A lost node is let go of only when its successor is up: its number is not given out twice, and the engine is never without
a node. Imports `acquisition`, `roster` and below.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from skyward.cloud.account import Account, verdict
from skyward.cloud.acquisition import Acquisition
from skyward.cloud.arrivals import NeverRan
from skyward.cloud.launch import Failure, causes, words
from skyward.cloud.order import FleetOrder
from skyward.cloud.roster import Node, Roster
from skyward.errors import (
    BootstrapError,
    HostKeyError,
    HostUnreachable,
    ProviderError,
    SkywardError,
    TransportError,
)
from skyward.model.event import WarningRaised
from skyward.model.instance import InstanceState

RETURN_S = 3.0
"""How long a lost node may take to be found again before another machine is launched, seconds."""
NOTICE_S = 150.0
"""How long a machine whose end was announced may go on with what it runs, seconds; EC2 leaves it two minutes."""


class Replacement:
    """Sees to the nodes of one pool that are not what they were. Every case has a thread of its own."""

    def __init__(
        self,
        order: FleetOrder,
        roster: Roster,
        acquisition: Acquisition,
        account: Callable[[], Account],
        *,
        bring_up: Callable[[Node], Node],
        end: Callable[[Sequence[Node]], None],
    ) -> None:
        """`bring_up` prepares a machine, and gives the one that is up in the end or has failed; `end` ends some."""
        self._order = order
        self._roster = roster
        self._acquisition = acquisition
        self._account = account
        self._bring_up = bring_up
        self._end = end

    def _warn(self, message: str, hint: str = "") -> None:
        self._order.emit(WarningRaised(message=message, hint=hint))

    # -- machines that never came up ---------------------------------------------------------------------------------

    def instead_of(self, node: Node, error: BaseException) -> Node | None:
        """A machine in place of one that never came up, where it was the machine's fault and not ours."""
        if (
            self._roster.is_stopping
            or not self._is_to_blame(node, error)
            or not self._acquisition.may_replace()
        ):
            return None
        assert isinstance(error, SkywardError)
        self._warn(f"node {node.index}: {error.message}; another machine is launched")
        if isinstance(error, NeverRan):
            self._acquisition.failures.append((node.instance.offer, ProviderError(error.message)))
        self.give_up(node)
        try:
            other = self._acquisition.one_more(node.index, last=node.instance.offer)
        except (SkywardError, ValueError) as problem:
            error.facts = (*error.facts, f"no other machine: {problem}")
            return None
        if other is None:
            error.facts = (
                *error.facts,
                *(f"{words(offer)}: {problem}" for offer, problem in self._acquisition.failures[-3:]),
            )
            return None
        self._roster.put_in_place_of(node, other)
        return other

    def _is_to_blame(self, node: Node, error: BaseException) -> bool:
        """Whether another machine may fare better."""
        if not node.is_billed:
            return False
        if isinstance(error, NeverRan | HostKeyError | HostUnreachable):
            return True
        return isinstance(error, TransportError | BootstrapError) and self._has_ended(node)

    def give_up(self, node: Node) -> None:
        """Closes what leads to a machine, and ends it."""
        if node.link is not None:
            node.link.close()
        self._try_to_end(node)

    # -- lost ones ---------------------------------------------------------------------------------------------------

    def lose(self, index: int, *, replace_it: bool) -> bool:
        """The engine gives a node up: its machine is ended for good or, if wished, another one takes its place.

        False where that is known already. A link that still tries to come back is given a while; and where no
        other node answers either, it is rather the client that is cut off, and nothing is launched.
        """
        node = self._roster.lost_node(index)
        if node is None or node.link is None or self._roster.is_stopping:
            return True
        is_final, was_lost = node.link.is_closed, node.is_lost
        node.is_lost = True
        if is_final or not was_lost:
            threading.Thread(
                target=self._see_to,
                args=(node, replace_it and not node.is_leaving),
                name=f"skyward-replace-n{index}",
                daemon=True,
            ).start()
        return not was_lost

    def regain(self, index: int) -> None:
        """The engine hears a node again: its next loss is another one."""
        for node in self._roster.everyone:
            if node.index == index and node.link is not None and node.link.is_up:
                node.is_lost = node.is_told = False

    def _see_to(self, node: Node, replace_it: bool) -> None:
        """What becomes of a lost node."""
        assert node.link is not None
        with node.replacing:
            if node.ended_at is not None or self._comes_back(node):
                return
            if replace_it:
                self._put_in_place_of(node)
            elif _is_gone(node):
                node.link.give_up("it is gone")
                self._give_back(node)

    def _comes_back(self, node: Node) -> bool:
        """Whether it is better to wait for a lost node, which may still be found again."""
        assert node.link is not None
        deadline = time.monotonic() + RETURN_S
        while not node.link.is_closed and time.monotonic() < deadline and not self._roster.is_stopping:
            if node.link.is_up:
                node.is_lost = False
                return True
            time.sleep(0.05)
        if node.link.is_closed or self._has_ended(node):
            return False
        others = [one for one in self._roster.nodes if one is not node and one.link is not None]
        return bool(others) and not any(one.link.is_up for one in others if one.link)

    def _has_ended(self, node: Node) -> bool:
        """Whether the cloud says that a lost machine is gone: then it is not the network, and nothing is waited for."""
        machine = self._account().machines.get(node.instance.id)
        if not node.is_billed or machine is None:
            return False
        try:
            shown = {one.id: one for one in node.provider.instances(self._order.pool)}.get(node.instance.id)
        except ProviderError:
            return False
        if verdict(machine, shown, time.time()) not in ("gone", "ending"):
            return False
        reason = shown.reason if shown is not None else None
        node.instance = replace(node.instance, state=InstanceState.TERMINATED, reason=reason)
        self._warn(f"n{node.index}: {node.instance.id} was ended{f': {reason}' if reason else ''}")
        return True

    def _put_in_place_of(self, node: Node) -> None:
        """Brings up another machine, and only then lets go of the lost one."""
        successor = self._launch_instead(node)
        if successor is not None:
            successor = self._bring_up(successor)
        is_replaced = successor is not None and successor.error is None
        if not (is_replaced or _is_gone(node)):
            return  # it may still come back
        if node.link is not None and not node.is_leaving:
            node.link.give_up("another machine took its place" if is_replaced else "it is gone")
        if successor is not None and is_replaced:
            self._roster.promote(node, successor)
        if not node.is_leaving:
            self._give_back(node)

    def _launch_instead(self, node: Node) -> Node | None:
        """Of the same offer if possible: what its tasks were told about their machine stays true."""
        successor: Node | None = None
        failures: list[Failure] = []
        self._acquisition.failures = failures  # what could not be had a while ago may be by now
        problem: Exception | None = None
        try:
            if not self._acquisition.may_replace():
                raise ProviderError("too many were replaced already")
            successor = self._acquisition.one_more(node.index, first=node.instance.offer, failures=failures)
        except (SkywardError, ValueError) as error:
            problem = error
        if successor is None:
            self._tell_unreplaced(node, failures, problem)
            return None
        self._roster.others.append(successor)
        if failures:
            offer = words(successor.instance.offer)
            self._warn(f"node {node.index}: {offer} is launched in its place: {causes(failures)}")
        return successor

    def _tell_unreplaced(self, node: Node, failures: Sequence[Failure], problem: Exception | None) -> None:
        """Once for each loss, however often another machine is looked for: who, why, and what follows."""
        if node.is_told or self._roster.is_stopping:
            return
        node.is_told = True
        what = "is taken back" if node.is_leaving else "is lost"
        why = "; ".join(filter(None, (str(problem or ""), causes(failures)))) or "no offer is left"
        last = problem or (failures[-1][1] if failures else None)
        self._warn(
            f"node {node.index} {what}, and no machine to take its place could be had: {why}; "
            f"{self._what_follows(node)}",
            hint=next(iter(getattr(last, "hints", ())), ""),
        )

    def _what_follows(self, node: Node) -> str:
        left = sum(
            not (one is node or one.is_lost or one.is_leaving or one.error or one.ended_at)
            for one in self._roster.nodes
        )
        fate = "are lost" if node.is_leaving or _is_gone(node) else "wait a while for it to come back"
        if not left:
            return f"no other node is left: tasks that are not done {fate}"
        return (
            f"the pool goes on with {left} node{'s' if left > 1 else ''}, and tasks pinned to this one {fate}"
        )

    def _give_back(self, node: Node) -> None:
        self._order.engine.abandon(node.index)
        self._try_to_end(node)

    def _try_to_end(self, node: Node) -> None:
        try:
            self._end([node])
        except ProviderError as problem:  # the end of the pool tries again
            self._warn(f"{node.instance.id} could not be ended yet: {problem.message}")

    # -- those whose end is announced, or that cannot be trusted -----------------------------------------------------

    def on_notice(self, node: Node, notice: Mapping[str, Any]) -> None:
        """The cloud takes a machine back soon: it gets no more tasks, and another one is launched meanwhile."""
        with self._roster.changed:
            if node.is_leaving or self._roster.is_stopping:
                return
            node.is_leaving = True
        threading.Thread(
            target=self._leave, args=(node, notice), name=f"skyward-notice-n{node.index}", daemon=True
        ).start()

    def on_distrust(self, node: Node, error: SkywardError) -> None:
        """A machine that takes tasks could not be given a host key of its own: its work moves, and it is ended."""
        if self._roster.is_stopping or node.link is None:
            return
        self._warn(f"node {node.index} is given up: {error.message}")
        node.link.give_up("its host key could not be replaced")

    def _leave(self, node: Node, notice: Mapping[str, Any]) -> None:
        roster, when = self._roster, notice.get("time")
        self._warn(
            f"n{node.index}: {node.desk.provider} takes {node.instance.id} back{f' at {when}' if when else ''}; it gets "
            "no more tasks"
        )
        assert node.link is not None
        self._order.engine.drain(node.link)
        deadline = time.monotonic() + NOTICE_S
        if self._order.replaces:
            with node.replacing:
                if node.ended_at is None:
                    self._put_in_place_of(node)
        with roster.changed:
            roster.changed.wait_for(
                lambda: roster.is_stopping or node.ended_at is not None, max(0.0, deadline - time.monotonic())
            )
        if not roster.is_stopping and node.ended_at is None:
            node.link.give_up("its time was over")
            self._give_back(node)


def _is_gone(node: Node) -> bool:
    """Whether a node that is down will not be found again."""
    return node.link is None or node.link.is_closed or node.instance.state is InstanceState.TERMINATED
