"""The public API under two strict type checkers: right programs pass, and every mistake is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = Path(__file__).parent / "programs"


def run(arguments: list[str], cwd: Path) -> str:
    """What a checker says, run on `programs` from a directory without configuration."""
    environ = {
        **os.environ,
        "MYPYPATH": f"{ROOT}:{ROOT / 'plugins'}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}",
    }
    done = subprocess.run(arguments, cwd=cwd, env=environ, capture_output=True, text=True, timeout=280)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy(program: str, directory: Path) -> set[int]:
    """Lines with errors."""
    command = [sys.executable, "-m", "mypy", "--strict", "--explicit-package-bases", "--no-error-summary"]
    command += ["--no-color-output", "--hide-error-context", f"--cache-dir={directory / 'cache'}"]
    path = PROGRAMS / program
    lines = run([*command, str(path)], directory).splitlines()
    found = [line.split(":") for line in lines if ": error:" in line and program in line.split(":")[0]]
    return {int(number) for _, number, *_ in found}


def pyright(program: str, directory: Path) -> set[int]:
    """Lines with errors."""
    shutil.copy(PROGRAMS / program, directory)  # nothing outside of its directory is looked at
    settings = {
        "include": [program],
        "extraPaths": [str(ROOT), str(ROOT / "plugins")],
        "typeCheckingMode": "strict",
        "reportUnusedExpression": False,
        "reportUnusedFunction": False,
        "pythonVersion": "3.11",
    }
    (directory / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    said = json.loads(run([*command, "-p", str(directory)], directory))
    assert said["summary"]["filesAnalyzed"] == 1
    return {
        one["range"]["start"]["line"] + 1 for one in said["generalDiagnostics"] if one["severity"] == "error"
    }


CHECKERS = [mypy, pyright]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKERS)
def test_right_programs_pass_and_have_the_types_they_say(
    check: Callable[[str, Path], set[int]], tmp_path: Path
) -> None:
    assert check("right.py", tmp_path) == set()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("check", CHECKERS)
def test_every_mistake_is_found_and_nothing_else(
    check: Callable[[str, Path], set[int]], tmp_path: Path
) -> None:
    lines = (PROGRAMS / "wrong.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# wrong:" in line}

    assert check("wrong.py", tmp_path) == marked
