"""Makes buckets appear as directories. Runs on the machine as root, as text; standard library only.

The first of these that works: Mountpoint for S3, s3fs, a copy. What is mounted already stays. Credentials are the
machine's own (its instance profile). Arguments: whose the files are, user and group. Request: {"buckets": [{"path": ...,
"bucket": ..., "prefix": ..., "read_only": ...}], "endpoint": ..., "action": "open" or "close"}; "close" sends what was
written into copies back.

Mountpoint: https://github.com/awslabs/mountpoint-s3/blob/main/doc/CONFIGURATION.md; s3fs:
https://github.com/s3fs-fuse/s3fs-fuse/wiki/Fuse-Over-Amazon (both read 2026-11-20).
"""

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from typing import Any, Callable, Dict, List, Tuple

COPIES = "/run/skyward/copies.json"
PACKAGES = "https://s3.amazonaws.com/mountpoint-s3-release/latest/%s/mount-s3.%s"
_TRIED: Dict[str, str] = {}


class Failed(Exception):
    pass


class Bucket:
    """One bucket, or what lies under a prefix of it, and where it appears."""

    def __init__(self, given: Dict[str, Any], endpoint: str) -> None:
        self.path, self.name, self.is_read_only = given["path"], given["bucket"], given.get("read_only", True)
        prefix = given.get("prefix", "")
        self.prefix = prefix + "/" if prefix and not prefix.endswith("/") else prefix
        self.endpoint = endpoint
        self.uid, self.gid = sys.argv[1:3]

    @property
    def address(self) -> str:
        return "s3://%s/%s" % (self.name, self.prefix)


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """A program with its arguments as they are. It may fail; what it says is kept."""
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=env,
        )
    except (OSError, ValueError) as error:  # ValueError: no argument can hold a NUL
        return subprocess.CompletedProcess(command, 127, "%s: %s" % (command[0], error))


def must(*command: str) -> None:
    done = run(*command)
    if done.returncode:
        last = done.stdout.strip().splitlines()[-1:] or ["it said nothing"]
        raise Failed("%s failed with %d: %s" % (command[0], done.returncode, last[0][-300:]))


def is_mounted(path: str) -> bool:
    return run("mountpoint", "-q", path).returncode == 0


# -- programs that are missing ----------------------------------------------------------------------------------


def need(program: str, install: Callable[[], None]) -> None:
    """Installs a program, once; why it cannot be had is remembered."""
    if shutil.which(program):
        return
    if program not in _TRIED:
        try:
            install()
            _TRIED[program] = "not there although it was installed"
        except Failed as error:
            _TRIED[program] = "not installed: %s" % error
    if not shutil.which(program):
        raise Failed("%s: %s" % (program, _TRIED[program]))


def install_package(apt: str, dnf: str = "") -> None:
    if shutil.which("apt-get"):
        if run("apt-cache", "show", apt).returncode:
            must("apt-get", "update")
        must("apt-get", "-y", "-o", "DPkg::Lock::Timeout=120", "install", "--no-install-recommends", apt)
    elif shutil.which("dnf") or shutil.which("yum"):
        must(shutil.which("dnf") or "yum", "-y", "install", dnf or apt)
    else:
        raise Failed("no apt-get, dnf or yum")


def install_mountpoint() -> None:
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine())
    kind = "deb" if shutil.which("apt-get") else "rpm"
    place = "/run/skyward/mount-s3." + kind
    os.makedirs(os.path.dirname(place), exist_ok=True)
    must(
        "curl", "-fsSL", "--connect-timeout", "5", "--max-time", "60", "-o", place, PACKAGES % (machine, kind)
    )
    try:
        install_package(place)
    finally:
        os.unlink(place)


# -- ways to make a bucket appear -------------------------------------------------------------------------------


def by_mountpoint(bucket: Bucket) -> None:
    check_fuse()
    need("mount-s3", install_mountpoint)
    rights = ["--read-only"] if bucket.is_read_only else ["--allow-delete", "--allow-overwrite"]
    command = ["mount-s3", "--allow-other", "--uid=" + bucket.uid, "--gid=" + bucket.gid, *rights]
    if bucket.prefix:
        command.append("--prefix=" + bucket.prefix)
    if bucket.endpoint:
        command += ["--endpoint-url=" + bucket.endpoint, "--force-path-style"]
    mount(bucket, [*command, bucket.name, bucket.path])


def by_s3fs(bucket: Bucket) -> None:
    check_fuse()
    need("s3fs", lambda: install_package("s3fs", "s3fs-fuse"))
    source = bucket.name + (":/" + bucket.prefix.rstrip("/") if bucket.prefix else "")
    options = ["allow_other", "iam_role=auto", "umask=0022", "uid=" + bucket.uid, "gid=" + bucket.gid]
    options += ["ro"] if bucket.is_read_only else []
    options += ["url=" + bucket.endpoint, "use_path_request_style"] if bucket.endpoint else []
    # A prefix for which there is no object is known only to versions that have this option; older ones refuse it.
    for more in (["compat_dir"], []):
        try:
            return mount(
                bucket,
                ["s3fs", source, bucket.path] + [part for one in options + more for part in ("-o", one)],
            )
        except Failed:
            if not more:
                raise


def mount(bucket: Bucket, command: List[str]) -> None:
    """Believes `mountpoint`, not the exit status: programs have ended well and left the path what it was, a directory
    of the machine's own disk."""
    must(*command)
    if not is_mounted(bucket.path):
        raise Failed("%s ended well, but nothing is mounted" % command[0])


def check_fuse() -> None:
    try:
        if stat.S_ISCHR(os.stat("/dev/fuse").st_mode):
            return
    except OSError:
        pass
    raise Failed("no /dev/fuse here")


def by_copy(bucket: Bucket) -> None:
    need("aws", lambda: install_package("awscli"))
    must(*copy_command(bucket, bucket.address, bucket.path))
    if bucket.is_read_only:
        make_read_only(bucket.path)
    else:
        os.chown(bucket.path, int(bucket.uid), int(bucket.gid))


def copy_command(bucket: Bucket, source: str, target: str) -> List[str]:
    endpoint = ["--endpoint-url=" + bucket.endpoint] if bucket.endpoint else []
    return ["aws", *endpoint, "s3", "sync", "--only-show-errors", source, target]


def make_read_only(path: str) -> None:
    """By the kernel where it may be asked, else by taking away the right to write."""
    if run("mount", "--bind", path, path).returncode == 0:
        if run("mount", "-o", "remount,bind,ro", path).returncode == 0:
            return
        run("umount", path)
    must("chmod", "-R", "a-w", path)


WAYS: List[Tuple[str, Callable[[Bucket], None]]] = [
    ("mount-s3", by_mountpoint),
    ("s3fs", by_s3fs),
    ("a copy", by_copy),
]


def open_bucket(bucket: Bucket) -> str:
    os.makedirs(bucket.path, exist_ok=True)
    if is_mounted(bucket.path) or bucket.path in copies():
        return "as before"
    problems = []
    for name, way in WAYS:
        try:
            way(bucket)
        except Failed as error:
            problems.append("%s: %s" % (name, error))
            continue
        if name == "a copy" and not bucket.is_read_only:
            remember(bucket)
            return "a copy; what is written is sent back when the pool ends"
        return name
    raise Failed("; ".join(problems))


def copies() -> Dict[str, Any]:
    try:
        with open(COPIES) as file:
            found: Dict[str, Any] = json.load(file)
            return found
    except (OSError, ValueError):
        return {}


def remember(bucket: Bucket) -> None:
    known = copies()
    known[bucket.path] = bucket.address
    os.makedirs(os.path.dirname(COPIES), exist_ok=True)
    with open(COPIES, "w") as file:
        json.dump(known, file)


def close_bucket(bucket: Bucket) -> str:
    if bucket.path not in copies():
        return "nothing to send"
    must(*copy_command(bucket, bucket.path, bucket.address))
    return "sent to %s" % bucket.address


def main() -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be text
    request = json.load(sys.stdin)
    act = close_bucket if request.get("action") == "close" else open_bucket
    problems = []
    for given in request["buckets"]:
        bucket = Bucket(given, request.get("endpoint") or "")
        try:
            print("%s: %s" % (bucket.path, act(bucket)))
        except (Failed, OSError, ValueError) as error:
            problems.append("%s at %s: %s" % (bucket.address, bucket.path, error))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
