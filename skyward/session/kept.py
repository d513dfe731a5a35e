"""Files that runs have kept, read with what may be wrong with them: other versions wrote them, and killed runs leave halves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def document(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file of JSON objects."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found
