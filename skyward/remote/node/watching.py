"""What an agent looks at from time to time: workers that hang, the lease, notices of the cloud. Any Python >= 3.8."""

from __future__ import annotations

import os
import sys
import time

from skyward.remote import wire
from skyward.remote.node.facts import activity_of
from skyward.remote.node.lean import from_json

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

    from skyward.remote.node.line import Line
    from skyward.remote.node.output import Output
    from skyward.remote.node.slot import Slot

STALL_LOOK_S = 1.0
"""How often it is looked whether workers do anything, seconds."""
STOPPED_S = 3.0
"""A worker that has been stopped by a signal this long is told of, seconds."""
NOTICE_S = 1.0
"""How often it is looked whether the cloud has announced the end of this machine, seconds."""


class Activity:
    """What a busy worker was seen to have done so far, since when it is no more, and when that is to be told."""

    __slots__ = ("is_stopped", "seen", "since", "tell_at")

    def __init__(self, seen: Tuple[int, int, int, int], since: float, tell_at: float) -> None:
        self.seen = seen
        self.since = since
        self.tell_at = tell_at
        self.is_stopped = False


class Stalls:
    """Tells of workers that run a task and do nothing at all: nobody else can see that they hang."""

    def __init__(self, stalled_s: float, slots: List[Slot], output: Output, line: Line) -> None:
        self._stalled_s = stalled_s
        self._slots = slots
        self._output = output
        self._line = line
        self._activities: Dict[int, Activity] = {}
        self._looked_at = time.monotonic()

    def look(self, now: float) -> None:
        if now - self._looked_at < STALL_LOOK_S:
            return
        self._looked_at = now
        busy = {slot.index: slot for slot in self._slots if slot.state == "busy"}
        self._activities = {index: one for index, one in self._activities.items() if index in busy}
        for slot in busy.values():
            self._look_at(slot, now)

    def _look_at(self, slot: Slot, now: float) -> None:
        task, (state, ticks) = slot.next, activity_of(slot.pid)
        if task is None or not state:
            self._activities.pop(slot.index, None)
            return
        seen = (task, slot.pid, ticks, self._output.count_of(task))
        activity = self._activities.get(slot.index)
        if activity is None or activity.seen != seen:
            activity = self._activities[slot.index] = Activity(seen, now, now + self._stalled_s)
        is_stopped = state in "Tt"
        if is_stopped and not activity.is_stopped:
            activity.is_stopped, activity.tell_at = True, now + STOPPED_S
        if now < activity.tell_at:
            return
        idle = now - activity.since
        activity.tell_at = now + max(2 * idle, self._stalled_s)
        self._line.say(
            wire.NOTICE,
            {"what": "stalled", "task": task, "slot": slot.index, "pid": slot.pid, "for_s": idle, "stopped": is_stopped},
        )  # fmt: skip


class Lease:
    """Tells the switch that ends this machine that the client has been heard."""

    def __init__(self, lease: Dict[str, Any], identity: str) -> None:
        self.path: Optional[str] = lease.get("path")
        self._lease = lease
        self._identity = identity.encode()
        self._renewed_at = time.monotonic()
        self._renewals = 0

    def look(self, heard_at: float) -> None:
        """Renews the lease if the client has been heard since it was due."""
        if self._lease and heard_at > self._renewed_at + self._lease["every_s"]:
            self._renewed_at = heard_at
            self._renew(self._lease["path"])

    def _renew(self, path: str) -> None:
        """What counts is that the text changes."""
        self._renewals += 1
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                # Always as long, and never truncated first: so it needs no room on a file system that is full.
                os.write(file, b"%s %012d\n" % (self._identity, self._renewals))
            finally:
                os.close(file)
        except OSError as error:
            print("lease: %s" % error, file=sys.stderr, flush=True)


class Notices:
    """Passes on what the cloud has announced for this machine, once to each client."""

    def __init__(self, path: Optional[str], line: Line) -> None:
        self._path = path
        self._line = line
        self._looked_at = 0.0
        self._told = b""

    def forget(self) -> None:
        """There is a client that has been told nothing."""
        self._told = b""

    def look(self, now: float) -> None:
        if not self._path or now - self._looked_at < NOTICE_S:
            return
        self._looked_at = now
        try:
            with open(self._path, "rb") as file:
                text = file.read(65536)
            notice = from_json(text.decode())
        except (OSError, ValueError):
            return
        if self._line.client is not None and text != self._told and isinstance(notice, dict):
            self._told = text
            self._line.say(wire.NOTICE, {"what": "interruption", "notice": notice})
