"""`skyward catalog ...`, `skyward accelerators` and `skyward history`."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from price_files import Answered, Invoke, write_market

import skyward

SOURCES = Path(skyward.__file__).parent.parent / "catalog" / "sources"

SKYFILE = '''
"""A cloud whose prices are in a file beside this one, and one without credentials."""
import json
from dataclasses import dataclass
from pathlib import Path

import skyward

PRICES = Path(__file__).with_name("prices.json")


def cloud(label, title):
    @dataclass(frozen=True)
    class Config:
        region: str | None = None

    Config.__name__ = Config.__qualname__ = title

    class Cloud(skyward.Provider):
        name = label
        launch = instances = terminate = connect = lambda self, *_: ()

        def offers(self):
            prices = json.loads(PRICES.read_text())
            if prices is None:
                raise skyward.ProviderError(f"{label}: the API answers 503")
            for machine, usd in prices.items():
                yield skyward.Offer(
                    provider=label, region="north", instance_type=machine, usd_per_hour=usd, vcpus=8.0,
                    memory_gib=64.0, accelerator="H100-SXM", accelerator_count=1.0, accelerator_memory_gib=80.0,
                )

    Cloud.Config = Config
    return Cloud


Zeta, Locked = cloud("zeta", "Zeta"), cloud("locked", "Locked")


@classmethod
def from_env(cls, config=None, environ=None):
    raise skyward.CredentialsError("locked: credentials not found: set LOCKED_KEY")


Locked.from_env = from_env


@skyward.hookimpl
def skyward_providers():
    return [Zeta, Locked]
'''


@pytest.fixture
def ask(invoke: Invoke, empty_home: Path, tmp_path: Path) -> Invoke:
    """Command lines in a project with the cloud zeta, which sells z1 for $2 and z2 for $3."""
    project = tmp_path / "project"
    (project / "pyproject.toml").write_text("[project]\nname = 'p'\nversion = '0'\n")
    (project / "skyfile.py").write_text(SKYFILE)
    set_prices(tmp_path, z1=2.0, z2=3.0)
    return invoke


def set_prices(tmp_path: Path, **prices: float) -> None:
    (tmp_path / "project" / "prices.json").write_text(json.dumps(prices))


def document(answered: Answered) -> dict[str, Any]:
    assert answered.code == 0, answered.err
    found: dict[str, Any] = json.loads(answered.out)
    return found


# -- info, verify, sql ----------------------------------------------------------------------------------------------


def test_info_says_what_prices_there_are_and_how_old(ask: Invoke, empty_home: Path) -> None:
    write_market(empty_home)
    found = document(ask("catalog", "info", "--json"))

    assert found["schema"] == "skyward.catalog/1"
    layers = {row["provider"]: row["layer"] for row in found["items"]}
    assert (layers["acme"], layers["aws"]) == ("user", "bundled")
    assert "PROVIDER" in ask("catalog", "info").out


def test_verify_names_the_file_that_is_refused(ask: Invoke, empty_home: Path) -> None:
    assert ask("catalog", "verify").code == 0

    directory = empty_home / "skyward" / "config" / "catalog"
    directory.mkdir(parents=True)
    (directory / "acme.csv").write_text("nonsense\n1\n")
    answered = ask("catalog", "verify", "--json")

    assert answered.code == 4
    (bad,) = (item for item in json.loads(answered.out)["items"] if not item["ok"])
    assert bad["path"].endswith("acme.csv")
    assert bad["problem"]


def test_sql_answers_what_is_asked(ask: Invoke) -> None:
    found = document(
        ask("catalog", "sql", "SELECT count(*) AS n, min(usd_per_hour) AS least FROM offers", "--json")
    )

    assert found["schema"] == "skyward.sql/1"
    assert found["items"][0]["n"] > 1000
    assert ask("catalog", "sql", "SELECT 1 AS one, NULL AS nothing").out.split() == [
        "one",
        "nothing",
        "1",
        "-",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE offers",
        "COPY offers TO '/tmp/stolen.csv'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "SELEC 1",
        "",
    ],
)
def test_sql_that_writes_or_reaches_out_is_refused(ask: Invoke, text: str) -> None:
    answered = ask("catalog", "sql", text)

    assert answered.code == 2
    assert answered.err.count("error: ") == 1


# -- refresh, history, diff -----------------------------------------------------------------------------------------


def test_a_refresh_makes_prices_live_and_its_changes_history(ask: Invoke, tmp_path: Path) -> None:
    first = document(ask("catalog", "refresh", "--json"))
    outcome = {row["provider"]: (row["status"], row["offers"], row["changed"]) for row in first["items"]}
    assert outcome["zeta"] == ("refreshed", 2, 2)
    assert outcome["locked"][0] == "no credentials"

    set_prices(tmp_path, z1=2.5, z2=3.0)
    time.sleep(1.1)  # prices are remembered to the second
    second = document(ask("catalog", "refresh", "zeta", "--json"))
    assert second["items"][0]["changed"] == 1

    cheapest = document(ask("cheapest", "H100", "--provider", "zeta", "--json"))
    assert (cheapest["items"][0]["usd_per_hour"], cheapest["items"][0]["layer"]) == (2.5, "live")
    history = document(ask("history", "H100", "--provider", "zeta", "--machine", "z1", "--json"))
    assert history["schema"] == "skyward.history/1"
    assert [(row["usd_per_hour"], row["percent"]) for row in history["items"]] == [(2.0, None), (2.5, 25.0)]
    table = ask("history", "z1").out
    assert "+25.0 %" in table


def test_a_refresh_tells_its_progress_on_standard_error(ask: Invoke) -> None:
    answered = ask("catalog", "refresh", "zeta")

    assert answered.code == 0
    assert "zeta: asking for offers" in answered.err
    assert "zeta" in answered.out
    assert "refreshed" in answered.out


def test_a_refresh_that_fails_keeps_the_old_prices_and_ends_with_4(ask: Invoke, tmp_path: Path) -> None:
    ask("catalog", "refresh", "zeta")
    (tmp_path / "project" / "prices.json").write_text("null")

    answered = ask("catalog", "refresh", "zeta", "--json")

    assert answered.code == 4
    assert json.loads(answered.out)["items"][0]["status"] == "failed"
    assert "503" in answered.err
    assert document(ask("cheapest", "--provider", "zeta", "--json"))["items"][0]["usd_per_hour"] == 2.0
    assert ask("catalog", "refresh", "zeta", "--offline-ok").code == 0


def test_a_named_provider_without_credentials_is_an_error(ask: Invoke) -> None:
    answered = ask("catalog", "refresh", "locked")

    assert answered.code == 4
    assert "error: locked: credentials not found" in answered.err


def test_one_named_provider_without_credentials_never_hurts_another(ask: Invoke) -> None:
    answered = ask("catalog", "refresh", "locked", "zeta", "--json")

    assert answered.code == 4
    assert [row["status"] for row in json.loads(answered.out)["items"]] == ["refreshed", "no credentials"]
    assert "locked: credentials not found" in answered.err
    assert document(ask("cheapest", "--provider", "zeta", "--json"))["items"][0]["layer"] == "live"


def test_the_past_is_asked_for_by_a_day(ask: Invoke) -> None:
    assert document(ask("catalog", "refresh", "zeta", "--backfill", "90d", "--json"))["items"][0]["past"] == 0
    answered = ask("catalog", "refresh", "zeta", "--backfill", "long ago")
    assert (answered.code, "--backfill 'long ago' is no day" in answered.err) == (2, True)


def test_refreshing_a_machine_of_ones_own_makes_no_sense(ask: Invoke) -> None:
    answered = ask("catalog", "refresh", "local")

    assert answered.code == 2
    assert "provider 'local' has no prices" in answered.err


def test_a_difference_shows_what_moved_first(ask: Invoke, tmp_path: Path) -> None:
    ask("catalog", "refresh", "zeta")
    directory = tmp_path / "home" / "skyward" / "cache" / "catalog" / "live" / "zeta"
    (before,) = directory.glob("offers-*.parquet")
    shutil.copy(before, tmp_path / "before.parquet")
    set_prices(tmp_path, z1=4.0, z3=1.0)
    ask("catalog", "refresh", "zeta")

    answered = ask(
        "catalog", "diff", str(tmp_path / "before.parquet"), "live", "--provider", "zeta", "--json"
    )

    found = document(answered)
    assert (found["new"], found["gone"], found["moved"]) == (1, 1, 1)
    assert [(row["change"], row["instance_type"], row["percent"]) for row in found["items"]] == [
        ("moved", "z1", 100.0),
        ("new", "z3", None),
        ("gone", "z2", None),
    ]


def test_a_state_nobody_knows_is_refused(ask: Invoke) -> None:
    answered = ask("catalog", "diff", "lst-week")

    assert answered.code == 2
    assert "no state of the catalog is called 'lst-week'" in answered.err


def test_a_history_of_nothing_ends_with_5(ask: Invoke) -> None:
    answered = ask("history", "H100", "--provider", "zeta")

    assert answered.code == 5
    assert "no price of H100 is known" in answered.err


def test_a_history_is_drawn_as_a_picture_and_as_a_page(ask: Invoke, tmp_path: Path) -> None:
    ask("catalog", "refresh", "zeta")
    svg, html = tmp_path / "h100.svg", tmp_path / "h100.html"

    answered = ask("history", "H100", "--svg", str(svg), "--html", str(html))

    assert (answered.code, answered.out) == (0, "")
    assert f"wrote {svg}" in answered.err
    root = ElementTree.parse(svg).getroot()
    assert "H100: price per GPU and hour" in "".join(root.itertext())
    page = html.read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert ">z1<" in page


def test_a_picture_that_cannot_be_written_is_one_error(ask: Invoke) -> None:
    answered = ask("history", "H100", "--svg", "/no/such/place/h100.svg", "--since", "365d")

    assert answered.code == 2
    assert "cannot write '/no/such/place/h100.svg'" in answered.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("H1000",), "unknown accelerator 'H1000'"),
        (("p9.large",), "'p9.large'"),
        (("H100", "--since", "soon"), "--since 'soon' is no day and no age"),
        (("H100", "--provider", "zta"), "no provider 'zta' is installed"),
    ],
)
def test_bad_input_to_history_is_one_error(ask: Invoke, arguments: tuple[str, ...], message: str) -> None:
    answered = ask("history", *arguments)

    assert answered.code == 2
    assert answered.err.count("error: ") == 1
    assert message in answered.err


# -- build ------------------------------------------------------------------------------------------------------------


def test_build_compiles_the_sources_into_a_snapshot(ask: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "snapshot"

    found = document(ask("catalog", "build", "--from", str(SOURCES), "--out", str(out), "--json"))

    assert {row["table"] for row in found["items"]} == {
        "offers",
        "instance_types",
        "accelerators",
        "snapshots",
    }
    assert (out / "offers.parquet").stat().st_size == next(
        row["bytes"] for row in found["items"] if row["table"] == "offers"
    )


def test_build_without_sources_says_where_they_are(ask: Invoke, tmp_path: Path) -> None:
    answered = ask("catalog", "build", "--from", str(tmp_path))

    assert answered.code == 2
    assert "no catalog sources in" in answered.err


# -- accelerators -------------------------------------------------------------------------------------------------------


def test_accelerators_lists_all_of_them_with_who_sells_them(ask: Invoke) -> None:
    rows = document(ask("accelerators", "--json"))["items"]

    by_name = {row["name"]: row for row in rows}
    assert len(rows) > 50
    assert "aws" in by_name["H100-SXM"]["providers"]
    assert by_name["TPU-v4"]["min_usd_per_gpu_hour"] is None


def test_one_accelerator_has_its_names_partitions_and_sellers(ask: Invoke) -> None:
    answered = ask("accelerators", "A100")

    assert answered.code == 0
    for word in ("A100-40GB", "A100-80GB", "MIG", "1g.5gb x7", "SOLD BY", "(indicative)"):
        assert word in answered.out
    (forty, eighty) = document(ask("accelerators", "A100", "--json"))["items"]
    assert (forty["name"], eighty["name"]) == ("A100-40GB", "A100-80GB")
    assert {seller["provider"] for seller in forty["sellers"]} >= {"aws"}


def test_accelerators_can_be_narrowed(ask: Invoke) -> None:
    rows = document(ask("accelerators", "--vendor", "NVIDIA", "--mig", "--sold", "--json"))["items"]

    assert rows
    assert all(row["vendor"] == "nvidia" and row["mig_profiles"] and row["providers"] for row in rows)


def test_an_accelerator_nobody_knows_has_its_nearest_names(ask: Invoke) -> None:
    answered = ask("accelerators", "H1000")

    assert answered.code == 2
    assert "unknown accelerator 'H1000': did you mean 'H100'" in answered.err


def test_a_vendor_nobody_knows_ends_with_5_and_the_known_ones(ask: Invoke) -> None:
    answered = ask("accelerators", "--vendor", "nvida")

    assert answered.code == 5
    assert "vendors: amd, aws, google, intel, nvidia" in answered.err
