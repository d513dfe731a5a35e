"""Ten thousand strings made to be misread reach other programs as they are, and no shell at all."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from bare_machine import BareMachine

from skyward.cloud import userdata
from skyward.cloud.bootstrap import closing_steps, core_steps
from skyward.cloud.hostkeys import make_key_pair
from skyward.contracts.step import Step
from skyward.errors import ConfigError
from skyward.model.instance import Instance
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.volume import S3Volume
from skyward.remote.node import builder
from skyward.testing.sshd import can_isolate

SEED = 20261121
COUNT = 10_000

needs_namespaces = pytest.mark.skipif(not can_isolate(), reason="needs root and namespaces")

_MARK = "PWNED"
_PIECES = [
    *(
        f"; touch {_MARK} #",
        f"$(touch {_MARK})",
        f"`touch {_MARK}`",
        f"| touch {_MARK}",
        f"&& touch {_MARK} &&",
    ),
    *(
        f"'; touch {_MARK}; '",
        f'"; touch {_MARK}; "',
        f"\ntouch {_MARK}\n",
        f"& touch {_MARK} &",
        f"> {_MARK}",
    ),
    *(
        f"'\"'\"'; touch {_MARK}; '\"'\"'",
        f"${{IFS}}touch${{IFS}}{_MARK}",
        f"<(touch {_MARK})",
        "\\",
        "\\\n",
        "$'\\n'",
    ),
    *(
        "'",
        '"',
        "''",
        '""',
        "`",
        "$",
        "$$",
        "$0",
        "$@",
        "${x:-y}",
        "!!",
        "!x",
        "*",
        "?",
        "[a-z]",
        "{a,b}",
        "~",
        "~root",
    ),
    *(
        "-",
        "--",
        "-n",
        "-o",
        "--help",
        "-c",
        "-e",
        "--option=x",
        "=",
        ":",
        ",",
        ";",
        "&",
        "|",
        "<",
        ">",
        "(",
        ")",
        "#",
    ),
    *(
        " ",
        "  ",
        "\t",
        "\r",
        "\n",
        "\x01",
        "\x07",
        "\x1b]0;x\x07",
        "\x7f",
        "%s",
        "%n",
        "%00",
        "\\0",
        "\\x00",
        "\\u0000",
    ),
    *(
        "é",
        "e\u0301",
        "\u202e",
        "\u2028",
        "\ufeff",
        "😀",
        "\udcff",
        "ｄｅｌ",
        "K",
        "null",
        "true",
        "{}",
        "[]",
        "a",
        "b",
        "1",
    ),
]


def nasty(count: int, seed: int) -> list[str]:
    """Different strings, the same for a seed; none empty, none with a slash or a NUL, all short enough for a name."""
    source, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        text = "".join(source.choices(_PIECES, k=source.randint(1, 4)))
        if text not in (".", "..") and len(text.encode("utf-8", "surrogateescape")) < 200:
            found[text] = None
    return list(found)


STRINGS = nasty(COUNT, SEED)


def share(name: str) -> list[str]:
    """The strings of one role. Together the roles have all of them."""
    at = list(_SHARES).index(name)
    begin = sum(list(_SHARES.values())[:at])
    return STRINGS[begin : begin + _SHARES[name]]


_SHARES = {
    "buckets": 3000,  # as path, bucket name and prefix
    "copies": 600,
    "disks": 400,
    "partitions": 100,
    "packages": 2500,
    "requirements": 1500,
    "variables": 300,
    "users": 1500,
    "keys": 100,
}


@pytest.fixture(autouse=True)
def _nothing_else_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No string did what it says, neither here nor there."""
    monkeypatch.chdir(tmp_path)
    yield
    named = [path for path in (tmp_path, Path("/"), Path("/root"), Path("/tmp")) if (path / _MARK).exists()]
    assert not named, f"seed {SEED}"


def offer() -> Offer:
    return Offer(
        provider="aws",
        region="us-east-1",
        instance_type="m5.large",
        usd_per_hour=0.1,
        vcpus=2.0,
        memory_gib=8.0,
    )


def step(name: str, given: dict[str, Any]) -> Step:
    """A real step, with an input no grammar has looked at."""
    instance = Instance(id="i-1", provider="aws", offer=offer(), details={"volumes": {"vol-1": "/data"}})
    bucket = S3Volume("/data", "bucket", read_only=False)
    wish = Requirements()
    made = core_steps(instance, wish, [bucket], has_user_data=True, lifetime_s=60, lease_s=30)
    made += closing_steps(instance, [bucket])
    found = next(one for one in made if one.name == name)
    return dataclasses.replace(found, input=given)


