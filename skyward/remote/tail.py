"""The end of a text that may be long."""

from __future__ import annotations

from collections import deque

TAIL_BYTES = 4096


class Tail:
    """Keeps the last `limit` bytes of what it is fed. One thread feeds, any may read."""

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._chunks.append(data[-self._limit :])
        self._size += len(self._chunks[-1])
        while self._size - len(self._chunks[0]) >= self._limit:
            self._size -= len(self._chunks.popleft())

    def content(self) -> bytes:
        return b"".join(tuple(self._chunks))[-self._limit :]

    def text(self) -> str:
        return self.content().decode("utf-8", "replace")
