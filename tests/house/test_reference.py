"""The reference holds all there is, is made of the code as it is now, and every link leads somewhere."""

from __future__ import annotations

import ast
import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import blocks
import click
import msgspec
import pytest

from skyward import config_schema, errors
from skyward.catalog import schema
from skyward.cli import COMMANDS, cli
from skyward.contracts import hookspecs
from skyward.model import event

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
MANY_COMMANDS = {
    name: command
    for name, command in ((name, entry.load()) for name, entry in COMMANDS.items())
    if isinstance(command, click.Group)
}


@cache
def page(name: str) -> str:
    return (ROOT / "docs" / "reference" / f"{name}.md").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command of ours by its words: `catalog refresh`."""
    for name, entry in COMMANDS.items():
        command = entry.load()
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {key}", inner) for key, inner in command.commands.items())


def test_the_reference_pages_are_what_the_code_says_now() -> None:
    """In a process of its own: other tests of this one may have loaded plugins of theirs."""
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, f"run `make docs`:\n{done.stdout}{done.stderr}"


def test_every_public_name_is_in_the_reference() -> None:
    stub = ast.parse((ROOT / "skyward" / "__init__.pyi").read_text(encoding="utf-8"))
    public = next(ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))

    assert not [
        name for name in public if f"`{name}`" not in page("api") and f"`sky.{name}`" not in page("api")
    ]


def test_every_event_is_in_the_reference() -> None:
    kinds = [
        name for name, kind in vars(event).items() if isinstance(kind, type) and issubclass(kind, event.Event)
    ]

    assert kinds
    assert not [name for name in kinds if f"| `{name}` |" not in page("api")]


def test_every_hook_is_in_the_reference() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("skyward_")]

    assert hooks
    assert not [name for name in hooks if f"### `{name}`\n" not in page("hooks")]


def test_every_error_is_in_the_reference() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SkywardError)
    ]
    missing = [
        kind.__name__
        for kind in kinds
        if f"## {kind.code}: " not in page("errors") or kind.__name__ not in page("errors")
    ]

    assert kinds
    assert not missing


def test_every_exit_code_is_in_the_reference() -> None:
    assert not [
        code for code in errors.ExitCode if f"| {code.value} | `{code.name}` |" not in page("exit-codes")
    ]


def test_every_command_and_option_is_in_the_reference_with_its_meaning() -> None:
    missing, silent = [], []
    for words, command in commands():
        section = page("cli").partition(f"## `skyward {words}`\n")[2].partition("\n## ")[0]
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                missing += [f"{words} {name}" for name in option.opts if name not in section]
                silent += [f"{words} {option.name}"] if not option.help else []

    assert not missing
    assert not silent


def test_options_of_every_command_have_a_meaning() -> None:
    assert not [option.name for option in cli.params if isinstance(option, click.Option) and not option.help]


def test_every_setting_is_in_the_reference_with_its_meaning() -> None:
    tables = [
        kind
        for kind in vars(config_schema).values()
        if isinstance(kind, type) and issubclass(kind, config_schema.Table)
    ]
    keys = [field.name for table in tables for field in msgspec.structs.fields(table)]

    assert keys
    assert not [key for key in keys if f"`{key}`" not in page("config") and f"`[{key}" not in page("config")]


def test_every_column_is_in_the_reference() -> None:
    for name, columns in schema.TABLES.items():
        section = page("catalog-schema").partition(f"## `{name}`\n")[2].partition("\n## ")[0]

        assert not [column for column, kind in columns if f"| `{column}` | `{kind}` |" not in section]


def test_every_accelerator_is_in_the_reference() -> None:
    table = ROOT / "skyward" / "builtin" / "accelerators.csv"
    names = [row["name"] for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]

    assert names
    assert not [name for name in names if f"| `{name}` |" not in page("accelerators")]


# -- pages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.name != "CHANGELOG.md"], ids=lambda path: path.stem
)
def test_a_page_starts_with_something_that_runs(path: Path) -> None:
    """Below the title, but for what the README and the security page have to say first."""
    text = path.read_text(encoding="utf-8")
    first = blocks.read_blocks(text)[0]

    assert first.language in ("console", "python", "toml")
    assert text.startswith("# ")
    assert first.line < (20 if path.stem in ("README", "security") else 5)


def test_every_link_leads_somewhere() -> None:
    broken = []
    for path in PAGES:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            place, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = (path.parent / place).resolve() if place else path
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{path.name}: {target}")

    assert not broken


def anchors(path: Path) -> set[str]:
    """What headings are called in links, as GitHub makes it."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_test_a_page_speaks_of_exists() -> None:
    named = {name for path in PAGES for name in re.findall(r"`(test_\w+)`", path.read_text(encoding="utf-8"))}
    there = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }

    assert named
    assert named <= there


def test_every_command_that_is_spoken_of_exists() -> None:
    """In pages, and in every hint and message of the code."""
    spoken = [
        (path.name, found)
        for path in [*PAGES, *(ROOT / "skyward").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
        for found in re.findall(
            r"(?:[`\"']|\$ |    )skyward ((?!init\b)[a-z]+)(?: ([a-z]+))?\b", path.read_text(encoding="utf-8")
        )
    ]
    unknown = [f"{file}: skyward {' '.join(words)}" for file, words in spoken if not _exists(*words)]

    assert spoken
    assert not unknown


def _exists(first: str, second: str) -> bool:
    words = {"COMMAND", "runtime", "starts"}
    if first in words or second in words:
        return True
    return first in COMMANDS and (
        not second or first not in MANY_COMMANDS or second in MANY_COMMANDS[first].commands
    )


def test_every_page_is_on_the_first_one() -> None:
    first = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    names = [
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
        if path.name != "README.md"
    ]

    assert not [name for name in names if f"]({name})" not in first]
