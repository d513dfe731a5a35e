"""What `skyward run` was asked to run: the user's module, imported, and the functions meant in it.

    pkg.mod:func   file.py:func   file.py::func   one function
    file.py        pkg.mod                        all its tasks

Imports `api` and `errors`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from skyward.api.compute import Compute, compute
from skyward.errors import TargetError

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An imported target. `functions` are what its tasks call, in the order of the file."""

    text: str
    """As the user typed it."""
    module: ModuleType
    functions: tuple[Function, ...]

    @property
    def file(self) -> str | None:
        return getattr(self.module, "__file__", None)

    def label(self, function: Function) -> str:
        """How messages and items name one of its functions: `train.py::fold`, `train::fold`."""
        return f"{self.location}::{name_of(function)}"

    @property
    def location(self) -> str:
        """The file or module part of the target."""
        return split(self.text)[0]

    def spelled(self, function: Function) -> str:
        """What to type for one of its functions: `train.py:fold`."""
        return f"{self.location}:{name_of(function)}"


def load(text: str) -> Target:
    """Imports what `text` means. Directories are searched as Python would: the file's own, then this one.

    Raises:
        TargetError: no such module, file or function, or the user's module raised while it was imported.
    """
    location, wanted = split(text)
    if not location:
        raise TargetError(f"no module or file in {text!r}", hints=["skyward run FILE.py:FUNCTION"])
    module = _import_file(Path(location), wanted) if _is_file(location) else _import_module(location, wanted)
    functions = (_find(module, location, wanted),) if wanted else _all_tasks(module, location)
    return Target(text=text, module=module, functions=functions)


def split(text: str) -> tuple[str, str]:
    """File or module, and function or ""."""
    location, double, function = text.rpartition("::")
    if not double:
        location, single, function = text.rpartition(":")
        if not single:
            return text, ""
    return location, function


def _is_file(location: str) -> bool:
    return location.endswith((".py", ".ipynb")) or os.sep in location


# -- importing -------------------------------------------------------------------------------------------------


def _import_module(name: str, wanted: str) -> ModuleType:
    _search_first(os.getcwd())
    if not all(part.isidentifier() for part in name.split(".")):
        raise _no_module(name, wanted)
    try:
        with _users_code(f"cannot import {name!r}"):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise _no_module(name, wanted) from None
        raise _failed(f"cannot import {name!r}", error) from error


def _import_file(path: Path, wanted: str) -> ModuleType:
    """The file as a module, under the name that an import statement beside it would use."""
    if not path.is_file() or path.suffix != ".py":
        raise _no_file(path, wanted)
    path = path.absolute()
    root, name = _import_root(path)
    if "." in path.stem:
        raise TargetError(
            f"cannot import {path.name!r}: a module's name has no dots",
            hints=[f"mv {path.name} {path.stem.replace('.', '_')}.py"],
        )
    _search_first(os.getcwd())
    _search_first(str(root))
    if (known := sys.modules.get(name)) is not None:
        return _same_file(known, path, name)
    try:
        with _users_code(f"{path.name} failed while it was imported"):
            return _same_file(importlib.import_module(name), path, name)
    except ModuleNotFoundError as error:
        raise _failed(f"{path.name} failed while it was imported", error) from error


def _import_root(path: Path) -> tuple[Path, str]:
    """The directory a file's module is found from, and the module's full name: packages have an __init__.py."""
    names = [] if path.stem == "__init__" else [path.stem]
    directory = path.parent
    while (directory / "__init__.py").is_file() and directory.name.isidentifier():
        names.insert(0, directory.name)
        directory = directory.parent
    return directory, ".".join(names)


def _same_file(module: ModuleType, path: Path, name: str) -> ModuleType:
    found = getattr(module, "__file__", None)
    if found is not None and os.path.realpath(found) == os.path.realpath(path):
        return module
    raise TargetError(
        f"{path.name!r} has the name of another module, {name!r}",
        facts=[f"that one is {found or 'built into Python'}; workers would import it too"],
        hints=[f"mv {path.name} my_{path.name}"],
    )


def _search_first(directory: str) -> None:
    if not sys.path or sys.path[0] != directory:
        sys.path.insert(0, directory)
        importlib.invalidate_caches()


