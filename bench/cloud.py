"""A pool on simulated EC2, side by side with the least that has to happen, in one run; prints ratios.

    python bench/cloud.py [ready] [steady]

The instances are real sshd processes on this machine, so what every one of them would do on its own processors
is done here by all of them together: the figures say how much work there is, not how long a cloud takes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import paramiko

import skyward as sky
from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.sshd import make_key

sys.path.insert(0, str(Path(__file__).parent))
from tasks import noop, report

MACHINE = "m7i.large"
THREADS = 32


@contextmanager
def cloud() -> Iterator[tuple[SimulatedEC2, Path]]:
    with tempfile.TemporaryDirectory() as home, SimulatedEC2() as ec2:
        os.environ.update(ec2.environ, SKYWARD_HOME=home)
        yield ec2, Path(home)


def pool_of(ec2: SimulatedEC2, nodes: int) -> sky.ComputePool:
    return sky.ComputePool(
        provider=sky.AWS(**ec2.config()), nodes=nodes, machine=MACHINE, allocation="on-demand", display="quiet",
        image=sky.Image(project=False),
    )  # fmt: skip


def bare(ec2: SimulatedEC2, home: Path, nodes: int) -> tuple[float, float]:
    """Seconds of one RunInstances, and of logging in to each instance once, when all of them run."""
    key = home / "bare"
    client = boto3.client("ec2", endpoint_url=ec2.endpoint)
    if not key.exists():
        make_key(key)
        client.import_key_pair(KeyName=key.name, PublicKeyMaterial=key.with_suffix(".pub").read_bytes())
    image = client.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    began = time.perf_counter()
    asked = client.run_instances(
        ImageId=image, InstanceType=MACHINE, MinCount=nodes, MaxCount=nodes, KeyName=key.name
    )
    launched_s = time.perf_counter() - began
    ids = [one["InstanceId"] for one in asked["Instances"]]
    client.get_waiter("instance_running").wait(InstanceIds=ids, WaiterConfig={"Delay": 1})
    shown = client.get_paginator("describe_instances").paginate(InstanceIds=ids)
    hosts = [one["PublicIpAddress"] for page in shown for r in page["Reservations"] for one in r["Instances"]]

    def log_in(host: str) -> None:
        session = paramiko.SSHClient()
        session.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        session.connect(
            host, ec2.ssh_port, "ubuntu", key_filename=str(key), allow_agent=False, look_for_keys=False
        )
        assert session.exec_command("true")[1].channel.recv_exit_status() == 0
        session.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(min(nodes, THREADS)) as threads:
        list(threads.map(log_in, hosts))
    logged_in_s = time.perf_counter() - began
    client.terminate_instances(InstanceIds=ids)
    return launched_s, logged_in_s


def ready() -> None:
    """From the first call that a launch makes to the first result, without the simulated boot; and from `pool.start()`,
    which also plans, writes down, and starts the process that would clean up."""
    for nodes, rounds, goal in ((10, 5, "<= 1.5"), (100, 1, "<= 2")):
        with cloud() as (ec2, home):
            ours, whole, theirs, ends = [], [], [], []
            for _ in range(rounds):
                theirs.append(sum(bare(ec2, home, nodes)))
                calls, asked = ec2.count("TerminateInstances"), len(ec2.requests)
                began = time.monotonic()
                with ThreadPoolExecutor(1) as clock:
                    boot_s = clock.submit(_boot_s, ec2, len(ec2.bill), nodes)
                    pool = pool_of(ec2, nodes).start()
                    sky.compute(noop)(0) >> pool
                    done = time.monotonic() - boot_s.result()
                ours.append(done - ec2.requests[asked].at)
                whole.append(done - began)
                ended = time.monotonic()
                pool.stop()
                ends.append(time.monotonic() - ended)
                assert ec2.count("TerminateInstances") == calls + 1
                assert not ec2.running()
        least = {f"one launch + {nodes} paramiko logins": (statistics.median(theirs), goal)}
        report(f"launch to first result, {nodes} nodes", statistics.median(ours), "s", **least)
        report("the same from pool.start()", statistics.median(whole), "s", **least)
        print(
            f"{f'teardown of {nodes}, one call, verified':34s} {statistics.median(ends):12,.1f} s", flush=True
        )


def _boot_s(ec2: SimulatedEC2, before: int, nodes: int) -> float:
    """From the answer of a launch until the last of its instances had booted, seconds."""
    while len(ec2.bill) < before + nodes:
        time.sleep(0.01)
    mine = ec2.bill[before:]
    for charge in mine:
        ec2.machine(charge.id).await_boot()
    return time.monotonic() - min(charge.launched_at for charge in mine)


SIMULATION = ("ec2-", "metadata", "machine", "boot", "end_")
"""How threads of the simulated cloud are called, which lives in this process as well."""


def steady(nodes: int = 100, seconds: float = 30.0) -> None:
    """Share of one core that a pool takes of its client while nothing is to be done."""
    with cloud() as (ec2, _), pool_of(ec2, nodes):
        time.sleep(3)
        began, before = time.perf_counter(), _cpu_s()
        time.sleep(seconds)
        after, took = _cpu_s(), time.perf_counter() - began
    used = sum(after[thread] - before.get(thread, 0.0) for thread in after)
    report(f"idle pool of {nodes} nodes", 100 * used / took, "% of a core", **{"the goal": (1.0, "< 1")})


def _cpu_s() -> dict[int, float]:
    """Processor time of each thread of this process that is none of the simulation, seconds."""
    found = {}
    for thread in threading.enumerate():
        if thread.native_id is not None and not thread.name.startswith(SIMULATION):
            text = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
            found[thread.native_id] = int(text.split()[0]) / 1e9
    return found


def main() -> None:
    everything: dict[str, Any] = {one.__name__: one for one in (ready, steady)}
    threading.excepthook = lambda args: sys.exit(f"a thread failed: {args}")
    for name in sys.argv[1:] or everything:
        everything[name]()


if __name__ == "__main__":
    main()
