"""What workers print: live as far as there is room for it, and in logs until the run ends. Any Python >= 3.8."""

from __future__ import annotations

import os

from skyward.remote import wire
from skyward.remote.node.files import make_directory

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Dict

    from skyward.remote.node.line import Line
    from skyward.remote.node.slot import Slot

OUTPUT_CAP = 1 << 20
"""How much of one task's output is sent live, bytes; all of it is in the log."""
LOG_CAP = 1 << 30
"""How much of what tasks print is kept until the run ends, bytes."""


class Output:
    """Keeps what is printed, sends it, and counts what could not be sent."""

    def __init__(self, run_directory: str, line: Line) -> None:
        self.logs = make_directory(run_directory, "logs")
        self.sent: Dict[int, int] = {}
        """Bytes sent of each task that has printed and has no outcome yet."""
        self._unsent: Dict[int, int] = {}
        self._kept = 0
        self._line = line

    def take(self, slot: Slot, task: int, stream: str, data: bytes) -> None:
        if not data:
            return
        slot.keep_tail(data)
        self._keep(slot, data)
        sent = self.sent.get(task, 0)
        client = self._line.client
        is_heard = client is not None and client.out_size < 4 * OUTPUT_CAP
        room = max(0, OUTPUT_CAP - sent) if is_heard else 0
        if room:
            self._line.say(wire.OUTPUT, {"task": task, "slot": slot.index, "stream": stream}, data[:room])
        self.sent[task] = sent + min(room, len(data))
        if len(data) > room:
            self._unsent[task] = self._unsent.get(task, 0) + len(data) - room

    def _keep(self, slot: Slot, data: bytes) -> None:
        if self._kept >= LOG_CAP:
            return
        self._kept += len(data)
        try:
            with open(os.path.join(self.logs, "worker-%d.log" % slot.index), "ab") as file:
                file.write(data)
        except OSError:
            self._kept = LOG_CAP

    def end_of(self, task: int) -> None:
        """Tells how much of a task's output was not sent, now that it has its outcome."""
        if self.sent:
            self.sent.pop(task, None)
        count = self._unsent.pop(task, 0) if self._unsent else 0
        if count:
            self._line.say(wire.OUTPUT, {"task": task, "slot": -1, "stream": "err", "dropped": count})

    def count_of(self, task: int) -> int:
        """How much a task has printed so far, bytes."""
        return self.sent.get(task, 0) + self._unsent.get(task, 0)
