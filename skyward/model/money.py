"""US dollars in words. Imports nothing."""

from __future__ import annotations


def format_usd(amount: float | None) -> str:
    """Dollars and cents; two more digits below ten cents; "-" for an unknown amount, which is never 0."""
    if amount is None:
        return "-"
    if amount == 0 or abs(amount) >= 0.1:
        return f"${amount:,.2f}"
    return f"${amount:.4f}"
