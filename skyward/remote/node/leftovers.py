"""What runs leave on a machine for later ones, and when it goes. Any Python >= 3.8."""

from __future__ import annotations

import math
import os

from skyward.remote.node.files import meet, remove, unlink

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import List, Set

ARCHIVES_KEPT = 1 << 30
"""Archives that are kept for later runs, bytes; the longest unused go first."""
UNUSED_S = 30 * 86400
"""An archive nobody asked for this long is removed at the end of a run."""
YOUNG_S = 3600
"""What looks like the directory of a dead agent may be that of one that is just starting, seconds."""
HELD = "archives"
"""In the directory of a run: the archives that it uses or may be about to, one a line."""


def prune(directory: str) -> None:
    """Removes the archives nobody has used for long, or that take too much room, and what dead agents have left.

    What a living agent holds stays. Nothing depends on what goes: it is sent again when it is needed. Times are those of
    the files, the present one, too.
    """
    archives, runs = os.path.join(directory, "archives"), os.path.join(directory, "runs")
    try:
        os.utime(archives)
    except OSError:
        return
    now, room, found = _used_at(archives), ARCHIVES_KEPT, []
    for used_at, path in sorted(((_used_at(path), path) for path in _inside(archives)), reverse=True):
        room -= _weight(path)
        if room < 0 or now - used_at > UNUSED_S:
            found.append(path)
    held: Set[str] = set()
    for path in _inside(runs) if found else ():
        held.update(_held_by(path))
    for path in found:
        if os.path.basename(path)[:64] not in held:
            _discard(path)
    for path in _inside(runs):
        if now - _used_at(path) > YOUNG_S and _is_abandoned(path):
            _discard(path)


def _held_by(run_directory: str) -> List[str]:
    """The archives that the agent of a run holds; none if it is dead."""
    try:
        with open(os.path.join(run_directory, HELD)) as file:
            names = file.read().split()
    except OSError:
        return []
    return [] if _is_abandoned(run_directory) else names


def _inside(directory: str) -> List[str]:
    try:
        return [os.path.join(directory, name) for name in os.listdir(directory)]
    except OSError:
        return []


def _used_at(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return math.inf  # somebody else has removed it


def _weight(path: str) -> int:
    """Bytes of a file, or of all files below a directory."""
    try:
        if not os.path.isdir(path):
            return os.stat(path).st_size
        return sum(
            os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(path) for name in names
        )
    except OSError:
        return 0


def _is_abandoned(run_directory: str) -> bool:
    """Whether no agent listens there any more."""
    link = meet(run_directory)
    if link is None:
        return True
    link.close()
    return False


def _discard(path: str) -> None:
    """A directory under another name first: what is half removed must not be taken for the whole."""
    if not os.path.isdir(path):
        unlink(path)
        return
    gone = path + ".gone"
    try:
        os.rename(path, gone)
    except OSError:
        gone = path
    remove(gone)
