"""Every file of the catalog, read to the last byte, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.catalog import layers as files
from skyward.catalog.belief import check_columns, check_rows, take_in
from skyward.catalog.engine import parquet, relation
from skyward.catalog.history import check_part, parts
from skyward.catalog.layers import Layer
from skyward.catalog.manifest import checked_file, read_manifest
from skyward.catalog.schema import OFFERS, TABLES
from skyward.errors import DamagedCatalogError

if TYPE_CHECKING:
    from skyward.catalog.store import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What `verify` says of one file; `problem` is empty when it is good."""

    path: Path
    what: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem


Check = tuple[Path, str, Callable[[], None]]


def verify(catalog: Catalog) -> list[Finding]:
    """One finding per file: the snapshot's, those of each refresh, the user's, and the parts of the history."""
    return [_finding(path, what, check) for path, what, check in _checks(catalog)]


def _finding(path: Path, what: str, check: Callable[[], None]) -> Finding:
    try:
        check()
    except DamagedCatalogError as error:
        return Finding(path=path, what=what, problem=error.message.removeprefix(f"{path} "))
    return Finding(path=path, what=what)


def _checks(catalog: Catalog) -> Iterator[Check]:
    yield from _bundled(catalog)
    live = files.live_directory(catalog.places)
    for directory in sorted(live.iterdir()) if live.is_dir() else ():
        for name in (files.CURRENT, files.PREVIOUS):
            if (directory / name).exists():
                yield directory / name, f"live {directory.name}", partial(_live, catalog, directory, name)
    for layer in files.user_layers(catalog.places):
        if isinstance(layer, Layer):
            yield layer.path, f"user {layer.provider}", partial(_user, catalog, layer)
    for part in parts(catalog.places):
        yield part, "history", partial(check_part, catalog, part)


def _bundled(catalog: Catalog) -> Iterator[Check]:
    manifest_path = catalog.bundled / files.CURRENT
    yield manifest_path, "bundled", partial(_manifest, manifest_path)
    if not catalog.base or catalog.base[0].manifest is None:
        return
    for name, entry in catalog.base[0].manifest.files.items():
        yield catalog.bundled / entry.name, f"bundled {name}", partial(_table, catalog, name)


def _manifest(path: Path) -> None:
    read_manifest(path)


def _table(catalog: Catalog, name: str) -> None:
    manifest = read_manifest(catalog.bundled / files.CURRENT)
    path = checked_file(catalog.bundled, manifest.files[name])
    check_columns(catalog, path, TABLES[name])
    if name == "offers":
        check_rows(catalog, parquet(path), path)


def _live(catalog: Catalog, directory: Path, name: str) -> None:
    layer = files.live_layer(directory, name)
    check_columns(catalog, layer.path, OFFERS)
    check_rows(catalog, relation(layer), layer.path, layer.provider)


def _user(catalog: Catalog, layer: Layer) -> None:
    take_in(catalog, layer)
    check_rows(catalog, relation(layer), layer.path, layer.provider)
