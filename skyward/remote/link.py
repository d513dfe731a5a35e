"""One node as its client sees it: a connection, the agent behind it, and what is on its way.

A link survives a dropped connection: it connects again, meets the same agent, and takes up where it was. What it hears
goes to its `listener` (the scheduler), in the thread of the connection: one thread less to wake for every answer. That
thread may not wait for the line to take what it sends, so another one sends it.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, Protocol

from skyward.errors import (
    AuthenticationError,
    BootstrapError,
    ConnectionLost,
    HostKeyError,
    HostUnreachable,
    InstanceDiskFull,
    ProtocolError,
    TransportError,
)
from skyward.model.instance import Endpoint, Instance
from skyward.remote import wire
from skyward.remote.bundle import Archive
from skyward.remote.codec import Blob
from skyward.remote.connection import Connection, Stream, connect
from skyward.remote.probe import Probe
from skyward.remote.program import agent_command, agent_program
from skyward.remote.text import printable

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
FIRST_PAUSE_S = 0.05
"""Before a machine that boots is tried again, seconds; later it is a seventh of what it has taken so far."""
HELLO_S = 15.0
MAX_BREAKS = 5
"""So many broken connections in a short while, without one result in between, are the end."""
MAX_NOISE = 1 << 20
"""What a login shell may print before our agent speaks, bytes."""
ACK_EVERY = 64
BLOBS_KEPT = 8 << 30
"""Blobs an instance keeps for tasks to come, bytes; the longest unused go first."""


class _Thread(threading.local):
    is_hearing = False


_THREAD = _Thread()
"""`is_hearing`: this thread brings what one of the nodes says, and must not wait until another one takes what is sent."""


class Listener(Protocol):
    """Who hears what a link hears; called in the thread of the connection, so it must be quick."""

    def on_records(self, link: Link, payload: Any) -> None: ...
    def on_output(self, link: Link, header: dict[str, Any], payload: Any) -> None: ...
    def on_recalled(self, link: Link, tasks: list[int], cancelled: bool) -> None: ...
    def on_sync(self, link: Link, known: set[int]) -> None: ...
    def on_detached(self, link: Link) -> None: ...
    def on_out_of_reach(self, link: Link, reason: str) -> None: ...
    def on_reattached(self, link: Link, seconds: float, *, same_agent: bool) -> None: ...
    def on_lost(self, link: Link, reason: str, *, final: bool) -> None: ...
    def on_no_room(self, link: Link, digest: str, error: str) -> None: ...
    def on_dead_slot(self, link: Link, story: dict[str, Any]) -> None: ...
    def on_stalled(self, link: Link, story: dict[str, Any]) -> None: ...


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

        What ends the machine by itself keeps its process id in `armed_file`. As long as this client is heard, the agent changes `lease_file`, so that the switch which reads it does not
        end the machine. What the cloud announces in `notice_file` (JSON) goes to `on_notice`, from the thread of the connection.
        `on_unreachable` is called when a new connection is not made at once: whoever guards the node may have to be told
        that this client has another address now. A lost node is looked for until its agent must be gone, and as long
        as it `is_awaited`: another machine is about to take its place, and its tasks with it.
        """
        self.endpoint = endpoint
        self.node = node
        self.instance = instance
        self.listener: Listener | None = None
        self.probe: Probe
        self.workers = 0
        self.slots = 0
        self.is_up = False
        self.is_closed = False
        self.lost_s = lost_s
        self.last_heard = time.monotonic()
        self.last_ping = 0.0
        self.round_trip_s = 0.0
        self._session = f"{session}-n{node}"
        self._lease = (
            {"path": lease_file, "every_s": max(0.2, (lease_s or 10.0) / 10)} if lease_file else None
        )
        self._armed_file = armed_file
        self.has_short_lease = lease_s is not None and lease_s < SHORT_LEASE_S
        self._notice_file = notice_file
        self.on_notice = on_notice
        self._on_unreachable = on_unreachable or (lambda: None)
        self._is_awaited = is_awaited
        self._connect = connect
        self._command = command
        self._is_booting = is_booting
        self._stalled_s = stalled_s
        self._linger_s = (
            linger_s if linger_s is not None else (LOCAL_LINGER_S if endpoint.kind == "local" else LINGER_S)
        )
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._writing = threading.Lock()
        self._to_send: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._sender: threading.Thread | None = None
        self._deferring = threading.Lock()
        self._deferred = 0
        self._hello: dict[str, Any] | None = None
        self._sync: dict[str, Any] | None = None
        self._ready: dict[str, Any] | None = None
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._seen = 0
        self._unacknowledged = 0
        self._settings: WorkerSettings | None = None
        self._sent: OrderedDict[str, int] = OrderedDict()
        self.fetches: dict[str, _Fetch] = {}
        self._logs: dict[str, LogFetch] = {}
        self._bulk: deque[Blob] = deque()
        self._bulk_wanted = threading.Condition()
        self._bulk_thread: threading.Thread | None = None
        self._drop_reason = ""
        self._breaks: list[float] = []

    def __repr__(self) -> str:
        return f"<Link n{self.node} {self.endpoint} {'up' if self.is_up else 'down'}>"

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "open() comes first"
        return self._connection

    # -- opening -------------------------------------------------------------------------------------------------

    def open(self, deadline_s: float, is_gone: Callable[[], bool] = lambda: False) -> Probe:
        """Connects, starts the agent and hears what kind of machine this is. A booting machine is tried again until it
        `is_gone`, which is asked after each attempt that failed.

        Raises:
            HostUnreachable, HostKeyError, AuthenticationError: as `connect`, after `deadline_s` if it is booting.
            BootstrapError: there is no python3 to run the agent on, or nowhere to write.
        """
        deadline = time.monotonic() + deadline_s
        self._attach(deadline, is_gone if self._is_booting else lambda: True)
        assert self._hello is not None
        self.probe = Probe.from_hello(self._hello)
        return self.probe

    def _attach(self, deadline: float, is_hopeless: Callable[[], bool]) -> None:
        pause = FIRST_PAUSE_S
        while True:
            if self.is_closed:
                raise ConnectionLost(f"{self.endpoint}: the link was closed")
            try:
                self._attach_once(deadline)
                return
            except (HostUnreachable, HostKeyError, AuthenticationError, ConnectionLost) as error:
                self._hang_up()
                if time.monotonic() + pause > deadline or is_hopeless():
                    raise
                del error
            except BaseException:
                self._hang_up()
                raise
            time.sleep(pause)
            pause = min(1.0, pause * 1.15)

    def _attach_once(self, deadline: float) -> None:
        left = max(0.5, deadline - time.monotonic())
        self._connection = self._connect(
            self.endpoint, deadline_s=min(left, 3 * self.endpoint.connect_timeout_s)
        )
        self._hello = self._sync = None
        self._failure = None
        stream = self._connection.open(self._command(self.endpoint))
        program = agent_program(
            {
                "session": self._session, "directory": self.endpoint.directory, "linger_s": self._linger_s,
                "armed": self._armed_file, "lease": self._lease, "notice": self._notice_file, "stalled_s": self._stalled_s,
            }
        )  # fmt: skip
        stream.write(
            program
            + wire.encode(
                wire.ATTACH, {"seen": self._seen, "linger_s": self._linger_s, "protocol": wire.PROTOCOL}
            )
        )
        self._stream = stream
        stream.on_data(_Hearing(self, stream).feed)
        with self._changed:
            began = time.monotonic()
            limit = min(deadline, began + HELLO_S)
            while self._sync is None and self._failure is None:
                left = limit - time.monotonic()
                if left <= 0:
                    raise HostUnreachable(
                        f"{self.endpoint}: connected, but the agent did not answer within {limit - began:.0f} s"
                    )
                self._changed.wait(left)
        if self._failure is not None:
            raise self._failure
        self.last_heard = time.monotonic()

    def configure(self, settings: WorkerSettings, *, timeout_s: float = 120.0) -> None:
        """Ships the archives that are not there yet and starts the workers; returns when they are ready.

        Raises:
            BootstrapError: a worker cannot start; carries what it printed.
        """
        self._settings = settings
        self._ready = None
        archives = [
            {"role": role, "digest": archive.digest}
            for role, archive in (("project", settings.project), ("runtime", settings.runtime))
            if archive is not None
        ]
        assert self._hello is not None
        there = set(self._hello.get("archives", ()))
        for archive in (settings.project, settings.runtime):
            if archive is not None and archive.digest not in there:
                self._send_long(_with_digest(archive))
        self.send(
            wire.CONFIGURE,
            {
                "python": settings.python, "env": dict(settings.env), "workers": [dict(one) for one in settings.workers],
                "concurrency": settings.concurrency, "archives": archives, "sys_path": list(settings.sys_path),
                "cwd": settings.cwd, "result_cap": settings.result_cap,
            },
        )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._ready is None and self._failure is None:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise BootstrapError(
                        f"{self.endpoint}: the workers were not ready within {timeout_s:.0f} s",
                        step="workers",
                    )
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        assert self._ready is not None
        self.slots = len(self._ready["workers"])
        self.workers = len(settings.workers)
        self.is_up = True

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, kind: int, header: dict[str, Any] | bytes, *payload: Any) -> None:
        """Sends one frame. A connection that breaks meanwhile is the business of who hears it, not the caller's."""
        stream = self._stream
        if stream is None:
            return
        if not self._deferred:
            if not _THREAD.is_hearing:
                self._send(stream, kind, header, *payload)
                return
            if self._try_to_send(stream, kind, header, *payload):
                return
        with self._deferring:
            if self._sender is None:
                self._sender = threading.Thread(
                    target=self._send_deferred, name=f"skyward-send-n{self.node}", daemon=True
                )
                self._sender.start()
            self._deferred += 1
            self._to_send.put((stream, kind, header, *payload))

    def _try_to_send(self, stream: Stream, kind: int, header: dict[str, Any] | bytes, *payload: Any) -> bool:
        """Sends a short frame, if the line is free and takes it at once."""
        size = sum(map(len, payload))
        if size > wire.INLINE or not self._writing.acquire(blocking=False):
            return False
        try:
            return stream.try_write(b"".join((wire.encode(kind, header, size), *payload)))
        finally:
            self._writing.release()

    def _send_deferred(self) -> None:
        """The thread that sends for one that must not wait, and what others have to say after that. What was meant for
        an earlier stream is not for this one: after a reconnect it is decided anew what the node lacks."""
        while (frame := self._to_send.get()) is not None:
            if frame[0] is self._stream:
                self._send(*frame)
            with self._deferring:
                self._deferred -= 1

    def _send(self, stream: Stream, kind: int, header: dict[str, Any] | bytes, *payload: Any) -> None:
        size = sum(map(len, payload))
        data = wire.encode(kind, header, size)
        try:
            with self._writing:
                if size <= wire.INLINE:
                    stream.write(b"".join((data, *payload)))
                    return
                stream.write(data)
                for part in payload:
                    stream.write(part)
        except ConnectionLost:
            stream.close()

    def ping(self) -> None:
        """Asks for a sign of life and confirms what has come; never waits for a busy line."""
        stream = self._stream
        if stream is None or not self._writing.acquire(blocking=False):
            return
        try:
            stream.write(wire.encode(wire.PING, {"at": time.monotonic(), "ack": self._seen}))
            self._unacknowledged = 0
        except ConnectionLost:
            stream.close()
        finally:
            self._writing.release()

    def ensure(self, blobs: Iterable[Blob]) -> bool:
        """Queues what this node does not have yet, and says whether there was any; each blob crosses the link once."""
        missing = []
        for blob in blobs:
            if blob.digest in self._sent:
                self._sent.move_to_end(blob.digest)
            else:
                self._sent[blob.digest] = blob.size
                missing.append(blob)
        if not missing:
            return False
        for blob in missing:
            if blob.size <= wire.CHUNK:
                self._send_now(blob)
        long = [blob for blob in missing if blob.size > wire.CHUNK]
        if not long:
            return True
        with self._bulk_wanted:
            self._bulk.extend(long)
            if self._bulk_thread is None:
                self._bulk_thread = threading.Thread(
                    target=self._send_bulk, name=f"skyward-bulk-n{self.node}", daemon=True
                )
                self._bulk_thread.start()
            self._bulk_wanted.notify()
        return True

    def forget(self, digests: Iterable[str]) -> None:
        """Lets the node drop blobs."""
        gone = [digest for digest in digests if self._sent.pop(digest, None) is not None]
        if gone:
            self.send(wire.DROP, {"digests": gone})

    def over_budget(self, in_use: set[str]) -> list[str]:
        """Blobs to forget, longest unused first, so that the rest fits the budget."""
        total, gone = sum(self._sent.values()), []
        budget = min(BLOBS_KEPT, self.probe.disk_free_bytes // 2 or BLOBS_KEPT)
        for digest, size in self._sent.items():
            if total <= budget:
                break
            if digest not in in_use:
                gone.append(digest)
                total -= size
        return gone

    def _send_bulk(self) -> None:
        while True:
            with self._bulk_wanted:
                while not self._bulk and not self.is_closed:
                    self._bulk_wanted.wait()
                if self.is_closed:
                    return
                blob = self._bulk.popleft()
            self._send_long(blob)
            blob.settle()

    def _send_now(self, blob: Blob) -> None:
        """A blob that fits into one frame."""
        self.send(wire.PIECE, {"digest": blob.digest, "offset": 0, "total": blob.size}, blob.data)

    def _send_long(self, blob: Blob) -> None:
        """At the pace of the line, and past what is deferred: whoever needs it waits for it."""
        stream = self._stream
        for offset in range(0, blob.size, wire.CHUNK):
            if stream is None or self._stream is not stream:
                return  # the line changed; whoever needs this blob asks for it again
            piece = blob.data[offset : offset + wire.CHUNK]
            self._send(
                stream, wire.PIECE, {"digest": blob.digest, "offset": offset, "total": blob.size}, piece
            )

    def fetch(
        self, name: str, total: int, done: Callable[[bytes | memoryview], None], *, as_bytes: bool = False
    ) -> None:
        """Brings a long value; `done` gets it from the thread of the connection: as memory that may be written to and kept, or
        `as_bytes`."""
        self.fetches[name] = _Fetch(total, done, as_bytes, self._stream)
        self.send(wire.FETCH, {"name": name, "offset": 0, "total": total})

    def is_fetching(self, name: str) -> bool:
        return name in self.fetches

    def stop_fetching(self, name: str) -> None:
        """What was to come is not worth having any more."""
        if self.fetches.pop(name, None) is not None:
            self.send(wire.DROP, {"names": [name]})

    def fetch_log(self, name: str, room: int, write: Callable[[Any], None], done: Callable[[], None]) -> None:
        """Brings the last `room` bytes of a log of the node: `write` gets them piece by piece, `done` is called after the
        last one, or at once if there is no such log; both from the thread of the connection."""
        self._logs[name] = LogFetch(room, write, done)
        self.send(wire.FETCH, {"name": name, "last": room})

    # -- hearing -------------------------------------------------------------------------------------------------

    def _ended(self, stream: Stream, reason: str) -> None:
        """A stream has ended, or nothing after this makes sense: then, unless we ended it, a new stream."""
        if stream is not self._stream or self.is_closed:
            return
        if self._hello is None:
            self._fail(self._why_no_hello(stream, reason))
        elif reason:
            self._fail(ProtocolError(f"{self.endpoint} {reason}"))
            self._give_up(reason, final=True)
        else:
            self._reattach()

    def _why_no_hello(self, stream: Stream, reason: str) -> Exception:
        said = stream.stderr_tail().strip()
        status = stream.exit_status(1.0)
        if status is None and not said and not reason:
            return ConnectionLost(f"{self.endpoint}: the connection broke before the agent answered")
        last = said.splitlines()[-1] if said else reason or f"exit status {status}"
        if "No space left" in said or "Read-only file system" in said or "Disk quota" in said:
            return InstanceDiskFull(f"{self.endpoint}: {last}", step="agent", tail=said)
        return BootstrapError(
            f"{self.endpoint}: the agent did not start: {last.removeprefix('skyward: ')}",
            step="agent",
            tail=said,
        )

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _hear(self, kind: int, header: dict[str, Any], payload: Any) -> None:
        listener = self.listener
        if kind == wire.RESULTS:
            (sequence,) = wire.SEQUENCE.unpack_from(payload)
            if sequence <= self._seen:
                return  # told twice, because our confirmation was lost
            if listener is not None:
                listener.on_records(self, memoryview(payload)[wire.SEQUENCE.size :])
            self._seen = sequence
            self._breaks.clear()
            self._unacknowledged += 1
            if self._unacknowledged >= ACK_EVERY:
                self._unacknowledged = 0
                self.send(wire.ACK, {"seq": sequence})
        elif kind == wire.PIECE:
            self._on_piece(header, payload)
        elif kind == wire.OUTPUT:
            if listener is not None:
                listener.on_output(self, header, payload)
        elif kind == wire.RECALLED:
            if listener is not None:
                listener.on_recalled(self, list(header["tasks"]), bool(header.get("cancelled")))
        elif kind == wire.PONG:
            if "at" in header:
                self.round_trip_s = max(0.0, time.monotonic() - float(header["at"]))
        elif kind == wire.HELLO:
            with self._changed:
                self._hello = header
                self._changed.notify_all()
        elif kind == wire.READY:
            with self._changed:
                self._ready = header
                self._changed.notify_all()
        elif kind == wire.SYNC:
            with self._changed:
                self._sync = header
                self._changed.notify_all()
        elif kind == wire.NOTICE:
            self._on_notice(header)
        elif kind == wire.FAREWELL:
            self.is_closed = True

    def _on_piece(self, header: dict[str, Any], payload: Any) -> None:
        fetch = self.fetches.get(header["name"])
        if fetch is None:
            self._on_log_piece(header, payload)
            return
        if header["total"] != fetch.total or len(payload) > fetch.total - fetch.filled:
            raise ValueError(f"{header['name']} has {header['total']} bytes, {fetch.total} were announced")
        if header["offset"] != fetch.filled:
            raise ValueError(
                f"{header['name']} goes on at {header['offset']}, {fetch.filled} bytes have come"
            )
        fetch.add(payload)
        if fetch.filled == fetch.total:
            del self.fetches[header["name"]]
            self.send(wire.DROP, {"names": [header["name"]]})
            fetch.done(fetch.value())

    def _on_log_piece(self, header: dict[str, Any], payload: Any) -> None:
        name = header["name"]
        log = self._logs.get(name)
        if log is not None and log.take(header["offset"], header["total"], payload):
            del self._logs[name]
            log.done()

    def _end_logs(self) -> None:
        """The rest of the logs that were on their way is not waited for."""
        while self._logs:
            _, log = self._logs.popitem()
            log.done()

    def _on_notice(self, header: dict[str, Any]) -> None:
        what = header["what"]
        if what == "no-room":
            if self.listener is not None and self.is_up:
                self._sent.pop(header["digest"], None)
                self.listener.on_no_room(self, header["digest"], header["error"])
            else:
                self._fail(
                    InstanceDiskFull(
                        f"{self.endpoint}: no room in {header['directory']}: {header['error']}", step="files"
                    )
                )
        elif what == "worker-cannot-start":
            tail = str(header.get("tail", ""))
            last = tail.strip().splitlines()[-1:] or [
                str(header.get("reason") or header.get("signal") or f"exit {header.get('exit')}")
            ]
            error = BootstrapError(
                f"{self.endpoint}: a worker cannot start with {header['python']}: {last[0]}",
                step="workers",
                tail=tail,
            )
            if self.is_up and self.listener is not None:
                self.listener.on_dead_slot(self, header)
            else:
                self._fail(error)
        elif what == "stalled":
            if self.listener is not None:
                self.listener.on_stalled(self, header)
        elif what == "no-such-value":
            if (log := self._logs.pop(header["name"], None)) is not None:
                log.done()
        elif what == "interruption":
            if self.on_notice is not None:
                self.on_notice(self, dict(header["notice"]))
        elif what == "cannot-configure":
            self._fail(
                BootstrapError(f"{self.endpoint}: cannot be configured: {header['error']}", step="files")
            )

    # -- losing and finding again --------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Ends the connection that has been silent; a new one is then looked for."""
        self._drop_reason = reason
        self._hang_up()

    def _hang_up(self) -> None:
        stream, connection = self._stream, self._connection
        if stream is not None:
            stream.close()
        if connection is not None:
            connection.close()

    def _reattach(self) -> None:
        """Connects again until that works or the agent must be gone; tells the listener what it finds."""
        self._end_logs()
        started = time.monotonic()
        before = self.probe.agent if hasattr(self, "probe") else ""
        was_up, self.is_up = self.is_up, False
        if self.listener is None or not was_up:
            self._fail(ConnectionLost(f"{self.endpoint}: the connection broke"))
            return
        self.listener.on_detached(self)
        reason, self._drop_reason = self._drop_reason or "the connection broke", ""
        if self._breaks_too_often(started):
            self._give_up(f"{reason}, and again and again without a result in between", final=True)
            return
        is_lost = is_told = False
        silent_since = min(self.last_heard, started)
        end = started + self._linger_s + 5
        while not self.is_closed and (time.monotonic() < end or self._is_awaited()):
            if not is_lost and time.monotonic() - silent_since >= self.lost_s:
                is_lost = True
                self.listener.on_lost(self, reason, final=False)
            try:
                limit = silent_since + self.lost_s if not is_lost else end
                self._attach_once(max(time.monotonic() + 1.0, min(limit, time.monotonic() + 5)))
            except (
                TransportError,
                BootstrapError,
            ) as error:  # a refused key too: noise on the line looks like that
                reason = error.message
                self._hang_up()
                if not is_told and not is_lost:
                    is_told = True
                    self.listener.on_out_of_reach(self, reason)
                self._on_unreachable()
                time.sleep(0.2)
                continue
            if self.is_closed:
                return
            self._resume(before, started)
            return
        if not self.is_closed:
            self._give_up(reason, final=True)

    def _breaks_too_often(self, now: float) -> bool:
        self._breaks = [at for at in self._breaks if now - at < max(30.0, 8 * self.lost_s)]
        self._breaks.append(now)
        return len(self._breaks) > MAX_BREAKS

    def _resume(self, before: str, started: float) -> None:
        assert self._hello is not None
        assert self.listener is not None
        same = self._hello["agent"] == before
        self._sent = OrderedDict(
            (digest, self._sent.get(digest, 0)) for digest in self._hello.get("have", ())
        )
        self.probe = Probe.from_hello(self._hello)
        if same:
            # Work may be sent only after this: what left earlier would be missing from what the agent says it knows.
            self.listener.on_sync(self, set(self._sync["known"]) if self._sync else set())
            self.is_up = True
            for name, fetch in list(self.fetches.items()):
                # What was heard of on this stream is on its way already: asked for twice, it would begin anew.
                if fetch.asked_on is not self._stream:
                    fetch.asked_on = self._stream
                    self.send(wire.FETCH, {"name": name, "offset": fetch.filled, "total": fetch.total})
        else:
            self._seen = 0
            self.fetches.clear()
            said = printable(str(self._hello.get("predecessor", "")).encode("utf-8", "backslashreplace"))
            self.listener.on_lost(self, "the agent on it died" + (f": {said}" if said else ""), final=False)
            try:
                assert self._settings is not None
                self.configure(self._settings)
            except (BootstrapError, TransportError) as error:
                self._give_up(error.message, final=True)
                return
        self.last_heard = time.monotonic()
        self.listener.on_reattached(self, time.monotonic() - started, same_agent=same)

    def give_up(self, reason: str) -> None:
        """Ends it for good: whatever the node still says is not heard any more, and its work moves."""
        if not self.is_closed:
            self.close()
            self._give_up(reason, final=True)

    def _give_up(self, reason: str, *, final: bool) -> None:
        self._end_logs()
        self.is_up = False
        self.is_closed = self.is_closed or final
        self._hang_up()
        if self.listener is not None:
            self.listener.on_lost(self, reason, final=final)

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, timeout_s: float = 5.0) -> None:
        """Says farewell: workers end and the agent removes what this run wrote. Idempotent, bounded, never raises."""
        stream, connection = self._stream, self._connection
        was_closed, self.is_up = self.is_closed, False
        if stream is not None and not was_closed:
            if self._writing.acquire(timeout=1.0):
                try:
                    stream.write(wire.encode(wire.BYE, {}))
                except ConnectionLost:
                    pass
                finally:
                    self._writing.release()
            self.is_closed = True
            status = stream.exit_status(
                timeout_s
            )  # the bridge on the other side ends when the agent has cleaned up
            del status
        self.is_closed = True
        self._to_send.put(None)
        with self._bulk_wanted:
            self._bulk_wanted.notify_all()
        self._end_logs()
        self._hang_up()
        del connection


