"""`skyward run` as a person at a terminal sees it."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

import pytest

import skyward


class Terminal:
    """`skyward run` on a pseudo-terminal of a given width, standard output included."""

    def __init__(self, project: Path, *arguments: str, columns: int = 80, **environ: str) -> None:
        home = str(Path(skyward.__file__).parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": f"{home}{os.pathsep}{home}/plugins",
            "TERM": "xterm",
            **environ,
        }
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            if name not in environ:
                environment.pop(name, None)
        self.leader, follower = pty.openpty()
        ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "skyward", "run", *arguments],
            cwd=project,
            env=environment,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(follower)
        self.bytes = b""

    def read_until(self, text: str = "", timeout_s: float = 30) -> str:
        """Everything so far, once it holds `text`, or at the end."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and not (text and text.encode() in self.bytes):
            ready, _, _ = select.select([self.leader], [], [], 0.1)
            try:
                if ready and not (data := os.read(self.leader, 65536)):
                    break
                elif ready:
                    self.bytes += data
            except OSError:
                break
        assert not text or text.encode() in self.bytes, self.bytes.decode()
        return self.bytes.decode()

    def type(self, text: str) -> None:
        os.write(self.leader, text.encode())

    def finish(self) -> str:
        text = self.read_until()
        self.process.wait(20)
        os.close(self.leader)
        return text


Run = Callable[..., Terminal]


@pytest.fixture
def at_terminal(project: Path) -> Run:
    return lambda *arguments, **more: Terminal(project, *arguments, **more)


def shown(text: str) -> list[str]:
    """The lines a terminal is left with."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    return [re.split(r"\r(?:\x1b\[K)?", line)[-1].rstrip() for line in text.split("\n")]


def test_a_status_line_follows_the_lines_and_is_gone_at_the_end(at_terminal: Run) -> None:
    terminal = at_terminal("train.py:nap", "--nodes", "2", "--map", "/dev/stdin", "--", columns=100)
    terminal.type("[1.5]\n[1.5]\n[0.1]\n\x04")
    text = terminal.finish()

    assert terminal.process.returncode == 0
    assert "2 running" in text
    lines = shown(text)
    assert "n0 | napping" in lines
    assert not any("running" in line for line in lines)
    assert not any(re.match(r"\d\d:\d\d:\d\d", line) for line in lines)
    assert lines[-2].startswith("=")
    assert "3 passed in" in lines[-2]


@pytest.mark.parametrize("columns", [40, 80, 140])
def test_rules_are_as_wide_as_the_terminal(at_terminal: Run, columns: int) -> None:
    lines = shown(at_terminal("train.py:hello", columns=columns).finish())

    rules = [line for line in lines if line.startswith("=") and line.endswith("=")]
    assert [len(rule) - columns for rule in rules] in ([0, 0], [0, -1], [-1, 0], [-1, -1])


def test_no_color_means_not_one_escape_byte(at_terminal: Run) -> None:
    text = at_terminal("train.py:nap", "--", "0.6", NO_COLOR="1").finish()

    assert "\x1b" not in text
    assert "1 running" in text


def test_colours_are_there_where_they_are_wanted(at_terminal: Run) -> None:
    assert "\x1b[32m" in at_terminal("train.py:hello").finish()
    assert "\x1b[" not in at_terminal("train.py:hello", "--color", "never").finish()


def test_ctrl_c_typed_at_the_terminal_interrupts(at_terminal: Run) -> None:
    terminal = at_terminal("train.py:nap")
    terminal.read_until("napping")
    terminal.type("\x03")
    text = terminal.finish()

    assert terminal.process.returncode == 130
    assert "interrupted - cleaning up" in text
    assert "interrupted: 1 cancelled" in text


def test_spending_is_agreed_to_at_the_terminal(at_terminal: Run, project: Path) -> None:
    (project / "skyfile.py").write_text(
        "import skyward as sky\n"
        "class Shop: pass\n"
        "OFFER = sky.Offer(provider='shop', region='here', instance_type='s1', usd_per_hour=2.0, vcpus=4,\n"
        "                  memory_gib=8, availability='available')\n"
        "class ShopProvider(sky.Provider):\n"
        "    name, Config = 'shop', Shop\n"
        "    def offers(self): return [OFFER]\n"
        "    def launch(self, request): raise sky.CapacityError('shop: sold out')\n"
        "    def instances(self, pool): return []\n"
        "    def terminate(self, ids): pass\n"
        "    def connect(self, instance): return sky.Endpoint(kind='local')\n"
        "@sky.hookimpl\n"
        "def skyward_providers(): return [ShopProvider]\n"
        "@sky.hookimpl\n"
        "def skyward_modify_offers(offers, requirements): offers.append(OFFER)\n"
    )

    no = at_terminal("train.py:hello", "--provider", "shop")
    no.read_until("Rent 1x shop s1 here on-demand for $2.00/h, at most $48.00")
    no.type("n\n")
    answer = no.finish()
    yes = at_terminal("train.py:hello", "--provider", "shop")
    yes.read_until("[y/N]")
    yes.type("y\n")
    text = yes.finish()

    assert "nothing was rented" in answer
    assert no.process.returncode == 130
    assert yes.process.returncode == 4
    assert "shop: sold out" in text
