"""Clients that are not alone, have odd names or too little of something: the bill of EC2 says what they left behind."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import skyward as sky
from skyward.testing.ec2 import SimulatedEC2

Start = Callable[..., "subprocess.Popen[str]"]
WORK = """
    import socket
    import time
    import skyward as sky

    @sky.compute
    def nap(seconds: float = 2, until: int = 0) -> float:
        if not until:
            time.sleep(seconds)
            return seconds
        try:
            socket.create_connection(("127.0.0.1", until), seconds).recv(1)
        except OSError:  # whoever listens there has left
            pass
        return seconds
"""


@pytest.fixture
def start(empty_home: Path, tmp_path: Path) -> Iterator[Start]:
    """`skyward run` with two machines of EC2, in processes of their own."""
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "work.py").write_text(dedent(WORK))
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        words = ["run", "work.py:nap", "--provider", "aws", "--machine", "m7i.large", "--region", "us-east-1"]
        process = subprocess.Popen(
            [sys.executable, "-m", "skyward", *words, "--allocation", "on-demand", "--nodes", "2", "--each", "--yes", *options],
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def until_clean(ec2: SimulatedEC2, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while ec2.running() or ec2.resources():
        assert time.monotonic() < deadline, f"left: {ec2.running()} {ec2.resources()}"
        time.sleep(0.05)


# -- not alone -----------------------------------------------------------------------------------------------------


def test_two_clients_of_one_task_and_one_disk_do_not_touch_each_others_machines(
    start: Start, ec2: SimulatedEC2, skyward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.cloud.gc.GRACE_S", 0.0)
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    quick, slow = (start("--", "120", str(one.getsockname()[1])) for one in (first, second))
    deadline = time.monotonic() + 100
    while len(ec2.running()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    collected = skyward("gc", "--yes")
    first.close()
    told = quick.communicate(timeout=60)
    assert quick.returncode == 0, told
    assert len(ec2.running()) == 2
    second.close()
    told = slow.communicate(timeout=60)

    assert slow.returncode == 0, told
    assert (collected.code, "nothing to end" in collected.err) == (0, True)
    assert len(ec2.bill) == 4
    until_clean(ec2)


def tagged(ec2: SimulatedEC2, **tags: str) -> str:
    """A machine that somebody launched by hand, with tags like ours."""
    import boto3

    client = boto3.client("ec2", endpoint_url=ec2.endpoint, region_name=ec2.region)
    image = client.describe_images(Filters=[{"Name": "name", "Values": ["ubuntu/*jammy*amd64*"]}])["Images"][
        0
    ]
    given = [{"Key": f"skyward:{name}", "Value": value} for name, value in tags.items()]
    answer = client.run_instances(
        ImageId=image["ImageId"],
        InstanceType="m7i.large",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": [*given, {"Key": "Name", "Value": "mine"}]}],
    )
    return str(answer["Instances"][0]["InstanceId"])


def test_gc_ends_on_ec2_what_has_expired_and_never_what_is_untagged_foreign_kept_or_leased(
    ec2: SimulatedEC2, skyward: Any
) -> None:
    ours = {"managed": "true", "created": "2026-01-01T00:00:00Z", "owner": "them@there"}
    past, future = "2026-02-01T00:00:00Z", "2099-01-01T00:00:00Z"
    spared = [
        tagged(ec2),
        tagged(ec2, pool="p-1", expires=past),
        tagged(ec2, **ours, pool="p-2", expires=past, keep=""),
        tagged(ec2, **ours, pool="p-3", expires=future),
        tagged(ec2, **ours, pool="p-4"),
        tagged(ec2, **{**ours, "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, pool="p-5", expires=past),
    ]  # fmt: skip
    expired = tagged(ec2, **ours, pool="p-6", expires=past)

    done = skyward("gc", "--yes")

    assert done.code == 0, done.err
    assert f"gone: {expired}" in done.err
    assert sorted(ec2.running()) == sorted(spared)


# -- odd names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "\N{ROCKET} training",
        "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
        "e\N{COMBINING ACUTE ACCENT}tude",
        "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}",
        "$(touch /tmp/never) `x` \"'\\;|&",
        "x" * 300,
        "..",
        "-rf",
    ],
)
def test_what_no_cloud_could_call_a_pool_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(sky.ConfigError) as caught:
        sky.ComputePool(provider="aws", name=name)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "user", ["\N{ROCKET}\N{RIGHT-TO-LEFT OVERRIDE}e\N{COMBINING ACUTE ACCENT}", "a b;c", "x" * 300]
)
def test_whoever_rents_is_on_the_machines_and_in_no_ones_way(
    make_aws: Any, ec2: SimulatedEC2, skyward: Any, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    monkeypatch.setenv("LOGNAME", user)

    with make_aws(nodes=1) as pool:
        assert pool.map(abs, [-1]) == [1]
        (item,) = skyward("ps", "--json").document["items"]
        assert item["owner"].startswith(f"{user}@")
        assert skyward("ps", "--live").code == 0

    assert ec2.running() == []
    assert ec2.resources() == {}


# -- too little ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [24, 40, 64])
def test_with_few_file_descriptors_a_run_works_or_says_so_and_leaves_nothing(
    start: Start, ec2: SimulatedEC2, files: int
) -> None:
    client = start(before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files)))

    _, said = client.communicate(timeout=120)

    assert client.returncode in (0, 4), said
    assert client.returncode == 0 or "error: " in said
    assert "Traceback" not in said
    until_clean(ec2)


@pytest.mark.parametrize("megabytes", [350, 700])
def test_with_little_memory_a_run_works_or_fails_and_leaves_nothing(
    start: Start, ec2: SimulatedEC2, megabytes: int
) -> None:
    client = start(before=lambda: resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20)))

    with suppress(subprocess.TimeoutExpired):
        client.communicate(timeout=60)
    client.kill()

    until_clean(ec2, 60)


def test_without_shared_memory_a_run_works(start: Start, ec2: SimulatedEC2) -> None:
    if os.getuid() != 0:
        pytest.skip("hiding /dev/shm takes root")

    def hide() -> None:
        libc = __import__("ctypes").CDLL(None, use_errno=True)
        assert libc.unshare(0x00020000) == 0
        assert libc.mount(b"none", b"/", None, 0x40000 | 0x4000, None) == 0
        assert libc.mount(b"none", b"/dev/shm", b"tmpfs", 1, b"size=4k") == 0

    client = start(before=hide)

    _, said = client.communicate(timeout=60)

    assert client.returncode == 0, said
    until_clean(ec2)
