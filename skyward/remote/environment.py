"""Makes the Python environment an image declares, on an instance that can be reached.

Without packages that is a bare Python of the client's minor version. With packages it is a virtual environment
made by uv and kept under a name made of the image's content, so that the next pool only asks whether it is
there. What runs on the instance is `builder.py`; this module asks it, sends it uv when it has none, and turns
its answers into values and errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from skyward.errors import BootstrapError, ConnectionLost, InstanceDiskFull, PythonMismatchError
from skyward.model.image import Image
from skyward.remote.connection import Connection
from skyward.remote.probe import Probe
from skyward.remote.secrets import Redactor, url_secrets

OnStep = Callable[[str, float, str], None]
"""Called after each step with its name, its seconds and a detail in words."""

_GRACE_S = 15.0
"""How much longer than the deadline the builder may take to say that it has passed."""
_FETCH_TIMEOUT_S = 120.0
_OLDEST_GLIBC = (2, 17)
"""What uv's own builds need: https://docs.astral.sh/uv/reference/policies/platforms/ (read 2025-01-31)."""

# Reads the length of the program, then the program; the request follows. Nothing in here ever varies.
_BOOT = (
    "-I -c 'import sys;r=sys.stdin.buffer;"
    'exec(compile(r.read(int(r.readline())),"skyward-builder","exec"),{"__name__":"__main__"})\''
)

# Variables of the client's environment that say where packages come from; they apply on instances, too.
_INDEX_VARIABLES = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_NO_INDEX",
)
_OTHER_VARIABLES = (
    "UV_TORCH_BACKEND",
    "UV_EXCLUDE_NEWER",
    "UV_PYTHON_INSTALL_MIRROR",
    "UV_PYTHON_DOWNLOADS_JSON_URL",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
)
_ADDRESSES = frozenset(
    {*_INDEX_VARIABLES, "UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL"} - {"UV_NO_INDEX"}
)
_PIP_VARIABLES = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
}
"""What pip calls them -> what uv calls them; uv's own win."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where tasks of one image run on one instance."""

    python: str
    """Path of the interpreter on the instance."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables the workers are started with, over those of the login."""
    detail: str = ""
    """What was done, in a few words: "python 3.11 at /usr/bin/python3.11", "environment reused"."""


def check_python(image: Image, client_python: tuple[int, int] = sys.version_info[:2]) -> None:
    """Refuses an image whose Python could not read what this client sends. Needs no instance.

    Raises:
        PythonMismatchError: another minor version.
    """
    minor = ".".join(map(str, client_python))
    if image.python is None or image.python.split(".")[:2] == minor.split("."):
        return
    wanted = ".".join(image.python.split(".")[:2])
    raise PythonMismatchError(
        f"image asks for python {image.python!r}, but this client runs python {minor}, and functions only "
        "travel between equal minor versions",
        hints=[f"Image(python={minor!r})", f"uv run --python {wanted} skyward run ..."],
        wanted=image.python,
        client=minor,
    )


def prepare(
    connection: Connection,
    probe: Probe,
    image: Image,
    *,
    client_python: tuple[int, int] = sys.version_info[:2],
    on_step: OnStep | None = None,
    deadline_s: float = 600.0,
) -> Environment:
    """The environment of `image` on the instance behind `connection`, found or built.

    Costs no round trip for a bare Python that the probe saw, one for an environment that is there. Two
    clients that prepare the same environment at once build it once.

    Raises:
        PythonMismatchError: no Python of the client's minor version, and uv cannot provide one.
        InstanceDiskFull: no space or inodes, or a read-only disk; names the directory.
        BootstrapError: anything else; carries the step and its last 50 lines without secrets.
        ConnectionLost: the connection broke.
    """
    check_python(image, client_python)
    minor = ".".join(map(str, client_python))
    found = _bare_python(probe, image, minor)
    if found and image.is_plain:
        return Environment(python=found, env=dict(image.env), detail=f"python {minor} at {found}")
    preparation = _Preparation(connection, probe, image, minor, on_step, time.monotonic() + deadline_s)
    return preparation.run()


