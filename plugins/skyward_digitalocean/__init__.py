"""DigitalOcean as a provider of Skyward: `sky.DigitalOcean(region="nyc3")`, or "digitalocean"."""

from __future__ import annotations

from collections.abc import Iterable

from skyward import Provider, hookimpl
from skyward_digitalocean.config import DigitalOcean
from skyward_digitalocean.provider import DigitalOceanProvider

__all__ = ["DigitalOcean", "DigitalOceanProvider"]


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return [DigitalOceanProvider]
