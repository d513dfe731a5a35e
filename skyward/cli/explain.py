"""`skyward explain`: the page of an error code or an exit code, offline."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from skyward.cli.console import answer, is_terminal, make_table, show_table, write, write_json
from skyward.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from skyward.explanations import Page


PROSE_WIDTH = 88
"""Columns of text to be read, on terminals that are wider."""


def _complete_code(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from skyward.explanations import PAGES

    pages = [page for code, page in PAGES.items() if code.startswith(incomplete.upper())]
    return [CompletionItem(page.code, help=page.title) for page in pages]


@click.command()
@click.argument("code", required=False, shell_complete=_complete_code)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def explain(code: str | None, as_json: bool) -> None:
    """Explain an error code (SKW210, or 210) or an exit code (4). Without one, list them all."""
    from skyward.explanations import PAGES

    pages = list(PAGES.values()) if code is None else [find_page(code)]
    if as_json:
        write_json("skyward.explanations/1", items=pages)
    elif code is None:
        _show_list(pages)
    else:
        _show_page(pages[0])


def find_page(code: str) -> Page:
    """The page of a code in any spelling.

    Raises:
        UsageError: there is no such code; names the nearest.
    """
    from skyward.explanations import PAGES

    spelled = code.strip().upper()
    for candidate in (spelled, f"SKW{spelled}"):
        if candidate in PAGES:
            return PAGES[candidate]
    near = get_close_matches(spelled, PAGES, n=2)
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    raise UsageError(f"no error and no exit code is called {code!r}", hints=[*hints, "skyward explain"])


def _show_list(pages: list[Page]) -> None:
    table = make_table("code", "means")
    for page in pages:
        table.add_row(page.code, page.title)
    show_table(table)


def _show_page(page: Page) -> None:
    if not is_terminal(sys.stdout):
        write(page.text)
        return
    from rich.text import Text

    console = answer()
    console.width = min(console.width, PROSE_WIDTH)
    for paragraph in page.text.rstrip().splitlines():
        text = Text(paragraph.lstrip("# "), style="bold" if paragraph.startswith("#") else "")
        text.highlight_regex(r"`[^`]+`", "cyan")
        console.print(text)
