"""Sizes, durations, counts and their ranges: one grammar for the API, the command line and configuration.

    memory      80GB  80GiB  512MB  1.5TB  80        a bare number is GiB; GB and GiB both mean 2**30 bytes
    duration    2h30m  90s  15m  7d  250ms  90       a bare number is seconds
    count       8  0.5
    range       4..8  24GB..80GB  24GB..  ..80GB     both ends belong to it; an open end has no limit

Whatever is not in the grammar is a SizeError that names the value and shows two that would do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from numbers import Real
from typing import Final

from skyward.errors import SizeError

_NUMBER: Final = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_SIZE: Final = re.compile(rf"({_NUMBER})\s*([a-z]*)", re.IGNORECASE)
_PART: Final = re.compile(rf"\s*({_NUMBER})\s*([a-z]+)\s*", re.IGNORECASE)
_BARE: Final = re.compile(_NUMBER)

_GIB: Final = {"": 1.0, "m": 1 / 1024, "g": 1.0, "t": 1024.0}
_MEMORY_UNITS: Final = {prefix + suffix for prefix in "mgt" for suffix in ("", "b", "ib")} | {""}

_SECONDS: Final = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_WORDS: Final = {
    "w": ("w", "week", "weeks"),
    "d": ("d", "day", "days"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "ms": ("ms",),
}
_DURATION_UNITS: Final = {word: unit for unit, words in _DURATION_WORDS.items() for word in words}

_MEMORY: Final = ("a size", "80GB", "512MB")
_DURATION: Final = ("a duration", "2h30m", "90s")
_COUNT: Final = ("a count", "8", "0.5")
_MEMORY_RANGE: Final = ("a range of sizes", "24GB", "24GB..80GB")
_COUNT_RANGE: Final = ("a range of counts", "4", "4..8")

Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, both included; None is an open end. Tests membership with `in`.

    Raises:
        SizeError: an end is negative or not finite, or `high` is below `low`.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        ends = [end for end in (self.low, self.high) if end is not None]
        written = f"{_plain(self.low)}..{_plain(self.high)}"
        if any(not math.isfinite(end) or end < 0 for end in ends):
            raise _refusal(written, ("a range", "4..8", "4.."))
        if ends != sorted(ends):
            raise _turned_around(written)

    def __contains__(self, value: float) -> bool:
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return self.spelled(_plain)

    def spelled(self, form: Callable[[float], str]) -> str:
        """As the grammar writes it, each end in `form`; a range of one value is that value."""
        if self.low is not None and self.low == self.high:
            return form(self.low)
        return "..".join("" if end is None else form(end) for end in (self.low, self.high))


def parse_memory(value: object) -> float:
    """GiB. "80GB", "80GiB" and 80 are the same 80 GiB; never zero.

    Raises:
        SizeError: `value` is not in the grammar, or not above zero.
    """
    return _above_zero(_memory(value, _MEMORY), value, _MEMORY)


def parse_duration(value: object) -> float:
    """Seconds. Takes "2h30m" (units in falling order), numbers and timedelta; zero is allowed.

    Raises:
        SizeError: `value` is not in the grammar, or below zero.
    """
    if isinstance(value, timedelta):
        return _finite(value.total_seconds(), value, _DURATION)
    if not isinstance(value, str):
        return _number(value, _DURATION)
    if _BARE.fullmatch(value.strip()):
        return _finite(float(value), value, _DURATION)
    return _finite(sum(_duration_parts(value)), value, _DURATION)


def parse_memory_range(value: object) -> Range:
    """GiB. A bare size is a lower bound: "24GB" means "24GB.."."""
    return _range(value, _memory, _MEMORY_RANGE)


def parse_count_range(value: object) -> Range:
    """A bare count is a lower bound: 4 means "4.."; exactly four is "4..4"."""
    return _range(value, _count, _COUNT_RANGE)


def parse_count(value: object) -> float:
    """One count above zero, whole or not.

    Raises:
        SizeError: `value` is not in the grammar, or not above zero.
    """
    return _above_zero(_count(value, _COUNT), value, _COUNT)


def format_memory(gib: float) -> str:
    """Like "80GB", "512MB", "2TB": rounded to a hundredth of a unit, whole TiB and GiB exactly."""
    if 0 < gib < 1:
        return f"{_plain(round(gib * 1024, 2))}MB"
    if gib >= 1024 and (gib % 1024 == 0 or gib >= 10240):
        return f"{_plain(round(gib / 1024, 2))}TB"
    return f"{_plain(round(gib, 2))}GB"


def format_duration(seconds: float) -> str:
    """Like "2h30m", "1m30s", "1.5s", "250ms": to the second from a minute up, to the millisecond below."""
    if seconds < 1 and seconds != 0:
        return f"{_plain(round(seconds * 1000, 3))}ms"
    if seconds < 60:
        return f"{_plain(round(seconds, 3))}s"
    rest = round(seconds)
    parts = []
    for unit in ("d", "h", "m", "s"):
        number, rest = divmod(rest, round(_SECONDS[unit]))
        parts.append(f"{number}{unit}" if number else "")
    return "".join(parts)


def format_count(count: float) -> str:
    """A count without a needless ".0"."""
    return _plain(count)


def _memory(value: object, kind: Kind) -> float:
    if not isinstance(value, str):
        return _number(value, kind)
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2].lower() not in _MEMORY_UNITS:
        raise _refusal(value, kind)
    return _finite(float(match[1]) * _GIB[match[2][:1].lower()], value, kind)


def _count(value: object, kind: Kind) -> float:
    if not isinstance(value, str):
        return _number(value, kind)
    if not _BARE.fullmatch(value.strip()):
        raise _refusal(value, kind)
    return _finite(float(value), value, kind)


def _duration_parts(text: str) -> list[float]:
    """The seconds of each "<number><unit>"; units must fall, so that a slip of the finger is not a sum."""
    parts: list[float] = []
    order = list(_SECONDS)
    position, last = 0, -1
    while match := _PART.match(text, position):
        unit = _DURATION_UNITS.get(match[2].lower())
        if unit is None or order.index(unit) <= last:
            raise _refusal(text, _DURATION)
        last = order.index(unit)
        parts.append(float(match[1]) * _SECONDS[unit])
        position = match.end()
    if position != len(text) or not parts:
        raise _refusal(text, _DURATION)
    return parts


def _range(value: object, one: Callable[[object, Kind], float], kind: Kind) -> Range:
    if isinstance(value, Range):
        return value
    if not isinstance(value, str) or ".." not in value:
        return Range(_above_zero(one(value, kind), value, kind))
    low, _, high = value.partition("..")
    try:
        ends = [one(end, kind) if end.strip() else None for end in (low, high)]
    except SizeError:
        raise _refusal(value, kind) from None
    if None not in ends and ends != sorted(ends, key=lambda end: end or 0.0):
        raise _turned_around(value)
    if ends == [None, None] or ends[1] == 0:
        raise _refusal(value, kind)
    return Range(*ends)


def _number(value: object, kind: Kind) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refusal(value, kind)
    try:
        return _finite(float(value), value, kind)
    except OverflowError:
        raise _refusal(value, kind) from None


def _finite(number: float, value: object, kind: Kind) -> float:
    if not math.isfinite(number) or number < 0:
        raise _refusal(value, kind)
    return number


def _above_zero(number: float, value: object, kind: Kind) -> float:
    if number <= 0:
        raise _refusal(value, kind)
    return number


def _refusal(value: object, kind: Kind) -> SizeError:
    what, *examples = kind
    shown = _shown(value)
    return SizeError(f"{shown} is not {what}: write it like {examples[0]!r} or {examples[1]!r}", value=value)


def _turned_around(value: object) -> SizeError:
    return SizeError(
        f"{_shown(value)} holds nothing: its low end is above its high end; turn it around", value=value
    )


def _shown(value: object) -> str:
    """`repr` on one line, cut where nobody reads on."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(number: float | None) -> str:
    """No exponent, no needless zeros; "" for an open end."""
    if number is None:
        return ""
    return f"{number:.6f}".rstrip("0").rstrip(".") if math.isfinite(number) else repr(number)
