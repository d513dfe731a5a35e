"""What every command shares: the global options, one way to complain, and well-behaved streams and signals."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

from skyward.cli import console
from skyward.errors import ExitCode, OutputError, SkywardError, SkywardWarning, UsageError

if TYPE_CHECKING:
    from skyward.config import Config
    from skyward.plugins import Plugins

_TAIL_LINES = 20


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived. What cleans up after Ctrl-C cleans up after these as well."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Shell:
    """The global options of one command line. Commands take it with `@pass_shell`."""

    def __init__(self) -> None:
        self.verbosity = 0
        """0 usually; -v and -vv add one each, -q takes one."""
        self.held: list[object] = []
        """What a command leaves open for the end of the process."""

    def take(self, name: str, value: Any) -> None:
        """Notes one global option, wherever on the command line it stood."""
        match name:
            case "quiet":
                self.verbosity -= value
            case "verbose":
                self.verbosity += value
            case "color":
                console.color = value
            case "config_file":
                self._config_module().choose(file=Path(value))
            case "option":
                self._config_module().choose(options=value)
            case "plugin":
                from skyward import plugins

                plugins.choose(value)

    def _config_module(self) -> Any:
        from skyward import config

        self.__dict__.pop("config", None)
        return config

    @cached_property
    def config(self) -> Config:
        """The effective configuration, `-o` and `--config` included."""
        from skyward.config import load_config

        return load_config()

    def plugins(self, *, strict: bool = False) -> Plugins:
        """The plugins of this process; with `strict`, a broken one is an error."""
        from skyward.plugins import get_plugins

        return get_plugins(strict=strict)

    def say(self, text: str) -> None:
        """One line of conversation; silent with -q."""
        if self.verbosity >= 0:
            console.say(text)

    def hint(self, text: str) -> None:
        """One pasteable suggestion; silent with -q."""
        self.say(f"{_styled('hint:', 'cyan')} {console.one_line(text)}")

    def warn(self, message: str, hints: Sequence[str] = ()) -> None:
        """A warning with its hints; silent with -qq."""
        if self.verbosity < -1:
            return
        console.say(f"{_styled('warning:', 'yellow')} {console.one_line(message)}")
        for hint in hints:
            console.say(f"  {_styled('hint:', 'cyan')} {console.one_line(hint)}")


pass_shell = click.make_pass_decorator(Shell, ensure=True)


# -- global options --------------------------------------------------------------------------------------------


def _note(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, 0, ()) and not ctx.resilient_parsing:
        _refuse_empty(ctx, param, value)
        ctx.find_root().ensure_object(Shell).take(param.name or "", value)


def _refuse_empty(_ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Nobody means an empty string: it is a variable of a script that was not set."""
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.UsageError(f"{max(param.opts, key=len)} is empty")
    return value


def global_options(*, hidden: bool) -> list[click.Option]:
    """Options that may stand before or after the command; hidden on the help pages of commands."""
    common: dict[str, Any] = {"expose_value": False, "callback": _note, "hidden": hidden}
    return [
        click.Option(["-q", "--quiet"], count=True, help="Say less; -qq leaves errors only.", **common),
        click.Option(["-v", "--verbose"], count=True, help="Say more; -vv shows our tracebacks.", **common),
        click.Option(
            ["--color"], type=click.Choice(console.COLOR_CHOICES), help="When to write colours.", **common
        ),
        click.Option(
            ["config_file", "--config"], metavar="FILE", help="Read FILE instead of skyward.toml.", **common
        ),
        click.Option(
            ["option", "-o", "--option"],
            multiple=True,
            metavar="KEY=VALUE",
            help="Set one configuration key.",
            **common,
        ),
        click.Option(
            ["plugin", "-p", "--plugin"],
            multiple=True,
            metavar="[no:]NAME",
            help="Load a plugin, or leave one out.",
            **common,
        ),
    ]


def prepare(command: click.Command) -> click.Command:
    """The same command, also taking the global options it does not define itself, and refusing empty values.

    An option or argument with a callback of its own judges empty values itself. May be repeated.
    """
    taken = {spelling for param in command.params for spelling in (*param.opts, *param.secondary_opts)}
    for param in command.params:
        if param.nargs != -1:  # the words of a task's own command line may be empty
            param.callback = param.callback or _refuse_empty
    command.params += [option for option in global_options(hidden=True) if not taken & {*option.opts}]
    if isinstance(command, click.Group):
        for child in command.commands.values():
            prepare(child)
    return command


