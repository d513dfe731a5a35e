"""The provider: what Vast.ai can do, who we are there, and what is still to come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from skyward import (
    Capabilities,
    CredentialsError,
    Instance,
    LaunchRequest,
    Offer,
    Provider,
    ProviderError,
)
from skyward_vastai.config import VastAI

API: Final = "https://console.vast.ai"
KEY: Final = "VAST_API_KEY"
NOT_YET: Final = "whatever the credentials, this version cannot launch machines there yet"


class VastAIProvider(Provider):
    """Containers on machines of strangers, so that results are read with care."""

    name: ClassVar[str] = "vastai"
    Config: ClassVar[type] = VastAI
    # A stopped instance pays for its disk until it is destroyed: https://docs.vast.ai (2026-11).
    capabilities: ClassVar[Capabilities] = Capabilities(
        bids=True, user_data=True, off_means="storage-billed", trusted=False
    )

    def __init__(
        self, config: VastAI, *, endpoint: str = API, key: str = "", credentials_from: str = ""
    ) -> None:
        super().__init__(config)
        self.endpoint = (config.endpoint or endpoint).rstrip("/")
        self.credentials_from = credentials_from
        """Where the key is; never it itself."""
        self._key = key

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> VastAIProvider:
        wanted = VastAI() if config is None else config
        env = os.environ if environ is None else environ
        found_in, key = _find_key(env)
        endpoint = VastAI(endpoint=env.get("VAST_URL") or API).endpoint or API
        return cls(wanted, endpoint=endpoint, key=key, credentials_from=found_in)

    def offers(self) -> Iterable[Offer]:
        """Every verified machine that can be rented now, on demand and by bid."""
        from skyward.http import JSONClient
        from skyward_vastai.prices import fetch, refuses_key

        client = JSONClient(self.endpoint, name=self.name, token=self._key, translate=refuses_key)
        return fetch(client, bid_multiplier=self.config.bid_multiplier)

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        raise self._cannot("launch machines")

    def instances(self, pool: str | None) -> Sequence[Instance]:
        raise self._cannot("list machines")

    def terminate(self, ids: Iterable[str]) -> None:
        unknown = tuple(ids)
        if unknown:
            raise self._cannot(f"end {', '.join(unknown)}")

    def _cannot(self, what: str) -> ProviderError:
        return ProviderError(
            f"{self.name}: this version cannot {what} there yet: use sky.Local(), or sky.SSH(hosts=[...]) for machines "
            "you have",
            hints=["skyward run TARGET --provider local", "skyward run TARGET --provider ssh"],
            provider=self.name,
        )


def _find_key(environ: Mapping[str, str]) -> tuple[str, str]:
    """Where the key is, and the key: the variable first, then the files the vendor's command line writes."""
    if key := environ.get(KEY, "").strip():
        return KEY, _plain(key, KEY)
    files = _files(environ)
    for file in files:
        if file.is_file() and (key := file.read_text(encoding="utf-8", errors="replace").strip()):
            return str(file), _plain(key, str(file))
    raise CredentialsError(
        f"vastai: credentials not found: set {KEY}",
        facts=[f"{KEY} is not set", *(f"no key in {file}" for file in files), NOT_YET],
        hints=["export VAST_API_KEY=...  # made at https://cloud.vast.ai/account/"],
        provider="vastai",
    )


def _files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    home = Path(environ.get("HOME") or Path.home())
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return config / "vastai" / "vast_api_key", home / ".vast_api_key"


def _plain(key: str, place: str) -> str:
    if not key.isprintable() or " " in key:
        raise CredentialsError(
            f"vastai: the key in {place} has spaces or control characters in it", provider="vastai"
        )
    return key
