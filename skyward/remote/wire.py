"""Frames: how client and agent talk. Standard library only, any Python >= 3.8, because it runs on instances too.

A frame is a fixed prefix, a header (a JSON object: plain data, never pickle) and a payload of bytes:

    magic "SKY1" | type u8 | header length u32 | payload length u64 | CRC-32 of all of that and the header

Integers are little endian. The checksum covers what decides how bytes are read; payloads are guarded by the
integrity check of the connection below. A stream that ends inside a frame, or without a farewell frame, is a
lost connection and never a short result.
"""

from __future__ import annotations

import struct
import zlib

from skyward.remote.lean import from_json, to_json

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Tuple, Union

    Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"SKY1"
PREFIX = struct.Struct("<4sBIQI")
_CHECKED = struct.Struct("<4sBIQ")
_SUM = struct.Struct("<I")

MAX_HEADER = 16 << 20
"""A header larger than this is nonsense, bytes."""
MAX_PAYLOAD = 64 << 20
"""Payloads are cut into frames far smaller than this, bytes."""
CHUNK = 256 << 10
"""How much of a long value travels in one frame, bytes: other frames go between two of them."""

PROTOCOL = 1
"""Version of this protocol; both sides name theirs in the first frame."""

# client -> agent
ATTACH, CONFIGURE, TASKS, RECALL, CANCEL, ACK, PING, BYE, FETCH, DROP = range(1, 11)
# both ways: a piece of a long value
PIECE = 20
# agent -> client
HELLO, READY, RESULTS, OUTPUT, RECALLED, PONG, SYNC, FAREWELL, NOTICE = range(31, 40)

# Records inside a RESULTS payload, written by workers: length of what follows, task, kind, seconds it took.
RECORD = struct.Struct("<IQBd")
RECORD_NONE, RECORD_VALUE, RECORD_ERROR, RECORD_LONG, RECORD_OUT, RECORD_ERR, RECORD_DEATH, RECORD_COMING = (
    range(8)
)
INLINE = 64 << 10
"""Values up to this many bytes travel inside a record or a task; longer ones on their own, bytes."""


class BadFrame(Exception):
    """The bytes are not a frame of ours."""


def encode(kind: int, header: Dict[str, Any], payload_length: int = 0) -> bytes:
    """Everything of a frame but its payload, which the caller sends right after."""
    text = to_json(header).encode("ascii")
    checked = _CHECKED.pack(MAGIC, kind, len(text), payload_length)
    return checked + _SUM.pack(zlib.crc32(text, zlib.crc32(checked))) + text


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames.

    A long payload is collected in a buffer of its own size, so that it is copied once. The one of a PIECE is used again
    for the next: who gets it must be through with it before asking for another frame.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._long: List[Any] = []  # [kind, header, target, filled] of a payload being collected
        self._piece = bytearray()

    @property
    def room(self) -> memoryview:
        """Where the rest of the payload that is being collected belongs; empty if there is none. Bytes read into it
        are told to `filled`."""
        if not self._long:
            return memoryview(b"")
        _, _, target, filled = self._long
        return memoryview(target)[filled:]

    def filled(self, count: int) -> Iterator[Tuple[int, Dict[str, Any], Buffer]]:
        """The frame that is complete, if it is, now that `count` bytes were read into `room`."""
        self._long[3] += count
        kind, header, target, filled = self._long
        if filled == len(target):
            self._long = []
            yield kind, header, target

    @property
    def is_between_frames(self) -> bool:
        return not self._buffer and not self._long

    def feed(self, data: Buffer) -> Iterator[Tuple[int, Dict[str, Any], Buffer]]:
        """The frames that `data` completes, as (type, header, payload).

        Raises:
            BadFrame: these bytes cannot be a frame; nothing after them can be trusted.
        """
        view = memoryview(data)
        while True:
            if self._long:
                kind, header, target, filled = self._long
                take = min(len(target) - filled, len(view))
                target[filled : filled + take] = view[:take]
                view = view[take:]
                self._long[3] = filled + take
                if filled + take < len(target):
                    return
                self._long = []
                yield kind, header, target
            if len(view):
                self._buffer += view
                view = view[:0]
            frame = self._next()
            if frame is None:
                return
            if frame[2] is None:
                continue
            yield frame

    def _next(self) -> Any:
        buffer = self._buffer
        if len(buffer) < PREFIX.size:
            if not MAGIC.startswith(bytes(buffer[:4])) and not bytes(buffer).startswith(MAGIC):
                raise BadFrame("not a frame: %r" % bytes(buffer[:32]))
            return None
        magic, kind, header_length, payload_length, checksum = PREFIX.unpack_from(buffer)
        if magic != MAGIC or header_length > MAX_HEADER or payload_length > MAX_PAYLOAD:
            raise BadFrame("not a frame: %r" % bytes(buffer[:32]))
        start = PREFIX.size + header_length
        if len(buffer) < start:
            return None
        text = bytes(buffer[PREFIX.size : start])
        if zlib.crc32(text, zlib.crc32(bytes(buffer[: _CHECKED.size]))) != checksum:
            raise BadFrame("checksum of a frame header does not match")
        if len(buffer) < start + payload_length and payload_length > INLINE:
            target = self._target(kind, payload_length)
            filled = len(buffer) - start
            target[:filled] = memoryview(buffer)[start:]
            self._long = [kind, _header(text), target, filled]
            self._buffer = bytearray()
            return None
        if len(buffer) < start + payload_length:
            return None
        payload = bytes(memoryview(buffer)[start : start + payload_length])
        del buffer[: start + payload_length]
        return kind, _header(text), payload

    def _target(self, kind: int, length: int) -> bytearray:
        """New memory for every piece would cost more than filling it."""
        if kind != PIECE:
            return bytearray(length)
        if len(self._piece) != length:
            self._piece = bytearray(length)
        return self._piece


def _header(text: bytes) -> Dict[str, Any]:
    try:
        header = from_json(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise BadFrame("a frame header is not JSON: %s" % error) from None
    if not isinstance(header, dict):
        raise BadFrame("a frame header is not an object")
    return header


def read_records(payload: Buffer) -> Iterator[Tuple[int, int, float, memoryview]]:
    """The records of a RESULTS payload as (task, kind, seconds, body).

    Raises:
        BadFrame: a record is cut short.
    """
    view = memoryview(payload)
    position, end, head = 0, len(view), RECORD.size
    while position < end:
        if end - position < head:
            raise BadFrame("a record is cut short")
        length, task, kind, seconds = RECORD.unpack_from(view, position)
        position += head
        if length > end - position:
            raise BadFrame("a record is cut short")
        yield task, kind, seconds, view[position : position + length]
        position += length
