"""Whether an account has enabled a region. In one that it has not, EC2 says only that it does not know who asks."""

from __future__ import annotations

from typing import Final

from skyward import Offer, ProviderError
from skyward_aws.calls import DESCRIBE_REGIONS
from skyward_aws.cloud import Cloud

ALWAYS_OPEN: Final = "us-east-1"
"""A region that no account can disable: AWS account management guide, "Enable or disable AWS Regions" (2026-11)."""
_OPEN: Final = ("opt-in-not-required", "opted-in")


def status_of(cloud: Cloud, region: str) -> str:
    """What EC2 says of a region: "opted-in", "not-opted-in", ...; "unknown" where there is none of this name.

    Raises:
        ProviderError: EC2 does not tell.
    """
    found = cloud.ask(DESCRIBE_REGIONS, RegionNames=[region], AllRegions=True)["Regions"]
    return str(found[0].get("OptInStatus", _OPEN[0])) if found else "unknown"


def is_open(status: str) -> bool:
    return status in _OPEN


def is_closed(cloud: Cloud, region: str) -> bool:
    """Whether the account has surely not enabled a region; `cloud` is another one."""
    try:
        return not is_open(status_of(cloud, region))
    except ProviderError:
        return False


def closed_region(region: str) -> ProviderError:
    """The refusal of everything in a region that is not enabled."""
    reason = "this account has not enabled the region"
    error = ProviderError(
        f"aws: {region}: {reason}: enable it, or take another",
        hints=(f"aws account enable-region --region-name {region}", "skyward check aws"),
        provider="aws",
        aws_code="OptInRequired",
        reason=reason,
    )

    def covers(offer: Offer) -> bool:
        return offer.region == region

    error.covers = covers  # type: ignore[attr-defined]
    return error
