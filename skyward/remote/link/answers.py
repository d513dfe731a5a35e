"""What an agent says once and somebody waits for: who it is, which tasks it knows, that its workers are ready."""

from __future__ import annotations

import threading
from typing import Any

from skyward.remote import wire


class Answers:
    """The answers of one agent, or what failed instead of them. They come from the thread of the connection."""

    def __init__(self) -> None:
        self._said: dict[int, dict[str, Any]] = {}
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    @property
    def hello(self) -> dict[str, Any] | None:
        """What kind of machine this is. None: nothing has been heard on this stream."""
        return self._said.get(wire.HELLO)

    @property
    def sync(self) -> dict[str, Any] | None:
        """Which tasks the agent knows."""
        return self._said.get(wire.SYNC)

    @property
    def ready(self) -> dict[str, Any] | None:
        """The workers, when they can take tasks."""
        return self._said.get(wire.READY)

    def begin(self) -> None:
        """Another agent is to answer, or the same one anew."""
        self.forget(wire.HELLO)
        self.forget(wire.SYNC)
        self._failure = None

    def forget(self, kind: int) -> None:
        self._said.pop(kind, None)

    def take(self, kind: int, header: dict[str, Any]) -> None:
        with self._changed:
            self._said[kind] = header
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Whoever waits, or will wait, gets this error."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def wait_for(self, kind: int, timeout_s: float) -> dict[str, Any] | None:
        """The answer of this kind, or None when none has come in time. Raises what has failed."""
        with self._changed:
            self._changed.wait_for(lambda: kind in self._said or self._failure is not None, timeout_s)
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._said.get(kind)
