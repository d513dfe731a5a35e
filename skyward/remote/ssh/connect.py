"""Machines reached over SSH: paramiko's protocol with our own care for keys, deadlines and errors.

Every error of paramiko, sockets and cryptography is translated here, and nowhere else.
"""

from __future__ import annotations

import logging
import queue
import shlex
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST, cMSG_CHANNEL_WINDOW_ADJUST

from skyward.errors import ConnectionLost, HostUnreachable, TransportError
from skyward.model.instance import Endpoint
from skyward.remote.connection import Completed
from skyward.remote.running import run_to_end
from skyward.remote.ssh.config import Route, plan_route
from skyward.remote.ssh.dial import Deadline, dial, start_proxy, unreachable
from skyward.remote.ssh.knownhosts import HostKey, check_host_key, known_keys, preferred_types
from skyward.remote.ssh.login import log_in
from skyward.remote.ssh.packets import SEND_BYTES, FastTransport
from skyward.remote.tail import TAIL_BYTES, Tail

_PHASES_OF_TIMEOUT = 3
TRIED_BYTES = 32 << 10
"""As much fits into the buffer of a socket that can be written to at all."""
_JOIN_S = 2.0

# What goes wrong is raised; without a handler of its own paramiko's log would reach the user's terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect_ssh(endpoint: Endpoint, *, deadline_s: float | None = None) -> SSHConnection:
    """See `skyward.remote.connection.connect`."""
    budget = deadline_s if deadline_s is not None else _PHASES_OF_TIMEOUT * endpoint.connect_timeout_s
    return _connect(endpoint, plan_route(endpoint), Deadline(budget))


def _connect(endpoint: Endpoint, route: Route, deadline: Deadline) -> SSHConnection:
    sock, hang_up = _open_way(endpoint, route, deadline)
    try:
        transport = FastTransport(sock)
        try:
            _shake_hands(transport, route, deadline)
            log_in(transport, route, deadline)
        except BaseException:
            _close_transport(transport)
            raise
    except BaseException:
        sock.close()
        hang_up()
        raise
    return SSHConnection(endpoint, route, transport, hang_up)


def _open_way(endpoint: Endpoint, route: Route, deadline: Deadline) -> tuple[Any, Callable[[], None]]:
    """Something like a connected socket, and what else to close with it."""
    if route.jump is not None:
        via = _connect(endpoint, route.jump, deadline)
        try:
            return Tunnel(via.tunnel(route, deadline)), via.close
        except BaseException:
            via.close()
            raise
    if route.proxy_command is not None:
        return start_proxy(route)
    return dial(route, deadline), lambda: None


def _shake_hands(transport: FastTransport, route: Route, deadline: Deadline) -> None:
    """Keys are exchanged and the machine is the one we know; nothing of ours has been sent before that."""
    known = known_keys(route)
    options = transport.get_security_options()
    options.key_types = preferred_types(
        known, [kind for kind in options.key_types if kind in transport.preferred_keys]
    )
    done = threading.Event()
    transport.start_client(event=done)
    seconds = deadline.left(route.timeout_s)
    is_answered = done.wait(seconds)
    error = transport.get_exception()
    if not is_answered or error is not None or not transport.is_active():
        raise _handshake_error(transport, route, None if not is_answered else error or EOFError(), seconds)
    shown = transport.get_remote_server_key()
    check_host_key(HostKey(kind=shown.get_name(), text=shown.get_base64()), known, route)


def _handshake_error(
    transport: FastTransport, route: Route, error: BaseException | None, seconds: float
) -> HostUnreachable:
    """`error` is None where the peer was silent."""
    said = transport.packetizer.greeting
    phase = "key exchange" if transport.remote_version else "banner"
    if phase == "banner" and said:
        what = f"does not speak SSH: it says {said[:80]!r}"
    elif phase == "banner" and error is None:
        what = f"connected, but no SSH greeting within {seconds:.3g} s: busy, frozen, or not an SSH server"
    elif phase == "banner":
        what = "hung up before any SSH greeting"
    elif error is None:
        what = f"silent in the key exchange for {seconds:.3g} s (it greeted with {said!r})"
    elif "ncompatible version" in str(error):
        what = f"speaks another version of SSH: {said!r}"
    elif isinstance(error, paramiko.ssh_exception.IncompatiblePeer) or "ncompatible" in str(error):
        what = f"offers only algorithms that are obsolete or unknown here ({said!r}): {error}"
    else:
        reason = transport.farewell or getattr(error, "strerror", None) or str(error) or "it hung up"
        what = f"broke off in the key exchange: {reason}"
    return unreachable(route, phase, what, error)


