"""Brings the machines of one pool to life, prepares them for tasks, and ends them.

`Fleet` is the only caller of `Provider.launch` and `Provider.terminate` for pools. Each node is prepared in a thread of
its own: reached, bootstrapped, given an environment and workers, and handed to the engine.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skyward.contracts.engine import Engine
from skyward.contracts.provider import Provider
from skyward.contracts.step import Step
from skyward.errors import (
    BootstrapError,
    CapacityError,
    CleanupError,
    CredentialsError,
    ProviderError,
    QuotaError,
    SkywardError,
    TaskCancelled,
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
from skyward.model.instance import Endpoint, Instance, InstanceState, LaunchRequest
from skyward.model.instance_info import VARIABLE, InstanceInfo, Peer
from skyward.model.offer import Offer
from skyward.model.plan import Plan, is_interruptible
from skyward.plugins import Plugins
from skyward.remote.environment import Environment, check_python, prepare
from skyward.remote.link import Link, WorkerSettings
from skyward.remote.probe import Probe
from skyward.remote.secrets import Redactor

BOOTSTRAP_S = 600.0
"""How long preparing a machine may take where nobody says it, seconds."""
POLL_S = 2.0
"""How often a provider is asked whether its machines run, seconds."""
CLOSE_S = 10.0
"""How long farewells may take, over all nodes, seconds."""
TAIL_LINES = 50
RETURN_S = 3.0
"""How long a lost node may take to be found again before another machine is launched, seconds."""
REPLACEMENTS = 3
"""Lost machines that are replaced, for each node the pool was asked for."""
HEAD_PORT = 29500
"""Where the head listens for its peers; what torchrun and others use."""


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


class Node:
    """One machine of the pool and how far it is."""

    def __init__(self, index: int, instance: Instance, provider: Provider, *, is_young: bool = False) -> None:
        self.index = index
        self.instance = instance
        self.provider = provider
        self.is_young = is_young or provider.capabilities.off_means != "nothing"
        """Whether it may still be booting: then refusals are retried."""
        self.link: Link | None = None
        self.is_ready = False
        self.is_lost = False
        self.replacing = threading.Lock()
        self.error: BaseException | None = None
        self.launched_at = time.monotonic()
        self.ended_at: float | None = None

    @property
    def usd(self) -> float | None:
        """What it has cost so far; None where its price is unknown. Machines of one's own cost nothing."""
        if self.provider.capabilities.off_means == "nothing":
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
        self._doubtful: set[str] = set()
        """Providers that were asked to launch and never answered: something may run that we do not know of."""
        self._began = time.monotonic()
        self._seen: dict[str, tuple[float, dict[str, Instance]]] = {}
        self._launches = itertools.count()
        self._others: list[Node] = []
        """Lost ones whose place was taken, and those that are about to take one."""
        self._replaced = 0
        self._known_peers: list[Peer] = []
        self._head_port = 0
        self._ending = threading.Lock()

    # -- coming to life ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Launches and prepares; returns when `min_nodes` (default: all) can take tasks, the rest join later.

        Raises the first thing that went wrong, with the others as facts; `stop` is the caller's.
        """
        self._acquire()
        for node in self.nodes:
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

    def _acquire(self) -> None:
        """Launches in plan order until there are enough machines: all, or else at least those that are needed."""
        failures: list[tuple[Offer, ProviderError]] = []
        for goal in sorted({self.order.plan.nodes, self.needed}, reverse=True):
            if len(self.nodes) >= self.needed:
                return
            failures = self._acquire_until(goal)
        if len(self.nodes) < self.needed:
            raise _no_machines(failures, len(self.nodes), self.needed)

    def _acquire_until(self, goal: int) -> list[tuple[Offer, ProviderError]]:
        """What was in the way where there are fewer machines than `goal` afterwards."""
        failures: list[tuple[Offer, ProviderError]] = []
        for offer, count in self._attempts(goal, failures):
            try:
                for instance in self._launch(offer, count):
                    node = Node(len(self.nodes), instance, self.order.providers[offer.provider])
                    self.nodes.append(node)
                    self.order.emit(InstanceLaunched(instance=instance, node=node.index))
            except ProviderError as error:
                failures.append((offer, error))
        return failures

    def _attempts(
        self, goal: int, failures: Sequence[tuple[Offer, ProviderError]]
    ) -> Iterator[tuple[Offer, int]]:
        """What to launch next, as long as machines are missing; reads `failures` as they come."""
        plan = self.order.plan
        for offer in plan.ranked:
            for machine, share in plan.machines(offer):
                missing = goal - len(self.nodes)
                if missing <= 0:
                    return
                if machine.provider in self.order.providers and not _is_ruled_out(machine, failures):
                    yield machine, min(share, missing)

    def _launch(self, offer: Offer, count: int) -> Sequence[Instance]:
        """The one place where machines come to life."""
        if self._is_stopping:
            raise TaskCancelled("the pool was stopped while it was starting")
        order = self.order
        tags = {"skyward:managed": "true", "skyward:pool": order.pool, "skyward:name": order.name}
        token = f"{order.pool}-{next(self._launches)}"
        request = LaunchRequest(offer=offer, count=count, pool=order.pool, token=token, tags=tags)
        self._doubtful.add(offer.provider)
        try:
            instances = order.providers[offer.provider].launch(request)
        except SkywardError:
            self._doubtful.discard(offer.provider)
            raise
        self._doubtful.discard(offer.provider)
        return instances

    def _await_ready(self) -> None:
        with self._changed:
            while not self._is_stopping:
                if self._lacks_nodes():
                    raise _first_cause([node for node in self.nodes if node.error is not None])
                if sum(node.is_ready for node in self.nodes) >= self.needed:
                    self._is_started = True
                    return
                self._changed.wait()
        raise TaskCancelled("the pool was stopped while it was starting")

    def _bring_up(self, node: Node) -> None:
        """The thread of one node."""
        try:
            self._prepare(node)
        except BaseException as error:  # whatever it is, it is this node's end and the starter's to judge
            with self._changed:
                node.error = error
                self._changed.notify_all()
            self._refuse(node, error)

    def _prepare(self, node: Node) -> None:
        began, order = time.monotonic(), self.order
        own = getattr(node.provider.config, "instance_timeout", None)
        deadline = began + (order.bootstrap_timeout_s or own or BOOTSTRAP_S)
        self._await_running(node, deadline)
        if order.engine.in_process:
            order.engine.add_node(node.instance)
            self._ready(node, 0, began)
            return
        link = self._link(node)
        with self._step(node, "connect") as say:
            probe = link.open(_left(deadline))
            say(f"python {probe.python[0]}.{probe.python[1]} on {probe.machine or 'unknown'}")
        for step in order.plugins.bootstrap_steps(node.instance, order.image):
            with self._step(node, step.name):
                _run_step(link, step, order.image)
        environment = self._environment(node, link, probe, deadline)
        order.plugins.instance_ready(node.instance, link.connection)
        with self._step(node, "workers") as say:
            settings = self._settings(node, probe, environment)
            link.configure(settings, timeout_s=_left(deadline))
            say(f"{link.slots} slots, {environment.detail}")
        order.engine.add_node(link)
        self._ready(node, link.slots, began)

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
        link = Link(
            node.provider.connect(node.instance),
            node=node.index,
            session=self.order.pool,
            instance=node.instance,
            on_event=self.order.emit,
            is_booting=node.is_young,
        )
        with self._changed:
            if self._is_stopping:
                raise TaskCancelled("the pool was stopped while it was starting")
            node.link = link
        return link

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
        if node.link is not None:
            node.link.close()
        try:
            self._terminate(node.provider, [node])
        except ProviderError as problem:
            error.add_note(f"{node.instance.id} could not be ended yet: {problem}")
        self.order.emit(WarningRaised(message=f"node {node.index} is given up: {error}"))

    def _lacks_nodes(self) -> bool:
        return sum(node.error is None for node in self.nodes) < self.needed

    # -- waiting for the provider --------------------------------------------------------------------------------

    def _await_running(self, node: Node, deadline: float) -> None:
        """Until the machine runs, and every other one has an address or has failed: tasks are told their peers."""
        began = time.monotonic()
        while any(one.instance.state is InstanceState.PENDING and one.error is None for one in self.nodes):
            if self._is_stopping or time.monotonic() > deadline:
                break
            self._look(node.provider)
            self._pause(min(POLL_S, max(0.0, deadline - time.monotonic())))
        state, reason = node.instance.state, node.instance.reason
        if state is not InstanceState.RUNNING:
            raise BootstrapError(
                f"{node.instance.id} is {state} after {time.monotonic() - began:.0f} s",
                facts=[reason] if reason else (),
                step="boot",
            )

    def _look(self, provider: Provider) -> None:
        """Asks a provider for its machines, unless another node did so just now."""
        with self._changed:
            asked_at = self._seen.get(provider.name, (0.0, {}))[0]
            if time.monotonic() - asked_at < POLL_S:
                return
            self._seen[provider.name] = (time.monotonic(), {})
        found = {instance.id: instance for instance in provider.instances(self.order.pool)}
        for node in self.nodes:
            if node.provider is provider and node.instance.id in found:
                node.instance = found[node.instance.id]

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait(seconds)

    # -- what workers are told -----------------------------------------------------------------------------------

    def _settings(self, node: Node, probe: Probe, environment: Environment) -> WorkerSettings:
        order, count = self.order, self.workers_per_node
        own = {
            name: value
            for name, value in order.plugins.task_env(None, node.instance).items()
            if name not in order.image.env
        }
        workers = tuple(
            {**own, VARIABLE: self._info(node, probe, worker).to_json()} for worker in range(count)
        )
        settings = WorkerSettings(
            python=environment.python,
            env=environment.env,
            workers=workers,
            concurrency=order.concurrency,
        )
        return replace(settings, **self._sources(node, environment))

    def _sources(self, node: Node, environment: Environment) -> dict[str, Any]:
        """Where modules come from: this machine's own paths, or archives."""
        from skyward.remote.bundle import import_paths, project_archive, runtime_archive

        if node.link is not None and node.link.endpoint.kind == "local":
            if environment.python == sys.executable:
                return {"sys_path": tuple(path or os.getcwd() for path in sys.path), "cwd": os.getcwd()}
            return {"runtime": runtime_archive(), "sys_path": _own_paths(), "cwd": os.getcwd()}
        if self.order.project is None:
            return {"runtime": runtime_archive()}
        return {
            "runtime": runtime_archive(),
            "project": project_archive(self.order.project),
            "sys_path": import_paths(self.order.project),
        }

    @property
    def workers_per_node(self) -> int:
        """One, or one for each partition of each accelerator where a MIG profile was asked for."""
        wish = self.order.plan.requirements.accelerator
        if wish is None or wish.mig is None:
            return 1
        model = self.order.plugins.accelerators().resolve(wish.name)
        fits = next((one.fits for one in model.mig if one.name == wish.mig), 1) if model else 1
        return max(1, int(fits * wish.count))

    def _info(self, node: Node, probe: Probe, worker: int) -> InstanceInfo:
        instance, offer = node.instance, node.instance.offer
        peers = self._peers(node)
        model = self.order.plugins.accelerators().resolve(offer.accelerator) if offer.accelerator else None
        return InstanceInfo(
            node=node.index,
            total_nodes=self.order.plan.nodes,
            worker=worker,
            workers_per_node=self.workers_per_node,
            job_id=self.order.pool,
            head_addr=peers[0].address or "127.0.0.1",
            head_port=self._head_port,
            peers=peers,
            id=instance.id,
            provider=instance.provider,
            region=instance.region or offer.region,
            ip=peers[node.index].ip,
            private_ip=instance.private_address,
            ssh_port=node.link.endpoint.port if node.link and node.link.endpoint.kind == "ssh" else None,
            instance_type=offer.instance_type,
            spot=instance.spot or is_interruptible(offer),
            hourly_rate=offer.usd_per_hour,
            on_demand_rate=self._on_demand_rate(offer),
            accelerators=offer.accelerator_count,
            gpu_count=math.ceil(offer.accelerator_count),
            gpu_model=offer.accelerator,
            gpu_vendor=model.vendor if model else None,
            gpu_vram_gb=offer.accelerator_memory_gib,
            vcpus=offer.vcpus or probe.cpus,
            memory_gb=offer.memory_gib or round(probe.memory_bytes / 2**30, 2),
        )

    def _peers(self, me: Node) -> tuple[Peer, ...]:
        """Every node's addresses; by now all that run have one."""
        with self._changed:
            if not self._head_port:
                ends = [node.provider.connect(node.instance) for node in self.nodes]
                self._head_port = _free_port() if all(end.kind == "local" for end in ends) else HEAD_PORT
                self._known_peers = list(map(_peer, self.nodes, ends))
            self._known_peers[me.index] = _peer(me, me.provider.connect(me.instance))
            return tuple(self._known_peers)

    def _on_demand_rate(self, offer: Offer) -> float | None:
        if not is_interruptible(offer):
            return offer.usd_per_hour
        other = self.order.plan.counterpart(offer)
        return None if other is None else other.usd_per_hour

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

    def stop(self) -> None:
        """Ends everything: links, then machines. Idempotent and bounded; a second call finishes what an
        interrupted first one left.

        Raises:
            CleanupError: a machine may still be billed; names it.
        """
        self.abandon()
        with self._ending:
            self.order.engine.stop()
            everyone = [*self.nodes, *self._others]
            in_parallel([node.link.close for node in everyone if node.link], CLOSE_S)
            failures = []
            for provider in self.order.providers.values():
                mine = [one for one in everyone if one.provider is provider and one.ended_at is None]
                try:
                    self._terminate(provider, mine)
                except Exception as error:
                    failures.append((provider, mine, error))
            if failures:
                raise _unclean(failures)

    def _terminate(self, provider: Provider, nodes: Sequence[Node]) -> None:
        """The one place where machines end."""
        ids = [node.instance.id for node in nodes]
        if provider.name in self._doubtful:
            ids = list(dict.fromkeys([*ids, *(one.id for one in provider.instances(self.order.pool))]))
        if not ids:
            return
        provider.terminate(ids)
        self._doubtful.discard(provider.name)
        for node in nodes:
            node.ended_at = time.monotonic()
            self.order.emit(InstanceTerminated(instance=node.instance, node=node.index))

    # -- what became of them -------------------------------------------------------------------------------------

    def lose(self, index: int, *, replace_it: bool) -> bool:
        """The engine gives a node up: its machine is ended for good or, if wished, another one takes its place.

        False where that is known already. A link that still tries to come back is given a while; and where no
        other node answers either, it is rather the client that is cut off, and nothing is launched.
        """
        node = next((one for one in self.nodes if one.index == index and one.ended_at is None), None)
        if node is None or node.link is None or self._is_stopping:
            return True
        is_final, was_lost = node.link.is_closed, node.is_lost
        node.is_lost = True
        if is_final or (replace_it and not was_lost):
            threading.Thread(
                target=self._replace if replace_it else self._give_back,
                args=(node,),
                name=f"skyward-replace-n{index}",
                daemon=True,
            ).start()
        return not was_lost

    def _replace(self, node: Node) -> None:
        with node.replacing:
            if node.ended_at is None and not self._comes_back(node):
                self._put_in_place_of(node)

    def _comes_back(self, node: Node) -> bool:
        """Whether it is better to wait for a lost node, which may still be found again."""
        assert node.link is not None
        deadline = time.monotonic() + RETURN_S
        while not node.link.is_closed and time.monotonic() < deadline and not self._is_stopping:
            if node.link.is_up:
                node.is_lost = False
                return True
            time.sleep(0.05)
        others = [one for one in self.nodes if one is not node and one.link is not None]
        return (
            not node.link.is_closed and bool(others) and not any(one.link.is_up for one in others if one.link)
        )

    def _put_in_place_of(self, node: Node) -> None:
        """Brings up another machine, and only then lets go of the lost one: it is not given out again so, and the
        engine is never without a node."""
        successor = self._launch_instead(node)
        if successor is not None:
            self._bring_up(successor)
        is_replaced = successor is not None and successor.error is None
        if not is_replaced and node.link is not None and not node.link.is_closed:
            return  # it may still come back
        self._fence(node)
        if successor is not None and is_replaced:
            with self._changed:
                self.nodes[self.nodes.index(node)] = successor
                self._others.remove(successor)
                self._others.append(node)
        self._give_back(node)

    def _launch_instead(self, node: Node) -> Node | None:
        offer, problem = node.instance.offer, "too many were lost"
        if self._replaced < REPLACEMENTS * self.order.plan.nodes:
            self._replaced += 1
            try:
                (instance,) = self._launch(offer, 1)
            except (SkywardError, ValueError) as error:
                problem = str(error)
            else:
                successor = Node(node.index, instance, node.provider, is_young=True)
                self._others.append(successor)
                self.order.emit(InstanceLaunched(instance=instance, node=node.index))
                return successor
        self.order.emit(WarningRaised(message=f"node {node.index} is not replaced: {problem}"))
        return None

    def _fence(self, node: Node) -> None:
        """Whatever a lost node still says is not heard any more, and what was on it moves."""
        link = node.link
        if link is not None and not link.is_closed:
            link.close()
            if link.listener is not None:
                link.listener.on_lost(link, "another machine took its place", final=True)

    def _give_back(self, node: Node) -> None:
        try:
            self._terminate(node.provider, [node])
        except ProviderError as problem:
            self.order.emit(WarningRaised(message=f"{node.instance.id} could not be ended yet: {problem}"))

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


