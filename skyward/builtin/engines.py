"""The engine every pool has without asking for another one: SSH."""

from __future__ import annotations

from skyward import Engine, hookimpl


@hookimpl
def skyward_engines() -> list[type[Engine]]:
    # Imported here: the scheduler is needed by whoever runs tasks, not by whoever asks for prices.
    from skyward.scheduler.engine import SSHEngine

    return [SSHEngine]
