"""A question costs one heavy import, and importing the package costs none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "duckdb",
    "pyarrow",
    "pandas",
    "numpy",
    "polars",
    "boto3",
    "botocore",
    "paramiko",
    "moto",
    "urllib3",
    "rich",
    "pluggy",
)

ASK = """
from skyward.catalog import OfferQuery, open_catalog
with open_catalog() as catalog:
    assert catalog.offers(OfferQuery(accelerators=("H100-SXM",), limit=3))
    assert catalog.matched(OfferQuery(max_price=3.0)).total
    assert catalog.funnel(OfferQuery(max_price=3.0))
    assert catalog.machine("p5n.48xlarge")
    assert catalog.sellers("L4").rows and catalog.accelerators().rows
    assert catalog.sql("SELECT count(*) FROM offers").rows
    assert catalog.history(OfferQuery(machine="p5.48xlarge")).rows
    assert catalog.info().providers
"""


def loaded_by(code: str, home: Path) -> set[str]:
    """Heavy packages in a fresh interpreter after running the code."""
    probe = f"{code}\nimport sys, json; print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "SKYWARD_HOME": str(home), "PYTHONPATH": f"{root}{os.pathsep}{root / 'plugins'}"}
    done = subprocess.run(
        [sys.executable, "-c", probe], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import skyward.catalog",
        "from skyward.catalog import OfferQuery, build_sql; build_sql(OfferQuery(max_price=2.0))",
        "import skyward.http; skyward.http.JSONClient('https://example.com', name='x')",
    ],
)
def test_importing_loads_nothing_heavy(code: str, tmp_path: Path) -> None:
    assert loaded_by(code, tmp_path) == set()


@pytest.mark.parametrize("name", ["aws", "digitalocean", "verda", "vastai"])
def test_a_providers_prices_are_read_without_its_sdk(name: str, tmp_path: Path) -> None:
    assert loaded_by(f"import skyward_{name}.prices", tmp_path) <= {"pluggy"}


def test_aws_calls_load_boto3_when_they_are_made(tmp_path: Path) -> None:
    assert loaded_by("import skyward_aws.fetch, skyward_aws.errors", tmp_path) <= {"pluggy"}


def test_every_question_loads_duckdb_and_nothing_else_heavy(tmp_path: Path) -> None:
    assert loaded_by(ASK, tmp_path) == {"duckdb"}
