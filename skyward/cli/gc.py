"""`skyward gc`: finds machines that nobody holds any more, shows them, and ends them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from skyward.cli.console import make_table, show_table, write_json
from skyward.cli.machines import (
    agree,
    finish,
    places,
    row_of_machine,
    short_age,
    since,
    tell_of_silence,
    told,
)
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ExitCode

if TYPE_CHECKING:
    from skyward.cloud.gc import Judgement
    from skyward.cloud.survey import Pool


@click.command()
@click.option("--provider", "names", multiple=True, metavar="NAME", help="Look there only; may be repeated.")
@click.option(
    "--region", "regions", multiple=True, metavar="REGION", help="Look there, too; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Show what would be ended, and end nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, of every machine of ours.")
@click.option("--yes", "-y", "is_agreed", is_flag=True, help="End without asking.")
@pass_shell
def gc(
    shell: Shell, names: Sequence[str], regions: Sequence[str], dry_run: bool, as_json: bool, is_agreed: bool
) -> int:
    """End machines whose client is gone, and whatever was made for them.

    Asks every provider with credentials, in its own region, in those of the journals and in those of --region. Left
    alone is what does not carry Skyward's tags, what carries skyward:keep, what is younger than 30 seconds, what has
    a living client, and what belongs to another client and has not expired. With -v these are shown, too.

    Exits with 7 if something may still be billed, with 4 if a cloud could not be asked.
    """
    from skyward.cloud import gc as collector
    from skyward.cloud import journal, survey

    place = journal.directory()
    answers = survey.ask(places(shell, survey.pools(place), names=names, regions=regions))
    is_partial = tell_of_silence(shell, answers)
    judged = collector.judgements(answers, place, time.time())
    pools = _orphaned(place)
    orphans = [one for one in judged if one.is_orphan]
    if as_json:
        write_json(
            "skyward.gc/1", items=[row_of_machine(one) for one in judged], pools=[one.id for one in pools]
        )
    else:
        _show(shell, judged if shell.verbosity > 0 else orphans)
    code = ExitCode.NO_COMPUTE if is_partial else ExitCode.OK
    if not orphans and not pools:
        shell.say("nothing to end")
        return code
    if dry_run:
        return code
    agree(shell, _question(orphans, pools), "skyward gc", is_agreed=is_agreed)
    again = {pool.id: pool for pool in _orphaned(place)}  # somebody may have taken care of it meanwhile
    left = {
        pool.id: collector.end_pool(again[pool.id], spares_kept=True, on_gone=told(shell))
        for pool in pools
        if pool.id in again
    }
    strangers = [one for one in orphans if one.pool not in {pool.id for pool in pools}]
    left.update(collector.end_strangers(_still(strangers), on_gone=told(shell)))
    return finish(left) or code


def _orphaned(place: object) -> list[Pool]:
    from pathlib import Path

    from skyward.cloud import survey

    assert isinstance(place, Path)
    return [pool for pool in survey.pools(place) if pool.state in ("orphaned", "ending")]


def _still(found: Sequence[Judgement]) -> list[Judgement]:
    """The last chance: each cloud is asked again, and what has changed is let be."""
    from skyward.cloud import gc as collector
    from skyward.cloud import journal, survey

    answers = [
        survey.Answer(desk=desk, provider=provider, instances=tuple(provider.instances(None)))
        for desk, provider in {one.desk: one.provider for one in found}.items()
    ]
    ids = {one.instance.id for one in found}
    judged = collector.judgements(answers, journal.directory(), time.time())
    return [one for one in judged if one.is_orphan and one.instance.id in ids]


def _show(shell: Shell, found: Sequence[Judgement]) -> None:
    from skyward.cloud.gc import read_moment

    if not found:
        return
    table = make_table("machine", "provider", "region", "type", "pool", "age", "owner", "why", right=("age",))
    for one in found:
        created = read_moment(one.instance.tags.get("skyward:created"))
        table.add_row(
            one.instance.id,
            one.desk.provider,
            one.instance.region or one.desk.region,
            one.instance.offer.instance_type,
            one.pool or "-",
            short_age(since(created)) if created else "-",
            one.instance.tags.get("skyward:owner", "-"),
            one.why if one.is_orphan or shell.verbosity < 1 else f"left alone: {one.why}",
        )
    show_table(table)


def _question(orphans: Sequence[Judgement], pools: Sequence[Pool]) -> str:
    names = ", ".join(dict.fromkeys([*(pool.id for pool in pools), *(one.pool for one in orphans)]))
    return f"End {len(orphans)} machine{'s' * (len(orphans) != 1)} of {names}?"
