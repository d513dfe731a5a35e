"""Long values that tasks on one node need: which of them it has, and how the others get there. Each crosses a link once."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from skyward.remote import wire
from skyward.remote.codec import Blob
from skyward.remote.link.line import Line

BLOBS_KEPT = 8 << 30
"""Blobs an instance keeps for tasks to come, bytes; the longest unused go first."""
FEW, SHORT = 64, 1 << 30
"""Fewer blobs than so many, of less than so many bytes together, are kept whatever they are."""


class Blobs:
    """The blobs of one node. Those longer than a frame have a thread of their own, so that others go between their pieces."""

    def __init__(self, line: Line, node: int, *, is_over: Callable[[], bool]) -> None:
        self.there: OrderedDict[str, int] = OrderedDict()
        """The size of each that the node has or will have, by digest, the longest unused first."""
        self._line = line
        self._node = node
        self._is_over = is_over
        self._long: deque[Blob] = deque()
        self._wanted = threading.Condition()
        self._thread: threading.Thread | None = None

    def ensure(self, blobs: Iterable[Blob]) -> bool:
        """Queues what this node does not have yet, and says whether there was any; each blob crosses the link once."""
        missing = []
        for blob in blobs:
            if blob.digest in self.there:
                self.there.move_to_end(blob.digest)
            else:
                self.there[blob.digest] = blob.size
                missing.append(blob)
        if not missing:
            return False
        for blob in missing:
            if blob.size <= wire.CHUNK:
                self._send_short(blob)
        if long := [blob for blob in missing if blob.size > wire.CHUNK]:
            self._queue(long)
        return True

    def _send_short(self, blob: Blob) -> None:
        """A blob that fits into one frame."""
        self._line.send(wire.PIECE, {"digest": blob.digest, "offset": 0, "total": blob.size}, blob.data)

    def _queue(self, blobs: list[Blob]) -> None:
        with self._wanted:
            self._long.extend(blobs)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._send_queued, name=f"skyward-bulk-n{self._node}", daemon=True
                )
                self._thread.start()
            self._wanted.notify()

    def _send_queued(self) -> None:
        while True:
            with self._wanted:
                while not self._long and not self._is_over():
                    self._wanted.wait()
                if self._is_over():
                    return
                blob = self._long.popleft()
            self._line.send_long(blob)
            blob.settle()

    def forget(self, digests: Iterable[str]) -> None:
        """Lets the node drop blobs."""
        gone = [digest for digest in digests if self.there.pop(digest, None) is not None]
        if gone:
            self._line.send(wire.DROP, {"digests": gone})

    @property
    def are_many(self) -> bool:
        return len(self.there) >= FEW or sum(self.there.values()) >= SHORT

    def over_budget(self, in_use: set[str], *, disk_free_bytes: int) -> list[str]:
        """Blobs to forget, longest unused first, so that the rest fits the budget."""
        total, gone = sum(self.there.values()), []
        budget = min(BLOBS_KEPT, disk_free_bytes // 2 or BLOBS_KEPT)
        for digest, size in self.there.items():
            if total <= budget:
                break
            if digest not in in_use:
                gone.append(digest)
                total -= size
        return gone

    def lose(self, digest: str) -> None:
        """The node could not keep this one."""
        self.there.pop(digest, None)

    def find(self, digests: Iterable[str]) -> None:
        """After a reconnect: the node has these and no others."""
        self.there = OrderedDict((digest, self.there.get(digest, 0)) for digest in digests)

    def end(self) -> None:
        """Lets the thread look whether it is over."""
        with self._wanted:
            self._wanted.notify_all()
