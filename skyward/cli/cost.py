"""`skyward cost`: what machines cost for a while, and what a run did cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.filters import filter_options, query_fields, with_spec
from skyward.cli.render import Answer, Column, format_option, show
from skyward.cli.requirements import MACHINE, MONEY, requirement_options, requirements_of, sized
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import UsageError
from skyward.model.money import format_usd
from skyward.model.sizes import format_duration

if TYPE_CHECKING:
    from skyward.session.cost import NodeCost, RunCost

COLUMNS = ("provider", "pricing")
"""One line for each of these: the cheapest."""


@click.command()
@click.argument("spec", required=False)
@requirement_options((*MACHINE, "nodes", "total", *MONEY))
@filter_options
@click.option("--for", "duration", default="24h", show_default=True, metavar="TIME", help="How long: 3h, 7d.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=0, metavar="N", help="At most N lines; 0 is all."
)
@format_option
@pass_shell
def cost(
    shell: Shell, /, format: str, duration: str, limit: int, ok_empty: bool, nodes: int | None, **given: Any
) -> None:
    """Say what machines cost for a while: the cheapest of each provider and way of paying.

    SPEC is an accelerator: `skyward cost A100:8 --for 3h --nodes 4`. With a run (r-2pyz4btr, or last) in its place,
    say what that run did cost, machine by machine, and for what.
    """
    if _is_run(given["spec"]):
        return _show_run(shell, given["spec"], format)
    from skyward.catalog.query import OFFER_COLUMNS
    from skyward.cli.prices import View, around, footer, nothing, opened, question

    seconds = sized("parse_duration")(duration, "--for")
    if not seconds:
        raise UsageError(f"--for {duration!r} is no time at all: write it like 3h or 7d")
    wants = requirements_of({**with_spec(given), "nodes": nodes})
    total = wants.total_accelerators is not None
    extra = ("nodes_needed", "usd_per_hour_total") if total else ()
    fields = query_fields(given) | {
        "include_indicative": False,
        "include_unpriced": False,
        "total_accelerators": wants.total_accelerators,
        "sort": ("usd_per_hour_total",) if total else ("usd_per_hour",),
        "columns": (*OFFER_COLUMNS, *extra),
        "limit": 0,
    }
    with opened(shell) as catalog:
        query = question(catalog, wants, **fields)
        matched = catalog.matched(query)
        result = with_cost(best_of_each(catalog.rows(query), limit), wants.nodes, seconds)
        columns = View.of(matched).columns(
            *([Column(title="NODES", text=lambda row: f"{row['nodes']}", right=True)] if total else []),
            Column(
                title=f"{'ALL' if total else wants.nodes} NODES/H",
                text=lambda row: format_usd(row["usd_per_hour_all_nodes"]),
                right=True,
                weight=9 if total or wants.nodes > 1 else -1,
            ),
            Column(
                title=f"FOR {format_duration(seconds)}",
                text=lambda row: format_usd(row["usd"]),
                right=True,
                weight=9,
            ),
        )
        document = {
            "catalog": around(catalog, matched, query.as_of),
            "matched": matched.total,
            "for_s": seconds,
        }
        shown = [column for column in columns if column.weight >= 0 and column.title != "$/GPU-H"]
        if result.rows or format != "table":
            show(Answer(schema="skyward.cost/1", result=result, columns=shown, around=document), format)
        if not result.rows and not ok_empty:
            raise nothing(catalog, wants, query)
        footer(shell, catalog, matched, f"the cheapest of each kind of {matched.total:,} offers", result)


def best_of_each(result: Any, limit: int) -> Any:
    """The first row of each provider and way of paying."""
    places = [result.columns.index(name) for name in COLUMNS]
    seen: set[tuple[Any, ...]] = set()
    rows = []
    for row in result.rows:
        key = tuple(row[place] for place in places)
        if key not in seen:
            seen.add(key)
            rows.append(row)
    return type(result)(result.columns, tuple(rows[:limit] if limit else rows))


def with_cost(result: Any, nodes: int, seconds: float) -> Any:
    """The rows with `nodes`, `usd_per_hour_all_nodes` and `usd` for all of the time."""
    rows = []
    for row in result.rows:
        cells = dict(zip(result.columns, row, strict=True))
        count = int(cells.pop("nodes_needed", nodes))
        cells.pop("usd_per_hour_total", None)
        rate = round(cells["usd_per_hour"] * count, 6)
        rows.append(
            {**cells, "nodes": count, "usd_per_hour_all_nodes": rate, "usd": round(rate * seconds / 3600, 6)}
        )
    names = ("nodes_needed", "usd_per_hour_total")
    columns = (*(n for n in result.columns if n not in names), "nodes", "usd_per_hour_all_nodes", "usd")
    return type(result)(columns, tuple(tuple(row[name] for name in columns) for row in rows))


# -- a run -----------------------------------------------------------------------------------------------------------


def _is_run(spec: str | None) -> bool:
    return spec is not None and (spec == "last" or re.fullmatch(r"r-[0-9a-z]{8}", spec) is not None)


def _show_run(shell: Shell, name: str, format: str) -> None:
    from skyward.catalog.result import Result
    from skyward.session.cost import find_run, run_cost

    found = run_cost(find_run(shell.config.places.state, name))
    rows = [_node_row(node) for node in found.nodes]
    names = tuple(rows[0]) if rows else ("node",)
    document = {
        "run": found.run,
        "target": found.target,
        "started_at": found.started_at,
        "is_ended": found.is_ended,
        "currency": "USD",
        "usd": found.usd,
        "parts_usd": {part: round(usd, 6) for part, usd in found.parts_usd().items()},
    }
    result = Result(names, tuple(tuple(row[name] for name in names) for row in rows))
    show(Answer(schema="skyward.run-cost/1", result=result, columns=_node_columns(), around=document), format)
    if format == "table":
        _say_for_what(shell, found)


def _node_row(node: NodeCost) -> dict[str, Any]:
    offer = node.instance.get("offer") or {}
    return {
        "node": node.node,
        "provider": node.instance.get("provider"),
        "id": node.instance.get("id"),
        "instance_type": offer.get("instance_type"),
        "region": node.instance.get("region") or offer.get("region"),
        "pricing": offer.get("pricing"),
        "usd_per_hour": node.usd_per_hour,
        "seconds": round(node.seconds, 3),
        "usd": None if node.usd is None else round(node.usd, 6),
        **{f"{part}_s": round(seconds, 3) for part, seconds in node.parts_s().items()},
        "is_ended": node.is_ended,
    }


def _node_columns() -> list[Column]:
    return [
        Column(title="NODE", text=lambda row: f"n{row['node']}", weight=9),
        Column(title="PROVIDER", text=lambda row: row["provider"] or "-", weight=9),
        Column(title="INSTANCE", text=lambda row: row["instance_type"] or "-", weight=8),
        Column(title="REGION", text=lambda row: row["region"] or "-", weight=5),
        Column(title="SOLD AS", text=lambda row: row["pricing"] or "-", weight=5),
        Column(title="PRICE/H", text=lambda row: format_usd(row["usd_per_hour"]), right=True, weight=9),
        Column(title="FOR", text=lambda row: format_duration(round(row["seconds"])), right=True, weight=9),
        Column(title="USEFUL", text=_useful, right=True, weight=7),
        Column(title="COST", text=lambda row: format_usd(row["usd"]), right=True, weight=9),
    ]


def _useful(row: Mapping[str, Any]) -> str:
    return f"{100 * row['useful_s'] / row['seconds']:.0f} %" if row["seconds"] else "-"


def _say_for_what(shell: Shell, found: RunCost) -> None:
    parts = ", ".join(f"{part} {format_usd(usd)}" for part, usd in found.parts_usd().items() if usd)
    shell.say(
        f"{found.run} {found.target}: {format_usd(found.usd)}{f' ({parts})' if parts else ''} · before tax"
    )
    if found.usd is None:
        shell.warn("the price of a machine is not known, so neither is the sum")
    if not found.is_ended and any(not node.is_ended for node in found.nodes):
        shell.warn(
            "this run did not say how it ended: its machines are counted to the last thing that was heard"
        )
