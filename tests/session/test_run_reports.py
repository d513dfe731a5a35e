"""What failed last is run again, and reports for others are written, as pytest does both."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

Skyward = Callable[..., Any]
ALL = ["0.0", "1.0", "2.0", "", "4.0"]


# -- --lf and --ff -------------------------------------------------------------------------------------------------


def test_only_what_failed_last_is_run_again(run: Skyward, project: Path) -> None:
    run("train.py:folds")
    again = run("train.py:folds", "--lf")
    mend(project)
    mended = run("train.py:folds", "--lf")
    all_of_it = run("train.py:folds", "--lf")

    assert (again.code, again.last_line.split(" in ")[0]) == (1, "1 failed")
    assert "1 of 5 tasks failed last: only those are run" in again.err
    assert (mended.code, mended.out) == (0, "3.0\n")
    assert "nothing of this failed last: all of it is run" in all_of_it.err
    assert all_of_it.out == "0.0\n1.0\n2.0\n3.0\n4.0\n"


def test_what_failed_last_comes_first(run: Skyward) -> None:
    run("train.py:folds")

    done = run("train.py:folds", "--ff", "--json")

    assert [item["task"] for item in done.document["items"]] == [
        f"train.py::fold[{i}]" for i in (3, 0, 1, 2, 4)
    ]


def test_a_run_of_a_few_leaves_the_others_as_they_were(run: Skyward) -> None:
    run("train.py:folds")
    run("train.py:folds", "-k", "fold[1]")

    assert run("train.py:folds", "--lf", "--co").out == "train.py::fold[3]\n"


def test_another_file_and_another_directory_have_their_own_last_time(run: Skyward, project: Path) -> None:
    run("train.py:folds")
    (project / "other.py").write_text((project / "train.py").read_text())

    assert len(run("other.py:folds", "--lf", "--co").out.splitlines()) == 5
    assert "nothing of this was run before: all of it is run" in run("other.py:folds", "--lf").err


def test_one_worker_on_which_it_failed_is_enough(run: Skyward, project: Path) -> None:
    (project / "each.py").write_text(
        "import skyward as sky\n\n\n@sky.compute\ndef half() -> int:\n"
        "    return 1 // sky.instance_info().rank\n\n\n@sky.compute\ndef whole() -> int:\n    return 1\n"
    )
    run("each.py", "--each", "--nodes", "2")

    assert run("each.py", "--lf", "--co").out == "each.py::half\n"


def test_what_is_left_of_damaged_runs_is_passed_over(run: Skyward, runs: Callable[[], list[Path]]) -> None:
    for _ in range(3):
        run("train.py:folds")
    whole, cut, gone = runs()
    (cut / "outcomes.jsonl").write_text(
        '{"id": "train.py::fold[4]", "verdict": "failed"}\n[1]\n{"id": "train'
    )
    (gone / "run.json").write_text("[]")

    assert run("train.py:folds", "--lf", "--co").out == "train.py::fold[3]\ntrain.py::fold[4]\n"
    assert whole.exists()


def mend(project: Path) -> None:
    text = (project / "train.py").read_text()
    (project / "train.py").write_text(text.replace("if index == 3:", "if index == 33:"))


# -- --junitxml ----------------------------------------------------------------------------------------------------


def cases(file: Path) -> dict[str, str]:
    """Each case of a report, and what became of it."""
    found = xml.parse(file).getroot().iter("testcase")
    return {str(one.get("name")): next((child.tag for child in one), "passed") for one in found}


def test_a_report_for_continuous_integration(run: Skyward, project: Path) -> None:
    file = project / "out" / "junit.xml"

    done = run("train.py:folds", "--junitxml", str(file))
    suite = xml.parse(file).getroot().find("testsuite")

    assert done.code == 1
    assert "junit" not in done.err
    assert suite is not None
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "5", "failures": "1", "errors": "0", "skipped": "0",
    }  # fmt: skip
    assert cases(file) == {f"fold[{i}]": "failure" if i == 3 else "passed" for i in range(5)}
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "ValueError: fold 3 is bad"
    assert "train.py:" in str(failure.text)
    assert os.listdir(file.parent) == ["junit.xml"]


def test_what_did_not_start_is_skipped_in_the_report(run: Skyward, project: Path) -> None:
    file = project / "junit.xml"
    (project / "slow.py").write_text(
        "import time\nimport skyward as sky\n\n@sky.compute\ndef step(i):\n    time.sleep(0.05)\n    assert i != 3\n\n"
        "def steps():\n    for i in range(60):\n        yield step(i)\n"
    )

    run("slow.py:steps", "-x", "--junitxml", str(file))

    told = cases(file)
    assert len(told) == 60
    assert told["step[3]"] == "failure"
    assert told["step[59]"] == "skipped"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("driver", {"fold": "passed", "fold[1]": "passed"}),
        ("own_failure", {"fold": "passed", "own_failure": "failure"}),
    ],
)
def test_tasks_of_a_driver_are_reported_and_it_is_itself_only_when_it_fails(
    run: Skyward, project: Path, target: str, expected: dict[str, str]
) -> None:
    run(f"train.py:{target}", "--junitxml", "junit.xml")

    told = cases(project / "junit.xml")

    assert {re.sub(r"^fold\[0]$", "fold", name): what for name, what in told.items()} == expected


def test_characters_that_xml_cannot_hold_do_not_spoil_the_report(run: Skyward, project: Path) -> None:
    (project / "odd.py").write_text("def odd():\n    raise ValueError('a\\x00b\\x1b<&\\ud800 \\U0001f600')\n")

    run("odd.py:odd", "--junitxml", "junit.xml")

    assert cases(project / "junit.xml") == {"odd": "failure"}


# -- --report-log --------------------------------------------------------------------------------------------------


def test_every_event_is_a_line_of_the_report_log(run: Skyward, project: Path) -> None:
    run("train.py:folds", "--report-log", "log.jsonl", "--env", "API_KEY=hush-hush-hush", "--", "-n", "2")
    text = (project / "log.jsonl").read_text()

    kinds = [json.loads(line)["event"] for line in text.splitlines()]

    assert kinds[0] == "RunStarted"
    assert kinds[-1] == "RunFinished"
    assert kinds.count("TaskFinished") == 2
    assert "hush-hush" not in text


@pytest.mark.parametrize("option", ["--junitxml", "--report-log"])
def test_a_report_that_cannot_be_written_is_refused_before_anything_starts(run: Skyward, option: str) -> None:
    done = run("train.py:folds", option, "/dev/null/report")

    assert done.code == 2
    assert f"error: {option} '/dev/null/report' cannot be written: " in done.err
    assert "provision" not in done.err
