"""Values on their way: functions and arguments out, results and errors back.

Long values are content-addressed blobs that cross each link once; everything else travels inside its frame. May not
import anything above `model`; cloudpickle is imported when the first value needs it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

from skyward.errors import (
    InstanceDiskFull,
    RemoteError,
    RemoteTraceback,
    ResultTooLarge,
    SerializationError,
)
from skyward.model.task import Task
from skyward.remote import wire

INLINE = wire.INLINE
ATOM_LENGTH = 1024
"""Longer text and bytes may be worth sending once for many calls."""
SAMPLE = 4096
NAMED_CODES = 256
"""Functions whose names are remembered."""
LONG = 4 << 20
"""From here on computing a digest takes long enough to be worth doing beside the transfer, bytes."""
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes))
_names_of_code: dict[int, tuple[CodeType, tuple[str, ...]]] = {}
_CONSTANT = _ATOMS | {ModuleType, BuiltinFunctionType}


class Blob:
    """A long value under a name that equal bytes share.

    `data` is a view of the caller's own memory where that cannot change, else a copy: it is sent later, by another
    thread, and must still be what it was named for.

    The name is the SHA-256 of the bytes. A very long value that is unlike all before it (another length, other
    samples) cannot have been sent already, so it goes out at once, under a name of chance; `settle` computes its
    digest afterwards, and equal bytes then get the name the first ones travelled under.
    """

    __slots__ = ("__weakref__", "data", "digest", "size")

    def __init__(self, data: bytes | bytearray | memoryview, digest: str | None = None) -> None:
        view = memoryview(data)
        view = view if view.ndim == 1 and view.format == "B" else view.cast("B")
        self.data = view if type(view.obj) is bytes else memoryview(bytes(view))
        self.size = self.data.nbytes
        if digest is None:
            digest = hashlib.sha256(self.data).hexdigest() if self.size < LONG else _names.name(self)
        self.digest = digest

    def settle(self) -> None:
        """Computes what is still to be computed; for a moment when nobody waits."""
        if self.size >= LONG:
            _names.settle(self)


class EncodedCall:
    """The arguments of one task: `payload` bytes, plain-data `header`, and the blobs both refer to."""

    __slots__ = ("blobs", "header", "payload")

    def __init__(self, payload: bytes, header: dict[str, Any], blobs: tuple[Blob, ...]) -> None:
        self.payload = payload
        self.header = header
        self.blobs = blobs


class _Named:
    """One very long value: its name, and its digest or the blob to compute it from."""

    __slots__ = ("blob", "digest", "name")

    def __init__(self, blob: Blob, name: str, digest: str | None = None) -> None:
        self.blob = weakref.ref(blob)
        self.name = name
        self.digest = digest

    def compare(self, digest: str) -> bool:
        blob = self.blob()
        if self.digest is None and blob is not None:
            self.digest = hashlib.sha256(blob.data).hexdigest()
        return self.digest == digest


class _Names:
    """What very long values are called; safe for threads.

    Values of one length whose samples differ are different, which is known without reading all of them.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], list[_Named]] = {}
        self._lock = threading.Lock()

    def name(self, blob: Blob) -> str:
        key = blob.size, _sample(blob.data)
        with self._lock:
            known = self._known.setdefault(key, [])
            known[:] = [one for one in known if one.digest is not None or one.blob() is not None]
            if not known:
                named = _Named(blob, os.urandom(32).hex())
                known.append(named)
                return named.name
        mine = hashlib.sha256(blob.data).hexdigest()
        with self._lock:
            for named in known:
                if named.compare(mine):
                    return named.name
            known.append(_Named(blob, mine, mine))
        return mine

    def settle(self, blob: Blob) -> None:
        with self._lock:
            mine = [
                one
                for known in self._known.values()
                for one in known
                if one.digest is None and one.blob() is blob
            ]
        for named in mine:
            named.digest = hashlib.sha256(blob.data).hexdigest()


