"""Which other offers a refusal of EC2 speaks of, so that they are not asked for in vain, and which quota it means. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Final

from skyward import CapacityError, Offer, QuotaError

_STANDARD: Final = frozenset("acdhimrtz")
"""First letters of the CPU families, which share one quota of vCPUs; each other family has its own.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html (2026-11)"""
_OTHERS: Final = frozenset({"dl", "hpc", "inf", "mac", "trn"})
_OF_VCPUS: Final = ("VcpuLimitExceeded", "MaxSpotInstanceCountExceeded")
_SHARED: Final = {"gr": "g", "vt": "g", "u": "x"}
"""Families that are counted with another one."""


@dataclass(frozen=True, slots=True)
class Quota:
    """How many vCPUs of some families an account may have in a region."""

    what: str
    code: str

    def increase(self, region: str, vcpus: float) -> str:
        """The command that asks for more of it."""
        return (
            f"aws service-quotas request-service-quota-increase --region {region} --service-code ec2 "
            f"--quota-code {self.code} --desired-value {max(32, ceil(vcpus))}"
        )


QUOTAS: Final[Mapping[tuple[str, str], Quota]] = {
    ("standard", "on-demand"): Quota("on-demand CPU machines (A, C, D, H, I, M, R, T, Z)", "L-1216C47A"),
    ("standard", "spot"): Quota("spot CPU machines (A, C, D, H, I, M, R, T, Z)", "L-34B43A08"),
    ("g", "on-demand"): Quota("on-demand G machines", "L-DB2E81BA"),
    ("g", "spot"): Quota("spot G machines", "L-3819A6DF"),
    ("p", "on-demand"): Quota("on-demand P machines", "L-417A185B"),
    ("p", "spot"): Quota("spot P2, P3 and P4 machines", "L-7212CCBC"),
    ("p5", "spot"): Quota("spot P5 machines", "L-C4BD4855"),
    ("trn", "on-demand"): Quota("on-demand Trainium machines", "L-2C3B7624"),
    ("trn", "spot"): Quota("spot Trainium machines", "L-6B0D517C"),
    ("inf", "on-demand"): Quota("on-demand Inferentia machines", "L-1945791B"),
    ("inf", "spot"): Quota("spot Inferentia machines", "L-B5D1601B"),
}
"""Quotas of EC2 by family and market: AWS General Reference, "Amazon EC2 endpoints and quotas" (2026-11)."""


@contextmanager
def reaching(asked: Sequence[Offer], count: int = 1) -> Iterator[None]:
    """Refusals that leave here say what they speak of: capacity was looked for in all zones of `asked`, and a quota
    counts the vCPUs of a family in a region and market."""
    try:
        yield
    except CapacityError as error:
        error.tried = tuple(asked)  # type: ignore[attr-defined]
        raise
    except QuotaError as error:
        raise _explained(error, asked[0], count) from error.__cause__


def _explained(error: QuotaError, offer: Offer, count: int) -> QuotaError:
    """The refusal by its name: what it covers, and the command that asks for more."""
    region, market, family = quota_of(offer)
    quota = QUOTAS.get((family, market))
    if quota is not None and getattr(error, "aws_code", "") in _OF_VCPUS:
        reason = f"over the account's quota of {quota.what}, {quota.code}"
        error = QuotaError(
            f"aws: {offer.instance_type} ({market}) in {region}: {reason}",
            facts=error.facts,
            hints=(quota.increase(region, count * (offer.vcpus or 0)), "skyward check aws"),
            **{**error.values, "reason": reason, "quota": quota.code},
        )
    error.covers = partial(_is_under_quota_of, offer)  # type: ignore[attr-defined]
    return error


def _is_under_quota_of(refused: Offer, offer: Offer) -> bool:
    return quota_of(refused) == quota_of(offer)


def quota_of(offer: Offer) -> tuple[str, str, str]:
    """What one quota counts together: a region, a market, and a family."""
    found = re.match(r"([a-z]+)(\d*)", offer.instance_type)
    family, generation = (found[1], found[2]) if found else ("", "")
    if family not in _OTHERS and family[:1] in _STANDARD:
        return offer.region, offer.pricing, "standard"
    if family == "p" and offer.pricing == "spot" and int(generation or 0) >= 5:
        return offer.region, offer.pricing, "p5"
    return offer.region, offer.pricing, _SHARED.get(family, family)
