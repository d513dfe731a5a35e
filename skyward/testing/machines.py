"""Machines of a simulated cloud: each a real sshd at its own loopback address, with processes of its own.

As root a machine is a set of namespaces: its own processes, mounts, hostname, uptime, accounts and a disk that vanishes
with it. It executes its user data, powers itself off, and dies as machines do: all at once. Without root it is an sshd
of the current user on a high port; user data has that user's rights, and what it may not write it does not write.
Linux only; needs openssh-server.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from skyward.testing.machines_image import (
    ASSEMBLE,
    INIT,
    PATH,
    SESSION,
    commands,
    is_one_disk,
    sshd_config,
    write,
    write_homes,
    write_image,
)
from skyward.testing.machines_userdata import UserData, parse_user_data
from skyward.testing.processes import bearing, in_space, space_of
from skyward.testing.simcloud_network import Direction, Network
from skyward.testing.sshd import can_isolate, require_sshd

BOOT_S = 30.0
MARK = "SKYWARD_TEST_MACHINE"
_STOP_S = 10.0
_ISOLATED = "/opt/simulated"


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """What a machine is made of."""

    name: str
    address: str
    """Where clients reach it."""
    private_address: str
    """Where its neighbours reach it."""
    port: int = 22
    listen: tuple[str, ...] = ()
    """Where its sshd listens, if relays stand at its addresses."""
    user_data: str = ""
    authorized_keys: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of everything that runs on it."""
    has_sshd: bool = True
    """False: it boots, and nobody answers."""
    has_own_host_key: bool = False
    """True: whatever host key it was told to have, it has another."""


class Machine:
    """One machine. `start` boots it; `end` is the power cord. Safe to use from several threads."""

    def __init__(self, spec: MachineSpec, *, directory: Path, image: Path | None, network: Network) -> None:
        self.spec = spec
        self.directory = directory
        """Its files on this computer: what it was made of, and its console."""
        self.on_end: Callable[[Machine], None] | None = None
        """Called, from a thread of its own, when the machine has ended by itself."""
        self._body = _Isolated(spec, directory, image) if image is not None else _Plain(spec, directory)
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        self._lock = threading.RLock()
        self._booted = threading.Event()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, deadline_s: float = BOOT_S) -> bool:
        """Boots it; whether its sshd answers by then. One whose user data hangs boots for ever, as a real one does."""
        require_sshd()
        with self._lock:
            if self._is_ending:
                return False
            self._process = process = self._body.spawn()
        threading.Thread(target=self._watch, args=(process,), name="machine", daemon=True).start()
        try:
            return self._body.await_ready(process, deadline_s)
        except (RuntimeError, ValueError, OSError):
            if self._is_ending:  # while it booted: its pipes are closed
                return False
            raise
        finally:
            self._booted.set()

    def await_boot(self, timeout_s: float = BOOT_S) -> None:
        """Returns when its sshd answers, or never will."""
        self._booted.wait(timeout_s)

    def end(self) -> None:
        """Every process of it ends at once, and its disk is gone; connections are closed. Idempotent."""
        with self._lock:
            self._is_ending = True
            process = self._process
        self._booted.set()
        if process is not None:
            for address in (self.address, self.spec.private_address):
                self._network.join(address)
            self._body.end(process)

    def vanish(self) -> None:
        """The host below it failed: it is gone, nobody is told, and what is sent to it is lost. Its cloud learns
        nothing of it."""
        for address in (self.address, self.spec.private_address):
            self._network.cut(address, "both", "gone")
        self.end()

    @property
    def address(self) -> str:
        """Where clients reach it."""
        return self.spec.address

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # -- faults -----------------------------------------------------------------------------------------------

    def partition(self, direction: Direction = "both") -> None:
        """Nothing reaches it, nothing comes from it ("in", "out": one of them), and nobody is told."""
        self._network.cut(self.address, direction)
        self._network.cut(self.spec.private_address, direction)

    def heal(self) -> None:
        """The network is whole again; connections that waited go on."""
        self._network.join(self.address)
        self._network.join(self.spec.private_address)

    def freeze(self) -> None:
        """Everything on it stops, as on a machine that hangs; connections stay open and silent."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def kill_sshd(self, *, sessions: bool = False) -> None:
        """sshd dies: nobody new gets in. With `sessions` nobody stays in either. The machine lives on."""
        for process in self.processes():
            words = _words(process)
            if (
                words[:1]
                and words[0].startswith("sshd:")
                and (sessions or "[listener]" in words[0] + " ".join(words))
            ):
                _send(process, signal.SIGKILL)

    def start_sshd(self) -> None:
        """After `kill_sshd`."""
        self.run(
            f"rm -f {self._body.sshd_pid}; $(command -v sshd) -f {self._body.config} -E {self._body.log}"
        )

    def wrong_host_key(self) -> None:
        """From now on somebody with another host key answers at its address."""
        keys = f"{self._body.ssh}/ssh_host_"
        self.run(
            f"rm -f {keys}*; ssh-keygen -q -t ed25519 -N '' -f {keys}ed25519_key\n"
            f"old=$(cat {self._body.sshd_pid}); rm -f {self._body.sshd_pid}; kill -HUP $old\n"
            f"for _ in $(seq 200); do [ -s {self._body.sshd_pid} ] && exit 0; sleep 0.01; done; exit 1"
        )

    # -- what tests ask ---------------------------------------------------------------------------------------

    def processes(self) -> list[Any]:
        """Every living process of it but the first (`psutil.Process`), however it was detached."""
        return self._body.processes()

    def run(self, script: str, *, timeout_s: float = 30.0) -> str:
        """What a shell script prints that runs on it as root (as its user, without isolation).

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        done = subprocess.run(
            self._body.command(script),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=_environment(self.spec.name),
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, script, done.stdout, done.stderr)
        return done.stdout

    def read(self, path: str) -> str:
        """A file on it; "" where there is none."""
        try:
            return self._body.path(path).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def host_key(self) -> str:
        """Its public host key, as it would be pinned."""
        return " ".join(self.read(f"{self._body.ssh}/ssh_host_ed25519_key.pub").split()[:2])

    @property
    def log(self) -> str:
        """What its sshd says."""
        return self.read(self._body.log)

    @property
    def output(self) -> str:
        """What its user data printed."""
        return self.read(self._body.output)

    @property
    def console(self) -> str:
        """What went wrong while it was assembled."""
        path = self.directory / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- inside -----------------------------------------------------------------------------------------------

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._booted.wait(BOOT_S)  # whoever still waits for it reads the end of its output
        with self._lock:
            if self._is_ending:
                return
        self._body.end(process)
        if self.on_end is not None:
            self.on_end(self)

    def _signal_all(self, number: int) -> None:
        for _ in range(2):  # what was forked while we walked is met the second time
            for process in self.processes():
                _send(process, number)


