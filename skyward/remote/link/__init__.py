"""One node as its client sees it: a connection, the agent behind it, and what is on its way.

A link survives a dropped connection: it connects again, meets the same agent, and takes up where it was. What it hears
goes to its `listener` (the scheduler), in the thread of the connection: one thread less to wake for every answer. That
thread may not wait for the line to take what it sends, so another one sends it.

`link` is the whole, put together from what has modules of its own: an agent is met by `opening`, and met again by
`finding`; frames go out on `line`, long ones for tasks by `blobs`; what comes is understood by `hearing`, which leaves
what somebody waits for to `answers`, and long values to `fetching`.
"""

from __future__ import annotations

from skyward.remote.link.link import LINGER_S, SUSPECT_S, Link
from skyward.remote.link.listener import Listener
from skyward.remote.link.opening import WorkerSettings

__all__ = ["LINGER_S", "SUSPECT_S", "Link", "Listener", "WorkerSettings"]
