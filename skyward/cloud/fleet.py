"""The machines of one pool: brings them to life, prepares them for tasks, replaces them, and ends them.

Each node is prepared in a thread of its own: reached, bootstrapped, given an environment and workers, and handed to the
engine. Launching is `launch`'s business, ending `teardown`'s.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from skyward.cloud import journal as journals
from skyward.cloud.account import Account, Desk, verdict
from skyward.cloud.briefing import Briefing
from skyward.cloud.desks import Desks, plugin_fields
from skyward.cloud.journal import Journal
from skyward.cloud.keys import PoolKeys, forget
from skyward.cloud.launch import (
    Failure,
    Launcher,
    Terms,
    alternatives,
    because,
    is_ruled_out,
    no_machines,
    words,
)
from skyward.cloud.partitions import with_partitions
from skyward.cloud.reaper import Reaper, place_of
from skyward.cloud.refusals import remember
from skyward.cloud.teardown import PATIENCE_S, Left, end_machines, settle, unclean
from skyward.contracts.engine import Engine
from skyward.contracts.provider import Provider
from skyward.contracts.step import Step
from skyward.errors import (
    BootstrapError,
    CapacityError,
    CleanupError,
    CredentialsError,
    HostKeyError,
    HostUnreachable,
    ProviderError,
    SkywardError,
    TaskCancelled,
    TransportError,
)
from skyward.model.event import (
    Event,
    InstanceLaunched,
    InstanceTerminated,
    NodeReady,
    StepFinished,
    WarningRaised,
)
from skyward.model.image import Image
from skyward.model.instance import Endpoint, Instance, InstanceState
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.model.sizes import format_duration
from skyward.model.volume import S3Volume, Volume
from skyward.plugins import Plugins
from skyward.remote.environment import Environment, check_python, prepare
from skyward.remote.link import LINGER_S, Link
from skyward.remote.probe import Probe
from skyward.remote.secrets import Redactor

BOOTSTRAP_S = 600.0
"""How long preparing a machine may take where nobody says it, seconds."""
FIRST_POLL_S = 0.2
POLL_S = 2.0
"""How often a provider is asked whether its machines run, in the end, seconds."""
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
TAIL_LINES = 50
RETURN_S = 3.0
"""How long a lost node may take to be found again before another machine is launched, seconds."""
REPLACEMENTS = 3
"""Machines that are replaced, for each node the pool was asked for."""
NOTICE_S = 150.0
"""How long a machine whose end was announced may go on with what it runs, seconds; EC2 leaves it two minutes."""
LEASE_FILE = "/run/skyward/lease"
NOTICE_FILE = "/run/skyward/notice"


@dataclass(frozen=True, kw_only=True)
class FleetOrder:
    """What machines a pool needs, and who hears of them."""

    pool: str
    name: str
    plan: Plan
    providers: Mapping[str, Provider]
    """Ready to call, by name."""
    engine: Engine
    plugins: Plugins
    image: Image
    emit: Callable[[Event], None]
    concurrency: int = 1
    bootstrap_timeout_s: float | None = None
    """None: what the provider's config says, else `BOOTSTRAP_S`."""
    project: Path | None = None
    """Directory whose sources travel; None sends none."""
    volumes: tuple[Volume | S3Volume, ...] = ()
    lease_s: float | None = None
    """How long a machine lives without a word from here; None is for ever."""
    replaces: bool = True
    """Whether a machine that is lost, or about to be, is replaced."""


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
        self.is_leaving = False
        """Its end was announced."""
        self.replacing = threading.Lock()
        self.letting_in = threading.Lock()
        self.error: BaseException | None = None
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


