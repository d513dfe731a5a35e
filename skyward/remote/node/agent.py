"""Our process on an instance: keeps workers busy and outlives a dropped connection.

Sent over standard input to any python3 >= 3.8 (`entry` is what that runs); standard library only; no root; writes below
one directory. It answers frames (`skyward.remote.wire`), keeps every result until the client has confirmed it, and ends
by itself when nobody has been attached for `linger_s` seconds.

This module is the loop, and puts together who does the work: the way to the client (`line`), chunks (`queue`), workers
(`crew`, of `slot`s), what those print (`output`), long values (`values`), what it takes before the first task
(`configuration`), and what is looked at now and then (`watching`).
"""

from __future__ import annotations

import math
import os
import time

from skyward.remote import wire
from skyward.remote.node.configuration import Archives, Configuration
from skyward.remote.node.crew import Crew
from skyward.remote.node.descriptors import Poller, drain
from skyward.remote.node.facts import BOOTED, is_armed, probe
from skyward.remote.node.files import remove
from skyward.remote.node.lean import signal
from skyward.remote.node.leftovers import prune
from skyward.remote.node.line import Line
from skyward.remote.node.output import Output
from skyward.remote.node.process import adopt_orphans
from skyward.remote.node.queue import Queue
from skyward.remote.node.slot import Slot
from skyward.remote.node.values import Values
from skyward.remote.node.watching import Lease, Notices, Stalls

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, List

    from skyward.remote.node.lean import socket

TICK_S = 0.05
STARVED_S = 0.002
"""How often a value that is still being written is looked at, seconds."""
SHUTDOWN_S = 2.0
"""How long workers may take to die, and the last words to be heard, seconds."""


