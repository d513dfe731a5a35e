"""A hundred machines at once: one request for all of them, one look at all of them, one request that ends them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import skyward as sky
from skyward.testing.ec2 import SimulatedEC2

MACHINES = 100


def test_a_hundred_machines_are_planned_launched_used_and_gone_in_a_handful_of_calls(
    make_aws: Any, ec2: SimulatedEC2
) -> None:
    def where() -> int:
        import skyward as sky

        info = sky.instance_info()
        return -1 if info is None else info.node

    pool = make_aws(nodes=MACHINES, bootstrap_timeout="10m")
    assert pool.plan().nodes == MACHINES
    with pool:
        assert len(ec2.running()) == MACHINES
        nodes = sky.compute(where)() @ pool
        assert pool.map(abs, range(-3 * MACHINES, 0)) == list(range(3 * MACHINES, 0, -1))

    calls = Counter(one.action for one in ec2.requests)
    assert nodes == tuple(range(MACHINES))
    assert len(ec2.bill) == MACHINES
    assert (calls["CreateFleet"], calls["RunInstances"], calls["TerminateInstances"]) == (1, 0, 1)
    assert calls["DescribeInstances"] <= 60  # one for all at each look, while they boot and while they end
    assert calls.total() - calls["DescribeInstances"] <= 30
    assert ec2.running() == []
    assert ec2.resources() == {}
