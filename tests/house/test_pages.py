"""Every page runs from top to bottom and prints what it says it prints."""

from __future__ import annotations

import urllib.request
from functools import cache
from pathlib import Path

import blocks
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@cache
def has_no_index() -> bool:
    """Whether packages cannot be fetched from where they usually are."""
    try:
        urllib.request.urlopen("https://pypi.org/simple/humanize/", timeout=10).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).with_suffix("").as_posix())
def test_a_page_runs_and_prints_what_it_says(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    page = path.read_text(encoding="utf-8")
    stage = blocks.Stage(tmp_path)
    for name in blocks.machines_of(page):
        machine = request.getfixturevalue("make_sshd")()
        stage.add_machine(
            name,
            address=machine.address,
            port=machine.port,
            user=machine.user,
            identity=machine.identity,
            known=machine.known_hosts_lines,
        )
    missing = {"a package index": has_no_index()} if "needs: a package index" in page else {}

    wrong = [
        f"line {said.line}: {said.what}: {said.problem}\n{said.actual}"
        for said in blocks.play(page, stage, missing)
        if not said.is_right
    ]

    assert not wrong, "\n".join(
        [*wrong, "if the page is what is wrong: python docs/generate.py --outputs PAGE"]
    )


# -- the reader of pages itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("ok  12ms\n", "ok  1.30 s\n", True),
        ("SEEN\n124d!\n", "SEEN\n7d\n", True),
        ("a   b\n", "a b\n", True),
        ("first\n...\nlast\n", "first\nof\nmany\nlast\n", True),
        ("from $0.80 ...\n", "from $0.80 up\n", True),
        ("from $0.80\n", "from $0.90\n", False),
        ("first\n", "first\nsecond\n", False),
        ("first\n...\nlast\n", "first\nlater\n", False),
        ("", "anything\n", False),
        ("", "", True),
    ],
)
def test_what_varies_matches_and_nothing_else(expected: str, actual: str, same: bool) -> None:
    assert blocks.matches(expected, actual) is same


def test_a_wrong_page_is_found_out(tmp_path: Path) -> None:
    page = "# P\n\n```console\n$ echo one\ntwo\n$ false\n```\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n"

    told = list(blocks.play(page, blocks.Stage(tmp_path)))

    assert [(said.what, said.problem) for said in told] == [
        ("echo one", "it prints something else"),
        ("false", "exit status 1"),
        ("python", ""),
    ]
