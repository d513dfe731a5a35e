"""Facts about this machine and its processes, as an agent tells them. Any Python >= 3.8."""

from __future__ import annotations

import os
import sys

from skyward.remote.node.lean import socket

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, Optional, Tuple

BOOTED = "/run/cloud-init/result.json"
"""Written when cloud-init is done: its doc/status.txt, by https://github.com/canonical/cloud-init/issues/2416 (read
2026-11-30)."""


def probe(directory: str, run_directory: str) -> Dict[str, Any]:
    """What the client wants to know of this machine before it prepares it."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    space = os.statvfs(directory)
    return {
        "directory": directory, "run_directory": run_directory, "python": list(sys.version_info[:3]),
        "executable": sys.executable, "pythons": find_pythons(), "uv": _find_uv(directory), "machine": os.uname().machine,
        "system": os.uname().sysname, "libc": _libc(), "cpus": _cpus(), "memory_bytes": pages,
        "disk_free_bytes": space.f_bavail * space.f_frsize, "home": os.path.expanduser("~"), "user": _user(),
        "hostname": socket.gethostname(), "addresses": [],
    }  # fmt: skip


def find_pythons() -> Dict[str, str]:
    """Minor version -> path of the first such python, from the PATH and the usual places."""
    found = {"%d.%d" % sys.version_info[:2]: sys.executable}
    home = os.path.expanduser("~")
    places = [
        *os.environ.get("PATH", "").split(os.pathsep),
        "/usr/local/bin",
        "/usr/bin",
        os.path.join(home, ".local/bin"),
    ]
    for place in places:
        for minor in range(8, 20):
            path = os.path.join(place, "python3.%d" % minor)
            if "3.%d" % minor not in found and os.access(path, os.X_OK):
                found["3.%d" % minor] = path
    return found


def _find_uv(directory: str) -> Optional[str]:
    home = os.path.expanduser("~")
    usual = (os.path.join(home, ".local/bin"), os.path.join(home, ".cargo/bin"))
    for place in (*os.environ.get("PATH", "").split(os.pathsep), *usual):
        path = os.path.join(place, "uv")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def is_armed(path: Optional[str], lease: Optional[str]) -> bool:
    """Whether the process whose id is in that file runs, and we may renew the lease it looks at."""
    try:
        with open(path or "") as file:
            pid = int(file.read())
    except (OSError, ValueError):
        return False
    return os.path.isdir("/proc/%d" % pid) and (not lease or os.access(lease, os.W_OK))


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError, AttributeError):
        return "musl" if any(name.startswith("ld-musl") for name in os.listdir("/lib")) else ""


def _cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _user() -> str:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError):
        return str(os.getuid())


def activity_of(pid: int, depth: int = 4) -> Tuple[str, int]:
    """The state of a process as /proc names it (`T` is stopped), and the processor time that it and what it has started
    have used, in ticks."""
    try:
        with open("/proc/%d/stat" % pid) as file:
            fields = file.read().rpartition(")")[2].split()
        state, ticks = fields[0], sum(map(int, fields[11:15]))
        for thread in os.listdir("/proc/%d/task" % pid)[:64] if depth else ():
            with open("/proc/%d/task/%s/children" % (pid, thread)) as file:
                ticks += sum(activity_of(int(child), depth - 1)[1] for child in file.read().split())
        return state, ticks
    except (OSError, IndexError, ValueError):
        return "", 0
