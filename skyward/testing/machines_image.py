"""What every simulated machine finds on its disk: accounts, `sudo`, `poweroff`, and how it boots. Files only.

An isolated machine sees the disk of this computer through an overlay: whatever it writes is its own and vanishes with
it, and these files lie on top. Without isolation they lie in a directory that is first in PATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

USERS = {"ubuntu": 60100, "ec2-user": 60101}
"""Who may log in, and the user ids they have; nobody on this computer should own them."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs outside, in new namespaces: makes the disk, and becomes the machine. Few programs, because each costs a
# millisecond and there may be hundreds of machines.
ASSEMBLE = """
set -e
directory=$1 image=$2 name=$3 simulated=/opt/simulated
disk=$image/mount root=$image/mount/root
mount -t tmpfs -o mode=0755 disk "$disk"
mkdir "$disk/upper" "$disk/work" "$root"
cp -a "$image/disk/." "$directory/seed/." "$disk/upper/"
mount --all --fstab "$image/fstab"
cp -a "$image/live/." "$directory/live/." "$root/"
echo "$name" >/proc/sys/kernel/hostname
exec chroot "$root" /bin/sh "$simulated/init" "$simulated" /var/log/cloud-init-output.log /etc/ssh/sshd_config \\
    /var/log/auth.log /run/sshd.pid
"""

# The first process of a machine. Standard input is the lifeline: when it closes, everything here ends.
INIT = """
trap 'exit 0' TERM
. "$1/environment"
echo $$ >"$1/init.pid"
. "$1/prepare"
sh "$1/early" </dev/null >>"$2" 2>&1 &
wait $!
if [ ! -e "$1/no-sshd" ]; then
    "$(command -v sshd)" -D -f "$3" -E "$4" </dev/null >/dev/null 2>"$1/complaint" &
    sshd=$!
    trap 'kill -9 $sshd 2>/dev/null; exit 0' TERM
    until [ -s "$5" ]; do
        kill -0 $sshd 2>/dev/null || { echo failed; cat "$1/complaint" "$4" >&2; exit 1; }
        sleep 0.01
    done
fi
echo ready
exec 1>/dev/null 3<&0
(
    exec </dev/null 3<&-
    sh "$1/late" >>"$2" 2>&1
    touch "$1/boot-finished"
    booted
) &
cat <&3 >/dev/null &
wait $!
[ -z "$sshd" ] || kill -9 $sshd
"""

# Isolated machines: the host keys of this computer are not theirs, and what is in memory is.
PREPARE = """
cd /
rm -f /etc/ssh/ssh_host_*
booted() { mkdir -p /run/cloud-init && echo '{"v1": {"errors": []}}' >/run/cloud-init/result.json; }
"""

# `setpriv`, owned by root and with the set-user-id bit, is all it takes.
SUDO = """#!/bin/sh
# Everyone may do everything, as on the images of the clouds, and nobody is asked for a password. As there, the
# environment does not come along.
user=root login= keep= given=
while [ $# -gt 0 ]; do
    case $1 in
        -u | --user) user=$2; shift 2 ;;
        -g | -p | -C | -h) shift 2 ;;
        -i | --login) login=yes; shift ;;
        -E | --preserve-env*) keep=yes; shift ;;
        -s | --shell) set -- "${SHELL:-/bin/sh}"; break ;;
        -v | -k | -K | -l | --validate) exit 0 ;;
        --) shift; break ;;
        -*) shift ;;
        *=*) given="$given $1"; shift ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || [ -n "$login" ] || { echo "usage: sudo [-n] [-u user] command" >&2; exit 1; }
IFS=: read -r _ _ uid gid _ home _ <<END
$(getent passwd "$user")
END
[ -n "$uid" ] || { echo "sudo: unknown user $user" >&2; exit 1; }
[ -z "$login" ] || { cd "$home"; [ $# -gt 0 ] || set -- /bin/sh; }
[ -n "$keep" ] || set -- env -i LANG="$LANG" TERM="${TERM:-dumb}" SHELL=/bin/sh HOME="$home" USER="$user" \\
    LOGNAME="$user" SUDO_USER="${LOGNAME:-}" $given /bin/sh -c '. {simulated}/environment; exec "$@"' sudo "$@"
exec {simulated}/setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"
"""

# Without isolation whoever logs in is all the root there is.
SUDO_TO_NOBODY_ELSE = """#!/bin/sh
while [ $# -gt 0 ]; do
    case $1 in
        -u | -g | -p | -C | -h | --user) shift 2 ;;
        -v | -k | -K | -l | --validate) exit 0 ;;
        --) shift; break ;;
        -*) shift ;;
        *=*) export "$1"; shift ;;
        *) break ;;
    esac
done
[ $# -gt 0 ] || set -- /bin/sh
exec "$@"
"""