_HelpInstead: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What a group without a command raises; click 8.1 prints the help page by itself."""


# -- complaining -----------------------------------------------------------------------------------------------


def complain(error: BaseException, shell: Shell) -> int:
    """Shows what ended a command on standard error, and gives the exit code."""
    if isinstance(error, BrokenPipeError) and _reader_left():
        return ExitCode.OK  # whoever read our output has seen enough
    if isinstance(error, Terminated):
        console.say("terminated")
        return 128 + error.signum
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        console.say("interrupted")
        return ExitCode.INTERRUPTED
    if isinstance(error, _HelpInstead):
        console.say(error.format_message())
        return ExitCode.USAGE
    if isinstance(error, click.ClickException):
        error = _from_click(error)
    if not isinstance(error, SkywardError):
        error = _internal(error, shell)
    if shell.verbosity >= 2:
        console.say("".join(traceback.format_exception(error)).rstrip())
    render(error)
    return int(error.exit_code)


def _reader_left() -> bool:
    """Whether one of our own streams is the pipe that broke, and not a socket of the command."""
    import select

    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def render(error: SkywardError) -> None:
    """`error:`, what is known (`cause:`), what to do (`hint:`), and the code `skyward explain` takes."""
    code = _styled(f"[{error.code}]", "dim")
    console.say(f"{_styled('error:', 'red')} {console.one_line(error.message)}  {code}")
    for fact in error.facts:
        console.say(f"  {_styled('cause:', 'bold')} {console.one_line(fact)}")
    for line in _tail(error):
        console.say(f"  {_styled('|', 'dim')} {console.one_line(line)}")
    for hint in error.hints:
        console.say(f"  {_styled('hint:', 'cyan')} {console.one_line(hint)}")


def _tail(error: SkywardError) -> list[str]:
    """What was printed last; nothing where the causes tell all of it."""
    text = getattr(error, "tail", "") or getattr(error, "stderr_tail", "")
    lines = str(text).splitlines()[-_TAIL_LINES:]
    return [] if all(line in error.facts for line in lines if line.strip()) else lines


def _from_click(error: click.ClickException) -> SkywardError:
    """click's own complaints, in our words."""
    hints = list(getattr(error, "hints", ()))
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name!r}"
        hints += [f"did you mean {' or '.join(error.possibilities)}?"] if error.possibilities else []
    context = getattr(error, "ctx", None)
    if context is not None and not hints:
        hints.append(f"{context.command_path} --help")
    message = message.rstrip().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hints=hints)


def _internal(error: BaseException, shell: Shell) -> SkywardError:
    """An error nobody foresaw; its traceback goes to a file."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return OutputError(f"cannot write: {error.strerror}")
    failure = SkywardError(f"internal error: {type(error).__name__}: {error}".rstrip(": "))
    failure.__cause__ = error
    if shell.verbosity < 2:
        log = _write_log(error)
        failure.hints = (f"please report it, with {log}" if log else "run it again with -vv to see where",)
    return failure


def _write_log(error: BaseException) -> Path | None:
    try:
        from skyward.config import Places, make_private

        directory = make_private(Places.find().state / "logs")
        file = directory / f"internal-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"
        with open(
            os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", errors="backslashreplace"
        ) as stream:
            stream.write(f"arguments: {sys.argv[1:]!r}\npython: {sys.version}\n\n")
            stream.write("".join(traceback.format_exception(error)))
    except Exception:  # the error itself matters more than its log
        return None
    return file


_STYLES: dict[str, dict[str, Any]] = {"bold": {"bold": True}, "dim": {"dim": True}}


def _styled(text: str, style: str) -> str:
    """`style` is a colour, `bold` or `dim`."""
    if not console.has_color(sys.stderr):
        return text
    return click.style(text, **_STYLES.get(style, {"fg": style, "bold": True}))


# -- machines that were left ---------------------------------------------------------------------------------------


def tend(shell: Shell) -> None:
    """Before a command: pools whose client died are ended in the background, and what is stuck is told of. Without
    any it looks into one directory."""
    from skyward.config import Places

    place = Places.find().state / "pools"
    try:
        if not any(name.endswith(".jsonl") for name in os.listdir(place)):
            return
    except OSError:
        return
    from skyward.cloud.gc import sweep

    for orphan in sweep(place):
        message, hints = orphan.words
        shell.warn(message, hints)


# -- streams and signals ---------------------------------------------------------------------------------------


def open_streams() -> None:
    """Closed standard streams become /dev/null, and no character is too strange to be written.

    Otherwise the next file opened would take the place of a closed stream, and be written into.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - lives as long as we do
    sys.stdout = _tolerant(sys.stdout, 1)
    sys.stderr = _tolerant(sys.stderr, 2)


def _tolerant(stream: TextIO | None, descriptor: int) -> TextIO:
    stream = stream or open(descriptor, "w", closefd=False)  # noqa: SIM115 - lives as long as we do
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def flush(code: int) -> int:
    """Writes out what standard output still holds, and gives the exit code after that.

    A reader that left is fine. A full disk is an error, unless there already is another one.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _abandon(sys.stdout)
        if error.errno != errno.EPIPE and code == ExitCode.OK:
            failure = OutputError(f"cannot write to standard output: {error.strerror}")
            render(failure)
            code = int(failure.exit_code)
    except ValueError:
        pass  # closed by the command
    try:
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)
    except ValueError:
        pass
    return code


def _abandon(stream: TextIO) -> None:
    """What is still buffered goes nowhere, so that the interpreter does not fail over it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated` in the main thread."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Terminated(signum)

    heard = [
        signum for signum in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(signum) != signal.SIG_IGN
    ]
    before = {signum: signal.signal(signum, stop) for signum in heard}  # nohup stays nohup
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def shown_warnings(shell: Shell) -> Iterator[None]:
    """Our own warnings become `warning:` lines; those of other code stay as they are."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if isinstance(message, SkywardWarning):
            shell.warn(str(message), message.hints)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual
