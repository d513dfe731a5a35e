"""The images that are on sale in the simulated EC2, and the public parameters that name them.

Names, owners and parameters are those of the real ones: Canonical's "Find Ubuntu images" page, the release notes of the
AWS Deep Learning AMIs and of the Neuron DLAMIs (2026-11). The ids are made up from them, another in each region.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

CANONICAL = "099720109477"
AMAZON_DLAMI = "898082745236"
AMAZON_LINUX = "137112412989"


@dataclass(frozen=True, kw_only=True)
class Image:
    name: str
    owner: str
    owner_alias: str | None = None
    architecture: str = "x86_64"
    root_device: str = "/dev/sda1"
    root_gib: int = 8
    created: str = "2026-10-01"
    user: str = "ubuntu"
    parameters: tuple[str, ...] = ()


def _ubuntu(version: str, codename: str, architecture: str) -> Image:
    debian = {"x86_64": "amd64", "arm64": "arm64"}[architecture]
    volume = "ebs-gp3" if version >= "24.04" else "ebs-gp2"
    kind = "hvm-ssd-gp3" if version >= "24.04" else "hvm-ssd"
    prefix = f"/aws/service/canonical/ubuntu/server/{version}/stable/current/{debian}/hvm"
    return Image(
        name=f"ubuntu/images/{kind}/ubuntu-{codename}-{version}-{debian}-server-20261001",
        owner=CANONICAL,
        architecture=architecture,
        parameters=(f"{prefix}/{volume}/ami-id",),
    )


def _dlami(version: str, architecture: str) -> Image:
    prefix = f"/aws/service/deeplearning/ami/{architecture}/base-oss-nvidia-driver-gpu-ubuntu-{version}"
    title = (
        "Deep Learning ARM64 Base OSS Nvidia Driver GPU AMI"
        if architecture == "arm64"
        else ("Deep Learning Base OSS Nvidia Driver GPU AMI")
    )
    return Image(
        name=f"{title} (Ubuntu {version}) 20261001",
        owner=AMAZON_DLAMI,
        owner_alias="amazon",
        architecture=architecture,
        root_gib=75,
        parameters=(f"{prefix}/latest/ami-id",),
    )


def _older_dlami() -> Image:
    return Image(
        name="Deep Learning Base Proprietary Nvidia Driver AMI (Amazon Linux 2) Version 75.0",
        owner=AMAZON_DLAMI,
        owner_alias="amazon",
        root_device="/dev/xvda",
        root_gib=45,
        user="ec2-user",
        parameters=(
            "/aws/service/deeplearning/ami/x86_64/base-proprietary-nvidia-driver-amazon-linux-2/latest/ami-id",
        ),
    )


def _neuron(version: str) -> Image:
    return Image(
        name=f"Deep Learning AMI Neuron (Ubuntu {version}) 20261001",
        owner=AMAZON_DLAMI,
        owner_alias="amazon",
        root_gib=150,
        parameters=(f"/aws/service/neuron/dlami/multi-framework/ubuntu-{version}/latest/image_id",),
    )


def _amazon_linux(architecture: str) -> Image:
    return Image(
        name=f"al2023-ami-2023.9.20261001.0-kernel-6.1-{architecture}",
        owner=AMAZON_LINUX,
        owner_alias="amazon",
        architecture=architecture,
        root_device="/dev/xvda",
        user="ec2-user",
        parameters=(f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{architecture}",),
    )


IMAGES: tuple[Image, ...] = (
    *(_ubuntu("22.04", "jammy", each) for each in ("x86_64", "arm64")),
    *(_ubuntu("24.04", "noble", each) for each in ("x86_64", "arm64")),
    *(_dlami(version, each) for version in ("22.04", "24.04") for each in ("x86_64", "arm64")),
    _older_dlami(),
    *(_neuron(version) for version in ("22.04", "24.04")),
    *(_amazon_linux(each) for each in ("x86_64", "arm64")),
)
PARAMETERS: dict[str, Image] = {name: image for image in IMAGES for name in image.parameters}


def image_id(image: Image, region: str) -> str:
    return "ami-0" + hashlib.sha256(f"{region}/{image.name}".encode()).hexdigest()[:16]
