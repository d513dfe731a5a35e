from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import math
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward.errors import ArgumentError
from skyward.session.arguments import Call, Signature


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


Seed = NewType("Seed", int)


def train(
    data: Path,
    epochs: int = 3,
    *,
    lr: float = 0.1,
    shuffle: bool = True,
    mode: Literal["fast", "slow"] = "fast",
    tag: list[str] = [],  # noqa: B006
    colour: Colour = Colour.RED,
    cap: Optional[int] = None,  # noqa: UP045
    wait: datetime.timedelta | None = None,
    limits: dict[str, int] = {},  # noqa: B006
    size: tuple[int, int] = (1, 1),
    seed: Annotated[Seed, "any"] = Seed(0),
) -> None: ...


def call(function: Any, *words: str, row: Any = None) -> Call:
    return Signature.of(function, "train.py:train").from_words(words, row)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["x"], {"data": Path("x")}),
        (["x", "4"], {"data": Path("x"), "epochs": 4}),
        (["--data", "x", "--epochs=4"], {"data": Path("x"), "epochs": 4}),
        (["data=x", "lr=2"], {"data": Path("x"), "lr": 2.0}),
        (["x", "--no-shuffle"], {"data": Path("x"), "shuffle": False}),
        (["x", "--shuffle"], {"data": Path("x"), "shuffle": True}),
        (["x", "shuffle=no"], {"data": Path("x"), "shuffle": False}),
        (["x", "--mode", "slow"], {"data": Path("x"), "mode": "slow"}),
        (["x", "--tag", "a", "--tag", "b"], {"data": Path("x"), "tag": ["a", "b"]}),
        (["x", 'tag=["a", "b"]'], {"data": Path("x"), "tag": ["a", "b"]}),
        (["x", "--tag", "[ab]*"], {"data": Path("x"), "tag": ["[ab]*"]}),
        (["x", "--colour", "BLUE"], {"data": Path("x"), "colour": Colour.BLUE}),
        (["x", "--colour", "b"], {"data": Path("x"), "colour": Colour.BLUE}),
        (["x", "--cap", "none"], {"data": Path("x"), "cap": None}),
        (["x", "--cap", "7"], {"data": Path("x"), "cap": 7}),
        (["x", "--wait", "1m30s"], {"data": Path("x"), "wait": datetime.timedelta(seconds=90)}),
        (["x", "limits=a=1", "limits=b=2"], {"data": Path("x"), "limits": {"a": 1, "b": 2}}),
        (["x", "--size", "2", "--size", "3"], {"data": Path("x"), "size": (2, 3)}),
        (["x", "seed=5"], {"data": Path("x"), "seed": 5}),
        (["x", "-5"], {"data": Path("x"), "epochs": -5}),
        (["--", "--epochs"], {"data": Path("--epochs")}),
    ],
)
def test_words_become_values_of_the_annotated_types(words: list[str], named: dict[str, Any]) -> None:
    found = call(train, *words)

    assert found.named == named
    assert [type(value) for value in found.named.values()] == [type(value) for value in named.values()]


