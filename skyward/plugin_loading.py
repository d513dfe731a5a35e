"""Finds, names, blocks and checks plugins; what cannot be used is left out and told. Imports `contracts` and below.

`skyward.plugins` calls the hooks of what was loaded here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Literal

import pluggy

from skyward.contracts import hookspecs
from skyward.entry_points import EntryPoint, autoload, installed
from skyward.errors import ExitCode, PluginError

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
HOOKS = tuple(name for name in vars(hookspecs) if name.startswith("skyward_"))
ONE_BY_ONE = frozenset(
    {
        "skyward_providers",
        "skyward_accelerators",
        "skyward_strategies",
        "skyward_engines",
        "skyward_event",
        "skyward_run_finished",
    }
)
"""Hooks whose implementations are called one at a time, so that one that fails hides nothing; a wrapper would
see nothing there and is refused."""
SLOW_LOAD_S = 5.0
"""A plugin that takes longer to load is named on standard error, so that a hang has an address."""


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
        source = f"{self.distribution} {self.version}".strip() or self.origin
        return f"{self.name!r} ({source})" if source else repr(self.name)


@dataclass(frozen=True, slots=True)
class _Source:
    """One plugin that is there to be loaded, and the module it is in."""

    info: PluginInfo
    module: str
    load: Callable[[], object]


class Loader:
    """The plugins that were found, by name, in the order of loading."""

    def __init__(self, found: Callable[[PluginError], None]) -> None:
        """`found` is called with each problem, once, when it is found."""
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self._found = found
        self._seen: list[_Source] = []
        self._blocked: dict[str, None] = {}

    def load_all(
        self,
        *,
        names: Sequence[str],
        start: Path,
        environ: Mapping[str, str],
        points: Sequence[EntryPoint] | None,
    ) -> None:
        """Built-in plugins, installed ones, those of `names` and SKYWARD_PLUGINS, and the skyfile, in this order.

        Raises:
            PluginError: a name the user gave is no plugin and no module (exit 2).
        """
        wanted = [*_split(environ.get("SKYWARD_PLUGINS", "")), *names]
        self._blocked = dict.fromkeys(name[3:] for name in wanted if name.startswith("no:"))
        explicit = [name for name in dict.fromkeys(wanted) if not name.startswith("no:")]
        with _watchdog() as loading:
            for source in self._sources(explicit, start, environ, points):
                loading(source.info.name)
                self._load(source)
        known = {name for source in self._seen for name in (source.info.name, source.module)}
        for name in self._blocked:
            if name not in known:
                self.infos[name] = PluginInfo(name=name, state="blocked")

    def _sources(
        self,
        explicit: Sequence[str],
        start: Path,
        environ: Mapping[str, str],
        points: Sequence[EntryPoint] | None,
    ) -> Iterator[_Source]:
        """What there is to load. A plugin may be meant by its name or by that of its module."""
        for name, module in BUILTIN.items():
            info = PluginInfo(name=name, distribution=PROJECT, version=_version())
            yield _Source(info, module, partial(import_module, module))
        is_auto = autoload(environ)
        if points is None:
            points = _installed(environ) if is_auto or explicit else ()
        for point in points:
            if point.group == PROJECT and (is_auto or {point.name, point.module} & {*explicit}):
                info = PluginInfo(name=point.name, distribution=point.distribution, version=point.version)
                yield _Source(info, point.module, point.load)
        met = {name for source in self._seen for name in (source.info.name, source.module)}
        for name in explicit:
            if name not in met and name not in self._blocked:
                _require_module(name, start, known=tuple(self.infos))
                yield _Source(PluginInfo(name=name), name, partial(import_module, name))
        if file := find_skyfile(start):
            info = PluginInfo(name=SKYFILE, origin=str(file))
            yield _Source(info, SKYFILE, partial(_import_skyfile, file))

    def _load(self, source: _Source) -> None:
        info = source.info
        self._seen.append(source)
        if info.name in self.infos:
            self._found(_doubled(self.infos[info.name], info))
            return
        if {info.name, source.module} & {*self._blocked}:
            self.infos[info.name] = replace(info, state="blocked")
            return
        began = time.perf_counter()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is the answer, whatever a plugin prints
                self.add(source.load(), info)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module, SystemExit included
            self.infos[info.name] = replace(info, state="broken", error=describe(error))
            self._found(error if isinstance(error, PluginError) else _broken(info, error))
        else:
            took_ms = (time.perf_counter() - began) * 1000
            self.infos[info.name] = replace(self.infos[info.name], load_ms=took_ms)

    def add(self, plugin: object, info: PluginInfo) -> None:
        """Registers one object with hooks.

        Raises:
            PluginError: its name is taken; it implements an unknown hook, or one with unknown arguments.
        """
        if info.name in self.infos:
            raise _doubled(self.infos[info.name], info)
        if other := self.manager.get_name(plugin):
            message = f"plugin {info.label} is the same object as plugin {self.infos[other].label}"
            raise PluginError(message, plugin=info.name)
        info = replace(info, origin=info.origin or getattr(plugin, "__file__", None) or "")
        try:
            self.manager.register(plugin, info.name)
            callers = self.manager.get_hookcallers(plugin) or []
            for caller in callers:
                _check_hook(caller, plugin, info)
            if isinstance(plugin, ModuleType):
                _check_markers(plugin, info)
        except (pluggy.PluginValidationError, ValueError) as error:
            self.manager.unregister(name=info.name) if self.manager.has_plugin(info.name) else None
            raise PluginError(f"plugin {info.label}: {describe(error)}", plugin=info.name) from error
        except PluginError:
            self.manager.unregister(name=info.name)
            raise
        self.infos[info.name] = replace(info, hooks=tuple(sorted(caller.name for caller in callers)))

    def remove(self, plugin: object) -> bool:
        """Takes an object out again; False where it was not registered."""
        name = self.manager.get_name(plugin)
        if name is None:
            return False
        self.manager.unregister(plugin)
        del self.infos[name]
        return True


def _check_hook(caller: pluggy.HookCaller, plugin: object, info: PluginInfo) -> None:
    mine = [impl for impl in caller.get_hookimpls() if impl.plugin is plugin]
    if not caller.has_spec() and not all(impl.optionalhook for impl in mine):
        near = get_close_matches(caller.name, HOOKS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise PluginError(
            f"plugin {info.label} implements an unknown hook {caller.name!r}{meant}", plugin=info.name
        )
    if caller.name in ONE_BY_ONE and any(impl.wrapper or impl.hookwrapper for impl in mine):
        message = f"plugin {info.label} wraps {caller.name!r}, which is called one plugin at a time"
        raise PluginError(message, plugin=info.name)


def _check_markers(module: ModuleType, info: PluginInfo) -> None:
    """A hook without its marker would never be called, and nobody would know why."""
    for name in HOOKS:
        value = vars(module).get(name)
        is_mine = callable(value) and getattr(value, "__module__", None) == module.__name__
        if is_mine and not hasattr(value, f"{PROJECT}_impl"):
            raise PluginError(
                f"plugin {info.label} defines {name!r} without @skyward.hookimpl", plugin=info.name
            )


# -- where plugins come from -------------------------------------------------------------------------------------


def find_skyfile(start: Path) -> Path | None:
    """The `skyfile.py` in `start`, or beside a project file in a directory above it, or None.

    The search ends at the root of the repository. A file in a directory that anybody may write to, and that is
    not ours, is passed over: its author may be anybody.
    """
    start = start.absolute()
    for directory in (start, *start.parents):
        file = directory / f"{SKYFILE}.py"
        marks = (directory / mark for mark in ("skyward.toml", "pyproject.toml", ".git"))
        if (
            file.is_file()
            and not _is_public(directory)
            and (directory == start or any(mark.exists() for mark in marks))
        ):
            return file
        if (directory / ".git").exists():
            return None
    return None


def _is_public(directory: Path) -> bool:
    status = directory.stat()
    return bool(status.st_mode & 0o002) and status.st_uid != os.getuid()


def _import_skyfile(file: Path) -> ModuleType:
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


def _require_module(name: str, start: Path, known: Sequence[str]) -> None:
    """The user named a plugin that is not installed: it is a module, which may be one of the current project."""
    _append_path(start)
    try:
        is_module = find_spec(name) is not None
    except (ImportError, ValueError):
        is_module = False
    if not is_module:
        near = get_close_matches(name, known, n=1)
        raise PluginError(
            f"no plugin and no module is called {name!r}",
            facts=[f"installed plugins: {', '.join(known)}"],
            hints=[f"did you mean {near[0]!r}?"] if near else ["skyward plugins"],
            plugin=name,
            exit_code=ExitCode.USAGE,
        )


def _append_path(directory: Path) -> None:
    """Last, so that no file of a project can shadow an installed module."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _installed(environ: Mapping[str, str]) -> tuple[EntryPoint, ...]:
    from skyward.config import Places

    return installed(Places.find(environ).cache)


