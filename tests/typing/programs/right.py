"""What users write, and the types that checkers find in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import assert_type

import skyward as sky


@sky.compute
def double(x: int, *, by: float = 2.0) -> float:
    return x * by


@sky.compute(retries=2, timeout="90s", name="greet")
def greet(name: str) -> str:
    return name


@sky.compute
async def slow(x: int) -> bytes:
    return b""


@sky.compute(name="x")
async def slower(x: int) -> bytes:
    return b""


class Model:
    @sky.compute
    def fit(self, epochs: int) -> list[float]:
        return []


pool = sky.ComputePool(provider=sky.Local(), nodes=2, accelerator=None, memory="8GB..", timeout="2h")
assert_type(double(1), sky.PendingCompute[float])
assert_type(double(1) >> pool, float)
assert_type(double(1) >> sky, float)
assert_type(double(1) @ pool, tuple[float, ...])
assert_type(double(1) @ sky, tuple[float, ...])
assert_type(double.local(1), float)
assert_type(greet("a") >> pool, str)
assert_type(slow(1) >> pool, bytes)
assert_type(slower(1) >> pool, bytes)
assert_type(Model().fit(3) >> pool, list[float])
assert_type((double(1) & greet("a")) >> sky, tuple[float, str])
assert_type((double(1) & greet("a") & slow(3)) >> pool, tuple[float, str, bytes])
assert_type((double(1) & (greet("a") & slow(3))) >> pool, tuple[float, str, bytes])
assert_type(sky.gather(double(1), greet("a")) >> pool, tuple[float, str])
assert_type(sky.gather(double(1), greet("a"), slow(1)) >> pool, tuple[float, str, bytes])
assert_type(sky.gather(double(i) for i in range(3)) >> pool, tuple[float, ...])
assert_type(sky.gather([double(1), double(2)]) >> pool, tuple[float, ...])
assert_type(sky.gather(*[double(i) for i in range(3)]) >> pool, tuple[float, ...])
assert_type(sky.gather((double(i) for i in range(3)), stream=True) >> pool, Iterator[float])
assert_type(
    sky.gather((double(i) for i in range(3)), return_exceptions=True) >> pool, tuple[float | Exception, ...]
)
assert_type(pool.map(double, range(3)), list[float])
assert_type(pool.map(len, ["a"]), list[int])
assert_type(pool.map(greet, ["a"]), list[str])
assert_type(pool.starmap(greet, [("a",)]), list[str])
assert_type(pool.submit(double(1)), Future[float])
assert_type(pool.submit(double, 1, by=3.0), Future[float])
assert_type(pool.submit(len, "abc"), Future[int])
assert_type(pool.run(double(1)), float)
assert_type(pool.broadcast(double(1)), tuple[float, ...])
assert_type(pool.cost, float | None)
assert_type(pool.total_slots, int)


@sky.pool(provider="local", nodes=2)
def main(n: int) -> float:
    return double(n) >> sky


@sky.pool
def bare(n: int) -> float:
    return double(n) >> sky


@sky.pool(sky.SSH(hosts=["me@host"]))
async def amain(n: int) -> float:
    return double(n) >> sky


assert_type(main(3), float)
assert_type(bare(3), float)
assert_type(asyncio.run(amain(3)), float)

with sky.MultiPool(pool, sky.ComputePool()) as (a, b):
    assert_type(double(1) >> a, float)
with sky.Executor(nodes=3) as ex:
    assert_type(ex.submit(len, "a"), Future[int])
    assert_type(list(ex.map(len, ["a"])), list[int])
assert_type(sky.shard([1, 2]), list[int])
assert_type(sky.shard([1, 2], "ab"), tuple[list[int], str])
assert_type(sky.conc.map_async(len, ["a"]), list[int])
info = sky.instance_info()
if info is not None:
    assert_type(info.rank, int)
    assert_type(info.head_addr, str)


def ready(event: sky.events.NodeReady) -> None:
    print(event.node)


pool.on(sky.events.NodeReady, ready)


@pool.on(sky.events.TaskFinished)
def finished(event: sky.events.TaskFinished) -> None:
    print(event.report)


@sky.stdout(only="head")
def quiet(x: int) -> int:
    return x


assert_type(quiet(1), int)


@sky.silent
def silent(x: int) -> int:
    return x


assert_type(silent(1), int)
with sky.silent:
    pass
with sky.silent():
    pass
sky.AWS(region="us-east-1")
sky.ExitCode.OK
error: sky.SkywardError = sky.NoOfferError("x")
