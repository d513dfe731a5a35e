"""A copy of the catalog in memory for questions in the user's own SQL; it cannot reach anything else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyward.catalog.result import Result
from skyward.errors import QueryError

if TYPE_CHECKING:
    from skyward.catalog.store import Catalog

RELATIONS = ("offers", "instance_types", "accelerators", "snapshots", "history")

LOCKS = (
    "SET memory_limit = '4GB'",
    "SET enable_external_access = FALSE",
    "SET allow_community_extensions = FALSE",
    "SET lock_configuration = TRUE",
)
"""No file, no network, no extension; and no way back."""

READING = ("SELECT", "EXPLAIN")
"""Kinds of statement that may run; DESCRIBE, SUMMARIZE, SHOW, FROM and VALUES are SELECT to DuckDB."""


def run_sql(catalog: Catalog, text: str) -> Result:
    """The answer to one reading statement.

    Raises:
        QueryError: it is none, more than one, writes, or cannot be run.
    """
    import duckdb

    from skyward.catalog.store import Catalog

    try:
        statement = _only_statement(catalog, text)
        with Catalog(catalog.places, catalog.bundled) as copy:
            for name in RELATIONS:
                if name in text.lower():
                    _copy(copy, name)
            for lock in LOCKS:
                copy.ask(lock)
            return copy.ask(statement)
    except duckdb.CatalogException as error:
        raise QueryError(
            f"the catalog cannot answer this SQL: {_words(error).partition(' Did you mean')[0]}",
            facts=[f"tables: {', '.join(RELATIONS)}"],
            hints=['skyward catalog sql "DESCRIBE offers"'],
            sql=text,
        ) from error
    except duckdb.Error as error:
        raise QueryError(f"the catalog cannot answer this SQL: {_words(error)}", sql=text) from error


def _copy(catalog: Catalog, name: str) -> None:
    """Puts a table in memory in place of a view over files."""
    if name == "history":
        from skyward.catalog.history import provide_history

        provide_history(catalog)
    elif name != "offers":
        catalog.table(name)
    catalog.ask(f"CREATE TABLE memory.main.{name} AS FROM temp.{name}")
    catalog.ask(f"DROP VIEW temp.{name}")


def _only_statement(catalog: Catalog, text: str) -> str:
    statements = catalog.statements(text)
    if len(statements) != 1:
        raise QueryError(f"give one SQL statement, not {len(statements)}", sql=text)
    if statements[0] not in READING:
        raise QueryError(
            f"the catalog is read-only: {statements[0]} is refused",
            hints=['skyward catalog sql "SELECT ..."'],
            sql=text,
        )
    return text


def _words(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())[:300]
