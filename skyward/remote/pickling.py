"""Says which part of a value cannot be pickled, by the path to it. Runs on the client and on instances.

cloudpickle is the judge: a part is to blame when it cannot be pickled by itself. Starting at the whole value, the
search goes to the first part to blame, and on from there; long containers are halved rather than tried one by
one. Standard library and cloudpickle only; Python >= 3.11.
"""

from __future__ import annotations

import reprlib
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

Steps = tuple[str, ...]
"""What leads from a value to one of its parts."""
Group = tuple[list[Any], Callable[[int], Steps]]
"""Parts of a value, and how the part of an index is reached."""
Judge = Callable[[Any], bool]

LIMIT_S = 5.0
"""When the search stops and names what it has found so far."""
LIMIT_PARTS = 1000
_SHOWN_STEPS = 24
"""A longer path is shown without its middle."""

_names = reprlib.Repr()
_names.maxstring = _names.maxother = 60
_names.maxlong = 30


def explain_unpicklable(value: Any, label: str = "", *, can_pickle: Judge | None = None) -> str:
    """The path from `value` to its innermost part that cannot be pickled, and the type of that part.

    `label` says what the value is, and begins the path ("argument 'x'", "result of f"); a function called
    `label` begins with what is wrong about it.

        closure of f -> 'conn' -> _thread.lock
        argument 'x' -> ['a'] -> .lock -> _thread.lock
        result of f -> [3] -> generator

    Bounded in time; never raises for what the value does, and leaves it unchanged.
    """
    search = _Search(can_pickle or _can_pickle)
    steps, culprit, reason = search.run(value)
    is_named = type(value) is types.FunctionType and label in ("", value.__name__, value.__qualname__)
    path = [*([] if is_named and steps else [label] if label else []), *steps, reason or type_name(culprit)]
    if len(path) > _SHOWN_STEPS:
        half = _SHOWN_STEPS // 2
        path = [*path[:half], f"... {len(path) - _SHOWN_STEPS} more ...", *path[-half:]]
    return " -> ".join(path)


def type_name(value: Any) -> str:
    """`_thread.lock` for a lock, `generator` for a generator, `class m.C` for a class."""
    is_class = issubclass(type(value), type)
    kind = value if is_class else type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return ("class " if is_class else "") + module + _short(kind.__qualname__)


def _short(qualname: str) -> str:
    """What a function or class is called where it is written: `f` for `main.<locals>.f`."""
    return qualname.rpartition("<locals>.")[2]


def _can_pickle(value: Any) -> bool:
    import cloudpickle

    try:
        cloudpickle.Pickler(_Nowhere(), 5, buffer_callback=_leave_out).dump(value)
    except Exception as error:
        if isinstance(error, RecursionError) or isinstance(error.__context__, RecursionError):
            raise RecursionError from error
        return False
    return True


class _Nowhere:
    """A file that keeps nothing, so that judging costs no memory."""

    def write(self, data: Any) -> int:
        return len(data)


def _leave_out(buffer: Any) -> None:
    """Large buffers are not copied to be judged."""


class _Search:
    """One way down from a value to what is to blame."""

    def __init__(self, can_pickle: Judge) -> None:
        self._can_pickle = can_pickle
        self._until = time.monotonic() + LIMIT_S
        self._seen: dict[int, Any] = {}  # the parts are held, so that no other object gets their id

    def run(self, value: Any) -> tuple[list[str], Any, str]:
        """Steps to the culprit, the culprit, and a reason where its type does not say it all.

        A part may be to blame only because it leads back to where the search came from; then the search
        turns round and takes the next one.
        """
        way: list[tuple[Steps, Any]] = [((), value)]
        dead_end = way.copy()
        for _ in range(LIMIT_PARTS):
            value = way[-1][1]
            self._seen[id(value)] = value
            try:
                found = self._first_to_blame(value)
            except RecursionError:
                return _joined(way), value, f"{type_name(value)}, nested too deeply"
            if found is not None:
                way.append(found)
            elif not self._leads_back(value):
                return _joined(way), value, ""
            else:
                dead_end = max(dead_end, way.copy(), key=len)
                way.pop()
            if not way:
                break
        return _joined(dead_end), dead_end[-1][1], ""

    def _first_to_blame(self, value: Any) -> tuple[Steps, Any] | None:
        """The first part, not seen before, that cannot be pickled by itself."""
        for parts, steps in _groups(value):
            index = self._find(parts)
            if index is not None:
                return steps(index), parts[index]
        return None

    def _leads_back(self, value: Any) -> bool:
        return any(id(part) in self._seen for parts, _ in _groups(value) for part in parts)

    def _find(self, parts: list[Any]) -> int | None:
        """Index of a part that cannot be pickled: halves the parts until one is left."""
        left = [i for i, part in enumerate(parts) if type(part) not in _ATOMS and id(part) not in self._seen]
        if not left or time.monotonic() > self._until or self._is_fine(parts, left):
            return None
        while len(left) > 1:
            first = left[: len(left) // 2]
            left = left[len(first) :] if self._is_fine(parts, first) else first
        return left[0]

    def _is_fine(self, parts: list[Any], which: list[int]) -> bool:
        return self._can_pickle(parts[which[0]] if len(which) == 1 else [parts[i] for i in which])


def _joined(way: list[tuple[Steps, Any]]) -> list[str]:
    return [step for steps, _ in way for step in steps]


_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray))


