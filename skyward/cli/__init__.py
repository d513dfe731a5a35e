"""The command line: `skyward`, also `python -m skyward`. One module per command, imported when it is called.

`COMMANDS` is all that `skyward --help` knows, so that help and completion load nothing heavy. A command's
function returns its exit code (None is 0) and raises the errors of `skyward.errors`; `main` renders them.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyward.cli.shell import (
    Shell,
    complain,
    flush,
    global_options,
    open_streams,
    prepare,
    shown_warnings,
    signals,
    tend,
)
from skyward.errors import ExitCode

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from skyward.entry_points import EntryPoint


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, as `module:attribute`, and the line `--help` shows for it."""

    target: str
    help: str
    section: str

    @property
    def exists(self) -> bool:
        """Whether the module is there, found without importing it."""
        module = self.target.partition(":")[0].rpartition(".")[2]
        return (Path(__file__).parent / f"{module}.py").exists()

    def load(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command), self.target
        return command


_TASKS, _MACHINES, _PRICES, _SETUP = "Tasks", "Machines", "Prices", "Setup"
COMMANDS = {
    "run": Entry("skyward.cli.run:run", "Run tasks, here or on rented machines.", _TASKS),
    "plan": Entry("skyward.cli.plan:plan", "Show what would be rented, why, and at what cost.", _TASKS),
    "ps": Entry("skyward.cli.ps:ps", "Show what is rented now, and what it costs.", _MACHINES),
    "ssh": Entry("skyward.cli.ssh:ssh", "Log in to a machine of a pool.", _MACHINES),
    "down": Entry("skyward.cli.down:down", "End pools, and see that they are gone.", _MACHINES),
    "gc": Entry("skyward.cli.gc:gc", "Find machines that nobody holds, and end them.", _MACHINES),
    "offers": Entry("skyward.cli.offers:offers", "List what is on sale.", _PRICES),
    "cheapest": Entry("skyward.cli.cheapest:cheapest", "Name the cheapest offer that fits.", _PRICES),
    "cost": Entry("skyward.cli.cost:cost", "Say what machines cost for a while.", _PRICES),
    "history": Entry("skyward.cli.history:history", "Show how a price moved.", _PRICES),
    "catalog": Entry(
        "skyward.cli.catalog:catalog", "Inspect, refresh, build and query the price catalog.", _PRICES
    ),
    "accelerators": Entry(
        "skyward.cli.accelerators:accelerators", "List accelerators and who sells them.", _PRICES
    ),
    "providers": Entry(
        "skyward.cli.providers:providers", "List providers and where their credentials are.", _SETUP
    ),
    "check": Entry("skyward.cli.check:check", "See whether machines can be rented, and why not.", _SETUP),
    "plugins": Entry("skyward.cli.plugins:plugins", "List plugins and the hooks they implement.", _SETUP),
    "config": Entry("skyward.cli.config:config", "Show, find and check the configuration.", _SETUP),
    "explain": Entry("skyward.cli.explain:explain", "Explain an error code or an exit code.", _SETUP),
    "completion": Entry(
        "skyward.cli.completion:completion", "Print the completion script of a shell.", _SETUP
    ),
}


_SELF_TENDING = ("ps", "down", "gc", "ssh", "explain", "completion")
"""Commands that look after left machines themselves, or have nothing to do with machines."""


class LazyGroup(click.Group):
    """Commands out of a table; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, entry in COMMANDS.items() if entry.exists] + sorted(_installed_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is not None and entry.exists:
            return prepare(entry.load())
        if cmd_name in _installed_commands():
            return prepare(_load_installed(cmd_name))
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is not None:
            if not ctx.resilient_parsing and name not in _SELF_TENDING and not {"-h", "--help"} & {*args}:
                tend(ctx.ensure_object(Shell))
            return name, command, [*_configured(ctx, command, args), *args[1:]]
        near = get_close_matches(name, self.list_commands(ctx), n=1)
        error = click.UsageError(f"no such command {name!r}", ctx)
        error.hints = [f"did you mean `skyward {near[0]}`?"] if near else ["skyward --help"]  # type: ignore[attr-defined]
        raise error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands out of the table, so that pressing Tab imports none of them."""
        from click.shell_completion import CompletionItem

        commands = [
            CompletionItem(name, help=self._help(name))
            for name in self.list_commands(ctx)
            if name.startswith(incomplete)
        ]
        return [*commands, *click.Command.shell_complete(self, ctx, incomplete)]

    def _help(self, name: str) -> str:
        if name in COMMANDS:
            return COMMANDS[name].help
        point = _installed_commands()[name]
        return f"From {point.distribution} {point.version}."

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section in (_TASKS, _MACHINES, _PRICES, _SETUP):
            if rows := [(n, e.help) for n, e in COMMANDS.items() if e.section == section and e.exists]:
                with formatter.section(section):
                    formatter.write_dl(rows)
        rows = [(name, self._help(name)) for name in sorted(_installed_commands())]
        if rows:
            with formatter.section("From plugins"):
                formatter.write_dl(rows)


