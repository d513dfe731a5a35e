"""The misbehaving network misbehaves exactly as asked."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from skyward.testing.chaos import ChaosProxy
from skyward.testing.sshd import free_address


class Echo:
    """A server that sends everything back."""

    def __init__(self) -> None:
        self.address, self.port = free_address()
        self._server = socket.create_server((self.address, self.port))
        self._clients: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client = self._server.accept()[0]
            except OSError:
                return
            self._clients.append(client)
            threading.Thread(target=self._echo, args=(client,), daemon=True).start()

    def _echo(self, client: socket.socket) -> None:
        try:
            while data := client.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        for sock in (self._server, *self._clients):
            sock.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[ChaosProxy]:
    with ChaosProxy(echo.address, echo.port) as proxy:
        yield proxy


def talk(proxy: ChaosProxy) -> socket.socket:
    sock = socket.create_connection((proxy.host, proxy.port), timeout=5)
    sock.settimeout(5)
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    """Up to `size` bytes, fewer where the connection ends first."""
    data = b""
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except ConnectionError:
            break
        if not piece:
            break
        data += piece
    return data


def test_without_a_wish_it_is_a_wire(proxy: ChaosProxy) -> None:
    data = bytes(range(256)) * 4000
    with talk(proxy) as sock:
        threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()

        assert receive(sock, len(data)) == data
    assert proxy.up.forwarded == proxy.down.forwarded == len(data)
    assert proxy.accepted == 1


def test_the_end_of_one_direction_is_passed_on(proxy: ChaosProxy) -> None:
    with talk(proxy) as sock:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)

        assert receive(sock, 100) == b"bye"


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_cut_comes_after_exactly_so_many_bytes_once(proxy: ChaosProxy, at: int) -> None:
    proxy.up.cut_at = at
    with talk(proxy) as sock:
        sock.sendall(b"0123456789")
        assert len(receive(sock, 10)) <= at
    assert proxy.up.forwarded == at

    with talk(proxy) as sock:
        sock.sendall(b"0123456789")
        assert receive(sock, 10) == b"0123456789"


def test_one_bit_of_the_byte_asked_for_is_flipped(proxy: ChaosProxy) -> None:
    proxy.down.corrupt_at = 3
    with talk(proxy) as sock:
        sock.sendall(b"aaaaaa")
        assert receive(sock, 6) == b"aaa`aa"
        sock.sendall(b"aaaaaa")
        assert receive(sock, 6) == b"aaaaaa"


def test_a_stall_forwards_no_more_and_keeps_the_connection(proxy: ChaosProxy) -> None:
    proxy.down.stall_at = 4
    with talk(proxy) as sock:
        sock.sendall(b"0123456789")
        assert receive(sock, 4) == b"0123"
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_several_events_happen_in_the_order_of_their_offsets(proxy: ChaosProxy) -> None:
    proxy.down.corrupt_at, proxy.down.cut_at = 1, 3
    with talk(proxy) as sock:
        sock.sendall(b"aaaaaa")
        assert receive(sock, 6) in (b"a`a", b"a`", b"a", b"")
    assert proxy.down.forwarded == 3


def test_delay_counts_both_ways_and_does_not_add_up(proxy: ChaosProxy) -> None:
    proxy.up.delay_s, proxy.down.delay_s = 0.1, 0.1
    with talk(proxy) as sock:
        began = time.monotonic()
        for _ in range(10):
            sock.sendall(b"x")
            time.sleep(0.01)
        receive(sock, 10)

    assert 0.2 <= time.monotonic() - began < 0.6


def test_bandwidth_is_bounded(proxy: ChaosProxy) -> None:
    proxy.up.bytes_per_s = 1_000_000
    with talk(proxy) as sock:
        began = time.monotonic()
        threading.Thread(target=sock.sendall, args=(bytes(400_000),), daemon=True).start()
        receive(sock, 400_000)

    assert 0.3 < time.monotonic() - began < 1.5


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="packets are dropped by Linux")
def test_lost_packets_are_sent_again_and_nothing_is_missing(proxy: ChaosProxy) -> None:
    proxy.up.loss = 0.25
    with talk(proxy) as sock:
        sock.settimeout(20)
        for number in range(40):  # all of them lucky: once in 100 000 times
            sock.sendall(bytes([number]))
            assert receive(sock, 1) == bytes([number])
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)

    repeated = int.from_bytes(info[100:104], "little")
    assert repeated > 0


def test_a_partition_holds_everything_back_until_it_is_healed(proxy: ChaosProxy) -> None:
    with talk(proxy) as sock:
        proxy.partition()
        sock.sendall(b"late")
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        with talk(proxy) as new:
            new.settimeout(0.2)
            new.sendall(b"x")
            with pytest.raises(TimeoutError):
                new.recv(1)

        proxy.heal()

        sock.settimeout(5)
        assert receive(sock, 4) == b"late"


def test_one_direction_may_be_partitioned_alone(proxy: ChaosProxy) -> None:
    with talk(proxy) as sock:
        proxy.down.is_flowing = False
        sock.sendall(b"in")
        time.sleep(0.1)
        assert (proxy.up.forwarded, proxy.down.forwarded) == (2, 0)

        proxy.down.is_flowing = True
        assert receive(sock, 2) == b"in"


def test_a_cut_now_resets_both_sides(proxy: ChaosProxy) -> None:
    with talk(proxy) as sock:
        sock.sendall(b"x")
        receive(sock, 1)

        proxy.cut()

        assert receive(sock, 1) == b""


def test_new_connections_can_be_refused_and_accepted_again(proxy: ChaosProxy) -> None:
    with talk(proxy) as sock:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            talk(proxy)
        sock.sendall(b"old ones go on")
        assert receive(sock, 14) == b"old ones go on"

    proxy.listen()
    with talk(proxy) as sock:
        sock.sendall(b"x")
        assert receive(sock, 1) == b"x"


def test_a_dead_server_looks_dead(proxy: ChaosProxy, echo: Echo) -> None:
    echo.close()

    with suppress(ConnectionResetError), talk(proxy) as sock:
        assert receive(sock, 1) == b""


def test_it_ends_with_everything_it_started(echo: Echo) -> None:
    before = threading.active_count()
    with ChaosProxy(echo.address, echo.port) as proxy:
        proxy.down.stall_at = 0
        held = [talk(proxy) for _ in range(5)]
        proxy.partition()

    assert threading.active_count() <= before + 5  # the echo server's own
    for sock in held:
        assert receive(sock, 1) == b""
        sock.close()
