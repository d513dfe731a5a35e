"""What a user may say of Verda. Names are checked when they are written; nothing is asked of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from skyward import ConfigError

REGIONS: Final = ("FIN-01", "FIN-02", "FIN-03", "ICE-01", "ISR-01")
"""Locations of the verda SDK 1.25.0 and of the public instance types (2026-10); more may have opened."""

RENAMED: Final = {"ICL-01": "ICE-01"}
"""What some documents call a location, and what the API does."""

_REGION: Final = re.compile(r"[A-Z]{3}-[0-9]{2}")
_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verda:
    """Where to rent on Verda.

    Raises:
        ConfigError: a value that Verda cannot mean.
    """

    region: str | None = None
    """None: whichever has what is asked for. A given one is preferred, not required."""
    endpoint: str | None = None
    """URL of another API; None is Verda's."""
    instance_timeout: float | None = None
    """Seconds an instance may take until it can run tasks; None is the pool's `bootstrap_timeout`."""

    def __post_init__(self) -> None:
        if self.region is not None:
            object.__setattr__(self, "region", _region(self.region))
        if self.endpoint is not None and not (
            isinstance(self.endpoint, str) and _URL.fullmatch(self.endpoint)
        ):
            raise ConfigError(
                f"verda: endpoint {self.endpoint!r} is no URL: write it like 'https://api.verda.com/v1'",
                option="endpoint",
                value=self.endpoint,
            )
        timeout = self.instance_timeout
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise ConfigError(
                f"verda: instance_timeout {timeout!r} is not above zero: give seconds, like 600",
                option="instance_timeout",
                value=timeout,
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _region(name: object) -> str:
    text = name.strip().upper() if isinstance(name, str) else ""
    if text in REGIONS or (_REGION.fullmatch(text) and text not in RENAMED):
        return text
    if text in RENAMED:
        return RENAMED[text]
    raise ConfigError(
        f"verda: unknown region {name!r}: {_nearest(text)}, or leave it out", option="region", value=name
    )


def _nearest(wrong: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wrong, REGIONS, n=2)
    return f"did you mean {' or '.join(map(repr, near))}" if near else f"known are {', '.join(REGIONS)}"
