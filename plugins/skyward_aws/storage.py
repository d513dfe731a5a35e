"""What instances need to read buckets and to be reached through Session Manager: one role, one profile, and buckets.

All of it is shared by the account and stays: it costs nothing, and making it anew takes EC2 half a minute to notice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import Any

from skyward import ProviderError, S3Volume
from skyward_aws.calls import (
    ADD_ROLE,
    ATTACH_POLICY,
    BUCKETS,
    CREATE_BUCKET,
    CREATE_PROFILE,
    CREATE_ROLE,
    GET_PROFILE,
    HEAD_BUCKET,
    PROFILE,
    PUT_ROLE_POLICY,
    ROLE,
    SSM_POLICY,
    Call,
)
from skyward_aws.cloud import Cloud
from skyward_aws.policy import partition_of

_TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    ],
}


def make_profile(cloud: Cloud, volumes: Iterable[S3Volume], *, needs_ssm: bool) -> bool:
    """Makes the role and its profile unless they are there, and lets them at the buckets of `volumes`.

    True if the profile is new: EC2 may not know it for some seconds.
    """
    is_new = not _exists(cloud, GET_PROFILE, "NoSuchEntity", InstanceProfileName=PROFILE)
    if is_new:
        role = {"RoleName": ROLE, "AssumeRolePolicyDocument": json.dumps(_TRUST)}
        _unless(cloud, "EntityAlreadyExists", CREATE_ROLE, **role, Description="Instances of Skyward")
        _unless(cloud, "EntityAlreadyExists", CREATE_PROFILE, InstanceProfileName=PROFILE)
        _unless(cloud, "LimitExceeded", ADD_ROLE, InstanceProfileName=PROFILE, RoleName=ROLE)
    partition = partition_of(cloud.region)
    for volume in volumes:
        name, document = bucket_policy(volume, partition)
        cloud.ask(PUT_ROLE_POLICY, RoleName=ROLE, PolicyName=name, PolicyDocument=json.dumps(document))
    if needs_ssm:
        arn = f"arn:{partition}:iam::aws:policy/{SSM_POLICY}"
        cloud.ask(ATTACH_POLICY, RoleName=ROLE, PolicyArn=arn)
    return is_new


def bucket_policy(volume: S3Volume, partition: str = "aws") -> tuple[str, dict[str, Any]]:
    """Name and text of what the role may do with one volume: its bucket, below its prefix, no more than it needs."""
    bucket = f"arn:{partition}:s3:::{volume.bucket}"
    actions = ["s3:GetObject"]
    if not volume.read_only:
        actions += ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    listing: dict[str, Any] = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [bucket]}
    if volume.prefix:
        prefix = volume.prefix.rstrip("/")
        listing["Condition"] = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}}
    digest = hashlib.sha256(f"{volume.bucket}/{volume.prefix}".encode()).hexdigest()[:16]
    objects = {"Effect": "Allow", "Action": actions, "Resource": [f"{bucket}/{volume.prefix}*"]}
    document = {"Version": "2012-10-17", "Statement": [listing, objects]}
    return f"{'read' if volume.read_only else 'write'}-{digest}", document


def check_buckets(cloud: Cloud, volumes: Iterable[S3Volume]) -> tuple[str, ...]:
    """The buckets of the volumes; those that are ours by name and missing are made.

    Raises:
        ProviderError: another bucket does not exist.
    """
    buckets = tuple(dict.fromkeys(volume.bucket for volume in volumes))
    for bucket in buckets:
        if _has_bucket(cloud, bucket):
            continue
        if not bucket.startswith(BUCKETS):
            raise ProviderError(
                f"aws: no bucket {bucket!r}: make it, or name one that begins with {BUCKETS!r}, which is made for you",
                hints=[f"aws s3 mb s3://{bucket} --region {cloud.region}"],
                provider="aws",
                bucket=bucket,
            )
        # S3 refuses the name of its first region as a place: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateBucket.html
        place = {"CreateBucketConfiguration": {"LocationConstraint": cloud.region}}
        _unless(
            cloud,
            "BucketAlreadyOwnedByYou",
            CREATE_BUCKET,
            Bucket=bucket,
            **(place if cloud.region != "us-east-1" else {}),
        )
    return buckets


def _has_bucket(cloud: Cloud, bucket: str) -> bool:
    """A bucket that may not be looked at, or that is elsewhere, is there."""
    try:
        cloud.ask(HEAD_BUCKET, Bucket=bucket)
    except ProviderError as error:
        code = str(getattr(error, "aws_code", ""))
        if code in ("404", "NoSuchBucket"):
            return False
        if code not in ("301", "403", "AccessDenied", "PermanentRedirect"):
            raise
    return True


def _exists(cloud: Cloud, call: Call, code: str, **parameters: Any) -> bool:
    return _tolerating(code, lambda: cloud.ask(call, **parameters))


def _unless(cloud: Cloud, code: str, call: Call, **parameters: Any) -> None:
    _tolerating(code, lambda: cloud.ask(call, **parameters))


def _tolerating(code: str, ask: Callable[[], object]) -> bool:
    """Whether it worked; False where AWS says `code`."""
    try:
        ask()
    except ProviderError as error:
        if getattr(error, "aws_code", "") != code:
            raise
        return False
    return True
