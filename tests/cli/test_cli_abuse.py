"""Bad command lines: exit 2, one error line, no traceback, nothing on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyward.cli import COMMANDS

Invoke = Callable[..., Any]

BIG = "9" * 400
MEGABYTE = "x" * 1_000_000
WEIRD = ["\x00", "\x1b[31m", "a\nb", "\udcff", "\u202etxt", "日本語", "💥", " ", "\t", MEGABYTE]

SHELL = [
    ["nonsense"],
    ["Plugins"],
    ["PLUGINS"],
    ["plugin"],
    ["-plugins"],
    ["--plugins"],
    ["--"],
    ["-"],
    ["", "plugins"],
    [""],
    *([word] for word in WEIRD),
    *(["explain", word] for word in WEIRD),
    ["--color"],
    ["--color", "maybe", "plugins"],
    ["--color=", "plugins"],
    ["--config"],
    ["--config", "", "config", "show"],
    ["--config", "/no/such/file.toml", "config", "show"],
    ["--config", "/", "config", "show"],
    ["--config", "/dev/null/x", "config", "show"],
    ["--config", "a\x00b", "config", "show"],
    ["-o"],
    ["-o", "nodes", "config", "show"],
    ["-o", "", "config", "show"],
    ["-o", "=", "config", "show"],
    ["-o", "=4", "config", "show"],
    ["-o", ".=4", "config", "show"],
    ["-o", "a..b=4", "config", "show"],
    ["-o", "nodes=", "config", "show"],
    ["-o", "nodes=0", "config", "show"],
    ["-o", "nodes=-1", "config", "show"],
    ["-o", "nodes=1.5", "config", "show"],
    ["-o", "nodes=many", "config", "show"],
    ["-o", f"nodes={BIG}.5", "config", "show"],
    ["-o", "nodes=[1, 2]", "config", "show"],
    ["-o", "nodes=\x00", "config", "show"],
    ["-o", "noeds=1", "config", "show"],
    ["-o", "defaults=1", "config", "show"],
    ["-o", "defaults.env=1", "config", "show"],
    ["-o", "max_price=nan", "config", "show"],
    ["-o", "max_price=-0.01", "config", "show"],
    ["-o", "max_price=cheap", "config", "show"],
    ["-o", "memory=24 parsecs", "config", "show"],
    ["-o", "memory=80GB..24GB", "config", "show"],
    ["-o", "timeout=soon", "config", "show"],
    ["-o", "timeout=-3s", "config", "show"],
    ["-o", "cpu=..", "config", "show", "-o", "cpu=x"],
    ["-o", "results=everything", "config", "show"],
    ["-o", "display=fancy", "config", "show"],
    ["-o", "pools.train=3", "config", "show"],
    ["-o", "pools.train.nods=3", "config", "show"],
    ["-o", "providers.acme.token=x", "config", "show"],
    ["-o", "env.HF_TOKEN=x", "config", "show"],
    ["-o", "catalog.max_age=old", "config", "show"],
    ["-o", "nothing.at.all=1", "config", "show"],
    ["config", "show", "-o", "nodes=0"],
    ["-p"],
    ["-p", "", "plugins"],
    ["-p", "no-such-plugin", "plugins"],
    ["-p", "terminl", "providers"],
    ["-p", "../evil", "plugins"],
    ["-p", "a.b.c", "plugins"],
    ["-p", ".", "plugins"],
    ["-p", "..", "plugins"],
    ["-p", "\x00", "plugins"],
    ["-p", "💥", "plugins"],
    ["-p", MEGABYTE, "plugins"],
    ["plugins", "extra"],
    ["plugins", "--jsno"],
    ["plugins", "--json=yes"],
    ["plugins", "--hooks=3"],
    ["plugins", "--verbose=3"],
    ["plugins", "-x"],
    ["plugins", "---"],
    ["plugins", "--", "-x"],
    ["providers", "aws"],
    ["providers", "--live"],
    ["config", "shwo"],
    ["config", ""],
    ["config", "show", "extra"],
    ["config", "path", "--origin"],
    ["config", "validate", "--json"],
    ["config", "schema", "x"],
    ["explain", "SKW999"],
    ["explain", "SKW"],
    ["explain", "skw14"],
    ["explain", "-1"],
    ["explain", "999"],
    ["explain", BIG],
    ["explain", ""],
    ["explain", "SKW140", "SKW130"],
    ["completion"],
    ["completion", "tcsh"],
    ["completion", "BASH"],
    ["completion", "bash", "zsh"],
    ["completion", ""],
]

QUERIES = [
    [command, *rest]
    for command in ("offers", "cheapest")
    for rest in (
        ["H1000"],
        ["--gpu", "H1000"],
        ["--gpu", ""],
        ["--gpu", "H100:x"],
        ["--gpu", "H100:8..4"],
        ["--gpu", "\x00"],
        ["--provider", "lamda"],
        ["--provider", ""],
        ["--region", ""],
        ["--memory", "lots"],
        ["--memory", "-3GB"],
        ["--cpu", "-1"],
        ["--cpu", "8..4"],
        ["--disk", "x"],
        ["--max-price", "cheap"],
        ["--max-price", "-1"],
        ["--max-price", "nan"],
        ["--architecture", "vax"],
        ["--allocation", "sometimes"],
        ["--allocation", "1.5"],
        ["--format", "xml"],
        ["--max-age", "old"],
        ["--as-of", "yesterdayish"],
        ["--spot", "--on-demand"],
        ["--nonsense"],
        ["A100", "H100"],
    )
]

RUNS = [
    ["run", *rest]
    for rest in (
        [],
        ["no_such_module:f"],
        ["no_such_file.py"],
        ["json:no_such_function"],
        [":"],
        ["json:"],
        [":dumps"],
        ["a\x00b:f"],
        [MEGABYTE],
        ["json:dumps", "--nodes", "0"],
        ["json:dumps", "--nodes", "-1"],
        ["json:dumps", "--nodes", "x"],
        ["json:dumps", "--nodes", BIG + ".5"],
        ["json:dumps", "--timeout", "soon"],
        ["json:dumps", "--memory", "lots"],
        ["json:dumps", "--accelerator", "H1000"],
        ["json:dumps", "--provider", "lamda"],
        ["json:dumps", "--nonsense"],
    )
]


def is_one_error(answered: Any) -> bool:
    lines = answered.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return (
        answered.code == 2
        and answered.out == ""
        and len(errors) == 1
        and errors[0].endswith("]")
        and "[SKW" in errors[0]
        and "Traceback" not in answered.err
        and all(len(line) < 2200 for line in lines)
        and "\x1b" not in answered.err
    )


def test_the_table_is_long_enough() -> None:
    assert len(SHELL) + len(QUERIES) + len(RUNS) >= 150


def short(arguments: list[str]) -> str:
    return " ".join(arguments)[:40].encode("ascii", "backslashreplace").decode()


@pytest.mark.parametrize("arguments", [*SHELL, *QUERIES, *RUNS], ids=short)
def test_a_bad_command_line_is_one_error(invoke: Invoke, arguments: list[str]) -> None:
    if arguments and arguments[0] in COMMANDS and not COMMANDS[arguments[0]].exists:
        pytest.skip(f"there is no `skyward {arguments[0]}` yet")

    answered = invoke(*arguments)

    assert is_one_error(answered), answered


def test_a_bad_command_line_is_refused_at_once(invoke: Invoke) -> None:
    invoke("nonsense")  # imports what there is to import
    began = time.process_time()

    invoke("nonsense")

    assert time.process_time() - began < 0.1


TEXT = st.text(max_size=30).filter(lambda text: "help" not in text and text not in ("-h", "--version"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    value=TEXT,
    line=st.sampled_from(
        [
            ["--color={}", "config", "path"],
            ["-o{}", "config", "path"],
            ["-onodes={}", "config", "show", "--json"],
            ["-omemory={}", "config", "show", "--json"],
            ["-omax_price={}", "config", "show", "--json"],
            ["-oprovider={}", "config", "show", "--json"],
            ["-o{}=1", "config", "show", "--json"],
            ["explain", "{}"],
            ["completion", "{}"],
            ["{}"],
            ["config", "{}"],
        ]
    ),
)
def test_any_value_is_either_taken_or_one_error(invoke: Invoke, line: list[str], value: str) -> None:
    answered = invoke(*(part.replace("{}", value) for part in line))

    assert answered.code in (0, 2), answered
    if answered.code == 2 and not answered.err.startswith("Usage: "):
        assert is_one_error(answered), answered


QUERY_OPTIONS = [
    "--gpu",
    "--gpus",
    "--vram",
    "--cpu",
    "--memory",
    "--disk",
    "--region",
    "--provider",
    "--zone",
    "--machine",
    "--allocation",
    "--max-price",
    "--min-reliability",
    "--sort",
    "--group-by",
    "--columns",
    "--limit",
    "--as-of",
    "--max-age",
    "--format",
    "--architecture",
]
NEARLY = st.from_regex(r"-?\d{0,4}(\.\d+)?(GB|h|d|%)?(\.\.)?\d{0,5}[a-zA-Z]*", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    option=st.sampled_from(QUERY_OPTIONS),
    value=TEXT | NEARLY,
    command=st.sampled_from(["offers", "cheapest"]),
)
def test_any_value_of_a_query_is_an_answer_nothing_or_one_error(
    invoke: Invoke, option: str, value: str, command: str
) -> None:
    answered = invoke(command, f"{option}={value}")

    too_old = answered.code == 4 and "[SKW221]" in answered.err
    assert answered.code in (0, 2, 5) or too_old, answered
    assert answered.code != 2 or is_one_error(answered), answered
