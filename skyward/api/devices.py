"""Which accelerator the running task has. Standard library only: it runs on instances."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from skyward.api.instance import instance_info

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator

_DEVICES = {
    "nvidia": ("/dev/nvidiactl", "/dev/nvidia0", "/proc/driver/nvidia/version"),
    "amd": ("/dev/kfd",),
    "aws": ("/dev/neuron0",),
}
"""What each vendor's driver makes, where it is loaded."""


def is_nvidia() -> bool:
    """Whether this machine has an NVIDIA GPU."""
    return _has("nvidia")


def is_amd() -> bool:
    """Whether this machine has an AMD GPU."""
    return _has("amd")


def is_trainium() -> bool:
    """Whether this machine has AWS Trainium or Inferentia devices."""
    return _has("aws")


def current_accelerator() -> Accelerator | None:
    """The accelerators of the machine this task runs on; None outside of tasks, and where there are none."""
    info = instance_info()
    if info is None or info.gpu_model is None:
        return None
    from skyward.model.accelerator import Accelerator

    return Accelerator(info.gpu_model, count=info.accelerators or 1)


def _has(vendor: str) -> bool:
    info = instance_info()
    if info is not None and info.gpu_vendor is not None:
        return info.gpu_vendor == vendor
    return any(map(os.path.exists, _DEVICES[vendor]))
