"""What is imported before it is needed: nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import skyward

ROOT = Path(skyward.__file__).parent.parent
HEAVY = {
    "asyncio",
    "boto3",
    "botocore",
    "cloudpickle",
    "duckdb",
    "importlib.metadata",
    "msgspec",
    "numpy",
    "paramiko",
    "pluggy",
    "psutil",
    "pyarrow",
    "rich",
    "tomllib",
    "urllib3",
}


def imported_by(program: str, tmp_path: Path, home: Path) -> set[str]:
    program = f"import sys\n{program}\nprint(*sys.modules, file=sys.stderr)"
    env = {"PYTHONPATH": str(ROOT), "SKYWARD_HOME": str(home), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(result.stderr.split())


def call(arguments: str) -> str:
    return f"import skyward.cli\nskyward.cli.invoke({arguments.split()!r})"


@pytest.fixture
def warm_home(tmp_path: Path) -> Path:
    """A home where the scan of entry points is remembered, as after any first command."""
    home = tmp_path / "home"
    imported_by(call("--help"), tmp_path, home)
    return home


def test_importing_skyward_imports_nothing_heavy(tmp_path: Path) -> None:
    modules = imported_by("import skyward", tmp_path, tmp_path)

    assert not modules & HEAVY
    assert not modules & {"click", "json", "inspect", "typing_extensions", "dataclasses"}


@pytest.mark.parametrize(
    "arguments",
    [
        "--version",
        "--help",
        "-h",
        "explain SKW140",
        "completion bash",
        "plugins --help",
        "nonsense",
    ],
)
def test_the_shell_imports_nothing_heavy(arguments: str, tmp_path: Path, warm_home: Path) -> None:
    assert not imported_by(call(arguments), tmp_path, warm_home) & HEAVY


def test_even_the_first_help_imports_only_the_metadata_reader(tmp_path: Path) -> None:
    modules = imported_by(call("--help"), tmp_path, tmp_path / "new")

    assert modules & HEAVY == {"importlib.metadata"}


@pytest.mark.parametrize(
    "arguments", ["plugins --json", "providers --json", "config show --json", "config path --json"]
)
def test_plugins_and_their_providers_are_cheap(arguments: str, tmp_path: Path, warm_home: Path) -> None:
    allowed = {"pluggy", "asyncio", "urllib3", "tomllib", "msgspec"}

    assert not imported_by(call(arguments), tmp_path, warm_home) & (HEAVY - allowed)
