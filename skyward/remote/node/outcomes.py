"""Outcomes as bytes: values and exceptions, as a worker tells them. Standard library (and cloudpickle, when a value needs
it) only: it runs in the user's environment."""

from __future__ import annotations

import struct

from skyward.remote import wire
from skyward.remote.node.lean import to_json

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    import pickle
    import traceback
    import types
    from typing import Any

TEXT_CAP = 64 << 10
"""How much of an exception's text travels, characters."""
ATOMS = (type(None), bool, int, float, str, bytes)
_US = __name__.rpartition(".")[0] + "."


def equip() -> None:
    """Imports what making outcomes takes, see `Worker._equip`."""
    global pickle, traceback
    import pickle
    import traceback


class ResultTooLarge(Exception):
    """The result is over the cap; refused before it travels."""


class CannotTravel(Exception):
    """A result cannot be pickled; the text says which part of it."""


class NoRoom(Exception):
    """The instance has no place to keep a result until it is fetched."""


_OURS: dict[type[BaseException], str] = {
    CannotTravel: "unpicklable",
    ResultTooLarge: "too-large",
    NoRoom: "no-room",
}


def dump(value: Any, label: str) -> list[Any]:
    """`value` as [pickle, buffer, ...]; long buffers are not copied.

    Raises:
        CannotTravel: names the path to what cannot be pickled.
    """
    if type(value) in ATOMS:
        return [pickle.dumps(value, 5)]
    buffers: list[Any] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes <= wire.INLINE:
            return True
        buffers.append(raw)
        return False

    try:
        return [pickle.dumps(value, 5, buffer_callback=keep), *buffers]
    except Exception:
        buffers.clear()
    try:
        import cloudpickle

        return [cloudpickle.dumps(value, 5, buffer_callback=keep), *buffers]
    except Exception as error:
        raise CannotTravel(_explain(value, label, error)) from None


def _explain(value: Any, label: str, error: BaseException) -> str:
    try:
        from skyward.remote.pickling import explain_unpicklable

        return f"{explain_unpicklable(value, label)}: {error}"
    except Exception:
        return f"{label} -> {type(value).__module__}.{type(value).__qualname__}: {error}"


def describe(error: BaseException) -> bytes:
    """An exception as data: u32 length, JSON that tells of it, and its pickle where one can be made and read."""
    frames = traceback.TracebackException(type(error), error, _without_us(error.__traceback__), compact=True)
    try:
        text = "".join(frames.format())
    except Exception:
        text = f"{type(error).__name__}: (its text cannot be made)\n"
    if len(text) > TEXT_CAP:
        text = text[: TEXT_CAP // 2] + "\n  ... cut ...\n" + text[-TEXT_CAP // 2 :]
    story = {
        "type": type(error).__qualname__,
        "module": type(error).__module__,
        "message": _text_of(error)[:TEXT_CAP],
        "traceback": text,
        "exception": isinstance(error, Exception),
        "kind": _OURS.get(type(error), ""),
    }
    head = to_json(story).encode()
    return struct.pack("<I", len(head)) + head + _pickled(error)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its text cannot be made)"


def _pickled(error: BaseException) -> bytes:
    if not isinstance(error, Exception) or type(error) in _OURS:
        return b""
    try:
        data = pickle.dumps(error, 5)
    except Exception:
        try:
            import cloudpickle

            data = cloudpickle.dumps(error, 5)
        except Exception:
            return b""
    try:
        pickle.loads(data)
    except BaseException:
        return b""
    return data if len(data) <= wire.INLINE else b""


def _without_us(trace: types.TracebackType | None) -> types.TracebackType | None:
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(_US):
        trace = trace.tb_next
    return trace
