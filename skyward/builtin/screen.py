"""A stream that people read: whole lines, colours where they are wanted, and one status line that follows them.

The status line needs a terminal and nothing else: it is written, wiped and written again below the lines. Without
colours it is wiped with spaces, so that NO_COLOR means not one escape byte. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TextIO

Mode = str
MODES = ("auto", "rich", "log", "quiet")
DEFAULT_WIDTH = 80
TICK_S = 0.15

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?", re.DOTALL)
"""Control sequences: CSI, strings up to their end, and two-letter ones."""
_owner_lock = threading.Lock()
_owner: Screen | None = None
"""One terminal has room for one status line; the first screen that wants it has it."""


class Screen:
    """Writes lines and one status line to `stream`. Never raises: a broken pipe makes it silent.

    `color` None asks the environment (NO_COLOR, FORCE_COLOR, TERM) and the stream. `is_live` says that the
    status line is shown; without it `stamped` lines begin with the time of day. Beside a Python prompt there is none.
    Lines are shown as `redact` leaves them.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        mode: Mode = "auto",
        *,
        color: bool | None = None,
        redact: Callable[[str], str] = str,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        terminal = _is_terminal(self.stream)
        self.has_color = _wants_color(terminal) if color is None else color
        self.is_terminal = terminal
        self.is_live = mode == "rich" or (mode == "auto" and terminal and not hasattr(sys, "ps1"))
        self.is_unicode = "utf" in (getattr(self.stream, "encoding", None) or "").lower()
        self._redact = redact
        self._lock = threading.RLock()
        self._status: Callable[[int], str] | None = None
        self._shown = ""
        self._is_broken = False
        self._at_line_start = True
        self._ticker: threading.Thread | None = None
        self._stopping = threading.Event()

    # -- lines -------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Columns; of a stream that is no terminal, what is usual."""
        with contextlib.suppress(ValueError):
            if (columns := int(os.environ.get("COLUMNS", ""))) > 0:
                return columns
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self.is_terminal:
                return os.get_terminal_size(self.stream.fileno()).columns or DEFAULT_WIDTH
        return DEFAULT_WIDTH

    def line(self, text: str = "", *, stamped: bool = False) -> None:
        """One line; `stamped` ones tell the time where nobody watches."""
        text = self._redact(text)
        if stamped and not self.is_live:
            text = f"{self.paint(time.strftime('%H:%M:%S'), 'dim')}  {text}"
        with self._lock:
            self._wipe()
            self._write(text + "\n" if self._at_line_start else f"\n{text}\n")
            self._at_line_start = True
            self._draw()

    def rule(self, title: str, fill: str = "=", *styles: str) -> None:
        """A title in the middle of a line of `fill`."""
        room = max(self.width - cells(title) - 2, 2)
        left = room // 2
        self.line(self.paint(f"{fill * left} {title} {fill * (room - left)}", *styles))

    def paint(self, text: str, *styles: str) -> str:
        if not self.has_color or not styles or not text:
            return text
        return f"\x1b[{';'.join(_CODES[style] for style in styles)}m{text}\x1b[0m"

    def sign(self, pretty: str, plain: str) -> str:
        """The pretty one where the stream can hold it."""
        return pretty if self.is_unicode else plain

    # -- the status line ---------------------------------------------------------------------------------------

    def follow(self, status: Callable[[int], str]) -> None:
        """Shows `status(columns)` below the lines from now on, several times a second."""
        global _owner
        if not self.is_live:
            return
        with _owner_lock:
            if _owner is not None and _owner is not self:
                return
            _owner = self
        with self._lock:
            self._status = status
            if self._ticker is None:
                self._stopping.clear()
                self._ticker = threading.Thread(target=self._tick, name="skyward-status", daemon=True)
                self._ticker.start()

    def unfollow(self) -> None:
        """Takes the status line away. Idempotent."""
        global _owner
        self._stopping.set()
        with self._lock:
            self._wipe()
            self._status, self._ticker = None, None
        with _owner_lock:
            if _owner is self:
                _owner = None

    @contextlib.contextmanager
    def beside(self, *names: str) -> Iterator[None]:
        """Keeps the status line out of the way of what the program itself prints on the same terminal."""
        replaced: dict[str, _Beside] = {}
        for name in names if self.is_live else ():
            stream = getattr(sys, name)
            if stream is not None and _is_terminal(stream):
                replaced[name] = _Beside(stream, self)
                setattr(sys, name, replaced[name])
        try:
            yield
        finally:
            for name, stand_in in replaced.items():
                if getattr(sys, name) is stand_in:
                    setattr(sys, name, stand_in.stream)

    def _tick(self) -> None:
        ticker = threading.current_thread()
        while not self._stopping.wait(TICK_S):
            with self._lock:
                if self._ticker is not ticker:
                    return
                self._draw()

    def _draw(self) -> None:
        if self._status is None or not self._at_line_start:
            return
        room = self.width - 1
        text = clip(self._status(room), room)
        if text != self._shown:
            self._wipe()
            self._write(text)
            self._shown = text

    def _wipe(self) -> None:
        if self._shown:
            self._write("\r\x1b[K" if self.has_color else "\r" + " " * cells(self._shown) + "\r")
            self._shown = ""

    def _write(self, text: str) -> None:
        if self._is_broken:
            return
        try:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                encoding = self.stream.encoding or "ascii"
                self.stream.write(text.encode(encoding, "replace").decode(encoding))
            self.stream.flush()
        except (OSError, ValueError):  # a closed or full stream must not stop the run
            self._is_broken = True

    def pass_through(self, stream: TextIO, text: str) -> int:
        """What the program prints by itself, with the status line out of its way."""
        with self._lock:
            self._wipe()
            written = stream.write(text)
            stream.flush()
            if text:
                self._at_line_start = text.endswith("\n")
        return written


class _Beside:
    """Stands in for sys.stdout or sys.stderr while a status line is on the same terminal."""

    def __init__(self, stream: TextIO, screen: Screen) -> None:
        self.stream = stream
        self._screen = screen

    def write(self, text: str) -> int:
        return self._screen.pass_through(self.stream, text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


# -- text --------------------------------------------------------------------------------------------------------


def cells(text: str) -> int:
    """How many columns a text takes."""
    if text.isascii():
        return len(text)
    return sum(_cell(character) for character in text)


def _cell(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def clip(text: str, room: int, mark: str = "..") -> str:
    """The text, cut to `room` columns with a mark where something is missing."""
    if cells(text) <= room:
        return text
    kept, used = [], cells(mark)
    for character in text:
        used += _cell(character)
        if used > room:
            break
        kept.append(character)
    return ("".join(kept) + mark)[: max(room, 0)]


def clean(text: str) -> str:
    """The text without control characters; what a carriage return overwrote is left out, as on a terminal."""
    text = _ESCAPES.sub("", text).rstrip("\r\n").rpartition("\r")[2]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else "" if c < " " or c == "\x7f" else "�" for c in text)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty()) and os.environ.get("TERM", "") != "dumb"
    except (AttributeError, ValueError, OSError):
        return False


def _wants_color(terminal: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return terminal
