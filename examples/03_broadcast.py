"""The same call on every worker, each with its share of the data: an average over all of them.

skyward run examples/03_broadcast.py --nodes 3
python examples/03_broadcast.py
"""

import random

import skyward as sky


@sky.compute
def average_of_mine(size: int) -> tuple[int, float, int]:
    """This worker's rank, the mean of its share, and how many numbers that were."""
    random.seed(7)
    everything = [random.random() for _ in range(size)]  # every worker makes the same list
    mine = sky.shard(everything, shuffle=True)  # and takes a part of it that no other one takes
    info = sky.instance_info()
    assert info is not None, "this is a task"
    print(f"rank {info.rank} of {info.world_size} has {len(mine)} numbers")
    return info.rank, sum(mine) / len(mine), len(mine)


@sky.pool(nodes=3)
def main(size: int = 100_000) -> float:
    parts = average_of_mine(size) @ sky  # @ is once per worker, >> is once
    return sum(mean * count for _, mean, count in parts) / size


if __name__ == "__main__":
    print(main())
