"""The end of a text that may be long."""

from __future__ import annotations

import threading
from collections import deque

TAIL_BYTES = 4096


class Tail:
    """Keeps the last `limit` bytes of what it is fed, by any thread."""

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        with self._lock:
            self._chunks.append(data[-self._limit :])
            self._size += len(self._chunks[-1])
            while self._size - len(self._chunks[0]) >= self._limit:
                self._size -= len(self._chunks.popleft())

    def content(self) -> bytes:
        with self._lock:
            return b"".join(self._chunks)[-self._limit :]

    def text(self) -> str:
        return self.content().decode("utf-8", "replace")
