"""What every simulated machine finds on its disk: accounts, `sudo`, `poweroff`, and how it boots. Files only.

An isolated machine sees the disk of this computer through an overlay: whatever it writes is its own and vanishes with
it, and these files lie on top. Without isolation they lie in a directory that is first in PATH.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

USERS = {"ubuntu": 60100, "ec2-user": 60101}
"""Who may log in, and the user ids they have; nobody on this computer should own them."""
_PYTHON = "/opt/simulated/python"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Runs outside, in new namespaces: makes the disk, and becomes the machine.
ASSEMBLE = """
set -e
directory=$1 image=$2 name=$3 simulated=/opt/simulated
shift 3
disk=$directory/disk
mkdir -p "$disk"
mount -t tmpfs -o mode=0755 disk "$disk"
mkdir "$disk/upper" "$disk/work" "$disk/root"
cp -a "$image/." "$directory/seed/." "$disk/upper/"
root=$disk/root
mount -t overlay -o "lowerdir=/,upperdir=$disk/upper,workdir=$disk/work" machine "$root"
while [ $# -gt 1 ]; do mkdir -p "$root$2"; mount --rbind "$1" "$root$2"; shift 2; done
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
for place in run home root var/tmp; do mount -t tmpfs -o mode=0755 "$place" "$root/$place"; done
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
mount -t tmpfs -o mode=0755 dev "$root/dev"
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty "$root/dev/"
[ ! -e /dev/fuse ] || cp -a /dev/fuse "$root/dev/"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/run/sshd" "$root/run/lock"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
chmod 1777 "$root/var/tmp"; chmod 0700 "$root/root"
hostname "$name"
exec chroot "$root" /bin/sh "$simulated/init" "$simulated" /var/log/cloud-init-output.log /etc/ssh/sshd_config \\
    /var/log/auth.log /run/sshd.pid
"""

# The first process of a machine. Standard input is the lifeline: when it closes, everything here ends.
INIT = """
trap 'exit 0' TERM
. "$1/environment"
echo $$ >"$1/init.pid"
. "$1/prepare"
sh "$1/early" </dev/null >>"$2" 2>&1
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
) &
cat <&3 >/dev/null &
wait $!
[ -z "$sshd" ] || kill -9 $sshd
"""

# Isolated machines: homes, and the host keys of this computer out of sight.
PREPARE = f"""
cd /
rm -f /etc/ssh/ssh_host_*
mkdir -p /var/log /var/lib/cloud/instance
for user in {" ".join(USERS)}; do
    mkdir -p "/home/$user/.ssh"
    cp "$1/authorized_keys" "/home/$user/.ssh/"
    chown -R "$user:$user" "/home/$user"
    chmod 0700 "/home/$user/.ssh"
    chmod 0600 "/home/$user/.ssh/authorized_keys"
done
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
    """The files of every isolated machine, to be laid over this computer's own."""
    places = {"sudo": "usr/bin", "systemctl": "usr/bin", "cloud-init": "usr/bin"}
    for name, text in commands(simulated="/opt/simulated", sshd_pid="/run/sshd.pid", root=0).items():
        write(directory / places.get(name, "usr/sbin") / name, text, 0o755)
    simulated = directory / "opt" / "simulated"
    write(simulated / "init", INIT)
    write(simulated / "prepare", PREPARE)
    found = shutil.which("setpriv")
    if found is None:
        raise RuntimeError("setpriv is not installed: apt-get install util-linux")
    # With this bit it makes root of anybody; the directory it lies in is closed to everyone outside the machines.
    shutil.copy(found, simulated / "setpriv")
    os.chown(simulated / "setpriv", 0, 0)
    (simulated / "setpriv").chmod(0o4755)
    _write_accounts(directory / "etc")
    _show_python(directory / "usr" / "local" / "bin")


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


def shared_places() -> Sequence[tuple[str, str]]:
    """Directories of this computer that a machine needs beside its disk, and where it sees them."""
    root = os.stat("/").st_dev
    mounted = [
        place
        for place in ("/usr", "/etc", "/opt", "/var")
        if os.path.isdir(place) and os.stat(place).st_dev != root
    ]
    python = [] if _is_system_python() else [(os.path.realpath(sys.base_prefix), _PYTHON)]
    return [*((place, place) for place in mounted), *python]


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
        (directory / name).symlink_to(f"{_PYTHON}/bin/python{version}")


def _is_system_python() -> bool:
    return os.path.basename(os.path.realpath("/usr/bin/python3")) == f"python{sysconfig.get_python_version()}"
