"""Machines you already have: anything with sshd and python3, nothing installed on them beforehand.

    python examples/04_ssh_hosts.py me@gpu1 me@10.0.0.7:2222
    skyward run examples/04_ssh_hosts.py:about --each --host me@gpu1 --host me@10.0.0.7:2222

Host keys are checked against your known_hosts; names, keys and jumps of ~/.ssh/config count.
"""

import os
import platform
import sys
from typing import Any

import skyward as sky


@sky.compute
def about() -> dict[str, Any]:
    """What this machine is."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    hosts = sys.argv[1:] or sys.exit("which machines? python examples/04_ssh_hosts.py [user@]host[:port] ...")
    with sky.ComputePool(provider=sky.SSH(hosts=hosts), nodes=len(hosts)) as pool:
        for machine in about() @ pool:
            print("  ".join(f"{key} {value}" for key, value in machine.items()))
