"""What a plugin says of one accelerator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class MigProfile:
    """One way to cut a GPU: `1g.10gb` is one compute slice with 10 GB, `fits` of them per GPU."""

    name: str
    compute_slices: int
    memory_gb: float
    fits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorModel:
    """One accelerator on sale somewhere; `name` is canonical and resolves to itself ("H100-SXM")."""

    name: str
    vendor: Literal["nvidia", "amd", "aws", "google", "intel", "habana", "qualcomm", "xilinx"] | str
    kind: str = "gpu"
    architecture: str = ""
    compute_capability: str | None = None
    memory_gib: float | None = None
    """Marketed memory of one device."""
    memory_reported_gib: float | None = None
    """What drivers and cloud APIs report for it."""
    memory_type: str = ""
    form_factor: str = ""
    interconnect: str = ""
    interconnect_gbps: float | None = None
    fp16_tflops_dense: float | None = None
    mig: tuple[MigProfile, ...] = ()
    aliases: tuple[str, ...] = ()
    """Other spellings that mean this one, any cloud."""
    cloud_names: dict[str, tuple[str, ...]] | None = None
    """Provider name -> what that provider calls it; a name may be a regular expression."""
    family: str = ""
    """What a bare name means ("H100" matches every member of the family)."""
    confidence: str = "high"
    notes: str = ""
