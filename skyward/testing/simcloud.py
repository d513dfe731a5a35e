"""What every simulated cloud has: machines at addresses of their own, a bill, a log of requests, and scripted faults.

A face (`skyward.testing.ec2`) speaks the cloud's API on top of it. The bill is the truth about what was left behind:
it is written where machines start and end, never where clients believe they do.
"""

from __future__ import annotations

import getpass
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from skyward.testing.machines import BOOT_S, Machine, can_overlay, make_image
from skyward.testing.machines_disks import sweep_disks
from skyward.testing.simcloud_metadata import Answer, MetadataService
from skyward.testing.simcloud_network import PacketFilter, Relays, make_network

METADATA_PORT = 1338
_BOOTERS = 6
_PREFIX = "skyward-cloud-"
_IN_MEMORY = Path("/dev/shm")
_ROOM = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One line of the bill: one machine, from its launch until nothing of it is left."""

    id: str
    instance_type: str
    region: str
    zone: str
    market: str
    """"on-demand" or "spot"."""
    launched_at: float
    """`time.monotonic()` of this computer, as is `gone_at`."""
    gone_at: float | None = None
    """None while it is billed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call of the cloud's API, whatever came of it."""

    at: float
    """`time.monotonic()`."""
    service: str
    action: str
    parameters: Mapping[str, str]
    region: str = ""
    fault: str | None = None
    """The kind of fault it met."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to the next calls of one action."""

    action: str
    """"*" is every action."""
    kind: str
    left: int | None
    """How often it still happens; None is for ever."""
    match: Mapping[str, str] = field(default_factory=dict)
    """Parameters the call must have, by name, however deep they lie; values may have `*` and `?`."""
    seconds: float = 0.0
    fraction: float = 1.0
    """How many of the matching calls are met, by chance."""
    details: Mapping[str, Any] = field(default_factory=dict)

    def meets(self, action: str, parameters: Mapping[str, str]) -> bool:
        return (
            (self.left is None or self.left > 0) and self.action in ("*", action) and self.suits(parameters)
        )

    def suits(self, parameters: Mapping[str, str]) -> bool:
        """Whether the parameters are those it waits for."""
        return all(_has(parameters, name, str(value)) for name, value in self.match.items())


