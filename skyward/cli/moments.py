"""Days, moments and ages as people type them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from skyward.errors import UsageError


def parse_moment(text: str, option: str, now: datetime | None = None) -> datetime:
    """A day ("2026-10-01", all of it), a moment of ISO 8601 (UTC without a zone), or an age ("30d" ago).

    Raises:
        UsageError: none of these, or in the future.
    """
    now = now or datetime.now(UTC)
    moment = _iso(text) or _ago(text, now)
    if moment is None:
        raise UsageError(f"{option} {text!r} is no day and no age: write it like 2026-10-01 or 30d")
    if moment.date() > now.date():
        raise UsageError(f"{option} {text!r} is in the future")
    return moment


def _iso(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if len(text) <= 10:
        moment += timedelta(days=1, microseconds=-1)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ago(text: str, now: datetime) -> datetime | None:
    from skyward.errors import SizeError
    from skyward.model.sizes import parse_duration

    try:
        return now - timedelta(seconds=parse_duration(text))
    except (SizeError, OverflowError):
        return None
