"""The typed door to every hook: one method each, so that "go to definition" leads to the code that runs.

Imports `contracts` and below. A plugin that cannot be used is left out and told; `problems` holds one PluginError
each. What a plugin raises in a hook becomes a PluginError that names it.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import pluggy

from skyward.errors import PluginError, SkywardError, SkywardWarning, UnknownProviderError, UsageError
from skyward.plugin_loading import Loader, PluginInfo, describe, place_of

if TYPE_CHECKING:
    from skyward.config import Config
    from skyward.contracts.engine import Engine
    from skyward.contracts.provider import Provider
    from skyward.contracts.step import Step
    from skyward.contracts.strategy import Strategy
    from skyward.entry_points import EntryPoint
    from skyward.model.accelerator_model import Registry
    from skyward.model.event import Event
    from skyward.model.image import Image
    from skyward.model.instance import Instance
    from skyward.model.offer import Offer
    from skyward.model.report import RunReport, TaskReport
    from skyward.model.requirements import Requirements
    from skyward.model.task import Task

_NAME = re.compile(r"[a-z][a-z0-9_-]*")

T = TypeVar("T")
Kind = Literal["provider", "strategy", "engine", "accelerator"]


class Plugins:
    """The plugins of this process, and one method per hook.

    Registration hooks are called when their answers are first needed, each plugin by itself, so that one broken
    plugin takes nothing else with it. `on_problem` hears of each problem once, when it is found.
    """

    def __init__(self, *, on_problem: Callable[[PluginError], None] | None = None) -> None:
        self._on_problem = on_problem or _warn
        self._loader = Loader(self._found)
        self._lock = threading.RLock()
        self._registered: dict[Kind, dict[str, Any]] = {}
        self._owners: dict[tuple[Kind, str], PluginInfo] = {}
        self._registry: Registry | None = None
        self._told: set[tuple[str, str]] = set()
        self._configured: Config | None = None
        self.problems: list[PluginError] = []
        """Plugins that could not be used as they are."""
        self.failures: list[PluginError] = []
        """What plugins raised in hooks that may not raise, the first of each plugin and hook."""

    def load(
        self,
        *,
        names: Sequence[str] = (),
        start: Path | None = None,
        environ: Mapping[str, str] = os.environ,
        points: Sequence[EntryPoint] | None = None,
    ) -> Plugins:
        """Loads built-in and installed plugins, `names` ("acme", "no:acme") and the skyfile at or above `start`.

        `points` are the installed entry points; None looks them up.

        Raises:
            PluginError: one of `names` is no plugin and no module (exit 2).
        """
        self._loader.load_all(names=names, start=start or Path.cwd(), environ=environ, points=points)
        self._forget()
        return self

    def register(self, plugin: object, name: str | None = None) -> str:
        """Adds an object with hooks, and gives its name. What it brings is found from now on.

        Raises:
            PluginError: the name is taken, a hook is unknown or does not take these arguments.
        """
        name = name or self._loader.manager.get_canonical_name(plugin)
        self._loader.add(plugin, PluginInfo(name=name))
        self._forget()
        return name

    def unregister(self, plugin: object) -> None:
        """Takes an object out again; one that is not registered is fine."""
        if self._loader.remove(plugin):
            self._forget()

    def listing(self) -> list[PluginInfo]:
        """Every plugin in the order of loading, blocked and broken ones included."""
        return list(self._loader.infos.values())

    def check(self) -> None:
        """Calls every registration hook, and raises the first problem there is.

        Raises:
            PluginError: a plugin is broken, or a name is registered twice.
        """
        self.providers(), self.strategies(), self.engines(), self.accelerators()
        if self.problems:
            raise self.problems[0]

    def owner(self, kind: Kind, name: str) -> PluginInfo | None:
        """The plugin that brings the provider, strategy, engine or accelerator of this name."""
        self._all(kind)
        return self._owners.get((kind, name))

    # -- registration hooks --------------------------------------------------------------------------------------

    def providers(self) -> dict[str, type[Provider]]:
        """Provider classes by name, in the order of loading."""
        return self._all("provider")

    def strategies(self) -> dict[str, type[Strategy]]:
        """Strategy classes by name."""
        return self._all("strategy")

    def engines(self) -> dict[str, type[Engine]]:
        """Engine classes by name."""
        return self._all("engine")

    def accelerators(self) -> Registry:
        """Every accelerator some plugin knows."""
        from skyward.model.accelerator_model import Registry

        with self._lock:
            if self._registry is None:
                self._registry = Registry(self._all("accelerator").values())
            return self._registry

    def _all(self, kind: Kind) -> dict[str, Any]:
        with self._lock:
            if kind not in self._registered:
                self._registered[kind] = dict(self._registrations(kind))
            return self._registered[kind]

    def _registrations(self, kind: Kind) -> Iterator[tuple[str, Any]]:
        caller = _caller(self._loader.manager.hook, kind)
        for impl in caller.get_hookimpls():
            info = self._info(impl.plugin_name)
            for value in self._answers(impl, info, caller.name):
                try:
                    name = _name_of(kind, value, info)
                    self._own(kind, name, info)
                except PluginError as error:
                    self._once(info, error.message, error, self._found)
                else:
                    yield name, value

    def _own(self, kind: Kind, name: str, info: PluginInfo) -> None:
        owner = self._owners.setdefault((kind, name), info)
        if owner is not info:
            raise PluginError(
                f"{kind} name {name!r} is registered twice: by {owner.label} and by {info.label}",
                hints=[f"to leave one out: -p no:{info.name}"],
                plugin=info.name,
            )

    def _answers(self, impl: pluggy.HookImpl, info: PluginInfo, hook: str) -> Sequence[Any]:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the answer, whatever a plugin prints
                return tuple(cast("Iterable[Any] | None", impl.function()) or ())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's function, SystemExit included
            self._once(info, hook, _failure(info, hook, error), self._found)
            return ()

    def _forget(self) -> None:
        with self._lock:
            self._registered.clear()
            self._owners.clear()
            self._registry = None

    def _info(self, name: str) -> PluginInfo:
        return self._loader.infos.get(name) or PluginInfo(name=name)

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
        for info in self._loader.infos.values():
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
        return self._loader.manager.hook

    def configure(self, config: Config) -> None:
        """Shows every plugin the effective configuration, once. A plugin that fails over it is a problem.

        Raises:
            SkywardError: a plugin refuses the configuration.
        """
        if config == self._configured:
            return
        self._configured = config
        try:
            self._relay("skyward_configure", config=config)
        except PluginError as error:
            self._once(
                self._info(str(getattr(error, "plugin", "?"))), "skyward_configure", error, self._found
            )

    def collect(self, session: Any) -> list[Task]:
        """The tasks plugins add to a run."""
        from skyward.model.task import Task

        answers = self._relay("skyward_collect", session=session)
        tasks = [_listed(answer, Task, "skyward_collect") for answer in reversed(answers)]
        return [task for each in tasks for task in each]

    def modify_items(self, session: Any, items: list[Task]) -> None:
        """Lets plugins reorder, drop or replace `items`, in place."""
        self._relay("skyward_modify_items", session=session, items=items)

    def modify_offers(self, offers: list[Offer], requirements: Requirements) -> None:
        """Lets plugins forbid, tax or prefer `offers`, in place."""
        self._relay("skyward_modify_offers", offers=offers, requirements=requirements)

    # -- instances and tasks ---------------------------------------------------------------------------------------------

    def bootstrap_steps(self, instance: Instance, image: Image) -> list[Step]:
        """The steps plugins add to preparing `instance`, in the order to run them."""
        from skyward.contracts.step import Step

        answers = self._relay("skyward_bootstrap", instance=instance, image=image)
        steps = [step for answer in answers for step in _listed(answer, Step, "skyward_bootstrap")]
        return sorted(steps, key=lambda step: (step.order, step.name))

    def instance_ready(self, instance: Instance, connection: Any) -> None:
        """Tells plugins of an instance before its first task.

        Raises:
            SkywardError: a plugin refuses the instance.
        """
        self._relay("skyward_instance_ready", instance=instance, connection=connection)

    def task_env(self, task: Task | None, instance: Instance) -> dict[str, str]:
        """Environment variables plugins give the workers of `instance`; later plugins win."""
        answers = self._relay("skyward_task_env", task=task, instance=instance)
        for answer in answers:
            if not isinstance(answer, Mapping):
                raise PluginError(f"a plugin answered {answer!r} to skyward_task_env, not a mapping")
        return {key: str(value) for answer in reversed(answers) for key, value in answer.items()}

    def retry_task(self, report: TaskReport) -> bool | None:
        """What the first plugin with an opinion says; None where none has, or where it fails."""
        try:
            answer: bool | None = self._relay("skyward_retry_task", report=report)
        except SkywardError as error:
            problem = error if isinstance(error, PluginError) else PluginError(error.message)
            self._once(
                PluginInfo(name=getattr(error, "plugin", "?")), "skyward_retry_task", problem, self._failed
            )
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
        listeners = (impl.plugin for impl in self._loader.manager.hook.skyward_event.get_hookimpls())
        return any(_listens(plugin, kind) for plugin in listeners)

    def run_finished(self, report: RunReport) -> None:
        """Tells every plugin that a run is over. Never raises."""
        self._each("skyward_run_finished", report=report)

    # -- calling -------------------------------------------------------------------------------------------------

    def _relay(self, name: str, **arguments: Any) -> Any:
        """pluggy's call, with what a plugin raises turned into an error that names it."""
        caller: pluggy.HookCaller = getattr(self._loader.manager.hook, name)
        try:
            return caller(**arguments)
        except SkywardError:
            raise
        except Exception as error:
            raise _failure(self._culprit(caller, error), name, error) from error

    def _each(self, name: str, **arguments: Any) -> None:
        """Every implementation by itself, so that one that fails hides nothing from the others."""
        caller: pluggy.HookCaller = getattr(self._loader.manager.hook, name)
        for impl in reversed(caller.get_hookimpls()):
            if "event" in arguments and not _listens(impl.plugin, type(arguments["event"])):
                continue
            try:
                impl.function(*[arguments[argument] for argument in impl.argnames])
            except Exception as error:
                info = self._info(impl.plugin_name)
                self._once(info, name, _failure(info, name, error), self._failed)

    def _culprit(self, caller: pluggy.HookCaller, error: BaseException) -> PluginInfo:
        """Whose code the error came through."""
        codes = {
            getattr(impl.function, "__code__", None): impl.plugin_name for impl in caller.get_hookimpls()
        }
        trace = error.__traceback__
        while trace is not None:
            if name := codes.get(trace.tb_frame.f_code):
                return self._info(name)
            trace = trace.tb_next
        return PluginInfo(name=" or ".join(codes.values()))

    def _once(
        self, info: PluginInfo, where: str, error: PluginError, tell: Callable[[PluginError], None]
    ) -> None:
        with self._lock:
            if (info.name, where) in self._told:
                return
            self._told.add((info.name, where))
        tell(error)

    def _found(self, problem: PluginError) -> None:
        self.problems.append(problem)
        self._on_problem(problem)

    def _failed(self, failure: PluginError) -> None:
        self.failures.append(failure)
        self._on_problem(failure)


