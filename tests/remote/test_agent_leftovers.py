"""What runs leave on a machine for later ones is removed when nobody needs it any more."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyward.model.instance import Endpoint
from skyward.remote.bundle import project_archive, runtime_archive
from skyward.remote.link import Link, WorkerSettings
from skyward.remote.node import leftovers

DAY = 86400.0
Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Puts something below the one directory of a machine, last used so many days ago."""

    def put(name: str, *, days: float, size: int = 10) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".zip":
            with open(path, "wb") as file:
                file.truncate(size)
        else:
            path.mkdir()
            (path / "file").write_bytes(b"x" * 10)
        os.utime(path, (time.time() - days * DAY,) * 2)
        return path

    return put


def left_in(directory: Path) -> set[str]:
    leftovers.prune(str(directory))
    return {path.name for place in ("archives", "runs") for path in (directory / place).glob("*")}


def test_archives_unused_for_a_month_go_packed_and_unpacked(put: Put, tmp_path: Path) -> None:
    put("archives/old.zip", days=31)
    put("archives/old", days=31)
    put("archives/new.zip", days=29)
    put("archives/new", days=29)

    assert left_in(tmp_path) == {"new.zip", "new"}


def test_beyond_their_room_the_longest_unused_archives_go(put: Put, tmp_path: Path) -> None:
    for days, name in enumerate("abcd"):
        put(f"archives/{name}.zip", days=9 - days, size=leftovers.ARCHIVES_KEPT // 2)

    assert left_in(tmp_path) == {"c.zip", "d.zip"}


def test_what_a_living_agent_holds_stays_however_old_and_long_it_is(put: Put, tmp_path: Path) -> None:
    old, young = "a" * 64, "b" * 64
    put(f"archives/{old}.zip", days=90)
    put(f"archives/{old}", days=90)
    put(f"archives/{young}.zip", days=0, size=2 * leftovers.ARCHIVES_KEPT)
    link = opened(tmp_path)  # it has been told of them and may be about to use them

    held = left_in(tmp_path)
    link.close()
    wait_for(lambda: not list((tmp_path / "archives").iterdir()))

    assert held == {f"{old}.zip", old, f"{young}.zip", Path(link.probe.run_directory).name}


def test_what_dead_agents_have_left_goes_and_a_living_one_keeps_its_own(put: Put, tmp_path: Path) -> None:
    put("runs/dead", days=1)
    put("runs/young", days=0)
    link = opened(tmp_path)
    alive = Path(link.probe.run_directory)
    os.utime(alive, (time.time() - 9 * DAY,) * 2)

    assert left_in(tmp_path) == {"young", alive.name}
    assert link.connection.is_alive

    link.close()


def test_nothing_there_is_nothing_to_do(tmp_path: Path) -> None:
    leftovers.prune(str(tmp_path / "nowhere"))


# -- with an agent -------------------------------------------------------------------------------------------------


def opened(directory: Path) -> Link:
    link = Link(
        Endpoint(kind="local", directory=str(directory)), node=0, session=f"left-{time.monotonic_ns()}"
    )
    link.open(30)
    return link


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").write_text("")
    (root / "mine.py").write_text("x = 1\n")
    return root


def test_a_run_keeps_what_it_uses_and_takes_away_what_nobody_does(
    put: Put, project: Path, tmp_path: Path
) -> None:
    there, ours, theirs = tmp_path / "there", runtime_archive(), project_archive(project)
    settings = WorkerSettings(python=sys.executable, project=theirs, runtime=ours, sys_path=tuple(sys.path))
    used = set()
    for days in (0, 31):
        link = opened(there)
        for path in (there / "archives").iterdir():
            os.utime(path, (time.time() - days * DAY,) * 2)
        put("there/archives/old.zip", days=40)
        link.configure(settings)
        link.close()
        wait_for(lambda: not (there / "archives" / "old.zip").exists())
        used = {path.name for path in (there / "archives").iterdir()}

    assert used == {f"{ours.digest}.zip", f"{theirs.digest}.zip"}


def wait_for(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
