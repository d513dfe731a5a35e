"""A machine ends itself when its time is over or nobody wants it any more, whatever happens on it or to its clocks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skyward.cloud import scripts, userdata
from skyward.cloud.hostkeys import make_key_pair
from skyward.errors import ConfigError
from skyward.testing.sshd import can_isolate

needs_namespaces = pytest.mark.skipif(not can_isolate(), reason="needs root and namespaces")

NAMESPACE = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child=SIGKILL"]
POWEROFF = 'echo "${0##*/} $*" >>"$BOX/off"'


class Box:
    """A machine that is nothing but directories: its switch runs here, and what would end it only says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run, self.lib, self.bin = (directory / name for name in ("run", "lib", "bin"))
        self.bin.mkdir()
        for name in ("poweroff", "shutdown", "systemctl"):
            self.command(name, POWEROFF)
        self.command(
            "sleep", f"exec {shutil.which('sleep')} 0.1"
        )  # it looks more often, and tests are quicker
        self._started: list[subprocess.Popen[bytes]] = []

    def command(self, name: str, text: str) -> None:
        """Puts a command of our own in front of the machine's."""
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin",
            "BOX": str(self.directory),
            "SKYWARD_RUN": str(self.run),
            "SKYWARD_LIB": str(self.lib),
        }

    def start(
        self, *arguments: object, within: Sequence[str] = (), first: str = ""
    ) -> subprocess.Popen[bytes]:
        """Runs the switch as the service of a machine would; `first` are commands before it."""
        self.run.mkdir(exist_ok=True)
        self.lib.mkdir(exist_ok=True)
        if not self.lease.exists():
            self.lease.write_text("0\n")
            self.lease.chmod(0o666)
        (self.lib / "switch").write_text(scripts.read("switch.sh"))
        line = f'{first}\nexec /bin/sh "$SKYWARD_LIB/switch" "$@"'
        process = subprocess.Popen(
            [*within, "sh", "-c", line, "start", *map(str, arguments)],
            env=self.environ,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stderr=(self.directory / "errors").open("ab"),
        )
        self._started.append(process)
        return process

    def arm(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Arms it as user data does."""
        given = [scripts.read("switch.sh"), *map(str, arguments)]
        return subprocess.run(
            ["sh", "-c", scripts.read("arm.sh"), "arm", *given],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=30,
        )

    @property
    def lease(self) -> Path:
        return self.run / "lease"

    @property
    def is_off(self) -> bool:
        return (self.directory / "off").exists()

    @property
    def said(self) -> str:
        """What ended it."""
        return (self.directory / "off").read_text()

    def await_armed(self) -> None:
        assert until(lambda: (self.run / "armed").exists(), 10), "the switch does not start"

    def switches(self) -> list[int]:
        """Every running switch of this machine."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and f"{self.lib}/switch".encode() in (
                    entry / "cmdline"
                ).read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def end(self) -> None:
        for process in self._started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        for pid in self.switches():
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def may_use_more() -> bool:
    """Whether this process has CAP_SYS_RESOURCE; root in a container often has not."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.split("CapEff:")[1].split()[0], 16) >> 24 & 1)


def until(is_so: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.end()


# -- when it ends ---------------------------------------------------------------------------------------------


def test_a_lease_that_nobody_renews_ends_the_machine(box: Box) -> None:
    began = time.monotonic()
    box.start(0, 1, "", "pool")

    assert until(lambda: box.is_off, 7)

    assert 0.9 <= time.monotonic() - began <= 1 + 5
    assert box.said == "poweroff -f\n"
    assert "nobody has renewed its lease for 1 s" in (box.run / "ended").read_text()


def test_a_lease_that_is_renewed_keeps_it_alive_until_it_is_not(box: Box) -> None:
    box.start(0, 1, "", "pool")

    for beat in range(12):
        box.lease.write_text(str(beat))
        time.sleep(0.2)
    assert not box.is_off

    assert until(lambda: box.is_off, 1 + 5)


def test_writing_the_same_again_renews_nothing(box: Box) -> None:
    box.start(0, 1, "", "pool")
    box.await_armed()

    def off_while_it_is_touched() -> bool:
        box.lease.write_text("0\n")
        return box.is_off

    assert until(off_while_it_is_touched, 7)


def test_a_lifetime_ends_the_machine_however_well_it_is_loved(box: Box) -> None:
    beats = iter(range(10_000))
    box.start(1, 60, "", "pool")

    def off_although_it_is_renewed() -> bool:
        box.lease.write_text(str(next(beats)))
        return box.is_off

    assert until(off_although_it_is_renewed, 7)
    assert "lifetime of 1 s is over" in (box.run / "ended").read_text()


def test_without_lease_and_lifetime_it_only_waits(box: Box) -> None:
    box.start(0, 0, "", "pool")
    box.await_armed()

    time.sleep(1)

    assert not box.is_off


HOSTILE = [
    *(
        b"",
        b"\0" * 100,
        b"'; touch $BOX/pwned; '",
        b"$(touch $BOX/pwned)",
        b"`touch $BOX/pwned`",
        b"-n",
        b"-1",
    ),
    *(b"\xff\xfe", b"* ? [a]", b"\\c\\0101", b"a b c\n" * 10, b"a" * 10_000_000, b"1e400", b"08"),
]


def test_what_is_written_into_the_lease_is_never_more_than_a_sign_of_life(box: Box) -> None:
    box.start(0, 2, "", "pool")
    box.await_armed()

    for content in HOSTILE:
        box.lease.write_bytes(content)
        time.sleep(0.25)
    assert not box.is_off

    assert until(lambda: box.is_off, 5)
    assert not (box.directory / "pwned").exists()


def test_a_lease_that_is_missing_is_a_lease_that_is_not_renewed(box: Box) -> None:
    box.start(0, 1, "", "pool")
    box.await_armed()
    box.lease.unlink()

    assert until(lambda: box.is_off, 9)


# -- what ends it ----------------------------------------------------------------------------------------------


def test_where_there_is_no_poweroff_shutdown_does_it(box: Box) -> None:
    (box.bin / "poweroff").unlink()
    keep = [
        name for name in ("sh", "dd", "chown", "mv", "sleep", "id", "env") if not (box.bin / name).exists()
    ]
    for name in keep:
        found = next(path for path in (Path("/usr/bin", name), Path("/bin", name)) if path.exists())
        (box.bin / name).symlink_to(found)
    text = scripts.read("switch.sh")
    box.run.mkdir()
    box.lib.mkdir()
    box.lease.write_text("0\n")
    bare = re.sub(r"^PATH=.*$", 'PATH="$BOX/bin"', text, count=1, flags=re.MULTILINE)
    (box.lib / "bare").write_text(bare)
    process = subprocess.Popen(
        ["/bin/sh", box.lib / "bare", "1", "0", "", "pool"], env=box.environ, start_new_session=True
    )
    box._started.append(process)

    assert until(lambda: box.is_off, 7)
    assert box.said == "shutdown -P now\n"


@needs_namespaces
def test_where_systemd_runs_it_is_asked_first(box: Box) -> None:
    first = (
        "mount -t tmpfs none /run && mkdir -p /run/systemd/system && echo systemd >$BOX/comm"
        " && mount --bind $BOX/comm /proc/1/comm"
    )
    box.start(1, 0, "", "pool", within=NAMESPACE, first=first)

    assert until(lambda: box.is_off, 7)
    assert box.said == "systemctl poweroff --force\n"


@pytest.mark.timeout(60)
def test_it_is_asked_again_when_it_does_not_end(box: Box) -> None:
    box.command("poweroff", POWEROFF + "; sleep 600")  # hangs, too
    box.start(1, 0, "", "pool")

    assert until(lambda: box.is_off and box.said.count("poweroff -f") > 1, 25)


# -- clocks ----------------------------------------------------------------------------------------------------


@needs_namespaces
def test_nothing_but_the_time_since_boot_matters(box: Box) -> None:
    clock = box.directory / "uptime"
    clock.write_text("1000.08 99.09\n")
    box.start(60, 30, "", "pool", within=NAMESPACE, first='mount --bind "$BOX/uptime" /proc/uptime')
    box.await_armed()

    time.sleep(1)  # ten looks, but for it no time passes
    assert not box.is_off
    clock.write_text("1029.99 99.09\n")
    time.sleep(1)
    assert not box.is_off

    clock.write_text("1030.08 99.09\n")
    assert until(lambda: box.is_off, 5)
    assert "nobody has renewed its lease for 30 s" in (box.run / "ended").read_text()


def test_it_never_asks_what_time_it_is(box: Box) -> None:
    """Every command it runs is known, and none of them knows the wall clock."""
    for name in ("dd", "mv", "chown", "sleep", "date", "stat", "find", "touch", "python3", "id"):
        real = next((p for p in (f"/usr/bin/{name}", f"/bin/{name}") if os.path.exists(p)), "/bin/false")
        box.command(name, f'echo {name} >>"$BOX/used"\nexec {real} "$@"')
    box.start(2, 0, "", "pool")

    assert until(lambda: box.is_off, 7)
    used = set((box.directory / "used").read_text().split())
    assert used <= {"dd", "mv", "chown", "sleep", "id"}
    assert "/proc/uptime" in scripts.read("switch.sh")


# -- what it survives ------------------------------------------------------------------------------------------


def test_a_switch_that_is_started_again_goes_on_where_it_was(box: Box) -> None:
    first = box.start(3, 0, "", "pool")
    began = time.monotonic()
    box.await_armed()
    time.sleep(1.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(10)

    box.start(3, 0, "", "pool")

    assert until(lambda: box.is_off, 7)
    assert time.monotonic() - began < 3 + 2.5


def test_a_lease_is_not_renewed_by_starting_the_switch_again(box: Box) -> None:
    began = time.monotonic()
    for _ in range(3):
        process = box.start(0, 3, "", "pool")
        time.sleep(0.9)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    box.start(0, 3, "", "pool")

    assert until(lambda: box.is_off, 7)
    assert time.monotonic() - began < 3 + 2.5


@needs_namespaces
def test_a_reboot_makes_the_machine_no_younger_and_an_image_of_it_makes_others_no_older(box: Box) -> None:
    clock = box.directory / "uptime"
    clock.write_text("1000.00 1.00\n")
    bind = 'mount --bind "$BOX/uptime" /proc/uptime'
    process = box.start(600, 0, "", "pool-a", within=NAMESPACE, first=bind)
    box.await_armed()
    clock.write_text("1500.00 1.00\n")
    kept = box.lib / "used-pool-a"
    assert until(kept.exists, 12)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    (box.run / "began").unlink()  # /run is empty after a reboot, and the time since boot is small
    clock.write_text("10.00 1.00\n")

    other = box.start(600, 0, "", "pool-b", within=NAMESPACE, first=bind)
    assert until(lambda: (box.run / "began").exists(), 5)
    assert int((box.run / "began").read_text()) == 1000
    os.killpg(other.pid, signal.SIGKILL)
    other.wait(10)
    (box.run / "began").unlink()

    box.start(600, 0, "", "pool-a", within=NAMESPACE, first=bind)
    assert until(lambda: (box.run / "began").exists(), 5)
    assert int((box.run / "began").read_text()) == (10 - 500) * 100
    clock.write_text("110.00 1.00\n")
    assert until(lambda: box.is_off, 9)


@pytest.mark.skipif(not may_use_more(), reason="needs CAP_SYS_RESOURCE to be safe from the OOM killer")
def test_the_kernel_takes_every_other_process_first_when_memory_runs_out(box: Box) -> None:
    box.start(0, 60, "", "pool")
    box.await_armed()

    (pid,) = box.switches()

    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "-1000\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_machine_that_can_start_no_process_more_is_ended_as_soon_as_it_can(
    box: Box, stranger: list[str]
) -> None:
    """A fork bomb makes a shell give up; the switch begins anew, which needs no fork."""
    box.start(3, 0, "", "pool", within=stranger)
    box.await_armed()
    (pid,) = box.switches()

    subprocess.run([*stranger, "prlimit", f"--pid={pid}", "--nproc=0:"], check=True)
    time.sleep(3.5)
    assert not box.is_off, "it could start nothing"
    # Between two beginnings a process has no command line for a moment.
    assert until(lambda: box.switches() == [pid], 2), "and is still there"
    subprocess.run([*stranger, "prlimit", f"--pid={pid}", "--nproc=100:"], check=True)

    assert until(lambda: box.is_off, 5)


@pytest.fixture
def stranger(box: Box) -> list[str]:
    """How to run something as a user who owns the box, and nothing else on this machine."""
    user = 61_234
    for parent in list(box.directory.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    box.run.mkdir()
    box.lib.mkdir()
    for path in (box.directory, box.run, box.lib):
        os.chown(path, user, user)
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]


# -- arming ----------------------------------------------------------------------------------------------------


def test_arming_leaves_a_switch_that_outlives_the_session(box: Box) -> None:
    done = box.arm(0, 1, "", "pool")

    assert done.returncode == 0, done.stderr
    (pid,) = box.switches()
    assert os.getsid(pid) == pid
    assert int((box.run / "armed").read_text()) == pid
    assert until(lambda: box.is_off, 7)


def test_arming_twice_leaves_one_switch_and_the_first_word(box: Box) -> None:
    assert box.arm(0, 60, "", "pool").returncode == 0
    before = box.switches()

    assert box.arm(0, 9999, "", "pool").returncode == 0

    assert box.switches() == before
    assert b"9999" not in Path(f"/proc/{before[0]}/cmdline").read_bytes()


def test_a_switch_that_died_is_armed_again(box: Box) -> None:
    assert box.arm(0, 60, "", "pool").returncode == 0
    assert until(lambda: len(box.switches()) == 1, 5)  # it has let go of what started it
    (pid,) = box.switches()
    os.killpg(pid, signal.SIGKILL)
    assert until(lambda: not box.switches(), 5)

    assert box.arm(0, 60, "", "pool").returncode == 0

    assert until(lambda: len(box.switches()) == 1, 5)


def test_who_may_renew_is_the_user_who_logs_in_and_nobody_else(box: Box) -> None:
    assert box.arm(0, 60, "nobody", "pool").returncode == 0

    assert box.lease.stat().st_mode & 0o777 == 0o600
    if os.geteuid() == 0:
        assert until(lambda: box.lease.owner() == "nobody", 5)
    assert box.run.stat().st_mode & 0o777 == 0o755


def test_without_a_user_whoever_logs_in_may_renew(box: Box) -> None:
    assert box.arm(0, 60, "", "pool").returncode == 0

    assert box.lease.stat().st_mode & 0o777 == 0o666


def test_a_place_that_cannot_be_made_is_an_error(box: Box) -> None:
    box.run.write_text("a file")

    done = box.arm(0, 60, "", "pool")

    assert done.returncode == 1
    assert "cannot make" in done.stderr
    assert not box.switches()


@needs_namespaces
def test_where_systemd_runs_the_switch_is_a_service_that_is_always_started_again(box: Box) -> None:
    """In namespaces of its own, where the first process is called systemd and systemctl only notes what it is told."""
    box.command("systemctl", 'echo "$*" >>"$BOX/asked"\ncase $1 in start) "$BOX/service" & ;; esac')
    (box.directory / "service").write_text(
        "#!/bin/sh\nexec $(sed -n 's/^ExecStart=//p' /etc/systemd/system/skyward-switch.service) </dev/null >/dev/null 2>&1\n"
    )
    (box.directory / "service").chmod(0o755)
    line = (
        "mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount -t tmpfs none /etc/systemd/system"
        " && echo systemd >$BOX/comm && mount --bind $BOX/comm /proc/1/comm"
        ' && sh -c "$ARM" arm "$SWITCH" 0 60 root pool && cat /etc/systemd/system/skyward-switch.service'
    )
    env = {**box.environ, "ARM": scripts.read("arm.sh"), "SWITCH": scripts.read("switch.sh")}
    done = subprocess.run([*NAMESPACE, "sh", "-c", line], env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert (box.directory / "asked").read_text().splitlines() == [
        "enable skyward-switch.service",
        "start --no-block skyward-switch.service",
    ]
    for expected in (
        f"ExecStart=/bin/sh {box.lib}/switch 0 60 root pool",
        "Restart=always",
        "StartLimitIntervalSec=0",
        "OOMScoreAdjust=-1000",
        "DefaultDependencies=no",
    ):
        assert expected in done.stdout.splitlines()


# -- user data -------------------------------------------------------------------------------------------------


def rendered(**how: object) -> str:
    pair = make_key_pair("skyward")
    given = {"host_key": pair, "authorized_keys": [pair.public], "lifetime_s": 60.0, "lease_s": 30.0, **how}
    return userdata.render(**given)  # type: ignore[arg-type]


def test_user_data_is_cloud_config_that_is_json_and_yaml_alike() -> None:
    pair, client = make_key_pair("host"), make_key_pair("client")

    text = rendered(host_key=pair, authorized_keys=[client.public], login_user="ubuntu")

    head, _, body = text.partition("\n")
    assert head == "#cloud-config"
    said = json.loads(body)
    assert yaml.safe_load(text) == said
    assert said["ssh_keys"] == {"ed25519_private": pair.private, "ed25519_public": pair.public}
    assert said["ssh_deletekeys"] is True
    assert said["ssh_genkeytypes"] == []
    assert said["ssh_authorized_keys"] == [client.public]


def test_the_first_thing_a_machine_does_is_to_arm_its_switch(box: Box) -> None:
    said = json.loads(rendered(lifetime_s=59.2, lease_s=1.5, login_user="root").partition("\n")[2])
    (command,) = said["bootcmd"]

    done = subprocess.run(command, env=box.environ, capture_output=True, timeout=30)

    assert done.returncode == 0, done.stderr
    (pid,) = box.switches()
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert arguments[2:5] == ["60", "2", "root"]
    assert until(lambda: box.is_off, 9)


def test_user_data_fits_into_what_machines_take() -> None:
    keys = [make_key_pair(f"user-{number}@somewhere").public for number in range(40)]

    assert len(rendered().encode()) < userdata.LIMIT_BYTES / 2
    assert len(rendered(authorized_keys=keys).encode()) <= userdata.LIMIT_BYTES
    with pytest.raises(ConfigError, match="machines take 16384: authorize fewer than 400 keys"):
        rendered(authorized_keys=keys * 10)


@pytest.mark.parametrize(
    "how",
    [
        {"lifetime_s": 0},
        {"lifetime_s": -1},
        {"lifetime_s": float("nan")},
        {"lease_s": float("inf")},
        {"login_user": "me; poweroff"},
        {"login_user": "-x"},
        {"login_user": "$(id)"},
        {"authorized_keys": ["ssh-ed25519 AAAA\nssh-ed25519 BBBB"]},
        {"authorized_keys": ["not a key"]},
    ],
    ids=repr,
)
def test_what_cannot_be_meant_is_refused(how: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        rendered(**how)


@given(comment=st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=40))
@settings(max_examples=100)
def test_whatever_a_key_is_called_it_arrives_as_it_is(comment: str) -> None:
    line = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA {comment}"

    said = yaml.safe_load(rendered(authorized_keys=[line]))

    assert said["ssh_authorized_keys"] == [line]
