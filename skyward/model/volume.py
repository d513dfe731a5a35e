"""Storage that outlives a pool's machines, declared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from skyward.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A block device of its own, attached to an instance, formatted when new, and mounted."""

    size_gb: float
    """GB (10**9 bytes)."""
    mount_path: str

    def __post_init__(self) -> None:
        if (
            isinstance(self.size_gb, bool)
            or not isinstance(self.size_gb, int | float)
            or not self.size_gb > 0
        ):
            raise ConfigError(f"volume: size_gb must be a number above 0, not {self.size_gb!r}")
        _check_mount_path(self.mount_path)


@dataclass(frozen=True, slots=True)
class S3Volume:
    """A bucket, or the part of it below `prefix`, that appears as a directory."""

    mount_path: str
    bucket: str
    prefix: str = ""
    read_only: bool = True

    def __post_init__(self) -> None:
        _check_mount_path(self.mount_path)
        if not isinstance(self.bucket, str) or not self.bucket or "/" in self.bucket:
            raise ConfigError(f"volume: bucket must be the name of a bucket, not {self.bucket!r}")


def _check_mount_path(path: str) -> None:
    if (
        not isinstance(path, str)
        or not path.startswith("/")
        or "\0" in path
        or ".." in PurePosixPath(path).parts
    ):
        raise ConfigError(
            f"volume: mount_path must be an absolute path, not {path!r}", hints=['mount_path="/data"']
        )
