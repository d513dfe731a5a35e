"""Disks are mounted and never formatted twice, buckets appear however they can, and GPUs are cut as was asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bare_machine import BareMachine

from skyward.cloud import scripts
from skyward.cloud.bootstrap import closing_steps, core_steps
from skyward.cloud.partitions import partitioning, with_partitions, worker_env
from skyward.contracts.step import Step
from skyward.errors import BootstrapError
from skyward.model.accelerator import Accelerator
from skyward.model.instance import Endpoint, Instance
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.volume import S3Volume, Volume
from skyward.remote.local import LocalConnection
from skyward.testing.sshd import can_isolate

pytestmark = pytest.mark.skipif(not can_isolate(), reason="needs root and namespaces")

VOLUME = "vol-0123456789abcdef0"
EBS = "nvme-Amazon_Elastic_Block_Store_vol0123456789abcdef0"
MakeDisk = Callable[..., str]


@pytest.fixture
def machine(tmp_path: Path) -> BareMachine:
    return BareMachine(tmp_path)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Loop devices, gone after the test: `make_disk(b"what is on it")` gives /dev/loopN."""
    devices: list[str] = []

    def make(content: bytes = b"", at: int = 0) -> str:
        file = tmp_path / f"disk-{len(devices)}"
        with file.open("wb") as disk:
            disk.truncate(32 << 20)
            disk.seek(at)
            disk.write(content)
        made = subprocess.run(["losetup", "-f", "--show", file], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"no loop devices here: {made.stderr}")
        devices.append(made.stdout.strip())
        return devices[-1]

    yield make
    for device in devices:
        subprocess.run(["losetup", "-d", device], check=False)


def instance(**details: Any) -> Instance:
    offer = Offer(
        provider="aws",
        region="us-east-1",
        instance_type="m5.large",
        usd_per_hour=0.1,
        vcpus=2.0,
        memory_gib=8.0,
    )
    return Instance(id="i-1", provider="aws", offer=offer, details=details)


def steps(volumes: Any = (), accelerator: str | None = None, **how: Any) -> list[Step]:
    requirements = Requirements(accelerator=Accelerator.parse(accelerator))
    details = how.pop("details", {})
    given = {"has_user_data": True, "lifetime_s": 60.0, "lease_s": 30.0, **how}
    return core_steps(instance(**details), requirements, volumes, **given)


def step_of(name: str, *args: Any, **how: Any) -> Step:
    return next(one for one in steps(*args, **how) if one.name == name)


def disks_step(path: str, **more: Any) -> Step:
    return step_of("disks", [Volume(size_gb=1, mount_path=path)], details={"volumes": {VOLUME: path}, **more})


# -- which steps, and in what order ----------------------------------------------------------------------------


def test_the_switch_comes_before_anything_that_costs_time_and_partitions_come_last(tmp_path: Path) -> None:
    volumes = [Volume(size_gb=1, mount_path="/data"), S3Volume("/sets", "my-sets")]

    made = steps(volumes, "A100-80GB:1g.10gb", details={"volumes": {VOLUME: "/data"}})

    assert [one.name for one in sorted(made, key=lambda one: one.order)] == [one.name for one in made]
    assert [one.name for one in made] == ["cloud-init", "switch", "disks", "buckets", "partitions"]


def test_a_machine_without_lifetime_and_lease_has_no_switch() -> None:
    assert [one.name for one in steps(lifetime_s=None, lease_s=None)] == ["cloud-init"]
    assert "switch" in [one.name for one in steps(lifetime_s=None)]


def test_a_volume_that_the_provider_did_not_attach_is_an_error_before_anything_is_done() -> None:
    with pytest.raises(BootstrapError, match="aws attached no volume for /data"):
        steps([Volume(size_gb=1, mount_path="/data")])


def test_no_string_of_the_user_is_in_a_script() -> None:
    volumes = [Volume(size_gb=1, mount_path="/CANARY1"), S3Volume("/CANARY2", "canary3", "CANARY4/", False)]
    details = {"volumes": {"vol-CANARY5": "/CANARY1"}, "s3_endpoint": "http://CANARY6"}
    made = steps(volumes, "A100-80GB:2g.20gb", details=details)
    made += closing_steps(instance(**details), volumes)

    assert all("canary" not in one.script.lower() and "2g.20gb" not in one.script for one in made)
    told = json.dumps([one.input for one in made])
    assert all(f"canary{number}" in told.lower() for number in range(1, 7))


