"""The way to AWS: one place with the deadlines, the patience and the errors of every call that rents or ends machines.

The SDK's own retries are off: a launch must know whether a request may have been heard, and InsufficientInstanceCapacity
is a 500 that the SDK would repeat.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from skyward import ProviderError, RateLimitError
from skyward_aws.calls import Call
from skyward_aws.errors import aws_errors
from skyward_aws.kept import kept, signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait for one answer, and how often to ask again."""

    connect_s: float = 10.0
    read_s: float = 20.0
    total_s: float = 60.0
    """No request is repeated after so long."""
    unheard: int = 3
    """How often a request is sent whose answer gets lost."""
    first_s: float = 0.5
    longest_s: float = 8.0

    def pause(self, attempt: int, draw: Callable[[], float] = random.random) -> float:
        """Seconds before the next attempt: doubling, with full jitter, so that many clients do not come back at once."""
        return min(self.longest_s, self.first_s * 2.0**attempt) * draw()


class Cloud:
    """AWS in one region. `environ` are variables to sign with instead of this process's own."""

    def __init__(
        self,
        region: str,
        *,
        endpoint: str | None = None,
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.region = region
        self.patience = patience or Patience()
        self._endpoint = endpoint or (environ or {}).get("AWS_ENDPOINT_URL")
        self._environ = environ
        self.signature = signature(environ, region, self._endpoint)
        """See `kept.signature`."""
        self._clients: dict[str, Any] = {}
        self._session: Any = None
        self._lock = Lock()

    def ask(self, call: Call, **parameters: Any) -> dict[str, Any]:
        """The answer to one call. Repeated while AWS is busy, and where the answer was lost: every call of this plugin
        may be made twice, by a token or by its nature.

        Raises:
            ProviderError: `was_sent` says whether AWS may have done what it was asked, in this attempt or an earlier one.
        """
        method = getattr(self.client(call.service), _snake(call.operation))
        began, was_sent, unheard = time.monotonic(), False, 0
        for attempt in range(1000):
            try:
                with aws_errors():
                    answer: dict[str, Any] = method(**parameters)
                    return answer
            except ProviderError as error:
                was_sent = was_sent or bool(getattr(error, "was_sent", False))
                error.values["was_sent"] = error.was_sent = was_sent  # type: ignore[attr-defined]
                is_unheard = _is_unheard(error)
                unheard += is_unheard
                pause = self.patience.pause(attempt)
                is_late = time.monotonic() - began + pause > self.patience.total_s
                if not (is_unheard or isinstance(error, RateLimitError)):
                    raise
                if is_late or unheard >= self.patience.unheard:
                    raise
            time.sleep(pause)
        raise AssertionError("unreachable")

    def pages(self, call: Call, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Every item under `key` of every page."""
        token = None
        while True:
            page = self.ask(call, **parameters, **({"NextToken": token} if token else {}))
            yield from page.get(key, ())
            token = page.get("NextToken")
            if not token:
                return

    def client(self, service: str) -> Any:
        """The client of a service; the same one for all threads."""
        from botocore.config import Config

        with self._lock:
            if service not in self._clients:
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": 1},
                    connect_timeout=self.patience.connect_s,
                    read_timeout=self.patience.read_s,
                    max_pool_connections=20,
                    **({"s3": {"addressing_style": "path"}} if service == "s3" and self._endpoint else {}),
                )
                with aws_errors():
                    self._clients[service] = kept(
                        self.signature and (service, self.patience, self.signature),
                        lambda: self._signed().create_client(
                            service, region_name=self.region, endpoint_url=self._endpoint, config=config
                        ),
                    )
            return self._clients[service]

    @property
    def is_here(self) -> bool:
        """Whether this AWS is a simulation on this machine."""
        host = urlsplit(self.client("ec2").meta.endpoint_url).hostname or ""
        return host == "localhost" or host.startswith("127.") or host == "::1"

    def credentials(self) -> Any:
        """What requests are signed with, or None."""
        with self._lock, aws_errors():
            return self._signed().get_credentials()

    def _signed(self) -> Any:
        """The session; of this process's environment unless another was given."""
        from botocore.session import Session

        if self._session is None:
            environ = self._environ or {}
            key = environ.get("AWS_ACCESS_KEY_ID")
            profile = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
            session = Session(profile=None if key else profile)
            session.register_component("data_loader", _descriptions())
            if key:
                session.set_credentials(
                    key, environ.get("AWS_SECRET_ACCESS_KEY"), environ.get("AWS_SESSION_TOKEN")
                )
            self._session = session
        return self._session


@cache
def _descriptions() -> Any:
    """The descriptions of services, which take longer to read than most calls to answer: once per process."""
    from botocore.loaders import create_loader

    return create_loader()


def _is_unheard(error: ProviderError) -> bool:
    """Whether the network, or AWS itself, broke: nothing was refused."""
    return bool(getattr(error, "is_network", False) or getattr(error, "is_broken", False))


def _snake(operation: str) -> str:
    from botocore import xform_name

    name: str = xform_name(operation)
    return name
