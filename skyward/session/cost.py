"""What a run cost, and for what: read out of its directory, whether it ended or was killed.

Every second of a machine belongs to exactly one of `PARTS`, so the parts of a cost add up to it. Reads the files
`session.store` writes; writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from skyward.errors import UsageError
from skyward.session.kept import document, lines
from skyward.session.store import RUNS

RUN_ID = re.compile(r"r-[0-9a-z]{8}")

PARTS = ("boot", "environment", "useful", "retried", "wasted", "idle")
"""Until it could be reached; until it could work; work that counts; attempts that were made again; work that failed
or was lost for good; and slots that waited."""


@dataclass(slots=True, eq=False)
class NodeCost:
    """One machine from launch to end; times are seconds since the epoch, money US dollars."""

    node: int
    instance: Mapping[str, Any]
    launched_at: float
    until: float
    connected_at: float | None = None
    ready_at: float | None = None
    slots: int = 0
    is_ended: bool = False
    worked_s: dict[str, float] = field(default_factory=dict)
    """Seconds of slots, by part."""

    @property
    def seconds(self) -> float:
        return max(0.0, self.until - self.launched_at)

    @property
    def usd_per_hour(self) -> float | None:
        """None where it is unknown."""
        offer = self.instance.get("offer") or {}
        return 0.0 if offer.get("is_owned") else offer.get("usd_per_hour") or None

    @property
    def usd(self) -> float | None:
        rate = self.usd_per_hour
        return None if rate is None else rate * self.seconds / 3600

    def parts_s(self) -> dict[str, float]:
        """Seconds of the machine by part; slots that work side by side share it."""
        connected = min(self.connected_at or self.until, self.until)
        ready = min(self.ready_at or self.until, self.until)
        left = self.until - ready
        worked = {part: seconds / max(1, self.slots) for part, seconds in self.worked_s.items()}
        shrink = min(1.0, left / total) if (total := sum(worked.values())) else 1.0
        found = {part: seconds * shrink for part, seconds in worked.items()}
        parts = dict.fromkeys(PARTS, 0.0) | found
        parts["boot"] = max(0.0, min(connected, ready) - self.launched_at)
        parts["environment"] = (
            max(0.0, ready - max(connected, self.launched_at)) if connected < ready else 0.0
        )
        parts["idle"] = max(0.0, self.seconds - sum(parts.values()))
        return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What all machines of one run cost."""

    run: str
    target: str
    started_at: datetime | None
    is_ended: bool
    """Whether the run said how it ended; a killed one may have left machines behind."""
    nodes: tuple[NodeCost, ...]

    @property
    def usd(self) -> float | None:
        """None where the price of a machine is unknown."""
        known = [node.usd for node in self.nodes if node.usd is not None]
        return sum(known) if len(known) == len(self.nodes) else None

    def parts_usd(self) -> dict[str, float]:
        """US dollars by part, over the machines whose price is known; they add up to what those cost."""
        total = dict.fromkeys(PARTS, 0.0)
        for node in self.nodes:
            for part, seconds in node.parts_s().items():
                total[part] += seconds * (node.usd_per_hour or 0.0) / 3600
        return total


def find_run(state: Path, name: str) -> Path:
    """The directory of a run; `last` is the newest.

    Raises:
        UsageError: there is none of this name; names the newest ones.
    """
    root = state / RUNS
    known = (
        sorted(path.name for path in root.iterdir() if RUN_ID.fullmatch(path.name)) if root.is_dir() else []
    )
    if name == "last" and known:
        return root / known[-1]
    if name in known:
        return root / name
    raise UsageError(
        f"no run {name!r} is kept here",
        facts=[f"the newest: {', '.join(reversed(known[-3:]))}" if known else f"{root} holds no run"],
        hints=["skyward cost last"] if known else ["skyward run TARGET"],
        run=name,
    )


def run_cost(directory: Path) -> RunCost:
    """What the run in this directory cost."""
    request, report = document(directory / "run.json"), document(directory / "report.json")
    started = request.get("started_at")
    return RunCost(
        run=directory.name,
        target=str(request.get("target") or ""),
        started_at=datetime.fromisoformat(started).astimezone(UTC) if isinstance(started, str) else None,
        is_ended=bool(report),
        nodes=tuple(_nodes(lines(directory / "events.jsonl"))),
    )


def _nodes(events: Iterable[Mapping[str, Any]]) -> list[NodeCost]:
    """The machines in order of launch. A node number means the machine that had it last."""
    found: list[NodeCost] = []
    now: dict[int, NodeCost] = {}
    for event in events:
        at, name, node = float(event.get("at") or 0.0), event.get("event"), event.get("node")
        for other in now.values():
            other.until = other.until if other.is_ended else max(other.until, at)
        if name == "InstanceLaunched":
            now[event["node"]] = NodeCost(event["node"], event["instance"], launched_at=at, until=at)
            found.append(now[event["node"]])
        elif name == "TaskFinished":
            _count(now, event["report"], is_final=bool(event.get("final", True)))
        elif node in now:
            _note(now[node], str(name), event, at)
    return found


def _note(node: NodeCost, name: str, event: Mapping[str, Any], at: float) -> None:
    if name == "StepFinished" and node.connected_at is None:
        node.connected_at = at
    elif name == "NodeReady":
        node.ready_at, node.slots = at, int(event.get("slots") or 0)
    elif name == "InstanceTerminated":
        node.until, node.is_ended = at, True


def _count(now: Mapping[int, NodeCost], report: Mapping[str, Any], *, is_final: bool) -> None:
    node = now.get(report.get("node", -1))
    if node is None:
        return
    part = "retried" if not is_final else "useful" if report.get("verdict") == "succeeded" else "wasted"
    node.worked_s[part] = node.worked_s.get(part, 0.0) + float(report.get("duration_s") or 0.0)
