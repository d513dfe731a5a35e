"""A provider whose machines fail on request, and pools whose tasks run in threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import skyward as sky
from skyward.plugins import get_plugins
from skyward.testing.engines import ThreadEngine


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """`launches` are what each launch does: raise an error, give so many machines (None: all), or launch all of them
    and lose the answer ("lost"); a function is called for one of these."""

    launches: list[Any] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    alive: dict[str, sky.Instance] = field(default_factory=dict)
    prices: tuple[float, ...] = (1.0,)
    on_terminate: Callable[[], None] = field(default=lambda: None)


class ScriptedProvider(sky.Provider):
    """Machines of one's own (no catalog knows them) with a bill that tests can read: `config.log`, `config.alive`."""

    name = "scripted"
    Config = Scripted
    capabilities = sky.Capabilities(off_means="nothing")

    def offers(self) -> Iterable[sky.Offer]:
        return [
            sky.Offer(
                provider=self.name,
                region="here",
                instance_type=f"type{number}",
                usd_per_hour=price,
                vcpus=4,
                memory_gib=16,
            )
            for number, price in enumerate(self.config.prices)
        ]

    def launch(self, request: sky.LaunchRequest) -> Sequence[sky.Instance]:
        self.config.log.append(f"launch {request.count} {request.offer.instance_type}")
        what = self.config.launches.pop(0) if self.config.launches else None
        what = what() if callable(what) else what
        if isinstance(what, BaseException):
            raise what
        count = request.count if what in (None, "lost") else what
        instances = [
            sky.Instance(
                id=f"{request.token}/{number}", provider=self.name, offer=request.offer, tags=request.tags
            )
            for number in range(count)
        ]
        self.config.alive.update({one.id: one for one in instances})
        if what == "lost":
            raise OSError("the answer was lost")
        return instances

    def instances(self, pool: str) -> Sequence[sky.Instance]:
        return [one for one in self.config.alive.values() if one.tags["skyward:pool"] == pool]

    def terminate(self, ids: Iterable[str]) -> None:
        ids = list(ids)
        self.config.log.append(f"terminate {len(ids)}")
        self.config.on_terminate()
        for id in ids:
            self.config.alive.pop(id, None)

    def connect(self, instance: sky.Instance) -> sky.Endpoint:
        return sky.Endpoint(kind="local")


@dataclass(frozen=True, kw_only=True)
class Market(Scripted):
    """A place whose machines are not trusted, and for which there may be no credentials."""

    has_credentials: bool = True


class MarketProvider(ScriptedProvider):
    name = "market"
    Config = Market
    capabilities = sky.Capabilities(off_means="nothing", trusted=False)

    @classmethod
    def from_env(cls, config: Any = None, environ: Any = None) -> MarketProvider:
        if not config.has_credentials:
            raise sky.CredentialsError("market: credentials not found: set MARKET_KEY")
        return cls(config)


class _Plugin:
    @sky.hookimpl
    def skyward_providers(self) -> list[type[sky.Provider]]:
        return [MarketProvider, ScriptedProvider]


@pytest.fixture(scope="session", autouse=True)
def _scripted_provider() -> Iterator[None]:
    plugin = _Plugin()
    get_plugins().register(plugin, "scripted")
    yield
    get_plugins().unregister(plugin)


@pytest.fixture(autouse=True)
def _no_configuration(empty_home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's settings nor those of this checkout."""


@pytest.fixture
def cloud() -> Scripted:
    return Scripted()


@pytest.fixture
def make_pool(cloud: Scripted) -> Callable[..., sky.ComputePool]:
    """Pools on `cloud` whose tasks run in threads."""

    def make(**options: Any) -> sky.ComputePool:
        return sky.ComputePool(**{"provider": cloud, "engine": ThreadEngine, "display": "quiet", **options})

    return make


@pytest.fixture
def pool(make_pool: Callable[..., sky.ComputePool]) -> Iterator[sky.ComputePool]:
    """Two nodes, running."""
    with make_pool(nodes=2) as pool:
        yield pool


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """No pool is left running, and no thread of a task either."""
    yield
    from skyward.api import target
    from skyward.api.pool import _RUNNING

    assert not _RUNNING
    assert not target.started
    assert target.active.get() is None
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("skyward-conc")]
    assert not left
