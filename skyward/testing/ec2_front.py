"""The door of the simulated AWS: every call is written down, meets its fault, and goes on to whoever answers it."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from skyward.testing.ec2_wire import Call, Reply, error_reply, read_call
from skyward.testing.simcloud import Fault

CHECK_IP = "/checkip"
"""Where clients are told their address, as https://checkip.amazonaws.com tells them."""
NETWORK_KINDS = ("lost", "reset", "hang", "slow")
_LONGEST_HANG_S = 600.0

_ERRORS: Mapping[str, tuple[int, str, str]] = {
    "throttle": (503, "RequestLimitExceeded", "Request limit exceeded."),
    "capacity": (
        500,
        "InsufficientInstanceCapacity",
        "We currently do not have sufficient capacity in the Availability Zone you requested. Our system will be "
        "working on provisioning additional capacity.",
    ),
    "quota": (
        400,
        "VcpuLimitExceeded",
        "You have requested more vCPU capacity than your current vCPU limit of 0 allows for the instance bucket that "
        "the specified instance type belongs to.",
    ),
    "5xx": (500, "InternalError", "An internal error has occurred"),
    "unavailable": (503, "Unavailable", "The service is unavailable. Please try again shortly."),
    "expired": (400, "RequestExpired", "Request has expired."),
    "auth": (401, "AuthFailure", "AWS was not able to validate the provided access credentials"),
    "unauthorized": (403, "UnauthorizedOperation", "You are not authorized to perform this operation."),
}
"""Error codes of the EC2 API: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html (2026-11)."""
_ELSEWHERE: Mapping[str, tuple[int, str]] = {
    "throttle": (400, "ThrottlingException"),
    "expired": (403, "ExpiredTokenException"),
    "auth": (403, "UnrecognizedClientException"),
    "unauthorized": (403, "AccessDeniedException"),
}
"""The same in the services that speak JSON."""
_IN_QUERIES: Mapping[str, tuple[int, str]] = {
    "throttle": (400, "Throttling"),
    "expired": (403, "ExpiredToken"),
    "auth": (403, "InvalidClientTokenId"),
    "unauthorized": (403, "AccessDenied"),
}
"""The same in STS, IAM and S3."""
ERROR_KINDS = (*_ERRORS, "error")


class Dropped(ConnectionError):
    """The connection is gone; the server has nothing to answer."""


class Front:
    """An HTTP server on a port of its own. `answer` gets every call that is not refused here."""

    def __init__(
        self,
        *,
        answer: Callable[[Call], Reply],
        log: Callable[[Call, str | None], None],
        next_fault: Callable[[Call], Fault | None],
        access_key: str,
        client_address: Callable[[], str],
    ) -> None:
        self._answer, self._log, self._next_fault = answer, log, next_fault
        self._access_key, self._client_address = access_key, client_address
        self._healed = threading.Event()
        self._is_closing = False

    def start(self) -> str:
        """The URL."""
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_handler())
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="ec2-api", daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        self._is_closing = True
        self.release()
        if hasattr(self, "_server"):
            self._server.shutdown()
            self._server.server_close()

    def release(self) -> None:
        """Calls that hang are dropped now."""
        self._healed.set()
        self._healed = threading.Event()

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == CHECK_IP:
            start_response("200 -", [("Content-Type", "text/plain")])
            return [f"{self._client_address()}\n".encode()]
        call = read_call(environ)
        fault = self._next_fault(call)
        self._log(call, fault.kind if fault else None)
        reply = self._refusal(call, fault)
        if reply is None:
            reply = self._answer(call)
        if fault is not None and fault.kind == "lost":
            _drop(environ)
        start_response(f"{reply.status} -", list(reply.headers))
        return [reply.body]

    def _refusal(self, call: Call, fault: Fault | None) -> Reply | None:
        if fault is not None:
            if fault.kind in ERROR_KINDS:
                return fault_reply(call, fault)
            if fault.kind == "slow":
                time.sleep(fault.seconds)
            if fault.kind == "hang":
                if fault.details.get("executed"):
                    self._answer(call)
                self._healed.wait(fault.seconds or _LONGEST_HANG_S)
                _drop(call.environ)
            if fault.kind == "reset":
                _drop(call.environ, reset=True)
        if call.access_key and call.access_key != self._access_key:
            return fault_reply(call, Fault(action="*", kind="auth", left=1))
        return None


def fault_reply(call: Call, fault: Fault) -> Reply:
    """The error that a fault stands for, in the words of the service."""
    status, code, message = _ERRORS.get(fault.kind, _ERRORS["5xx"])
    if call.environ.get("HTTP_X_AMZ_TARGET"):
        status, code = _ELSEWHERE.get(fault.kind, (status, code))
    elif call.service != "ec2":
        status, code = _IN_QUERIES.get(fault.kind, (status, code))
    details = fault.details
    return error_reply(
        call, details.get("status", status), details.get("code", code), details.get("message", message)
    )


def _drop(environ: Mapping[str, Any], *, reset: bool = False) -> None:
    connection: socket.socket = environ["werkzeug.socket"]
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(connection.detach())  # the server keeps files open on it: closing them would come too late
    else:
        connection.shutdown(socket.SHUT_RDWR)
    raise Dropped


def _handler() -> Any:
    from moto.moto_server.werkzeug_app import MotoRequestHandler

    class Quiet(MotoRequestHandler):
        disable_nagle_algorithm = True

        def log(self, type: str, message: str, *args: Any) -> None: ...

        def handle(self) -> None:
            with suppress(OSError, ValueError):  # we closed it under its feet
                super().handle()

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    return Quiet
