"""The built-in engine: the contract of engines, kept by putting together the other modules of this room."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from skyward.contracts.engine import Engine, EngineContext, Sink
from skyward.model.task import Task
from skyward.remote import wire
from skyward.remote.link import Link
from skyward.remote.logs import save_logs
from skyward.scheduler import outcomes
from skyward.scheduler.board import Board
from skyward.scheduler.choice import freest
from skyward.scheduler.clock import Clock
from skyward.scheduler.dispatch import Dispatch
from skyward.scheduler.entry import Entry, Group
from skyward.scheduler.listener import NodeListener
from skyward.scheduler.settlement import Settlement

CLOSE_S = 8.0
"""How long each farewell may take, seconds."""


class SSHEngine(Engine):
    """Fans tasks out over links."""

    name = "ssh"

    def __init__(self, context: EngineContext) -> None:
        super().__init__(context)
        self._board = Board()
        self._settlement = Settlement(self._board, context)
        self._dispatch = Dispatch(self._board, context, self._settlement)
        self._listener = NodeListener(self._board, context, self._settlement, self._dispatch)
        self._clock = Clock(self._board, context, self._dispatch)

    # -- tasks -----------------------------------------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task], sink: Sink, *, worker: int | None = None) -> object:
        """Queues a group; see `Engine.submit`."""
        if worker is None and len(tasks) == 1:
            return self._submit_one(tasks[0], sink)
        board = self._board
        place = None
        if worker is not None:
            with board.lock:
                place = board.place(worker)
        group = Group(sink, place)
        entries = [Entry(task, group, index) for index, task in enumerate(tasks)]
        with board.lock:
            board.take_on(entries)
        self._dispatch.move_on()
        return group

    def _submit_one(self, task: Task, sink: Sink) -> Group:
        """For a task that comes alone somebody waits, as a rule: it goes past the queue when there is none and a node is idle."""
        board = self._board
        group = Group(sink, None, is_alone=True)
        entry = Entry(task, group, 0)
        with board.lock:
            node = freest(board.nodes) if not board.waiting and not board.is_stopped else None
            if node is None:
                board.take_on([entry])
            else:
                board.put_on_way(node, (entry,))
                if board.is_resting:
                    board.wake.set()
        if node is None:
            self._dispatch.move_on()
        elif bad := self._dispatch.send(node, ((entry,),)):
            self._settlement.settle(bad)
        return group

    def cancel(self, ticket: object, *, running: bool = False) -> None:
        """Reports what has not started as cancelled, and kills what runs if `running`."""
        assert isinstance(ticket, Group)
        ticket.is_killed = ticket.is_killed or running
        ticket.is_cancelled = True
        board = self._board
        with board.lock:
            taken = board.take_waiting(lambda entry: entry.group is ticket)
            per_link: dict[Link, set[int]] = {}
            for node in board.nodes:
                for entry in node.on_way.values():
                    if entry.group is ticket:
                        per_link.setdefault(node.link, set()).add(entry.chunk)
        self._settlement.deliver([(entry, outcomes.cancelled(entry)) for entry in taken])
        for link, chunks in per_link.items():
            link.send(wire.CANCEL, {"chunks": sorted(chunks), "kill": running})

    # -- nodes -----------------------------------------------------------------------------------------------------

    def add_node(self, node: Link) -> None:
        """A configured link joins; its slots are used at once."""
        node.listener = self._listener
        with self._board.lock:
            self._board.join(node)
            self._clock.start()
        self._dispatch.move_on()

    def drain(self, node: Link) -> None:
        """A node gets nothing new; what it has not started moves to others, what runs there may end."""
        with self._board.lock:
            found = self._board.by_link.get(node)
            if found is None or found.is_draining:
                return
            found.is_draining = True
            count = len(found.on_way)
        if count:
            node.send(wire.RECALL, {"count": count})
        self._dispatch.move_on()

    def abandon(self, node: int) -> None:
        """No machine takes the place of a lost node any more: what is pinned to it is lost, too."""
        board = self._board
        with board.lock:
            if any(one.link.node == node and not one.link.is_closed for one in board.nodes):
                return
            board.abandoned.add(node)
        self._settlement.lose_abandoned()

    @property
    def workers(self) -> int:
        return sum(workers for _, workers in self._board.ranks())

    @property
    def slots(self) -> int:
        return sum(node.slots for node in self._board.nodes if not node.is_draining)

    @property
    def executions(self) -> int:
        """Attempts sent so far, over all tasks."""
        return self._board.executions

    # -- the end ---------------------------------------------------------------------------------------------------

    def save_logs(
        self, directory: Path, *, room: int, deadline_s: float, redact: Callable[[str], str] = str
    ) -> list[Path]:
        """What workers have printed, out of every node that can be reached; see `Engine.save_logs`."""
        with self._board.lock:
            links = [node.link for node in self._board.nodes if node.link.is_up]
        return save_logs(links, directory, room=room, deadline_s=deadline_s, redact=redact)

    def stop(self) -> None:
        """Ends every node at once; what is unfinished is reported as cancelled."""
        board = self._board
        with board.lock:
            if board.is_stopped:
                return
            board.is_stopped = True
            self._clock.stop()
            unfinished = board.take_waiting(lambda _: True)
            for node in board.nodes:
                unfinished += node.on_way.values()
                node.on_way.clear()
            links = [node.link for node in board.nodes]
        threads = [threading.Thread(target=link.close, name="skyward-close", daemon=True) for link in links]
        for thread in threads:
            thread.start()
        self._settlement.deliver([(entry, outcomes.cancelled(entry)) for entry in unfinished])
        for thread in threads:
            thread.join(CLOSE_S)
