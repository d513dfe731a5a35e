"""`skyward ps`: what is rented now, for how much, since when, and who will end it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.console import make_table, show_table, write_json
from skyward.cli.machines import pick, places, row_of_machine, short_age, since, tell_of_silence, unknown_pool
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ExitCode

if TYPE_CHECKING:
    from skyward.cloud.account import Machine
    from skyward.cloud.gc import Judgement
    from skyward.cloud.survey import Pool


@click.command()
@click.argument("pool", required=False)
@click.option("--live", is_flag=True, help="Also ask the clouds, and show what is in no journal here.")
@click.option("--provider", "names", multiple=True, metavar="NAME", help="With --live: ask this one only.")
@click.option("--region", "regions", multiple=True, metavar="REGION", help="With --live: ask there, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def ps(
    shell: Shell, pool: str | None, live: bool, names: Sequence[str], regions: Sequence[str], as_json: bool
) -> int:
    """Show pools that are not through: machines, age, price, cost so far, when they end by themselves, and whether
    their client lives.

    Reads the journals of this user and asks nobody; --live asks the clouds. Exits with 5 if POOL is unknown.
    """
    from skyward.cloud import gc, survey

    found = survey.pools()
    chosen = found
    if pool is not None:
        one = pick(found, pool)
        if one is None:
            raise unknown_pool(pool, [one.id for one in found])
        chosen = [one]
    judged: list[Judgement] = []
    if live:
        from skyward.cloud import journal

        answers = survey.ask(places(shell, chosen, names=names, regions=regions))
        tell_of_silence(shell, answers)
        judged = gc.judgements(answers, journal.directory(), time.time())
    known = {one.id for one in found}
    strangers = [one for one in judged if one.pool not in known] if pool is None else []
    if as_json:
        shown = {one.instance.id: str(one.instance.state) for one in judged} if live else None
        write_json(
            "skyward.ps/1",
            items=[_row(one, shown) for one in chosen],
            elsewhere=[row_of_machine(one) for one in strangers],
        )
    else:
        _show(shell, chosen, strangers)
    return ExitCode.OK


def _row(pool: Pool, shown: dict[str, str] | None) -> dict[str, Any]:
    from skyward.cloud.launch import moment

    account, now = pool.account, time.time()
    return {
        "pool": pool.id,
        "name": account.name or None,
        "owner": account.owner,
        "state": pool.state,
        "providers": sorted({desk.provider for desk in account.desks}),
        "created_at": moment(account.created_at),
        "expires_at": moment(account.expires_at) if account.expires_at else None,
        "lease_s": account.lease_s,
        "lease_left_s": _rounded(pool.lease_left_s(now)),
        "usd_per_hour": account.usd_per_hour,
        "usd": account.usd(now),
        "client": account.client.plain() if account.client else None,
        "trouble": account.trouble or None,
        "unanswered_launches": len(account.doubts),
        "machines": [_machine(one, now, shown) for one in account.machines.values() if one.gone_at is None],
    }


def _machine(machine: Machine, now: float, shown: dict[str, str] | None) -> dict[str, Any]:
    from skyward.cloud.launch import moment

    return {
        "id": machine.id,
        "node": machine.node,
        "provider": machine.desk.provider,
        "region": machine.desk.region,
        "instance_type": machine.instance_type,
        "pricing": machine.pricing,
        "usd_per_hour": machine.usd_per_hour,
        "usd": machine.usd(now),
        "launched_at": moment(machine.launched_at),
        "host": machine.endpoint.get("host"),
        "state": None if shown is None else shown.get(machine.id, "not listed"),
    }


def _show(shell: Shell, pools: Sequence[Pool], strangers: Sequence[Judgement]) -> None:
    from skyward.cloud.account import total
    from skyward.model.money import format_usd

    if pools:
        right = ("nodes", "age", "$/h", "cost")
        table = make_table(
            "pool", "provider", "nodes", "state", "age", "$/h", "cost", "ends", "client", right=right
        )
        for pool in pools:
            table.add_row(*_cells(pool))
        show_table(table)
    if strangers:
        _show_strangers(strangers)
    count = sum(len(pool.account.owed) for pool in pools)
    rate = total(pool.account.usd_per_hour for pool in pools)
    shell.say(f"{_count(len(pools), 'pool')}, {_count(count, 'machine')}, {format_usd(rate)}/h")
    for pool in pools:
        if pool.account.trouble and pool.state != "running":
            shell.warn(f"{pool.id}: {pool.account.trouble}", [f"skyward down {pool.id}"])


def _cells(pool: Pool) -> list[str]:
    from skyward.model.money import format_usd

    account = pool.account
    return [
        pool.id,
        ",".join(sorted({desk.provider for desk in account.desks})),
        str(len(account.owed)) + ("+?" if account.doubts else ""),
        pool.state,
        short_age(since(account.created_at)),
        format_usd(account.usd_per_hour),
        format_usd(account.usd(time.time())),
        ends(pool),
        _client(pool),
    ]


def ends(pool: Pool) -> str:
    """When the machines end by themselves, at the latest."""
    now, account, parts = time.time(), pool.account, []
    if account.expires_at is not None:
        parts.append(_moment(account.expires_at - now))
    lease_left_s = pool.lease_left_s(now)
    if lease_left_s is not None and pool.state == "running":
        parts.append(f"{short_age(lease_left_s)} after its client")
    elif lease_left_s is not None:
        parts.append(f"{_moment(lease_left_s)} by its lease")
    return ", or ".join(parts) or "never"


def _moment(left_s: float) -> str:
    return f"in {short_age(left_s)}" if left_s >= 1 else "any moment"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _client(pool: Pool) -> str:
    client = pool.account.client
    if client is None:
        return "-"
    where = f"{pool.account.owner or client.host}, pid {client.pid}"
    return (
        where if pool.state == "running" else f"{where} ({'unseen' if pool.state == 'elsewhere' else 'gone'})"
    )


def _show_strangers(strangers: Sequence[Judgement]) -> None:
    table = make_table("machine", "provider", "region", "type", "pool", "owner", "what it is")
    for one in strangers:
        instance = one.instance
        table.add_row(
            instance.id,
            one.desk.provider,
            instance.region or one.desk.region,
            instance.offer.instance_type,
            one.pool or "-",
            instance.tags.get("skyward:owner", "-"),
            one.why,
        )
    show_table(table)


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
