"""Rooms and who may know whom: imports go down only, plugins see public names only, instances need Python alone."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import skyward
from skyward.contracts.engine import EngineContext
from skyward.model.instance import Endpoint
from skyward.model.outcome import Outcome
from skyward.model.task import Task, TaskOptions
from skyward.remote.connection import Connection, Stream, connect
from skyward.remote.link import Link, WorkerSettings
from skyward.scheduler.engine import SSHEngine

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "skyward"
PLUGINS = ROOT / "plugins"

FLOORS = (
    ("errors", "model"),
    ("contracts", "explanations"),
    ("plugins", "plugin_loading", "entry_points", "config", "config_schema", "http", "catalog", "remote"),
    ("cloud", "planner", "scheduler", "advice"),
    ("api",),
    ("session",),
    ("cli", "__main__"),
)
"""Each room may import its own floor and those before it."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
STAIRS = {
    ("api/running.py", "skyward.builtin.terminal"): "a pool without `skyward run` shows itself",
    ("cli/run.py", "skyward.builtin.terminal"): "the command line sets up what the terminal shows",
    ("cli/run.py", "skyward.builtin.junit"): "the command line sets up the reports that were asked for",
    ("builtin/junit.py", "skyward.builtin.terminal"): "errors are told in one way",
    ("builtin/engines.py", "skyward.scheduler.engine"): "the built-in engine is the scheduler",
    ("builtin/terminal.py", "skyward.builtin.screen"): "one plugin in two modules",
}
"""The exceptions, each with its reason."""
FOR_PLUGINS = {"skyward", "skyward.http"}
"""Modules a plugin may import; of `skyward` its public names."""


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """Every module a file imports, wherever it does, with the name taken from it ("" for the module itself)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            yield from ((str(node.module), alias.name, node.lineno) for alias in node.names)


def modules(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.py"))


def target(module: str, name: str) -> str:
    """The module that is meant: `from skyward.builtin import terminal` imports one."""
    whole = f"{module}.{name}"
    place = ROOT / whole.replace(".", "/")
    return (
        whole if name and (place.with_suffix(".py").exists() or (place / "__init__.py").exists()) else module
    )


def room_of(module: str) -> str | None:
    """The room of Skyward a module is in; None for others and for the public door."""
    parts = module.split(".")
    return parts[1] if parts[0] == "skyward" and len(parts) > 1 else None


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in modules(PACKAGE)}

    assert rooms - set(FLOOR_OF) == {"__init__", "builtin", "testing"}
    assert set(FLOOR_OF) <= rooms


def test_imports_go_down_only() -> None:
    climbing = []
    for path in modules(PACKAGE):
        here = path.relative_to(PACKAGE).as_posix()
        floor = FLOOR_OF.get(here.split("/")[0].removesuffix(".py"))
        if floor is None:
            continue
        for module, name, line in imports(path):
            meant = target(module, name)
            room = room_of(meant)
            if room is not None and (here, meant) not in STAIRS and FLOOR_OF.get(room, 99) > floor:
                climbing.append(f"{here}:{line} imports {meant}")

    assert not climbing


def test_plugins_import_public_names_only() -> None:
    own = {path.name for path in PLUGINS.iterdir() if path.is_dir()}
    public = {*skyward.__all__, "__version__"}
    private = []
    for directory in (PACKAGE / "builtin", PLUGINS):
        for path in modules(directory):
            here = path.relative_to(directory.parent).as_posix()
            for module, name, line in imports(path):
                if (
                    module.split(".")[0] != "skyward"
                    or module.split(".")[0] in own
                    or (here, module) in STAIRS
                ):
                    continue
                if module not in FOR_PLUGINS or (module == "skyward" and name and name not in public):
                    private.append(f"{here}:{line} imports {name} from {module}")

    assert not private


def test_no_plugin_imports_another() -> None:
    strangers = []
    for package in (path for path in PLUGINS.iterdir() if path.is_dir()):
        for path in modules(package):
            tops = {module.split(".")[0] for module, _, _ in imports(path)}
            strangers += [
                f"{path.name} of {package.name}: {top}"
                for top in tops
                if top.startswith("skyward_") and top != package.name
            ]

    assert not strangers


# -- what runs on instances ---------------------------------------------------------------------------------------

ON_ANY_PYTHON = {
    "remote/node/lean.py": set(),
    "remote/wire.py": {"skyward.remote.node.lean"},
    "remote/node/unpack.py": set(),
    "remote/node/files.py": {"skyward.remote.node.lean"},
    "remote/node/leftovers.py": {"skyward.remote.node.files"},
    "remote/node/facts.py": {"skyward.remote.node.lean"},
    "remote/node/descriptors.py": set(),
    "remote/node/process.py": {"skyward.remote.node.lean"},
    "remote/node/slot.py": {
        "skyward.remote",
        "skyward.remote.node.descriptors",
        "skyward.remote.node.lean",
        "skyward.remote.node.process",
    },
    "remote/node/line.py": {"skyward.remote", "skyward.remote.node.descriptors", "skyward.remote.node.lean"},
    "remote/node/queue.py": {"skyward.remote", "skyward.remote.node.lean", "skyward.remote.node.slot"},
    "remote/node/output.py": {
        "skyward.remote",
        "skyward.remote.node.files",
        "skyward.remote.node.line",
        "skyward.remote.node.slot",
    },
    "remote/node/values.py": {
        "skyward.remote",
        "skyward.remote.node.files",
        "skyward.remote.node.lean",
        "skyward.remote.node.line",
    },
    "remote/node/crew.py": {
        "skyward.remote",
        "skyward.remote.node.descriptors",
        "skyward.remote.node.lean",
        "skyward.remote.node.line",
        "skyward.remote.node.output",
        "skyward.remote.node.process",
        "skyward.remote.node.queue",
        "skyward.remote.node.slot",
    },
    "remote/node/configuration.py": {
        "skyward.remote",
        "skyward.remote.node.crew",
        "skyward.remote.node.files",
        "skyward.remote.node.leftovers",
        "skyward.remote.node.line",
        "skyward.remote.node.unpack",
        "skyward.remote.node.values",
    },
    "remote/node/watching.py": {
        "skyward.remote",
        "skyward.remote.node.facts",
        "skyward.remote.node.lean",
        "skyward.remote.node.line",
        "skyward.remote.node.output",
        "skyward.remote.node.slot",
    },
    "remote/node/agent.py": {
        "skyward.remote",
        "skyward.remote.node.configuration",
        "skyward.remote.node.crew",
        "skyward.remote.node.descriptors",
        "skyward.remote.node.facts",
        "skyward.remote.node.files",
        "skyward.remote.node.lean",
        "skyward.remote.node.leftovers",
        "skyward.remote.node.line",
        "skyward.remote.node.output",
        "skyward.remote.node.process",
        "skyward.remote.node.queue",
        "skyward.remote.node.slot",
        "skyward.remote.node.values",
        "skyward.remote.node.watching",
    },
    "remote/node/entry.py": {
        "skyward.remote.node.agent",
        "skyward.remote.node.files",
        "skyward.remote.node.lean",
    },
    "remote/node/builder.py": set(),
}
"""Files that any python3 from 3.8 on runs, and what of Skyward each may import."""
IN_THE_ENVIRONMENT = {
    "remote/node/channel.py": {"skyward.remote"},
    "remote/node/surroundings.py": {"skyward.remote.node.channel", "skyward.remote.node.lean"},
    "remote/node/outcomes.py": {"skyward.remote", "skyward.remote.node.lean", "skyward.remote.pickling"},
    "remote/node/runtime.py": {"skyward.remote.node.outcomes", "skyward.remote.node.unpack"},
    "remote/node/inputs.py": {"skyward.remote.node.channel", "skyward.remote.node.lean"},
    "remote/node/worker.py": {
        "skyward.remote",
        "skyward.remote.node",
        "skyward.remote.node.channel",
        "skyward.remote.node.inputs",
        "skyward.remote.node.lean",
        "skyward.remote.node.outcomes",
        "skyward.remote.node.runtime",
        "skyward.remote.node.surroundings",
    },
}
"""What runs under the client's minor version; cloudpickle may be missing there until it is needed."""


