"""DuckDB, opened so that it touches nothing but the files it is given. Imports it inside functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skyward.catalog.layers import Layer
from skyward.catalog.result import Result, aware_rows
from skyward.catalog.schema import OFFERS, Columns

if TYPE_CHECKING:
    import duckdb

SMALL_BYTES = 8 << 20
"""Below this the files are read by one thread: starting more costs more than they save."""

CONFIG = {
    "temp_directory": "",  # or a `.tmp` appears in the user's working directory
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # or a name in SQL finds a Python variable
    # Both are made for answers of millions of rows; ours have few, and planning them takes longer than answering.
    "disabled_optimizers": "late_materialization,compressed_materialization",
}


def connect(paths: Iterable[Path] = ()) -> duckdb.DuckDBPyConnection:
    """An empty database in memory, with threads according to how much there is to read."""
    import duckdb

    small = sum(path.stat().st_size for path in paths) < SMALL_BYTES
    return duckdb.connect(":memory:", config={**CONFIG, **({"threads": "1"} if small else {})})


def fetch(cursor: duckdb.DuckDBPyConnection) -> Result:
    """What the cursor's statement answers."""
    described = cursor.description or ()
    moments = {n for n, column in enumerate(described) if str(column[1]) in ("TIMESTAMP", "DATETIME")}
    return Result(tuple(column[0] for column in described), aware_rows(cursor.fetchall(), moments))


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def parquet(*paths: Path) -> str:
    """The relation that reads Parquet files as they are: no pattern in a name, no columns from directories."""
    names = ", ".join(literal(_unglobbed(str(path))) for path in paths)
    return f"read_parquet([{names}], hive_partitioning = FALSE)"


def _unglobbed(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)


def offers_sql(layers: Sequence[Layer]) -> str:
    """The rows of all layers, each with its layer's name; a provider's rows come from its first layer only."""
    columns = ", ".join(name for name, _ in OFFERS)
    spoken_for = [layer.provider for layer in layers if layer.provider]
    others = f"\nWHERE provider NOT IN ({', '.join(map(literal, spoken_for))})" if spoken_for else ""
    parts = [
        f"SELECT {columns}, {literal(layer.name)} AS layer\nFROM {relation(layer)}{'' if layer.provider else others}"
        for layer in layers
    ]
    return "\nUNION ALL\n".join(parts)


def relation(layer: Layer) -> str:
    """What to read a layer's rows from: a file, or the table its user's file was taken into."""
    return f"user_{layer.provider}" if layer.name == "user" else parquet(layer.path)


def empty_sql(columns: Columns) -> str:
    """A statement with these columns and no row."""
    return f"SELECT {', '.join(f'NULL::{kind} AS {name}' for name, kind in columns)} WHERE FALSE"