def test_scripts_are_the_same_for_all_machines() -> None:
    one = steps([S3Volume("/a", "one-bucket")], details={"volumes": {"vol-1": "/x"}})
    other = steps([S3Volume("/b", "two-bucket", "p", False)], details={"volumes": {"vol-2": "/y"}})

    assert [step.script for step in one] == [step.script for step in other]


@pytest.mark.parametrize("name", ["disks", "buckets", "partitions"])
def test_programs_run_on_the_oldest_python_that_is_supported(name: str) -> None:
    import ast

    ast.parse(scripts.read(f"steps/{name}.py"), feature_version=(3, 8))


# -- waiting for the image to be ready, and the switch -----------------------------------------------------------


def test_cloud_init_is_waited_for_where_it_is_and_its_complaints_stop_nothing(machine: BareMachine) -> None:
    step = step_of("cloud-init")
    assert machine.run(step).returncode == 0

    machine.script("cloud-init", "echo status: error; exit 1")

    done = machine.run(step)
    assert done.returncode == 0
    assert "status: error" in done.stdout
    assert machine.calls() == [["cloud-init", "status", "--wait"]]


def test_a_switch_that_is_armed_is_believed_and_a_missing_one_is_an_error(machine: BareMachine) -> None:
    step = step_of("switch")
    machine.script("sleep")  # a machine that boots quickly
    armed = "mkdir -p /run/skyward; echo 1 >/run/skyward/lease; echo $$ >/run/skyward/armed"

    assert machine.run(step, before=armed).returncode == 0
    late = machine.run(step, before=f"(/usr/bin/sleep 0.3; {armed.replace('$$', '1')}) &")
    missing = machine.run(step)
    dead = machine.run(step, before=armed.replace("$$", "4999999"))

    assert missing.returncode == 1
    assert "was not armed when it booted" in missing.stderr
    assert dead.returncode == 1
    assert "does not run any more" in dead.stderr
    assert late.returncode in (0, 1)


def test_without_user_data_the_switch_is_armed_over_ssh(machine: BareMachine) -> None:
    step = step_of("switch", has_user_data=False, lifetime_s=3600, lease_s=None)

    done = machine.run(
        step,
        SKYWARD_LIB=str(machine.directory / "lib"),
        after="cat /run/skyward/armed; tr '\\0' ' ' </proc/$(cat /run/skyward/armed)/cmdline; stat -c %U /run/skyward/lease",
    )

    assert done.returncode == 0, done.stderr
    assert f"/bin/sh {machine.directory}/lib/switch 3600 0 root " in done.stdout


# -- disks -----------------------------------------------------------------------------------------------------


def test_a_new_disk_is_formatted_and_mounted_and_found_as_it_is_the_next_time(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path
) -> None:
    path, device = str(tmp_path / "mnt" / "my data"), make_disk()
    step = disks_step(path)
    machine.log_in_as(1)

    first = machine.run(
        step,
        disks={device: EBS},
        after=f"echo kept >'{path}/file'; stat -c %U '{path}'",
    )
    again = machine.run(step, disks={device: EBS}, after=f"cat '{path}/file'")

    assert first.returncode == 0, first.stderr
    assert f"{path}: {device}, new\n" in first.stdout
    assert first.stdout.endswith("daemon\n"), "a new disk belongs to who logs in"
    assert again.stdout == f"{path}: {device}\nkept\n"


def test_a_disk_that_is_mounted_stays_as_it_is(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path
) -> None:
    path, device = str(tmp_path / "data"), make_disk()
    step = disks_step(path)

    done = machine.run(
        step,
        disks={device: EBS},
        after='printf %s "$INPUT" | PATH=$OWN_PATH sh -c "$SCRIPT"',
        INPUT=json.dumps(step.input),
    )

    assert done.stdout == f"{path}: {device}, new\n{path}: {device} as before\n", done.stderr


@pytest.mark.parametrize(
    ("content", "at"),
    [(b"raw data of a database", 0), (b"x", (1 << 20) - 1), (b"x", (32 << 20) - 1)],
    ids=["front", "in the first MiB", "last byte"],
)
def test_a_disk_that_holds_something_unknown_is_never_formatted(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path, content: bytes, at: int
) -> None:
    device = make_disk(content, at)
    machine.script("mkfs.ext4")

    done = machine.run(disks_step(str(tmp_path / "data")), disks={device: EBS})

    assert done.returncode == 1
    assert "holds something, but no file system that is known here: it is left as it is" in done.stderr
    assert machine.calls("mkfs.ext4") == []


