"""What waits, what is on its way, and the nodes it can go to: all that the scheduler shares between threads.

There is one lock. Decisions are made under it, values are pickled and sent outside of it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from skyward.errors import TaskCancelled
from skyward.remote.link import Link
from skyward.scheduler.entry import Entry
from skyward.scheduler.node import Node


class Board:
    """Where every task is until it has its outcome. Whoever calls or changes anything holds `lock`; a glance needs none, and may be late."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.nodes: list[Node] = []
        """In the order of their numbers. While one is being replaced two have the same."""
        self.by_link: dict[Link, Node] = {}
        self.waiting: deque[Entry] = deque()
        self.pinned: dict[tuple[int, int], deque[Entry]] = {}
        """What waits for one worker, by the place of its group; no queue in it is empty."""
        self.abandoned: set[int] = set()
        """Numbers of nodes that nobody will have again."""
        self.is_stopped = False
        self.is_resting = False
        """Whether the clock waits for work. Asked for every task, which is less than to wake somebody who is awake."""
        self.wake = threading.Event()
        """Ends that rest."""
        self.executions = 0
        """Attempts sent so far, over all tasks."""
        self._wire_ids = itertools.count(1)
        self._chunk_ids = itertools.count(1)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def join(self, link: Link) -> None:
        joined = Node(link)
        self.nodes.append(joined)
        self.by_link[link] = joined
        self.abandoned.discard(link.node)
        self.nodes.sort(key=lambda one: one.link.node)

    def leave(self, node: Node) -> None:
        self.nodes.remove(node)
        del self.by_link[node.link]

    def ranks(self) -> list[tuple[int, int]]:
        """(node number, workers) in the order of ranks; may be asked without the lock."""
        counts: dict[int, int] = {}
        for node in list(self.nodes):
            counts[node.link.node] = max(node.workers, counts.get(node.link.node, 0))
        return sorted(counts.items())

    def place(self, rank: int) -> tuple[int, int]:
        """Where a rank is now: ranks move up when a node is gone for good, what was sent to one does not."""
        first = 0
        for number, workers in self.ranks():
            if rank < first + workers:
                return number, rank - first
            first += workers
        return rank, 0  # a node that is still to join

    # -- tasks -----------------------------------------------------------------------------------------------------

    def take_on(self, entries: list[Entry]) -> None:
        """Puts tasks of one group into their queue.

        Raises:
            TaskCancelled: nothing is run here any more.
        """
        if self.is_stopped:
            raise TaskCancelled("the pool is stopped: no task can be submitted to it")
        place = entries[0].group.place if entries else None
        queue = self.waiting if place is None else self.pinned.setdefault(place, deque())
        queue.extend(entries)
        if self.is_resting:
            self.wake.set()

    def put_on_way(self, node: Node, entries: Sequence[Entry]) -> None:
        """From now on these are one chunk on their way to a node."""
        chunk, now = next(self._chunk_ids), time.monotonic()
        for entry in entries:
            entry.wire_id = next(self._wire_ids)
            entry.chunk, entry.link, entry.sent_at = chunk, node.link, now
            node.on_way[entry.wire_id] = entry
        self.executions += len(entries)

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Back to the front of the queue they came from, in order."""
        for entry in sorted(entries, key=lambda one: one.wire_id, reverse=True):
            place = entry.group.place
            queue = self.waiting if place is None else self.pinned.setdefault(place, deque())
            queue.appendleft(entry)

    def take_waiting(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Takes out of all queues what is wanted."""
        gone = [entry for entry in self.waiting if wanted(entry)]
        self.waiting = deque(entry for entry in self.waiting if not wanted(entry))
        for place, queue in self.pinned.items():
            gone += [entry for entry in queue if wanted(entry)]
            self.pinned[place] = deque(entry for entry in queue if not wanted(entry))
        self.pinned = {place: queue for place, queue in self.pinned.items() if queue}
        return gone

    def take_off(self, node: Node, entries: Iterable[Entry]) -> list[Entry]:
        """Takes entries off a node; gives the ones that were still on it. Takes the lock itself."""
        with self.lock:
            return [entry for entry in entries if node.on_way.pop(entry.wire_id, None) is not None]
