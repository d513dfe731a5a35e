"""Pools: machines rented together, and the work that is sent to them. Standard library only until one is started.

with sky.ComputePool(provider="aws", accelerator="A100", nodes=2) as pool:
    model = train(data) >> pool
    scores = pool.map(score, range(1000))
"""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Self, TypedDict, TypeVar, Unpack, cast, overload

from skyward.api import target
from skyward.api.compute import (
    Compute,
    PendingCompute,
    _decorate,
    _Group,
    _joined,
    _misfit,
)
from skyward.api.options import DEFAULTS, parse_options
from skyward.errors import (
    ArgumentError,
    CleanupError,
    SerializationError,
    SkywardError,
    SkywardWarning,
    TaskCancelled,
    UsageError,
)
from skyward.model.image import Image
from skyward.model.task import DEFAULT_OPTIONS, Task
from skyward.model.volume import S3Volume, Volume

if TYPE_CHECKING:
    from concurrent.futures import Future
    from datetime import timedelta

    from skyward.api.bus import EventBus
    from skyward.api.running import Running
    from skyward.contracts.engine import Engine
    from skyward.contracts.strategy import Strategy
    from skyward.model.accelerator import Accelerator
    from skyward.model.event import Event
    from skyward.model.instance import Instance
    from skyward.model.plan import Plan
    from skyward.model.sizes import Range

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
E = TypeVar("E", bound="Event")


class PoolArguments(TypedDict, total=False):
    """Keyword arguments of a pool. Sizes are "80GB" or GiB, durations "2h30m" or seconds, money US dollars."""

    selection: str | type[Strategy] | Strategy | Callable[..., Any]
    nodes: int
    accelerator: str | Accelerator | None
    cpu: float | str | Range | None
    memory: float | str | Range | None
    disk: float | str | Range | None
    architecture: str | None
    machine: str | None
    region: str | Sequence[str] | None
    zone: str | Sequence[str] | None
    allocation: str | float
    image: Image | None
    pip: str | Sequence[str] | None
    env: Mapping[str, str] | None
    volumes: Sequence[Volume | S3Volume]
    volume: Volume | S3Volume | None
    concurrency: int
    retries: int
    timeout: float | str | timedelta | None
    max_lifetime: float | str | timedelta | None
    lease: float | str | timedelta | None
    bootstrap_timeout: float | str | timedelta
    instance_timeout: float | str | timedelta | None
    max_price: float | None
    max_cost: float | None
    min_nodes: int | None
    preemption: str
    results: str | None
    engine: str | type[Engine]
    display: str
    on_event: Callable[[Any], object] | None
    name: str | None


