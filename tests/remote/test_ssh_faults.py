"""Networks and machines at their worst: always an answer, always in time, never a torn stream that looks whole."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pytest

from skyward.errors import ConnectionLost, HostUnreachable, SkywardError, TransportError
from skyward.model.instance import Endpoint
from skyward.remote.connection import Connection, Stream, connect
from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import SSHServer, free_address

MakeSSHD = Callable[..., SSHServer]
MB = 1 << 20


def unreachable(endpoint: Endpoint, deadline_s: float | None = None, within_s: float = 5) -> HostUnreachable:
    began = time.monotonic()
    with pytest.raises(HostUnreachable) as caught:
        connect(endpoint, deadline_s=deadline_s)
    assert time.monotonic() - began < within_s
    return caught.value


@contextmanager
def listener(answer: bytes | None = None, *, backlog: int = 5) -> Iterator[Endpoint]:
    """A TCP port that says `answer` to everyone and then nothing; None never accepts."""
    address, port = free_address()
    server = socket.create_server((address, port), backlog=backlog)
    clients: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                clients.append(server.accept()[0])
                clients[-1].sendall(answer or b"")
            except OSError:
                return

    if answer is not None:
        threading.Thread(target=serve, daemon=True).start()
    yield Endpoint(host=address, port=port, user="u", host_keys=("ssh-ed25519 AAAA",), connect_timeout_s=0.5)
    server.shutdown(socket.SHUT_RDWR)
    for sock in (server, *clients):
        sock.close()


# -- before the first packet ---------------------------------------------------------------------------------


def test_a_machine_that_is_down_refuses_at_once(sshd: SSHServer) -> None:
    sshd.kill()

    error = unreachable(sshd.endpoint, within_s=1)

    assert error.values["phase"] == "connect"
    assert "connection refused: nothing listens at port 2222 (yet)" in str(error)


def test_a_machine_can_be_connected_to_as_soon_as_it_is_back(sshd: SSHServer) -> None:
    sshd.kill()
    unreachable(sshd.endpoint)

    sshd.restart()

    assert connect(sshd.endpoint).run("hostname").stdout.strip()


def test_a_machine_that_drops_packets_is_given_up_in_time() -> None:
    with listener(backlog=0) as endpoint:
        # A listener whose queue is full ignores further SYNs, as a firewall does.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((endpoint.host, endpoint.port))
        time.sleep(0.1)

        error = unreachable(endpoint, within_s=2)

        for filler in fillers:
            filler.close()
    assert error.values["phase"] == "connect"
    assert "no answer at port" in str(error)


def test_a_name_without_an_address_says_so() -> None:
    error = unreachable(Endpoint(host="no-such-host.invalid", connect_timeout_s=3))

    assert error.values["phase"] == "resolve"
    assert "'no-such-host.invalid'" in str(error)


def test_a_name_that_cannot_be_one_says_so() -> None:
    assert unreachable(Endpoint(host="a" * 300, connect_timeout_s=3)).values["phase"] == "resolve"


def test_a_port_that_accepts_and_says_nothing_is_given_up_in_time() -> None:
    with listener() as endpoint:
        error = unreachable(endpoint, within_s=2)

    assert error.values["phase"] == "banner"
    assert "no SSH greeting within 0.5 s" in str(error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak SSH: it says 'HTTP/1.1 400 Bad Request'"),
        (b"\x16\x03\x01\xff\xfe\n", "does not speak SSH"),
        (b"SSH-1.5-old\r\n", "speaks another version of SSH: 'SSH-1.5-old'"),
    ],
)
def test_something_else_than_an_ssh_server_is_called_what_it_is(answer: bytes, said: str) -> None:
    with listener(answer) as endpoint:
        error = unreachable(endpoint, within_s=2)

    assert said in str(error)


def test_an_endless_greeting_fills_no_memory() -> None:
    with listener(b"x" * (4 * MB)) as endpoint:
        unreachable(endpoint, within_s=2)


def test_a_greeting_and_then_silence_is_given_up_in_time() -> None:
    with listener(b"SSH-2.0-Silent_1.0\r\n") as endpoint:
        error = unreachable(endpoint, within_s=2)

    assert error.values["phase"] == "key exchange"
    assert "'SSH-2.0-Silent_1.0'" in str(error)


def test_a_greeting_and_then_the_end_says_how_far_it_came() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet_and_leave() -> None:
            with server.accept()[0] as client:
                client.sendall(b"SSH-2.0-Brief_1.0\r\n")
                client.recv(1 << 16)

        threading.Thread(target=greet_and_leave, daemon=True).start()
        endpoint = Endpoint(
            host="127.0.0.1", port=server.getsockname()[1], user="u", host_keys=("ssh-ed25519 AAAA",)
        )
        with pytest.raises(HostUnreachable, match=r"broke off in the key exchange: \w"):
            connect(endpoint, deadline_s=2)


def test_a_packet_of_four_gigabytes_is_not_waited_for() -> None:
    with listener(b"SSH-2.0-Liar_1.0\r\n" + b"\xff\xff\xff\xfc" * 64) as endpoint:
        error = unreachable(endpoint, within_s=2)

    assert "malformed packet length" in str(error)


@pytest.mark.parametrize(
    "option",
    [
        "KexAlgorithms diffie-hellman-group14-sha1",
        "Ciphers aes128-cbc",
        "MACs hmac-sha1\nCiphers aes128-ctr",
        "Ciphers chacha20-poly1305@openssh.com",
    ],
)
def test_a_machine_with_no_algorithm_in_common_is_called_that(make_sshd: MakeSSHD, option: str) -> None:
    machine = make_sshd(options=[option])

    error = unreachable(machine.endpoint)

    assert "algorithms that are obsolete or unknown" in str(error)
    assert "OpenSSH" in str(error)


# -- silence in every phase ----------------------------------------------------------------------------------


def test_silence_after_any_byte_is_bounded_by_the_deadline(sshd: SSHServer, chaos: ChaosProxy) -> None:
    endpoint = chaos.endpoint(sshd.endpoint)
    connect(endpoint).close()
    phases = []
    for lane, total in ((chaos.up, chaos.up.forwarded), (chaos.down, chaos.down.forwarded)):
        for at in range(0, total, total // 12):
            lane.stall_at = at
            began = time.monotonic()
            try:
                connect(endpoint, deadline_s=0.25).close()  # the machine's last words do not matter to us
            except HostUnreachable as error:
                phases.append(error.values["phase"])
            assert time.monotonic() - began < 2
            lane.stall_at = None

    assert set(phases) == {"banner", "key exchange", "authentication"}
    assert len(phases) > 18


def test_the_deadline_covers_all_phases_together(sshd: SSHServer, chaos: ChaosProxy) -> None:
    chaos.down.delay_s = 0.4

    unreachable(replace(chaos.endpoint(sshd.endpoint), connect_timeout_s=10), deadline_s=0.6, within_s=1.5)


def test_a_frozen_machine_is_given_up_in_time(sshd: SSHServer) -> None:
    sshd.freeze()

    error = unreachable(replace(sshd.endpoint, connect_timeout_s=0.5), within_s=2)
    sshd.thaw()

    assert error.values["phase"] == "banner"
    connect(sshd.endpoint).close()


def test_starting_a_command_on_a_frozen_machine_is_bounded(sshd: SSHServer) -> None:
    connection = connect(replace(sshd.endpoint, connect_timeout_s=1))
    connection.run("true")
    sshd.freeze()

    began = time.monotonic()
    with pytest.raises(ConnectionLost, match="cannot start a command"):
        connection.open("true")

    assert time.monotonic() - began < 3
    sshd.thaw()
    connection.close()


def test_closing_a_connection_to_a_frozen_machine_is_quick(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream = connection.open("exec cat >/dev/null")
    writer = threading.Thread(target=_swallow(lambda: stream.write(bytes(50 * MB))), daemon=True)
    sshd.freeze()
    writer.start()
    time.sleep(0.2)

    began = time.monotonic()
    stream.close()
    connection.close()
    writer.join(2)

    assert time.monotonic() - began < 1
    assert not writer.is_alive()


# -- torn streams --------------------------------------------------------------------------------------------


def exchange(connection: Connection, data: bytes) -> bytes:
    """Sends data there and back; whatever comes out short must be told from a whole answer."""
    stream = connection.open("exec cat")
    try:
        threading.Thread(target=_swallow(lambda: _send(stream, data)), daemon=True).start()
        received = b"".join(iter(lambda: stream.read(MB), b""))
        if stream.exit_status(2) is None:
            raise ConnectionLost("torn")
        return received
    finally:
        stream.close()
        connection.close()


def attempt(endpoint: Endpoint, data: bytes) -> str:
    """ "whole", or the name of the error."""
    try:
        received = exchange(connect(endpoint), data)
    except SkywardError as error:
        return type(error).__name__
    assert received == data, f"{len(received)} of {len(data)} bytes looked whole"
    return "whole"


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("fault", ["cut_at", "corrupt_at"])
def test_a_fault_at_any_byte_never_gives_a_wrong_or_short_answer(
    sshd: SSHServer, chaos: ChaosProxy, direction: str, fault: str
) -> None:
    lane, endpoint = getattr(chaos, direction), chaos.endpoint(replace(sshd.endpoint, connect_timeout_s=0.3))
    data = random.Random(3).randbytes(4096)
    assert attempt(endpoint, data) == "whole"
    total = lane.forwarded
    offsets = random.Random(f"{direction}{fault}").sample(range(total - 1), 50)
    seen = set()

    for at in offsets:
        setattr(lane, fault, at)
        began = time.monotonic()
        seen.add(attempt(endpoint, data))
        assert time.monotonic() - began < 4, f"{fault}={at} took too long"
        setattr(lane, fault, None)

    assert seen <= {"whole", "HostUnreachable", "HostKeyError", "ConnectionLost", "TransportError"}
    assert len(seen - {"whole"}) > 1
    assert attempt(endpoint, data) == "whole"


def test_a_cut_in_the_middle_of_much_data_is_no_end(sshd: SSHServer, chaos: ChaosProxy) -> None:
    for at in (MB // 2, 3 * MB, 5 * MB + 17):
        connection = connect(chaos.endpoint(sshd.endpoint))
        chaos.down.cut_at = at
        stream = connection.open(f"head -c {8 * MB} /dev/zero")

        received = 0
        while data := stream.read(MB):
            received += len(data)

        assert received < 8 * MB
        assert stream.exit_status(2) is None
        assert not connection.is_alive
        with pytest.raises(ConnectionLost):
            stream.write(b"x")


def test_a_command_whose_connection_broke_is_no_result(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    threading.Timer(0.3, sshd.kill).start()

    with pytest.raises(ConnectionLost, match="broke while a command ran"):
        connection.run("echo half; sleep 60")


def test_a_reader_learns_at_once_that_the_machine_died(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream = connection.open("exec sleep 60")
    threading.Timer(0.2, sshd.kill).start()

    began = time.monotonic()
    assert stream.read(1) == b""

    assert time.monotonic() - began < 2
    assert stream.exit_status(1) is None


def test_open_streams_outlive_the_listener(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream = connection.open("exec cat")

    sshd.kill("listener")
    stream.write(b"still here")

    assert stream.read(100) == b"still here"
    assert connection.run("echo and new ones").stdout == b"and new ones\n"
    assert "refused" in str(unreachable(sshd.endpoint))


def test_a_killed_session_ends_its_streams_and_no_others(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream = connection.open("exec sleep 60")

    sshd.kill("sessions")

    assert stream.read(1) == b""
    assert stream.exit_status(1) is None
    assert connect(sshd.endpoint).run("echo new").stdout == b"new\n"


def test_what_is_closed_on_a_clogged_network_is_closed_once_it_flows(
    sshd: SSHServer, chaos: ChaosProxy
) -> None:
    connection = connect(chaos.endpoint(sshd.endpoint))
    sinks = [connection.open("exec cat >/dev/null") for _ in range(20)]
    other = connection.open("cat; touch ~/ended")
    chaos.up.is_flowing = False
    writers = [
        threading.Thread(target=_swallow(partial(sink.write, bytes(4 * MB))), daemon=True) for sink in sinks
    ]
    for writer in writers:
        writer.start()
    time.sleep(0.5)

    began = time.monotonic()
    other.close()
    assert time.monotonic() - began < 0.5
    assert not (sshd.home_on_disk / "ended").exists()
    chaos.heal()

    for writer in writers:
        writer.join(20)
        assert not writer.is_alive()
    deadline = time.monotonic() + 5
    while not (sshd.home_on_disk / "ended").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    connection.close()


# -- slow and odd but healthy --------------------------------------------------------------------------------


def test_a_slow_narrow_network_loses_nothing(sshd: SSHServer, chaos: ChaosProxy) -> None:
    chaos.up.delay_s = chaos.down.delay_s = 0.1
    chaos.up.jitter_s = chaos.down.jitter_s = 0.05
    chaos.up.bytes_per_s = chaos.down.bytes_per_s = 2 * MB
    data = random.Random(4).randbytes(MB)

    received = connect(chaos.endpoint(sshd.endpoint)).run("cat", stdin=data, timeout_s=30).stdout

    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def test_a_short_partition_loses_nothing(sshd: SSHServer, chaos: ChaosProxy) -> None:
    connection = connect(chaos.endpoint(sshd.endpoint))
    stream = connection.open("exec cat")

    chaos.partition()
    stream.write(b"held back")
    threading.Timer(0.5, chaos.heal).start()

    assert stream.read(100) == b"held back"


@pytest.mark.parametrize(
    "cipher", ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"]
)
def test_every_cipher_carries_the_same_bytes(make_sshd: MakeSSHD, cipher: str) -> None:
    machine = make_sshd(options=[f"Ciphers {cipher}"])
    data = random.Random(5).randbytes(5 * MB)

    done = connect(machine.endpoint).run("tee /dev/stderr", stdin=data)

    assert done.stdout == data
    assert done.stderr == data[-MB:]


@pytest.mark.parametrize("mac", ["hmac-sha2-256", "hmac-sha2-512-etm@openssh.com"])
def test_every_mac_carries_the_same_bytes(make_sshd: MakeSSHD, mac: str) -> None:
    machine = make_sshd(options=["Ciphers aes256-ctr", f"MACs {mac}"])
    data = random.Random(6).randbytes(2 * MB)

    assert connect(machine.endpoint).run("cat", stdin=data).stdout == data


@pytest.mark.parametrize("cipher", ["aes128-gcm@openssh.com", "aes128-ctr"])
@pytest.mark.parametrize("side", ["theirs", "ours"])
def test_keys_are_exchanged_anew_under_traffic_in_both_directions(
    make_sshd: MakeSSHD, side: str, cipher: str
) -> None:
    limit = ["RekeyLimit 1M"] if side == "theirs" else []
    machine = make_sshd(options=[f"Ciphers {cipher}", *limit])
    connection = connect(machine.endpoint)
    if side == "ours":
        connection._transport.packetizer.REKEY_BYTES = MB  # type: ignore[attr-defined]
    session = connection._transport.H  # type: ignore[attr-defined]
    data = random.Random(7).randbytes(24 * MB)

    received = connection.run("cat", stdin=data, timeout_s=40).stdout

    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()
    assert session != connection._transport.H, "no keys were exchanged"  # type: ignore[attr-defined]
    assert connection.run("echo after").stdout == b"after\n"


def test_a_callback_that_raises_tears_the_connection_down_visibly(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream, other = connection.open("exec cat"), connection.open("exec sleep 60")

    def fail(data: bytes) -> None:
        raise ZeroDivisionError(data)

    stream.on_data(fail)

    stream.write(b"x")

    assert other.read(1) == b""
    assert not connection.is_alive


def test_a_callback_that_would_wait_for_ever_is_told_so(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    stream, other = connection.open("read x; echo go; exec sleep 60"), connection.open("exec sleep 60")
    stream.on_data(lambda data: stream.write(bytes(20 * MB)))

    stream.write(b"\n")

    assert other.read(1) == b""


def test_the_machines_own_keepalive_is_answered(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(options=["ClientAliveInterval 1", "ClientAliveCountMax 1"])
    connection = connect(machine.endpoint)

    time.sleep(2.5)

    assert connection.run("echo here").stdout == b"here\n"


def test_more_commands_than_the_machine_allows_are_refused_with_its_reason(make_sshd: MakeSSHD) -> None:
    machine = make_sshd(options=["MaxSessions 2"])
    connection = connect(machine.endpoint)
    streams = [connection.open("exec cat") for _ in range(2)]

    with pytest.raises(TransportError, match="MaxSessions"):
        connection.open("exec cat")

    streams[0].close()
    assert connection.is_alive
    deadline = time.monotonic() + 3
    while _refused(lambda: connection.run("true")):
        assert time.monotonic() < deadline


def test_many_streams_share_a_connection_fairly(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    bulk = connection.open("exec cat /dev/zero")
    threading.Thread(
        target=_swallow(lambda: [None for _ in iter(lambda: bulk.read(MB), b"")]), daemon=True
    ).start()
    small = connection.open("exec cat")
    worst = 0.0

    for _ in range(100):
        began = time.monotonic()
        small.write(b"x")
        assert small.read(1) == b"x"
        worst = max(worst, time.monotonic() - began)

    bulk.close()
    assert worst < 1
    assert connection.run("echo done").stdout == b"done\n"


def test_a_stream_nobody_reads_does_not_stop_the_others(sshd: SSHServer) -> None:
    connection = connect(sshd.endpoint)
    ignored = connection.open("exec cat /dev/zero")
    time.sleep(0.3)

    assert connection.run("echo on").stdout == b"on\n"
    ignored.close()


def test_no_thread_and_no_descriptor_is_left(sshd: SSHServer) -> None:
    import os

    connect(sshd.endpoint).close()
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        connection = connect(sshd.endpoint)
        connection.run("cat", stdin=b"x")
        stream = connection.open("exec sleep 60")
        connection.close()
        assert stream.read(1) == b""
    wrong = replace(sshd.endpoint, identity_files=())
    for _ in range(3):
        with pytest.raises(SkywardError):
            connect(wrong)

    deadline = time.monotonic() + 3
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def _send(stream: Stream, data: bytes) -> None:
    stream.write(data)
    stream.close_write()


def _swallow(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except ConnectionLost:
            pass

    return run


def _refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except TransportError:
        return True
    return False
