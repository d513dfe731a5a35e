"""What the events of a pool's journal add up to: its machines, what is owed, and what nobody knows. No I/O.

A launch is written down before it is asked for. From then on it is *in doubt* until it is known which machines it
brought, and each machine is *owed* until a cloud has shown that it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from skyward.cloud.client import Client
from skyward.model.instance import Instance, InstanceState

LAG_S = 120.0
"""How long a machine that was just launched may be missing from a cloud's answers, seconds. EC2 calls this eventual
consistency and names no bound; two minutes is what others wait (SkyPilot #4431, Karpenter's garbage collection)."""


@dataclass(frozen=True, slots=True, order=True)
class Desk:
    """Where machines are asked for and given back: a provider in one region."""

    provider: str
    region: str

    def __str__(self) -> str:
        return f"{self.provider} {self.region}".strip()


@dataclass(slots=True, kw_only=True)
class Intent:
    """One launch that was going to be asked for, and what is known of its outcome."""

    token: str
    desk: Desk
    count: int
    at: float
    """Seconds since the epoch."""
    offer: dict[str, Any]
    config: dict[str, Any]
    """Fields of the provider's config, to make it again in another process."""
    plugin: dict[str, Any]
    """Where the provider comes from."""
    is_verifiable: bool
    """Whether the cloud is asked if machines are gone; one's own are just let go."""
    is_open: bool = True
    """Whether machines may have come of it that we have not heard of."""


@dataclass(slots=True, kw_only=True)
class Machine:
    """One machine that was launched."""

    id: str
    desk: Desk
    token: str
    launched_at: float
    usd_per_hour: float | None = None
    instance_type: str = ""
    pricing: str = ""
    node: int | None = None
    endpoint: dict[str, Any] = field(default_factory=dict)
    """How to reach it, once that is known."""
    gone_at: float | None = None
    was_seen: bool = False
    """Whether the cloud has shown it to us: from then on, missing means gone."""

    def usd(self, now: float) -> float | None:
        """What it has cost; None where its price is unknown."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour * max(0.0, (self.gone_at or now) - self.launched_at) / 3600


class Account:
    """One pool: fold events into it with `apply`. Events of a later version, and fields it does not know, are
    passed over."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.name = ""
        self.owner = ""
        self.client: Client | None = None
        self.created_at = 0.0
        self.expires_at: float | None = None
        self.lease_s: float | None = None
        self.intents: dict[str, Intent] = {}
        self.machines: dict[str, Machine] = {}
        self.released: set[Desk] = set()
        self.is_handed_over = False
        """Its client lives perhaps, but has left the end of the pool to others."""
        self.is_condemned = False
        """Somebody ends it from outside: nothing is launched for it any more."""
        self.is_closed = False
        self.trouble = ""
        """Why its end has not come yet, in the last words of who tried."""

    # -- what is owed ----------------------------------------------------------------------------------------------

    @property
    def owed(self) -> list[Machine]:
        """Machines that nobody has seen the end of."""
        return [one for one in self.machines.values() if one.gone_at is None]

    @property
    def doubts(self) -> list[Intent]:
        return [one for one in self.intents.values() if one.is_open]

    @property
    def desks(self) -> list[Desk]:
        """Where something was asked for, in that order."""
        asked = [intent.desk for intent in self.intents.values()]
        return list(dict.fromkeys([*asked, *(machine.desk for machine in self.machines.values())]))

    @property
    def is_debt(self) -> bool:
        """Whether anything is left to do."""
        return not self.is_closed and bool(self.owed or self.doubts or set(self.desks) - self.released)

    @property
    def is_orphan(self) -> bool:
        """Whether nobody is there any more who would end it."""
        if self.is_closed:
            return False
        return self.is_handed_over or self.client is None or self.client.is_alive is False

    @property
    def launched(self) -> int:
        """Machines ever launched, and those that may have been."""
        return len(self.machines) + sum(one.count for one in self.doubts)

    @property
    def usd_per_hour(self) -> float | None:
        """What is owed costs so much; None where a price is unknown."""
        return total(one.usd_per_hour for one in self.owed)

    def usd(self, now: float) -> float | None:
        """What all machines have cost; None where a price is unknown."""
        return total(one.usd(now) for one in self.machines.values())

    def intent_at(self, desk: Desk) -> Intent | None:
        """The last launch at a desk: how its provider was made."""
        return next((one for one in reversed(self.intents.values()) if one.desk == desk), None)

    # -- folding ---------------------------------------------------------------------------------------------------

    def apply(self, event: Mapping[str, Any]) -> None:
        """Takes in one event."""
        take = getattr(self, f"_on_{event.get('event')}", None)
        if take is not None:
            take(event)

    def _on_intent(self, event: Mapping[str, Any]) -> None:
        self.client = Client.read(event["client"])
        self.name = event.get("name", "")
        self.owner = event.get("owner", "")
        self.created_at = self.created_at or event["at"]
        self.expires_at = event.get("expires")
        self.lease_s = event.get("lease_s")
        self.is_closed = False
        desk = Desk(event["provider"], event["region"])
        self.released.discard(desk)
        self.intents[event["token"]] = Intent(
            token=event["token"],
            desk=desk,
            count=event["count"],
            at=event["at"],
            offer=event.get("offer", {}),
            config=event.get("config", {}),
            plugin=event.get("plugin", {}),
            is_verifiable=event.get("is_verifiable", True),
        )

    def _on_refused(self, event: Mapping[str, Any]) -> None:
        self.intents[event["token"]].is_open = False

    _on_settled = _on_refused

    def _on_launched(self, event: Mapping[str, Any]) -> None:
        intent = self.intents.get(event["token"])
        for one in event["machines"]:
            known = self.machines.get(one["id"])
            if known is None:
                desk = Desk(event["provider"], event["region"])
                self.machines[one["id"]] = Machine(
                    id=one["id"],
                    desk=desk,
                    token=event["token"],
                    launched_at=one.get("launched_at") or (intent.at if intent else event["at"]),
                    usd_per_hour=one.get("usd_per_hour"),
                    instance_type=one.get("instance_type", ""),
                    pricing=one.get("pricing", ""),
                    was_seen=bool(one.get("was_seen")),
                )
        if intent is not None and event.get("is_all", True):
            intent.is_open = False

    def _on_ready(self, event: Mapping[str, Any]) -> None:
        machine = self.machines.get(event["id"])
        if machine is not None:
            machine.node, machine.endpoint, machine.was_seen = event["node"], event.get("endpoint", {}), True

    def _on_gone(self, event: Mapping[str, Any]) -> None:
        for id in event["ids"]:
            if id in self.machines:
                self.machines[id].gone_at = event["at"]

    _on_kept = _on_gone
    """A machine the user wants to keep is none of ours any more."""

    def _on_back(self, event: Mapping[str, Any]) -> None:
        """A cloud shows a machine again that it had not shown for a while."""
        for id in event["ids"]:
            if id in self.machines:
                self.machines[id].gone_at = None

    def _on_released(self, event: Mapping[str, Any]) -> None:
        self.released.add(Desk(event["provider"], event["region"]))

    def _on_handed_over(self, _: Mapping[str, Any]) -> None:
        self.is_handed_over = True

    def _on_condemned(self, _: Mapping[str, Any]) -> None:
        self.is_condemned = True

    def _on_trouble(self, event: Mapping[str, Any]) -> None:
        self.trouble = event["error"]

    def _on_closed(self, _: Mapping[str, Any]) -> None:
        self.is_closed = True


# -- decisions -----------------------------------------------------------------------------------------------------

Verdict = Literal["gone", "ending", "alive", "unseen"]


def verdict(machine: Machine, shown: Instance | None, now: float) -> Verdict:
    """What one answer of the cloud says of a machine. `unseen` is neither alive nor gone: the cloud may just not know
    it yet."""
    if shown is not None:
        if shown.state is InstanceState.TERMINATED:
            return "gone"
        return "ending" if shown.state is InstanceState.TERMINATING else "alive"
    if machine.was_seen or now - machine.launched_at > LAG_S:
        return "gone"
    return "unseen"


def is_settled(intent: Intent, shown: Iterable[Instance], now: float) -> bool:
    """Whether one answer of the cloud says all there is to know of a launch that nobody answered."""
    found = sum(one.tags.get("skyward:token") == intent.token for one in shown)
    return found >= intent.count or now - intent.at > LAG_S


def total(amounts: Iterable[float | None]) -> float | None:
    """The sum; None where one of them is unknown."""
    known = list(amounts)
    return None if None in known else sum(one for one in known if one is not None)
