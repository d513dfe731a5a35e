"""Which tasks go where: how much a node gets, and how much of it at once."""

from __future__ import annotations

from collections import deque

from skyward.scheduler.board import Board
from skyward.scheduler.entry import Entry, Group
from skyward.scheduler.node import Node, load

CHUNK_S = 0.008
"""Quick tasks are sent in chunks that take about this long, seconds."""
QUEUED_S = 0.03
"""Work that waits on a node beyond what runs there, seconds per slot; a round trip is added."""
MAX_CHUNK = 2000
MAX_QUEUED = 6000
"""Tasks on their way to one slot, at most."""

Chosen = dict[int, tuple[Node, list[list[Entry]]]]
"""Nodes and the chunks they get, each of which one worker runs in a row; by the `id` of the node."""


def freest(nodes: list[Node]) -> Node | None:
    """A node that has nothing to do, or would start one more task when it is through with what it has."""
    best, least = None, 2.0
    for node in nodes:
        if node.is_usable and (fill := len(node.on_way) / node.slots) < least:
            best, least = node, fill
    return best


def choose(board: Board) -> list[tuple[Node, list[list[Entry]]]]:
    """Puts waiting tasks on their way, as many as there is room for now, and says which. Call with the board's lock held."""
    nodes = [node for node in board.nodes if node.is_usable]
    chosen: Chosen = {}
    if board.pinned:
        _choose_pinned(board, chosen)
    waiting = board.waiting
    while waiting and nodes:
        entry = waiting[0]
        if entry.group.is_cancelled:
            break
        node = nodes[0]
        if len(nodes) > 1:
            node = min((one for one in nodes if one.link is not entry.avoid), key=load)
        room = _room(node, entry.group)
        if room <= 0:
            break
        if entry.group.mean_s is None:
            taken = [waiting.popleft()]
        else:
            taken = _take_alike(waiting, min(room, _chunk_size(entry.group.mean_s, len(waiting), nodes)))
        _assign(board, chosen, node, taken)
    return list(chosen.values())


def _choose_pinned(board: Board, chosen: Chosen) -> None:
    for place, queue in list(board.pinned.items()):
        node = next((one for one in board.nodes if one.link.node == place[0] and one.is_usable), None)
        if node is None:
            continue
        while queue:
            _assign(board, chosen, node, [queue.popleft()])
        del board.pinned[place]


def _assign(board: Board, chosen: Chosen, node: Node, entries: list[Entry]) -> None:
    board.put_on_way(node, entries)
    chosen.setdefault(id(node), (node, []))[1].append(entries)


def _room(node: Node, group: Group) -> int:
    """How many more tasks of a group may be on their way to a node."""
    depth, mean = 2.0, group.mean_s
    if mean is not None:
        depth = max(2.0, 1 + (QUEUED_S + 2 * node.link.round_trip_s) / max(mean, 1e-6))
    return min(int(depth * node.slots), MAX_QUEUED * node.slots) - len(node.on_way)


def _chunk_size(mean_s: float, waiting: int, nodes: list[Node]) -> int:
    fair = -(-waiting // max(1, 2 * sum(node.slots for node in nodes)))
    return max(1, min(int(CHUNK_S / max(mean_s, 1e-6)), fair, MAX_CHUNK))


def _take_alike(waiting: deque[Entry], size: int) -> list[Entry]:
    """Up to `size` tasks from the front that one chunk can hold: one function, one group, one time-out."""
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