def project_root() -> Path:
    """The project whose sources travel: the one around the running script, else around the current directory."""
    from skyward.remote.bundle import find_project

    here = Path.cwd()
    script = Path(sys.path[0] or here) if sys.path else here
    if not script.is_dir() or _is_installed(script):
        script = here
    return find_project(script) or script


def _is_installed(path: Path) -> bool:
    """Whether modules there belong to an installation of Python, or are its commands, and not to the user."""
    import sysconfig

    commands = {Path(prefix) / "bin" for prefix in (sys.prefix, sys.base_prefix)}
    library = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return (
        path.suffix == ".zip"
        or path in commands
        or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
        or any(path.is_relative_to(place) for place in library)
    )


def in_parallel(calls: Sequence[Callable[[], object]], timeout_s: float) -> None:
    """Makes all calls at once and waits for them, at most so long. One by one where no thread can be started any
    more, as at the end of the interpreter."""
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
        thread.join(max(0.0, deadline - time.monotonic()))


def _left(deadline: float) -> float:
    return max(1.0, deadline - time.monotonic())


def _peer(node: Node, endpoint: Endpoint) -> Peer:
    here = "127.0.0.1" if endpoint.kind == "local" else endpoint.host or None
    return Peer(
        node=node.index, ip=node.instance.public_address or here, private_ip=node.instance.private_address
    )


