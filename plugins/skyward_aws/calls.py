"""Every call this plugin makes to AWS, with the permissions it takes: the least-privilege policy is made of this table.

`Cloud.ask` takes nothing but a `Call`, so what is not in the table cannot be called. Actions, resources and
condition keys: Service Authorization Reference of EC2, IAM, S3 and Systems Manager (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

ROLE: Final = "skyward-role"
PROFILE: Final = "skyward-instance-profile"
"""Shared by all pools of an account; made when a volume, or a connection through Session Manager, needs them."""
BUCKETS: Final = "skyward-"
"""Buckets whose names begin so are made when a volume names one that does not exist."""
SSM_POLICY: Final = "AmazonSSMManagedInstanceCore"
MANAGED: Final = "skyward:managed"
"""The tag of everything that is ours."""

Condition = Mapping[str, Mapping[str, Any]]

_TAGGED_NOW: Final[Condition] = {"StringEquals": {f"aws:RequestTag/{MANAGED}": "true"}}
_OURS: Final[Condition] = {"StringEquals": {f"ec2:ResourceTag/{MANAGED}": "true"}}
_MAKING: Final[Condition] = {
    "StringEquals": {
        f"aws:RequestTag/{MANAGED}": "true",
        "ec2:CreateAction": [
            "CreateFleet",
            "CreateLaunchTemplate",
            "CreateSecurityGroup",
            "ImportKeyPair",
            "RunInstances",
        ],
    }
}
_TO_EC2: Final[Condition] = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions that are allowed on some resources; `{partition}` is filled in later."""

    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)
    condition: Condition | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of one service, as boto3 spells them, what it is for, and what must be allowed for it."""

    service: str
    operation: str
    part: str
    grants: tuple[Grant, ...] = ()


def _ec2(*kinds: str) -> tuple[str, ...]:
    return tuple(f"arn:{{partition}}:ec2:*:*:{kind}/*" for kind in kinds)


def _image(*kinds: str) -> tuple[str, ...]:
    """Images and snapshots belong to no account, or to others."""
    return tuple(f"arn:{{partition}}:ec2:*::{kind}/*" for kind in kinds)


def _see(operation: str, part: str = "launch") -> Call:
    """A call that only looks; AWS knows no resources for these."""
    return Call("ec2", operation, part, (Grant((f"ec2:{operation}",)),))


def _make(operation: str, kind: str, *also: Grant) -> Call:
    """A call that makes something and tags it in the same breath."""
    grants = (
        Grant((f"ec2:{operation}",), _ec2(kind), _TAGGED_NOW),
        *also,
        Grant(("ec2:CreateTags",), _ec2(kind), _MAKING),
    )
    return Call("ec2", operation, "launch", grants)


def _on_ours(operation: str, kind: str, part: str = "clean-up") -> Call:
    """A call that touches only what carries our tag."""
    return Call("ec2", operation, part, (Grant((f"ec2:{operation}",), _ec2(kind), _OURS),))


def _iam(operation: str, *resources: str, condition: Condition | None = None, part: str = "volumes") -> Call:
    places = tuple(f"arn:{{partition}}:iam::*:{resource}" for resource in resources)
    return Call("iam", operation, part, (Grant((f"iam:{operation}",), places, condition),))


_LAUNCHED: Final = ("fleet", "instance", "network-interface", "spot-instances-request", "volume")

# -- launch ----------------------------------------------------------------------------------------------------

GET_PARAMETER: Final = Call(
    "ssm",
    "GetParameter",
    "launch",
    (Grant(("ssm:GetParameter",), ("arn:{partition}:ssm:*:*:parameter/aws/service/*",)),),
)
DESCRIBE_IMAGES: Final = _see("DescribeImages")
DESCRIBE_VPCS: Final = _see("DescribeVpcs")
DESCRIBE_SUBNETS: Final = _see("DescribeSubnets")
DESCRIBE_OFFERINGS: Final = _see("DescribeInstanceTypeOfferings")
DESCRIBE_GROUPS: Final = _see("DescribeSecurityGroups")
DESCRIBE_INSTANCES: Final = _see("DescribeInstances")
CREATE_GROUP: Final = _make(
    "CreateSecurityGroup", "security-group", Grant(("ec2:CreateSecurityGroup",), _ec2("vpc"))
)
AUTHORIZE: Final = _on_ours("AuthorizeSecurityGroupIngress", "security-group", "launch")
REVOKE: Final = _on_ours("RevokeSecurityGroupIngress", "security-group", "launch")
IMPORT_KEY: Final = _make("ImportKeyPair", "key-pair")
CREATE_TEMPLATE: Final = _make("CreateLaunchTemplate", "launch-template")
CREATE_FLEET: Final = Call(
    "ec2",
    "CreateFleet",
    "launch",
    (
        Grant(("ec2:CreateFleet", "ec2:RunInstances"), _ec2(*_LAUNCHED), _TAGGED_NOW),
        Grant(("ec2:CreateFleet", "ec2:RunInstances"), _ec2("launch-template"), _OURS),
        Grant(
            ("ec2:CreateFleet", "ec2:RunInstances"),
            (*_image("image", "snapshot"), *_ec2("key-pair", "security-group", "subnet")),
        ),
        Grant(("ec2:CreateTags",), _ec2(*_LAUNCHED), _MAKING),
        Grant(
            ("iam:CreateServiceLinkedRole",),
            ("arn:{partition}:iam::*:role/aws-service-role/*",),
            {"StringEquals": {"iam:AWSServiceName": ["ec2fleet.amazonaws.com", "spot.amazonaws.com"]}},
        ),
    ),
)

# -- clean-up --------------------------------------------------------------------------------------------------

TERMINATE: Final = _on_ours("TerminateInstances", "instance")
DELETE_GROUP: Final = _on_ours("DeleteSecurityGroup", "security-group")
DELETE_KEY: Final = _on_ours("DeleteKeyPair", "key-pair")
DELETE_TEMPLATE: Final = _on_ours("DeleteLaunchTemplate", "launch-template")
DELETE_VOLUME: Final = _on_ours("DeleteVolume", "volume")
DESCRIBE_KEYS: Final = _see("DescribeKeyPairs", "clean-up")
DESCRIBE_TEMPLATES: Final = _see("DescribeLaunchTemplates", "clean-up")
DESCRIBE_VOLUMES: Final = _see("DescribeVolumes", "clean-up")

# -- volumes of S3, and connection="ssm" -------------------------------------------------------------------------

GET_PROFILE: Final = _iam("GetInstanceProfile", f"instance-profile/{PROFILE}")
CREATE_PROFILE: Final = _iam("CreateInstanceProfile", f"instance-profile/{PROFILE}")
CREATE_ROLE: Final = _iam("CreateRole", f"role/{ROLE}")
PUT_ROLE_POLICY: Final = _iam("PutRolePolicy", f"role/{ROLE}")
ADD_ROLE: Final = Call(
    "iam",
    "AddRoleToInstanceProfile",
    "volumes",
    (
        Grant(
            ("iam:AddRoleToInstanceProfile",),
            (f"arn:{{partition}}:iam::*:instance-profile/{PROFILE}",),
        ),
        Grant(("iam:PassRole",), (f"arn:{{partition}}:iam::*:role/{ROLE}",), _TO_EC2),
    ),
)
HEAD_BUCKET: Final = Call(
    "s3", "HeadBucket", "volumes", (Grant(("s3:ListBucket",), ("arn:{partition}:s3:::*",)),)
)
CREATE_BUCKET: Final = Call(
    "s3", "CreateBucket", "volumes", (Grant(("s3:CreateBucket",), (f"arn:{{partition}}:s3:::{BUCKETS}*",)),)
)
ATTACH_POLICY: Final = _iam(
    "AttachRolePolicy",
    f"role/{ROLE}",
    condition={"ArnEquals": {"iam:PolicyARN": f"arn:{{partition}}:iam::aws:policy/{SSM_POLICY}"}},
    part="ssm",
)
START_SESSION: Final = Call(
    "ssm",
    "StartSession",
    "ssm",
    (
        Grant(
            ("ssm:StartSession",),
            _ec2("instance"),
            {"StringEquals": {f"ssm:resourceTag/{MANAGED}": "true"}},
        ),
        Grant(("ssm:StartSession",), ("arn:{partition}:ssm:*:*:document/AWS-StartSSHSession",)),
    ),
)
"""Made by the `aws` command, not by us."""

# -- prices, and `skyward check aws` -----------------------------------------------------------------------------

PRICES: Final = (
    _see("DescribeInstanceTypes", "prices"),
    _see("DescribeInstanceTypeOfferings", "prices"),
    _see("DescribeRegions", "prices"),
    _see("DescribeSpotPriceHistory", "prices"),
    _see("DescribeCapacityBlockOfferings", "prices"),
    Call("pricing", "GetProducts", "prices", (Grant(("pricing:GetProducts",)),)),
)
"""What `skyward catalog refresh aws` asks."""
GET_IDENTITY: Final = Call("sts", "GetCallerIdentity", "check")
"""Needs no permission, and cannot be denied."""
DESCRIBE_REGIONS: Final = _see("DescribeRegions", "check")
GET_QUOTA: Final = Call(
    "service-quotas", "GetServiceQuota", "check", (Grant(("servicequotas:GetServiceQuota",)),)
)


def all_calls() -> Iterator[Call]:
    """The table."""
    for value in globals().values():
        if isinstance(value, Call):
            yield value
    yield from PRICES
