"""A network between clients and machines that can be cut: packets to or from an address vanish, and nobody is told.

As root the kernel's packet filter does it, spoken to directly (nf_tables over netlink; no `iptables` or `nft` needed).
The table belongs to our socket: when this process ends, however it ends, the kernel removes it.
https://docs.kernel.org/netlink/specs/nftables.html (2026-11). Elsewhere a relay stands before each machine.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from typing import Literal, Protocol

from skyward.testing.chaos import ChaosProxy

Direction = Literal["both", "in", "out"]
"""Which packets vanish: those to the machine, those from it, or both."""


Reason = Literal["partition", "firewall", "gone"]
"""Why; what was cut for several reasons is whole when all of them are gone."""
_WAYS: dict[Direction, frozenset[str]] = {
    "in": frozenset({"to"}),
    "out": frozenset({"from"}),
    "both": frozenset({"to", "from"}),
}


class Network(Protocol):
    def cut(self, address: str, direction: Direction = "both", reason: Reason = "partition") -> None: ...

    def join(self, address: str, reason: Reason | None = "partition") -> None: ...

    def close(self) -> None: ...


class Cuts:
    """What is cut, and why. Remembers only."""

    def __init__(self) -> None:
        self._known: dict[str, dict[Reason, frozenset[str]]] = {}

    def ways(self, address: str) -> frozenset[str]:
        """ "to", "from", both, or neither."""
        return frozenset().union(*self._known.get(address, {}).values())

    def add(self, address: str, direction: Direction, reason: Reason) -> None:
        reasons = self._known.setdefault(address, {})
        reasons[reason] = reasons.get(reason, frozenset()) | _WAYS[direction]

    def remove(self, address: str, reason: Reason | None) -> None:
        """None is every reason."""
        if reason is None:
            self._known.pop(address, None)
        else:
            self._known.get(address, {}).pop(reason, None)


class PacketFilter:
    """Drops packets by address, with a table of its own in the kernel."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self._socket.settimeout(5.0)
        self._lock = threading.Lock()
        self._sequence = 0
        self._cuts = Cuts()
        self._name = f"skyward-{os.getpid()}-{id(self):x}"
        try:
            self._make()
        except BaseException:
            self._socket.close()
            raise

    def cut(self, address: str, direction: Direction = "both", reason: Reason = "partition") -> None:
        """Nothing reaches the address, or nothing comes from it. What is cut stays cut."""
        with self._lock:
            before = self._cuts.ways(address)
            self._cuts.add(address, direction, reason)
            new = self._cuts.ways(address) - before
            self._send([self._elements(_NEW_ELEMENTS, way, address) for way in sorted(new)])

    def join(self, address: str, reason: Reason | None = "partition") -> None:
        """It is no longer cut for this reason; None is every one."""
        with self._lock:
            before = self._cuts.ways(address)
            self._cuts.remove(address, reason)
            old = before - self._cuts.ways(address)
            self._send([self._elements(_DELETE_ELEMENTS, way, address) for way in sorted(old)])

    def close(self) -> None:
        """The table goes with the socket that owns it."""
        self._socket.close()

    # -- messages ----------------------------------------------------------------------------------------------

    def _make(self) -> None:
        table = _text(self._name)
        chain = _attribute(1, table) + _attribute(3, _text("input"))
        hook = _attribute(1, _number(_HOOK_INPUT)) + _attribute(2, _number(0))
        messages = [
            (_NEW_TABLE, _attribute(1, table) + _attribute(2, _number(_OWNED))),
            (_NEW_CHAIN, chain + _nested(4, hook) + _attribute(7, _text("filter"))),
        ]
        for number, (name, offset) in enumerate((("to", _TO), ("from", _FROM)), 1):
            described = (
                _attribute(1, table) + _attribute(2, _text(name)) + _attribute(4, _number(_IPV4_ADDRESS))
            )
            messages.append(
                (_NEW_SET, described + _attribute(5, _number(4)) + _attribute(10, _number(number)))
            )
            rule = _attribute(1, table) + _attribute(2, _text("input"))
            messages.append((_NEW_RULE, rule + _nested(4, _drop_if_in(name, number, offset))))
        self._send(messages)

    def _elements(self, kind: int, name: str, address: str) -> tuple[int, bytes]:
        key = _nested(1, _attribute(1, socket.inet_aton(address)))
        where = _attribute(1, _text(self._name)) + _attribute(2, _text(name))
        return kind, where + _nested(3, _nested(1, key))

    def _send(self, messages: list[tuple[int, bytes]]) -> None:
        """One transaction: all of it happens, or none.

        Raises:
            OSError: the kernel refuses.
        """
        if not messages:
            return
        packets = [self._packet(_BATCH_BEGIN, 0, _header(0, _NFTABLES))]
        for kind, body in messages:
            flags = (
                _REQUEST
                | _ACK
                | (_CREATE if kind not in (_DELETE_ELEMENTS,) else 0)
                | (_APPEND if kind == _NEW_RULE else 0)
            )
            packets.append(self._packet(_NFTABLES << 8 | kind, flags, _header(_IPV4, 0) + body))
        packets.append(self._packet(_BATCH_END, 0, _header(0, _NFTABLES)))
        self._socket.send(b"".join(packets))
        for _ in messages:
            self._await_acknowledgement()

    def _packet(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return struct.pack("=IHHII", 16 + len(body), kind, flags | _REQUEST, self._sequence, 0) + body

    def _await_acknowledgement(self) -> None:
        if not hasattr(self, "_unread"):
            self._unread = b""
        if not self._unread:
            self._unread = self._socket.recv(65536)
        length, kind = struct.unpack_from("=IH", self._unread)
        (code,) = struct.unpack_from("=i", self._unread, 16)
        self._unread = self._unread[(length + 3) & ~3 :]
        if kind == _ERROR and code:
            self._unread = b""
            raise OSError(-code, f"the packet filter refuses: {os.strerror(-code)}")


class Relays:
    """A relay before each machine that holds everything back while the machine is cut off."""

    def __init__(self) -> None:
        self._relays: dict[str, ChaosProxy] = {}
        self._cuts = Cuts()
        self._lock = threading.Lock()

    def place(self, address: str, port: int, target: str) -> None:
        """Who connects to the address reaches `target`, at the same port."""
        relay = ChaosProxy(target, port)
        relay.host, relay.port = address, port
        relay.__enter__()
        self._relays[address] = relay

    def remove(self, address: str) -> None:
        relay = self._relays.pop(address, None)
        if relay is not None:
            relay.__exit__()

    def cut(self, address: str, direction: Direction = "both", reason: Reason = "partition") -> None:
        with self._lock:
            self._cuts.add(address, direction, reason)
            self._set_flow(address)

    def join(self, address: str, reason: Reason | None = "partition") -> None:
        with self._lock:
            self._cuts.remove(address, reason)
            self._set_flow(address)

    def _set_flow(self, address: str) -> None:
        relay = self._relays.get(address)
        if relay is not None:
            ways = self._cuts.ways(address)
            relay.up.is_flowing, relay.down.is_flowing = "to" not in ways, "from" not in ways

    def close(self) -> None:
        for address in list(self._relays):
            self.remove(address)


def make_network(*, isolated: bool) -> PacketFilter | Relays:
    """The packet filter where we may use it, relays elsewhere."""
    if isolated:
        try:
            return PacketFilter()
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTONOSUPPORT):
                raise
    return Relays()