def environment_key(image: Image, probe: Probe, minor: str) -> str:
    """What the environment of `image` is called on an instance. Reads the requirements file."""
    if not _needs_venv(image):
        return f"python-{image.python or minor}"
    machine = probe.machine + ("-musl" if _is_musl(probe) else "")
    return f"{image.environment_hash()[:24]}-{image.python or minor}-{machine or 'unknown'}"


def index_settings(image: Image, environ: Mapping[str, str], *, is_local: bool) -> dict[str, str]:
    """uv's variables that say where packages come from: the image's indexes first, then the client's own.

    Paths and `file:` addresses of the client's environment mean nothing on another machine and stay here.
    """
    settings = {uv: environ[pip] for pip, uv in _PIP_VARIABLES.items() if environ.get(pip)}
    settings |= {name: environ[name] for name in (*_INDEX_VARIABLES, *_OTHER_VARIABLES) if environ.get(name)}
    settings |= {name: value for name, value in environ.items() if _is_index_login(name)}
    if not is_local:
        settings = {name: _without_paths(name, value) for name, value in settings.items()}
    own = " ".join([*image.indexes, *settings.get("UV_INDEX", "").split()])
    return {name: value for name, value in {**settings, "UV_INDEX": own}.items() if value}


class _Preparation:
    """One image on one instance, until a deadline."""

    def __init__(
        self,
        connection: Connection,
        probe: Probe,
        image: Image,
        minor: str,
        on_step: OnStep | None,
        deadline: float,
    ) -> None:
        self.connection, self.probe, self.image, self.minor = connection, probe, image, minor
        self.on_step, self.deadline = on_step, deadline
        self.is_local = connection.endpoint.kind == "local"
        self.settings = index_settings(image, os.environ, is_local=self.is_local)
        self.redactor = Redactor(
            env={
                **image.env,
                **{name: self.settings[name] for name in self.settings if _is_index_login(name)},
            }
        )
        self.redactor.add(
            *(
                secret
                for value in self.settings.values()
                for url in value.split()
                for secret in url_secrets(url)
            )
        )

    def run(self) -> Environment:
        answer = self._ask(b"")
        if answer.get("kind") == "need-uv":
            answer = self._ask(self._uv())
        if answer["event"] != "done":
            self._fail(answer)
        what = "environment" if _needs_venv(self.image) else f"python {self.minor}"
        return Environment(
            python=answer["python"],
            env={**answer["env"], **self.image.env},
            detail=f"{what} {answer['detail']}",
        )

    def _ask(self, uv: bytes) -> dict[str, Any]:
        """One run of the builder: the message it ends with."""
        program = _program()
        request = json.dumps(self._request(uv)).encode()
        head = b"%d\n%s%d\n%s" % (len(program), program, len(request), request)
        stream = self.connection.open(f"exec {shlex.quote(self.probe.executable)} {_BOOT}")
        watch = threading.Timer(self._left_s() + _GRACE_S, stream.close)
        watch.daemon = True
        watch.start()
        try:
            with contextlib.suppress(ConnectionLost):  # what broke shows when its answers are read
                stream.write(head)
                stream.write(uv)
            for message in _messages(stream.read):
                if message["event"] != "step":
                    return message
                self._tell(message)
            raise self._silence(stream.exit_status(), stream.stderr_tail())
        finally:
            watch.cancel()
            stream.close()

    def _request(self, uv: bytes) -> dict[str, Any]:
        image, probe = self.image, self.probe
        wanted = image.python or self.minor
        return {
            "directory": probe.directory,
            "key": environment_key(image, probe, self.minor),
            "deadline_s": self._left_s(),
            "venv": _needs_venv(image),
            "python": wanted,
            "pythons": [probe.pythons[self.minor]] if self.minor in probe.pythons else [],
            "apt": list(image.apt),
            "requirements": list(image.requirement_lines()),
            "setup": list(image.setup),
            "env": dict(image.env),
            "settings": self.settings,
            "own_cache": not self.is_local,
            "uv": (_own_uv() if self.is_local else probe.uv) or "",
            "uv_digest": _digest_of_own_uv(),
            "uv_bytes": len(uv),
        }

    def _uv(self) -> bytes:
        """The uv that runs on the instance, compressed."""
        path, reason = _uv_for(self.probe.system, self.probe.machine, self.probe.libc)
        if path is None:
            raise BootstrapError(
                f"{self._where}: no uv for {self.probe.system or 'an unknown system'} {self.probe.machine}: {reason}",
                hints=["install uv on the instance: https://docs.astral.sh/uv/getting-started/installation"],
                step="uv",
            )
        return _compressed(path)

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self.on_step is not None:
            self.on_step(message["step"], message["duration_s"], self.redactor.redact(message["detail"]))

    def _fail(self, answer: Mapping[str, Any]) -> NoReturn:
        step, kind, tail = answer["step"], answer["kind"], self.redactor.redact(answer["tail"])
        message = self.redactor.redact(answer["message"])
        lines = tail.splitlines()
        if kind == "disk":
            place = answer["place"] or self.probe.directory
            raise InstanceDiskFull(
                f"{self._where}: the disk is full or read-only at {place!r} (step {step!r})",
                facts=lines[-3:] or [message],
                hints=[f"df -h {shlex.quote(place)}; df -i {shlex.quote(place)}"],
                step=step,
                tail=tail,
                directory=place,
            )
        if kind == "python":
            raise self._mismatch(lines, step, tail)
        raise BootstrapError(
            f"{self._where}: step {self._name(step)!r} failed: {message}",
            facts=lines[-10:],
            hints=self._hints(tail),
            step=step,
            tail=tail,
        )

    def _mismatch(self, lines: Sequence[str], step: str, tail: str) -> PythonMismatchError:
        wanted = self.image.python or self.minor
        there = ", ".join(f"{minor} ({path})" for minor, path in sorted(self.probe.pythons.items())) or "none"
        return PythonMismatchError(
            f"{self._where}: no python {wanted}, which this client runs, and uv cannot provide one",
            facts=[
                f"pythons there: {there}",
                *(f"uv: {line.strip()}" for line in lines[-3:] if line.strip()),
            ],
            hints=[f"install python{self.minor} on the instance", *self._usable_client()],
            step=step,
            tail=tail,
            wanted=wanted,
            client=self.minor,
            found=dict(self.probe.pythons),
        )

    def _usable_client(self) -> Iterator[str]:
        """The same client on a Python the instance has; Skyward itself needs 3.11."""
        usable = [minor for minor in self.probe.pythons if tuple(map(int, minor.split("."))) >= (3, 11)]
        if usable:
            yield f"uv run --python {max(usable)} skyward run ..."

    def _name(self, step: str) -> str:
        """A set-up step is named after the command the user wrote."""
        kind, _, number = step.partition(" ")
        return (
            self.redactor.redact(self.image.setup[int(number) - 1])
            if kind == "setup" and number.isdigit()
            else step
        )

    def _hints(self, tail: str) -> list[str]:
        if "No solution found" in tail or "not found in the package registry" in tail:
            return ["check the names and versions in Image(pip=...); Image(indexes=...) adds package indexes"]
        return []

    def _silence(self, status: int | None, stderr: str) -> Exception:
        """The builder ended without its last message."""
        if self._left_s() <= 0:
            return BootstrapError(
                f"{self._where}: preparing the environment did not end in time", step="environment"
            )
        if status is None:
            return ConnectionLost(f"{self._where}: the connection broke while the environment was prepared")
        tail = self.redactor.redact(stderr)
        return BootstrapError(
            f"{self._where}: preparing the environment ended with exit status {status}",
            facts=tail.splitlines()[-10:],
            step="environment",
            tail=tail,
        )

    def _left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    @property
    def _where(self) -> str:
        return str(self.connection.endpoint)


