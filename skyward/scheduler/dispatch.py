"""Waiting tasks -> frames to nodes: what goes out.

There is no thread here: whoever submits, whoever hears of a free slot, and the clock call `move_on`.
"""

from __future__ import annotations

from collections.abc import Sequence

from skyward.contracts.engine import EngineContext
from skyward.errors import SerializationError
from skyward.model.event import TaskStarted
from skyward.remote import wire
from skyward.remote.codec import Blob, EncodedCall, Identities, encode_call, encode_rows
from skyward.scheduler import outcomes
from skyward.scheduler.board import Board
from skyward.scheduler.choice import choose
from skyward.scheduler.chunk import head_and_calls, heads_of_rows
from skyward.scheduler.entry import Entry
from skyward.scheduler.functions import Functions
from skyward.scheduler.node import Node
from skyward.scheduler.outcomes import Resolution
from skyward.scheduler.settlement import Settlement

MAX_CHUNK_BYTES = 4 << 20
"""Chunks for one node share a frame until it is longer than this, bytes."""


class Dispatch:
    """Encodes tasks and sends them. Call it without the lock."""

    def __init__(self, board: Board, context: EngineContext, settlement: Settlement) -> None:
        self._board = board
        self._context = context
        self._settlement = settlement
        self._functions = Functions(context.importable)

    def move_on(self) -> None:
        """Sends work while there is any and room for it."""
        board = self._board
        while board.waiting or board.pinned:
            with board.lock:
                batches = choose(board)
            if not batches:
                return
            resolutions: list[Resolution] = []
            for node, chunks in batches:
                resolutions += self.send(node, chunks)
            if resolutions:
                self._settlement.settle(resolutions)

    def send(self, node: Node, chunks: Sequence[Sequence[Entry]]) -> list[Resolution]:
        """Encodes and sends chunks that are on their way to one node; gives back the tasks that cannot travel."""
        headers: list[bytes] = []
        payloads: list[bytes] = []
        bad: list[Resolution] = []
        size = 0
        is_told = self._context.wants(TaskStarted)
        for entries in chunks:
            header, payload, stuck = self._encode(node, entries)
            bad += stuck
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
        return bad

    def _tell_started(self, node: Node, entries: Sequence[Entry]) -> None:
        """Told before they are sent, so that no task ends before it has begun."""
        number = node.link.node
        for entry in entries:
            self._context.emit(
                TaskStarted(
                    task=entry.name, index=entry.number, attempt=entry.attempt, node=number, worker=-1
                )
            )

    def _encode(self, node: Node, entries: Sequence[Entry]) -> tuple[bytes, bytes, Sequence[Resolution]]:
        """The header and the payload of a chunk, nothing if none of it can travel, and what cannot."""
        first = entries[0]
        group = first.group
        function = group.functions.get(id(first.task.fn)) or self._functions.of(group, first.task.fn)
        if isinstance(function, SerializationError):
            return b"", b"", [(one, outcomes.failed(function)) for one in self._board.take_off(node, entries)]
        limit = first.task.options.timeout_s
        timeout = limit if limit is not None else self._context.timeout_s
        worker = None if group.place is None else group.place[1]
        bad: list[Resolution] = []
        rows = encode_rows([entry.task for entry in entries])
        if rows is not None:
            blobs: tuple[Blob, ...] = (function,)
            header, head = heads_of_rows(function.digest, timeout, worker)
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
                    bad += [(one, outcomes.failed(error)) for one in self._board.take_off(node, [entry])]
            if not calls:
                return b"", b"", bad
            entries = [entry for entry in entries if entry.wire_id in calls]
            needs = {blob.digest: blob for call in calls.values() for blob in (function, *call.blobs)}
            blobs = tuple(needs.values())
            header, body = head_and_calls(calls, list(needs), timeout, worker, bool(bad))
        for entry in entries:
            entry.blobs = blobs
        if node.link.ensure(blobs):
            self._keep_budget(node)
        start = wire.CHUNK_HEAD.pack(first.chunk, entries[0].wire_id, len(entries), len(body))
        return header, start + body, bad

    def _keep_budget(self, node: Node) -> None:
        if not node.link.has_many_blobs:
            return
        with self._board.lock:
            in_use = {blob.digest for entry in node.on_way.values() for blob in entry.blobs}
        node.link.forget(node.link.over_budget(in_use))
