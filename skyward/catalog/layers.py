"""Which file speaks for which provider: the user's own, else the last refresh, else the bundled snapshot.

Finding and trusting files happens here; nothing is queried. Every refused file is named in a warning, and the
last good one is used with its own date: a refresh keeps the one before it, and the snapshot is always there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.catalog.manifest import FileEntry, Manifest, checked_file, read_manifest, refusal
from skyward.errors import DamagedCatalogError

if TYPE_CHECKING:
    from skyward.config import Places

PROVIDER_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
CURRENT, PREVIOUS = "manifest.json", "previous.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One trusted file of offers. `provider` is empty for the bundled snapshot of all of them."""

    name: str
    """`bundled`, `live` or `user`."""
    path: Path
    provider: str = ""
    manifest: Manifest | None = None
    """None for the user's own files."""


def bundled_directory() -> Path:
    """Where the compiled snapshot lies: in the installed package, or in the checkout it is developed in."""
    here = Path(__file__).resolve()
    packaged = here.parent / "snapshot"
    return packaged if packaged.is_dir() else here.parents[2] / "catalog" / "snapshot"


def live_directory(places: Places) -> Path:
    """Refreshed offers, one directory per provider."""
    return places.cache / "catalog" / "live"


def user_directory(places: Places) -> Path:
    """The user's own offers: `<provider>.csv` or `<provider>.parquet`."""
    return places.config / "catalog"


def history_directory(places: Places) -> Path:
    """Changed prices, appended at each refresh; cannot be made again."""
    return places.data / "catalog" / "history"


def bundled_layer(directory: Path | None = None) -> Layer:
    """The snapshot Skyward came with.

    Raises:
        DamagedCatalogError: it is missing or broken.
    """
    directory = directory or bundled_directory()
    manifest = read_manifest(directory / CURRENT)
    return Layer(
        name="bundled", path=checked_file(directory, _offers(directory, manifest)), manifest=manifest
    )


def _offers(directory: Path, manifest: Manifest) -> FileEntry:
    entry = manifest.files.get("offers")
    if entry is None:
        raise refusal(directory / CURRENT, "names no file of offers")
    return entry


def live_layers(places: Places) -> Iterator[Layer | str]:
    """The newest good refresh of each provider, and a warning for each file that is refused on the way."""
    root = live_directory(places)
    if not root.is_dir():
        return
    for directory in sorted(root.iterdir()):
        if PROVIDER_NAME.fullmatch(directory.name) and directory.is_dir() and not directory.is_symlink():
            yield from _newest_good(directory)


def _newest_good(directory: Path) -> Iterator[Layer | str]:
    refused = []
    for name in (CURRENT, PREVIOUS):
        if not (directory / name).exists():
            continue
        try:
            layer = live_layer(directory, name)
        except DamagedCatalogError as error:
            refused.append(error.message)
            continue
        yield from (f"{problem}; using the prices of {_date(layer)}" for problem in refused)
        yield layer
        return
    yield from (f"{problem}; using the prices that came with Skyward" for problem in refused)


def live_layer(directory: Path, name: str = CURRENT) -> Layer:
    """One refresh of the provider the directory is named after.

    Raises:
        DamagedCatalogError: anything about it is not as it was written.
    """
    manifest = read_manifest(directory / name)
    if manifest.provider != directory.name:
        raise refusal(directory / name, f"is of provider {manifest.provider!r}, not {directory.name!r}")
    path = checked_file(directory, _offers(directory, manifest))
    return Layer(name="live", provider=manifest.provider, path=path, manifest=manifest)


def _date(layer: Layer) -> str:
    return layer.manifest.version if layer.manifest else "its file"


def user_layers(places: Places) -> Iterator[Layer | str]:
    """The user's files, and a warning for each file whose name says no provider."""
    root = user_directory(places)
    if not root.is_dir():
        return
    seen: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.suffix not in (".csv", ".parquet") or path.name.startswith("."):
            continue
        if not PROVIDER_NAME.fullmatch(path.stem):
            yield f"{path} is not used: name it after a provider, like aws.csv"
        elif path.stem in seen:
            yield f"{path} is not used: {seen[path.stem].name} speaks for {path.stem!r} already"
        else:
            seen[path.stem] = path
            yield Layer(name="user", provider=path.stem, path=path)
