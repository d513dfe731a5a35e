"""Offers that were not to be had a while ago: the strategy `available` tries them last. Imports `model` and below.

A hint, no more: it is lost without harm, and nothing waits for the disk.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from skyward.model.offer import Offer

REMEMBERED_S = 1800.0
"""How long it is believed that a cloud has none of an offer, seconds."""
_FILE = "refusals.jsonl"
_MOST = 64 * 1024
"""Bytes of the file, after which it begins anew."""

Key = tuple[str, str, str | None, str, str]


def remember(offer: Offer) -> None:
    """Notes that a cloud had none."""
    try:
        path = _path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _MOST:
            path.unlink()
        line = json.dumps([int(time.time()), *key(offer)]) + "\n"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(line)
    except OSError:
        pass


def last(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """The same offers; those that were not to be had a while ago come last, otherwise in their order."""
    refused = recent(time.time())
    return tuple(sorted(offers, key=lambda offer: key(offer) in refused)) if refused else tuple(offers)


def recent(now: float) -> dict[Key, float]:
    """What was refused a while ago, and when for the last time, in seconds of the epoch."""
    found: dict[Key, float] = {}
    try:
        lines = _path().read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for line in lines:
        try:
            at, provider, region, zone, instance_type, pricing = json.loads(line)
            if 0 <= now - float(at) < REMEMBERED_S:
                found[(provider, region, zone, instance_type, pricing)] = float(at)
        except (ValueError, TypeError):
            continue
    return found


def key(offer: Offer) -> Key:
    return (offer.provider, offer.region, offer.zone, offer.instance_type, offer.pricing)


def _path() -> Path:
    from skyward.config import Places

    return Places.find().state / _FILE