def _bare_python(probe: Probe, image: Image, minor: str) -> str | None:
    """The interpreter the probe saw. An exact version ("3.11.9") is for the instance to compare."""
    return None if image.python and image.python != minor else probe.pythons.get(minor)


def _needs_venv(image: Image) -> bool:
    return bool(image.pip or image.requirements or image.setup)


def _messages(read: Callable[[int], bytes]) -> Iterator[dict[str, Any]]:
    """The builder's lines, in order, until the stream ends; everything else on the stream is passed over."""
    from skyward.remote.node.builder import ANSWER

    pending = b""
    while chunk := read(1 << 16):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            _, found, message = line.decode("utf-8", "replace").partition(ANSWER)
            if found:
                yield json.loads(message)


@cache
def _program() -> bytes:
    return (Path(__file__).parent / "node" / "builder.py").read_bytes()


def _is_index_login(name: str) -> bool:
    return name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD"))


def _without_paths(name: str, value: str) -> str:
    if name not in _ADDRESSES:
        return value
    urls = value.replace(",", " ").split()
    return " ".join(url for url in urls if "://" in url and "file://" not in url)


# -- uv ---------------------------------------------------------------------------------------------------------


@cache
def _own_uv() -> str:
    """The uv installed beside Skyward."""
    import uv

    return str(uv.find_uv_bin())


