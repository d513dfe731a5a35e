"""`skyward explain`, and that its pages are complete and true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest

from skyward import errors
from skyward.cli import COMMANDS
from skyward.errors import ExitCode, SkywardError
from skyward.explanations import PAGES, Page

Invoke = Callable[..., Any]


def classes(root: type[SkywardError] = SkywardError) -> Iterator[type[SkywardError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


OURS = [kind for kind in dict.fromkeys(classes()) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_page(kind: type[SkywardError]) -> None:
    assert kind.code in PAGES


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in OURS]

    assert sorted(codes) == sorted(set(codes))


def test_every_error_is_in_the_drawn_tree() -> None:
    assert [kind.__name__ for kind in OURS if kind.__name__ not in (errors.__doc__ or "")] == []


@pytest.mark.parametrize("code", ExitCode, ids=lambda code: code.name)
def test_every_exit_code_has_a_page(code: ExitCode) -> None:
    assert str(int(code)) in PAGES


def test_no_page_is_of_something_that_does_not_exist() -> None:
    assert set(PAGES) == {kind.code for kind in OURS} | {str(int(code)) for code in ExitCode}


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.code)
def test_a_page_says_what_happened_and_what_to_do(page: Page) -> None:
    assert page.title == page.title.rstrip(".")
    assert page.title[0].islower()
    assert page.meaning.endswith(".")
    assert page.remedy.endswith(".")
    assert len(page.meaning) > 30 or page.code.isdigit()


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.code)
def test_commands_and_options_on_a_page_exist(page: Page) -> None:
    commands = {name: entry.load() for name, entry in COMMANDS.items() if entry.exists}
    options = {spelling for command in commands.values() for spelling in spellings(command)} | {
        "-p",
        "--help",
        "-o",
        "-v",
        "-vv",
    }

    for name in re.findall(r"`skyward ([a-z]+)", page.text):
        assert name in COMMANDS
    for option in re.findall(r"`(?:skyward [^`]*?)?(--[a-z-]+)", page.text):
        assert option in options, option


def spellings(command: click.Command) -> Iterator[str]:
    for param in command.params:
        yield from (*param.opts, *param.secondary_opts)
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        yield from spellings(child)


@pytest.mark.parametrize("code", ["SKW210", "skw210", "210", " 210 "])
def test_a_code_may_be_spelled_in_several_ways(invoke: Invoke, code: str) -> None:
    answered = invoke("explain", code)

    assert answered.out.startswith("# SKW210: no offer fits\n\n")
    assert answered.code == 0


def test_exit_codes_have_pages_too(invoke: Invoke) -> None:
    assert invoke("explain", "7").out.startswith("# Exit code 7: clean-up is incomplete")


def test_without_a_code_all_are_listed(invoke: Invoke) -> None:
    lines = invoke("explain").out.splitlines()

    assert [line.split()[0] for line in lines[1:]] == list(PAGES)


def test_pages_as_json(invoke: Invoke) -> None:
    (page,) = json.loads(invoke("explain", "SKW140", "--json").out)["items"]

    assert page["code"] == "SKW140"
    assert set(page) == {"code", "title", "meaning", "remedy"}


def test_an_unknown_code_names_the_nearest(invoke: Invoke) -> None:
    answered = invoke("explain", "SKW211")

    assert answered.code == 2
    assert "did you mean SKW" in answered.err
