"""Verda (formerly DataCrunch) as a provider of Skyward: `sky.Verda()`, or "verda"."""

from __future__ import annotations

from collections.abc import Iterable

from skyward import Provider, hookimpl
from skyward_verda.config import Verda
from skyward_verda.provider import VerdaProvider

__all__ = ["Verda", "VerdaProvider"]


@hookimpl
def skyward_providers() -> Iterable[type[Provider]]:
    return [VerdaProvider]
