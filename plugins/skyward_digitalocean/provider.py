"""The provider: what DigitalOcean can do, who we are there, and what is still to come."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
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
from skyward_digitalocean.config import DigitalOcean

API: Final = "https://api.digitalocean.com"
TOKENS: Final = ("DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN")
"""The second is what doctl reads."""
NOT_YET: Final = "whatever the credentials, this version cannot launch machines there yet"


class DigitalOceanProvider(Provider):
    """Droplets, with and without GPUs."""

    name: ClassVar[str] = "digitalocean"
    Config: ClassVar[type] = DigitalOcean
    # A droplet that is switched off is billed on: https://docs.digitalocean.com/products/droplets/details/pricing
    # (2026-11).
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True, regions=True, user_data=True, private_network=True, off_means="billed"
    )

    def __init__(self, config: DigitalOcean, *, token: str = "", credentials_from: str = "") -> None:
        super().__init__(config)
        self.endpoint = (config.endpoint or API).rstrip("/")
        self.credentials_from = credentials_from
        """Where the token is; never it itself."""
        self._token = token

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> DigitalOceanProvider:
        wanted = DigitalOcean() if config is None else config
        name, token = _find_token(os.environ if environ is None else environ)
        return cls(wanted, token=token, credentials_from=name)

    def offers(self) -> Iterable[Offer]:
        """Every size that the account sees."""
        from skyward.http import JSONClient
        from skyward_digitalocean.prices import fetch

        return fetch(JSONClient(self.endpoint, name=self.name, token=self._token), region=self.config.region)

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


def _find_token(environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that has a token, and the token."""
    for name in TOKENS:
        token = environ.get(name, "").strip()
        if " " in token or not token.isprintable():
            raise CredentialsError(
                f"digitalocean: {name} has spaces or control characters in it", provider="digitalocean"
            )
        if token:
            return name, token
    raise CredentialsError(
        "digitalocean: credentials not found: set DIGITALOCEAN_TOKEN",
        facts=[*(f"{name} is not set" for name in TOKENS), NOT_YET],
        hints=["export DIGITALOCEAN_TOKEN=...  # made at https://cloud.digitalocean.com/account/api/tokens"],
        provider="digitalocean",
    )
