"""What runs leave on a machine for later ones is removed when nobody needs it any more."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyward.model.instance import Endpoint
from skyward.remote import agent
from skyward.remote.bundle import project_archive, runtime_archive
from skyward.remote.link import Link, WorkerSettings

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
    agent.prune(str(directory), time.time())
    return {path.name for place in ("archives", "runs") for path in (directory / place).glob("*")}


def test_archives_unused_for_a_month_go_packed_and_unpacked(put: Put, tmp_path: Path) -> None:
    put("archives/old.zip", days=31)
    put("archives/old", days=31)
    put("archives/new.zip", days=29)
    put("archives/new", days=29)

    assert left_in(tmp_path) == {"new.zip", "new"}


def test_beyond_their_room_the_longest_unused_archives_go_and_none_that_may_be_in_use(
    put: Put, tmp_path: Path
) -> None:
    put("archives/a.zip", days=9, size=agent.ARCHIVES_KEPT // 2)
    put("archives/b.zip", days=8, size=agent.ARCHIVES_KEPT // 2)
    put("archives/c.zip", days=3, size=agent.ARCHIVES_KEPT // 2)
    put("archives/d.zip", days=1, size=agent.ARCHIVES_KEPT // 2)

    assert left_in(tmp_path) == {"c.zip", "d.zip"}

    put("archives/e.zip", days=0, size=agent.ARCHIVES_KEPT)
    put("archives/f.zip", days=0, size=agent.ARCHIVES_KEPT)

    assert left_in(tmp_path) == {"d.zip", "e.zip", "f.zip"}


def test_what_dead_agents_have_left_goes_after_days_and_a_living_one_keeps_its_own(
    put: Put, tmp_path: Path
) -> None:
    put("runs/dead", days=3)
    put("runs/young", days=1)
    link = opened(tmp_path)
    alive = Path(link.probe.run_directory)
    os.utime(alive, (time.time() - 9 * DAY,) * 2)

    assert left_in(tmp_path) == {"young", alive.name}
    assert link.connection.is_alive

    link.close()


def test_nothing_there_is_nothing_to_do(tmp_path: Path) -> None:
    agent.prune(str(tmp_path / "nowhere"), time.time())


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
        wait_until_gone(Path(link.probe.run_directory))
        used = {path.name for path in (there / "archives").iterdir()}

    assert used == {f"{ours.digest}.zip", f"{theirs.digest}.zip", ours.digest}


def test_an_archive_that_another_agent_may_remove_is_sent_again(tmp_path: Path, put: Put) -> None:
    put("archives/" + "a" * 64 + ".zip", days=1)
    put("archives/" + "b" * 64 + ".zip", days=3)

    link = opened(tmp_path)
    link.close()

    assert link._hello is not None
    assert link._hello["archives"] == ["a" * 64]


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 10
    while path.exists() or (path.parent.parent / "archives" / "old.zip").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
