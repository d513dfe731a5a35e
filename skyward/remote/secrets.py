"""Takes secrets out of text before anybody reads it: logs, transcripts, errors. Imports nothing of Skyward."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote, quote_plus, urlsplit

MASK = "***"
SHORTEST = 4
"""Shorter values are not taken out: they would blot out half of every text and are no secrets."""

_SECRET_NAME = re.compile(
    r"token|secret|passw|passphrase|pwd|credential|private|cookie|session|signature|dsn|api_?key|auth|(^|_)key(_|$)",
    re.IGNORECASE,
)
# Values nobody needs to hide although they were given as variables: words, small numbers, absolute paths.
_HARMLESS = re.compile(r"[A-Za-z]{1,11}|[+-]?\d{1,6}(\.\d+)?|/[\w./+-]*")

# Each with words one of which is in every text, in small letters, that it can be found in: looking for those first is
# a hundred times as quick. None of them may look at the same text again and again: tasks print lines of megabytes.
_PATTERNS = {
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\Z)": "-----begin",
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}\b": "akia asia abia acca",
    r"\bdo[opr]_v1_[0-9a-fA-F]{16,}": "_v1_",
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})": "ghp_ gho_ ghu_ ghs_ ghr_ github_pat_",
    r"\bglpat-[A-Za-z0-9_-]{16,}": "glpat-",
    r"\bhf_[A-Za-z0-9]{20,}": "hf_",
    r"\bpypi-[A-Za-z0-9_-]{32,}": "pypi-",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}": "xox",
    r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}": "sk-",
    r"\bAIza[0-9A-Za-z_-]{35}": "aiza",
    r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*": "eyj",
}
# What follows these is taken out, and they stay.
_INTRODUCED = {
    r"(?i:\b(?:bearer|basic))\s+(?=[A-Za-z0-9._~+/=-]*[0-9A-Z._~+/=-])(?P<a>[A-Za-z0-9._~+/=-]{8,})": "bearer basic",
    r"(?i:\bauthorization[\"']?\s*[:=]\s*[\"']?)(?P<b>[^\s\"',][^\"'\r\n,]*)": "authorization",
    r"://(?P<c>[^\s/@\"'?#]+)@": "://",
    r"(?i:(?:passw(?:or)?d|passphrase|secret(?:_?access)?_?key|secret|access_?token|auth_?token|api_?key|token))"
    r"[\"']?\s*[:=]\s*[\"']?(?P<d>[^\s\"',;&]{4,})": "passw passphrase secret token apikey api_key",
}
_WRAP = r"(?:\r?\n[ \t]*)?"
"""A line break somebody put into a value to make it fit, with the indentation after it."""


class Redactor:
    """Knows the secrets of one run. May be used from several threads.

    Finds each value as it is, as it looks in JSON, in a Python literal, in an address and in base64, and when
    it is wrapped over several lines; and, unasked, whatever has the shape of a well-known credential.
    """

    def __init__(self, values: Iterable[str] = (), *, env: Mapping[str, str] | None = None) -> None:
        self._lock = threading.Lock()
        self._forms: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.add(*values)
        self.add_env(env or {})

    def add(self, *values: str) -> None:
        """From now on these are taken out. Values of less than 4 characters are not."""
        forms = {form for value in values for form in _forms(value)}
        with self._lock:
            if not forms <= self._forms:
                self._forms |= forms
                self._known = None

    def add_env(self, env: Mapping[str, str]) -> None:
        """The values of variables: all whose name says secret, and all others but words, numbers and paths."""
        self.add(*(value for name, value in env.items() if is_secret(name, value)))

    def redact(self, text: str) -> str:
        """`text` with every secret replaced by `***`."""
        text = self.redact_known(text)
        small = text.lower()
        for shape, words in _SHAPES:
            if any(word in small for word in words):
                text = shape.sub(_mask_secret_part, text)
        return text

    def redact_known(self, text: str) -> str:
        """The same for the values it was given alone: what only looks like a credential stays."""
        pattern = self._pattern()
        return text if pattern is None else pattern.sub(MASK, text)

    def _pattern(self) -> re.Pattern[str] | None:
        with self._lock:
            if self._known is None and self._forms:
                longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
                self._known = re.compile("|".join(_WRAP.join(map(re.escape, form)) for form in longest_first))
            return self._known

    def __repr__(self) -> str:
        return f"<Redactor of {len(self._forms)} forms>"


def of_display(env: Mapping[str, str]) -> Redactor:
    """For what tasks print themselves: it takes out the variables whose names say secret, and leaves the rest to read."""
    return Redactor([value for name, value in env.items() if _SECRET_NAME.search(name)])


def is_secret(name: str, value: str) -> bool:
    """Whether the variable `name` should not be shown."""
    return bool(_SECRET_NAME.search(name)) or not _HARMLESS.fullmatch(value)


def url_secrets(url: str) -> tuple[str, ...]:
    """User name, password and both together, as they stand in an address."""
    user, found, _ = urlsplit(url).netloc.rpartition("@")
    if not found:
        return ()
    name, _, password = user.partition(":")
    return tuple(part for part in (user, password or name) if part)


def _forms(value: str) -> Iterator[str]:
    """What a value may look like in a text. Of several lines each counts by itself, too."""
    if len(value) < SHORTEST or not value.strip(" *\t\r\n"):
        return
    raw = value.encode("utf-8", "surrogateescape")
    yield from (value, value.strip(), repr(value)[1:-1], quote(raw), quote(raw, safe=""), quote_plus(raw))
    yield from (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
    yield from (base64.b64encode(raw).decode().rstrip("="), value.replace("'", "'\"'\"'"))
    for line in value.splitlines():
        if len(line.strip()) >= 2 * SHORTEST:
            yield line.strip()


def _mask_secret_part(match: re.Match[str]) -> str:
    """Only the named group goes, where there is one."""
    if match.lastgroup is None:
        return MASK
    start, end = match.span(match.lastgroup)
    return match.string[match.start() : start] + MASK + match.string[end : match.end()]


def _shape(pattern: str, words: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    return re.compile(pattern, re.DOTALL), tuple(words.split())


_SHAPES = [_shape(pattern, words) for pattern, words in {**_PATTERNS, **_INTRODUCED}.items()]
