"""Values of annotated types out of text from a shell, or out of JSON. Standard library only.

A *kind* is what stands in an annotation: `int`, `Literal["a", "b"]`, `list[Path] | None`. Everything here raises
`Misfit`, which says what was expected in words a user knows; who says it of which argument is the caller's.
"""

from __future__ import annotations

import enum
import inspect
import json
import math
import pathlib
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union

EMPTY = inspect.Parameter.empty

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})
_SEQUENCES: dict[Any, Callable[[Any], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    typing.get_origin(Sequence[int]): list,
    typing.get_origin(typing.Iterable[int]): list,
    typing.get_origin(typing.Collection[int]): list,
    typing.get_origin(typing.MutableSequence[int]): list,
    typing.get_origin(typing.AbstractSet[int]): set,
}
_MAPPINGS = {
    dict,
    typing.get_origin(typing.Mapping[str, int]),
    typing.get_origin(typing.MutableMapping[str, int]),
}
_BY_CONSTRUCTOR = {
    "decimal.Decimal": "a decimal number",
    "fractions.Fraction": "a fraction",
    "uuid.UUID": "a UUID",
    "ipaddress.IPv4Address": "an IPv4 address",
    "ipaddress.IPv6Address": "an IPv6 address",
}
_BY_ISO_FORMAT = {
    "datetime.date": "a date (2025-01-31)",
    "datetime.datetime": "a date and time (2025-01-31T12:00)",
    "datetime.time": "a time (12:00)",
}


class Misfit(ValueError):
    """A value is not of its kind; `expected` completes the sentence "is not ..."."""

    def __init__(self, expected: str) -> None:
        super().__init__(expected)
        self.expected = expected


def simplify(kind: Any) -> Any:
    """The kind without `Annotated`, `NewType`, `Final` and type aliases around it."""
    while True:
        if typing.get_origin(kind) in (typing.Annotated, typing.Final, typing.ClassVar):
            kind = typing.get_args(kind)[0]
        elif isinstance(kind, typing.NewType):
            kind = kind.__supertype__
        elif type(kind).__name__ == "TypeAliasType":  # `type X = ...`, Python 3.12 and later
            kind = kind.__value__
        else:
            return kind


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the kind alone. `str` comes last, because every text is one."""
    kind = simplify(kind)
    if typing.get_origin(kind) not in (Union, types.UnionType):
        return (kind,)
    parts = [part for alternative in typing.get_args(kind) for part in members(alternative)]
    return tuple(sorted(parts, key=lambda part: part is str))


def is_flag(kind: Any) -> bool:
    """Whether the argument is given as `--name` and `--no-name`, without a value."""
    return [part for part in members(kind) if part not in (None, type(None))] == [bool]


def is_repeated(kind: Any) -> bool:
    """Whether the argument may be given several times and collects what it is given."""
    return any(_sequence_type(part) or _is_mapping(part) for part in members(kind))


def _sequence_type(kind: Any) -> Callable[[Any], Any] | None:
    return _SEQUENCES.get(typing.get_origin(kind) or kind) if _is_hashable(kind) else None


def _is_mapping(kind: Any) -> bool:
    return _is_hashable(kind) and (typing.get_origin(kind) or kind) in _MAPPINGS


def _is_hashable(kind: Any) -> bool:
    try:
        hash(kind)
    except TypeError:
        return False
    return True


# -- from text -------------------------------------------------------------------------------------------------


def from_texts(texts: Sequence[str], kind: Any) -> Any:
    """The value of an argument that was given `texts`, in order; more than one only where it is repeated.

    A single text that is a JSON array or object stands for the whole sequence or mapping.
    """
    for part in members(kind):
        if (make := _sequence_type(part)) is not None:
            return _sequence(texts, part, make)
        if _is_mapping(part):
            return _mapping(texts, part)
    return from_text(texts[-1], kind)


def from_text(text: str, kind: Any) -> Any:
    parts = members(kind)
    if type(None) in parts and str not in parts and text.lower() in ("none", "null"):
        return None
    for part in parts:
        try:
            return _plain_from_text(text, part)
        except Misfit:
            continue
    raise Misfit(describe(kind))


def guess(text: str) -> Any:
    """What a text means where nothing says what it should be: a number, true, false, none, or itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return None if text.lower() == "none" else text


def _plain_from_text(text: str, kind: Any) -> Any:
    if kind in (EMPTY, Any, object):
        return guess(text)
    if kind is str:
        return text
    if kind is bool:
        return _truth(text)
    if kind in (int, float, complex):
        return _attempt(kind, text, kind)
    if kind is bytes:
        return text.encode()
    if typing.get_origin(kind) is Literal:
        return _one_of(text, {str(value): value for value in typing.get_args(kind)}, kind)
    if isinstance(kind, type):
        return _instance_from_text(text, kind)
    raise Misfit(describe(kind))


def _instance_from_text(text: str, kind: type) -> Any:
    name = f"{kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, enum.Enum):
        choices = {member.name: member for member in kind}
        return _one_of(text, {str(member.value): member for member in kind} | choices, kind)
    if issubclass(kind, pathlib.PurePath) or name in _BY_CONSTRUCTOR:
        return _attempt(kind, text, kind)
    if name == "os.PathLike":
        return pathlib.Path(text)
    if name in _BY_ISO_FORMAT:
        return _attempt(kind.fromisoformat, text, kind)  # type: ignore[attr-defined]
    if name == "datetime.timedelta":
        return _duration(text, kind)
    if (make := _sequence_type(kind)) is not None:
        return _sequence([text], kind, make)
    if _is_mapping(kind):
        return _mapping([text], kind)
    raise Misfit(describe(kind))


def _attempt(make: Callable[[str], Any], text: str, kind: Any) -> Any:
    try:
        return make(text)
    except (ValueError, ArithmeticError):
        raise Misfit(describe(kind)) from None


def _truth(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise Misfit(describe(bool))


def _one_of(text: str, choices: dict[str, Any], kind: Any) -> Any:
    if text in choices:
        return choices[text]
    raise Misfit(describe(kind))


def _duration(text: str, kind: type) -> Any:
    from skyward.errors import SizeError
    from skyward.model.sizes import parse_duration

    try:
        return kind(seconds=parse_duration(text))
    except SizeError:
        raise Misfit(describe(kind)) from None


def _sequence(texts: Sequence[str], kind: Any, make: Callable[[Any], Any]) -> Any:
    if len(texts) == 1 and (values := _json_array(texts[0])) is not None:
        return from_json(values, kind)
    kinds = _element_kinds(kind, len(texts))
    return make(from_text(text, element) for text, element in zip(texts, kinds, strict=True))


def _mapping(texts: Sequence[str], kind: Any) -> dict[str, Any]:
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):
        return dict(from_json(_read_json(texts[0], kind), kind))
    found: dict[str, Any] = {}
    of = (typing.get_args(kind) or (str, EMPTY))[1]
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise Misfit(describe(kind))
        found[key] = from_text(value, of)
    return found


def _json_array(text: str) -> list[Any] | None:
    """The array a text spells; None for any other text, such as the glob pattern `[ab]*`."""
    try:
        values = json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return None
    return values if isinstance(values, list) else None


def _read_json(text: str, kind: Any) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise Misfit(describe(kind)) from None


def _element_kinds(kind: Any, count: int) -> list[Any]:
    """The kind of each of `count` elements; a tuple of fixed length refuses another one."""
    kinds = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and kinds[-1:] != (...,):
        if len(kinds) != count:
            raise Misfit(describe(kind))
        return list(kinds)
    return [kinds[0] if kinds else EMPTY] * count


# -- from JSON -------------------------------------------------------------------------------------------------


def from_json(value: Any, kind: Any) -> Any:
    """A decoded JSON value as its kind. Texts stand for what JSON cannot say: paths, dates, enums."""
    parts = members(kind)
    for part in parts:
        try:
            return _plain_from_json(value, part)
        except Misfit:
            continue
    raise Misfit(describe(kind))


def _plain_from_json(value: Any, kind: Any) -> Any:
    if kind in (EMPTY, Any, object):
        return value
    if kind in (None, type(None)):
        return _same(value, value is None, kind)
    if kind in (str, bool):
        return _same(value, isinstance(value, kind), kind)
    if kind is int:
        return _same(value, isinstance(value, int) and not isinstance(value, bool), kind)
    if kind is float:
        return float(_same(value, isinstance(value, int | float) and not isinstance(value, bool), kind))
    if typing.get_origin(kind) is Literal:
        return _same(value, any(value == c and type(value) is type(c) for c in typing.get_args(kind)), kind)
    if (make := _sequence_type(kind)) is not None:
        values = _same(value, isinstance(value, list), kind)
        kinds = _element_kinds(kind, len(values))
        return make(from_json(each, of) for each, of in zip(values, kinds, strict=True))
    if _is_mapping(kind):
        of = (typing.get_args(kind) or (str, EMPTY))[1]
        return {key: from_json(each, of) for key, each in _same(value, isinstance(value, dict), kind).items()}
    if isinstance(value, str):
        return _plain_from_text(value, kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _one_of(str(value), {str(member.value): member for member in kind}, kind)
    raise Misfit(describe(kind))


def _same(value: Any, fits: bool, kind: Any) -> Any:
    if not fits:
        raise Misfit(describe(kind))
    return value


def to_json(value: Any, room: float = math.inf) -> Any:
    """The value as JSON can hold it without loss a reader would notice: tuples become arrays, dataclasses objects.

    Raises:
        TypeError: it cannot, or it is larger than `room` values and characters; show its `repr` instead.
    """
    return _Encoder(room).of(value)


class _Encoder:
    """Counts what it has converted, so that a value that is too large is given up early."""

    def __init__(self, room: float) -> None:
        self._room = room

    def of(self, value: Any) -> Any:
        self._room -= len(value) if isinstance(value, str) else 1
        if self._room < 0:
            raise TypeError("the value is too large")
        if value is None or (isinstance(value, str | bool | int) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, list | tuple):
            return [self.of(each) for each in value]
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: self.of(each) for key, each in value.items()}
        if isinstance(value, pathlib.PurePath):
            return str(value)
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
            return {name: self.of(getattr(value, name)) for name in value.__dataclass_fields__}
        raise TypeError(f"{type(value).__name__} has no form in JSON")


# -- in words --------------------------------------------------------------------------------------------------


def describe(kind: Any) -> str:
    """What is expected, to follow "is not": `an int`, `one of 'fast', 'slow'`, `a list of ints`."""
    words = [_describe_one(part) for part in members(kind) if part not in (None, type(None))]
    return " or ".join(dict.fromkeys(words)) or "none"


def _describe_one(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(value) for value in typing.get_args(kind))
    if kind is bool:
        return "true or false"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(repr(member.name) for member in kind)
    if (_sequence_type(kind) or _is_mapping(kind)) and typing.get_args(kind):
        return _describe_collection(kind)
    if kind in (EMPTY, Any, object):
        return "a value"
    return _describe_type(kind)


def _describe_collection(kind: Any) -> str:
    elements = typing.get_args(kind)
    word = (typing.get_origin(kind) or kind).__name__.lower()
    if _is_mapping(kind):
        return "KEY=VALUE or a JSON object"
    if word == "tuple" and elements[-1:] != (...,):
        return f"a tuple of {len(elements)} values ({', '.join(label(each).lower() for each in elements)})"
    return f"a {word} of {label(elements[0]).lower()} values"


def _describe_type(kind: Any) -> str:
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
    for table in (_BY_CONSTRUCTOR, _BY_ISO_FORMAT):
        if name in table:
            return table[name]
    if name == "datetime.timedelta":
        return "a duration (90s, 2h30m)"
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        return "a path"
    word = str(getattr(kind, "__name__", kind))
    return f"an {word}" if word[:1].lower() in "aeio" else f"a {word}"


def label(kind: Any) -> str:
    """The kind in one word, for a usage line: `INT`, `fast|slow`, `PATH`."""
    kinds = [part for part in members(kind) if part not in (None, type(None))]
    return "|".join(dict.fromkeys(_label_one(part) for part in kinds)) or "none"


def parts(kind: Any) -> tuple[Any, ...]:
    """The kinds of the elements of a tuple of fixed length, in order; of everything else none."""
    for one in members(kind):
        elements = typing.get_args(one)
        if typing.get_origin(one) is tuple and elements and elements[-1] is not ...:
            return elements
    return ()


def _label_one(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(str(value) for value in typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(member.name for member in kind)
    if isinstance(kind, type) and issubclass(kind, pathlib.PurePath):
        return "PATH"
    if _is_mapping(kind):
        return "KEY=VALUE"
    if _sequence_type(kind) and typing.get_args(kind):
        return label(typing.get_args(kind)[0])
    if kind in (EMPTY, Any, object):
        return "VALUE"
    return str(getattr(kind, "__name__", kind)).upper()


def is_supported(kind: Any) -> bool:
    """Whether a shell can say such a value at all."""
    return any(_is_supported_one(part) for part in members(kind))


def _is_supported_one(kind: Any) -> bool:
    if kind in (EMPTY, Any, object, None, type(None), str, bool, int, float, complex, bytes):
        return True
    if typing.get_origin(kind) is Literal or _sequence_type(kind) or _is_mapping(kind):
        return True
    if not isinstance(kind, type):
        return False
    name = f"{kind.__module__}.{kind.__qualname__}"
    known = {*_BY_CONSTRUCTOR, *_BY_ISO_FORMAT, "os.PathLike", "datetime.timedelta"}
    return issubclass(kind, enum.Enum | pathlib.PurePath) or name in known
