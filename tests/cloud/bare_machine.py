"""A machine of nothing but namespaces, on which steps run as root and the commands they call are scripted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from skyward.contracts.step import Step

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_NAMESPACE = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child=SIGKILL"]

# Its own /run and /dev; disks are the loop devices it is given.
_ENTER = """
set -e
mount -t tmpfs none /run
mkdir /run/dev
mount -t tmpfs none /run/dev
cp -a /dev/null /dev/zero /dev/random /dev/urandom /run/dev/
[ -z "$FUSE" ] || mknod /run/dev/fuse c 10 229
mkdir -p /run/dev/disk/by-id
for disk in $DISKS; do
  device=${disk%%=*} name=${disk##*=}
  cp -a "$device" /run/dev/
  ln -s "$device" "/run/dev/disk/by-id/$name"
done
mount --bind /run/dev /dev
eval "$BEFORE"
set +e
PATH=$OWN_PATH /bin/sh -c "$SCRIPT"
status=$?
eval "$AFTER"
exit $status
"""

# The number of arguments, the name and the arguments, each behind a NUL: no string can be mistaken for another.
_SPY = """#!/bin/sh
printf '%s\\0' "$#" "${0##*/}" "$@" >>"$CALLS"
"""


class BareMachine:
    """Runs steps in namespaces of their own. `script` puts a command in front of the machine's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.calls_file = directory / "calls"
        self.only_own = False
        # Its disk is this computer's: what installs or fetches must never be the real thing.
        for name in ("apt-get", "apt-cache", "dpkg", "dnf", "yum", "rpm", "curl", "wget", "snap"):
            self.script(name, "exit 1")

    def script(self, name: str, text: str = "") -> None:
        """A command that notes how it is called, and then does `text`."""
        place = self.bin / name
        place.unlink(missing_ok=True)
        place.write_text(f"{_SPY}{text}\n")
        place.chmod(0o755)

    def log_in_as(self, user: int) -> None:
        """Steps are started by a user of this number, who may use sudo."""
        me = f'[ -n "$IS_ROOT" ] && echo 0 || echo {user}'
        for name, text in {"id": me, "sudo": 'shift; IS_ROOT=yes exec "$@"'}.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.bin / name).chmod(0o755)

    def bare(self) -> None:
        """From now on nothing on the machine is this computer's, but what everything needs."""
        self.only_own = True
        self.keep("sh", "id", "python3", "mountpoint", "mount", "umount", "chmod", "rm")

    def keep(self, *names: str) -> None:
        """Commands of this computer that the machine has too, when it has only its own."""
        for name in names:
            found = shutil.which(name, path=_PATH)
            assert found, name
            (self.bin / name).unlink(missing_ok=True)
            (self.bin / name).symlink_to(found)

    def run(
        self,
        step: Step,
        *,
        disks: dict[str, str] | None = None,
        fuse: bool = True,
        before: str = "",
        after: str = "",
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """The step, as it would be run over SSH. `disks` are loop devices and the names udev would give them;
        `before` and `after` are commands of the machine, whose output comes last."""
        path = str(self.bin) if self.only_own else f"{self.bin}:{_PATH}"
        environ = {
            "PATH": _PATH,
            "OWN_PATH": path,
            "CALLS": str(self.calls_file),
            "BOX": str(self.directory),
            "SCRIPT": step.script,
            "BEFORE": before,
            "AFTER": after,
            "FUSE": "yes" if fuse else "",
            "DISKS": " ".join(f"{device}={name}" for device, name in (disks or {}).items()),
            **{name: value for name, value in os.environ.items() if name.startswith("RUN_BY_")},
            **env,
        }
        return subprocess.run(
            [*_NAMESPACE, "sh", "-c", _ENTER],
            input=json.dumps(step.input),
            env=environ,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
        )

    def calls(self, name: str | None = None) -> list[list[str]]:
        """How scripted commands were called, in order: name and arguments."""
        if not self.calls_file.exists():
            return []
        words = self.calls_file.read_bytes().decode(errors="surrogateescape").split("\0")
        found, at = [], 0
        while at < len(words) - 1:
            count = int(words[at])
            found.append(words[at + 1 : at + 2 + count])
            at += 2 + count
        return [call for call in found if name in (None, call[0])]

    def forget(self) -> None:
        self.calls_file.unlink(missing_ok=True)