# -- the parts of a value, in groups that are searched one after the other --------------------------------------


def _groups(value: Any) -> Iterator[Group]:
    for kind, groups in _KINDS:
        if issubclass(type(value), kind):  # a value may lie about its __class__, or fail to tell
            yield from groups(value)
            break
    if type(value) not in _COMPLETE and not issubclass(type(value), type):
        yield from _object_groups(value)


def _named(pairs: Iterable[tuple[Steps, Any]]) -> Group:
    names, parts = [], []
    for name, part in pairs:
        names.append(name)
        parts.append(part)
    return parts, names.__getitem__


def _mapping_groups(value: dict[Any, Any]) -> Iterator[Group]:
    keys = list(dict.keys(value))
    yield list(dict.values(value)), lambda index: (f"[{_repr(keys[index])}]",)
    yield keys, lambda index: (f"key {_repr(keys[index])}",)


def _sequence_groups(value: Iterable[Any]) -> Iterator[Group]:
    yield list(value), lambda index: (f"[{index}]",)


def _set_groups(value: Iterable[Any]) -> Iterator[Group]:
    yield list(value), lambda index: ("{item}",)


def _function_groups(value: types.FunctionType) -> Iterator[Group]:
    code, name, scope = value.__code__, _short(value.__qualname__), value.__globals__
    cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
    yield _named(((f"closure of {name}", repr(v)), c.cell_contents) for v, c in cells if _is_filled(c))
    yield _named(((f"default of {name}", repr(v)), part) for v, part in _defaults(value))
    yield _named(((f"global of {name}", repr(v)), scope[v]) for v in _global_names(code) if v in scope)
    yield _named(((f"attribute of {name}", repr(v)), part) for v, part in vars(value).items())


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    code, defaults = function.__code__, function.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    yield from zip(positional[len(positional) - len(defaults) :], defaults, strict=True)
    yield from (function.__kwdefaults__ or {}).items()