class _Hearing:
    """Makes frames of the bytes of one stream."""

    def __init__(self, link: Link, stream: Stream) -> None:
        self._link = link
        self._stream = stream
        self._decoder = wire.Decoder()
        self._noise = bytearray()
        self._is_quiet = True
        self._is_over = False

    def feed(self, data: bytes) -> None:
        """Never raises, and never waits for the line; b"" is the end."""
        if self._is_over:
            return
        if not data:
            self._end("")
            return
        link = self._link
        link.last_heard = time.monotonic()
        _THREAD.is_hearing = True
        try:
            if self._is_quiet:
                data = self._without_noise(data)
            for kind, header, payload in self._decoder.feed(data):
                link._hear(kind, header, payload)
        except wire.BadFrame as error:
            self._end(f"speaks nonsense: {error}")
        except _NONSENSE as error:
            self._end(f"sent a frame that makes no sense: {type(error).__name__}: {error}")
        finally:
            _THREAD.is_hearing = False

    def _without_noise(self, data: bytes) -> bytes:
        """What comes after the words of a login shell."""
        self._noise += data
        start = self._noise.find(wire.MAGIC)
        if start < 0:
            if len(self._noise) > MAX_NOISE:
                raise wire.BadFrame("the login shell prints without end")
            return b""
        self._is_quiet = False
        return bytes(self._noise[start:])

    def _end(self, reason: str) -> None:
        """Goes on in a thread of its own: finding a new connection takes longer than the old one's thread has."""
        self._is_over = True
        threading.Thread(
            target=self._link._ended,
            args=(self._stream, reason),
            name=f"skyward-n{self._link.node}",
            daemon=True,
        ).start()


