"""The wheel carries the snapshot, and answers with it wherever it lies."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from skyward.catalog.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]

ASK = """
from skyward.catalog import OfferQuery, open_catalog
import skyward, skyward_aws.shapes
with open_catalog() as catalog:
    (offer,) = catalog.offers(OfferQuery(machine="p5.4xlarge", include_unpriced=False))
    print(skyward.__file__, catalog.bundled, offer.usd_per_hour, len(skyward_aws.shapes.corrections()), sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked where nothing else of this checkout is."""
    built = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = built.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def test_the_snapshot_is_in_the_wheel_and_small(installed: Path) -> None:
    snapshot = installed / "skyward" / "catalog" / "snapshot"

    assert read_manifest(snapshot / "manifest.json") == read_manifest(
        ROOT / "catalog" / "snapshot" / "manifest.json"
    )
    assert sum(path.stat().st_size for path in snapshot.iterdir()) < 130_000
    assert not (installed / "catalog").exists()


def test_an_installed_skyward_answers_from_its_own_snapshot(installed: Path, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(installed), "SKYWARD_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ASK],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    package, bundled, price, corrections = done.stdout.split("\n")[:4]
    assert Path(package).is_relative_to(installed)
    assert Path(bundled).is_relative_to(installed)
    assert float(price) == 6.88
    assert int(corrections) > 10
