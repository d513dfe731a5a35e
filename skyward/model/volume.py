"""Storage that is mounted on every node of a pool. Imports only `errors` and `model.sizes`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from skyward.errors import ConfigError
from skyward.model.sizes import parse_memory

_BUCKET: Final = re.compile(
    r"(?=.{3,63}$)[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*"
)
"""General purpose bucket names: 3 to 63 of lower case letters, digits, hyphens and dots, each label beginning
and ending with a letter or a digit. https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html (2026-11)."""
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_SYSTEM: Final = (
    "bin",
    "boot",
    "dev",
    "etc",
    "home",
    "lib",
    "lib64",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "usr",
    "var",
)
_RESERVED: Final = {"/", *(f"/{name}" for name in _SYSTEM)}
"""Mounting over one of these leaves a machine that cannot be used, or that nobody can log in to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A disk of its own: made where the instance is, formatted if new, mounted at `mount_path`.

    Raises:
        SizeError: the size is not in the grammar of sizes, or not above zero.
        ConfigError: the path is not absolute and plain.
    """

    size_gb: float | str
    """GB; "2TB" and other sizes are turned into them."""
    mount_path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "size_gb", parse_memory(self.size_gb))
        object.__setattr__(self, "mount_path", _plain_path(self.mount_path))


@dataclass(frozen=True, slots=True)
class S3Volume:
    """A bucket, or what lies under `prefix` in it, mounted at `mount_path`.

    Raises:
        ConfigError: no bucket may have this name, or the path is not absolute and plain.
    """

    mount_path: str
    bucket: str
    prefix: str = ""
    read_only: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "mount_path", _plain_path(self.mount_path))
        _check_bucket(self.bucket)
        if not isinstance(self.prefix, str) or "\0" in self.prefix or self.prefix.startswith("/"):
            raise ConfigError(
                f"prefix {self.prefix!r} is no key of a bucket: write it like 'datasets/2026/', without a slash in front",
                prefix=self.prefix,
            )


def _plain_path(path: object) -> str:
    """The path without a slash at its end, so that equal places are equal values."""
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigError(f"mount_path {path!r} is not absolute: write it like '/data'", mount_path=path)
    parts = path.rstrip("/").split("/")[1:]
    if any(part in ("", ".", "..") for part in parts) or any(ord(char) < 32 for char in path):
        raise ConfigError(
            f"mount_path {path!r} is not plain: no '..', '.', '//' or control characters; write it like '/data'",
            mount_path=path,
        )
    plain = "/" + "/".join(parts)
    if plain in _RESERVED:
        raise ConfigError(
            f"mount_path {path!r} belongs to the system: mount below it, like '/data'", mount_path=path
        )
    return plain


def _check_bucket(name: object) -> None:
    if not isinstance(name, str) or not _BUCKET.fullmatch(name) or _ADDRESS.fullmatch(name):
        raise ConfigError(
            f"bucket {name!r} cannot exist: 3 to 63 of lower case letters, digits, hyphens and dots, like 'my-data'",
            bucket=name,
        )