_NONSENSE = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
"""What reading plain data raises when it is not what we would have written."""


class _Fetch:
    """A long value on its way here."""

    __slots__ = ("_growing", "_target", "asked_on", "done", "filled", "total")

    def __init__(
        self, total: int, done: Callable[[bytes | memoryview], None], as_bytes: bool, asked_on: Stream | None
    ) -> None:
        self.total = total
        self.asked_on = asked_on
        self.done = done
        self.filled = 0
        self._growing = BytesIO() if as_bytes else None  # gives its bytes away without copying them
        self._target = bytearray(0 if as_bytes else total)

    def add(self, piece: Any) -> None:
        if self._growing is not None:
            self._growing.write(piece)
        else:
            self._target[self.filled : self.filled + len(piece)] = piece
        self.filled += len(piece)

    def value(self) -> bytes | memoryview:
        return self._growing.getvalue() if self._growing is not None else memoryview(self._target)


class LogFetch:
    """A log on its way here, of which the last `room` bytes were asked for."""

    __slots__ = ("_room", "_write", "done")

    def __init__(self, room: int, write: Callable[[Any], None], done: Callable[[], None]) -> None:
        self._room = room
        self._write = write
        self.done = done

    def take(self, offset: int, total: int, piece: Any) -> bool:
        """Whether this piece was the last one. A node that sends more than it was asked for is not believed."""
        self._room -= len(piece)
        if self._room < 0:
            raise ValueError(f"a log has more than the {total} bytes that were announced")
        self._write(piece)
        return bool(offset + len(piece) >= total)


def _with_digest(archive: Archive) -> Blob:
    return Blob(archive.data, archive.digest)
