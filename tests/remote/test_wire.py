"""Frames: whatever the bytes do, never a wrong frame."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.remote import wire

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
frames = st.tuples(
    st.integers(0, 255), st.dictionaries(st.text(), json_values, max_size=4), st.binary(max_size=300)
)


def written(frame: tuple[int, dict[str, Any], bytes]) -> bytes:
    kind, header, payload = frame
    return wire.encode(kind, header, len(payload)) + payload


def read(decoder: wire.Decoder, data: bytes) -> list[tuple[int, dict[str, Any], bytes]]:
    return [(kind, header, bytes(payload)) for kind, header, payload in decoder.feed(data)]


@given(st.lists(frames, max_size=5), st.data())
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(sent: list[Any], data: Any) -> None:
    stream = b"".join(map(written, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder, got = wire.Decoder(), []

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += read(decoder, stream[start:end])

    assert got == sent
    assert decoder.is_between_frames


def test_an_exchange_cut_at_every_byte_never_gives_a_wrong_frame() -> None:
    sent = [
        (wire.TASKS, {"chunks": [{"chunk": 1, "ids": [1, 2]}]}, b"x" * 900),
        (wire.RESULTS, {"seq": 1}, b"y" * 700),
        (wire.PIECE, {"total": 70_000}, b"z" * 70_000),
    ]
    stream = b"".join(map(written, sent))
    for cut in [*range(1800), *range(1800, len(stream), 97)]:
        decoder = wire.Decoder()
        got = read(decoder, stream[:cut])
        assert got == sent[: len(got)]
        assert decoder.is_between_frames == (cut == sum(len(written(one)) for one in sent[: len(got)]))


@settings(max_examples=300)
@given(frames, st.data())
def test_a_flipped_bit_in_what_frames_a_payload_never_gives_a_frame(frame: Any, data: Any) -> None:
    good = bytearray(written(frame))
    head = len(good) - len(frame[2])
    at = data.draw(st.integers(0, head * 8 - 1))
    good[at // 8] ^= 1 << at % 8

    try:
        got = read(wire.Decoder(), bytes(good) + b"\0" * 64)
    except wire.BadFrame:
        return
    assert got == [], "a header that became longer is waited for, and refused when it is complete"


@given(st.binary(min_size=4, max_size=200))
def test_noise_is_not_a_frame(noise: bytes) -> None:
    if noise[:4] == wire.MAGIC:
        return
    with pytest.raises(wire.BadFrame):
        read(wire.Decoder(), noise)


def forged(header: bytes, payload_length: int = 0, kind: int = 3) -> bytes:
    checked = struct.pack("<4sBIQ", wire.MAGIC, kind, len(header), payload_length)
    return checked + struct.pack("<I", zlib.crc32(header, zlib.crc32(checked))) + header


@pytest.mark.parametrize(
    "bytes_",
    [
        forged(b"not json"), forged(b"[1]"), forged(b"3"), forged(b"\xff\xfe"), forged(b"[" * 100_000), forged(b"{}", 1 << 40),
        struct.pack("<4sBIQI", wire.MAGIC, 3, 1 << 31, 0, 0), forged(b'{"a":1}')[:-1] + b"x",
    ],
)  # fmt: skip
def test_forged_frames_are_refused_and_take_no_memory(bytes_: bytes) -> None:
    with pytest.raises(wire.BadFrame):
        read(wire.Decoder(), bytes_ + b"\0" * 64)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255), st.floats(0, 1e9), st.binary(max_size=50)),
        max_size=6,
    ),
    st.data(),
)
def test_records_are_whole_or_refused(records: list[Any], data: Any) -> None:
    payload = b"".join(
        wire.RECORD.pack(len(body), task, kind, seconds) + body for task, kind, seconds, body in records
    )
    assert [(a, b, c, bytes(d)) for a, b, c, d in wire.read_records(payload)] == records
    cut = data.draw(st.integers(0, len(payload)))
    ends = {0}
    for _, _, _, body in records:
        ends.add(max(ends) + wire.RECORD.size + len(body))
    if cut in ends:
        return
    with pytest.raises(wire.BadFrame):
        list(wire.read_records(payload[:cut]))


def test_headers_are_json_and_nothing_else() -> None:
    text = wire.encode(5, {"a": "é", "b": None})[wire.PREFIX.size :]
    assert json.loads(text) == {"a": "é", "b": None}