def test_every_file_for_instances_is_known_here() -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path in modules(PACKAGE / "remote" / "node")}

    assert found - {"remote/node/__init__.py"} <= {*ON_ANY_PYTHON, *IN_THE_ENVIRONMENT}


@pytest.mark.parametrize("name", [*ON_ANY_PYTHON, *IN_THE_ENVIRONMENT])
def test_what_runs_on_instances_needs_the_standard_library_alone(name: str) -> None:
    allowed = {**ON_ANY_PYTHON, **IN_THE_ENVIRONMENT}[name]
    ours = {module for module, _, _ in imports(PACKAGE / name) if module.startswith("skyward")}
    others = {
        module.split(".")[0] for module, _, _ in imports(PACKAGE / name) if not module.startswith("skyward")
    }

    assert ours <= allowed
    assert others - sys.stdlib_module_names <= ({"cloudpickle"} if name in IN_THE_ENVIRONMENT else set())


# What came after Python 3.8, as attributes and names: https://docs.python.org/3/whatsnew (read 2026-11-21)
NEWER = frozenset(
    [
        "removeprefix",
        "removesuffix",
        "is_relative_to",
        "with_stem",
        "hardlink_to",
        "readlink_to",
        "pairwise",
        "batched",
        "bit_count",
        "lcm",
        "nextafter",
        "unparse",
        "waitstatus_to_exitcode",
        "pidfd_open",
        "pidfd_send_signal",
        "to_thread",
        "add_note",
        "ExceptionGroup",
        "TypeAlias",
        "ParamSpec",
        "Self",
        "Concatenate",
        "TypeGuard",
        "LiteralString",
        "assert_never",
        "override",
        "Unpack",
        "aclosing",
        "chdir",
        "UTC",
        "zoneinfo",
        "tomllib",
        "graphlib",
        "StrEnum",
        "file_digest",
        "anext",
        "aiter",
        "EncodingWarning",
        "stdlib_module_names",
        "orig_argv",
    ]
)


