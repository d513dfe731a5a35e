"""Disks that are attached to machines: files of this computer behind loop devices. Only root can have them."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from skyward.testing.machines import Machine

_ATTACH = """
set -e
mkdir -p /dev/disk/by-id
[ -e {node} ] || mknod -m 660 {node} b {major} {minor}
ln -sf {node} {by_id}
ln -sf {node} {alias}
"""


class Disks:
    """The disks of one cloud. A context manager; leaving it detaches them all."""

    def __init__(self, make_directory: Callable[[], Path]) -> None:
        self._make_directory = make_directory
        self._directory: Path | None = None
        self._attached: dict[str, tuple[str, Machine]] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> Disks:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for volume in list(self._attached):
                self.detach(volume)
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)

    def attach(self, machine: Machine, volume: str, size_gib: int, device: str) -> bool:
        """Whether the machine has it now: at the device's name, and by the id that Nitro instances give it."""
        with self._lock:
            if volume in self._attached or not _can_loop():
                return False
            loop = self._loop(volume, size_gib)
            number = 1 + sum(other is machine for _, other in self._attached.values())
            status = os.stat(loop)
            machine.run(
                _ATTACH.format(
                    node=f"/dev/nvme{number}n1",
                    major=os.major(status.st_rdev),
                    minor=os.minor(status.st_rdev),
                    by_id=f"/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{volume.replace('-', '')}",
                    alias=device,
                )
            )
            self._attached[volume] = (loop, machine)
            return True

    def detach(self, volume: str) -> None:
        """The machine has it no more; what was written on it stays. Idempotent."""
        with self._lock:
            loop, machine = self._attached.pop(volume, (None, None))
            if loop is None or machine is None:
                return
            if machine.is_alive:
                machine.run(f'for link in /dev/disk/by-id/*{volume.replace("-", "")}; do rm -f "$link"; done')
            subprocess.run(["losetup", "--detach", loop], capture_output=True, check=False)

    def _loop(self, volume: str, size_gib: int) -> str:
        if self._directory is None:
            self._directory = self._make_directory()
        file = self._directory / volume
        with file.open("ab") as disk:
            disk.truncate(size_gib << 30)
        made = subprocess.run(
            ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True
        )
        return made.stdout.strip()


def sweep_disks(directory: Path) -> None:
    """Detaches what a process that was killed left attached to files below a directory."""
    if not _can_loop():
        return
    listed = subprocess.run(
        ["losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in listed.stdout.splitlines():
        loop, _, file = line.strip().partition(" ")
        if file.strip().startswith(f"{directory}/"):
            subprocess.run(["losetup", "--detach", loop], capture_output=True, check=False)


def _can_loop() -> bool:
    return os.geteuid() == 0 and shutil.which("losetup") is not None and os.path.exists("/dev/loop-control")
