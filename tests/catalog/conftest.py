"""Small catalogs made of rows, in a home of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from catalog_rows import MakeCatalog, bundle

from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.model.offer import Offer


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.find({"SKYWARD_HOME": str(tmp_path / "home")})


@pytest.fixture
def make_catalog(tmp_path: Path, places: Places) -> Iterator[MakeCatalog]:
    """Opens a catalog whose bundled snapshot has the given offers."""
    opened: list[Catalog] = []

    def make(*offers: Offer) -> Catalog:
        opened.append(Catalog(places, bundle(list(offers), tmp_path / f"bundle{len(opened)}")))
        return opened[-1]

    yield make
    for catalog in opened:
        catalog.close()
