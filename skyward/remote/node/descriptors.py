"""Descriptors: who of many has something to say, and what is done to a single one. Any Python >= 3.8."""

from __future__ import annotations

import fcntl
import math
import os
import select

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, List, Tuple

PIPE_SIZE = 1 << 20
_IN, _OUT = select.POLLIN, select.POLLOUT


class Poller:
    """Who has something to say, by descriptor. `selectors` takes five times as long for the same answer."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: Dict[int, Tuple[Any, Any, int]] = {}

    def watch(self, what: Any, whose: Any, *, reading: bool = True, writing: bool = False) -> None:
        """From now on `wait` tells when `what` (a descriptor, or something with one) can be read or written."""
        number = what if isinstance(what, int) else what.fileno()
        events = (_IN if reading else 0) | (_OUT if writing else 0)
        known = self._watched.get(number)
        if known is None or known[2] != events:
            self._poll.register(number, events)
        self._watched[number] = (what, whose, events)

    def forget(self, what: Any) -> None:
        number = what if isinstance(what, int) else what.fileno()
        if self._watched.pop(number, None) is not None:
            self._poll.unregister(number)

    def wait(self, seconds: float) -> List[Tuple[Any, Any, bool, bool]]:
        """(what, whose, can it be read, can it be written); one whose other end is gone can be both. What was watched
        last comes first: it was looked at last, so what a worker prints is there when its later word is."""
        found = []
        for number, mask in self._poll.poll(math.ceil(seconds * 1000)):
            watched = self._watched.get(number)
            if watched is not None:
                found.append((watched[0], watched[1], mask & ~_OUT != 0, mask & ~_IN != 0))
        found.reverse()
        return found


def widen(descriptor: int) -> None:
    """Makes room for more in a pipe; whatever else it is, and where the kernel does not, smaller ones only mean more wake-ups."""
    try:
        fcntl.fcntl(descriptor, 1031, PIPE_SIZE)  # F_SETPIPE_SZ
    except OSError:
        pass


def drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass
