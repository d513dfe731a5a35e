"""Where the user's own code is: the project whose sources travel. Imports `remote.bundle`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def project_root() -> Path:
    """The project whose sources travel: the one around the running script, else around the current directory."""
    from skyward.remote.bundle import find_project

    here = Path.cwd()
    script = Path(sys.path[0] or here) if sys.path else here
    if not script.is_dir() or _is_installed(script):
        script = here
    return find_project(script) or script


def _is_installed(path: Path) -> bool:
    """Whether modules there belong to an installation of Python, or are its commands, and not to the user."""
    import sysconfig

    commands = {Path(prefix) / "bin" for prefix in (sys.prefix, sys.base_prefix)}
    library = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return (
        path.suffix == ".zip"
        or path in commands
        or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
        or any(path.is_relative_to(place) for place in library)
    )


def own_paths() -> tuple[str, ...]:
    """The client's module paths that are no part of an installation: another environment has its own."""
    paths = [Path(entry or os.getcwd()) for entry in sys.path]
    return tuple(str(path) for path in paths if not _is_installed(path))
