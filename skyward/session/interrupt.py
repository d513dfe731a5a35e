"""What may stop a run from outside: Ctrl-C, SIGTERM, SIGHUP and a deadline. Standard library and `errors` only.

Each becomes one exception in the main thread, wherever that is. From then on the run is being torn down: another
Ctrl-C leaves at once, without waiting for the machines; their agents notice that the client is gone and clean up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from skyward.errors import GuardError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop. A KeyboardInterrupt, so that `except Exception` lets it pass."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        return 128 + self.signum

    @property
    def word(self) -> str:
        return "terminated" if self.signum == signal.SIGTERM else "interrupted"


class DeadlinePassed(KeyboardInterrupt):
    """The guard of `--timeout` struck; becomes a GuardError once the run is torn down."""

    def __init__(self, error: GuardError) -> None:
        super().__init__(str(error))
        self.error = error


class Interrupts:
    """Installed around a run, in the main thread; elsewhere it does nothing.

    A signal that was ignored before (`nohup`, a background job) stays ignored.
    """

    def __init__(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """`hurry` asks whoever cleans up to leave the rest to others, and says whether there are any."""
        self._hurry = hurry
        self._before: dict[int, Any] = {}
        self._deadline: GuardError | None = None
        self._timer: threading.Timer | None = None
        self._is_stopping = False
        self.heard: int | None = None
        """The first signal, if there was one."""

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.no_deadline()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def deadline(self, seconds: float, error: GuardError) -> None:
        """Stops the run with `error` after so many seconds from now."""
        if not self._before:
            return
        self._deadline = error
        self._before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, self._on_alarm))
        self._timer = threading.Timer(seconds, _alarm_main_thread)
        self._timer.daemon = True
        self._timer.start()

    def no_deadline(self) -> None:
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()

    def stopping(self) -> None:
        """The run is being torn down, for whatever reason: signals do not disturb that any more."""
        self.no_deadline()
        self._is_stopping = True

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.heard is not None:
            leave(signum)
        self.heard = signum
        if self._is_stopping:
            is_left = self._hurry()
            _say(
                "the rest is cleaned up in the background" if is_left
                else "still cleaning up; Ctrl-C again leaves at once"
            )  # fmt: skip
            return
        self._is_stopping = True
        _say(f"{Interrupted(signum).word} - cleaning up; Ctrl-C again leaves at once")
        raise Interrupted(signum)

    def _on_alarm(self, _signum: int, _frame: FrameType | None) -> None:
        if not self._is_stopping and self._deadline is not None:
            self._is_stopping = True
            raise DeadlinePassed(self._deadline)


def leave(signum: int) -> None:
    """Ends this process here and now. Nothing is waited for; the nodes notice it by themselves."""
    _say("left at once; the nodes notice it and clean up by themselves")
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        sys.stdout.flush()
    os._exit(128 + signum)


def _alarm_main_thread() -> None:
    """A signal to that very thread: one to the process may land in another, and then a sleep goes on sleeping."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)


def _say(text: str) -> None:
    """Past every lock and buffer: signal handlers run in between anything."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
