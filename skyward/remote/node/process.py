"""Processes: how one is started, signalled and ended with all it has left behind. Any Python >= 3.8."""

from __future__ import annotations

import os

from skyward.remote.node.lean import signal

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Callable, Dict, NoReturn, Sequence, Set

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def start_process(
    arguments: Sequence[str], *, env: Dict[str, str], cwd: str, output: int, inherited: Sequence[int]
) -> int:
    """Starts a process that dies with this one and becomes the parent of what its children leave; returns its id.

    It has nothing to read, writes to `output`, has the descriptors `inherited` and no others, and a session of its own.
    `subprocess` can do most of that, and takes longer to import than the process takes to start.

    Raises:
        OSError: there is no such program or directory, or no room for another process.
    """
    control = _prctl()
    told, tell = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _become(arguments, env, cwd, output, inherited, tell, parent, control)
    os.close(tell)
    problem = b"".join(iter(lambda: os.read(told, 4096), b""))  # it ends when the program has begun
    os.close(told)
    if not problem:
        return child
    os.waitpid(child, 0)
    number, _, name = problem.decode("utf-8", "surrogateescape").partition(" ")
    raise OSError(int(number), os.strerror(int(number)), name)


def _become(
    arguments: Sequence[str], env: Dict[str, str], cwd: str, output: int, inherited: Sequence[int],
    tell: int, parent: int, control: Callable[[int, int], None],
) -> NoReturn:  # fmt: skip
    """The child's part of `start_process`."""
    name = cwd
    try:
        os.setsid()
        control(_PR_SET_PDEATHSIG, signal.SIGKILL)
        control(_PR_SET_CHILD_SUBREAPER, 1)
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and programs expect otherwise
            signal.signal(number, signal.SIG_DFL)
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for descriptor in inherited:
            os.set_inheritable(descriptor, True)
        name = arguments[0]
        os.execvpe(name, list(arguments), env)
    except OSError as error:
        os.write(tell, b"%d %s" % (error.errno or 0, name.encode("utf-8", "surrogateescape")))
    finally:
        os._exit(127)


def _prctl() -> Callable[[int, int], None]:
    """The system call of that name; one that does nothing where there is none."""
    try:
        import ctypes

        call = ctypes.CDLL(None).prctl
    except Exception:
        return lambda option, value: None
    return lambda option, value: call(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """What workers leave behind becomes a child of this process, so that it can be ended."""
    _prctl()(_PR_SET_CHILD_SUBREAPER, 1)


def end_orphans(spared: Set[int]) -> None:
    """Kills what was left behind: every child but these."""
    for _ in range(20):
        try:
            with open("/proc/self/task/%d/children" % os.getpid()) as file:
                orphans = [int(pid) for pid in file.read().split() if int(pid) not in spared]
        except OSError:
            return
        if not orphans:
            return
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def send_signal(pid: int, number: int, *, group: bool) -> None:
    try:
        if group:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def signal_name(number: int) -> str:
    from signal import Signals

    try:
        return Signals(number).name
    except ValueError:
        return "signal %d" % number


def oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started, or 0 where it does not say."""
    try:
        with open("/proc/vmstat") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0
