"""A node as the scheduler sees it: its link, what is on its way there, and whether it gets more."""

from __future__ import annotations

from skyward.remote.link import Link
from skyward.scheduler.entry import Entry


class Node:
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
        self.on_way: dict[int, Entry] = {}
        """By `wire_id`: what was sent, or is about to be, and has no outcome yet."""
        self.is_suspected = False
        self.is_full = False
        self.is_draining = False
        self.recalled_at = 0.0

    @property
    def is_usable(self) -> bool:
        is_held_back = self.is_suspected or self.is_full or self.is_draining
        return self.link.is_up and not is_held_back and self.slots > 0


def load(node: Node) -> float:
    return len(node.on_way) / max(1, node.slots)
