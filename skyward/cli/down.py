"""`skyward down`: ends pools, and does not believe it before the cloud has shown it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyward.cli.machines import agree, finish, pick, places, tell_of_silence, told, unknown_pool
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from skyward.cloud.gc import Judgement
    from skyward.cloud.survey import Pool


@click.command()
@click.argument("pools", nargs=-1, metavar="[POOL]...")
@click.option("--all", "is_all", is_flag=True, help="End every pool of this user's journals.")
@click.option("--region", "regions", multiple=True, metavar="REGION", help="Look for POOL there, too.")
@click.option("--yes", "-y", "is_agreed", is_flag=True, help="End without asking.")
@pass_shell
def down(shell: Shell, pools: Sequence[str], is_all: bool, regions: Sequence[str], is_agreed: bool) -> int:
    """End pools, by id, name or the beginning of an id, and wait until the clouds show that they are gone.

    A pool that is in no journal here is looked for in the clouds by its tag. Exits with 7 if something may still be
    billed.
    """
    from skyward.cloud import gc, survey

    known = survey.pools()
    if is_all == bool(pools):
        raise UsageError(
            "name the pools to end, or pass --all",
            hints=[f"skyward down {one.id}" for one in known[:3]] or ["skyward ps --live"],
        )
    chosen, strangers = (known, []) if is_all else _chosen(shell, pools, known, regions)
    if not chosen and not strangers:
        shell.say("there are no pools")
        return ExitCode.OK
    command = f"skyward down {'--all' if is_all else ' '.join(pools)}"
    agree(shell, _question(chosen, strangers), command, is_agreed=is_agreed)
    left = {pool.id: gc.end_pool(pool, spares_kept=False, on_gone=told(shell)) for pool in chosen}
    return finish({**left, **gc.end_strangers(strangers, on_gone=told(shell))})


def _chosen(
    shell: Shell, asked: Sequence[str], known: Sequence[Pool], regions: Sequence[str]
) -> tuple[list[Pool], list[Judgement]]:
    """Pools of our journals, and machines of pools that only the clouds know."""
    found = {name: pick(known, name) for name in asked}
    missing = [name for name, pool in found.items() if pool is None]
    strangers = _in_clouds(shell, known, missing, regions) if missing else []
    for name in missing:
        if not any(one.pool == name for one in strangers):
            raise unknown_pool(name, [one.id for one in known])
    return [pool for pool in known if pool in found.values()], strangers


def _in_clouds(
    shell: Shell, known: Sequence[Pool], names: Sequence[str], regions: Sequence[str]
) -> list[Judgement]:
    from skyward.cloud import gc, journal, survey

    answers = survey.ask(places(shell, known, regions=regions))
    tell_of_silence(shell, answers)
    judged = gc.judgements(answers, journal.directory(), time.time())
    return [one for one in judged if one.pool in names]


def _question(chosen: Sequence[Pool], strangers: Sequence[Judgement]) -> str:
    from skyward.cloud.account import total
    from skyward.model.money import format_usd

    count = sum(len(pool.account.owed) for pool in chosen) + len(strangers)
    rate = total(pool.account.usd_per_hour for pool in chosen) if chosen else None
    names = ", ".join([*(pool.id for pool in chosen), *dict.fromkeys(one.pool for one in strangers)])
    alive = [pool for pool in chosen if pool.state == "running"]
    work = ", and what their clients still run on them is lost" if alive else ""
    owners = {one.instance.tags.get("skyward:owner", "somebody") for one in strangers}
    whose = f" (launched by {', '.join(sorted(owners))})" if owners else ""
    return f"End {names}: {count} machine{'s' * (count != 1)}{whose}, {format_usd(rate)}/h{work}?"
