"""How a `skyward run` ends when somebody or something wants it to, and what it leaves."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

Start = Callable[..., Any]
Skyward = Callable[..., Any]
Waits = Callable[..., str]

PROVIDER = '''
    """Machines of this machine that cost money, or will not go away."""
    import os, time
    import skyward as sky

    class Clingy:
        pass

    class ClingyProvider(sky.Provider):
        name = "clingy"
        Config = Clingy
        capabilities = sky.Capabilities(off_means="gone" if "PRICE" in os.environ else "nothing")

        def offers(self):
            price = float(os.environ.get("PRICE", "0"))
            return [sky.Offer(provider="clingy", region="here", instance_type="c1", usd_per_hour=price,
                              vcpus=64, memory_gib=256, availability="available")]

        def launch(self, request):
            return [sky.Instance(id=f"c-{n}", provider="clingy", offer=request.offer) for n in range(request.count)]

        def instances(self, pool):
            return []

        def terminate(self, ids):
            time.sleep(float(os.environ.get("SLOW", "0")))
            if os.environ.get("STUBBORN"):
                raise sky.ProviderError("clingy: DELETE /machines answered 503 three times")

        def connect(self, instance):
            return sky.Endpoint(kind="local")

    @sky.hookimpl
    def skyward_providers():
        return [ClingyProvider]

    @sky.hookimpl
    def skyward_modify_offers(offers, requirements):
        if "PRICE" in os.environ:
            offers += ClingyProvider(Clingy()).offers()
'''


@pytest.fixture
def clingy(project: Path) -> Path:
    """A project whose skyfile brings the provider `clingy`."""
    (project / "skyfile.py").write_text(dedent(PROVIDER))
    return project


def gone(process: Any, within_s: float) -> bool:
    """Whether everything `process` started has ended in time."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not any(child.is_running() and child.status() != "zombie" for child in process.children_seen):
            return True
        time.sleep(0.05)
    return False


def watched(process: Any) -> Any:
    """Remembers every process below it, as long as there is a tree to see them by."""
    process.children_seen = psutil.Process(process.pid).children(recursive=True)
    assert process.children_seen
    return process


@pytest.mark.parametrize(
    ("signum", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "interrupted"),
    ],
)
def test_a_signal_ends_the_run_within_a_second_and_leaves_nothing(
    start: Start, waits: Waits, signum: int, code: int, word: str
) -> None:
    process = start("run", "train.py:nap", "--nodes", "2")
    waits(process, "napping")
    watched(process)

    process.send_signal(signum)
    sent = time.monotonic()
    _, err = process.communicate(timeout=20)

    assert process.returncode == code
    assert time.monotonic() - sent < 1.5
    assert f"{word} - cleaning up; Ctrl-C again leaves at once" in err
    assert "1 cancelled in" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert gone(process, 5)


def test_a_signal_while_machines_are_prepared_ends_the_run_too(
    start: Start, project: Path, waits: Waits
) -> None:
    (project / "skyfile.py").write_text(
        "import skyward as sky\n@sky.hookimpl\n"
        "def skyward_bootstrap(instance, image): return [sky.Step(name='long', script='sleep 60')]\n"
    )
    process = start("run", "train.py:nap", "-v")
    waits(process, "connect")

    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.communicate(timeout=20)

    assert process.returncode == 130
    assert time.monotonic() - sent < 3


def test_a_driver_that_catches_everything_is_interrupted_all_the_same(
    start: Start, project: Path, waits: Waits
) -> None:
    (project / "stubborn.py").write_text(
        "import time\nimport skyward as sky\nfrom train import nap\n"
        "def main():\n"
        "    try:\n        nap() >> sky\n    except Exception:\n        time.sleep(60)\n"
    )
    process = start("run", "stubborn.py:main")
    waits(process, "napping")

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)

    assert process.returncode == 130


