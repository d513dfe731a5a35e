"""Runs on the instance: finds or builds one environment, and tells in JSON lines how it goes.

Sent over standard input and run by whatever Python >= 3.8 is there, so: standard library only, no newer syntax,
no imports of ours. Everything that varies comes as one JSON request, never in a command line. Standard input
stays open while the client lives; when it ends, the build is abandoned.

An environment is built in its final place, because virtual environments contain their own path; it is built
under a lock, and counts only with its marker file, which is written last.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import IO, Any

ANSWER = "\x1esky "
"""What our lines begin with; whatever else a login shell prints is passed over."""
MARKER = "skyward-complete.json"
TAIL_LINES = 50
TAIL_BYTES = 1 << 16
OLDEST_UV = (0, 5)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_FULL_WORDS = re.compile(
    r"no space left on device|disk quota exceeded|read-only file system|\(os error (28|122|30)\)",
    re.IGNORECASE,
)


class Failed(Exception):
    """A step did not succeed. `kind`: failed, timeout, disk, python, need-uv."""

    def __init__(self, kind: str, message: str, tail: str = "", place: str = "") -> None:
        Exception.__init__(self, message)
        self.kind, self.message, self.tail, self.place = kind, message, tail, place


class Builder:
    """One request, from looking for the environment to saying where it is."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.request = request
        self.directory: str = request["directory"]
        self.place = os.path.join(self.directory, "envs", request["key"])
        self.children = Children(time.monotonic() + request["deadline_s"], self.directory)
        self.step_name = ""
        self.uv = ""
        self.python = ""
        self.trust_machine = False
        """Whether uv goes by the certificates of this machine: its own know no company proxies."""

    def run(self) -> dict[str, Any]:
        """The answer for the client."""
        if self.request["uv_bytes"]:
            self.step("uv", lambda: receive_file(self.uv_place(), self.request["uv_bytes"]))
        threading.Thread(target=self.children.end_with_client, daemon=True).start()
        missing = self.missing_apt()
        if not missing and self.look():
            return self.answer("reused")
        if (self.request["venv"] or not self.known_python()) and not self.find_uv():
            raise Failed("need-uv", "no usable uv on the instance")
        os.makedirs(os.path.dirname(self.place), mode=0o700, exist_ok=True)
        with Lock(self.place + ".lock", self.children.deadline):
            return self.build(missing)

    def build(self, missing: list[str]) -> dict[str, Any]:
        begun = time.monotonic()
        if missing:
            self.step("apt", lambda: self.install_apt(missing))
        if self.look():
            return self.answer("reused")
        self.step("python", self.prepare_python)
        if self.request["venv"]:
            self.build_environment()
        return self.answer(f"built in {time.monotonic() - begun:.1f} s")

    def build_environment(self) -> None:
        self.step("environment", self.make_environment)
        if self.request["requirements"]:
            self.step("packages", self.install_packages)
        for number, command in enumerate(self.request["setup"], 1):
            self.step(f"setup {number}", lambda command=command: self.set_up(command))
        self.mark()

    def look(self) -> bool:
        """Whether what is asked for is there already. First it is said that it is used: what has not been for long is
        removed at the end of any run (`leftovers`)."""
        if not self.request["venv"]:
            self.python = self.known_python()
            return bool(self.python)
        touch(self.place)
        self.python = os.path.join(self.place, "bin", "python")
        return os.path.isfile(os.path.join(self.place, MARKER)) and os.access(self.python, os.X_OK)

    def step(self, name: str, work: Callable[..., str]) -> None:
        self.step_name, begun = name, time.monotonic()
        detail = work()
        tell({"event": "step", "step": name, "duration_s": time.monotonic() - begun, "detail": detail})

    def answer(self, detail: str) -> dict[str, Any]:
        env = {}
        if self.request["venv"]:
            path = os.environ.get("PATH", os.defpath)
            env = {"VIRTUAL_ENV": self.place, "PATH": os.path.dirname(self.python) + os.pathsep + path}
        return {"event": "done", "python": self.python, "env": env, "detail": detail}

    # -- Debian packages --------------------------------------------------------------------------------------

    def missing_apt(self) -> list[str]:
        """The Debian packages that are asked for and not there."""
        wanted: list[str] = self.request["apt"]
        if not wanted:
            return []
        names = [item.partition("=")[0] for item in wanted]
        form = "${db:Status-Status} ${Package}:${Architecture}=${Version}\n"
        there = set()
        for line in said(["dpkg-query", "-W", "-f", form, "--", *names]).splitlines():
            status, _, found = line.partition(" ")
            if status == "installed":
                full, _, version = found.partition("=")
                name = full.partition(":")[0]
                there |= {name, full, f"{name}={version}", found}
        return [item for item in wanted if item not in there]

    def install_apt(self, missing: list[str]) -> str:
        if shutil.which("apt-get") is None:
            raise Failed("failed", "apt packages need a Debian or Ubuntu machine: there is no apt-get")
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if sudo and (shutil.which("sudo") is None or self.call([*sudo, "true"], check=False)[0] != 0):
            raise Failed("failed", "apt packages need root or passwordless sudo, and this user has neither")
        get = [
            *sudo,
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-q",
            "-y",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]
        install = [*get, "--no-install-recommends", "install", "--", *missing]
        # A fresh machine has no package lists, an old one has stale ones: they are fetched only when needed.
        if self.call(install, check=False)[0] != 0:
            self.call([*get, "update"])
            self.call(install)
        return ", ".join(missing)

    # -- uv and Python ----------------------------------------------------------------------------------------

    def uv_place(self) -> str:
        return os.path.join(self.directory, "uv", self.request["uv_digest"][:16], "uv")

    def find_uv(self) -> bool:
        """Whether there is a uv: sent by this client or an earlier one, or found by the probe."""
        for candidate in (self.uv_place(), self.request["uv"]):
            if candidate and numbers(said([candidate, "--version"])[3:]) >= OLDEST_UV:
                self.uv = candidate
                return True
        return False

    def known_python(self) -> str:
        """Path of an interpreter of the wanted version, as far as one is known without uv; else empty."""
        wanted = numbers(self.request["python"])
        minor = ".".join(map(str, wanted[:2]))
        provided = os.path.join(self.directory, "python", f"cpython-{minor}*", "bin", f"python{minor}")
        for candidate in [*self.request["pythons"], *sorted(glob.glob(provided))]:
            if python_version(candidate)[: len(wanted)] == wanted and self.claim(candidate):
                return str(candidate)
        return ""

    def claim(self, python: str) -> bool:
        """Says that a Python is used, if it is one that uv has brought; whether it is still there then."""
        home = os.path.dirname(os.path.dirname(os.path.realpath(python)))
        if os.path.dirname(home) == os.path.join(os.path.realpath(self.directory), "python"):
            touch(home)
        return os.access(python, os.X_OK)

    def prepare_python(self) -> str:
        """Like `known_python`, but uv searches too, and provides what it does not find."""
        wanted = self.request["python"]
        find = [self.uv, "python", "find", "--no-project", wanted]
        found = self.known_python() or said(find, self.settings()).strip()
        if not found:
            status, tail = self.call([self.uv, "python", "install", wanted], check=False)
            found = said(find, self.settings()).strip()
            if status != 0 or not found:
                raise Failed("python", f"uv cannot provide python {wanted}", tail)
        self.python = found.splitlines()[-1]
        self.claim(self.python)
        return self.python

    # -- the environment --------------------------------------------------------------------------------------

    def make_environment(self) -> str:
        shutil.rmtree(self.place, ignore_errors=True)
        self.call([self.uv, "venv", "--quiet", "--no-project", "--python", self.python, self.place])
        self.python = os.path.join(self.place, "bin", "python")
        return self.place

    def install_packages(self) -> str:
        lines: list[str] = self.request["requirements"]
        path = os.path.join(self.place, "skyward-requirements.txt")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        # Whoever knows the hash of a file need not care which index it comes from; everybody else takes a name
        # from the first index that has it, so that no later one can slip in a higher version.
        hashed = all(" --hash" in line for line in lines)
        options = ["--index-strategy", "unsafe-best-match" if hashed else "first-index"]
        self.call([self.uv, "pip", "install", "--python", self.python, *options, "--requirements", path])
        return f"{len(lines)} package{'s' if len(lines) != 1 else ''}"

    def set_up(self, command: str) -> str:
        """One of the user's commands, where `python`, `pip` and `uv` mean this environment."""
        tools = os.path.join(self.place, "skyward-tools")
        if not os.path.isdir(tools):
            os.mkdir(tools)
            write_script(os.path.join(tools, "uv"), self.uv, "")
            write_script(os.path.join(tools, "pip"), self.uv, "pip ")
        path = [os.path.dirname(self.python), tools, os.environ.get("PATH", os.defpath)]
        env = {"VIRTUAL_ENV": self.place, "PATH": os.pathsep.join(path), **self.request["env"]}
        self.call(["/bin/sh", "-c", command], env=env)
        return ""

    def mark(self) -> None:
        path = os.path.join(self.place, MARKER)
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({"key": self.request["key"], "requirements": self.request["requirements"]}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)

    # -- child processes --------------------------------------------------------------------------------------

    def call(
        self, command: list[str], check: bool = True, env: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Runs a command; its status and its last lines."""
        status, tail = self.children.run(command, {**self.settings(), **(env or {})})
        if (
            status != 0
            and command[0] == self.uv
            and "invalid peer certificate" in tail
            and not self.trust_machine
        ):
            self.trust_machine = True
            return self.call(command, check, env)
        if status != 0 and _FULL_WORDS.search(tail):
            raise Failed("disk", "no space left", tail, self.directory)
        if status != 0 and check:
            raise Failed("failed", f"exit status {status}", tail)
        return status, tail

    def settings(self) -> dict[str, str]:
        """Variables of every child process."""
        settings = {**os.environ, "UV_NO_PROGRESS": "1", "NO_COLOR": "1", "PIP_NO_INPUT": "1"}
        settings["GIT_TERMINAL_PROMPT"] = "0"
        if self.trust_machine:
            settings.update(UV_NATIVE_TLS="1", UV_SYSTEM_CERTS="1")  # older and newer name of one setting
        settings["UV_PYTHON_INSTALL_DIR"] = os.path.join(self.directory, "python")
        settings["UV_PYTHON_INSTALL_BIN"] = "0"  # else uv puts a link to it into ~/.local/bin
        if self.request["own_cache"]:
            settings["UV_CACHE_DIR"] = os.path.join(self.directory, "cache", "uv")
        settings.update(self.request["settings"])
        return settings


class Children:
    """Runs one child process at a time, each in a session of its own, none beyond the deadline or the client."""

    def __init__(self, deadline: float, directory: str) -> None:
        self.deadline, self.directory = deadline, directory
        self.starting = threading.Lock()
        self.child: subprocess.Popen[bytes] | None = None

    def run(self, command: list[str], env: dict[str, str]) -> tuple[int, str]:
        with self.starting:
            child = self.child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=env,
                start_new_session=True,
            )
        tail = Tail(child.stdout)
        try:
            return child.wait(max(0.1, self.deadline - time.monotonic())), tail.text()
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed("timeout", "not done in time", tail.text()) from None

    def kill(self) -> None:
        if self.child is not None and self.child.poll() is None:
            try:
                os.killpg(self.child.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def end_with_client(self) -> None:
        """Ends everything when standard input ends: the client is gone and nobody waits."""
        while os.read(0, 1 << 16):
            pass
        self.starting.acquire()
        self.kill()
        os._exit(1)


class Tail:
    """The last output of a child. What a daemon it leaves goes on printing is not waited for."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.kept = stream, b""
        self.thread = threading.Thread(target=self.drain, daemon=True)
        self.thread.start()

    def drain(self) -> None:
        while True:
            chunk = self.stream.read1(1 << 16)
            if not chunk:
                return
            self.kept = (self.kept + chunk)[-TAIL_BYTES:]

    def text(self) -> str:
        self.thread.join(1.0)
        lines = self.kept.decode("utf-8", "replace").splitlines()
        return "\n".join(line.rstrip() for line in lines[-TAIL_LINES:])


class Lock:
    """Held by one builder at a time; the kernel lets go of it when its holder dies."""

    def __init__(self, path: str, deadline: float) -> None:
        self.path, self.deadline = path, deadline
        self.file: IO[str] | None = None

    def __enter__(self) -> Lock:
        self.file = open(self.path, "a")
        if not self.take():
            tell({"event": "step", "step": "wait", "duration_s": 0.0, "detail": "another client prepares it"})
        while not self.take():
            if time.monotonic() >= self.deadline:
                raise Failed("timeout", "another preparation of this environment did not end in time")
            time.sleep(0.1)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.file is not None:
            self.file.close()

    def take(self) -> bool:
        assert self.file is not None
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # A file system that knows no locks: go on without one rather than not at all.
            return error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EINTR)
        return True


