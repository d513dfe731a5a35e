"""Which items `-k` means: names joined by `and`, `or`, `not` and parentheses, as pytest reads them.

Standard library and `errors` only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from skyward.errors import UsageError

Match = Callable[[str], bool]

_TOKEN = re.compile(r"\s*(?:(?P<mark>[()])|(?P<name>[^\s()]+))")


def matcher(expression: str) -> Match:
    """A test of item ids. A name matches where it occurs in the id, in any case; an empty expression matches all.

    Raises:
        UsageError: the expression is not one.
    """
    tokens = [match.group().strip() for match in _TOKEN.finditer(expression)]
    if not tokens:
        return lambda _: True
    return _Parser(expression, tokens).parse()


class _Parser:
    """Recursive descent over three lines of grammar: or of ands of (negated) names or parentheses."""

    def __init__(self, expression: str, tokens: list[str]) -> None:
        self._expression = expression
        self._tokens: Iterator[str] = iter(tokens)
        self._next: str | None = next(self._tokens)

    def parse(self) -> Match:
        found = self._or()
        if self._next is not None:
            raise self._refuse(f"{self._next!r} was not expected")
        return found

    def _or(self) -> Match:
        left = self._and()
        while self._takes("or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Match:
        left = self._not()
        while self._takes("and"):
            left = _both(left, self._not())
        return left

    def _not(self) -> Match:
        if self._takes("not"):
            inner = self._not()
            return lambda name: not inner(name)
        if self._takes("("):
            inside = self._or()
            if not self._takes(")"):
                raise self._refuse("a ')' is missing")
            return inside
        return self._name()

    def _name(self) -> Match:
        word = self._next
        if word is None or word in ("and", "or", ")"):
            raise self._refuse("a name is missing" + (f" before {word!r}" if word else " at the end"))
        self._advance()
        wanted = word.casefold()
        return lambda name: wanted in name.casefold()

    def _takes(self, token: str) -> bool:
        if self._next != token:
            return False
        self._advance()
        return True

    def _advance(self) -> None:
        self._next = next(self._tokens, None)

    def _refuse(self, reason: str) -> UsageError:
        return UsageError(
            f"cannot read -k {self._expression!r}: {reason}",
            facts=["names joined by 'and', 'or', 'not' and parentheses"],
        )


def _either(left: Match, right: Match) -> Match:
    return lambda name: left(name) or right(name)


def _both(left: Match, right: Match) -> Match:
    return lambda name: left(name) and right(name)
