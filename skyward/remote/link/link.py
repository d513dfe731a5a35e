"""A link as a whole: puts together what has modules of its own, and is what everybody else knows of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from skyward.errors import ProtocolError
from skyward.model.instance import Endpoint, Instance
from skyward.remote import wire
from skyward.remote.connection import Connection, Stream, connect
from skyward.remote.link.answers import Answers
from skyward.remote.link.blobs import Blobs
from skyward.remote.link.fetching import Fetching
from skyward.remote.link.finding import Finding
from skyward.remote.link.hearing import Hearing
from skyward.remote.link.line import Line
from skyward.remote.link.listener import Listener
from skyward.remote.link.opening import Opening, WorkerSettings, why_no_hello
from skyward.remote.probe import Probe
from skyward.remote.program import agent_command

LINGER_S = 60.0
"""How long an agent waits for a lost client before it ends its workers and itself, seconds."""
LOCAL_LINGER_S = 2.0
SUSPECT_S = 3.0
LOST_S = 9.5
"""A node that has been silent for so long is given up and its tasks move, seconds: within ten of its last word."""
STALLED_S = 60.0
"""A worker that runs a task and has neither computed nor printed anything for so long is told of, seconds."""
SHORT_LEASE_S = 10.0
"""A lease below this is renewed as often as a busy node is asked for a sign of life, seconds."""


class Link:
    """One node. `open`, then `configure`, then give it to an engine; `close` ends everything on it."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        node: int,
        session: str,
        instance: Instance | None = None,
        connect: Callable[..., Connection] = connect,
        command: Callable[[Endpoint], str] = agent_command,
        is_booting: bool = False,
        linger_s: float | None = None,
        lost_s: float = LOST_S,
        armed_file: str | None = None,
        stalled_s: float = STALLED_S,
        lease_file: str | None = None,
        lease_s: float | None = None,
        notice_file: str | None = None,
        on_notice: Callable[[Link, dict[str, Any]], None] | None = None,
        on_unreachable: Callable[[], None] | None = None,
        is_awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        """Of a task that does nothing for `stalled_s` its node tells, and again after twice the time.

        `is_booting` says that the machine is young: refusals are retried until the deadline of `open`. What `command` gives
        becomes an agent there.

        What ends the machine by itself keeps its process id in `armed_file`. As long as this client is heard, the agent
        changes `lease_file`, so that the switch which reads it does not end the machine. What the cloud announces in
        `notice_file` (JSON) goes to `on_notice`, from the thread of the connection.
        `on_unreachable` is called when a new connection is not made at once: whoever guards the node may have to be told
        that this client has another address now. A lost node is looked for until its agent must be gone, and as long
        as it `is_awaited`: another machine is about to take its place, and its tasks with it.
        """
        self.endpoint = endpoint
        self.node = node
        self.instance = instance
        self.listener: Listener | None = None
        self.probe: Probe
        self.settings: WorkerSettings | None = None
        """How the workers were asked for last."""
        self.workers = 0
        self.slots = 0
        self.is_up = False
        self.is_closed = False
        self.lost_s = lost_s
        self.has_short_lease = lease_s is not None and lease_s < SHORT_LEASE_S
        self.last_heard = time.monotonic()
        self.last_ping = 0.0
        self.round_trip_s = 0.0
        self._is_booting = is_booting
        if linger_s is None:
            linger_s = LOCAL_LINGER_S if endpoint.kind == "local" else LINGER_S
        lease = {"path": lease_file, "every_s": max(0.2, (lease_s or 10.0) / 10)} if lease_file else None
        agent = {
            "session": f"{session}-n{node}", "linger_s": linger_s, "armed": armed_file, "lease": lease,
            "notice": notice_file, "stalled_s": stalled_s,
        }  # fmt: skip
        self._answers = Answers()
        self._line = Line(node)
        self._blobs = Blobs(self._line, node, is_over=lambda: self.is_closed)
        self._fetching = Fetching(self._line)
        self._hearing = Hearing(
            self,
            self._line,
            self._answers,
            self._blobs,
            self._fetching,
            on_notice=on_notice,
            ended=self._ended,
        )
        self._opening = Opening(
            self,
            self._line,
            self._answers,
            self._hearing,
            connect=connect,
            command=command,
            agent=agent,
        )
        self._finding = Finding(
            self,
            self._line,
            self._answers,
            self._hearing,
            self._opening,
            self._blobs,
            self._fetching,
            linger_s=linger_s,
            on_unreachable=on_unreachable or (lambda: None),
            is_awaited=is_awaited,
        )
        # What is used for every task is the thing itself: a method that only passes it on would be one more call.
        self.send = self._line.send
        self.ensure = self._blobs.ensure
        self.fetches = self._fetching.values

    def __repr__(self) -> str:
        return f"<Link n{self.node} {self.endpoint} {'up' if self.is_up else 'down'}>"

    @property
    def connection(self) -> Connection:
        assert self._line.connection is not None, "open() comes first"
        return self._line.connection

    # -- from the first connection to the last ---------------------------------------------------------------------

    def open(self, deadline_s: float, is_gone: Callable[[], bool] = lambda: False) -> Probe:
        """Connects, starts the agent and hears what kind of machine this is. A booting machine is tried again until it
        `is_gone`, which is asked after each attempt that failed.

        Raises:
            HostUnreachable, HostKeyError, AuthenticationError: as `connect`, after `deadline_s` if it is booting.
            BootstrapError: there is no python3 to run the agent on, or nowhere to write.
            ProtocolError: what answers is no agent.
        """
        deadline = time.monotonic() + deadline_s
        self.probe = self._opening.attach(deadline, is_gone if self._is_booting else lambda: True)
        return self.probe

    def configure(self, settings: WorkerSettings, *, timeout_s: float = 120.0) -> None:
        """Ships the archives that are not there yet and starts the workers; returns when they are ready.

        Raises:
            BootstrapError: a worker cannot start; carries what it printed.
        """
        self.settings = settings
        self.slots = self._opening.start_workers(settings, timeout_s)
        self.workers = len(settings.workers)
        self.is_up = True

    def _ended(self, stream: Stream, reason: str) -> None:
        """A stream has ended, or nothing after this makes sense: then, unless we ended it, a new stream."""
        if stream is not self._line.stream or self.is_closed:
            return
        if self._answers.hello is None:
            self._answers.fail(why_no_hello(self.endpoint, stream, reason))
        elif reason:
            self._answers.fail(ProtocolError(f"{self.endpoint} {reason}"))
            self._finding.give_up(reason)
        else:
            self._finding.reattach()

    def drop(self, reason: str) -> None:
        """Ends the connection that has been silent; a new one is then looked for."""
        self._finding.drop(reason)

    def give_up(self, reason: str) -> None:
        """Ends it for good: whatever the node still says is not heard any more, and its work moves."""
        if not self.is_closed:
            self.close()
            self._finding.give_up(reason)

    def close(self, timeout_s: float = 5.0) -> None:
        """Says farewell: workers end and the agent removes what this run wrote. Idempotent, bounded, never raises."""
        stream = self._line.stream
        was_closed, self.is_up = self.is_closed, False
        if stream is not None and not was_closed:
            self._line.say_farewell(stream)
            self.is_closed = True
            stream.exit_status(timeout_s)  # the bridge on the other side ends when the agent has cleaned up
        self.is_closed = True
        self._line.end()
        self._blobs.end()
        self._fetching.end_logs()
        self._line.hang_up()

    # -- what is on its way ----------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Asks for a sign of life and confirms what has come; never waits for a busy line."""
        if self._line.send_if_free(wire.PING, {"at": time.monotonic(), "ack": self._hearing.seen}):
            self._hearing.unacknowledged = 0

    @property
    def has_many_blobs(self) -> bool:
        """Whether `over_budget` is worth asking."""
        return self._blobs.are_many

    def forget(self, digests: Iterable[str]) -> None:
        """Lets the node drop blobs."""
        self._blobs.forget(digests)

    def over_budget(self, in_use: set[str]) -> list[str]:
        """Blobs to forget, longest unused first, so that the rest fits the budget."""
        return self._blobs.over_budget(in_use, disk_free_bytes=self.probe.disk_free_bytes)

    def fetch(
        self, name: str, total: int, done: Callable[[bytes | memoryview], None], *, as_bytes: bool = False
    ) -> None:
        """Brings a long value; `done` gets it from the thread of the connection: as memory that may be written to and kept,
        or `as_bytes`."""
        self._fetching.fetch(name, total, done, as_bytes)

    def is_fetching(self, name: str) -> bool:
        return name in self.fetches

    def stop_fetching(self, name: str) -> None:
        """What was to come is not worth having any more."""
        self._fetching.stop(name)

    def fetch_log(self, name: str, room: int, write: Callable[[Any], None], done: Callable[[], None]) -> None:
        """Brings the last `room` bytes of a log of the node: `write` gets them piece by piece, `done` is called after the
        last one, or at once if there is no such log; both from the thread of the connection."""
        self._fetching.fetch_log(name, room, write, done)
