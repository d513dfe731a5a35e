"""A pool that has been started: its machines, its engine, what is in flight, and the guards that end it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from skyward.api.bus import EventBus
from skyward.api.flight import Call, Collection, Flight, Sequel, Stream, TaskFuture
from skyward.api.options import PoolOptions
from skyward.api.planning import Source, nothing_fits
from skyward.cloud.fleet import Fleet
from skyward.cloud.gc import sweep
from skyward.cloud.order import FleetOrder
from skyward.cloud.project import project_root
from skyward.contracts.engine import Engine, EngineContext
from skyward.contracts.provider import Provider
from skyward.errors import CredentialsError, GuardError, SkywardError, TaskCancelled, TaskLost
from skyward.model.event import (
    Event,
    NodeLost,
    NodeReattached,
    PoolReady,
    PoolStarting,
    PoolStopped,
    WarningRaised,
)
from skyward.model.instance import Instance
from skyward.model.plan import Plan
from skyward.model.sizes import format_duration
from skyward.model.task import Task
from skyward.plugins import Plugins

if TYPE_CHECKING:
    from skyward.builtin.terminal import Display


LOGS_ROOM = 256 << 20
"""How much of what the workers have printed is brought here, bytes."""
LOGS_S = 30.0
"""How long that may take, seconds."""


class Running:
    """One life of a pool, from `start` to `stop`."""

    def __init__(
        self, options: PoolOptions, plan: Plan, sources: Iterable[Source], plugins: Plugins, bus: EventBus
    ) -> None:
        if plan.chosen is None:
            raise nothing_fits(plan, plugins)
        self.id = f"{options.name or 'pool'}-{secrets.token_hex(3)}"
        self.plan = plan
        self.options = options
        self.bus = bus
        self.ended_by: SkywardError | None = None
        """Why no more work is taken, once a guard has ended the pool."""
        self.logs_directory: Path | None = None
        """Where all that the workers print is kept, if anywhere."""
        self._logs: list[Path] | None = None
        self._keeping = threading.Lock()
        self._plugins = plugins
        self._began = time.monotonic()
        self._project: Path | None = project_root() if options.image.project else None
        self._flights: WeakSet[Flight | TaskFuture] = WeakSet()
        self._flying = threading.Lock()
        self._calls: set[Call] = set()
        """Somebody waits for each of them. No lock: one operation changes it, and one copies it."""
        self._guard: threading.Timer | None = None
        self._on_nodes: Callable[[str], bool] | None = None
        self._display: Display | None = None
        providers, self._left_out = _ready(sources, {offer.provider for offer in plan.ranked})
        self._is_trusted = all(provider.capabilities.trusted for provider in providers.values())
        self.engine = self._engine_class()(self._context())
        self.fleet = Fleet(
            FleetOrder(
                pool=self.id,
                name=options.name or "",
                plan=plan,
                providers=providers,
                engine=self.engine,
                plugins=plugins,
                image=options.image,
                emit=bus.emit,
                concurrency=options.concurrency,
                bootstrap_timeout_s=options.bootstrap_timeout_s,
                project=self._project,
                volumes=options.volumes,
                lease_s=options.lease_s,
                replaces=options.preemption == "replace",
            )
        )

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when the pool can take tasks."""
        assert self.plan.chosen is not None
        self._listen()
        self.bus.emit(PoolStarting(pool=self.id, nodes=self.plan.nodes, provider=self.plan.chosen.provider))
        for orphan in sweep():
            message, hints = orphan.words
            self.bus.emit(WarningRaised(message=message, hint=hints[0]))
        for problem in self._left_out:
            self.bus.emit(WarningRaised(message=f"{problem}; the next provider is tried"))
        self.fleet.start()
        self._arm_guard()
        self.bus.emit(
            PoolReady(
                pool=self.id,
                nodes=sum(node.is_ready for node in self.fleet.nodes),
                slots=self.engine.slots,
                duration_s=time.monotonic() - self._began,
            )
        )

    def stop(self, *, hurry: bool = False) -> None:
        """Ends work and machines. A second call finishes what an interrupted first one left. In a `hurry` the reaper
        does what takes long."""
        if self._guard is not None:
            self._guard.cancel()
        self._abort(TaskCancelled("the pool was stopped before the task was through"))
        try:
            self.fleet.stop(hurry=hurry)
        finally:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Tells of the end once, and waits until everything has been told."""
        self.bus.emit(
            PoolStopped(pool=self.id, duration_s=time.monotonic() - self._began, usd=self.fleet.usd)
        )
        self.bus.close()
        if self._display is not None:
            self._display.close()

    def _listen(self) -> None:
        from skyward.builtin import terminal
        from skyward.remote.secrets import of_display

        self.bus.forward(self._plugins.event, self._plugins.wants)
        if not terminal.skyward_event_types:  # else `skyward run` shows everything already
            redact = of_display(self.options.image.env).redact_known
            self._display = display = terminal.Display(self.options.display, redact=redact)
            self.bus.forward(
                display, lambda kind: any(issubclass(kind, one) for one in display.skyward_event_types)
            )
        self.bus.start()

    # -- the engine ----------------------------------------------------------------------------------------------

    def _engine_class(self) -> type[Engine]:
        engine = self.options.engine
        if isinstance(engine, type):
            return engine
        return self._plugins.engine(str(engine))

    def _context(self) -> EngineContext:
        return EngineContext(
            emit=self._hear,
            wants=self.bus.wants,
            should_retry=self._plugins.retry_task,
            retries=self.options.retries,
            concurrency=self.options.concurrency,
            results=self.options.results or ("any" if self._is_trusted else "safe"),
            importable=self._is_importable,
        )

    def _hear(self, event: Event) -> None:
        """What the engine says goes to everybody; a lost node concerns us, too, and is told of once."""
        if isinstance(event, NodeLost):
            if self.options.preemption == "fail":
                self._abort(TaskLost(f"node {event.node} was lost: {event.reason}"))
            if not self.fleet.lose(event.node, replace_it=self.options.preemption == "replace"):
                return
        elif isinstance(event, NodeReattached):
            self.fleet.regain(event.node)
        self.bus.emit(event)

    def _is_importable(self, module: str) -> bool:
        """Whether nodes can import a module: all of them where they run the client's own Python."""
        if self.fleet.is_home and self.options.image.is_plain:
            return True
        if self._on_nodes is None:
            from skyward.remote.codec import importable_with

            self._on_nodes = importable_with(self._project)
        return self._on_nodes(module)

    def save_logs(self, directory: Path) -> list[Path]:
        """Everything the workers have printed, in files; see `ComputePool.save_logs`."""
        from skyward.remote.secrets import Redactor

        redact = Redactor(env=self.options.image.env).redact
        return self.engine.save_logs(directory, room=LOGS_ROOM, deadline_s=LOGS_S, redact=redact)

    def keep_logs(self) -> list[Path]:
        """The same in `logs_directory`, once: whoever asks again waits for it and gets what there is."""
        with self._keeping:
            if self._logs is None and self.logs_directory is not None:
                self._logs = []
                self._logs = self.save_logs(self.logs_directory)
            return self._logs or []

    # -- guards --------------------------------------------------------------------------------------------------

    def _arm_guard(self) -> None:
        """Sets the alarm for the limit that is reached first."""
        limits = sorted(self._limits())
        if limits:
            seconds, message = limits[0]
            self._guard = threading.Timer(seconds, self._expire, [GuardError(message, pool=self.id)])
            self._guard.daemon = True
            self._guard.start()

    def _limits(self) -> Iterator[tuple[float, str]]:
        wish, age = self.plan.requirements, time.monotonic() - self._began
        if self.options.timeout_s is not None:
            yield (
                self.options.timeout_s,
                f"the work took longer than timeout={format_duration(self.options.timeout_s)}",
            )
        if wish.max_lifetime_s is not None:
            yield (
                wish.max_lifetime_s - age,
                f"the pool is older than max_lifetime={format_duration(wish.max_lifetime_s)}",
            )
        rate = self.plan.usd_per_hour
        if wish.max_cost is not None and rate:
            yield wish.max_cost / rate * 3600 - age, f"the pool has cost max_cost={wish.max_cost:g} USD"

    def _expire(self, error: GuardError) -> None:
        self.ended_by = error
        self._abort(error)
        with suppress(OSError):
            self.keep_logs()
        try:
            self.fleet.stop()
        except SkywardError as problem:
            error.facts = (*error.facts, str(problem))

    def _abort(self, error: SkywardError) -> None:
        with self._flying:
            flights = [*self._flights, *self._calls.copy()]
        for flight in flights:
            flight.abort(error)

    # -- work ----------------------------------------------------------------------------------------------------

    def call(self, task: Task) -> Any:
        """The result of one task."""
        call = Call(self._ready_engine(), task)
        self._calls.add(call)
        try:
            if self.ended_by is not None:  # between the check and now
                raise self.ended_by
            return call.result()
        finally:
            self._calls.discard(call)

    def collect(self, tasks: Iterable[Task], *, keep_errors: bool = False) -> list[Any]:
        """All results, in order."""
        flight = Collection(self._ready_engine(), tasks, keep_errors=keep_errors)
        self._launch(flight)
        return flight.results()

    def broadcast(self, task: Task) -> list[Any]:
        """The results of every worker, by rank."""
        engine = self._ready_engine()
        flight = Collection(engine)
        self._launch(flight)
        flight.pin(task, engine.workers)
        return flight.results()

    def stream(self, tasks: Iterable[Task], *, keep_errors: bool = False) -> Iterator[Any]:
        """Results as they finish."""
        flight = Stream(self._ready_engine(), tasks, keep_errors=keep_errors)
        self._launch(flight)
        return flight.start()

    def sequel(self, tasks: Sequence[Task], timeout_s: float | None) -> Sequel:
        """Results in order, each as soon as it can be."""
        flight = Sequel(self._ready_engine(), tasks, timeout_s=timeout_s)
        self._launch(flight)
        flight.start()
        return flight

    def submit(self, task: Task) -> TaskFuture:
        future = TaskFuture(self._ready_engine(), task)
        self._launch(future)
        return future

    def _launch(self, flight: Flight | TaskFuture) -> None:
        with self._flying:
            self._flights.add(flight)
        if self.ended_by is not None:  # between the check and now
            flight.abort(self.ended_by)

    def _ready_engine(self) -> Engine:
        if self.ended_by is not None:
            raise self.ended_by
        if not self.fleet.is_alive:
            raise TaskLost("no node of the pool is left")
        return self.engine

    @property
    def instances(self) -> tuple[Instance, ...]:
        return tuple(node.instance for node in self.fleet.nodes if node.ended_at is None)


def _ready(
    sources: Iterable[Source], named: Container[str]
) -> tuple[dict[str, Provider], list[CredentialsError]]:
    """The providers among `named` that can be called, and why the others cannot.

    Raises:
        CredentialsError: none can.
    """
    providers, problems = {}, []
    for source in sources:
        if source.name in named and source.name not in providers:
            try:
                providers[source.name] = source.ready()
            except CredentialsError as problem:
                problems.append(problem)
    if not providers:
        raise problems[0]
    return providers, problems
