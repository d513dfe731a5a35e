"""Sizes, durations, counts and ranges: what is in the grammar round-trips, what is not is refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skyward.errors import ExitCode, SizeError
from skyward.model.sizes import (
    Range,
    format_count,
    format_duration,
    format_memory,
    parse_count,
    parse_count_range,
    parse_duration,
    parse_memory,
    parse_memory_range,
)

PARSERS: list[Callable[[Any], Any]] = [
    parse_memory,
    parse_duration,
    parse_count,
    parse_memory_range,
    parse_count_range,
]


@pytest.mark.parametrize(
    ("spelling", "gib"),
    [
        ("80GB", 80.0),
        ("80GiB", 80.0),
        ("80 gb", 80.0),
        ("80G", 80.0),
        ("80", 80.0),
        (80, 80.0),
        (22.4, 22.4),
        (Fraction(1, 2), 0.5),
        ("512MB", 0.5),
        ("512 MiB", 0.5),
        ("1.5TB", 1536.0),
        (" 2tib ", 2048.0),
        (".5GB", 0.5),
    ],
)
def test_memory_is_gib_however_it_is_spelled(spelling: object, gib: float) -> None:
    assert parse_memory(spelling) == gib


@pytest.mark.parametrize(
    ("spelling", "seconds"),
    [
        ("90s", 90.0),
        ("90", 90.0),
        (90, 90.0),
        (1.5, 1.5),
        ("2h30m", 9000.0),
        ("2 h 30 min", 9000.0),
        ("2.5h", 9000.0),
        ("24h", 86400.0),
        ("7d", 604800.0),
        ("1w", 604800.0),
        ("1d12h", 129600.0),
        ("250ms", 0.25),
        ("1m500ms", 60.5),
        ("2 hours", 7200.0),
        (timedelta(minutes=3), 180.0),
        (0, 0.0),
    ],
)
def test_durations_are_seconds_however_they_are_spelled(spelling: object, seconds: float) -> None:
    assert parse_duration(spelling) == seconds


@pytest.mark.parametrize(
    ("spelling", "range_"),
    [
        ("4..8", Range(4, 8)),
        (" 4 .. 8 ", Range(4, 8)),
        ("4..", Range(4, None)),
        ("..8", Range(None, 8)),
        ("8", Range(8, None)),
        (4, Range(4, None)),
        ("8..8", Range(8, 8)),
        ("0.25", Range(0.25, None)),
        (Range(1, 2), Range(1, 2)),
    ],
)
def test_a_bare_count_is_a_lower_bound(spelling: object, range_: Range) -> None:
    assert parse_count_range(spelling) == range_


@pytest.mark.parametrize(
    ("spelling", "range_"),
    [
        ("24GB..80GB", Range(24, 80)),
        ("24..80GB", Range(24, 80)),
        ("24GB..", Range(24, None)),
        ("..80GB", Range(None, 80)),
        ("512MB..1TB", Range(0.5, 1024)),
        ("32GB", Range(32, None)),
    ],
)
def test_a_bare_size_is_a_lower_bound(spelling: object, range_: Range) -> None:
    assert parse_memory_range(spelling) == range_


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        "..",
        "lots",
        "-1",
        "-5GB",
        -5,
        "1..2..3",
        "80 XB",
        "1e3",
        "0x10",
        "1_000",
        "١٢",
        "nan",
        "inf",
        math.nan,
        math.inf,
        10**400,
        "9" * 400,
        True,
        None,
        [],
        {},
        b"80GB",
        "80GB\nrm -rf /",
        "5" + "0" * 300 + "q",
        timedelta(seconds=-1),
    ],
)
def test_what_is_no_size_is_refused_in_one_line_with_two_examples(
    parse: Callable[[Any], Any], value: Any
) -> None:
    with pytest.raises(SizeError) as caught:
        parse(value)

    message = caught.value.message
    example_one, example_two = message.rpartition(": write it like ")[2].split(" or ")
    assert "\n" not in message
    assert len(message) < 200
    assert caught.value.values["value"] is value
    assert caught.value.exit_code is ExitCode.USAGE
    assert parse(example_one.strip("'")) != parse(example_two.strip("'"))


@pytest.mark.parametrize(
    ("parse", "value"),
    [(parse_count_range, "8..4"), (parse_memory_range, "64GB..512MB"), (parse_memory_range, "8..0")],
)
def test_a_range_with_its_ends_turned_around_is_told_so(parse: Callable[[Any], Any], value: str) -> None:
    with pytest.raises(SizeError, match="its low end is above its high end") as caught:
        parse(value)

    assert repr(value) in caught.value.message


@pytest.mark.parametrize("value", ["30m2h", "1h1h", "5s3m", "1m1min", "1x", "2h30", "h", "1 2h"])
def test_units_of_a_duration_fall_so_that_a_slip_is_no_sum(value: str) -> None:
    with pytest.raises(SizeError, match="is not a duration"):
        parse_duration(value)


@pytest.mark.parametrize("value", [0, "0", "0GB", "0.0"])
def test_nothing_is_no_memory_and_no_count(value: object) -> None:
    with pytest.raises(SizeError):
        parse_memory(value)
    with pytest.raises(SizeError):
        parse_memory_range(value)


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_a_size_error(text: str) -> None:
    for parse in PARSERS:
        assert "\n" not in message_of(parse, text)


@given(st.integers(min_value=1, max_value=10**7))
def test_whole_gib_round_trip_exactly_below_ten_tib_and_to_a_part_in_a_thousand_above(gib: int) -> None:
    again = parse_memory(format_memory(gib))

    assert again == gib if gib < 10240 or gib % 1024 == 0 else math.isclose(again, gib, rel_tol=1e-3)


@given(st.integers(min_value=1, max_value=1023))
def test_whole_mib_below_one_gib_round_trip_exactly(mib: int) -> None:
    assert parse_memory(format_memory(mib / 1024)) == mib / 1024


@given(st.integers(min_value=0, max_value=10**9))
@example(59)
@example(60)
@example(86400)
def test_whole_seconds_round_trip_exactly(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=59_999))
def test_milliseconds_round_trip_below_a_minute(milliseconds: int) -> None:
    seconds = milliseconds / 1000

    assert math.isclose(parse_duration(format_duration(seconds)), seconds, abs_tol=1e-6)


def message_of(parse: Callable[[Any], Any], text: str) -> str:
    """Why `text` is refused; nothing where it is not."""
    try:
        parse(text)
    except SizeError as error:
        return error.message
    return ""


ENDS = st.one_of(st.none(), st.integers(min_value=1, max_value=4096))


@given(ENDS, ENDS)
def test_ranges_round_trip_in_both_grammars(low: int | None, high: int | None) -> None:
    if low is None and high is None:
        return
    if low is not None and high is not None and low >= high:
        low, high = high, low + 1
    asked = Range(low, high)

    assert parse_count_range(asked.spelled(format_count)) == asked
    assert parse_memory_range(asked.spelled(format_memory)) == asked


@given(ENDS, ENDS, st.floats(min_value=0, max_value=5000))
def test_a_range_has_both_its_ends_and_what_lies_between(
    low: int | None, high: int | None, value: float
) -> None:
    if low is not None and high is not None and low > high:
        low, high = high, low
    asked = Range(low, high)

    assert (value in asked) == ((low is None or low <= value) and (high is None or value <= high))
    assert all(end in asked for end in (low, high) if end is not None)


@pytest.mark.parametrize("ends", [(2, 1), (-1, None), (None, math.nan), (math.inf, None)])
def test_a_range_that_holds_nothing_is_refused(ends: tuple[float | None, float | None]) -> None:
    with pytest.raises(SizeError):
        Range(*ends)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (1.5, "1.5s"), (90, "1m30s"), (9000, "2h30m"), (604800, "7d")],
)
def test_durations_are_shown_in_the_units_people_use(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("gib", "text"), [(80, "80GB"), (0.5, "512MB"), (22.352, "22.35GB"), (1472, "1472GB"), (2048, "2TB")]
)
def test_memory_is_shown_in_the_units_people_use(gib: float, text: str) -> None:
    assert format_memory(gib) == text
