"""A project directory and `skyward run` as a process of its own, in an empty home."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import skyward

TRAIN = """
    import enum, os, sys, time
    from pathlib import Path
    from typing import Literal
    import skyward as sky

    @sky.compute
    def fold(index: int = 0, scale: float = 1.0) -> float:
        print(f"fold {index} begins")
        if index == 3:
            raise ValueError("fold 3 is bad")
        return index * scale

    @sky.compute
    def hello(name: str = "world", mode: Literal["loud", "soft"] = "soft") -> str:
        text = f"hello {name}"
        return text.upper() if mode == "loud" else text

    @sky.compute
    def node() -> int:
        return sky.instance_info().node

    @sky.compute
    def nap(seconds: float = 60) -> float:
        print("napping", flush=True)
        time.sleep(seconds)
        return seconds

    @sky.compute
    def talkative(lines: int) -> int:
        for i in range(lines):
            print(f"line {i} {'x' * 80}")
        print("key", os.environ["API_KEY"])
        return lines

    @sky.compute
    def one_line(characters: int) -> int:
        print("x" * characters)
        return characters

    @sky.compute
    def attempts(file: str, needed: int) -> int:
        with open(file, "a") as log:
            log.write("x")
        if os.path.getsize(file) < needed:
            raise OSError("not yet")
        return os.path.getsize(file)

    def plain(x: int, y: int = 2):
        return {"sum": x + y}

    def nothing(): ...

    def variable(name: str):
        return os.environ.get(name)

    def folds(n: int = 5):
        for index in range(n):
            yield fold(index)

    def driver():
        print("printed here")
        return sum(sky.gather(fold(1), fold(2)) >> sky)

    def napping_driver():
        return nap(60) >> sky

    def listing():
        return [fold(index) for index in range(3)]

    async def later():
        return fold(4) >> sky

    def own_failure():
        fold(1) >> sky
        raise KeyError("the driver itself")

    def passed_on():
        return fold(3) >> sky

    @sky.pool(nodes=2)
    def pooled(times: int = 2):
        return sorted(set(sky.gather(node() for _ in range(times * 8)) >> sky)), sky.gather(node()) >> sky
"""


@dataclass(frozen=True, slots=True)
class Done:
    """What one command line gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def last_line(self) -> str:
        return self.err.rstrip().splitlines()[-1].strip("= ")


Skyward = Callable[..., Done]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def project(tmp_path: Path, empty_home: Path) -> Path:
    """A directory with `train.py` and nothing else that says project."""
    directory = tmp_path / "project"
    (directory / ".git").mkdir(parents=True)
    (directory / "train.py").write_text(dedent(TRAIN))
    return directory


@pytest.fixture
def start(project: Path) -> Start:
    """`start("run", ...)`: a process whose output can be read, with Ctrl-C as a terminal would give it."""

    def begin(
        *arguments: str, cwd: Path = project, stdin: str | None = None, **environ: str
    ) -> subprocess.Popen[str]:
        home = str(Path(skyward.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{home}/plugins", **environ}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            if name not in environ:
                environment.pop(name, None)
        return subprocess.Popen(
            [sys.executable, "-m", "skyward", *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return begin


@pytest.fixture
def run(start: Start) -> Skyward:
    """`run("train.py:fold", ...)`: a whole `skyward run`."""

    def finish(*arguments: str, stdin: str | None = None, timeout: float = 60, **more: Any) -> Done:
        process = start("run", *arguments, stdin=stdin, **more)
        try:
            out, err = process.communicate(stdin, timeout=timeout)
        finally:
            process.kill()
        return Done(process.returncode, out, err)

    return finish


def wait_for(
    process: subprocess.Popen[str], text: str, *, stream: str = "stderr", timeout_s: float = 30
) -> str:
    """Reads lines until one contains `text`."""
    pipe, seen = getattr(process, stream), []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        line = pipe.readline()
        if not line:
            break
        seen.append(line)
        if text in line:
            return "".join(seen)
    raise AssertionError(f"{text!r} never came:\n{''.join(seen)}")


@pytest.fixture
def waits() -> Callable[..., str]:
    return wait_for


@pytest.fixture
def runs(empty_home: Path) -> Callable[[], list[Path]]:
    """The directories of the runs so far, in order."""
    return lambda: sorted((empty_home / "skyward" / "state" / "runs").glob("r-*"))


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
    return records
