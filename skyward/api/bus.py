"""Events of one pool on their way to whoever listens: plugins, the display, and the user's own handlers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from skyward.errors import SkywardWarning
from skyward.model.event import Event

E = TypeVar("E", bound=Event)
CLOSE_S = 5.0
"""How long the last events may take to be told, seconds."""


class EventBus:
    """Tells events one by one, in order, from a thread of its own: a slow listener delays no task.

    What a handler raises is shown once as a warning and stops nothing.
    """

    def __init__(self) -> None:
        self._handlers: list[tuple[type[Event], Callable[[Any], object]]] = []
        self._forwards: list[tuple[Callable[[Event], object], Callable[[type[Event]], bool]]] = []
        self._queue: SimpleQueue[Event | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._broken: set[int] = set()
        self._wanted: dict[type[Event], bool] = {}

    def on(self, kind: type[E], handler: Callable[[E], object]) -> None:
        """Calls `handler` with each event of this kind, and of kinds derived from it."""
        self._handlers.append((kind, handler))
        self._wanted.clear()

    def forward(self, tell: Callable[[Event], object], wants: Callable[[type[Event]], bool]) -> None:
        """Hands every event on to listeners who know themselves what they want."""
        self._forwards.append((tell, wants))
        self._wanted.clear()

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody listens to events of this kind. Asked several times per task, so it is remembered."""
        found = self._wanted.get(kind)
        if found is None:
            found = any(issubclass(kind, wanted) for wanted, _ in self._handlers) or any(
                wants(kind) for _, wants in self._forwards
            )
            self._wanted[kind] = found
        return found

    def start(self) -> None:
        self._thread = threading.Thread(target=self._tell_all, name="skyward-events", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        if self._thread is not None:
            self._queue.put(event)

    def close(self) -> None:
        """Waits until what was emitted has been told. Idempotent, bounded."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            if thread is not threading.current_thread():
                thread.join(CLOSE_S)
        self._forwards.clear()

    def _tell_all(self) -> None:
        while (event := self._queue.get()) is not None:
            for tell, _ in tuple(self._forwards):
                self._tell(tell, event)
            for kind, handler in tuple(self._handlers):
                if isinstance(event, kind):
                    self._tell(handler, event)

    def _tell(self, handler: Callable[[Any], object], event: Event) -> None:
        try:
            handler(event)
        except Exception as error:  # the user's own code
            if id(handler) not in self._broken:
                self._broken.add(id(handler))
                name = getattr(handler, "__qualname__", repr(handler))
                warnings.warn(
                    SkywardWarning(f"event handler {name} failed: {type(error).__name__}: {error}"),
                    stacklevel=1,
                )