def _free_port() -> int:
    """A port nobody listens on now; several pools may live on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _own_paths() -> tuple[str, ...]:
    """The client's module paths that are no part of an installation: another environment has its own."""
    paths = [Path(entry or os.getcwd()) for entry in sys.path]
    return tuple(str(path) for path in paths if not _is_installed(path))


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


def _is_ruled_out(offer: Offer, failures: Iterable[tuple[Offer, ProviderError]]) -> bool:
    """Whether an earlier failure says that this offer cannot be had either."""
    return any(
        offer is failed
        or (offer.provider == failed.provider and isinstance(error, QuotaError | CredentialsError))
        for failed, error in failures
    )


def _no_machines(
    failures: Sequence[tuple[Offer, ProviderError]], launched: int, needed: int
) -> ProviderError:
    """One error that tells of every offer that was tried."""
    if len({str(error) for _, error in failures}) == 1 and not launched:
        return failures[0][1]
    facts = [
        f"{offer.provider} {offer.instance_type} in {offer.region}: {error}" for offer, error in failures
    ]
    kinds = {type(error) for _, error in failures}
    kind = kinds.pop() if len(kinds) == 1 else CapacityError
    return kind(
        f"{launched} of {needed} machines could be had", facts=facts, launched=launched, needed=needed
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


def _unclean(failures: Sequence[tuple[Provider, Sequence[Node], Exception]]) -> CleanupError:
    ids = [node.instance.id for _, nodes, _ in failures for node in nodes]
    return CleanupError(
        f"{len(ids)} machines may still be running: {', '.join(ids) or 'unknown'}",
        facts=[f"{provider.name}: {error}" for provider, _, error in failures],
        hints=[f"end them in the console of {provider.name}" for provider, *_ in failures],
        ids=tuple(ids),
    )
