"""The command that SSH runs: it hands its own descriptors to the agent of its session, and starts that if need be.

Descriptors travel over a unix socket, so no byte is relayed by a second process. Any Python >= 3.8.
"""

from __future__ import annotations

import os
import struct
import sys

from skyward.remote.node.agent import Agent
from skyward.remote.node.files import last_line, meet, remove, within
from skyward.remote.node.lean import from_json, signal, socket

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, Optional


def start(text: str, modules: bytes) -> None:
    """Attaches standard input and output to the agent of this session, starting it first if need be.

    `text` is its settings as JSON; `modules` what this module was made of, for workers.
    """
    settings = dict(from_json(text), modules=modules)
    directory = choose_directory(settings.get("directory"))
    run_directory = os.path.join(directory, "runs", settings["session"])
    link = meet(run_directory)
    if link is None:
        settings["predecessor"] = last_line(os.path.join(run_directory, "agent.log"))
        remove(run_directory)
        os.makedirs(run_directory, mode=0o700)
        listener = socket.socket(socket.AF_UNIX)
        within(run_directory, lambda: listener.bind("agent.sock"))
        listener.listen(8)
        if os.fork() == 0:
            _become_agent(settings, directory, run_directory, listener)
        listener.close()
        link = meet(run_directory)
        if link is None:
            sys.exit("skyward: the agent did not start")
    link.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", 0, 1))])
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        link.recv(1)
    except OSError:
        pass
    os._exit(0)


def _become_agent(
    settings: Dict[str, Any], directory: str, run_directory: str, listener: socket.socket
) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(os.path.join(run_directory, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    os.closerange(3, listener.fileno())
    status = 1
    try:
        Agent(settings, directory, run_directory, listener).serve()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def choose_directory(wanted: Optional[str]) -> str:
    """Our one directory on this instance, made private; the first of the candidates that can be written."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    candidates = [wanted] if wanted else [os.path.join(cache, "skyward"), "/tmp/skyward-%d" % os.getuid()]
    reasons = []
    for path in candidates:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            status = os.stat(path)
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise OSError("it belongs to somebody else or others may write to it")
            probe = os.path.join(path, ".probe-%d" % os.getpid())
            with open(probe, "wb") as file:
                file.write(b"x")
            os.unlink(probe)
            return os.path.abspath(path)
        except OSError as error:
            reasons.append("%s: %s" % (path, error))
    sys.exit("skyward: no directory to write to: " + "; ".join(reasons))