@contextlib.contextmanager
def _users_code(what: str) -> Iterator[None]:
    """Around an import: whatever the user's module raises becomes a TargetError that carries its traceback."""
    try:
        yield
    except (ModuleNotFoundError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's module, SystemExit included
        raise _failed(what, error) from error


def _failed(what: str, error: BaseException) -> TargetError:
    return TargetError(
        f"{what}: {_one_line(error)}", traceback=users_traceback(error), hints=list(_import_hints(error))
    )


def _import_hints(error: BaseException) -> Iterator[str]:
    if isinstance(error, ModuleNotFoundError) and error.name:
        yield f"uv pip install {error.name.partition('.')[0]}"


def users_traceback(error: BaseException) -> str:
    """The traceback without our frames and those of the import machinery; "" where nothing else is left."""
    shown = traceback.TracebackException.from_exception(error)
    _trim(shown)
    if not shown.stack and not isinstance(error, SyntaxError):
        return ""
    return "".join(shown.format())


def _trim(shown: traceback.TracebackException | None) -> None:
    while shown is not None:
        theirs = [frame for frame in shown.stack if not _is_machinery(frame.filename)]
        shown.stack = traceback.StackSummary.from_list(theirs)
        _trim(shown.__cause__)
        shown = shown.__context__


def _is_machinery(file: str) -> bool:
    return file.startswith(("<frozen importlib", _OURS)) or file == importlib.__file__


_OURS = str(Path(__file__).parents[1]) + os.sep
"""The directory of this package."""


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# -- what is not there ---------------------------------------------------------------------------------------------


def _no_module(name: str, wanted: str) -> TargetError:
    here = os.getcwd()
    parent = name.rpartition(".")[0]
    nearby = {f"{parent}.{each}" if parent else each for each in _importable(Path(here, *parent.split(".")))}
    near = get_close_matches(name, nearby, n=1)
    hints = (
        [f"found {_as_file(near[0])} - did you mean `skyward run {_joined(near[0], wanted)}`?"]
        if near
        else []
    )
    return TargetError(
        f"cannot import {name!r}",
        facts=[f"no module or file {name!r} in {here} (sys.path[0])"],
        hints=hints or ["skyward run FILE.py:FUNCTION"],
        asked=name,
    )


def _no_file(path: Path, wanted: str) -> TargetError:
    if path.is_dir():
        files = sorted(each.name for each in path.glob("*.py"))
        return TargetError(
            f"{str(path)!r} is a directory, not a file",
            facts=[f"it holds {', '.join(files[:8]) or 'no .py file'}"],
            hints=[f"skyward run {path / files[0]}"] if files else [],
        )
    if path.is_file():
        return TargetError(f"{str(path)!r} is no Python source: its name does not end in .py")
    facts = [f"{path.parent} is no directory"]
    hints = []
    if path.parent.is_dir():
        files = sorted(each.name for each in path.parent.glob("*.py"))
        facts = [f"{path.parent.absolute()} holds {', '.join(files[:8]) or 'no .py file'}"]
        near = get_close_matches(path.name, files, n=1)
        hints = [f"did you mean `skyward run {_joined(str(path.parent / near[0]), wanted)}`?"] if near else []
    return TargetError(f"no file {str(path)!r}", facts=facts, hints=hints, asked=str(path))


def _importable(directory: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in directory.iterdir():
            if entry.suffix == ".py" and entry.stem.isidentifier() and entry.stem != "__init__":
                yield entry.stem
            elif (entry / "__init__.py").is_file():
                yield entry.name


def _as_file(name: str) -> str:
    path = Path(*name.split("."))
    return str(path.with_suffix(".py")) if path.with_suffix(".py").is_file() else f"{path}{os.sep}"


def _joined(location: str, function: str) -> str:
    return f"{location}:{function}" if function else location


# -- functions -----------------------------------------------------------------------------------------------------


def _find(module: ModuleType, location: str, wanted: str) -> Function:
    found: Any = module
    for part in wanted.split("."):
        if not hasattr(found, part):
            raise _no_task(module, location, wanted)
        found = getattr(found, part)
    if isinstance(found, type) or not callable(found):
        kind = "a class" if isinstance(found, type) else f"of type {type(found).__name__}"
        raise TargetError(
            f"{location}:{wanted} is {kind}, not a function", facts=[_defines(module)], asked=wanted
        )
    return found  # type: ignore[no-any-return]


def _no_task(module: ModuleType, location: str, wanted: str) -> TargetError:
    near = get_close_matches(wanted, _names(module), n=1)
    name = location if location.endswith(".py") else module.__name__
    return TargetError(
        f"{name} has no task {wanted!r}; {_defines(module)}",
        hints=[f"did you mean `skyward run {location}:{near[0]}`?"] if near else [],
        asked=wanted,
        known=tuple(_names(module)),
    )


def _all_tasks(module: ModuleType, location: str) -> tuple[Function, ...]:
    """`main` where it is decorated with `@sky.pool`, otherwise every `@sky.compute` function the module defines."""
    main = vars(module).get("main")
    if main is not None and is_pooled(main):
        return (main,)
    tasks = tuple(value for _, value in _own(module) if isinstance(value, Compute))
    if not tasks:
        raise TargetError(
            f"{location} has no tasks: no function in it is decorated with @sky.compute",
            facts=[_defines(module)],
            hints=[f"skyward run {location}:{name}" for name in _names(module)[:1]],
        )
    return tasks


def _own(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What the module itself defines, by name and in order; imported names are not its own."""
    seen: set[int] = set()
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__ and not isinstance(value, type)
        if is_own and not name.startswith("_") and callable(value) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _names(module: ModuleType) -> list[str]:
    """Functions a user may mean, as they can be typed: tasks and drivers first, then the others."""
    own = [(name, value) for name, value in _own(module) if hasattr(value, "__name__")]
    own.sort(key=lambda one: not (isinstance(one[1], Compute) or is_pooled(one[1])))
    return [name for name, _ in own]


def _defines(module: ModuleType) -> str:
    names = _names(module)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"it defines: {', '.join(names[:8])}{more}" if names else "it defines no function"


def name_of(function: Function) -> str:
    return str(getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or function)


# -- drivers -------------------------------------------------------------------------------------------------------


def is_pooled(function: Function) -> bool:
    """Whether the function is decorated with `@sky.pool`."""
    return isinstance(getattr(function, "__skyward_pool__", None), dict)


def pool_arguments(function: Function) -> dict[str, Any]:
    """The arguments of its `@sky.pool`; none where it is not decorated so."""
    return dict(getattr(function, "__skyward_pool__")) if is_pooled(function) else {}  # noqa: B009


def undecorated(function: Function) -> Function:
    """What `@sky.pool` decorates; the run has a pool already."""
    return getattr(function, "__wrapped__") if is_pooled(function) else function  # noqa: B009


def is_driver(function: Function) -> bool:
    """Whether the function runs here, with the pool active, rather than on a node.

    That is one decorated with `@sky.pool`, and a plain function that mentions a `@sky.compute` function, or makes one,
    itself or through functions of its own module.
    """
    if isinstance(function, Compute) or is_source(function):
        return False
    return is_pooled(function) or (isinstance(function, FunctionType) and _mentions_tasks(function, set()))


def is_source(function: Function) -> bool:
    """Whether the function yields the calls of a run; it runs here, before there are machines."""
    return not isinstance(function, Compute) and inspect.isgeneratorfunction(undecorated(function))


def _mentions_tasks(function: FunctionType, seen: set[int]) -> bool:
    seen.add(id(function))
    for value in _mentioned(function):
        if isinstance(value, Compute) or value is compute:
            return True
        is_near = isinstance(value, FunctionType) and value.__module__ == function.__module__
        if is_near and id(value) not in seen and _mentions_tasks(value, seen):
            return True
    return False


def _mentioned(function: FunctionType) -> Iterator[Any]:
    """The values of the global names, closure cells and module attributes that the function's code speaks of."""
    names = set(_code_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        if isinstance(value, ModuleType):
            yield from (vars(value)[attribute] for attribute in names & vars(value).keys())
            if value.__name__ == "skyward" and "compute" in names:  # not there before somebody asks for it
                yield compute
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


def _code_names(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code_names(constant)
