"""Loads, names, blocks and checks plugins, and is the typed door to every hook. Imports `contracts` and below.

Order of loading: built-in ones, installed entry points, those named by the user (`-p`, SKYWARD_PLUGINS), and
`skyfile.py`. A plugin that cannot be used is left out and told: `problems` holds one PluginError each.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import pluggy

from skyward.contracts import hookspecs
from skyward.errors import (
    ExitCode,
    PluginError,
    SkywardError,
    SkywardWarning,
    UnknownProviderError,
    UsageError,
)

if TYPE_CHECKING:
    from skyward.config import Config
    from skyward.contracts.engine import Engine
    from skyward.contracts.provider import Provider
    from skyward.contracts.step import Step
    from skyward.contracts.strategy import Strategy
    from skyward.entry_points import EntryPoint
    from skyward.model.accelerator import Registry
    from skyward.model.event import Event
    from skyward.model.image import Image
    from skyward.model.instance import Instance
    from skyward.model.offer import Offer
    from skyward.model.report import RunReport, TaskReport
    from skyward.model.requirements import Requirements
    from skyward.model.task import Task

PROJECT = "skyward"
SKYFILE = "skyfile"
BUILTIN = {
    "local": "skyward.builtin.local",
    "ssh": "skyward.builtin.ssh",
    "strategies": "skyward.builtin.strategies",
    "accelerators": "skyward.builtin.accelerators",
    "engines": "skyward.builtin.engines",
    "terminal": "skyward.builtin.terminal",
}
SLOW_IMPORT_S = 5.0
"""A plugin that takes longer to load is named on standard error, so that a hang has an address."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*")

