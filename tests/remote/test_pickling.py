"""The path to what cannot be pickled leads to it, wherever it is."""

from __future__ import annotations

import ast
import collections
import dataclasses
import functools
import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.remote.pickling import explain_unpicklable

LOCK = threading.Lock()


def iter_nothing() -> Iterator[int]:
    yield from ()


class Box:
    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def show(self) -> None:
        """Nothing."""


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: Any, second: Any = None) -> None:
        self.first, self.second = first, second


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    inner: Any


Pair = collections.namedtuple("Pair", "left right")


# -- the style -------------------------------------------------------------------------------------------------


def test_a_closure_is_named_as_it_is_written() -> None:
    conn = threading.Lock()

    def f() -> Any:
        return conn

    assert explain_unpicklable(f, f.__qualname__) == "closure of f -> 'conn' -> _thread.lock"
    assert explain_unpicklable(f, "f") == "closure of f -> 'conn' -> _thread.lock"


def test_an_argument_is_named_with_the_way_into_it() -> None:
    value = {"a": Box(lock=LOCK)}

    assert explain_unpicklable(value, "argument 'x'") == "argument 'x' -> ['a'] -> .lock -> _thread.lock"


def test_a_result_is_named_with_the_way_into_it() -> None:
    value = [1, 2, 3, iter_nothing()]

    assert explain_unpicklable(value, "result of f") == "result of f -> [3] -> generator"


def test_a_value_that_is_itself_to_blame_has_no_way() -> None:
    assert explain_unpicklable(LOCK, "argument 'x'") == "argument 'x' -> _thread.lock"


# -- every kind of part ----------------------------------------------------------------------------------------


def _function(**how: Any) -> Callable[..., Any]:
    def g(a: int, b: Any = None, *, c: Any = None) -> Any:
        return a

    g.__defaults__ = (how.get("default"),)
    g.__kwdefaults__ = {"c": how.get("keyword")}
    g.__dict__.update(how.get("attributes", {}))
    return g


def _uses_global() -> Callable[..., Any]:
    scope: dict[str, Any] = {"POOL": LOCK, "__name__": "__main__"}
    exec("def h():\n    return [POOL for _ in range(3)]\n", scope)
    return scope["h"]  # type: ignore[no-any-return]


class Reduces:
    def __reduce__(self) -> Any:
        return Box, (1, [LOCK])


class Stateful:
    def __getstate__(self) -> Any:
        return {"made up": LOCK}


class Refuses:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


def _local_class() -> type:
    class Local:
        registry = (LOCK,)

        def method(self) -> None:
            """Nothing."""

    return Local


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (_function(default=LOCK), "default of g -> 'b' -> _thread.lock"),
        (_function(keyword=LOCK), "default of g -> 'c' -> _thread.lock"),
        (_function(attributes={"cache": LOCK}), "attribute of g -> 'cache' -> _thread.lock"),
        (_uses_global(), "global of h -> 'POOL' -> _thread.lock"),
        (functools.partial(print, 1, LOCK), ".args -> [1] -> _thread.lock"),
        (functools.partial(print, file=LOCK), ".keywords -> ['file'] -> _thread.lock"),
        (functools.partial(_function(default=LOCK)), ".func -> default of g -> 'b' -> _thread.lock"),
        (Box(inner=LOCK).show, ".__self__ -> .inner -> _thread.lock"),
        (Slotted(1, LOCK), ".second -> _thread.lock"),
        (Frozen(LOCK), ".inner -> _thread.lock"),
        (Pair(1, LOCK), "[1] -> _thread.lock"),
        ((1, (2, {"k": {LOCK}})), "[1] -> [1] -> ['k'] -> {item} -> _thread.lock"),
        ({LOCK: 1}, "key _thread.lock -> _thread.lock"),
        (collections.deque([1, LOCK]), "[1] -> _thread.lock"),
        (collections.OrderedDict(a=LOCK), "['a'] -> _thread.lock"),
        (collections.defaultdict(list, a=[LOCK]), "['a'] -> [0] -> _thread.lock"),
        (ValueError("text", LOCK), ".args -> [1] -> _thread.lock"),
        (Reduces(), "argument 1 of its __reduce__ -> [0] -> _thread.lock"),
        (Stateful(), "state['made up'] -> _thread.lock"),
        ([Refuses()], f"[0] -> {__name__}.Refuses"),
        (_local_class(), ".registry -> [0] -> _thread.lock"),
        (_local_class()(), "class Local -> .registry -> [0] -> _thread.lock"),
        ([sys.stdout.buffer if hasattr(sys.stdout, "buffer") else io.BytesIO], None),
    ],
)
def test_every_kind_of_part_is_named(value: Any, expected: str | None) -> None:
    if expected is None:
        assert explain_unpicklable(value, "value").startswith("value -> ")
        return
    assert explain_unpicklable(value, "value").removeprefix("value -> ") == expected


def test_an_array_of_objects_is_searched() -> None:
    numpy = pytest.importorskip("numpy")

    assert (
        explain_unpicklable(numpy.array([1, LOCK], dtype=object), "x")
        == "x -> state -> [4] -> [1] -> _thread.lock"
    )


