"""A real HTTP server on this machine that answers as it is told and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """`body` is sent as JSON, or as it is where it is bytes; an iterator is sent piece by piece without an end."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Respond = Callable[[Request], Answer]


@dataclass
class FakeAPI:
    url: str
    asked: list[Request] = field(default_factory=list)


@contextmanager
def serving(respond: Respond) -> Iterator[FakeAPI]:
    """Serves until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, parts.path, parse_qs(parts.query), headers, body)
            api.asked.append(request)
            self._send(respond(request))

        do_GET = do_POST = do_PUT = do_DELETE = _any

        def _send(self, answer: Answer) -> None:
            if answer.status == 0:  # hang up without a word
                self.close_connection = True
                return
            body = answer.body
            data = (
                body
                if isinstance(body, bytes)
                else b""
                if hasattr(body, "__next__")
                else json.dumps(body).encode()
            )
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **answer.headers}
            if hasattr(body, "__next__"):
                headers.pop("Content-Length")
                self.close_connection = True
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(data)
                for piece in body if hasattr(body, "__next__") else ():
                    self.wfile.write(piece)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    api = FakeAPI(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
