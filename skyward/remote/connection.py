"""The bytes between this machine and an instance: one connection, many commands.

Owns the `Connection` and `Stream` protocols and `connect`, the only way to get one. Imports `model` and `errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from skyward.model.instance import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """One command that has ended."""

    exit_status: int
    stdout: bytes
    stderr: bytes


class Stream(Protocol):
    """Standard input and output of one remote command.

    `write` may be called by several threads, `read` by one at a time.
    """

    def read(self, n: int, /) -> bytes:
        """1 to `n` bytes, as soon as there are any; b"" at the end of the stream.

        A torn connection looks the same as an end: only the protocol spoken inside, or `exit_status`, tells.
        """

    def on_data(self, callback: Callable[[bytes], None]) -> None:
        """Instead of `read`: every piece of data, in order, as it arrives; then b"", once, at the end.

        Called in the connection's own thread, where waiting holds up every stream of the connection: it must be
        quick, must not raise, and a `write` in it must be small. What had arrived before is delivered before this
        returns, in the calling thread.
        """

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """All of `data`; blocks while the command does not read.

        Raises:
            ConnectionLost: the command, or the way to it, is gone, or the stream was closed.
        """

    def try_write(self, data: bytes, /) -> bool:
        """All of `data` or nothing, without waiting; whether it was written. For callbacks of `on_data`. Never raises."""

    def close_write(self) -> None:
        """End of the command's standard input. Never raises."""

    def close(self) -> None:
        """Lets the command go. Idempotent, never raises, and wakes a blocked `read` or `write`."""

    def stderr_tail(self) -> str:
        """The last 4 kB of the command's standard error."""

    def exit_status(self, timeout_s: float = 5.0) -> int | None:
        """How the command ended, or None while that is unknown: still running, or torn.

        128 + n for a command ended by signal n, as a shell says it.
        """


class Connection(Protocol):
    """A way to run commands on one machine; commands run side by side."""

    endpoint: Endpoint

    def open(self, command: str) -> Stream:
        """Starts a command line through the login shell, without a terminal.

        Raises:
            ConnectionLost: the connection is gone, or the machine did not start it in time.
        """

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float = 60.0) -> Completed:
        """Runs a command line to its end.

        Raises:
            ConnectionLost: it did not end within `timeout_s`, or how it ended is unknown.
        """

    def close(self) -> None:
        """Closes every stream. Idempotent, bounded, never raises."""

    @property
    def is_alive(self) -> bool:
        """Whether nothing is known to be wrong; a silent network shows only after a while."""


def connect(endpoint: Endpoint, *, deadline_s: float | None = None) -> Connection:
    """One attempt to reach a machine, bounded by `deadline_s` (default: three times the connect timeout).

    Raises:
        HostUnreachable: no address, no answer, or silence; says in which phase.
        HostKeyError: the machine is unknown, or not the one we know; nothing was sent to it.
        AuthenticationError: it does not take our key, or our key cannot be read.
    """
    if endpoint.kind == "local":
        from skyward.remote.local import LocalConnection

        return LocalConnection(endpoint)
    from skyward.remote.ssh.connect import connect_ssh

    return connect_ssh(endpoint, deadline_s=deadline_s)
