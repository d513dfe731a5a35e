"""What tasks are given: functions and arguments, from what came over the wire. Standard library (and cloudpickle, when a
function is one of its) only: it runs in the user's environment."""

from __future__ import annotations

import io
import os
import sys
import time

from skyward.remote.node.lean import from_json

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    import mmap
    import pickle
    from typing import Any

    from skyward.remote.node.channel import Channel

READ_AHEAD_S = 0.002
"""How often it is looked whether more of a value has arrived, seconds."""
READ_BYTES = 1 << 20
STALLED_S = 5.0
"""A value of which nothing has come for so long is read when it is complete, seconds."""


def equip() -> None:
    """Imports what reading inputs takes, see `Worker._equip`."""
    global mmap, pickle
    import mmap
    import pickle


class Inputs:
    """The functions and long values in the directory `blobs`, and those of them that are kept for later tasks."""

    def __init__(self, blobs: str, channel: Channel) -> None:
        self.functions: dict[str, Any] = {}
        """Those that have been loaded."""
        self._blobs = blobs
        self._channel = channel
        self._values: dict[tuple[str, str], Any] = {}

    def function(self, digest: str) -> Any:
        with open(os.path.join(self._blobs, digest), "rb") as file:
            function = self.functions[digest] = load_function(file.read())
        return function

    def arguments(self, call: dict[str, Any], data: bytes) -> tuple[Any, dict[str, Any]]:
        buffers = [self._buffer(digest) for digest in call.get("buffers", ())]
        args, kwargs = pickle.loads(data, buffers=buffers)
        for key, reference in call.get("long", ()):
            args = list(args) if type(args) is tuple else args
            place = args if isinstance(key, int) else kwargs
            same = reference.get("same")  # one object that is given twice is made once
            if same is None:
                place[key] = self._value(reference)
            else:
                place[key] = args[same] if isinstance(same, int) else kwargs[same]
        return args, kwargs

    def _value(self, reference: dict[str, Any]) -> Any:
        digest, form = reference["digest"], reference["form"]
        if form == "pickle":
            with open(os.path.join(self._blobs, digest), "rb") as file:
                return pickle.load(file, buffers=[self._buffer(one) for one in reference["buffers"]])
        if (digest, form) not in self._values:
            data = self._values.get((digest, "bytes"))
            if data is None:
                with open(os.path.join(self._blobs, digest), "rb") as file:
                    data = file.read()
            if form == "bytearray":
                return bytearray(data)
            self._keep(digest, form, data.decode("utf-8", "surrogatepass") if form == "str" else data)
        return self._values[digest, form]

    def _keep(self, digest: str, form: str, value: bytes | str) -> None:
        """Immutable, so tasks may share it; one is kept, because a fan-out shares one."""
        self._values.clear()
        self._values[digest, form] = value

    def read_ahead(self, digest: str, total: int) -> None:
        """Reads a value while it is still arriving, unless there is something better to do before it is complete."""
        try:
            file = open(os.path.join(self._blobs, digest + ".part"), "rb", buffering=0)  # noqa: SIM115 - closed below
        except OSError:
            return
        value = io.BytesIO(bytes(total))  # gives its bytes away without copying them
        grown_at, filled = time.monotonic(), 0
        with file, value.getbuffer() as target:
            while filled < total:
                count = file.readinto(target[filled : filled + READ_BYTES]) or 0
                filled += count
                now = time.monotonic()
                if count:
                    grown_at = now
                elif now - grown_at > STALLED_S:
                    return
                else:
                    time.sleep(READ_AHEAD_S)
                if self._channel.has_message and os.fstat(file.fileno()).st_size < total:
                    return
        self._keep(digest, "bytes", value.getvalue())

    def _buffer(self, digest: str) -> Any:
        """A private, writable view of a blob: pages are copied only where the task writes."""
        with open(os.path.join(self._blobs, digest), "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def load_function(blob: bytes) -> Any:
    """The function of a blob: `R` + JSON [module, qualified name], or `V` + a cloudpickle."""
    if blob[:1] == b"V":
        return _unwrap(pickle.loads(blob[1:]))
    module_name, qualified_name = from_json(blob[1:].decode("utf-8", "surrogatepass"))
    __import__(module_name)
    found: Any = sys.modules[module_name]
    for name in qualified_name.split("."):
        found = getattr(found, name)
    return _unwrap(found)


def _unwrap(function: Any) -> Any:
    return function.__wrapped__ if getattr(function, "__skyward_compute__", False) else function
