"""This machine as a provider: nothing is rented, tasks run in processes of their own. Imports public names only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skyward import Capabilities, Endpoint, Instance, LaunchRequest, Offer, Provider, hookimpl

_SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_SMI_S = 10.0
_ARCHITECTURES = {"aarch64": "arm64", "amd64": "x86_64"}
"""What `uname -m` says -> what offers say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """This machine; what a pool uses when neither a provider nor hardware is asked for."""

    directory: str | None = None
    """Where environments and runs are kept; None chooses ~/.cache/skyward."""


class LocalProvider(Provider):
    """This machine. Several nodes share it, each with processes of its own."""

    name = "local"
    Config = Local
    capabilities = Capabilities(off_means="nothing")

    def offers(self) -> Iterable[Offer]:
        """This machine as it is now, at 0 USD per hour."""
        return [_this_machine()]

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        """`count` nodes, all of them this machine. The same token gives the same ones."""
        ids = [f"local-{request.token}-{number}" for number in range(request.count)]
        with _lock:
            for id in ids:
                _held.setdefault(id, (request.pool, self._instance(id, request)))
            return [_held[id][1] for id in ids]

    def instances(self, pool: str | None) -> Sequence[Instance]:
        """The nodes this process holds for a pool, or for any; they are gone with the process."""
        with _lock:
            return [instance for owner, instance in _held.values() if pool in (None, owner)]

    def terminate(self, ids: Iterable[str]) -> None:
        with _lock:
            for id in ids:
                _held.pop(id, None)

    def connect(self, instance: Instance) -> Endpoint:
        return Endpoint(kind="local", directory=self.config.directory)

    def _instance(self, id: str, request: LaunchRequest) -> Instance:
        return Instance(
            id=id,
            provider=self.name,
            offer=request.offer,
            region=request.offer.region,
            public_address="127.0.0.1",
            private_address="127.0.0.1",
            tags=dict(request.tags),
        )


_held: dict[str, tuple[str, Instance]] = {}
"""Instance id -> pool and instance, of every provider object in this process."""
_lock = threading.Lock()


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return (LocalProvider,)


def _this_machine() -> Offer:
    name, count, memory_gib = _gpus()
    return Offer(
        provider="local",
        region="local",
        instance_type=platform.node() or "this machine",
        usd_per_hour=0.0,
        vcpus=float(_cpus()),
        memory_gib=_memory_gib(),
        disk_gb=_disk_gb(),
        architecture=_ARCHITECTURES.get(machine := platform.machine().lower(), machine),
        accelerator=name,
        accelerator_count=float(count),
        accelerator_memory_gib=memory_gib,
        availability="available",
        source="this machine",
    )


def _cpus() -> int:
    """Those this process may use: fewer than the machine has in a container or under `taskset`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 2)


def _disk_gb() -> float | None:
    try:
        return round(shutil.disk_usage(Path.home()).free / 1e9, 1)
    except (OSError, RuntimeError):
        return None


def _gpus() -> tuple[str | None, int, float | None]:
    """The driver's name of the most frequent card, how many there are, and the memory of one in GiB."""
    if shutil.which(_SMI[0]) is None:
        return None, 0, None
    try:
        said = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, 0, None  # a driver without a card, or a card without a driver
    return read_smi(said)


def read_smi(text: str) -> tuple[str | None, int, float | None]:
    """`name, MiB` lines of nvidia-smi. Memory is "[N/A]" on cards that share the machine's."""
    cards = [tuple(part.strip() for part in line.rsplit(",", 1)) for line in text.splitlines() if "," in line]
    if not cards:
        return None, 0, None
    name, memory = max(cards, key=cards.count)
    return name, cards.count((name, memory)), int(memory) / 1024 if memory.isdigit() else None
