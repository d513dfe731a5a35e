"""Command lines run in this process, with nothing left of one when the next begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class Answered:
    """What one command line gave."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Answered]


@pytest.fixture
def invoke(
    empty_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    forgotten_modules: None,
) -> Iterator[Invoke]:
    """`invoke("plugins", "--json")` in an empty home and an empty current directory, without a terminal."""
    from skyward import cli, config, plugins
    from skyward.cli import console

    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    monkeypatch.chdir(project)

    def forget() -> None:
        monkeypatch.setattr(console, "color", "auto")
        monkeypatch.setattr(config, "_options", {})
        monkeypatch.setattr(config, "_file", None)
        monkeypatch.setattr(plugins, "_names", ())
        monkeypatch.setattr(plugins, "_current", None)
        monkeypatch.setattr(plugins, "_is_loaded", False)
        cli._installed_commands.cache_clear()

    def invoke_skyward(*arguments: str) -> Answered:
        forget()
        capsys.readouterr()
        code = cli.invoke(arguments)
        captured = capsys.readouterr()
        return Answered(code, captured.out, captured.err)

    yield invoke_skyward
    from skyward.model.accelerator import set_registry

    set_registry(None)
