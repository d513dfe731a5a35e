"""The Vast.ai marketplace as a provider of Skyward: `sky.VastAI(geolocation="US")`, or "vastai"."""

from __future__ import annotations

from collections.abc import Iterable

from skyward import Provider, hookimpl
from skyward_vastai.config import VastAI
from skyward_vastai.provider import VastAIProvider

__all__ = ["VastAI", "VastAIProvider"]


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return [VastAIProvider]
