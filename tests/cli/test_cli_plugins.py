"""`skyward plugins` and `skyward providers`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skyward.errors import ExitCode

Invoke = Callable[..., Any]

ACME = """
from dataclasses import dataclass
import skyward as sky

@dataclass(frozen=True)
class Acme:
    token: str | None = None
    crash: bool = False

class Cloud(sky.Provider):
    name = "acme"
    Config = Acme
    capabilities = sky.Capabilities(spot=True, private_network=True)
    credentials_from = "config.toml"
    @classmethod
    def from_env(cls, config=None, environ=None):
        config = config or Acme()
        if config.crash:
            raise RuntimeError("acme is confused")
        if config.token is None:
            raise sky.CredentialsError("acme: no credentials", facts=["ACME_TOKEN is not set", "no ~/.acme"], hints=["export ACME_TOKEN=..."])
        return cls(config)
    def offers(self): return []
    def launch(self, request): return []
    def instances(self, pool): return []
    def terminate(self, ids): ...
    def connect(self, instance): return sky.Endpoint(kind="local")

@sky.hookimpl
def skyward_providers():
    return [Cloud]
"""


@pytest.fixture
def acme(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module with a provider, beside one that does not import; nothing installed is loaded by itself."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "acme_plugin.py").write_text(ACME)
    (site / "broken_plugin.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("SKYWARD_DISABLE_PLUGIN_AUTOLOAD", "1")
    yield "acme_plugin"
    for name in ("acme_plugin", "other_plugin"):
        sys.modules.pop(name, None)


def items(answered: Any) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in json.loads(answered.out)["items"]}


# -- plugins -------------------------------------------------------------------------------------------------------


def test_every_plugin_is_a_row_with_its_hooks(invoke: Invoke, acme: str) -> None:
    answered = invoke("plugins", "-p", acme, "-p", "no:terminal")

    rows = {line.split()[0]: line.split()[1:] for line in answered.out.splitlines()}
    assert rows["PLUGIN"] == ["STATE", "FROM", "LOAD", "HOOKS"]
    assert rows["local"][:3] == ["loaded", "skyward", "0.1.0"]
    assert rows["terminal"][0] == "blocked"
    assert rows["acme_plugin"][0] == "loaded"
    assert rows["acme_plugin"][-1] == "providers"
    assert answered.code == 0


def test_plugins_as_json(invoke: Invoke, acme: str, tmp_path: Path) -> None:
    answered = invoke("plugins", "--json", "-p", acme, "-p", "no:ssh")

    found = items(answered)
    assert found["acme_plugin"]["hooks"] == ["skyward_providers"]
    assert found["acme_plugin"]["origin"] == str(tmp_path / "site" / "acme_plugin.py")
    assert found["acme_plugin"]["distribution"] is None
    assert found["acme_plugin"]["load_ms"] > 0
    assert found["ssh"] == {
        "name": "ssh",
        "state": "blocked",
        "distribution": "skyward",
        "version": "0.1.0",
        "hooks": [],
        "origin": None,
        "load_ms": None,
        "error": None,
    }


def test_hooks_list_who_implements_them(invoke: Invoke, acme: str) -> None:
    answered = invoke("plugins", "--hooks", "-p", acme)

    rows = {line.split()[0]: line.split()[1:] for line in answered.out.splitlines()}
    assert rows["skyward_providers"] == ["local", "ssh", "acme_plugin"]
    assert rows["skyward_retry_task"] == ["-"]


def test_a_broken_plugin_is_a_row_an_error_and_exit_3(invoke: Invoke, acme: str) -> None:
    answered = invoke("plugins", "-p", "broken_plugin")

    assert answered.code == ExitCode.INTERNAL
    assert "broken_plugin  broken" in answered.out
    assert answered.err.count("error: plugin 'broken_plugin' cannot be loaded: ModuleNotFoundError") == 1
    assert "warning:" not in answered.err
    assert "hint: to leave it out: -p no:broken_plugin" in answered.err


def test_a_broken_plugin_is_a_warning_for_queries(invoke: Invoke, acme: str) -> None:
    answered = invoke("providers", "-p", "broken_plugin")

    assert answered.code == 0
    assert answered.err.startswith("warning: plugin 'broken_plugin' cannot be loaded: ModuleNotFoundError")


def test_a_broken_plugin_stops_what_checks_everything(invoke: Invoke, acme: str) -> None:
    answered = invoke("config", "validate", "-p", "broken_plugin")

    assert answered.code == ExitCode.INTERNAL
    assert "error: plugin 'broken_plugin' cannot be loaded" in answered.err


def test_two_providers_of_one_name_are_told(invoke: Invoke, acme: str, tmp_path: Path) -> None:
    (tmp_path / "site" / "other_plugin.py").write_text(ACME)

    answered = invoke("plugins", "-p", acme, "-p", "other_plugin")

    assert answered.code == ExitCode.INTERNAL
    assert "provider name 'acme' is registered twice: by 'acme_plugin' (" in answered.err


def test_plugins_of_the_configuration_are_loaded(invoke: Invoke, acme: str, tmp_path: Path) -> None:
    (tmp_path / "project" / "skyward.toml").write_text('plugins = ["acme_plugin", "no:ssh"]')

    found = items(invoke("plugins", "--json"))

    assert found["acme_plugin"]["state"] == "loaded"
    assert found["ssh"]["state"] == "blocked"


def test_a_skyfile_is_a_plugin_and_shown_with_its_path(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "project" / "skyfile.py").write_text(
        "import skyward as sky\n@sky.hookimpl\ndef skyward_event(event): ...\n"
    )

    assert "skyfile       loaded  skyfile.py" in invoke("plugins").out


# -- providers -----------------------------------------------------------------------------------------------------


def test_a_provider_without_credentials_says_where_it_looked(invoke: Invoke, acme: str) -> None:
    answered = invoke("providers", "-p", acme)

    (row,) = (line for line in answered.out.splitlines() if line.startswith("acme "))
    assert "not set up" in row
    assert "ACME_TOKEN is not set" in row
    assert "spot private-network" in row
    assert "hint: acme: export ACME_TOKEN=..." in answered.err
    assert "2 providers ready" not in answered.out


def test_providers_as_json(invoke: Invoke, acme: str) -> None:
    found = items(invoke("providers", "--json", "-p", acme))

    assert found["local"]["ready"] is True
    assert found["acme"]["capabilities"]["spot"] is True
    assert found["acme"]["credentials"] == {"needed": True, "source": None}
    assert found["acme"]["error"] == {
        "code": "SKW201",
        "message": "acme: no credentials",
        "facts": ["ACME_TOKEN is not set", "no ~/.acme"],
        "hints": ["export ACME_TOKEN=..."],
    }


def test_arguments_of_a_provider_come_from_the_users_file(
    invoke: Invoke, acme: str, empty_home: Path
) -> None:
    file = empty_home / "skyward" / "config" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[providers.acme]\ntoken = "canary"')

    answered = invoke("providers", "--json", "-p", acme)

    assert items(answered)["acme"]["ready"] is True
    assert items(answered)["acme"]["credentials"]["source"] == "config.toml"
    assert "canary" not in answered.out + answered.err


def test_a_provider_that_crashes_is_broken_and_hides_no_other(invoke: Invoke, acme: str) -> None:
    found = items(invoke("providers", "--json", "-p", acme, "-o", "providers.acme.crash=true"))

    assert found["acme"]["status"] == "broken"
    assert "acme is confused" in found["acme"]["error"]["message"]
    assert found["local"]["ready"] is True


def test_no_provider_that_is_ready_is_exit_4(invoke: Invoke) -> None:
    assert invoke("providers", "-p", "no:local").code == ExitCode.NO_COMPUTE
