"""The metadata services of all machines: one listening address each, one thread that accepts, one per connection."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


Respond = Callable[[str, str, str, Mapping[str, str]], Answer]
"""(id of the machine, method, path, headers in lower case) -> Answer."""


class MetadataService:
    """Answers at every address it was told to listen at, knowing by the address which machine asks."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._lock = threading.Lock()
        self._listeners: dict[str, socket.socket] = {}
        self._is_stopping = False
        self._thread = threading.Thread(target=self._accept_all, name="metadata", daemon=True)

    def start(self) -> None:
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._thread.start()

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.send(b"x")
        self._thread.join(_PATIENCE_S)
        for listener in self._listeners.values():
            listener.close()
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def listen(self, address: str, port: int, id: str) -> bool:
        """False where somebody else already does."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
            listener.listen(64)
        except OSError:
            listener.close()
            return False
        listener.setblocking(False)
        with self._lock:
            self._listeners[id] = listener
        self._selector.register(listener, selectors.EVENT_READ, id)
        self._wake.send(b"x")
        return True

    def forget(self, id: str) -> None:
        """Nobody answers for this machine any more, and its address is free."""
        with self._lock:
            listener = self._listeners.pop(id, None)
        if listener is not None:
            self._selector.unregister(listener)
            listener.close()

    def _accept_all(self) -> None:
        while not self._is_stopping:
            for key, _ in self._selector.select(1.0):
                if key.data is None:
                    self._woken.recv(64)
                    continue
                try:
                    connection, peer = key.fileobj.accept()  # type: ignore[union-attr]
                except OSError:
                    continue
                threading.Thread(target=self._serve, args=(connection, peer, key.data), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: Any, id: str) -> None:
        connection.settimeout(_PATIENCE_S)
        respond = self._respond

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _PATIENCE_S

            def log_message(self, *_: object) -> None: ...

            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                said = respond(id, self.command, self.path, headers)
                body = said.text.encode()
                self.send_response(said.status)
                for name, value in {"Content-Type": "text/plain", **said.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = answer

        try:
            Handler(connection, peer, None)  # type: ignore[arg-type]
        except OSError:
            pass
        finally:
            connection.close()
