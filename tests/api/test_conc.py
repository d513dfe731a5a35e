"""Threads of the client that keep the active pool."""

from __future__ import annotations

import threading

import pytest

import skyward as sky


@sky.compute
def double(x: int) -> int:
    return 2 * x


def test_results_come_in_order_and_calls_run_at_the_same_time() -> None:
    barrier = threading.Barrier(4, timeout=10)

    def meet(x: int) -> int:
        barrier.wait()
        return x

    assert sky.conc.map_async(meet, range(4)) == [0, 1, 2, 3]


def test_threads_know_the_active_pool(pool: sky.ComputePool) -> None:
    def work(x: int, y: int) -> int:
        return double(x + y) >> sky

    assert sky.conc.map_async(work, range(5), range(5)) == [0, 4, 8, 12, 16]


def test_for_each_gives_nothing(pool: sky.ComputePool) -> None:
    seen: list[int] = []

    sky.conc.for_each_async(lambda x: seen.append(double(x) >> sky), range(5))

    assert sorted(seen) == [0, 2, 4, 6, 8]


def test_the_first_failure_is_raised_and_the_rest_is_dropped() -> None:
    ran: list[int] = []

    def work(x: int) -> None:
        ran.append(x)
        if x == 1:
            raise LookupError("one")
        threading.Event().wait(0.01)

    with pytest.raises(LookupError, match="one"):
        sky.conc.map_async(work, range(500), max_workers=2)

    assert len(ran) < 20


def test_nothing_to_do_is_fine() -> None:
    assert sky.conc.map_async(int, []) == []


def test_max_workers_is_a_limit() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def work(x: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        threading.Event().wait(0.005)
        with lock:
            running[0] -= 1

    sky.conc.for_each_async(work, range(20), max_workers=3)

    assert most[0] == 3
