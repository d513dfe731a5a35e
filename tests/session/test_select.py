from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward.errors import UsageError
from skyward.session.select import matcher

IDS = ["train.py::fold[0]", "train.py::fold[1]", "train.py::evaluate", "other.py::Fold"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", [0, 1, 2, 3]),
        ("fold", [0, 1, 3]),
        ("FOLD and train", [0, 1]),
        ("fold[1]", [1]),
        ("not fold", [2]),
        ("evaluate or other", [2, 3]),
        ("not (evaluate or other)", [0, 1]),
        ("not not evaluate", [2]),
        ("evaluate or fold and other", [2, 3]),
    ],
)
def test_expressions_select_as_pytest_reads_them(expression: str, expected: list[int]) -> None:
    matches = matcher(expression)

    assert [i for i, name in enumerate(IDS) if matches(name)] == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("fold and", "a name is missing at the end"),
        ("and fold", "a name is missing before 'and'"),
        ("(fold", "a ')' is missing"),
        ("fold)", "')' was not expected"),
        ("fold evaluate", "'evaluate' was not expected"),
        ("not", "a name is missing at the end"),
    ],
)
def test_what_is_no_expression_says_where(expression: str, reason: str) -> None:
    with pytest.raises(UsageError, match="cannot read -k") as caught:
        matcher(expression)

    assert caught.value.message.endswith(reason)


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> str:
    """Python's own grammar of and, or, not over names that are also Python names."""
    kind = draw(st.sampled_from(["name", "not", "and", "or", "paren"] if depth else ["name"]))
    if kind == "name":
        return draw(st.sampled_from(["ab", "bc", "cd", "x"]))
    inner = expressions(depth=depth - 1)
    if kind == "not":
        return f"not {draw(inner)}"
    if kind == "paren":
        return f"({draw(inner)})"
    return f"{draw(inner)} {kind} {draw(inner)}"


@given(expressions(), st.text("abcd", max_size=5))
def test_every_expression_means_what_python_means_by_it(expression: str, name: str) -> None:
    expected = eval(expression, {each: each in name for each in ("ab", "bc", "cd", "x")})

    assert matcher(expression)(name) == expected