@cache
def _digest_of_own_uv() -> str:
    """Names the uv that is sent; the version is what matters, not the machine."""
    from importlib.metadata import version

    return hashlib.sha256(f"uv {version('uv')}".encode()).hexdigest()


@cache
def _compressed(path: Path) -> bytes:
    return zlib.compress(path.read_bytes(), 1)


def uv_platform(system: str, machine: str, libc: str) -> str | None:
    """What uv calls a machine it has a build for; None where it has none."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())
    if system.lower() == "darwin":
        return f"{machine}-apple-darwin"
    if system.lower() != "linux" or machine not in ("x86_64", "aarch64"):
        return None
    name, _, version = libc.partition(" ")
    is_recent = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= _OLDEST_GLIBC
    return f"{machine}-unknown-linux-{'gnu' if is_recent else 'musl'}"


def _uv_for(system: str, machine: str, libc: str) -> tuple[Path | None, str]:
    """A uv binary for such a machine, or None and why not: the one installed here, or fetched by it."""
    wanted = uv_platform(system, machine, libc)
    if wanted is None:
        return None, "uv has no build for it"
    if wanted == uv_platform(platform.system(), platform.machine(), " ".join(platform.libc_ver())):
        return Path(_own_uv()), ""
    return _fetched_uv(wanted)


@cache
def _fetched_uv(wanted: str) -> tuple[Path | None, str]:
    """The same version of uv for another platform, out of the package index, kept for this process."""
    import atexit
    import shutil
    import subprocess
    from importlib.metadata import version

    target = tempfile.mkdtemp(prefix="skyward-uv-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    command = [
        _own_uv(),
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        target,
        "--python-platform",
        wanted,
    ]
    try:
        done = subprocess.run(
            [*command, "--python", sys.executable, "--only-binary", ":all:", f"uv=={version('uv')}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FETCH_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"it cannot be fetched: {error}"
    binary = Path(target) / "bin" / "uv"
    if done.returncode or not binary.exists():
        return None, f"it cannot be fetched: {done.stderr.strip().splitlines()[-1:]}"
    return binary, ""


def _is_musl(probe: Probe) -> bool:
    return probe.libc.startswith("musl")