def test_a_second_ctrl_c_leaves_at_once_and_the_nodes_end_by_themselves(
    start: Start, clingy: Path, waits: Waits
) -> None:
    process = start("run", "train.py:nap", "--provider", "clingy", SLOW="30")
    waits(process, "napping")
    watched(process)

    process.send_signal(signal.SIGINT)
    waits(process, "cleaning up")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert time.monotonic() - sent < 1
    assert "left at once" in err
    assert gone(process, 15)


def test_ctrl_c_during_the_usual_clean_up_does_not_cut_it_short(
    start: Start, clingy: Path, waits: Waits
) -> None:
    process = start("run", "train.py:hello", "--provider", "clingy", SLOW="1.5")
    waits(process, "hello  ok")
    time.sleep(0.5)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert out == "hello world\n"
    assert "still cleaning up; Ctrl-C again leaves at once" in err


def test_a_killed_client_leaves_no_process_behind(start: Start, waits: Waits) -> None:
    process = start("run", "train.py:nap", "--nodes", "2")
    waits(process, "napping")
    watched(process)

    process.kill()
    process.communicate(timeout=10)

    assert gone(process, 15)


@pytest.mark.parametrize("target", ["train.py:hello", "train.py:folds", "train.py:own_failure"])
def test_unfinished_clean_up_exits_7_whatever_else_happened(run: Skyward, clingy: Path, target: str) -> None:
    done = run(target, "--provider", "clingy", "--json", STUBBORN="1")

    assert done.code == 7
    assert done.document["exit_code"] == 7
    assert done.document["error"]["type"] == "CleanupError"
    assert "CLEAN-UP IS INCOMPLETE" in done.err
    assert "error: 1 machine" in done.err
    assert "c-0" in done.err
    assert "answered 503 three times" in done.err


def test_unfinished_clean_up_wins_over_an_interrupt(start: Start, clingy: Path, waits: Waits) -> None:
    process = start("run", "train.py:nap", "--provider", "clingy", STUBBORN="1")
    waits(process, "napping")

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)

    assert process.returncode == 7


def test_what_costs_money_needs_yes_where_nobody_can_be_asked(run: Skyward, clingy: Path, runs: Any) -> None:
    refused = run("train.py:hello", "--provider", "clingy", "--nodes", "2", PRICE="1.5", stdin="y\n")
    agreed = run("train.py:hello", "--provider", "clingy", "--nodes", "2", "--yes", PRICE="1.5")

    assert refused.code == 2
    assert refused.err.startswith("error: this rents 2x clingy c1 here on-demand for $3.00/h, at most $72.00")
    assert "pass --yes" in refused.err
    assert refused.out == ""
    assert (agreed.code, agreed.out) == (0, "hello world\n")
    assert "all nodes terminated" in agreed.err
    assert "plan: 2x clingy c1 here on-demand, $3.00/h" in agreed.err
    assert len(runs()) == 1


def test_a_node_that_cannot_be_prepared_exits_4_and_says_where_it_failed(run: Skyward, project: Path) -> None:
    (project / "skyfile.py").write_text(
        "import skyward as sky\n@sky.hookimpl\n"
        "def skyward_bootstrap(instance, image):\n"
        "    return [sky.Step(name='drivers', script='echo no card >&2; exit 3')]\n"
    )

    done = run("train.py:hello", "--json")

    assert done.code == 4
    assert "n0 | drivers failed after" in done.err
    assert "no card" in done.err
    assert done.document["items"][0]["verdict"] == "cancelled"
    assert done.document["error"]["type"] == "BootstrapError"
    assert done.out.startswith("{")


def test_the_run_is_recorded_as_far_as_it_came_when_it_is_killed(
    start: Start, waits: Waits, runs: Any
) -> None:
    process = start("run", "train.py:nap")
    waits(process, "napping")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)

    (directory,) = runs()
    assert not (directory / "report.json").exists()
    assert "TaskOutput" in (directory / "events.jsonl").read_text()
    assert os.path.exists(directory / "items.jsonl")