T = TypeVar("T")
Report = Callable[[SkywardError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginInfo:
    """One plugin as `skyward plugins` lists it."""

    name: str
    distribution: str = ""
    """What installed it; empty for files and objects of the user's own."""
    version: str = ""
    hooks: tuple[str, ...] = ()
    origin: str = ""
    """The file it was read from."""
    load_ms: float = 0.0
    state: Literal["loaded", "blocked", "broken"] = "loaded"
    error: str = ""

    @property
    def label(self) -> str:
        """How messages name it: `'acme' (acme-clouds 2.0)`."""
        if self.distribution:
            return f"{self.name!r} ({self.distribution} {self.version})".replace(" )", ")")
        return f"{self.name!r} ({self.origin})" if self.origin else repr(self.name)


class Plugins:
    """The plugins of this process, and one method per hook.

    Registration hooks are called when their answers are first needed, each plugin by itself, so that one broken
    plugin takes nothing else with it. `on_problem` hears of each problem once, when it is found.
    """

    def __init__(self, *, on_problem: Report | None = None) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._infos: dict[str, PluginInfo] = {}
        self._registries: dict[str, Any] = {}
        self._on_problem = on_problem or _warn
        self._told: set[tuple[str, str]] = set()
        self._lock = threading.RLock()
        self.problems: list[PluginError] = []

    # -- loading -------------------------------------------------------------------------------------------------

    def load(
        self,
        *,
        names: Sequence[str] = (),
        start: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        points: Sequence[EntryPoint] | None = None,
    ) -> Plugins:
        """Loads every plugin: built-in, installed, `names` ("acme", "no:acme"), and the skyfile above `start`.

        `points` are the installed entry points; None looks them up.

        Raises:
            PluginError: one of `names` is no plugin and no module.
        """
        wanted = [*_split(environ.get("SKYWARD_PLUGINS", "")), *names]
        blocked = [name[3:] for name in wanted if name.startswith("no:")]
        explicit = list(
            dict.fromkeys(name for name in wanted if not name.startswith("no:") and name not in blocked)
        )
        start = Path.cwd() if start is None else start
        from skyward.entry_points import autoload

        is_auto = autoload(environ)
        if points is None:
            points = _installed(environ) if is_auto or explicit else ()
        for name in blocked:
            self._manager.set_blocked(name)
        with _watchdog() as loading:
            for name, module in BUILTIN.items():
                if find_spec(module) is None:
                    continue
                loading(name)
                self._load(name, partial(import_module, module), PROJECT, _version())
            for point in points:
                if point.group == PROJECT and (is_auto or point.name in explicit):
                    loading(point.name)
                    self._load(
                        point.name, point.load, point.distribution, point.version
                    )
            for name in explicit:
                loading(name)
                self._load_named(name, start)
            if file := find_skyfile(start):
                loading(SKYFILE)
                self._load(SKYFILE, lambda: _import_skyfile(file), origin=str(file))
        for name in blocked:
            self._infos.setdefault(name, PluginInfo(name=name, state="blocked"))
        return self

    def _load_named(self, name: str, start: Path) -> None:
        if name in self._infos:
            return
        if not _is_module(name, start):
            near = get_close_matches(name, list(self._infos), n=1)
            raise PluginError(
                f"no plugin and no module is called {name!r}",
                facts=[f"installed plugins: {', '.join(self._infos)}"],
                hints=[f"did you mean {near[0]!r}?"] if near else ["skyward plugins"],
                exit_code=ExitCode.USAGE,
                plugin=name,
            )
        self._load(name, lambda: import_module(name))

    def _load(
        self,
        name: str,
        load: Callable[[], object],
        distribution: str = "",
        version: str = "",
        origin: str = "",
    ) -> None:
        if name in self._infos:
            other = self._infos[name]
            this = PluginInfo(name=name, distribution=distribution, version=version, origin=origin)
            self._found(
                PluginError(
                    f"plugin name {name!r} is registered twice: by {other.label} and by {this.label}",
                    plugin=name,
                )
            )
            return
        info = PluginInfo(name=name, distribution=distribution, version=version, origin=origin)
        if self._manager.is_blocked(name):
            self._infos[name] = _with(info, state="blocked")
            return
        began = time.perf_counter()
        self._infos[name] = info
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the answer, whatever a plugin prints
                plugin = load()
            self._add(plugin, info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module, SystemExit included
            self._broken(info, error)
        else:
            self._infos[name] = _with(self._infos[name], load_ms=(time.perf_counter() - began) * 1000)

    def _add(self, plugin: object, info: PluginInfo) -> None:
        origin = info.origin or getattr(plugin, "__file__", None) or ""
        self._infos[info.name] = info = _with(info, origin=origin)
        try:
            self._manager.register(plugin, info.name)
            self._check(plugin, info)
        except Exception:
            if self._manager.has_plugin(info.name):
                self._manager.unregister(name=info.name)
            raise
        callers = self._manager.get_hookcallers(plugin) or []
        self._infos[info.name] = _with(info, hooks=tuple(sorted(caller.name for caller in callers)))
        self._registries.clear()

    def _check(self, plugin: object, info: PluginInfo) -> None:
        known = [name for name in vars(hookspecs) if name.startswith("skyward_")]
        for caller in self._manager.get_hookcallers(plugin) or []:
            mine = [impl for impl in caller.get_hookimpls() if impl.plugin is plugin]
            if not caller.has_spec() and not all(impl.optionalhook for impl in mine):
                near = get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise PluginError(
                    f"plugin {info.label} implements an unknown hook {caller.name!r}{hint}", plugin=info.name
                )
            if caller.name in _ONE_BY_ONE and any(impl.wrapper or impl.hookwrapper for impl in mine):
                raise PluginError(
                    f"plugin {info.label} wraps {caller.name!r}, which is called one plugin at a time",
                    plugin=info.name,
                )
        if isinstance(plugin, ModuleType):
            self._check_markers(plugin, info, known)

    def _check_markers(self, module: ModuleType, info: PluginInfo, known: Sequence[str]) -> None:
        for name, value in vars(module).items():
            is_mine = callable(value) and getattr(value, "__module__", None) == module.__name__
            if name in known and is_mine and not hasattr(value, f"{PROJECT}_impl"):
                raise PluginError(
                    f"plugin {info.label} defines {name!r} without @skyward.hookimpl", plugin=info.name
                )

    def _broken(self, info: PluginInfo, error: BaseException) -> None:
        info = _with(self._infos[info.name], state="broken", error=_describe(error))
        self._infos[info.name] = info
        if not isinstance(error, PluginError):
            place = _place(error.__traceback__, error, avoid=__file__)
            cause = error
            error = PluginError(
                f"plugin {info.label} cannot be loaded: {_describe(cause)}",
                facts=[place] if place else [],
                hints=[f"to leave it out: -p no:{info.name}"],
                plugin=info.name,
            )
            error.__cause__ = cause
        self._found(error)

    def _found(self, problem: PluginError) -> None:
        self.problems.append(problem)
        self._on_problem(problem)

    def register(self, plugin: object, name: str | None = None) -> str:
        """Adds an object with hooks, and gives its name. Its providers and strategies are found from now on.

        Raises:
            PluginError: the name is taken, a hook is unknown or does not take these arguments.
        """
        name = name or self._manager.get_canonical_name(plugin)
        if name in self._infos:
            raise PluginError(f"plugin name {name!r} is registered twice", plugin=name)
        info = PluginInfo(name=name)
        self._infos[name] = info
        try:
            self._add(plugin, info)
        except (pluggy.PluginValidationError, ValueError) as error:
            del self._infos[name]
            raise PluginError(
                f"plugin {name!r} cannot be registered: {_describe(error)}", plugin=name
            ) from error
        except PluginError:
            del self._infos[name]
            raise
        return name

    def unregister(self, plugin: object) -> None:
        """Takes an object out again; one that is not registered is fine."""
        name = self._manager.get_name(plugin)
        if name is not None and self._manager.unregister(plugin) is not None:
            del self._infos[name]
            self._registries.clear()

    def listing(self) -> list[PluginInfo]:
        """Every plugin in the order of loading, blocked and broken ones included."""
        return list(self._infos.values())

    def check(self) -> None:
        """Calls every registration hook, and raises the first problem there is.

        Raises:
            PluginError: a plugin is broken, or a name is registered twice.
        """
        self.providers(), self.strategies(), self.engines(), self.accelerators()
        if self.problems:
            raise self.problems[0]

    # -- registration hooks ----------------------------------------------------------------------------------------

    def providers(self) -> dict[str, type[Provider]]:
        """Provider classes by name, in the order of loading."""
        from skyward.contracts.provider import Provider

        def named(provider: type[Provider]) -> str:
            if not isinstance(getattr(provider, "Config", None), type):
                raise PluginError(f"provider {provider.name!r} has no Config class")
            return _checked_name(provider, Provider)

        return self._registry("provider", self._manager.hook.skyward_providers, named)

    def strategies(self) -> dict[str, type[Strategy]]:
        """Strategy classes by name."""
        from skyward.contracts.strategy import Strategy

        return self._registry(
            "strategy", self._manager.hook.skyward_strategies, lambda kind: _checked_name(kind, Strategy)
        )

    def engines(self) -> dict[str, type[Engine]]:
        """Engine classes by name."""
        from skyward.contracts.engine import Engine

        return self._registry(
            "engine", self._manager.hook.skyward_engines, lambda kind: _checked_name(kind, Engine)
        )

    def accelerators(self) -> Registry:
        """Every accelerator some plugin knows."""
        from skyward.contracts.accelerator import AcceleratorModel
        from skyward.model.accelerator import Registry

        def named(model: AcceleratorModel) -> str:
            if not isinstance(model, AcceleratorModel):
                raise PluginError(f"{model!r} is no AcceleratorModel")
            return model.name

        models = self._registry("accelerator", self._manager.hook.skyward_accelerators, named)
        with self._lock:
            if "registry of accelerators" not in self._registries:
                self._registries["registry of accelerators"] = Registry(models.values())
            registry: Registry = self._registries["registry of accelerators"]
            return registry

    def _registry(self, kind: str, caller: pluggy.HookCaller, named: Callable[[Any], str]) -> dict[str, Any]:
        with self._lock:
            if kind not in self._registries:
                self._registries[kind] = dict(self._collect(kind, caller, named))
            found: dict[str, Any] = self._registries[kind]
            return found

    def _collect(
        self, kind: str, caller: pluggy.HookCaller, named: Callable[[Any], str]
    ) -> Iterator[tuple[str, Any]]:
        owners: dict[str, PluginInfo] = {}
        for impl in caller.get_hookimpls():
            info = self._infos[impl.plugin_name]
            for value in self._answers(impl, info, caller.name):
                try:
                    name = named(value)
                except PluginError as error:
                    self._once(
                        info, kind, PluginError(f"plugin {info.label}: {error.message}", plugin=info.name)
                    )
                    continue
                if name in owners:
                    message = f"{kind} name {name!r} is registered twice: by {owners[name].label} and by {info.label}"
                    self._once(
                        info,
                        f"{kind} {name}",
                        PluginError(
                            message, hints=[f"to leave one out: -p no:{info.name}"], plugin=info.name
                        ),
                    )
                    continue
                owners[name] = info
                yield name, value

    def _answers(self, impl: pluggy.HookImpl, info: PluginInfo, hook: str) -> Sequence[Any]:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                return tuple(cast("Iterable[Any] | None", impl.function()) or ())
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._once(info, hook, self._failure(info, hook, error))
            return ()

    # -- names users give ----------------------------------------------------------------------------------------------

    def provider(self, what: object) -> type[Provider]:
        """The provider class a user means by a name or by a config value.

        Raises:
            UnknownProviderError: no installed plugin brings it; carries what was `asked` and the `known` names.
        """
        providers = self.providers()
        if isinstance(what, str) and what in providers:
            return providers[what]
        for provider in providers.values():
            if not isinstance(what, str) and isinstance(what, provider.Config):
                return provider
        raise self._unknown_provider(what if isinstance(what, str) else type(what).__name__, providers)

    def provider_config(self, attribute: str) -> type[Any] | None:
        """The config class that `sky.<attribute>` means, or None.

        Raises:
            AttributeError: none, but an installed one is spelled nearly so.
        """
        configs = {provider.Config.__name__: provider.Config for provider in self.providers().values()}
        if attribute in configs:
            return configs[attribute]
        if near := _nearest(attribute, configs):
            raise AttributeError(
                f"no provider plugin has a config class {attribute!r}; did you mean {near!r}?"
            )
        return None

    def strategy(self, name: str) -> type[Strategy]:
        """The strategy class of this name.

        Raises:
            UsageError: there is none; names the nearest.
        """
        return _named("selection", name, self.strategies())

    def engine(self, name: str) -> type[Engine]:
        """The engine class of this name.

        Raises:
            UsageError: there is none; names the nearest.
        """
        return _named("engine", name, self.engines())

    def _unknown_provider(self, asked: str, providers: Mapping[str, object]) -> UnknownProviderError:
        facts, hints = [f"installed: {', '.join(providers) or 'none'}"], []
        for info in self._infos.values():
            if info.name == asked and info.state == "broken":
                facts.append(f"plugin {info.label} is broken: {info.error}")
            if info.name == asked and info.state == "blocked":
                facts.append(f"plugin {asked!r} is blocked by no:{asked}")
        if near := _nearest(asked, providers):
            hints.append(f"did you mean {near!r}?")
        hints.append("skyward providers")
        return UnknownProviderError(
            f"no provider {asked!r} is installed",
            facts=facts,
            hints=hints,
            asked=asked,
            known=tuple(providers),
        )

    # -- configuration and collection ------------------------------------------------------------------------------------

    @property
    def hook(self) -> pluggy.HookRelay:
        """pluggy's own relay, for hooks that other plugins add. Ours have methods here."""
        return self._manager.hook

    def configure(self, config: Config) -> None:
        """Shows every plugin the effective configuration."""
        self._relay("skyward_configure", config=config)

    def collect(self, session: Any) -> list[Task]:
        """The tasks plugins add to a run."""
        answers = self._relay("skyward_collect", session=session)
        return [task for answer in reversed(answers) for task in answer]

    def modify_items(self, session: Any, items: list[Task]) -> None:
        """Lets plugins reorder, drop or replace `items`, in place."""
        self._relay("skyward_modify_items", session=session, items=items)

    def modify_offers(self, offers: list[Offer], requirements: Requirements) -> None:
        """Lets plugins forbid, tax or prefer `offers`, in place."""
        self._relay("skyward_modify_offers", offers=offers, requirements=requirements)

    # -- instances and tasks ---------------------------------------------------------------------------------------------

    def bootstrap_steps(self, instance: Instance, image: Image) -> list[Step]:
        """The steps plugins add to preparing `instance`, in the order to run them."""
        answers = self._relay("skyward_bootstrap", instance=instance, image=image)
        return sorted(
            (step for answer in answers for step in answer), key=lambda step: (step.order, step.name)
        )

    def instance_ready(self, instance: Instance, connection: Any) -> None:
        """Tells plugins of an instance before its first task.

        Raises:
            SkywardError: a plugin refuses the instance.
        """
        self._relay("skyward_instance_ready", instance=instance, connection=connection)

    def task_env(self, task: Task | None, instance: Instance) -> dict[str, str]:
        """Environment variables plugins give the workers of `instance`; later plugins win."""
        answers = self._relay("skyward_task_env", task=task, instance=instance)
        return {key: str(value) for answer in reversed(answers) for key, value in answer.items()}

    def retry_task(self, report: TaskReport) -> bool | None:
        """What the first plugin with an opinion says; None where none has, or where it fails."""
        try:
            answer: bool | None = self._relay("skyward_retry_task", report=report)
        except SkywardError as error:
            self._tell_once("skyward_retry_task", error)
            return None
        return answer

    # -- events ----------------------------------------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Shows `event` to every plugin. Never raises: a plugin that fails is told of once."""
        self._each("skyward_event", event=event)

    def wants(self, kind: type[Event]) -> bool:
        """Whether any plugin listens to events of this kind.

        A plugin that listens to a few kinds only says so with `skyward_event_types`, a tuple of event classes.
        """
        listeners = (impl.plugin for impl in self._manager.hook.skyward_event.get_hookimpls())
        return any(_listens(plugin, kind) for plugin in listeners)

    def run_finished(self, report: RunReport) -> None:
        """Tells every plugin that a run is over. Never raises."""
        self._each("skyward_run_finished", report=report)

    # -- calling ---------------------------------------------------------------------------------------------------------

    def _relay(self, name: str, **arguments: Any) -> Any:
        """pluggy's call, with what a plugin raises turned into an error that names it."""
        caller = getattr(self._manager.hook, name)
        try:
            return caller(**arguments)
        except SkywardError:
            raise
        except Exception as error:
            raise self._failure(self._culprit(caller, error), name, error) from error

    def _each(self, name: str, **arguments: Any) -> None:
        """Every implementation by itself, so that one that fails hides nothing from the others."""
        for impl in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            if "event" in arguments and not _listens(impl.plugin, type(arguments["event"])):
                continue
            try:
                impl.function(*[arguments[argument] for argument in impl.argnames])
            except Exception as error:
                info = self._infos.get(impl.plugin_name) or PluginInfo(name=impl.plugin_name)
                self._once(info, name, self._failure(info, name, error))

    def _culprit(self, caller: pluggy.HookCaller, error: BaseException) -> PluginInfo:
        """Whose code the error came through."""
        codes = {
            getattr(impl.function, "__code__", None): impl.plugin_name for impl in caller.get_hookimpls()
        }
        trace = error.__traceback__
        while trace is not None:
            if name := codes.get(trace.tb_frame.f_code):
                return self._infos.get(name) or PluginInfo(name=name)
            trace = trace.tb_next
        return PluginInfo(name=", ".join(codes.values()) or "?")

    def _failure(self, info: PluginInfo, hook: str, error: BaseException) -> PluginError:
        place = _place(error.__traceback__, error, avoid=__file__)
        failure = PluginError(
            f"plugin {info.label} failed in {hook}: {_describe(error)}",
            facts=[place] if place else [],
            hints=[f"to leave it out: -p no:{info.name}"],
            plugin=info.name,
        )
        failure.__cause__ = error
        return failure

    def _once(self, info: PluginInfo, where: str, problem: PluginError) -> None:
        with self._lock:
            if (info.name, where) in self._told:
                return
            self._told.add((info.name, where))
        self._found(problem)

    def _tell_once(self, where: str, error: SkywardError) -> None:
        name = str(getattr(error, "plugin", "?"))
        problem = error if isinstance(error, PluginError) else PluginError(f"{where}: {error}", plugin=name)
        self._once(PluginInfo(name=name), where, problem)


_ONE_BY_ONE = frozenset(
    {
        "skyward_providers",
        "skyward_accelerators",
        "skyward_strategies",
        "skyward_engines",
        "skyward_event",
        "skyward_run_finished",
    }
)
"""Hooks whose implementations are called one at a time; wrappers would see nothing there."""


# -- the plugins of this process -----------------------------------------------------------------------------------

_lock = threading.RLock()
_current: Plugins | None = None
_loaded = False
_names: tuple[str, ...] = ()


def choose(names: Iterable[str]) -> None:
    """More plugins for `get_plugins` to load or leave out ("acme", "no:acme"), before it is first called.

    For the command line (`-p`).
    """
    global _names
    with _lock:
        _names = (*_names, *names)


def get_plugins(*, strict: bool = False) -> Plugins:
    """The plugins of this process, loaded at the first call.

    Problems become warnings. With `strict` they raise instead, at every such call: whoever rents machines does
    not go on with half of the plugins that were asked for.

    Raises:
        PluginError: a plugin named by the user does not exist; with `strict`, any problem.
    """
    global _current, _loaded
    if not _loaded:
        with _lock:
            if _current is None:
                # Set first: a plugin that says `sky.AWS` while it is imported gets what is there by then.
                _current = Plugins()
                try:
                    _current.load(names=(*_configured(), *_names))
                except BaseException:
                    _current = None
                    raise
                _loaded = True
    assert _current is not None
    if strict:
        _current.check()
    return _current


def _configured() -> Sequence[str]:
    """`plugins = [...]` of the configuration."""
    from skyward.config import load_config

    names: Sequence[str] = load_config().get("plugins", ())
    return names


def _installed(environ: Mapping[str, str]) -> tuple[EntryPoint, ...]:
    from skyward.config import Places
    from skyward.entry_points import installed

    return installed(Places.find(environ).cache)


def _version() -> str:
    from skyward import __version__

    return __version__


# -- files and modules -----------------------------------------------------------------------------------------------

_MARKS = ("skyward.toml", "pyproject.toml", ".git")


def find_skyfile(start: Path) -> Path | None:
    """The `skyfile.py` in `start`, or beside a project file in a directory above it, or None.

    The search ends at the root of the repository. A file in a directory that anybody may write to is passed
    over, because its author may be anybody.
    """
    start = start.absolute()
    for directory in (start, *start.parents):
        file = directory / f"{SKYFILE}.py"
        in_project = directory == start or any((directory / mark).exists() for mark in _MARKS)
        if in_project and file.is_file() and not _is_public(directory):
            return file
        if (directory / ".git").exists():
            return None
    return None


def _is_public(directory: Path) -> bool:
    status = directory.stat()
    return bool(status.st_mode & 0o002) and status.st_uid != os.getuid()


def _import_skyfile(file: Path) -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    _append_path(file.parent)
    spec = spec_from_file_location(SKYFILE, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[SKYFILE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[SKYFILE]
        raise
    return module


def _is_module(name: str, start: Path) -> bool:
    from importlib.util import find_spec

    _append_path(start)
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _append_path(directory: Path) -> None:
    """Last, so that no file of a project can shadow an installed module."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


@contextlib.contextmanager
def _watchdog() -> Iterator[Callable[[str], None]]:
    """Names the plugin that is being loaded when loading takes too long."""
    current = [""]

    def tell() -> None:
        print(
            f"warning: plugin {current[0]!r} has been loading for {SLOW_IMPORT_S:g} s; to leave it out: -p no:{current[0]}",
            file=sys.stderr,
        )

    def loading(name: str) -> None:
        current[0] = name

    timer = threading.Timer(SLOW_IMPORT_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield loading
    finally:
        timer.cancel()


# -- words -------------------------------------------------------------------------------------------------------------


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _with(info: PluginInfo, **changes: Any) -> PluginInfo:
    from dataclasses import replace

    return replace(info, **changes)


def _listens(plugin: object, kind: type[Event]) -> bool:
    kinds = getattr(plugin, "skyward_event_types", None)
    return kinds is None or issubclass(kind, tuple(kinds))


def _checked_name(kind: Any, base: type[Any]) -> str:
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise PluginError(f"{kind!r} is no subclass of skyward.{base.__name__}")
    missing = sorted(getattr(kind, "__abstractmethods__", ()))
    if missing:
        raise PluginError(f"{kind.__name__} does not define {', '.join(missing)}")
    name = getattr(kind, "name", None)
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise PluginError(f"{kind.__name__}.name is {name!r}, not a lower-case identifier")
    return name


def _nearest(asked: str, known: Iterable[str]) -> str | None:
    folded = {name.casefold(): name for name in known}
    near = get_close_matches(asked.casefold(), list(folded), n=1)
    return folded[near[0]] if near else None


def _named(kind: str, name: str, known: Mapping[str, type[T]]) -> type[T]:
    if name in known:
        return known[name]
    near = _nearest(name, known)
    raise UsageError(
        f"unknown {kind} {name!r}",
        facts=[f"known: {', '.join(known)}"],
        hints=[f"did you mean {near!r}?"] if near else (),
        asked=name,
        known=tuple(known),
    )


def _describe(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(trace: TracebackType | None, error: BaseException, *, avoid: str) -> str:
    """`file:line` where a stranger's code failed."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    place = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != avoid and not file.startswith("<") and os.sep + "importlib" + os.sep not in file:
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _warn(problem: SkywardError) -> None:
    try:
        warnings.warn(
            SkywardWarning("; ".join([problem.message, *problem.facts]), hints=problem.hints), stacklevel=2
        )
    except SkywardWarning:
        pass  # turned into an error by a filter; `problems` has it, and events must go on
