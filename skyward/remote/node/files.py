"""Files of agents, and how an agent is met: by a socket in the directory of its run. Any Python >= 3.8."""

from __future__ import annotations

import os

from skyward.remote.node.lean import socket

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Optional


def meet(run_directory: str) -> Optional[socket.socket]:
    """A connection to the agent of that run, or None where none listens."""
    link = socket.socket(socket.AF_UNIX)
    try:
        within(run_directory, lambda: link.connect("agent.sock"))
    except OSError:
        link.close()
        return None
    return link


def within(directory: str, action: Any) -> None:
    """Does something with a path relative to `directory`: unix socket paths are limited to 107 bytes."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        action()
    finally:
        os.chdir(before)


def make_directory(parent: str, name: str) -> str:
    """The directory of that name, made if need be, for nobody but us."""
    path = os.path.join(parent, name)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def remove(directory: str) -> None:
    if os.path.isdir(directory):
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


def unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def last_line(path: str) -> str:
    """What an agent of this run that is gone said last; "" if there was none, or it said nothing."""
    try:
        with open(path, "rb") as file:
            lines = file.read()[-65536:].decode("utf-8", "replace").split("\n")
    except OSError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")[:500]
