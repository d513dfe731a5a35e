"""The page beside compiled tables that says what they are: digests, rows, versions, dates.

A manifest carries a digest of itself, and file names in it are plain names in its own directory, so neither a
flipped bit nor a crafted name can make a price appear that was not written by us.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skyward.catalog.schema import SCHEMA_VERSION
from skyward.errors import DamagedCatalogError

FORMAT = "skyward.catalog/1"
_FILE_NAME = re.compile(r"[a-z0-9_]+(-[0-9a-f]{16})?\.parquet")
_LARGEST_MANIFEST = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One table of a snapshot."""

    name: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a directory of compiled tables holds. `provider` is empty for the bundled snapshot of all of them."""

    version: str
    """Day of the newest price in it, `2026.11.20`."""
    files: Mapping[str, FileEntry]
    """Table name -> file."""
    schema_version: int = SCHEMA_VERSION
    provider: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """What it was made of: file or package -> digest or version."""

    def dump(self) -> str:
        """The text of the page; equal manifests give equal text."""
        body = {"format": FORMAT, **asdict(self)}
        return json.dumps({**body, "digest": _digest(body)}, indent=1, sort_keys=True) + "\n"


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> Manifest:
    """The manifest at `path`.

    Raises:
        DamagedCatalogError: it is missing, no manifest of ours, changed since it was written, or of a newer Skyward.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_MANIFEST + 1)
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror}") from error
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(path, "is not JSON") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise refusal(path, "is not a catalog manifest of Skyward")
    _check_version(path, body.get("schema_version"))
    if body.pop("digest", None) != _digest(body):
        raise refusal(path, "was changed after it was written")
    return _manifest_of(path, body)


def _check_version(path: Path, version: object) -> None:
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise refusal(
            path, f"was written by a newer Skyward (schema {version}, this one reads {SCHEMA_VERSION})"
        )


def _manifest_of(path: Path, body: dict[str, Any]) -> Manifest:
    body.pop("format")
    try:
        files = {str(name): FileEntry(**entry) for name, entry in body.pop("files").items()}
        manifest = Manifest(files=files, **body)
    except (TypeError, AttributeError, KeyError) as error:
        raise refusal(path, f"lacks what a manifest has: {error}") from error
    for entry in files.values():
        if not _FILE_NAME.fullmatch(entry.name):
            raise refusal(path, f"names {entry.name!r}, which is no plain name of a Parquet file")
    return manifest


def checked_file(directory: Path, entry: FileEntry) -> Path:
    """The path of one table after its bytes were compared with the manifest.

    Raises:
        DamagedCatalogError: it is missing, cut, changed, or no plain file.
    """
    path = directory / entry.name
    try:
        if path.is_symlink() or not path.is_file():
            raise refusal(path, "is not a plain file")
        if (size := path.stat().st_size) != entry.bytes:
            raise refusal(path, f"has {size} bytes, its manifest says {entry.bytes}")
        found = sha256_of(path)
    except OSError as error:
        raise refusal(path, f"cannot be read: {error.strerror}") from error
    if found != entry.sha256:
        raise refusal(path, "was changed after it was written: its digest is not the one in its manifest")
    return path


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(path: Path, problem: str) -> DamagedCatalogError:
    return DamagedCatalogError(f"{path} {problem}", path=path, problem=problem)
