"""What runs leave on a machine for later ones, and when it goes. Any Python >= 3.8."""

from __future__ import annotations

import math
import os

from skyward.remote.node.files import meet, remove, unlink

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Iterator, List, Set

ARCHIVES_KEPT = 1 << 30
"""Archives that are kept for later runs, bytes; the longest unused go first."""
UNUSED_S = 30 * 86400
"""An archive, an environment or a Python nobody asked for this long is removed at the end of a run."""
YOUNG_S = 3600
"""What looks like the directory of a dead agent may be that of one that is just starting, seconds."""
GONE = ".gone"
"""How the name of something ends that is being removed; it begins with a dot, for uv not to look into it."""
HELD = "held"
"""In the directory of a run: what it uses or may be about to, one a line, as it is called below our directory."""


def prune(directory: str) -> None:
    """Removes what nobody has used for long, archives that take too much room, and what dead agents have left.

    What a living agent holds stays, and so does the Python of an environment that stays. Nothing depends on what goes:
    it is sent, built or fetched again when it is needed. Times are those of the files, the present one, too.
    """
    archives, envs, pythons, runs = (
        os.path.join(directory, name) for name in ("archives", "envs", "python", "runs")
    )
    try:
        os.utime(archives)
    except OSError:
        return
    now = _used_at(archives)
    oldest = now - UNUSED_S
    surplus, old_envs, old_pythons = (
        _surplus(archives, oldest), _unused(envs, oldest), _unused(pythons, oldest)
    )  # fmt: skip
    held = _held(directory) if surplus or old_envs or old_pythons else set()
    for path in surplus:
        if "archives/" + os.path.basename(path)[:64] not in held:
            _discard(path)
    _discard_unused(old_envs, oldest, held)
    if old_pythons:
        for path in _inside(envs):
            for python in _pythons_of(path):
                held.update(below(directory, python))
        _discard_unused(old_pythons, oldest, held)
        for path in _inside(pythons):
            if os.path.islink(path) and not os.path.exists(path):
                unlink(path)  # uv leads to the newest of a minor version by one
    for path in _inside(runs):
        if now - _used_at(path) > YOUNG_S and _is_abandoned(path):
            _discard(path)


# -- what is in use ------------------------------------------------------------------------------------------------


def below(directory: str, python: str) -> List[str]:
    """What an interpreter belongs to of that which we keep: an environment, and the Python that it was made of."""
    found, root = [], os.path.realpath(directory)
    for place in (os.path.realpath(os.path.dirname(python)), os.path.dirname(os.path.realpath(python))):
        parts = os.path.relpath(place, root).split(os.sep)
        if len(parts) > 1 and parts[0] in ("envs", "python"):
            found.append("/".join(parts[:2]))
    return found


def hold(run_directory: str, names: List[str]) -> None:
    """Says that a run uses these, or is about to: they may not be removed while its agent lives."""
    try:
        with open(os.path.join(run_directory, HELD), "w") as file:
            file.write("\n".join(names))
    except OSError:
        pass  # a disk that is full is told of by whoever needs room on it


def touch(directory: str, names: List[str]) -> None:
    """Says that these are used now."""
    for name in names:
        for path in (name, name + ".zip"):
            try:
                os.utime(os.path.join(directory, path))
            except OSError:
                pass  # not all are there both packed and unpacked, and a disk that cannot be written is good to read


def _held(directory: str) -> Set[str]:
    """What the living agents hold."""
    held: Set[str] = set()
    for run_directory in _inside(os.path.join(directory, "runs")):
        try:
            with open(os.path.join(run_directory, HELD)) as file:
                names = file.read().splitlines()
        except OSError:
            continue
        if not _is_abandoned(run_directory):
            held.update(names)
    return held


def _pythons_of(environment: str) -> Iterator[str]:
    """The interpreters of an environment, and of those that its set-up has made inside it."""
    for place, _, names in os.walk(environment):
        if "pyvenv.cfg" in names:
            yield os.path.join(place, "bin", "python")


# -- what is not ---------------------------------------------------------------------------------------------------


def _surplus(archives: str, oldest: float) -> List[str]:
    """Those that are used no more, or take too much room."""
    room, found = ARCHIVES_KEPT, []
    for used_at, path in sorted(((_used_at(path), path) for path in _inside(archives)), reverse=True):
        room -= _weight(path)
        if room < 0 or used_at < oldest:
            found.append(path)
    return found


def _unused(place: str, oldest: float) -> List[str]:
    """Directories nobody has used since. Where a link leads is not ours; what begins with a dot is uv's, or half gone."""
    if os.path.islink(place):
        return []
    return [
        path
        for path in _inside(place)
        if os.path.isdir(path)
        and not os.path.islink(path)
        and (path.endswith(GONE) or not os.path.basename(path).startswith("."))
        and _used_at(path) < oldest
    ]


def _discard_unused(paths: List[str], oldest: float, held: Set[str]) -> None:
    """A run that was not there yet when it was asked who holds what has said since that it uses them."""
    for path in paths:
        name = "/".join(path.split(os.sep)[-2:])
        if name not in held and _used_at(path) < oldest:
            _discard(path)


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
    if os.path.islink(path) or not os.path.isdir(path):
        unlink(path)
        return
    gone = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + GONE)
    try:
        os.rename(path, gone)
    except OSError:
        gone = path
    remove(gone)
