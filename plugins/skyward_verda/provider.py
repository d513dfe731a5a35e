"""The provider: what Verda can do, who we are there, and what is still to come."""

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
from skyward_verda.config import Verda

API: Final = "https://api.verda.com/v1"
CLIENT: Final = ("VERDA_CLIENT_ID", "VERDA_CLIENT_SECRET")
PAIR: Final = "VERDA_API_KEY"
"""Both in one, parted by a colon. The API itself knows no single key: it speaks OAuth2 client credentials."""
NOT_YET: Final = "whatever the credentials, this version cannot launch machines there yet"


class VerdaProvider(Provider):
    """GPU instances in every location, unless one is preferred."""

    name: ClassVar[str] = "verda"
    Config: ClassVar[type] = Verda
    # An instance that is shut down keeps its machine, and its price: https://api.verda.com/v1/docs (2026-11).
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True, regions=True, user_data=True, off_means="billed"
    )

    def __init__(
        self, config: Verda, *, client_id: str = "", client_secret: str = "", credentials_from: str = ""
    ) -> None:
        super().__init__(config)
        self.endpoint = (config.endpoint or API).rstrip("/")
        self.credentials_from = credentials_from
        """Where the credentials are; never they themselves."""
        self._client_id = client_id
        self._client_secret = client_secret

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> VerdaProvider:
        wanted = Verda() if config is None else config
        found_in, client_id, secret = _find_client(os.environ if environ is None else environ)
        return cls(wanted, client_id=client_id, client_secret=secret, credentials_from=found_in)

    def offers(self) -> Iterable[Offer]:
        """Every instance type in every location that has it now."""
        from skyward_verda.prices import fetch, login

        return fetch(login(self.endpoint, self._client_id, self._client_secret))

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


def _find_client(environ: Mapping[str, str]) -> tuple[str, str, str]:
    """Where the client is named, its id and its secret."""
    client_id, secret = (environ.get(name, "").strip() for name in CLIENT)
    if client_id and secret:
        return " and ".join(CLIENT), client_id, secret
    if client_id or secret:
        given, missing = CLIENT if client_id else CLIENT[::-1]
        raise CredentialsError(f"verda: {given} is set and {missing} is not: set both", provider="verda")
    client_id, colon, secret = environ.get(PAIR, "").strip().partition(":")
    if client_id and secret:
        return PAIR, client_id, secret
    if client_id or colon:
        raise CredentialsError(
            f"verda: {PAIR} is not of the form id:secret: set {' and '.join(CLIENT)} instead",
            provider="verda",
        )
    raise CredentialsError(
        f"verda: credentials not found: set {' and '.join(CLIENT)}",
        facts=[f"{' and '.join(CLIENT)} are not set", f"{PAIR} is not set", NOT_YET],
        hints=[
            "export VERDA_CLIENT_ID=... VERDA_CLIENT_SECRET=...  # made in the console of https://verda.com"
        ],
        provider="verda",
    )
