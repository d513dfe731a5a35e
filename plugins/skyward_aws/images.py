"""Which machine image an offer boots: with drivers where it has accelerators, of its architecture.

Names of parameters and images, and the families each supports: release notes and user guides of the Deep Learning
AMIs, of AWS Neuron, and of Ubuntu on AWS (read 2026-11). Parameters move on with the releases, so several are tried.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from skyward import Offer, ProviderError
from skyward_aws.calls import DESCRIBE_IMAGES, GET_PARAMETER
from skyward_aws.cloud import Cloud

Kind = Literal["gpu", "older-gpu", "fractional", "neuron", "cpu"]

FREE_GB: Final = 40
"""Room on the root disk beyond what the image takes, GiB."""

_OLDER: Final = re.compile(r"(?:p3|p3dn|g3|g3s|inf1)\.")
"""Before Turing: the open driver does not know them. The Amazon Linux 2 image does, and Inferentia1 too."""
_NEURON: Final = re.compile(r"(?:trn|inf)[2-9]|trn1")
_NVIDIA: Final = re.compile(r"(?:p[4-9]|g[5-9]|gr[6-9]|g4dn)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image is found: public parameters, newest release first, and its names if none of them exists."""

    parameters: tuple[str, ...]
    owner: str
    names: tuple[str, ...]
    user: str | None = "ubuntu"
    """None: it depends on which of them there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineImage:
    """One image as EC2 describes it."""

    id: str
    architecture: str
    root_device: str
    root_gb: int
    """Size of its root disk, GiB; a machine's cannot be smaller."""
    user: str


_CANONICAL: Final = "099720109477"
_DLAMI: Final = "/aws/service/deeplearning/ami"
_NEURON_PARAMETERS: Final = tuple(
    f"/aws/service/neuron/dlami/multi-framework/ubuntu-{release}/latest/image_id"
    for release in ("22.04", "24.04")
)


def _ubuntu(architecture: str) -> Source:
    return Source(
        parameters=tuple(
            f"/aws/service/canonical/ubuntu/server/22.04/stable/current/{architecture}/hvm/{disk}/ami-id"
            for disk in ("ebs-gp2", "ebs-gp3")
        ),
        owner=_CANONICAL,
        names=(f"ubuntu/images/hvm-ssd*/ubuntu-jammy-22.04-{architecture}-server-*",),
    )


def _deep_learning(architecture: str, title: str) -> Source:
    return Source(
        parameters=tuple(
            f"{_DLAMI}/{architecture}/base-oss-nvidia-driver-gpu-ubuntu-{release}/latest/ami-id"
            for release in ("22.04", "24.04")
        ),
        owner="amazon",
        names=(f"Deep Learning {title}Base OSS Nvidia Driver GPU AMI (Ubuntu *) *",),
    )


SOURCES: Final[Mapping[tuple[Kind, str], Source]] = {
    ("cpu", "x86_64"): _ubuntu("amd64"),
    ("cpu", "arm64"): _ubuntu("arm64"),
    ("fractional", "x86_64"): _ubuntu("amd64"),
    ("gpu", "x86_64"): _deep_learning("x86_64", ""),
    ("gpu", "arm64"): _deep_learning("arm64", "ARM64 "),
    ("older-gpu", "x86_64"): Source(
        parameters=tuple(
            f"{_DLAMI}/x86_64/base-proprietary-nvidia-driver-{system}/latest/ami-id"
            for system in ("amazon-linux-2", "gpu-amazon-linux-2", "gpu-ubuntu-20.04")
        ),
        owner="amazon",
        names=tuple(
            f"Deep Learning Base Proprietary Nvidia Driver {title} *"
            for title in ("AMI (Amazon Linux 2)", "GPU AMI (Amazon Linux 2)", "GPU AMI (Ubuntu 20.04)")
        ),
        user=None,
    ),
    ("neuron", "x86_64"): Source(
        parameters=_NEURON_PARAMETERS, owner="amazon", names=("Deep Learning AMI Neuron (Ubuntu *) *",)
    ),
}


def kind_of_image(offer: Offer) -> Kind:
    """What kind of image an offer needs, by the family of its instance type."""
    name = offer.instance_type
    if not offer.accelerator:
        return "cpu"
    if 0 < offer.accelerator_count < 1:
        return "fractional"
    if _OLDER.match(name):
        return "older-gpu"
    if _NEURON.match(name):
        return "neuron"
    return "gpu" if _NVIDIA.match(name) else "cpu"


