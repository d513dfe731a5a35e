"""What a user may say of AWS. Names are checked when they are written; nothing is asked of AWS."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from skyward import ConfigError

# fmt: off
REGIONS: Final = (
    "af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3",
    "ap-south-1", "ap-south-2", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4",
    "ap-southeast-5", "ap-southeast-6", "ap-southeast-7", "ca-central-1", "ca-west-1", "cn-north-1",
    "cn-northwest-1", "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2",
    "eu-west-1", "eu-west-2", "eu-west-3", "il-central-1", "me-central-1", "me-south-1",
    "mx-central-1", "sa-east-1", "us-east-1", "us-east-2", "us-gov-east-1", "us-gov-west-1",
    "us-west-1", "us-west-2",
)
# fmt: on
"""Regions with EC2: endpoint data of botocore 1.44, 2026-11."""

ALLOCATION_STRATEGIES: Final = (
    "price-capacity-optimized",
    "capacity-optimized",
    "capacity-optimized-prioritized",
    "lowest-price",
    "diversified",
)
"""Spot allocation strategies of EC2 CreateFleet: service model of boto3 1.44, 2026-11."""

CONNECTIONS: Final = ("ssh", "ssm")

_REGION: Final = re.compile(
    r"[a-z]{2}(?:-gov|-iso[a-z]?)?-(?:north|south|east|west|central|northeast|northwest|southeast|southwest)-[1-9]"
)
"""A region that was opened after the table above was read has such a name."""

_GRAMMARS: Final = {
    "ami": (re.compile(r"ami-(?:[0-9a-f]{8}|[0-9a-f]{17})"), "ami-0123456789abcdef0"),
    "subnet_id": (re.compile(r"subnet-(?:[0-9a-f]{8}|[0-9a-f]{17})"), "subnet-0123456789abcdef0"),
    "security_group_id": (re.compile(r"sg-(?:[0-9a-f]{8}|[0-9a-f]{17})"), "sg-0123456789abcdef0"),
    "instance_profile_arn": (
        re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:instance-profile/[\w+=,.@/-]+", re.ASCII),
        "arn:aws:iam::123456789012:instance-profile/name",
    ),
    "username": (re.compile(r"[a-z_][a-z0-9_-]{0,31}"), "ubuntu"),
    "endpoint": (re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?"), "https://ec2.us-east-1.amazonaws.com"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AWS:
    """Where and how to rent on AWS; None leaves the choice to the provider.

    Raises:
        ConfigError: a value that AWS cannot mean.
    """

    region: str | None = None
    """None: AWS_REGION, AWS_DEFAULT_REGION, the region of the profile, or us-east-1."""
    ami: str | None = None
    """None: by instance type, with drivers where it has accelerators."""
    subnet_id: str | None = None
    """None: one of the default VPC in every zone; they must give public addresses, unless `connection="ssm"`."""
    security_group_id: str | None = None
    """None: one per pool, open to this client alone, removed afterwards."""
    instance_profile_arn: str | None = None
    """None: one per account, made once, and only where a volume or `connection="ssm"` needs it."""
    username: str | None = None
    """None: that of the image (`ubuntu`, `ec2-user`)."""
    instance_timeout: float = 300
    """Seconds an instance may take until it can run tasks; an argument of the pool wins."""
    allocation_strategy: str = "price-capacity-optimized"
    endpoint: str | None = None
    """URL of another EC2; None is Amazon's."""
    ssh_cidr: str | None = None
    """Addresses that may reach SSH; None is this client's alone."""
    connection: str = "ssh"
    """"ssh", or "ssm": the same SSH through Session Manager, for private subnets."""
    ssh_port: int = 22
    """Where sshd listens on the image."""

    def __post_init__(self) -> None:
        if self.region is not None:
            object.__setattr__(self, "region", _region(self.region))
        for field, (grammar, example) in _GRAMMARS.items():
            _matches(field, getattr(self, field), grammar, example)
        _is_one_of("allocation_strategy", self.allocation_strategy, ALLOCATION_STRATEGIES)
        _is_one_of("connection", self.connection, CONNECTIONS)
        _is_positive("instance_timeout", self.instance_timeout)
        _is_network("ssh_cidr", self.ssh_cidr)
        _is_port("ssh_port", self.ssh_port)


def _region(name: object) -> str:
    text = name.strip().lower() if isinstance(name, str) else ""
    if text in REGIONS or _REGION.fullmatch(text):
        return text
    if _REGION.fullmatch(text[:-1]):
        raise ConfigError(
            f"aws: region {name!r} is a zone: write region={text[:-1]!r}", option="region", value=name
        )
    raise ConfigError(f"aws: unknown region {name!r}: {_nearest(text, REGIONS)}", option="region", value=name)


def _matches(field: str, value: object, grammar: re.Pattern[str], example: str) -> None:
    if value is not None and not (isinstance(value, str) and grammar.fullmatch(value)):
        raise ConfigError(
            f"aws: {field} {value!r} cannot exist: write it like {example!r}", option=field, value=value
        )


def _is_one_of(field: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(
            f"aws: unknown {field} {value!r}: {_nearest(str(value), known)}", option=field, value=value
        )


def _is_positive(field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ConfigError(
            f"aws: {field} {value!r} is not above zero: give seconds, like 600", option=field, value=value
        )


def _is_port(field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ConfigError(
            f"aws: {field} {value!r} is no port: give a number from 1 to 65535", option=field, value=value
        )


def _is_network(field: str, value: object) -> None:
    from ipaddress import ip_network

    if value is None:
        return
    try:
        ip_network(value if isinstance(value, str) else "")
    except ValueError as error:
        message = f"aws: {field} {value!r} is no network: write it like '203.0.113.7/32'"
        raise ConfigError(message, facts=[str(error)], option=field, value=value) from None


def _nearest(wrong: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wrong, known, n=2)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(known)}"
