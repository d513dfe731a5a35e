"""Real machines for tests: one sshd per machine, each at its own address of 127.0.0.0/8.

As root a machine has its own processes, hostname and accounts (namespaces), so that it can die as machines do: all
at once. Without root it is an sshd of the current user. Either way its sessions have a home directory of their own,
and leaving the context ends every process it ever started. Linux only; needs openssh-server.
"""

from __future__ import annotations

import getpass
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from skyward.model.instance import Endpoint
from skyward.testing.processes import bearing, in_space, space_of

HostKeyType = Literal["ed25519", "ecdsa", "rsa"]
Victim = Literal["listener", "sessions", "everything"]

_PORT = 2222
_START_S = 20.0
_STOP_S = 10.0
_MARK = "SKYWARD_TEST_MACHINE"
_FIRST_UID = 60100
_serial = itertools.count()

# Inside new namespaces: our own accounts instead of the real ones, then wait as init for as long as the pipe to
# the test lives. The shell reaps orphans while it waits for `cat`; when it ends, the kernel ends everything.
_BOOT = """
set -e
for f in passwd group shadow; do mount --bind "$1/$f" "/etc/$f"; done
[ -z "$2" ] || mount --bind "$1/homes" /home
hostname "$3"
echo ready
cat >/dev/null
"""

# Without namespaces: an sshd that does not outlive the test.
_LIFELINE = '"$@" & sshd=$!; cat >/dev/null; kill -9 $sshd'

_CONFIG = """
Port {port}
ListenAddress {address}
{host_keys}
PidFile none
UsePAM no
StrictModes no
UseDNS no
AuthorizedKeysFile {directory}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
PrintMotd no
MaxStartups 500
MaxSessions 500
LogLevel VERBOSE
Subsystem sftp internal-sftp
SetEnv "HOME={home}" "{mark}={name}"
"""