def _configured(ctx: click.Context, command: click.Command, args: Sequence[str]) -> list[str]:
    """Options the configuration gives to a command; they go before what was typed, so that this wins."""
    if ctx.resilient_parsing or {"-h", "--help"} & {*args}:
        return []
    shell = ctx.ensure_object(Shell)
    if command.name == "run":
        return _words(shell.config.get("run.addopts", []), shell.config.origin("run.addopts"))
    if any("--max-age" in param.opts for param in command.params):
        age = shell.config.get("catalog.max_age")
        return [] if age is None else ["--max-age", str(age)]
    return []


def _words(addopts: str | list[str], origin: str | None) -> list[str]:
    import shlex

    from skyward.errors import ConfigError

    try:
        return shlex.split(addopts) if isinstance(addopts, str) else list(addopts)
    except ValueError as error:
        raise ConfigError(f"{origin}: 'run.addopts' is {addopts!r}: {str(error).lower()}") from None


@cache
def _installed_commands() -> dict[str, EntryPoint]:
    """Commands of other distributions (entry-point group `skyward.commands`); ours cannot be replaced."""
    from skyward.entry_points import commands

    return {name: point for name, point in commands().items() if name not in COMMANDS}


def _load_installed(name: str) -> click.Command:
    from skyward.errors import PluginError

    point = _installed_commands()[name]
    owner = f"command {name!r} of {point.distribution} {point.version}"
    try:
        command = point.load()
    except Exception as error:  # a stranger's module
        raise PluginError(f"{owner} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(command, click.Command):
        raise PluginError(f"{owner} is {command!r}, not a click command")
    return command


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from skyward import __version__

        click.echo(f"skyward {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Print the version.",
        ),
        *global_options(hidden=False),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`skyward COMMAND --help` tells more; `skyward explain CODE` explains an error.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run a Python function on rented machines, at the lowest price, and leave none behind."""
    ctx.ensure_object(Shell)


def invoke(arguments: Sequence[str], shell: Shell | None = None) -> int:
    """Runs one command line in this process, shows its error if it has one, and gives the exit code."""
    shell = shell or Shell()
    with shown_warnings(shell):
        try:
            with cli.make_context("skyward", list(arguments), obj=shell) as ctx:
                code = cli.invoke(ctx)
            return int(code) if isinstance(code, int) else 0
        except click.exceptions.Exit as error:
            return error.exit_code
        except SystemExit as error:
            if isinstance(error.code, str):
                click.echo(error.code, err=True)
            return error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException as error:
            return complain(error, shell)


def main() -> None:
    """The console script."""
    gc.set_threshold(100_000)  # looking for cycles among what was imported is a tenth of the time of a query
    open_streams()
    shell = Shell()
    with signals():
        code = flush(_complete() if COMPLETE_VARIABLE in os.environ else invoke(sys.argv[1:], shell))
    if "duckdb" in sys.modules and "skyward.api.running" not in sys.modules:
        os._exit(code)  # a query writes nothing, and taking DuckDB apart costs 20 ms of CPU
    if code in _BY_SIGNAL:
        atexit._run_exitfuncs()
        os._exit(code)  # somebody waits for the prompt; taking all modules apart costs 0.3 s of CPU
    sys.exit(code)


_BY_SIGNAL = (128 + signal.SIGHUP, ExitCode.INTERRUPTED, ExitCode.TERMINATED)
"""Exit codes of what was stopped from outside."""


COMPLETE_VARIABLE = "_SKYWARD_COMPLETE"
"""Set by the completion script of the shell (click's protocol)."""


def _complete() -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "skyward", COMPLETE_VARIABLE, os.environ[COMPLETE_VARIABLE])
