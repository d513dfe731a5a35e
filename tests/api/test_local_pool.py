"""The whole way on this machine: agents, workers, values and errors, and nothing left afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import skyward as sky
from skyward.cloud.project import _is_installed
from skyward.model.report import TaskReport


@sky.compute
def double(x: int) -> int:
    return 2 * x


@sky.compute
def fail(x: int) -> int:
    if x == 3:
        raise ValueError(f"{x} is bad")
    return x


@sky.compute
def place() -> sky.InstanceInfo | None:
    return sky.instance_info()


@sky.compute
def part(items: list[int]) -> list[int]:
    return sky.shard(items, shuffle=True, seed=5)


@sky.compute
def environment(name: str) -> str | None:
    return os.environ.get(name)


@sky.compute
def pid() -> int:
    return os.getpid()


class Net:
    """Something with state that is sent along."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    @sky.compute
    def fit(self, epochs: int) -> float:
        return self.rate * epochs


@pytest.fixture(scope="module")
def here() -> Iterator[sky.ComputePool]:
    """Two nodes on this machine."""
    with sky.ComputePool(nodes=2, display="quiet") as pool:
        yield pool


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> None:
    """Here the pool of the module lives on between tests."""


def test_values_come_back(here: sky.ComputePool) -> None:
    assert double(3) >> here == 6
    assert (double(1) & fail(5)) >> here == (2, 5)
    assert here.map(double, range(5000)) == [2 * x for x in range(5000)]
    assert sorted(sky.gather(map(double, range(100)), stream=True) >> here) == [2 * x for x in range(100)]
    assert here.submit(double, 4).result(10) == 8


def test_workers_are_processes_of_their_own(here: sky.ComputePool) -> None:
    pids = pid() @ here

    assert len({*pids, os.getpid()}) == 3


def test_errors_come_back_with_their_traceback(here: sky.ComputePool) -> None:
    with pytest.raises(ValueError, match="3 is bad") as caught:
        fail(3) >> here

    assert "test_local_pool.py" in str(caught.value.__cause__)
    assert double(1) >> here == 2


def test_nested_functions_closures_and_methods_travel(here: sky.ComputePool) -> None:
    bonus = 10

    @sky.compute
    def nested(x: int) -> int:
        return double.local(x) + bonus

    assert nested(1) >> here == 12
    assert Net(0.5).fit(4) >> here == 2.0
    assert here.map(lambda x: x + bonus, range(3)) == [10, 11, 12]


def test_what_cannot_travel_says_which_part(here: sky.ComputePool) -> None:
    import threading

    with pytest.raises(sky.SerializationError, match=r"argument 0 of double|argument 'x' of double"):
        double(threading.Lock()) >> here  # type: ignore[arg-type]


def test_a_task_that_gives_a_pending_call_says_so(here: sky.ComputePool) -> None:
    @sky.compute
    def outer() -> Any:
        return double(1)

    with pytest.raises(sky.SerializationError, match="has not been run"):
        outer() >> here


def test_tasks_know_where_they_are(here: sky.ComputePool) -> None:
    first, second = place() @ here
    assert first is not None
    assert second is not None

    assert (first.rank, second.rank, first.world_size, second.world_size) == (0, 1, 2, 2)
    assert first.is_head
    assert not second.is_head
    assert first.job_id == here.id
    assert first.head_addr == second.head_addr == "127.0.0.1"
    assert first.head_port == second.head_port > 1024
    assert [peer.node for peer in first.peers] == [0, 1]
    assert first.provider == "local"
    assert first.vcpus
    assert first.memory_gb


def test_shards_of_all_workers_make_up_the_whole(here: sky.ComputePool) -> None:
    a, b = part(list(range(11))) @ here

    assert sorted(a + b) == list(range(11))
    assert len(a) == 6


