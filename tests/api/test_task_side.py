"""What a task sees: where it is, what it has, and who may print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import skyward as sky
from skyward.api import devices, instance
from skyward.api.instance import placed
from skyward.model.instance_info import VARIABLE


def make_info(**changes: Any) -> sky.InstanceInfo:
    given = {
        "node": 1,
        "total_nodes": 4,
        "worker": 1,
        "workers_per_node": 2,
        "job_id": "pool-1",
        "head_addr": "10.0.0.1",
        "head_port": 29500,
        "peers": (sky.Peer(node=0, ip="1.2.3.4", private_ip="10.0.0.1"), sky.Peer(node=1, ip="1.2.3.5")),
        "network_interface": "eth0",
    }
    return sky.InstanceInfo(**{**given, **changes})


@contextmanager
def at(info: sky.InstanceInfo) -> Iterator[None]:
    token = placed.set(info)
    try:
        yield
    finally:
        placed.reset(token)


# -- where it is ---------------------------------------------------------------------------------------------------


def test_outside_of_tasks_there_is_no_place() -> None:
    assert sky.instance_info() is None
    assert sky.is_head()


def test_rank_and_world_count_workers() -> None:
    info = make_info()

    assert (info.rank, info.world_size, info.is_head) == (3, 8, False)
    assert make_info(node=0, worker=0).is_head


def test_a_place_survives_its_journey(monkeypatch: pytest.MonkeyPatch) -> None:
    info = make_info()
    monkeypatch.setenv(VARIABLE, info.to_json())

    assert sky.instance_info() == info
    assert sky.instance_info() is sky.instance_info()


def test_fields_of_a_newer_client_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps({**json.loads(make_info().to_json()), "moon": "full"}))

    assert sky.instance_info() == make_info()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"node": 1}'])
def test_a_place_that_cannot_be_read_says_so(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)

    with pytest.raises(sky.ProtocolError, match=VARIABLE):
        sky.instance_info()


def test_peers_are_reached_privately_where_they_can_be() -> None:
    assert [peer.address for peer in make_info().peers] == ["10.0.0.1", "1.2.3.5"]


@pytest.mark.skipif(not os.path.exists("/proc/net/route"), reason="reads Linux's table of routes")
def test_the_interface_is_found_where_nobody_said_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, make_info(network_interface=None).to_json())
    info = sky.instance_info()

    assert info is not None
    assert info.network_interface == instance._interface_towards("10.0.0.1")


# -- what it has ---------------------------------------------------------------------------------------------------


def test_the_accelerator_is_the_machines() -> None:
    with at(make_info(gpu_model="A100-80GB", accelerators=8.0, gpu_vendor="nvidia")):
        assert sky.current_accelerator() == sky.NVIDIA.A100(count=8)
        assert (sky.is_nvidia(), sky.is_amd(), sky.is_trainium()) == (True, False, False)
    with at(make_info(gpu_model="MI300X", accelerators=1.0, gpu_vendor="amd")):
        assert (sky.is_nvidia(), sky.is_amd(), sky.is_trainium()) == (False, True, False)
    with at(make_info()):
        assert sky.current_accelerator() is None


def test_without_a_catalogs_word_the_drivers_tell(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neuron0").touch()
    monkeypatch.setattr(devices, "_DEVICES", {"nvidia": (), "amd": (), "aws": (str(tmp_path / "neuron0"),)})

    assert (sky.is_nvidia(), sky.is_amd(), sky.is_trainium()) == (False, False, True)


# -- who may print -------------------------------------------------------------------------------------------------

HEAD, OTHER = make_info(node=0, worker=0), make_info()


@pytest.mark.parametrize(
    ("only", "rank_3_prints"),
    [
        ("head", False),
        (3, True),
        (0, False),
        ([1, 3], True),
        (range(2), False),
        (lambda info: info.node == 1, True),
        (lambda info: False, False),
        (sky.is_head, False),
        (lambda: True, True),
    ],
)
def test_only_the_chosen_print(only: Any, rank_3_prints: bool, capfd: pytest.CaptureFixture[str]) -> None:
    @sky.stdout(only=only)
    def speak() -> int:
        print("python")
        os.write(1, b"descriptor\n")
        print("error", file=sys.stderr)
        return 5

    with at(OTHER):
        assert speak() == 5
        sys.stdout.flush()

    said = capfd.readouterr()
    assert ("python" in said.out, "descriptor" in said.out) == (rank_3_prints, rank_3_prints)
    assert said.err == "error\n"


def test_the_head_prints_and_so_does_who_is_in_no_pool(capfd: pytest.CaptureFixture[str]) -> None:
    @sky.stdout(only="head")
    def speak() -> None:
        print("hello")

    with at(HEAD):
        speak()
    speak()

    assert capfd.readouterr().out == "hello\nhello\n"


def test_standard_error_is_chosen_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with at(OTHER), sky.stderr(only="head"):
        print("out")
        print("err", file=sys.stderr)

    assert capfd.readouterr() == ("out\n", "")


def test_silent_is_a_decorator_and_a_block_bare_and_called(capfd: pytest.CaptureFixture[str]) -> None:
    @sky.silent
    def one() -> int:
        print("one")
        return 1

    @sky.silent()
    def two() -> int:
        print("two", file=sys.stderr)
        return 2

    with sky.silent, sky.silent():
        print("three")
        subprocess.run(["echo", "four"], check=True)
    assert (one(), two()) == (1, 2)
    print("after")

    assert capfd.readouterr() == ("after\n", "")


def test_output_comes_back_after_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LookupError), sky.silent:
        raise LookupError
    print("after", flush=True)
    os.write(1, b"descriptor\n")
    os.write(2, b"error\n")

    assert capfd.readouterr() == ("after\ndescriptor\n", "error\n")


def test_it_may_stand_above_or_below_compute(capfd: pytest.CaptureFixture[str]) -> None:
    @sky.compute
    @sky.stdout(only="head")
    def below(x: int) -> int:
        print("below")
        return x

    @sky.stdout(only="head")
    @sky.compute(name="named")
    def above(x: int) -> int:
        print("above")
        return x

    with at(OTHER):
        assert (below.local(1), above.local(2)) == (1, 2)

    pending = above(1)
    pending._sent = True
    assert pending.name == "named"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("only", ["tail", None, True, 1.5])
def test_a_choice_that_cannot_be_meant_is_refused(only: Any) -> None:
    with pytest.raises(sky.ArgumentError, match="only takes 'head', ranks or a function"):
        sky.stdout(only=only)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(sky.ArgumentError, match="output control decorates functions"):
        sky.stdout(only="head")(3)  # type: ignore[type-var]
