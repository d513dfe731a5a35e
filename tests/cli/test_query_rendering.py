"""Tables, documents and pictures: what fits, what leaves, what is escaped."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.catalog.result import Result
from skyward.cli.chart import COLORS, Series, line_chart
from skyward.cli.moments import parse_moment
from skyward.cli.render import (
    Answer,
    Column,
    age,
    cell_text,
    devices,
    dump,
    markdown,
    plain_rows,
    show,
    table_lines,
    vram,
)
from skyward.errors import UsageError
from skyward.model.money import format_usd

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def column(title: str, **options: Any) -> Column:
    return Column(title=title, text=lambda row: str(row[title]), **options)


# -- tables ---------------------------------------------------------------------------------------------------------


def test_numbers_stand_to_the_right_and_nothing_trails() -> None:
    lines, hidden = table_lines(
        [column("NAME"), column("N", right=True)], [{"NAME": "a", "N": 1}, {"NAME": "bb", "N": 10}]
    )

    assert lines == ["NAME   N", "a      1", "bb    10"]
    assert hidden == []


def test_a_narrow_terminal_hides_the_lightest_columns_first() -> None:
    columns = [column("AAAA", weight=9), column("BBBB", weight=2), column("CCCC", weight=5)]
    rows = [{"AAAA": "a" * 10, "BBBB": "b" * 10, "CCCC": "c" * 10}]

    assert table_lines(columns, rows, 40)[1] == []
    assert table_lines(columns, rows, 30)[1] == ["BBBB"]
    assert table_lines(columns, rows, 15)[1] == ["BBBB", "CCCC"]


def test_what_must_stay_is_cut_as_the_last_resort() -> None:
    lines, hidden = table_lines(
        [column("NAME", weight=9), column("N", right=True, weight=9)], [{"NAME": "x" * 50, "N": 1}], 20
    )

    assert hidden == []
    assert all(len(line) <= 20 for line in lines)
    assert lines[1].endswith("…  1")


def test_a_column_that_says_nothing_leaves() -> None:
    lines, hidden = table_lines([column("A"), column("B")], [{"A": "x", "B": "-"}])

    assert lines == ["A", "x"]
    assert hidden == []


texts = st.text(max_size=30)


@settings(max_examples=200)
@given(st.lists(st.tuples(texts, texts), max_size=5), st.none() | st.integers(20, 200))
def test_every_row_is_one_line_whatever_is_in_it(rows: list[tuple[str, str]], width: int | None) -> None:
    columns = [column("NAME", weight=9), column("OTHER")]

    lines, _ = table_lines(columns, [{"NAME": a, "OTHER": b} for a, b in rows], width)

    assert len(lines) == len(rows) + 1
    assert all("\n" not in line and "\x1b" not in line and "\r" not in line for line in lines)
    if width is None:
        assert not any(
            line.count("…") > a.count("…") + b.count("…")
            for line, (a, b) in zip(lines[1:], rows, strict=True)
        )


def test_markdown_escapes_what_would_break_the_table() -> None:
    assert markdown([column("A")], [{"A": "x|y\\z\nw"}]).splitlines()[2] == "| x\\|y\\\\z w |"


# -- documents --------------------------------------------------------------------------------------------------------


def test_json_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"usd": float("nan")})


def test_times_are_utc_and_details_are_objects() -> None:
    east = datetime(2026, 11, 21, 12, tzinfo=UTC).astimezone()
    result = Result(("observed_at", "details", "none"), ((east, '{"ask": 7}', None), (None, "no json", None)))

    assert plain_rows(result) == [
        {"observed_at": "2026-11-21T12:00:00Z", "details": {"ask": 7}, "none": None},
        {"observed_at": None, "details": "no json", "none": None},
    ]


def test_a_document_is_json_with_a_row_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = Result(("a",), ((1,), (2.5,), (None,)))

    show(Answer(schema="s/1", result=result, columns=(), around={"when": NOW, "list": []}), "json")

    out = capsys.readouterr().out
    assert json.loads(out) == {
        "schema": "s/1",
        "when": "2026-11-21T12:00:00Z",
        "list": [],
        "items": [{"a": 1}, {"a": 2.5}, {"a": None}],
    }
    assert '    {"a": 2.5},\n' in out


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (None, "-"),
        (0.0, "$0.00"),
        (0.0042, "$0.0042"),
        (0.05, "$0.05"),
        (0.1, "$0.10"),
        (2.4045, "$2.40"),
        (1519.104, "$1,519.10"),
    ],
)
def test_money_is_dollars_and_unknown_is_a_dash(amount: float | None, text: str) -> None:
    assert format_usd(amount) == text


@pytest.mark.parametrize(
    ("row", "text", "memory"),
    [
        ({"accelerator": None, "accelerator_count": 0.0}, "-", "-"),
        (
            {"accelerator": "H100-SXM", "accelerator_count": 8.0, "accelerator_memory_gib": 80.0},
            "8x H100-SXM",
            "640GB",
        ),
        ({"accelerator": "L4", "accelerator_count": 0.125, "accelerator_memory_gib": 24.0}, "1/8 L4", "3GB"),
        ({"accelerator": "L4", "accelerator_count": 0.3}, "0.3x L4", "-"),
    ],
)
def test_accelerators_are_counted_in_wholes_and_slices(row: dict[str, Any], text: str, memory: str) -> None:
    assert (devices(row), vram(row)) == (text, memory)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (86400 * 5, "5d"), (-10, "0s")]
)
def test_an_age_is_one_unit(seconds: int, text: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


def test_values_are_written_by_what_their_column_means() -> None:
    assert cell_text("min_usd_per_hour", 2.5, NOW) == "$2.50"
    assert cell_text("memory_gib", 2048.0, NOW) == "2TB"
    assert cell_text("oldest_observed_at", NOW - timedelta(days=2), NOW) == "2d"
    assert cell_text("vcpus", 16.0, NOW) == "16"
    assert cell_text("regions", ["a", "b"], NOW) == "a, b"
    assert cell_text("zone", None, NOW) == "-"


# -- moments ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-01", datetime(2026, 10, 1, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-10-01T08:00", datetime(2026, 10, 1, 8, tzinfo=UTC)),
        ("2026-10-01T08:00+02:00", datetime(2026, 10, 1, 6, tzinfo=UTC)),
        ("30d", NOW - timedelta(days=30)),
        ("2h", NOW - timedelta(hours=2)),
    ],
)
def test_a_day_is_all_of_it_and_an_age_counts_back(text: str, moment: datetime) -> None:
    assert parse_moment(text, "--since", NOW) == moment


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2999-01-01", "", "99999999999999d"])
def test_a_moment_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        parse_moment(text, "--since", NOW)


# -- pictures -------------------------------------------------------------------------------------------------------------


def draw(*series: Series, days: int = 30) -> ElementTree.Element:
    start = NOW - timedelta(days=days)
    text = line_chart(series, title="T <&>", subtitle="s", unit="USD", start=start, end=NOW)
    return ElementTree.fromstring(text)


def paths(picture: ElementTree.Element) -> list[ElementTree.Element]:
    return picture.findall(".//{http://www.w3.org/2000/svg}path")


def day(number: int) -> datetime:
    return NOW - timedelta(days=number)


def test_a_price_holds_until_it_changes_and_to_the_end() -> None:
    (line,) = paths(draw(Series("a", ((day(30), 1.0), (day(15), 2.0)))))

    first, up, end = line.get("d", "").split("H")
    assert first.startswith("M64.0 ")
    assert up.startswith("396.0V")
    assert end.startswith("728.0V")


def test_a_price_that_went_leaves_a_gap() -> None:
    gone = Series("a", ((day(30), 1.0), (day(20), None), (day(10), 2.0)))

    assert len(paths(draw(gone))) == 2


def test_spot_is_dashed_and_colors_differ() -> None:
    one, other = paths(draw(Series("a", ((day(9), 1.0),)), Series("b", ((day(9), 2.0),), is_dashed=True)))

    assert (one.get("stroke-dasharray"), other.get("stroke-dasharray")) == (None, "6 4")
    assert (one.get("stroke"), other.get("stroke")) == COLORS[:2]


prices = st.none() | st.floats(0.0001, 5000)
changes = st.lists(st.tuples(st.integers(0, 400), prices), max_size=12)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.text(max_size=40), changes), max_size=10), st.integers(0, 400))
def test_any_prices_are_well_formed_and_inside_the_picture(
    lines: list[tuple[str, list[tuple[int, float | None]]]], days: int
) -> None:
    printable = [("".join(c for c in label if c.isprintable()), points) for label, points in lines]
    series = [
        Series(label, tuple((day(n), price) for n, price in sorted(points, key=lambda p: -p[0])))
        for label, points in printable
    ]

    picture = draw(*series, days=days)

    for circle in picture.findall(".//{http://www.w3.org/2000/svg}circle"):
        assert 0 <= float(circle.get("cx", "-1")) <= 960
        assert 0 <= float(circle.get("cy", "-1")) <= 440