class ComputePool(target.Target):
    """Machines rented together. A context manager: they are there inside the block, and gone after it.

    Construction checks every argument and costs nothing. `start` and `stop` do by hand what `with` does.

    Args:
        provider: a name ("aws"), a config value (`sky.AWS(region=...)`), or a list of them to fall back on.
            None is this machine, or whoever has credentials when anything is said about machines.
        selection: ranks what is on sale: "first", "cheapest", "available", a plugin's, or a function
            `(providers, spec) -> provider`.
        nodes: how many machines. `min_nodes` of them are enough to start with; the rest join later.
        accelerator, cpu, memory, disk, architecture, machine, region, zone: what each machine must be.
        allocation: "spot", "spot-if-available", "on-demand", "cheapest", or a share of spot from 0 to 1.
        image: the environment tasks run in; `pip` and `env` add to it.
        volumes, volume: storage to mount.
        concurrency: how many tasks one worker runs at once, each in a process of its own.
        retries: how often a lost task is run again.
        timeout: deadline of the work; GuardError after it. `max_lifetime`, `max_cost`: likewise, of the machines.
        lease: how long a machine lives without a word from here.
        bootstrap_timeout: how long preparing a machine may take.
        max_price: US dollars per hour for one machine.
        preemption: what follows the loss of a machine: "replace" it, "shrink", or "fail" what runs.
        results: "any" unpickles whatever comes back, "safe" only plain data; None asks the provider.
        engine: who schedules tasks.
        display: "auto", "rich", "log" or "quiet".
        on_event: called with every event.
        name: shown, and part of the pool's id.

    Raises:
        UsageError: an argument that cannot be meant; several are told at once.
    """

    def __init__(self, provider: object = None, **options: Unpack[PoolArguments]) -> None:
        self._given: dict[str, Any] = {"provider": provider, **options}
        if provider is None:
            del self._given["provider"]
        self._options = parse_options(self._given)
        self._changing = threading.RLock()
        self._running: Running | None = None
        self._is_starting = False
        self._is_abandoned = False
        self._plan: Plan | None = None
        self._pid = os.getpid()
        self._entered: list[Any] = []
        self._last_cost: float | None = None

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Rents and prepares the machines; returns when the pool can take tasks. Does nothing when it can already.

        Until `stop`, `sky` means this pool wherever no other one is active. A pool that is still running when
        the interpreter ends is stopped then, with a warning.

        Raises:
            NoOfferError: nothing on sale fits.
            ProviderError, TransportError, BootstrapError: no machine could be had, reached or prepared.
            CleanupError: what was begun could not be ended; something may still be billed.
        """
        self._bring_up()
        if self not in target.started and not self._entered:
            target.started.append(self)
        return self

    def stop(self) -> None:
        """Ends tasks and machines, and returns when they are gone. Does nothing when there are none.

        Raises:
            CleanupError: something may still be billed.
        """
        self._stop()

    def _stop(self, *, hurry: bool = False) -> None:
        """In a `hurry` (somebody waits for the prompt) the reaper verifies the end of what costs money."""
        if self._is_foreign:
            return
        self._is_abandoned = True
        running = self._running
        if running is not None:
            running.fleet.abandon()
        elif not self._is_starting:
            return
        with self._changing:
            self._end(hurry=hurry)

    def _end(self, *, hurry: bool) -> None:
        if self in target.started:
            target.started.remove(self)
        running = self._running
        if running is not None:
            try:
                running.stop(hurry=hurry)
            except CleanupError:
                if running.fleet.is_in_other_hands:
                    _RUNNING.discard(self)
                raise
            self._last_cost = running.fleet.usd
            _RUNNING.discard(self)
            self._running = None

    def __enter__(self) -> Self:
        self._bring_up()
        self._entered.append(target.active.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _deactivate(self._entered.pop())
        if self._entered:
            return
        try:
            self._stop(hurry=kind is not None and issubclass(kind, KeyboardInterrupt))
        except CleanupError as problem:
            if error is None:
                raise
            error.add_note(f"clean-up is incomplete: {problem}")
            warnings.warn(SkywardWarning(problem.message, hints=problem.hints), stacklevel=2)

    def _bring_up(self) -> None:
        if self._is_foreign:
            raise self._foreign()
        with self._changing:
            if self._running is not None:
                return
            self._is_abandoned, self._is_starting, self._pid = False, True, os.getpid()
            try:
                self._running = running = self._life()
                _RUNNING.add(self)
                self._go(running)
            finally:
                self._is_starting = False

    def _go(self, running: Running) -> None:
        try:
            if self._is_abandoned:  # while it was being planned
                raise TaskCancelled("the pool was stopped while it was starting")
            running.start()
        except BaseException as error:
            self._tear_down(running, error)
            raise

    def _life(self) -> Running:
        from skyward.api.planning import plan_pool, sources
        from skyward.api.running import Running
        from skyward.plugins import get_plugins

        plugins = get_plugins(strict=True)
        options = self._effective()
        asked = sources(options, plugins)
        plan = self._plan or plan_pool(options, asked, plugins)
        self._plan = None
        return Running(options, plan, asked, plugins, self._bus)

    @functools.cached_property
    def _bus(self) -> EventBus:
        """Made when somebody listens: instances declare pools, and need no types of events for that."""
        from skyward.api.bus import EventBus
        from skyward.model.event import Event

        bus = EventBus()
        if self._options.on_event is not None:
            bus.on(Event, self._options.on_event)
        return bus

    def _tear_down(self, running: Running, error: BaseException) -> None:
        """Ends what a failed start left; that it could not be ended is worse than why it failed."""
        try:
            running.stop(hurry=isinstance(error, KeyboardInterrupt))
        except CleanupError as problem:
            raise problem from error
        self._last_cost = running.fleet.usd
        self._running = None
        _RUNNING.discard(self)

    def _effective(self) -> Any:
        """The options over the defaults of the configuration, which is read now."""
        from skyward.config import load_config, merged

        defaults = load_config().defaults
        return parse_options(merged(defaults, self._given)) if defaults else self._options

    def _need(self) -> Running:
        """The running pool, or why there is none."""
        if self._is_foreign:
            raise self._foreign()
        running = self._running
        if running is None:
            raise UsageError(f"{self!r} is not running", hints=["with pool: f(1) >> pool", "pool.start()"])
        return running

    @property
    def _is_foreign(self) -> bool:
        """Whether this is a forked child's copy of a pool that its parent has started."""
        return self._running is not None and self._pid != os.getpid()

    def _foreign(self) -> UsageError:
        return UsageError(
            f"{self!r} belongs to process {self._pid}: a forked child cannot use it",
            hints=["make a pool of its own in the child"],
        )

    def __reduce__(self) -> NoReturn:
        raise SerializationError(
            f"{self!r} cannot travel: it holds machines and connections",
            hints=["pass what the task needs to know instead, such as pool.total_slots"],
        )

    def __repr__(self) -> str:
        running = self._running
        name = running.id if running else self._options.name or "pool"
        return f"<ComputePool {name}, {'running' if running else 'not started'}>"

    # -- work ----------------------------------------------------------------------------------------------------

    def run(self, pending: PendingCompute[R], /) -> R:
        """Runs one call on one worker, and gives what it returns; `pending >> pool` is the same."""
        running = self._running
        if running is None or self._pid != os.getpid():
            running = self._need()
        result: R = running.call(_joined(pending))
        return result

    def broadcast(self, pending: PendingCompute[R], /) -> tuple[R, ...]:
        """Runs one call once on every worker; results by rank. `pending @ pool` is the same."""
        return tuple(self._need().broadcast(_joined(pending)))

    def gather(self, group: _Group, /) -> tuple[Any, ...]:
        """Runs a group; results in its order. `group >> pool` is the same."""
        return tuple(self._need().collect(group.tasks(), keep_errors=group.return_exceptions))

    def stream(self, group: _Group, /) -> Iterator[Any]:
        """Runs a group; results as they finish. `sky.gather(..., stream=True) >> pool` is the same."""
        return self._need().stream(group.tasks(), keep_errors=group.return_exceptions)

    @overload
    def map(self, fn: Compute[[A], R], xs: Iterable[A], /) -> list[R]: ...
    @overload
    def map(self, fn: Compute[[A, B], R], xs: Iterable[A], ys: Iterable[B], /) -> list[R]: ...
    @overload
    def map(
        self,
        fn: Compute[..., R],
        a: Iterable[Any],
        b: Iterable[Any],
        c: Iterable[Any],
        /,
        *more: Iterable[Any],
    ) -> list[R]: ...
    @overload
    def map(self, fn: Callable[[A], R], xs: Iterable[A], /) -> list[R]: ...
    @overload
    def map(self, fn: Callable[[A, B], R], xs: Iterable[A], ys: Iterable[B], /) -> list[R]: ...
    @overload
    def map(
        self,
        fn: Callable[..., R],
        a: Iterable[Any],
        b: Iterable[Any],
        c: Iterable[Any],
        /,
        *more: Iterable[Any],
    ) -> list[R]: ...
    def map(self, fn: Callable[..., Any], /, *iterables: Iterable[Any]) -> list[Any]:
        """Calls `fn` with one item of each iterable at a time, until the shortest ends; results in order.

        The iterables are read as workers need them. The first failure cancels what has not started.
        """
        return self._need().collect(calls(fn, zip(*iterables, strict=False)))

    @overload
    def starmap(self, fn: Compute[..., R], rows: Iterable[Iterable[Any]], /) -> list[R]: ...
    @overload
    def starmap(self, fn: Callable[..., R], rows: Iterable[Iterable[Any]], /) -> list[R]: ...
    def starmap(self, fn: Callable[..., Any], rows: Iterable[Iterable[Any]], /) -> list[Any]:
        """Calls `fn(*row)` for each row; otherwise like `map`."""
        return self._need().collect(calls(fn, map(tuple, rows)))

    @overload
    def submit(self, pending: PendingCompute[R], /) -> Future[R]: ...
    @overload
    def submit(self, fn: Compute[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, what: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Sends a pending call, or `fn(*args, **kwargs)`, and returns at once.

        The future works with `concurrent.futures.wait` and, through `asyncio.wrap_future`, with asyncio.
        """
        if isinstance(what, PendingCompute):
            task = _joined(what)
            if args or kwargs:
                raise ArgumentError("submit takes a pending call alone: its arguments are in it already")
            return self._need().submit(task)
        return self._need().submit(call(what, args, kwargs))

    # -- what it is ----------------------------------------------------------------------------------------------

    @overload
    def on(self, kind: type[E], handler: Callable[[E], object], /) -> Callable[[E], object]: ...
    @overload
    def on(self, kind: type[E], /) -> Callable[[Callable[[E], object]], Callable[[E], object]]: ...
    def on(self, kind: type[Any], handler: Callable[[Any], object] | None = None, /) -> Any:
        """Calls `handler` with each event of this kind; a decorator without one. Handlers run in a thread, one
        event after the other, and what they raise is shown and stops nothing."""
        from skyward.model.event import Event

        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise ArgumentError(
                f"on takes a type of event, not {kind!r}", hints=["pool.on(sky.events.NodeReady, print)"]
            )
        if handler is None:
            return functools.partial(self.on, kind)
        self._bus.on(kind, handler)
        return handler

    def plan(self) -> Plan:
        """What `start` would rent, and why nothing else. Rents nothing; `start` launches from this very plan."""
        from skyward.api.planning import plan_pool, sources
        from skyward.plugins import get_plugins

        if self._running is not None:
            return self._running.plan
        plugins = get_plugins()
        options = self._effective()
        self._plan = plan_pool(options, sources(options, plugins), plugins)
        return self._plan

    def save_logs(self, directory: str | os.PathLike[str], /) -> list[Path]:
        """Everything the workers have printed so far, in one file each: `n0-worker-0.log`, ... ; gives the files.

        Tasks show what they print as it comes, up to 1 MiB each; all of it lies on the nodes and goes with them.
        `skyward run` keeps it in the directory of the run. At most 256 MiB are brought, the last ones of each worker.
        """
        return self._need().save_logs(Path(directory))

    @property
    def is_running(self) -> bool:
        return self._running is not None

    @property
    def id(self) -> str | None:
        """What the machines are tagged with; None while the pool is not running."""
        return self._running.id if self._running else None

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The machines now, by node."""
        return self._running.instances if self._running else ()

    @property
    def total_slots(self) -> int:
        """Tasks that can run at once."""
        return self._running.engine.slots if self._running else 0

    @property
    def cost(self) -> float | None:
        """US dollars spent on machines so far, before tax; of the last life when it is over. None is unknown."""
        return self._running.fleet.usd if self._running else self._last_cost


_named = {name: value for name, value in DEFAULTS.items() if name != "provider"}
ComputePool.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY),
        inspect.Parameter("provider", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in _named.items()
        ),
    ]
)


