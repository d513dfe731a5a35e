"""Runs what the pages show, and compares it with what they say is printed. Needs the standard library alone.

A page is run from top to bottom in a directory and a home of its own. Of its fenced blocks

- `python` runs as a script; what it prints is the `text` block right below it, if there is one. A block that begins
  with the comment `# name.py` is written to that file instead; so is `toml` (`# skyward.toml`) and `json`
  (`// name.jsonl`).
- `console` holds commands behind `$ ` and what they print, both streams together. A command may fail only where its
  output begins with `error:` in some line.
- everything else is for people.

What differs from run to run (clocks, durations, ages of prices, ids) matches anything of its kind; `...` matches any
text within a line, and any lines as a line of its own. A comment before a block changes how it is treated:

    <!-- not run: why -->        shown only
    <!-- shape: why -->          it must succeed, and its first and last line must be right
    <!-- needs: an index -->     not run where that is missing

and `<!-- machines: gpu1 gpu2 -->` at the top of a page boots machines that ssh knows by these names.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 90.0

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"<!-- (not run|shape|needs): ([^\n]*) -->\n\Z")
_MACHINES = re.compile(r"^<!-- machines: ([\w ]+) -->$", re.MULTILINE)
_TITLE = re.compile(r"(?:#|//) ([\w/.-]+\.(?:py|toml|jsonl|txt))\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    start: int
    """Where its text begins in the page, characters."""
    kind: str = ""
    """`not run`, `shape`, `needs`, or nothing."""
    reason: str = ""

    @property
    def title(self) -> str | None:
        """The file it is written to."""
        found = _TITLE.match(self.text)
        return found[1] if found and self.language in ("python", "toml", "json") else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something a page says is printed, and what was really printed."""

    what: str
    line: int
    expected: str
    actual: str
    start: int
    """Where `expected` begins in the page, characters."""
    is_right: bool
    problem: str = ""


def read_blocks(page: str) -> list[Block]:
    found = []
    for fence in _FENCE.finditer(page):
        note = _NOTE.search(page, 0, fence.start())
        found.append(
            Block(
                language=fence[1],
                text=fence[2],
                line=page.count("\n", 0, fence.start()) + 1,
                start=fence.start(2),
                kind=note[1] if note else "",
                reason=note[2] if note else "",
            )
        )
    return found


def machines_of(page: str) -> list[str]:
    """Names of the machines a page needs."""
    found = _MACHINES.search(page)
    return found[1].split() if found else []


def read_commands(block: Block) -> Iterator[tuple[str, str, int]]:
    """The commands of a console block: what is typed, what is printed, and where that begins in the page."""
    position = 0
    parts: list[tuple[list[str], list[str], int]] = []
    is_command = False
    for line in block.text.splitlines(keepends=True):
        position += len(line)
        if line.startswith("$ "):
            parts.append(([line[2:]], [], block.start + position))
            is_command = line.endswith("\\\n")
        elif is_command:
            parts[-1][0].append(line)
            parts[-1] = (*parts[-1][:2], block.start + position)
            is_command = line.endswith("\\\n")
        elif parts:
            parts[-1][1].append(line)
    return (("".join(typed), "".join(printed), start) for typed, printed, start in parts)


# -- running -----------------------------------------------------------------------------------------------------


