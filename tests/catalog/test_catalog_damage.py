"""Files that were cut, changed, forged or written by someone else: refused by name, and never a wrong price."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_rows import DAY, bundle, offer, rows_of

from skyward.catalog import layers as files
from skyward.catalog.ingest import ingest
from skyward.catalog.manifest import FileEntry, Manifest, read_manifest, sha256_of
from skyward.catalog.query import OfferQuery
from skyward.catalog.refresh import publish
from skyward.catalog.schema import OFFERS, table_of, write_table
from skyward.catalog.store import Catalog
from skyward.config import Places
from skyward.errors import DamagedCatalogError
from skyward.model.accelerator import default_registry

FIRST = datetime(2026, 11, 10, tzinfo=UTC)
SECOND = datetime(2026, 11, 11, tzinfo=UTC)
BUNDLED, OLDER, NEWER = 0.20, 0.21, 0.22
"""What the one machine costs in each layer, so that the price tells the layer."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a bundled snapshot and two refreshes of one provider."""
    places = Places.find({"SKYWARD_HOME": str(tmp_path / "home")})
    with Catalog(places, bundle([offer(usd_per_hour=BUNDLED)], tmp_path / "bundle")) as catalog:
        for price, at in ((OLDER, FIRST), (NEWER, SECOND)):
            said = [offer(usd_per_hour=price, observed_at=at)]
            publish(catalog, "acme", ingest(said, "acme", default_registry(), at), at)
    return tmp_path


def opened(home: Path) -> Catalog:
    return Catalog(Places.find({"SKYWARD_HOME": str(home / "home")}), home / "bundle")


def live(home: Path) -> Path:
    return files.live_directory(Places.find({"SKYWARD_HOME": str(home / "home")})) / "acme"


def current_file(home: Path) -> Path:
    manifest = read_manifest(live(home) / files.CURRENT)
    return live(home) / manifest.files["offers"].name


def answer(home: Path) -> tuple[float, datetime, tuple[str, ...]]:
    """The price of the one machine, its date, and what was warned of."""
    with opened(home) as catalog:
        (row,) = catalog.rows(OfferQuery()).dicts()
        return row["usd_per_hour"], row["observed_at"], catalog.warnings