POWEROFF = """#!/bin/sh
# The machine ends: its first process does, and the rest with it.
for word; do case $word in --help) exit 0 ;; esac; done
[ "$(id -u)" = {root} ] || { echo "poweroff: only root may end the machine" >&2; exit 1; }
kill -TERM "$(cat {simulated}/init.pid)"
exec sleep 60
"""

SHUTDOWN = """#!/bin/sh
# shutdown [-P|-h|-r|-c] [now|+MINUTES]
[ "$(id -u)" = {root} ] || { echo "shutdown: only root may end the machine" >&2; exit 1; }
when=+1
for word; do
    case $word in
        -c) [ ! -s {simulated}/shutdown.pid ] || kill "$(cat {simulated}/shutdown.pid)"; rm -f {simulated}/shutdown.pid; exit 0 ;;
        now | +0) when=now ;;
        +[0-9]*) when=$word ;;
    esac
done
[ "$when" != now ] || exec poweroff
setsid sh -c 'echo $$ >{simulated}/shutdown.pid; sleep "$1"; exec poweroff' shutdown "$((${when#+} * 60))" </dev/null >/dev/null 2>&1 &
"""

SYSTEMCTL = """#!/bin/sh
# systemd does not run here, and says so; ending the machine and reloading sshd work all the same.
verb= unit=
for word; do case $word in -*) ;; *) if [ -z "$verb" ]; then verb=$word; elif [ -z "$unit" ]; then unit=$word; fi ;; esac; done
case $verb in
    poweroff | halt | reboot | kexec) exec poweroff ;;
    is-system-running) echo offline; exit 1 ;;
esac
case $verb,${unit%.service} in
    reload,ssh | reload,sshd | restart,ssh | restart,sshd | reload-or-restart,ssh | reload-or-restart,sshd)
        exec kill -HUP "$(cat {sshd_pid})" ;;
    is-active,ssh | is-active,sshd)
        kill -0 "$(cat {sshd_pid} 2>/dev/null)" 2>/dev/null && { echo active; exit 0; }; echo inactive; exit 3 ;;
esac
echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2
exit 1
"""

SERVICE = """#!/bin/sh
exec systemctl "$2" "$1"
"""

CLOUD_INIT = """#!/bin/sh
# cloud-init status [--wait]
[ "$1" = status ] || exit 0
waits=
for word; do [ "$word" != --wait ] || waits=yes; done
while [ -n "$waits" ] && [ ! -e {simulated}/boot-finished ]; do sleep 0.1; done
if [ -e {simulated}/boot-finished ]; then echo "status: done"; else echo "status: running"; fi
"""

SSHD_CONFIG = """
PidFile {sshd_pid}
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
X11Forwarding no
PrintMotd no
AcceptEnv LANG LC_*
LogLevel VERBOSE
"""


# Without isolation: every session begins in the machine's home, not in the user's own.
SESSION = """#!/bin/sh
cd "$HOME"
[ -n "$SSH_ORIGINAL_COMMAND" ] || exec "$SHELL" -l
exec "$SHELL" -c "$SSH_ORIGINAL_COMMAND"
"""


def write_image(directory: Path) -> None:
    """The files of every isolated machine: `disk` is laid over this computer's own, `live` over what is in memory."""
    disk, live = directory / "disk", directory / "live"
    places = {"sudo": "usr/bin", "systemctl": "usr/bin", "cloud-init": "usr/bin"}
    for name, text in commands(simulated="/opt/simulated", sshd_pid="/run/sshd.pid", root=0).items():
        write(disk / places.get(name, "usr/sbin") / name, text, 0o755)
    simulated = disk / "opt" / "simulated"
    write(simulated / "init", INIT)
    write(simulated / "prepare", PREPARE)
    found = shutil.which("setpriv")
    if found is None:
        raise RuntimeError("setpriv is not installed: apt-get install util-linux")
    # With this bit it makes root of anybody; the directory it lies in is closed to everyone outside the machines.
    shutil.copy(found, simulated / "setpriv")
    os.chown(simulated / "setpriv", 0, 0)
    (simulated / "setpriv").chmod(0o4755)
    _write_accounts(disk / "etc")
    _show_python(disk / "usr" / "local" / "bin")
    # One place for all: each machine mounts there in a mount space of its own.
    (directory / "mount").mkdir()
    write(directory / "fstab", mounts(directory / "mount"))
    (disk / "var" / "lib" / "cloud" / "instance").mkdir(parents=True)
    (disk / "var" / "log").mkdir()
    _make_devices(live / "dev")
    for place, mode in (
        ("run/sshd", 0o755),
        ("run/lock", 0o1777),
        ("root", 0o711),
        ("tmp", 0o1777),
        ("var/tmp", 0o1777),
    ):
        (live / place).mkdir(parents=True)
        (live / place).chmod(mode)


