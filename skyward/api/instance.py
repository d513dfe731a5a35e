"""Where the running task is. Standard library only: it runs on instances."""

from __future__ import annotations

import os
import socket
import struct
from contextvars import ContextVar
from dataclasses import replace
from functools import cache

from skyward.errors import ProtocolError
from skyward.model.instance_info import VARIABLE, InstanceInfo, Peer

__all__ = ["InstanceInfo", "Peer", "instance_info", "placed"]

placed: ContextVar[InstanceInfo | None] = ContextVar("skyward_placed", default=None)
"""What an engine whose tasks share the client's process says of the task that runs here."""


def instance_info() -> InstanceInfo | None:
    """The machine this task runs on and its place in the pool; None outside of tasks."""
    if (info := placed.get()) is not None:
        return info
    text = os.environ.get(VARIABLE)
    return None if text is None else _parse(text)


@cache
def _parse(text: str) -> InstanceInfo:
    try:
        info = InstanceInfo.from_json(text)
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"{VARIABLE} cannot be read: {error}") from error
    if info.network_interface is not None:
        return info
    peer = next((peer.address for peer in info.peers if peer.node != info.node and peer.address), None)
    return replace(info, network_interface=_interface_towards(peer))


def _interface_towards(address: str | None) -> str | None:
    """The interface that packets to an IPv4 address, or to anywhere, leave through."""
    try:
        target = struct.unpack("<I", socket.inet_aton(address))[0] if address else 0
    except OSError:
        target = 0
    best, width = None, -1
    try:
        with open("/proc/net/route") as table:
            for line in table.readlines()[1:]:
                interface, network, _, _, _, _, _, mask = line.split()[:8]
                bits = int(mask, 16)
                if target & bits == int(network, 16) and bits.bit_count() > width:
                    best, width = interface, bits.bit_count()
    except (OSError, ValueError):
        return None
    return best