# -- the plugins of this process -----------------------------------------------------------------------------------

_lock = threading.RLock()
_current: Plugins | None = None
_is_loaded = False
_names: tuple[str, ...] = ()


def choose(names: Iterable[str]) -> None:
    """More plugins for `get_plugins` to load or leave out ("acme", "no:acme"), before it is first called.

    For the command line (`-p`).
    """
    global _names
    with _lock:
        _names = (*_names, *names)


def get_plugins(*, strict: bool = False) -> Plugins:
    """The plugins of this process, loaded at the first call; from then on they name accelerators, too.

    Problems become warnings. With `strict` they raise instead, at every such call: whoever rents machines does
    not go on with half of the plugins that were asked for.

    Raises:
        PluginError: a plugin named by the user does not exist; with `strict`, any problem.
        ConfigError: the configuration, which may name plugins, cannot be used.
    """
    if not _is_loaded:
        _load()
    assert _current is not None
    if strict:
        _current.check()
    return _current


def _load() -> None:
    from skyward.config import load_config
    from skyward.model.accelerator import set_registry

    global _current, _is_loaded
    with _lock:
        if _current is not None:
            return  # a plugin asks while it is imported (`sky.AWS` in a skyfile): it gets what is there by then
        config = load_config()
        configured: Sequence[str] = config.get("plugins", ())
        _current = Plugins()
        try:
            _current.load(names=(*configured, *_names))
            _current.configure(config)
        except BaseException:
            _current = None
            raise
        _is_loaded = True
        set_registry(_current.accelerators)


