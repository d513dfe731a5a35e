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

from skyward.remote.node.lean import from_json, to_json

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

    Buffer = Union[bytes, bytearray, memoryview]

MAGIC = b"SKY1"
PREFIX = struct.Struct("<4sBIQI")
_CHECKED = struct.Struct("<4sBIQ")
_SUM = struct.Struct("<I")

MAX_HEADER = 16 << 20
"""A header larger than this is nonsense, bytes."""
MAX_PAYLOAD = 64 << 20
"""Payloads are cut into frames far smaller than this, bytes."""
REMEMBERED = 1 << 10
"""A header up to this many bytes is not read again when the next one is the same."""
CHUNK = 256 << 10
"""How much of a long value travels in one frame, bytes: other frames go between two of them."""

PROTOCOL = 2
"""Version of this protocol; both sides name theirs in the first frame."""

# client -> agent
ATTACH, CONFIGURE, TASKS, RECALL, CANCEL, ACK, PING, BYE, FETCH, DROP = range(1, 11)
# both ways: a piece of a long value
PIECE = 20
# agent -> client
HELLO, READY, RESULTS, OUTPUT, RECALLED, PONG, SYNC, FAREWELL, NOTICE = range(31, 40)

CHUNK_HEAD = struct.Struct("<QQIQ")
"""What is before each chunk in the payload of TASKS: its number, its first task, how many, length of what follows. Numbers
that are others every time are not in a header, so that a header is mostly the one before."""
SEQUENCE = struct.Struct("<Q")
"""What is before the records in the payload of RESULTS: its place among all of them."""
WORK = struct.Struct("<QIIIIQ")
"""What an agent puts before the tasks it gives to a worker: first task and how many the chunk has, from which one up to
before which one they are its own, length of their header and of their payload. A chunk of none tells, in its header, of
a long value that is arriving."""

# Records inside a RESULTS payload, written by workers: length of what follows, task, kind, seconds it took.
RECORD = struct.Struct("<IQBd")
RECORD_NONE, RECORD_VALUE, RECORD_ERROR, RECORD_LONG, RECORD_OUT, RECORD_ERR, RECORD_DEATH, RECORD_COMING = (
    range(8)
)
RECORD_DONE = 4 << 10
"""A worker's last record up to this many bytes is sent with the word that its chunk is done."""
INLINE = 64 << 10
"""Values up to this many bytes travel inside a record or a task; longer ones on their own, bytes."""


class BadFrame(Exception):
    """The bytes are not a frame of ours."""


def write_header(header: Dict[str, Any]) -> bytes:
    return to_json(header).encode("ascii")


def encode(kind: int, header: Union[Dict[str, Any], bytes], payload_length: int = 0) -> bytes:
    """Everything of a frame but its payload, which the caller sends right after. A header may be written already."""
    text = header if isinstance(header, bytes) else write_header(header)
    checked = _CHECKED.pack(MAGIC, kind, len(text), payload_length)
    return checked + _SUM.pack(zlib.crc32(text, zlib.crc32(checked))) + text


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames.

    A long payload is collected in a buffer of its own size, so that it is copied once. The one of a PIECE is used again
    for the next: who gets it must be through with it before asking for another frame. Headers that are alike are one.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()  # the start of a frame whose rest has not come
        self._wanted = 0  # how much has to be there before it is worth looking at, bytes
        self._long: List[Any] = []  # [kind, header, target, filled] of a payload being collected
        self._piece = bytearray()
        self._last: Tuple[bytes, Dict[str, Any]] = (b"{}", {})

    @property
    def room(self) -> Optional[memoryview]:
        """Where the rest of the payload that is being collected belongs; None if there is none. Bytes read into it
        are told to `filled`."""
        if not self._long:
            return None
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
        """The frames that `data` completes, as (type, header, payload). Whole frames are read where they are.

        Raises:
            BadFrame: these bytes cannot be a frame; nothing after them can be trusted.
        """
        view = memoryview(data)
        if self._long:
            room = self.room
            assert room is not None
            take = min(len(room), len(view))
            room[:take] = view[:take]
            view = view[take:]
            yield from self.filled(take)
        if self._buffer:
            self._buffer += view
            if len(self._buffer) < self._wanted:
                return
            view = memoryview(bytes(self._buffer))
            self._buffer.clear()
        while len(view):
            head = self._head(view)
            if head is None:
                self._buffer += view
                return
            kind, header, start, length = head
            end = start + length
            if end <= len(view) and (length <= INLINE or kind != PIECE):
                yield kind, header, bytes(view[start:end])
                if end == len(view):
                    return
                view = view[end:]
            elif length <= INLINE:
                self._wanted = end
                self._buffer += view
                return
            else:
                target = self._target(kind, length)
                take = min(length, len(view) - start)
                target[:take] = view[start : start + take]
                view = view[start + take :]
                self._long = [kind, header, target, 0]
                yield from self.filled(take)

    def _head(self, view: memoryview) -> Any:
        """(type, header, where the payload begins, its length) of the frame at the start of `view`; None while that is not
        all there, and `_wanted` says how much has to be."""
        if len(view) < PREFIX.size:
            start = bytes(view[: len(MAGIC)])
            if not MAGIC.startswith(start):
                raise BadFrame("not a frame: %r" % bytes(view))
            self._wanted = PREFIX.size
            return None
        magic, kind, header_length, payload_length, checksum = PREFIX.unpack_from(view)
        if magic != MAGIC or header_length > MAX_HEADER or payload_length > MAX_PAYLOAD:
            raise BadFrame("not a frame: %r" % bytes(view[:32]))
        start = PREFIX.size + header_length
        if len(view) < start:
            self._wanted = start
            return None
        text = bytes(view[PREFIX.size : start])
        if zlib.crc32(text, zlib.crc32(view[: _CHECKED.size])) != checksum:
            raise BadFrame("checksum of a frame header does not match")
        if text == self._last[0]:
            return kind, self._last[1], start, payload_length
        header = read_header(text)
        if len(text) <= REMEMBERED:
            self._last = text, header
        return kind, header, start, payload_length

    def _target(self, kind: int, length: int) -> bytearray:
        """New memory for every piece would cost more than filling it."""
        if kind != PIECE:
            return bytearray(length)
        if len(self._piece) != length:
            self._piece = bytearray(length)
        return self._piece


def read_header(text: bytes) -> Dict[str, Any]:
    """A header that was written by `write_header`.

    Raises:
        BadFrame: it is nothing of the kind.
    """
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
    nothing = view[:0]
    position, end, head, unpack = 0, len(view), RECORD.size, RECORD.unpack_from
    while position < end:
        if end - position < head:
            raise BadFrame("a record is cut short")
        length, task, kind, seconds = unpack(view, position)
        position += head
        if length > end - position:
            raise BadFrame("a record is cut short")
        yield task, kind, seconds, view[position : position + length] if length else nothing
        position += length
