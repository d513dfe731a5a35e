"""The user's own SQL: it reads the catalog and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from catalog_rows import bundle, offer

from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.errors import QueryError


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    home = tmp_path_factory.mktemp("sql")
    offers = [offer(instance_type=f"m{number}", usd_per_hour=0.2) for number in range(3)]
    with Catalog(Places.find({"SKYWARD_HOME": str(home)}), bundle(offers, home / "bundle")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT count(*) FROM offers", 1),
        ("from offers select instance_type, layer where usd_per_hour < 1 order by 1;", 3),
        ("WITH x AS (SELECT 1 AS a) SELECT * FROM x, offers LIMIT 2", 2),
        ("DESCRIBE offers", 25),
        ("SUMMARIZE offers", 25),
        ("EXPLAIN SELECT 1", 1),
        ("SELECT name FROM accelerators WHERE name = 'L4'", 1),
        ("SELECT * FROM history", 0),
        ("SELECT * FROM snapshots", 0),
        ("-- a comment\nSELECT 1", 1),
        ("VALUES (1), (2)", 2),
    ],
)
def test_questions_are_answered(catalog: Catalog, text: str, rows: int) -> None:
    assert len(catalog.sql(text)) == rows


WRITES = [
    "CREATE TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1",
    "INSERT INTO offers SELECT * FROM offers",
    "UPDATE offers SET usd_per_hour = 0",
    "DELETE FROM offers",
    "DROP TABLE offers",
    "ALTER TABLE offers RENAME TO x",
    "COPY offers TO 'OUT.csv'",
    "COPY offers FROM 'IN.csv'",
    "EXPORT DATABASE 'OUT'",
    "IMPORT DATABASE 'IN'",
    "ATTACH 'OUT.db'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET enable_external_access = TRUE",
    "RESET lock_configuration",
    "CALL pragma_version()",
    "CHECKPOINT",
    "BEGIN",
    "PREPARE x AS SELECT 1",
    "VACUUM",
]


@pytest.mark.parametrize("text", WRITES)
def test_whatever_does_not_read_is_refused(
    catalog: Catalog, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "IN.csv").write_text("a\n1\n")

    with pytest.raises(QueryError) as refused:
        catalog.sql(text)

    assert refused.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["IN.csv"]
    assert len(catalog.sql("SELECT * FROM offers")) == 3


REACHES = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM read_parquet('{snapshot}')",
    "SELECT * FROM parquet_schema('{snapshot}')",
    "SELECT * FROM glob('{directory}/*')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT * FROM offers WHERE instance_type = (SELECT content FROM read_text('{file}'))",
    "SELECT * FROM query('SELECT * FROM read_text(''{file}'')')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT getenv('HOME')",
    "SELECT * FROM secret",
    "SELECT * FROM table_of_secrets",
]


@pytest.mark.parametrize("text", REACHES)
def test_no_file_no_network_and_no_variable_can_be_reached(
    catalog: Catalog, text: str, tmp_path: Path
) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a\nswordfish\n")
    secret = "swordfish"
    table_of_secrets = pa.table({"a": [secret]})  # DuckDB would find it by name in the caller's frame

    with pytest.raises(QueryError) as refused:
        catalog.sql(text.format(file=file, directory=tmp_path, snapshot=catalog.bundled / "offers.parquet"))

    assert secret not in str(refused.value)
    assert table_of_secrets.num_rows == 1


@pytest.mark.parametrize("text", ["", ";", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE offers"])
def test_exactly_one_statement_is_run(catalog: Catalog, text: str) -> None:
    with pytest.raises(QueryError, match="one SQL statement"):
        catalog.sql(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELEC 1", "SELEC"),
        ("SELECT pirce FROM offers", "pirce"),
        ("SELECT * FROM offerz", "offerz"),
        ("SELECT 1/'x'", "x"),
    ],
)
def test_sql_that_makes_no_sense_is_one_error_with_its_code(catalog: Catalog, text: str, said: str) -> None:
    with pytest.raises(QueryError, match=said) as refused:
        catalog.sql(text)

    assert "\n" not in str(refused.value)
