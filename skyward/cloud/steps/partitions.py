"""Cuts the GPUs of this machine into MIG partitions. Runs there as root, as text; standard library only.

What is cut already as it should be stays. The UUIDs, in the order of GPUs, are written into a file for whoever starts
workers. Request: {"profile": "1g.10gb", "gpus": 1, "per_gpu": 7, "file": ...}.

The commands are those of https://docs.nvidia.com/datacenter/tesla/mig-user-guide/ (read 2026-11-20).
"""

import json
import os
import re
import subprocess
import sys
import time
from typing import Dict, List, Tuple

WAIT_S = 30.0
_GPU = re.compile(r"GPU (\d+):")
_PARTITION = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+:\s+\(UUID: (MIG-[^)]+)\)")


class Failed(Exception):
    pass


def smi(*arguments: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ("nvidia-smi", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise Failed("no nvidia-smi on this machine: %s" % error.strerror) from error
    except ValueError as error:  # no argument can hold a NUL
        raise Failed("cannot say %r: %s" % (arguments, error)) from error


def must(*arguments: str) -> str:
    done = smi(*arguments)
    if done.returncode:
        said = done.stdout.strip()[-500:]
        raise Failed("nvidia-smi %s failed with %d: %s" % (" ".join(arguments), done.returncode, said))
    return done.stdout


def modes() -> Dict[int, str]:
    """Of each GPU: Enabled, Disabled, or [N/A] for one that cannot be cut."""
    said = must("--query-gpu=index,mig.mode.current", "--format=csv,noheader")
    rows = [line.split(",") for line in said.splitlines() if "," in line]
    return {int(index): mode.strip() for index, mode in rows}


def partitions() -> Dict[int, List[Tuple[str, str]]]:
    """Of each GPU its partitions: profile and UUID."""
    found: Dict[int, List[Tuple[str, str]]] = {}
    gpu = -1
    for line in must("-L").splitlines():
        header, part = _GPU.match(line), _PARTITION.match(line)
        if header:
            gpu = int(header.group(1))
            found[gpu] = []
        elif part:
            found[gpu].append((part.group(1), part.group(2)))
    return found


def enable(gpu: int) -> None:
    """MIG mode on; some GPUs take it only with a reset."""
    mode = modes()[gpu]
    if mode not in ("Enabled", "Disabled"):
        raise Failed("GPU %d cannot be cut into partitions" % gpu)
    if mode == "Enabled":
        return
    must("-i", str(gpu), "-mig", "1")
    if modes()[gpu] != "Enabled":
        must("-i", str(gpu), "--gpu-reset")
    if modes()[gpu] != "Enabled":
        raise Failed(
            "GPU %d does not take MIG mode: something uses it, or the machine would have to reboot" % gpu
        )


def cut(gpu: int, profile: str, count: int) -> None:
    there = [name for name, _ in partitions().get(gpu, [])]
    if there == [profile] * count:
        return
    if there:
        must("mig", "-i", str(gpu), "-dci")
        must("mig", "-i", str(gpu), "-dgi")
    must("mig", "-i", str(gpu), "-cgi", ",".join([profile] * count), "-C")


def uuids(gpus: List[int], profile: str, count: int) -> List[str]:
    """Waits for all of them; the driver needs a moment."""
    deadline = time.monotonic() + WAIT_S
    while True:
        there = partitions()
        lists = [[uuid for name, uuid in there.get(gpu, []) if name == profile] for gpu in gpus]
        if all(len(one) == count for one in lists):
            return [uuid for one in lists for uuid in one]
        if time.monotonic() > deadline:
            raise Failed(
                "expected %d of %s on each of %d GPUs, found %s"
                % (count, profile, len(gpus), list(map(len, lists)))
            )
        time.sleep(0.2)


def write(place: str, found: List[str]) -> None:
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place + ".new", "w") as file:
        json.dump(found, file)
    os.chmod(place + ".new", 0o644)
    os.rename(place + ".new", place)


def main() -> int:
    request = json.load(sys.stdin)
    profile, count = request["profile"], request["per_gpu"]
    try:
        gpus = sorted(modes())[: request["gpus"]]
        if len(gpus) < request["gpus"]:
            raise Failed("%d GPUs were asked for, and there are %d" % (request["gpus"], len(gpus)))
        for gpu in gpus:
            enable(gpu)
            cut(gpu, profile, count)
        found = uuids(gpus, profile, count)
        write(request["file"], found)
    except (Failed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("%d x %s on %d GPUs" % (len(found), profile, len(gpus)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
