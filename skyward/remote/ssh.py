"""Machines reached over SSH, with paramiko's protocol and our own care for keys, deadlines and speed."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from pathlib import Path

import paramiko

from skyward.errors import AuthenticationError, ConnectionLost, HostKeyError, HostUnreachable
from skyward.model.instance import Endpoint
from skyward.remote.connection import Completed
from skyward.remote.running import run_to_end
from skyward.remote.tail import TAIL_BYTES, Tail

# What goes wrong is raised here; without a handler of its own paramiko's log would reach the user's terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect_ssh(endpoint: Endpoint, *, deadline_s: float | None = None) -> SSHConnection:
    budget = deadline_s if deadline_s is not None else 3 * endpoint.connect_timeout_s
    try:
        sock = socket.create_connection(
            (endpoint.host, endpoint.port), timeout=min(budget, endpoint.connect_timeout_s)
        )
    except OSError as error:
        raise HostUnreachable(f"{endpoint}: {error}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    transport = _Transport(sock, default_window_size=64 << 20, default_max_packet_size=1 << 18)
    options = transport.get_security_options()
    options.ciphers = tuple(sorted(options.ciphers, key=lambda name: "gcm" not in name))
    try:
        transport.start_client(timeout=budget)
        _check_host_key(endpoint, transport)
        _authenticate(endpoint, transport)
    except paramiko.AuthenticationException as error:
        transport.close()
        raise AuthenticationError(f"{endpoint}: {error}") from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise HostUnreachable(f"{endpoint}: {error}") from error
    except BaseException:
        transport.close()
        raise
    return SSHConnection(endpoint, transport)


def _check_host_key(endpoint: Endpoint, transport: paramiko.Transport) -> None:
    key = transport.get_remote_server_key()
    offered = f"{key.get_name()} {key.get_base64()}"
    if endpoint.host_keys:
        if not any(" ".join(pinned.split()[:2]) == offered for pinned in endpoint.host_keys):
            raise HostKeyError(
                f"{endpoint}: the machine shows another host key than the one pinned: {key.fingerprint}"
            )
        return
    name = endpoint.host if endpoint.port == 22 else f"[{endpoint.host}]:{endpoint.port}"
    for path in endpoint.known_hosts or ("~/.ssh/known_hosts",):
        known = paramiko.HostKeys()
        if Path(path).expanduser().exists():
            known.load(str(Path(path).expanduser()))
        if known.check(name, key):
            return
    raise HostKeyError(f"{endpoint}: unknown host key {key.fingerprint}")


def _authenticate(endpoint: Endpoint, transport: paramiko.Transport) -> None:
    keys = [paramiko.PKey.from_path(Path(path).expanduser()) for path in endpoint.identity_files]
    user = endpoint.user or os.environ.get("USER") or "root"
    for key in keys:
        try:
            transport.auth_publickey(user, key)
            return
        except paramiko.AuthenticationException:
            continue
    raise AuthenticationError(f"{endpoint}: none of {len(keys)} keys was accepted")


class _Transport(paramiko.Transport):
    """Keeps only the end of what commands write to standard error, so that it never fills the window."""


class SSHConnection:
    def __init__(self, endpoint: Endpoint, transport: paramiko.Transport) -> None:
        self.endpoint = endpoint
        self._transport = transport

    def open(self, command: str) -> SSHStream:
        return self._start(command, TAIL_BYTES)

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        return run_to_end(self._start, command, stdin=stdin, timeout_s=timeout_s, where=str(self.endpoint))

    def _start(self, command: str, stderr_bytes: int) -> SSHStream:
        try:
            channel = self._transport.open_session(timeout=self.endpoint.connect_timeout_s)
            channel.exec_command(command)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise ConnectionLost(f"{self.endpoint}: cannot start a command: {error}") from error
        return SSHStream(channel, str(self.endpoint), stderr_bytes)

    def close(self) -> None:
        self._transport.close()

    @property
    def is_alive(self) -> bool:
        return self._transport.is_active()


class SSHStream:
    def __init__(self, channel: paramiko.Channel, where: str, stderr_bytes: int) -> None:
        self._channel = channel
        self._where = where
        self._tail = Tail(stderr_bytes)
        self._writing = threading.Lock()
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    def _drain_stderr(self) -> None:
        while chunk := self._channel.recv_stderr(1 << 16):
            self._tail.feed(chunk)

    def read(self, n: int, /) -> bytes:
        return self._channel.recv(n)

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        try:
            with self._writing:
                self._channel.sendall(memoryview(data).cast("B"))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ConnectionLost(f"{self._where}: {error}") from error

    def close_write(self) -> None:
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def close(self) -> None:
        try:
            self._channel.close()
        except (OSError, EOFError, paramiko.SSHException):
            pass

    def stderr_tail(self) -> str:
        return self._tail.text()

    def stderr(self) -> bytes:
        self._drain.join(1)
        return self._tail.content()

    def exit_status(self, timeout_s: float = 5.0) -> int | None:
        deadline = time.monotonic() + timeout_s
        self._channel.status_event.wait(max(0.0, deadline - time.monotonic()))
        status = self._channel.exit_status
        return status if status >= 0 else None
