"""Environments on instances: found, built once, built again when damaged, and failing with words."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import queue
import random
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyward.errors import BootstrapError, InstanceDiskFull, PythonMismatchError
from skyward.model.image import Image
from skyward.model.instance import Endpoint
from skyward.remote.connection import Completed, Connection, connect
from skyward.remote.environment import (
    Environment,
    check_python,
    environment_key,
    index_settings,
    prepare,
    uv_platform,
)
from skyward.remote.node import builder, leftovers
from skyward.remote.probe import Probe

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
CLIENT = sys.version_info[:2]


def make_wheel(index: Path, name: str, version: str = "1.0", requires: str = "", body: str = "") -> None:
    """A wheel of one module in a simple index that is a directory."""
    place = index / name.replace("_", "-")
    place.mkdir(parents=True, exist_ok=True)
    wheel = place / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    depends = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", body or f"version = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{depends}"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    links = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in sorted(place.glob("*.whl")))
    (place / "index.html").write_text(f"<html><body>{links}</body></html>")
    packages = "".join(f'<a href="{d.name}/">{d.name}</a>' for d in sorted(index.iterdir()) if d.is_dir())
    (index / "index.html").write_text(f"<html><body>{packages}</body></html>")


@pytest.fixture(autouse=True)
def no_other_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("UV_", "PIP_")):
            monkeypatch.delenv(name)


@pytest.fixture
def index(tmp_path: Path) -> str:
    """An index with `alpha` 1.0, and `beta` 2.0 that needs it."""
    make_wheel(tmp_path / "simple", "skytest_alpha")
    make_wheel(tmp_path / "simple", "skytest_beta", "2.0", requires="skytest_alpha")
    return f"file://{tmp_path}/simple"


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    """This machine, as its agent would see it."""
    return Probe(
        directory=str(tmp_path / "skyward"),
        run_directory=str(tmp_path / "skyward" / "runs" / "x"),
        python=sys.version_info[:3],
        executable=sys.executable,
        pythons={MINOR: sys.executable},
        machine=platform.machine(),
        system=platform.system(),
        libc=" ".join(platform.libc_ver()),
    )


@pytest.fixture
def here(probe: Probe) -> Iterator[Connection]:
    os.makedirs(probe.directory)
    connection = connect(Endpoint(kind="local"))
    yield connection
    connection.close()


class Counting:
    """A connection that counts the commands it runs."""

    def __init__(self, inner: Connection) -> None:
        self.inner, self.endpoint, self.commands = inner, inner.endpoint, list[str]()

    def open(self, command: str) -> Any:
        self.commands.append(command)
        return self.inner.open(command)

    def run(self, command: str, **how: Any) -> Completed:
        self.commands.append(command)
        return self.inner.run(command, **how)

    def close(self) -> None:
        self.inner.close()

    @property
    def is_alive(self) -> bool:
        return self.inner.is_alive


def run_in(environment: Environment, program: str) -> str:
    done = subprocess.run(
        [environment.python, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment.env},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# -- a bare Python ---------------------------------------------------------------------------------------------


def test_a_plain_image_takes_the_python_of_the_instance_without_asking(
    here: Connection, probe: Probe
) -> None:
    counting = Counting(here)

    environment = prepare(counting, probe, Image(env={"A": "1"}), client_python=CLIENT)

    assert environment.python == sys.executable
    assert environment.env == {"A": "1"}
    assert counting.commands == []


def test_an_image_of_another_minor_version_is_refused_before_anything_is_rented() -> None:
    with pytest.raises(
        PythonMismatchError, match=r"image asks for python '3\.12', but this client runs python 3\.11"
    ):
        check_python(Image(python="3.12"), (3, 11))
    check_python(Image(python="3.11.4"), (3, 11))
    check_python(Image(), (3, 11))


def test_a_missing_python_is_named_with_what_is_there_and_what_was_tried(
    here: Connection, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", "http://127.0.0.1:9/none")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    without = replace(probe, pythons={"3.9": "/usr/bin/python3.9"})

    with pytest.raises(PythonMismatchError) as caught:
        prepare(here, without, Image(), client_python=(3, 14))

    error = caught.value
    assert "no python 3.14" in str(error)
    assert error.facts[0] == "pythons there: 3.9 (/usr/bin/python3.9)"
    assert any(fact.startswith("uv: ") for fact in error.facts)
    assert (error.wanted, error.client) == ("3.14", "3.14")


def test_uv_finds_a_python_that_the_probe_did_not_see(here: Connection, probe: Probe) -> None:
    environment = prepare(here, replace(probe, pythons={}), Image(), client_python=CLIENT)

    assert run_in(environment, "import sys; print('%d.%d' % sys.version_info[:2])") == MINOR


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where uv finds the description of a Python to install: the one that runs these tests, packed as uv's own are."""
    place = tmp_path_factory.mktemp("mirror")
    with tarfile.open(place / "python.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(os.path.realpath(sys.executable), f"python/bin/python{MINOR}")
        archive.add(sysconfig.get_path("stdlib"), f"python/lib/python{MINOR}", filter=without_ballast)
    with serving(place) as address:
        version, machine = sys.version_info, platform.machine()
        about = {
            "name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux", "libc": "gnu",
            "major": version.major, "minor": version.minor, "patch": version.micro, "prerelease": "",
            "url": f"{address}/python.tar.gz", "variant": None, "build": None,
            "sha256": hashlib.sha256((place / "python.tar.gz").read_bytes()).hexdigest(),
        }  # fmt: skip
        key = f"cpython-{platform.python_version()}-linux-{machine}-gnu"
        (place / "pythons.json").write_text(json.dumps({key: about}))
        yield f"{address}/pythons.json"


def without_ballast(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    ballast = {"site-packages", "dist-packages", "test", "__pycache__", "idlelib", "tkinter", "lib2to3"}
    parts = member.name.split("/")
    is_ballast = ballast & set(parts) or any(part.startswith("config-") for part in parts)
    return None if is_ballast else member


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    handler = functools.partial(QuietFiles, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture
def machine_without_python(make_sshd: Any, probe: Probe, tmp_path: Path) -> tuple[Any, Probe]:
    """A machine whose PATH leads to no Python; the agent's own, somewhere else, is of no use to us."""
    machine = make_sshd()
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "env", "tar", "uname"):
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    agents = tmp_path / "agents-python"
    agents.write_text(f'#!/bin/sh\nPATH={tmp_path}/bin exec {os.path.realpath(sys.executable)} "$@"\n')
    agents.chmod(0o755)
    bare = replace(
        probe, directory=f"{machine.home}/.cache/skyward", executable=str(agents), pythons={}, uv=""
    )
    return machine, bare


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="as packed above")
def test_a_python_that_is_missing_is_brought_by_uv_and_runs_tasks(
    machine_without_python: tuple[Any, Probe], mirror: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, bare = machine_without_python
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", mirror)
    image = Image(pip="skytest_beta", indexes=index)
    connection = Counting(connect(machine.endpoint))
    steps: list[str] = []

    try:
        plain = prepare(
            connection, bare, Image(), client_python=CLIENT, on_step=lambda name, *_: steps.append(name)
        )
        again = prepare(connection, bare, Image(), client_python=CLIENT)
        packages = prepare(connection, bare, image, client_python=CLIENT)
        seen = connection.run(f"{packages.python} -c 'import skytest_beta; print(skytest_beta.version)'")
        outside = connection.run(f"find {machine.home} -name 'python*' -not -path '*/.cache/skyward/*'")
    finally:
        connection.close()

    assert steps == ["uv", "python"]
    assert plain.python.startswith(f"{bare.directory}/python/cpython-{MINOR}")
    assert again.python.startswith(f"{bare.directory}/python/cpython-{MINOR}")
    assert again.detail == f"python {MINOR} reused"
    assert seen.stdout == b"2.0\n"
    assert outside.stdout == b""
    assert prefix_of_a_worker(machine.endpoint, plain.python).startswith(f"{bare.directory}/python/")


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="as packed above")
def test_a_python_that_uv_brought_goes_when_nobody_uses_it_any_more(
    machine_without_python: tuple[Any, Probe], mirror: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, bare = machine_without_python
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", mirror)
    directory = Path(bare.directory)
    (directory / "archives").mkdir(parents=True)
    connection = connect(machine.endpoint)

    def prepared(**image: Any) -> Path:
        return Path(prepare(connection, bare, Image(**image), client_python=CLIENT).python)

    def is_kept_when_unused_for(days: float) -> bool:
        os.utime(home, (time.time() - days * 86400,) * 2)
        leftovers.prune(str(directory))
        return home.is_dir()

    try:
        home = prepared().resolve().parents[1]
        assert is_kept_when_unused_for(29)
        os.utime(home, (0, 0))
        prepared()
        assert time.time() - home.stat().st_mtime < 60, "whoever asks for it uses it"
        environment = prepared(pip="skytest_beta", indexes=index).parents[1]
        assert is_kept_when_unused_for(90), "an environment was made of it"
        os.utime(environment, (time.time() - 31 * 86400,) * 2)
        assert not is_kept_when_unused_for(31)
        assert not environment.exists()
        assert not list((directory / "python").glob("cpython*")), "nor a link to it"
        assert os.access(prepared(), os.X_OK), "it is brought again when it is needed"
    finally:
        connection.close()


def prefix_of_a_worker(endpoint: Endpoint, python: str) -> str:
    """`sys.prefix`, as a task that runs there sees it."""
    from skyward.contracts.engine import EngineContext
    from skyward.model.outcome import Outcome
    from skyward.model.task import Task
    from skyward.remote.link import Link, WorkerSettings
    from skyward.scheduler.engine import SSHEngine

    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    sink = SimpleNamespace(done=lambda index, outcome: outcomes.put(outcome))
    engine = SSHEngine(EngineContext(emit=lambda _: None, wants=lambda _: False, should_retry=lambda _: None))
    link = Link(endpoint, node=0, session=f"prefix-{os.getpid()}")
    try:
        link.open(30)
        link.configure(WorkerSettings(python=python, sys_path=tuple(sys.path)))
        engine.add_node(link)
        engine.submit([Task(eval, ("__import__('sys').prefix",))], sink)
        return str(outcomes.get(timeout=30).result())
    finally:
        engine.stop()
        link.close()


def test_addresses_on_this_machine_do_not_go_to_others() -> None:
    environ = {
        "UV_PYTHON_DOWNLOADS_JSON_URL": "file:///srv/pythons.json",
        "UV_PYTHON_INSTALL_MIRROR": "https://mirror.example/pythons",
    }

    assert index_settings(Image(), environ, is_local=True) == environ
    assert index_settings(Image(), environ, is_local=False) == {
        "UV_PYTHON_INSTALL_MIRROR": "https://mirror.example/pythons"
    }


# -- packages --------------------------------------------------------------------------------------------------


def test_packages_are_installed_once_and_found_in_one_round_trip(
    here: Connection, probe: Probe, index: str
) -> None:
    image = Image(pip="skytest_beta", indexes=index, env={"MODE": "x"})
    steps: list[str] = []

    first = prepare(
        here, probe, image, client_python=CLIENT, on_step=lambda name, seconds, detail: steps.append(name)
    )
    counting = Counting(here)
    second = prepare(counting, probe, image, client_python=CLIENT)

    assert (
        run_in(first, "import os, skytest_alpha, skytest_beta as b; print(b.version, os.environ['MODE'])")
        == "2.0 x"
    )
    assert first.python.startswith(probe.directory)
    assert steps[-3:] == ["python", "environment", "packages"]
    assert first.detail.startswith("environment built in ")
    assert second.detail == "environment reused"
    assert (second.python, second.env) == (first.python, first.env)
    assert len(counting.commands) == 1


def test_an_index_is_not_asked_for_what_an_earlier_one_has(
    here: Connection, probe: Probe, index: str, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "evil", "skytest_alpha", "99.0")

    environment = prepare(
        here,
        probe,
        Image(pip="skytest_alpha", indexes=[index, f"file://{tmp_path}/evil"]),
        client_python=CLIENT,
    )

    assert run_in(environment, "import skytest_alpha; print(skytest_alpha.version)") == "1.0"


def test_a_file_with_a_known_hash_may_come_from_any_index(
    here: Connection, probe: Probe, index: str, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "more", "skytest_alpha", "2.0")
    wheel = next((tmp_path / "more").rglob("*.whl"))
    pinned = f"skytest_alpha==2.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    image = Image(requirements=[pinned], indexes=[index, f"file://{tmp_path}/more"])

    environment = prepare(here, probe, image, client_python=CLIENT)

    assert run_in(environment, "import skytest_alpha; print(skytest_alpha.version)") == "2.0"


def test_a_real_package_comes_from_the_default_index(here: Connection, probe: Probe) -> None:
    try:
        environment = prepare(here, probe, Image(requirements=["iniconfig==2.0.0"]), client_python=CLIENT)
    except BootstrapError as error:
        if "Failed to fetch" not in error.tail and "network" not in error.tail:
            raise
        pytest.skip("no package index can be reached")

    assert run_in(environment, "import iniconfig; print(iniconfig.IniConfig.__name__)") == "IniConfig"


def test_hashes_are_verified(here: Connection, probe: Probe, index: str) -> None:
    image = Image(requirements=[f"skytest_alpha==1.0 --hash=sha256:{'0' * 64}"], indexes=index)

    with pytest.raises(BootstrapError, match="step 'packages' failed") as caught:
        prepare(here, probe, image, client_python=CLIENT)

    assert "hash" in caught.value.tail.lower()


def test_a_package_that_does_not_exist_is_named(here: Connection, probe: Probe, index: str) -> None:
    with pytest.raises(BootstrapError) as caught:
        prepare(here, probe, Image(pip="skytest_alpha==3", indexes=index), client_python=CLIENT)

    assert caught.value.step == "packages"
    assert "skytest-alpha" in " ".join(caught.value.facts)
    assert "Image(pip=...)" in caught.value.hints[0]


def test_a_damaged_environment_is_built_again(here: Connection, probe: Probe, index: str) -> None:
    image = Image(pip="skytest_alpha", indexes=index)
    first = prepare(here, probe, image, client_python=CLIENT)
    (Path(first.python).parents[1] / builder.MARKER).unlink()
    (Path(first.python).parents[1] / "bin" / "python").unlink()

    again = prepare(here, probe, image, client_python=CLIENT)

    assert again.detail.startswith("environment built")
    assert run_in(again, "import skytest_alpha") == ""


def test_two_clients_at_once_build_once(probe: Probe, index: str, here: Connection, tmp_path: Path) -> None:
    image = Image(pip="skytest_alpha", indexes=index, setup=f"echo built >> {tmp_path}/builds; sleep 0.5")
    details: list[str] = []

    def one() -> None:
        details.append(prepare(here, probe, image, client_python=CLIENT).detail.split(" in ")[0])

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(details) == ["environment built", *["environment reused"] * 3]
    assert (tmp_path / "builds").read_text() == "built\n"


def test_whoever_asks_for_an_environment_uses_it(here: Connection, probe: Probe, index: str) -> None:
    image = Image(pip="skytest_alpha", indexes=index)
    place = Path(prepare(here, probe, image, client_python=CLIENT).python).parents[1]
    os.utime(place, (time.time() - 40 * 86400,) * 2)

    prepare(here, probe, image, client_python=CLIENT)

    assert time.time() - place.stat().st_mtime < 60


# -- set-up ----------------------------------------------------------------------------------------------------


def test_setup_commands_run_in_the_environment_with_its_variables(
    here: Connection, probe: Probe, index: str
) -> None:
    commands = [
        'python -c \'import os; assert os.environ["GREETING"] == chr(39) + "; $HOME"\'',
        "pip install --quiet skytest_alpha",
        'python -c \'import skytest_alpha, sys; open(sys.prefix + "/note", "w").write("1")\'',
    ]
    image = Image(setup=commands, indexes=index, env={"GREETING": "'; $HOME"})

    environment = prepare(here, probe, image, client_python=CLIENT)

    assert run_in(environment, "import sys, skytest_alpha; print(open(sys.prefix + '/note').read())") == "1"


def test_values_reach_commands_exactly_as_they_are(here: Connection, probe: Probe) -> None:
    alphabet = " ;&|$`'\"\\\n\r\t(){}<>*?#!~=%-éß\u202e\U0001f40d/aZ0"
    chosen = random.Random(7)
    env = {f"NASTY_{n}": "".join(chosen.choices(alphabet, k=n % 60 + 1)) for n in range(2000)}
    image = Image(setup='cp /proc/self/environ "$VIRTUAL_ENV/environ"', env=env)

    environment = prepare(here, probe, image, client_python=CLIENT)

    seen = Path(environment.env["VIRTUAL_ENV"], "environ").read_bytes().decode().split("\0")
    assert dict(pair.split("=", 1) for pair in seen if pair.startswith("NASTY_")) == env


def test_a_failing_command_is_named_with_its_last_lines_and_without_secrets(
    here: Connection, probe: Probe
) -> None:
    image = Image(
        setup=["true", 'seq 100; echo "token is $TOKEN"; echo AKIAABCDEFGHIJKLMNOP; exit 7'],
        env={"TOKEN": "swordfish77"},
    )

    with pytest.raises(BootstrapError) as caught:
        prepare(here, probe, image, client_python=CLIENT)

    error = caught.value
    lines = error.tail.splitlines()
    assert error.step == "setup 2"
    assert "exit status 7" in str(error)
    assert len(lines) == 50
    assert lines[-2:] == ["token is ***", "***"]
    assert "swordfish" not in str(error) + error.tail + "".join(error.facts)


def test_a_command_that_does_not_end_is_ended(here: Connection, probe: Probe) -> None:
    begun = time.monotonic()

    with pytest.raises(BootstrapError, match="not done in time"):
        prepare(here, probe, Image(setup="echo before; sleep 4242"), client_python=CLIENT, deadline_s=2)

    assert time.monotonic() - begun < 15
    assert _commands("sleep 4242") == []


def test_a_command_that_leaves_a_daemon_is_not_waited_for(here: Connection, probe: Probe) -> None:
    begun = time.monotonic()

    environment = prepare(
        here, probe, Image(setup="sleep 9 & echo started"), client_python=CLIENT, deadline_s=15
    )

    assert environment.detail.startswith("environment built")
    assert time.monotonic() - begun < 8


def test_endless_output_without_lines_is_bounded(here: Connection, probe: Probe) -> None:
    with pytest.raises(BootstrapError) as caught:
        prepare(
            here, probe, Image(setup="head -c 30000000 /dev/zero | tr '\\0' x; exit 1"), client_python=CLIENT
        )

    assert len(caught.value.tail) <= builder.TAIL_BYTES


def test_a_client_that_goes_away_ends_the_build(probe: Probe) -> None:
    os.makedirs(probe.directory)
    connection = connect(Endpoint(kind="local"))

    def build() -> None:
        with pytest.raises((BootstrapError, Exception)):
            prepare(connection, probe, Image(setup="sleep 4343"), client_python=CLIENT)

    thread = threading.Thread(target=build)
    thread.start()
    _until(lambda: bool(_commands("sleep 4343")))
    connection.close()
    thread.join(20)

    _until(lambda: not _commands("sleep 4343"))
    assert not thread.is_alive()


# -- disks -----------------------------------------------------------------------------------------------------


def test_a_full_disk_names_the_directory(here: Connection, probe: Probe, tmp_path: Path) -> None:
    image = Image(setup="echo 'cp: error writing x: No space left on device'; exit 1")

    with pytest.raises(InstanceDiskFull, match=r"the disk is full or read-only at '.*skyward'") as caught:
        prepare(here, probe, image, client_python=CLIENT)

    assert caught.value.directory == probe.directory
    assert "df -h" in caught.value.hints[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("options", ["size=24k", "size=4m,nr_inodes=8", "ro"])
def test_a_disk_without_room_inodes_or_permission_is_told(
    probe: Probe, index: str, options: str, tmp_path: Path
) -> None:
    """In a mount namespace of its own, so that nothing is left of the small disk."""
    program = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from skyward.remote.environment import prepare
from skyward.remote.connection import connect
from skyward.remote.probe import Probe
from skyward.model.image import Image
from skyward.model.instance import Endpoint
from skyward.errors import InstanceDiskFull
try:
    prepare(connect(Endpoint(kind="local")), Probe(**{probe_values(probe)!r}), Image(pip="skytest_beta", indexes={index!r}))
except InstanceDiskFull as error:
    print("told", error.directory)
"""
    os.makedirs(probe.directory)
    mount = f'mount -t tmpfs -o {options} none {probe.directory} && exec {sys.executable} -c "$0"'

    done = subprocess.run(["unshare", "-m", "sh", "-c", mount, program], capture_output=True, text=True)

    assert done.stdout.startswith(f"told {probe.directory}"), done.stdout + done.stderr


def probe_values(probe: Probe) -> dict[str, Any]:
    return {name: getattr(probe, name) for name in Probe.__dataclass_fields__}


# -- Debian packages -------------------------------------------------------------------------------------------


def test_debian_packages_that_are_there_need_no_root(here: Connection, probe: Probe) -> None:
    installed = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package}=${Version}", "dpkg"], capture_output=True, text=True
    )
    if installed.returncode:
        pytest.skip("no Debian")

    environment = prepare(here, probe, Image(apt=["dpkg", installed.stdout]), client_python=CLIENT)

    assert environment.python == sys.executable


def test_debian_packages_without_root_or_sudo_are_refused(
    here: Connection, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shims(tmp_path, monkeypatch, {"apt-get": "exit 1", "sudo": "exit 1", "dpkg-query": "exit 1"})
    monkeypatch.setenv("PYTHONPATH", "")
    program = Path(builder.__file__).read_text().replace("os.geteuid()", "1000")
    monkeypatch.setattr("skyward.remote.environment._program", lambda: program.encode())

    with pytest.raises(BootstrapError, match="need root or passwordless sudo"):
        prepare(here, probe, Image(apt="skytest-package"), client_python=CLIENT)


def test_package_lists_are_fetched_only_when_a_package_is_not_found(
    here: Connection, probe: Probe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script = f'echo "$@" >> {log}; case "$*" in *update*) touch {tmp_path}/fresh;; *install*) test -e {tmp_path}/fresh;; esac'
    _shims(tmp_path, monkeypatch, {"apt-get": script, "dpkg-query": "exit 1", "sudo": 'shift; exec "$@"'})

    prepare(here, probe, Image(apt=["skytest-package", "git=1:2.3-4"]), client_python=CLIENT)

    assert [line.split("300 ")[1] for line in log.read_text().splitlines()] == [
        "--no-install-recommends install -- skytest-package git=1:2.3-4",
        "update",
        "--no-install-recommends install -- skytest-package git=1:2.3-4",
    ]


# -- over SSH --------------------------------------------------------------------------------------------------


def test_a_machine_with_nothing_but_python_gets_uv_from_the_client(
    make_sshd: Any, probe: Probe, index: str
) -> None:
    machine = make_sshd()
    probe = replace(probe, directory=f"{machine.home}/.cache/skyward", executable="/usr/bin/python3")
    connection = Counting(connect(machine.endpoint))
    image = Image(pip="skytest_beta", indexes=index, env={"CANARY": "canary-7f3a"})
    steps: list[tuple[str, str]] = []

    try:
        first = prepare(
            connection, probe, image, client_python=CLIENT, on_step=lambda n, s, d: steps.append((n, d))
        )
        seen = connection.run(f"{first.python} -c 'import skytest_beta; print(skytest_beta.version)'")
        other = prepare(connection, probe, Image(pip="skytest_alpha", indexes=index), client_python=CLIENT)
    finally:
        connection.close()

    assert seen.stdout == b"2.0\n"
    assert steps[0] == ("uv", "sent by the client")
    assert other.detail.startswith("environment built")
    assert len(connection.commands) == 4  # ask, send uv, our own, and the second image asks once
    assert not any("canary" in command or "skytest" in command for command in connection.commands[:2])
    assert not (Path.home() / ".cache" / "skyward" / "envs" / environment_key(image, probe, MINOR)).exists()


def test_a_machine_behind_a_company_proxy_is_trusted_as_its_other_programs_trust(
    make_sshd: Any, probe: Probe, index: str, tmp_path: Path
) -> None:
    machine, uv = make_sshd(), shutil.which("uv", path=str(Path(sys.executable).parent))
    shim = tmp_path / "uv"
    refuses = '[ "$1" = pip ] && [ -z "$UV_NATIVE_TLS" ] && echo "invalid peer certificate: UnknownIssuer" && exit 2'
    shim.write_text(f'#!/bin/sh\n{refuses}\nexec {uv} "$@"\n')
    shim.chmod(0o755)
    probe = replace(probe, directory=f"{machine.home}/.cache/skyward", uv=str(shim))
    connection = connect(machine.endpoint)

    try:
        environment = prepare(
            connection, probe, Image(pip="skytest_alpha", indexes=index), client_python=CLIENT
        )
    finally:
        connection.close()

    assert environment.detail.startswith("environment built")


@pytest.mark.skipif(os.geteuid() != 0, reason="makes an account for another user")
def test_an_ordinary_user_needs_no_more_than_a_home(make_sshd: Any, probe: Probe, tmp_path: Path) -> None:
    python = shutil.which(f"python{MINOR}", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip(f"no python {MINOR} that everybody may run")
    machine = make_sshd(user="ubuntu")
    make_wheel(machine.home_on_disk / "simple", "skytest_alpha")
    probe = replace(
        probe, directory=f"{machine.home}/.cache/skyward", executable=python, pythons={MINOR: python}
    )
    image = Image(
        pip="skytest_alpha", indexes=f"file://{machine.home}/simple", setup="id -un > $VIRTUAL_ENV/who"
    )
    connection = connect(machine.endpoint)

    try:
        environment = prepare(connection, probe, image, client_python=CLIENT)
        who = connection.run(
            f"cat {environment.env['VIRTUAL_ENV']}/who; find ~ -maxdepth 1 -user ubuntu -name '.*' | sort"
        )
    finally:
        connection.close()

    assert who.stdout.decode().split() == ["ubuntu", f"{machine.home}/.cache"]


@pytest.mark.parametrize("version", ["3.8", "3.9", "3.13"])
def test_the_builder_runs_on_any_python_from_3_8(
    version: str, here: Connection, probe: Probe, index: str
) -> None:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no python {version}")

    environment = prepare(
        here,
        replace(probe, executable=str(found[0])),
        Image(pip="skytest_alpha", indexes=index),
        client_python=CLIENT,
    )

    assert run_in(environment, "import skytest_alpha") == ""


def test_a_chatty_login_shell_does_not_confuse_the_answer(here: Connection, probe: Probe, index: str) -> None:
    class Chatty(Counting):
        def open(self, command: str) -> Any:
            return super().open(f"echo 'Welcome to \x1e[31mUbuntu'; printf 'no newline'; {command}")

    environment = prepare(
        Chatty(here), probe, Image(pip="skytest_alpha", indexes=index), client_python=CLIENT
    )

    assert environment.detail.startswith("environment built")


def test_a_builder_that_dies_is_told(here: Connection, probe: Probe) -> None:
    with pytest.raises(BootstrapError, match="exit status 127"):
        prepare(here, replace(probe, executable="/nowhere/python3"), Image(pip="x"), client_python=CLIENT)


# -- pure parts ------------------------------------------------------------------------------------------------


def test_the_key_tells_images_pythons_and_machines_apart(probe: Probe) -> None:
    image = Image(pip="a")
    keys = [
        environment_key(image, probe, "3.11"),
        environment_key(Image(pip="b"), probe, "3.11"),
        environment_key(image, probe, "3.12"),
        environment_key(image, replace(probe, machine="aarch64"), "3.11"),
        environment_key(image, replace(probe, libc="musl"), "3.11"),
    ]

    assert len(set(keys)) == len(keys)
    assert environment_key(Image(pip="a", env={"X": "1"}), probe, "3.11") == keys[0]


def test_the_indexes_of_the_client_apply_after_those_of_the_image() -> None:
    environ = {
        "PIP_INDEX_URL": "https://u:p@mirror/simple",
        "PIP_EXTRA_INDEX_URL": "https://extra/simple file:///local",
        "UV_FIND_LINKS": "/wheels",
        "UV_INDEX_ACME_PASSWORD": "x",
        "HOME": "/root",
    }

    settings = index_settings(Image(indexes="https://own/simple"), environ, is_local=False)

    assert settings == {
        "UV_DEFAULT_INDEX": "https://u:p@mirror/simple",
        "UV_INDEX": "https://own/simple https://extra/simple",
        "UV_INDEX_ACME_PASSWORD": "x",
    }
    assert index_settings(Image(), environ, is_local=True)["UV_FIND_LINKS"] == "/wheels"


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (("Linux", "x86_64", "glibc 2.36"), "x86_64-unknown-linux-gnu"),
        (("Linux", "x86_64", "glibc 2.12"), "x86_64-unknown-linux-musl"),
        (("Linux", "aarch64", "musl"), "aarch64-unknown-linux-musl"),
        (("Linux", "arm64", ""), "aarch64-unknown-linux-musl"),
        (("Darwin", "arm64", ""), "aarch64-apple-darwin"),
        (("Linux", "riscv64", "glibc 2.36"), None),
        (("FreeBSD", "amd64", ""), None),
    ],
)
def test_the_uv_that_runs_on_a_machine(machine: tuple[str, str, str], expected: str | None) -> None:
    assert uv_platform(*machine) == expected


def test_a_machine_uv_does_not_run_on_is_named(here: Connection, probe: Probe) -> None:
    strange = replace(probe, machine="riscv64", uv=None)

    class Far(Counting):
        def __init__(self, inner: Connection) -> None:
            super().__init__(inner)
            self.endpoint = Endpoint(host="far")

    with pytest.raises(BootstrapError, match="far: no uv for Linux riscv64: uv has no build for it"):
        prepare(Far(here), strange, Image(pip="x"), client_python=CLIENT)


# -- what the tests use ----------------------------------------------------------------------------------------


def _commands(text: str) -> list[int]:
    """Processes whose command line is exactly this text, split at spaces."""
    import psutil

    return [p.pid for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == text.split()]


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _shims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
    (tmp_path / "bin").mkdir()
    for name, script in scripts.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