# -- words -------------------------------------------------------------------------------------------------------------


def _caller(hook: pluggy.HookRelay, kind: Kind) -> pluggy.HookCaller:
    match kind:
        case "provider":
            return hook.skyward_providers
        case "strategy":
            return hook.skyward_strategies
        case "engine":
            return hook.skyward_engines
        case "accelerator":
            return hook.skyward_accelerators


def _name_of(kind: Kind, value: Any, info: PluginInfo) -> str:
    """The name under which a plugin registers `value`, which has been looked at first."""
    from skyward.contracts.accelerator import AcceleratorModel
    from skyward.contracts.engine import Engine
    from skyward.contracts.provider import Provider
    from skyward.contracts.strategy import Strategy

    if kind == "accelerator":
        if not isinstance(value, AcceleratorModel):
            raise PluginError(f"plugin {info.label}: {value!r} is no AcceleratorModel", plugin=info.name)
        return value.name
    base: type[Any] = {"provider": Provider, "strategy": Strategy, "engine": Engine}[kind]
    if complaint := _complaint(value, base):
        raise PluginError(f"plugin {info.label}: {complaint}", plugin=info.name)
    name: str = value.name
    return name


def _complaint(value: Any, base: type[Any]) -> str:
    """What keeps `value` from being used as a class of this base; "" if nothing."""
    if not (isinstance(value, type) and issubclass(value, base)):
        return f"{value!r} is no subclass of skyward.{base.__name__}"
    if missing := sorted(getattr(value, "__abstractmethods__", ())):
        return f"{value.__name__} does not define {', '.join(missing)}"
    name = getattr(value, "name", None)
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        return f"{value.__name__}.name is {name!r}, not a lower-case identifier"
    if base.__name__ == "Provider" and not isinstance(getattr(value, "Config", None), type):
        return f"{value.__name__} has no Config class"
    return ""


def _listed(answer: Any, kind: type[T], hook: str) -> list[T]:
    """The items of one plugin's answer, all of which are of this kind."""
    try:
        items = list(answer)
    except TypeError:
        items = [answer]
    for item in items:
        if not isinstance(item, kind):
            raise PluginError(f"a plugin answered {item!r} to {hook}, not a {kind.__name__}")
    return items


def _failure(info: PluginInfo, hook: str, error: BaseException) -> PluginError:
    place = place_of(error)
    failure = PluginError(
        f"plugin {info.label} failed in {hook}: {describe(error)}",
        facts=[f"at {place}"] if place else [],
        hints=[f"to leave it out: -p no:{info.name}"],
        plugin=info.name,
    )
    failure.__cause__ = error
    return failure


def _listens(plugin: object, kind: type[Event]) -> bool:
    kinds = getattr(plugin, "skyward_event_types", None)
    return kinds is None or issubclass(kind, tuple(kinds))


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


def _warn(problem: PluginError) -> None:
    try:
        text = "; ".join([problem.message, *problem.facts])
        warnings.warn(SkywardWarning(text, hints=problem.hints), stacklevel=2)
    except SkywardWarning:
        pass  # a filter makes it an error; `problems` has it already, and events must go on
