"""Calls of @compute functions: what they look like, what they refuse, and how they travel."""

from __future__ import annotations

import functools
import gc
import inspect
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest

import skyward as sky
from skyward.model.task import TaskOptions


@sky.compute
def double(x: int, *, by: float = 2.0) -> float:
    """Twice, or more."""
    return x * by


@sky.compute(retries=3, timeout="90s", name="greeting")
def greet(name: str) -> str:
    return f"hello {name}"


@sky.compute
async def later(x: int) -> int:
    return x + 1


class Model:
    def __init__(self, rate: float) -> None:
        self.rate = rate

    @sky.compute
    def fit(self, epochs: int) -> float:
        return self.rate * epochs


def settled(pending: Any) -> Any:
    """`pending`, which nobody is going to send."""
    pending._sent = True
    return pending


# -- the decorated function --------------------------------------------------------------------------------------


def test_a_decorated_function_keeps_its_name_its_words_and_its_signature() -> None:
    assert double.__name__ == "double"
    assert double.__qualname__ == "double"
    assert double.__module__ == __name__
    assert double.__doc__ == "Twice, or more."
    assert list(inspect.signature(double).parameters) == ["x", "by"]
    assert double.__wrapped__(3) == 6
    assert repr(double) == f"<compute {__name__}.double>"


def test_calling_runs_nothing_and_says_what_would_run() -> None:
    ran: list[int] = []

    @sky.compute
    def task(x: int) -> None:
        ran.append(x)

    pending = settled(task(3))

    assert ran == []
    assert isinstance(pending, sky.PendingCompute)
    assert repr(settled(double(3, by=1.5))) == "<pending double(3, by=1.5)>"
    assert pending.args == (3,)


def test_local_runs_it_here() -> None:
    assert double.local(4) == 8
    assert greet.local("you") == "hello you"


def test_local_runs_a_coroutine_to_its_end_even_beside_an_event_loop() -> None:
    import asyncio

    async def inside() -> int:
        return later.local(1)

    assert later.local(1) == 2
    assert asyncio.run(inside()) == 2


def test_options_belong_to_the_function() -> None:
    assert settled(greet("x")).options == TaskOptions(name="greeting", retries=3, timeout_s=90.0)
    assert settled(greet("x")).name == "greeting"
    assert settled(double(1)).name == "double"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": -1}, "retries takes a whole number from 0, not -1"),
        ({"retries": True}, "retries"),
        ({"timeout": 0}, "above 0"),
        ({"name": " "}, "name takes text"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sky.ConfigError, match=message):
        sky.compute(**options)


def test_a_time_out_in_words_is_read_like_every_duration() -> None:
    with pytest.raises(sky.SizeError, match="soon"):
        sky.compute(timeout="soon")


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(sky.ArgumentError, match="decorates functions, not 3"):
        sky.compute(3)  # type: ignore[call-overload]


def test_a_generator_function_is_refused_because_its_result_cannot_travel() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(sky.ArgumentError, match=r"numbers\(\) yields"):
        sky.compute(numbers)


def test_decorating_twice_takes_the_later_options() -> None:
    again = sky.compute(name="again")(greet)

    assert settled(again("x")).name == "again"
    assert again.__wrapped__ is greet.__wrapped__


