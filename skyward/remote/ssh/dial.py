"""A socket to a host, within a deadline: names, addresses, proxy commands, and networks that fall silent."""

from __future__ import annotations

import errno
import os
import queue
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from skyward.errors import HostUnreachable
from skyward.remote.ssh.config import Route

R = TypeVar("R")

# A peer that acknowledges nothing for so long is gone: also when only we are talking, and when nobody is.
SILENT_S = 20
_KEEPALIVE_S = 5


class Deadline:
    """The end of one attempt, shared by all its phases."""

    def __init__(self, budget_s: float) -> None:
        self._end = time.monotonic() + budget_s

    def left(self, at_most_s: float) -> float:
        """Seconds that a phase may take; 0 when there is no time left."""
        return max(0.0, min(at_most_s, self._end - time.monotonic()))


def unreachable(route: Route, phase: str, what: str, cause: BaseException | None = None) -> HostUnreachable:
    """The error for an attempt that failed in `phase`."""
    error = HostUnreachable(
        f"{route.label}: {what}", hints=_by_hand(route, phase), phase=phase, host=route.host, port=route.port
    )
    error.__cause__ = cause
    return error


def _by_hand(route: Route, phase: str) -> list[str]:
    """How to see it for oneself."""
    if phase == "resolve":
        return [f"getent hosts {shlex.quote(route.host)}", "name it in ~/.ssh/config, or give its address"]
    port = f"-p {route.port} " if route.port != 22 else ""
    through = f"-J {shlex.quote(route.jump.label)} " if route.jump else ""
    return [f"ssh -v {port}{through}{shlex.quote(f'{route.user}@{route.host}')} true"]


def dial(route: Route, deadline: Deadline) -> socket.socket:
    """A connected socket, tuned for small frames and for noticing that the other side is gone.

    Raises:
        HostUnreachable: `phase` is "resolve" or "connect".
    """
    addresses = _resolve(route, deadline)
    failures: list[OSError] = []
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        sock = socket.socket(family, kind, protocol)
        try:
            # Each address gets its share, so that a dead first one leaves time for the next.
            sock.settimeout(deadline.left(route.timeout_s) / (len(addresses) - index) or 0.001)
            sock.connect(address)
            tune(sock)
            return sock
        except OSError as error:
            sock.close()
            failures.append(error)
        except BaseException:
            sock.close()
            raise
    raise unreachable(route, "connect", _why_not(failures, route), failures[-1])


def tune(sock: socket.socket) -> None:
    """Small frames go out at once, and silence becomes an error after `SILENT_S`."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_S),
        ("TCP_KEEPCNT", SILENT_S // _KEEPALIVE_S - 1),
        ("TCP_USER_TIMEOUT", SILENT_S * 1000),
    ):
        if hasattr(socket, name):  # Linux has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def start_proxy(route: Route) -> tuple[socket.socket, Callable[[], None]]:
    """A socket whose other end is the proxy command's standard input and output, and how to end the command."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {route.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        raise unreachable(
            route, "connect", f"cannot start the proxy command: {error.strerror}", error
        ) from error
    finally:
        theirs.close()

    def end() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    return ours, end


def bounded(call: Callable[[], R], timeout_s: float) -> R:
    """What `call` returns or raises, for calls that know no deadline; the thread of a late one is left behind.

    Raises:
        TimeoutError: it is late.
    """
    answers: queue.SimpleQueue[tuple[R | None, BaseException | None]] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=ask, name="skyward-bounded", daemon=True).start()
    try:
        answer, error = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


def _resolve(route: Route, deadline: Deadline) -> list[Any]:
    def ask(flags: int = 0) -> list[Any]:
        return socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM, flags=flags)

    try:
        return ask(socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # a name
    seconds = deadline.left(route.timeout_s)
    try:
        return bounded(ask, seconds)
    except TimeoutError as error:
        raise unreachable(
            route, "resolve", f"no answer to the name {route.host!r} within {seconds:.3g} s", error
        ) from error
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise unreachable(
            route, "resolve", f"the name {route.host!r} has no address: {reason}", error
        ) from error


def _why_not(failures: list[OSError], route: Route) -> str:
    """The most telling of several failures."""
    error = next((one for one in failures if one.errno == errno.ECONNREFUSED), failures[-1])
    if error.errno == errno.ECONNREFUSED:
        return f"connection refused: nothing listens at port {route.port} (yet)"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no route to the host {route.host!r}"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return f"no answer at port {route.port} within {route.timeout_s:g} s; is a firewall in between?"
    return f"cannot connect to port {route.port}: {error.strerror or error}"
