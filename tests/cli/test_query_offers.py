"""`skyward offers` and `skyward cheapest`: filters, order, formats, and what they say when nothing matches."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from price_files import Answered, Invoke, write_market

MARKET = ("--provider", "acme", "--provider", "bolt")


@pytest.fixture
def ask(invoke: Invoke, empty_home: Path) -> Invoke:
    """Command lines over a home with the price files of acme and bolt."""
    write_market(empty_home)
    return invoke


def items(answered: Answered) -> list[dict[str, Any]]:
    assert answered.code == 0, answered.err
    found: list[dict[str, Any]] = json.loads(answered.out)["items"]
    return found


def names(answered: Answered) -> list[str]:
    return [f"{row['instance_type']} {row['pricing']}" for row in items(answered)]


# -- filters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("H100",), ["h1 spot", "median-h100 on-demand", "h1 on-demand", "h8 on-demand"]),
        (("--gpu", "H100:8"), ["h8 on-demand"]),
        (("H100:1..4", "--spot"), ["h1 spot"]),
        (("H100", "--on-demand", "--max-price", "3"), ["median-h100 on-demand", "h1 on-demand"]),
        (("L4",), ["l4 on-demand"]),
        (("L4:0.25",), ["l4-quarter on-demand", "l4 on-demand"]),
        (("80GB", "--gpus", "4.."), ["a4 on-demand", "h8 on-demand"]),
        (("--vram", "16GB..32GB"), ["l4 on-demand"]),
        (("--cpu", "8", "--memory", "..32GB"), ["g8 on-demand", "c8 on-demand"]),
        (("--arch", "aarch64"), ["g8 on-demand"]),
        (("--region", "east", "--gpu", "nvidia"), ["a1 on-demand", "median-h100 on-demand", "a4 on-demand"]),
        (("--machine", "h1", "--allocation", "cheapest"), ["h1 spot", "h1 on-demand"]),
        (("--available", "--cpu", "8..8"), ["c8 on-demand"]),
        (("--cpu", "64..64"), ["mystery on-demand"]),
        (("--zone", "north-1a"), ["h1 spot"]),
    ],
)
def test_filters_keep_what_they_say_cheapest_first(
    ask: Invoke, arguments: tuple[str, ...], expected: list[str]
) -> None:
    assert names(ask("offers", *MARKET, *arguments, "--json")) == expected


def test_providers_may_be_parted_by_commas(ask: Invoke) -> None:
    assert len(items(ask("offers", "--provider", "acme,bolt", "--json"))) == 11


def test_rows_can_be_sorted_and_limited(ask: Invoke) -> None:
    answered = ask("offers", *MARKET, "H100", "--sort", "-usd_per_gpu_hour", "--limit", "2", "--json")

    assert names(answered) == ["h1 on-demand", "h8 on-demand"]
    assert json.loads(answered.out)["matched"] == 4


def test_limit_0_means_all(ask: Invoke) -> None:
    assert len(items(ask("offers", *MARKET, "--limit", "0", "--json"))) == 11


def test_rows_can_be_grouped(ask: Invoke) -> None:
    rows = items(ask("offers", *MARKET, "nvidia", "--group-by", "gpu,provider", "--json"))

    assert [
        (row["accelerator"], row["provider"], row["offers"], row["min_usd_per_hour"]) for row in rows
    ] == [
        ("L4", "acme", 1, 0.7),
        ("H100-SXM", "acme", 3, 1.0),
        ("A100-80GB", "bolt", 2, 1.2),
        ("H100-SXM", "bolt", 1, 1.9),
    ]


def test_columns_can_be_chosen_by_their_short_names(ask: Invoke) -> None:
    rows = items(ask("offers", *MARKET, "L4", "--columns", "machine,price,vram", "--json"))

    assert rows == [{"instance_type": "l4", "usd_per_hour": 0.7, "accelerator_memory_gib": 24.0}]


# -- formats ------------------------------------------------------------------------------------------------------


def test_json_is_one_document_with_numbers_utc_times_and_nulls(ask: Invoke) -> None:
    document = json.loads(ask("offers", *MARKET, "--machine", "h1", "--json").out)

    assert document["schema"] == "skyward.offers/1"
    assert document["catalog"]["currency"] == "USD"
    (acme,) = document["catalog"]["providers"]
    assert (acme["provider"], acme["layer"], acme["offers"]) == ("acme", "user", 2)
    assert acme["oldest_observed_at"] == "2026-11-20T08:00:00Z"
    spot, firm = document["items"]
    assert (spot["usd_per_hour"], spot["zone"], spot["observed_at"]) == (
        1.0,
        "north-1a",
        "2026-11-20T08:00:00Z",
    )
    assert (firm["zone"], firm["reliability"], firm["details"]) == (None, None, None)


def test_a_table_shows_unknown_prices_as_a_dash_and_marks_indicative_ones(ask: Invoke) -> None:
    table = ask("offers", *MARKET, "--region", "south", "--region", "east").out

    assert " -  " in next(line for line in table.splitlines() if "mystery" in line)
    assert " ~$1.90 " in next(line for line in table.splitlines() if "median-h100" in line)
    assert "$0.00" not in table


def test_a_piped_table_is_neither_cut_nor_colored_nor_commented(ask: Invoke) -> None:
    answered = ask("offers", "--limit", "0", *MARKET)

    header, *lines = answered.out.splitlines()
    titles = "PROVIDER INSTANCE REGION ZONE GPU VRAM VCPU RAM SOLD AS PRICE/H $/GPU-H SEEN"
    assert " ".join(header.split()) == titles
    assert len(lines) == 11
    assert "…" not in answered.out
    assert "\x1b" not in answered.out
    assert answered.err == ""


def test_csv_has_the_columns_of_the_catalog(ask: Invoke) -> None:
    rows = list(csv.DictReader(io.StringIO(ask("offers", *MARKET, "H100", "--format", "csv").out)))

    assert [row["instance_type"] for row in rows] == ["h1", "median-h100", "h1", "h8"]
    assert (rows[0]["usd_per_hour"], rows[0]["observed_at"], rows[0]["reliability"]) == (
        "1",
        "2026-11-20T08:00:00Z",
        "",
    )


def test_jsonl_is_one_object_per_line(ask: Invoke) -> None:
    lines = ask("offers", *MARKET, "H100", "--format", "jsonl").out.splitlines()

    assert [json.loads(line)["instance_type"] for line in lines] == ["h1", "median-h100", "h1", "h8"]


def test_markdown_is_a_table(ask: Invoke) -> None:
    head, rule, first, *_ = ask("offers", *MARKET, "H100", "--format", "md").out.splitlines()

    assert head.startswith("| PROVIDER | INSTANCE |")
    assert set(rule) == set("|-:")
    assert first.startswith("| acme | h1 | north | north-1a | 1x H100-SXM | 80GB |")


def test_parquet_holds_the_same_rows(ask: Invoke, empty_home: Path, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    import pyarrow.parquet as parquet

    import skyward

    root = str(Path(skyward.__file__).parent.parent)
    file = tmp_path / "offers.parquet"
    with file.open("wb") as out:
        command = [sys.executable, "-m", "skyward", "offers", *MARKET, "H100", "--format", "parquet"]
        subprocess.run(command, stdout=out, check=True, timeout=60, env={**os.environ, "PYTHONPATH": root})

    assert parquet.read_table(file).column("instance_type").to_pylist() == ["h1", "median-h100", "h1", "h8"]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "md", "table"])
def test_every_format_of_nothing_still_ends_with_5(ask: Invoke, form: str) -> None:
    answered = ask("offers", *MARKET, "H100", "--cpu", "1000", "--format", form)

    assert answered.code == 5
    assert answered.err.startswith("error: nothing matches  [SKW210]")
    if form == "json":
        assert json.loads(answered.out)["items"] == []


# -- cheapest -------------------------------------------------------------------------------------------------------


def test_cheapest_names_one_offer_and_indicative_or_unknown_prices_never_win(ask: Invoke) -> None:
    document = json.loads(ask("cheapest", *MARKET, "H100", "--on-demand", "--json").out)

    assert document["schema"] == "skyward.cheapest/1"
    assert [row["instance_type"] for row in document["items"]] == ["h1"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("H100",), "h1 spot"),
        (("H100", "--on-demand"), "h1 on-demand"),
        (("H100", "--on-demand", "--per", "gpu"), "h8 on-demand"),
        (("nvidia", "--on-demand", "--per", "vram"), "a4 on-demand"),
        (("--cpu", "8"), "g8 on-demand"),
        (("--total", "8", "--gpu", "H100", "--on-demand"), "h8 on-demand"),
        (("--total", "8", "--gpu", "H100"), "h1 spot"),
    ],
)
def test_cheapest_compares_what_it_is_told_to(ask: Invoke, arguments: tuple[str, ...], expected: str) -> None:
    assert names(ask("cheapest", *MARKET, *arguments, "--json")) == [expected]


def test_eight_in_all_says_how_many_nodes_and_what_they_cost_together(ask: Invoke) -> None:
    (row,) = items(ask("cheapest", *MARKET, "H100", "--total", "6", "--json"))

    assert (row["nodes_needed"], row["usd_per_hour_total"]) == (6, 6.0)


def test_n_gives_more_than_one(ask: Invoke) -> None:
    assert names(ask("cheapest", *MARKET, "nvidia", "-n", "2", "--json")) == ["l4 on-demand", "h1 spot"]


def test_cheapest_as_people_read_it(ask: Invoke) -> None:
    header, line = ask("cheapest", *MARKET, "H100:8").out.splitlines()

    assert header.split()[:3] == ["PROVIDER", "INSTANCE", "REGION"]
    assert " ".join(line.split()).startswith("acme h8 south 8x H100-SXM 640GB 128 1TB on-demand $19.20 $2.40")


# -- nothing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "cause", "hint"),
    [
        (
            ("H100", "--region", "north", "--max-price", "0.5"),
            "11 offers are from acme or bolt; 4 have an H100; 2 are in north; the cheapest of those is $1.00/h, over $0.50",
            "relax one: --max-price 1.00",
        ),
        (
            ("H100:8", "--region", "north"),
            "4 have an H100; 1 has at least 8 of them; none of those is in north (they are in south)",
            "--region south (from $19.20/h)",
        ),
        (("H100", "--cpu", "1000"), "the nearest of those has 128 vCPUs, needs at least 1000", "--cpu 128"),
        (("--arch", "arm64", "--cpu", "64"), "", "--architecture x86_64"),
        (("A100-40GB",), "none of those has an A100-40GB", "--accelerator A100-80GB (from $1.20/h)"),
        (("L4", "--available"), "none of those is available", "without --available (from $0.70/h)"),
        (("TPU-v4",), "none of those has a TPU-v4", "skyward accelerators TPU-v4"),
    ],
)
def test_nothing_says_which_wish_emptied_it_and_what_to_relax(
    ask: Invoke, arguments: tuple[str, ...], cause: str, hint: str
) -> None:
    answered = ask("offers", *MARKET, *arguments)

    assert answered.code == 5
    assert answered.out == ""
    assert cause in answered.err
    assert hint in answered.err


def test_every_suggestion_for_nothing_finds_something(ask: Invoke) -> None:
    answered = ask("offers", *MARKET, "H100", "--region", "north", "--max-price", "0.5", "--cpu", "8")
    (hint,) = (line for line in answered.err.splitlines() if "relax one:" in line)

    option, value = hint.partition("relax one: ")[2].split(" | ")[0].split()[:2]

    assert ask("offers", *MARKET, "H100", "--region", "north", "--cpu", "8", option, value).code == 0


def test_nothing_may_be_fine(ask: Invoke) -> None:
    answered = ask("offers", *MARKET, "H100", "--cpu", "1000", "--ok-empty")

    assert (answered.code, answered.err) == (0, "")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--gpu", "H1000"), 2, "unknown accelerator 'H1000': did you mean 'H100'"),
        (("--provider", "acmee"), 2, "no provider 'acmee' is installed"),
        (("--region", "nort"), 2, "'nort'"),
        (("--machine", "h11"), 2, "'h11'"),
        (("--sort", "prise"), 2, "unknown column 'prise'; did you mean 'price'"),
        (("--group-by", "gpuu"), 2, "unknown column 'gpuu'; did you mean 'gpu'"),
        (("--columns", "pricee"), 2, "unknown column 'pricee'"),
        (("--format", "jsn"), 2, "unknown format 'jsn'; did you mean 'json'?"),
        (("--memory", "24GX"), 2, "'24GX' is not a range of"),
        (("--gpus", "8..4"), 2, "--gpus '8..4' holds nothing: its low end is above its high end"),
        (("--vram", "big"), 2, "'big' is not a range of"),
        (("--max-price", "-3"), 2, "--max-price '-3' is not an amount of US dollars above 0"),
        (("--max-price", "nan"), 2, "--max-price 'nan' is not an amount"),
        (("--min-reliability", "95"), 2, "--min-reliability '95' is not a share from 0 to 1"),
        (("--vram", "64GB..8GB"), 2, "--vram '64GB..8GB' holds nothing"),
        (("--max-age", "soon"), 2, "--max-age 'soon' is not a duration"),
        (("--arch", "sparc"), 2, "unknown architecture 'sparc'"),
        (("--allocation", "sometimes"), 2, "unknown allocation 'sometimes'"),
        (("--spot", "--on-demand"), 2, "contradictory ways of paying: spot and on-demand"),
        (("--spot", "--allocation", "on-demand"), 2, "contradictory ways of paying"),
        (("H100", "--gpu", "A100"), 2, "an accelerator is given twice"),
        (("--as-of", "yesterday"), 2, "--as-of 'yesterday' is no day and no age"),
        (("--as-of", "2999-01-01"), 2, "--as-of '2999-01-01' is in the future"),
        (("--as-of", "2000-01-01"), 2, "2000-01-01"),
        (("--max-age", "1s"), 4, "prices are older"),
        (("--limit", "-1"), 2, "-1"),
        (("--frmat", "json"), 2, "no such option '--frmat'"),
    ],
)
def test_bad_input_is_one_error_with_its_code(
    ask: Invoke, arguments: tuple[str, ...], code: int, message: str
) -> None:
    answered = ask("offers", *arguments)

    assert answered.code == code
    assert answered.out == ""
    assert answered.err.startswith("error: ")
    assert answered.err.count("error: ") == 1
    assert message in answered.err
    assert "Traceback" not in answered.err


def test_a_provider_that_is_nearly_named_is_suggested(ask: Invoke) -> None:
    assert "hint: did you mean 'acme'?" in ask("offers", "--provider", "acmee").err


def test_a_provider_without_prices_is_known_all_the_same(ask: Invoke) -> None:
    answered = ask("offers", "--provider", "local")

    assert answered.code == 5
    assert "no offer is from local" in answered.err


def test_files_that_are_refused_are_told_once_on_standard_error(ask: Invoke, empty_home: Path) -> None:
    (empty_home / "skyward" / "config" / "catalog" / "bad.csv").write_text("nonsense\n1\n")

    answered = ask("cheapest", *MARKET, "H100", "--json")

    assert items(answered)
    assert answered.err.count("warning:") == 1
    assert "bad.csv" in answered.err


def test_a_command_line_may_name_an_accelerator_that_only_a_plugin_knows(ask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "project" / "skyfile.py").write_text(
        "import skyward\n"
        "@skyward.hookimpl\n"
        "def skyward_accelerators():\n"
        "    return [skyward.AcceleratorModel(name='Zeta-1', vendor='zeta', memory_gib=64.0)]\n"
    )
    (tmp_path / "project" / "pyproject.toml").write_text("[project]\nname = 'p'\nversion = '0'\n")

    answered = ask("offers", "--gpu", "Zeta-1")

    assert answered.code == 5
    assert "no offer has a Zeta-1" in answered.err


# -- what a run did cost ---------------------------------------------------------------------------------------------


def a_run(home: Path, name: str) -> None:
    """A run of a minute on one machine of $6 an hour, a quarter of which was useful."""
    from skyward import Instance, Offer, TaskReport, events
    from skyward.session.store import Store

    sold = Offer(
        provider="acme", region="north", instance_type="m1", usd_per_hour=6.0, vcpus=4.0, memory_gib=16.0
    )
    machine = Instance(id="i-1", provider="acme", offer=sold)
    report = TaskReport(
        task="main", index=0, attempt=1, verdict="succeeded", node=0, worker=0, duration_s=15.0
    )
    store = Store.create(home / "skyward" / "state", name)
    store.write("run.json", {"run": name, "target": "t:main", "started_at": "2026-11-20T10:00:00Z"})
    for event in (
        events.InstanceLaunched(at=1000.0, instance=machine, node=0),
        events.NodeReady(at=1020.0, node=0, instance=machine, slots=1, duration_s=20.0),
        events.TaskFinished(at=1050.0, report=report),
        events.InstanceTerminated(at=1060.0, instance=machine, node=0),
    ):
        store.event(event)
    store.write("report.json", {"run": name})
    store.close()


def test_what_a_run_did_cost_is_told_machine_by_machine_and_for_what(ask: Invoke, empty_home: Path) -> None:
    a_run(empty_home, "r-00000001")

    told, document = ask("cost", "last"), json.loads(ask("cost", "r-00000001", "--json").out)

    assert told.code == 0
    assert told.out.splitlines()[1].split() == [
        "n0",
        "acme",
        "m1",
        "north",
        "on-demand",
        "$6.00",
        "1m",
        "25",
        "%",
        "$0.10",
    ]
    assert "r-00000001 t:main: $0.10 (" in told.err
    assert document["schema"] == "skyward.run-cost/1"
    assert document["usd"] == pytest.approx(0.1)
    assert sum(document["parts_usd"].values()) == pytest.approx(document["usd"], abs=1e-5)
    assert document["items"][0]["useful_s"] == 15.0


def test_a_run_nobody_kept_is_one_error(ask: Invoke, empty_home: Path) -> None:
    assert "holds no run" in ask("cost", "last").err
    a_run(empty_home, "r-00000001")
    answered = ask("cost", "r-zzzzzzzz")
    assert (answered.code, answered.out) == (2, "")
    assert "no run 'r-zzzzzzzz' is kept here" in answered.err
    assert "the newest: r-00000001" in answered.err


# -- how sure ------------------------------------------------------------------------------------------------------------


def test_facts_that_are_not_beyond_doubt_say_so(ask: Invoke) -> None:
    sure, unsure = ask("accelerators", "H100-SXM").out, ask("accelerators", "GB300").out
    (item,) = json.loads(ask("accelerators", "GB300", "--json").out)["items"]

    assert "medium confidence" in unsure
    assert "confidence" not in sure
    assert "facts    " in sure
    assert (item["confidence"], item["observed_on"]) == ("medium", "2026-11")
    assert "NVIDIA" in item["source"]


def test_an_estimated_price_is_marked(ask: Invoke) -> None:
    table = ask("offers", "--machine", "s-1vcpu-1gb", "--limit", "1").out

    assert "≈$0.0089" in table
