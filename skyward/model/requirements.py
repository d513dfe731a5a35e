"""What a task, or a pool, needs of the machines it runs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator
    from skyward.model.sizes import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What each node needs. None means that anything will do; ranges include both ends."""

    nodes: int = 1
    min_nodes: int | None = None
    accelerator: Accelerator | None = None
    cpu: Range | None = None
    """vCPUs per node."""
    memory_gib: Range | None = None
    disk_gb: Range | None = None
    architecture: str | None = None
    machine: str | None = None
    """An instance type by its provider's own name."""
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    allocation: str | float = "spot-if-available"
    max_price: float | None = None
    """USD per hour for one node."""
    max_cost: float | None = None
    """USD for the whole pool."""
    max_lifetime_s: float | None = None
    min_reliability: float | None = None
    providers: tuple[str, ...] = ()
