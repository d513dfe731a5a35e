"""What one node says: bytes of a stream become frames, and a frame what somebody is told or gets.

All of it happens in the thread of the connection, for every answer of every task: nothing here may wait.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from skyward.errors import BootstrapError, InstanceDiskFull
from skyward.remote import wire
from skyward.remote.connection import Stream
from skyward.remote.link.answers import Answers
from skyward.remote.link.blobs import Blobs
from skyward.remote.link.fetching import Fetching
from skyward.remote.link.line import THIS_THREAD, Line

if TYPE_CHECKING:
    from skyward.remote.link.link import Link

MAX_NOISE = 1 << 20
"""What a login shell may print before our agent speaks, bytes."""
ACK_EVERY = 64


class Hearing:
    """Hears one node, over all its streams."""

    def __init__(
        self,
        link: Link,
        line: Line,
        answers: Answers,
        blobs: Blobs,
        fetching: Fetching,
        *,
        on_notice: Callable[[Link, dict[str, Any]], None] | None,
        ended: Callable[[Stream, str], None],
    ) -> None:
        """`on_notice` gets what the cloud announces there. `ended` is called in a thread of its own, with a stream after
        which nothing comes, and what was wrong with it."""
        self.seen = 0
        """The last results that came; the agent keeps results until it is told so."""
        self.unacknowledged = 0
        self.has_results = False
        """Whether results have come since somebody set this to False."""
        self._link = link
        self._line = line
        self._answers = answers
        self._blobs = blobs
        self._fetching = fetching
        self._on_notice = on_notice
        self._ended = ended

    def listen_to(self, stream: Stream) -> None:
        stream.on_data(_Ear(self._link, stream, self._hear, self._ended).feed)

    def _hear(self, kind: int, header: dict[str, Any], payload: Any) -> None:
        link = self._link
        listener = link.listener
        if kind == wire.RESULTS:
            (sequence,) = wire.SEQUENCE.unpack_from(payload)
            if sequence <= self.seen:
                return  # told twice, because our confirmation was lost
            if listener is not None:
                listener.on_records(link, memoryview(payload)[wire.SEQUENCE.size :])
            self.seen = sequence
            self.has_results = True
            self.unacknowledged += 1
            if self.unacknowledged >= ACK_EVERY:
                self.unacknowledged = 0
                self._line.send(wire.ACK, {"seq": sequence})
        elif kind == wire.PIECE:
            self._fetching.take(header, payload)
        elif kind == wire.OUTPUT:
            if listener is not None:
                listener.on_output(link, header, payload)
        elif kind == wire.RECALLED:
            if listener is not None:
                listener.on_recalled(link, list(header["tasks"]), bool(header.get("cancelled")))
        elif kind == wire.PONG:
            if "at" in header:
                link.round_trip_s = max(0.0, time.monotonic() - float(header["at"]))
        elif kind in (wire.HELLO, wire.READY, wire.SYNC):
            self._answers.take(kind, header)
        elif kind == wire.NOTICE:
            self._hear_notice(header)
        elif kind == wire.FAREWELL:
            link.is_closed = True

    def _hear_notice(self, header: dict[str, Any]) -> None:
        """What goes wrong before the node is up fails whoever waits for it; after that it is told."""
        link = self._link
        listener, what = link.listener, header["what"]
        if what == "no-room":
            if listener is not None and link.is_up:
                self._blobs.lose(header["digest"])
                listener.on_no_room(link, header["digest"], header["error"])
            else:
                no_room = f"no room in {header['directory']}: {header['error']}"
                self._answers.fail(InstanceDiskFull(f"{link.endpoint}: {no_room}", step="files"))
        elif what == "worker-cannot-start":
            error = self._why_no_worker(header)
            if listener is not None and link.is_up:
                listener.on_dead_slot(link, header)
            else:
                self._answers.fail(error)
        elif what == "stalled":
            if listener is not None:
                listener.on_stalled(link, header)
        elif what == "no-such-value":
            self._fetching.there_is_none(header["name"])
        elif what == "interruption":
            if self._on_notice is not None:
                self._on_notice(link, dict(header["notice"]))
        elif what == "cannot-configure":
            self._answers.fail(
                BootstrapError(f"{link.endpoint}: cannot be configured: {header['error']}", step="files")
            )

    def _why_no_worker(self, header: dict[str, Any]) -> BootstrapError:
        tail = str(header.get("tail", ""))
        last = tail.strip().splitlines()[-1:] or [
            str(header.get("reason") or header.get("signal") or f"exit {header.get('exit')}")
        ]
        return BootstrapError(
            f"{self._link.endpoint}: a worker cannot start with {header['python']}: {last[0]}",
            step="workers",
            tail=tail,
        )


class _Ear:
    """Makes frames of the bytes of one stream."""

    def __init__(
        self,
        link: Link,
        stream: Stream,
        hear: Callable[[int, dict[str, Any], Any], None],
        ended: Callable[[Stream, str], None],
    ) -> None:
        self._link = link
        self._stream = stream
        self._hear = hear
        self._ended = ended
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
        self._link.last_heard = time.monotonic()
        THIS_THREAD.is_hearing = True
        try:
            if self._is_quiet:
                data = self._without_noise(data)
            for kind, header, payload in self._decoder.feed(data):
                self._hear(kind, header, payload)
        except wire.BadFrame as error:
            self._end(f"speaks nonsense: {error}")
        except NONSENSE as error:
            self._end(f"sent a frame that makes no sense: {type(error).__name__}: {error}")
        finally:
            THIS_THREAD.is_hearing = False

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
            target=self._ended,
            args=(self._stream, reason),
            name=f"skyward-n{self._link.node}",
            daemon=True,
        ).start()


NONSENSE = (
    KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, MemoryError, struct.error,
)  # fmt: skip
"""What reading plain data raises when it is not what we would have written."""