def _global_names(code: types.CodeType) -> dict[str, None]:
    """Names a function, and the functions inside it, may look up in its module; in order, once each."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _method_groups(value: types.MethodType) -> Iterator[Group]:
    yield _attributes(value, ("__self__", "__func__"))


def _partial_groups(value: partial[Any]) -> Iterator[Group]:
    yield _attributes(value, ("func",))
    yield list(value.args), lambda index: (".args", f"[{index}]")
    yield _named(((".keywords", f"[{_repr(key)}]"), part) for key, part in value.keywords.items())


def _wrapper_groups(value: Any) -> Iterator[Group]:
    yield _attributes(value, ("__func__",))


def _property_groups(value: property) -> Iterator[Group]:
    yield _attributes(value, ("fget", "fset", "fdel"))


def _class_groups(value: type) -> Iterator[Group]:
    members = vars(value).items()
    yield _named(((f".{name}",), part) for name, part in members if name not in ("__dict__", "__weakref__"))
    yield list(value.__bases__), lambda index: (".__bases__", f"[{index}]")


def _module_groups(value: types.ModuleType) -> Iterator[Group]:
    yield _named(((f".{name}",), part) for name, part in vars(value).items() if name != "__builtins__")


def _exception_groups(value: BaseException) -> Iterator[Group]:
    yield list(value.args), lambda index: (".args", f"[{index}]")


def _cell_groups(value: types.CellType) -> Iterator[Group]:
    if _is_filled(value):
        yield _attributes(value, ("cell_contents",))


def _attributes(value: Any, names: Sequence[str]) -> Group:
    return [getattr(value, name) for name in names], lambda index: (f".{names[index]}",)


def _object_groups(value: Any) -> Iterator[Group]:
    """What an object gives for its pickle: attributes, or what its own `__reduce__` or `__getstate__` says."""
    reduced = _reduced(value)
    if reduced is None:
        return
    _, arguments, state, items, pairs, *_ = (*reduced, None, None, None)
    yield from _state_groups(value, state)
    yield list(items or ()), lambda index: (f"[{index}]",)
    yield from _mapping_groups(dict(pairs or ()))
    yield _named((_argument_steps(value, index, part), part) for index, part in enumerate(arguments or ()))


def _reduced(value: Any) -> tuple[Any, ...] | None:
    """The answer of `__reduce_ex__`, as cloudpickle would ask for it; None where there is no more to find."""
    import cloudpickle

    reduce = cloudpickle.CloudPickler.dispatch_table.get(type(value))
    try:
        answer = reduce(value) if reduce is not None else value.__reduce_ex__(5)
    except RecursionError:
        raise
    except Exception:
        return None
    return answer if isinstance(answer, tuple) else None


def _state_groups(value: Any, state: Any) -> Iterator[Group]:
    """The state of an object; a pair of dictionaries is attributes and slots."""
    if isinstance(state, tuple) and len(state) == 2 and all(isinstance(part, dict | None) for part in state):
        for part in state:
            yield from _state_groups(value, part)
    elif isinstance(state, dict):
        yield _named((_member_steps(value, key, part), part) for key, part in state.items())
    elif isinstance(state, list | tuple):
        names = {id(part): name for name, part in _visible(value)}
        yield (
            list(state),
            lambda i: (f".{names[id(state[i])]}",) if id(state[i]) in names else ("state", f"[{i}]"),
        )
    elif state is not None:
        yield [state], lambda index: ("state",)


def _member_steps(value: Any, key: Any, part: Any) -> Steps:
    """`.name` for what is an attribute, `state['name']` for what exists in the pickle only."""
    is_attribute = isinstance(key, str) and key.isidentifier() and _attribute(value, key) is part
    return (f".{key}",) if is_attribute else (f"state[{_repr(key)}]",)


def _argument_steps(value: Any, index: int, part: Any) -> Steps:
    """What the object is rebuilt with, under the name of the attribute that holds it, if any does."""
    if part is type(value):
        return (f"class {_short(part.__qualname__)}",)
    for name, visible in _visible(value):
        if visible is part:
            return (f".{name}",)
    return (f"argument {index} of its __reduce__",)


def _visible(value: Any) -> Iterator[tuple[str, Any]]:
    """Attributes that are stored, not computed: those in `__dict__` and in slots."""
    attributes = _attribute(value, "__dict__")
    if isinstance(attributes, dict):
        yield from attributes.items()
    for kind in type(value).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, types.MemberDescriptorType) and not name.startswith("__"):
                yield name, _attribute(value, name)


_MISSING = object()


def _attribute(value: Any, name: str) -> Any:
    try:
        return object.__getattribute__(value, name)
    except Exception:
        return _MISSING


def _repr(key: Any) -> str:
    """A short repr that never fails."""
    try:
        return (
            _names.repr(key)
            if isinstance(key, str | bytes | int | float | tuple | frozenset | None)
            else type_name(key)
        )
    except Exception:
        return type_name(key)


_KINDS: list[tuple[Any, Callable[[Any], Iterator[Group]]]] = [
    (dict, _mapping_groups),
    (list | tuple | deque, _sequence_groups),
    (set | frozenset, _set_groups),
    (types.FunctionType, _function_groups),
    (types.MethodType, _method_groups),
    (partial, _partial_groups),
    (staticmethod | classmethod, _wrapper_groups),
    (property, _property_groups),
    (type, _class_groups),
    (types.ModuleType, _module_groups),
    (BaseException, _exception_groups),
    (types.CellType, _cell_groups),
]
_COMPLETE = frozenset(
    {dict, list, tuple, set, frozenset, deque, partial, staticmethod, classmethod, property}
    | {types.FunctionType, types.MethodType, types.ModuleType, types.CellType}
)
"""Types that have no parts beyond those above; their subclasses may have attributes, too."""
