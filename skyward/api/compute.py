"""Functions whose calls are pending until they are sent to a pool. Standard library only.

@sky.compute
def fold(index: int) -> float: ...

fold(3)                            a PendingCompute[float]; nothing runs
fold(3) >> pool                    one worker runs it
fold(3) @ pool                     every worker runs it
(fold(1) & fold(2)) >> pool        a tuple, in that order
sky.gather(map(fold, range(9))) >> pool
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import partial, update_wrapper
from types import CodeType, CoroutineType, FrameType, ModuleType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    Literal,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    TypeVarTuple,
    overload,
)

from skyward.api.target import Target, resolve
from skyward.errors import ArgumentError, ConfigError, SerializationError, SkywardWarning
from skyward.model.task import DEFAULT_OPTIONS, Task, TaskOptions

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
Ts = TypeVarTuple("Ts")
Destination: TypeAlias = Target | ModuleType
"""A pool, or the module `skyward` itself inside an active one."""


class Compute(Generic[P, R]):
    """A function whose calls are pending; `@sky.compute` makes it.

    It looks like the function it wraps, and travels as a reference to it wherever that can be imported.
    """

    __skyward_compute__ = True
    """What workers recognise it by: they run `__wrapped__`."""

    __wrapped__: Callable[P, R]
    __name__: str
    __qualname__: str

    def __init__(self, fn: Callable[P, R], options: TaskOptions = DEFAULT_OPTIONS) -> None:
        update_wrapper(self, fn)
        self.__name__ = getattr(fn, "__name__", None) or type(fn).__name__
        self.__qualname__ = getattr(fn, "__qualname__", None) or self.__name__
        self._options = options
        self._check = _signature_check(fn, _short_name(self))
        try:
            self.__signature__ = inspect.signature(fn)
        except (TypeError, ValueError):  # written in C, without one
            pass

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> PendingCompute[R]:
        """The call, pending.

        Raises:
            ArgumentError: the arguments do not fit the signature.
        """
        try:
            self._check(*args, **kwargs)
        except TypeError as error:
            raise _misfit(self, error) from None
        return PendingCompute(self, args, kwargs or None, self._options, sys._getframe(1))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function here and now. A coroutine function is run to its end."""
        result: R = _finished(self.__wrapped__(*args, **kwargs))
        return result

    @overload
    def __get__(self, instance: None, owner: type) -> Compute[P, R]: ...
    @overload
    def __get__(
        self: Compute[Concatenate[S, Q], R], instance: S, owner: type | None = None
    ) -> Compute[Q, R]: ...
    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method: the instance is the first argument, and travels with the call."""
        if instance is None:
            return self
        return _BoundCompute(self, instance)

    def __repr__(self) -> str:
        return f"<compute {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        if _is_importable(self):
            return self.__qualname__
        return Compute, (self.__wrapped__, self._options)


class _BoundCompute(Compute[P, R]):
    """A `@compute` method of one object; travels as that object and the name of the method."""

    def __init__(self, method: Compute[..., R], instance: Any) -> None:
        super().__init__(partial(method.__wrapped__, instance), method._options)
        self.__name__, self.__qualname__ = method.__name__, method.__qualname__
        self._check.__qualname__ = _short_name(self)
        self._instance = instance

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._instance, self.__name__)


class _Decorator(Protocol):
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> Compute[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Compute[P, R]: ...


@overload
def compute(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Compute[P, R]: ...
@overload
def compute(fn: Callable[P, R], /) -> Compute[P, R]: ...
@overload
def compute(
    *, retries: int | None = None, timeout: float | str | None = None, name: str | None = None
) -> _Decorator: ...
def compute(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    retries: int | None = None,
    timeout: float | str | None = None,
    name: str | None = None,
) -> Any:
    """Makes the calls of a function pending. Used bare, or with options.

    Args:
        retries: how often the function is run again when it raises; None means never.
        timeout: seconds, or "90s", that one call may take on the worker before it is killed.
        name: what reports call it; the function's own name otherwise.
    """
    options = _options(retries, timeout, name)
    if fn is None:
        return partial(_decorate, options=options)
    return _decorate(fn, options)


def _decorate(fn: Callable[..., Any], options: TaskOptions) -> Compute[..., Any]:
    if isinstance(fn, Compute):
        fn = fn.__wrapped__
    if not callable(fn):
        raise ArgumentError(f"@compute decorates functions, not {fn!r}", hints=["@sky.compute(name=...)"])
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ArgumentError(
            f"{fn.__name__}() yields, and a generator cannot travel: return a list",
            hints=["sky.gather(..., stream=True) gives results as they finish"],
        )
    return Compute(fn, options)


def _options(retries: int | None, timeout: float | str | None, name: str | None) -> TaskOptions:
    if retries is None and timeout is None and name is None:
        return DEFAULT_OPTIONS
    if retries is not None and (isinstance(retries, bool) or not isinstance(retries, int) or retries < 0):
        raise ConfigError(f"@compute: retries takes a whole number from 0, not {retries!r}")
    if name is not None and not (isinstance(name, str) and name.strip()):
        raise ConfigError(f"@compute: name takes text, not {name!r}")
    return TaskOptions(
        name=name or "", retries=retries, timeout_s=None if timeout is None else _seconds(timeout)
    )


def _seconds(timeout: float | str) -> float:
    from skyward.model.sizes import parse_duration

    seconds = parse_duration(timeout)
    if seconds <= 0:
        raise ConfigError(f"@compute: timeout takes a duration above 0, not {timeout!r}")
    return seconds


# -- what is pending -------------------------------------------------------------------------------------------


class _Unsent:
    """Warns when it is thrown away without ever having been sent."""

    __slots__ = ()
    _sent: bool
    _code: CodeType
    _instruction: int

    # Numpy arrays would otherwise take `array & pending` apart, element by element.
    __array_ufunc__ = None

    def __del__(self) -> None:
        if not self._sent:
            _warn_unsent(self)

    def __bool__(self) -> bool:
        _settle(self)
        raise ArgumentError(
            f"{self!r} has no truth value: nothing has run yet", hints=["result = call >> pool"]
        )

    if not TYPE_CHECKING:  # checkers refuse `value & pending` by themselves

        def __rand__(self, value):
            _settle(self)
            _refuse_and(value)

    def __reduce__(self) -> NoReturn:
        _settle(self)
        raise SerializationError(
            f"{self!r} cannot travel: it is a call that has not been run",
            hints=["run it first: x = f(1) >> pool", "inside a task, run it there: f.local(1)"],
        )


class PendingCompute(Task, _Unsent, Generic[R_co]):
    """One call that has not been sent yet. May be sent more than once; each time it runs again."""

    __slots__ = ("_code", "_instruction", "_sent")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        options: TaskOptions,
        frame: FrameType,
    ) -> None:
        self._sent = False
        self._code = frame.f_code
        self._instruction = frame.f_lasti
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.options = options

    def __rshift__(self, target: Destination) -> R_co:
        """Runs it on one worker of `target`, and gives what it returns."""
        self._sent = True
        result: R_co = resolve(target).run(self)
        return result

    def __matmul__(self, target: Destination) -> tuple[R_co, ...]:
        """Runs it once on every worker of `target`; results by rank."""
        self._sent = True
        results: tuple[R_co, ...] = resolve(target).broadcast(self)
        return results

    @overload
    def __and__(self, other: PendingCompute[S], /) -> PendingGroup[R_co, S]: ...
    @overload
    def __and__(self, other: PendingGroup[*Ts], /) -> PendingGroup[R_co, *Ts]: ...
    def __and__(self, other: Any, /) -> Any:
        return _join(self, other)

    def __repr__(self) -> str:
        parts = [
            *map(_short, self.args),
            *(f"{key}={_short(value)}" for key, value in (self.kwargs or {}).items()),
        ]
        return f"<pending {self.name}({', '.join(parts)})>"


class _Group(_Unsent):
    """Calls that are sent together."""

    __slots__ = ("_code", "_instruction", "_sent", "pendings", "return_exceptions")

    def __init__(
        self, pendings: Iterable[PendingCompute[Any]], frame: FrameType, return_exceptions: bool = False
    ) -> None:
        self._sent = False
        self._code = frame.f_code
        self._instruction = frame.f_lasti
        self.pendings = pendings
        self.return_exceptions = return_exceptions

    def tasks(self) -> Iterator[PendingCompute[Any]]:
        """The calls, as they are handed out; the first thing that is none stops the group."""
        return map(_joined, self.pendings)

    def __repr__(self) -> str:
        if not isinstance(self.pendings, tuple):
            return "<pending calls>"
        names = [pending.name for pending in self.pendings[:3]]
        return f"<{len(self.pendings)} pending calls: {', '.join(names)}{', ...' if len(self.pendings) > 3 else ''}>"

    def __matmul__(self, target: object) -> NoReturn:
        self._sent = True
        raise ArgumentError(f"@ sends one call to every worker, not {self!r}", hints=["f(1) @ pool"])


class PendingGroup(_Group, Generic[*Ts]):
    """Calls joined with `&`; sent together, they give a tuple in that order."""

    __slots__ = ()

    def __rshift__(self, target: Destination) -> tuple[*Ts]:
        """Runs all of them; the first failure cancels what has not started, and is raised."""
        self._sent = True
        return resolve(target).gather(self)

    @overload
    def __and__(self, other: PendingCompute[S], /) -> PendingGroup[*Ts, S]: ...
    @overload
    def __and__(self, other: PendingGroup[*tuple[Any, ...]], /) -> PendingGroup[*tuple[Any, ...]]: ...
    def __and__(self, other: Any, /) -> Any:
        return _join(self, other)


class PendingGather(_Group, Generic[R_co]):
    """Calls of a group of any size; sent together, they give a tuple in that order."""

    __slots__ = ()

    def __rshift__(self, target: Destination) -> tuple[R_co, ...]:
        """Runs all of them; the first failure cancels what has not started, and is raised."""
        self._sent = True
        return resolve(target).gather(self)


class PendingStream(_Group, Generic[R_co]):
    """Calls of a group of any size; sent together, they give an iterator over results as they finish."""

    __slots__ = ()

    def __rshift__(self, target: Destination) -> Iterator[R_co]:
        """Starts them. The iterator raises the first failure; what has not started by then is cancelled, as it is
        when the iterator is closed."""
        self._sent = True
        return resolve(target).stream(self)


@overload
def gather(
    pendings: Iterable[PendingCompute[R]],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> PendingGather[R]: ...
@overload
def gather(
    pendings: Iterable[PendingCompute[R]],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[True],
) -> PendingGather[R | Exception]: ...
@overload
def gather(
    pendings: Iterable[PendingCompute[R]],
    /,
    *,
    stream: Literal[True],
    return_exceptions: Literal[False] = False,
) -> PendingStream[R]: ...
@overload
def gather(
    pendings: Iterable[PendingCompute[R]], /, *, stream: Literal[True], return_exceptions: Literal[True]
) -> PendingStream[R | Exception]: ...
@overload
def gather(
    a: PendingCompute[A],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> PendingGroup[A]: ...
@overload
def gather(
    a: PendingCompute[A],
    b: PendingCompute[B],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> PendingGroup[A, B]: ...
@overload
def gather(
    a: PendingCompute[A],
    b: PendingCompute[B],
    c: PendingCompute[C],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> PendingGroup[A, B, C]: ...
@overload
def gather(
    a: PendingCompute[A],
    b: PendingCompute[B],
    c: PendingCompute[C],
    d: PendingCompute[D],
    /,
    *,
    stream: Literal[False] = False,
    return_exceptions: Literal[False] = False,
) -> PendingGroup[A, B, C, D]: ...
@overload
def gather(
    *pendings: PendingCompute[R], stream: Literal[False] = False, return_exceptions: Literal[False] = False
) -> PendingGather[R]: ...
@overload
def gather(
    *pendings: PendingCompute[R], stream: Literal[False] = False, return_exceptions: Literal[True]
) -> PendingGather[R | Exception]: ...
@overload
def gather(
    *pendings: PendingCompute[R], stream: Literal[True], return_exceptions: Literal[False] = False
) -> PendingStream[R]: ...
@overload
def gather(
    *pendings: PendingCompute[R], stream: Literal[True], return_exceptions: Literal[True]
) -> PendingStream[R | Exception]: ...
def gather(*pendings: Any, stream: bool = False, return_exceptions: bool = False) -> Any:
    """Pending calls as one group of any size, given one by one or as one iterable.

    Sent with `>>` it gives a tuple in the order of the calls, or with `stream` an iterator over results as they
    finish. An iterable is read as workers need its calls, so it may be long. The first failure cancels what has
    not started and is raised; with `return_exceptions`, errors are results like any other.
    """
    calls: Iterable[PendingCompute[Any]] = pendings
    if len(pendings) == 1 and isinstance(pendings[0], Iterable):
        calls = pendings[0]
    if isinstance(calls, (tuple, list)):
        calls = tuple(map(_joined, calls))
    return (PendingStream if stream else PendingGather)(calls, sys._getframe(1), return_exceptions)


def _settle(one: Any) -> None:
    """Nothing more is to be said of it being thrown away."""
    one._sent = True


def _joined(pending: Any) -> PendingCompute[Any]:
    """A call that now belongs to a group."""
    if not isinstance(pending, PendingCompute):
        raise ArgumentError(
            f"gather takes pending calls of @compute functions, not {_short(pending)}",
            hints=["sky.gather(f(1), f(2)) >> pool", "sky.gather(map(f, range(9))) >> pool"],
        )
    pending._sent = True
    for value in pending.args:
        if isinstance(value, _Unsent):
            _settle(value)
            raise ArgumentError(
                f"an argument of {pending.name} is a call that has not been run: {value!r}",
                hints=["x = f(1) >> pool; g(x) >> pool"],
            )
    return pending


def _join(left: Any, right: Any) -> PendingGroup[*tuple[Any, ...]]:
    left._sent = True
    if not isinstance(right, (PendingCompute, PendingGroup)):
        _refuse_and(right)
    right._sent = True
    return PendingGroup((*_members(left), *_members(right)), sys._getframe(2))


def _members(one: PendingCompute[Any] | PendingGroup[*tuple[Any, ...]]) -> tuple[PendingCompute[Any], ...]:
    return (one,) if isinstance(one, PendingCompute) else tuple(one.pendings)


def _refuse_and(value: object) -> NoReturn:
    raise ArgumentError(
        f"& joins pending calls, not the value {_short(value)}: >> and @ bind tighter than &",
        hints=["(a & b) >> pool"],
    )


# -- words and checks ------------------------------------------------------------------------------------------


def _misfit(function: Compute[..., Any], error: TypeError) -> ArgumentError:
    signature = getattr(function, "__signature__", None)
    facts = [f"signature: {_short_name(function)}{signature}"] if signature else []
    return ArgumentError(str(error), facts=facts, function=function.__qualname__)


def _signature_check(fn: Callable[..., Any], name: str) -> Callable[..., None]:
    """A function with the parameters of `fn` and no body: calling it is Python's own check of the arguments.

    A tenth of a microsecond, where `inspect.Signature.bind` takes four.
    """
    try:
        parameters = inspect.signature(fn, follow_wrapped=False).parameters.values()
        check = _without_body(parameters)
    except (TypeError, ValueError, SyntaxError):  # written in C, or made by hand: the worker will see
        return _accept_all
    check.__qualname__ = name
    return check


def _without_body(parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    written, last = [], None
    for parameter in parameters:
        if last is inspect.Parameter.POSITIONAL_ONLY and parameter.kind is not last:
            written.append("/")
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and last not in _OPENS_KEYWORDS:
            written.append("*")
        has_default = parameter.default is not inspect.Parameter.empty
        written.append(_PREFIX.get(parameter.kind, "") + parameter.name + ("=None" if has_default else ""))
        last = parameter.kind
    if last is inspect.Parameter.POSITIONAL_ONLY:
        written.append("/")
    namespace: dict[str, Any] = {}
    exec(f"def check({', '.join(written)}): pass", {}, namespace)
    check: Callable[..., None] = namespace["check"]
    return check


_PREFIX: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
_OPENS_KEYWORDS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)


def _accept_all(*args: Any, **kwargs: Any) -> None:
    """The check of a function whose signature nobody knows."""


def _is_importable(function: Compute[..., Any]) -> bool:
    """Whether importing the module on the other side gives this very object."""
    module = sys.modules.get(function.__module__)
    if (
        module is None
        or function.__module__ in ("__main__", "__mp_main__")
        or _travels_by_value(function.__module__)
    ):
        return False
    found: Any = module
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _travels_by_value(module: str) -> bool:
    """Whether the user told cloudpickle to send the contents of this module, or of a package above it."""
    if (cloudpickle := sys.modules.get("cloudpickle")) is None:
        return False
    registered = cloudpickle.list_registry_pickle_by_value()
    return any(module == name or module.startswith(f"{name}.") for name in registered)


def _finished(value: Any) -> Any:
    """What a call gave; a coroutine is run to its end first, beside a running event loop if there is one."""
    if not isinstance(value, CoroutineType):
        return value
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, value).result()


def _warn_unsent(pending: _Unsent) -> None:
    """One warning for each place in the source, as Python warns of a coroutine that was never awaited."""
    if sys.is_finalizing():
        return
    what = f"{pending.name}(...)" if isinstance(pending, PendingCompute) else repr(pending)
    warnings.warn_explicit(
        SkywardWarning(
            f"{what} was never run: send it with `>> pool`, or run it here with `.local(...)`",
            hints=["f(1) >> pool", "f.local(1)"],
        ),
        SkywardWarning,
        pending._code.co_filename,
        _line(pending._code, pending._instruction),
        registry=_WARNED,
    )


_WARNED: dict[Any, Any] = {}


def _line(code: CodeType, instruction: int) -> int:
    for start, end, line in code.co_lines():
        if start <= instruction < end and line is not None:
            return line
    return code.co_firstlineno


def _short_name(function: Compute[..., Any]) -> str:
    """The qualified name below the function it was defined in."""
    return function.__qualname__.rpartition("<locals>.")[2]


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # the user's own __repr__
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else f"{text[:37]}..."
