"""The remembered scan of installed entry points."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from skyward.entry_points import EntryPoint, commands, installed


@pytest.fixture
def site(tmp_path: Path) -> Path:
    directory = tmp_path / "site"
    directory.mkdir()
    return directory


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def install(site: Path, name: str, version: str = "1.0", text: str = "[skyward]\nacme = acme\n") -> Path:
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir()
    (directory / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (directory / "entry_points.txt").write_text(text)
    return directory


def names(points: tuple[EntryPoint, ...]) -> list[str]:
    return [point.name for point in points]


def test_entry_points_of_both_groups_are_found_and_others_are_not(site: Path, cache: Path) -> None:
    install(
        site,
        "acme-clouds",
        text="[skyward]\nacme = acme\n[skyward.commands]\nhello = acme:cli\n[console_scripts]\nx = y:z\n",
    )

    first, second = installed(cache, [str(site)])

    assert first == EntryPoint(
        group="skyward", name="acme", value="acme", distribution="acme-clouds", version="1.0"
    )
    assert (second.group, second.value) == ("skyward.commands", "acme:cli")


def test_a_second_look_reads_the_cache(site: Path, cache: Path) -> None:
    install(site, "acme-clouds")
    installed(cache, [str(site)])
    file = cache / "entry-points.json"
    file.write_text(file.read_text().replace('"name": "acme"', '"name": "from-the-cache"'))

    assert names(installed(cache, [str(site)])) == ["from-the-cache"]


def test_installing_and_removing_are_noticed(site: Path, cache: Path) -> None:
    assert installed(cache, [str(site)]) == ()

    directory = install(site, "acme-clouds")
    assert names(installed(cache, [str(site)])) == ["acme"]

    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()
    assert installed(cache, [str(site)]) == ()


def test_an_upgrade_in_place_is_noticed(site: Path, cache: Path) -> None:
    directory = install(site, "acme-clouds")
    installed(cache, [str(site)])

    fresh = directory / "entry_points.txt.new"
    fresh.write_text("[skyward]\nrenamed = acme\n")
    os.replace(fresh, directory / "entry_points.txt")

    assert names(installed(cache, [str(site)])) == ["renamed"]


def test_other_files_coming_and_going_do_not_cost_a_scan(site: Path, cache: Path) -> None:
    install(site, "acme-clouds")
    installed(cache, [str(site)])
    stamp = (cache / "entry-points.json").stat().st_mtime_ns

    (site / "data.csv").write_text("")
    installed(cache, [str(site)])

    assert (cache / "entry-points.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"scans": {"x": [{"name": 1}]}}',
        b'{"scans": []}',
        b"[" * 100_000,
        b'{"scans": {"x": [{"group": 1, "name": [], "value": {}, "distribution": null, "version": 2}]}}',
    ],
)
def test_a_damaged_cache_is_ignored_and_replaced(site: Path, cache: Path, damage: bytes) -> None:
    install(site, "acme-clouds")
    cache.mkdir()
    (cache / "entry-points.json").write_bytes(damage)

    assert names(installed(cache, [str(site)])) == ["acme"]
    json.loads((cache / "entry-points.json").read_bytes())


def test_a_cache_that_cannot_be_written_is_done_without(site: Path, tmp_path: Path) -> None:
    install(site, "acme-clouds")
    blocked = tmp_path / "file"
    blocked.write_text("")

    assert names(installed(blocked / "cache", [str(site)])) == ["acme"]


def test_no_temporary_file_is_left_and_the_directory_is_private(site: Path, cache: Path) -> None:
    installed(cache, [str(site)])

    assert [file.name for file in cache.iterdir()] == ["entry-points.json"]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_the_cache_does_not_grow_without_end(tmp_path: Path, cache: Path) -> None:
    for number in range(20):
        (tmp_path / f"site{number}").mkdir()
        installed(cache, [str(tmp_path / f"site{number}")])

    assert len(json.loads((cache / "entry-points.json").read_bytes())["scans"]) == 8


def test_a_distribution_found_twice_counts_once(tmp_path: Path) -> None:
    sites = [tmp_path / "first", tmp_path / "second"]
    for site in sites:
        site.mkdir()
    install(sites[0], "acme-clouds", "2.0")
    install(sites[1], "acme_clouds", "1.0")

    (found,) = installed(None, [str(site) for site in sites])

    assert found.version == "2.0"


def test_a_distribution_with_damaged_metadata_hides_no_other(site: Path) -> None:
    (site / "broken-1.0.dist-info").mkdir()
    (site / "worse-1.0.dist-info").mkdir()
    (site / "worse-1.0.dist-info" / "METADATA").write_bytes(b"\xff\xfe\x00")
    (site / "worse-1.0.dist-info" / "entry_points.txt").write_text("[skyward\nnot ini at all")
    install(site, "acme-clouds")

    assert names(installed(None, [str(site)])) == ["acme"]


def test_commands_are_not_looked_up_without_autoload() -> None:
    assert commands({"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"}) == {}
