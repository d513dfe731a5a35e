"""The package as users get it: built, installed somewhere else, and asked a price without a network."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = 2 << 20
"""A wheel is no place for data: bytes."""
OURS = ("skyward", "skyward_aws", "skyward_digitalocean", "skyward_vastai", "skyward_verda")


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """uv of this environment."""
    from uv import find_uv_bin

    return subprocess.run([find_uv_bin(), *arguments], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    built = uv("build", "--wheel", "--quiet", "--out-dir", str(out), str(ROOT))
    if built.returncode and "hatchling" in built.stderr:
        pytest.skip("no package index can be reached for the build back end")
    assert built.returncode == 0, built.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it. Its dependencies come from an index, or where none can be reached
    from this environment."""
    place = tmp_path_factory.mktemp("elsewhere") / "venv"
    assert uv("venv", "--quiet", "--python", sys.executable, str(place)).returncode == 0
    python = str(place / "bin" / "python")
    if uv("pip", "install", "--quiet", "--python", python, str(wheel)).returncode:
        assert uv("pip", "install", "--quiet", "--no-deps", "--python", python, str(wheel)).returncode == 0
        lib = next((place / "lib").glob("python*/site-packages"))
        here = [path for path in sys.path if path.endswith("site-packages")]
        (lib / "dependencies.pth").write_text("\n".join(here))
    return place


def ask(installed: Path, tmp_path: Path, *command: str) -> str:
    """Runs a program of the environment, in a home and a directory of its own, and where no name resolves."""
    env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    program, *arguments = command
    done = subprocess.run(
        [str(installed / "bin" / program), *arguments],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_small_and_holds_prices_plugins_and_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert wheel.stat().st_size < SMALL
    assert {"skyward/py.typed", "skyward/__init__.pyi", "skyward/builtin/accelerators.csv"} <= names
    assert {f"skyward/catalog/snapshot/{name}" for name in ("manifest.json", "offers.parquet")} <= names
    assert {f"{package}/__init__.py" for package in OURS} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(OURS)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".tmp"))]
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    here = {
        path.relative_to(base).as_posix()
        for base, package in [(ROOT, "skyward"), *((ROOT / "plugins", name) for name in OURS[1:])]
        for path in (base / package).rglob("*")
        if path.suffix in (".py", ".pyi", ".csv", ".sh", ".typed")
    }

    assert here <= names


def test_elsewhere_a_price_is_answered_offline(installed: Path, tmp_path: Path) -> None:
    answer = json.loads(ask(installed, tmp_path, "skyward", "cheapest", "--accelerator", "A100:8", "--json"))

    best = answer["items"][0]
    assert best["accelerator"].startswith("A100")
    assert best["accelerator_count"] >= 8
    assert best["usd_per_hour"] > 0


def test_elsewhere_every_plugin_is_there(installed: Path, tmp_path: Path) -> None:
    answer = json.loads(ask(installed, tmp_path, "skyward", "plugins", "--json"))

    states = {item["name"]: item["state"] for item in answer["items"]}
    assert {"local", "ssh", "aws", "digitalocean", "vastai", "verda", "terminal", "strategies"} <= set(states)
    assert set(states.values()) == {"loaded"}


def test_elsewhere_the_public_names_can_be_had_and_tasks_run(installed: Path, tmp_path: Path) -> None:
    program = """
        import skyward as sky
        sky.AWS(), sky.DigitalOcean(), sky.Verda(), sky.VastAI(), sky.Local()
        for name in sky.__all__:
            getattr(sky, name)
        with sky.ComputePool(display="quiet") as pool:
            print(sky.__file__, pool.map(abs, [-1, -2]))
    """
    (tmp_path / "program.py").write_text("\n".join(line[8:] for line in program.splitlines()))

    printed = ask(installed, tmp_path, "python", "program.py")

    assert printed.startswith(str(installed))
    assert printed.endswith("[1, 2]\n")


def test_elsewhere_the_demo_does_its_job(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "census.py", tmp_path)

    printed = ask(installed, tmp_path, "skyward", "run", "census.py:main", "--nodes", "2")

    assert "all of it" in printed
    assert re.search(r"^node 0 +\d+ packages", printed, re.MULTILINE)
    assert re.search(r"^node 1 +\d+ packages", printed, re.MULTILINE)


def test_elsewhere_the_type_checker_finds_the_types(installed: Path) -> None:
    lib = next((installed / "lib").glob("python*/site-packages"))

    assert (lib / "skyward" / "py.typed").exists()
    with io.StringIO(next(lib.glob("skyward-*.dist-info/RECORD")).read_text()) as record:
        assert len(list(csv.reader(record))) > 100


# -- what it says it needs --------------------------------------------------------------------------------------------


def test_everything_that_is_imported_is_a_dependency_and_the_other_way_round() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = _names(project["dependencies"])
    testing = _names(project["optional-dependencies"]["testing"])
    tested = {path for path in _sources() if path.is_relative_to(ROOT / "skyward" / "testing")}
    needed = _needed(set(_sources()) - tested)

    allowed_late = {
        "pandas",
        "moto",
        "cryptography",
        "botocore",
    }  # of Offers.df, of `catalog build`, of paramiko and boto3
    assert needed - declared - allowed_late == set()
    assert declared - needed == set()
    assert _needed(tested) - declared - allowed_late - testing == set()
    assert testing - _needed(tested) == set()


def _names(lines: list[str]) -> set[str]:
    return {_plain(re.split(r"[<>=!~\[; ]", line)[0]) for line in lines}


def _needed(paths: set[Path]) -> set[str]:
    """Distributions that files import."""
    owners = packages_distributions()
    return {_plain(owner) for path in paths for top in _tops(path) for owner in owners.get(top, [top])}


def _sources() -> list[Path]:
    return [*(ROOT / "skyward").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]


def _tops(path: Path) -> set[str]:
    """Top-level modules of others that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and name not in OURS}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_this_environment_is_left_alone(wheel: Path) -> None:
    """The build works in a copy: no build directory, no egg-info, nothing new beside the sources."""
    assert not (ROOT / "build").exists()
    assert not list(ROOT.glob("*.egg-info"))
    assert os.access(wheel, os.R_OK)