# -- planted anywhere ------------------------------------------------------------------------------------------

_LEAF = st.sampled_from([0, "text", b"bytes", None, 2.5, (), frozenset({1})])
_KEY = st.one_of(st.text(alphabet="ab'\"\\\n ", max_size=4), st.integers(-2, 2), st.tuples(st.integers(0, 1)))
_WRAPPERS: list[Callable[[Any, list[Any], Any], Any]] = [
    lambda inner, others, key: [*others, inner],
    lambda inner, others, key: [inner, *others],
    lambda inner, others, key: (*others, inner, *others),
    lambda inner, others, key: {**dict(enumerate(others, 10)), key: inner},
    lambda inner, others, key: Box(before=others, inside=inner),
    lambda inner, others, key: Slotted(others, inner),
    lambda inner, others, key: Frozen(inner),
    lambda inner, others, key: Pair(others, inner),
    lambda inner, others, key: collections.OrderedDict([("other", others), (key, inner)]),
    lambda inner, others, key: collections.deque([*others, inner]),
]


def follow(value: Any, steps: list[str]) -> Any:
    """What the steps of an explanation lead to."""
    for step in steps:
        value = getattr(value, step[1:]) if step.startswith(".") else value[ast.literal_eval(step[1:-1])]
    return value


@settings(max_examples=200)
@given(
    wraps=st.lists(st.tuples(st.sampled_from(_WRAPPERS), st.lists(_LEAF, max_size=3), _KEY), max_size=7),
    culprit=st.sampled_from([threading.Lock, iter_nothing]),
    cyclic=st.booleans(),
)
def test_the_path_leads_to_what_was_planted(
    wraps: list[Any], culprit: Callable[[], Any], cyclic: bool
) -> None:
    planted = culprit()
    value, loop = planted, []  # type: ignore[var-annotated]
    for wrap, others, key in wraps:
        value = wrap(value, [*others, loop] if cyclic else others, key)
    loop.append(value)

    label, *steps, kind = explain_unpicklable(value, "value").split(" -> ")

    assert label == "value"
    assert follow(value, steps) is planted
    assert kind in ("_thread.lock", "generator")


# -- bounds ----------------------------------------------------------------------------------------------------


def test_a_circle_ends() -> None:
    circle: list[Any] = []
    circle.append(circle)
    circle.append({"back": circle, "lock": LOCK})

    assert explain_unpicklable(circle, "x") == "x -> [1] -> ['lock'] -> _thread.lock"


def test_functions_that_call_each_other_end() -> None:
    scope: dict[str, Any] = {"LOCK": LOCK, "__name__": "__main__"}
    exec("def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return LOCK and even(n - 1)\n", scope)

    assert (
        explain_unpicklable(scope["even"], "even")
        == "global of even -> 'odd' -> global of odd -> 'LOCK' -> _thread.lock"
    )


def test_a_needle_in_a_large_haystack_is_found_soon() -> None:
    begun = time.monotonic()
    value = {"rows": [*range(500_000), *([number] for number in range(100_000)), LOCK, *range(500_000)]}

    found = explain_unpicklable(value, "x")

    assert found == "x -> ['rows'] -> [600000] -> _thread.lock"
    assert time.monotonic() - begun < 10


def test_what_is_nested_too_deeply_is_said() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    assert explain_unpicklable(deep, "x") == "x -> list, nested too deeply"


def test_a_long_path_is_shown_without_its_middle() -> None:
    value: Any = LOCK
    for _ in range(60):
        value = [value]

    found = explain_unpicklable(value, "x")

    assert re.fullmatch(r"x( -> \[0\])+ -> \.\.\. \d+ more \.\.\.( -> \[0\])+ -> _thread\.lock", found)
    assert len(found) < 400


def test_a_value_that_misbehaves_is_survived() -> None:
    class Rude:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("go away")

        def __repr__(self) -> str:
            raise RuntimeError("go away")

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise RuntimeError("go away")

        def __hash__(self) -> int:
            return 1

    assert explain_unpicklable({Rude(): 1}, "x").startswith("x -> key ")
    assert explain_unpicklable([Rude()], "x").startswith("x -> [0]")


def test_the_search_leaves_the_value_as_it_was() -> None:
    generator = (number for number in range(3))
    value = [iter([1, 2, 3]), generator, collections.defaultdict(list)]

    explain_unpicklable(value, "x")

    assert list(value[0]) == [1, 2, 3]
    assert list(generator) == [0, 1, 2]
    assert value[2] == {}


def test_it_runs_where_only_cloudpickle_is(tmp_path: Path) -> None:
    import cloudpickle

    for name, source in (
        ("cloudpickle", Path(cloudpickle.__file__).parent),
        ("skyward", Path(__file__).parents[2] / "skyward"),
    ):
        (tmp_path / name).symlink_to(source)
    program = (
        "import sys; sys.path.insert(0, '.'); import threading; from skyward.remote.pickling import explain_unpicklable as e;"
        "print(e([threading.Lock()], 'x')); foreign = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names);"
        "print(sorted(foreign - {'__main__'}))"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )

    assert done.stdout.splitlines() == ["x -> [0] -> _thread.lock", "['cloudpickle', 'skyward']"], done.stderr