@pytest.mark.parametrize(
    "answer", ["exit 8", "exit 4", "exit 127", "echo USAGE=crypto; exit 0", "kill -9 $$"]
)
def test_a_disk_is_not_formatted_when_nobody_can_say_what_is_on_it(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path, answer: str
) -> None:
    machine.script("blkid", answer)
    machine.script("mkfs.ext4")

    done = machine.run(disks_step(str(tmp_path / "data")), disks={make_disk(): EBS})

    assert done.returncode == 1
    assert "cannot tell what is on" in done.stderr
    assert machine.calls("mkfs.ext4") == []


def test_other_file_systems_are_mounted_as_they_are(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path
) -> None:
    device, path = make_disk(), str(tmp_path / "data")
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-L", "theirs", device], check=True)
    machine.script("mkfs.ext4")

    done = machine.run(disks_step(path), disks={device: EBS}, after=f"mountpoint -q '{path}' && echo mounted")

    assert done.stdout.endswith("mounted\n"), done.stderr
    assert machine.calls("mkfs.ext4") == []


@pytest.mark.parametrize(
    ("disk", "name"),
    [
        (VOLUME, EBS),
        ("my-volume", "scsi-0DO_Volume_my-volume"),
        ("3c1a4f9e-6b1d-4c8e-9a52-0d6a5b7c8d9e", "virtio-3c1a4f9e-6b1d-4c8e-9"),
    ],
    ids=["EC2", "DigitalOcean", "virtio"],
)
def test_a_disk_is_found_by_the_name_its_cloud_gives_it(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path, disk: str, name: str
) -> None:
    path, device, other = str(tmp_path / "data"), make_disk(), make_disk()
    step = step_of("disks", details={"volumes": {disk: path}})

    done = machine.run(step, disks={device: name, other: f"{name}-of-somebody-else"})

    assert done.stdout == f"{path}: {device}, new\n", done.stderr


def test_a_disk_of_xen_is_found_where_its_device_is_called_otherwise(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path
) -> None:
    path, device = str(tmp_path / "data"), make_disk()
    step = step_of("disks", details={"volumes": {VOLUME: {"path": path, "device": "/dev/sdf"}}})

    done = machine.run(step, disks={device: "unnamed"}, before=f"ln -s {device} /dev/xvdf")

    assert done.stdout == f"{path}: {device}, new\n", done.stderr


def test_a_disk_that_never_appears_is_named_with_those_that_do(
    machine: BareMachine, make_disk: MakeDisk
) -> None:
    step = disks_step("/data")
    hurried = Step(name=step.name, script=step.script, input={**step.input, "wait_s": 0.3})

    done = machine.run(hurried, disks={make_disk(): "nvme-Amazon_Elastic_Block_Store_vol0fff"})

    assert done.returncode == 1
    assert (
        f"/data: disk {VOLUME} does not appear; there are: nvme-Amazon_Elastic_Block_Store_vol0fff"
        in done.stderr
    )


def test_a_disk_that_appears_late_is_waited_for(
    machine: BareMachine, make_disk: MakeDisk, tmp_path: Path
) -> None:
    path, device = str(tmp_path / "data"), make_disk()
    late = f"(sleep 1; ln -s {device} /dev/disk/by-id/{EBS}) &"

    done = machine.run(disks_step(path), disks={device: "unnamed"}, before=late)

    assert done.stdout == f"{path}: {device}, new\n", done.stderr


# -- buckets ---------------------------------------------------------------------------------------------------

MOUNTS_LAST = 'for last; do :; done; mount -t tmpfs bucket "$last"'
"""What mount-s3 does, as far as a machine can see."""
MOUNTS_SECOND = 'mount -t tmpfs bucket "$2"'


def buckets_step(*volumes: S3Volume, **details: str) -> Step:
    return step_of("buckets", volumes, details=details)


def test_mountpoint_for_s3_is_the_first_choice_and_read_only_is_what_it_says(
    machine: BareMachine, tmp_path: Path
) -> None:
    machine.script("mount-s3", MOUNTS_LAST)
    machine.log_in_as(1000)
    reads, writes = str(tmp_path / "in"), str(tmp_path / "out")

    done = machine.run(
        buckets_step(S3Volume(reads, "my-sets", "train"), S3Volume(writes, "my-models", read_only=False)),
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{reads}: mount-s3\n{writes}: mount-s3\n"
    common = ["mount-s3", "--allow-other", "--uid=1000", "--gid=1000"]
    assert machine.calls() == [
        [*common, "--read-only", "--prefix=train/", "my-sets", reads],
        [*common, "--allow-delete", "--allow-overwrite", "my-models", writes],
    ]


def test_a_program_that_ends_well_and_mounts_nothing_is_not_believed(
    machine: BareMachine, tmp_path: Path
) -> None:
    machine.bare()
    machine.script("mount-s3")
    machine.script("s3fs")
    machine.script("aws", "exit 1")

    done = machine.run(buckets_step(S3Volume(str(tmp_path / "in"), "my-sets")))

    assert done.returncode == 1
    assert "mount-s3: mount-s3 ended well, but nothing is mounted" in done.stderr
    assert "s3fs: s3fs ended well, but nothing is mounted" in done.stderr
    assert "a copy: aws failed with 1" in done.stderr


def test_s3fs_is_the_second_choice(machine: BareMachine, tmp_path: Path) -> None:
    machine.bare()
    # Version 1.90: knows no compat_dir, and does not say so.
    machine.script("s3fs", f'case "$*" in *compat_dir*) exit 0 ;; esac; {MOUNTS_SECOND}')
    path = str(tmp_path / "in")

    done = machine.run(buckets_step(S3Volume(path, "my-sets", "a/b/"), s3_endpoint="http://127.0.0.1:9"))

    assert done.stdout == f"{path}: s3fs\n", done.stderr
    called = machine.calls("s3fs")[-1]
    assert called[:3] == ["s3fs", "my-sets:/a/b", path]
    options = called[4::2]
    assert {"ro", "iam_role=auto", "allow_other", "url=http://127.0.0.1:9", "use_path_request_style"} <= set(
        options
    )


def test_what_is_missing_is_installed_once(machine: BareMachine, tmp_path: Path) -> None:
    machine.bare()
    machine.keep("cat", "touch")
    machine.script("apt-cache")
    machine.script("curl", 'while [ "$1" != -o ]; do shift; done; touch "$2"')
    machine.script("mount-s3.new", MOUNTS_LAST)
    machine.script("apt-get", 'case "$*" in *mount-s3*) ln -s mount-s3.new "${0%/*}/mount-s3" ;; esac')
    machine.keep("ln")

    done = machine.run(
        buckets_step(S3Volume(str(tmp_path / "1"), "one-set"), S3Volume(str(tmp_path / "2"), "two-set"))
    )

    assert done.returncode == 0, done.stderr
    assert len(machine.calls("curl")) == 1
    (installed,) = machine.calls("apt-get")
    assert installed[-1] == "/run/skyward/mount-s3.deb"
    assert len(machine.calls("mount-s3")) == 2


def test_without_fuse_a_bucket_is_copied_and_nobody_can_write_into_the_copy(
    machine: BareMachine, tmp_path: Path
) -> None:
    machine.script("mount-s3", MOUNTS_LAST)
    machine.script("aws", 'for last; do :; done; echo data >"$last/file"')
    path = str(tmp_path / "in")

    done = machine.run(
        buckets_step(S3Volume(path, "my-sets", "a")),
        fuse=False,
        after=f"cat {path}/file; touch {path}/more 2>&1 || echo refused",
    )

    assert done.stdout.startswith(f"{path}: a copy\ndata\n"), done.stderr
    assert done.stdout.endswith("Read-only file system\nrefused\n")
    assert machine.calls() == [["aws", "s3", "sync", "--only-show-errors", "s3://my-sets/a/", path]]


def test_where_nothing_can_be_mounted_at_all_the_right_to_write_is_taken_away(
    machine: BareMachine, tmp_path: Path
) -> None:
    machine.script("aws", 'for last; do :; done; echo data >"$last/file"')
    machine.script("mount", "exit 1")
    path = tmp_path / "in"

    assert machine.run(buckets_step(S3Volume(str(path), "my-sets")), fuse=False).returncode == 0

    assert path.stat().st_mode & 0o222 == 0
    assert (path / "file").stat().st_mode & 0o222 == 0


def test_what_was_written_into_a_copy_is_sent_back_at_the_end_and_only_then(
    machine: BareMachine, tmp_path: Path
) -> None:
    machine.script("aws")
    path = str(tmp_path / "out")
    volumes = [S3Volume(path, "my-models", "v1", read_only=False), S3Volume(str(tmp_path / "in"), "my-sets")]
    opened = step_of("buckets", volumes)
    (closing,) = closing_steps(instance(), volumes)
    after = 'printf %s "$INPUT" | PATH=$OWN_PATH sh -c "$SCRIPT"'

    never = machine.run(closing)
    assert never.stdout == f"{path}: nothing to send\n"
    assert machine.calls() == []
    done = machine.run(opened, fuse=False, after=after, INPUT=json.dumps(closing.input))

    assert f"{path}: sent to s3://my-models/v1/\n" in done.stdout, done.stderr
    assert machine.calls("aws")[-1][-2:] == [path, "s3://my-models/v1/"]
    assert closing_steps(instance(), volumes[1:]) == []


def test_a_bucket_that_is_there_stays_as_it_is(machine: BareMachine, tmp_path: Path) -> None:
    machine.script("mount-s3", MOUNTS_LAST)
    path = tmp_path / "in"
    path.mkdir()

    done = machine.run(buckets_step(S3Volume(str(path), "my-sets")), before=f"mount -t tmpfs none {path}")

    assert done.stdout == f"{path}: as before\n"
    assert machine.calls() == []


# -- partitions ------------------------------------------------------------------------------------------------

SMI = """
import json, os, sys
place = os.environ["BOX"] + "/gpus.json"
state = json.load(open(place))
words = sys.argv[1:]
gpus = state["gpus"]
def save(): json.dump(state, open(place, "w"))
def fail(text): save(); print(text); sys.exit(19)
if words[0] == "-L":
    if state.get("slow", 0) > 0 and any(gpu["parts"] for gpu in gpus):
        state["slow"] -= 1; save(); sys.exit(0)
    for index, gpu in enumerate(gpus):
        print("GPU %d: NVIDIA H100 80GB HBM3 (UUID: GPU-%d)" % (index, index))
        for number, (name, uuid) in enumerate(gpu["parts"]):
            print("  MIG %-15s Device %2d: (UUID: %s)" % (name, number, uuid))
elif words[0].startswith("--query-gpu=index,mig.mode.current"):
    for index, gpu in enumerate(gpus):
        print("%d, %s" % (index, gpu["mode"]))
elif words[0] == "-i" and words[2:] == ["-mig", "1"]:
    gpu = gpus[int(words[1])]
    if state.get("stubborn") != "never":
        gpu["mode"] = "Disabled" if state.get("stubborn") else "Enabled"
    gpu["pending"] = True
elif words[0] == "-i" and words[2:] == ["--gpu-reset"]:
    gpu = gpus[int(words[1])]
    if state.get("stubborn") == "never": fail("In use by another client")
    gpu["mode"] = "Enabled"
elif words[0] == "mig":
    gpu = gpus[int(words[2])]
    if gpu["mode"] != "Enabled": fail("No MIG-enabled devices found.")
    if words[3] == "-cgi":
        names = words[4].split(",")
        if len(gpu["parts"]) + len(names) > state["fits"]: fail("Insufficient Resources")
        assert words[5] == "-C"
        for name in names:
            state["serial"] = state.get("serial", 0) + 1
            gpu["parts"].append([name, "MIG-%s-%d" % (words[2], state["serial"])])
    elif words[3] == "-dgi":
        gpu["parts"] = []
    elif words[3] != "-dci":
        fail("unknown option")
else:
    fail("unknown option %s" % words)
save()
"""


def with_gpus(machine: BareMachine, count: int = 1, mode: str = "Disabled", **state: Any) -> None:
    gpus = [{"mode": mode, "parts": []} for _ in range(count)]
    (machine.directory / "gpus.json").write_text(json.dumps({"gpus": gpus, "fits": 7, **state}))
    (machine.directory / "smi.py").write_text(SMI)
    machine.script("nvidia-smi", f'exec {sys.executable} -I "$BOX/smi.py" "$@"')


def changes(machine: BareMachine) -> list[list[str]]:
    """The calls that change something."""
    return [call[1:] for call in machine.calls("nvidia-smi") if call[1] != "-L" and "--query" not in call[1]]


def test_gpus_are_cut_and_the_uuids_are_written_down_in_order(machine: BareMachine) -> None:
    with_gpus(machine, 2, slow=2)
    step = step_of("partitions", accelerator="H100-SXM:2:1g.10gb")

    done = machine.run(step, after="cat /run/skyward/partitions")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        *(f"MIG-0-{number}" for number in range(1, 8)),
        *(f"MIG-1-{number}" for number in range(8, 15)),
    ]
    profiles = ",".join(["1g.10gb"] * 7)
    assert changes(machine) == [
        ["-i", "0", "-mig", "1"],
        ["mig", "-i", "0", "-cgi", profiles, "-C"],
        ["-i", "1", "-mig", "1"],
        ["mig", "-i", "1", "-cgi", profiles, "-C"],
    ]


