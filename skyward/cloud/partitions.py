"""Which MIG partitions a pool asks for, and which worker gets which. What cuts them is `steps/partitions.py`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from skyward.errors import BootstrapError
from skyward.model.accelerator import Accelerator, Registry, default_registry
from skyward.model.instance import Instance
from skyward.remote.connection import Connection

FILE = "/run/skyward/partitions"
"""Where on the machine the UUIDs are written, as JSON."""
DETAIL = "partitions"
"""Where in `Instance.details` they are kept here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioning:
    """Every GPU that was asked for, cut into equal parts."""

    profile: str
    gpus: int
    per_gpu: int

    @property
    def workers(self) -> int:
        """One for each partition."""
        return self.gpus * self.per_gpu


def partitioning(wish: Accelerator | None, registry: Registry | None = None) -> Partitioning | None:
    """How each node is cut; None where no MIG profile was asked for."""
    if wish is None or wish.mig is None:
        return None
    profile = (registry or default_registry()).profile(wish)
    per_gpu = profile.fits if profile else 1
    return Partitioning(profile=wish.mig, gpus=max(1, math.ceil(wish.count)), per_gpu=per_gpu)


def with_partitions(connection: Connection, instance: Instance) -> Instance:
    """The instance with the UUIDs of its partitions among its details; for after the step that cut them.

    Raises:
        BootstrapError: they cannot be read.
    """
    done = connection.run(f"cat {FILE}")
    try:
        uuids = json.loads(done.stdout)
    except ValueError:
        uuids = None
    if not isinstance(uuids, list) or not uuids or not all(isinstance(one, str) for one in uuids):
        raise BootstrapError(
            f"{connection.endpoint}: which partitions its GPUs have is not known: {FILE} cannot be read",
            facts=done.stderr.decode(errors="replace").splitlines()[-1:],
            step="partitions",
        )
    return replace(instance, details={**instance.details, DETAIL: uuids})


def worker_env(instance: Instance, worker: int) -> Mapping[str, str]:
    """Variables that pin one worker of a node to its partition; none where nothing was cut."""
    uuids: Sequence[str] = instance.details.get(DETAIL, ())
    return {"CUDA_VISIBLE_DEVICES": uuids[worker]} if worker < len(uuids) else {}