def _has(parameters: Mapping[str, str], name: str, value: str) -> bool:
    """Whether a parameter of this name, however deep it lies ("...Overrides.1.InstanceType"), has the value."""
    return any(
        fnmatchcase(given, value)
        for key, given in parameters.items()
        if key == name or key.endswith(f".{name}")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where one machine is: for clients, for its neighbours, and where it asks about itself."""

    public: str
    private: str
    metadata: str


class SimulatedCloud:
    """The machines of one cloud and what they cost. A context manager; a face derives from it."""

    kinds: ClassVar[tuple[str, ...]] = ()
    """Every kind of fault there is."""

    def __init__(self, *, seed: int = 0, boot_s: float = 0.0, isolated: bool | None = None) -> None:
        self.isolated = can_overlay() if isolated is None else isolated
        """Whether machines have namespaces, or are processes of the current user."""
        self.ssh_port = 22 if self.isolated else 2222
        self.user = "ubuntu" if self.isolated else getpass.getuser()
        """Who may log in; isolated machines also know `ec2-user`."""
        self.random = random.Random(seed)
        self.boot_s = boot_s
        """How long a machine takes before it starts to boot."""
        self.requests: list[Request] = []
        self.failures: list[str] = []
        """What went wrong in the simulation itself; leaving the context raises it."""
        self._bill: dict[str, Charge] = {}
        self._machines: dict[str, Machine] = {}
        self._ended: set[str] = set()
        self._faults: list[Fault] = []
        self._lock = threading.RLock()
        self._stopping = threading.Event()

    # -- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> Any:
        self._stopping.clear()
        _sweep()
        self.directory = make_directory(in_memory=self.isolated)
        try:
            self._image = make_image(self.directory) if self.isolated else None
            self._network: PacketFilter | Relays = make_network(isolated=self.isolated)
            self._booters = ThreadPoolExecutor(_BOOTERS, "boot")
            self._enders = ThreadPoolExecutor(_BOOTERS, "end")
            self._metadata = MetadataService(self._answer_metadata)
            self._metadata.start()
            self._open()
        except BaseException:
            self._shut()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._shut()
        if self.failures:
            raise AssertionError("the simulated cloud failed:\n" + "\n".join(self.failures))

    def _shut(self) -> None:
        """Everything ends, whatever fails on the way."""
        self._stopping.set()
        try:
            self._close()
        finally:
            for name in ("_booters", "_enders"):
                if hasattr(self, name):
                    getattr(self, name).shutdown(wait=True, cancel_futures=True)
            with ThreadPoolExecutor(_BOOTERS) as enders:
                list(enders.map(Machine.end, list(self._machines.values())))
            for name, stop in (("_metadata", "stop"), ("_network", "close")):
                if hasattr(self, name):
                    getattr(getattr(self, name), stop)()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _open(self) -> None:
        """A face starts its API here."""

    def _close(self) -> None:
        """A face stops its API here."""

    def _answer_metadata(self, id: str, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """What a machine learns about itself."""
        return Answer(404)

    # -- what tests ask ---------------------------------------------------------------------------------------

    @property
    def bill(self) -> list[Charge]:
        """Every machine there ever was, in the order of launch."""
        with self._lock:
            return list(self._bill.values())

    def running(self) -> list[str]:
        """The machines that cost money now, whatever their state is called."""
        return [charge.id for charge in self.bill if charge.gone_at is None]

    def count(self, action: str) -> int:
        """How often an action was called."""
        return sum(request.action == action for request in list(self.requests))

    def machine(self, id: str, timeout_s: float = BOOT_S) -> Any:
        """The machine behind an id, when it has booted.

        Raises:
            KeyError: the cloud never rented one out by this id.
            TimeoutError: it does not start to boot within `timeout_s`.
        """
        self._bill[id]
        deadline = time.monotonic() + timeout_s
        while id not in self._machines:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{id} has not begun to boot")
            time.sleep(0.01)
        machine = self._machines[id]
        machine.await_boot(max(0.0, deadline - time.monotonic()))
        return machine

    @property
    def machines(self) -> list[Any]:
        """Every machine that has begun to boot, whether it still lives or not."""
        with self._lock:
            return list(self._machines.values())

    # -- faults -------------------------------------------------------------------------------------------------

    def fault(
        self,
        action: str,
        kind: str,
        *,
        times: int | None = 1,
        match: Mapping[str, str] | None = None,
        seconds: float = 0.0,
        fraction: float = 1.0,
        **details: Any,
    ) -> Fault:
        """The next `times` matching calls of `action` meet this fault; None means until `heal`.

        Raises:
            ValueError: the cloud knows no such kind.
        """
        if kind not in self.kinds:
            raise ValueError(f"no fault is of the kind {kind!r}: known are {', '.join(self.kinds)}")
        fault = Fault(
            action=action,
            kind=kind,
            left=times,
            match=dict(match or {}),
            seconds=seconds,
            fraction=fraction,
            details=details,
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """No fault is left, neither of the API nor of the network."""
        with self._lock:
            self._faults.clear()
        for machine in self.machines:
            machine.heal()

    def next_fault(
        self, action: str, parameters: Mapping[str, str], kinds: Sequence[str] | None = None
    ) -> Fault | None:
        """The first fault that meets this call; it is used up by one. `kinds` restricts which."""
        with self._lock:
            for fault in self._faults:
                if (kinds is None or fault.kind in kinds) and fault.meets(action, parameters):
                    if fault.fraction < 1 and self.random.random() >= fault.fraction:
                        continue
                    if fault.left is not None:
                        fault.left -= 1
                    return fault
        return None

    # -- for faces ----------------------------------------------------------------------------------------------

    def _claim_addresses(self, id: str) -> Addresses:
        """Free ones; nobody else gets them until this process lets go of them."""
        for _ in range(1000):
            tail = f"{self.random.randrange(1, 255)}.{self.random.randrange(1, 255)}"
            addresses = Addresses(
                public=f"127.77.{tail}", private=f"127.78.{tail}", metadata=f"127.79.{tail}"
            )
            if self._metadata.listen(addresses.metadata, METADATA_PORT, id):
                return addresses
        raise RuntimeError("no loopback address is free")

    def _listen(self, addresses: Addresses) -> tuple[str, ...]:
        """Where the sshd of a machine listens: at its addresses, or behind relays."""
        if isinstance(self._network, PacketFilter):
            return ()
        behind = addresses.public.replace("127.77.", "127.80.", 1)
        for address in (addresses.public, addresses.private):
            self._network.place(address, self.ssh_port, behind)
        return (behind,)

    def _forget_addresses(self, id: str, addresses: Addresses) -> None:
        """They are free for others."""
        for address in (addresses.public, addresses.private):
            self._network.join(address, None)
        self._metadata.forget(id)
        if isinstance(self._network, Relays):
            for address in (addresses.public, addresses.private):
                self._network.remove(address)

    def _rent(self, charge: Charge) -> None:
        with self._lock:
            self._bill[charge.id] = charge

    def _gone(self, id: str) -> None:
        """Nothing of it is left, and nothing more is billed."""
        with self._lock:
            charge = self._bill[id]
            if charge.gone_at is None:
                self._bill[id] = replace(charge, gone_at=time.monotonic())

    def _boot(
        self,
        id: str,
        make: Callable[[], Machine],
        ready: Callable[[], None],
        *,
        delay_s: float = 0.0,
        patience_s: float = BOOT_S,
    ) -> None:
        """Starts a machine beside everything else; `ready` is called when its sshd answers, or after `patience_s`."""

        with self._lock:
            self._ended.discard(id)

        def work() -> None:
            try:
                machine = make()
                with self._lock:
                    if self._stopping.is_set() or id in self._ended:
                        return
                    self._machines[id] = machine
                if machine.start(patience_s) or machine.is_alive:
                    ready()
            except Exception as error:
                if not self._stopping.is_set() and id not in self._ended:
                    self.failures.append(f"{id} does not boot: {error!r}")

        self._later(self.boot_s + delay_s, lambda: self._booters.submit(work))

    def _end_machine(self, id: str) -> None:
        """Returns when nothing of it is left; one that has not begun to boot never will."""
        with self._lock:
            self._ended.add(id)
            machine = self._machines.get(id)
        if machine is not None:
            machine.end()

    def _later(self, seconds: float, act: Callable[[], Any]) -> None:
        """Calls `act` after a while, unless the cloud is gone by then."""
        if seconds <= 0:
            act()
            return

        def wait() -> None:
            if not self._stopping.wait(seconds):
                act()

        threading.Thread(target=wait, name="later", daemon=True).start()


def make_directory(*, in_memory: bool) -> Path:
    """A new directory of this process; in memory where there is room, because a hundred machines have a thousand files."""
    place = _IN_MEMORY if in_memory and _has_room(_IN_MEMORY) else Path(tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))


def _has_room(place: Path) -> bool:
    try:
        return os.access(place, os.W_OK) and shutil.disk_usage(place).free > _ROOM
    except OSError:
        return False


def _sweep() -> None:
    """Removes what processes left that were killed: files alone, because machines do not outlive their process."""
    for place in {_IN_MEMORY, Path(tempfile.gettempdir())}:
        for left in place.glob(f"{_PREFIX}*-*"):
            pid = left.name.removeprefix(_PREFIX).partition("-")[0]
            if pid.isdigit() and not Path("/proc", pid).exists():
                sweep_disks(left)
                shutil.rmtree(left, ignore_errors=True)