def _version() -> str:
    from skyward import __version__

    return __version__


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@contextlib.contextmanager
def _watchdog() -> Iterator[Callable[[str], None]]:
    """Names the plugin that is being loaded when loading takes too long."""
    current = [""]

    def tell() -> None:
        name = current[0]
        text = (
            f"warning: plugin {name!r} has been loading for {SLOW_LOAD_S:g} s; to leave it out: -p no:{name}"
        )
        print(text, file=sys.stderr, flush=True)

    def loading(name: str) -> None:
        current[0] = name

    timer = threading.Timer(SLOW_LOAD_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield loading
    finally:
        timer.cancel()


# -- words -------------------------------------------------------------------------------------------------------


def _doubled(first: PluginInfo, second: PluginInfo) -> PluginError:
    message = f"plugin name {second.name!r} is registered twice: by {first.label} and by {second.label}"
    return PluginError(message, plugin=second.name)


def _broken(info: PluginInfo, error: BaseException) -> PluginError:
    place = place_of(error)
    problem = PluginError(
        f"plugin {info.label} cannot be loaded: {describe(error)}",
        facts=[f"at {place}"] if place else [],
        hints=[f"to leave it out: -p no:{info.name}"],
        plugin=info.name,
    )
    problem.__cause__ = error
    return problem


def describe(error: BaseException) -> str:
    """An exception on one line."""
    if isinstance(error, PluginError):
        return error.message
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place_of(error: BaseException) -> str:
    """`file:line` of the innermost code that is neither ours nor the import system's; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    place = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((_HERE, "<")) and f"{os.sep}importlib{os.sep}" not in file:
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


_HERE = str(Path(__file__).parent / "plugin")
"""What the files of this module and of `skyward.plugins` begin with."""
