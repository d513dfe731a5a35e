"""Tasks x workers -> outcomes: the only dispatch loop.

Owns what is waiting, what is on its way and what came back. It has no loop of its own thread: whoever submits, and the
thread each link is heard in, moves it on; one clock thread watches for silence and for work that is better done
elsewhere. Decisions are made under one lock, values are pickled and sent outside of it.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from skyward.contracts.engine import Engine, EngineContext, Sink
from skyward.errors import (
    InstanceDiskFull,
    SerializationError,
    TaskCancelled,
    TaskLost,
    TaskTimeout,
    WorkerDied,
)
from skyward.model.event import (
    NodeLost,
    NodeReattached,
    NodeSuspected,
    TaskFinished,
    TaskOutput,
    TaskStalled,
    TaskStarted,
    WarningRaised,
)
from skyward.model.outcome import Outcome, Verdict
from skyward.model.report import TaskReport
from skyward.model.task import Task
from skyward.remote import wire
from skyward.remote.codec import (
    Blob,
    EncodedCall,
    Identities,
    encode_call,
    encode_function,
    encode_rows,
    meaning_of,
    read_error,
    read_long,
    read_value,
    undecorated,
)
from skyward.remote.link import SUSPECT_S, Link
from skyward.remote.logs import save_logs
from skyward.remote.text import last_words, printable

CHUNK_S = 0.008
"""Quick tasks are sent in chunks that take about this long, seconds."""
QUEUED_S = 0.03
"""Work that waits on a node beyond what runs there, seconds per slot; a round trip is added."""
MAX_CHUNK = 2000
MAX_QUEUED = 6000
"""Tasks on their way to one slot, at most."""
MAX_CHUNK_BYTES = 4 << 20
MAX_RESULT = 1 << 40
MAX_FUNCTIONS = 256
"""Functions whose pickles are kept for the next time."""
HEARTBEAT_S = 1.0
IDLE_HEARTBEAT_S = 1.9
"""The same for a node that has nothing to do, looked at every half second: a hundred of them cost less than 1 % of a
core, and an answer still comes before anybody is suspected."""
CLOCK_S = 0.05
RECALL_AFTER_S = 0.1
PAUSED_S = 2.0
"""A clock that comes so late was stopped itself (a laptop that slept): silence heard then proves nothing, seconds."""


class _Group:
    """The tasks of one `submit`."""

    __slots__ = (
        "functions",
        "identities",
        "is_alone",
        "is_cancelled",
        "is_killed",
        "mean_s",
        "place",
        "sink",
    )

    def __init__(self, sink: Sink, place: tuple[int, int] | None, *, is_alone: bool = False) -> None:
        self.sink = sink
        self.is_alone = is_alone
        """Whether it is one task: how long that takes tells nothing about others."""
        self.place = place
        """Number of the node, and which of its workers, that runs all of it; None is any."""
        self.mean_s: float | None = None
        self.is_cancelled = self.is_killed = False
        self.functions: dict[int, Blob | SerializationError] = {}
        self.identities: Identities | None = None

    def learn(self, total_s: float, count: float) -> None:
        """So many tasks have taken so long."""
        mean, weight = total_s / count, min(0.5, 0.1 * count)
        self.mean_s = mean if self.mean_s is None else (1 - weight) * self.mean_s + weight * mean


class _Entry:
    """One task and where it is. `wire_id` is new for every attempt, so that late answers to old ones find nobody."""

    __slots__ = (
        "attempt",
        "avoid",
        "blobs",
        "chunk",
        "failures",
        "group",
        "index",
        "link",
        "sent_at",
        "task",
        "wire_id",
    )

    def __init__(self, task: Task, group: _Group, index: int) -> None:
        self.task = task
        self.group = group
        self.index = index
        self.attempt = 1
        self.failures = 0
        self.wire_id = 0
        self.chunk = 0
        self.link: Link | None = None
        self.avoid: Link | None = None
        self.blobs: tuple[Blob, ...] = ()
        self.sent_at = 0.0

    @property
    def name(self) -> str:
        return self.task.name


class _Node:
    """What the scheduler keeps of a link."""

    __slots__ = (
        "is_draining",
        "is_full",
        "is_suspected",
        "link",
        "on_way",
        "recalled_at",
        "slots",
        "workers",
    )

    def __init__(self, link: Link) -> None:
        self.link = link
        self.slots = link.slots
        self.workers = link.workers
        self.on_way: dict[int, _Entry] = {}
        self.is_suspected = False
        self.is_full = False
        self.is_draining = False
        self.recalled_at = 0.0

    @property
    def is_usable(self) -> bool:
        is_held_back = self.is_suspected or self.is_full or self.is_draining
        return self.link.is_up and not is_held_back and self.slots > 0


@lru_cache(MAX_FUNCTIONS)
def _rows_of(digest: str, timeout: float | None, worker: int | None) -> tuple[bytes, bytes]:
    """Of a chunk whose payload is nothing but rows of arguments: its header for the agent, and the one for the worker, which
    precedes the payload."""
    head = wire.write_header({"fn": digest, "batch": True})
    return wire.write_header({"needs": [digest], "head": len(head), **_conditions(timeout, worker)}), head


def _calls_of(
    calls: dict[int, EncodedCall],
    needs: list[str],
    timeout: float | None,
    worker: int | None,
    has_gaps: bool,
) -> tuple[bytes, bytes]:
    """The same of one with calls of all kinds, and after the second one its payload. With `has_gaps` some tasks between the first and
    the last are missing, so all are named."""
    pieces = [call.payload for call in calls.values()]
    named = {"ids": list(calls)} if has_gaps else {}
    head = wire.write_header(
        {
            "fn": needs[0], "batch": False, "calls": [call.header for call in calls.values()],
            "lengths": [len(piece) for piece in pieces], **named,
        }
    )  # fmt: skip
    wholes = [digest for call in calls.values() for digest in _wholes_of(call)]
    given = {"needs": needs, "head": len(head), "wholes": wholes, **named, **_conditions(timeout, worker)}
    return wire.write_header(given), b"".join((head, *pieces))


def _conditions(timeout: float | None, worker: int | None) -> dict[str, Any]:
    given = {"timeout": timeout, "worker": worker}
    return {name: value for name, value in given.items() if value is not None}


def _wholes_of(call: EncodedCall) -> list[str]:
    """Blobs that become one argument each, as they are."""
    return [one["digest"] for _, one in call.header.get("long", ()) if one["form"] in ("bytes", "str")]


def _load(node: _Node) -> float:
    return len(node.on_way) / max(1, node.slots)


_ARRIVING = (wire.RECORD_LONG, wire.RECORD_COMING)
_NONE, _DEATH = wire.RECORD_NONE, wire.RECORD_DEATH
_HEAD = wire.RECORD.size
Resolution = tuple[_Entry, Outcome]
_NONSENSE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What reading plain data raises when it is not what we would have written."""