class _Plain:
    """An sshd of the current user, with its files in a directory and its processes where they can be kept together."""

    def __init__(self, spec: MachineSpec, directory: Path) -> None:
        self.spec, self.directory = spec, directory
        self.simulated = str(directory / "simulated")
        self.ssh = str(directory / "ssh")
        self.config, self.sshd_pid = f"{self.ssh}/sshd_config", f"{self.ssh}/sshd.pid"
        self.output, self.log = str(directory / "output.log"), str(directory / "sshd.log")
        self.init = 0
        self._known: dict[int, Any] = {}

    def spawn(self) -> subprocess.Popen[bytes]:
        home = self.directory / "home"
        home.mkdir()
        path = f"{self.simulated}/bin:{os.environ.get('PATH', '')}:{PATH}"
        self._write_private_files(Path(self.simulated), path, {"HOME": str(home)})
        Path(self.ssh).mkdir()
        for name, text in commands(
            simulated=self.simulated, sshd_pid=self.sshd_pid, root=os.geteuid()
        ).items():
            write(Path(self.simulated, "bin", name), text, 0o755)
        keys = [f"HostKey {self.ssh}/ssh_host_{kind}_key" for kind in ("ed25519", "ecdsa", "rsa")]
        write(Path(self.simulated, "session"), SESSION, 0o755)
        options = [
            *keys,
            "StrictModes no",
            f"AuthorizedKeysFile {self.simulated}/authorized_keys",
            f"ForceCommand {self.simulated}/session",
            f"Subsystem sftp {_sftp_server()}",
        ]
        self._write_config(Path(self.config), path, {"HOME": str(home)}, options)
        arguments = [self.simulated, self.output, self.config, self.log, self.sshd_pid]
        return self._start([*_user_spaces(), "/bin/sh", f"{self.simulated}/init", *arguments])

    def await_ready(self, process: subprocess.Popen[bytes], deadline_s: float) -> bool:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], deadline_s)
        said = process.stdout.readline() if readable else b""
        self.init = self._first_process(process)
        console = (self.directory / "console.log").read_text(errors="replace")
        if readable and said != b"ready\n" and console:
            raise RuntimeError(f"machine {self.spec.name} does not boot: {console}")
        return said == b"ready\n"

    def end(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _STOP_S
        while (left := self.processes()) and time.monotonic() < deadline:
            for each in left:
                _send(each, signal.SIGKILL)
            if process.poll() is None:
                _cut(process, self.init or self._first_process(process))
            time.sleep(0.01)
        _cut(process, self.init or self._first_process(process))

    def processes(self) -> list[Any]:
        """With a process space of its own, those in it; else descendants, now or before, and what bears our mark."""
        import psutil

        space = space_of(self.init) if self.init else None
        if space is not None and space != space_of("self"):
            return in_space(space, self.init)
        try:
            below = psutil.Process(self.init).children(recursive=True) if self.init else []
        except psutil.NoSuchProcess:
            below = []
        for each in (*below, *self._marked()):
            self._known.setdefault(each.pid, each)
        self._known = {pid: each for pid, each in self._known.items() if _is_alive(each) and pid != self.init}
        return list(self._known.values())

    def command(self, script: str) -> Sequence[str]:
        return ["/bin/sh", "-c", f". {self.simulated}/environment\ncd\n{script}"]

    def path(self, path: str) -> Path:
        return Path(path)

    # -- for both -----------------------------------------------------------------------------------------------

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.directory / "console.log").open("wb") as console:
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                start_new_session=True,
                env=_environment(self.spec.name),
            )

    def _user_data(self) -> UserData:
        return parse_user_data(self.spec.user_data, ssh=self.ssh, scripts=self.simulated)

    def _authorized_keys(self) -> Sequence[str]:
        return (*self.spec.authorized_keys, *self._user_data().authorized_keys)

    def _write_private_files(self, place: Path, path: str, more: Mapping[str, str]) -> None:
        wanted = self._user_data()
        pairs = {**self.spec.environment, MARK: self.spec.name, **more, "PATH": path}
        exports = "".join(f"export {name}='{value}'\n" for name, value in pairs.items())
        write(place / "environment", exports)
        early = [exports, wanted.early]
        if self.spec.has_own_host_key:
            early.append(
                f"rm -f {self.ssh}/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f {self.ssh}/ssh_host_ed25519_key"
            )
        write(place / "early", "\n".join([*early, ""]))
        if not self.spec.has_sshd:
            write(place / "no-sshd", "")
        write(place / "late", exports + wanted.late + "\n")
        write(place / "authorized_keys", "".join(f"{key.strip()}\n" for key in self._authorized_keys()))
        if not isinstance(self, _Isolated):
            write(place / "init", INIT)
            write(place / "prepare", "cd\nbooted() { :; }\n")

    def _write_config(self, file: Path, path: str, more: Mapping[str, str], options: Sequence[str]) -> None:
        pairs = {**self.spec.environment, MARK: self.spec.name, **more, "PATH": path}
        addresses = self.spec.listen or tuple(dict.fromkeys((self.spec.address, self.spec.private_address)))
        lines = [
            f"Port {self.spec.port}",
            *(f"ListenAddress {address}" for address in addresses),
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in pairs.items()),
            *options,
            *_forgiving(),
        ]
        write(file, "\n".join(lines) + sshd_config(sshd_pid=self.sshd_pid))

    def _first_process(self, process: subprocess.Popen[bytes]) -> int:
        """The init of the machine: the child of `unshare`, or the shell itself."""
        if "unshare" not in process.args:  # type: ignore[operator]
            return process.pid
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            return 0
        return int(children[0]) if children else 0

    def _marked(self) -> list[Any]:
        return bearing(f"{MARK}={self.spec.name}".encode())


