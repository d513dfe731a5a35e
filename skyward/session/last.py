"""What failed last: read out of the directories of earlier runs. Imports the store and `target`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skyward.session.store import run_directories
from skyward.session.target import split

LOOKED_BACK = 200
"""Earlier runs of anything that are looked at."""
_WORKER = re.compile(r"\[w\d+\]$")


def failed_last(state: Path, target: str, directory: Path) -> frozenset[str] | None:
    """Ids of the items that failed or were lost when they were run the last time, from `directory`; None: never run.

    What is remembered of an item is the newest run it was in, so a run of a few leaves the others as they were. A run
    that did not get to its end counts as far as it got.
    """
    location, verdicts = split(target)[0], dict[str, bool]()
    for run in run_directories(state, LOOKED_BACK):
        asked = _document(run / "run.json")
        if split(str(asked.get("target")))[0] != location or asked.get("directory") != str(directory):
            continue
        newest: dict[str, bool] = {}
        for outcome in _lines(run / "outcomes.jsonl"):
            name = _WORKER.sub("", str(outcome.get("id")))  # of `--each` one failure is enough
            newest[name] = newest.get(name, False) or outcome.get("verdict") in ("failed", "lost")
        verdicts = {**newest, **verdicts}
    if not verdicts:
        return None
    return frozenset(name for name, is_bad in verdicts.items() if is_bad)


def _document(path: Path) -> dict[str, Any]:
    """A JSON object; empty where it cannot be read: other versions wrote it, and killed runs leave halves."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
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
