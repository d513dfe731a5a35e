"""What a project on this machine depends on, in exact versions. Reads files and runs uv; for `Image.from_project`."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from skyward.errors import ConfigError
from skyward.model.image import OURSELVES, Image, parse_requirements, requirement_name

_SOURCES = ("uv.lock", "pyproject.toml", "requirements.txt")
_USUAL_INDEX = "https://pypi.org/simple"
_EXPORT_TIMEOUT_S = 120.0
_LOCAL = re.compile(r"(-e\b|\.|/|file:)")


def locked(path: str | os.PathLike[str] | None = None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The requirements of the project at or around `path`, as exactly as it says, and the indexes they need.

    Raises:
        ConfigError: no project there, or what it says cannot be read.
    """
    root = _root(Path(os.path.abspath(path or os.getcwd())))
    if (lock := _lock(root)) is not None:
        return _exported(root, lock), _registries(lock)
    if (root / "requirements.txt").exists():
        return Image(requirements=root / "requirements.txt").requirement_lines(), ()
    return tuple(_installed(_dependencies(root / "pyproject.toml"))), ()


def _root(start: Path) -> Path:
    directory = start if start.is_dir() else start.parent
    for candidate in (directory, *directory.parents):
        if any((candidate / name).exists() for name in _SOURCES):
            return candidate
    raise ConfigError(
        f"image: no project at {str(start)!r}: none of {', '.join(_SOURCES)} there or above",
        hints=["name the packages: Image(pip=['numpy'])"],
        path=str(start),
    )


def _lock(root: Path) -> Path | None:
    """uv.lock of the project, or of the workspace it is a member of."""
    if (root / "uv.lock").exists():
        return root / "uv.lock"
    for directory in root.parents:
        if (directory / "uv.lock").exists() and _is_workspace(directory / "pyproject.toml"):
            return directory / "uv.lock"
    return None


def _is_workspace(pyproject: Path) -> bool:
    return pyproject.exists() and "workspace" in _read(pyproject).get("tool", {}).get("uv", {})


def _exported(root: Path, lock: Path) -> tuple[str, ...]:
    """What uv.lock pins, with hashes. Code of this machine (the project, its workspace) is left out: it travels."""
    command = [_uv(), "export", "--quiet", "--frozen", "--project", str(root), "--directory", str(root)]
    options = ["--format", "requirements-txt", "--no-dev", "--no-header", "--no-emit-workspace"]
    try:
        done = subprocess.run(
            [*command, *options, "--prune", OURSELVES],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_EXPORT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"image: cannot read {str(lock)!r}: {error}") from error
    if done.returncode:
        raise ConfigError(
            f"image: uv cannot read {str(lock)!r}",
            facts=done.stderr.strip().splitlines()[-5:],
            hints=[f"uv lock --project '{root}'"],
        )
    lines = [line for line in done.stdout.replace("\\\n", " ").splitlines() if not _LOCAL.match(line)]
    return parse_requirements("\n".join(lines), str(lock))


def _registries(lock: Path) -> tuple[str, ...]:
    """Package indexes other than the usual one, in order of appearance."""
    sources = (package.get("source", {}).get("registry", "") for package in _read(lock).get("package", []))
    return tuple(dict.fromkeys(url for url in sources if "://" in url and url.rstrip("/") != _USUAL_INDEX))


def _uv() -> str:
    import uv

    return uv.find_uv_bin()


def _dependencies(pyproject: Path) -> tuple[str, ...]:
    lines = _read(pyproject).get("project", {}).get("dependencies", [])
    return Image(requirements=lines).requirement_lines()


def _read(toml: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(toml.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"image: cannot read {str(toml)!r}: {error}") from error


def _installed(lines: tuple[str, ...]) -> Iterator[str]:
    """Each requirement in the version installed here; as it is written where it is not installed."""
    for line in lines:
        name = requirement_name(line)
        version = _version(name) if name else None
        yield line if version is None else _pinned(line, version)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pinned(line: str, version: str) -> str:
    """`numpy[x]>=2; marker` -> `numpy[x]==2.1.0; marker`. Local builds (`2.1.0+cu124`) stand for their release."""
    head, _, marker = line.partition(";")
    name = re.match(r"[A-Za-z0-9._-]+\s*(\[[^\]]*\])?", head)
    if name is None or "@" in head:
        return line
    exact = f"{name[0].strip()}=={version.partition('+')[0]}"
    return f"{exact} ;{marker}" if marker else exact
