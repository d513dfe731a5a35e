"""Makes the Python environment an image declares, on an instance that can be reached."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from skyward.errors import PythonMismatchError
from skyward.model.image import Image
from skyward.remote.connection import Connection
from skyward.remote.probe import Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where tasks of one image run on one instance."""

    python: str
    """Path of the interpreter on the instance."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables the workers are started with."""
    detail: str = ""
    """What was done, in a few words: "python 3.11 found", "environment reused"."""


def prepare(
    connection: Connection,
    probe: Probe,
    image: Image,
    *,
    client_python: tuple[int, int] = sys.version_info[:2],
    on_step: Callable[[str], None] | None = None,
    deadline_s: float = 600.0,
) -> Environment:
    """The environment of `image` on the instance behind `connection`, made or found."""
    minor = ".".join(map(str, client_python))
    if minor not in probe.pythons:
        raise PythonMismatchError(f"{connection.endpoint}: no python {minor} on the instance")
    return Environment(python=probe.pythons[minor], env=dict(image.env), detail=f"python {minor} found")
