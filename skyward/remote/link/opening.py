"""How an agent is met and given workers: a machine is connected to, a program starts there, and says what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skyward.errors import (
    AuthenticationError,
    BootstrapError,
    ConnectionLost,
    HostKeyError,
    HostUnreachable,
    InstanceDiskFull,
    ProtocolError,
)
from skyward.model.instance import Endpoint
from skyward.remote import wire
from skyward.remote.bundle import Archive
from skyward.remote.codec import Blob
from skyward.remote.connection import Connection, Stream
from skyward.remote.link.answers import Answers
from skyward.remote.link.hearing import NONSENSE, Hearing
from skyward.remote.link.line import Line
from skyward.remote.probe import Probe
from skyward.remote.program import agent_program

if TYPE_CHECKING:
    from skyward.remote.link.link import Link

FIRST_PAUSE_S = 0.05
"""Before a machine that boots is tried again, seconds; later it is a seventh of what it has taken so far."""
HELLO_S = 15.0


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """How the workers of one node run. `workers` has one mapping of extra variables per worker."""

    python: str
    env: Mapping[str, str] = field(default_factory=dict)
    workers: tuple[Mapping[str, str], ...] = ({},)
    concurrency: int = 1
    """Slots per worker: how many tasks it runs at once, each in a process of its own."""
    project: Archive | None = None
    runtime: Archive | None = None
    sys_path: tuple[str, ...] = ()
    cwd: str | None = None
    result_cap: int | None = None
    """Results longer than this are refused on the node, bytes."""


class Opening:
    """Gives the line of a link a stream with an agent at its other end: a new one, or the one that is there."""

    def __init__(
        self,
        link: Link,
        line: Line,
        answers: Answers,
        hearing: Hearing,
        *,
        connect: Callable[..., Connection],
        command: Callable[[Endpoint], str],
        agent: Mapping[str, Any],
    ) -> None:
        """What `command` gives reads a program there that becomes the agent; `agent` is what that one is told first."""
        self._link = link
        self._line = line
        self._answers = answers
        self._hearing = hearing
        self._connect = connect
        self._command = command
        self._agent = agent

    def attach(self, deadline: float, is_hopeless: Callable[[], bool]) -> Probe:
        """Tries again and again until the deadline, or until it `is_hopeless`; gives what the agent says of its machine."""
        pause = FIRST_PAUSE_S
        while True:
            if self._link.is_closed:
                raise ConnectionLost(f"{self._link.endpoint}: the link was closed")
            try:
                return self.attach_once(deadline)
            except (HostUnreachable, HostKeyError, AuthenticationError, ConnectionLost):
                self._line.hang_up()
                if time.monotonic() + pause > deadline or is_hopeless():
                    raise
            except BaseException:
                self._line.hang_up()
                raise
            time.sleep(pause)
            pause = min(1.0, pause * 1.15)

    def attach_once(self, deadline: float) -> Probe:
        """One attempt. Who calls it hangs up where it fails."""
        endpoint = self._link.endpoint
        left = max(0.5, deadline - time.monotonic())
        connection = self._connect(endpoint, deadline_s=min(left, 3 * endpoint.connect_timeout_s))
        self._line.connection = connection
        self._answers.begin()
        stream = connection.open(self._command(endpoint))
        program = agent_program({**self._agent, "directory": endpoint.directory})
        terms = {
            "seen": self._hearing.seen,
            "linger_s": self._agent["linger_s"],
            "protocol": wire.PROTOCOL,
        }
        try:
            stream.write(program + wire.encode(wire.ATTACH, terms))
        except ConnectionLost:  # it has ended before it had read all of that
            raise why_no_hello(endpoint, stream, "") from None
        self._line.stream = stream
        self._hearing.listen_to(stream)
        limit_s = min(deadline - time.monotonic(), HELLO_S)
        if self._answers.wait_for(wire.SYNC, limit_s) is None:
            raise HostUnreachable(
                f"{endpoint}: connected, but the agent did not answer within {limit_s:.0f} s"
            )
        self._link.last_heard = time.monotonic()
        try:
            return Probe.from_hello(self._answers.hello or {})
        except ValueError as error:
            raise ProtocolError(
                f"{endpoint}: what the agent says of its machine makes no sense: {error}"
            ) from None

    def start_workers(self, settings: WorkerSettings, timeout_s: float) -> int:
        """Ships the archives that are not there yet and starts the workers; gives how many tasks they can run at once."""
        self._answers.forget(wire.READY)
        archives = {
            role: archive
            for role, archive in (("project", settings.project), ("runtime", settings.runtime))
            if archive is not None
        }
        for archive in archives.values():
            if archive.digest not in self._link.probe.archives:
                self._line.send_long(Blob(archive.data, archive.digest))
        self._line.send(
            wire.CONFIGURE,
            {
                "python": settings.python, "env": dict(settings.env), "workers": [dict(one) for one in settings.workers],
                "concurrency": settings.concurrency, "sys_path": list(settings.sys_path), "cwd": settings.cwd,
                "archives": [{"role": role, "digest": archive.digest} for role, archive in archives.items()],
                "result_cap": settings.result_cap,
            },
        )  # fmt: skip
        ready = self._answers.wait_for(wire.READY, timeout_s)
        if ready is None:
            raise BootstrapError(
                f"{self._link.endpoint}: the workers were not ready within {timeout_s:.0f} s", step="workers"
            )
        try:
            return len(ready["workers"])
        except NONSENSE as error:
            raise ProtocolError(
                f"{self._link.endpoint}: what the agent says of its workers makes no sense: {error}"
            ) from None


def why_no_hello(endpoint: Endpoint, stream: Stream, reason: str) -> Exception:
    """Of a stream that has ended before an agent spoke; `reason` is what was wrong with what came on it instead, or ""."""
    status = stream.exit_status(1.0)  # first: all that was said is here when the end is
    said = stream.stderr_tail().strip()
    if status is None and not said and not reason:
        return ConnectionLost(f"{endpoint}: the connection broke before the agent answered")
    last = said.splitlines()[-1] if said else reason or f"exit status {status}"
    if "No space left" in said or "Read-only file system" in said or "Disk quota" in said:
        return InstanceDiskFull(f"{endpoint}: {last}", step="agent", tail=said)
    return BootstrapError(
        f"{endpoint}: the agent did not start: {last.removeprefix('skyward: ')}", step="agent", tail=said
    )
