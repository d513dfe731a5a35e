"""A machine that lies: whatever it sends, the client lives, runs nothing of it, and says which machine it was."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from skyward.errors import ProtocolError, RemoteError, TaskLost
from skyward.model.instance import Endpoint
from skyward.model.task import Task
from skyward.remote import wire
from skyward.remote.codec import allow_results_of, read_error, read_value
from skyward.remote.link import Link, WorkerSettings

HELLO = {
    "directory": "/x", "run_directory": "/x/y", "python": [3, 11, 0], "executable": "python3", "agent": "fake", "archives": [],
    "have": [], "disk_free_bytes": 1 << 40,
}  # fmt: skip


def frame(kind: int, header: dict[str, Any], payload: bytes = b"") -> bytes:
    return wire.encode(kind, header, len(payload)) + payload


def record(task: int, kind: int, body: bytes = b"") -> bytes:
    return wire.RECORD.pack(len(body), task, kind, 0.1) + body


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


MARK = Path(tempfile.gettempdir()) / f"skyward-ran-{os.urandom(8).hex()}"
"""Made by whoever runs what a liar sent."""
EVIL = pickle.dumps(Evil(str(MARK)))


def error_record(task: int, pickled: bytes) -> bytes:
    story = {"type": "E", "module": "m", "message": "x", "traceback": "", "exception": True, "kind": ""}
    text = json.dumps(story).encode()
    return record(task, wire.RECORD_ERROR, struct.pack("<I", len(text)) + text + pickled)


def long_result(task: int, body: bytes, total: int | None = None) -> bytes:
    """A result that comes in pieces, as it is announced and as it comes."""
    told = json.dumps({"form": "pickle", "parts": [len(body)]}).encode()
    header = {"name": f"r{task}", "offset": 0, "total": len(body) if total is None else total}
    return results(record(task, wire.RECORD_LONG, told)) + frame(wire.PIECE, header, body)


def nested(depth: int) -> bytes:
    """The pickle of a list in a list in a list."""
    return b"\x80\x05" + b"]" * depth + b"a" * (depth - 1) + b"."


def results(*records: bytes, seq: int = 1) -> bytes:
    return frame(wire.RESULTS, {}, b"".join((wire.SEQUENCE.pack(seq), *records)))


LAUGHS = (
    b"\x80\x05"
    + b"]"
    + b"".join(b"\x94h" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(20))
    + b"."
)
HOSTILE: dict[str, bytes] = {
    "noise": os.urandom(4000),
    "text": b"HTTP/1.1 200 OK\r\n\r\n" * 100,
    "short frame": frame(wire.PONG, {"at": 1})[:-3] + b"\0" * 40,
    "bad checksum": frame(wire.PONG, {"at": 1}).replace(b'"at"', b'"aT"'),
    "no sequence": frame(wire.RESULTS, {}),
    "half a sequence": frame(wire.RESULTS, {}, b"\1\0\0"),
    "a sequence far ahead": results(record(1, wire.RECORD_NONE), seq=2**64 - 1),
    "record cut": results(record(1, 1, b"abc")[:-2]),
    "record of a tebibyte": results(wire.RECORD.pack(2**32 - 1, 1, 1, 0.0)),
    "unknown record": results(record(1, 99, b"x")),
    "error without text": results(record(1, wire.RECORD_ERROR)),
    "error of nonsense": results(record(1, wire.RECORD_ERROR, struct.pack("<I", 1 << 30) + b"{}")),
    "error not an object": results(record(1, wire.RECORD_ERROR, struct.pack("<I", 2) + b"[]")),
    "death of nonsense": results(record(1, wire.RECORD_DEATH, b"not json")),
    "death is a list": results(record(1, wire.RECORD_DEATH, b"[]")),
    "long of nonsense": results(record(1, wire.RECORD_LONG, b"{}")),
    "long of a negative size": results(
        record(1, wire.RECORD_LONG, json.dumps({"form": "pickle", "parts": [-5]}).encode())
    ),
    "value not a pickle": results(record(1, wire.RECORD_VALUE, b"garbage")),
    "value empty": results(record(1, wire.RECORD_VALUE)),
    "value of a tebibyte": results(
        record(1, wire.RECORD_VALUE, b"\x80\x05\x8e" + struct.pack("<Q", 1 << 40))
    ),
    "value that laughs": results(record(1, wire.RECORD_VALUE, LAUGHS)),
    "value that runs a command": results(record(1, wire.RECORD_VALUE, EVIL)),
    "error that runs a command": results(error_record(1, EVIL)),
    "long value that runs a command": long_result(1, EVIL),
    "long value of another length": long_result(1, EVIL, total=len(EVIL) + 1),
    "long value longer than announced": long_result(1, EVIL)
    + frame(wire.PIECE, {"name": "r1", "offset": 0, "total": 9}, EVIL),
    "long value of a tebibyte": results(
        record(1, wire.RECORD_LONG, json.dumps({"form": "pickle", "parts": [1 << 60]}).encode())
    ),
    "value nested without end": results(record(1, wire.RECORD_VALUE, nested(25_000))),
    "value of another module": results(record(1, wire.RECORD_VALUE, b"csubprocess\ncheck_output\n.")),
    "piece of a log nobody asked for": frame(
        wire.PIECE, {"name": "worker-0.log", "offset": 0, "total": 4}, b"abcd"
    ),
    "stalled task of nobody": frame(
        wire.NOTICE, {"what": "stalled", "task": 77, "pid": 1, "for_s": 1e308, "stopped": False}
    ),
    "stalled task of text": frame(
        wire.NOTICE, {"what": "stalled", "task": 1, "pid": "x", "for_s": "y", "stopped": 0}
    ),
    "stalled task of nothing": frame(wire.NOTICE, {"what": "stalled"}),
    "output that is less than nothing": frame(wire.OUTPUT, {"task": 1, "stream": "err", "dropped": "many"}),
    "a value that is not there": frame(wire.NOTICE, {"what": "no-such-value"}),
    "piece of nothing": frame(wire.PIECE, {}),
    "piece of a negative offset": frame(wire.PIECE, {"name": "r1", "offset": -1, "total": 4}, b"abcd"),
    "recalled a dict": frame(wire.RECALLED, {"tasks": {"a": 1}}),
    "recalled nothing": frame(wire.RECALLED, {}),
    "output of nobody": frame(wire.OUTPUT, {"task": 10**30, "stream": "out"}, b"x"),
    "output without a task": frame(wire.OUTPUT, {}),
    "pong of text": frame(wire.PONG, {"at": "now"}),
    "unknown notice": frame(wire.NOTICE, {"what": "dance"}),
    "notice of nothing": frame(wire.NOTICE, {}),
    "unknown frame": frame(222, {"a": 1}, b"zzz"),
    "a second hello": frame(wire.HELLO, {"python": "x"}),
    "the client's own frame": frame(wire.CONFIGURE, {}),
    "nested header": wire.encode(wire.PONG, {"at": json.loads("[" * 500 + "]" * 500)}),
    "result of a task never sent": results(record(77, wire.RECORD_VALUE, pickle.dumps(1))),
    "the same result twice": results(record(1, wire.RECORD_VALUE, pickle.dumps(9)))
    + results(record(1, wire.RECORD_VALUE, pickle.dumps(8)), seq=2),
    "the stream ends": b"",
}
JUST_ODD = ("value that laughs", "value nested without end")
"""Plain data, if not such as anybody would return: it may be believed."""
WELCOME = frame(wire.HELLO, HELLO) + frame(wire.SYNC, {"known": []})
READY = frame(wire.READY, {"workers": [[0, 0, 1]]})
LIAR = """
import os, sys, time, struct
data = bytes.fromhex(sys.argv[1]); hello = bytes.fromhex(sys.argv[2])
ready = bytes.fromhex(sys.argv[3])
os.write(1, hello)
seen = b""
def wait_for(kind):
    global seen
    while b"SKY1" + bytes([kind]) not in seen:
        piece = os.read(0, 65536)
        if not piece: sys.exit()
        seen += piece