def test_cutting_again_changes_nothing(machine: BareMachine) -> None:
    with_gpus(machine)
    step = step_of("partitions", accelerator="H100-SXM:3g.40gb")
    first = machine.run(step, after="cat /run/skyward/partitions")
    machine.forget()

    again = machine.run(step, after="cat /run/skyward/partitions")

    assert again.stdout == first.stdout == '2 x 3g.40gb on 1 GPUs\n["MIG-0-1", "MIG-0-2"]'
    assert changes(machine) == []


def test_gpus_that_were_cut_otherwise_are_cut_anew(machine: BareMachine) -> None:
    with_gpus(machine)
    machine.run(step_of("partitions", accelerator="H100-SXM:1g.10gb"))
    machine.forget()

    done = machine.run(
        step_of("partitions", accelerator="H100-SXM:7g.80gb"), after="cat /run/skyward/partitions"
    )

    assert done.stdout.endswith('["MIG-0-8"]'), done.stderr
    assert changes(machine) == [
        ["mig", "-i", "0", "-dci"],
        ["mig", "-i", "0", "-dgi"],
        ["mig", "-i", "0", "-cgi", "7g.80gb", "-C"],
    ]


def test_a_gpu_that_takes_the_mode_only_with_a_reset_is_reset(machine: BareMachine) -> None:
    with_gpus(machine, stubborn=True)

    done = machine.run(step_of("partitions", accelerator="H100-SXM:7g.80gb"))

    assert done.returncode == 0, done.stderr
    assert changes(machine)[1] == ["-i", "0", "--gpu-reset"]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"stubborn": "never"}, "--gpu-reset failed with 19: In use by another client"),
        ({"mode": "[N/A]"}, "GPU 0 cannot be cut into partitions"),
        ({"count": 0}, "1 GPUs were asked for, and there are 0"),
        ({"fits": 3}, "Insufficient Resources"),
    ],
    ids=repr,
)
def test_gpus_that_cannot_be_cut_say_why(machine: BareMachine, state: dict[str, Any], said: str) -> None:
    with_gpus(machine, **state)

    done = machine.run(step_of("partitions", accelerator="H100-SXM:1g.10gb"))

    assert done.returncode == 1
    assert said in done.stderr