def test_two_refreshes_are_kept_and_the_newer_one_speaks(home: Path) -> None:
    assert answer(home) == (NEWER, SECOND, ())


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "foreign": lambda path: path.write_bytes(b"PAR1" + b"hello" * 50 + b"PAR1"),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: (
        path.rename(path.with_suffix(".moved")),
        path.symlink_to(path.with_suffix(".moved")),
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_refresh_is_refused_by_name_and_the_one_before_speaks_with_its_own_date(
    home: Path, how: str
) -> None:
    path = current_file(home)
    DAMAGE[how](path)

    price, date, warnings = answer(home)

    assert (price, date) == (OLDER, FIRST)
    assert len(warnings) == 1
    assert str(path) in warnings[0]
    assert "2026.11.10" in warnings[0]


@pytest.mark.parametrize("how", ["cut", "empty", "foreign", "a directory"])
def test_a_damaged_manifest_is_refused_by_name(home: Path, how: str) -> None:
    path = live(home) / files.CURRENT
    DAMAGE[how](path)

    price, _, warnings = answer(home)

    assert price == OLDER
    assert str(path) in warnings[0]


def test_a_manifest_that_was_edited_is_refused(home: Path) -> None:
    """Or an old refresh could be made to look new."""
    path = live(home) / files.CURRENT
    path.write_text(path.read_text().replace("2026.11.11", "2026.11.21"))

    price, _, warnings = answer(home)

    assert price == OLDER
    assert "was changed after it was written" in warnings[0]


def test_with_every_refresh_damaged_the_bundled_prices_speak_with_their_own_date(home: Path) -> None:
    for path in live(home).glob("*.parquet"):
        path.write_bytes(b"gone")

    price, date, warnings = answer(home)

    assert (price, date) == (BUNDLED, DAY)
    assert len(warnings) == 2


def test_no_flipped_bit_ever_makes_a_price_that_was_not_written(home: Path) -> None:
    """Every file of every layer, at many places: the answer is one of the three true ones."""
    chance = random.Random(7)
    targets = [*live(home).glob("*.json"), *live(home).glob("*.parquet"), *(home / "bundle").glob("*")]
    dates = {BUNDLED: DAY, OLDER: FIRST, NEWER: SECOND}
    for path in sorted(targets):
        good = path.read_bytes()
        for offset in sorted(chance.sample(range(len(good)), min(16, len(good)))):
            path.write_bytes(
                good[:offset] + bytes([good[offset] ^ 1 << chance.randrange(8)]) + good[offset + 1 :]
            )
            price, date, warnings = answer(home)
            assert dates[price] == date, f"{path.name} at {offset}"
            assert price == NEWER or any(str(path) in warning for warning in warnings), (
                f"{path.name} at {offset}"
            )
        path.write_bytes(good)
    assert answer(home)[0] == NEWER


def test_without_any_good_file_the_error_names_it_and_says_how_to_go_on(tmp_path: Path) -> None:
    directory = bundle([offer()], tmp_path / "bundle")
    (directory / "offers.parquet").write_bytes(b"")

    with pytest.raises(DamagedCatalogError) as refused:
        Catalog(Places.find({"SKYWARD_HOME": str(tmp_path / "home")}), directory)

    assert "offers.parquet" in str(refused.value)
    assert refused.value.code == "SKW222"
    assert refused.value.hints


def test_with_a_damaged_snapshot_a_refreshed_provider_still_answers(home: Path) -> None:
    (home / "bundle" / "offers.parquet").write_bytes(b"")

    price, _, warnings = answer(home)

    assert price == NEWER
    assert "offers.parquet" in warnings[0]


# -- files that are whole, but not what they should be ----------------------------------------------------------


def forge(home: Path, table: pa.Table, **changes: Any) -> Path:
    """Puts a table in place as a refresh would, digests and all."""
    staged = live(home) / "forged.parquet"
    write_table(table, staged)
    digest = sha256_of(staged)
    entry = FileEntry(
        name=f"offers-{digest[:16]}.parquet", sha256=digest, bytes=staged.stat().st_size, rows=table.num_rows
    )
    staged.rename(live(home) / entry.name)
    manifest = Manifest(version="2026.11.12", provider="acme", files={"offers": entry})
    (live(home) / files.CURRENT).write_text(replace(manifest, **changes).dump())
    return live(home) / entry.name


def poisoned(**changes: Any) -> pa.Table:
    (row,) = rows_of([offer(usd_per_hour=0.23)])
    return table_of([{**row, **changes}], OFFERS)


H100 = {
    "accelerator": "H100-SXM",
    "accelerator_count": 8.0,
    "accelerator_memory_gib": 80.0,
    "accelerator_raw": "H100",
}

POISON: dict[str, dict[str, Any]] = {
    "free": {"usd_per_hour": 0.0},
    "negative": {"usd_per_hour": -1.0},
    "no number": {"usd_per_hour": float("nan")},
    "endless": {"usd_per_hour": float("inf")},
    "absurdly dear": {"usd_per_hour": 1e9},
    "absurdly cheap for its size": {"usd_per_hour": 0.0001},
    "absurdly cheap for its accelerators": {**H100, "usd_per_hour": 0.8, "usd_per_gpu_hour": 0.1},
    "price per accelerator that disagrees": {**H100, "usd_per_hour": 16.0, "usd_per_gpu_hour": 0.5},
    "wrong memory of the card": {
        **H100,
        "usd_per_hour": 16.0,
        "usd_per_gpu_hour": 2.0,
        "accelerator_memory_gib": 640.0,
    },
    "count without accelerator": {"accelerator_count": 8.0},
    "free floor": {"price_floor": 0.0},
    "no memory": {"memory_gib": 0.0},
    "vcpus without number": {"vcpus": float("nan")},
    "path in the provider": {"provider": "../../etc"},
    "other provider": {"provider": "other"},
    "path in the region": {"region": "../../etc"},
    "path in the machine": {"instance_type": "/etc/passwd"},
    "escape sequence": {"instance_type": "m1\x1b[2J"},
    "nothing for a name": {"instance_type": None},
    "way of paying": {"pricing": "free"},
    "quality": {"quality": "true"},
    "availability": {"availability": "yes"},
    "architecture": {"architecture": "z80"},
    "from the future": {"observed_at": datetime(2126, 1, 1)},
    "without a date": {"observed_at": None},
    "reliability": {"reliability": 95.0},
    "code for details": {"details": "__import__('os')"},
}


@pytest.mark.parametrize("what", POISON)
def test_a_poisoned_file_is_refused_by_name_whatever_its_digests_say(home: Path, what: str) -> None:
    path = forge(home, poisoned(**POISON[what]))

    price, date, warnings = answer(home)

    assert (price, date) == (OLDER, FIRST)
    assert str(path) in warnings[0]
    assert "not believed" in warnings[0]


def test_the_forgery_itself_is_sound(home: Path) -> None:
    """Or the tests above would prove nothing."""
    forge(home, poisoned())

    assert answer(home) == (0.23, DAY, ())


def test_a_row_that_is_there_twice_is_refused(home: Path) -> None:
    forge(home, pa.concat_tables([poisoned(), poisoned(usd_per_hour=0.01)]))

    assert answer(home)[0] == OLDER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda table: table.append_column("command", pa.array(["rm -rf /"])),
            "column 'command' is not ours",
        ),
        (lambda table: table.drop_columns(["usd_per_hour"]), "column 'usd_per_hour' is missing"),
        (
            lambda table: table.set_column(
                table.schema.get_field_index("usd_per_hour"), "usd_per_hour", pa.array(["0.1"])
            ),
            "column 'usd_per_hour' holds VARCHAR, not DOUBLE",
        ),
    ],
)
def test_wrong_columns_are_refused_by_name(
    home: Path, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    path = forge(home, change(poisoned()))

    price, _, warnings = answer(home)

    assert price == OLDER
    assert str(path) in warnings[0]
    assert said in warnings[0]


def test_a_file_of_a_newer_skyward_is_refused_and_left_alone(home: Path) -> None:
    path = forge(home, poisoned(), schema_version=99)

    price, _, warnings = answer(home)

    assert price == OLDER
    assert "newer Skyward" in warnings[0]
    assert path.exists()


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "offers.parquet/../x.parquet", "offers*.parquet", ""]
)
def test_a_manifest_that_names_a_file_elsewhere_is_refused(home: Path, name: str) -> None:
    entry = FileEntry(name=name, sha256="0" * 64, bytes=1, rows=1)
    manifest = Manifest(version="2026.11.12", provider="acme", files={"offers": entry})
    (live(home) / files.CURRENT).write_text(manifest.dump())

    price, _, warnings = answer(home)

    assert price == OLDER
    assert "no plain name" in warnings[0]