def _drop_if_in(name: str, number: int, offset: int) -> bytes:
    """Expressions: load an address of the IP header, look it up, drop."""
    load = b"".join(_attribute(n, _number(v)) for n, v in ((1, 1), (2, _IP_HEADER), (3, offset), (4, 4)))
    look = _attribute(1, _text(name)) + _attribute(2, _number(1)) + _attribute(4, _number(number))
    drop = _attribute(1, _number(0)) + _nested(2, _nested(2, _attribute(1, _number(_DROP))))
    parts = (("payload", load), ("lookup", look), ("immediate", drop))
    return b"".join(_nested(1, _attribute(1, _text(kind)) + _nested(2, body)) for kind, body in parts)


def _header(family: int, resource: int) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | 0x8000, value)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _number(value: int) -> bytes:
    return struct.pack(">I", value)


# include/uapi/linux/netfilter/nf_tables.h and netlink.h of Linux 6.1
_NETLINK_NETFILTER, _NFTABLES, _IPV4, _IPV4_ADDRESS = 12, 10, 2, 7
_BATCH_BEGIN, _BATCH_END, _ERROR = 0x10, 0x11, 2
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENTS, _DELETE_ELEMENTS = 0, 3, 6, 9, 12, 14
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_OWNED, _HOOK_INPUT, _DROP, _IP_HEADER, _FROM, _TO = 0x2, 1, 0, 1, 12, 16
