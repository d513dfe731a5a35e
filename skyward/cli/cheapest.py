"""`skyward cheapest`: the lowest price that fits."""

from __future__ import annotations

from typing import Any

import click

from skyward.cli.filters import filter_options, query_fields, with_spec
from skyward.cli.render import Answer, column_of, format_option, show
from skyward.cli.requirements import MACHINE, MONEY, requirement_options, requirements_of
from skyward.cli.shell import Shell, pass_shell

PER = {"node": "usd_per_hour", "gpu": "usd_per_gpu_hour", "vram": "usd_per_vram_gib_hour"}
"""What is compared -> the column that holds it."""


@click.command()
@click.argument("spec", required=False)
@requirement_options((*MACHINE, "total", *MONEY))
@filter_options
@click.option(
    "--per", type=click.Choice(list(PER)), default="node", help="Compare per node, GPU, or GB of its memory."
)
@click.option(
    "-n",
    "--limit",
    "limit",
    type=click.IntRange(min=0),
    default=1,
    metavar="N",
    help="The N cheapest; 0 is all.",
)
@format_option
@pass_shell
def cheapest(shell: Shell, /, format: str, per: str, limit: int, ok_empty: bool, **given: Any) -> None:
    """Name the cheapest offer that fits, whoever sells it and however it is paid.

    SPEC is an accelerator: H100, A100:8, 24GB..80GB. Unknown and indicative prices never win.
    """
    from skyward.catalog.query import OFFER_COLUMNS
    from skyward.cli.prices import View, around, counted, footer, nothing, opened, question

    wants = requirements_of(with_spec(given))
    extra = ("nodes_needed", "usd_per_hour_total") if wants.total_accelerators else ()
    fields = query_fields(given) | {
        "include_indicative": False,
        "include_unpriced": False,
        "total_accelerators": wants.total_accelerators,
        "sort": ("usd_per_hour_total",) if extra and per == "node" else (PER[per],),
        "columns": (*OFFER_COLUMNS, *extra, "usd_per_vram_gib_hour"),
        "limit": limit,
    }
    with opened(shell) as catalog:
        query = question(catalog, wants, **fields)
        result = catalog.rows(query)
        # A program reads the age in each item; only people are told what else there is, and how old that is.
        matched = catalog.matched(query) if format in ("table", "md") else None
        more = [*extra, *(["usd_per_vram_gib_hour"] if per == "vram" else [])]
        answer = Answer(
            schema="skyward.cheapest/1",
            result=result,
            columns=View.of(matched).columns(*map(column_of, more)) if matched else (),
            around={"catalog": around(catalog, matched, query.as_of), "per": per},
        )
        if result.rows or format != "table":
            show(answer, format)
        if not result.rows and not ok_empty:
            raise nothing(catalog, wants, query)
        if matched is not None:
            footer(shell, catalog, matched, counted(len(result), matched.total), result)
