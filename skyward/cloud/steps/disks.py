"""Mounts the disks that were attached to this machine. Runs there as root, as text; standard library only.

A disk is found by the id its cloud gave it, formatted only if it has never held anything, and mounted where it belongs.
What is mounted already stays. Arguments: who a new disk belongs to, user and group. Request: {"disks": [{"id": ..., "path": ..., "device": ...}], "wait_s": ...}.
"""

import glob
import json
import os
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

BY_ID = "/dev/disk/by-id"
BLANK_BYTES = 1 << 20
"""How much at either end of a disk is looked at before it is called blank."""


class Failed(Exception):
    pass


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """A program with its arguments as they are. It may fail; what it says is kept."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except (OSError, ValueError) as error:  # ValueError: no argument can hold a NUL
        return subprocess.CompletedProcess(command, 127, "", "%s: %s" % (command[0], error))


def must(*command: str) -> str:
    done = run(*command)
    if done.returncode:
        raise Failed(
            "%s failed with %d: %s" % (" ".join(command), done.returncode, done.stderr.strip()[-500:])
        )
    return done.stdout


def find(disk: str, device: Optional[str] = None) -> Optional[str]:
    """The device of a disk: by the names udev gives it, by its serial number, or where Xen puts what was attached
    as /dev/sdX. None while it is not there."""
    names = {disk, disk.replace("-", "")}
    links = [
        link
        for link in glob.glob(BY_ID + "/*")
        if any(is_named(os.path.basename(link), name) for name in names)
    ]
    found = {os.path.realpath(link) for link in links}
    for place in glob.glob("/sys/block/*/serial") + glob.glob("/sys/block/*/device/serial"):
        if read(place).strip() in names | {disk[:20]}:
            found.add("/dev/" + place.split("/")[3])
    if len(found) > 1:
        raise Failed("%s could be any of %s" % (disk, ", ".join(sorted(found))))
    for place in (device or "", (device or "").replace("/dev/sd", "/dev/xvd")):
        if not found and place and os.path.exists(place):
            found.add(os.path.realpath(place))
    return found.pop() if found else None


def is_named(entry: str, name: str) -> bool:
    """EC2: nvme-Amazon_Elastic_Block_Store_vol0abc; DigitalOcean: scsi-0DO_Volume_NAME; virtio: 20 characters."""
    return (entry.endswith(name) and entry[: -len(name)][-1:] in ("_", "-")) or entry == "virtio-" + name[:20]


def read(place: str) -> str:
    try:
        with open(place, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def await_device(disk: Dict[str, Any], deadline: float) -> str:
    while True:
        device = find(disk["id"], disk.get("device"))
        if device:
            return device
        if time.monotonic() > deadline:
            there = sorted(os.listdir(BY_ID)) if os.path.isdir(BY_ID) else []
            raise Failed("disk %s does not appear; there are: %s" % (disk["id"], ", ".join(there) or "none"))
        time.sleep(0.2)


def prepared(device: str) -> "tuple[str, bool]":
    """What to mount, and whether it is new. Only what has never held anything is formatted."""
    probe = run("blkid", "-p", "-o", "export", device)
    said = dict(line.split("=", 1) for line in probe.stdout.splitlines() if "=" in line)
    if probe.returncode == 0 and said.get("TYPE"):
        return device, False
    if probe.returncode == 0 and said.get("PTTYPE"):
        return only_partition(device), False
    if probe.returncode != 2 or said:
        raise Failed(
            "cannot tell what is on %s: blkid ended with %d: %s"
            % (device, probe.returncode, probe.stderr.strip())
        )
    if not is_blank(device):
        raise Failed(
            "%s holds something, but no file system that is known here: it is left as it is" % device
        )
    must("mkfs.ext4", "-q", device)
    return device, True


def only_partition(device: str) -> str:
    name = os.path.basename(device)
    parts = [os.path.basename(place) for place in glob.glob("/sys/class/block/%s/%s*" % (name, name))]
    if len(parts) != 1:
        raise Failed("%s has %d partitions: which one is meant cannot be known" % (device, len(parts)))
    return "/dev/" + parts[0]


def is_blank(device: str) -> bool:
    with open(device, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        for begin in (0, max(0, size - BLANK_BYTES)):
            file.seek(begin)
            if any(file.read(BLANK_BYTES)):
                return False
    return True


def mount(disk: Dict[str, Any], owner: List[int], deadline: float) -> str:
    path = disk["path"]
    device = await_device(disk, deadline)
    if os.path.ismount(path):
        own = {os.stat(place).st_rdev for place in [device, *glob.glob(device + "*")]}
        if os.stat(path).st_dev not in own:
            raise Failed("%s belongs to something else that is mounted there" % path)
        return "%s: %s as before" % (path, device)
    source, is_new = prepared(device)
    os.makedirs(path, exist_ok=True)
    must("mount", "-o", "nodev,nosuid", source, path)
    if run("mountpoint", "-q", path).returncode:
        raise Failed("%s was mounted, and is not" % path)
    if is_new:
        os.chown(path, *owner)
    return "%s: %s%s" % (path, source, ", new" if is_new else "")


def main() -> int:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names need not be text
    request = json.load(sys.stdin)
    owner = list(map(int, sys.argv[1:3]))
    deadline = time.monotonic() + request.get("wait_s", 120)
    problems: List[str] = []
    for disk in request["disks"]:
        try:
            print(mount(disk, owner, deadline))
        except (Failed, OSError, ValueError) as error:
            problems.append("%s: %s" % (disk["path"], error))
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
