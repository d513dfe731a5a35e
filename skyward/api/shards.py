"""The part of the data that belongs to this worker. Standard library only: it runs on instances.

Strided: of ten items, worker 1 of 3 gets items 1, 4 and 7. A shuffle is the same permutation on every node, because
it depends on the seed and the length only. numpy and torch are never imported here; their arrays index themselves.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, TypeVar, overload

from skyward.api.instance import instance_info
from skyward.errors import ArgumentError

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")


def _place() -> tuple[int, int]:
    """This worker's rank and the number of workers; outside of tasks, the only one of one."""
    info = instance_info()
    return (0, 1) if info is None else (info.rank, info.world_size)


@overload
def shard(array: T, /, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False) -> T: ...
@overload
def shard(a: T, b: U, /, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False) -> tuple[T, U]: ...
@overload
def shard(
    a: T, b: U, c: V, /, *, shuffle: bool = False, seed: int = 0, drop_last: bool = False
) -> tuple[T, U, V]: ...
@overload
def shard(
    a: Any, b: Any, c: Any, /, *more: Any, shuffle: bool = False, seed: int = 0, drop_last: bool = False
) -> tuple[Any, ...]: ...
def shard(*arrays: Any, shuffle: bool = False, seed: int = 0, drop_last: bool = False) -> Any:
    """This worker's part of one or more arrays of equal length; the same items of each.

    One array gives its part, several give a tuple. Lists, tuples, strings, numpy arrays, tensors and data frames
    keep their type; `range` does too unless shuffled. With `drop_last` every worker gets equally many.

    Raises:
        ArgumentError: nothing to shard, arrays of different lengths, or something without a length.
    """
    length = _common_length(arrays)
    rank, world = _place()
    if shuffle:
        indices = _permutation(length, seed)[rank : _end(length, world, drop_last) : world]
        parts = tuple(_take(array, indices) for array in arrays)
    else:
        parts = tuple(_stride(array, rank, _end(length, world, drop_last), world) for array in arrays)
    return parts[0] if len(parts) == 1 else parts


def shard_iterator(items: Iterable[T], *, drop_last: bool = False) -> Iterator[T]:
    """This worker's items of an iterable that every worker reads in the same order.

    With `drop_last`, an incomplete last round is left out, so that every worker gets equally many.
    """
    rank, world = _place()
    if not drop_last:
        return islice(items, rank, None, world)
    return _complete_rounds(iter(items), rank, world)


def _complete_rounds(items: Iterator[T], rank: int, world: int) -> Iterator[T]:
    while len(round_ := list(islice(items, world))) == world:
        yield round_[rank]


class DistributedSampler:
    """Indices of this worker's part of a dataset, epoch by epoch; for `torch.utils.data.DataLoader(sampler=...)`.

    Ranks have equal length: short ones are padded with indices from the beginning, or with `drop_last` what does
    not fill a round is left out. With `pad=False` lengths may differ by one. `rank` and `num_replicas` come from
    the running task unless they are given.
    """

    def __init__(
        self,
        dataset: Sized | int,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        pad: bool = True,
    ) -> None:
        here, world = _place()
        self.length = dataset if isinstance(dataset, int) else len(dataset)
        self.num_replicas = world if num_replicas is None else num_replicas
        self.rank = here if rank is None else rank
        self.shuffle, self.seed, self.drop_last, self.pad = shuffle, seed, drop_last, pad
        self.epoch = 0
        if not 0 <= self.rank < self.num_replicas:
            raise ArgumentError(f"sampler: rank {self.rank} is not one of {self.num_replicas} replicas")

    def set_epoch(self, epoch: int) -> None:
        """Chooses another permutation, the same on every worker. Call it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = (
            _permutation(self.length, self.seed + self.epoch) if self.shuffle else list(range(self.length))
        )
        if self.drop_last:
            del order[_end(self.length, self.num_replicas, True) :]
        elif self.pad and order:
            missing = -len(order) % self.num_replicas
            order += (order * (missing // len(order) + 1))[:missing]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.num_replicas)
        if self.drop_last or not rest:
            return whole
        return whole + (1 if self.pad or self.rank < rest else 0)


def _permutation(length: int, seed: int) -> list[int]:
    order = list(range(length))
    random.Random(seed).shuffle(order)
    return order


def _end(length: int, world: int, drop_last: bool) -> int:
    return length - length % world if drop_last else length


def _common_length(arrays: Sequence[Any]) -> int:
    if not arrays:
        raise ArgumentError("shard takes at least one array")
    try:
        lengths = [len(array) for array in arrays]
    except TypeError as error:
        raise ArgumentError(
            f"shard takes arrays with a length: {error}", hints=["sky.shard_iterator(iterable)"]
        ) from error
    if len(set(lengths)) > 1:
        raise ArgumentError(f"shard takes arrays of equal length, not {', '.join(map(str, lengths))}")
    return lengths[0]


_SLICED = (list, tuple, str, bytes, bytearray, range, memoryview)


def _stride(array: Any, start: int, end: int, step: int) -> Any:
    if hasattr(array, "iloc"):
        return array.iloc[start:end:step]
    if isinstance(array, _SLICED) or hasattr(array, "shape"):
        return array[start:end:step]
    return _take(array, range(start, end, step))


def _take(array: Any, indices: Sequence[int]) -> Any:
    """The items at `indices`, in something of the same type."""
    if isinstance(array, str):
        return "".join(array[index] for index in indices)
    if isinstance(array, bytes | bytearray):
        return type(array)(array[index] for index in indices)
    if isinstance(array, tuple):
        return tuple(array[index] for index in indices)
    if hasattr(array, "iloc"):
        return array.iloc[list(indices)]
    if hasattr(array, "shape"):
        return array[list(indices)]
    for method in ("select", "take"):  # datasets of Hugging Face, tables of Arrow
        if callable(getattr(array, method, None)):
            return getattr(array, method)(list(indices))
    return [array[index] for index in indices]
