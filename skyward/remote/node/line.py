"""The way to the client: who is attached, what waits to be sent, what has not been confirmed. Any Python >= 3.8.

One client is attached at a time, and takes the place of the one before. It hears everything that is said while it is
attached, and the results that it has not confirmed once more when it comes back.
"""

from __future__ import annotations

import os
import struct
import time

from skyward.remote import wire
from skyward.remote.node.descriptors import widen
from skyward.remote.node.lean import deque, socket

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Dict, Optional, Tuple

    from skyward.remote.node.descriptors import Poller

ANSWER_EVERY_S = 1.0
"""How often what arrives is answered, seconds: pings wait behind a long upload, and silence looks like death."""
QUEUED_OUT = 512 << 10
"""No further piece of a long value is queued for the client while this much is waiting, bytes."""


class Client:
    """The attached client: descriptors, what it sent, what waits to be sent to it."""

    def __init__(self, link: socket.socket, read_fd: int, write_fd: int) -> None:
        self.link = link
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.decoder = wire.Decoder()
        self.out: Deque[memoryview] = deque()
        self.out_size = 0
        self.is_writing = False
        for descriptor in (read_fd, write_fd):
            os.set_blocking(descriptor, False)
            widen(descriptor)

    def put(self, text: bytes, payload: Any = b"") -> None:
        """A short frame is one piece, so that one call writes it."""
        if len(payload) <= wire.INLINE:
            parts = [b"".join((text, payload)) if payload else text]
        else:
            parts = [text, payload]
        for part in parts:
            self.out.append(memoryview(part))
            self.out_size += len(part)

    def flush(self) -> bool:
        """Writes what fits; False when the client is gone."""
        while self.out:
            view = self.out[0]
            try:
                sent = os.write(self.write_fd, view)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.out_size -= sent
            if sent == len(view):
                self.out.popleft()
            else:
                self.out[0] = view[sent:]
        return True

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)
        self.link.close()


class Line:
    """Hands the frames that come to `handle`, and sends what it is given; `detached` is called when a client has gone."""

    def __init__(self, poller: Poller, handle: Callable[..., None], detached: Callable[[], None]) -> None:
        self.client: Optional[Client] = None
        self.detached_at = self.heard_at = self._answered_at = time.monotonic()
        self._poller = poller
        self._handle = handle
        self._detached = detached
        self._sequence = 0
        self._unconfirmed: Deque[Tuple[int, bytes, bytes]] = deque()
        self._scratch = memoryview(bytearray(1 << 18))
        """What is read lands here or where it belongs: new memory for every read would cost more than the reading."""

    # -- who is attached --

    def accept(self, listener: socket.socket) -> bool:
        """Lets in who knocks; False if it is no client."""
        link = socket.socket(fileno=listener._accept()[0])  # type: ignore[attr-defined]  # all of them have it
        link.settimeout(5)
        try:
            _, ancillary, _, _ = link.recvmsg(1, socket.CMSG_SPACE(8))
            read_fd, write_fd = struct.unpack("ii", ancillary[0][2][:8])
        except (OSError, IndexError, struct.error):
            link.close()
            return False
        self.detach()
        self.client = Client(link, read_fd, write_fd)
        self._poller.watch(read_fd, self._on_readable)
        return True

    def detach(self) -> None:
        if self.client is None:
            return
        client, self.client = self.client, None
        for descriptor in (client.read_fd, client.write_fd):
            self._poller.forget(descriptor)
        client.close()
        self.detached_at = time.monotonic()
        self._detached()

    # -- what it sends --

    def _on_readable(self) -> None:
        client = self.client
        if client is None:
            return
        for _ in range(8):
            room = client.decoder.room
            try:
                count = os.readv(client.read_fd, (room, self._scratch) if room else (self._scratch,))
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self.detach()
                return
            self.heard_at = time.monotonic()
            if self.heard_at - self._answered_at >= ANSWER_EVERY_S:
                self._answered_at = self.heard_at
                self.say(wire.PONG, {})
            direct = min(count, len(room)) if room else 0
            try:
                if direct:
                    for frame in client.decoder.filled(direct):
                        self._handle(*frame)
                if count > direct:
                    for frame in client.decoder.feed(self._scratch[: count - direct]):
                        self._handle(*frame)
            except wire.BadFrame:
                self.detach()
                return
            if client is not self.client or count < 65536:
                return

    # -- what is sent to it --

    def say(self, kind: int, header: Dict[str, Any], payload: Any = b"") -> None:
        """Queues a frame for the client; nobody hears it while none is attached."""
        if self.client is not None:
            self.client.put(wire.encode(kind, header, len(payload)), payload)

    def send_results(self, payload: bytes) -> None:
        """Sends records, and keeps them until they are confirmed."""
        self._sequence += 1
        payload = wire.SEQUENCE.pack(self._sequence) + payload
        text = wire.encode(wire.RESULTS, b"{}", len(payload))
        self._unconfirmed.append((self._sequence, text, payload))
        if self.client is not None:
            self.client.put(text, payload)

    def confirm(self, sequence: int) -> None:
        """The client has these results and all before them."""
        while self._unconfirmed and self._unconfirmed[0][0] <= sequence:
            self._unconfirmed.popleft()

    def send_again(self) -> None:
        """Queues what has not been confirmed."""
        for _, text, payload in self._unconfirmed:
            if self.client is not None:
                self.client.put(text, payload)

    @property
    def is_full(self) -> bool:
        """Whether no long value should be sent now."""
        return self.client is None or self.client.out_size >= QUEUED_OUT

    def flush(self) -> None:
        """Writes what fits; the rest goes when there is room."""
        client = self.client
        if client is None:
            return
        if not client.flush():
            self.detach()
            return
        wanted = bool(client.out)
        if wanted == client.is_writing:
            return
        client.is_writing = wanted
        if wanted:
            self._poller.watch(client.write_fd, self.flush, reading=False, writing=True)
        else:
            self._poller.forget(client.write_fd)
