"""A cloud in a directory: its machines are files, so that every process sees the same ones, and so is its bill.

A plugin like any other. What it does wrong is scripted with `Toy(...).fault(...)`; each call is written to a log.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skyward as sky

PRICES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@dataclass(frozen=True, kw_only=True)
class Toy:
    directory: str = ""
    region: str | None = None
    instance_timeout: float | None = None

    # -- what tests ask and set --------------------------------------------------------------------------------------

    def fault(self, call: str, kind: str, times: int = 1, **more: Any) -> None:
        """The next `times` calls (-1: all) go wrong: capacity, quota, credentials, throttle, lost, vanish, error,
        hang, die, unlisted, stubborn, slow."""
        with self.state() as state:
            state["faults"].append({"call": call, "kind": kind, "times": times, **more})

    def heal(self) -> None:
        with self.state() as state:
            state["faults"] = []

    @property
    def machines(self) -> dict[str, dict[str, Any]]:
        with self.state() as state:
            found: dict[str, dict[str, Any]] = state["machines"]
            return found

    @property
    def running(self) -> list[str]:
        """Ids of what is billed now."""
        return [id for id, one in self.machines.items() if one["gone_at"] is None]

    def await_empty(self, within_s: float) -> float:
        """Seconds until nothing is billed."""
        began = time.monotonic()
        while self.running:
            assert time.monotonic() - began < within_s, f"still billed: {self.running}"
            time.sleep(0.02)
        return time.monotonic() - began

    @property
    def calls(self) -> list[str]:
        with self.state() as state:
            return list(state["calls"])

    def count(self, call: str) -> int:
        return sum(one.split()[0] == call for one in self.calls)

    def add(self, id: str, *, state: str = "running", age_s: float = 0.0, **tags: str) -> None:
        """A machine that somebody else launched; tags by keyword (`pool="x"` is `skyward:pool`)."""
        with self.state() as it:
            it["machines"][id] = {
                "tags": {f"skyward:{name}": value for name, value in tags.items()},
                "type": "t0", "state": state, "launched_at": time.time() - age_s, "gone_at": None, "reason": None,
                "region": self.region or "r1",
            }  # fmt: skip

    @contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        path = Path(self.directory) / "cloud.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = (
                json.loads(path.read_text()) if path.exists() else {"machines": {}, "faults": [], "calls": []}
            )
            yield state
            beside = path.with_suffix(".new")
            beside.write_text(json.dumps(state))
            os.replace(beside, path)


class ToyProvider(sky.Provider):
    name = "toy"
    Config = Toy
    capabilities = sky.Capabilities(spot=True, regions=True, off_means="gone")

    @classmethod
    def from_env(cls, config: Any = None, environ: Any = None) -> ToyProvider:
        if config is None or not config.directory:
            raise sky.CredentialsError("toy: no directory is given")
        return cls(config)

    def offers(self) -> Iterable[sky.Offer]:
        return toy_offers()

    def launch(self, request: sky.LaunchRequest) -> Sequence[sky.Instance]:
        with self.config.state() as state:
            state["calls"].append(
                f"launch {request.count} {request.offer.instance_type} {request.offer.region}"
            )
            fault = _fault(state, "launch", request.offer.instance_type)
        kind = fault.get("kind")
        if kind == "slow":
            time.sleep(fault["seconds"])
        if kind == "hang":
            time.sleep(60)
        _refuse(kind, request.offer.instance_type)
        with self.config.state() as state:
            mine = [
                id for id, one in state["machines"].items() if one["tags"]["skyward:token"] == request.token
            ]
            for number in range(len(mine), request.count - fault.get("missing", 0)):
                id = f"i-{request.token}-{number}"
                state["machines"][id] = {
                    "tags": request.tags, "type": request.offer.instance_type, "launched_at": time.time(),
                    "gone_at": None, "state": "pending" if kind in ("die", "unlisted", "boot") else "running",
                    "dies": kind == "die", "boots_at": time.time() + fault.get("seconds", 0.0), "reason": None,
                    "listed_from": time.time() + (fault.get("seconds", 0) if kind == "unlisted" else 0),
                    "region": request.offer.region, "stubborn": kind == "stubborn",
                }  # fmt: skip
                mine.append(id)
            found = [self._instance(id, state["machines"][id], request.offer) for id in mine]
        if kind == "late":  # the machines are there, and nobody has been told
            time.sleep(fault["seconds"])
        if fault.get("then") == "lost" or kind == "lost":
            raise sky.AmbiguousLaunchError("toy: the answer was lost")
        return found

    def instances(self, pool: str | None) -> Sequence[sky.Instance]:
        found = []
        with self.config.state() as state:
            state["calls"].append(f"instances {pool}")
            fault = _fault(state, "instances")
            for id, one in state["machines"].items():
                if one["state"] == "pending" and time.time() >= one.get("boots_at", 0):
                    one["state"] = "terminated" if one.get("dies") else "running"
                    if one.get("dies"):
                        one["reason"], one["gone_at"] = "Toy.NoDisk: no room for its disk", time.time()
                is_ours = pool in (None, one["tags"].get("skyward:pool")) and "skyward:managed" in one["tags"]
                is_here = self.config.region in (None, one.get("region"))
                if is_ours and is_here and time.time() >= one.get("listed_from", 0):
                    found.append(self._instance(id, one))
        _refuse(fault.get("kind"))
        return found

    def terminate(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        with self.config.state() as state:
            state["calls"].append(f"terminate {len(ids)}")
            fault = _fault(state, "terminate")
        if fault.get("kind") == "slow":
            time.sleep(fault["seconds"])
        _refuse(fault.get("kind"))
        with self.config.state() as state:
            for id in ids:
                one = state["machines"].get(id)
                if one is None or one["gone_at"] is not None or time.time() < one.get("listed_from", 0):
                    continue
                one["state"] = "terminating" if one.get("stubborn") else "terminated"
                one["gone_at"] = None if one.get("stubborn") else time.time()

    def release(self, pool: str) -> None:
        with self.config.state() as state:
            state["calls"].append(f"release {pool}")
            fault = _fault(state, "release")
        _refuse(fault.get("kind"))

    def connect(self, instance: sky.Instance) -> sky.Endpoint:
        return sky.Endpoint(kind="local")

    def _instance(self, id: str, one: dict[str, Any], offer: sky.Offer | None = None) -> sky.Instance:
        offer = offer or next(offer for offer in toy_offers() if offer.instance_type == one["type"])
        return sky.Instance(
            id=id, provider="toy", offer=offer, state=sky.InstanceState(one["state"]), region=one["region"],
            tags=one["tags"], reason=one["reason"], public_address="127.0.0.1",
        )  # fmt: skip


def _fault(state: dict[str, Any], call: str, what: str = "") -> dict[str, Any]:
    for fault in state["faults"]:
        if fault["call"] == call and fault["times"] != 0 and fault.get("match", "") in what:
            fault["times"] -= fault["times"] > 0
            found: dict[str, Any] = fault
            return found
    return {}


def _refuse(kind: str | None, what: str = "") -> None:
    errors: dict[str | None, sky.ProviderError] = {
        "capacity": sky.CapacityError(f"toy: no {what} to be had"),
        "quota": sky.QuotaError("toy: quota 'machines' is 0"),
        "credentials": sky.CredentialsError("toy: the token has expired"),
        "throttle": sky.RateLimitError("toy: too many calls"),
        "vanish": sky.AmbiguousLaunchError("toy: the question was lost"),
        "error": sky.ProviderError("toy: 503 three times"),
    }
    if kind in errors:
        raise errors[kind]


def toy_offers() -> list[sky.Offer]:
    regions = os.environ.get("TOY_REGIONS", "r1").split(",")
    return [
        sky.Offer(
            provider="toy", region=region, instance_type=f"t{number}", usd_per_hour=price, vcpus=4, memory_gib=16,
            availability="available",
        )
        for number, price in enumerate(PRICES[: int(os.environ.get("TOY_OFFERS", "3"))])
        for region in regions
    ]  # fmt: skip


@sky.hookimpl
def skyward_providers() -> list[type[sky.Provider]]:
    return [ToyProvider]


@sky.hookimpl
def skyward_modify_offers(offers: list[sky.Offer], requirements: sky.Requirements) -> None:
    if "toy" in requirements.providers:
        offers += toy_offers()
