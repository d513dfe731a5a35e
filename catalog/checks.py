"""Reading the sources strictly: a cell that is not what its column holds is a problem with file and line."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

Reader = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """One source: its rows, and what is wrong with it."""

    name: str
    rows: list[dict[str, Any]]
    problems: list[str]


def text(cell: str) -> str:
    """Some words.

    Raises:
        ValueError: the cell is empty or has control characters.
    """
    if not cell.strip() or not cell.isprintable():
        raise ValueError("must be text")
    return cell


def number(cell: str) -> float:
    """A finite number above zero.

    Raises:
        ValueError: it is none.
    """
    value = float(cell)
    if not (math.isfinite(value) and value > 0):
        raise ValueError("must be above zero")
    return value


def count(cell: str) -> float:
    """A finite number, zero or above.

    Raises:
        ValueError: it is none.
    """
    value = float(cell)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError("must be zero or above")
    return value


def day(cell: str) -> datetime:
    """A day, or the first of a month: `2026-07-20`, `2026-11`.

    Raises:
        ValueError: it is neither.
    """
    if not re.fullmatch(r"\d{4}-\d{2}(-\d{2})?", cell):
        raise ValueError("must be a day like 2026-07-20 or a month like 2026-07")
    return datetime.strptime(cell if len(cell) == 10 else f"{cell}-01", "%Y-%m-%d")


def words(cell: str) -> tuple[str, ...]:
    """Names parted by spaces; at least one."""
    return tuple(text(cell).split())


def optional(reader: Reader) -> Reader:
    """The same, or None for an empty cell."""
    return lambda cell: reader(cell) if cell.strip() else None


def one_of(*values: str) -> Reader:
    """One of these words."""

    def read(cell: str) -> str:
        if cell not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return cell

    return read


def read_table(path: Path, columns: Mapping[str, Reader], key: Sequence[str]) -> Table:
    """The rows of a CSV with exactly these columns, each cell read by its column's reader.

    Rows with a problem are left out. No two rows may have the same key.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if list(reader.fieldnames or ()) != list(columns):
            return Table(path.name, [], [f"{path.name}:1: columns must be {','.join(columns)}"])
        found = Table(path.name, [], [])
        seen: set[tuple[Any, ...]] = set()
        for raw in reader:
            _take(found, f"{path.name}:{reader.line_num}", raw, columns, key, seen)
    return found


def _take(
    table: Table,
    place: str,
    raw: Mapping[str, str],
    columns: Mapping[str, Reader],
    key: Sequence[str],
    seen: set[tuple[Any, ...]],
) -> None:
    row, wrong = {}, []
    for name, read in columns.items():
        try:
            row[name] = read(raw[name] or "")
        except ValueError as error:
            wrong.append(f"{place}: {name} is {raw[name]!r}: {error}")
    if None in raw:
        wrong.append(f"{place}: more cells than columns")
    identity = tuple(row.get(name) for name in key)
    if not wrong and identity in seen:
        wrong.append(f"{place}: a row for {' '.join(map(str, identity))} is there already")
    seen.add(identity)
    table.problems.extend(wrong)
    if not wrong:
        table.rows.append(row)
