"""The arguments of a task, by its signature: out of a shell's words, or out of a row of JSON.

Everything is checked here, before anything starts or costs. Imports `errors` and `kinds`.
"""

from __future__ import annotations

import inspect
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from inspect import Parameter
from typing import Any

from skyward.errors import ArgumentError
from skyward.session import kinds

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What to call a function with. `named` maps parameter to value, for people and reports."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of one task as a shell sees them. `target` is what the user typed, for usage lines."""

    target: str
    parameters: Mapping[str, Parameter]

    @classmethod
    def of(cls, function: Callable[..., Any], target: str) -> Signature:
        """The signature with its annotations resolved; one that cannot be resolved counts as absent."""
        plain = inspect.unwrap(function)
        try:
            found: Mapping[str, Parameter] = inspect.signature(plain).parameters
        except (ValueError, TypeError):  # some functions written in C tell nothing
            found = {
                "args": Parameter("args", Parameter.VAR_POSITIONAL),
                "kwargs": Parameter("kwargs", Parameter.VAR_KEYWORD),
            }
        hints = _hints(plain)
        return cls(
            target, {name: p.replace(annotation=_kind_of(p, hints.get(name))) for name, p in found.items()}
        )

    def from_words(self, words: Sequence[str], row: Any = None) -> Call:
        """`--epochs 3`, `epochs=3`, `--no-shuffle` and plain positions; `row` adds one JSON row's arguments.

        Raises:
            ArgumentError: unknown, missing, doubled or of the wrong type; names the parameter and the value.
        """
        texts, positional = self._sort(words)
        values = {name: self._value(name, given) for name, given in texts.items()}
        if row is not None:
            names, more = self._row_values(row)
            positional += more
            values |= names
        return self._call(values, positional)

    # -- words -------------------------------------------------------------------------------------------------

    def _sort(self, words: Sequence[str]) -> tuple[dict[str, list[str]], list[Any]]:
        """Texts by parameter, and the words that have only a position."""
        texts: dict[str, list[str]] = {}
        positional: list[Any] = []
        rest = iter(words)
        for word in rest:
            if word == "--":
                positional.extend(_Word(each) for each in rest)
            elif (named := self._split(word, rest)) is not None:
                name, text = named
                if name in texts and not kinds.is_repeated(self._kind(name)):
                    raise self._error(f"{name} is given twice: {texts[name][-1]!r} and {text!r}", name, text)
                texts.setdefault(name, []).append(text)
            else:
                positional.append(_Word(word))
        return texts, positional

    def _split(self, word: str, rest: Iterator[str]) -> tuple[str, str] | None:
        """Parameter and text of a word that names its parameter; None for a plain value."""
        option = word[:1] == "-" and len(word) > 1 and not _is_number(word)
        left, equals, text = word.partition("=")
        if not option:
            return (self._known(left, word), text) if equals and left.isidentifier() else None
        name = left.lstrip("-").replace("-", "_")
        if name.startswith("no_") and name not in self.parameters and self._is_flag(name[3:]) and not equals:
            return name[3:], "false"
        name = self._known(name, word)
        if equals:
            return name, text
        if self._is_flag(name):
            return name, "true"
        if (following := next(rest, None)) is None:
            expected = kinds.describe(self._kind(name))
            raise self._error(f"{word} has no value: it wants {expected}", name, None, expected)
        return name, following

    def _known(self, name: str, word: str) -> str:
        if name in self.parameters and self.parameters[name].kind not in (
            Parameter.VAR_POSITIONAL,
            Parameter.VAR_KEYWORD,
        ):
            return name
        if self._of_kind(Parameter.VAR_KEYWORD) is not None:
            return name
        near = get_close_matches(name, self.parameters, n=1)
        more = f"; did you mean {near[0]!r}?" if near else ""
        error = self._error(f"no parameter {name!r} (given as {word!r}){more}", name, word)
        if "=" in word and word[:1] != "-":
            more = f"a plain value with '=' in it goes after a second --: -- -- {shlex.quote(word)}"
            error.hints = (*error.hints, more)
        raise error

    def _value(self, name: str, texts: Sequence[str]) -> Any:
        try:
            return kinds.from_texts(texts, self._kind(name))
        except kinds.Misfit as misfit:
            text = texts[-1] if len(texts) == 1 else list(texts)
            raise self._misfit(name, text, misfit) from None

    def _row_values(self, row: Any) -> tuple[dict[str, Any], list[Any]]:
        """A JSON object gives arguments by name, an array by position, anything else is the only argument."""
        if isinstance(row, dict):
            values = {self._known(name, name): value for name, value in row.items()}
            return {name: self._json_value(name, value) for name, value in values.items()}, []
        return {}, list(row) if isinstance(row, list) else [row]

    def _json_value(self, name: str, value: Any) -> Any:
        try:
            return kinds.from_json(value, self._kind(name))
        except kinds.Misfit as misfit:
            raise self._misfit(name, value, misfit) from None

    # -- positions ---------------------------------------------------------------------------------------------

    def _call(self, values: dict[str, Any], positional: list[Any]) -> Call:
        bound: dict[str, Any] = {}
        for name, parameter in self.parameters.items():
            if name in values and parameter.kind is not Parameter.VAR_KEYWORD:
                bound[name] = values.pop(name)
            elif positional and parameter.kind in _BY_POSITION:
                bound[name] = self._next_position(name, positional)
            elif parameter.kind is Parameter.VAR_POSITIONAL and positional:
                bound[name] = tuple(self._one_position(name, value) for value in positional)
                positional.clear()
        if positional:
            raise self._error(f"one argument too many: {str(positional[0])!r}", None, positional[0])
        self._refuse_missing(bound)
        return self._assemble(bound, values)

    def _next_position(self, name: str, positional: list[Any]) -> Any:
        """A list that stands by position takes all words that follow."""
        if kinds.is_repeated(self._kind(name)) and all(isinstance(each, _Word) for each in positional):
            words = [str(each) for each in positional]
            positional.clear()
            return self._value(name, words)
        return self._one_position(name, positional.pop(0))

    def _one_position(self, name: str, value: Any) -> Any:
        return self._value(name, [str(value)]) if isinstance(value, _Word) else self._json_value(name, value)

    def _refuse_missing(self, bound: Mapping[str, Any]) -> None:
        for name, parameter in self.parameters.items():
            optional = parameter.default is not Parameter.empty or parameter.kind in (
                Parameter.VAR_POSITIONAL,
                Parameter.VAR_KEYWORD,
            )
            if name in bound or optional:
                continue
            kind = self._kind(name)
            if not kinds.is_supported(kind):
                raise self._error(
                    f"{name} wants {kinds.describe(kind)}, which a shell cannot say", name, None
                )
            wants = kinds.describe(kind)
            more = "" if wants == "a value" else f": it wants {wants}"
            raise self._error(f"no value for {name!r}{more}", name, None)

    def _assemble(self, bound: dict[str, Any], extra: dict[str, Any]) -> Call:
        """By position as far as that goes without a gap, the rest by name."""
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        last_positional = max(
            (i for i, p in enumerate(self.parameters.values()) if _must_stand(p) and p.name in bound),
            default=-1,
        )
        gap = False
        for i, (name, parameter) in enumerate(self.parameters.items()):
            if parameter.kind is Parameter.VAR_POSITIONAL:
                args.extend(bound.get(name, ()))
                gap = True
            elif parameter.kind in _BY_POSITION and not gap and (name in bound or i < last_positional):
                args.append(bound.get(name, parameter.default))
            else:
                gap = True
                kwargs |= {name: bound[name]} if name in bound else {}
        return Call(args=tuple(args), kwargs=kwargs | extra, named=bound | extra)

    # -- in words ----------------------------------------------------------------------------------------------

    @property
    def usage(self) -> str:
        """One line to type: `skyward run train:main -- [--epochs INT] DATA`."""
        words = [word for parameter in self.parameters.values() for word in _usage_words(parameter)]
        return " ".join(["skyward", "run", self.target, *(["--"] if words else []), *words])

    def _kind(self, name: str) -> Any:
        parameter = self.parameters.get(name) or self._of_kind(Parameter.VAR_KEYWORD)
        return parameter.annotation if parameter is not None else Parameter.empty

    def _is_flag(self, name: str) -> bool:
        return name in self.parameters and kinds.is_flag(self.parameters[name].annotation)

    def _of_kind(self, kind: Any) -> Parameter | None:
        return next((parameter for parameter in self.parameters.values() if parameter.kind is kind), None)

    def _misfit(self, name: str, value: Any, misfit: kinds.Misfit) -> ArgumentError:
        return self._error(f"{name}={value!r} is not {misfit.expected}", name, value, misfit.expected)

    def _error(self, message: str, parameter: str | None, value: Any, expected: str = "") -> ArgumentError:
        return ArgumentError(
            f"{self.target}: {message}",
            hints=[f"usage: {self.usage}"],
            parameter=parameter,
            value=str(value) if isinstance(value, _Word) else value,
            expected=expected,
        )


