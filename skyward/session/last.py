"""What failed last: read out of the directories of earlier runs. Imports the store and `target`."""

from __future__ import annotations

import re
from pathlib import Path

from skyward.session.kept import document, lines
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
        asked = document(run / "run.json")
        if split(str(asked.get("target")))[0] != location or asked.get("directory") != str(directory):
            continue
        newest: dict[str, bool] = {}
        for outcome in lines(run / "outcomes.jsonl"):
            name = _WORKER.sub("", str(outcome.get("id")))  # of `--each` one failure is enough
            newest[name] = newest.get(name, False) or outcome.get("verdict") in ("failed", "lost")
        verdicts = {**newest, **verdicts}
    if not verdicts:
        return None
    return frozenset(name for name, is_bad in verdicts.items() if is_bad)
