"""Compiling: from tables people review to the snapshot that ships. The recipe lies with its sources.

`build` runs `build.py` beside the directory of sources, which turns them into rows; this module writes what it
gets. Equal inputs and equal pyarrow versions give equal bytes: nothing here looks at the clock.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from skyward.catalog.layers import CURRENT
from skyward.catalog.manifest import FileEntry, Manifest, sha256_of
from skyward.catalog.schema import write_table, write_text
from skyward.errors import CatalogError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What was compiled. With `problems`, nothing was written."""

    out: Path
    version: str = ""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Table name -> file."""
    problems: tuple[str, ...] = ()
    """Rows of the sources that are wrong."""
    notes: tuple[str, ...] = ()
    """What was left out on purpose, and why."""

    @property
    def ok(self) -> bool:
        return not self.problems


def build(sources: Path, out: Path) -> BuildReport:
    """Compiles `sources` by the recipe beside it (`build.py`) and writes the snapshot to `out`.

    Raises:
        UsageError: there is no such directory, or no recipe beside it.
        CatalogError: the recipe itself failed.
    """
    recipe = sources.resolve().parent / "build.py"
    if not sources.is_dir() or not recipe.is_file():
        raise UsageError(
            f"no catalog sources in {str(sources)!r}: give the directory `catalog/sources` of a checkout",
            hints=["skyward catalog build --from catalog/sources --out catalog/snapshot"],
        )
    report = _load(recipe).build(sources, out)
    if not isinstance(report, BuildReport):
        raise CatalogError(f"{recipe} answered {report!r}, not a BuildReport")
    return report


def _load(recipe: Path) -> ModuleType:
    """The recipe as a package of its own, so that it can import what lies beside it."""
    name = "skyward_catalog_recipe"
    spec = spec_from_file_location(name, recipe, submodule_search_locations=[str(recipe.parent)])
    if spec is None or spec.loader is None:
        raise CatalogError(f"{recipe} cannot be imported")
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def write_snapshot(
    tables: Mapping[str, pa.Table],
    out: Path,
    *,
    version: str,
    inputs: Mapping[str, str],
    notes: Sequence[str] = (),
) -> BuildReport:
    """Writes the tables and then the manifest that makes them valid."""
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, table in sorted(tables.items()):
        path = out / f"{name}.parquet"
        write_table(table, path)
        files[name] = FileEntry(
            name=path.name, sha256=sha256_of(path), bytes=path.stat().st_size, rows=table.num_rows
        )
    write_text(Manifest(version=version, files=files, inputs=dict(inputs)).dump(), out / CURRENT)
    return BuildReport(out=out, version=version, files=files, notes=tuple(notes))
