"""The machines of one pool, from the first launch to the last verified end.

Puts together what has modules of its own: machines are got by `acquisition`, awaited by `arrivals`, made ready by
`preparation`, seen to by `replacement` when they are lost, and ended by `teardown`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from skyward.cloud import journal as journals
from skyward.cloud.account import Account
from skyward.cloud.acquisition import Acquisition
from skyward.cloud.arrivals import Arrivals
from skyward.cloud.birth import Birth
from skyward.cloud.desks import Desks, plugin_fields
from skyward.cloud.journal import Journal
from skyward.cloud.keys import forget
from skyward.cloud.launch import Launcher, Terms
from skyward.cloud.order import FleetOrder
from skyward.cloud.preparation import Preparation, run_step
from skyward.cloud.reaper import Reaper, place_of
from skyward.cloud.replacement import Replacement
from skyward.cloud.roster import Node, Roster
from skyward.cloud.teardown import PATIENCE_S, Left, end_machines, settle, unclean
from skyward.errors import CleanupError, SkywardError, TaskCancelled
from skyward.model.event import InstanceTerminated, WarningRaised

LOOK_UP_S = 0.3
"""How long the starter waits before it looks up: a signal just before a wait does not end it."""
CLOSE_S = 10.0
"""How long farewells may take, over all nodes, seconds."""
LONGEST_S = 3600.0
"""Longer than every deadline on the way to the end of all machines, seconds."""
SEND_BACK_S = 1800.0
"""How long writable buckets may take to be sent back, seconds."""
HURRY_S = 0.3
"""The same, where the reaper does the rest."""


class Fleet:
    """The machines of one pool. `start` once, `stop` as often as you like, from any thread."""

    def __init__(self, order: FleetOrder) -> None:
        self.order = order
        plan = order.plan
        self._roster = Roster(needed=min(plan.requirements.min_nodes or plan.nodes, plan.nodes))
        self._is_settled = False
        self._is_hurried = False
        """Somebody waits for the prompt."""
        self._ending = threading.Lock()
        self._left: list[Left] = []
        self._desks = Desks(order.providers)
        self._journal = self._open_journal()
        self._reaper = Reaper(self._journal.path) if self._journal.path else None
        birth = Birth(order.pool, self._journal, lease_s=order.lease_s, in_process=order.engine.in_process)
        self._launcher = Launcher(
            Terms(
                pool=order.pool,
                name=order.name,
                requirements=plan.requirements,
                volumes=order.volumes,
                lease_s=order.lease_s,
                nodes=plan.nodes,
            ),
            self._desks,
            self._journal,
            self._reaper,
            order.plugins,
            prepare=birth.of_launch,
            is_stopping=lambda: self._roster.is_stopping,
        )
        self._acquisition = Acquisition(order, self._roster, self._desks, self._launcher, end=self._end)
        self._replacement = Replacement(
            order, self._roster, self._acquisition, self._account, bring_up=self._bring_up, end=self._end
        )
        self._preparation = Preparation(
            order,
            self._roster,
            Arrivals(order.pool, self._roster, self._account),
            birth,
            on_notice=self._replacement.on_notice,
            on_distrust=self._replacement.on_distrust,
        )

    @property
    def nodes(self) -> list[Node]:
        """By rank; in the place of one that was replaced stands the one that was put there."""
        return self._roster.nodes

    def _account(self) -> Account:
        return self._journal.account

    def _open_journal(self) -> Journal:
        """Pools whose machines cost nothing have one in memory only."""
        bills = any(one.capabilities.off_means != "nothing" for one in self.order.providers.values())
        if not bills:
            return Journal(None, Account(self.order.pool))
        return Journal.of(journals.directory(), self.order.pool)

    # -- coming to life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launches and prepares; returns when `min_nodes` (default: all) can take tasks, the rest join later.

        Raises the first thing that went wrong, with the others as facts; `stop` is the caller's.
        """
        self._warn_of_weak_promises()
        self._acquisition.acquire()
        for node in list(self.nodes):
            thread = threading.Thread(
                target=self._bring_up, args=(node,), name=f"skyward-launch-n{node.index}", daemon=True
            )
            thread.start()
        self._await_ready()

    def _warn_of_weak_promises(self) -> None:
        """What cannot be promised of a cloud is said before anything is rented there."""
        for name, provider in self.order.providers.items():
            if provider.capabilities.off_means in ("billed", "storage-billed"):
                what = "is billed" if provider.capabilities.off_means == "billed" else "has its disk billed"
                self._warn(
                    f"{name}: a machine that switches itself off {what} until this client, its reaper or `skyward gc` "
                    "deletes it"
                )
            if provider.capabilities.off_means != "nothing" and not plugin_fields(self.order.plugins, name):
                self._warn(
                    f"{name}: its plugin lives in this program only: if the program is killed, nobody else can end "
                    "its machines",
                    hint="install the plugin, or name its module with -p",
                )

    def _warn(self, message: str, hint: str = "") -> None:
        self.order.emit(WarningRaised(message=message, hint=hint))

    def _await_ready(self) -> None:
        roster = self._roster
        with roster.changed:
            while not roster.is_stopping:
                if roster.lacks_nodes:
                    raise _first_cause([node for node in self.nodes if node.error is not None])
                if roster.is_complete:
                    roster.is_started = True
                    return
                roster.changed.wait(LOOK_UP_S)
        raise TaskCancelled("the pool was stopped while it was starting")

    def _bring_up(self, node: Node) -> Node:
        """The thread of one node; gives the one that took its place, where one did."""
        while True:
            try:
                self._preparation.prepare(node)
                return node
            except BaseException as error:  # whatever it is, it is this node's end and the starter's to judge
                other = self._replacement.instead_of(node, error)
                if other is None:
                    self._roster.fail(node, error)
                    self._refuse(node, error)
                    return node
                node = other

    def _refuse(self, node: Node, error: BaseException) -> None:
        """A machine that could not be prepared is given back at once; the pool may go on without it."""
        roster = self._roster
        if roster.is_stopping or (roster.lacks_nodes and not roster.is_started):
            return
        self._replacement.give_up(node)
        self._warn(f"node {node.index} is given up: {error}")

    def lose(self, index: int, *, replace_it: bool) -> bool:
        """See `Replacement.lose`."""
        return self._replacement.lose(index, replace_it=replace_it)

    def regain(self, index: int) -> None:
        """See `Replacement.regain`."""
        self._replacement.regain(index)

    # -- the end -------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Makes whoever waits in `start` give up; for another thread, before `stop`."""
        self._roster.stop()

    def hurry(self) -> bool:
        """Whoever is in `stop` leaves the rest to the reaper; False where there is none, and nothing changes. For
        signal handlers: it takes no lock."""
        self._is_hurried = self._reaper is not None and self._reaper.is_alive
        return self._is_hurried

    def stop(self, *, hurry: bool = False) -> None:
        """Ends everything: links, then machines, and returns when the cloud has shown that they are gone. Idempotent
        and bounded; a second call finishes what an interrupted first one left.

        In a `hurry` machines that cost money are left to the reaper, and this returns at once.

        Raises:
            CleanupError: a machine may still be billed; names it.
        """
        self.abandon()
        with self._ending:
            everyone = self._roster.everyone
            if hurry:
                self.hurry()
            self._send_back()
            closing = [self.order.engine.stop, *(node.link.close for node in everyone if node.link)]
            self._together(closing, HURRY_S if self._is_hurried else CLOSE_S)
            if self._is_settled or (self._is_hurried and self._leave_to_reaper(everyone)):
                return
            self._settle(everyone)

    def _send_back(self) -> None:
        """What tasks have written to buckets that could only be copied goes back there, before anything ends."""
        from skyward.cloud.bootstrap import closing_steps

        def send(node: Node) -> None:
            assert node.link is not None
            for step in closing_steps(node.instance, self.order.volumes):
                try:
                    with self._preparation.step(node, step.name):
                        run_step(node.link, step, self.order.image)
                except SkywardError as error:
                    self._warn(f"node {node.index}: {error.message}")

        if self.order.volumes and not self._is_settled and not self._is_hurried:
            up = [node for node in self.nodes if node.is_ready and node.link is not None and node.link.is_up]
            self._together([partial(send, node) for node in up], SEND_BACK_S)

    def _together(self, calls: Sequence[Callable[[], object]], timeout_s: float) -> bool:
        """Makes all calls at once and waits for them, at most so long, and only until somebody is in a hurry. Whether
        all came back."""
        return in_parallel(calls, timeout_s, lambda: self._is_hurried and timeout_s > HURRY_S)

    def _settle(self, everyone: Sequence[Node]) -> None:
        """The end of all machines, verified; in a thread, so that a hurry waits for no answer of a cloud."""
        patience_s = 0.0 if self._left else PATIENCE_S
        came: list[list[Left] | BaseException] = []

        def work() -> None:
            try:
                left = settle(
                    self._journal,
                    self._desks.at,
                    patience_s=patience_s,
                    on_gone=self._gone,
                    is_stopped=lambda: self._is_hurried,
                )
            except BaseException as error:  # it is the caller's, whatever it is
                came.append(error)
            else:
                came.append(left)

        self._together([work], LONGEST_S)
        if self._is_hurried and self._leave_to_reaper(everyone):
            return
        if not came:
            raise CleanupError(f"the clean-up of pool {self.order.pool} does not come to its end", ids=())
        if isinstance(came[0], BaseException):
            raise came[0]
        self._left = came[0]
        if not self._left:
            self._is_settled = True
            if self._reaper is not None:
                self._reaper.dismiss()
            if self._journal.path is not None:
                forget(place_of(self._journal.path))
            return
        others_go_on = self._hand_over()
        if not others_go_on or not all(one.is_harmless for one in self._left):
            raise unclean(self.order.pool, self._left)
        self._is_settled = True
        self._tell_of_the_rest()

    def _tell_of_the_rest(self) -> None:
        ids = [machine.id for one in self._left for machine in one.machines]
        if ids:
            self._warn(
                f"{', '.join(ids)}: still shutting down; it is seen to in the background", hint="skyward ps"
            )

    def _hand_over(self) -> bool:
        """Leaves the rest to the reaper; False where there is none."""
        if self._reaper is None or not self._reaper.is_alive:
            return False
        if not self._reaper.hand_over():
            return False
        self._journal.record("handed_over")
        return True

    def _leave_to_reaper(self, everyone: Sequence[Node]) -> bool:
        if not self._journal.account.is_debt:
            return False
        if not self._hand_over():
            return False
        self._is_settled, now = True, time.monotonic()
        count = 0
        for node in everyone:
            count += node.is_billed and node.ended_at is None
            node.ended_at = node.ended_at or now
        if count:
            self._warn(
                f"{count} machine{'s are' if count > 1 else ' is'} being ended in the background",
                hint="skyward ps",
            )
        self._journal.leave()
        return True

    def _end(self, nodes: Sequence[Node]) -> None:
        """Ends some machines of a pool that goes on.

        Raises:
            ProviderError: the cloud did not take the order; the end of the pool repeats it.
        """
        for desk in dict.fromkeys(node.desk for node in nodes):
            mine = {node.instance.id for node in nodes if node.desk == desk}
            machines = [one for one in self._journal.account.owed if one.id in mine]
            end_machines(self._journal, self._desks.at(desk), desk, machines, self._gone)

    def _gone(self, ids: Sequence[str]) -> None:
        """Machines that were ended."""
        for node in self._roster.everyone:
            if node.instance.id in ids and node.ended_at is None:
                node.ended_at = time.monotonic()
                self.order.emit(InstanceTerminated(instance=node.instance, node=node.index))

    # -- what became of them -------------------------------------------------------------------------------------------

    @property
    def is_in_other_hands(self) -> bool:
        """Whether another process sees to the end of what is left."""
        return self._journal.account.is_handed_over

    @property
    def is_alive(self) -> bool:
        """Whether some node runs tasks, or will."""
        for node in self._roster.nodes:  # noqa: SIM110 - asked for every task, and `any` takes three times as long
            if node.ended_at is None and node.error is None:
                return True
        return False

    @property
    def is_home(self) -> bool:
        """Whether every node is this machine."""
        return all(node.link is None or node.link.endpoint.kind == "local" for node in self.nodes)

    @property
    def usd(self) -> float | None:
        """What all machines have cost so far; None where a price is unknown."""
        parts = [node.usd for node in self._roster.everyone]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def in_parallel(
    calls: Sequence[Callable[[], object]], timeout_s: float, is_over: Callable[[], bool] = lambda: False
) -> bool:
    """Makes all calls at once and waits for them, at most so long, and only until `is_over`. Whether all came back.
    One by one where no thread can be started any more, as at the end of the interpreter."""
    threads, deadline = [], time.monotonic() + timeout_s
    for call in calls:
        thread = threading.Thread(target=call, name="skyward-close", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            call()
        else:
            threads.append(thread)
    for thread in threads:
        while thread.is_alive() and not is_over() and (left := deadline - time.monotonic()) > 0:
            thread.join(min(0.05, left))
    return not any(thread.is_alive() for thread in threads)


def _first_cause(failed: Sequence[Node]) -> BaseException:
    """The first failure, with the others as its facts."""
    first = failed[0].error
    assert first is not None
    others = [f"node {node.index}: {node.error}" for node in failed[1:]]
    if isinstance(first, SkywardError):
        first.facts = (*first.facts, *others)
    else:
        for other in others:
            first.add_note(other)
    return first
