"""Every example runs, in each of the ways its first lines show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import skyward

EXAMPLES = Path(skyward.__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))


@pytest.mark.parametrize(
    "file", [file for file in FILES if file.name[0].isdigit()], ids=lambda file: file.stem
)
def test_numbered_examples_are_short_and_say_how_to_run_them(file: Path) -> None:
    text = file.read_text()

    assert len(text.splitlines()) < 60
    assert f"examples/{file.name}" in text.split('"""')[1]


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["01_hello.py"], "hello world\n"),
        (["01_hello.py:hello", "--", "--name", "you"], "hello you\n"),
        (
            ["02_gather.py", "--", "2000", "500"],
            "303 primes below 2000, the last 1999; the first are [2, 3, 5,",
        ),
        (["02_gather.py:primes", "--", "10", "50"], "[11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]\n"),
        (["03_broadcast.py", "--nodes", "2", "--", "1000"], "0."),
        (["04_ssh_hosts.py:about", "--each", "--nodes", "2"], '{"host": '),
        (["05_arguments.py:simulate", "--", "--steps", "1000", "--kind", "walk", "--no-verbose"], "-7.258\n"),
        (["05_arguments.py:sweep", "--nodes", "2", "--", "1", "2", "3"], "-39.643\n-43.592\n9.913\n"),
    ],
)
def test_examples_run_from_a_shell(run: Callable[..., Any], arguments: list[str], out: str) -> None:
    done = run(str(EXAMPLES / arguments[0]), *arguments[1:], timeout=110)

    assert done.code == 0, done.err
    assert done.out.startswith(out)


@pytest.mark.parametrize("name", ["01_hello", "03_broadcast"])
def test_examples_run_as_plain_python(name: str, empty_home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}

    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_census_counts_the_same_on_one_node_and_on_three(run: Callable[..., Any]) -> None:
    texts = [run(str(EXAMPLES / "census.py"), "--nodes", nodes, timeout=110).out for nodes in ("1", "3")]

    assert all(text.startswith("PACKAGE           FILES     LINES") for text in texts)
    totals = [re.findall(r"^(?:all of it|longest|most) .*$", text, re.MULTILINE) for text in texts]
    assert len(totals[0]) == 3
    assert totals[0] == totals[1]
    assert "node 2" in texts[1]
