"""What time does: heartbeats, suspicion and the end of patience, and work that is better done elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from skyward.contracts.engine import EngineContext
from skyward.model.event import NodeSuspected
from skyward.remote import wire
from skyward.remote.link import SUSPECT_S
from skyward.scheduler.board import Board
from skyward.scheduler.dispatch import Dispatch
from skyward.scheduler.node import Node, load

HEARTBEAT_S = 1.0
"""How often a node that has something to do is asked for a sign of life, seconds."""
IDLE_HEARTBEAT_S = 1.9
"""The same for a node that has nothing to do, looked at every half second: a hundred of them cost less than 1 % of a
core, and an answer still comes before anybody is suspected."""
CLOCK_S = 0.05
"""Between two looks at everything, while there is work, seconds."""
RECALL_AFTER_S = 0.1
"""How long tasks are on their way to a node before it may be asked to give some back, seconds."""
PAUSED_S = 2.0
"""A clock that comes so late was stopped itself (a laptop that slept): silence heard then proves nothing, seconds."""


class Clock:
    """The only thread of an engine's own. It looks at every node, and rests while there is nothing to do."""

    def __init__(self, board: Board, context: EngineContext, dispatch: Dispatch) -> None:
        self._board = board
        self._context = context
        self._dispatch = dispatch
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Once is enough; call with the board's lock held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._tick_forever, name="skyward-clock", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Asks for the end, and does not wait for it."""
        self._stop.set()
        self._board.wake.set()

    def _tick_forever(self) -> None:
        before = time.monotonic()
        while not self._stop.is_set():
            self._rest()
            now = time.monotonic()
            paused, before = now - before > PAUSED_S, now
            for node in list(self._board.nodes):
                if paused:
                    node.link.last_heard = now
                self._watch(node, now)
            self._balance(now)
            if self._board.waiting:
                self._dispatch.move_on()

    def _rest(self) -> None:
        """Until the next look at everything: soon, or when somebody brings work."""
        board = self._board
        # Said before it is looked, and asked after work was brought: so none is overlooked.
        board.is_resting = True
        if board.waiting or any(node.on_way for node in board.nodes):
            board.is_resting = False
            self._stop.wait(CLOCK_S)
        else:
            board.wake.wait(HEARTBEAT_S / 2)
            board.is_resting = False
        board.wake.clear()

    def _watch(self, node: Node, now: float) -> None:
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
            self._context.emit(NodeSuspected(node=link.node, silent_s=silent))
        elif silent < SUSPECT_S:
            node.is_suspected = False

    def _balance(self, now: float) -> None:
        """Takes unstarted tasks back from a busy node when another one has nothing to do."""
        board = self._board
        if board.waiting:
            return
        with board.lock:
            surplus = _surplus(board.nodes, now)
            if surplus is None:
                return
            node, count = surplus
            node.recalled_at = now
        node.link.send(wire.RECALL, {"count": count})


def _surplus(nodes: Sequence[Node], now: float) -> tuple[Node, int] | None:
    """The node that should give back tasks, and how many; None while nobody has too few, or nobody too many."""
    idle = [node for node in nodes if node.is_usable and len(node.on_way) < node.slots]
    busy = [
        node for node in nodes
        if node.link.is_up and len(node.on_way) > node.slots and now - node.recalled_at > RECALL_AFTER_S
        and now - min(entry.sent_at for entry in node.on_way.values()) > RECALL_AFTER_S
    ]  # fmt: skip
    if not idle or not busy:
        return None
    node = max(busy, key=load)
    free = sum(one.slots - len(one.on_way) for one in idle)
    spare = len(node.on_way) - node.slots
    return node, max(1, min(spare, max(free, spare // 2)))