# -- calls -----------------------------------------------------------------------------------------------------


def calls(fn: Callable[..., Any], rows: Iterable[tuple[Any, ...]]) -> Iterator[Task]:
    """One task for each row of arguments, each checked against the signature before it is sent."""
    function = _checked(fn)
    check, options = function._check, function._options
    for row in rows:
        try:
            check(*row)
        except TypeError as error:
            raise _misfit(function, error) from None
        yield Task(fn, row, None, options)


def call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Task:
    """One task, checked against the signature."""
    function = _checked(fn)
    try:
        function._check(*args, **kwargs)
    except TypeError as error:
        raise _misfit(function, error) from None
    return Task(fn, args, kwargs or None, function._options)


@functools.lru_cache(maxsize=64)
def _checked(fn: Callable[..., Any]) -> Compute[..., Any]:
    """What is known of a function: how it is called, and the options it was decorated with."""
    return fn if isinstance(fn, Compute) else _decorate(fn, DEFAULT_OPTIONS)


# -- a pool for each call --------------------------------------------------------------------------------------


@overload
def pool(fn: Callable[P, R], /) -> Callable[P, R]: ...  # type: ignore[overload-overlap]  # no provider is callable
@overload
def pool(
    provider: object = None, **options: Unpack[PoolArguments]
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def pool(provider: Any = None, **options: Unpack[PoolArguments]) -> Any:
    """Gives each call of the decorated function a pool of its own, which `sky` means inside, and always ends it.

    Takes the arguments of ComputePool, which are checked at once. Also decorates coroutine functions.
    """
    if inspect.isfunction(provider):
        return _with_pool(provider, {})
    ComputePool(provider, **options)
    return functools.partial(_with_pool, options={"provider": provider, **options})


def _with_pool(fn: Callable[P, R], options: Mapping[str, Any]) -> Callable[P, R]:
    """`fn`, with a pool around each call; the pool's arguments are kept as `__skyward_pool__`."""
    provisioned: Any = _around(fn, options)
    provisioned.__skyward_pool__ = dict(options)
    return cast("Callable[P, R]", provisioned)


def _around(fn: Callable[P, R], options: Mapping[str, Any]) -> Callable[P, R]:
    if inspect.iscoroutinefunction(fn):
        return cast("Callable[P, R]", _around_async(fn, options))

    @functools.wraps(fn)
    def provisioned(*args: P.args, **kwargs: P.kwargs) -> R:
        with ComputePool(**options):
            return fn(*args, **kwargs)

    return provisioned


def _around_async(
    fn: Callable[P, Coroutine[Any, Any, R]], options: Mapping[str, Any]
) -> Callable[P, Coroutine[Any, Any, R]]:
    """The event loop goes on while machines come and go."""
    import asyncio

    @functools.wraps(fn)
    async def provisioned(*args: P.args, **kwargs: P.kwargs) -> R:
        own, token = ComputePool(**options), None
        try:
            await asyncio.to_thread(own._bring_up)
            token = target.active.set(own)
            return await fn(*args, **kwargs)
        finally:
            if token is not None:
                _deactivate(token)
            await asyncio.shield(asyncio.to_thread(own.stop))

    return provisioned


# -- the end of the process ------------------------------------------------------------------------------------

_RUNNING: set[ComputePool] = set()


def _deactivate(token: Any) -> None:
    try:
        target.active.reset(token)
    except ValueError:  # left in another context than it was entered in
        pass


@atexit.register
def _stop_everything() -> None:
    """Machines must not outlive the process that pays for them."""
    for one in [one for one in _RUNNING if one._pid == os.getpid()]:
        warnings.warn(
            SkywardWarning(f"{one!r} was still running at the end", hints=["with pool: ...", "pool.stop()"]),
            stacklevel=1,
        )
        try:
            one.stop()
        except SkywardError as error:
            warnings.warn(SkywardWarning(str(error), hints=error.hints), stacklevel=1)
