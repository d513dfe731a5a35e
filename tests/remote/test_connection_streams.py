"""What every connection promises, asked of this machine and of one behind SSH."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from skyward.errors import ConnectionLost
from skyward.model.instance import Endpoint
from skyward.remote.connection import Connection, Stream, connect

MB = 1 << 20


@pytest.fixture(params=["local", "ssh"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    if request.param == "local":
        endpoint = Endpoint(kind="local")
    else:
        endpoint = request.getfixturevalue("sshd").endpoint
    opened = connect(endpoint)
    yield opened
    opened.close()


def read_all(stream: Stream) -> bytes:
    return b"".join(iter(lambda: stream.read(MB), b""))


def send(stream: Stream, data: bytes) -> None:
    stream.write(data)
    stream.close_write()


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_command_gives_its_output_its_errors_and_its_status(connection: Connection) -> None:
    done = connection.run("cat; echo bad >&2; exit 7", stdin=b"good")

    assert (done.stdout, done.stderr, done.exit_status) == (b"good", b"bad\n", 7)


def test_a_command_line_is_read_as_sh_reads_it(connection: Connection) -> None:
    done = connection.run(
        "x='a  b'; for i in 1 2; do printf '%s|' \"$x$i\"; done; echo \"it's \\\\ ok\" # no"
    )

    assert done.stdout == b"a  b1|a  b2|it's \\ ok\n"


def test_a_command_ended_by_a_signal_has_the_status_a_shell_gives_it(connection: Connection) -> None:
    assert connection.run("kill -9 $$").exit_status == 137
    assert connection.run("kill -TERM $$").exit_status == 143


def test_bytes_arrive_as_they_were_sent_in_both_directions(connection: Connection) -> None:
    sent = random.Random(1).randbytes(8 * MB + 12345)
    stream = connection.open("exec cat")

    writer = in_thread(lambda: send(stream, sent))
    received = read_all(stream)
    writer.join(10)

    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
    assert stream.exit_status() == 0


def test_read_gives_what_there_is_without_waiting_for_more(connection: Connection) -> None:
    stream = connection.open("exec cat")

    stream.write(b"abcdef")

    assert stream.read(4) == b"abcd"
    assert stream.read(100) == b"ef"


def test_any_bytes_like_value_can_be_written(connection: Connection) -> None:
    stream = connection.open("exec cat")

    for value in (b"a", bytearray(b"b"), memoryview(b"xcx")[1:2], memoryview(b"\1\0\2\0").cast("H"), b""):
        stream.write(value)
    stream.close_write()

    assert read_all(stream) == b"abc\1\0\2\0"


def test_writes_of_several_threads_do_not_mix(connection: Connection) -> None:
    stream = connection.open("exec cat")
    blocks = [bytes((65 + n,)) * 300_000 for n in range(8)]

    writers = [in_thread(lambda block=block: stream.write(block)) for block in blocks]
    received = bytearray()
    while len(received) < 8 * 300_000:
        received += stream.read(MB)
    for writer in writers:
        writer.join(10)

    runs = [received[at : at + 300_000] for at in range(0, len(received), 300_000)]
    assert sorted(map(bytes, runs)) == blocks


def test_closing_wakes_a_reader(connection: Connection) -> None:
    stream = connection.open("exec sleep 60")
    got: list[bytes] = []
    reader = in_thread(lambda: got.append(stream.read(10)))
    time.sleep(0.1)

    stream.close()
    reader.join(2)

    assert got == [b""]


def test_closing_wakes_a_writer_whose_peer_does_not_read(connection: Connection) -> None:
    stream = connection.open("exec sleep 60")
    raised: list[BaseException] = []

    def write() -> None:
        try:
            stream.write(bytes(200 * MB))
        except ConnectionLost as error:
            raised.append(error)

    writer = in_thread(write)
    time.sleep(0.3)
    assert writer.is_alive(), "the peer does not read, so the write must wait"

    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 1
    writer.join(2)

    assert len(raised) == 1


def test_closing_twice_or_after_the_connection_is_silent(connection: Connection) -> None:
    stream = connection.open("exec cat")

    stream.close()
    stream.close()
    connection.close()
    connection.close()
    stream.close()
    stream.close_write()

    assert stream.read(1) == b""
    assert not connection.is_alive


def test_nothing_starts_on_a_closed_connection(connection: Connection) -> None:
    connection.close()

    with pytest.raises(ConnectionLost):
        connection.open("true")


def test_writing_to_a_closed_stream_is_an_error(connection: Connection) -> None:
    stream = connection.open("exec cat")
    stream.close()

    with pytest.raises(ConnectionLost):
        stream.write(b"x")


def test_writing_to_a_command_that_has_ended_is_an_error(connection: Connection) -> None:
    stream = connection.open("exit 3")
    assert read_all(stream) == b""
    assert stream.exit_status() == 3

    def write_on() -> None:
        for _ in range(100):
            stream.write(bytes(MB))
            time.sleep(0.01)

    with pytest.raises(ConnectionLost):
        write_on()


def test_the_status_of_a_running_command_is_unknown(connection: Connection) -> None:
    stream = connection.open("exec sleep 60")

    assert stream.exit_status(0.05) is None


def test_only_the_end_of_a_long_standard_error_is_kept(connection: Connection) -> None:
    stream = connection.open("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done >&2; echo done")

    assert read_all(stream) == b"done\n"
    tail = stream.stderr_tail()

    assert tail.endswith("line 19998\nline 19999\n")
    assert len(tail) <= 4096


def test_a_flood_on_standard_error_stops_nothing(connection: Connection) -> None:
    done = connection.run(f"head -c {100 * MB} /dev/zero >&2; echo through", timeout_s=30)

    assert done.stdout == b"through\n"
    assert len(done.stderr) <= MB


def test_standard_error_that_is_not_text_can_be_shown(connection: Connection) -> None:
    stream = connection.open("printf '\\377\\376ok' >&2")
    read_all(stream)

    assert stream.stderr_tail().endswith("ok")


def test_run_is_bounded(connection: Connection) -> None:
    began = time.monotonic()

    with pytest.raises(ConnectionLost, match=r"within 0\.3 s"):
        connection.run("exec sleep 60", timeout_s=0.3)

    assert time.monotonic() - began < 3
    assert connection.run("echo next").stdout == b"next\n"


def test_run_feeds_a_command_that_talks_while_it_listens(connection: Connection) -> None:
    data = os.urandom(6 * MB)

    assert connection.run("cat", stdin=data).stdout == data


def test_run_does_not_mind_a_command_that_ignores_its_input(connection: Connection) -> None:
    assert connection.run("echo no", stdin=bytes(6 * MB)).stdout == b"no\n"


def test_commands_run_side_by_side(connection: Connection) -> None:
    began = time.monotonic()

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: connection.run(f"sleep 0.5; echo {n}"), range(8)))

    assert [each.stdout for each in done] == [b"%d\n" % n for n in range(8)]
    assert time.monotonic() - began < 3


def test_a_callback_gets_everything_in_order_and_the_end_once(connection: Connection) -> None:
    sent = random.Random(2).randbytes(3 * MB)
    stream = connection.open("echo early; exec cat")
    deadline = time.monotonic() + 5
    while (
        time.monotonic() < deadline and stream.read(1) != b"e"
    ):  # the rest of it arrives before the callback does
        pass
    time.sleep(0.05)
    pieces: list[bytes] = []
    ended = threading.Event()

    def take(data: bytes) -> None:
        pieces.append(data)
        if not data:
            ended.set()

    stream.on_data(take)
    stream.write(sent)
    stream.close_write()

    assert ended.wait(10)
    assert b"".join(pieces) == b"arly\n" + sent
    assert pieces.count(b"") == 1


def test_a_callback_may_write(connection: Connection) -> None:
    stream = connection.open("exec cat")
    rounds: list[int] = []
    done = threading.Event()

    def answer(data: bytes) -> None:
        rounds.append(len(data))
        if len(rounds) == 200:
            done.set()
        elif data:
            stream.write(b"x")

    stream.on_data(answer)
    stream.write(b"x")

    assert done.wait(10)


def test_a_callback_hears_of_the_end_when_the_connection_is_closed(connection: Connection) -> None:
    stream = connection.open("exec sleep 60")
    pieces: list[bytes] = []
    ended = threading.Event()

    def take(data: bytes) -> None:
        pieces.append(data)
        ended.set()

    stream.on_data(take)

    connection.close()

    assert ended.wait(2)
    assert pieces == [b""]


def test_a_command_sees_the_end_of_its_input_when_its_stream_is_closed(connection: Connection) -> None:
    path = f"/tmp/skyward-{os.getpid()}-{random.random()}"
    stream = connection.open(f"cat >/dev/null; echo seen > {path}")

    stream.close()

    deadline = time.monotonic() + 3
    while connection.run(f"cat {path} 2>/dev/null; true").stdout != b"seen\n":
        assert time.monotonic() < deadline
    connection.run(f"rm {path}")
