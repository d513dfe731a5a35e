"""Ends what a client leaves behind, however it ends: a process of its own that outlives it.

It holds one end of a pipe and waits. The pipe closes when the client dies, in whatever way; then the reaper finishes the
pool from its journal, and does not stop before the cloud has shown that everything is gone. A client in a hurry
hands its pool over; one that has cleaned up itself says goodbye. `Reaper` is the client's side, `main` the process.

    python -P -m skyward.cloud.reaper JOURNAL          started by a client, which holds its standard input
    python -P -m skyward.cloud.reaper JOURNAL now      started for a pool whose client is dead already
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import sys
from pathlib import Path
from typing import IO
from weakref import WeakSet

from skyward.cloud.client import Client
from skyward.cloud.journal import Journal
from skyward.errors import JournalError, SkywardError

READY_S = 20.0
"""How long a reaper may take to come up, seconds."""
LOOK_S = 2.0
"""How often it is looked whether the client still lives, whatever the pipe says: a child that the client forked in
its own way may hold it open. Seconds."""
SEEN = "client-alive"
"""A file beside the keys of a pool, as old as the last sign of life of its client."""
FINISH = b"finish\n"
GOODBYE = b"goodbye\n"


class Reaper:
    """The client's side of the process that would finish the pool in its place."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._pipe: IO[bytes] | None = None
        self._process: Client | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.is_alive is True

    def ensure(self) -> None:
        """Starts it if it does not run; returns when it holds the pipe.

        Raises:
            SkywardError: it cannot be started, so nobody would end the machines of a client that dies.
        """
        if not self.is_alive:
            self._start()

    def _start(self) -> None:
        self._let_go()
        try:
            self._pipe, self._process = start(self._journal)
        except (OSError, ValueError, RuntimeError) as error:
            raise SkywardError(
                f"the process that ends machines in place of a dead client does not start: {error}",
                facts=["without it nothing is rented"],
                hints=[f"its log: {log_of(self._journal)}"],
                exit_code=4,
            ) from error
        _held.add(self)

    def hand_over(self) -> bool:
        """The reaper finishes the pool now; False where there is none."""
        return self._say(FINISH)

    def dismiss(self) -> None:
        """There is nothing left to do for it."""
        self._say(GOODBYE)

    def _say(self, word: bytes) -> bool:
        if self._pipe is None or not self.is_alive:
            self._let_go()
            return False
        try:
            os.write(self._pipe.fileno(), word)
        except OSError:
            return False
        finally:
            self._let_go()
        return True

    def _let_go(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


_held: WeakSet[Reaper] = WeakSet()


def _forget_in_child() -> None:
    """A forked child keeps no pipe open: it is the client's life that counts, not its own."""
    for one in list(_held):
        one._let_go()
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def start(journal: Path, *, now: bool = False) -> tuple[IO[bytes], Client]:
    """A reaper in a session of its own, and the pipe whose end it waits for. `now`: it does not wait.

    Raises:
        OSError, RuntimeError: there is none.
    """
    import subprocess

    log = log_of(journal)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    words = [sys.executable, "-P", "-m", "skyward.cloud.reaper", str(journal), *(["now"] if now else [])]
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600), "wb") as errors:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    assert process.stdin
    assert process.stdout
    try:
        with process.stdout:
            ready, _, _ = select.select([process.stdout], [], [], READY_S)
            said = process.stdout.readline() if ready else b""
        process.wait(READY_S)
        if not said.startswith(b"ready "):
            tail = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(tail[0] if tail else f"exit status {process.returncode}")
    except BaseException:
        process.stdin.close()
        process.kill()
        process.wait()
        raise
    return process.stdin, Client.of(int(said.split()[1]))


def _environment() -> dict[str, str]:
    """Ours, so that credentials are found where we found them; and our own package, wherever it is imported from."""
    environ = dict(os.environ)
    roots = [str(Path(__file__).parents[2]), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(root) for root in roots)
    if home := environ.get("SKYWARD_HOME"):
        environ["SKYWARD_HOME"] = str(Path(home).expanduser().absolute())
    return environ


def place_of(journal: Path) -> Path:
    """The directory of a pool's keys and log, beside its journal."""
    return journal.with_suffix("")


def log_of(journal: Path) -> Path:
    return place_of(journal) / "reaper.log"


def note_life(journal: Path) -> None:
    """The client lives now: from here on the lease of its machines runs out, should it die."""
    with contextlib.suppress(OSError):
        seen = os.open(
            place_of(journal) / SEEN, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        try:
            os.utime(seen)
        finally:
            os.close(seen)


def last_life(journal: Path) -> float | None:
    """When the client of a pool was last known to live, in seconds of the epoch; None where nobody noted it."""
    for path in (place_of(journal) / SEEN, journal):
        with contextlib.suppress(OSError):
            return path.stat().st_mtime
    return None


# -- the process ---------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Waits for the end of the client, then finishes its pool."""
    path, is_now = Path(arguments[0]), arguments[1:] == ["now"]
    if os.fork():
        os._exit(0)  # so that it is no child of the client, which need not wait for it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(
            number, signal.SIG_IGN
        )  # it ends when its work is done; what is urgent comes as SIGKILL
    try:
        journal = Journal.open(path)
    except JournalError as error:
        print(error.message, file=sys.stderr)
        return 1
    if not journal.take():
        print(f"{path}: somebody else finishes it", file=sys.stderr)
        return 1
    with contextlib.suppress(
        OSError
    ):  # a client that died meanwhile hears nothing, and is just what we are for
        os.write(1, b"ready %d\n" % os.getpid())
    os.dup2(2, 1)
    if not is_now and _await_end(journal) == GOODBYE:
        return 0
    return finish(journal)


def _await_end(journal: Journal) -> bytes:
    """What the client said last; b"" where it just died. Until then the time is kept at which it was last alive."""
    assert journal.path is not None
    client = journal.account.client
    said = b""
    while True:
        note_life(journal.path)
        readable, _, _ = select.select([0], [], [], LOOK_S)
        if readable:
            data = os.read(0, 4096)
            said += data
            if not data or said.endswith(b"\n"):
                return said
        elif client is not None and client.is_alive is False:
            return b""


def finish(journal: Journal) -> int:
    """Ends the pool and everything that was made for it, with as much patience as it takes."""
    from skyward.cloud.desks import Registered
    from skyward.cloud.keys import forget
    from skyward.cloud.teardown import settle

    account = journal.refresh()
    path = journal.path
    assert path is not None
    if account.is_debt:
        left = settle(journal, Registered(account), patience_s=math.inf, is_stopped=lambda: not path.exists())
        if left:
            return 1
    journal.close()
    forget(place_of(path))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
