"""Full disks, no inodes, no memory: the task that needs them fails by name, the others go on."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from skyward.errors import BootstrapError, InstanceDiskFull, WorkerDied
from skyward.model.event import WarningRaised
from skyward.model.instance import Endpoint
from skyward.remote.link import Link

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may mount file systems and make control groups"
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """File systems with little room: `small_disk("size=3m")`."""
    with ExitStack() as stack:

        @contextmanager
        def mounted(options: str) -> Iterator[Path]:
            place = tmp_path / f"disk-{len(os.listdir(tmp_path))}"
            place.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
            try:
                yield place
            finally:
                subprocess.run(["umount", "-l", str(place)], check=True)

        yield lambda options: stack.enter_context(mounted(options))


@as_root
def test_a_value_too_long_for_the_disk_moves_to_a_node_with_room(
    make_harness: Any, small_disk: Any, tmp_path: Path
) -> None:
    harness = make_harness()
    harness.add(Endpoint(kind="local", directory=str(small_disk("size=3m,mode=700"))))
    harness.add(Endpoint(kind="local", directory=str(tmp_path / "sky")))
    data = os.urandom(5 << 20)

    outcomes = harness.map(lambda blob, i: len(blob) + i, [data] * 6, range(6))

    assert [outcome.result() for outcome in outcomes] == [(5 << 20) + i for i in range(6)]
    assert {outcome.node for outcome in outcomes} == {1}
    assert harness.of(WarningRaised)


@as_root
def test_on_a_full_disk_small_tasks_still_work_and_long_results_are_named(
    make_harness: Any, small_disk: Any
) -> None:
    harness = make_harness(retries=0)
    harness.add(Endpoint(kind="local", directory=str(small_disk("size=3m,mode=700"))))

    assert isinstance(harness.call(len, os.urandom(5 << 20)).error, InstanceDiskFull)
    assert isinstance(harness.call(os.urandom, 5 << 20).error, InstanceDiskFull)
    assert [outcome.result() for outcome in harness.map(abs, range(50))] == list(range(50))


@as_root
@pytest.mark.parametrize("options", ["size=1m,nr_inodes=4,mode=700", "size=4k,mode=700"])
def test_a_disk_without_room_for_the_agent_is_named_before_any_work(small_disk: Any, options: str) -> None:
    place = small_disk(options)
    (place / "filler").write_bytes(b"x" * 4096) if "size=4k" in options else None
    link = Link(Endpoint(kind="local", directory=str(place)), node=0, session="full")

    with pytest.raises(BootstrapError) as caught:
        link.open(10)
    link.close()

    assert "No space left" in str(caught.value)
    assert isinstance(caught.value, InstanceDiskFull)


@as_root
def test_a_read_only_directory_is_named(small_disk: Any) -> None:
    place = small_disk("size=1m,ro,mode=700")
    link = Link(Endpoint(kind="local", directory=str(place)), node=0, session="ro")

    with pytest.raises(BootstrapError, match="Read-only"):
        link.open(10)
    link.close()


MEMORY = Path("/sys/fs/cgroup/memory")


@as_root
@pytest.mark.skipif(
    not (MEMORY / "memory.limit_in_bytes").exists(), reason="no version 1 memory control groups here"
)
def test_a_task_the_kernel_kills_for_memory_is_said_to_be(local: Any) -> None:
    group = MEMORY / f"skyward-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(150 << 20))
        limits = str(group / "cgroup.procs")

        def eat() -> int:
            with open(limits, "w") as file:
                file.write(str(os.getpid()))
            return len(bytearray(b"x") * (600 << 20))

        error = local.call(eat).error
        assert isinstance(error, WorkerDied)
        assert error.signal == "SIGKILL"
        assert "out of memory" in str(error)
        assert (error.peak_rss_bytes or 0) > 50 << 20
        assert local.call(abs, -2).result() == 2
    finally:
        group.rmdir()


def test_running_out_of_address_space_is_an_ordinary_error(local: Any) -> None:
    def eat() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
        try:
            bytearray(4 << 30)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    assert isinstance(local.call(eat).error, MemoryError)


def test_a_clock_that_jumps_changes_nothing(local: Any) -> None:
    """Durations and time-outs come from monotonic clocks; wall time is only shown."""
    from skyward import scheduler
    from skyward.remote import link, node

    for room in (scheduler, link, node):
        for path in Path(room.__path__[0]).glob("*.py"):
            if path.name != "builder.py":  # it compares with the times of files
                assert "time.time(" not in path.read_text(encoding="utf-8"), path


def test_relative_import_places_are_inside_the_project_and_survive_chdir() -> None:
    from skyward.remote.node.configuration import search_path

    places = {"project": "/run/project", "runtime": "/run/runtime"}

    assert search_path(places, ["src", ".", "/usr/lib/x"], "/run/project") == [
        "/run/project/src", "/run/project", "/run/runtime", "/usr/lib/x",
    ]  # fmt: skip


def test_equal_long_values_get_one_name_and_different_ones_two() -> None:
    from skyward.remote.codec import LONG, Blob

    data = os.urandom(LONG + 5)
    first = Blob(data)
    assert Blob(bytearray(data)).digest == first.digest
    first.settle()
    assert Blob(bytes(bytearray(data))).digest == first.digest
    other = bytearray(data)
    other[10_000] ^= 1  # between two samples
    assert Blob(other).digest != first.digest
    assert Blob(data[:-1]).digest != first.digest
    del first
    assert Blob(data).digest == Blob(data).digest
