"""Commands on this machine: what is theirs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from skyward.model.instance import Endpoint
from skyward.remote.connection import connect


def test_a_command_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it() -> None:
    connection = connect(Endpoint(kind="local"))

    said = connection.run("ps -o sid= -p $$").stdout

    assert int(said) != os.getsid(0)
    connection.close()


def test_a_command_that_ignores_its_closed_pipes_is_ended_with_its_children() -> None:
    connection = connect(Endpoint(kind="local"))
    stream = connection.open("trap '' TERM HUP; sleep 611 & echo $! $$; wait; sleep 612")
    pids = [int(word) for word in stream.read(100).split()]

    began = time.monotonic()
    connection.close()

    assert time.monotonic() - began < 5
    deadline = time.monotonic() + 5
    while any(map(_is_alive, pids)):  # killed, but perhaps not quite dead
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_detaches_itself_survives_its_connection() -> None:
    connection = connect(Endpoint(kind="local"))
    pid = int(connection.run("setsid sleep 613 >/dev/null 2>&1 </dev/null & echo $!; sleep 0.1").stdout)

    connection.close()

    assert _is_alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_no_descriptor_is_left_open() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    connection = connect(Endpoint(kind="local"))
    connection.run("true")
    before = count()

    for _ in range(20):
        connection.run("cat; echo x >&2", stdin=b"x")

    assert count() <= before
    connection.close()


def test_nothing_of_ssh_is_imported_for_this_machine() -> None:
    code = (
        "import sys; from skyward.remote.connection import connect; from skyward.model.instance import Endpoint;"
        "connect(Endpoint(kind='local')).run('true'); print('paramiko' in sys.modules)"
    )

    said = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    assert said.stdout == "False\n"


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
