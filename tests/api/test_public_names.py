"""`import skyward` is cheap, complete, and works where nothing else is installed."""

from __future__ import annotations

import ast
import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import skyward as sky
from skyward import errors
from skyward.api.elsewhere import placeholder

ROOT = Path(sky.__file__).parent.parent
HEAVY = (
    "duckdb pyarrow paramiko boto3 botocore cloudpickle rich msgspec urllib3 pluggy click asyncio numpy torch"
)


def run_python(code: str, **environ: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_heavy() -> None:
    loaded = run_python(f"import sys, skyward; print([n for n in {HEAVY.split()} if n in sys.modules])")

    assert loaded == "[]"


TASK_SIDE = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"skyward"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
sys.meta_path.insert(0, Nothing())
import skyward as sky

@sky.compute(retries=1, timeout="90s")
def task(x: int) -> int:
    return x

@sky.pool(provider=[sky.AWS(region="us-east-1"), sky.Whatever(x=1), "verda"], selection="cheapest",
          accelerator="A100:8", memory="64GB..", engine="dask",
          image=sky.Image(pip=["numpy"], env={"A": "b"}), volume=sky.Volume(size_gb=5, mount_path="/data"))
def main() -> int:
    return task(1) >> sky

pool = sky.ComputePool(provider="aws", accelerator=sky.NVIDIA.H100(count=8), timeout="2h")
print(task.local(3), sky.shard([1, 2, 3]), sky.is_head(), sky.is_nvidia(), sky.current_accelerator())
print([name for name in sorted(sys.modules) if name.partition(".")[0] in ("pluggy", "skyward_aws")])
"""


def test_a_users_module_imports_on_an_instance_with_the_standard_library_alone() -> None:
    info = '{"node":0,"total_nodes":1,"worker":0,"workers_per_node":1,"job_id":"p","head_addr":"h","head_port":1}'

    said = run_python(TASK_SIDE, SKYWARD_INSTANCE_INFO=info).splitlines()

    assert said[0].startswith("3 [1, 2, 3] True")
    assert said[1] == "[]"


def test_every_public_name_can_be_had() -> None:
    missing = [name for name in sky.__all__ if getattr(sky, name, None) is None]

    assert missing == []
    assert set(sky.__all__) <= set(dir(sky))


def test_every_error_is_public() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and not name.startswith("_")
    }

    assert classes <= set(sky.__all__)


def test_the_stub_names_what_there_is_at_run_time() -> None:
    tree = ast.parse((ROOT / "skyward" / "__init__.pyi").read_text())
    stub = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    configs = {"AWS", "DigitalOcean", "Local", "SSH", "Verda", "VastAI"}
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )

    assert stub == set(sky.__all__) | configs
    assert set(listed) == stub


def test_a_name_comes_from_one_place_for_checkers_and_at_run_time() -> None:
    tree = ast.parse((ROOT / "skyward" / "__init__.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("skyward."):
            module = __import__(node.module, fromlist=["_"])
            for alias in node.names:
                assert getattr(sky, str(alias.asname)) is getattr(module, alias.name)


def test_the_version_is_the_packages() -> None:
    assert f'version = "{sky.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_a_misspelt_name_says_what_was_meant() -> None:
    with pytest.raises(AttributeError, match="no attribute 'comput'; did you mean 'compute'"):
        sky.comput  # type: ignore[attr-defined]


def test_an_unknown_provider_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Nimbus9'"):
        sky.Nimbus9  # type: ignore[attr-defined]


def test_the_config_of_an_installed_plugin_is_found_by_name() -> None:
    from skyward.builtin.local import Local

    assert sky.Local is Local
    assert sky.Scripted.__name__ == "Scripted"  # type: ignore[attr-defined]


def test_a_config_on_an_instance_is_inert_and_travels() -> None:
    config = placeholder("AWS")(region="us-east-1", tags={"a": "b"})

    assert repr(config) == "AWS(region='us-east-1', tags={'a': 'b'})"
    assert config.region == "us-east-1"
    assert config == placeholder("Other")(region="x") or config != placeholder("Other")(region="x")
    with pytest.raises(AttributeError, match="frozen"):
        config.region = "eu"
    with pytest.raises(AttributeError, match="only what was written"):
        config.zone


def test_a_config_made_on_an_instance_is_the_real_one_at_home() -> None:
    travelled = pickle.dumps(placeholder("Local")(directory="/tmp/x"))

    assert pickle.loads(travelled) == sky.Local(directory="/tmp/x")


KNOWN_TO_A_PLUGIN = """
import sys
import skyward as sky

sky.ComputePool(accelerator="H100:8")
sky.NVIDIA.A100(count=2)
print("pluggy" in sys.modules)
print(sky.{spelling}.name, "pluggy" in sys.modules)
try:
    sky.Accelerator("Cerebrus WSE4")
except sky.AcceleratorError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    "spelling",
    [
        'Accelerator("cerebras wse3")',
        "accelerators.Cerebras_WSE3",
        'ComputePool(accelerator="Cerebras-WSE3:2")._options.requirements.accelerator',
    ],
)
def test_accelerators_of_plugins_are_known_wherever_they_are_first_named(
    tmp_path: Path, empty_home: Path, spelling: str
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "skyfile.py").write_text(
        "import skyward as sky\n"
        "@sky.hookimpl\n"
        "def skyward_accelerators():\n"
        "    return [sky.AcceleratorModel(name='Cerebras-WSE3', vendor='cerebras', memory_gib=44)]\n"
    )
    (tmp_path / "program.py").write_text(KNOWN_TO_A_PLUGIN.replace("{spelling}", spelling))

    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )

    before, after, unknown = done.stdout.splitlines() or [done.stderr] * 3
    assert (before, after) == ("False", "Cerebras-WSE3 True"), done.stderr
    assert "Cerebras-WSE3" in unknown
