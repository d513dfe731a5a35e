"""Our process on an instance: keeps workers busy and outlives a dropped connection.

Sent over standard input to any python3 >= 3.8; standard library only; no root; writes below one directory. The
command that SSH runs starts the agent if it is not there, hands it its own standard input and output (descriptors
travel over a unix socket, so no byte is relayed by a second process) and waits. The agent answers frames
(`skyward.remote.wire`), keeps every result until the client has confirmed it, and ends by itself when nobody has
been attached for `linger_s` seconds.
"""

from __future__ import annotations

import math
import os
import select
import struct
import sys
import time

from skyward.remote import wire
from skyward.remote.node.facts import BOOTED, activity_of, is_armed, probe
from skyward.remote.node.files import last_line, meet, remove, unlink, within
from skyward.remote.node.lean import OrderedDict, deque, from_json, signal, socket, to_json
from skyward.remote.node.leftovers import below, hold, prune, touch
from skyward.remote.node.slot import Chunk, Slot, adopt_orphans, widen
from skyward.remote.node.unpack import check, unpack

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Deque, Dict, List, Optional, Sequence, Set, Tuple

OUTPUT_CAP = 1 << 20
"""How much of one task's output is sent live, bytes; all of it is in the log."""
ANSWER_EVERY_S = 1.0
"""How often what arrives is answered, seconds: pings wait behind a long upload, and silence looks like death."""
LOG_CAP = 1 << 30
"""How much of what tasks print is kept until the run ends, bytes."""
ANNOUNCED = 8 << 20
"""Values as long as this are read by a worker while they arrive, bytes."""
QUEUED_OUT = 512 << 10
"""No further piece of a long value is queued for the client while this much is waiting, bytes."""
TICK_S = 0.05
STARVED_S = 0.002
"""How often a value that is still being written is looked at, seconds."""
STEAL_AFTER_S = 0.05
"""A chunk that has run this long lends its unstarted tasks to idle workers, seconds."""
MAX_START_FAILURES = 3
NOTICE_S = 1.0
"""How often it is looked whether the cloud has announced the end of this machine, seconds."""
STALL_LOOK_S = 1.0
STOPPED_S = 3.0
"""A worker that has been stopped by a signal this long is told of, seconds."""


# -- the command that SSH runs -------------------------------------------------------------------------------


def start(text: str, modules: bytes) -> None:
    """Attaches standard input and output to the agent of this session, starting it first if need be.

    `text` is its settings as JSON; `modules` what this module was made of, for workers.
    """
    settings = dict(from_json(text), modules=modules)
    directory = choose_directory(settings.get("directory"))
    run_directory = os.path.join(directory, "runs", settings["session"])
    link = meet(run_directory)
    if link is None:
        settings["predecessor"] = last_line(os.path.join(run_directory, "agent.log"))
        remove(run_directory)
        os.makedirs(run_directory, mode=0o700)
        listener = socket.socket(socket.AF_UNIX)
        within(run_directory, lambda: listener.bind("agent.sock"))
        listener.listen(8)
        if os.fork() == 0:
            _become_agent(settings, directory, run_directory, listener)
        listener.close()
        link = meet(run_directory)
        if link is None:
            sys.exit("skyward: the agent did not start")
    link.sendmsg([b"a"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("ii", 0, 1))])
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        link.recv(1)
    except OSError:
        pass
    os._exit(0)