def find_image(cloud: Cloud, *, kind: Kind, architecture: str) -> MachineImage:
    """The image for machines of a kind: by a public parameter, else the newest of its name.

    Raises:
        ProviderError: there is none for this architecture, or not in this region.
    """
    source = SOURCES.get((kind, architecture))
    if source is None:
        raise ProviderError(
            f"aws: nobody makes an image with drivers for {kind} machines with {architecture} processors: name one of "
            'yours, sky.AWS(ami="ami-0123456789abcdef0")',
            provider="aws",
        )
    named = _by_parameter(cloud, source)
    described = _describe(cloud, named) if named else _newest(cloud, source, architecture)
    if described is None:
        raise ProviderError(
            f"aws: no image for {kind} machines ({architecture}) in {cloud.region}: name one, "
            'sky.AWS(ami="ami-0123456789abcdef0")',
            facts=[
                f"no parameter {' or '.join(source.parameters)}",
                f"no image named {' or '.join(map(repr, source.names))} of {source.owner}",
            ],
            hints=["skyward check aws"],
            provider="aws",
        )
    return read_image(described, user=source.user)


def check_image(cloud: Cloud, ami: str, offer: Offer) -> MachineImage:
    """The image the user named, if the machine can boot it.

    Raises:
        ProviderError: there is none of this id in the region, or it is for other machines.
    """
    try:
        described = _describe(cloud, ami)
    except ProviderError as error:
        if not str(getattr(error, "aws_code", "")).startswith("InvalidAMIID"):
            raise
        described = None
    if described is None:
        raise ProviderError(
            f"aws: no image {ami!r} in {cloud.region}: images belong to one region, and private ones must be shared",
            hints=[f"aws ec2 describe-images --region {cloud.region} --image-ids {ami}"],
            provider="aws",
        )
    image = read_image(described)
    if image.architecture != offer.architecture:
        raise ProviderError(
            f"aws: image {ami!r} is for {image.architecture} and {offer.instance_type} is {offer.architecture}: "
            "name another image, or another architecture",
            hints=[
                f"--architecture {image.architecture}",
                f'sky.ComputePool(architecture="{image.architecture}")',
            ],
            provider="aws",
            ami=ami,
        )
    if described.get("Platform") == "windows":
        raise ProviderError(f"aws: image {ami!r} is Windows: Skyward needs Linux", provider="aws", ami=ami)
    return image


def read_image(described: Mapping[str, Any], user: str | None = None) -> MachineImage:
    """An entry of `Images`. The root device is what the image says; /dev/sda1 and /dev/xvda are both common."""
    device = described.get("RootDeviceName") or "/dev/sda1"
    disks = {
        one.get("DeviceName"): one.get("Ebs", {}).get("VolumeSize") or 8
        for one in described.get("BlockDeviceMappings", ())
    }
    return MachineImage(
        id=described["ImageId"],
        architecture="arm64" if str(described.get("Architecture")).startswith("arm64") else "x86_64",
        root_device=device,
        root_gb=int(disks.get(device, 8)),
        user=user or user_of(described),
    )


_USERS: Final = (
    (re.compile(r"amzn|al20\d\d|amazon linux|rhel|suse", re.IGNORECASE), "ec2-user"),
    (re.compile(r"debian", re.IGNORECASE), "admin"),
)
"""Who logs in, by name of the image: user guide of EC2, "Default user names for AMIs" (2026-11)."""


def user_of(described: Mapping[str, Any]) -> str:
    """Who logs in to an image nobody told us about; the `username` of the config wins."""
    text = f"{described.get('Name', '')} {described.get('Description', '')}"
    return next((user for grammar, user in _USERS if grammar.search(text)), "ubuntu")


def _by_parameter(cloud: Cloud, source: Source) -> str | None:
    for name in source.parameters:
        try:
            return str(cloud.ask(GET_PARAMETER, Name=name)["Parameter"]["Value"])
        except ProviderError as error:
            if getattr(error, "aws_code", "") not in ("ParameterNotFound", "AccessDeniedException"):
                raise
    return None


def _describe(cloud: Cloud, ami: str) -> Mapping[str, Any] | None:
    return next(iter(cloud.ask(DESCRIBE_IMAGES, ImageIds=[ami]).get("Images", ())), None)


def _newest(cloud: Cloud, source: Source, architecture: str) -> Mapping[str, Any] | None:
    filters = [
        {"Name": "name", "Values": list(source.names)},
        {"Name": "architecture", "Values": [architecture]},
        {"Name": "state", "Values": ["available"]},
    ]
    found = cloud.pages(DESCRIBE_IMAGES, "Images", Owners=[source.owner], Filters=filters)
    return max(found, key=lambda image: str(image.get("CreationDate", "")), default=None)
