"""Arguments from the shell, converted and checked by the signature before anything starts.

skyward run examples/05_arguments.py:simulate -- --steps 1000 --kind walk --no-verbose
skyward run examples/05_arguments.py:simulate -- steps=ten                # an error, and nothing has started
skyward run examples/05_arguments.py:sweep --nodes 2 -- 1 2 3             # a fan-out, one line per value
printf '{"seed": 1}\\n{"seed": 2, "kind": "jump"}\\n' | skyward run examples/05_arguments.py:simulate --map -
"""

import random
from collections.abc import Iterator
from typing import Any, Literal

import skyward as sky


@sky.compute(retries=1, timeout="1m")
def simulate(
    steps: int = 10_000, *, seed: int = 0, kind: Literal["walk", "jump"] = "walk", verbose: bool = False
) -> float:
    """Where a random walker is after so many steps."""
    dice = random.Random(seed)
    reach = 1.0 if kind == "walk" else 10.0
    position = 0.0
    for step in range(steps):
        position += dice.uniform(-reach, reach)
        if verbose and step % (steps // 4) == 0:
            print(f"step {step}: {position:.1f}")
    return round(position, 3)


def sweep(seeds: list[int], steps: int = 10_000) -> Iterator[Any]:
    """Yields calls: `skyward run` collects them first, so --co, -k and -x know each of them."""
    for seed in seeds:
        yield simulate(steps, seed=seed)
