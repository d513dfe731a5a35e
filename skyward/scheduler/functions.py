"""What stands for the functions of tasks: pickled once, and again only where they may mean something else by now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skyward.errors import SerializationError
from skyward.remote.codec import Blob, encode_function, meaning_of, undecorated
from skyward.scheduler.entry import Group

MAX_FUNCTIONS = 256
"""Functions whose pickles are kept for the next time."""


class Functions:
    """The pickles of functions that were sent. `importable` is `EngineContext.importable`."""

    def __init__(self, importable: Callable[[str], bool] | None) -> None:
        self._importable = importable
        self._known: dict[int, tuple[Any, Any, Any, Blob]] = {}
        """What was sent, what was decorated, what it meant (see `meaning_of`), and what stands for it."""

    def of(self, group: Group, fn: Callable[..., Any]) -> Blob | SerializationError:
        """What stands for a function in this group; what stood for it before, if it can only mean the same."""
        known = self._known.get(id(fn))
        if known is not None and known[0] is fn and meaning_of(known[1]) == known[2]:
            found: Blob | SerializationError = known[3]
        else:
            found = self._encode(fn)
        group.functions[id(fn)] = found
        return found

    def _encode(self, fn: Callable[..., Any]) -> Blob | SerializationError:
        plain = undecorated(fn)
        meaning = meaning_of(plain)
        try:
            blob = encode_function(plain, self._importable)
        except SerializationError as error:
            return error
        if meaning is not None:
            if len(self._known) > MAX_FUNCTIONS:
                self._known.clear()
            self._known[id(fn)] = (fn, plain, meaning, blob)
        return blob