class _Isolated(_Plain):
    """Namespaces, and a disk of its own."""

    def __init__(self, spec: MachineSpec, directory: Path, image: Path) -> None:
        super().__init__(spec, directory)
        self.image = image
        self.simulated, self.ssh = _ISOLATED, "/etc/ssh"
        self.config, self.sshd_pid = "/etc/ssh/sshd_config", "/run/sshd.pid"
        self.output, self.log = "/var/log/cloud-init-output.log", "/var/log/auth.log"

    def spawn(self) -> subprocess.Popen[bytes]:
        seed = self.directory / "seed"
        self._write_private_files(seed / _ISOLATED.lstrip("/"), PATH, {})
        self._write_config(seed / "etc" / "ssh" / "sshd_config", PATH, {}, ["Subsystem sftp internal-sftp"])
        pairs = {**self.spec.environment, "PATH": PATH}
        write(seed / "etc" / "environment", "".join(f'{name}="{value}"\n' for name, value in pairs.items()))
        spaces = ["--fork", "--pid", "--mount", "--uts", "--kill-child=SIGKILL", *_uptime_from_zero()]
        write_homes(self.directory / "live", "".join(f"{key.strip()}\n" for key in self._authorized_keys()))
        arguments = [str(self.directory), str(self.image), self.spec.name]
        return self._start(["unshare", *spaces, "/bin/sh", "-c", ASSEMBLE, "assemble", *arguments])

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """The kernel ends the rest when the first process ends."""
        _cut(process, self.init or self._first_process(process))

    def processes(self) -> list[Any]:
        space = space_of(self.init) if self.init else None
        return [] if space is None else in_space(space, self.init)

    def command(self, script: str) -> Sequence[str]:
        spaces = ["--pid", "--mount", "--uts", *(["--time"] if _has_time_namespaces() else [])]
        inside = ["/bin/sh", "-c", f". {self.simulated}/environment\n{script}"]
        return ["nsenter", f"--target={self.init}", *spaces, "--root", "--wd=/", *inside]

    def path(self, path: str) -> Path:
        return Path(f"/proc/{self.init}/root", path.lstrip("/"))