def _become_agent(
    settings: Dict[str, Any], directory: str, run_directory: str, listener: socket.socket
) -> None:
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(os.path.join(run_directory, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    os.closerange(3, listener.fileno())
    status = 1
    try:
        Agent(settings, directory, run_directory, listener).serve()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def choose_directory(wanted: Optional[str]) -> str:
    """Our one directory on this instance, made private; the first of the candidates that can be written."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    candidates = [wanted] if wanted else [os.path.join(cache, "skyward"), "/tmp/skyward-%d" % os.getuid()]
    reasons = []
    for path in candidates:
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            status = os.stat(path)
            if status.st_uid != os.getuid() or status.st_mode & 0o022:
                raise OSError("it belongs to somebody else or others may write to it")
            probe = os.path.join(path, ".probe-%d" % os.getpid())
            with open(probe, "wb") as file:
                file.write(b"x")
            os.unlink(probe)
            return os.path.abspath(path)
        except OSError as error:
            reasons.append("%s: %s" % (path, error))
    sys.exit("skyward: no directory to write to: " + "; ".join(reasons))


# -- the agent -----------------------------------------------------------------------------------------------


class Client:
    """The attached client: descriptors, what it sent, what waits to be sent to it."""

    def __init__(self, link: socket.socket, read_fd: int, write_fd: int) -> None:
        self.link = link
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.decoder = wire.Decoder()
        self.out: Deque[memoryview] = deque()
        self.out_size = 0
        self.is_writing = False
        for descriptor in (read_fd, write_fd):
            os.set_blocking(descriptor, False)
            widen(descriptor)

    def put(self, text: bytes, payload: Any = b"") -> None:
        """A short frame is one piece, so that one call writes it."""
        if len(payload) <= wire.INLINE:
            parts = [b"".join((text, payload)) if payload else text]
        else:
            parts = [text, payload]
        for part in parts:
            self.out.append(memoryview(part))
            self.out_size += len(part)

    def flush(self) -> bool:
        """Writes what fits; False when the client is gone."""
        while self.out:
            view = self.out[0]
            try:
                sent = os.write(self.write_fd, view)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self.out_size -= sent
            if sent == len(view):
                self.out.popleft()
            else:
                self.out[0] = view[sent:]
        return True

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)
        self.link.close()


_IN, _OUT = select.POLLIN, select.POLLOUT


class Poller:
    """Who has something to say, by descriptor. `selectors` takes five times as long for the same answer."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: Dict[int, Tuple[Any, Any, int]] = {}

    def watch(self, what: Any, whose: Any, *, reading: bool = True, writing: bool = False) -> None:
        """From now on `wait` tells when `what` (a descriptor, or something with one) can be read or written."""
        number = what if isinstance(what, int) else what.fileno()
        events = (select.POLLIN if reading else 0) | (select.POLLOUT if writing else 0)
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


class Agent:
    """The loop of one session on one instance."""

    def __init__(
        self, settings: Dict[str, Any], directory: str, run_directory: str, listener: socket.socket
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.run_directory = run_directory
        self.blobs = self._make("blobs")
        self.spool = self._make("spool")
        self.logs = self._make("logs")
        self.archives = os.path.join(directory, "archives")
        os.makedirs(self.archives, mode=0o700, exist_ok=True)
        self.identity = os.urandom(8).hex()
        self.linger_s = float(settings.get("linger_s", 60.0))
        self.stalled_s = float(settings.get("stalled_s", math.inf))
        self.listener = listener
        self.scratch = memoryview(bytearray(1 << 18))
        """What is read lands here or where it belongs: new memory for every read would cost more than the reading."""
        self.poller = Poller()
        self.client: Optional[Client] = None
        self.detached_at = time.monotonic()
        self.slots: List[Slot] = []
        self.queue: Deque[Chunk] = deque()
        self.waiting: List[Chunk] = []
        self.sequence = 0
        self.outbox: Deque[Tuple[int, bytes, bytes]] = deque()
        self.fetches: OrderedDict[str, Tuple[Any, int, int]] = OrderedDict()
        self.receiving: Dict[str, Tuple[Any, int]] = {}
        self.have: Set[str] = set()
        self.printed: Dict[int, int] = {}
        self.unsent: Dict[int, int] = {}
        self.logged = 0
        self.configuration: Optional[Dict[str, Any]] = None
        self.used: List[str] = []
        self.is_ready = False
        self.is_ending = False
        self.is_starved = False
        self.lease: Dict[str, Any] = settings.get("lease") or {}
        self.heard_at = self.answered_at = self.renewed_at = time.monotonic()
        self.renewals = 0
        self.notice_at = 0.0
        self.noticed = b""
        self.looked_at = time.monotonic()
        self.activities: Dict[int, Activity] = {}

    def _make(self, name: str) -> str:
        path = os.path.join(self.run_directory, name)
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path

    def serve(self) -> None:
        """Runs until the client says farewell or has been gone for too long."""
        adopt_orphans()
        self.poller.watch(self.listener, self._on_listener)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        woken_read, woken_write = os.pipe()
        os.set_blocking(woken_read, False)
        os.set_blocking(woken_write, False)
        signal.set_wakeup_fd(woken_write, warn_on_full_buffer=False)
        self.poller.watch(woken_read, lambda: self._on_signal(woken_read))
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "is_ending", True))
        last_tick = 0.0
        while not self.is_ending:
            pause = 0.5
            for slot in self.slots:
                if slot.chunk is not None or slot.state == "starting":
                    pause = TICK_S
                    break
            if self.fetches and not self._is_line_full():
                pause = STARVED_S if self.is_starved else 0.0
            self.is_starved = False
            for what, whose, is_readable, is_writable in self.poller.wait(pause):
                if type(whose) is Slot:
                    self._on_slot(whose, what, is_readable, is_writable)
                else:
                    whose()
            now = time.monotonic()
            if now - last_tick >= TICK_S:
                last_tick = now
                self._bury_the_dead()
                self._tick(now)
            if self.fetches:
                self._serve_fetches()
            if self.client is not None and (self.client.out or self.client.is_writing):
                self._flush()
        self._shut_down()

    def _on_signal(self, woken: int) -> None:
        _drain(woken)
        self._bury_the_dead()

    # -- the client --

    def _on_listener(self) -> None:
        link = socket.socket(fileno=self.listener._accept()[0])  # type: ignore[attr-defined]  # all of them have it
        link.settimeout(5)
        try:
            _, ancillary, _, _ = link.recvmsg(1, socket.CMSG_SPACE(8))
            read_fd, write_fd = struct.unpack("ii", ancillary[0][2][:8])
        except (OSError, IndexError, struct.error):
            link.close()
            return
        self._detach()
        self.client = Client(link, read_fd, write_fd)
        self.noticed = b""
        self.poller.watch(read_fd, self._on_client)
        self._say(wire.HELLO, self._hello())

    def _hello(self) -> Dict[str, Any]:
        archives = [name[:-4] for name in os.listdir(self.archives) if name.endswith(".zip")]
        if self.configuration is None:
            hold(self.run_directory, ["archives/" + name for name in archives])
        return dict(
            probe(self.directory, self.run_directory), agent=self.identity, protocol=wire.PROTOCOL,
            archives=archives, predecessor=self.settings.get("predecessor", ""),
            have=sorted(self.have), configured=self.configuration is not None,
            is_armed=is_armed(self.settings.get("armed"), self.lease.get("path")), has_booted=os.path.exists(BOOTED),
        )  # fmt: skip

    def _on_client(self) -> None:
        client = self.client
        if client is None:
            return
        for _ in range(8):
            room = client.decoder.room
            try:
                count = os.readv(client.read_fd, (room, self.scratch) if room else (self.scratch,))
            except BlockingIOError:
                return
            except OSError:
                count = 0
            if not count:
                self._detach()
                return
            self.heard_at = time.monotonic()
            if self.heard_at - self.answered_at >= ANSWER_EVERY_S:
                self.answered_at = self.heard_at
                self._say(wire.PONG, {})
            direct = min(count, len(room)) if room else 0
            try:
                if direct:
                    for frame in client.decoder.filled(direct):
                        self._handle(*frame)
                if count > direct:
                    for frame in client.decoder.feed(self.scratch[: count - direct]):
                        self._handle(*frame)
            except wire.BadFrame:
                self._detach()
                return
            if client is not self.client or count < 65536:
                return

    def _detach(self) -> None:
        if self.client is None:
            return
        client, self.client = self.client, None
        for descriptor in (client.read_fd, client.write_fd):
            self.poller.forget(descriptor)
        client.close()
        self.detached_at = time.monotonic()
        self.fetches.clear()
        for name, (file, _) in self.receiving.items():
            file.close()
            os.unlink(os.path.join(self.blobs, name + ".part"))
        self.receiving.clear()

    def _say(self, kind: int, header: Dict[str, Any], payload: Any = b"") -> None:
        if self.client is not None:
            self.client.put(wire.encode(kind, header, len(payload)), payload)

    def _flush(self) -> None:
        client = self.client
        if client is None:
            return
        if not client.flush():
            self._detach()
            return
        wanted = bool(client.out)
        if wanted == client.is_writing:
            return
        client.is_writing = wanted
        if wanted:
            self.poller.watch(client.write_fd, self._flush, reading=False, writing=True)
        else:
            self.poller.forget(client.write_fd)

    def _handle(self, kind: int, header: Dict[str, Any], payload: Any) -> None:
        if kind == wire.TASKS:
            self._on_tasks(header, payload)
        elif kind == wire.PING:
            self._acknowledge(header.get("ack", 0))
            self._say(wire.PONG, {"at": header.get("at"), "slots": [slot.state for slot in self.slots]})
        elif kind == wire.ACK:
            self._acknowledge(header["seq"])
        elif kind == wire.PIECE:
            self._on_piece(header, payload)
        elif kind == wire.FETCH:
            self._on_fetch(header)
        elif kind == wire.DROP:
            self._on_drop(header)
        elif kind == wire.RECALL:
            self._on_recall(header["count"])
        elif kind == wire.CANCEL:
            self._on_cancel(set(header["chunks"]), header.get("kill", False))
        elif kind == wire.ATTACH:
            self._on_attach(header)
        elif kind == wire.CONFIGURE:
            self.configuration = header
            self._configure_when_complete()
        elif kind == wire.BYE:
            self._say(wire.FAREWELL, {})
            self.is_ending = True

    def _on_attach(self, header: Dict[str, Any]) -> None:
        """Sends again what the client has not confirmed, then tells which tasks are still here."""
        if header.get("linger_s") is not None:
            self.linger_s = float(header["linger_s"])
        seen = header.get("seen", 0)
        self._acknowledge(seen)
        for _, text, payload in self.outbox:
            if self.client is not None:
                self.client.put(text, payload)
        known = [task for chunk in [*self.queue, *self.waiting] for task in chunk.unstarted]
        for slot in self.slots:
            if slot.chunk is not None:
                known += slot.chunk.ids[slot.chunk.low + slot.finished : slot.chunk.high]
        self._say(wire.SYNC, {"known": known, "ready": self.is_ready})
        if self.is_ready:
            self._say_ready()

    def _acknowledge(self, sequence: int) -> None:
        while self.outbox and self.outbox[0][0] <= sequence:
            self.outbox.popleft()

    def _results(self, payload: bytes) -> None:
        """Sends records, and keeps them until they are confirmed."""
        self.sequence += 1
        payload = wire.SEQUENCE.pack(self.sequence) + payload
        text = wire.encode(wire.RESULTS, b"{}", len(payload))
        self.outbox.append((self.sequence, text, payload))
        if self.client is not None:
            self.client.put(text, payload)

    # -- long values --

    def _on_piece(self, header: Dict[str, Any], payload: Any) -> None:
        digest, offset, total = header["digest"], header["offset"], header["total"]
        path = os.path.join(self.blobs, digest)
        if digest not in self.receiving and offset:
            return  # the rest of a value there was no room for; a file of it would have a hole
        try:
            if digest not in self.receiving:
                self.receiving[digest] = (open(path + ".part", "wb", buffering=0), total)  # noqa: SIM115 - open until it is complete
                self._announce(digest, total)
            file = self.receiving[digest][0]
            file.seek(offset)
            view = memoryview(payload)
            while view:
                view = view[file.write(view) :]
            if offset + len(payload) < total:
                return
            file.close()
            del self.receiving[digest]
            os.rename(path + ".part", path)
        except OSError as error:
            self._no_room(digest, error)
            return
        self.have.add(digest)
        for chunk in self.waiting:
            chunk.needs.discard(digest)
        self.queue.extend(chunk for chunk in self.waiting if not chunk.needs)
        self.waiting = [chunk for chunk in self.waiting if chunk.needs]
        self._configure_when_complete()
        self._feed()

    def _announce(self, digest: str, total: int) -> None:
        """Lets a worker that has nothing to do read a long value while it arrives; one of those is about to need it."""
        if total < ANNOUNCED or not any(chunk.takes_whole(digest) for chunk in self.waiting):
            return
        idle = next((slot for slot in self.slots if slot.state == "idle"), None)
        if idle is not None:
            idle.announce(digest, total)

    def _no_room(self, digest: str, error: OSError) -> None:
        file, _ = self.receiving.pop(digest, (None, 0))
        if file is not None:
            file.close()
        try:
            os.unlink(os.path.join(self.blobs, digest + ".part"))
        except OSError:
            pass
        self._say(
            wire.NOTICE, {"what": "no-room", "digest": digest, "directory": self.blobs, "error": str(error)}
        )

    def _on_fetch(self, header: Dict[str, Any]) -> None:
        name = header["name"]
        folder = self.logs if name.endswith(".log") else self.spool
        try:
            file = open(os.path.join(folder, os.path.basename(name)), "rb", buffering=0)  # noqa: SIM115 - open as long as it is being sent
        except OSError as error:
            self._say(wire.NOTICE, {"what": "no-such-value", "name": name, "error": str(error)})
            return
        total = header.get("total", os.fstat(file.fileno()).st_size)
        offset = max(0, total - header["last"]) if "last" in header else header.get("offset", 0)
        self.fetches[name] = (file, offset, total)

    def _serve_fetches(self) -> None:
        """Queues further pieces of what the client fetches, a few at a time and in turn."""
        while self.fetches and not self._is_line_full():
            name, (file, offset, total) = self.fetches.popitem(last=False)
            file.seek(offset)
            piece = file.read(min(wire.CHUNK, total - offset))
            if piece or not total:
                self._say(wire.PIECE, {"name": name, "offset": offset, "total": total}, piece)
            if offset + len(piece) >= total:
                file.close()
                continue
            self.fetches[name] = (file, offset + len(piece), total)
            if not piece:  # all that has been written so far is sent
                self.is_starved = True
                return

    def _is_line_full(self) -> bool:
        return self.client is None or self.client.out_size >= QUEUED_OUT

    def _on_drop(self, header: Dict[str, Any]) -> None:
        for name in header.get("names", ()):
            file, _, _ = self.fetches.pop(name, (None, 0, 0))
            if file is not None:
                file.close()
            unlink(os.path.join(self.spool, os.path.basename(name)))
        for digest in header.get("digests", ()):
            self.have.discard(digest)
            unlink(os.path.join(self.blobs, os.path.basename(digest)))

    # -- configuration --

    def _configure_when_complete(self) -> None:
        """Starts the workers once every archive they need has come."""
        wanted = self.configuration
        if wanted is None or self.slots:
            return
        for one in wanted["archives"]:
            path = os.path.join(self.archives, one["digest"] + ".zip")
            if one["digest"] in self.have and not os.path.exists(path):
                os.rename(os.path.join(self.blobs, one["digest"]), path)
            if not os.path.exists(path):
                return
        self.used = ["archives/" + one["digest"] for one in wanted["archives"]]
        self.used += below(self.directory, wanted["python"])
        hold(self.run_directory, self.used)
        touch(self.directory, self.used)
        try:
            places = {one["role"]: self._place(one) for one in wanted["archives"]}
            self._start_workers(wanted, places)
        except (OSError, ValueError) as error:
            self._say(
                wire.NOTICE, {"what": "cannot-configure", "error": "%s: %s" % (type(error).__name__, error)}
            )
            self.configuration = None

    def _place(self, one: Dict[str, Any]) -> str:
        """Where an archive lies unpacked: private to this run for the user's project; shared for our own runtime, which
        the first worker that gets a task unpacks."""
        source = os.path.join(self.archives, one["digest"] + ".zip")
        target = os.path.join(self.archives, one["digest"])
        if one["role"] != "runtime":
            target = os.path.join(self.run_directory, one["role"])
        if not os.path.isdir(target):
            check(source, one["digest"])
        if one["role"] != "runtime":
            unpack(source, target)
        return target

    def _start_workers(self, wanted: Dict[str, Any], places: Dict[str, str]) -> None:
        environment = dict(os.environ)
        environment.update(wanted["env"])
        cwd = wanted.get("cwd") or places.get("project") or self._make("work")
        path = search_path(places, wanted["sys_path"], cwd)
        settings = {
            "sys_path": path,
            "runtime": places.get("runtime"),
            "blobs": self.blobs,
            "spool": self.spool,
            "result_cap": wanted.get("result_cap"),
        }
        modules = os.path.join(self.run_directory, "modules")
        with open(modules, "wb") as file:
            file.write(self.settings["modules"])
        for worker, extra in enumerate(wanted["workers"]):
            for _ in range(wanted["concurrency"]):
                env = dict(environment, **extra)
                spawn = {
                    "python": wanted["python"], "modules": modules, "env": env, "cwd": cwd, "settings": settings
                }  # fmt: skip
                slot = Slot(len(self.slots), worker, spawn, self._watch, self._unwatch)
                self.slots.append(slot)
                self._spawn(slot)

    def _spawn(self, slot: Slot) -> None:
        try:
            slot.spawn()
        except (OSError, ValueError) as error:
            slot.failures = MAX_START_FAILURES
            slot.tail = str(error).encode()
            self._start_failed(slot, {"exit": None, "signal": None, "reason": str(error)})

    def _watch(self, what: Any, slot: Slot, writing: bool = False) -> None:
        self.poller.watch(what, slot, writing=writing)

    def _unwatch(self, what: Any) -> None:
        self.poller.forget(what)

    def _say_ready(self) -> None:
        self._say(wire.READY, {"workers": [[slot.index, slot.worker, slot.pid] for slot in self.slots]})

    # -- tasks --

    def _on_tasks(self, header: Dict[str, Any], payload: Any) -> None:
        view = memoryview(payload)
        position = 0
        for one in header["chunks"]:
            number, first, count, size = wire.CHUNK_HEAD.unpack_from(view, position)
            position += wire.CHUNK_HEAD.size
            chunk = Chunk(one, number, first, count, view[position : position + size])
            position += size
            if self.have.issuperset(one["needs"]):
                self.queue.append(chunk)
            else:
                chunk.needs = set(one["needs"]) - self.have
                self.waiting.append(chunk)
        self._feed()

    def _feed(self) -> None:
        """Gives idle workers what is queued for them."""
        queue = self.queue
        for slot in self.slots:
            if not queue:
                return
            if slot.state != "idle":
                continue
            if queue[0].worker is None:
                slot.assign(queue.popleft())
            elif (chunk := self._first_for(slot)) is not None:
                queue.remove(chunk)
                slot.assign(chunk)

    def _first_for(self, slot: Slot) -> Optional[Chunk]:
        for chunk in self.queue:
            if chunk.worker is None or chunk.worker == slot.worker:
                return chunk
        return None

    def _on_recall(self, count: int) -> None:
        """Gives unstarted tasks back to the client: those that wait for a value, the end of the queue, then running
        chunks."""
        tasks: List[int] = []
        for place in (self.waiting, self.queue):
            for chunk in reversed([one for one in place if one.worker is None]):
                if len(tasks) >= count:
                    break
                take = min(count - len(tasks), chunk.high - chunk.low)
                tasks += chunk.ids[chunk.high - take : chunk.high]
                chunk.high -= take
                if chunk.low == chunk.high:
                    place.remove(chunk)
        for slot in self.slots:
            if slot.chunk is not None and slot.chunk.worker is None and len(tasks) < count:
                part = slot.take_back(count - len(tasks))
                tasks += part.unstarted if part else []
        self._say(wire.RECALLED, {"tasks": tasks})

    def _on_cancel(self, chunks: Set[int], kill: bool) -> None:
        tasks: List[int] = []
        for one in [*self.queue, *self.waiting]:
            if one.id in chunks:
                tasks += one.unstarted
        self.queue = deque(one for one in self.queue if one.id not in chunks)
        self.waiting = [one for one in self.waiting if one.id not in chunks]
        for slot in self.slots:
            if slot.chunk is not None and slot.chunk.id in chunks:
                part = slot.take_back(1 << 20)
                tasks += part.unstarted if part else []
                if kill and slot.current is not None:
                    slot.end("cancelled")
        self._say(wire.RECALLED, {"tasks": tasks, "cancelled": True})

    # -- slots --

    def _on_slot(self, slot: Slot, what: Any, is_readable: bool, is_writable: bool) -> None:
        if what is not slot._commands:
            self._printed(slot, slot.current or 0, "err", slot.read_output())
            return
        if is_writable:
            slot.send()
        if is_readable and not self._hear(slot):
            self._unwatch(slot._commands)  # it has closed its end: its death follows

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
        if self.queue and slot.state == "idle":
            self._feed()
        return True

    def _check_ready(self) -> None:
        if not self.is_ready and all(slot.state not in ("starting", "dead") for slot in self.slots):
            self.is_ready = True
            self._say_ready()

    def _collect(self, slot: Slot) -> None:
        """Passes on the records a worker has written; what it printed goes its own way."""
        output = slot.read_output()
        if output:
            self._printed(slot, slot.current or 0, "err", output)
        self._pass_on(slot, slot.read_records())

    def _pass_on(self, slot: Slot, found: Sequence[Tuple[int, int, bytes]]) -> None:
        """What `Slot.split` found goes to the client."""
        outcomes = []
        for kind, task, data in found:
            if kind == wire.RECORD_OUT or kind == wire.RECORD_ERR:
                self._printed(slot, task, "out" if kind == wire.RECORD_OUT else "err", data)
                continue
            outcomes.append(data)
            if self.printed:
                for ended, what, _, _ in wire.read_records(data):
                    if what != wire.RECORD_COMING:
                        self._end_of_output(ended)
            slot.tail = b""  # the last words kept are those of the task that runs
        if outcomes:
            self._results(b"".join(outcomes) if len(outcomes) > 1 else outcomes[0])

    def _printed(self, slot: Slot, task: int, stream: str, data: bytes) -> None:
        if not data:
            return
        slot.keep_tail(data)
        if self.logged < LOG_CAP:
            self.logged += len(data)
            try:
                with open(os.path.join(self.logs, "worker-%d.log" % slot.index), "ab") as file:
                    file.write(data)
            except OSError:
                self.logged = LOG_CAP
        sent = self.printed.get(task, 0)
        is_heard = self.client is not None and self.client.out_size < 4 * OUTPUT_CAP
        room = max(0, OUTPUT_CAP - sent) if is_heard else 0
        if room:
            self._say(wire.OUTPUT, {"task": task, "slot": slot.index, "stream": stream}, data[:room])
        self.printed[task] = sent + min(room, len(data))
        if len(data) > room:
            self.unsent[task] = self.unsent.get(task, 0) + len(data) - room

    def _end_of_output(self, task: int) -> None:
        if self.printed:
            self.printed.pop(task, None)
        count = self.unsent.pop(task, 0) if self.unsent else 0
        if count:
            self._say(wire.OUTPUT, {"task": task, "slot": -1, "stream": "err", "dropped": count})

    def _bury_the_dead(self) -> None:
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
        _end_orphans({one.pid for one in self.slots if one.state != "dead"})
        tail = slot.tail.decode("utf-8", "replace")
        slot.chunk = None
        if rest is not None:
            self.queue.appendleft(rest)
        if victim is not None:
            body = to_json(dict(story, tail=tail)).encode()
            self._end_of_output(victim)
            self._results(wire.RECORD.pack(len(body), victim, wire.RECORD_DEATH, 0.0) + body)
        slot.failures = slot.failures + 1 if was_starting else 0
        if slot.failures >= MAX_START_FAILURES or (was_starting and not self.is_ready):
            self._start_failed(slot, story)
        elif not self.is_ending:
            self._spawn(slot)

    def _start_failed(self, slot: Slot, story: Dict[str, Any]) -> None:
        slot.state = "dead"
        tail = slot.tail.decode("utf-8", "replace")
        self._say(
            wire.NOTICE,
            dict(story, what="worker-cannot-start", slot=slot.index, python=slot._spawn["python"], tail=tail),
        )
        if all(one.state == "dead" for one in self.slots):
            for chunk in [*self.queue, *self.waiting]:
                for task in chunk.unstarted:
                    body = to_json(dict(story, tail=tail, reason="worker-cannot-start")).encode()
                    self._results(wire.RECORD.pack(len(body), task, wire.RECORD_DEATH, 0.0) + body)
            self.queue.clear()
            self.waiting = []

    # -- time --

    def _tick(self, now: float) -> None:
        for slot in self.slots:
            if slot.state == "dead":
                continue
            slot.tick(now)
            if slot.state == "busy":
                self._collect(slot)
        self._steal(now)
        if self.lease and self.heard_at > self.renewed_at + self.lease["every_s"]:
            self._renew_lease()
        if self.settings.get("notice") and now - self.notice_at >= NOTICE_S:
            self.notice_at = now
            self._look_for_notice(self.settings["notice"])
        if now - self.looked_at >= STALL_LOOK_S:
            self.looked_at = now
            self._look_for_stalls(now)
        if self.client is None and now - self.detached_at > self.linger_s:
            self.is_ending = True
        if not os.path.exists(self.run_directory):
            self.is_ending = True

    def _look_for_stalls(self, now: float) -> None:
        """Tells of workers that run a task and do nothing at all: nobody else can see that they hang."""
        busy = {slot.index: (slot, slot.next) for slot in self.slots if slot.state == "busy"}
        self.activities = {index: one for index, one in self.activities.items() if index in busy}
        for index, (slot, task) in busy.items():
            state, ticks = activity_of(slot.pid)
            if task is None or not state:
                self.activities.pop(index, None)
                continue
            seen = (task, slot.pid, ticks, self.printed.get(task, 0) + self.unsent.get(task, 0))
            activity = self.activities.get(index)
            if activity is None or activity.seen != seen:
                activity = self.activities[index] = Activity(seen, now, now + self.stalled_s)
            is_stopped = state in "Tt"
            if is_stopped and not activity.is_stopped:
                activity.is_stopped, activity.tell_at = True, now + STOPPED_S
            if now >= activity.tell_at:
                idle = now - activity.since
                activity.tell_at = now + max(2 * idle, self.stalled_s)
                self._say(
                    wire.NOTICE,
                    {"what": "stalled", "task": task, "slot": index, "pid": slot.pid, "for_s": idle, "stopped": is_stopped},
                )  # fmt: skip

    def _renew_lease(self) -> None:
        """Tells the switch that ends this machine that the client has been heard; what counts is that the text changes."""
        self.renewed_at = self.heard_at
        self.renewals += 1
        try:
            file = os.open(self.lease["path"], os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                # Always as long, and never truncated first: so it needs no room on a file system that is full.
                os.write(file, b"%s %012d\n" % (self.identity.encode(), self.renewals))
            finally:
                os.close(file)
        except OSError as error:
            print("lease: %s" % error, file=sys.stderr, flush=True)

    def _look_for_notice(self, path: str) -> None:
        """Passes on what the cloud has announced for this machine, once to each client."""
        try:
            with open(path, "rb") as file:
                text = file.read(65536)
            notice = from_json(text.decode())
        except (OSError, ValueError):
            return
        if self.client is not None and text != self.noticed and isinstance(notice, dict):
            self.noticed = text
            self._say(wire.NOTICE, {"what": "interruption", "notice": notice})

    def _steal(self, now: float) -> None:
        """Lends unstarted tasks of a slow chunk to idle workers of this instance."""
        if self.queue:
            return
        for slot in self.slots:
            if slot.state != "idle":
                continue
            lenders = [
                (one.tokens_left(), one)
                for one in self.slots
                if one.chunk is not None
                and one.chunk.worker is None
                and now - one._progress[1] > STEAL_AFTER_S
            ]
            left, lender = max(lenders, key=lambda pair: pair[0], default=(0, None))
            part = lender.take_back((left + 1) // 2) if lender is not None and left else None
            if part is None:
                return
            slot.assign(part)

    def _shut_down(self) -> None:
        """Ends every worker, says the last words, removes the directory of this run."""
        self.is_ending = True
        for slot in self.slots:
            if slot.state != "dead":
                slot.end("shutdown", grace=False)
        deadline = time.monotonic() + 2
        for slot in self.slots:
            while slot.state != "dead" and time.monotonic() < deadline:
                if slot.poll_death() is not None:
                    slot.bury()
                else:
                    time.sleep(0.002)
        _end_orphans(set())
        touch(self.directory, self.used)
        remove(self.run_directory)
        while self.client is not None and self.client.out and time.monotonic() < deadline:
            if not self.client.flush():
                break
            time.sleep(0.002)
        self._detach()
        prune(self.directory)


class Activity:
    """What a busy worker was seen to have done so far, since when it is no more, and when that is to be told."""

    __slots__ = ("is_stopped", "seen", "since", "tell_at")

    def __init__(self, seen: Tuple[int, int, int, int], since: float, tell_at: float) -> None:
        self.seen = seen
        self.since = since
        self.tell_at = tell_at
        self.is_stopped = False


def search_path(places: Dict[str, str], wanted: List[str], cwd: str) -> List[str]:
    """Where workers look for modules: the project's own places, then the project, our runtime, and the rest.

    Relative places are meant inside the project; made absolute here, so that a task may change its directory.
    """
    project = places.get("project", cwd)
    own = [os.path.normpath(os.path.join(project, place)) for place in wanted if not os.path.isabs(place)]
    shared = [places[role] for role in ("project", "runtime") if role in places]
    path = own + shared + [place for place in wanted if os.path.isabs(place)]
    return list(dict.fromkeys(path))


def _drain(descriptor: int) -> None:
    try:
        os.read(descriptor, 4096)
    except BlockingIOError:
        pass


def _end_orphans(spared: Set[int]) -> None:
    for _ in range(20):
        try:
            with open("/proc/self/task/%d/children" % os.getpid()) as file:
                orphans = [int(pid) for pid in file.read().split() if int(pid) not in spared]
        except OSError:
            return
        if not orphans:
            return
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