@pytest.mark.parametrize(
    ("words", "parameter", "message"),
    [
        (["x", "three"], "epochs", "epochs='three' is not an int"),
        (["x", "--epochs", "3.0"], "epochs", "epochs='3.0' is not an int"),
        (["x", "--lr", "fast"], "lr", "lr='fast' is not a float"),
        (["x", "shuffle=maybe"], "shuffle", "shuffle='maybe' is not true or false"),
        (["x", "--mode", "medium"], "mode", "mode='medium' is not one of 'fast', 'slow'"),
        (["x", "--colour", "green"], "colour", "colour='green' is not one of 'RED', 'BLUE'"),
        (["x", "--cap", "many"], "cap", "cap='many' is not an int"),
        (["x", "--wait", "long"], "wait", "wait='long' is not a duration (90s, 2h30m)"),
        (["x", "--size", "2"], "size", "size='2' is not a tuple of 2 values (int, int)"),
        (["x", "limits=a"], "limits", "limits='a' is not KEY=VALUE or a JSON object"),
        (["x", "--epoch", "3"], "epoch", "no parameter 'epoch' (given as '--epoch'); did you mean 'epochs'?"),
        (["x", "--lr"], "lr", "--lr has no value: it wants a float"),
        (["x", "--epochs=1", "--epochs=2"], "epochs", "epochs is given twice: '1' and '2'"),
        (["x", "1", "2"], None, "one argument too many: '2'"),
        ([], "data", "no value for 'data': it wants a path"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_and_what_was_expected(
    words: list[str], parameter: str | None, message: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        call(train, *words)

    assert caught.value.message == f"train.py:train: {message}"
    assert caught.value.values["parameter"] == parameter
    assert caught.value.hints[0].startswith("usage: skyward run train.py:train -- DATA [--epochs INT]")


def test_a_plain_value_with_an_equals_sign_goes_behind_a_second_dash_dash() -> None:
    with pytest.raises(ArgumentError) as caught:
        call(train, "a=b")

    assert caught.value.hints[1] == "a plain value with '=' in it goes after a second --: -- -- a=b"
    assert call(train, "--", "a=b").named == {"data": Path("a=b")}


def test_positions_stay_positions_and_names_stay_names() -> None:
    def odd(a: int, b: int = 2, /, *rest: int, key: int = 0, **more: float) -> None: ...

    assert call(odd, "1", "2", "3", "4", "--key", "5", "x=6") == Call(
        args=(1, 2, 3, 4),
        kwargs={"key": 5, "x": 6.0},
        named={"a": 1, "b": 2, "rest": (3, 4), "key": 5, "x": 6.0},
    )
    assert call(odd, "b=3", "a=1").args == (1, 3)


def test_a_positional_only_gap_is_filled_with_the_default() -> None:
    def gap(a: int = 1, b: int = 2, /) -> None: ...

    assert call(gap, "b=5").args == (1, 5)


def test_a_list_by_position_takes_all_words_that_follow() -> None:
    def head(count: int, files: list[Path]) -> None: ...

    assert call(head, "3", "a", "b").named == {"count": 3, "files": [Path("a"), Path("b")]}


def test_without_annotations_the_default_or_the_text_decides() -> None:
    def loose(a, b=1.5, c=None, d=False): ...  # type: ignore[no-untyped-def]

    assert call(loose, "3", "2", "word", "--d").named == {"a": 3, "b": 2.0, "c": "word", "d": True}
    with pytest.raises(ArgumentError, match="b='x' is not a float"):
        call(loose, "3", "x")


def test_annotations_that_cannot_be_resolved_count_as_absent_except_the_plain_ones() -> None:
    def later(a: "int", b: "NoSuchThing" = None) -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037

    with pytest.raises(ArgumentError, match="a='x' is not an int"):
        call(later, "x")
    assert call(later, "1", "2").named == {"a": 1, "b": 2}


def test_functions_of_builtin_modules_take_arguments_too() -> None:
    assert call(math.hypot, "3", "4").args == (3, 4)
    assert call(math.sqrt, "2").args == (2,)


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"data": "x", "lr": 2}, {"data": Path("x"), "lr": 2.0}),
        (["x", 3], {"data": Path("x"), "epochs": 3}),
        ("x", {"data": Path("x")}),
        (
            {"data": "x", "tag": ["a"], "colour": "b"},
            {"data": Path("x"), "tag": ["a"], "colour": Colour.BLUE},
        ),
        ({"data": "x", "cap": None, "size": [2, 3]}, {"data": Path("x"), "cap": None, "size": (2, 3)}),
    ],
)
def test_a_row_of_json_is_one_call(row: Any, named: dict[str, Any]) -> None:
    assert call(train, row=row).named == named


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"data": "x", "epochs": "3"}, "epochs='3' is not an int"),
        ({"data": "x", "epochs": True}, "epochs=True is not an int"),
        ({"data": 3}, "data=3 is not a path"),
        ({"data": "x", "epoch": 3}, "no parameter 'epoch' (given as 'epoch'); did you mean 'epochs'?"),
        (["x", 3, 4], "one argument too many: '4'"),
        ({}, "no value for 'data': it wants a path"),
    ],
)
def test_a_row_is_checked_like_words(row: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call(train, row=row)

    assert caught.value.message == f"train.py:train: {message}"


def test_words_apply_to_every_row() -> None:
    assert call(train, "--lr", "2", row={"data": "x"}).named == {"data": Path("x"), "lr": 2.0}


def test_the_usage_line_shows_every_parameter() -> None:
    def odd(a: int, *rest: str, key: decimal.Decimal, **more: int) -> None: ...

    assert (
        Signature.of(odd, "m:odd").usage == "skyward run m:odd -- A [REST ...] --key DECIMAL [NAME=VALUE ...]"
    )
    assert "[--shuffle | --no-shuffle] [--mode fast|slow] [--tag STR ...]" in Signature.of(train, "t").usage
    assert "[--size INT --size INT]" in Signature.of(train, "t").usage
    assert Signature.of(lambda: None, "m:f").usage == "skyward run m:f"


@given(
    st.integers(), st.floats(allow_nan=False), st.booleans(), st.text(), st.lists(st.integers(), min_size=1)
)
def test_what_a_value_prints_as_is_read_back_as_that_value(
    whole: int, real: float, flag: bool, text: str, many: list[int]
) -> None:
    def f(*, a: int, b: float, c: bool, d: str, e: list[int]) -> None: ...

    words = [f"--a={whole}", f"--b={real!r}", f"--c={flag}", f"--d={text}", *(f"--e={each}" for each in many)]

    assert call(f, *words).named == {"a": whole, "b": real, "c": flag, "d": text, "e": many}


@given(st.lists(st.text(max_size=12), max_size=6))
def test_no_words_whatever_raise_anything_but_an_argument_error(words: list[str]) -> None:
    with contextlib.suppress(ArgumentError):
        call(train, *words)


def test_every_kind_of_the_typing_module_is_described() -> None:
    for kind in (
        typing.Sequence[int],
        typing.Mapping[str, float],
        frozenset[str],
        tuple[int, ...],
        "x",
        typing.Any,
    ):

        def f(a) -> None: ...  # type: ignore[no-untyped-def]

        f.__annotations__["a"] = kind
        assert Signature.of(f, "m:f").usage.startswith("skyward run m:f -- A")