class Agent:
    """The loop of one session on one instance."""

    def __init__(
        self, settings: Dict[str, Any], directory: str, run_directory: str, listener: socket.socket
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._run_directory = run_directory
        self._listener = listener
        self._identity = os.urandom(8).hex()
        self._linger_s = float(settings.get("linger_s", 60.0))
        self._is_ending = False
        slots: List[Slot] = []
        self._poller = Poller()
        self._line = line = Line(self._poller, self._handle, lambda: self._values.let_go())
        output = Output(run_directory, line)
        self._values = values = Values(run_directory, output.logs, line)
        self._queue = Queue(slots, values.have)
        self._crew = Crew(slots, poller=self._poller, queue=self._queue, output=output, line=line)
        self._archives = Archives(directory, run_directory, values)
        self._configuration = Configuration(
            run_directory,
            settings["modules"],
            archives=self._archives,
            values=values,
            crew=self._crew,
            line=line,
        )
        self._lease = Lease(settings.get("lease") or {}, self._identity)
        self._notices = Notices(settings.get("notice"), line)
        self._stalls = Stalls(float(settings.get("stalled_s", math.inf)), slots, output, line)

    def serve(self) -> None:
        """Runs until the client says farewell or has been gone for too long."""
        self._listen()
        crew, line, values, wait, on_slot = (
            self._crew, self._line, self._values, self._poller.wait, self._crew.on_slot
        )  # fmt: skip
        last_tick = 0.0
        while not self._is_ending:
            pause = 0.5
            for slot in crew.slots:
                if slot.chunk is not None or slot.state == "starting":
                    pause = TICK_S
                    break
            if values.fetches and not line.is_full:
                pause = STARVED_S if values.is_starved else 0.0
            for what, whose, is_readable, is_writable in wait(pause):
                if type(whose) is Slot:
                    on_slot(whose, what, is_readable, is_writable)
                else:
                    whose()
            now = time.monotonic()
            if now - last_tick >= TICK_S:
                last_tick = now
                crew.bury_the_dead()
                self._tick(now)
            if values.fetches:
                values.send()
            client = line.client
            if client is not None and (client.out or client.is_writing):
                line.flush()
        self._shut_down()

    def _listen(self) -> None:
        """Makes clients, the deaths of children and a wish to end this process heard."""
        adopt_orphans()
        self._poller.watch(self._listener, self._on_listener)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        woken_read, woken_write = os.pipe()
        os.set_blocking(woken_read, False)
        os.set_blocking(woken_write, False)
        signal.set_wakeup_fd(woken_write, warn_on_full_buffer=False)
        self._poller.watch(woken_read, lambda: self._on_signal(woken_read))
        signal.signal(signal.SIGTERM, lambda *_: self._end())

    def _on_signal(self, woken: int) -> None:
        drain(woken)
        self._crew.bury_the_dead()

    def _end(self) -> None:
        self._is_ending = self._crew.is_ending = True

    # -- the client --

    def _on_listener(self) -> None:
        if self._line.accept(self._listener):
            self._notices.forget()
            self._line.say(wire.HELLO, self._hello())

    def _hello(self) -> Dict[str, Any]:
        archives, is_known = self._archives.names, self._configuration.is_known
        if not is_known:
            self._archives.hold(archives)
        return dict(
            probe(self._directory, self._run_directory), agent=self._identity, protocol=wire.PROTOCOL,
            archives=archives, predecessor=self._settings.get("predecessor", ""),
            have=sorted(self._values.have), configured=is_known,
            is_armed=is_armed(self._settings.get("armed"), self._lease.path), has_booted=os.path.exists(BOOTED),
        )  # fmt: skip

    def _handle(self, kind: int, header: Dict[str, Any], payload: Any) -> None:
        line = self._line
        if kind == wire.TASKS:
            self._queue.take(header, payload)
        elif kind == wire.PING:
            line.confirm(header.get("ack", 0))
            line.say(wire.PONG, {"at": header.get("at"), "slots": [slot.state for slot in self._crew.slots]})
        elif kind == wire.ACK:
            line.confirm(header["seq"])
        elif kind == wire.PIECE:
            self._on_piece(header, payload)
        elif kind == wire.FETCH:
            self._values.fetch(header)
        elif kind == wire.DROP:
            self._values.drop(header)
        elif kind == wire.RECALL:
            line.say(wire.RECALLED, {"tasks": self._queue.recall(header["count"])})
        elif kind == wire.CANCEL:
            tasks = self._queue.cancel(set(header["chunks"]), header.get("kill", False))
            line.say(wire.RECALLED, {"tasks": tasks, "cancelled": True})
        elif kind == wire.ATTACH:
            self._on_attach(header)
        elif kind == wire.CONFIGURE:
            self._configuration.take(header)
        elif kind == wire.BYE:
            line.say(wire.FAREWELL, {})
            self._end()

    def _on_attach(self, header: Dict[str, Any]) -> None:
        """Sends again what the client has not confirmed, then tells which tasks are still here."""
        if header.get("linger_s") is not None:
            self._linger_s = float(header["linger_s"])
        self._line.confirm(header.get("seen", 0))
        self._line.send_again()
        self._line.say(wire.SYNC, {"known": self._queue.known(), "ready": self._crew.is_ready})
        if self._crew.is_ready:
            self._crew.say_ready()

    def _on_piece(self, header: Dict[str, Any], payload: Any) -> None:
        if self._values.take(header, payload, self._queue.announce):
            self._queue.has_come(header["digest"])
            self._configuration.apply()
            self._queue.feed()

    # -- time --

    def _tick(self, now: float) -> None:
        self._crew.tick(now)
        self._queue.steal(now)
        self._lease.look(self._line.heard_at)
        self._notices.look(now)
        self._stalls.look(now)
        if self._line.client is None and now - self._line.detached_at > self._linger_s:
            self._end()
        if not os.path.exists(self._run_directory):
            self._end()

    def _shut_down(self) -> None:
        """Ends every worker, says the last words, removes the directory of this run."""
        line, deadline = self._line, time.monotonic() + SHUTDOWN_S
        self._crew.end(deadline)
        self._archives.touch()
        remove(self._run_directory)
        while line.client is not None and line.client.out and time.monotonic() < deadline:
            if not line.client.flush():
                break
            time.sleep(0.002)
        line.detach()
        prune(self._directory)
