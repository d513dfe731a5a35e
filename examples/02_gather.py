"""Many calls at once: which numbers are prime, and how far did each node come?

skyward run examples/02_gather.py --nodes 2
skyward run examples/02_gather.py:primes -- 10 50
python examples/02_gather.py
"""

import skyward as sky


@sky.compute
def primes(start: int, stop: int) -> list[int]:
    """The primes from `start` up to `stop`."""
    return [n for n in range(max(start, 2), stop) if all(n % d for d in range(2, int(n**0.5) + 1))]


@sky.pool(nodes=2, concurrency=2)
def main(limit: int = 200_000, step: int = 10_000) -> str:
    calls = [primes(start, start + step) for start in range(0, limit, step)]

    first, second = (primes(0, 30) & primes(30, 60)) >> sky  # a few: a typed tuple
    found = sky.gather(calls) >> sky  # many: results in the order of the calls
    biggest = 0
    for part in sky.gather(calls, stream=True) >> sky:  # the same, as they finish
        biggest = max(biggest, *part)

    count = sum(len(part) for part in found)
    return f"{count} primes below {limit}, the last {biggest}; the first are {first + second}"


if __name__ == "__main__":
    print(main())
