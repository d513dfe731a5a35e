"""What a user may say of Vast.ai. Values are checked when they are written; nothing is asked of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from skyward import ConfigError

_GEOLOCATION: Final = re.compile(r"[A-Za-z][A-Za-z .'-]*(?:,\s*[A-Za-z][A-Za-z .'-]*)*")
_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class VastAI:
    """Which hosts to rent from on Vast.ai, and how to bid.

    Raises:
        ConfigError: a value outside its bounds.
    """

    geolocation: str | None = None
    """A country or a region of the world ("US", "EU"), or several: "US, CA". None is anywhere."""
    min_reliability: float = 0.95
    """Least share of time a host was up, 0 to 1."""
    bid_multiplier: float = 1.2
    """Bids are the least that would win times this, so that the next bidder does not take the machine."""
    auto_shutdown: float | None = None
    """Seconds after which an instance deletes itself; None is the pool's `max_lifetime`."""
    endpoint: str | None = None
    """URL of another API; None: VAST_URL, or Vast.ai's."""
    instance_timeout: float | None = None
    """Seconds an instance may take until it can run tasks; None is the pool's `bootstrap_timeout`."""

    def __post_init__(self) -> None:
        place, endpoint = self.geolocation, self.endpoint
        if place is not None and not (isinstance(place, str) and _GEOLOCATION.fullmatch(place.strip())):
            raise _refused("geolocation", place, "is no place", "'US', or 'US, CA'")
        if not _is_number(self.min_reliability) or not 0 <= self.min_reliability <= 1:
            raise _refused("min_reliability", self.min_reliability, "is not from 0 to 1", "0.95")
        if not _is_number(self.bid_multiplier) or not 1 <= self.bid_multiplier < math.inf:
            raise _refused("bid_multiplier", self.bid_multiplier, "is below 1, and would never win", "1.2")
        for field in ("auto_shutdown", "instance_timeout"):
            seconds = getattr(self, field)
            if seconds is not None and not (_is_number(seconds) and 0 < seconds < math.inf):
                raise _refused(field, seconds, "is not above zero", "seconds, like 3600")
        if endpoint is not None and not (isinstance(endpoint, str) and _URL.fullmatch(endpoint)):
            raise _refused("endpoint", endpoint, "is no URL", "'https://console.vast.ai'")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refused(field: str, value: object, why: str, example: str) -> ConfigError:
    return ConfigError(f"vastai: {field} {value!r} {why}: give {example}", option=field, value=value)
