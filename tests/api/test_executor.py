"""A pool as a `concurrent.futures.Executor`."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import skyward as sky
from skyward.testing.engines import ThreadEngine


@pytest.fixture
def make(cloud: Any) -> Callable[..., sky.Executor]:
    return lambda **options: sky.Executor(
        **{"provider": cloud, "engine": ThreadEngine, "display": "quiet", "nodes": 2, **options}
    )


@pytest.fixture
def executor(make: Any) -> Iterator[sky.Executor]:
    with make() as executor:
        yield executor


@sky.compute
def double(x: int) -> int:
    return 2 * x


def inverse(x: int) -> float:
    return 1 / x


def test_it_is_an_executor(executor: sky.Executor) -> None:
    assert isinstance(executor, concurrent.futures.Executor)


def test_submit_takes_functions_partials_and_compute(executor: sky.Executor) -> None:
    futures = [
        executor.submit(pow, 2, 5),
        executor.submit(functools.partial(pow, 2), 5),
        executor.submit(functools.partial(int, base=2), "11"),
        executor.submit(double, 16),  # type: ignore[arg-type]
        executor.submit(int, "ff", base=16),
    ]

    assert [future.result(10) for future in futures] == [32, 32, 3, 32, 255]
    assert concurrent.futures.wait(futures).not_done == set()


def test_map_gives_results_in_order(executor: sky.Executor) -> None:
    assert list(executor.map(pow, range(50), [2] * 50)) == [x**2 for x in range(50)]
    assert list(executor.map(double, range(5))) == [0, 2, 4, 6, 8]  # type: ignore[arg-type]


@pytest.mark.parametrize("chunksize", [1, 2, 7, 1000])
def test_chunks_change_nothing_but_the_number_of_tasks(executor: sky.Executor, chunksize: int) -> None:
    assert list(executor.map(pow, range(20), [3] * 20, chunksize=chunksize)) == [x**3 for x in range(20)]
    assert list(executor.map(double, range(5), chunksize=chunksize)) == [0, 2, 4, 6, 8]  # type: ignore[arg-type]


def test_map_is_eager(executor: sky.Executor) -> None:
    ran = threading.Event()

    results = executor.map(lambda x: ran.set() or x, [1])

    assert ran.wait(10)
    assert list(results) == [1]


def test_map_raises_a_failure_at_its_place(executor: sky.Executor) -> None:
    results = executor.map(inverse, [1, 2, 0, 4])

    assert [next(results), next(results)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_has_a_time_out(executor: sky.Executor) -> None:
    go_on = threading.Event()

    results = executor.map(lambda x: go_on.wait(10), [1], timeout=0.05)

    with pytest.raises(TimeoutError):
        next(results)
    go_on.set()


def test_a_chunk_of_less_than_one_is_refused(executor: sky.Executor) -> None:
    with pytest.raises(sky.ArgumentError, match="chunksize from 1, not 0"):
        executor.map(pow, [1], [2], chunksize=0)


def test_machines_are_rented_at_the_first_use_and_gone_at_the_end(make: Any, cloud: Any) -> None:
    executor = make()
    assert cloud.log == []

    executor.submit(pow, 2, 3).result(10)
    assert len(cloud.alive) == 2
    executor.shutdown()
    executor.shutdown()

    assert cloud.alive == {}


def test_leaving_the_block_waits_for_everything(make: Any) -> None:
    ran: list[int] = []

    def slow(x: int) -> None:
        time.sleep(0.02)
        ran.append(x)

    with make() as executor:
        executor.submit(slow, 1)
        executor.map(slow, [2, 3, 4])

    assert sorted(ran) == [1, 2, 3, 4]


def test_shutdown_without_waiting_goes_on_in_the_background(make: Any, cloud: Any) -> None:
    go_on = threading.Event()
    executor = make()
    future = executor.submit(go_on.wait, 10)

    executor.shutdown(wait=False)
    assert not future.done()
    go_on.set()
    assert future.result(10)
    deadline = time.monotonic() + 10
    while executor.pool.is_running and time.monotonic() < deadline:
        time.sleep(0.005)

    assert cloud.alive == {}


def test_shutdown_can_cancel_what_has_not_started(make: Any) -> None:
    go_on, started = threading.Event(), threading.Event()

    def hold() -> str:
        started.set()
        go_on.wait(10)
        return "ran"

    executor = make(nodes=1)
    running = executor.submit(hold)
    assert started.wait(10)
    waiting = [executor.submit(pow, 2, 3) for _ in range(5)]
    rest = executor.map(pow, [1, 2], [3, 4])
    threading.Timer(0.05, go_on.set).start()
    executor.shutdown(cancel_futures=True)

    assert running.result() == "ran"
    assert all(future.cancelled() for future in waiting)
    with pytest.raises(sky.TaskCancelled):
        list(rest)


def test_after_shutdown_nothing_is_taken(make: Any) -> None:
    executor = make()
    executor.shutdown()

    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 3)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(pow, [2], [3])


def test_sky_means_its_pool(executor: sky.Executor) -> None:
    assert double(4) >> sky == 8


def test_arguments_that_do_not_fit_are_refused(executor: sky.Executor) -> None:
    with pytest.raises(sky.ArgumentError, match=r"inverse\(\) missing 1"):
        executor.submit(inverse)  # type: ignore[call-arg]


def test_asyncio_can_use_it(make: Any) -> None:
    import asyncio

    async def main() -> int:
        with make() as executor:
            return await asyncio.get_running_loop().run_in_executor(executor, pow, 2, 10)

    assert asyncio.run(main()) == 1024