@pytest.mark.parametrize("name", ON_ANY_PYTHON)
def test_the_agent_is_written_in_python_3_8(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"), feature_version=(3, 8))
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) if not _is_os_chdir(node)}
    used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    assert not used & NEWER
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and _joins_dicts(node)]


def _is_os_chdir(node: ast.Attribute) -> bool:
    return node.attr == "chdir" and isinstance(node.value, ast.Name) and node.value.id == "os"


def _joins_dicts(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr) and isinstance(node.left, ast.Dict | ast.DictComp)


def find_python(version: str) -> str | None:
    """A Python of this minor version that runs: on the PATH, or in pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [shutil.which(f"python{version}"), *map(str, pyenv.glob(f"{version}.*/bin/python"))]
    works = (
        one
        for one in found
        if one and not subprocess.run([one, "-c", ""], capture_output=True, timeout=30).returncode
    )
    return next(works, None)


class Older:
    """A connection on which the agent finds another Python."""

    def __init__(self, inner: Connection, python: str) -> None:
        self._inner = inner
        self._python = python

    def open(self, command: str) -> Stream:
        return self._inner.open(command.replace(sys.executable, self._python))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10"])
def test_the_agent_runs_on_old_pythons_and_tasks_on_ours(version: str, tmp_path: Path) -> None:
    old = find_python(version)
    if old is None:
        pytest.skip(f"no Python {version} here")
    context = EngineContext(emit=lambda _: None, wants=lambda _: False, should_retry=lambda _: None)
    engine, sink = SSHEngine(context), Sink()
    link = Link(
        Endpoint(kind="local", directory=str(tmp_path)),
        node=0,
        session="old",
        connect=lambda endpoint, **how: cast("Connection", Older(connect(endpoint, **how), old)),
    )
    try:
        probe = link.open(30)
        link.configure(WorkerSettings(python=sys.executable, sys_path=tuple(sys.path)))
        engine.add_node(link)
        engine.submit([Task(divmod, (n, 3), None, TaskOptions()) for n in range(50)], sink)
        assert sink.through.wait(60)
    finally:
        engine.stop()
        link.close()

    assert probe.python[:2] == tuple(map(int, version.split(".")))
    assert [sink.outcomes[n].result() for n in range(50)] == [divmod(n, 3) for n in range(50)]


class Sink:
    """Keeps what comes."""

    offset = 0

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        self.through = threading.Event()

    def done(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        if len(self.outcomes) == 50:
            self.through.set()


# -- what files are called and hold ---------------------------------------------------------------------------------

SOURCES = (
    "skyward",
    "plugins",
    "catalog",
    "docs",
    "examples",
    "bench",
    "tests",
    "Makefile",
    "README.md",
    "CHANGELOG.md",
)
TEXT = {".py", ".pyi", ".md", ".toml", ".csv", ".txt", ""}


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project, by name."""
    for name in SOURCES:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and path.suffix in TEXT and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X:"])
def test_nothing_is_left_for_later(word: str) -> None:
    found = [
        f"{name}: {line.strip()[:80]}"
        for name, text in texts()
        for line in text.splitlines()
        if re.search(rf"\b{word}", line)
    ]

    assert not found


def test_no_path_of_the_machine_it_was_written_on_is_left() -> None:
    places = re.compile(
        "|".join(map(re.escape, ("/wo" + "rk/", "/tmp/br" + "ief", str(ROOT) + "/", str(Path.home()) + "/.")))
    )
    found = [f"{name}: {match[0]}" for name, text in texts() if (match := places.search(text))]

    assert not found


def test_nobody_is_believed_without_a_certificate_or_a_host_key() -> None:
    lax = re.compile(
        r"verify\s*=\s*False|CERT_NONE|_create_unverified_context|AutoAddPolicy|StrictHostKeyChecking=(?!yes)"
    )
    found = [
        f"{path}: {match[0]}"
        for path in (*modules(PACKAGE), *modules(PLUGINS))
        if "testing" not in path.parts and (match := lax.search(path.read_text()))
    ]

    assert not found


def test_modules_say_what_they_are() -> None:
    trees = {path: ast.parse(path.read_text()) for path in (*modules(PACKAGE), *modules(PLUGINS))}
    silent = [path for path, tree in trees.items() if tree.body and not ast.get_docstring(tree)]
    shapeless = [
        path for path in modules(PACKAGE) if path.stem in {"utils", "util", "helpers", "misc", "common"}
    ]

    assert not silent
    assert not shapeless


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]

    assert sorted(names) == sorted(set(names))