def _sample(data: memoryview) -> bytes:
    """A digest of 64 pieces, the first and the last among them."""
    step = max(1, (data.nbytes - SAMPLE) // 63)
    digest = hashlib.sha256()
    for start in range(0, data.nbytes - SAMPLE + 1, step):
        digest.update(data[start : start + SAMPLE])
    digest.update(data[-SAMPLE:])
    return digest.digest()


_names = _Names()


# -- out -----------------------------------------------------------------------------------------------------


def encode_rows(tasks: Iterable[Task]) -> bytes | None:
    """The arguments of many calls in one pickle, which they may share if all are short values without identity; else None."""
    rows = []
    for task in tasks:
        if task.kwargs:
            return None
        for value in task.args:
            kind = type(value)
            if kind not in _ATOMS or (kind in (str, bytes) and len(value) > ATOM_LENGTH):
                return None
        rows.append(task.args)
    return pickle.dumps(rows, 5)


def encode_function(fn: Callable[..., Any], importable: Callable[[str], bool] | None = None) -> Blob:
    """A function by reference where the nodes can import it, else by value.

    Raises:
        SerializationError: names the path to the part that cannot travel.
    """
    fn = undecorated(fn)
    reference = _reference(fn)
    module = getattr(getattr(fn, "func", fn), "__module__", None)
    is_there = importable is None or not isinstance(module, str) or importable(module)
    if reference is not None and is_there:
        return Blob(b"R" + json.dumps(reference).encode())
    if not is_there and module in sys.modules:
        _travels_by_value(str(module))
    return Blob(b"V" + _dump(fn, getattr(fn, "__qualname__", repr(fn)), None))


def undecorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The user's own function: what `@compute` was put on."""
    decorated: Any = fn
    return decorated.__wrapped__ if getattr(fn, "__skyward_compute__", False) else fn


def meaning_of(fn: Callable[..., Any]) -> tuple[Any, ...] | None:
    """What a plain function's pickle depends on, or None where that cannot be told cheaply.

    Two equal answers for one function object mean that it pickles the same: its code, and atoms, modules and built-ins
    for everything its code refers to.
    """
    if type(fn) is not FunctionType:
        return None
    code = fn.__code__
    known = _names_of_code.get(id(code))
    names = known[1] if known is not None and known[0] is code else _names_in(code)
    if not (names or fn.__closure__ or fn.__defaults__ or fn.__kwdefaults__ or fn.__dict__):
        return (code,)
    try:
        cells = tuple(cell.cell_contents for cell in fn.__closure__ or ())
    except ValueError:  # a cell that is still empty
        return None
    seen = fn.__globals__
    values = (
        *cells,
        *(fn.__defaults__ or ()),
        *(fn.__kwdefaults__ or {}).values(),
        *(seen[name] for name in names if name in seen),
    )
    if fn.__dict__ or not all(type(value) in _CONSTANT for value in values):
        return None
    return code, *map(_by_identity_or_value, values)


def _names_in(code: CodeType) -> tuple[str, ...]:
    """The names that code and the code inside it refer to; remembered, because it is asked for every call."""
    names: set[str] = set()
    todo = [code]
    while todo:
        one = todo.pop()
        names.update(one.co_names)
        todo += [inner for inner in one.co_consts if type(inner) is CodeType]
    if len(_names_of_code) >= NAMED_CODES:
        _names_of_code.clear()
    found = tuple(sorted(names))
    _names_of_code[id(code)] = code, found
    return found


def _by_identity_or_value(value: Any) -> Any:
    return (type(value), value) if type(value) in _ATOMS else id(value)


def _reference(fn: Callable[..., Any]) -> tuple[str, str] | None:
    module, name = getattr(fn, "__module__", None), getattr(fn, "__qualname__", "")
    if (
        not isinstance(module, str)
        or module in ("__main__", "__mp_main__")
        or "<" in name
        or module not in sys.modules
    ):
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    return (module, name) if found is fn or getattr(found, "__wrapped__", None) is fn else None


def _travels_by_value(module: str) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[module])


def importable_with(project: Path | None) -> Callable[[str], bool]:
    """Whether nodes that have `project` (and an environment of their own) can import a module by name.

    What is installed here is taken to be installed there; files outside the project and outside every
    installation are not there.
    """
    import site
    import sysconfig

    known = {
        Path(path).resolve()
        for path in (*sysconfig.get_paths().values(), *site.getsitepackages(), sys.prefix, sys.base_prefix)
    }
    roots = tuple(sorted({*known, *({project.resolve()} if project else ())}, key=str))

    @cache
    def importable(name: str) -> bool:
        top = sys.modules.get(name.partition(".")[0])
        place = getattr(sys.modules.get(name), "__file__", None) or getattr(top, "__file__", None)
        if place is None or name.partition(".")[0] == "skyward":
            return True
        path = Path(place).resolve()
        return any(path.is_relative_to(root) for root in roots)

    return importable


