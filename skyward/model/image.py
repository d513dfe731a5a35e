"""The environment tasks run in, declared: which Python, which packages, which variables.

Says what is wanted and checks that it can be meant; `skyward.remote.environment` makes it so. Standard
library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from skyward.errors import ConfigError

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"\s*(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9_.*+!-]+\s*"
_URL = r"(?:(?:git|hg|svn|bzr)\+)?[a-z]+://[^\s\x00-\x20'\"`\\]+"

_MARKER = r"""
    (?> [\s()] | ===|[<>=!~]=?|~= | '[^'"`$\\]*' | "[^'"`$\\]*"
      | \b(?: and | or | not | in | extras? | dependency_groups | os_name | sys_platform | python_version | python_full_version
            | platform_(?:machine|python_implementation|release|system|version) | implementation_(?:name|version) )\b
    )++
"""

# The grammar of dependency specifiers (https://packaging.python.org/en/latest/specifications/dependency-specifiers/,
# read 2025-01-31), narrowed: only printable ASCII, URLs without spaces or quotes, nothing that begins with a dash.
_REQUIREMENT = re.compile(
    rf"""
    (?P<name>{_NAME}) \s*
    (?: \[ \s* (?: {_NAME} (?: \s*,\s* {_NAME} )* )? \s* \] \s* )?
    (?: @ \s* {_URL}
      | \( {_VERSION} (?: , {_VERSION} )* \)
      | {_VERSION} (?: , {_VERSION} )* (?: , \s* )?
    )?
    \s* (?: ; {_MARKER} )?
    """,
    re.VERBOSE,
)
_LONGEST = 1000
"""Characters of a requirement without its hashes."""
_BARE_URL = re.compile(_URL)
_HASHES = re.compile(r"(?:\s+--hash[= ](?:md5|sha1|sha224|sha256|sha384|sha512):[0-9a-fA-F]+)*")
# Debian policy 5.6.1 (https://www.debian.org/doc/debian-policy/ch-controlfields.html, read 2025-01-31), with the
# version apt-get takes after "=" and the architecture it takes after ":".
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~-]+)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INDEX = re.compile(r"(?:https?|file)://[^\s\x00-\x20'\"`\\]+")
_PYTHON = re.compile(r"3\.\d{1,2}(?:\.\d{1,2})?")

OURSELVES = "skyward"
"""A requirement of this name is never installed by name: the client's own copy travels instead."""


class Variables(Mapping[str, str]):
    """Environment variables that never change, so that an image can be hashed. Sorted by name."""

    __slots__ = ("_pairs",)

    def __init__(self, values: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: dict[str, str] = dict(sorted(dict(values).items()))

    def __getitem__(self, name: str) -> str:
        return self._pairs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __hash__(self) -> int:
        return hash(tuple(self._pairs.items()))

    def __repr__(self) -> str:
        """Names only: values may be secrets."""
        return "{" + ", ".join(f"{name!r}: ..." for name in self._pairs) + "}"

    def __reduce__(self) -> tuple[Any, ...]:
        return Variables, (self._pairs,)


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Image:
    """The environment tasks run in. Construction checks every value and touches neither network nor files.

    Args:
        python: "3.11" or "3.11.9". None means the client's minor version, and nothing else could unpickle
            what the client sends.
        pip: requirements as pip spells them, one string or many ("numpy>=2", "torch==2.5.1").
        apt: Debian packages; need root or passwordless sudo on the instance.
        env: variables of the tasks' environment (and of `setup`).
        indexes: package indexes asked before the default one, in this order; a name found in one is never
            looked for in the next.
        requirements: path of a requirements file, read when the image is used, or its lines.
        project: whether the user's project travels, so that its modules can be imported.
        setup: shell commands of the user, run one by one after the packages are there.

    Raises:
        ConfigError: a value that cannot be meant; names it and says what is expected.
    """

    python: str | None
    pip: tuple[str, ...]
    apt: tuple[str, ...]
    env: Variables
    indexes: tuple[str, ...]
    requirements: str | tuple[str, ...] | None
    project: bool
    setup: tuple[str, ...]

    def __init__(
        self,
        *,
        python: str | None = None,
        pip: str | Iterable[str] = (),
        apt: str | Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        indexes: str | Iterable[str] = (),
        requirements: str | os.PathLike[str] | Iterable[str] | None = None,
        project: bool = True,
        setup: str | Iterable[str] = (),
    ) -> None:
        values = {
            "python": _python(python),
            "pip": tuple(_requirement(line, "pip") for line in _strings(pip, "pip")),
            "apt": tuple(_apt(name) for name in _strings(apt, "apt")),
            "env": _variables(env or {}),
            "indexes": tuple(_index(url) for url in _strings(indexes, "indexes")),
            "requirements": _requirements(requirements),
            "project": _flag(project, "project"),
            "setup": tuple(_command(line) for line in _strings(setup, "setup")),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_project(cls, path: str | os.PathLike[str] | None = None, **changes: Any) -> Image:
        """The environment of the project at `path` (default: the one around the current directory).

        Taken from uv.lock where there is one, with versions and hashes; else from requirements.txt; else what
        pyproject.toml depends on, in the versions installed here. Python is the client's minor version.
        `changes` are further arguments of Image.

        Raises:
            ConfigError: no project there, or its lock cannot be read.
        """
        from skyward.model.lock import locked

        requirements, indexes = locked(path)
        defaults = {"python": client_minor(), "requirements": requirements, "indexes": indexes}
        return cls(**{**defaults, **changes})

    @property
    def is_plain(self) -> bool:
        """Nothing is to be installed: a bare Python is enough."""
        return not (self.pip or self.apt or self.setup or self.requirements)

    def requirement_lines(self) -> tuple[str, ...]:
        """Everything to install, one requirement a line, `pip` first. Reads the requirements file.

        Raises:
            ConfigError: the file cannot be read, or holds what cannot be meant.
        """
        lines = (*self.pip, *_lines(self.requirements))
        return tuple(dict.fromkeys(line for line in lines if requirement_name(line) != OURSELVES))

    def content_hash(self) -> str:
        """64 hexadecimal digits: equal for images that mean the same, on every machine and in every process.

        The order of packages and variables does not matter, that of indexes and commands does. Reads the
        requirements file. Passwords in index addresses do not count.
        """
        return _digest({**self._packages(), "env": dict(self.env), "project": self.project})

    def environment_hash(self) -> str:
        """Like `content_hash`, of what is installed only: tasks' variables count where `setup` may read them."""
        return _digest({**self._packages(), "env": dict(self.env) if self.setup else {}})

    def _packages(self) -> dict[str, object]:
        return {
            "version": 1,
            "python": self.python,
            "requirements": sorted(_normal(line) for line in self.requirement_lines()),
            "apt": sorted(set(self.apt)),
            "indexes": [without_credentials(url) for url in self.indexes],
            "setup": self.setup,
        }


def client_minor() -> str:
    """The minor version of this Python: "3.11"."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def requirement_name(line: str) -> str | None:
    """The normalised name a requirement asks for; None for a bare address."""
    match = _REQUIREMENT.match(line)
    if match is None or _BARE_URL.match(line):
        return None
    return re.sub(r"[-_.]+", "-", match["name"]).lower()


def without_credentials(url: str) -> str:
    """The address without user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def parse_requirements(text: str, origin: str) -> tuple[str, ...]:
    """The requirements in a requirements file, comments gone and continued lines joined.

    Raises:
        ConfigError: a line is neither a requirement nor a comment; names `origin`, line and cure.
    """
    found = []
    for number, line in _logical_lines(text):
        where = f"line {number} of {origin}"
        found.append(_requirement(line, where))
    return tuple(found)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    pending, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if pending else number
        line = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        if (pending + line).strip():
            yield start, (pending + line).strip()
        pending = ""
    if pending.strip():
        yield start, pending.strip()


def _lines(requirements: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if not isinstance(requirements, str):
        return requirements or ()
    return _read_requirements(Path(requirements).expanduser(), ())


def _read_requirements(path: Path, parents: tuple[Path, ...]) -> tuple[str, ...]:
    """The lines of a file and of those it includes with `-r`."""
    if path in parents:
        raise ConfigError(f"image: {str(path)!r} includes itself", path=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"image: cannot read requirements {str(path)!r}: {getattr(error, 'strerror', None) or error}",
            path=str(path),
        ) from error
    found: list[str] = []
    for number, line in _logical_lines(text):
        include = re.match(r"(?:-r\s*|--requirement(?:\s+|=))(\S+)$", line)
        if include:
            found += _read_requirements(path.parent / include[1], (*parents, path))
        else:
            found.append(_requirement(line, f"line {number} of {path}"))
    return tuple(found)


# -- checks: each returns the value in its one form, or raises ------------------------------------------------


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    try:
        items = tuple(value)
    except TypeError:
        items = (value,)
    for item in items:
        if not isinstance(item, str):
            raise ConfigError(f"image: {what} takes text, not {type(item).__name__} {item!r}", value=item)
    return items


def _python(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and _PYTHON.fullmatch(value)):
        return value
    hints = ["a version is text: python='3.10'"] if isinstance(value, float) else ()
    raise ConfigError(f"image: python {value!r} is not a version such as '3.11'", hints=hints, value=value)


def _requirement(line: str, where: str) -> str:
    """`line` when it is one requirement, perhaps with hashes."""
    text = line.strip()
    start = re.search(r"\s+--hash|$", text)
    bare = text[: start.start()] if start else text
    is_one = len(bare) <= _LONGEST and (_REQUIREMENT.fullmatch(bare) or _BARE_URL.fullmatch(bare))
    if is_one and _HASHES.fullmatch(text, len(bare)):
        return text
    raise ConfigError(
        f"image: {where}: {line!r} is not a requirement such as 'numpy>=2'", hints=_cure(text), value=line
    )


def _cure(text: str) -> list[str]:
    if re.match(r"(-i|--(extra-)?index-url|-f|--find-links)\b", text):
        return ["name package indexes as Image(indexes=[...])"]
    if re.match(r"-r|--requirement", text):
        return ["name a file as Image(requirements='requirements.txt')"]
    if re.match(r"(-e\b|--editable\b|\.|/|~)", text):
        return ["local code travels by itself: put it below the project, or depend on a wheel by its address"]
    words = re.split(r"[\s,]+", text)
    if len(words) > 1 and all(_REQUIREMENT.fullmatch(word) for word in words):
        return [f"one requirement each: pip={words!r}"]
    return []


def _apt(name: str) -> str:
    if _APT.fullmatch(name):
        return name
    raise ConfigError(f"image: apt {name!r} is not the name of a Debian package", value=name)


def _variables(env: Any) -> Variables:
    if not isinstance(env, Mapping):
        raise ConfigError(f"image: env takes a mapping of names to text, not {type(env).__name__}", value=env)
    for name, value in env.items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ConfigError(f"image: env {name!r} is not the name of a variable", value=name)
        if not isinstance(value, str):
            raise ConfigError(f"image: env {name!r} takes text, not {type(value).__name__}", value=name)
        if "\0" in value:
            raise ConfigError(f"image: env {name!r} holds a NUL character", value=name)
    return Variables(env)


def _index(url: str) -> str:
    if _INDEX.fullmatch(url):
        return url
    raise ConfigError(
        f"image: index {without_credentials(url)!r} is not an http(s) or file address", value=url
    )


def _requirements(value: Any) -> str | tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        if isinstance(text, str) and text and "\0" not in text and "\n" not in text:
            return text
        if isinstance(text, str) and "\n" in text:
            return parse_requirements(text, "requirements")
        raise ConfigError(f"image: requirements {value!r} is not the path of a file", value=value)
    return tuple(_requirement(line, "requirements") for line in _strings(value, "requirements"))


def _flag(value: Any, what: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"image: {what} is True or False, not {value!r}", value=value)


def _command(line: str) -> str:
    if line.strip() and "\0" not in line:
        return line
    raise ConfigError(f"image: setup {line!r} is not a command", value=line)


def _normal(line: str) -> str:
    """A requirement with its name normalised and runs of spaces made one."""
    name = requirement_name(line)
    text = " ".join(line.split())
    if name is None:
        return text
    match = _REQUIREMENT.match(text)
    return name + text[len(match["name"]) :] if match else text


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()
