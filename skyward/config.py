"""Settings and where they come from, and the directories we may write to. Imports only `errors`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The four directories Skyward writes to on the client. None is created before something is written."""

    config: Path
    """`config.toml`, written by the user."""
    cache: Path
    """What can be made again: scans, refreshed prices, wheels."""
    data: Path
    """What cannot: price history."""
    state: Path
    """Runs, the journal, known hosts, logs."""

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Places:
        """Below $SKYWARD_HOME when it is set, otherwise where the platform keeps such things."""
        home = environ.get("SKYWARD_HOME")
        if home:
            root = Path(home).expanduser().absolute()
            return cls(config=root / "config", cache=root / "cache", data=root / "data", state=root / "state")
        import platformdirs

        return cls(
            config=platformdirs.user_config_path("skyward"),
            cache=platformdirs.user_cache_path("skyward"),
            data=platformdirs.user_data_path("skyward"),
            state=platformdirs.user_state_path("skyward"),
        )


def make_private(directory: Path) -> Path:
    """The directory, created with its parents, readable by its owner only. An existing one keeps its mode."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory
