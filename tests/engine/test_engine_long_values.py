"""Long values: each arrives as what it was, wherever it is read from, and whatever happens on its way."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from skyward.model.task import Task, TaskOptions
from skyward.remote.node.descriptors import Poller
from skyward.remote.node.line import Line
from skyward.remote.node.values import Values
from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer

MIB = 1 << 20


def kind_and_sum(value: Any) -> tuple[str, str]:
    import hashlib

    data = value.encode() if isinstance(value, str) else value
    return type(value).__name__, hashlib.sha256(data).hexdigest()


def sum_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_equal_bytes_text_and_arrays_of_bytes_arrive_as_their_own_kind(local: Any) -> None:
    data = b"a" * 300_000
    for values in ([data, data.decode(), bytearray(data)] * 2, [data.decode(), data, bytearray(data)]):
        outcomes = local.map(kind_and_sum, values)
        assert [one.value for one in outcomes] == [(type(value).__name__, sum_of(data)) for value in values]


@pytest.mark.parametrize("kind", [bytes, str, bytearray])
def test_a_value_that_is_read_while_it_arrives_is_whole(remote: Any, kind: type) -> None:
    for size in (8 * MIB - 1, 8 * MIB, 24 * MIB + 13):
        data = os.urandom(size // 2).hex().encode() + b"x" * (size % 2)
        value = data.decode() if kind is str else kind(data)
        assert remote.call(kind_and_sum, value).value == (kind.__name__, sum_of(data))


def test_a_worker_that_reads_ahead_still_takes_other_work(
    make_harness: Any, sshd: SSHServer, chaos: ChaosProxy
) -> None:
    harness = make_harness()
    harness.add(chaos.endpoint(sshd.endpoint))
    harness.call(abs, -1)
    chaos.up.bytes_per_s = 6 * MIB
    data = os.urandom(16 * MIB)
    long, _ = harness.start([Task(kind_and_sum, (data,), None, TaskOptions())])
    time.sleep(0.5)  # it is arriving, and the only worker reads it
    began = time.monotonic()
    assert harness.call(abs, -7).value == 7
    assert long.left == 1, "the long value had arrived before; the test shows nothing"
    assert time.monotonic() - began < 1.5
    assert long.wait(30)[0].value == ("bytes", sum_of(data))


def test_a_value_cut_on_its_way_is_whole_in_the_end(
    make_harness: Any, sshd: SSHServer, chaos: ChaosProxy
) -> None:
    harness = make_harness()
    harness.add(chaos.endpoint(sshd.endpoint))
    data = os.urandom(20 * MIB)
    chaos.up.cut_at = chaos.up.forwarded + 11 * MIB
    assert harness.call(kind_and_sum, data).value == ("bytes", sum_of(data))
    chaos.down.cut_at = chaos.down.forwarded + 11 * MIB
    assert harness.call(os.urandom, 20 * MIB).value is not None


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_long_result_comes_back_as_what_it_was(remote: Any, kind: type) -> None:
    def make(size: int, kind: type) -> Any:
        return kind(bytes(range(256)) * (size // 256))

    value = remote.call(make, 16 * MIB, kind).value
    assert type(value) is kind
    assert value == bytes(range(256)) * (16 * MIB // 256)


def test_the_rest_of_a_value_that_was_refused_makes_no_file_with_a_hole(tmp_path: Path) -> None:
    line = Line(Poller(), handle=lambda *frame: None, detached=lambda: None)
    values = Values(str(tmp_path), str(tmp_path / "logs"), line)
    begun: list[str] = []
    piece = b"x" * 1000

    def take(offset: int) -> bool:
        return values.take(
            {"digest": "d", "offset": offset, "total": 3000},
            piece,
            lambda digest, total: begun.append(digest),
        )

    assert not any(map(take, (1000, 2000)))
    assert not values.have
    assert not begun
    assert [take(offset) for offset in (0, 1000, 2000)] == [False, False, True]
    assert values.have == {"d"}
    assert begun == ["d"]
    assert (tmp_path / "blobs" / "d").read_bytes() == 3 * piece
