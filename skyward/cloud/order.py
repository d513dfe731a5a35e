"""What a pool needs of its machines, as whoever gets, prepares and replaces them reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from skyward.contracts.engine import Engine
from skyward.contracts.provider import Provider
from skyward.model.event import Event
from skyward.model.image import Image
from skyward.model.plan import Plan
from skyward.model.volume import S3Volume, Volume
from skyward.plugins import Plugins


@dataclass(frozen=True, kw_only=True)
class FleetOrder:
    """What machines a pool needs, and who hears of them."""

    pool: str
    name: str
    plan: Plan
    providers: Mapping[str, Provider]
    """Ready to call, by name."""
    engine: Engine
    plugins: Plugins
    image: Image
    emit: Callable[[Event], None]
    concurrency: int = 1
    bootstrap_timeout_s: float | None = None
    """None: what the provider's config says, else `preparation.BOOTSTRAP_S`."""
    project: Path | None = None
    """Directory whose sources travel; None sends none."""
    volumes: tuple[Volume | S3Volume, ...] = ()
    lease_s: float | None = None
    """How long a machine lives without a word from here; None is for ever."""
    replaces: bool = True
    """Whether a machine that is lost, or about to be, is replaced."""
