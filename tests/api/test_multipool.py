"""Several pools at once: as slow as the slowest, and all or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import skyward as sky
from skyward.testing.engines import ThreadEngine

MakePool = Callable[..., sky.ComputePool]


@sky.compute
def double(x: int) -> int:
    return 2 * x


def meeting(count: int) -> type[ThreadEngine]:
    """An engine whose nodes join only when `count` of them do so at the same time."""
    barrier = threading.Barrier(count, timeout=10)

    class Meeting(ThreadEngine):
        name = "meeting"

        def add_node(self, node: Any) -> None:
            barrier.wait()
            super().add_node(node)

    return Meeting


def test_all_are_entered_at_the_same_time_and_left_together(make_pool: MakePool, cloud: Any) -> None:
    engine = meeting(3)

    with sky.MultiPool(*[make_pool(engine=engine) for _ in range(3)]) as (a, b, c):
        assert [double(1) >> a, double(2) >> b, double(3) >> c] == [2, 4, 6]
        assert len(cloud.alive) == 3

    assert cloud.alive == {}


def test_if_one_cannot_be_had_none_is_kept(make_pool: MakePool, cloud: Any) -> None:
    class Broken(ThreadEngine):
        name = "broken"

        def add_node(self, node: Any) -> None:
            raise sky.BootstrapError("no python here", step="python")

    pools = sky.MultiPool(make_pool(nodes=2), make_pool(engine=Broken), make_pool(nodes=3))

    with pytest.raises(sky.BootstrapError, match="no python here"), pools:
        pass

    assert cloud.alive == {}
    assert not any(pool.is_running for pool in pools)


def test_one_failure_does_not_wait_for_the_slow_ones(make_pool: MakePool, cloud: Any) -> None:
    go_on = threading.Event()

    class Slow(ThreadEngine):
        name = "slow"

        def add_node(self, node: Any) -> None:
            go_on.wait(20)

    class Broken(ThreadEngine):
        name = "broken"

        def add_node(self, node: Any) -> None:
            raise sky.BootstrapError("broken at once", step="python")

    with pytest.raises(sky.BootstrapError, match="broken at once"):  # noqa: SIM117
        with sky.MultiPool(make_pool(engine=Slow), make_pool(engine=Broken)):
            pass

    assert cloud.alive == {}
    go_on.set()


def test_sky_is_none_of_them(make_pool: MakePool) -> None:
    with sky.MultiPool(make_pool(), make_pool()):
        for send in (lambda: double(1) >> sky, lambda: double(1) @ sky, lambda: sky.gather(double(1)) >> sky):
            with pytest.raises(sky.UsageError, match="2 pools are active: say which one is meant"):
                send()


def test_an_exception_in_the_block_is_kept(make_pool: MakePool, cloud: Any) -> None:
    with pytest.raises(LookupError, match="the user's"), sky.MultiPool(make_pool(), make_pool()):
        raise LookupError("the user's")

    assert cloud.alive == {}


@pytest.mark.parametrize("error", [None, LookupError("the user's")])
def test_a_clean_up_that_fails_is_told_and_hides_no_error(
    make_pool: MakePool, cloud: Any, error: Exception | None
) -> None:
    broken = [True]

    def refuse() -> None:
        if broken:
            raise sky.ProviderError("scripted: no")

    object.__setattr__(cloud, "on_terminate", refuse)
    pools = sky.MultiPool(make_pool(), make_pool())

    def use() -> None:
        with pools:
            if error:
                raise error

    with pytest.raises(LookupError if error else sky.CleanupError) as caught:
        use()
    broken.clear()
    for pool in pools:
        pool.stop()

    assert error is None or "clean-up is incomplete" in caught.value.__notes__[0]
    assert cloud.alive == {}


def test_only_pools_and_each_once(make_pool: MakePool) -> None:
    pool = make_pool()

    with pytest.raises(sky.ArgumentError, match="takes pools"):
        sky.MultiPool(pool, 3)  # type: ignore[arg-type]
    with pytest.raises(sky.ArgumentError, match="takes pools"):
        sky.MultiPool()
    with pytest.raises(sky.ArgumentError, match="one pool twice"):
        sky.MultiPool(pool, pool)


def test_they_are_reached_by_place(make_pool: MakePool) -> None:
    a, b = make_pool(), make_pool()
    pools = sky.MultiPool(a, b)

    assert list(pools) == [a, b]
    assert pools[1] is b
    assert len(pools) == 2