class SSHConnection:
    """Commands on one machine, as channels of one SSH connection."""

    def __init__(
        self, endpoint: Endpoint, route: Route, transport: FastTransport, hang_up: Callable[[], None]
    ) -> None:
        self.endpoint = endpoint
        self._route = route
        self._transport = transport
        self._hang_up = hang_up

    def open(self, command: str) -> SSHStream:
        return self._start(command, TAIL_BYTES)

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return run_to_end(self._start, command, stdin=stdin, timeout_s=timeout_s, where=self._route.label)

    def close(self) -> None:
        _close_transport(self._transport)
        self._hang_up()

    @property
    def is_alive(self) -> bool:
        return bool(self._transport.is_active())

    def tunnel(self, route: Route, deadline: Deadline) -> SSHStream:
        """A stream to `route`'s host, as this machine reaches it.

        Raises:
            HostUnreachable: it does not.
        """
        label, timeout_s = self._route.label, deadline.left(route.timeout_s)
        try:
            channel = self._transport.open_channel(
                "direct-tcpip", (route.host, route.port), ("127.0.0.1", 0), timeout=timeout_s
            )
        except paramiko.ChannelException as error:
            raise unreachable(route, "connect", f"{label} cannot reach it: {error.text}", error) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise unreachable(
                route, "connect", f"no way through {label} within {timeout_s:.3g} s", error
            ) from error
        return SSHStream(self._transport, channel, label)

    def _start(self, command: str, stderr_bytes: int) -> SSHStream:
        """`sh` whatever the login shell: csh and fish would read the command line in their own way."""
        with self._channel_errors():
            channel = self._transport.open_session(timeout=self._route.timeout_s)
            stream = SSHStream(self._transport, channel, self._route.label, stderr_bytes)
            try:
                self._request_exec(channel, f"exec sh -c {shlex.quote(command)}")
            except BaseException:
                stream.close()
                raise
            self._transport.packetizer.is_starting = False
        return stream

    def _request_exec(self, channel: paramiko.Channel, command: str) -> None:
        """paramiko's own `exec_command` waits for ever."""
        request = paramiko.Message()
        request.add_byte(cMSG_CHANNEL_REQUEST)
        request.add_int(channel.remote_chanid)
        request.add_string("exec")
        request.add_boolean(True)
        request.add_string(command)
        channel._event_pending()
        self._transport._send_user_message(request)
        if not channel.event.wait(self._route.timeout_s):
            raise paramiko.SSHException(f"no answer within {self._route.timeout_s:g} s")
        if not channel.event_ready:
            raise self._transport.get_exception() or paramiko.SSHException("refused")

    @contextmanager
    def _channel_errors(self) -> Iterator[None]:
        label = self._route.label
        try:
            yield
        except paramiko.ChannelException as error:
            raise TransportError(
                f"{label}: no further command can be started: {error.text} (MaxSessions of its sshd?)"
            ) from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not self.is_alive:
                raise ConnectionLost(f"{label}: the connection is gone") from error
            raise ConnectionLost(f"{label}: cannot start a command: {error}") from error


