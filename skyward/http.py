"""A small JSON client for provider plugins: retries, one deadline per call, errors by status, nothing leaked.

    api = JSONClient("https://api.example.com/v1", name="example", token=token)
    sizes = api.get("/sizes", params={"page": 1})

Imports urllib3 when the first call is made.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from skyward.errors import ConfigError, CredentialsError, ProviderError, QuotaError, RateLimitError

if TYPE_CHECKING:
    import urllib3

LARGEST_REPLY = 64 << 20
"""Bytes of a reply that are read at most; the largest price list of the clouds we know is a tenth of it."""

TRANSIENT = frozenset({500, 502, 503, 504})
REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Methods that may be sent again when nobody knows whether they arrived."""

LOOPBACK = ("127.", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered; the body is whole and within bounds."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as data; an empty one is None.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body) if self.body.strip() else None

    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


Translate = Callable[[Reply], Exception | None]


class JSONClient:
    """Calls one API. `name` starts every error; `token` goes into the Authorization header.

    `translate` sees every reply of status 400 or above first: an exception it returns is raised at once, without
    a retry (a cloud's own way of saying "no capacity"). `secrets` are masked in every error, like the token.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        secrets: Iterable[str] = (),
        translate: Translate = lambda reply: None,
        deadline_s: float = 60.0,
        attempts: int = 5,
        largest_reply: int = LARGEST_REPLY,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = _safe(base_url, name).rstrip("/")
        self.name = name
        self.deadline_s = deadline_s
        self.attempts = attempts
        self.largest_reply = largest_reply
        self.headers = {"Accept": "application/json", "User-Agent": "skyward", **(headers or {})}
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        self._secrets = tuple(sorted({s for s in (token, *secrets) if s}, key=len, reverse=True))
        self._translate = translate
        self._sleep = sleep
        self._connections: urllib3.PoolManager | None = None

    def get(self, path: str, *, params: Mapping[str, Any] | None = None) -> Any:
        """The data at `path`."""
        return self.call("GET", path, params=params)

    def post(self, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """The data answered to `body`. `repeatable` says that sending it twice does no harm."""
        return self.call("POST", path, body=body, repeatable=repeatable)

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        repeatable: bool | None = None,
        deadline_s: float | None = None,
    ) -> Any:
        """What the API answers, as data; text that is no JSON comes as a string where the server says it is text.

        Raises:
            CredentialsError: 401 or 403. QuotaError: 402. RateLimitError: 429 to the end.
            ProviderError: any other status, no answer within the deadline, or an answer that makes no sense;
                `status` is the HTTP status or None.
        """
        reply = self.send(
            method, path, params=params, body=body, repeatable=repeatable, deadline_s=deadline_s
        )
        try:
            return reply.json()
        except ValueError:
            if reply.headers.get("content-type", "").startswith("text/plain"):
                return reply.text()
            raise self._error(
                ProviderError, f"{method} {path} answered no JSON: {_start(reply)}", reply
            ) from None

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        repeatable: bool | None = None,
        deadline_s: float | None = None,
    ) -> Reply:
        """As `call`, the reply as it came."""
        url = self._url(path, params)
        may_repeat = method in REPEATABLE if repeatable is None else repeatable
        end = time.monotonic() + (self.deadline_s if deadline_s is None else deadline_s)
        failure: Exception | None = None
        for pause in _pauses(self.attempts):
            try:
                reply = self._once(method, url, body, end)
            except _Unanswered as error:
                failure = self._error(ProviderError, f"{method} {path}: {error}", None)
                failure.__cause__ = error.__cause__
                if not may_repeat or not self._wait(pause, end):
                    break
                continue
            if reply.status < 300:
                return reply
            failure = self._translated(method, path, reply)
            if not self._is_passing(reply, failure, may_repeat) or not self._wait(
                _asked_pause(reply, pause), end
            ):
                break
        assert failure is not None
        raise failure

    # -- within -------------------------------------------------------------------------------------------------

    def _url(self, path: str, params: Mapping[str, Any] | None) -> str:
        """Below the base, whatever a server may say: a page link to another host would be given our token."""
        if not path.startswith("/"):
            raise ValueError(f"path {path!r} must start with a slash")
        given = {key: value for key, value in (params or {}).items() if value is not None}
        return self.base_url + path + (f"?{urlencode(given, doseq=True)}" if given else "")

    def _once(self, method: str, url: str, body: Any, end: float) -> Reply:
        """One request and its whole reply.

        Raises:
            _Unanswered: no connection, no reply in time, or a reply that was cut or has no end.
        """
        import urllib3

        if (left := end - time.monotonic()) <= 0:
            raise _Unanswered("no answer within the deadline")
        timeout = urllib3.Timeout(connect=min(10.0, left), read=left)
        try:
            response = self._pool().request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=self.headers
                if body is None
                else {**self.headers, "Content-Type": "application/json"},
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            try:
                content = self._read(response, end)
            finally:
                response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise _Unanswered(self._masked(_reason(error))) from error
        return Reply(response.status, {k.lower(): v for k, v in response.headers.items()}, content)

    def _read(self, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
        content = bytearray()
        while chunk := self._read_some(response, end):
            content += chunk
            if len(content) > self.largest_reply:
                response.close()
                raise _Unanswered(f"the reply is larger than {self.largest_reply} bytes")
        return bytes(content)

    def _read_some(self, response: urllib3.BaseHTTPResponse, end: float) -> bytes:
        """What has come, as soon as something has: waiting for more would let a server that drips hold us for ever."""
        left = end - time.monotonic()
        if left <= 0:
            response.close()
            raise _Unanswered("the reply did not end within the deadline")
        if response.connection is not None and response.connection.sock is not None:  # type: ignore[attr-defined]
            response.connection.sock.settimeout(left)  # type: ignore[attr-defined]
        return response.read1(1 << 16)

    def _pool(self) -> urllib3.PoolManager:
        """Connections with verified certificates, through the proxy the environment names."""
        if self._connections is None:
            import urllib3

            proxy = _proxy(self.base_url)
            self._connections = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
        return self._connections

    def _wait(self, pause: float | None, end: float) -> bool:
        """Whether there is time for another attempt, after waiting for it."""
        if pause is None or time.monotonic() + pause >= end:
            return False
        self._sleep(pause)
        return True

    def _is_passing(self, reply: Reply, failure: Exception, may_repeat: bool) -> bool:
        """Whether the same request may succeed in a while: 429 was not carried out, others only where harmless."""
        if isinstance(failure, RateLimitError):
            return True
        return reply.status in TRANSIENT and may_repeat and type(failure) is ProviderError

    def _translated(self, method: str, path: str, reply: Reply) -> Exception:
        if (special := self._translate(reply)) is not None:
            return special
        kinds = {401: CredentialsError, 402: QuotaError, 403: CredentialsError, 429: RateLimitError}
        kind = kinds.get(reply.status, ProviderError)
        return self._error(kind, f"{method} {path} answered {reply.status}: {_start(reply)}", reply)

    def _error(self, kind: type[ProviderError], text: str, reply: Reply | None) -> ProviderError:
        status = reply.status if reply else None
        return kind(self._masked(f"{self.name}: {text}"), provider=self.name, status=status)

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _Unanswered(Exception):
    """Nobody knows whether the request was carried out."""


def _safe(base_url: str, name: str) -> str:
    """The URL, if what is sent there cannot be read on the way."""
    parts = urlsplit(base_url)
    if parts.scheme == "https" and parts.hostname:
        return base_url
    if parts.scheme == "http" and parts.netloc.startswith(LOOPBACK):
        return base_url
    raise ConfigError(
        f"{name}: endpoint {base_url!r} must start with https:// (http:// only to this machine)"
    )


def _proxy(url: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)


def _pauses(attempts: int) -> Iterator[float | None]:
    """Seconds to wait after each attempt, growing and random so that clients do not meet; None after the last."""
    for number in range(attempts - 1):
        yield min(20.0, 0.5 * 2**number) * random.uniform(0.5, 1.0)
    yield None


def _asked_pause(reply: Reply, pause: float | None) -> float | None:
    """What the server asks us to wait, where it says so, in seconds or as a date; never less than our own pause."""
    asked = reply.headers.get("retry-after", "")
    if pause is None or not asked:
        return pause
    try:
        return max(pause, float(asked))
    except ValueError:
        pass
    try:
        return max(pause, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return pause


def _start(reply: Reply) -> str:
    """The first words of a reply, for an error; JSON errors by their message."""
    try:
        data = reply.json()
    except ValueError:
        data = None
    if isinstance(data, dict):
        for key in ("message", "msg", "error", "detail"):
            if isinstance(data.get(key), str):
                return str(data[key])[:200]
    words = " ".join(reply.text()[:400].split())
    return "".join(char for char in words if char.isprintable())[:200] or "nothing"


def _reason(error: Exception) -> str:
    """urllib3's errors without the objects in them."""
    import urllib3

    kinds = urllib3.exceptions
    if isinstance(error, kinds.NameResolutionError):
        return "the name cannot be resolved"
    if isinstance(error, kinds.NewConnectionError):  # also a TimeoutError to urllib3
        return "cannot connect"
    if isinstance(error, kinds.TimeoutError):
        return "no answer within the deadline"
    if isinstance(error, kinds.SSLError):
        return f"the certificate is not accepted: {error}"
    return f"the connection broke ({type(error).__name__})"
