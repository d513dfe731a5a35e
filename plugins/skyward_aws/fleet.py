"""What is asked of EC2 Fleet, and what its answer means. Pure: values in, values out.

A fleet of type `instant` is one synchronous request: N machines of one type out of several zones, or fewer, with the
reasons in `Errors` of an answer that is a success. https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFleet.html
(2026-11)
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from skyward import (
    CapacityError,
    CredentialsError,
    LaunchRequest,
    Offer,
    ProviderError,
    QuotaError,
    S3Volume,
    Volume,
)
from skyward_aws.errors import kind_of, make_error
from skyward_aws.images import FREE_GB, MachineImage
from skyward_aws.network import Place, tag_specification

DEVICES: Final = tuple(f"/dev/sd{letter}" for letter in "fghijklmnop")
"""Names EC2 recommends for data disks: EC2 user guide, "Device names for volumes" (2026-11)."""
USER_DATA_BYTES: Final = 16 * 1024
"""EC2's limit, before base64."""
TOKEN_LENGTH: Final = 64
VOLUME_TAG: Final = "skyward:volume:"
"""Tag of an instance that says where the disk of a device belongs: `skyward:volume:/dev/sdf` = `/data`."""
USER_TAG: Final = "skyward:user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All that a launch needs to know; found out before anything is rented."""

    request: LaunchRequest
    image: MachineImage
    places: tuple[tuple[Place, Offer], ...]
    """Where machines may stand, and which offer each would be, in the order of the plan."""
    group: str
    user: str
    strategy: str
    key_name: str | None = None
    profile: Mapping[str, str] | None = None
    """`{"Arn": ...}` or `{"Name": ...}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """One machine of a fleet's answer, and the offer it turned out to be."""

    id: str
    offer: Offer
    zone: str | None


# -- names -----------------------------------------------------------------------------------------------------


def name_of(pool: str) -> str:
    """What the pool's group and key pair are called."""
    return f"skyward-{re.sub(r'[^a-zA-Z0-9-]', '-', pool)[:80]}"


def client_token(token: str, attempt: int = 0) -> str:
    """The idempotency token of a launch: at most 64 ASCII characters, and another one for each further attempt."""
    text = f"{token}.{attempt}" if attempt else token
    if len(text) <= TOKEN_LENGTH and text.isascii():
        return text
    return f"sky-{hashlib.sha256(text.encode()).hexdigest()[:40]}"


def template_name(request: LaunchRequest) -> str:
    """One template per launch, so that a repeated request means the same one."""
    digest = hashlib.sha256(request.token.encode()).hexdigest()[:12]
    return f"{name_of(request.pool)}-{digest}"


# -- asking ----------------------------------------------------------------------------------------------------


def template_data(order: Order) -> dict[str, Any]:
    """`LaunchTemplateData`: what every machine of this launch is.

    Raises:
        ProviderError: the user data is longer than EC2 takes, or there are more disks than device names.
    """
    request = order.request
    user_data = request.user_data.encode()
    if len(user_data) > USER_DATA_BYTES:
        raise ProviderError(
            f"aws: user data of {len(user_data)} bytes: EC2 takes {USER_DATA_BYTES}", provider="aws"
        )
    data: dict[str, Any] = {
        "ImageId": order.image.id,
        "InstanceType": request.offer.instance_type,
        "SecurityGroupIds": [order.group],
        "BlockDeviceMappings": [root_disk(order.image, request.disk_gb), *data_disks(request)],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "DisableApiTermination": False,
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        },
    }
    if order.key_name is not None:
        data["KeyName"] = order.key_name
    if order.profile is not None:
        data["IamInstanceProfile"] = dict(order.profile)
    if user_data:
        data["UserData"] = base64.b64encode(user_data).decode()
    if is_spot(request.offer):
        data["TagSpecifications"] = [tag_specification("spot-instances-request", tags_of(order))]
    return data


def root_disk(image: MachineImage, disk_gb: float | None) -> dict[str, Any]:
    """The root disk: what the image takes and room beside it, or what was asked for; gone with its machine."""
    size = max(image.root_gb + FREE_GB, ceil(disk_gb or 0))
    return _disk(image.root_device, size)


def data_disks(request: LaunchRequest) -> list[dict[str, Any]]:
    """One disk per `Volume`, made in the zone of its machine, tagged and attached as it boots, and gone with it."""
    volumes = [volume for volume in request.volumes if isinstance(volume, Volume)]
    if len(volumes) > len(DEVICES):
        raise ProviderError(
            f"aws: {len(volumes)} volumes: EC2 attaches {len(DEVICES)} to a machine", provider="aws"
        )
    return [
        _disk(device, ceil(float(volume.size_gb))) for device, volume in zip(DEVICES, volumes, strict=False)
    ]


def _disk(device: str, size_gb: int) -> dict[str, Any]:
    ebs = {"VolumeSize": size_gb, "VolumeType": "gp3", "DeleteOnTermination": True}
    return {"DeviceName": device, "Ebs": ebs}


def is_spot(offer: Offer) -> bool:
    return offer.pricing in ("spot", "interruptible")


def tags_of(order: Order) -> dict[str, str]:
    """The tags of machines and of what comes with them."""
    request = order.request
    disks = [volume for volume in request.volumes if isinstance(volume, Volume)]
    paths = {
        f"{VOLUME_TAG}{device}": volume.mount_path for device, volume in zip(DEVICES, disks, strict=False)
    }
    name = request.tags.get("skyward:name") or request.pool
    return {"Name": f"skyward {name}", **pool_tags(request), USER_TAG: order.user, **paths}


