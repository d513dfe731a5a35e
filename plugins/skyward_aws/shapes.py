"""What EC2 machines are: `DescribeInstanceTypes` read with its known mistakes corrected. Pure.

The corrections are the table `corrections.csv` beside this module: one row per fact, with reason, source and day.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One EC2 instance type. Accelerators have EC2's name and the memory EC2 reports, per whole device."""

    instance_type: str
    vcpus: float
    memory_gib: float
    architecture: str
    accelerator: str | None = None
    accelerator_count: float = 0.0
    """0.125 where an eighth of a GPU is sold."""
    accelerator_memory_gib: float | None = None
    local_disk_gb: float | None = None
    """Instance storage; the root volume is network storage of any size."""
    network: str = ""
    efa_interfaces: int = 0
    bare_metal: bool = False
    markets: tuple[str, ...] = ()
    """Of `on-demand`, `spot`, `capacity-block`."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One fact the API has wrong, or lacks."""

    instance_type: str
    field: str
    value: str
    reason: str
    source: str
    observed_on: str


@cache
def corrections() -> tuple[Correction, ...]:
    with Path(__file__).with_name("corrections.csv").open(newline="", encoding="utf-8") as file:
        return tuple(Correction(**row) for row in csv.DictReader(file))


def aliases() -> Mapping[str, Correction]:
    """Names people use that EC2 does not know."""
    return {fact.instance_type: fact for fact in corrections() if fact.field == "alias_of"}


def shapes_of(descriptions: Iterable[Mapping[str, Any]]) -> dict[str, Shape]:
    """The shapes of `InstanceTypes` as the API lists them, by instance type; types not rented by the hour are left out."""
    shapes = (shape_of(description) for description in descriptions)
    return {shape.instance_type: shape for shape in shapes if shape is not None}


def shape_of(description: Mapping[str, Any]) -> Shape | None:
    """One entry of `InstanceTypes`; None where it is not rented by the hour."""
    found = _described(description)
    for fact in corrections():
        if not fnmatchcase(found.instance_type, fact.instance_type):
            continue
        if fact.field == "skip":
            return None
        found = _corrected(found, fact)
    return found


def _described(description: Mapping[str, Any]) -> Shape:
    name, count, memory_gib = _accelerator(description)
    network = description.get("NetworkInfo", {})
    return Shape(
        instance_type=description["InstanceType"],
        vcpus=float(description["VCpuInfo"]["DefaultVCpus"]),
        memory_gib=description["MemoryInfo"]["SizeInMiB"] / 1024,
        architecture=_architecture(description.get("ProcessorInfo", {}).get("SupportedArchitectures", ())),
        accelerator=name,
        accelerator_count=count,
        accelerator_memory_gib=memory_gib,
        local_disk_gb=description.get("InstanceStorageInfo", {}).get("TotalSizeInGB"),
        network=network.get("NetworkPerformance", ""),
        efa_interfaces=network.get("EfaInfo", {}).get("MaximumEfaInterfaces", 0),
        bare_metal=bool(description.get("BareMetal")),
        markets=tuple(sorted(description.get("SupportedUsageClasses", ()))),
    )


def _architecture(supported: Iterable[str]) -> str:
    """Old types say i386 and x86_64."""
    return "arm64" if any(name.startswith("arm64") for name in supported) else "x86_64"


def _accelerator(description: Mapping[str, Any]) -> tuple[str | None, float, float | None]:
    """Name, count and GiB per device. Inferentia is listed as Neuron device and as inference accelerator: once counts."""
    for section, entries in (
        ("GpuInfo", "Gpus"),
        ("NeuronInfo", "NeuronDevices"),
        ("InferenceAcceleratorInfo", "Accelerators"),
    ):
        for device in description.get(section, {}).get(entries, ()):
            share = device.get("GpuPartitionSize") or 1.0
            count = float(device.get("Count") or device.get("LogicalGpuCount", 0) * share)
            memory_mib = device.get("MemoryInfo", {}).get("SizeInMiB")
            whole = (
                memory_mib / 1024 / share
                if memory_mib and not device.get("Count")
                else memory_mib and memory_mib / 1024
            )
            return device["Name"], count, whole
    return None, 0.0, None


def _corrected(shape: Shape, fact: Correction) -> Shape:
    if fact.field == "accelerator":
        if fact.value:
            return replace(shape, accelerator=fact.value)
        return replace(shape, accelerator=None, accelerator_count=0.0, accelerator_memory_gib=None)
    if fact.field == "accelerator_count":
        return replace(shape, accelerator_count=float(fact.value))
    if fact.field == "accelerator_memory_gib":
        return replace(shape, accelerator_memory_gib=float(fact.value))
    return shape
