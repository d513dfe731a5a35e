"""US dollars in words. Imports nothing."""

from __future__ import annotations


def format_usd(amount: float | None) -> str:
    """Dollars and cents, below ten cents two more digits where they say something ("$0.0042", "$0.05").

    "-" is an unknown amount, which is never 0.
    """
    if amount is None:
        return "-"
    if amount == 0 or abs(amount) >= 0.1:
        return f"${amount:,.2f}"
    text = f"{amount:.4f}"
    return f"${text[:-2]}" if text.endswith("00") else f"${text}"
