"""Machines of a simulated cloud: each a real sshd at its own loopback address, with a disk and processes of its own.

As root a machine is a set of namespaces: its own processes, mounts, hostname, uptime, accounts and a disk that vanishes
with it. It executes its user data, powers itself off, and dies as machines do: all at once. Without root it is an sshd
of the current user on a high port, and the user data has only that user's rights. Linux only; needs openssh-server.
"""

from __future__ import annotations

import os
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
    PATH,
    SSHD_CONFIG,
    shared_places,
    write,
    write_image,
)
from skyward.testing.machines_userdata import parse_user_data
from skyward.testing.sshd import require_sshd

BOOT_S = 30.0
_STOP_S = 10.0


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """What a machine is made of."""

    name: str
    address: str
    """Where clients reach it."""
    private_address: str
    """Where its neighbours reach it."""
    port: int = 22
    user_data: str = ""
    authorized_keys: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of everything that runs on it."""


class Machine:
    """One machine. `start` boots it; `end` is the power cord. Thread-safe."""

    def __init__(self, spec: MachineSpec, *, directory: Path, image: Path) -> None:
        self.spec = spec
        self.directory = directory
        """Its files on this computer: what it was made of and its console."""
        self.on_end: Callable[[Machine], None] | None = None
        """Called, from a thread of its own, when the machine has ended by itself."""
        self._image = image
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._is_ending = False
        self._lock = threading.RLock()

    # -- life ------------------------------------------------------------------------------------------------

    def start(self, deadline_s: float = BOOT_S) -> bool:
        """Boots it; whether its sshd answers now. One whose user data hangs boots for ever, as a real one does."""
        require_sshd()
        self._write_seed()
        with self._lock:
            if self._is_ending:
                return False
            self._process = process = self._spawn()
        is_up = self._await_ready(process, deadline_s)
        threading.Thread(
            target=self._watch, args=(process,), name=f"{self.spec.name}-end", daemon=True
        ).start()
        return is_up

    def end(self) -> None:
        """Every process of it ends at once, and its disk is gone. Idempotent."""
        with self._lock:
            self._is_ending = True
            process = self._process
        if process is None:
            return
        if self._init:
            _kill(self._init)
        process.kill()
        process.wait(_STOP_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """Everything on it stops, as on a machine that hangs; connections stay open and silent."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    # -- faults inside --------------------------------------------------------------------------------------

    def kill_sshd(self, *, sessions: bool = False) -> None:
        """sshd dies: nobody new gets in. With `sessions` nobody stays in either; the machine lives on."""
        for process in self.processes():
            words = _words(process)
            if words[:1] and words[0].startswith("sshd") and (sessions or "[listener]" in words):
                _send(process, signal.SIGKILL)

    def start_sshd(self) -> None:
        self.run("/usr/sbin/sshd -E /var/log/auth.log")

    def wrong_host_key(self) -> None:
        """Somebody else answers at its address: another host key, the same everything else."""
        self.run(
            "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; "
            "kill -HUP $(cat /run/sshd.pid)"
        )

    # -- what tests ask ---------------------------------------------------------------------------------------

    def processes(self) -> list[Any]:
        """Every living process of it but the first (`psutil.Process`)."""
        import psutil

        space = _link(f"/proc/{self._init}/ns/pid") if self._init else None
        if space is None:
            return []
        own = (process for process in psutil.process_iter() if _link(f"/proc/{process.pid}/ns/pid") == space)
        return [process for process in own if process.pid != self._init]

    def run(self, script: str, *, timeout_s: float = 30.0) -> str:
        """What a shell script prints that runs on it as root.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        enter = ["nsenter", f"--target={self._init}", "--pid", "--mount", "--uts", *_TIME, "--root", "--wd=/"]
        done = subprocess.run(
            [*enter, "/bin/sh", "-c", f". /opt/simulated/environment\n{script}"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=_clean_environment(),
        )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, script, done.stdout, done.stderr)
        return done.stdout

    def read(self, path: str) -> str:
        """A file on it; "" where there is none."""
        try:
            return Path(f"/proc/{self._init}/root", path.lstrip("/")).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def console(self) -> str:
        """What went wrong while it was assembled."""
        path = self.directory / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- inside -----------------------------------------------------------------------------------------------

    def _write_seed(self) -> None:
        seed = self.directory / "seed"
        wanted = parse_user_data(self.spec.user_data)
        environment = {**self.spec.environment, "PATH": PATH}
        exports = "".join(f"export {name}='{value}'\n" for name, value in environment.items())
        simulated = seed / "opt" / "simulated"
        write(simulated / "environment", exports)
        write(simulated / "early", exports + wanted.early + "\n")
        write(simulated / "late", exports + wanted.late + "\n")
        keys = (*self.spec.authorized_keys, *wanted.authorized_keys)
        write(simulated / "authorized_keys", "".join(f"{key.strip()}\n" for key in keys))
        write(
            seed / "etc" / "environment",
            "".join(f'{name}="{value}"\n' for name, value in environment.items()),
        )
        pairs = " ".join(f'"{name}={value}"' for name, value in environment.items())
        addresses = dict.fromkeys((self.spec.address, self.spec.private_address))
        lines = [f"Port {self.spec.port}", *(f"ListenAddress {a}" for a in addresses), f"SetEnv {pairs}"]
        write(seed / "etc" / "ssh" / "sshd_config", "\n".join(lines) + SSHD_CONFIG, 0o644)

    def _spawn(self) -> subprocess.Popen[bytes]:
        spaces = ["--fork", "--pid", "--mount", "--uts", "--kill-child=SIGKILL", *_uptime_from_zero()]
        shared = [place for pair in shared_places() for place in pair]
        with (self.directory / "console.log").open("wb") as console:
            return subprocess.Popen(
                ["unshare", *spaces, "/bin/sh", "-c", ASSEMBLE, "assemble"]
                + [str(self.directory), str(self._image), self.spec.name, *shared],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                start_new_session=True,
                env=_clean_environment(),
            )

    def _await_ready(self, process: subprocess.Popen[bytes], deadline_s: float) -> bool:
        import select

        assert process.stdout is not None
        select.select([process.stdout], [], [], deadline_s)
        is_ready = os.get_blocking(process.stdout.fileno()) and bool(
            select.select([process.stdout], [], [], 0)[0] and process.stdout.readline() == b"ready\n"
        )
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        try:
            self._init = int(children.read_text().split()[0])
        except (OSError, IndexError):
            raise RuntimeError(f"machine {self.spec.name} does not start: {self.console}") from None
        return is_ready

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        with self._lock:
            if self._is_ending:
                return
        if self.on_end is not None:
            self.on_end(self)

    def _signal_all(self, number: int) -> None:
        for _ in range(2):  # what was forked while we walked is met the second time
            for process in self.processes():
                _send(process, number)


def make_image(directory: Path) -> Path:
    """What all machines of a cloud have on their disks. `directory` must be closed to other users."""
    directory.chmod(0o700)
    image = directory / "image"
    image.mkdir(mode=0o755)
    write_image(image)
    return image


_TIME = ["--time"]


@cache
def _has_time_namespaces() -> bool:
    return os.path.exists("/proc/self/ns/time")


def _uptime_from_zero() -> Sequence[str]:
    """A machine that has just booted says so in /proc/uptime; the clocks that count down there begin at zero."""
    if not _has_time_namespaces():
        return []
    return ["--time", f"--boottime=-{int(time.clock_gettime(time.CLOCK_BOOTTIME))}"]


def _clean_environment() -> dict[str, str]:
    """Nothing of the tests' environment reaches a machine, but for the mark by which they find what they left."""
    return {"PATH": PATH, **{name: value for name, value in os.environ.items() if name.startswith("RUN_BY_")}}


def _words(process: Any) -> list[str]:
    import psutil

    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


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


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