wait_for(2)     # CONFIGURE
os.write(1, ready)
wait_for(3)     # TASKS
while data: data = data[os.write(1, data):]
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_lying_machine_hurts_nobody(make_harness: Any, name: str, tmp_path: Path) -> None:
    harness = make_harness(results="safe", retries=0)
    link = _lying_link(HOSTILE[name])
    harness.links.append(link)
    link.open(10)
    link.configure(WorkerSettings(python="python3"))
    harness.engine.add_node(link)
    began = time.monotonic()

    outcome = harness.call(abs, -3, wait_s=20)

    assert time.monotonic() - began < 15
    assert outcome.verdict in ("failed", "lost", "succeeded")
    assert outcome.value in (None, 9, 1) or name in JUST_ODD
    harness.add(Endpoint(kind="local"))
    assert harness.call(abs, -4, wait_s=20, retries=3).result() == 4, (
        "the pool goes on with an honest machine"
    )
    assert not MARK.exists(), "something of what it sent was run"


def test_where_results_are_trusted_the_same_value_is_read_with_all_it_does() -> None:
    """What the corpus sends does run where it may: otherwise it would prove nothing."""
    read_value(EVIL, (), safe=False)

    assert MARK.exists()
    MARK.unlink()


def _lying_link(lie: bytes, *, welcomes: tuple[bytes, ...] = (WELCOME,), ready: bytes = READY) -> Link:
    """A link behind which there is somebody else in the place of an agent, each time with another welcome; the last is kept."""
    left = list(welcomes)

    def command(_: Endpoint) -> str:
        welcome = left.pop(0) if len(left) > 1 else left[0]
        return "exec " + shlex.join([sys.executable, "-c", LIAR, lie.hex(), welcome.hex(), ready.hex()])

    return Link(Endpoint(kind="local"), node=0, session="lie", linger_s=0.2, lost_s=0.2, command=command)


