"""`skyward plan` and `skyward cost`: the choice, why nothing else, and for how much."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from price_files import Answered, Invoke, write_market

import skyward as sky
from skyward.cloud.refusals import remember


@pytest.fixture
def ask(invoke: Invoke, empty_home: Path, tmp_path: Path) -> Invoke:
    """Command lines in a project with the providers acme and bolt, and their price files."""
    write_market(empty_home)
    project = tmp_path / "project"
    (project / "pyproject.toml").write_text("[project]\nname = 'p'\nversion = '0'\n")
    (project / "skyfile.py").write_text(SKYFILE)
    (project / "train.py").write_text(
        "import skyward as sky\n\n@sky.compute\ndef main() -> int:\n    return 1\n"
    )
    return invoke


SKYFILE = '''
"""Two clouds that sell nothing but their price files."""
from dataclasses import dataclass

import skyward


def cloud(label, title):
    @dataclass(frozen=True)
    class Config:
        region: str | None = None

    Config.__name__ = Config.__qualname__ = title

    class Cloud(skyward.Provider):
        name = label
        offers = launch = instances = terminate = connect = lambda self, *_: ()

    Cloud.Config = Config
    return Cloud


@skyward.hookimpl
def skyward_providers():
    return [cloud("acme", "Acme"), cloud("bolt", "Bolt")]
'''

MARKET = ("--provider", "acme", "--provider", "bolt")


def document(answered: Answered) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answered.out)
    return found


def lines(answered: Answered) -> list[str]:
    return [" ".join(line.split()) for line in answered.out.splitlines()]


def test_a_plan_shows_the_choice_its_fallbacks_and_the_bound(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--nodes", "2", "--for", "3h")

    assert answered.code == 0, answered.err
    head, titles, chosen, second, third, cost = lines(answered)
    assert head == "plan 2 nodes · H100 · spot-if-available · selection=first · acme, bolt"
    assert titles == "PROVIDER INSTANCE REGION GPU SOLD AS PRICE/H 2 NODES/H SEEN STATUS"
    assert chosen.startswith("> acme h1 north-1a 1x H100-SXM spot $1.00 $2.00 ")
    assert chosen.endswith(" chosen")
    assert second.startswith("acme h1 north 1x H100-SXM on-demand $2.50 $5.00 ")
    assert second.endswith(" 2nd (fallback)")
    assert third.endswith(" 3rd (fallback)")
    assert re.fullmatch(
        r"cost \$2.00/h \(\d+\w ago\), at most \$6.00 \(--for 3h\) · nothing has been started", cost
    )


def test_what_a_cloud_had_none_of_a_while_ago_is_told_and_under_available_comes_last(ask: Invoke) -> None:
    question = ("plan", *MARKET, "--gpu", "H100")
    first = document(ask(*question, "--json"))["chosen"]
    remember(
        sky.Offer(
            provider=first["provider"], region=first["region"], zone=first["zone"],
            instance_type=first["instance_type"], pricing=first["pricing"], usd_per_hour=1, vcpus=1, memory_gib=1,
        )
    )  # fmt: skip

    same, other = (lines(ask(*question, "--selection", how)) for how in ("first", "available"))

    assert re.search(r"^> acme h1 north-1a .* chosen, none \d+s ago$", same[2])
    assert re.search(r"^> acme h1 north 1x .* chosen$", other[2])
    assert re.search(r"^acme h1 north-1a .* 3rd \(fallback\), none \d+s ago$", other[4])


def test_an_explained_plan_says_why_nothing_else(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--max-price", "2", "--explain")

    text = lines(answered)
    assert any(line.endswith("refused: $2.50/h, over $2.00") for line in text)
    assert any(line.endswith("refused: indicative, cannot be launched") for line in text)
    (considered,) = (line for line in text if line.startswith("considered"))
    assert considered.endswith("7 by accelerator, 1 by quality, 2 by max price, 1 left")


def test_a_plan_as_json_is_the_whole_truth(ask: Invoke) -> None:
    found = document(
        ask("plan", *MARKET, "--gpu", "H100", "--nodes", "2", "--explain", "--for", "90m", "--json")
    )

    assert found["schema"] == "skyward.plan/1"
    assert (found["selection"], found["nodes"], found["usd_per_hour"], found["usd_at_most"]) == (
        "first",
        2,
        2.0,
        3.0,
    )
    assert found["for_s"] == 5400.0
    assert found["chosen"]["instance_type"] == "h1"
    assert found["machines"] == [{"instance_type": "h1", "pricing": "spot", "nodes": 2}]
    assert found["requirements"]["accelerator"] == "H100"
    assert found["considered"] > 11
    assert {item["status"] for item in found["items"]} == {"chosen", "fallback", "refused"}
    (median,) = (item for item in found["items"] if item["instance_type"] == "median-h100")
    assert (median["constraint"], median["rank"], median["usd_per_hour_all_nodes"]) == ("quality", None, None)


def test_everything_shows_every_offer(ask: Invoke) -> None:
    found = document(ask("plan", *MARKET, "--gpu", "H100", "--all", "--json"))

    assert len(found["items"]) == found["considered"]


def test_the_same_question_gives_the_same_plan(ask: Invoke) -> None:
    asked = ("plan", *MARKET, "--gpu", "nvidia", "--explain", "--json")

    assert ask(*asked).out == ask(*asked).out


def test_cheapest_and_the_plan_agree(ask: Invoke) -> None:
    plan = document(ask("plan", *MARKET, "--gpu", "nvidia", "--selection", "cheapest", "--json"))
    (cheapest,) = document(ask("cheapest", *MARKET, "nvidia", "--json"))["items"]

    assert plan["chosen"]["instance_type"] == cheapest["instance_type"] == "l4"


def test_the_configuration_has_the_defaults(ask: Invoke, tmp_path: Path) -> None:
    (tmp_path / "project" / "skyward.toml").write_text(
        '[defaults]\nprovider = ["bolt", "acme"]\naccelerator = "80GB"\nnodes = 2\nselection = "cheapest"\n'
    )

    found = document(ask("plan", "--provider", "bolt", "--json"))

    assert (found["requirements"]["providers"], found["selection"], found["nodes"]) == (
        ["bolt"],
        "cheapest",
        2,
    )


def test_eight_in_all_says_how_many_nodes_each_offer_takes(ask: Invoke) -> None:
    answered = ask(
        "plan",
        *MARKET,
        "--gpu",
        "H100",
        "--total",
        "8",
        "--allocation",
        "on-demand",
        "--selection",
        "cheapest",
    )

    rows = lines(answered)
    assert any(row.startswith("> acme h8 ") and row.endswith("chosen, 1 node") for row in rows)
    assert any(row.endswith("2nd (fallback), 8 nodes") for row in rows)


def test_a_share_of_spot_shows_the_mixture(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--nodes", "4", "--allocation", "0.5")

    assert "chosen (2 spot + 2 on-demand)" in answered.out
    assert "$7.00/h" in answered.out


def test_why_not_shows_one_machine(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--max-price", "2", "--why-not", "h8")

    assert answered.code == 0
    assert "refused: $19.20/h, over $2.00" in answered.out
    assert "h1" not in answered.out


def test_why_not_of_a_machine_nobody_has_names_the_nearest(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--why-not", "h9")

    assert answered.code == 2
    assert "no offer has machine 'h9'" in answered.err


def test_nothing_that_fits_ends_with_4_and_what_to_relax(ask: Invoke) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--max-price", "0.5")

    assert answered.code == 4
    assert answered.err.startswith("error: no offer fits  [SKW210]")
    assert "the cheapest of those is $1.00/h, over $0.50" in answered.err
    assert "hint: relax one: --max-price 1.00 | --accelerator A100-80GB" not in answered.err
    assert "--max-price 1.00" in answered.err


def test_a_target_is_checked_and_shown(ask: Invoke) -> None:
    answered = ask("plan", "train:main", *MARKET, "--gpu", "H100")

    assert answered.code == 0, answered.err
    assert lines(answered)[0].startswith("plan train:main 1 node · H100")


def test_a_target_that_is_an_accelerator_is_understood(ask: Invoke) -> None:
    answered = ask("plan", "H100", *MARKET)

    assert answered.code == 2
    assert "did you mean `skyward plan --accelerator H100`?" in answered.err


def test_without_a_wish_the_plan_is_this_machine_and_costs_nothing(ask: Invoke) -> None:
    answered = ask("plan")

    assert answered.code == 0, answered.err
    assert lines(answered)[-1] == "cost costs nothing · nothing has been started"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider", "acmee"), "no provider 'acmee' is installed"),
        (("--gpu", "H1000"), "unknown accelerator 'H1000'"),
        (("--region", "nort", "--gpu", "H100"), "'nort'"),
        (("--selection", "chepest", "--gpu", "H100"), "unknown selection 'chepest'"),
        (("--min-nodes", "3", "--nodes", "2"), "--min-nodes 3 is more than --nodes 2"),
        (("--total", "8", "--nodes", "2"), "--total and --nodes contradict each other"),
        (("--nodes", "0"), "0 is not in the range"),
        (("--for", "soon", "--gpu", "H100"), "'soon' is not a duration"),
        (("--allocation", "1.5"), "unknown allocation '1.5'"),
        (("nosuchmodule:main",), "nosuchmodule"),
    ],
)
def test_bad_input_is_one_error(ask: Invoke, arguments: tuple[str, ...], message: str) -> None:
    answered = ask("plan", *arguments)

    assert answered.code == 2
    assert answered.out == ""
    assert answered.err.count("error: ") == 1
    assert message in answered.err


@pytest.mark.parametrize("form", ["csv", "jsonl", "md"])
def test_a_plan_has_every_format(ask: Invoke, form: str) -> None:
    answered = ask("plan", *MARKET, "--gpu", "H100", "--format", form)

    assert answered.code == 0, answered.err
    assert "h8" in answered.out


# -- cost ---------------------------------------------------------------------------------------------------------


def test_cost_is_the_cheapest_of_each_kind_for_all_nodes_and_all_the_time(ask: Invoke) -> None:
    found = document(ask("cost", "H100", *MARKET, "--for", "3h", "--nodes", "4", "--json"))

    assert (found["schema"], found["for_s"]) == ("skyward.cost/1", 10800.0)
    assert [
        (row["pricing"], row["nodes"], row["usd_per_hour_all_nodes"], row["usd"]) for row in found["items"]
    ] == [
        ("spot", 4, 4.0, 12.0),
        ("on-demand", 4, 10.0, 30.0),
    ]


def test_cost_of_eight_in_all(ask: Invoke) -> None:
    found = document(ask("cost", "H100", *MARKET, "--for", "1h", "--total", "8", "--on-demand", "--json"))

    assert [(row["instance_type"], row["nodes"], row["usd"]) for row in found["items"]] == [("h8", 1, 19.2)]


def test_cost_as_people_read_it(ask: Invoke) -> None:
    header, first, _ = lines(ask("cost", "H100", *MARKET, "--for", "90m", "--nodes", "2"))

    assert header.endswith("PRICE/H 2 NODES/H FOR 1h30m SEEN")
    assert " spot $1.00 $2.00 $3.00 " in first


def test_cost_of_nothing_says_what_to_relax(ask: Invoke) -> None:
    answered = ask("cost", "H100", *MARKET, "--max-price", "0.5")

    assert answered.code == 5
    assert "--max-price 1.00" in answered.err
