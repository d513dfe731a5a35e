"""`skyward plugins`: what is loaded, from where, and which hooks it implements."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.console import make_table, short_path, show_table, write_json
from skyward.cli.shell import Shell, pass_shell, render
from skyward.errors import ExitCode, SkywardWarning

if TYPE_CHECKING:
    from skyward.plugin_loading import PluginInfo


@click.command()
@click.option("--hooks", is_flag=True, help="List every hook and the plugins that implement it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def plugins(shell: Shell, hooks: bool, as_json: bool) -> int:
    """List plugins and the hooks they implement; with -v also their files.

    Exits with 3 if one of them is broken.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkywardWarning)  # told below, with all that is known of them
        found = shell.plugins()
        found.providers(), found.strategies(), found.engines(), found.accelerators()
    infos = found.listing()
    if as_json:
        write_json(
            "skyward.plugins/1",
            items=[_row(info) for info in infos],
            problems=[str(p) for p in found.problems],
        )
    elif hooks:
        _show_hooks(infos)
    else:
        _show_plugins(infos, with_files=shell.verbosity > 0)
    for problem in found.problems:
        render(problem)
    return ExitCode.INTERNAL if found.problems else ExitCode.OK


def _row(info: PluginInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "state": info.state,
        "distribution": info.distribution or None,
        "version": info.version or None,
        "hooks": list(info.hooks),
        "origin": info.origin or None,
        "load_ms": round(info.load_ms, 3) if info.state == "loaded" else None,
        "error": info.error or None,
    }


def _show_plugins(infos: Sequence[PluginInfo], *, with_files: bool) -> None:
    files = ("file",) if with_files else ()
    table = make_table(
        "plugin", "state", "from", "load", "hooks", *files, right=("load",), wrap=("from", "hooks")
    )
    for info in infos:
        source = f"{info.distribution} {info.version}".strip() or short_path(info.origin) or "-"
        took = f"{info.load_ms:.1f} ms" if info.state == "loaded" else "-"
        hooks = " ".join(hook.removeprefix("skyward_") for hook in info.hooks) or "-"
        row = (info.name, info.state, source, took, hooks, short_path(info.origin) or "-")
        table.add_row(*row[: len(table.columns)])
    show_table(table)


def _show_hooks(infos: Sequence[PluginInfo]) -> None:
    from skyward.plugin_loading import HOOKS

    table = make_table("hook", "plugins")
    for hook in HOOKS:
        table.add_row(hook, " ".join(info.name for info in infos if hook in info.hooks) or "-")
    show_table(table)
