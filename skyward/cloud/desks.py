"""Providers as a journal names them: which object speaks for a region, and how another process makes it again.

Imports `contracts`, `plugins` and below.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyward.cloud.account import Account, Desk
from skyward.contracts.provider import Provider
from skyward.errors import ProviderError, SkywardError
from skyward.model.offer import Offer

if TYPE_CHECKING:
    from skyward.plugins import Plugins

FindProvider = Callable[[Desk], Provider]
"""The provider object for a desk; raises SkywardError where there is none."""


class Desks:
    """The providers of one pool. One that speaks for a single region is made anew for each other one."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._named = dict(providers)
        self._made: dict[Desk, Provider] = {}
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def of(self, offer: Offer) -> tuple[Desk, Provider]:
        """Where an offer is launched, and who does it."""
        desk = Desk(offer.provider, offer.region)
        return desk, self.at(desk)

    def at(self, desk: Desk) -> Provider:
        """The provider of a desk."""
        with self._lock:
            if desk not in self._made:
                self._made[desk] = in_region(self._named[desk.provider], desk.region)
            return self._made[desk]


def in_region(provider: Provider, region: str) -> Provider:
    """The provider, speaking for `region`. It is the same one where its config names that region, or none at all."""
    config = provider.config
    own = getattr(config, "region", None)
    is_regional = (
        provider.capabilities.regions and dataclasses.is_dataclass(config) and hasattr(config, "region")
    )
    if not is_regional or not region or own == region or getattr(provider, "region", None) == region:
        return provider
    return type(provider).from_env(dataclasses.replace(config, region=region))


def config_fields(config: Any) -> dict[str, Any]:
    """What a config says, as plain data; its defaults are left out, and so is what is hidden from its `repr`."""
    if not dataclasses.is_dataclass(config):
        return {}
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.repr and value != field.default and _is_plain(value):
            found[field.name] = value
    return found


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def plugin_fields(plugins: Plugins, provider: str) -> dict[str, Any]:
    """Where a provider comes from, so that another process finds it; empty where none can: an object that was
    registered here."""
    info = plugins.owner("provider", provider)
    if info is None:
        return {}
    if info.distribution:
        return {"installed": info.name}
    if info.origin and info.name == "skyfile":
        return {"skyfile": str(Path(info.origin).parent)}
    module = sys.modules.get(info.name)
    if module is not None and info.origin and getattr(module, "__file__", None) == info.origin:
        return {"module": info.name, "directory": _root_of(info.name, Path(info.origin))}
    return {}


def _root_of(module: str, file: Path) -> str:
    """The directory a module is imported from."""
    depth = module.count(".") + (file.name == "__init__.py")
    return str(file.parents[depth])


class Registered:
    """Providers of installed plugins, made again out of what a journal says. Only the plugin that is needed is
    loaded: whoever ends machines runs no other code."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._plugins: dict[str, Plugins] = {}

    def __call__(self, desk: Desk) -> Provider:
        """The provider, with the credentials of this process.

        Raises:
            SkywardError: the plugin is gone, or the credentials are.
        """
        intent = self._account.intent_at(desk)
        if intent is None:
            raise ProviderError(f"the journal of {self._account.pool} does not say how {desk} is asked")
        kind = self._load(intent.plugin).provider(desk.provider)
        return make(kind, intent.config, desk.region)

    def _load(self, source: Mapping[str, Any]) -> Plugins:
        key = json.dumps(source, sort_keys=True)
        if key not in self._plugins:
            self._plugins[key] = load_plugin(source)
        return self._plugins[key]


def make(kind: type[Provider], fields: Mapping[str, Any], region: str) -> Provider:
    """A provider out of the fields of its config. Fields that its config does not know any more are left out."""
    known = (
        {field.name for field in dataclasses.fields(kind.Config)}
        if dataclasses.is_dataclass(kind.Config)
        else set()
    )
    given = {name: value for name, value in fields.items() if name in known}
    if kind.capabilities.regions and "region" in known and region:
        given["region"] = region
    return kind.from_env(kind.Config(**given))


def load_plugin(source: Mapping[str, Any]) -> Plugins:
    """One plugin besides the built-in ones.

    Raises:
        SkywardError: it cannot be found.
    """
    from skyward.config import Places
    from skyward.entry_points import installed
    from skyward.plugins import Plugins

    name = source.get("installed")
    points = [point for point in installed(Places.find().cache) if point.name == name]
    if not source:
        raise ProviderError("the provider was made inside a program, and is gone with it")
    start, names = Path("/"), []
    if "skyfile" in source:
        start = Path(source["skyfile"])
    elif "module" in source:
        start, names = Path(source["directory"]), [source["module"]]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("SKYWARD_PLUGINS")}
    plugins = Plugins(on_problem=lambda _: None)
    return plugins.load(names=names, start=start, environ=quiet, points=points)


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = error.message if isinstance(error, SkywardError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
