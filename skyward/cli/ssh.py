"""`skyward ssh`: plain ssh to a machine of a pool, with the pool's own key and the host key we pinned."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyward.cli.console import write
from skyward.cli.machines import pick, unknown_pool
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from skyward.cloud.account import Machine
    from skyward.cloud.survey import Pool


@click.command(epilog="A command follows --: `skyward ssh train 0 -- nvidia-smi`.")
@click.argument("pool")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[NODE] [-- COMMAND]")
@click.option("--print", "is_printed", is_flag=True, help="Print the command line instead of running it.")
@pass_shell
def ssh(shell: Shell, pool: str, words: Sequence[str], is_printed: bool) -> int:
    """Log in to a machine of POOL (an id, a name, or the beginning of an id), or run a command there.

    NODE is its number, 0 unless said. The exit code is that of the command.
    """
    from skyward.cloud import survey

    found = survey.pools()
    one = pick(found, pool)
    if one is None:
        raise unknown_pool(pool, [one.id for one in found])
    node, command = (int(words[0]), words[1:]) if words and words[0].isdecimal() else (0, words)
    line = command_line(one, _machine(one, node), command)
    if is_printed:
        write(f"{shlex.join(line)}\n")
        return ExitCode.OK
    if shutil.which(line[0]) is None:
        raise UsageError("ssh is not installed here", hints=["apt-get install openssh-client"])
    os.execvp(line[0], line)


def _machine(pool: Pool, node: int) -> Machine:
    ready = {one.node: one for one in pool.account.owed if one.endpoint.get("kind") == "ssh"}
    if node in ready:
        return ready[node]
    raise UsageError(
        f"pool {pool.id} has no node {node} that can be reached by ssh",
        facts=[
            f"nodes: {', '.join(map(str, sorted(number for number in ready if number is not None))) or 'none yet'}"
        ],
        hints=[f"skyward ps {pool.id}"],
        exit_code=ExitCode.NOTHING_SELECTED,
    )


def command_line(pool: Pool, machine: Machine, command: Sequence[str]) -> list[str]:
    """The command line of ssh. Nothing of the user's own configuration, keys or known hosts has a say in it."""
    from skyward.cloud.keys import IDENTITY, KNOWN_HOSTS
    from skyward.cloud.reaper import place_of

    place, end = place_of(pool.path), machine.endpoint
    options = {
        "IdentityFile": str(place / IDENTITY),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": str(place / KNOWN_HOSTS),
        "GlobalKnownHostsFile": os.devnull,
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
    }
    if end.get("proxy_command"):
        options["ProxyCommand"] = str(end["proxy_command"])
    line = ["ssh", "-F", os.devnull]
    for name, value in options.items():
        line += ["-o", f"{name}={_quoted(value) if name.endswith('File') else value}"]
    line += ["-p", str(end.get("port") or 22)]
    if end.get("user"):
        line += ["-l", str(end["user"])]
    return [*line, "--", str(end["host"]), *([shlex.join(command)] if command else [])]


def _quoted(path: str) -> str:
    """A file name as ssh_config reads it: with spaces, and without its own tokens."""
    return '"' + path.replace("%", "%%") + '"'