def make_image(directory: Path) -> Path:
    """What all isolated machines of a cloud have on their disks. `directory` is closed to other users."""
    directory.chmod(0o700)
    image = directory / "image"
    image.mkdir(mode=0o755)
    write_image(image)
    return image


@cache
def can_overlay() -> bool:
    """Whether machines can be isolated: root, namespaces, and an overlay over this computer's disk."""
    if not can_isolate() or not is_one_disk():
        return False
    script = (
        "mount -t tmpfs probe /mnt && mkdir /mnt/u /mnt/w /mnt/r"
        " && mount -t overlay probe -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"
    )
    probe = ["unshare", "--mount", "--fork", "/bin/sh", "-c", script]
    return subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


@cache
def _user_spaces() -> Sequence[str]:
    """Where an ordinary user may, a machine has its own process space, so that it dies as a whole."""
    if os.geteuid() == 0:
        return ()
    spaces = [
        "unshare",
        "--user",
        "--map-current-user",
        "--fork",
        "--pid",
        "--mount",
        "--mount-proc",
        "--kill-child",
    ]
    try:
        done = subprocess.run([*spaces, "true"], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return ()
    return spaces if done.returncode == 0 else ()


@cache
def _has_time_namespaces() -> bool:
    return os.path.exists("/proc/self/ns/time")


@cache
def _forgiving() -> Sequence[str]:
    """sshd 9.8 and later lets nobody in for a while from where connections often break, as they do here."""
    probe = [require_sshd(), "-G", "-f", "/dev/null", "-o", "PerSourcePenalties=no"]
    known = subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
    return ["PerSourcePenalties no"] if known else []


def _uptime_from_zero() -> Sequence[str]:
    """A machine that has just booted says so in /proc/uptime; what counts down there begins at zero."""
    if not _has_time_namespaces():
        return []
    return ["--time", f"--boottime=-{int(time.clock_gettime(time.CLOCK_BOOTTIME))}"]


def _sftp_server() -> str:
    """A program: sessions begin in a directory of their own, where sshd's own sftp would not."""
    places = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")
    return next((place for place in places if os.path.exists(place)), "internal-sftp")


def _environment(name: str) -> dict[str, str]:
    """Nothing of the tests' environment reaches a machine, but for the mark by which they find what they left."""
    marks = {key: value for key, value in os.environ.items() if key.startswith("RUN_BY_")}
    return {"PATH": PATH, MARK: name, **marks}


def _cut(process: subprocess.Popen[bytes], init: int) -> None:
    """The first process, and whoever started it, are gone; so are the pipes to them."""
    if init:
        _kill(init)
    process.kill()
    process.wait(_STOP_S)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _is_alive(process: Any) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _words(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def _is_sshd(words: Sequence[str]) -> bool:
    return bool(words) and words[0].startswith(("sshd:", "sshd-session:"))


def _send(process: Any, number: int) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.Error:
        pass


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