def test_a_coroutine_function_is_a_task(here: sky.ComputePool) -> None:
    @sky.compute
    async def later(x: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert later(1) >> here == 2


def test_many_threads_and_the_active_pool(here: sky.ComputePool) -> None:
    assert sky.conc.map_async(lambda x: double(x) >> here, range(8)) == [2 * x for x in range(8)]


def test_variables_of_the_image_reach_tasks_and_plugins_do_not_change_them() -> None:
    with sky.ComputePool(
        env={"FRUIT": "pear"}, image=sky.Image(env={"TREE": "oak"}), display="quiet"
    ) as pool:
        assert environment("FRUIT") >> pool == "pear"
        assert environment("TREE") >> pool == "oak"


def test_another_environment_has_the_users_modules_and_none_of_the_clients_packages(tmp_path: Path) -> None:
    def found(name: str) -> bool:
        import importlib.util

        return importlib.util.find_spec(name) is not None

    image = sky.Image(setup=[f"echo made > {tmp_path / 'made'}"])
    config = sky.Local(directory=str(tmp_path / "cache"))
    with sky.ComputePool(config, image=image, display="quiet") as pool:
        assert pool.map(found, ["tasks_without_pytest", "pytest", "skyward", "cloudpickle"]) == [
            True,
            False,
            True,
            True,
        ]

    assert (tmp_path / "made").read_text() == "made\n"


@pytest.mark.parametrize(
    ("path", "is_installed"),
    [
        (os.__file__.rpartition("/")[0], True),
        (pytest.__file__.rpartition("/")[0], True),
        (os.path.join(sys.prefix, "bin"), True),
        ("/usr/lib/python3/dist-packages", True),
        ("/usr/lib/python311.zip", True),
        ("/usr/src/app", False),
        ("/home/me/project/src", False),
        (os.path.dirname(__file__), False),
    ],
)
def test_what_is_installed_is_told_from_what_is_the_users(path: str, is_installed: bool) -> None:
    assert _is_installed(Path(path)) is is_installed


def test_steps_are_told_with_their_times() -> None:
    steps: list[sky.events.StepFinished] = []
    ready: list[sky.events.NodeReady] = []
    pool = sky.ComputePool(display="quiet", concurrency=2)
    pool.on(sky.events.StepFinished, steps.append)
    pool.on(sky.events.NodeReady, ready.append)
    with pool:
        assert pool.total_slots == 2
        assert len(place() @ pool) == 1

    assert [step.step for step in steps] == ["connect", "workers"]
    assert all(step.duration_s >= 0 and step.error is None for step in steps)
    assert ready[0].slots == 2


class Prepares:
    """A plugin that prepares machines."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.ready: list[str] = []

    @sky.hookimpl
    def skyward_bootstrap(self, instance: Any, image: Any) -> list[sky.Step]:
        return [
            sky.Step(name="second", script="exit 0", order=60),
            sky.Step(name="first", script=self.script, input={"word": "it's"}),
        ]

    @sky.hookimpl
    def skyward_instance_ready(self, instance: Any, connection: Any) -> None:
        self.ready.append(connection.run("echo ready").stdout.decode().strip())

    @sky.hookimpl
    def skyward_task_env(self, task: Any, instance: Any) -> dict[str, str]:
        return {"FROM_PLUGIN": instance.provider, "FRUIT": "apple"}


@pytest.fixture
def plugin(request: pytest.FixtureRequest) -> Iterator[Prepares]:
    from skyward.plugins import get_plugins

    one = Prepares(request.param)
    get_plugins().register(one, "prepares")
    yield one
    get_plugins().unregister(one)


@pytest.mark.parametrize("plugin", ['grep -q \'"word": "it.s"\' -'], indirect=True)
def test_plugins_prepare_instances_in_order(plugin: Prepares) -> None:
    steps: list[str] = []
    pool = sky.ComputePool(display="quiet", env={"FRUIT": "pear"})
    pool.on(sky.events.StepFinished, lambda event: steps.append(event.step))
    with pool:
        assert environment("FROM_PLUGIN") >> pool == "local"
        assert environment("FRUIT") >> pool == "pear"

    assert steps == ["connect", "first", "second", "workers"]
    assert plugin.ready == ["ready"]


@pytest.mark.parametrize("plugin", ["echo one; echo $SECRET; echo three >&2; exit 7"], indirect=True)
def test_a_step_that_fails_refuses_the_pool_and_shows_its_last_lines_without_secrets(
    plugin: Prepares,
) -> None:
    failed: list[sky.events.StepFinished] = []
    secret = "s3cr3t-t0ken-value"
    plugin.script = plugin.script.replace("$SECRET", secret)
    pool = sky.ComputePool(display="quiet", env={"API_TOKEN": secret})
    pool.on(sky.events.StepFinished, lambda event: failed.append(event) if event.error else None)

    with pytest.raises(sky.BootstrapError, match="step 'first' failed with exit status 7") as caught, pool:
        pass

    assert caught.value.step == "first"
    assert caught.value.tail.splitlines() == ["one", "***", "three"]
    assert [event.step for event in failed] == ["first"]


def test_output_control_works_on_the_remote_side(here: sky.ComputePool) -> None:
    said: list[str] = []
    here.on(sky.events.TaskOutput, lambda event: said.append(f"{event.node}:{event.text.strip()}"))

    @sky.compute
    @sky.stdout(only="head")
    def speak() -> None:
        print("hello")
        subprocess.run(["echo", "child"], check=True)

    speak() @ here
    deadline = time.monotonic() + 5
    while len(said) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)

    assert sorted(said) == ["0:child", "0:hello"]


# -- programs ------------------------------------------------------------------------------------------------------


def start(program: str, tmp_path: Path) -> subprocess.Popen[str]:
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    return subprocess.Popen(
        [sys.executable, str(file)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "PYTHONPATH": str(Path(sky.__file__).parent.parent)},
    )


def run(program: str, tmp_path: Path) -> tuple[int, str, str]:
    process = start(program, tmp_path)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(psutil.pid_exists, pids))


def test_a_script_and_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def triple(x):\n    return 3 * x\n")

    code, out, err = run(
        """
        import skyward as sky
        from mine import triple

        @sky.compute
        def task(x: int) -> int:
            return triple(x) + offset

        @sky.pool(nodes=2)
        def main():
            print(sky.gather(task(x) for x in range(4)) >> sky)

        offset = 1
        if __name__ == "__main__":
            main()
        """,
        tmp_path,
    )

    assert (code, out) == (0, "(1, 4, 7, 10)\n"), err


def test_a_pool_left_running_is_ended_at_exit_with_a_warning(tmp_path: Path) -> None:
    code, out, err = run(
        """
        import os, skyward as sky
        pool = sky.ComputePool(nodes=2, display="quiet").start()
        print(*(sky.compute(os.getpid)() @ sky))
        """,
        tmp_path,
    )

    assert code == 0, err
    assert "was still running at the end" in err
    assert "Traceback" not in err
    assert gone([int(word) for word in out.split()])


def test_an_interrupted_program_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(
        """
        import os, time, skyward as sky

        @sky.compute
        def slow(x):
            time.sleep(30)

        with sky.ComputePool(nodes=2, display="quiet") as pool:
            print(*(sky.compute(os.getpid)() @ pool), flush=True)
            pool.map(slow, range(10))
        """,
        tmp_path,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert time.monotonic() - began < 10
    assert gone(pids)


def test_a_killed_program_leaves_nothing_running(tmp_path: Path) -> None:
    process = start(
        """
        import os, time, skyward as sky

        with sky.ComputePool(nodes=2, display="quiet") as pool:
            print(*(sky.compute(os.getpid)() @ pool), flush=True)
            pool.map(time.sleep, [30] * 10)
        """,
        tmp_path,
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    process.kill()
    process.communicate(timeout=30)

    assert len(pids) == 2
    assert gone(pids)


def test_a_pool_may_be_entered_in_an_event_loop(tmp_path: Path) -> None:
    code, out, err = run(
        """
        import asyncio, skyward as sky

        @sky.compute
        def double(x: int) -> int:
            return 2 * x

        @sky.pool(nodes=2, display="quiet")
        async def main():
            loop = asyncio.get_running_loop()
            futures = [asyncio.wrap_future(sky.api.target.current().submit(double, x)) for x in range(5)]
            print(await asyncio.gather(*futures), double(9) >> sky)

        if __name__ == "__main__":
            asyncio.run(main())
        """,
        tmp_path,
    )

    assert (code, out) == (0, "[0, 2, 4, 6, 8] 18\n"), err


def test_events_count_tasks_as_their_sender_does() -> None:
    """However they were handed over: in portions, as they are read, or one for each worker."""
    seen: list[Any] = []
    with sky.ComputePool(nodes=2, display="quiet") as pool:
        pool.on(sky.events.TaskStarted, seen.append)
        pool.on(sky.events.TaskFinished, lambda event: seen.append(event.report))
        pool.map(abs, range(300))
        list(sky.gather((double(x) for x in range(300)), stream=True) >> pool)
        double(1) @ pool
        double(1) >> pool

    finished = [one.index for one in seen if isinstance(one, TaskReport)]
    assert sorted(finished) == sorted([*range(300), *range(300), 0, 1, 0])
    # One that a busy node gives back is started twice.
    assert {one.index for one in seen if isinstance(one, sky.events.TaskStarted)} == set(range(300))
