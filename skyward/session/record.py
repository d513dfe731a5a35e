"""What is noted of a run while it happens: its machines, how its tasks ended, and every event on disk.

A plugin on `skyward_event` for as long as the run lasts. Imports `model`, `contracts` and the store.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from skyward.contracts.hookspecs import hookimpl
from skyward.errors import SkywardWarning, UsageError
from skyward.model import event as events
from skyward.model.instance import Instance
from skyward.model.report import TaskReport
from skyward.session.store import Store, event_record, utc

MAX_FAILURES = 1000
"""Failed tasks whose reports are kept; the others are counted."""


@dataclass(slots=True)
class NodeRecord:
    """One machine, from launch to end; times are seconds since the epoch."""

    node: int
    instance: Instance
    launched_at: float
    ready_at: float | None = None
    terminated_at: float | None = None
    slots: int = 0

    def as_json(self, *, is_free: bool) -> dict[str, Any]:
        offer = self.instance.offer
        rate = 0.0 if is_free else offer.usd_per_hour or None
        until = self.terminated_at or time.time()
        return {
            "node": self.node,
            "provider": self.instance.provider,
            "id": self.instance.id,
            "instance_type": offer.instance_type,
            "region": self.instance.region or offer.region or None,
            "address": self.instance.public_address,
            "pricing": offer.pricing,
            "slots": self.slots,
            "usd_per_hour": rate,
            "usd": None if rate is None else round(rate * (until - self.launched_at) / 3600, 6),
            "launched_at": utc(self.launched_at),
            "ready_at": None if self.ready_at is None else utc(self.ready_at),
            "terminated_at": None if self.terminated_at is None else utc(self.terminated_at),
        }


@dataclass(slots=True, eq=False)
class Recorder:
    """Listens to the events of one run. Called from one thread at a time."""

    store: Store | None = None
    nodes: dict[int, NodeRecord] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[TaskReport] = field(default_factory=list)
    dropped: int = 0
    """How much of the output was not shown, bytes."""

    @hookimpl
    def skyward_event(self, event: events.Event) -> None:
        match event:
            case events.InstanceLaunched(node=node, instance=instance, at=at):
                self.nodes[node] = NodeRecord(node, instance, at)
            case events.NodeReady(node=node, slots=slots, at=at) if node in self.nodes:
                self.nodes[node].ready_at, self.nodes[node].slots = at, slots
            case events.InstanceTerminated(node=node, at=at) if node in self.nodes:
                self.nodes[node].terminated_at = at
            case events.TaskOutput(dropped=dropped):
                self.dropped += dropped
            case events.TaskFinished(report=report, final=True):
                self.verdicts[report.verdict] += 1
                if report.verdict in ("failed", "lost") and len(self.failures) < MAX_FAILURES:
                    self.failures.append(report)
        self._keep(event)

    def _keep(self, event: events.Event) -> None:
        if self.store is None:
            return
        try:
            self.store.event(event)
        except OSError as error:
            self.store = None
            warnings.warn(SkywardWarning(f"this run is kept no further: {error}"), stacklevel=1)


class ReportLog:
    """Every event of a run as a line of JSON, in a file the user named, as it comes. Errors of the disk end the log and
    not the run."""

    def __init__(self, path: Path, redact: Callable[[str], str]) -> None:
        """Raises:
        UsageError: the file cannot be written.
        """
        self._redact = redact
        self._path = path
        try:
            self._file: IO[str] | None = open(  # noqa: SIM115 - open as long as the run lasts
                path, "w", buffering=1, encoding="utf-8", errors="backslashreplace"
            )
        except OSError as error:
            raise UsageError(f"--report-log {str(path)!r} cannot be written: {error.strerror}") from error

    @hookimpl
    def skyward_event(self, event: events.Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(event_record(event, self._redact), ensure_ascii=False) + "\n")
        except OSError as error:
            self.close()
            warnings.warn(SkywardWarning(f"{self._path} is written no further: {error}"), stacklevel=1)

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()
