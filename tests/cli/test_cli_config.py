"""`skyward config`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Invoke = Callable[..., Any]


@pytest.fixture
def project(invoke: Invoke, tmp_path: Path) -> Path:
    return tmp_path / "project"


TOML = """
plugins = ["no:ssh"]
[defaults]
memory = "8GB.."
pip = ["numpy", "torch==2.5"]
env = { "OMP_NUM_THREADS" = "8", "strange key" = 'a "quoted" \\ value' }
[pools.train]
accelerator = "H100:8"
nodes = 2
[pools."my pool"]
max_price = 2.5
[run]
addopts = "-x"
"""


def test_what_is_shown_is_toml_that_means_the_same(invoke: Invoke, project: Path) -> None:
    (project / "skyward.toml").write_text(TOML)

    shown = tomllib.loads(invoke("config", "show").out)

    written = tomllib.loads(TOML)
    assert shown["pools"] == written["pools"]
    assert shown["plugins"] == written["plugins"]
    assert written["defaults"].items() <= shown["defaults"].items()
    assert shown["defaults"]["nodes"] == 1, "built-in defaults are shown as well"


def test_every_value_has_an_origin(invoke: Invoke, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "skyward.toml").write_text(TOML)
    monkeypatch.setenv("SKYWARD_RETRIES", "3")

    lines = invoke("config", "show", "--origin", "-o", "nodes=4").out.splitlines()

    values = [line for line in lines if "=" in line]
    assert all("  # " in line for line in values)
    assert any(line.startswith('memory = "8GB.."') and line.endswith("# skyward.toml:4") for line in lines)
    assert any(line.startswith("retries = 3") and line.endswith("# $SKYWARD_RETRIES") for line in lines)
    assert any(line.startswith("nodes = 4") and line.endswith("# -o nodes=4") for line in lines)
    assert any(line.startswith("lease = ") and line.endswith("# built-in") for line in lines)


def test_settings_as_json(invoke: Invoke, project: Path) -> None:
    (project / "skyward.toml").write_text(TOML)

    document = json.loads(invoke("config", "show", "--json").out)

    found = {item["key"]: item for item in document["items"]}
    assert found["pools.train.nodes"] == {
        "key": "pools.train.nodes",
        "value": 2,
        "origin": f"{project}/skyward.toml:9",
    }
    assert found['pools."my pool".max_price']["value"] == 2.5
    assert document["files"] == [f"{project}/skyward.toml"]


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--origin"]])
def test_secrets_are_masked(invoke: Invoke, empty_home: Path, arguments: list[str]) -> None:
    file = empty_home / "skyward" / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[providers.digitalocean]\ntoken = "canary"\n[defaults.env]\nHF_TOKEN = "canary"')

    answered = invoke("config", "show", *arguments)

    assert answered.out.count("***") == 2
    assert "canary" not in answered.out + answered.err


def test_the_paths_are_those_of_the_home(invoke: Invoke, empty_home: Path, project: Path) -> None:
    (project / "skyward.toml").write_text("")

    rows = json.loads(invoke("config", "path", "--json").out)["items"]

    assert [(row["what"], row["path"], row["exists"]) for row in rows] == [
        ("file", f"{project}/skyward.toml", True),
        ("file", f"{empty_home}/skyward/config/config.toml", False),
        ("config", f"{empty_home}/skyward/config", False),
        ("cache", f"{empty_home}/skyward/cache", False),
        ("data", f"{empty_home}/skyward/data", False),
        ("state", f"{empty_home}/skyward/state", False),
    ]
    assert "(not there)" in invoke("config", "path").out


def test_a_sound_configuration_is_valid(invoke: Invoke, project: Path) -> None:
    (project / "skyward.toml").write_text(
        '[defaults]\nmemory = "8GB"\n[providers.ssh]\nhosts = ["me@gpu1"]\n[pools.train]\nprovider = "ssh"\nnodes = 1'
    )

    answered = invoke("config", "validate")

    assert answered.err == f"ok: {project}/skyward.toml\n"
    assert answered.code == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[providers.ssh]\nhots = []",
            "skyward.toml:2: unknown option 'hots' in [providers.ssh]; did you mean 'hosts'?",
        ),
        ("[providers.shh]\nhosts = []", "no provider 'shh' is installed"),
        ("[providers.ssh]\nhosts = 'me@gpu1'", "hosts is a list: hosts=['me@gpu1']"),
        ("[pools.train]\nprovider = 'lamda'", "no provider 'lamda' is installed"),
        ("[pools.train]\nselection = 'cheapst'", "cheapst"),
        ("[pools.train]\naccelerator = 'H1000'", "H1000"),
        ("[defaults]\nengine = 'shh'", "shh"),
        ("[defaults]\nallocation = 'sometimes'", "sometimes"),
        ("[defaults]\nmemmory = '1GB'", "unknown option 'memmory' in [defaults]; did you mean 'memory'?"),
    ],
)
def test_what_cannot_be_meant_is_found_before_it_is_used(
    invoke: Invoke, project: Path, text: str, says: str
) -> None:
    (project / "skyward.toml").write_text(text)

    answered = invoke("config", "validate")

    assert answered.code == 2
    assert says in answered.err.splitlines()[0]


def test_the_schema_knows_every_table(invoke: Invoke) -> None:
    schema = json.loads(invoke("config", "schema").out)

    document = schema["$defs"]["Document"]
    assert set(document["properties"]) == {"plugins", "defaults", "pools", "providers", "run", "catalog"}
    assert document["additionalProperties"] is False


def test_addopts_go_before_what_was_typed(invoke: Invoke, project: Path) -> None:
    (project / "skyward.toml").write_text("[run]\naddopts = '--no-such-option'")

    assert "no such option '--no-such-option'" in invoke("run", "module:task").err


def test_addopts_with_an_open_quote_are_told_with_their_line(invoke: Invoke, project: Path) -> None:
    (project / "skyward.toml").write_text("[run]\naddopts = '-k \"fold'")

    answered = invoke("run", "module:task")

    assert answered.code == 2
    assert answered.err.startswith(f"error: {project}/skyward.toml:2: 'run.addopts' is ")


def test_an_age_in_the_configuration_is_a_default_of_queries(invoke: Invoke) -> None:
    assert invoke("offers", "--gpu", "T4").code == 0
    assert "SKW221" in invoke("-o", "catalog.max_age=1s", "offers", "--gpu", "T4").err
    assert invoke("-o", "catalog.max_age=1s", "offers", "--gpu", "T4", "--max-age", "9000d").code == 0
