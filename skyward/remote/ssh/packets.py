"""paramiko's transport with less between the socket and a command: fewer system calls, copies, wake-ups and waits.

What paramiko does well (key exchange, authentication, channels, every cipher) stays paramiko's. Its two classes
are extended where a packet of channel data passes, because that happens for every frame:

- the socket blocks; paramiko polls it ten times a second, also when idle;
- one receive serves many packets, one send carries several;
- under AES-GCM channel data goes from the decrypted packet straight to its stream, in the transport thread;
- what the transport thread itself sends never waits for a writer or for a key exchange (paramiko's may, for 30 s).

Relies on names of paramiko that begin with an underscore, the same in 3.5 and 5.1; the tests of this room run on both.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

import paramiko
from cryptography.exceptions import InvalidTag
from paramiko.common import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_REQUEST,
)
from paramiko.message import Message
from paramiko.packet import NeedRekeyException, Packetizer

from skyward.remote.lull import hear, lull

WINDOW_BYTES = 64 << 20
"""What a peer may send ahead of a slow reader, per stream."""
MAX_PACKET_BYTES = 1 << 18
SEND_BYTES = 1 << 18
"""How much of a write is encrypted and sent at once."""

_TAG_BYTES = 16
_BLOCK_BYTES = 16
_LONGEST_PACKET = MAX_PACKET_BYTES + 4096
_LONGEST_LINE = 8192
_RECEIVE_BYTES = 1 << 18
_LENGTH = struct.Struct(">I")
_DATA = struct.Struct(">BII")  # message type, channel, length
_COUNTER_MASK = (1 << 64) - 1
_PADDING = [
    (bytes((size,)), bytes(size))
    for size in (_BLOCK_BYTES + 3 - (used + 4) % _BLOCK_BYTES for used in range(_BLOCK_BYTES))
]
"""What goes before and after a payload of so many bytes over whole blocks: how much padding, at least 4, and the padding."""


class Sink(Protocol):
    """The end of a channel that wants its data."""

    channel: paramiko.Channel

    def deliver(self, data: bytes) -> None:
        """Data of the command; called in the transport thread, in order."""

    def deliver_stderr(self, data: bytes) -> None: ...

    def end(self) -> None:
        """No more data will come. May be called again."""


class FastPacketizer(Packetizer):  # type: ignore[misc]
    """Packets of one connection. One thread reads; any may send."""

    # Key limits of AES in any of our modes: 2**32 blocks (RFC 4344 section 3.2); half of that, and OpenSSH's
    # own limit on packets. paramiko's 512 MB would exchange keys every second.
    REKEY_BYTES = 1 << 35
    REKEY_PACKETS = 1 << 31

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.sinks: dict[int, Sink] = {}
        self.late: list[Callable[[], object]] = []
        """Calls to be made before it is waited for more; see `lull`."""
        self.greeting = ""
        """The first line the peer said."""
        self.is_starting = isinstance(sock, socket.socket) and sock.family in (
            socket.AF_INET,
            socket.AF_INET6,
        )
        """Acknowledge at once, until the first command runs: sshd disables Nagle's algorithm only then, and would
        wait 40 ms for an acknowledgement that we delay."""
        self._sock = sock
        self._view = memoryview(bytearray(_RECEIVE_BYTES))
        self._start = self._end = 0
        self._lock = threading.Lock()
        self._is_closed = False
        self._is_rekey_due = False
        self._decrypt: Callable[[bytes, Any, Any], bytes] | None = None
        self._encrypt: Callable[[bytes, Any, Any], bytes] | None = None
        self._salt_in = self._salt_out = b""
        self._counter_in = self._counter_out = 0
        self._bytes_in = self._bytes_out = 0
        self._packets_in = self._packets_out = 0

    # -- what paramiko's transport asks of it -----------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        """Wakes whoever reads or writes; the descriptor itself is closed by the transport, after its thread."""
        self._is_closed = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def start_handshake(self, timeout: float) -> None:
        """Nothing: `connect` watches the deadline of the whole handshake, without a timer thread."""

    def need_rekey(self) -> bool:
        return self._is_rekey_due or bool(super().need_rekey())

    def set_outbound_cipher(self, **how: Any) -> None:
        super().set_outbound_cipher(**how)
        with self._lock:
            self._bytes_out = self._packets_out = 0
            self._encrypt = how["block_engine"].encrypt if how["aead"] else None
            if self._encrypt:
                self._salt_out, self._counter_out = _split_nonce(how["iv_out"])

    def set_inbound_cipher(self, **how: Any) -> None:
        super().set_inbound_cipher(**how)
        self._bytes_in = self._packets_in = 0
        self._is_rekey_due = False  # inbound comes last in a key exchange
        self._decrypt = how["block_engine"].decrypt if how["aead"] else None
        if self._decrypt:
            self._salt_in, self._counter_in = _split_nonce(how["iv_in"])

    def readline(self, timeout: float) -> str:
        line = bytearray()
        while not line.endswith(b"\n"):
            if len(line) > _LONGEST_LINE:
                raise paramiko.SSHException("an endless first line")
            line += self.read_all(1)
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        self.greeting = self.greeting or text
        return text

    def read_all(self, n: int, check_rekey: bool = False) -> bytes:
        if not 0 <= n <= _LONGEST_PACKET:  # a length from the network, before anything protects it
            raise paramiko.SSHException("malformed packet length")
        self._need(n)
        data = bytes(self._view[self._start : self._start + n])
        self._start += n
        return data

    def write_all(self, out: Any) -> None:
        try:
            self._sock.sendall(out)
        except OSError as error:
            raise EOFError(str(error)) from error

    def send_message(self, data: Message) -> None:
        if self._encrypt is None:
            super().send_message(data)
            return
        with self._lock:
            self.write_all(b"".join(self._seal(data.asbytes())))

    def read_message(self) -> tuple[int, Message]:
        """The next message that is not channel data under AES-GCM; that goes to its sink at once."""
        while self._decrypt is not None:
            packet, end = self._open()
            kind = packet[1]
            if kind == MSG_CHANNEL_DATA:
                channel, size = _DATA.unpack_from(packet, 1)[1:]
                sink = self.sinks.get(channel)
                if sink is not None:
                    if 10 + size != end:
                        raise paramiko.SSHException("malformed channel data")
                    sink.deliver(packet[10:end])
                    if self._is_rekey_due:
                        raise NeedRekeyException
                    continue
            message = Message(packet[2:end])
            message.seqno = self._packets_in - 1
            return kind, message
        kind, message = super().read_message()
        return kind, message

    # -- ours --------------------------------------------------------------------------------------------------

    def send_data(self, channel: int, data: memoryview, packet_bytes: int) -> None:
        """Channel data in packets of at most `packet_bytes`, in one send."""
        if self._encrypt is not None and len(data) <= packet_bytes:
            with self._lock:
                sealed = self._seal(_DATA.pack(MSG_CHANNEL_DATA, channel, len(data)), data)
                try:
                    self._sock.sendall(b"".join(sealed))
                except OSError as error:
                    raise EOFError(str(error)) from error
            return
        pieces = (data[at : at + packet_bytes] for at in range(0, len(data), packet_bytes))
        if self._encrypt is None:
            for piece in pieces:
                super().send_message(
                    Message(_DATA.pack(MSG_CHANNEL_DATA, channel, len(piece)) + bytes(piece))
                )
            return
        with self._lock:
            out: list[bytes] = []
            for piece in pieces:
                out += self._seal(_DATA.pack(MSG_CHANNEL_DATA, channel, len(piece)), piece)
            self._write_parts(out)

    def _write_parts(self, parts: list[bytes]) -> None:
        """As `write_all`; the kernel joins them, which saves fresh memory for every write."""
        sent = 0
        if isinstance(self._sock, socket.socket):
            try:
                sent = self._sock.sendmsg(parts)
            except OSError as error:
                raise EOFError(str(error)) from error
        if sent < sum(map(len, parts)):
            self.write_all(memoryview(b"".join(parts))[sent:])

    def can_send(self) -> bool:
        """Whether a small message would not block."""
        if not isinstance(self._sock, socket.socket):
            return True
        poll = select.poll()
        try:
            poll.register(self._sock, select.POLLOUT)
        except ValueError:
            return True  # closed meanwhile: sending will say so
        return bool(poll.poll(0))

    def _open(self) -> tuple[bytes, int]:
        """The next decrypted packet (padding length, payload, padding), and where its payload ends."""
        assert self._decrypt is not None
        if self._end - self._start < 4:
            self._need(4)
        (length,) = _LENGTH.unpack_from(self._view, self._start)
        if not _BLOCK_BYTES <= length <= _LONGEST_PACKET or length % _BLOCK_BYTES:
            raise paramiko.SSHException("malformed packet length")
        total = 4 + length + _TAG_BYTES
        if self._end - self._start < total:
            self._need(total)
        start = self._start
        nonce = self._salt_in + self._counter_in.to_bytes(8, "big")
        try:
            packet = self._decrypt(
                nonce, self._view[start + 4 : start + total], self._view[start : start + 4]
            )
        except InvalidTag as error:
            raise paramiko.SSHException("a packet was changed on its way") from error
        self._start = start + total
        self._counter_in = (self._counter_in + 1) & _COUNTER_MASK
        self._bytes_in += total
        self._packets_in += 1
        if self._bytes_in >= self.REKEY_BYTES or self._packets_in >= self.REKEY_PACKETS:
            self._is_rekey_due = True
        end = length - packet[0]
        if end < 2:
            raise paramiko.SSHException("malformed packet padding")
        return packet, end

    def _seal(self, *payload: Any) -> tuple[bytes, bytes]:
        """One encrypted packet: its length in clear, then the rest with its tag. Needs the lock.

        Padding is zeros: under AES-GCM it is authenticated and tells nothing that the length does not.
        """
        assert self._encrypt is not None
        head, tail = _PADDING[sum(map(len, payload)) % _BLOCK_BYTES]
        plain = b"".join((head, *payload, tail))
        length = _LENGTH.pack(len(plain))
        nonce = self._salt_out + self._counter_out.to_bytes(8, "big")
        self._counter_out = (self._counter_out + 1) & _COUNTER_MASK
        self._bytes_out += len(plain)
        self._packets_out += 1
        if self._bytes_out >= self.REKEY_BYTES or self._packets_out >= self.REKEY_PACKETS:
            self._is_rekey_due = True
        return length, self._encrypt(nonce, plain, length)

    def _need(self, n: int) -> None:
        """Blocks until `n` bytes lie in the buffer, from `_start`."""
        while self._end - self._start < n:
            if self._start == self._end and n <= len(self._view):
                self._start = self._end = 0
            else:
                self._make_room(n)
            if self.late:
                lull(self.late)
            try:
                got = self._sock.recv_into(self._view[self._end :])
            except OSError:
                if self._is_closed:
                    raise EOFError from None
                raise
            if not got:
                raise EOFError
            if self.is_starting and hasattr(socket, "TCP_QUICKACK"):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self._end += got

    def _make_room(self, n: int) -> None:
        """Moves what is left (less than a packet) to the front, into a larger buffer if need be."""
        left = self._end - self._start
        view = self._view if n <= len(self._view) else memoryview(bytearray(2 * n))
        view[:left] = self._view[self._start : self._end]
        self._view, self._start, self._end = view, 0, left


class FastTransport(paramiko.Transport):  # type: ignore[misc]
    """One SSH connection. Its thread delivers channel data to sinks and never waits for a writer."""

    packetizer: FastPacketizer

    def __init__(self, sock: Any) -> None:
        super().__init__(
            sock,
            default_window_size=WINDOW_BYTES,
            default_max_packet_size=MAX_PACKET_BYTES,
            disabled_algorithms=_obsolete_algorithms(),
            packetizer_class=FastPacketizer,
        )
        sock.settimeout(None)
        self.farewell = ""
        """Why the peer says it left."""
        self._registering = threading.Lock()
        self._posted: deque[Message] = deque()
        self._is_flushing = False
        options = self.get_security_options()
        options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)
        options.kex = sorted(options.kex, key=lambda name: not name.startswith("curve25519"))

    def run(self) -> None:
        self.packetizer.late = late = hear()
        try:
            super().run()
        finally:
            with ExitStack() as stack:  # each of them hears of it, whatever another one does
                stack.callback(lull, late)
                for sink in list(self.packetizer.sinks.values()):
                    stack.callback(sink.end)
            self.packetizer.sinks.clear()

    def stop_thread(self) -> None:
        """Wakes the thread, which then ends; paramiko would look at private parts of the socket while it waits."""
        self.active = False
        self.packetizer.close()

    def register(self, sink: Sink) -> None:
        """From now on `sink` gets the data of its channel, and first what came before."""
        channel = sink.channel
        with self._registering:
            early = channel.in_buffer.empty()
            if early:
                sink.deliver(early)
            self.packetizer.sinks[channel.chanid] = sink
        if channel.eof_received or channel.closed or not self.is_alive():
            sink.end()

    def send_data(self, channel: paramiko.Channel, data: memoryview) -> None:
        """Sends channel data for which the window has room. Blocks while keys are exchanged.

        Raises:
            EOFError: the connection is gone.
        """
        while True:
            if not self.active:
                raise EOFError("the connection is closed")
            with self.clear_to_send_lock:
                if self.clear_to_send.is_set():
                    self.packetizer.send_data(channel.remote_chanid, data, channel.out_max_packet_size)
                    break
            self.clear_to_send.wait(0.1)
        if self._posted:
            self._flush()

    def try_send_data(self, channel: paramiko.Channel, data: memoryview) -> bool:
        """As `send_data`, if nobody has to be waited for: no other sender, no key exchange, no full network."""
        if not self.active or not self.clear_to_send_lock.acquire(blocking=False):
            return False
        try:
            if not self.clear_to_send.is_set() or not self.packetizer.can_send():
                return False
            with channel.lock:
                channel.out_window_size -= len(data)
            try:
                self.packetizer.send_data(channel.remote_chanid, data, channel.out_max_packet_size)
            except EOFError:
                pass  # the connection is gone, as whoever hears it will know
        finally:
            self.clear_to_send_lock.release()
        self._flush()
        return True

    def post(self, messages: Iterable[Message | None]) -> None:
        """Sends small messages without ever blocking the caller: now, or by whoever can next."""
        self._posted.extend(message for message in messages if message is not None)
        self._flush()

    def _flush(self) -> None:
        """Sends what was posted, unless somebody else is sending (who then does it) or the network is full."""
        while self._posted and self.clear_to_send_lock.acquire(blocking=False):
            try:
                if not self.packetizer.can_send():
                    self._start_flushing()
                    return
                if not self._send_posted():
                    return
            finally:
                self.clear_to_send_lock.release()

    def _start_flushing(self) -> None:
        """Leaves it to a thread that may wait. Needs `clear_to_send_lock`."""
        if not self._is_flushing:
            self._is_flushing = True
            threading.Thread(target=self._flush_slowly, name="skyward-ssh-send", daemon=True).start()

    def _flush_slowly(self) -> None:
        with self.clear_to_send_lock:
            while self._posted and self._send_posted():
                pass
            self._is_flushing = False
        self._flush()

    def _send_posted(self) -> bool:
        """Whether one was sent. Needs `clear_to_send_lock`; during a key exchange its end flushes."""
        if not self.active or not self.clear_to_send.is_set():
            return False
        try:
            self._send_message(self._posted.popleft())
        except EOFError:
            return False
        return True

    def _send_user_message(self, data: Message) -> None:
        if threading.current_thread() is self:
            self.post((data,))
        else:
            super()._send_user_message(data)
            self._flush()

    def _parse_newkeys(self, m: Message) -> None:
        super()._parse_newkeys(m)
        self._flush()

    def _parse_disconnect(self, m: Message) -> None:
        m.get_int()
        self.farewell = m.get_string().decode("utf-8", "replace")

    def _feed(self, channel: paramiko.Channel, m: Message) -> None:
        with self._registering:
            sink = self.packetizer.sinks.get(channel.chanid)
            if sink is None:
                channel._feed(m)
                return
        sink.deliver(m.get_binary())

    def _feed_stderr(self, channel: paramiko.Channel, m: Message) -> None:
        sink = self.packetizer.sinks.get(channel.chanid)
        m.get_int()
        if sink is not None:
            sink.deliver_stderr(m.get_binary())

    def _end(self, channel: paramiko.Channel, m: Message) -> None:
        channel._handle_eof(m)
        if sink := self.packetizer.sinks.get(channel.chanid):
            sink.end()

    def _close(self, channel: paramiko.Channel, m: Message) -> None:
        channel._handle_close(m)
        if sink := self.packetizer.sinks.pop(channel.chanid, None):
            sink.end()

    def _request(self, channel: paramiko.Channel, m: Message) -> None:
        if m.get_text() == "exit-signal":
            m.get_boolean()
            channel.exit_status = 128 + _signal_number(m.get_text())
            channel.status_event.set()
            return
        m.rewind()
        m.get_int()
        channel._handle_request(m)

    _channel_handler_table = {  # noqa: RUF012  (paramiko's own table, extended)
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_DATA: lambda channel, m: channel.transport._feed(channel, m),
        MSG_CHANNEL_EXTENDED_DATA: lambda channel, m: channel.transport._feed_stderr(channel, m),
        MSG_CHANNEL_EOF: lambda channel, m: channel.transport._end(channel, m),
        MSG_CHANNEL_CLOSE: lambda channel, m: channel.transport._close(channel, m),
        MSG_CHANNEL_REQUEST: lambda channel, m: channel.transport._request(channel, m),
    }


def _split_nonce(nonce: bytes) -> tuple[bytes, int]:
    """The fixed and the counting part (RFC 5647 section 7.1)."""
    return nonce[:4], int.from_bytes(nonce[4:], "big")


def _signal_number(name: str) -> int:
    """SSH says "KILL" for SIGKILL; names we do not have count as SIGTERM."""
    return int(getattr(signal, f"SIG{name}", signal.SIGTERM))


def _obsolete_algorithms() -> dict[str, list[str]]:
    """What paramiko still offers although it is broken: SHA-1, MD5, CBC, DSA."""
    transport = paramiko.Transport
    return {
        "ciphers": [name for name in transport._preferred_ciphers if "cbc" in name],
        "macs": [name for name in transport._preferred_macs if "sha1" in name or "md5" in name],
        "keys": [name for name in transport._preferred_keys if name in ("ssh-rsa", "ssh-dss")],
        "pubkeys": [name for name in transport._preferred_pubkeys if name in ("ssh-rsa", "ssh-dss")],
        "kex": [name for name in transport._preferred_kex if name.endswith("sha1")],
    }
