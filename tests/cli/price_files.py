"""A small market as the user's own price files, so that a command line has known answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Answered(Protocol):
    """What one command line gave; the `invoke` fixture makes them."""

    @property
    def code(self) -> int: ...
    @property
    def out(self) -> str: ...
    @property
    def err(self) -> str: ...


Invoke = Callable[..., Answered]

ACME = """\
region,zone,instance_type,pricing,usd_per_hour,vcpus,memory_gib,disk_gb,architecture,accelerator,accelerator_count,\
accelerator_memory_gib,availability,observed_at,quality
north,,h1,on-demand,2.50,16,128,500,x86_64,H100-SXM,1,80,available,2026-11-20 08:00:00,exact
north,north-1a,h1,spot,1.00,16,128,500,x86_64,H100-SXM,1,80,available,2026-11-20 08:00:00,exact
south,,h8,on-demand,19.20,128,1024,,x86_64,H100-SXM,8,80,listed,2026-11-20 08:00:00,exact
north,,l4,on-demand,0.70,4,16,100,x86_64,L4,1,24,listed,2026-11-20 08:00:00,exact
north,,l4-quarter,on-demand,0.20,2,8,100,x86_64,L4,0.25,24,listed,2026-11-20 08:00:00,exact
north,,c8,on-demand,0.20,8,32,200,x86_64,,0,,available,2026-11-20 08:00:00,exact
south,,g8,on-demand,0.16,8,32,,arm64,,0,,listed,2026-11-20 08:00:00,exact
south,,mystery,on-demand,,64,256,,x86_64,,0,,listed,2026-11-20 08:00:00,exact
"""

BOLT = """\
region,instance_type,pricing,usd_per_hour,vcpus,memory_gib,accelerator,accelerator_count,accelerator_memory_gib,\
observed_at,quality
east,a1,on-demand,1.20,22,120,A100-80GB,1,80,2026-11-19 08:00:00,exact
east,a4,on-demand,4.40,88,480,A100-80GB,4,80,2026-11-19 08:00:00,exact
east,median-h100,on-demand,1.90,8,64,H100-SXM,1,80,2026-11-19 08:00:00,indicative
"""


def write_market(home: Path) -> None:
    """Puts the price files of `acme` and `bolt` where a command line with this HOME finds them."""
    directory = home / "skyward" / "config" / "catalog"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "acme.csv").write_text(ACME)
    (directory / "bolt.csv").write_text(BOLT)
