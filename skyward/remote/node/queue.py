"""Tasks on their way to workers: what is queued, what waits for a long value, who gets what next. Any Python >= 3.8."""

from __future__ import annotations

from skyward.remote import wire
from skyward.remote.node.lean import deque
from skyward.remote.node.slot import Chunk

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Deque, Dict, List, Optional, Set

    from skyward.remote.node.slot import Slot

ANNOUNCED = 8 << 20
"""Values as long as this are read by a worker while they arrive, bytes."""
STEAL_AFTER_S = 0.05
"""A chunk that has run this long lends its unstarted tasks to idle workers, seconds."""


class Queue:
    """Chunks for `slots`; one is queued as soon as all it needs is among `have`."""

    def __init__(self, slots: List[Slot], have: Set[str]) -> None:
        self.chunks: Deque[Chunk] = deque()
        self._waiting: List[Chunk] = []
        self._slots = slots
        self._have = have

    def take(self, header: Dict[str, Any], payload: Any) -> None:
        """Queues the chunks that a client has sent, and gives them out as far as there are idle workers."""
        view = memoryview(payload)
        position = 0
        for one in header["chunks"]:
            number, first, count, size = wire.CHUNK_HEAD.unpack_from(view, position)
            position += wire.CHUNK_HEAD.size
            chunk = Chunk(one, number, first, count, view[position : position + size])
            position += size
            if self._have.issuperset(one["needs"]):
                self.chunks.append(chunk)
            else:
                chunk.needs = set(one["needs"]) - self._have
                self._waiting.append(chunk)
        self.feed()

    def feed(self) -> None:
        """Gives idle workers what is queued for them."""
        chunks = self.chunks
        for slot in self._slots:
            if not chunks:
                return
            if slot.state != "idle":
                continue
            if chunks[0].worker is None:
                slot.assign(chunks.popleft())
            elif (chunk := self._first_for(slot)) is not None:
                chunks.remove(chunk)
                slot.assign(chunk)

    def _first_for(self, slot: Slot) -> Optional[Chunk]:
        for chunk in self.chunks:
            if chunk.worker is None or chunk.worker == slot.worker:
                return chunk
        return None

    def put_back(self, chunk: Chunk) -> None:
        """Queues a chunk before all others."""
        self.chunks.appendleft(chunk)

    # -- long values --

    def announce(self, digest: str, total: int) -> None:
        """Lets a worker that has nothing to do read a long value while it arrives; one of those is about to need it."""
        if total < ANNOUNCED or not any(chunk.takes_whole(digest) for chunk in self._waiting):
            return
        idle = next((slot for slot in self._slots if slot.state == "idle"), None)
        if idle is not None:
            idle.announce(digest, total)

    def has_come(self, digest: str) -> None:
        """Queues the chunks that waited for this value alone."""
        for chunk in self._waiting:
            chunk.needs.discard(digest)
        self.chunks.extend(chunk for chunk in self._waiting if not chunk.needs)
        self._waiting = [chunk for chunk in self._waiting if chunk.needs]

    # -- tasks that go elsewhere --

    def known(self) -> List[int]:
        """The tasks that are here and have no outcome yet."""
        tasks = [task for chunk in [*self.chunks, *self._waiting] for task in chunk.unstarted]
        for slot in self._slots:
            if slot.chunk is not None:
                tasks += slot.chunk.ids[slot.chunk.low + slot.finished : slot.chunk.high]
        return tasks

    def recall(self, count: int) -> List[int]:
        """Takes back at most so many unstarted tasks, but none that is meant for one worker: those that wait for a value,
        the end of the queue, then those of running chunks."""
        tasks: List[int] = []
        for place in (self._waiting, self.chunks):
            for chunk in reversed([one for one in place if one.worker is None]):
                if len(tasks) >= count:
                    break
                take = min(count - len(tasks), chunk.high - chunk.low)
                tasks += chunk.ids[chunk.high - take : chunk.high]
                chunk.high -= take
                if chunk.low == chunk.high:
                    place.remove(chunk)
        for slot in self._slots:
            if slot.chunk is not None and slot.chunk.worker is None and len(tasks) < count:
                part = slot.take_back(count - len(tasks))
                tasks += part.unstarted if part else []
        return tasks

    def cancel(self, numbers: Set[int], kill: bool) -> List[int]:
        """Takes back the unstarted tasks of these chunks; `kill` ends the one that runs with its worker."""
        tasks: List[int] = []
        for one in [*self.chunks, *self._waiting]:
            if one.id in numbers:
                tasks += one.unstarted
        self.chunks = deque(one for one in self.chunks if one.id not in numbers)
        self._waiting = [one for one in self._waiting if one.id not in numbers]
        for slot in self._slots:
            if slot.chunk is not None and slot.chunk.id in numbers:
                part = slot.take_back(1 << 20)
                tasks += part.unstarted if part else []
                if kill and slot.current is not None:
                    slot.end("cancelled")
        return tasks

    def clear(self) -> List[int]:
        """Takes back everything no worker has."""
        tasks = [task for chunk in [*self.chunks, *self._waiting] for task in chunk.unstarted]
        self.chunks.clear()
        self._waiting = []
        return tasks

    def steal(self, now: float) -> None:
        """Lends unstarted tasks of a slow chunk to idle workers of this instance."""
        if self.chunks:
            return
        for slot in self._slots:
            if slot.state != "idle":
                continue
            lenders = [
                (one.tokens_left(), one)
                for one in self._slots
                if one.chunk is not None and one.chunk.worker is None and now - one.begun_at > STEAL_AFTER_S
            ]
            left, lender = max(lenders, key=lambda pair: pair[0], default=(0, None))
            part = lender.take_back((left + 1) // 2) if lender is not None and left else None
            if part is None:
                return
            slot.assign(part)