def test_a_refresh_in_another_providers_directory_is_refused(home: Path) -> None:
    shutil.copytree(live(home), live(home).with_name("other"))

    with opened(home) as catalog:
        assert catalog.rows(OfferQuery()).column("provider") == ["acme"]
        assert any("is of provider 'acme', not 'other'" in warning for warning in catalog.warnings)


def test_directories_that_are_no_providers_are_not_looked_into(home: Path) -> None:
    for name in ("..hidden", "UPPER", "a b", "x" * 60):
        shutil.copytree(live(home), live(home).with_name(name))

    assert answer(home) == (NEWER, SECOND, ())


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", '{"format": "other"}', "[" * 100_000, json.dumps({"format": "skyward.catalog/1"})],
)
def test_json_that_is_no_manifest_is_refused(home: Path, text: str) -> None:
    (live(home) / files.CURRENT).write_text(text)

    assert answer(home)[0] == OLDER


def test_a_refresh_over_a_damaged_one_keeps_the_good_one_as_the_fallback(home: Path) -> None:
    current_file(home).write_bytes(b"damaged")
    at = SECOND + timedelta(days=1)
    with opened(home) as catalog:
        publish(
            catalog,
            "acme",
            ingest([offer(usd_per_hour=0.24, observed_at=at)], "acme", default_registry(), at),
            at,
        )

    current_file(home).write_bytes(b"damaged again")

    assert answer(home)[:2] == (OLDER, FIRST)


def test_a_parquet_of_a_million_years_is_not_needed_to_say_no(home: Path) -> None:
    """A file that is no table of ours at all, with true digests."""
    pq.write_table(pa.table({"x": [1]}), live(home) / "x.parquet")
    path = live(home) / "x.parquet"
    entry = FileEntry(name="x.parquet", sha256=sha256_of(path), bytes=path.stat().st_size, rows=1)
    (live(home) / files.CURRENT).write_text(
        Manifest(version="2026.11.12", provider="acme", files={"offers": entry}).dump()
    )

    assert answer(home)[0] == OLDER
