"""What a task, or a pool, needs of the machines it runs on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator
    from skyward.model.offer import Offer
    from skyward.model.sizes import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What each node needs. None means that anything will do; ranges include both ends."""

    nodes: int = 1
    min_nodes: int | None = None
    accelerator: Accelerator | None = None
    total_accelerators: float | None = None
    """Accelerators over all nodes together; how many nodes that takes depends on the offer, and `nodes` is unused."""
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
    """By name, in order of preference; empty means every one."""
    provider_regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Regions that one provider's own configuration names; `regions`, where given, is asked instead."""

    def nodes_of(self, offer: Offer) -> int:
        """How many machines of `offer` these requirements take."""
        if self.total_accelerators is None or offer.accelerator_count <= 0:
            return self.nodes
        # 0.125 x 8 must be one whole, whatever the last bit of the quotient says.
        return max(1, math.ceil(self.total_accelerators / offer.accelerator_count - 1e-9))

    @property
    def takes_fractions(self) -> bool:
        """Whether a slice of an accelerator will do: only when less than one was asked for."""
        is_small = self.accelerator is not None and self.accelerator.count < 1
        return is_small or (self.total_accelerators is not None and self.total_accelerators < 1)
