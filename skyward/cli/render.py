"""Rows as a table, JSON, JSON lines, CSV, Markdown or Parquet. Knows nothing of prices but how to write them.

A table on a terminal is as wide as the terminal: the least important columns leave first. Whatever is piped is
neither cut nor folded. Imports only the standard library, and pyarrow to write Parquet.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.errors import UsageError
from skyward.model.money import format_usd
from skyward.model.sizes import format_count, format_memory

if TYPE_CHECKING:
    from skyward.catalog.result import Result

FORMATS = ("table", "json", "jsonl", "csv", "md", "parquet")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table for people."""

    title: str
    text: Callable[[Row], str]
    right: bool = False
    weight: int = 5
    """On a narrow terminal the column with the least weight leaves first; 9 stays whatever happens."""
    least: int | None = None
    """It is cut to so many characters before any other column leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a query command prints: rows, how people see them, and what a document says around them."""

    schema: str
    result: Result
    columns: Sequence[Column]
    around: Mapping[str, Any]
    """Top-level keys of the JSON document besides `schema` and `items`."""


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--format` and `--json`; the command gets `format`."""
    command = click.option("--json", "format", flag_value="json", help="The same as --format json.")(command)
    return click.option(
        "format",
        "--format",
        default="table",
        metavar="|".join(FORMATS),
        callback=lambda ctx, param, value: _known_format(value),
        help="How to write the answer.",
    )(command)


def _known_format(name: str) -> str:
    if name in FORMATS:
        return name
    from difflib import get_close_matches

    near = get_close_matches(name, FORMATS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"unknown format {name!r}{hint} (known: {', '.join(FORMATS)})")


def show(answer: Answer, form: str) -> None:
    """Prints an answer on standard output."""
    if form == "table":
        show_table(answer.columns, answer.result.dicts())
    elif form == "md":
        console.write(markdown(answer.columns, answer.result.dicts()))
    elif form == "json":
        show_json(answer.schema, {**answer.around, "items": plain_rows(answer.result)})
    elif form == "jsonl":
        console.write("".join(f"{dump(row)}\n" for row in plain_rows(answer.result)))
    elif form == "csv":
        _write_csv(answer.result)
    else:
        _write_parquet(answer.result)


# -- for programs ------------------------------------------------------------------------------------------------


def show_json(schema: str, document: Mapping[str, Any]) -> None:
    """One document on standard output; rows of `items` and of other lists each on a line of their own."""
    parts = [f'  "schema": {dump(schema)}']
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(f"    {dump(row)}" for row in value)
            parts.append(f"  {dump(key)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {dump(key)}: {dump(value)}")
    console.write("{\n" + ",\n".join(parts) + "\n}\n")


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain)


def plain_rows(result: Result) -> list[dict[str, Any]]:
    """Rows as JSON can say them: times as UTC text, details as an object."""
    return [{name: plain_cell(name, value) for name, value in row.items()} for row in result.dicts()]


def plain_cell(name: str, value: Any) -> Any:
    if name == "details" and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return plain(value) if isinstance(value, (datetime, date)) else value


def plain(value: Any) -> Any:
    """A moment as "2026-11-20T08:00:00Z", a day as "2026-11-20", anything else as its text."""
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else str(value)


def _write_csv(result: Result) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(result.columns)
    writer.writerows([_csv_cell(value) for value in row] for row in result.rows)
    console.write(text.getvalue())


def _csv_cell(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return plain(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    return ";".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _write_parquet(result: Result) -> None:
    if console.is_terminal(sys.stdout):
        raise UsageError(
            "parquet is no text: send it to a file", hints=["... --format parquet > offers.parquet"]
        )
    import io

    import pyarrow.parquet as parquet

    content = io.BytesIO()
    parquet.write_table(result.to_arrow(), content, compression="zstd")
    sys.stdout.flush()
    sys.stdout.buffer.write(content.getvalue())


# -- for people --------------------------------------------------------------------------------------------------


def show_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """A table on standard output; says on standard error which columns a narrow terminal hides."""
    width = shutil.get_terminal_size().columns if console.is_terminal(sys.stdout) else None
    lines, hidden = table_lines(columns, rows, width)
    if console.has_color(sys.stdout):
        lines[0] = click.style(lines[0], bold=True)
    console.write("".join(f"{line}\n" for line in lines))
    if hidden:
        console.say(f"not shown on {width} columns: {', '.join(hidden)}")


def table_lines(
    columns: Sequence[Column], rows: Sequence[Row], width: int | None = None
) -> tuple[list[str], list[str]]:
    """The lines of a table, header first, and the titles of the columns that did not fit into `width`."""
    cells = [[column.title, *(console.one_line(column.text(row)) for row in rows)] for column in columns]
    told = [n for n, column in enumerate(columns) if column.weight == 9 or _says_something(cells[n])]
    shown = _fitting(columns, cells, told, width)
    widths = {number: max(map(len, cells[number])) for number in shown}
    if width is not None:
        _squeeze(widths, columns, width)
    lines = [
        "  ".join(_aligned(cells[n][line], widths[n], columns[n].right) for n in shown).rstrip()
        for line in range(len(rows) + 1)
    ]
    return lines, [columns[number].title for number in told if number not in shown]


def _fitting(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], told: Sequence[int], width: int | None
) -> list[int]:
    """Places of the columns to show, out of those that say something."""
    shown = list(told)
    while width is not None and _total(columns, cells, shown) > width:
        lightest = min(shown, key=lambda n: (columns[n].weight, -n))
        if columns[lightest].weight == 9:
            break
        shown.remove(lightest)
    return shown


def _says_something(cells: Sequence[str]) -> bool:
    return len(cells) == 1 or any(cell not in ("", "-") for cell in cells[1:])


def _total(columns: Sequence[Column], cells: Sequence[Sequence[str]], shown: Sequence[int]) -> int:
    """Width of a table whose columns are cut as far as they may be."""
    total = 2 * (len(shown) - 1)
    for n in shown:
        width, least = max(map(len, cells[n])), columns[n].least
        total += width if least is None else min(width, least)
    return total


def _squeeze(widths: dict[int, int], columns: Sequence[Column], width: int) -> None:
    """Cuts columns of words, the widest first: those that may be cut, then, if nothing else helps, all of them."""
    may_be_cut = {n: column.least for n, column in enumerate(columns) if column.least is not None}
    words = {n: 8 for n, column in enumerate(columns) if not column.right}
    for least in (may_be_cut, words):
        while sum(widths.values()) + 2 * (len(widths) - 1) > width:
            wide = [n for n in widths if n in least and widths[n] > least[n]]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1


def _aligned(text: str, width: int, right: bool) -> str:
    if len(text) > width:
        text = f"{text[: width - 1]}…"
    return text.rjust(width) if right else text.ljust(width)


def markdown(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """A GitHub table."""
    head = f"| {' | '.join(column.title for column in columns)} |"
    rule = f"|{'|'.join('---:' if column.right else '---' for column in columns)}|"
    body = [f"| {' | '.join(_escaped(column.text(row)) for column in columns)} |" for row in rows]
    return "\n".join([head, rule, *body]) + "\n"


def _escaped(text: str) -> str:
    return console.one_line(text).replace("\\", "\\\\").replace("|", "\\|")


# -- how values are written ----------------------------------------------------------------------------------------


def column_of(name: str, now: datetime | None = None) -> Column:
    """How people read a column of the catalog, by its name."""
    now = now or datetime.now(UTC)
    return Column(
        title=_TITLES.get(name, name.upper()),
        text=lambda row: cell_text(name, row.get(name), now),
        right=_is_number(name),
        weight=9 if name.endswith(("usd_per_hour", "usd_per_gpu_hour")) else 5,
    )


_TITLES = {
    "instance_type": "INSTANCE",
    "usd_per_hour": "PRICE/H",
    "usd_per_gpu_hour": "$/GPU-H",
    "usd_per_vram_gib_hour": "$/VRAM-GB-H",
    "usd_per_hour_total": "TOTAL/H",
    "nodes_needed": "NODES",
    "min_usd_per_hour": "FROM/H",
    "median_usd_per_hour": "MEDIAN/H",
    "min_usd_per_gpu_hour": "FROM $/GPU-H",
    "oldest_observed_at": "SEEN",
    "observed_at": "SEEN",
    "accelerator_count": "GPUS",
    "accelerator_memory_gib": "VRAM",
    "total_vram_gib": "VRAM ALL",
    "vcpus": "VCPU",
    "memory_gib": "RAM",
    "disk_gb": "DISK",
}


def _is_number(name: str) -> bool:
    return "usd" in name or name.endswith(
        (
            "_gib",
            "_gb",
            "_count",
            "vcpus",
            "observed_at",
            "offers",
            "priced",
            "nodes_needed",
            "_floor",
            "reliability",
        )
    )


def cell_text(name: str, value: Any, now: datetime) -> str:
    """One value as people read it; "-" is unknown."""
    if value is None or value == "":
        return "-"
    if "usd" in name or name == "price_floor":
        return format_usd(value) if isinstance(value, (int, float)) else str(value)
    if name.endswith(("_gib", "_gb")) and isinstance(value, (int, float)):
        return format_memory(value)
    if isinstance(value, datetime):
        return age(value, now)
    if isinstance(value, float):
        return format_count(round(value, 4))
    if isinstance(value, (list, tuple)):
        return ", ".join(cell_text("", item, now) for item in value)
    return str(value)


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, in one unit: "2h", "5d"."""
    if moment is None:
        return "-"
    seconds = max(0.0, (now - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def devices(row: Row) -> str:
    """ "8x H100-SXM", "1/8 L4", or "-" for a machine without."""
    name, count = row.get("accelerator"), row.get("accelerator_count") or 0
    if not name:
        return "-"
    if 0 < count < 1 and (1 / count).is_integer():
        return f"1/{int(1 / count)} {name}"
    return f"{format_count(count)}x {name}"


def vram(row: Row) -> str:
    """Memory of all accelerators of a machine together."""
    one, count = row.get("accelerator_memory_gib"), row.get("accelerator_count")
    return format_memory(one * count) if one and count else "-"
