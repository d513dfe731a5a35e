"""A node whose connection broke: looked for until it is found again, told of on the way, and given up in the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from skyward.errors import BootstrapError, ConnectionLost, TransportError
from skyward.remote.link.answers import Answers
from skyward.remote.link.blobs import Blobs
from skyward.remote.link.fetching import Fetching
from skyward.remote.link.hearing import NONSENSE, Hearing
from skyward.remote.link.line import Line
from skyward.remote.link.opening import Opening
from skyward.remote.probe import Probe
from skyward.remote.text import printable

if TYPE_CHECKING:
    from skyward.remote.link.link import Link
    from skyward.remote.link.listener import Listener

MAX_BREAKS = 5
"""So many broken connections in a short while, without one result in between, are the end."""
AFTER_LINGER_S = 5.0
"""How much longer than its agent lingers a node is looked for, seconds."""


class Finding:
    """Finds one node again, as often as it is lost, and lets what was on its way go on."""

    def __init__(
        self,
        link: Link,
        line: Line,
        answers: Answers,
        hearing: Hearing,
        opening: Opening,
        blobs: Blobs,
        fetching: Fetching,
        *,
        linger_s: float,
        on_unreachable: Callable[[], None],
        is_awaited: Callable[[], bool],
    ) -> None:
        self._link = link
        self._line = line
        self._answers = answers
        self._hearing = hearing
        self._opening = opening
        self._blobs = blobs
        self._fetching = fetching
        self._linger_s = linger_s
        self._on_unreachable = on_unreachable
        self._is_awaited = is_awaited
        self._reason = ""
        self._breaks: list[float] = []

    def drop(self, reason: str) -> None:
        """Ends the connection; when its end is heard a new one is looked for."""
        self._reason = reason
        self._line.hang_up()

    def reattach(self) -> None:
        """Connects again until that works or the agent must be gone; tells the listener what it finds."""
        link, listener = self._link, self._link.listener
        self._fetching.end_logs()
        started = time.monotonic()
        was_up, link.is_up = link.is_up, False
        if listener is None or not was_up:
            self._answers.fail(ConnectionLost(f"{link.endpoint}: the connection broke"))
            return
        listener.on_detached(link)
        reason, self._reason = self._reason or "the connection broke", ""
        if self._breaks_too_often(started):
            self.give_up(f"{reason}, and again and again without a result in between")
            return
        probe, reason = self._look_for(listener, reason, started)
        if link.is_closed:
            return
        if probe is None:
            self.give_up(reason)
        else:
            self._resume(listener, probe, started)

    def _breaks_too_often(self, now: float) -> bool:
        if self._hearing.has_results:
            self._hearing.has_results = False
            self._breaks.clear()
        self._breaks = [at for at in self._breaks if now - at < max(30.0, 8 * self._link.lost_s)]
        self._breaks.append(now)
        return len(self._breaks) > MAX_BREAKS

    def _look_for(self, listener: Listener, reason: str, started: float) -> tuple[Probe | None, str]:
        """The machine as the agent that was found sees it, None if there is none any more; and what was in the way last."""
        link = self._link
        is_lost = is_told = False
        silent_since = min(link.last_heard, started)
        end = started + self._linger_s + AFTER_LINGER_S
        while not link.is_closed and (time.monotonic() < end or self._is_awaited()):
            if not is_lost and time.monotonic() - silent_since >= link.lost_s:
                is_lost = True
                listener.on_lost(link, reason, final=False)
            limit = silent_since + link.lost_s if not is_lost else end
            try:
                now = time.monotonic()
                return self._opening.attach_once(max(now + 1.0, min(limit, now + 5))), reason
            except (TransportError, BootstrapError) as error:
                reason = error.message  # a refused key too: noise on the line looks like that
                self._line.hang_up()
            if not is_told and not is_lost:
                is_told = True
                listener.on_out_of_reach(link, reason)
            self._on_unreachable()
            time.sleep(0.2)
        return None, reason

    def _resume(self, listener: Listener, probe: Probe, started: float) -> None:
        """Takes up where it was, or starts anew where the agent has."""
        link = self._link
        is_same = probe.agent == link.probe.agent
        self._blobs.find(probe.have)
        link.probe = probe
        if is_same:
            try:
                known = set((self._answers.sync or {})["known"])
            except NONSENSE as error:
                self.give_up(f"what it says of the tasks it knows makes no sense: {error}")
                return
            # Work may be sent only after this: what left earlier would be missing from what the agent says it knows.
            listener.on_sync(link, known)
            link.is_up = True
            self._fetching.go_on()
        elif not self._start_anew(listener):
            return
        link.last_heard = time.monotonic()
        listener.on_reattached(link, time.monotonic() - started, same_agent=is_same)

    def _start_anew(self, listener: Listener) -> bool:
        """What the agent before knew is lost. Whether this one has workers."""
        link = self._link
        self._hearing.seen = 0
        self._fetching.values.clear()
        said = printable(link.probe.predecessor.encode("utf-8", "backslashreplace"))
        listener.on_lost(link, "the agent on it died" + (f": {said}" if said else ""), final=False)
        try:
            assert link.settings is not None
            link.configure(link.settings)
        except (BootstrapError, TransportError) as error:
            self.give_up(error.message)
            return False
        return True

    def give_up(self, reason: str) -> None:
        """For good: the listener is told that its work moves."""
        link = self._link
        self._fetching.end_logs()
        link.is_up = False
        link.is_closed = True
        self._line.hang_up()
        if link.listener is not None:
            link.listener.on_lost(link, reason, final=True)