class SSHServer:
    """One machine with an sshd. A context manager; `start` and `stop` do the same by hand.

    `user` is who logs in: None is the current user; as root any other name is an account made up for this machine.
    `host_keys` are the types of key it shows. `options` are further lines for sshd_config; they win over ours.
    """

    def __init__(
        self,
        *,
        user: str | None = None,
        host_keys: Sequence[HostKeyType] = ("ed25519",),
        options: Iterable[str] = (),
        identity: Path | None = None,
        isolated: bool | None = None,
        address: str | None = None,
        port: int = _PORT,
    ) -> None:
        self.isolated = can_isolate() if isolated is None else isolated
        self.hostname = socket.gethostname()
        self.user = user or getpass.getuser()
        self.port = port
        self.address = address or ""
        self._host_key_types = tuple(host_keys)
        self._options = tuple(options)
        self._given_identity = identity
        self._init: subprocess.Popen[bytes] | None = None
        self._init_pid = 0
        self._sshd: subprocess.Popen[bytes] | None = None
        self._known: dict[int, Any] = {}
        self._lock = threading.RLock()  # tests kill machines from timers
        if self.user != getpass.getuser() and not self.isolated:
            raise RuntimeError(f"only root can make an account for {self.user!r}")

    # -- life ------------------------------------------------------------------------------------------------

    def __enter__(self) -> SSHServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Boots the machine; returns when its sshd answers."""
        require_sshd()
        self.directory = Path(tempfile.mkdtemp(prefix="skyward-machine-"))
        self.directory.chmod(0o755)
        self.name = self.directory.name
        if self.isolated:
            self.hostname = f"machine-{secrets.token_hex(4)}"
        try:
            self._write_files()
            self._boot()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process of the machine and removes its files. Idempotent."""
        with self._lock:
            self._end_everything()
            if hasattr(self, "directory"):
                shutil.rmtree(self.directory, ignore_errors=True)

    def kill(self, what: Victim = "everything") -> None:
        """SIGKILL for the `listener` (sessions go on), the `sessions` (the listener goes on), or `everything`:
        the machine died, and `restart` boots it again with the same disk."""
        with self._lock:
            if what == "everything":
                self._end_everything()
                return
            listener, sessions = self._sshd_processes()
            for process in listener if what == "listener" else sessions:
                _send(process, signal.SIGKILL)
                _await_end(process)
            if what == "listener":
                self._end_lifeline()

    def restart(self) -> None:
        """A new sshd; the machine is booted first where it died. Sessions of a living machine go on."""
        with self._lock:
            if self.isolated and self._init is None:
                self._boot()
                return
            self.kill("listener")
            self._start_sshd()

    def freeze(self) -> None:
        """Every process stops, as on a machine that hangs; connections stay open and silent."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._wake_nsenter()
        self._signal_all(signal.SIGCONT)

    def _wake_nsenter(self) -> None:
        """nsenter stops itself when its child is stopped; stopped, it would never collect the dead."""
        if self._sshd is not None and self._sshd.poll() is None:
            os.kill(self._sshd.pid, signal.SIGCONT)

    # -- what tests ask ----------------------------------------------------------------------------------------

    @property
    def endpoint(self) -> Endpoint:
        """How to reach it: host keys pinned, our own identity, no agent."""
        return Endpoint(
            host=self.address,
            port=self.port,
            user=self.user,
            host_keys=self.host_keys,
            identity_files=(str(self.identity),),
        )

    @property
    def host_keys(self) -> tuple[str, ...]:
        """Its public host keys, as pinned in an endpoint."""
        texts = (self._host_key(kind).with_suffix(".pub").read_text() for kind in self._host_key_types)
        return tuple(" ".join(text.split()[:2]) for text in texts)

    @property
    def known_hosts_lines(self) -> str:
        """What `ssh-keyscan` would write into a known_hosts file."""
        return "".join(f"[{self.address}]:{self.port} {key}\n" for key in self.host_keys)

    @property
    def log(self) -> str:
        """What sshd has logged so far, over all restarts."""
        path = self.directory / "sshd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def authorize(self, *public_keys: str) -> None:
        """Replaces the keys that may log in; none at all locks everyone out."""
        (self.directory / "authorized_keys").write_text("".join(f"{key}\n" for key in public_keys))

    def processes(self) -> list[Any]:
        """Every living process of this machine (`psutil.Process`), however it was detached."""
        return self._in_namespace() if self.isolated else self._marked()

    # -- files -------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        accounts = self.user != getpass.getuser()
        homes = self.directory / "homes"
        disk_home = homes / self.user
        disk_home.mkdir(parents=True)
        self.home = Path("/home") / self.user if accounts else disk_home
        self.home_on_disk = disk_home
        for kind in self._host_key_types:
            make_key(self._host_key(kind), kind)
        self.identity = self._given_identity or self.directory / "identity"
        if self._given_identity is None:
            make_key(self.identity)
        self.authorize(self.identity.with_suffix(".pub").read_text().strip())
        (self.directory / "authorized_keys").chmod(0o644)
        if self.isolated:
            self._write_accounts(made_up=accounts)
        if accounts:
            os.chown(disk_home, _FIRST_UID, _FIRST_UID)

    def _write_accounts(self, *, made_up: bool) -> None:
        """Copies of the account files in which our user lives in the machine's own home."""
        lines = {name: Path("/etc", name).read_text().splitlines() for name in ("passwd", "group", "shadow")}
        if made_up:
            lines["passwd"].append(f"{self.user}:x:{_FIRST_UID}:{_FIRST_UID}::{self.home}:/bin/sh")
            lines["group"].append(f"{self.user}:x:{_FIRST_UID}:")
            lines["shadow"].append(f"{self.user}:*:19000:0:99999:7:::")
        else:
            lines["passwd"] = [self._moved_home(line) for line in lines["passwd"]]
        for name, content in lines.items():
            (self.directory / name).write_text("\n".join(content) + "\n")
        (self.directory / "shadow").chmod(0o600)

    def _moved_home(self, line: str) -> str:
        fields = line.split(":")
        if fields[0] == self.user:
            fields[5] = str(self.home)
        return ":".join(fields)

    def _write_config(self) -> Path:
        ours = _CONFIG.format(
            port=self.port,
            address=self.address,
            host_keys="\n".join(f"HostKey {self._host_key(kind)}" for kind in self._host_key_types),
            directory=self.directory,
            home=self.home,
            mark=_MARK,
            name=self.name,
        )
        path = self.directory / "sshd_config"
        path.write_text("\n".join([*self._options, ours]))  # the first value of an option wins
        return path

    def _host_key(self, kind: HostKeyType) -> Path:
        return self.directory / f"host_{kind}"

    # -- processes ---------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        if self.isolated:
            self._start_init()
        self._start_sshd()

    def _start_init(self) -> None:
        accounts = "yes" if self.user != getpass.getuser() else ""
        command = ["unshare", "--fork", "--pid", "--mount", "--uts", "--mount-proc", "--kill-child=SIGKILL"]
        self._init = subprocess.Popen(
            [*command, "sh", "-c", _BOOT, "boot", str(self.directory), accounts, self.hostname],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.directory / "boot.log").open("wb"),
            start_new_session=True,
        )
        assert self._init.stdout
        if self._init.stdout.readline() != b"ready\n":
            said = (self.directory / "boot.log").read_text(errors="replace")
            raise RuntimeError(f"cannot make namespaces for a machine: {said}")
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._init_pid = int(children[0])

    def _start_sshd(self) -> None:
        """At the first address that is free, if it has none yet."""
        chosen = bool(self.address)
        for _ in range(50):
            if not chosen:
                self.address = _next_address()
            if self._try_sshd():
                return
            if chosen:
                break
        raise RuntimeError(f"sshd does not start at {self.address}:{self.port}:\n{self.log}")

    def _try_sshd(self) -> bool:
        sshd = [require_sshd(), "-f", str(self._write_config()), "-E", str(self.directory / "sshd.log")]
        before = len(self.log)
        if self.isolated:
            # It makes itself a daemon, that is, a child of the machine's init: nothing of ours has to reap it.
            enter = ["nsenter", f"--target={self._init_pid}", "--pid", "--mount", "--uts"]
            is_up = (
                subprocess.run([*enter, *sshd], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
            )
        else:
            self._sshd = subprocess.Popen(
                ["sh", "-c", _LIFELINE, "sh", *sshd, "-D"],
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            is_up = True
        deadline = time.monotonic() + _START_S
        while is_up and time.monotonic() < deadline:
            said = self.log[before:]
            if "Server listening on" in said:
                return True
            if "Cannot bind any address" in said or (
                self._sshd is not None and self._sshd.poll() is not None
            ):
                break
            time.sleep(0.005)
        self._end_lifeline()
        return False

    def _end_lifeline(self) -> None:
        if self._sshd is not None:
            _end(self._sshd)
            self._sshd = None

    def _sshd_processes(self) -> tuple[list[Any], list[Any]]:
        """The listener and its sessions."""
        ours = [process for process in self.processes() if _command(process)[:1] != []]
        listener = [process for process in ours if "[listener]" in _command(process)]
        return listener, [process for process in ours if _is_session(process)]

    def _below(self, process: subprocess.Popen[bytes] | None) -> list[Any]:
        import psutil

        if process is None:
            return []
        try:
            return list(psutil.Process(process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return []

    def _in_namespace(self) -> list[Any]:
        space = space_of(self._init_pid)
        return [] if space is None else in_space(space, self._init_pid)

    def _marked(self) -> list[Any]:
        """Descendants now or before, and whatever carries our mark in its environment."""
        mark = f"{_MARK}={getattr(self, 'name', None)}".encode()
        for process in [*self._below(self._sshd), *bearing(mark)]:
            self._known.setdefault(process.pid, process)
        self._known = {pid: p for pid, p in self._known.items() if p.is_running() and p.status() != "zombie"}
        return list(self._known.values())

    def _signal_all(self, number: int) -> None:
        for _ in range(2):  # what was forked while we walked is met the second time
            for process in self.processes():
                _send(process, number)

    def _end_everything(self) -> None:
        if not hasattr(self, "name"):
            return
        if self._init is not None:
            if self._init_pid:
                _kill(self._init_pid)
                self._init.wait(_STOP_S)  # the kernel lets init end after everything else in its namespace
            _end(self._init)
            self._init, self._init_pid = None, 0
        deadline = time.monotonic() + _STOP_S
        while left := self.processes():
            for process in left:
                _send(process, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of {self.name} do not end: {left}")
            time.sleep(0.01)
        self._end_lifeline()


def make_key(path: Path, kind: HostKeyType = "ed25519", *, passphrase: str = "") -> Path:
    """A new key pair: `path` and `path`.pub."""
    bits = ["-b", "2048"] if kind == "rsa" else []
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, *bits, "-N", passphrase, "-C", "skyward-test", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


@cache
def require_sshd(path: str | None = None) -> str:
    """Where sshd is; `path` is where to look.

    Raises:
        RuntimeError: nowhere; says how to get it.
    """
    found = shutil.which("sshd", path=path or "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
    if found is None:
        raise RuntimeError("sshd is not installed: apt-get install openssh-server (or set SKYWARD_NO_SSHD=1)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # privilege separation; packages make it at boot
    return found


@cache
def can_isolate() -> bool:
    """Whether machines can have their own processes: root, and a kernel that allows namespaces."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("nsenter"):
        return False
    probe = ["unshare", "--fork", "--pid", "--mount", "--uts", "--mount-proc", "true"]
    return subprocess.run(probe, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def _next_address() -> str:
    """Addresses that other test processes are unlikely to take; who takes one is decided by bind()."""
    pid, serial = os.getpid(), next(_serial)
    return f"127.{64 + serial % 64}.{pid >> 8 & 0xFF}.{1 + pid % 254}"


def free_address(port: int = 0) -> tuple[str, int]:
    """An address of our own at which nothing listens."""
    while True:
        address = _next_address()
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return address, probe.getsockname()[1]


def _is_session(process: Any) -> bool:
    words = _command(process)
    return bool(words) and words[0].startswith("sshd:") and "[listener]" not in words


def _command(process: Any) -> list[str]:
    return _quietly(process.cmdline) or []


def _send(process: Any, number: int) -> None:
    _quietly(lambda: process.send_signal(number))


def _await_end(process: Any) -> None:
    """Until it is dead; a zombie is, whoever should reap it."""
    deadline = time.monotonic() + _STOP_S
    while (_quietly(process.status) or "zombie") != "zombie" and time.monotonic() < deadline:
        time.sleep(0.002)


def _quietly(ask: Callable[[], Any]) -> Any:
    import psutil

    try:
        return ask()
    except psutil.Error:
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(_STOP_S)
