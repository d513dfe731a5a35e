"""The workers of this instance: started, heard, buried when they die, started anew. Any Python >= 3.8."""

from __future__ import annotations

import time

from skyward.remote import wire
from skyward.remote.node.lean import to_json
from skyward.remote.node.process import end_orphans
from skyward.remote.node.slot import Slot

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, List, Sequence, Tuple

    from skyward.remote.node.descriptors import Poller
    from skyward.remote.node.line import Line
    from skyward.remote.node.output import Output
    from skyward.remote.node.queue import Queue

MAX_START_FAILURES = 3


class Crew:
    """Starts a process for every slot, passes on what those say, and tells which task died with one."""

    def __init__(
        self, slots: List[Slot], *, poller: Poller, queue: Queue, output: Output, line: Line
    ) -> None:
        self.slots = slots
        self.is_ready = False
        self.is_ending = False
        """Whether those who die are not replaced any more."""
        self._poller = poller
        self._queue = queue
        self._output = output
        self._line = line

    def add(self, worker: int, spawn: Dict[str, Any]) -> None:
        """One more slot, for this worker of the instance."""
        slot = Slot(len(self.slots), worker, spawn, self._watch, self._poller.forget)
        self.slots.append(slot)
        self._spawn(slot)

    def _watch(self, what: Any, slot: Slot, writing: bool = False) -> None:
        self._poller.watch(what, slot, writing=writing)

    def _spawn(self, slot: Slot) -> None:
        try:
            slot.spawn()
        except (OSError, ValueError) as error:
            slot.failures = MAX_START_FAILURES
            slot.tail = str(error).encode()
            self._start_failed(slot, {"exit": None, "signal": None, "reason": str(error)})

    # -- what workers say --

    def on_slot(self, slot: Slot, what: Any, is_readable: bool, is_writable: bool) -> None:
        if what is not slot.commands:
            self._output.take(slot, slot.current or 0, "err", slot.read_output())
            return
        if is_writable:
            slot.send()
        if is_readable and not self._hear(slot):
            self._poller.forget(slot.commands)  # it has closed its end: its death follows

    def _hear(self, slot: Slot) -> bool:
        """What the worker of a slot says; False when it will say nothing more."""
        said = slot.read_commands()
        if said is None:
            return False
        letters, record = said
        if b"r" in letters:
            slot.state, slot.failures = "idle", 0
            self._check_ready()
        if b"n" in letters or b"d" in letters:
            self._collect(slot)
        if record:
            self._pass_on(slot, ((-1, 0, record),))
        if record or b"d" in letters:
            slot.chunk, slot.state = None, "idle"
        if self._queue.chunks and slot.state == "idle":
            self._queue.feed()
        return True

    def _check_ready(self) -> None:
        if not self.is_ready and all(slot.state not in ("starting", "dead") for slot in self.slots):
            self.is_ready = True
            self.say_ready()

    def say_ready(self) -> None:
        self._line.say(wire.READY, {"workers": [[slot.index, slot.worker, slot.pid] for slot in self.slots]})

    def _collect(self, slot: Slot) -> None:
        """Passes on the records a worker has written; what it printed goes its own way."""
        printed = slot.read_output()
        if printed:
            self._output.take(slot, slot.current or 0, "err", printed)
        self._pass_on(slot, slot.read_records())

    def _pass_on(self, slot: Slot, found: Sequence[Tuple[int, int, bytes]]) -> None:
        """What `Slot.split` found goes to the client."""
        outcomes = []
        for kind, task, data in found:
            if kind == wire.RECORD_OUT or kind == wire.RECORD_ERR:
                self._output.take(slot, task, "out" if kind == wire.RECORD_OUT else "err", data)
                continue
            outcomes.append(data)
            if self._output.sent:
                for ended, what, _, _ in wire.read_records(data):
                    if what != wire.RECORD_COMING:
                        self._output.end_of(ended)
            slot.tail = b""  # the last words kept are those of the task that runs
        if outcomes:
            self._line.send_results(b"".join(outcomes) if len(outcomes) > 1 else outcomes[0])

    # -- life and death --

    def tick(self, now: float) -> None:
        """Enforces time-outs, and collects from those that are busy for long."""
        for slot in self.slots:
            if slot.state == "dead":
                continue
            slot.tick(now)
            if slot.state == "busy":
                self._collect(slot)

    def bury_the_dead(self) -> None:
        for slot in self.slots:
            story = slot.poll_death()
            if story is not None:
                self._on_death(slot, story)

    def _on_death(self, slot: Slot, story: Dict[str, Any]) -> None:
        """Tells which task died with its worker, gives the others to somebody else, starts a new worker."""
        was_starting = slot.state == "starting"
        record = slot.last_record()
        self._collect(slot)
        if record:
            self._pass_on(slot, slot.split(record))
        victim, rest = slot.split_at_death()
        slot.bury()
        end_orphans({one.pid for one in self.slots if one.state != "dead"})
        slot.chunk = None
        if rest is not None:
            self._queue.put_back(rest)
        story["tail"] = slot.tail.decode("utf-8", "replace")
        if victim is not None:
            self._output.end_of(victim)
            self._send_deaths([victim], story)
        slot.failures = slot.failures + 1 if was_starting else 0
        if slot.failures >= MAX_START_FAILURES or (was_starting and not self.is_ready):
            self._start_failed(slot, story)
        elif not self.is_ending:
            self._spawn(slot)

    def _start_failed(self, slot: Slot, story: Dict[str, Any]) -> None:
        slot.state = "dead"
        story = dict(story, tail=slot.tail.decode("utf-8", "replace"))
        self._line.say(
            wire.NOTICE, dict(story, what="worker-cannot-start", slot=slot.index, python=slot.python)
        )
        if all(one.state == "dead" for one in self.slots):
            self._send_deaths(self._queue.clear(), dict(story, reason="worker-cannot-start"))

    def _send_deaths(self, tasks: List[int], story: Dict[str, Any]) -> None:
        body = to_json(story).encode()
        for task in tasks:
            self._line.send_results(wire.RECORD.pack(len(body), task, wire.RECORD_DEATH, 0.0) + body)

    def end(self, deadline: float) -> None:
        """Ends every worker and what those have left behind; whoever takes longer is left to the kernel."""
        for slot in self.slots:
            if slot.state != "dead":
                slot.end("shutdown", grace=False)
        for slot in self.slots:
            while slot.state != "dead" and time.monotonic() < deadline:
                if slot.poll_death() is not None:
                    slot.bury()
                else:
                    time.sleep(0.002)
        end_orphans(set())