class Stage:
    """Where one page is played: an empty home, a working directory, and `skyward` of this checkout on the PATH."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.work = directory / "work"
        self._bin = directory / "bin"
        for place in (self.home, self.work, self._bin):
            place.mkdir(parents=True)
        self._script("skyward", f'exec {shlex.quote(sys.executable)} -m skyward "$@"')
        self._script("python", f'exec {shlex.quote(sys.executable)} "$@"')
        make = f"exec /usr/bin/env -u MAKEFLAGS make --no-print-directory -C {shlex.quote(str(ROOT))}"
        self._script(
            "make", f'PATH="${{PATH#*:}}" {make} -o .venv/base BIN={shlex.quote(str(self._bin))} "$@"'
        )

    def _script(self, name: str, text: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        """This process's environment without anybody's settings and credentials."""
        private = (
            "XDG_",
            "SKYWARD_",
            "AWS_",
            "DIGITALOCEAN_",
            "VERDA_",
            "VAST_",
            "SSH_",
            "COVERAGE_",
            "PYTEST_",
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
        path = f"{self._bin}:{kept.get('PATH', '/usr/bin:/bin')}"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
        own = {"HOME": str(self.home), "PATH": path, "PYTHONPATH": paths, "COLUMNS": "100"}
        return {**kept, **own, "NO_COLOR": "1", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    def add_machine(
        self, name: str, *, address: str, port: int, user: str, identity: Path, known: str
    ) -> None:
        """Lets `ssh NAME` find a machine: an alias in the configuration, and its key among the known hosts."""
        directory = self.home / ".ssh"
        directory.mkdir(mode=0o700, exist_ok=True)
        alias = (
            f"Host {name}\n  HostName {address}\n  Port {port}\n  User {user}\n  IdentityFile {identity}\n\n"
        )
        for file, text in (("config", alias), ("known_hosts", known)):
            with (directory / file).open("a") as end:
                end.write(text)

    def call(self, command: Sequence[str]) -> tuple[int, str]:
        """Exit status and output of a command, both streams as they come."""
        done = subprocess.run(
            command,
            cwd=self.work,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        for place, name in ((self.work, "."), (self.home, "~"), (ROOT, "skyward")):
            text = text.replace(str(place), name)
        return done.returncode, text


def play(page: str, stage: Stage, missing: Mapping[str, bool] | None = None) -> Iterator[Said]:
    """Runs a page, block by block, and tells what each said and should have said."""
    blocks = read_blocks(page)
    for number, block in enumerate(blocks):
        if block.kind == "not run" or (block.kind == "needs" and (missing or {}).get(block.reason)):
            continue
        if block.title:
            target = stage.work / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(block.text if block.language != "json" else block.text.partition("\n")[2])
        elif block.language == "python":
            script = stage.work / f"line_{block.line}.py"
            script.write_text(block.text)
            status, printed = stage.call([sys.executable, script.name])
            script.unlink()
            below = blocks[number + 1] if number + 1 < len(blocks) else None
            shown = (
                below if below and below.language == "text" and not _has_words(page, block, below) else None
            )
            yield _said(
                block, "python", status, shown.text if shown else "", printed, shown.start if shown else 0
            )
        elif block.language == "console":
            for typed, expected, start in read_commands(block):
                status, printed = stage.call(["/bin/bash", "-c", typed])
                yield _said(block, typed.strip(), status, expected, printed, start)


def _has_words(page: str, above: Block, below: Block) -> bool:
    """Whether there is text between two blocks."""
    between = page[above.start + len(above.text) : below.start]
    return bool(re.sub(r"```\w*|<!--.*?-->", "", between).strip())


def _said(block: Block, what: str, status: int, expected: str, actual: str, start: int) -> Said:
    may_fail = any(line.startswith("error:") for line in expected.splitlines())
    problem = ""
    if status and not may_fail:
        problem = f"exit status {status}"
    elif not (_has_shape if block.kind == "shape" else matches)(expected, actual):
        problem = "it prints something else"
    return Said(
        what=what,
        line=block.line,
        expected=expected,
        actual=actual,
        start=start,
        is_right=not problem,
        problem=problem,
    )


# -- comparing ---------------------------------------------------------------------------------------------------

_VARIES = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?", "<moment>"),
        (r"\b\d\d:\d\d:\d\d(\.\d+)?\b", "<clock>"),
        (r"\b\d+ ?d\b!?", "<age>"),
        (r"\b\d+(\.\d+)? ?(ms|µs|s|min)\b", "<time>"),
        (r"\br-[0-9a-z]{6,}\b", "<run>"),
        (r"\bpool-[0-9a-f]{6}\b|\blocal-[\w-]+-\d+-\d+\b", "<pool>"),
        (r"\bpython 3\.\d+(\.\d+)?", "<python>"),
        (r"/python3\.\d+", "<path>"),
        (r"0x[0-9a-f]+", "<address>"),
        (r"\bport \d+", "<port>"),
        (r"\([\w.-]+@(\d+\.){3}\d+:\d+\)", "(<host>)"),
        (r"(-p \d+ )?\b(\d+\.){3}\d+\b", "<ip>"),
        (r"(\dx local) \S+,", r"\1 <host>,"),
        (r"SHA256:[A-Za-z0-9+/]{43}", "<fingerprint>"),
        (r"([=\-~.])\1{3,}", "<rule>"),
        (r"[ \t]+", " "),
    )
]


def matches(expected: str, actual: str) -> bool:
    """Whether `actual` is what was promised, but for what varies."""
    pattern = ""
    for line in _plain(expected):
        if line == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += re.escape(line).replace(r"\.\.\.", r"[^\n]*") + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(actual))) is not None


def _has_shape(expected: str, actual: str) -> bool:
    want, have = ([re.sub(r"\d+", "<n>", line) for line in _plain(text)] for text in (expected, actual))
    return bool(want and have) and (want[0], want[-1]) == (have[0], have[-1])


def _plain(text: str) -> list[str]:
    lines = []
    for line in text.strip("\n").splitlines():
        for pattern, word in _VARIES:
            line = pattern.sub(word, line)
        lines.append(line.strip())
    return lines if lines != [""] else []