def receive_file(place: str, size: int) -> str:
    """`size` compressed bytes of standard input become an executable file."""
    os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
    temporary = f"{place}.{os.getpid()}"
    inflate = zlib.decompressobj()
    with open(temporary, "wb") as file:
        while size:
            chunk = sys.stdin.buffer.read(min(size, 1 << 16))
            if not chunk:
                raise Failed("failed", "the client went away")
            size -= len(chunk)
            file.write(inflate.decompress(chunk))
        file.write(inflate.flush())
        file.flush()
        os.fsync(file.fileno())
    os.chmod(temporary, 0o700)
    os.rename(temporary, place)
    return "sent by the client"


def write_script(path: str, program: str, arguments: str) -> None:
    quoted = program.replace("'", "'\\''")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"#!/bin/sh\nexec '{quoted}' {arguments}\"$@\"\n")
    os.chmod(path, 0o700)


def python_version(path: str) -> tuple[int, ...]:
    return numbers(said([path, "-I", "-S", "-c", "import sys; print(sys.version)"]))


def said(command: list[str], env: dict[str, str] | None = None) -> str:
    """Standard output of a quick command; empty when it cannot be run."""
    try:
        return subprocess.run(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=60,
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""


def numbers(text: str) -> tuple[int, ...]:
    """`3.11.7` at the beginning of a text, as numbers."""
    match = re.match(r"\s*(\d+(?:\.\d+)*)", text)
    return tuple(map(int, match.group(1).split("."))) if match else ()


def touch(directory: str) -> None:
    """Says that what is kept there is used now."""
    try:
        os.utime(directory)
    except OSError:
        pass  # it is not there, or on a disk that cannot be written and is still good to read


def tell(message: dict[str, Any]) -> None:
    sys.stdout.write(ANSWER + json.dumps(message) + "\n")
    sys.stdout.flush()


def tell_failure(step: str, failed: Failed) -> None:
    what = {"kind": failed.kind, "message": failed.message, "tail": failed.tail, "place": failed.place}
    tell({"event": "failed", "step": step, **what})


def main() -> None:
    request = json.loads(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())
    builder = Builder(request)
    try:
        tell(builder.run())
    except Failed as failed:
        tell_failure(builder.step_name, failed)
    except OSError as error:
        place = str(error.filename or builder.directory)
        kind = "disk" if error.errno in _FULL else "failed"
        tell_failure(builder.step_name, Failed(kind, f"{place}: {error.strerror}", place=place))


if __name__ == "__main__":
    main()
