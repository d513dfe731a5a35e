"""Which entry points are installed, remembered between processes. Imports only `config`.

Reading the metadata of every installed distribution costs more than the rest of our start-up, so the answer is
kept in the cache directory, under a key made of what `sys.path` holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.config import Places, make_private

if TYPE_CHECKING:
    from importlib.metadata import Distribution

GROUPS = ("skyward", "skyward.commands")
_FILE = "entry-points.json"
_KEPT_SCANS = 8
"""Different interpreters and paths of one user share the file; the oldest scans are dropped."""
_METADATA = (".dist-info", ".egg-info", ".egg", ".zip", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPoint:
    """One line of a distribution's `entry_points.txt`: `name = value` under `group`."""

    group: str
    name: str
    value: str
    """`module` or `module:attribute`."""
    distribution: str
    version: str

    @property
    def module(self) -> str:
        return self.value.partition("[")[0].partition(":")[0].strip()

    def load(self) -> Any:
        """What it names; imports its module."""
        attribute = self.value.partition("[")[0].partition(":")[2]
        found: Any = import_module(self.module)
        for part in filter(None, attribute.strip().split(".")):
            found = getattr(found, part)
        return found


def installed(cache: Path | None, path: Sequence[str] | None = None) -> tuple[EntryPoint, ...]:
    """The entry points of our groups, ordered by group, distribution and name.

    `cache` is a directory; None reads every distribution anew. A damaged or foreign cache file is ignored, and
    one that cannot be written is done without.
    """
    path = sys.path if path is None else path
    if cache is None:
        return tuple(_scan(path))
    key = _fingerprint(path)
    scans = _read(cache / _FILE)
    if key in scans:
        return scans[key]
    found = tuple(_scan(path))
    _write(cache / _FILE, {**scans, key: found})
    return found


def commands(environ: Mapping[str, str] = os.environ) -> dict[str, EntryPoint]:
    """Installed commands of the command line, by name; none with SKYWARD_DISABLE_PLUGIN_AUTOLOAD."""
    if not autoload(environ):
        return {}
    points = installed(Places.find(environ).cache)
    return {point.name: point for point in points if point.group == "skyward.commands"}


def autoload(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is installed is used without being named."""
    return environ.get("SKYWARD_DISABLE_PLUGIN_AUTOLOAD", "").strip().lower() in ("", "0", "false", "no")


def _scan(path: Sequence[str]) -> list[EntryPoint]:
    from importlib.metadata import distributions

    found: dict[tuple[str, str, str], EntryPoint] = {}
    seen: set[str] = set()
    for distribution in distributions(path=list(path)):
        try:
            name, points = distribution.metadata["Name"] or "", _ours(distribution)
        except Exception:  # metadata of strangers, in any state
            continue
        normal = name.lower().replace("_", "-").replace(".", "-")
        if normal not in seen:  # an earlier entry of the path shadows this one, as for imports
            seen.add(normal)
            found |= {(point.group, normal, point.name): point for point in points}
    return [found[key] for key in sorted(found)]


def _ours(distribution: Distribution) -> list[EntryPoint]:
    name, version = distribution.metadata["Name"] or "", distribution.version or ""
    return [
        EntryPoint(group=point.group, name=point.name, value=point.value, distribution=name, version=version)
        for point in distribution.entry_points
        if point.group in GROUPS
    ]


def _fingerprint(path: Sequence[str]) -> str:
    """Changes whenever a distribution on the path is installed, changed or removed."""
    digest = hashlib.sha256(repr((sys.version_info[:2], GROUPS)).encode())
    for directory in path:
        digest.update(
            repr((directory, sorted(_metadata_times(directory)))).encode("utf-8", "surrogateescape")
        )
    return digest.hexdigest()


def _metadata_times(directory: str) -> Iterator[tuple[str, int]]:
    try:
        with os.scandir(directory or ".") as entries:
            for entry in entries:
                if entry.name.endswith(_METADATA):
                    yield entry.name, entry.stat().st_mtime_ns
    except NotADirectoryError:
        yield "", os.stat(directory).st_mtime_ns
    except OSError:
        return


def _read(file: Path) -> dict[str, tuple[EntryPoint, ...]]:
    try:
        stored = json.loads(file.read_bytes())
        return {key: tuple(_from_row(row) for row in rows) for key, rows in stored["scans"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _from_row(row: dict[str, str]) -> EntryPoint:
    if not all(isinstance(value, str) for value in row.values()):
        raise TypeError("a row of the cache holds more than text")
    return EntryPoint(**row)


def _write(file: Path, scans: Mapping[str, Sequence[EntryPoint]]) -> None:
    newest = list(scans.items())[-_KEPT_SCANS:]
    document: dict[str, Any] = {"scans": {key: [asdict(point) for point in points] for key, points in newest}}
    try:
        directory = make_private(file.parent)
        with tempfile.NamedTemporaryFile("w", dir=directory, prefix=_FILE, delete=False) as temporary:
            json.dump(document, temporary)
        os.replace(temporary.name, file)
    except OSError:
        pass  # a scan per process is slower, not wrong
