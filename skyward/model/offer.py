"""One priced way to rent one machine; a row of the catalog."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Pricing = Literal["on-demand", "spot", "interruptible", "capacity-block"]
Availability = Literal["available", "listed", "none", "unknown"]
Quality = Literal["exact", "estimated", "indicative"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One priced way to rent one machine. Prices are US dollars per hour for a whole machine, before tax.

    `spot` is a market where the provider sets the price, `interruptible` one where we bid.
    """

    provider: str
    region: str
    zone: str | None = None
    zones: tuple[str, ...] = ()
    """Zones an offer of a whole region can be launched in, where the provider says."""
    instance_type: str
    pricing: Pricing = "on-demand"
    usd_per_hour: float | None
    """None where it is unknown; an unknown price is never free and never wins."""
    usd_per_gpu_hour: float | None = None
    price_floor: float | None = None
    """Lowest bid the market takes, USD per hour; only where we bid."""
    vcpus: float
    memory_gib: float
    """Memory of the whole machine, GiB (2**30 bytes)."""
    disk_gb: float | None = None
    """Disk the machine is limited to, GB (10**9 bytes); None where storage is sized on request."""
    architecture: str = "x86_64"
    accelerator: str | None = None
    """Canonical accelerator name ("H100-SXM"), or None for a CPU machine."""
    accelerator_count: float = 0.0
    """Accelerators per machine; 0.125 exists."""
    accelerator_memory_gib: float | None = None
    """Memory of one accelerator, GiB."""
    interconnect: str | None = None
    availability: Availability = "unknown"
    reliability: float | None = None
    observed_at: datetime | None = None
    """When this price was true, UTC."""
    source: str = ""
    quality: Quality = "exact"
    details: dict[str, Any] = field(default_factory=dict, compare=False)
    """What the provider needs to launch exactly this offer (an ask id, a size slug); plain data."""
    is_owned: bool = False
    """One of the user's own machines: it costs nothing, and a size of 0 vCPUs means that nothing is known of it."""

    @property
    def price(self) -> float | None:
        """US dollars per hour that may be compared and added up; None where unknown. Zero is a missing price,
        except for the user's own machines."""
        return 0.0 if self.is_owned else self.usd_per_hour or None