def write_homes(live: Path, authorized_keys: str) -> None:
    """Homes of those who may log in."""
    for user, uid in USERS.items():
        home = live / "home" / user
        write(home / ".ssh" / "authorized_keys", authorized_keys, 0o600)
        (home / ".ssh").chmod(0o700)
        for place in (home, home / ".ssh", home / ".ssh" / "authorized_keys"):
            os.chown(place, uid, uid)


def mounts(disk: Path) -> str:
    """What makes up the root directory of a machine, as an fstab."""
    root = disk / "root"
    lines: list[tuple[str, object, str, str]] = [
        ("machine", root, "overlay", f"lowerdir=/,upperdir={disk}/upper,workdir={disk}/work")
    ]
    lines += [("proc", root / "proc", "proc", "defaults"), ("/sys", root / "sys", "none", "rbind")]
    for name in ("run", "home", "root", "tmp", "var/tmp", "dev"):
        lines.append((name.replace("/", "-"), root / name, "tmpfs", "mode=0755"))
    lines.append(
        ("devpts", root / "dev" / "pts", "devpts", "newinstance,ptmxmode=0666,mode=0620,x-mount.mkdir")
    )
    lines.append(("shm", root / "dev" / "shm", "tmpfs", "mode=1777,x-mount.mkdir"))
    if not _is_system_python():  # where it is here: it may look for its libraries there
        lines.append((_python_home(), f"{root}{_python_home()}", "none", "bind,ro,x-mount.mkdir"))
    return "".join(
        f"{_in_fstab(a)} {_in_fstab(b)} {kind} {_in_fstab(options)} 0 0\n" for a, b, kind, options in lines
    )


def _in_fstab(text: object) -> str:
    return str(text).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")


def _make_devices(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name in ("null", "zero", "full", "random", "urandom", "tty", "fuse"):
        if os.path.exists(f"/dev/{name}"):
            status = os.stat(f"/dev/{name}")
            os.mknod(directory / name, status.st_mode, status.st_rdev)
            (directory / name).chmod(0o666)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        (directory / name).symlink_to(target)


def commands(*, simulated: str, sshd_pid: str, root: int) -> dict[str, str]:
    """The machine's own commands, by name. `simulated` is where its private files are, `root` who may end it."""
    texts = {
        "sudo": SUDO if root == 0 and simulated == "/opt/simulated" else SUDO_TO_NOBODY_ELSE,
        **dict.fromkeys(("poweroff", "halt", "reboot"), POWEROFF),
        "shutdown": SHUTDOWN,
        "systemctl": SYSTEMCTL,
        "service": SERVICE,
        "cloud-init": CLOUD_INIT,
    }
    facts = {"{simulated}": simulated, "{sshd_pid}": sshd_pid, "{root}": str(root)}
    return {name: _with_facts(text, facts) for name, text in texts.items()}


def sshd_config(*, sshd_pid: str) -> str:
    return SSHD_CONFIG.replace("{sshd_pid}", sshd_pid)


def _with_facts(text: str, facts: Mapping[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(name, value)
    return text


def is_one_disk() -> bool:
    """Whether an overlay over / shows programs and settings, too: on some computers they are mounted there."""
    root = os.stat("/").st_dev
    return all(os.stat(place).st_dev == root for place in ("/usr", "/etc"))


def write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _write_accounts(etc: Path) -> None:
    """This computer's accounts, with ours in place of any of the same name."""
    shell = shutil.which("bash") or "/bin/sh"
    ours = {
        "passwd": {user: f"{user}:x:{uid}:{uid}::/home/{user}:{shell}" for user, uid in USERS.items()},
        "group": {user: f"{user}:x:{uid}:" for user, uid in USERS.items()},
        "shadow": {user: f"{user}:*:19000:0:99999:7:::" for user in USERS},
    }
    for name, lines in ours.items():
        theirs = Path("/etc", name).read_text().splitlines()
        kept = [line for line in theirs if line.split(":")[0] not in lines]
        write(etc / name, "\n".join([*kept, *lines.values()]) + "\n", 0o640 if name == "shadow" else 0o644)


def _show_python(directory: Path) -> None:
    """Where `python3` is not the client's version, the client's own is what a machine finds."""
    if _is_system_python():
        return
    directory.mkdir(parents=True, exist_ok=True)
    version = sysconfig.get_python_version()
    for name in ("python3", f"python{version}"):
        (directory / name).symlink_to(f"{_python_home()}/bin/python{version}")


def _python_home() -> str:
    return os.path.realpath(sys.base_prefix)


def _is_system_python() -> bool:
    return os.path.basename(os.path.realpath("/usr/bin/python3")) == f"python{sysconfig.get_python_version()}"
