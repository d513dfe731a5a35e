"""A TCP proxy that behaves as badly as asked: slow, narrow, lossy, silent, lying, cut. Standard library only.

Offsets count the bytes of one connection in one direction. `cut_at`, `corrupt_at` and `stall_at` happen once, on the
first connection that gets there, so that whoever reconnects finds a healthy network.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from skyward.model.instance import Endpoint
from skyward.testing.sshd import free_address

Offset = Literal["cut_at", "corrupt_at", "stall_at"]
R = TypeVar("R")

_CHUNK = 1 << 16
_CHUNKS_HELD = 256
_POLL_S = 0.005
_STOP_S = 5.0

# linux/filter.h: a classic BPF program of four instructions (code, jump if true, jump if false, operand).
_SO_ATTACH_FILTER = 26
_LOAD_RANDOM = struct.pack("HBBI", 0x20, 0, 0, 0xFFFFF000 + 56)
_KEEP, _DROP = struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF), struct.pack("HBBI", 0x06, 0, 0, 0)


@dataclass(slots=True, kw_only=True)
class Lane:
    """One direction. Every field may be changed while connections are open."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    """At most so much more delay, at random; the order is kept."""
    bytes_per_s: float | None = None
    loss: float = 0.0
    """Share of the packets of this side that are lost, so that TCP has to repeat them; of connections made from now on."""
    cut_at: int | None = None
    """After exactly so many bytes both sides get a reset."""
    corrupt_at: int | None = None
    """One bit of the byte at this offset is flipped."""
    stall_at: int | None = None
    """After exactly so many bytes nothing more is forwarded; the connection stays open."""
    is_flowing: bool = True
    """False holds everything back; True again delivers it."""
    forwarded: int = 0
    """Bytes of all connections so far."""
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def next_event(self, start: int, size: int) -> tuple[Offset, int] | None:
        """The first thing to happen within bytes [start, start + size], and where from `start`; it is taken."""
        due: list[tuple[int, Offset]] = []
        names: tuple[Offset, ...] = ("cut_at", "corrupt_at", "stall_at")
        for name in names:
            at = getattr(self, name)
            if at is not None and start <= at and at - start < size + (name != "corrupt_at"):
                due.append((at - start, name))
        if not due:
            return None
        offset, name = min(due)
        setattr(self, name, None)
        return name, offset


class ChaosProxy:
    """Stands before one TCP server, at an address of its own. A context manager.

    `up` is what clients send, `down` what the server answers.
    """

    def __init__(self, host: str, port: int) -> None:
        self.up, self.down = Lane(), Lane()
        self.accepted = 0
        """Connections so far."""
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)
        self._listener: socket.socket | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.host, self.port = free_address()

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_S)
        self._loop.close()

    def endpoint(self, endpoint: Endpoint) -> Endpoint:
        """The same machine, reached through this proxy."""
        return replace(endpoint, host=self.host, port=self.port)

    def partition(self) -> None:
        """Nothing passes in either direction, and nobody is told; `heal` delivers what was held back."""
        self.up.is_flowing = self.down.is_flowing = False

    def heal(self) -> None:
        self.up.is_flowing = self.down.is_flowing = True

    def cut(self) -> None:
        """Every open connection is reset, on both sides."""
        self._call(self._cut())

    def refuse(self) -> None:
        """New connections are refused; open ones go on."""
        self._call(self._close_server())

    def listen(self) -> None:
        """New connections are accepted (again)."""
        self._call(self._open_server())

    def _call(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_S)

    # asyncio's own server, and a cancelled `sock_accept`, lose a connection that is just being accepted.

    async def _open_server(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port), backlog=128)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept_waiting)

    async def _close_server(self) -> None:
        if self._listener is not None:
            self._accept_waiting()  # who is connected already stays so
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept_waiting(self) -> None:
        assert self._listener is not None
        with suppress(BlockingIOError):
            while True:
                self._accepted(self._listener.accept()[0])

    def _accepted(self, client: socket.socket) -> None:
        self.accepted += 1
        client.setblocking(False)
        task = self._loop.create_task(self._serve(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _cut(self) -> None:
        for link in list(self._links):
            link.reset()

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        link = None
        try:
            while not self.up.is_flowing:  # a partitioned network connects nobody
                await asyncio.sleep(_POLL_S)
            link = _Link(
                *await asyncio.open_connection(sock=client), *await asyncio.open_connection(*self._target)
            )
            self._links.add(link)
            link.lose(self.up.loss, self.down.loss)
            await link.run(self.up, self.down)
        except OSError:
            pass
        finally:
            if link is not None:
                self._links.discard(link)
                link.reset()
            _reset(client)


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        client_reader: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self._ends = (client_reader, client), (server_reader, server)

    async def run(self, up: Lane, down: Lane) -> None:
        (client_reader, client), (server_reader, server) = self._ends
        pumps = [self._pump(client_reader, server, up), self._pump(server_reader, client, down)]
        with suppress(OSError):
            await asyncio.gather(*pumps)

    def lose(self, *shares: float) -> None:
        """Makes the kernel drop so large a share of what the client, and of what the server, sends to us."""
        for (_, writer), share in zip(self._ends, shares, strict=True):
            if share:
                _drop_packets(writer.get_extra_info("socket"), share)

    def reset(self) -> None:
        for _, writer in self._ends:
            _reset(writer.get_extra_info("socket"))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS_HELD)
        delivery = asyncio.create_task(_deliver(held, writer, lane, self.reset))
        now = asyncio.get_running_loop().time
        try:
            while data := await reader.read(_CHUNK):
                await held.put((now() + lane.delay_s + lane.random.random() * lane.jitter_s, data))
            await held.put((now() + lane.delay_s, b""))
            await delivery
        finally:
            delivery.cancel()


async def _deliver(
    held: asyncio.Queue[tuple[float, bytes]],
    writer: asyncio.StreamWriter,
    lane: Lane,
    reset: Callable[[], None],
) -> None:
    sent = 0
    while True:
        due, data = await held.get()
        await asyncio.sleep(due - asyncio.get_running_loop().time())
        while not lane.is_flowing:
            await asyncio.sleep(_POLL_S)
        if not data:
            writer.write_eof()
            return
        while event := lane.next_event(sent, len(data)):
            name, offset = event
            if name == "corrupt_at":
                data = data[:offset] + bytes((data[offset] ^ 1,)) + data[offset + 1 :]
                continue
            await _send(writer, data[:offset], lane)
            if name == "stall_at":
                await asyncio.Event().wait()
            reset()
            return
        await _send(writer, data, lane)
        sent += len(data)


async def _send(writer: asyncio.StreamWriter, data: bytes, lane: Lane) -> None:
    if not data:
        return
    writer.write(data)
    await writer.drain()
    lane.forwarded += len(data)
    if lane.bytes_per_s:
        await asyncio.sleep(len(data) / lane.bytes_per_s)


def _drop_packets(sock: Any, share: float) -> None:
    """The kernel throws away packets that arrive for this socket, at random: real loss, without being root."""
    is_lost = struct.pack(
        "HBBI", 0x35, 0, 1, int(share * 0xFFFFFFFF)
    )  # random number >= share: keep, else drop
    code = ctypes.create_string_buffer(_LOAD_RANDOM + is_lost + _KEEP + _DROP)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 4, ctypes.addressof(code)))


def _reset(sock: Any) -> None:
    """Closing it, now or later, resets the connection: the other side notices at once, and nothing lingers."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if isinstance(sock, socket.socket):
        sock.close()