class Fleet:
    """The machines of one pool. `start` once, `stop` as often as you like, from any thread."""

    def __init__(self, order: FleetOrder) -> None:
        self.order = order
        self.nodes: list[Node] = []
        self._changed = threading.Condition()
        self._is_started = False
        self._is_stopping = False
        self._is_settled = False
        self._is_hurried = False
        """Somebody waits for the prompt."""
        self._is_polling = False
        self._poll_s = FIRST_POLL_S
        self._poll_problem: ProviderError | None = None
        self._others: list[Node] = []
        """Lost ones whose place was taken, and those that are about to take one."""
        self._replaced = 0
        self._failures: list[Failure] = []
        self._launching = threading.Lock()
        self._ending = threading.Lock()
        self._left: list[Left] = []
        self._briefing = Briefing(order)
        self._desks = Desks(order.providers)
        self._journal = self._open_journal()
        self._reaper = Reaper(self._journal.path) if self._journal.path else None
        self._keys: PoolKeys | None = None
        self._lifetime_s: float | None = None
        """How long machines that are launched now may live."""
        self._launcher = Launcher(
            Terms(
                pool=order.pool,
                name=order.name,
                requirements=order.plan.requirements,
                volumes=order.volumes,
                lease_s=order.lease_s,
                nodes=order.plan.nodes,
            ),
            self._desks,
            self._journal,
            self._reaper,
            order.plugins,
            prepare=self._prepare_launch,
            is_stopping=lambda: self._is_stopping,
        )

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
        self._acquire()
        for node in list(self.nodes):
            thread = threading.Thread(
                target=self._bring_up, args=(node,), name=f"skyward-launch-n{node.index}", daemon=True
            )
            thread.start()
        self._await_ready()

    @property
    def needed(self) -> int:
        """Nodes without which the pool is not worth starting."""
        plan = self.order.plan
        return min(plan.requirements.min_nodes or plan.nodes, plan.nodes)

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

    def _acquire(self) -> None:
        """Launches in plan order until there are enough machines: all, or else at least those that are needed."""
        for goal in sorted({self.order.plan.nodes, self.needed}, reverse=True):
            if len(self.nodes) >= self.needed:
                return
            self._failures = []
            self._acquire_until(goal)
        if len(self.nodes) < self.needed:
            raise no_machines(self._failures, len(self.nodes), self.needed)

    def _acquire_until(self, goal: int) -> None:
        for offer, count in self._attempts(lambda: goal - len(self.nodes)):
            for instance in self._launch(offer, count):
                node = self._node(len(self.nodes), instance, offer)
                self.nodes.append(node)
                self.order.emit(InstanceLaunched(instance=instance, node=node.index))

    def _attempts(self, missing: Callable[[], int]) -> Iterator[tuple[Offer, int]]:
        """What to launch next, as long as machines are missing; reads the failures as they come."""
        plan = self.order.plan
        for offer in plan.ranked:
            for machine, share in plan.machines(offer):
                if missing() <= 0:
                    return
                if machine.provider in self._desks and not is_ruled_out(machine, self._failures):
                    yield machine, min(share, missing())

    def _launch(self, offer: Offer, count: int) -> list[Instance]:
        """Machines of an offer, `count` at most; none where they cannot be had, and then it is noted why."""
        with self._launching:
            try:
                found = self._launcher.launch(
                    offer, count, alternatives(self.order.plan, offer, self._failures)
                )
            except ProviderError as error:
                self._failures.append((offer, error))
                if isinstance(error, CapacityError):
                    remember(offer)
                if isinstance(error, CredentialsError) or len(self.order.plan.ranked) > 1:
                    self._warn(f"{words(offer)}: {because(error)}")
                return []
        if surplus := found[count:]:
            self._end([self._node(-1, one, offer) for one in surplus])
        return found[:count]

    def _node(self, index: int, instance: Instance, offer: Offer, *, is_young: bool = False) -> Node:
        desk, provider = self._desks.of(offer)
        return Node(index, instance, desk, provider, is_young=is_young)

    def _prepare_launch(self, provider: Provider, lifetime_s: float | None) -> Mapping[str, Any]:
        """Keys and user data of one launch. Machines that tasks are not sent to over SSH need neither."""
        self._lifetime_s = lifetime_s
        if not provider.capabilities.user_data or self.order.engine.in_process:
            return {}
        from skyward.cloud.userdata import render

        assert self._journal.path is not None
        if self._keys is None:
            self._keys = PoolKeys(place_of(self._journal.path), self.order.pool)
        keys = self._keys
        data = render(
            host_key=keys.host,
            authorized_keys=keys.authorized,
            lifetime_s=lifetime_s,
            lease_s=self.order.lease_s,
        )
        return {"public_key": keys.public, "user_data": data}

    def _await_ready(self) -> None:
        with self._changed:
            while not self._is_stopping:
                if self._lacks_nodes():
                    raise _first_cause([node for node in self.nodes if node.error is not None])
                if sum(node.is_ready for node in self.nodes) >= self.needed:
                    self._is_started = True
                    return
                self._changed.wait(LOOK_UP_S)
        raise TaskCancelled("the pool was stopped while it was starting")

    def _bring_up(self, node: Node) -> Node:
        """The thread of one node; gives the one that took its place, where one did."""
        while True:
            try:
                self._prepare(node)
                return node
            except BaseException as error:  # whatever it is, it is this node's end and the starter's to judge
                self._advise(node, error)
                other = self._another(node, error)
                if other is None:
                    with self._changed:
                        node.error = error
                        self._changed.notify_all()
                    self._refuse(node, error)
                    return node
                node = other

    def _another(self, node: Node, error: BaseException) -> Node | None:
        """A machine in place of one that never came up, where it was the machine's fault and not ours."""
        if self._is_stopping or not self._is_to_blame(node, error) or not self._may_replace():
            return None
        assert isinstance(error, SkywardError)
        self._warn(f"node {node.index}: {error.message}; another machine is launched")
        if isinstance(error, _NeverRan):
            self._failures.append((node.instance.offer, ProviderError(error.message)))
        self._give_up(node)
        try:
            other = self._launch_one(node.index)
        except (SkywardError, ValueError) as problem:
            error.facts = (*error.facts, f"no other machine: {problem}")
            return None
        if other is None:
            error.facts = (
                *error.facts,
                *(f"{words(offer)}: {problem}" for offer, problem in self._failures[-3:]),
            )
            return None
        with self._changed:
            for place in (self.nodes, self._others):
                if node in place:
                    place[place.index(node)] = other
            self._others.append(node)
            self._changed.notify_all()
        return other

    def _patience_s(self, node: Node) -> float:
        """How long a machine may take until it can run tasks."""
        own: float | None = getattr(node.provider.config, "instance_timeout", None)
        return self.order.bootstrap_timeout_s or own or BOOTSTRAP_S

    def _advise(self, node: Node, error: BaseException) -> None:
        """Tells how long a machine had that did not get ready in time, and how it gets longer."""
        if node.is_billed and isinstance(error, HostUnreachable | _NeverRan):
            had_s = self._patience_s(node)
            longer = format_duration(2 * had_s)
            error.facts = (*error.facts, f"it had {format_duration(had_s)} to get ready")
            error.hints = (*error.hints, f'bootstrap_timeout="{longer}", or -o bootstrap_timeout={longer}')

    def _is_to_blame(self, node: Node, error: BaseException) -> bool:
        """Whether another machine may fare better."""
        if not node.is_billed:
            return False
        if isinstance(error, _NeverRan | HostKeyError | HostUnreachable):
            return True
        return isinstance(error, TransportError | BootstrapError) and self._has_ended(node)

    def _may_replace(self) -> bool:
        with self._changed:
            self._replaced += 1
            return self._replaced <= REPLACEMENTS * self.order.plan.nodes

    def _launch_one(self, index: int, first: Offer | None = None) -> Node | None:
        """One more machine: of the offer `first`, or of what comes next in the plan."""
        offers = [first] if first is not None and not is_ruled_out(first, self._failures) else []
        for offer in (*offers, *(offer for offer, _ in self._attempts(lambda: 1))):
            for instance in self._launch(offer, 1):
                node = self._node(index, instance, offer, is_young=True)
                self.order.emit(InstanceLaunched(instance=instance, node=index))
                return node
        return None

    # -- preparing -------------------------------------------------------------------------------------------------

    def _prepare(self, node: Node) -> None:
        began, order = time.monotonic(), self.order
        deadline = began + self._patience_s(node)
        self._await_running(node, deadline)
        if order.engine.in_process:
            order.engine.add_node(node.instance)
            self._ready(node, 0, began)
            return
        link = self._link(node)
        with self._step(node, "connect") as say:
            probe = link.open(_left(deadline))
            say(f"python {probe.python[0]}.{probe.python[1]} on {probe.machine or 'unknown'}")
        self._trust(node, link)
        for step in [*self._core_steps(node), *order.plugins.bootstrap_steps(node.instance, order.image)]:
            with self._step(node, step.name):
                _run_step(link, step, order.image)
        if self._briefing.workers_per_node > 1:
            node.instance = with_partitions(link.connection, node.instance)
        environment = self._environment(node, link, probe, deadline)
        order.plugins.instance_ready(node.instance, link.connection)
        with self._step(node, "workers") as say:
            settings = self._briefing.settings(node, self.nodes, probe, environment)
            link.configure(settings, timeout_s=_left(deadline))
            say(f"{link.slots} slots, {environment.detail}")
        order.engine.add_node(link)
        self._ready(node, link.slots, began)

    def _trust(self, node: Node, link: Link) -> None:
        """The host key the machine was born with was in its user data: it gets one that nobody else has seen."""
        if self._is_born_by_us(node, link.endpoint):
            from skyward.cloud.hostkeys import rotate

            with self._step(node, "host key"):
                link.endpoint = replace(link.endpoint, host_keys=(rotate(link.connection),))
        if self._keys is not None and node.is_billed:
            self._keys.pin(node.instance.id, link.endpoint)
        self._journal.record(
            "ready", id=node.instance.id, node=node.index, endpoint=_reachable(link.endpoint)
        )

    def _is_born_by_us(self, node: Node, endpoint: Endpoint) -> bool:
        """Whether its host key and who may log in were in user data of ours."""
        return self._keys is not None and node.provider.capabilities.user_data and endpoint.kind == "ssh"

    def _core_steps(self, node: Node) -> list[Step]:
        """Steps of machines that cost money: the switch first, then disks and accelerators."""
        assert node.link is not None
        if not node.is_billed or node.link.endpoint.kind == "local":
            return []
        from skyward.cloud.bootstrap import core_steps

        return core_steps(
            node.instance,
            self.order.plan.requirements,
            self.order.volumes,
            has_user_data=self._is_born_by_us(node, node.link.endpoint),
            lifetime_s=self._lifetime_s,
            lease_s=self.order.lease_s,
        )

    def _environment(self, node: Node, link: Link, probe: Probe, deadline: float) -> Environment:
        """On this machine the Python that runs here, unless packages are asked for; elsewhere what the image says."""
        image = self.order.image
        check_python(image)
        if link.endpoint.kind == "local" and image.is_plain:
            return Environment(python=sys.executable, env=dict(image.env), detail="the client's own Python")
        return prepare(
            link.connection,
            probe,
            image,
            on_step=lambda name, seconds, detail: self._told(node, name, seconds, detail),
            deadline_s=_left(deadline),
        )

    def _link(self, node: Node) -> Link:
        """A link that `stop` knows of before it does anything."""
        endpoint = node.provider.connect(node.instance)
        if self._is_born_by_us(node, endpoint):
            assert self._keys is not None
            endpoint = replace(
                endpoint,
                host_keys=(" ".join(self._keys.host.public.split()[:2]),),
                known_hosts=(),
                identity_files=(str(self._keys.identity),),
                use_agent=False,
            )
        has_switch = node.is_billed and endpoint.kind == "ssh"
        link = Link(
            endpoint,
            node=node.index,
            session=self.order.pool,
            instance=node.instance,
            on_event=self.order.emit,
            is_booting=node.is_young,
            linger_s=max(LINGER_S, self.order.lease_s or 0.0) if has_switch else None,
            lease_file=LEASE_FILE if has_switch and self.order.lease_s else None,
            lease_s=self.order.lease_s,
            notice_file=NOTICE_FILE if has_switch else None,
            on_notice=lambda _, notice: self._on_notice(node, notice),
            on_unreachable=lambda: self._let_in(node),
        )
        with self._changed:
            if self._is_stopping:
                raise TaskCancelled("the pool was stopped while it was starting")
            node.link = link
        return link

    def _let_in(self, node: Node) -> None:
        """A client whose address has changed is let in anew: providers see to that when they are asked for the way."""

        def ask() -> None:
            try:
                node.provider.connect(node.instance)
            except SkywardError:
                pass  # the link goes on trying, and tells what is in the way
            finally:
                node.letting_in.release()

        if node.is_billed and not self._is_stopping and node.letting_in.acquire(blocking=False):
            threading.Thread(target=ask, name=f"skyward-let-in-n{node.index}", daemon=True).start()

    def _ready(self, node: Node, slots: int, began: float) -> None:
        with self._changed:
            node.is_ready = True
            self._changed.notify_all()
        self.order.emit(
            NodeReady(
                node=node.index, instance=node.instance, slots=slots, duration_s=time.monotonic() - began
            )
        )

    def _refuse(self, node: Node, error: BaseException) -> None:
        """A machine that could not be prepared is given back at once; the pool may go on without it."""
        if self._is_stopping or (self._lacks_nodes() and not self._is_started):
            return
        self._give_up(node)
        self._warn(f"node {node.index} is given up: {error}")

    def _give_up(self, node: Node) -> None:
        """Closes what leads to a machine, and ends it."""
        if node.link is not None:
            node.link.close()
        try:
            self._end([node])
        except ProviderError as problem:  # the end of the pool tries again
            self._warn(f"{node.instance.id} could not be ended yet: {problem.message}")

    def _lacks_nodes(self) -> bool:
        return sum(node.error is None for node in self.nodes) < self.needed

    # -- waiting for the provider --------------------------------------------------------------------------------

    def _await_running(self, node: Node, deadline: float) -> None:
        """Until the machine runs, and every other one has an address or has failed: tasks are told their peers."""
        began = time.monotonic()
        while self._is_awaited(node) and not self._is_stopping and time.monotonic() < deadline:
            with self._changed:
                if self._is_polling:  # one asks for all
                    self._changed.wait(POLL_S)
                    continue
                self._is_polling = True
            try:
                self._poll()
            finally:
                with self._changed:
                    self._is_polling = False
                    self._changed.notify_all()
        state, reason = node.instance.state, node.instance.reason
        if state is not InstanceState.RUNNING:
            problem = [self._poll_problem.message] if self._poll_problem is not None else []
            raise _NeverRan(
                f"{node.instance.id} is {state} after {time.monotonic() - began:.0f} s{f': {reason}' if reason else ''}",
                facts=problem,
                step="boot",
            )

    def _is_awaited(self, node: Node) -> bool:
        """Whether this node has to wait: for itself, or for the address of another."""
        if node.instance.state in (InstanceState.TERMINATED, InstanceState.TERMINATING):
            return False
        return any(
            one.instance.state is InstanceState.PENDING and one.error is None for one in (node, *self.nodes)
        )

    def _poll(self) -> None:
        """Waits a moment and asks each cloud once for all machines of the pool."""
        with self._changed:
            pause, self._poll_s = self._poll_s, min(POLL_S, self._poll_s * 1.5)
            self._changed.wait_for(lambda: self._is_stopping, pause)
            pending = [
                one for one in (*self.nodes, *self._others) if one.instance.state is InstanceState.PENDING
            ]
        for desk in {one.desk for one in pending}:
            mine = [one for one in pending if one.desk == desk]
            try:
                shown = {one.id: one for one in mine[0].provider.instances(self.order.pool)}
            except ProviderError as error:  # it is asked again; what boots does not mind
                self._poll_problem = error
            else:
                self._poll_problem = None
                for node in mine:
                    self._take_in(node, shown.get(node.instance.id))

    def _take_in(self, node: Node, shown: Instance | None) -> None:
        """What one answer says of a machine that boots."""
        machine = self._journal.account.machines.get(node.instance.id)
        old = node.instance
        if shown is not None:
            node.instance = replace(shown, offer=old.offer, details={**old.details, **shown.details})
            if machine is not None:
                machine.was_seen = True
        elif machine is not None and verdict(machine, None, time.time()) == "gone":
            node.instance = replace(old, state=InstanceState.TERMINATED, reason="the cloud lists it no more")
        if node.instance.state is not old.state:
            with self._changed:
                self._poll_s = FIRST_POLL_S
                self._changed.notify_all()

    # -- steps as events -----------------------------------------------------------------------------------------

    @contextmanager
    def _step(self, node: Node, name: str) -> Iterator[Callable[[str], None]]:
        """One named step; tells how long it took and how it ended. Yields a function that takes a detail."""
        began, details = time.monotonic(), [""]
        try:
            yield lambda detail: details.append(detail)
        except BaseException as error:
            self._told(node, name, time.monotonic() - began, details[-1], error=str(error))
            raise
        self._told(node, name, time.monotonic() - began, details[-1])

    def _told(self, node: Node, name: str, seconds: float, detail: str, error: str | None = None) -> None:
        self.order.emit(
            StepFinished(node=node.index, step=name, duration_s=seconds, detail=detail, error=error)
        )

    # -- the end -------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Makes whoever waits in `start` give up; for another thread, before `stop`."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

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
            everyone = [*self.nodes, *self._others]
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
                    with self._step(node, step.name):
                        _run_step(node.link, step, self.order.image)
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
        for node in (*self.nodes, *self._others):
            if node.instance.id in ids and node.ended_at is None:
                node.ended_at = time.monotonic()
                self.order.emit(InstanceTerminated(instance=node.instance, node=node.index))

    # -- what became of them -------------------------------------------------------------------------------------

    def lose(self, index: int, *, replace_it: bool) -> bool:
        """The engine gives a node up: its machine is ended for good or, if wished, another one takes its place.

        False where that is known already. A link that still tries to come back is given a while; and where no
        other node answers either, it is rather the client that is cut off, and nothing is launched.
        """
        node = self._lost_node(index)
        if node is None or node.link is None or self._is_stopping:
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

    def _lost_node(self, index: int) -> Node | None:
        """While one takes the place of another, two have its number: the one that is not up was lost."""
        alive = [one for one in (*self.nodes, *self._others) if one.index == index and one.ended_at is None]
        down = [one for one in alive if one.link is not None and not one.link.is_up]
        return next(iter(down or alive), None)

    def _see_to(self, node: Node, replace_it: bool) -> None:
        """What becomes of a lost node."""
        assert node.link is not None
        with node.replacing:
            if node.ended_at is not None or self._comes_back(node):
                return
            if replace_it:
                self._put_in_place_of(node)
            elif node.link.is_closed or node.instance.state is InstanceState.TERMINATED:
                node.link.give_up("it is gone")
                self._give_back(node)

    def _comes_back(self, node: Node) -> bool:
        """Whether it is better to wait for a lost node, which may still be found again."""
        assert node.link is not None
        deadline = time.monotonic() + RETURN_S
        while not node.link.is_closed and time.monotonic() < deadline and not self._is_stopping:
            if node.link.is_up:
                node.is_lost = False
                return True
            time.sleep(0.05)
        if node.link.is_closed or self._has_ended(node):
            return False
        others = [one for one in self.nodes if one is not node and one.link is not None]
        return bool(others) and not any(one.link.is_up for one in others if one.link)

    def _has_ended(self, node: Node) -> bool:
        """Whether the cloud says that a lost machine is gone: then it is not the network, and nothing is waited for."""
        machine = self._journal.account.machines.get(node.instance.id)
        if not node.is_billed or machine is None:
            return False
        try:
            shown = {one.id: one for one in node.provider.instances(self.order.pool)}.get(node.instance.id)
        except ProviderError:
            return False
        if verdict(machine, shown, time.time()) not in ("gone", "ending"):
            return False
        reason = shown.reason if shown is not None else None
        node.instance = replace(node.instance, state=InstanceState.TERMINATED, reason=reason)
        self._warn(f"n{node.index}: {node.instance.id} was ended{f': {reason}' if reason else ''}")
        return True

    def _put_in_place_of(self, node: Node) -> None:
        """Brings up another machine, and only then lets go of the lost one: it is not given out again so, and the
        engine is never without a node."""
        successor = self._launch_instead(node)
        if successor is not None:
            successor = self._bring_up(successor)
        is_replaced = successor is not None and successor.error is None
        if not is_replaced and node.link is not None and not node.link.is_closed:
            return  # it may still come back
        if node.link is not None and not node.is_leaving:
            node.link.give_up("another machine took its place")
        if successor is not None and is_replaced:
            with self._changed:
                self.nodes[self.nodes.index(node)] = successor
                self._others.remove(successor)
                self._others.append(node)
        if not node.is_leaving:
            self._give_back(node)

    def _launch_instead(self, node: Node) -> Node | None:
        """Of the same offer if possible: what its tasks were told about their machine stays true."""
        problem = "too many were lost"
        if self._may_replace():
            self._failures = []
            try:
                successor = self._launch_one(node.index, node.instance.offer)
            except (SkywardError, ValueError) as error:
                problem = str(error)
            else:
                if successor is not None:
                    self._others.append(successor)
                    return successor
                problem = "; ".join(str(error) for _, error in self._failures) or "no offer is left"
        self._warn(f"node {node.index} is not replaced: {problem}")
        return None

    def _give_back(self, node: Node) -> None:
        self.order.engine.abandon(node.index)
        try:
            self._end([node])
        except ProviderError as problem:
            self._warn(f"{node.instance.id} could not be ended yet: {problem.message}")

    def _on_notice(self, node: Node, notice: Mapping[str, Any]) -> None:
        """The cloud takes a machine back soon: it gets no more tasks, and another one is launched meanwhile."""
        with self._changed:
            if node.is_leaving or self._is_stopping:
                return
            node.is_leaving = True
        threading.Thread(
            target=self._leave, args=(node, notice), name=f"skyward-notice-n{node.index}", daemon=True
        ).start()

    def _leave(self, node: Node, notice: Mapping[str, Any]) -> None:
        when = notice.get("time")
        self._warn(
            f"n{node.index}: {node.desk.provider} takes {node.instance.id} back{f' at {when}' if when else ''}; it gets "
            "no more tasks"
        )
        assert node.link is not None
        self.order.engine.drain(node.link)
        deadline = time.monotonic() + NOTICE_S
        if self.order.replaces:
            with node.replacing:
                if node.ended_at is None:
                    self._put_in_place_of(node)
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_stopping or node.ended_at is not None, max(0.0, deadline - time.monotonic())
            )
        if not self._is_stopping and node.ended_at is None:
            node.link.give_up("its time was over")
            self._give_back(node)

    @property
    def is_in_other_hands(self) -> bool:
        """Whether another process sees to the end of what is left."""
        return self._journal.account.is_handed_over

    @property
    def is_alive(self) -> bool:
        """Whether some node runs tasks, or will."""
        return any(node.ended_at is None and node.error is None for node in self.nodes)

    @property
    def is_home(self) -> bool:
        """Whether every node is this machine."""
        return all(node.link is None or node.link.endpoint.kind == "local" for node in self.nodes)

    @property
    def usd(self) -> float | None:
        """What all machines have cost so far; None where a price is unknown."""
        parts = [node.usd for node in [*self._others, *self.nodes]]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


class _NeverRan(BootstrapError):
    """The cloud took a machine away, or did not bring it up, before we could do anything with it."""


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


def _left(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())


def _reachable(endpoint: Endpoint) -> dict[str, Any]:
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


def _run_step(link: Link, step: Step, image: Image) -> None:
    done = link.connection.run(
        f"sh -c {shlex.quote(step.script)}",
        stdin=json.dumps(step.input).encode(),
        timeout_s=step.timeout_s,
    )
    if done.exit_status == 0:
        return
    text = (done.stdout + done.stderr).decode(errors="replace")
    tail = Redactor(env=image.env).redact("\n".join(text.splitlines()[-TAIL_LINES:]))
    raise BootstrapError(
        f"{link.endpoint}: step {step.name!r} failed with exit status {done.exit_status}",
        facts=tail.splitlines()[-3:],
        step=step.name,
        tail=tail,
    )


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
