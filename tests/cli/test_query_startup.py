"""What a price query imports: DuckDB, and nothing else that is heavy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import skyward

ROOT = Path(skyward.__file__).parent.parent
HEAVY = {
    "asyncio", "boto3", "botocore", "cloudpickle", "moto", "msgspec", "numpy", "pandas",
    "paramiko", "psutil", "pyarrow", "rich", "urllib3", "filelock",
}  # fmt: skip


def imported_by(home: Path, *arguments: str) -> set[str]:
    program = (
        f"import sys, skyward.cli\ncode = skyward.cli.invoke({list(arguments)!r})\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SKYWARD_HOME": str(home)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=home, capture_output=True, text=True, timeout=60
    )
    assert result.returncode in (0, 5), result.stderr
    return set(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("cheapest", "--accelerator", "A100:8", "--json"),
        ("cheapest", "A100:8"),
        ("offers", "H100", "--limit", "3"),
        ("offers", "--gpu", "H200", "--region", "FIN-01", "--max-price", "0.1"),
        ("cost", "H100", "--for", "3h"),
    ],
)
def test_a_query_imports_duckdb_and_nothing_else_heavy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    modules = imported_by(tmp_path, *arguments)

    assert "duckdb" in modules
    assert not {name for name in HEAVY if name in modules}
    assert "pluggy" not in modules
    assert "skyward.plugins" not in modules


def test_a_plan_asks_the_plugins_and_imports_nothing_else_heavy(tmp_path: Path) -> None:
    modules = imported_by(tmp_path, "plan", "--gpu", "H100")

    assert {"duckdb", "pluggy"} <= modules
    assert not {name for name in HEAVY - {"msgspec"} if name in modules}


def test_the_python_api_loads_nothing_before_it_is_called(tmp_path: Path) -> None:
    program = "import sys, skyward\nskyward.offers, skyward.cheapest, skyward.plan\nprint(*sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SKYWARD_HOME": str(tmp_path)}

    result = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert not {"duckdb", "pluggy", "pyarrow", "click"} & set(result.stdout.split())
