"""Ray doing the same as `tasks.py`, in an environment of its own; prints one figure.

python ray_peer.py rate                 no-op tasks per second on two local nodes of one core
python ray_peer.py cold 'SSH A' 'SSH B'  seconds from nothing to the first result on two nodes behind SSH
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import time


def rate() -> float:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    @ray.remote
    def noop(i):
        return None

    ray.get([noop.remote(i) for i in range(200)])

    def once(n: int = 3000) -> float:
        began = time.perf_counter()
        ray.get([noop.remote(i) for i in range(n)])
        return n / (time.perf_counter() - began)

    figure = statistics.median(once() for _ in range(3))
    ray.shutdown()
    cluster.shutdown()
    return figure


def cold(first: str, second: str) -> float:
    """As its cluster launcher does it: `ray start` over SSH on each node, then a driver that connects."""
    program = f"{os.path.dirname(sys.executable)}/ray"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    began = time.perf_counter()
    try:
        start = f"{program} start --node-ip-address=127.0.0.1 --num-cpus=1 --disable-usage-stats"
        subprocess.run([*first.split(), f"{start} --head --port={port} --include-dashboard=false"], **quiet)
        subprocess.run([*second.split(), f"{start} --address=127.0.0.1:{port}"], **quiet)
        import ray

        ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)
        ray.get(ray.remote(lambda: None).remote())
        return time.perf_counter() - began
    finally:
        for one in (first, second):
            subprocess.run([*one.split(), f"{program} stop --force"], **{**quiet, "check": False})


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    print("figure", {"rate": rate, "cold": cold}[sys.argv[1]](*sys.argv[2:]))
