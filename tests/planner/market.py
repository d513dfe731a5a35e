"""Offers, requirements and hypothesis strategies for the tests of the planner."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from skyward.model.accelerator import Accelerator
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.sizes import Range

PROVIDERS = ("aws", "verda", "vastai")
REGIONS = ("north", "south", "east")
ACCELERATORS = (None, "H100-SXM", "H100-PCIe", "A100-40GB", "A100-80GB", "L4")
MEMORY = {"H100-SXM": 80.0, "H100-PCIe": 80.0, "A100-40GB": 40.0, "A100-80GB": 80.0, "L4": 24.0}
PRICINGS = ("on-demand", "spot", "interruptible", "capacity-block")


def offer(**changes: Any) -> Offer:
    """A plain machine; name what matters to the test."""
    fields: dict[str, Any] = {
        "provider": "aws",
        "region": "north",
        "instance_type": "m1",
        "usd_per_hour": 1.0,
        "vcpus": 4.0,
        "memory_gib": 16.0,
    }
    fields.update(changes)
    if fields.get("accelerator"):
        fields.setdefault("accelerator_count", 1.0)
        fields.setdefault("accelerator_memory_gib", MEMORY.get(fields["accelerator"]))
    return Offer(**fields)


prices = st.none() | st.just(0.0) | st.floats(0.01, 100).map(lambda price: round(price, 2))
sizes = st.sampled_from((1.0, 2.0, 4.0, 8.0, 16.0, 64.0))
ranges = st.none() | st.builds(
    lambda low, more: Range(low, None if more is None else low + more), sizes, st.none() | sizes
)


@st.composite
def offers(draw: st.DrawFn) -> Offer:
    name = draw(st.sampled_from(ACCELERATORS))
    region = draw(st.sampled_from(REGIONS))
    return offer(
        provider=draw(st.sampled_from(PROVIDERS)),
        region=region,
        zone=draw(st.none() | st.sampled_from((f"{region}-1a", f"{region}-1b"))),
        instance_type=draw(st.sampled_from(("m1", "m2", "m3"))),
        pricing=draw(st.sampled_from(PRICINGS)),
        usd_per_hour=draw(prices),
        vcpus=draw(sizes),
        memory_gib=draw(sizes),
        disk_gb=draw(st.none() | sizes),
        architecture=draw(st.sampled_from(("x86_64", "arm64"))),
        accelerator=name,
        accelerator_count=draw(st.sampled_from((0.125, 0.5, 1.0, 2.0, 8.0))) if name else 0.0,
        availability=draw(st.sampled_from(("available", "listed", "none", "unknown"))),
        reliability=draw(st.none() | st.sampled_from((0.9, 0.95, 0.999))),
        quality=draw(st.sampled_from(("exact", "exact", "estimated", "indicative"))),
    )


markets = st.lists(offers(), max_size=25)
accelerators = st.none() | st.sampled_from(
    (
        "H100",
        "H100-SXM:2",
        "A100",
        "A100-80GB",
        "A100:2..8",
        "L4",
        "L4:0.125",
        "nvidia",
        "48GB..",
        "A100:1g.5gb",
    )
).map(Accelerator)


@st.composite
def requirements(draw: st.DrawFn) -> Requirements:
    some_of = lambda values: st.lists(st.sampled_from(values), max_size=2, unique=True).map(tuple)  # noqa: E731
    return Requirements(
        nodes=draw(st.integers(1, 4)),
        accelerator=draw(accelerators),
        total_accelerators=draw(st.none() | st.none() | st.sampled_from((0.5, 1.0, 8.0))),
        cpu=draw(ranges),
        memory_gib=draw(ranges),
        disk_gb=draw(ranges),
        architecture=draw(st.none() | st.sampled_from(("x86_64", "arm64"))),
        machine=draw(st.none() | st.none() | st.just("m2")),
        regions=draw(some_of(REGIONS)),
        zones=draw(st.just(()) | st.just(("north-1a",))),
        allocation=draw(
            st.sampled_from(
                ("spot-if-available", "spot", "always-spot", "on-demand", "cheapest", 0.0, 0.5, 1.0)
            )
        ),
        max_price=draw(st.none() | st.floats(0.05, 50)),
        max_cost=draw(st.none() | st.floats(0.05, 50)),
        min_reliability=draw(st.none() | st.just(0.95)),
        providers=draw(some_of(PROVIDERS)),
    )