def hello(**changed: Any) -> bytes:
    return frame(wire.HELLO, {**HELLO, **changed}) + frame(wire.SYNC, {"known": []})


NO_WELCOME = {
    "no hello": frame(wire.SYNC, {"known": []}),
    "nothing said": frame(wire.HELLO, {}) + frame(wire.SYNC, {"known": []}),
    "python is text": hello(python="3.11"),
    "python is short": hello(python=[3]),
    "pythons are a number": hello(pythons=5),
    "no size": hello(disk_free_bytes="much"),
    "blobs are a number": hello(have=7),
    "archives are numbers": hello(archives=[1]),
    "an agent of lists": hello(agent=[]),
}


@pytest.mark.parametrize("name", NO_WELCOME)
def test_who_says_nonsense_of_his_machine_is_no_agent(name: str) -> None:
    link = _lying_link(b"", welcomes=(NO_WELCOME[name],))

    with pytest.raises(ProtocolError, match="of its machine makes no sense"):
        link.open(10)

    link.close()


@pytest.mark.parametrize("workers", [3, None, {}])
def test_workers_that_make_no_sense_are_none(workers: Any) -> None:
    link = _lying_link(b"", ready=frame(wire.READY, {"workers": workers} if workers != {} else {}))
    link.open(10)

    with pytest.raises(ProtocolError, match="of its workers makes no sense"):
        link.configure(WorkerSettings(python="python3"))

    link.close()


@pytest.mark.parametrize(
    "second",
    [hello(have=7), frame(wire.HELLO, HELLO) + frame(wire.SYNC, {"known": 5}), frame(wire.HELLO, HELLO) + frame(wire.SYNC, {})],
    ids=["blobs are a number", "known is a number", "nothing known"],
)  # fmt: skip
def test_who_comes_back_with_nonsense_is_given_up_and_its_task_moves(
    make_harness: Any, second: bytes
) -> None:
    harness = make_harness(retries=1)
    link = _lying_link(b"", welcomes=(WELCOME, second))
    harness.links.append(link)
    link.open(10)
    link.configure(WorkerSettings(python="python3"))
    harness.engine.add_node(link)
    harness.add(Endpoint(kind="local"))

    sink, _ = harness.start([Task(abs, (-3,)), Task(abs, (-4,))])  # one for each

    assert [outcome.result() for outcome in sink.wait(20)] == [3, 4]
    deadline = time.monotonic() + 15
    while not link.is_closed and time.monotonic() < deadline:
        time.sleep(0.02)
    assert link.is_closed


def test_a_pickle_that_runs_a_command_is_refused_where_results_are_not_trusted(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    bad = pickle.dumps(Evil(str(mark)))

    with pytest.raises(RemoteError, match="not allowed"):
        read_value(bad, (), safe=True)
    story = json.dumps(
        {"type": "E", "module": "m", "message": "x", "traceback": "", "exception": True, "kind": ""}
    ).encode()
    error = read_error(memoryview(struct.pack("<I", len(story)) + story + bad), safe=True)

    assert isinstance(error, RemoteError)
    assert not mark.exists()


def test_plain_data_arrays_and_what_the_user_allows_are_read_safely() -> None:
    import collections
    import datetime
    import decimal

    numpy = pytest.importorskip("numpy")
    for value in (
        [1, {"a": (2.5, None)}],
        {1, 2},
        datetime.datetime(2026, 1, 1),
        decimal.Decimal("1.5"),
        collections.OrderedDict(a=1),
        ValueError("x").args,
    ):
        assert read_value(pickle.dumps(value, 5), (), safe=True) == value
    array = numpy.arange(5.0)
    assert (read_value(pickle.dumps(array, 5), (), safe=True) == array).all()
    assert read_value(pickle.dumps(numpy.float64(2.5), 5), (), safe=True) == 2.5
    with pytest.raises(RemoteError):
        read_value(pickle.dumps(Path("/x") and Mine()), (), safe=True)
    allow_results_of(Mine)
    assert isinstance(read_value(pickle.dumps(Mine()), (), safe=True), Mine)


class Mine:
    pass


def test_tasks_of_a_lying_machine_move_to_an_honest_one(make_harness: Any, tmp_path: Path) -> None:
    harness = make_harness()
    link = _lying_link(HOSTILE["noise"])
    harness.links.append(link)
    link.open(10)
    link.configure(WorkerSettings(python="python3"))
    harness.engine.add_node(link)
    harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))

    sink, _ = harness.start([Task(abs, (-i,)) for i in range(20)])

    assert [outcome.result() for outcome in sink.wait(30)] == list(range(20))


def test_without_retries_a_lost_task_says_where_it_was_lost(make_harness: Any) -> None:
    harness = make_harness(retries=0)
    link = _lying_link(HOSTILE["noise"])
    harness.links.append(link)
    link.open(10)
    link.configure(WorkerSettings(python="python3"))
    harness.engine.add_node(link)

    error = harness.call(abs, -3, wait_s=20).error

    assert isinstance(error, TaskLost)
    assert "speaks nonsense" in str(error) or "no node is left" in str(error)
