"""What an instance told us about itself before anything was installed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One instance as its agent sees it. Sizes in bytes."""

    directory: str
    """Our one directory on the instance, absolute; everything we write is below it."""
    run_directory: str
    """Below `directory`; gone when the agent ends."""
    python: tuple[int, int, int]
    """Version of the Python the agent runs on."""
    executable: str
    pythons: Mapping[str, str] = field(default_factory=dict)
    """Minor version ("3.11") -> path, for every python found on the PATH and in usual places."""
    uv: str | None = None
    machine: str = ""
    """As `uname -m` says it: x86_64, aarch64."""
    system: str = ""
    libc: str = ""
    """`glibc 2.36`, `musl`, or ""."""
    cpus: int = 1
    memory_bytes: int = 0
    disk_free_bytes: int = 0
    home: str = ""
    user: str = ""
    hostname: str = ""
    addresses: tuple[str, ...] = ()
    is_armed: bool = False
    """Whether what ends the machine by itself runs, and would hear us."""
    has_booted: bool = False
    """Whether cloud-init says that it is done with this boot."""
    agent: str = ""
    """Identity of this incarnation of the agent; another value means that the old one is gone."""
    predecessor: str = ""
    """The last words of one that is gone."""
    archives: tuple[str, ...] = ()
    """Digests of the archives that are there."""
    have: tuple[str, ...] = ()
    """Digests of the blobs that this agent has."""

    @classmethod
    def from_hello(cls, hello: Mapping[str, Any]) -> Probe:
        """What an agent says first, believed in so far as everything has its type.

        Raises:
            ValueError: something is missing, or is not what it should be.
        """
        import msgspec

        try:
            return msgspec.convert(dict(hello), cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
