"""Shards: every item exactly once over all workers, the same permutation everywhere, the type kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import skyward as sky
from skyward.api.instance import placed

WORLD = st.integers(1, 9)


@contextmanager
def place(rank: int, world: int) -> Iterator[None]:
    """This thread is worker `rank` of `world`."""
    info = sky.InstanceInfo(
        node=rank, total_nodes=world, worker=0, workers_per_node=1, job_id="", head_addr="", head_port=1
    )
    token = placed.set(info)
    try:
        yield
    finally:
        placed.reset(token)


def on_each(world: int, call: Any) -> list[Any]:
    results = []
    for rank in range(world):
        with place(rank, world):
            results.append(call())
    return results


def flat(shards: list[list[int]]) -> list[int]:
    return list(chain.from_iterable(shards))


@given(st.lists(st.integers()), WORLD)
def test_a_shard_is_every_world_th_item_from_its_rank_on(items: list[int], world: int) -> None:
    assert on_each(world, lambda: sky.shard(items)) == [items[rank::world] for rank in range(world)]


@given(st.integers(0, 60), WORLD, st.integers())
def test_shuffled_shards_are_one_permutation(length: int, world: int, seed: int) -> None:
    shards = on_each(world, lambda: sky.shard(list(range(length)), shuffle=True, seed=seed))

    assert sorted(flat(shards)) == list(range(length))
    (whole,) = on_each(1, lambda: sky.shard(list(range(length)), shuffle=True, seed=seed))
    assert shards == [whole[rank::world] for rank in range(world)]


@given(st.integers(0, 60), WORLD, st.booleans())
def test_with_drop_last_shards_have_equal_length(length: int, world: int, shuffle: bool) -> None:
    shards = on_each(world, lambda: sky.shard(list(range(length)), shuffle=shuffle, drop_last=True))

    assert {len(shard) for shard in shards} == {length // world}
    assert len(set(flat(shards))) == len(flat(shards))


def test_the_permutation_is_the_same_on_every_machine_and_for_ever() -> None:
    assert sky.shard(list(range(8)), shuffle=True, seed=7) == [6, 7, 2, 4, 0, 3, 1, 5]


ARRAYS: list[Any] = [
    list(range(10)),
    tuple(range(10)),
    "abcdefghij",
    b"abcdefghij",
    bytearray(b"abcdefghij"),
    np.arange(10),
    np.arange(30).reshape(10, 3),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: type(array).__name__)
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_type_is_kept(array: Any, shuffle: bool) -> None:
    shards = on_each(3, lambda: sky.shard(array, shuffle=shuffle))

    assert {type(shard) for shard in shards} == {type(array)}
    assert [len(shard) for shard in shards] == [4, 3, 3]
    if isinstance(array, np.ndarray):
        assert {shard.dtype for shard in shards} == {array.dtype}
        assert sorted(np.concatenate(shards).ravel()) == sorted(array.ravel())


def test_a_range_stays_one_unless_it_is_shuffled() -> None:
    with place(1, 3):
        assert sky.shard(range(10)) == range(1, 10, 3)
        assert isinstance(sky.shard(range(10), shuffle=True), list)


def test_several_arrays_are_split_alike() -> None:
    xs, ys, names = list(range(10)), np.arange(10) * 10, "abcdefghij"

    for rank in range(3):
        with place(rank, 3):
            a, b, c = sky.shard(xs, ys, names, shuffle=True, seed=3)
            assert [10 * x for x in a] == list(b)
            assert [names[x] for x in a] == list(c)


class Table:
    """What pandas, torch and Arrow offer for indexing, without them."""

    def __init__(self, rows: list[int], how: str) -> None:
        self.rows, self.how = rows, how
        if how == "iloc":
            self.iloc = self
        elif how == "shape":
            self.shape = (len(rows),)
        else:
            setattr(self, how, lambda indices: Table([rows[index] for index in indices], how))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if self.how in ("select", "take") and isinstance(key, slice):
            raise AssertionError("a slice of this is something else")
        if isinstance(key, slice):
            return Table(self.rows[key], self.how)
        return Table([self.rows[index] for index in key], self.how)


@pytest.mark.parametrize("how", ["iloc", "shape", "select", "take"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_tables_and_tensors_index_themselves(how: str, shuffle: bool) -> None:
    shards = on_each(2, lambda: sky.shard(Table(list(range(5)), how), shuffle=shuffle))

    assert {type(shard) for shard in shards} == {Table}
    assert sorted(shards[0].rows + shards[1].rows) == [0, 1, 2, 3, 4]


def test_outside_of_a_task_all_of_it_is_mine() -> None:
    assert sky.shard([1, 2, 3]) == [1, 2, 3]
    assert list(sky.shard_iterator([1, 2, 3])) == [1, 2, 3]
    assert len(sky.DistributedSampler(5)) == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((), "at least one"),
        (([1], [1, 2]), "equal length, not 1, 2"),
        ((iter([1]),), "arrays with a length"),
    ],
)
def test_what_cannot_be_split_is_refused(arrays: Any, message: str) -> None:
    with pytest.raises(sky.ArgumentError, match=message):
        sky.shard(*arrays)


@given(st.lists(st.integers()), WORLD)
def test_an_iterator_is_dealt_out_like_cards(items: list[int], world: int) -> None:
    hands = on_each(world, lambda: list(sky.shard_iterator(iter(items))))

    assert hands == [items[rank::world] for rank in range(world)]


@given(st.integers(0, 60), WORLD)
def test_an_incomplete_round_can_be_left_out(length: int, world: int) -> None:
    hands = on_each(world, lambda: list(sky.shard_iterator(iter(range(length)), drop_last=True)))

    assert {len(hand) for hand in hands} == {length // world}


@given(st.integers(0, 60), WORLD, st.booleans(), st.integers(0, 5))
def test_the_sampler_pads_so_that_ranks_have_equal_length(
    length: int, world: int, shuffle: bool, epoch: int
) -> None:
    def indices() -> list[int]:
        sampler = sky.DistributedSampler(length, shuffle=shuffle, seed=1)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    hands = on_each(world, indices)

    assert {len(hand) for hand in hands} == {-(-length // world)}
    assert set(flat(hands)) == set(range(length))


@given(st.integers(0, 60), WORLD, st.booleans(), st.booleans())
def test_without_padding_no_index_comes_twice(
    length: int, world: int, shuffle: bool, drop_last: bool
) -> None:
    def indices() -> list[int]:
        sampler = sky.DistributedSampler(length, shuffle=shuffle, pad=False, drop_last=drop_last)
        assert len(sampler) == len(list(sampler))
        return list(sampler)

    found = flat(on_each(world, indices))

    assert len(set(found)) == len(found) == (length - length % world if drop_last else length)


def test_epochs_differ_and_can_be_had_again() -> None:
    sampler = sky.DistributedSampler(range(20), num_replicas=2, rank=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)

    assert first != second
    assert list(sampler) == first


def test_a_rank_outside_of_the_world_is_refused() -> None:
    with pytest.raises(sky.ArgumentError, match="rank 2 is not one of 2 replicas"):
        sky.DistributedSampler(5, num_replicas=2, rank=2)


def test_arrays_are_split_without_importing_anything() -> None:
    import subprocess

    code = "import sys, skyward as sky; sky.shard([1], 'a', shuffle=True); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "False"