def pool_tags(request: LaunchRequest) -> dict[str, str]:
    """The tags of everything a pool makes. Ours are there even where the caller forgot them."""
    return {**request.tags, "skyward:managed": "true", "skyward:pool": request.pool}


def fleet_request(order: Order, token: str) -> dict[str, Any]:
    """The arguments of CreateFleet. Equal orders make equal requests: a repeated token demands it."""
    request, spot = order.request, is_spot(order.request.offer)
    tags = tags_of(order)
    specification = {"LaunchTemplateName": template_name(request), "Version": "1"}
    fleet: dict[str, Any] = {
        "Type": "instant",
        "ClientToken": token,
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": specification, "Overrides": _overrides(order, spot)}
        ],
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": request.count,
            "DefaultTargetCapacityType": "spot" if spot else "on-demand",
        },
        "TagSpecifications": [
            tag_specification(kind, tags) for kind in ("fleet", "instance", "volume", "network-interface")
        ],
    }
    if spot:
        fleet["SpotOptions"] = {
            "AllocationStrategy": order.strategy,
            "InstanceInterruptionBehavior": "terminate",
        }
    else:
        fleet["OnDemandOptions"] = {"AllocationStrategy": "prioritized"}
    return fleet


def _overrides(order: Order, spot: bool) -> list[dict[str, Any]]:
    """One per zone. Priorities only where they count; a price limit only where the user set one."""
    is_ranked = not spot or order.strategy == "capacity-optimized-prioritized"
    overrides = []
    for rank, (place, _) in enumerate(order.places):
        override: dict[str, Any] = {
            "InstanceType": order.request.offer.instance_type,
            "SubnetId": place.subnet,
        }
        if is_ranked:
            override["Priority"] = float(rank)
        if spot and order.request.max_price is not None:
            override["MaxPrice"] = f"{order.request.max_price:.6f}"
        overrides.append(override)
    return overrides


# -- reading ---------------------------------------------------------------------------------------------------


def read_machines(answer: Mapping[str, Any], order: Order) -> list[Got]:
    """The machines of a fleet's answer, each with the offer of the zone it stands in."""
    found = []
    for entry in answer.get("Instances", ()):
        place, offer = _place_of(entry, order.places)
        found += [
            Got(id=id, offer=offer, zone=place.zone if place else None) for id in entry.get("InstanceIds", ())
        ]
    return found


def _place_of(entry: Mapping[str, Any], places: Sequence[tuple[Place, Offer]]) -> tuple[Place | None, Offer]:
    override = entry.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    said = {
        entry.get("SubnetId"),
        entry.get("AvailabilityZone"),
        override.get("SubnetId"),
        override.get("AvailabilityZone"),
    }
    for place, offer in places:
        if place.subnet in said or place.zone in said:
            return place, offer
    return None, places[0][1]


def why_not(answer: Mapping[str, Any], order: Order) -> ProviderError:
    """The error for a fleet that launched nothing: the gravest reason, with the zones as facts.

    What is refused for the account is refused everywhere; only lack of machines differs by zone.
    """
    errors = [
        (str(error.get("ErrorCode", "")), str(error.get("ErrorMessage", "")), _zone_of(error, order.places))
        for error in answer.get("Errors", ())
    ]
    if not errors:
        return CapacityError(
            f"aws: EC2 launched none of {order.request.count} x {order.request.offer.instance_type} and gave no reason",
            provider="aws",
            aws_code="",
        )
    gravity = (CredentialsError, QuotaError, ProviderError, CapacityError)
    code, said, _ = min(errors, key=lambda error: gravity.index(_grave(kind_of(error[0]))))
    facts = _by_zones(errors)
    offer = order.request.offer
    doing = f"{offer.instance_type} ({offer.pricing}) in {offer.region}"
    if kind_of(code) is CapacityError:
        said = "no capacity"
    return make_error(code, said, doing=doing, facts=facts, was_sent=False)


def _by_zones(errors: Iterable[tuple[str, str, str]]) -> list[str]:
    """Each reason once, with the zones it was given for."""
    zones: dict[str, list[str]] = {}
    for code, text, zone in errors:
        zones.setdefault(f"{code}: {text}", []).append(zone)
    named = {reason: ", ".join(dict.fromkeys(filter(None, here))) for reason, here in zones.items()}
    return [f"{here}: {reason}" if here else reason for reason, here in named.items()]


def _grave(kind: type[ProviderError]) -> type[ProviderError]:
    return kind if kind in (CredentialsError, QuotaError, CapacityError) else ProviderError


def _zone_of(error: Mapping[str, Any], places: Iterable[tuple[Place, Offer]]) -> str:
    override = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
    subnet = override.get("SubnetId")
    zones = (place.zone for place, _ in places if place.subnet == subnet)
    return str(override.get("AvailabilityZone") or next(zones, ""))


def is_profile_unknown(answer: Mapping[str, Any]) -> bool:
    """Whether nothing was launched because EC2 has not heard yet of an instance profile that was just made."""
    errors = answer.get("Errors", ())
    return (
        bool(errors)
        and not answer.get("Instances")
        and all(
            "instance profile"
            in str(error.get("ErrorMessage", "")).lower().replace("iaminstanceprofile", "instance profile")
            and str(error.get("ErrorCode", "")).startswith("Invalid")
            for error in errors
        )
    )


def buckets_of(request: LaunchRequest) -> list[S3Volume]:
    return [volume for volume in request.volumes if isinstance(volume, S3Volume)]