def in_threes(texts: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    yield from zip(texts[::3], texts[1::3], texts[2::3], strict=True)


def test_the_strings_are_many_and_different_and_every_one_has_a_role() -> None:
    assert len(set(STRINGS)) == sum(_SHARES.values()) == COUNT
    assert sum(_MARK in text for text in STRINGS) > COUNT / 5


# -- on the machine --------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> BareMachine:
    made = BareMachine(tmp_path)
    made.script("mountpoint", 'test -e "$MOUNTED"')
    return made


@needs_namespaces
def test_paths_and_names_of_buckets_arrive_as_they_are(machine: BareMachine, tmp_path: Path) -> None:
    asked = [
        {"path": f"{tmp_path}/b/{path}", "bucket": bucket, "prefix": prefix, "read_only": True}
        for path, bucket, prefix in in_threes(share("buckets"))
    ]
    # Mounted from the second look on: nothing is mounted before, and everything afterwards.
    machine.script(
        "mountpoint",
        'state="$BOX/state"; if [ -e "$state" ]; then rm "$state"; else touch "$state"; exit 1; fi',
    )
    machine.script("mount-s3")

    done = machine.run(step("buckets", {"buckets": asked, "endpoint": "http://x'; touch PWNED"}))

    assert done.returncode == 0, done.stderr[-500:]
    ours = ["mount-s3", "--allow-other", "--uid=0", "--gid=0", "--read-only"]
    assert machine.calls("mount-s3") == [
        [
            *(
                *ours,
                f"--prefix={one['prefix']}/",
                "--endpoint-url=http://x'; touch PWNED",
                "--force-path-style",
            ),
            *(one["bucket"], one["path"]),
        ]
        for one in asked
    ]
    assert sorted(os.listdir(tmp_path / "b")) == sorted(str(one["path"]).rpartition("/")[2] for one in asked)


@needs_namespaces
def test_paths_and_names_of_buckets_that_are_copied_arrive_as_they_are(
    machine: BareMachine, tmp_path: Path
) -> None:
    asked = [
        {"path": f"{tmp_path}/c/{path}", "bucket": bucket, "prefix": prefix + "/", "read_only": False}
        for path, bucket, prefix in in_threes(share("copies"))
    ]
    machine.script("aws")

    done = machine.run(step("buckets", {"buckets": asked}), fuse=False)

    assert done.returncode == 0, done.stderr[-500:]
    assert [call[-2:] for call in machine.calls("aws")] == [
        [f"s3://{one['bucket']}/{one['prefix']}", one["path"]] for one in asked
    ]


@needs_namespaces
def test_paths_and_names_of_disks_arrive_as_they_are(machine: BareMachine, tmp_path: Path) -> None:
    texts = share("disks")
    asked = [
        {"id": id, "path": f"{tmp_path}/d/{path}", "device": "/dev/null"}
        for id, path in zip(texts[::2], texts[1::2], strict=True)
    ]
    machine.script("blkid", "echo TYPE=ext4")
    machine.script("mount")
    machine.script("mountpoint")
    machine.script("mkfs.ext4")

    done = machine.run(step("disks", {"disks": asked, "wait_s": 0}))

    assert done.returncode == 0, done.stderr[-500:]
    assert machine.calls("mount") == [
        ["mount", "-o", "nodev,nosuid", "/dev/null", one["path"]] for one in asked
    ]
    assert machine.calls("mkfs.ext4") == []


@needs_namespaces
def test_profiles_arrive_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from skyward.cloud.steps import partitions

    machine = BareMachine(tmp_path)
    machine.script("nvidia-smi", '[ "$1" != -L ] || echo "GPU 0: x (UUID: GPU-0)"')
    monkeypatch.setenv("PATH", f"{machine.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(machine.calls_file))

    for profile in share("partitions"):
        partitions.cut(0, profile, 1)

    made = [call for call in machine.calls() if "-cgi" in call]
    assert made == [
        ["nvidia-smi", "mig", "-i", "0", "-cgi", profile, "-C"] for profile in share("partitions")
    ]


@needs_namespaces
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("buckets", {"buckets": [{"path": "/tmp/x\0y", "bucket": "b"}]}),
        ("buckets", {"buckets": [{"path": "/run/x", "bucket": "b\0c", "prefix": "\ud800"}]}),
        ("disks", {"disks": [{"id": "v\0", "path": "/run/x\0y", "device": "/dev/\0"}], "wait_s": 0}),
    ],
    ids=str,
)
def test_what_no_argument_can_hold_is_an_error_in_words(
    machine: BareMachine, name: str, given: dict[str, Any]
) -> None:
    machine.bare()

    done = machine.run(step(name, given))

    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# -- the environment -------------------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[BareMachine, builder.Builder]:
    machine = BareMachine(tmp_path)
    for name in ("apt-get", "uv", "sudo", "dpkg-query"):
        machine.script(name, 'case "$2" in true) exit 0 ;; esac' if name == "sudo" else "")
    monkeypatch.setenv("PATH", f"{machine.bin}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(machine.calls_file))
    request = {
        "directory": str(tmp_path), "key": "k", "deadline_s": 60.0, "apt": [], "requirements": [], "env": {},
        "settings": {}, "own_cache": True, "uv": "", "uv_digest": "x", "uv_bytes": 0, "python": "3.11", "pythons": [],
    }  # fmt: skip
    made = builder.Builder(request)
    made.uv = str(machine.bin / "uv")
    made.python = "/usr/bin/python3"
    os.makedirs(made.place)
    return machine, made


def test_names_of_packages_arrive_as_they_are(build: tuple[BareMachine, builder.Builder]) -> None:
    machine, made = build

    for names in (share("packages")[:1250], share("packages")[1250:]):
        made.install_apt(names)
        made.request["apt"] = names
        made.missing_apt()

    calls = [call for call in machine.calls() if len(call) > 100]
    assert [call[-1250:] for call in calls[::2]] == [share("packages")[:1250], share("packages")[1250:]]
    assert all(
        call[call.index("--") + 1 :][:1] in (share("packages")[:1], share("packages")[1250:1251])
        for call in calls[::2]
    )


def test_requirements_are_lines_of_a_file_and_no_arguments(
    build: tuple[BareMachine, builder.Builder],
) -> None:
    machine, made = build
    made.request["requirements"] = [
        text.encode("utf-8", "replace").decode() for text in share("requirements")
    ]

    made.install_packages()

    (call,) = machine.calls("uv")
    written = Path(call[-1]).read_bytes().decode()
    assert written == "\n".join(made.request["requirements"]) + "\n"
    assert call[:-1] == [
        *("uv", "pip", "install", "--python", "/usr/bin/python3"),
        *("--index-strategy", "first-index", "--requirements"),
    ]


def test_values_of_variables_arrive_as_they_are(build: tuple[BareMachine, builder.Builder]) -> None:
    machine, made = build
    machine.script("spy")
    os.mkdir(os.path.join(made.place, "skyward-tools"))
    values = {f"NASTY_{number}": text for number, text in enumerate(share("variables"))}
    made.request["env"] = values

    made.set_up("spy " + " ".join(f'"${name}"' for name in values))

    assert machine.calls("spy") == [["spy", *values.values()]]


# -- before there is a machine ---------------------------------------------------------------------------------


def test_who_logs_in_is_a_name_or_is_refused() -> None:
    refused = 0
    for text in share("users"):
        try:
            assert userdata.switch_arguments(60, 30, text, "pool")[2] == text
        except ConfigError:
            refused += 1
            continue
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789_.-")
        assert not text.startswith("-")
    assert refused > 1400


def test_names_of_keys_arrive_as_they_are_or_are_refused(tmp_path: Path) -> None:
    """Nothing of them is in a command that a machine runs when it boots."""
    pair = make_key_pair("host")
    plain = _rendered(pair, "ssh-ed25519 AAAA me")
    accepted = 0
    for text in share("keys"):
        line = f"ssh-ed25519 AAAA {text}"
        try:
            said = _rendered(pair, line)
        except ConfigError:
            assert not text.isprintable()
            continue
        accepted += 1
        assert said["ssh_authorized_keys"] == [line]
        assert said["bootcmd"] == plain["bootcmd"]
    assert accepted > 20


def _rendered(pair: Any, line: str) -> dict[str, Any]:
    import yaml

    text = userdata.render(host_key=pair, authorized_keys=[line], lifetime_s=60, lease_s=30)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_steps_give_their_input_to_nobody_but_the_program_that_reads_it(tmp_path: Path) -> None:
    """What a step is told is on its standard input: nobody on the machine can read it in a list of processes."""
    secret = "canary-in-the-input"
    made = step("buckets", {"buckets": [], "endpoint": secret})
    line = f"sh -c {shlex.quote(made.script)}"
    process = subprocess.Popen(["sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(made.input)[:-1].encode())
        process.stdin.flush()
        time.sleep(0.3)
        seen = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if secret.encode() in _bytes(path) and b"pytest" not in _bytes(path)
        ]
        assert not seen
        process.stdin.write(b"}")
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