class Identities:
    """Long values already encoded, by identity, while one group is sent: the same object is pickled once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, dict[str, Any], tuple[Blob, ...]]] = {}

    def get(self, value: Any) -> tuple[dict[str, Any], tuple[Blob, ...]] | None:
        found = self._known.get(id(value))
        return found[1:] if found is not None else None

    def keep(self, value: Any, reference: dict[str, Any], blobs: tuple[Blob, ...]) -> None:
        self._known[id(value)] = (value, reference, blobs)  # the value is held so that its id stays its own


def encode_call(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, identities: Identities
) -> EncodedCall:
    """The arguments of one call. Arguments longer than 64 KiB become blobs of their own.

    Raises:
        SerializationError: names the argument and the path to the part of it that cannot travel.
    """
    short_args, short_kwargs = list(args), dict(kwargs or {})
    long: list[list[Any]] = []
    first: dict[int, int | str] = {}
    blobs: list[Blob] = []

    def take_out(key: int | str, found: tuple[dict[str, Any], tuple[Blob, ...]]) -> None:
        # An object that is given twice has one reference, equal objects have one each.
        same = first.setdefault(id(found[0]), key)
        long.append([key, found[0] if same == key else {**found[0], "same": same}])
        blobs.extend(found[1])
        if isinstance(key, int):
            short_args[key] = None
        else:
            short_kwargs[key] = None

    everything: list[tuple[int | str, Any]] = [*enumerate(args), *short_kwargs.items()]
    for key, value in everything:
        found = identities.get(value) or _raw_reference(value, identities)
        if found is not None:
            take_out(key, found)
    payload, buffers = _encode_rest(name, short_args, short_kwargs)
    if len(payload) > INLINE or buffers:
        for key, value in everything:
            if type(value) not in _ATOMS and not any(key == one for one, _ in long):
                found = identities.get(value) or _pickled_reference(name, key, value, identities)
                if found is not None:
                    take_out(key, found)
        payload, buffers = _encode_rest(name, short_args, short_kwargs)
    blobs += buffers
    header: dict[str, Any] = {}
    if buffers:
        header["buffers"] = [blob.digest for blob in buffers]
    if long:
        header["long"] = long
    return EncodedCall(payload, header, tuple(blobs))


def _raw_reference(value: Any, identities: Identities) -> tuple[dict[str, Any], tuple[Blob, ...]] | None:
    kind = type(value)
    if kind not in (bytes, bytearray, str) or len(value) <= INLINE:
        return None
    blob = Blob(value.encode("utf-8", "surrogatepass") if kind is str else value)
    reference = {"digest": blob.digest, "form": kind.__name__}
    identities.keep(value, reference, (blob,))
    return reference, (blob,)


def _pickled_reference(
    name: str, key: int | str, value: Any, identities: Identities
) -> tuple[dict[str, Any], tuple[Blob, ...]] | None:
    buffers: list[Blob] = []
    data = _dump(value, f"argument {key!r} of {name}", buffers)
    if len(data) <= INLINE and not buffers:
        return None
    head = Blob(data)
    reference = {"digest": head.digest, "form": "pickle", "buffers": [blob.digest for blob in buffers]}
    identities.keep(value, reference, (head, *buffers))
    return reference, (head, *buffers)


def _encode_rest(name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[bytes, list[Blob]]:
    buffers: list[Blob] = []
    try:
        return _dump((tuple(args), kwargs), name, buffers, explain=False), buffers
    except Exception as error:
        for key, value in [*enumerate(args), *kwargs.items()]:
            _dump(value, f"argument {key!r} of {name}", None)
        raise _cannot_travel((tuple(args), kwargs), f"arguments of {name}", error) from error


def _dump(value: Any, label: str, buffers: list[Blob] | None, *, explain: bool = True) -> bytes:
    import cloudpickle

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if buffers is None or raw.nbytes <= INLINE:
            return True
        buffers.append(Blob(raw))
        return False

    try:
        return bytes(cloudpickle.dumps(value, 5, buffer_callback=keep))
    except Exception as error:
        if not explain:
            raise
        raise _cannot_travel(value, label, error) from error


def _cannot_travel(value: Any, label: str, error: Exception) -> SerializationError:
    from skyward.remote.pickling import explain_unpicklable

    path = explain_unpicklable(value, label)
    return SerializationError(
        f"cannot be pickled: {path}",
        facts=[f"{type(error).__name__}: {error}"],
        hints=["make it inside the task, or pass what it is made of instead"],
        path=path,
    )


# -- back ------------------------------------------------------------------------------------------------------

_SAFE: dict[str, frozenset[str]] = {
    "builtins": frozenset(
        ["bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object", "range", "set", "slice", "str", "tuple"]
        + [name for name, kind in vars(__builtins__ if not isinstance(__builtins__, dict) else __import__("builtins")).items()
           if isinstance(kind, type) and issubclass(kind, Exception)]
    ),
    "collections": frozenset(("Counter", "OrderedDict", "defaultdict", "deque")),
    "datetime": frozenset(("date", "datetime", "time", "timedelta", "timezone")),
    "decimal": frozenset(("Decimal",)),
    "fractions": frozenset(("Fraction",)),
    "uuid": frozenset(("UUID",)),
    "pathlib": frozenset(("PosixPath", "PurePosixPath", "PureWindowsPath")),
    "numpy": frozenset(("dtype", "ndarray", "bool_", "float32", "float64", "int32", "int64")),
    "numpy.core.multiarray": frozenset(("_reconstruct", "scalar")),
    "numpy._core.multiarray": frozenset(("_reconstruct", "scalar")),
    "numpy.core.numeric": frozenset(("_frombuffer",)),
    "numpy._core.numeric": frozenset(("_frombuffer",)),
    "numpy.dtypes": frozenset(),
}  # fmt: skip
_allowed: set[tuple[str, str]] = set()


def allow_results_of(*types: type) -> None:
    """Lets results of these types through where only allow-listed ones are read."""
    _allowed.update((kind.__module__, kind.__qualname__) for kind in types)


class SafeUnpickler(pickle.Unpickler):
    """Reads plain data, numpy arrays and what the user allowed; whatever else is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if name in _SAFE.get(module, ()) or (module, name) in _allowed:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(
            f"{module}.{name} is not allowed in results of a machine that is not trusted"
        )


