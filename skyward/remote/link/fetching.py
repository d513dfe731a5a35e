"""Long values and logs on their way from one node to here, piece by piece, in the thread of the connection."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

from skyward.remote import wire
from skyward.remote.connection import Stream
from skyward.remote.link.line import Line


class Fetching:
    """What is being fetched from one node."""

    def __init__(self, line: Line) -> None:
        self.values: dict[str, Fetch] = {}
        """By name. It is this dict that the link shows, so it stays the same one."""
        self._logs: dict[str, LogFetch] = {}
        self._line = line

    def fetch(
        self, name: str, total: int, done: Callable[[bytes | memoryview], None], as_bytes: bool
    ) -> None:
        self.values[name] = Fetch(total, done, as_bytes, self._line.stream)
        self._line.send(wire.FETCH, {"name": name, "offset": 0, "total": total})

    def stop(self, name: str) -> None:
        """This value is not worth having any more."""
        if self.values.pop(name, None) is not None:
            self._line.send(wire.DROP, {"names": [name]})

    def fetch_log(self, name: str, room: int, write: Callable[[Any], None], done: Callable[[], None]) -> None:
        self._logs[name] = LogFetch(room, write, done)
        self._line.send(wire.FETCH, {"name": name, "last": room})

    def take(self, header: dict[str, Any], payload: Any) -> None:
        """A piece has come; of what nobody waits for any more it is passed over.

        Raises:
            ValueError: this cannot be the next piece of what was announced.
        """
        fetch = self.values.get(header["name"])
        if fetch is None:
            self._take_log(header, payload)
            return
        if header["total"] != fetch.total or len(payload) > fetch.total - fetch.filled:
            raise ValueError(f"{header['name']} has {header['total']} bytes, {fetch.total} were announced")
        if header["offset"] != fetch.filled:
            raise ValueError(
                f"{header['name']} goes on at {header['offset']}, {fetch.filled} bytes have come"
            )
        fetch.add(payload)
        if fetch.filled == fetch.total:
            del self.values[header["name"]]
            self._line.send(wire.DROP, {"names": [header["name"]]})
            fetch.done(fetch.value())

    def _take_log(self, header: dict[str, Any], payload: Any) -> None:
        name = header["name"]
        log = self._logs.get(name)
        if log is not None and log.take(header["offset"], header["total"], payload):
            del self._logs[name]
            log.done()

    def there_is_none(self, name: str) -> None:
        """The node has no such log."""
        if (log := self._logs.pop(name, None)) is not None:
            log.done()

    def end_logs(self) -> None:
        """The rest of the logs that were on their way is not waited for."""
        while self._logs:
            _, log = self._logs.popitem()
            log.done()

    def go_on(self) -> None:
        """On a new stream: asks for the rest of every value."""
        for name, fetch in list(self.values.items()):
            # What was heard of on this stream is on its way already: asked for twice, it would begin anew.
            if fetch.asked_on is not self._line.stream:
                fetch.asked_on = self._line.stream
                self._line.send(wire.FETCH, {"name": name, "offset": fetch.filled, "total": fetch.total})


class Fetch:
    """A long value on its way here."""

    __slots__ = ("_growing", "_target", "asked_on", "done", "filled", "total")

    def __init__(
        self, total: int, done: Callable[[bytes | memoryview], None], as_bytes: bool, asked_on: Stream | None
    ) -> None:
        self.total = total
        self.asked_on = asked_on
        self.done = done
        self.filled = 0
        self._growing = BytesIO() if as_bytes else None  # gives its bytes away without copying them
        self._target = bytearray(0 if as_bytes else total)

    def add(self, piece: Any) -> None:
        if self._growing is not None:
            self._growing.write(piece)
        else:
            self._target[self.filled : self.filled + len(piece)] = piece
        self.filled += len(piece)

    def value(self) -> bytes | memoryview:
        return self._growing.getvalue() if self._growing is not None else memoryview(self._target)


class LogFetch:
    """A log on its way here, of which the last `room` bytes were asked for."""

    __slots__ = ("_room", "_write", "done")

    def __init__(self, room: int, write: Callable[[Any], None], done: Callable[[], None]) -> None:
        self._room = room
        self._write = write
        self.done = done

    def take(self, offset: int, total: int, piece: Any) -> bool:
        """Whether this piece was the last one. A node that sends more than it was asked for is not believed."""
        self._room -= len(piece)
        if self._room < 0:
            raise ValueError(f"a log has more than the {total} bytes that were announced")
        self._write(piece)
        return bool(offset + len(piece) >= total)
