"""What links tell: records of tasks, and news of their nodes. Every method is called in the thread of a connection."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from skyward.contracts.engine import EngineContext
from skyward.errors import InstanceDiskFull
from skyward.model.event import (
    NodeLost,
    NodeReattached,
    NodeSuspected,
    TaskOutput,
    TaskStalled,
    WarningRaised,
)
from skyward.model.outcome import Outcome
from skyward.remote import wire
from skyward.remote.codec import read_long
from skyward.remote.link import Link, Listener
from skyward.remote.text import printable
from skyward.scheduler import outcomes
from skyward.scheduler.board import Board
from skyward.scheduler.dispatch import Dispatch
from skyward.scheduler.entry import Entry, Group
from skyward.scheduler.node import Node
from skyward.scheduler.records import NONSENSE, read_announcement, read_outcome
from skyward.scheduler.settlement import Settlement

_ARRIVING = (wire.RECORD_LONG, wire.RECORD_COMING)
_DEATH = wire.RECORD_DEATH
_HEAD = wire.RECORD.size


class NodeListener(Listener):
    """The listener of every link of an engine. News of a link that has left are news of nobody."""

    def __init__(
        self, board: Board, context: EngineContext, settlement: Settlement, dispatch: Dispatch
    ) -> None:
        self._board = board
        self._context = context
        self._settlement = settlement
        self._dispatch = dispatch
        self._is_safe = context.results == "safe"

    # -- outcomes ------------------------------------------------------------------------------------------------

    def on_records(self, link: Link, payload: Any) -> None:
        """Outcomes of tasks. Records of attempts that were given up find no entry and are ignored."""
        node = self._board.by_link.get(link)
        if node is None:
            return
        if len(payload) >= _HEAD:
            length, wire_id, kind, seconds = wire.RECORD.unpack_from(payload)
            if length == len(payload) - _HEAD and kind not in _ARRIVING:
                self._on_record(node, wire_id, kind, seconds, payload[_HEAD:])
                return
        found: list[tuple[Entry, int, float, memoryview]] = []
        nonsense: Exception | None = None
        with self._board.lock:
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
            except (wire.BadFrame, *NONSENSE) as error:
                nonsense = error  # what came before it counts all the same
            _learn(found)
        number, is_safe = link.node, self._is_safe
        self._settlement.settle(
            [
                (entry, read_outcome(entry, kind, seconds, body, number, is_safe))
                for entry, kind, seconds, body in found
            ]
        )
        if nonsense is not None:
            raise nonsense
        self._dispatch.move_on()

    def _on_record(self, node: Node, wire_id: int, kind: int, seconds: float, body: memoryview) -> None:
        """The outcome of a task that comes alone; what is done for many takes longer."""
        link, board = node.link, self._board
        with board.lock:
            node.is_suspected = False
            entry = node.on_way.pop(wire_id, None)
            if entry is None:
                return
            if link.fetches:
                link.stop_fetching(f"r{wire_id}")
            if kind != _DEATH and not entry.group.is_alone:
                entry.group.learn(seconds, 1)
        outcome = read_outcome(entry, kind, seconds, body, link.node, self._is_safe)
        if outcome.error is None:
            self._settlement.deliver(((entry, outcome),))
        else:
            self._settlement.settle([(entry, outcome)])
        if board.waiting or board.pinned:
            self._dispatch.move_on()

    def _fetch(self, node: Node, wire_id: int, seconds: float, body: memoryview) -> None:
        """Asks for a long value; its task stays on its way until it is here."""
        form, parts = read_announcement(body)
        done = partial(self._on_fetched, node, wire_id, seconds, form, parts)
        node.link.fetch(f"r{wire_id}", sum(parts), done, as_bytes=form == "bytes")

    def _on_fetched(
        self, node: Node, wire_id: int, seconds: float, form: str, parts: list[int], data: bytes | memoryview
    ) -> None:
        with self._board.lock:
            entry = node.on_way.pop(wire_id, None)
        if entry is None:
            return
        number = node.link.node
        try:
            value = read_long(data, form, parts, safe=self._is_safe)
            outcome = Outcome("succeeded", value, node=number, attempt=entry.attempt, duration_s=seconds)
        except Exception as error:
            outcome = Outcome("failed", error=error, node=number, attempt=entry.attempt, duration_s=seconds)
        self._settlement.settle([(entry, outcome)])
        self._dispatch.move_on()

    # -- tasks that are not through ------------------------------------------------------------------------------

    def on_output(self, link: Link, header: dict[str, Any], payload: Any) -> None:
        """What a task printed, tagged with it."""
        if not self._context.wants(TaskOutput):
            return
        node = self._board.by_link.get(link)
        entry = node.on_way.get(header["task"]) if node is not None else None
        name, index = (entry.name, entry.number) if entry is not None else ("", -1)
        text = (
            printable(bytes(payload))
            if "dropped" not in header
            else f"[{header['dropped']:,} more bytes are not shown]\n"
        )
        self._context.emit(
            TaskOutput(
                task=name,
                index=index,
                node=link.node,
                stream=header["stream"],
                text=text,
                dropped=int(header.get("dropped", 0)),
            )
        )

    def on_stalled(self, link: Link, story: dict[str, Any]) -> None:
        """A worker has a task and does nothing."""
        node = self._board.by_link.get(link)
        entry = node.on_way.get(story["task"]) if node is not None else None
        if entry is not None:
            self._context.emit(
                TaskStalled(
                    task=entry.name,
                    index=entry.number,
                    node=link.node,
                    pid=int(story["pid"]),
                    idle_s=float(story["for_s"]),
                    is_stopped=bool(story["stopped"]),
                )
            )

    def on_recalled(self, link: Link, tasks: list[int], cancelled: bool) -> None:
        """Tasks a node had not started and gives back."""
        node = self._board.by_link.get(link)
        if node is None:
            return
        with self._board.lock:
            entries = [entry for one in tasks if (entry := node.on_way.pop(one, None)) is not None]
            through = [entry for entry in entries if entry.group.is_cancelled]
            self._board.requeue(entry for entry in entries if not entry.group.is_cancelled)
        self._settlement.deliver([(entry, outcomes.cancelled(entry)) for entry in through])
        self._dispatch.move_on()

    # -- connections that break ----------------------------------------------------------------------------------

    def on_detached(self, link: Link) -> None:
        """The connection broke; nothing is sent until the link is back."""

    def on_out_of_reach(self, link: Link, reason: str) -> None:
        """No new connection can be made so far; it is tried on until the node is lost, and after that."""
        silent = max(0.0, time.monotonic() - link.last_heard)
        self._context.emit(NodeSuspected(node=link.node, silent_s=silent, reason=reason))

    def on_sync(self, link: Link, known: set[int]) -> None:
        """After a reconnect: what the node never heard of is sent again, as the same attempt."""
        node = self._board.by_link.get(link)
        if node is None:
            return
        with self._board.lock:
            fetching = {int(name[1:]) for name in link.fetches}
            missing = [
                entry for one, entry in node.on_way.items() if one not in known and one not in fetching
            ]
            for entry in missing:
                del node.on_way[entry.wire_id]
            self._board.requeue(missing)
            needed = {blob.digest: blob for entry in node.on_way.values() for blob in entry.blobs}
        link.ensure(needed.values())
        self._dispatch.move_on()

    def on_reattached(self, link: Link, seconds: float, *, same_agent: bool) -> None:
        """The node takes tasks again, with as many workers as it has now."""
        node = self._board.by_link.get(link)
        if node is not None:
            node.is_suspected = False
            node.slots, node.workers = link.slots, link.workers
        self._context.emit(NodeReattached(node=link.node, duration_s=seconds))
        self._dispatch.move_on()

    # -- nodes that are lost, or lose something ------------------------------------------------------------------

    def on_lost(self, link: Link, reason: str, *, final: bool) -> None:
        """A node is given up: its tasks are lost and move, unless there is no other node and it may come back."""
        board = self._board
        node = board.by_link.get(link)
        if node is None:
            return
        with board.lock:
            others = [
                one
                for one in board.nodes
                if one is not node and not one.link.is_closed and not one.is_draining
            ]
            move = final or bool(others) or "agent on it died" in reason
            entries = list(node.on_way.values()) if move else []
            if move:
                node.on_way.clear()
            if final:
                board.leave(node)
            alone = final and not board.nodes
        if not board.is_stopped:
            self._context.emit(NodeLost(node=link.node, reason=reason, tasks=len(entries)))
        self._settlement.settle([(entry, outcomes.lost(entry, link, reason)) for entry in entries])
        if alone:
            self._settlement.lose_everything(f"no node is left: {reason}")
        self._dispatch.move_on()

    def on_no_room(self, link: Link, digest: str, error: str) -> None:
        """A node cannot store what a task needs: it gets no more work, and its tasks move if they can."""
        board = self._board
        node = board.by_link.get(link)
        if node is None:
            return
        with board.lock:
            node.is_full = True
            entries = list(node.on_way.values())
            stuck = [entry for entry in entries if any(blob.digest == digest for blob in entry.blobs)]
            for entry in stuck:
                del node.on_way[entry.wire_id]
            left = any(one.is_usable for one in board.nodes)
        self._context.emit(
            WarningRaised(
                message=f"node {link.node}: no room for a value: {error}; it gets no more tasks",
                hint="free space there",
            )
        )
        full = InstanceDiskFull(f"{link.endpoint}: {error}", step="task")
        link.send(wire.CANCEL, {"chunks": sorted({entry.chunk for entry in stuck}), "kill": False})
        if left:
            self._settlement.settle(
                [
                    (entry, Outcome("lost", error=full, node=link.node, attempt=entry.attempt))
                    for entry in stuck
                ]
            )
            self._dispatch.move_on()
        else:
            node.is_full = False
            self._settlement.deliver(
                [
                    (entry, Outcome("failed", error=full, node=link.node, attempt=entry.attempt))
                    for entry in stuck
                ]
            )

    def on_dead_slot(self, link: Link, story: dict[str, Any]) -> None:
        """A slot whose worker cannot be started any more is taken out of the count."""
        node = self._board.by_link.get(link)
        if node is None:
            return
        node.slots = max(0, node.slots - 1)
        self._context.emit(
            WarningRaised(
                message=f"node {link.node}: a worker cannot be started again: {story.get('tail') or story.get('reason')}"
            )
        )
        if node.slots == 0:
            link.drop("no worker can be started on it")


def _learn(found: list[tuple[Entry, int, float, memoryview]]) -> None:
    """Updates the mean duration of each group from tasks that ran to their end."""
    totals: dict[Group, list[float]] = {}
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