class _Word(str):
    """A positional value as a shell gave it, still to be converted; JSON rows bring converted ones."""

    __slots__ = ()


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations by parameter, each resolved by itself: one that cannot be takes no other with it."""
    found: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        try:
            hints = typing.get_type_hints(_Holder(function, name, annotation), include_extras=True)
        except Exception:  # evaluating the user's annotations runs the user's code
            continue
        found |= hints
    return found


class _Holder:
    """What `get_type_hints` looks at: one annotation, and the names it may use."""

    def __init__(self, function: Callable[..., Any], name: str, annotation: Any) -> None:
        self.__annotations__ = {name: annotation}
        self.__globals__ = getattr(function, "__globals__", {})


def _kind_of(parameter: Parameter, hint: Any) -> Any:
    """The annotation; without one, the type of a plain default."""
    if hint is not None:
        return hint
    if type(parameter.default) in (bool, int, float, str):
        return type(parameter.default)
    return Parameter.empty


def _must_stand(parameter: Parameter) -> bool:
    return parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _usage_words(parameter: Parameter) -> list[str]:
    kind, name = parameter.annotation, parameter.name.replace("_", "-")
    if parameter.kind is Parameter.VAR_POSITIONAL:
        return [f"[{parameter.name.upper()} ...]"]
    if parameter.kind is Parameter.VAR_KEYWORD:
        return ["[NAME=VALUE ...]"]
    required = parameter.default is Parameter.empty
    if kinds.is_flag(kind):
        flags = f"--{name} | --no-{name}"
        return [f"({flags})" if required else f"[{flags}]"]
    labels = [f"--{name} {kinds.label(one)}" for one in kinds.parts(kind) or [kind]]
    word = " ".join(labels)  # a tuple of two values is said by saying its name twice
    if required and parameter.kind is not Parameter.KEYWORD_ONLY:
        word = parameter.name.upper()
    word += " ..." if kinds.is_repeated(kind) and len(labels) == 1 else ""
    return [word if required else f"[{word}]"]