class SSHEngine(Engine):
    """The built-in engine: fans tasks out over links."""

    name = "ssh"

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._lock = threading.RLock()
        self._nodes: list[_Node] = []
        self._by_link: dict[Link, _Node] = {}
        self._functions: dict[int, tuple[Any, Any, Any, Blob]] = {}
        """What was sent, what was decorated, what it meant (see `meaning_of`), and what stands for it."""
        self._waiting: deque[_Entry] = deque()
        self._pinned: dict[tuple[int, int], deque[_Entry]] = {}
        self._abandoned: set[int] = set()
        self._wire_ids = itertools.count(1)
        self._chunk_ids = itertools.count(1)
        self._chunks: dict[int, _Group] = {}
        self._is_stopped = False
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._clock: threading.Thread | None = None
        self._is_resting = False
        """Whether the clock waits for work. Asked for every task, which is less than to wake somebody who is awake."""
        self._is_safe = context.results == "safe"
        self._names: dict[int, tuple[str, int]] = {}
        self.executions = 0
        """Attempts sent so far, over all tasks."""

    # -- the contract --------------------------------------------------------------------------------------------

    def add_node(self, node: Link) -> None:
        """A configured link joins; its slots are used at once."""
        node.listener = self
        with self._lock:
            joined = _Node(node)
            self._nodes.append(joined)
            self._by_link[node] = joined
            self._abandoned.discard(node.node)
            self._nodes.sort(key=lambda one: one.link.node)
            if self._clock is None:
                self._clock = threading.Thread(target=self._tick_forever, name="skyward-clock", daemon=True)
                self._clock.start()
        self._move_on()

    def submit(self, tasks: Sequence[Task], sink: Sink, *, worker: int | None = None) -> object:
        """Queues a group; see `Engine.submit`."""
        if worker is None and len(tasks) == 1:
            return self._submit_one(tasks[0], sink)
        place = None
        if worker is not None:
            with self._lock:
                place = self._place(worker)
        group = _Group(sink, place)
        entries = [_Entry(task, group, index) for index, task in enumerate(tasks)]
        with self._lock:
            self._take_on(entries)
        self._move_on()
        return group

    def _submit_one(self, task: Task, sink: Sink) -> _Group:
        """For a task that comes alone somebody waits, as a rule: it goes past the queue when there is none and a node is idle."""
        group = _Group(sink, None, is_alone=True)
        entry = _Entry(task, group, 0)
        with self._lock:
            node = self._freest() if not self._waiting and not self._is_stopped else None
            if node is None:
                self._take_on([entry])
            else:
                self._put_on_way(node, (entry,))
                if self._is_resting:
                    self._wake.set()
        if node is None:
            self._move_on()
        elif failed := self._send(node, ((entry,),)):
            self._settle(failed)
        return group

    def _freest(self) -> _Node | None:
        """A node that has nothing to do, or would start one more task when it is through with what it has."""
        best, least = None, 2.0
        for node in self._nodes:
            if node.is_usable and (load := len(node.on_way) / node.slots) < least:
                best, least = node, load
        return best

    def _take_on(self, entries: list[_Entry]) -> None:
        """Puts tasks of one group into their queue; call with the lock held."""
        if self._is_stopped:
            raise TaskCancelled("the pool is stopped: no task can be submitted to it")
        place = entries[0].group.place if entries else None
        queue = self._waiting if place is None else self._pinned.setdefault(place, deque())
        queue.extend(entries)
        if self._is_resting:
            self._wake.set()

    def drain(self, node: Link) -> None:
        """A node gets nothing new; what it has not started moves to others, what runs there may end."""
        with self._lock:
            found = self._by_link.get(node)
            if found is None or found.is_draining:
                return
            found.is_draining = True
            count = len(found.on_way)
        if count:
            node.send(wire.RECALL, {"count": count})
        self._move_on()

    def abandon(self, node: int) -> None:
        """No machine takes the place of a lost node any more: what is pinned to it is lost, too."""
        with self._lock:
            if any(one.link.node == node and not one.link.is_closed for one in self._nodes):
                return
            self._abandoned.add(node)
        self._lose_abandoned()

    def _lose_abandoned(self) -> None:
        with self._lock:
            gone = self._take_waiting(
                lambda one: one.group.place is not None and one.group.place[0] in self._abandoned
            )
        error = "was lost, and no other one took its place"
        self._deliver(
            [(one, _gone(one, f"node {one.group.place[0]} {error}")) for one in gone if one.group.place]
        )

    def cancel(self, ticket: object, *, running: bool = False) -> None:
        """Reports what has not started as cancelled, and kills what runs if `running`."""
        assert isinstance(ticket, _Group)
        ticket.is_killed = ticket.is_killed or running
        ticket.is_cancelled = True
        with self._lock:
            gone = self._take_waiting(lambda entry: entry.group is ticket)
            per_link: dict[Link, set[int]] = {}
            for node in self._nodes:
                for entry in node.on_way.values():
                    if entry.group is ticket:
                        per_link.setdefault(node.link, set()).add(entry.chunk)
        self._deliver([(entry, _cancelled(entry)) for entry in gone])
        for link, chunks in per_link.items():
            link.send(wire.CANCEL, {"chunks": sorted(chunks), "kill": running})

    def stop(self) -> None:
        """Ends every node at once; what is unfinished is reported as cancelled."""
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            self._stop.set()
            self._wake.set()
            gone = self._take_waiting(lambda _: True)
            for node in self._nodes:
                gone += node.on_way.values()
                node.on_way.clear()
            links = [node.link for node in self._nodes]
        threads = [threading.Thread(target=link.close, name="skyward-close", daemon=True) for link in links]
        for thread in threads:
            thread.start()
        self._deliver([(entry, _cancelled(entry)) for entry in gone])
        for thread in threads:
            thread.join(8)

    def save_logs(
        self, directory: Path, *, room: int, deadline_s: float, redact: Callable[[str], str] = str
    ) -> list[Path]:
        """What workers have printed, out of every node that can be reached; see `Engine.save_logs`."""
        with self._lock:
            links = [node.link for node in self._nodes if node.link.is_up]
        return save_logs(links, directory, room=room, deadline_s=deadline_s, redact=redact)

    @property
    def workers(self) -> int:
        return sum(workers for _, workers in self._ranks())

    @property
    def slots(self) -> int:
        return sum(node.slots for node in self._nodes if not node.is_draining)

    def _ranks(self) -> list[tuple[int, int]]:
        """(node number, workers) in the order of ranks. While a node is being replaced two links have its number."""
        counts: dict[int, int] = {}
        for node in list(self._nodes):
            counts[node.link.node] = max(node.workers, counts.get(node.link.node, 0))
        return sorted(counts.items())

    # -- sending work --------------------------------------------------------------------------------------------

    def _move_on(self) -> None:
        """Sends work while there is any and room for it."""
        while self._waiting or self._pinned:
            with self._lock:
                batches = self._choose()
            if not batches:
                return
            resolutions: list[Resolution] = []
            for node, groups in batches:
                resolutions += self._send(node, groups)
            if resolutions:
                self._settle(resolutions)

    def _choose(self) -> list[tuple[_Node, list[list[_Entry]]]]:
        """Which waiting tasks go where now: for each node, lists of tasks that one worker runs in a row."""
        nodes = [node for node in self._nodes if node.is_usable]
        chosen: dict[int, tuple[_Node, list[list[_Entry]]]] = {}
        if self._pinned:
            self._choose_pinned(chosen)
        while self._waiting and nodes:
            entry = self._waiting[0]
            if entry.group.is_cancelled:
                break
            node = nodes[0]
            if len(nodes) > 1:
                node = min((one for one in nodes if one.link is not entry.avoid), key=_load)
            room = self._room(node, entry.group)
            if room <= 0:
                break
            if entry.group.mean_s is None:
                taken = [self._waiting.popleft()]
            else:
                taken = self._take_alike(min(room, self._chunk_size(entry.group.mean_s, nodes)))
            self._assign(chosen, node, taken)
        return list(chosen.values())

    def _choose_pinned(self, chosen: dict[int, tuple[_Node, list[list[_Entry]]]]) -> None:
        for place, queue in list(self._pinned.items()):
            node = next((one for one in self._nodes if one.link.node == place[0] and one.is_usable), None)
            if node is None:
                continue
            while queue:
                self._assign(chosen, node, [queue.popleft()])
            del self._pinned[place]

    def _assign(
        self, chosen: dict[int, tuple[_Node, list[list[_Entry]]]], node: _Node, entries: list[_Entry]
    ) -> None:
        self._put_on_way(node, entries)
        chosen.setdefault(id(node), (node, []))[1].append(entries)

    def _put_on_way(self, node: _Node, entries: Sequence[_Entry]) -> None:
        """From now on these are one chunk on their way to a node; call with the lock held."""
        chunk, now = next(self._chunk_ids), time.monotonic()
        for entry in entries:
            entry.wire_id = next(self._wire_ids)
            entry.chunk, entry.link, entry.sent_at = chunk, node.link, now
            node.on_way[entry.wire_id] = entry
        self.executions += len(entries)

    def _room(self, node: _Node, group: _Group) -> int:
        """How many more tasks of a group may be on their way to a node."""
        depth, mean = 2.0, group.mean_s
        if mean is not None:
            depth = max(2.0, 1 + (QUEUED_S + 2 * node.link.round_trip_s) / max(mean, 1e-6))
        return min(int(depth * node.slots), MAX_QUEUED * node.slots) - len(node.on_way)

    def _chunk_size(self, mean_s: float, nodes: list[_Node]) -> int:
        fair = -(-len(self._waiting) // max(1, 2 * sum(node.slots for node in nodes)))
        return max(1, min(int(CHUNK_S / max(mean_s, 1e-6)), fair, MAX_CHUNK))

    def _take_alike(self, size: int) -> list[_Entry]:
        """Up to `size` tasks from the front that one chunk can hold: one function, one group, one time-out."""
        waiting = self._waiting
        first = waiting.popleft()
        taken = [first]
        fn, group, options = first.task.fn, first.group, first.task.options
        while len(taken) < size and waiting:
            entry = waiting[0]
            if (
                entry.task.fn is not fn
                or entry.group is not group
                or entry.task.options is not options
                or entry.avoid is not None
            ):
                break
            taken.append(waiting.popleft())
        return taken

    def _send(self, node: _Node, chunks: Sequence[Sequence[_Entry]]) -> list[Resolution]:
        """Encodes and sends chunks to one node; gives back the tasks that cannot travel."""
        headers: list[bytes] = []
        payloads: list[bytes] = []
        failed: list[Resolution] = []
        size = 0
        is_told = self.context.wants(TaskStarted)
        for entries in chunks:
            header, payload, bad = self._encode(node, entries)
            failed += bad
            if not header:
                continue
            if is_told:
                self._tell_started(node, entries)
            headers.append(header)
            payloads.append(payload)
            size += len(payload)
            if size > MAX_CHUNK_BYTES:
                node.link.send(wire.TASKS, b'{"chunks":[%b]}' % b",".join(headers), *payloads)
                headers, payloads, size = [], [], 0
        if headers:
            node.link.send(wire.TASKS, b'{"chunks":[%b]}' % b",".join(headers), *payloads)
        for entries in chunks:  # the word of a group cancelled meanwhile may have been there before the tasks
            group = entries[0].group
            if group.is_cancelled:
                node.link.send(wire.CANCEL, {"chunks": [entries[0].chunk], "kill": group.is_killed})
        return failed

    def _tell_started(self, node: _Node, entries: Sequence[_Entry]) -> None:
        """Told before they are sent, so that no task ends before it has begun."""
        number = node.link.node
        for entry in entries:
            self.context.emit(
                TaskStarted(task=entry.name, index=entry.index, attempt=entry.attempt, node=number, worker=-1)
            )

    def _encode(self, node: _Node, entries: Sequence[_Entry]) -> tuple[bytes, bytes, Sequence[Resolution]]:
        """The header and the payload of a chunk, nothing if none of it can travel, and what cannot."""
        first = entries[0]
        group = first.group
        function = group.functions.get(id(first.task.fn)) or self._function(group, first.task.fn)
        if isinstance(function, SerializationError):
            return b"", b"", [(entry, _failed(function)) for entry in self._forget(node, entries)]
        limit = first.task.options.timeout_s
        timeout = limit if limit is not None else self.context.timeout_s
        worker = None if group.place is None else group.place[1]
        failed: list[Resolution] = []
        rows = encode_rows([entry.task for entry in entries])
        if rows is not None:
            blobs: tuple[Blob, ...] = (function,)
            header, head = _rows_of(function.digest, timeout, worker)
            body = head + rows
        else:
            calls: dict[int, EncodedCall] = {}
            identities = group.identities = group.identities or Identities()
            for entry in entries:
                try:
                    calls[entry.wire_id] = encode_call(
                        entry.name, entry.task.args, entry.task.kwargs, identities
                    )
                except SerializationError as error:
                    failed += [(one, _failed(error)) for one in self._forget(node, [entry])]
            if not calls:
                return b"", b"", failed
            entries = [entry for entry in entries if entry.wire_id in calls]
            needs = {blob.digest: blob for call in calls.values() for blob in (function, *call.blobs)}
            blobs = tuple(needs.values())
            header, body = _calls_of(calls, list(needs), timeout, worker, bool(failed))
        for entry in entries:
            entry.blobs = blobs
        if node.link.ensure(blobs):
            self._keep_budget(node)
        start = wire.CHUNK_HEAD.pack(first.chunk, entries[0].wire_id, len(entries), len(body))
        return header, start + body, failed

    def _function(self, group: _Group, fn: Callable[..., Any]) -> Blob | SerializationError:
        """What stands for a function in this group; what stood for it before, if it can only mean the same."""
        known = self._functions.get(id(fn))
        if known is not None and known[0] is fn and meaning_of(known[1]) == known[2]:
            found: Blob | SerializationError = known[3]
        else:
            found = self._encode_function(fn)
        group.functions[id(fn)] = found
        return found

    def _encode_function(self, fn: Callable[..., Any]) -> Blob | SerializationError:
        plain = undecorated(fn)
        meaning = meaning_of(plain)
        try:
            blob = encode_function(plain, self.context.importable)
        except SerializationError as error:
            return error
        if meaning is not None:
            if len(self._functions) > MAX_FUNCTIONS:
                self._functions.clear()
            self._functions[id(fn)] = (fn, plain, meaning, blob)
        return blob

    def _keep_budget(self, node: _Node) -> None:
        if len(node.link._sent) < 64 and sum(node.link._sent.values()) < (1 << 30):
            return
        with self._lock:
            in_use = {blob.digest for entry in node.on_way.values() for blob in entry.blobs}
        node.link.forget(node.link.over_budget(in_use))

    def _place(self, rank: int) -> tuple[int, int]:
        """Where a rank is now: ranks move up when a node is gone for good, what was sent to one does not."""
        first = 0
        for number, workers in self._ranks():
            if rank < first + workers:
                return number, rank - first
            first += workers
        return rank, 0  # a node that is still to join

    def _forget(self, node: _Node, entries: Iterable[_Entry]) -> list[_Entry]:
        """Takes entries off a node; the ones that were still on it."""
        with self._lock:
            return [entry for entry in entries if node.on_way.pop(entry.wire_id, None) is not None]

    def _take_waiting(self, wanted: Callable[[_Entry], bool]) -> list[_Entry]:
        gone = [entry for entry in self._waiting if wanted(entry)]
        self._waiting = deque(entry for entry in self._waiting if not wanted(entry))
        for place, queue in self._pinned.items():
            gone += [entry for entry in queue if wanted(entry)]
            self._pinned[place] = deque(entry for entry in queue if not wanted(entry))
        self._pinned = {place: queue for place, queue in self._pinned.items() if queue}
        return gone

    def _requeue(self, entries: Iterable[_Entry]) -> None:
        """Back to the front of the queue they came from, in order; call with the lock held."""
        for entry in sorted(entries, key=lambda one: one.wire_id, reverse=True):
            queue = (
                self._waiting
                if entry.group.place is None
                else self._pinned.setdefault(entry.group.place, deque())
            )
            queue.appendleft(entry)

    # -- hearing from links --------------------------------------------------------------------------------------

    def _node(self, link: Link) -> _Node | None:
        return self._by_link.get(link)

    def on_records(self, link: Link, payload: Any) -> None:
        """Outcomes of tasks. Records of attempts that were given up find no entry and are ignored."""
        node = self._by_link.get(link)
        if node is None:
            return
        if len(payload) >= _HEAD:
            length, wire_id, kind, seconds = wire.RECORD.unpack_from(payload)
            if length == len(payload) - _HEAD and kind not in _ARRIVING:
                self._on_record(node, wire_id, kind, seconds, payload[_HEAD:])
                return
        found: list[tuple[_Entry, int, float, memoryview]] = []
        nonsense: Exception | None = None
        with self._lock:
            on_way = node.on_way
            node.is_suspected = False
            try:
                for wire_id, kind, seconds, body in wire.read_records(payload):
                    if kind in _ARRIVING:
                        if wire_id in on_way and not link.is_fetching(f"r{wire_id}"):
                            self._fetch(node, wire_id, seconds, body)
                        continue
                    entry = on_way.pop(wire_id, None)
                    if entry is not None:
                        if link.fetches:
                            link.stop_fetching(f"r{wire_id}")
                        found.append((entry, kind, seconds, body))
            except (wire.BadFrame, *_NONSENSE) as error:
                nonsense = error  # what came before it counts all the same
            _learn(found)
        self._settle([(one[0], self._outcome(link, *one)) for one in found])
        if nonsense is not None:
            raise nonsense
        self._move_on()

    def _on_record(self, node: _Node, wire_id: int, kind: int, seconds: float, body: memoryview) -> None:
        """The outcome of a task that comes alone; what is done for many takes longer."""
        link = node.link
        with self._lock:
            node.is_suspected = False
            entry = node.on_way.pop(wire_id, None)
            if entry is None:
                return
            if link.fetches:
                link.stop_fetching(f"r{wire_id}")
            if kind != _DEATH and not entry.group.is_alone:
                entry.group.learn(seconds, 1)
        outcome = self._outcome(link, entry, kind, seconds, body)
        if outcome.error is None:
            self._deliver(((entry, outcome),))
        else:
            self._settle([(entry, outcome)])
        if self._waiting or self._pinned:
            self._move_on()

    def _outcome(self, link: Link, entry: _Entry, kind: int, seconds: float, body: memoryview) -> Outcome:
        """What a record says."""
        if kind == _NONE:
            return Outcome("succeeded", node=link.node, attempt=entry.attempt, duration_s=seconds)
        try:
            if kind == wire.RECORD_VALUE:
                value = read_value(body, (), safe=self._is_safe)
                return Outcome("succeeded", value, node=link.node, attempt=entry.attempt, duration_s=seconds)
            return self._bad_outcome(entry, kind, seconds, body, link.node)
        except _NONSENSE as error:
            lost = TaskLost(f"{entry.name}: node {link.node} sent an outcome that makes no sense: {error}")
            return Outcome("lost", error=lost, node=link.node, attempt=entry.attempt)
        except Exception as error:  # reading a value runs code of whoever wrote its class
            return Outcome("failed", error=error, node=link.node, attempt=entry.attempt, duration_s=seconds)

    def _bad_outcome(self, entry: _Entry, kind: int, seconds: float, body: memoryview, node: int) -> Outcome:
        if kind == wire.RECORD_DEATH:
            return _obituary(entry, json.loads(bytes(body)), node)
        error = (
            read_error(body, safe=self._is_safe)
            if kind == wire.RECORD_ERROR
            else TaskLost(f"{entry.name}: a record of unknown kind {kind} came")
        )
        verdict: Verdict = "lost" if isinstance(error, (InstanceDiskFull, TaskLost)) else "failed"
        return Outcome(verdict, error=error, node=node, attempt=entry.attempt, duration_s=seconds)

    def _fetch(self, node: _Node, wire_id: int, seconds: float, body: memoryview) -> None:
        story = json.loads(bytes(body))
        form, parts = str(story["form"]), [int(size) for size in story["parts"]]
        if not all(0 <= size <= MAX_RESULT for size in parts):
            raise ValueError(f"a result of {parts} bytes")

        def done(data: bytes | memoryview) -> None:
            with self._lock:
                entry = node.on_way.pop(wire_id, None)
            if entry is None:
                return
            try:
                value = read_long(data, form, parts, safe=self._is_safe)
                outcome = Outcome(
                    "succeeded", value, node=node.link.node, attempt=entry.attempt, duration_s=seconds
                )
            except Exception as error:
                outcome = Outcome(
                    "failed", error=error, node=node.link.node, attempt=entry.attempt, duration_s=seconds
                )
            self._settle([(entry, outcome)])
            self._move_on()

        node.link.fetch(f"r{wire_id}", sum(parts), done, as_bytes=form == "bytes")

    def on_output(self, link: Link, header: dict[str, Any], payload: Any) -> None:
        """What a task printed, tagged with it."""
        if not self.context.wants(TaskOutput):
            return
        node = self._node(link)
        entry = node.on_way.get(header["task"]) if node is not None else None
        name, index = (entry.name, entry.index) if entry is not None else ("", -1)
        text = (
            printable(bytes(payload))
            if "dropped" not in header
            else f"[{header['dropped']:,} more bytes are not shown]\n"
        )
        self.context.emit(
            TaskOutput(
                task=name,
                index=index,
                node=link.node,
                stream=header["stream"],
                text=text,
                dropped=int(header.get("dropped", 0)),
            )
        )

    def on_recalled(self, link: Link, tasks: list[int], cancelled: bool) -> None:
        """Tasks a node had not started and gives back."""
        node = self._node(link)
        if node is None:
            return
        with self._lock:
            entries = [entry for one in tasks if (entry := node.on_way.pop(one, None)) is not None]
            gone = [entry for entry in entries if entry.group.is_cancelled]
            self._requeue(entry for entry in entries if not entry.group.is_cancelled)
        self._deliver([(entry, _cancelled(entry)) for entry in gone])
        self._move_on()

    def on_sync(self, link: Link, known: set[int]) -> None:
        """After a reconnect: what the node never heard of is sent again, as the same attempt."""
        node = self._node(link)
        if node is None:
            return
        with self._lock:
            fetching = {int(name[1:]) for name in link.fetches}
            missing = [
                entry for one, entry in node.on_way.items() if one not in known and one not in fetching
            ]
            for entry in missing:
                del node.on_way[entry.wire_id]
            self._requeue(missing)
            needed = {blob.digest: blob for entry in node.on_way.values() for blob in entry.blobs}
        link.ensure(needed.values())
        self._move_on()

    def on_detached(self, link: Link) -> None:
        """The connection broke; nothing is sent until the link is back."""

    def on_out_of_reach(self, link: Link, reason: str) -> None:
        """No new connection can be made so far; it is tried on until the node is lost, and after that."""
        silent = max(0.0, time.monotonic() - link.last_heard)
        self.context.emit(NodeSuspected(node=link.node, silent_s=silent, reason=reason))

    def on_reattached(self, link: Link, seconds: float, *, same_agent: bool) -> None:
        node = self._node(link)
        if node is not None:
            node.is_suspected = False
            node.slots, node.workers = link.slots, link.workers
        self.context.emit(NodeReattached(node=link.node, duration_s=seconds))
        self._move_on()

    def on_lost(self, link: Link, reason: str, *, final: bool) -> None:
        """A node is given up: its tasks are lost and move, unless there is no other node and it may come back."""
        node = self._node(link)
        if node is None:
            return
        with self._lock:
            others = [
                one
                for one in self._nodes
                if one is not node and not one.link.is_closed and not one.is_draining
            ]
            move = final or bool(others) or "agent on it died" in reason
            entries = list(node.on_way.values()) if move else []
            if move:
                node.on_way.clear()
            if final:
                self._nodes.remove(node)
                del self._by_link[link]
            alone = final and not self._nodes
        if not self._is_stopped:
            self.context.emit(NodeLost(node=link.node, reason=reason, tasks=len(entries)))
        resolutions = [(entry, _lost(entry, link, reason)) for entry in entries]
        self._settle(resolutions)
        if alone:
            self._fail_everything(f"no node is left: {reason}")
        self._move_on()

    def on_no_room(self, link: Link, digest: str, error: str) -> None:
        """A node cannot store what a task needs: it gets no more work, and its tasks move if they can."""
        node = self._node(link)
        if node is None:
            return
        with self._lock:
            node.is_full = True
            entries = list(node.on_way.values())
            stuck = [entry for entry in entries if any(blob.digest == digest for blob in entry.blobs)]
            for entry in stuck:
                del node.on_way[entry.wire_id]
            left = any(one.is_usable for one in self._nodes)
        self.context.emit(
            WarningRaised(
                message=f"node {link.node}: no room for a value: {error}; it gets no more tasks",
                hint="free space there",
            )
        )
        full = InstanceDiskFull(f"{link.endpoint}: {error}", step="task")
        link.send(wire.CANCEL, {"chunks": sorted({entry.chunk for entry in stuck}), "kill": False})
        if left:
            self._settle(
                [
                    (entry, Outcome("lost", error=full, node=link.node, attempt=entry.attempt))
                    for entry in stuck
                ]
            )
            self._move_on()
        else:
            node.is_full = False
            self._deliver(
                [
                    (entry, Outcome("failed", error=full, node=link.node, attempt=entry.attempt))
                    for entry in stuck
                ]
            )

    def on_dead_slot(self, link: Link, story: dict[str, Any]) -> None:
        """A slot whose worker cannot be started any more is taken out of the count."""
        node = self._node(link)
        if node is None:
            return
        node.slots = max(0, node.slots - 1)
        self.context.emit(
            WarningRaised(
                message=f"node {link.node}: a worker cannot be started again: {story.get('tail') or story.get('reason')}"
            )
        )
        if node.slots == 0:
            link.drop("no worker can be started on it")

    def on_stalled(self, link: Link, story: dict[str, Any]) -> None:
        """A worker has a task and does nothing."""
        node = self._node(link)
        entry = node.on_way.get(story["task"]) if node is not None else None
        if entry is not None:
            self.context.emit(
                TaskStalled(
                    task=entry.name,
                    index=entry.index,
                    node=link.node,
                    pid=int(story["pid"]),
                    idle_s=float(story["for_s"]),
                    is_stopped=bool(story["stopped"]),
                )
            )

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _settle(self, resolutions: list[Resolution]) -> None:
        """Delivers what is through and puts back what gets another attempt."""
        through: list[Resolution] = []
        again: list[_Entry] = []
        for entry, outcome in resolutions:
            if outcome.error is None or not self._runs_again(entry, outcome):
                through.append((entry, outcome))
                continue
            if self.context.wants(TaskFinished):
                self.context.emit(TaskFinished(report=_report(entry, outcome), final=False))
            if outcome.verdict == "failed" and not isinstance(outcome.error, WorkerDied):
                entry.failures += 1
            entry.attempt += 1
            entry.avoid = entry.link if outcome.verdict == "lost" else None
            again.append(entry)
        if again:
            with self._lock:
                self._requeue(again)
            if self._abandoned:
                self._lose_abandoned()
        self._deliver(through)
        if again:
            self._wake.set()

    def _runs_again(self, entry: _Entry, outcome: Outcome) -> bool:
        if entry.group.is_cancelled or self._is_stopped or outcome.verdict == "cancelled":
            return False
        asked = self.context.should_retry(_report(entry, outcome))
        own = entry.task.options.retries
        if asked is not None:
            return asked and entry.attempt < 100
        if outcome.verdict == "lost" or isinstance(outcome.error, WorkerDied):
            return entry.attempt <= (self.context.retries if own is None else max(own, self.context.retries))
        if isinstance(outcome.error, (SerializationError, TaskTimeout)):
            return False
        return entry.failures < (own or 0)

    def _deliver(self, resolutions: Sequence[Resolution]) -> None:
        wants = self.context.wants(TaskFinished)
        for entry, outcome in resolutions:
            entry.blobs = ()
            if wants:
                self.context.emit(TaskFinished(report=_report(entry, outcome)))
            entry.group.sink.done(entry.index, outcome)

    def _fail_everything(self, reason: str) -> None:
        with self._lock:
            gone = self._take_waiting(lambda _: True)
        self._deliver([(entry, _gone(entry, reason)) for entry in gone])

    # -- time ----------------------------------------------------------------------------------------------------

    def _tick_forever(self) -> None:
        before = time.monotonic()
        while not self._stop.is_set():
            self._rest()
            now = time.monotonic()
            paused, before = now - before > PAUSED_S, now
            for node in list(self._nodes):
                if paused:
                    node.link.last_heard = now
                self._watch(node, now)
            self._balance(now)
            if self._waiting:
                self._move_on()

    def _rest(self) -> None:
        """Until the next look at everything: soon, or when somebody brings work."""
        self._is_resting = (
            True  # said before it is looked, and asked after work was brought: so none is overlooked
        )
        if self._waiting or any(node.on_way for node in self._nodes):
            self._is_resting = False
            self._stop.wait(CLOCK_S)
        else:
            self._wake.wait(HEARTBEAT_S / 2)
            self._is_resting = False
        self._wake.clear()

    def _watch(self, node: _Node, now: float) -> None:
        """Heartbeats, suspicion, and the end of patience, for one node."""
        link = node.link
        if not link.is_up:
            return
        silent = now - link.last_heard
        if now - link.last_ping >= (HEARTBEAT_S if node.on_way or link.has_short_lease else IDLE_HEARTBEAT_S):
            link.last_ping = now
            link.ping()
        if silent >= link.lost_s:
            link.drop(f"silent for {silent:.0f} s")
        elif silent >= SUSPECT_S and not node.is_suspected:
            node.is_suspected = True
            self.context.emit(NodeSuspected(node=link.node, silent_s=silent))
        elif silent < SUSPECT_S:
            node.is_suspected = False

    def _balance(self, now: float) -> None:
        """Takes unstarted tasks back from a busy node when another one has nothing to do."""
        if self._waiting:
            return
        with self._lock:
            idle = [node for node in self._nodes if node.is_usable and len(node.on_way) < node.slots]
            busy = [
                node for node in self._nodes
                if node.link.is_up and len(node.on_way) > node.slots and now - node.recalled_at > RECALL_AFTER_S
                and now - min(entry.sent_at for entry in node.on_way.values()) > RECALL_AFTER_S
            ]  # fmt: skip
            if not idle or not busy:
                return
            node = max(busy, key=_load)
            node.recalled_at = now
            free = sum(one.slots - len(one.on_way) for one in idle)
            spare = len(node.on_way) - node.slots
        node.link.send(wire.RECALL, {"count": max(1, min(spare, max(free, spare // 2)))})


def _learn(found: list[tuple[_Entry, int, float, memoryview]]) -> None:
    """Updates the mean duration of each group from tasks that ran to their end."""
    totals: dict[_Group, list[float]] = {}
    group, total = None, [0.0, 0]
    for entry, kind, seconds, _ in found:
        if kind != _DEATH:
            if entry.group is not group:
                group = entry.group
                total = totals.setdefault(group, [0.0, 0])
            total[0] += seconds
            total[1] += 1
    for group, (total_s, count) in totals.items():
        group.learn(total_s, count)


def _report(entry: _Entry, outcome: Outcome) -> TaskReport:
    return TaskReport(
        task=entry.name, index=entry.index, attempt=outcome.attempt, verdict=outcome.verdict, node=outcome.node,
        worker=outcome.worker, duration_s=outcome.duration_s, error=outcome.error,
    )  # fmt: skip


def _failed(error: BaseException) -> Outcome:
    return Outcome("failed", error=error)


def _cancelled(entry: _Entry) -> Outcome:
    return Outcome(
        "cancelled", error=TaskCancelled(f"{entry.name}: cancelled before it ended"), attempt=entry.attempt
    )


def _gone(entry: _Entry, reason: str) -> Outcome:
    """Lost, with nowhere left to run."""
    return Outcome("lost", error=TaskLost(f"{entry.name}: {reason}"), attempt=entry.attempt)


def _lost(entry: _Entry, link: Link, reason: str) -> Outcome:
    error = TaskLost(
        f"{entry.name}: lost with node {link.node} ({link.endpoint}): {reason}",
        hints=["raise `retries` to run lost tasks again more often"],
    )
    return Outcome("lost", error=error, node=link.node, attempt=entry.attempt)


def _obituary(entry: _Entry, story: dict[str, Any], node: int) -> Outcome:
    """What to say of a task whose worker process ended."""
    name, reason, seconds = entry.name, story.get("reason") or "", 0.0
    if reason == "cancelled" or reason == "shutdown":
        return _cancelled(entry)
    tail = str(story.get("tail") or "")
    if reason == "timeout":
        limit = entry.task.options.timeout_s
        error: Exception = TaskTimeout(
            f"{name}: ran longer than its timeout" + (f" of {limit:g} s" if limit is not None else ""),
            timeout_s=limit,
            stderr_tail=tail,
        )
        return Outcome("failed", error=error, node=node, attempt=entry.attempt, duration_s=seconds)
    peak = story.get("peak_rss")
    how = (
        f"was killed by {story['signal']}"
        if story.get("signal")
        else f"ended with exit code {story.get('exit')}"
    )
    if reason == "out-of-memory":
        how = f"was killed by SIGKILL, the machine was out of memory (peak {(peak or 0) / 2**20:.0f} MiB)"
    elif reason == "worker-cannot-start":
        how = "cannot be started"
    last = last_words(tail)
    error = WorkerDied(
        f"{name}: its worker {how}", facts=[*last, *([f"peak memory {peak / 2**20:.0f} MiB"] if peak else [])],
        signal=story.get("signal"), exit_status=story.get("exit"), peak_rss_bytes=peak, stderr_tail=tail,
    )  # fmt: skip
    return Outcome("failed", error=error, node=node, attempt=entry.attempt, duration_s=seconds)