class SSHStream:
    """One channel. Its data comes from the transport thread: into a queue, or straight to a callback."""

    def __init__(
        self, transport: FastTransport, channel: paramiko.Channel, where: str, stderr_bytes: int = TAIL_BYTES
    ) -> None:
        self.channel = channel
        self._transport = transport
        self._where = where
        self._tail = Tail(stderr_bytes)
        self._arrived: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._left = memoryview(b"")
        self._is_at_end = False
        self._callback: Callable[[bytes], None] | None = None
        self._delivered = 0  # to the callback, and not told to the peer yet, bytes
        self._handing_over = threading.Lock()
        self._ending = threading.Lock()
        self._has_ended = False
        self._writing = threading.Lock()
        transport.register(self)

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, n: int, /) -> bytes:
        if not self._left:
            if self._is_at_end:
                return b""
            chunk = self._arrived.get()
            if not chunk:
                self._is_at_end = True
                return b""
            self._consumed(len(chunk))
            if len(chunk) <= n:
                return chunk
            self._left = memoryview(chunk)
        data, self._left = bytes(self._left[:n]), self._left[n:]
        return data

    def on_data(self, callback: Callable[[bytes], None]) -> None:
        with self._handing_over:
            while self._left or self._is_at_end or not self._arrived.empty():
                data = self.read(SEND_BYTES)
                callback(data)
                if not data:
                    return
            self._callback = callback

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        left = memoryview(data)
        if left.format != "B" or left.ndim != 1:
            left = left.cast("B")
        with self._writing:
            while size := len(left) and self._take_window(len(left)):
                try:
                    self._transport.send_data(self.channel, left[:size])
                except EOFError as error:
                    raise ConnectionLost(f"{self._where}: the connection is gone") from error
                left = left[size:]

    def try_write(self, data: bytes, /) -> bool:
        if len(data) > TRIED_BYTES or not self._writing.acquire(blocking=False):
            return False
        try:
            return self._has_window(len(data)) and self._transport.try_send_data(
                self.channel, memoryview(data)
            )
        finally:
            self._writing.release()

    def close_write(self) -> None:
        with self._writing, self.channel.lock:
            message = self.channel._send_eof() if not self.channel.closed else None
        self._transport.post((message,))

    def close(self) -> None:
        with self.channel.lock:
            messages = self.channel._close_internal()  # also wakes writers
        self.end()
        self._transport.post(messages)

    # -- how it ended ------------------------------------------------------------------------------------------

    def stderr_tail(self) -> str:
        return self._tail.text()

    def stderr(self) -> bytes:
        return self._tail.content()

    def exit_status(self, timeout_s: float = 5.0) -> int | None:
        self.channel.status_event.wait(timeout_s)
        status: int = self.channel.exit_status
        return status if status >= 0 else None  # paramiko's -1: never told

    # -- called by the transport thread ------------------------------------------------------------------------

    def deliver(self, data: bytes) -> None:
        if self._has_ended:
            return  # closed by us; what is still on its way is for nobody
        if self._callback is None:
            with self._handing_over:
                if self._callback is None:
                    self._arrived.put(data)
                    return
        try:
            self._callback(data)
        except BaseException:
            self._callback = None  # it is broken, and so is the connection now; `end` shall not fail as well
            raise
        self._delivered += len(data)
        if self._delivered >= SEND_BYTES:
            self._consumed(self._delivered)
            self._delivered = 0

    def deliver_stderr(self, data: bytes) -> None:
        self._tail.feed(data)
        self._consumed(len(data))

    def end(self) -> None:
        with self._ending:
            if self._has_ended:
                return
            self._has_ended = True
        with self._handing_over:
            self._arrived.put(b"")
            callback = self._callback
        if callback is not None:
            callback(b"")

    # ------------------------------------------------------------------------------------------------------------

    def _consumed(self, size: int) -> None:
        """Lets the peer send more, a tenth of the window at a time."""
        room = self.channel._check_add_window(size)
        if room > 0:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.channel.remote_chanid)
            message.add_int(room)
            self._transport.post((message,))

    def _has_window(self, size: int) -> bool:
        """Whether the peer allows that much now. Needs `_writing`: nobody else takes of it then."""
        channel = self.channel
        with channel.lock:
            return not channel.closed and not channel.eof_sent and int(channel.out_window_size) >= size

    def _take_window(self, wanted: int) -> int:
        """How much may be sent now, taken from what the peer allows; blocks while that is nothing."""
        channel = self.channel
        with channel.lock:
            while not channel.out_window_size and not channel.closed and not channel.eof_sent:
                if threading.current_thread() is self._transport:
                    raise RuntimeError("a callback of `on_data` must not wait: nobody else could wake it")
                channel.out_buffer_cv.wait()
            if channel.closed or channel.eof_sent:
                raise ConnectionLost(f"{self._where}: the stream is closed")
            size = min(wanted, int(channel.out_window_size), SEND_BYTES)
            channel.out_window_size -= size
        return size


class Tunnel:
    """A stream that looks like a socket, for a connection through a connection."""

    def __init__(self, stream: SSHStream) -> None:
        self._stream = stream

    def recv_into(self, view: memoryview) -> int:
        data = self._stream.read(len(view))
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except ConnectionLost as error:
            raise BrokenPipeError(str(error)) from error

    def settimeout(self, _seconds: float | None) -> None:
        """Nothing: `shutdown` wakes whoever waits."""

    def shutdown(self, _how: int) -> None:
        self._stream.close()

    def close(self) -> None:
        self._stream.close()


def _close_transport(transport: FastTransport) -> None:
    transport.close()
    if transport.is_alive() and transport is not threading.current_thread():
        transport.join(_JOIN_S)
