"""`skyward completion`: the script that teaches a shell our commands and options."""

from __future__ import annotations

import click

from skyward.cli.console import write

_SHELLS = ("bash", "zsh", "fish")


@click.command(epilog="bash: `skyward completion bash >> ~/.bashrc`; zsh: `>> ~/.zshrc`; fish: `| source`")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from skyward.cli import COMPLETE_VARIABLE, cli

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "skyward", COMPLETE_VARIABLE)
    # Not script.source(): it runs bash to ask for its version.
    write(script.source_template % script.source_vars() + "\n")
