"""What agents and workers need of the standard library, without what it imports in turn. Any Python >= 3.8.

An agent is started on every machine, and a worker in every slot: most of the time they took to start went into
modules that `json`, `signal`, `socket` and `collections` import (`re`, `enum`, `functools`) and that neither ever uses.
Below each of them lies a module in C which does all the work; where there is none, the usual one serves.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, without importing that
if TYPE_CHECKING:
    import signal
    import socket
    from collections import OrderedDict, deque
    from typing import Any, Callable
else:
    try:
        import _signal as signal
        import _socket as socket
        from _collections import OrderedDict, deque
    except ImportError:  # not CPython
        import signal
        import socket
        from collections import OrderedDict, deque

__all__ = ["OrderedDict", "deque", "from_json", "signal", "socket", "to_json"]


class _Rules:
    """How numbers and objects are read: as `json` reads them when it is told nothing."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name.replace("Infinity", "inf"))


def _refuse(value: object) -> object:
    raise TypeError("%s is no plain data" % type(value).__name__)


def _make_encoder() -> Callable[[Any], str]:
    """`json.dumps` without making its encoder anew for every value, which takes longer than encoding one."""
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:
        import json

        return json.JSONEncoder(separators=(",", ":")).encode
    parts_of = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, True)

    def encode(value: Any) -> str:
        if value.__class__ is str:  # the encoder gives parts of containers only
            return str(encode_basestring_ascii(value))
        return "".join(parts_of(value, 0))

    return encode


def _make_decoder() -> Callable[[str], Any]:
    try:
        from _json import make_scanner
    except ImportError:
        import json

        return json.loads
    scan = make_scanner(_Rules)  # type: ignore[arg-type]  # it only reads those attributes

    def decode(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except (StopIteration, SystemError):  # the latter where it cannot make its error without `json`
            end = -1
        if end == len(text):
            return value
        import json

        return json.loads(text)  # it allows spaces around, or knows what is wrong

    return decode


to_json = _make_encoder()
"""Plain data as JSON in ASCII, without spaces."""
from_json = _make_decoder()
"""The value of a JSON text. Raises ValueError, or RecursionError where it is nested too deeply."""
