"""Which other offers a refusal of EC2 speaks of, so that they are not asked for in vain. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from skyward import CapacityError, Offer, ProviderError, QuotaError

_STANDARD: Final = frozenset("acdhimrtz")
"""First letters of the CPU families, which share one quota of vCPUs; each other family has its own.
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html (2026-11)"""
_OTHERS: Final = frozenset({"dl", "hpc", "inf", "mac", "trn"})


@contextmanager
def reaching(asked: Sequence[Offer]) -> Iterator[None]:
    """Refusals that leave here say what they speak of: capacity was looked for in all zones of `asked`, and a quota
    counts the vCPUs of a family in a region and market."""
    try:
        yield
    except ProviderError as error:
        if isinstance(error, CapacityError):
            error.tried = tuple(asked)  # type: ignore[attr-defined]
        elif isinstance(error, QuotaError):
            error.covers = partial(_is_under_quota_of, asked[0])  # type: ignore[attr-defined]
        raise


def _is_under_quota_of(refused: Offer, offer: Offer) -> bool:
    return quota_of(refused) == quota_of(offer)


def quota_of(offer: Offer) -> tuple[str, str, str]:
    """What one quota counts together: a region, a market, and a family."""
    found = re.match(r"[a-z]+", offer.instance_type)
    family = found[0] if found else ""
    is_standard = family not in _OTHERS and family[:1] in _STANDARD
    return offer.region, offer.pricing, "standard" if is_standard else family