def read_value(data: Any, buffers: Iterable[Any], *, safe: bool) -> Any:
    """A result.

    Raises:
        RemoteError: it cannot be read here; says why.
    """
    try:
        if safe:
            return SafeUnpickler(io.BytesIO(data), buffers=buffers).load()
        return pickle.loads(data, buffers=buffers)
    except MemoryError:
        raise RemoteError("the result asks for more memory than there is", type_name="MemoryError") from None
    except Exception as error:
        missing = getattr(error, "name", None) if isinstance(error, ImportError) else None
        raise RemoteError(
            f"the result cannot be read here: {type(error).__name__}: {error}",
            hints=[f"install {missing!r} here, or return plain data"]
            if missing
            else ['return plain data, or `results="any"` where the machine is trusted'],
            type_name=type(error).__name__,
        ) from None


def read_long(data: bytes | memoryview, form: str, parts: Sequence[int], *, safe: bool) -> Any:
    """A long result whose bytes are `data`; arrays keep using that memory."""
    if isinstance(data, bytes):
        return data
    if form == "bytes":
        return bytes(data)
    if form == "bytearray":
        return data.obj if isinstance(data.obj, bytearray) and len(data.obj) == len(data) else bytearray(data)
    views, position = [], 0
    for size in parts:
        views.append(data[position : position + size])
        position += size
    return read_value(views[0], views[1:], safe=safe)


def read_error(body: memoryview, *, safe: bool) -> BaseException:
    """The exception a task raised: itself where that can be, else a RemoteError that tells of it."""
    try:
        (length,) = struct.unpack_from("<I", body)
        story = json.loads(bytes(body[4 : 4 + length]).decode("utf-8", "surrogatepass"))
        data = body[4 + length :]
        kind, text = story["kind"], str(story["traceback"])
        message = f"{story['type']}: {story['message']}" if story["message"] else str(story["type"])
    except (struct.error, ValueError, KeyError, TypeError) as error:
        return RemoteError(f"an error came that cannot be read: {error}", type_name="")
    if kind == "unpicklable":
        return SerializationError(
            f"cannot be pickled: {story['message']}", hints=["return plain data"], remote_traceback=text
        )
    if kind == "too-large":
        return ResultTooLarge(story["message"], hints=["write it to a volume, or return it in parts"])
    if kind == "no-room":
        return InstanceDiskFull(story["message"], step="result")
    original = _original(data, safe=safe) if story["exception"] and len(data) else None
    if original is None:
        return RemoteError(
            message,
            type_name=f"{story['module']}.{story['type']}".removeprefix("builtins."),
            remote_traceback=text,
        )
    original.__cause__ = RemoteTraceback(text)
    return original


def _original(data: memoryview, *, safe: bool) -> BaseException | None:
    try:
        error = SafeUnpickler(io.BytesIO(data)).load() if safe else pickle.loads(data)
    except BaseException as broken:
        if isinstance(broken, KeyboardInterrupt):
            raise
        return None
    if not isinstance(error, Exception) or isinstance(error, StopIteration):
        return None
    return error
