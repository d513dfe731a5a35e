"""`skyward providers`: what is installed, what it can do, and whether its credentials were found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.console import make_table, show_table, write_json
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import CredentialsError, ExitCode, SkywardError

if TYPE_CHECKING:
    from skyward.contracts.provider import Capabilities, Provider
    from skyward.plugin_loading import PluginInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One provider on this machine. `source` says where its credentials were found, where it tells."""

    name: str
    provider: type[Provider]
    plugin: PluginInfo | None
    needs_credentials: bool
    source: str | None = None
    error: SkywardError | None = None

    @property
    def is_ready(self) -> bool:
        return self.error is None

    @property
    def status(self) -> str:
        if self.error is None:
            return "ready"
        return "not set up" if isinstance(self.error, CredentialsError) else "broken"

    @property
    def credentials(self) -> str:
        """What the table says of them; the first cause is enough there."""
        if self.error is not None:
            return (
                self.error.facts[0] if self.error.facts else self.error.message.removeprefix(f"{self.name}: ")
            )
        return (self.source or "found") if self.needs_credentials else "not needed"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def providers(shell: Shell, as_json: bool) -> int:
    """List providers, what they can do, and whether their credentials were found; with -v also their plugins.

    Touches no network. Exits with 4 if none of them is ready.
    """
    found = shell.plugins()
    standings = [
        _standing(name, provider, found.owner("provider", name), shell.config.provider(name))
        for name, provider in found.providers().items()
    ]
    if as_json:
        write_json("skyward.providers/1", items=[_row(standing) for standing in standings])
    else:
        _show(standings, shell)
    return ExitCode.OK if any(standing.is_ready for standing in standings) else ExitCode.NO_COMPUTE


def _standing(
    name: str, provider: type[Provider], plugin: PluginInfo | None, arguments: Mapping[str, Any]
) -> Standing:
    needs = provider.capabilities.off_means != "nothing"
    try:
        ready = provider.from_env(provider.Config(**arguments) if arguments else None)
        source = getattr(ready, "credentials_from", None)
        return Standing(name=name, provider=provider, plugin=plugin, needs_credentials=needs, source=source)
    except SkywardError as problem:
        error = problem
    except Exception as problem:  # a plugin's code, and the user's arguments to it
        error = SkywardError(f"{name}: {type(problem).__name__}: {problem}")
    return Standing(name=name, provider=provider, plugin=plugin, needs_credentials=needs, error=error)


def _row(standing: Standing) -> dict[str, Any]:
    plugin, error = standing.plugin, standing.error
    return {
        "name": standing.name,
        "config": standing.provider.Config.__name__,
        "plugin": plugin.name if plugin else None,
        "distribution": (plugin.distribution or None) if plugin else None,
        "version": (plugin.version or None) if plugin else None,
        "capabilities": asdict(standing.provider.capabilities),
        "ready": standing.is_ready,
        "status": standing.status,
        "credentials": {"needed": standing.needs_credentials, "source": standing.source},
        "error": error
        and {"code": error.code, "message": error.message, "facts": error.facts, "hints": error.hints},
    }


def _show(standings: list[Standing], shell: Shell) -> None:
    plugins = ("config", "plugin") if shell.verbosity > 0 else ()
    table = make_table("provider", *plugins, "status", "can", "credentials", wrap=("can",))
    for standing in standings:
        names = (f"sky.{standing.provider.Config.__name__}", _source(standing.plugin)) if plugins else ()
        abilities = can(standing.provider.capabilities)
        table.add_row(standing.name, *names, standing.status, abilities, standing.credentials)
    show_table(table)
    ready = sum(standing.is_ready for standing in standings)
    shell.say(f"{ready} of {len(standings)} providers ready")
    for standing in standings:
        for hint in standing.error.hints if standing.error else ():
            if hint != "skyward providers":
                shell.hint(f"{standing.name}: {hint}")


def _source(plugin: PluginInfo | None) -> str:
    return (f"{plugin.distribution} {plugin.version}".strip() or plugin.name) if plugin else "-"


def can(capabilities: Capabilities) -> str:
    """What a provider can do, in a few words."""
    words = ("spot", "bids", "regions", "private_network")
    return " ".join(word.replace("_", "-") for word in words if getattr(capabilities, word)) or "-"
