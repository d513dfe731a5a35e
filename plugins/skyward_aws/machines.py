"""Instances as EC2 describes them, read into ours. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from skyward import Instance, InstanceState, Offer
from skyward_aws.fleet import USER_TAG, VOLUME_TAG

_STATES: Final = {
    "pending": InstanceState.PENDING,
    "running": InstanceState.RUNNING,
    "stopping": InstanceState.RUNNING,
    "stopped": InstanceState.RUNNING,
    "shutting-down": InstanceState.TERMINATING,
    "terminated": InstanceState.TERMINATED,
}
"""A stopped machine still has its disks, and may be started again: nothing of it is on its way out."""


def read_instance(
    described: Mapping[str, Any],
    region: str,
    known: Iterable[Offer] = (),
    *,
    port: int = 22,
    user: str | None = None,
    endpoint: str | None = None,
) -> Instance:
    """An entry of `Instances`. Its offer is one of `known` where one fits, else what EC2 tells, without a price. With
    an `endpoint` of AWS its buckets are there, too."""
    state = described.get("State", {}).get("Name", "pending")
    tags = {tag["Key"]: tag["Value"] for tag in described.get("Tags", ())}
    zone = described.get("Placement", {}).get("AvailabilityZone")
    zone_id = described.get("Placement", {}).get("AvailabilityZoneId")
    spot = described.get("InstanceLifecycle") == "spot"
    return Instance(
        id=described["InstanceId"],
        provider="aws",
        offer=_offer_of(described, region, known, {zone, zone_id}, spot),
        state=_STATES.get(state, InstanceState.PENDING),
        region=region,
        zone=zone,
        public_address=described.get("PublicIpAddress"),
        private_address=described.get("PrivateIpAddress"),
        port=port,
        user=user or tags.get(USER_TAG, "ubuntu"),
        spot=spot,
        tags=tags,
        reason=_reason(described, state),
        details={
            "volumes": read_volumes(described, tags),
            **({} if endpoint is None else {"s3_endpoint": endpoint}),
        },
    )


def read_volumes(described: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, str]:
    """Ids of the disks that are to be mounted, each with its path."""
    found = {}
    for mapping in described.get("BlockDeviceMappings", ()):
        path = tags.get(f"{VOLUME_TAG}{mapping.get('DeviceName')}")
        volume = mapping.get("Ebs", {}).get("VolumeId")
        if path and volume:
            found[volume] = path
    return found


def _reason(described: Mapping[str, Any], state: str) -> str | None:
    """Why it is not running, in EC2's words."""
    if state in ("pending", "running"):
        return None
    why = described.get("StateReason", {})
    parts = [why.get("Code"), why.get("Message")]
    text = ": ".join(dict.fromkeys(str(part) for part in parts if part))
    text = text.replace(f"{why.get('Code')}: {why.get('Code')}: ", f"{why.get('Code')}: ")
    return text or described.get("StateTransitionReason") or f"EC2 says {state}"


def _offer_of(
    described: Mapping[str, Any], region: str, known: Iterable[Offer], zones: set[Any], spot: bool
) -> Offer:
    kind = described.get("InstanceType", "")
    fitting = [
        offer
        for offer in known
        if offer.instance_type == kind and offer.region == region and (offer.pricing == "spot") == spot
    ]
    exact = (offer for offer in fitting if offer.zone in zones or not zones.isdisjoint(offer.zones))
    found = next(exact, next(iter(fitting), None))
    if found is not None:
        return found
    cores = described.get("CpuOptions", {})
    return Offer(
        provider="aws",
        region=region,
        zone=described.get("Placement", {}).get("AvailabilityZone"),
        instance_type=kind,
        pricing="spot" if spot else "on-demand",
        usd_per_hour=None,
        vcpus=float(cores.get("CoreCount", 0) * cores.get("ThreadsPerCore", 1)),
        memory_gib=0.0,
        architecture="arm64" if str(described.get("Architecture")).startswith("arm64") else "x86_64",
        source="EC2 DescribeInstances",
    )
