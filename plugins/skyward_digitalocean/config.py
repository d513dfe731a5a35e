"""What a user may say of DigitalOcean. Names are checked when they are written; nothing is asked of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from skyward import ConfigError

REGIONS: Final = (
    *("ams2", "ams3", "atl1", "blr1", "fra1", "lon1", "nyc1", "nyc2"),
    *("nyc3", "sfo1", "sfo2", "sfo3", "sgp1", "syd1", "tor1"),
)
"""https://docs.digitalocean.com/platform/regional-availability (2026-11)."""

_REGION: Final = re.compile(r"[a-z]{3}[1-9]")
"""A region that was opened after the table above was read has such a name."""
_URL: Final = re.compile(r"https?://[^\s/?#@]+(?:/[^\s?#]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitalOcean:
    """Where to rent on DigitalOcean.

    Raises:
        ConfigError: a value that DigitalOcean cannot mean.
    """

    region: str = "nyc3"
    endpoint: str | None = None
    """URL of another API; None is DigitalOcean's."""
    instance_timeout: float | None = None
    """Seconds a droplet may take until it can run tasks; None is the pool's `bootstrap_timeout`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", _region(self.region))
        if self.endpoint is not None and not (
            isinstance(self.endpoint, str) and _URL.fullmatch(self.endpoint)
        ):
            raise ConfigError(
                f"digitalocean: endpoint {self.endpoint!r} is no URL: write it like 'https://api.digitalocean.com'",
                option="endpoint",
                value=self.endpoint,
            )
        timeout = self.instance_timeout
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise ConfigError(
                f"digitalocean: instance_timeout {timeout!r} is not above zero: give seconds, like 600",
                option="instance_timeout",
                value=timeout,
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _region(name: object) -> str:
    text = name.strip().lower() if isinstance(name, str) else ""
    if text in REGIONS or _REGION.fullmatch(text):
        return text
    raise ConfigError(f"digitalocean: unknown region {name!r}: {_nearest(text)}", option="region", value=name)


def _nearest(wrong: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(wrong, REGIONS, n=2)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join(REGIONS)}"