# -- arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, r"^double\(\) missing 1 required positional argument: 'x'$"),
        ((1, 2), {}, r"^double\(\) takes 1 positional argument but 2 were given$"),
        ((1,), {"times": 3}, r"^double\(\) got an unexpected keyword argument 'times'$"),
        ((1,), {"x": 1}, r"^double\(\) got multiple values for argument 'x'$"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_where_the_call_is_made(
    args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(sky.ArgumentError, match=message) as caught:
        double(*args, **kwargs)

    assert isinstance(caught.value, TypeError)
    assert caught.value.facts == ("signature: double(x: 'int', *, by: 'float' = 2.0) -> 'float'",)


def every_kind(a: int, /, b: int, c: int = 3, *d: int, e: int, f: int = 6, **g: int) -> tuple[Any, ...]:
    return a, b, c, d, e, f, g


def only_keywords(*, a: int, b: int = 2) -> None: ...
def only_positions(a: int, b: int = 2, /) -> None: ...
def no_parameters() -> None: ...
def positions_and_more(a: int, /, *rest: int) -> None: ...


@pytest.mark.parametrize("fn", [every_kind, only_keywords, only_positions, no_parameters, positions_and_more])
@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("names", [(), ("a",), ("e",), ("b", "e"), ("e", "x")])
def test_the_check_agrees_with_the_language(fn: Any, count: int, names: tuple[str, ...]) -> None:
    args, kwargs = tuple(range(count)), dict.fromkeys(names, 0)
    try:
        inspect.signature(fn).bind(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False

    if fits:
        settled(sky.compute(fn)(*args, **kwargs))
    else:
        with pytest.raises(sky.ArgumentError):
            sky.compute(fn)(*args, **kwargs)


def test_a_wrapper_that_adds_arguments_is_not_held_against_the_caller() -> None:
    def with_connection(fn: Any) -> Any:
        @functools.wraps(fn)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return fn("connection", *args, **kwargs)

        return wrapper

    @sky.compute
    @with_connection
    def query(connection: str, sql: str) -> str:
        return f"{connection}: {sql}"

    assert settled(query("select 1")).args == ("select 1",)
    assert query.local("select 1") == "connection: select 1"


def test_what_has_no_signature_is_left_to_the_worker() -> None:
    assert settled(sky.compute(dict.fromkeys)("ab")).args == ("ab",)


def test_partials_are_functions_too() -> None:
    triple = sky.compute(functools.partial(double.__wrapped__, by=3))

    assert triple.local(2) == 6
    with pytest.raises(sky.ArgumentError):
        triple()


# -- operators -----------------------------------------------------------------------------------------------------


def test_calls_are_joined_in_order() -> None:
    group = settled(double(1) & double(2) & (double(3) & double(4)))

    assert [pending.args[0] for pending in group.tasks()] == [1, 2, 3, 4]
    assert repr(group) == "<4 pending calls: double, double, double, ...>"


@pytest.mark.parametrize(
    "join",
    [
        lambda: double(1) & 3,
        lambda: 3 & double(1),
        lambda: (double(1) & double(2)) & [3],
        lambda: np.arange(3) & double(1),
        lambda: double(1) & np.arange(3),
    ],
)
def test_joining_a_value_says_where_the_parentheses_go(join: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(sky.ArgumentError, match="bind tighter") as caught:
            join()

    assert caught.value.hints == ("(a & b) >> pool",)


def test_a_pending_call_has_no_truth_value() -> None:
    with pytest.raises(sky.ArgumentError, match="no truth value"):
        bool(double(1))


@pytest.mark.parametrize("target", [3, None, "sky", pytest, sky.ComputePool])
def test_a_target_that_is_none_is_refused(target: Any) -> None:
    with pytest.raises(sky.ArgumentError, match="a target is a pool, or sky"):
        double(1) >> target
    with pytest.raises(sky.ArgumentError):
        double(1) @ target


def test_sky_outside_of_a_pool_says_what_to_do() -> None:
    with pytest.raises(sky.UsageError, match="no pool is active here") as caught:
        double(1) >> sky

    assert any("@sky.pool" in hint for hint in caught.value.hints)


def test_a_group_is_not_broadcast() -> None:
    with pytest.raises(sky.ArgumentError, match="one call to every worker"):
        (double(1) & double(2)) @ sky  # type: ignore[operator]


@pytest.mark.parametrize("what", [(3,), ([3],), (double.local,)])
def test_gather_takes_pending_calls_only(what: Any) -> None:
    with pytest.raises(sky.ArgumentError, match="gather takes pending calls"):
        settled(sky.gather(*what))


def test_an_iterable_is_not_read_before_it_is_sent() -> None:
    read: list[int] = []

    def numbers() -> Iterator[sky.PendingCompute[float]]:
        for number in range(3):
            read.append(number)
            yield double(number)

    settled(sky.gather(numbers()))

    assert read == []


# -- what nobody sends ---------------------------------------------------------------------------------------------


def thrown_away(make: Any) -> list[warnings.WarningMessage]:
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        gc.collect()
    return caught


def test_a_call_that_is_never_sent_warns_with_its_name_and_its_place() -> None:
    line = sys._getframe().f_lineno + 1
    (warning,) = thrown_away(lambda: double(1))

    assert "double(...) was never run" in str(warning.message)
    assert issubclass(warning.category, sky.SkywardWarning)
    assert warning.filename == __file__
    assert warning.lineno == line


def test_many_calls_at_one_place_warn_once() -> None:
    code = "import skyward as sky\n@sky.compute\ndef f(x): return x\nfor i in range(100): f(i)\nf(1)\nsky.gather(f(1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stderr.count("was never run") == 3


def test_a_group_that_is_never_sent_warns_once_for_all_of_it() -> None:
    (warning,) = thrown_away(lambda: double(1) & double(2))

    assert "<2 pending calls: double, double> was never run" in str(warning.message)


def test_what_was_sent_does_not_warn() -> None:
    def make() -> None:
        for target in (sky, 3):
            with pytest.raises(sky.UsageError):
                double(1) >> target  # type: ignore[operator]

    assert thrown_away(make) == []


# -- travelling ----------------------------------------------------------------------------------------------------


def test_a_function_that_can_be_imported_travels_as_its_name() -> None:
    data = cloudpickle.dumps(double)

    assert pickle.loads(data) is double
    assert len(data) < 100


def test_a_nested_function_travels_whole() -> None:
    bonus = 10

    @sky.compute(name="nested")
    def nested(x: int) -> int:
        return x + bonus

    copy = pickle.loads(cloudpickle.dumps(nested))

    assert copy.local(1) == 11
    assert settled(copy(1)).name == "nested"
    assert list(inspect.signature(copy).parameters) == ["x"]


def test_a_recursive_function_travels_whole() -> None:
    @sky.compute
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial.local(n - 1)

    assert pickle.loads(cloudpickle.dumps(factorial)).local(5) == 120


def test_a_method_travels_with_its_object() -> None:
    data = cloudpickle.dumps(Model(0.5).fit)
    fit = pickle.loads(data)

    assert fit.local(4) == 2.0
    assert fit.__skyward_compute__
    assert fit.__wrapped__(4) == 2.0
    assert b"partial" not in data
    with pytest.raises(sky.ArgumentError, match=r"Model.fit\(\) missing 1"):
        Model(0.5).fit()  # type: ignore[call-arg]


def test_a_pending_call_does_not_travel() -> None:
    with pytest.raises(sky.SerializationError, match="has not been run"):
        pickle.dumps(double(1))
