"""Where the words go, and in which colours: one rule for every command. Imports rich inside functions only.

Standard output is the answer, standard error the conversation. Colour: `--color`, then NO_COLOR, then
FORCE_COLOR, then TERM=dumb, then whether it is a terminal. Without colour not one escape byte is written, and
what is piped is neither cut nor folded.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

ColorChoice = Literal["auto", "always", "never"]
COLOR_CHOICES: tuple[ColorChoice, ...] = ("auto", "always", "never")
UNBOUNDED = 100_000
"""Columns of what is no terminal: more than any row needs."""

color: ColorChoice = "auto"
"""What `--color` said; set once, by the command line."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def has_color(
    stream: IO[str] | None, choice: ColorChoice | None = None, environ: Mapping[str, str] = os.environ
) -> bool:
    """Whether escape sequences may be written to `stream`."""
    choice = choice or color
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return environ["FORCE_COLOR"] != "0"
    return environ.get("TERM") not in ("dumb", "unknown") and is_terminal(stream)


def is_terminal(stream: IO[str] | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def answer() -> Console:
    """A console on standard output."""
    return make_console(sys.stdout)


def conversation() -> Console:
    """A console on standard error."""
    return make_console(sys.stderr)


def make_console(stream: IO[str] | None, **options: Any) -> Console:
    """A console that obeys the colour rules, marks up nothing by itself and folds only on terminals."""
    from rich.console import Console

    colored = has_color(stream)
    width = None if is_terminal(stream) else UNBOUNDED
    settings: dict[str, Any] = {
        "file": stream,
        "force_terminal": colored,
        "color_system": ("auto" if is_terminal(stream) else "standard") if colored else None,
        "no_color": not colored,
        "width": width,
        "markup": False,
        "emoji": False,
        "highlight": False,
    }
    return Console(**{**settings, **options})


def make_table(*columns: str, right: Sequence[str] = (), wrap: Sequence[str] = ()) -> Table:
    """An empty table in the house style: capitals on top, no lines, numbers (`right`) to the right.

    On a terminal too narrow for it, the columns of `wrap` and the last one fold.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for column in columns:
        folds = column in (*wrap, columns[-1])
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(
            column.upper(), justify=justify, no_wrap=not folds, overflow="fold" if folds else "ellipsis"
        )
    return table


def show_table(table: Table) -> None:
    """Prints a table on standard output, without the blanks that would fill up its last column."""
    console = answer()
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    write("".join(f"{line}\n" for line in lines))


def write(text: str) -> None:
    """Text on standard output, as it is."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def say(line: str) -> None:
    """A line on standard error, after what standard output has got so far: both may lead to one place."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        pass  # told of when the command ends
    try:
        print(line, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody listens


def write_json(schema: str, **document: Any) -> None:
    """One JSON document on standard output: `{"schema": ..., ...}`. Times are written as UTC ISO 8601."""
    import json

    write(json.dumps({"schema": schema, **document}, indent=2, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    from dataclasses import fields, is_dataclass
    from datetime import UTC, date, datetime

    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value, key=repr)
    return str(value)


def short_path(path: str) -> str:
    """A path as people write it: relative below the current directory, with `~` below the home directory."""
    here, home = f"{os.getcwd()}/", f"{os.path.expanduser('~')}/"
    if path.startswith(here) and here != "/":
        return path.removeprefix(here)
    return f"~/{path.removeprefix(home)}" if path.startswith(home) and home != "//" else path


def one_line(text: str, limit: int = 2000) -> str:
    """`text` on one line: control characters spelled out, the middle left out beyond `limit` characters."""
    if len(text) > limit:
        text = f"{text[: limit * 3 // 4]} … {len(text) - limit} characters left out … {text[-limit // 4 :]}"
    text = text.replace("\r\n", "\n").rstrip("\n").replace("\n", " ").replace("\t", " ")
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
