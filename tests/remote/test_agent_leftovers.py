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
    places = [directory / name for name in ("archives", "envs", "python", "runs")]
    return {path.name for place in places if place.is_dir() for path in place.iterdir()}


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


# -- environments and Pythons --------------------------------------------------------------------------------------


@pytest.fixture
def machine(put: Put, tmp_path: Path) -> Path:
    """A machine on which runs were; its one directory."""
    put("archives/any.zip", days=0)
    return tmp_path


def use(path: Path, *, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def add_python(directory: Path, name: str, *, days: float) -> Path:
    """One as uv puts it there, with the link by which it is found; gives what it runs as, by way of the link."""
    home = directory / "python" / name
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (home / "bin" / "python3").chmod(0o755)
    link = home.with_name(name.rpartition(".")[0])
    link.symlink_to(home)
    use(home, days=days)
    return link / "bin" / "python3"


def add_environment(directory: Path, name: str, *, days: float, python: Path) -> Path:
    home = directory / "envs" / name
    (home / "bin").mkdir(parents=True)
    (home / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    (home / "bin" / "python").symlink_to(python)
    use(home, days=days)
    return home / "bin" / "python"


def test_environments_and_pythons_unused_for_a_month_go(machine: Path) -> None:
    own = Path(sys.executable)
    add_environment(machine, "old", days=31, python=own)
    add_environment(machine, "new", days=29, python=own)
    (machine / "envs" / "old.lock").touch()
    use(machine / "envs" / "old.lock", days=31)
    add_python(machine, "cpython-3.10.4", days=31)
    add_python(machine, "cpython-3.11.9", days=29)
    (machine / "python" / ".temp").mkdir()
    use(machine / "python" / ".temp", days=31)

    left = left_in(machine)

    assert left == {"any.zip", "new", "old.lock", "cpython-3.11.9", "cpython-3.11", ".temp"}


def test_the_python_of_an_environment_stays_as_long_as_that_does(machine: Path) -> None:
    python = add_python(machine, "cpython-3.11.9", days=90)
    add_environment(machine, "mine", days=20, python=python)

    assert left_in(machine) == {"any.zip", "mine", "cpython-3.11.9", "cpython-3.11"}

    use(machine / "envs" / "mine", days=31)
    assert left_in(machine) == {"any.zip"}


def test_the_python_of_an_environment_inside_another_stays_too(machine: Path) -> None:
    python = add_python(machine, "cpython-3.12.1", days=90)
    add_environment(machine, "mine", days=20, python=Path(sys.executable))
    add_environment(machine / "envs" / "mine", "inner", days=20, python=python)  # its set-up made it

    assert "cpython-3.12.1" in left_in(machine)


def test_what_lies_elsewhere_is_never_removed(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    python = add_python(other, "cpython-3.9.1", days=90)
    add_environment(other, "theirs", days=90, python=python)
    (machine / "python").mkdir()
    (machine / "python" / "cpython-3.9.1").symlink_to(other / "python" / "cpython-3.9.1")
    (machine / "envs").symlink_to(other / "envs")

    leftovers.prune(str(machine))

    assert (other / "python" / "cpython-3.9.1" / "bin").is_dir()
    assert (other / "envs" / "theirs" / "bin").is_dir()
    assert (machine / "python" / "cpython-3.9.1").exists()


def test_what_was_half_removed_goes_with_the_rest(machine: Path) -> None:
    add_python(machine, ".cpython-3.9.1.gone", days=90)

    assert not [name for name in left_in(machine) if "3.9.1" in name]


@pytest.mark.parametrize("has_environment", [True, False])
def test_a_living_run_keeps_its_environment_and_its_python_until_it_has_been_over_for_a_month(
    machine: Path, has_environment: bool
) -> None:
    python = add_python(machine, "cpython-3.11.9", days=0)
    kept = {"cpython-3.11.9", "cpython-3.11", "any.zip"}
    if has_environment:
        python = add_environment(machine, "mine", days=0, python=python)
        kept.add("mine")
    homes = [machine / "python" / "cpython-3.11.9", *(machine / "envs").glob("mine")]
    link = opened(machine)
    link.configure(WorkerSettings(python=str(python), sys_path=tuple(sys.path)))
    for home in homes:
        use(home, days=40)

    during = left_in(machine)
    link.close()
    wait_for(lambda: not list((machine / "runs").iterdir()))
    after = left_in(machine)
    for home in homes:
        use(home, days=31)

    assert during - {Path(link.probe.run_directory).name} == kept
    assert after == kept
    assert left_in(machine) == {"any.zip"}


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
