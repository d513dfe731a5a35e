"""Makes a machine that runs into one that takes tasks: reached, bootstrapped, given an environment and workers.

Every step is an event with its time. Nodes do not wait for each other, but for the addresses that tasks are told. Imports
`arrivals`, `birth`, `roster` and below.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from skyward.cloud.arrivals import Arrivals, NeverRan
from skyward.cloud.birth import Birth
from skyward.cloud.briefing import Briefing
from skyward.cloud.order import FleetOrder
from skyward.cloud.partitions import with_partitions
from skyward.cloud.roster import Node, Roster
from skyward.contracts.step import Step
from skyward.errors import BootstrapError, HostUnreachable, SkywardError, TaskCancelled, TransportError
from skyward.model.event import NodeReady, StepFinished
from skyward.model.image import Image
from skyward.model.sizes import format_duration
from skyward.remote.environment import Environment, check_python, prepare
from skyward.remote.link import LINGER_S, Link
from skyward.remote.probe import Probe
from skyward.remote.secrets import Redactor

BOOTSTRAP_S = 600.0
"""How long preparing a machine may take where nobody says it, seconds."""
TAIL_LINES = 50
ARMED_FILE = "/run/skyward/armed"
LEASE_FILE = "/run/skyward/lease"
NOTICE_FILE = "/run/skyward/notice"


class Preparation:
    """Prepares the nodes of one pool, each in the thread that calls."""

    def __init__(
        self,
        order: FleetOrder,
        roster: Roster,
        arrivals: Arrivals,
        birth: Birth,
        *,
        on_notice: Callable[[Node, dict[str, Any]], None],
        on_distrust: Callable[[Node, SkywardError], None],
    ) -> None:
        """`on_notice` hears that a cloud takes a machine back; `on_distrust` that one which takes tasks already cannot
        be given a host key of its own."""
        self._order = order
        self._roster = roster
        self._arrivals = arrivals
        self._birth = birth
        self._briefing = Briefing(order)
        self._on_notice = on_notice
        self._on_distrust = on_distrust

    def prepare(self, node: Node) -> None:
        """Returns when the node takes tasks.

        Raises:
            SkywardError: it never will; says at which step that showed.
        """
        began, order = time.monotonic(), self._order
        deadline = began + self._patience_s(node)
        try:
            if order.volumes or order.engine.in_process:  # disks are attached to machines that run
                self._arrivals.await_running(node, deadline)
            else:
                self._arrivals.await_address(node, deadline)
            if order.engine.in_process:
                self._arrivals.await_addresses(deadline)
                order.engine.add_node(node.instance)
                self._ready(node, 0, began)
                return
            self._over_ssh(node, began, deadline)
        except Exception as error:
            if node.distrust is not None:  # which closed the link, so that something else failed
                raise node.distrust from None
            self._advise(node, error)
            raise

    def _patience_s(self, node: Node) -> float:
        """How long a machine may take until it takes tasks."""
        own: float | None = getattr(node.provider.config, "instance_timeout", None)
        return self._order.bootstrap_timeout_s or own or BOOTSTRAP_S

    def _advise(self, node: Node, error: Exception) -> None:
        """Tells how long a machine had that did not get ready in time, and how it gets longer."""
        if node.is_billed and isinstance(error, HostUnreachable | NeverRan):
            had_s = self._patience_s(node)
            longer = format_duration(2 * had_s)
            error.facts = (*error.facts, f"it had {format_duration(had_s)} to get ready")
            error.hints = (*error.hints, f'bootstrap_timeout="{longer}", or -o bootstrap_timeout={longer}')

    def _over_ssh(self, node: Node, began: float, deadline: float) -> None:
        order, link = self._order, self._link(node)
        with self.step(node, "connect") as say:
            try:
                probe = link.open(_left(deadline), is_gone=lambda: self._arrivals.is_over(node))
            except TransportError:
                if node.is_over:
                    raise self._arrivals.never_ran(node, time.monotonic() - node.launched_at) from None
                raise
            say(f"python {probe.python[0]}.{probe.python[1]} on {probe.machine or 'unknown'}")
        self._arrivals.reached(node)
        self._birth.met(node, link)
        self._renew_host_key(node, link)
        for step in [
            *self._core_steps(node, probe),
            *order.plugins.bootstrap_steps(node.instance, order.image),
        ]:
            with self.step(node, step.name):
                run_step(link, step, order.image)
        if self._briefing.workers_per_node > 1:
            node.instance = with_partitions(link.connection, node.instance)
        environment = self._environment(node, link, probe, deadline)
        order.plugins.instance_ready(node.instance, link.connection)
        self._arrivals.await_addresses(deadline)
        with self.step(node, "workers") as say:
            settings = self._briefing.settings(node, self._roster.nodes, probe, environment)
            link.configure(settings, timeout_s=_left(deadline))
            say(f"{link.slots} slots, {environment.detail}")
        order.engine.add_node(link)
        self._ready(node, link.slots, began)

    def _ready(self, node: Node, slots: int, began: float) -> None:
        with self._roster.changed:
            if node.distrust is not None:
                raise node.distrust
            node.is_ready = True
            self._roster.changed.notify_all()
        self._order.emit(
            NodeReady(
                node=node.index, instance=node.instance, slots=slots, duration_s=time.monotonic() - began
            )
        )

    # -- its host key ------------------------------------------------------------------------------------------------

    def _renew_host_key(self, node: Node, link: Link) -> None:
        def told(seconds: float, error: str | None) -> None:
            self._told(node, "host key", seconds, "", error=error)

        def failed(error: SkywardError) -> None:
            with self._roster.changed:
                node.distrust, takes_tasks = error, node.is_ready
            if takes_tasks:
                self._on_distrust(node, error)
            else:
                link.close()

        self._birth.renew(node, link, told=told, failed=failed)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _core_steps(self, node: Node, probe: Probe) -> list[Step]:
        """Steps of machines that cost money: the switch first, then disks and accelerators."""
        assert node.link is not None
        if not node.is_billed or node.link.endpoint.kind == "local":
            return []
        from skyward.cloud.bootstrap import core_steps

        has_user_data = self._birth.is_ours(node, node.link.endpoint)
        if probe.has_booted:
            self._told(node, "cloud-init", 0.0, "done")
        if has_user_data and probe.is_armed:
            self._told(node, "switch", 0.0, "armed")
        return core_steps(
            node.instance,
            self._order.plan.requirements,
            self._order.volumes,
            has_user_data=has_user_data,
            is_armed=probe.is_armed,
            has_booted=probe.has_booted,
            lifetime_s=self._birth.lifetime_s,
            lease_s=self._order.lease_s,
        )

    def _environment(self, node: Node, link: Link, probe: Probe, deadline: float) -> Environment:
        """On this machine the Python that runs here, unless packages are asked for; elsewhere what the image says."""
        image = self._order.image
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
        order = self._order
        endpoint = self._birth.known(node, node.provider.connect(node.instance))
        has_switch = node.is_billed and endpoint.kind == "ssh"
        link = Link(
            endpoint,
            node=node.index,
            session=order.pool,
            instance=node.instance,
            is_booting=node.is_young,
            linger_s=max(LINGER_S, order.lease_s or 0.0) if has_switch else None,
            armed_file=ARMED_FILE if has_switch else None,
            lease_file=LEASE_FILE if has_switch and order.lease_s else None,
            lease_s=order.lease_s,
            notice_file=NOTICE_FILE if has_switch else None,
            on_notice=lambda _, notice: self._on_notice(node, notice),
            on_unreachable=lambda: self._let_in(node),
            is_awaited=node.replacing.locked,
        )
        with self._roster.changed:
            if self._roster.is_stopping:
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

        if node.is_billed and not self._roster.is_stopping and node.letting_in.acquire(blocking=False):
            threading.Thread(target=ask, name=f"skyward-let-in-n{node.index}", daemon=True).start()

    # -- steps as events -----------------------------------------------------------------------------------------

    @contextmanager
    def step(self, node: Node, name: str) -> Iterator[Callable[[str], None]]:
        """One named step; tells how long it took and how it ended. Yields a function that takes a detail."""
        began, details = time.monotonic(), [""]
        try:
            yield lambda detail: details.append(detail)
        except BaseException as error:
            self._told(node, name, time.monotonic() - began, details[-1], error=str(error))
            raise
        self._told(node, name, time.monotonic() - began, details[-1])

    def _told(self, node: Node, name: str, seconds: float, detail: str, error: str | None = None) -> None:
        self._order.emit(
            StepFinished(node=node.index, step=name, duration_s=seconds, detail=detail, error=error)
        )


def run_step(link: Link, step: Step, image: Image) -> None:
    """
    Raises:
        BootstrapError: it failed; carries its last lines, without secrets.
        ConnectionLost: it did not end in time, or the connection broke.
    """
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


def _left(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())