def test_a_machine_without_the_driver_says_so(machine: BareMachine) -> None:
    machine.bare()

    done = machine.run(step_of("partitions", accelerator="H100-SXM:1g.10gb"))

    assert done.stderr == "no nvidia-smi on this machine: No such file or directory\n"


def test_each_worker_is_pinned_to_a_partition_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "partitions"
    place.write_text('["MIG-a", "MIG-b"]')
    monkeypatch.setattr("skyward.cloud.partitions.FILE", str(place))
    connection = LocalConnection(Endpoint(kind="local"))

    known = with_partitions(connection, instance())

    assert [worker_env(known, worker) for worker in range(3)] == [
        {"CUDA_VISIBLE_DEVICES": "MIG-a"},
        {"CUDA_VISIBLE_DEVICES": "MIG-b"},
        {},
    ]
    assert worker_env(instance(), 0) == {}
    place.write_text("[]")
    with pytest.raises(BootstrapError, match="which partitions its GPUs have is not known"):
        with_partitions(connection, instance())
    connection.close()


@pytest.mark.parametrize(
    ("wish", "workers"),
    [("H100-SXM:1g.10gb", 7), ("H100-SXM:2:1g.10gb", 14), ("A100-80GB:3g.40gb", 2), ("A100-40GB:1g.5gb", 7)],
)
def test_there_is_one_worker_for_each_partition(wish: str, workers: int) -> None:
    cut = partitioning(Accelerator.parse(wish))

    assert cut is not None
    assert cut.workers == workers


def test_whoever_asks_for_whole_gpus_gets_them_whole() -> None:
    assert partitioning(None) is None
    assert partitioning(Accelerator.parse("H100-SXM:2")) is None
