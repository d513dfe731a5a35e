"""Wakes others when a thread is about to wait itself: at once they would find the interpreter taken, and sleep again.

A thread that hears what machines say declares it by `hear`, and calls `lull` before each wait for more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

Call = Callable[[], object]


class _Thread(threading.local):
    late: list[Call] | None = None


_THREAD = _Thread()


def hear() -> list[Call]:
    """From now on this thread makes calls late; gives the list that it hands to `lull`."""
    late: list[Call] = []
    _THREAD.late = late
    return late


def lull(late: list[Call]) -> None:
    """Makes the calls that were put off."""
    calls = late[:]
    late.clear()
    for call in calls:
        call()


def before_waiting(call: Call) -> None:
    """Makes a short call that cannot fail: when this thread is about to wait, if it is one that hears, else at once."""
    late = _THREAD.late
    if late is None:
        call()
    else:
        late.append(call)
