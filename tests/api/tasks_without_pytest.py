"""Tasks for machines that have nothing but Python: no test module can be imported there."""

from __future__ import annotations

import time

import skyward as sky


@sky.compute
def double(x: int) -> int:
    return 2 * x


@sky.compute
def place() -> sky.InstanceInfo | None:
    return sky.instance_info()


@sky.compute
def slowly(x: int) -> int:
    time.sleep(0.05)
    return x
