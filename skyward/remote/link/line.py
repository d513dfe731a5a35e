"""The way out to one node: its connection, the stream to its agent, and one frame after another on that.

Whoever sends waits until the stream takes the frame, but for the thread in which a node is heard: while that one waited,
nothing the node says would be taken, and who cannot speak may not listen either. So another thread sends what it cannot.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from skyward.errors import ConnectionLost
from skyward.remote import wire
from skyward.remote.codec import Blob
from skyward.remote.connection import Connection, Stream

FAREWELL_S = 1.0
"""How long a farewell waits for a line that others use, seconds."""


class _Thread(threading.local):
    is_hearing = False


THIS_THREAD = _Thread()
"""`is_hearing`: this thread brings what one of the nodes says, and must not wait until another one takes what is sent."""


class Line:
    """The frames to one node. `connection` and `stream` are those of now: others take their place when they break."""

    def __init__(self, node: int) -> None:
        self.connection: Connection | None = None
        self.stream: Stream | None = None
        self._node = node
        self._writing = threading.Lock()
        self._to_send: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._sender: threading.Thread | None = None
        self._deferring = threading.Lock()
        self._deferred = 0

    def send(self, kind: int, header: dict[str, Any] | bytes, *payload: Any) -> None:
        """Sends one frame. A connection that breaks meanwhile is the business of who hears it, not the caller's."""
        stream = self.stream
        if stream is None:
            return
        if not self._deferred:
            if not THIS_THREAD.is_hearing:
                self._send(stream, kind, header, *payload)
                return
            if self._try_to_send(stream, kind, header, *payload):
                return
        with self._deferring:
            if self._sender is None:
                self._sender = threading.Thread(
                    target=self._send_deferred, name=f"skyward-send-n{self._node}", daemon=True
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
            if frame[0] is self.stream:
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

    def send_long(self, blob: Blob) -> None:
        """At the pace of the line, and past what is deferred: whoever needs it waits for it."""
        stream = self.stream
        for offset in range(0, blob.size, wire.CHUNK):
            if stream is None or self.stream is not stream:
                return  # the line changed; whoever needs this blob asks for it again
            piece = blob.data[offset : offset + wire.CHUNK]
            self._send(
                stream, wire.PIECE, {"digest": blob.digest, "offset": offset, "total": blob.size}, piece
            )

    def send_if_free(self, kind: int, header: dict[str, Any]) -> bool:
        """Sends a frame without payload, or nothing where others are sending; whether it was sent."""
        stream = self.stream
        if stream is None or not self._writing.acquire(blocking=False):
            return False
        try:
            stream.write(wire.encode(kind, header))
        except ConnectionLost:
            stream.close()
            return False
        finally:
            self._writing.release()
        return True

    def say_farewell(self, stream: Stream) -> None:
        """Lets the agent at the other end go, unless the line stays busy. Never raises."""
        if not self._writing.acquire(timeout=FAREWELL_S):
            return
        try:
            stream.write(wire.encode(wire.BYE, {}))
        except ConnectionLost:
            pass
        finally:
            self._writing.release()

    def hang_up(self) -> None:
        """Ends the stream and the connection of now."""
        stream, connection = self.stream, self.connection
        if stream is not None:
            stream.close()
        if connection is not None:
            connection.close()

    def end(self) -> None:
        """Nothing is deferred from now on."""
        self._to_send.put(None)
