"""`skyward offers`: what is on sale."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.filters import filter_options, query_fields, with_spec
from skyward.cli.render import Answer, Column, format_option, show
from skyward.cli.requirements import MACHINE, MONEY, requirement_options, requirements_of
from skyward.cli.shell import Shell, pass_shell

if TYPE_CHECKING:
    from skyward.catalog.query import OfferQuery
    from skyward.catalog.result import Matched, Result
    from skyward.catalog.store import Catalog

TERMINAL_ROWS = 20
"""Rows of a table on a terminal without `--limit`; what is piped is never cut."""


@click.command()
@click.argument("spec", required=False)
@requirement_options((*MACHINE, *MONEY))
@filter_options
@click.option("--sort", metavar="COLUMNS", help="price, -vram, gpu; a leading - turns one around.")
@click.option("--group-by", metavar="COLUMNS", help="One row per gpu, provider, region ...")
@click.option("--columns", metavar="COLUMNS", help="Only these columns.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="At most N rows; 0 is all.")
@format_option
@pass_shell
def offers(
    shell: Shell, /, format: str, sort: str | None, limit: int | None, ok_empty: bool, **given: Any
) -> None:
    """List what is on sale, cheapest first, with the age of every price.

    SPEC is an accelerator: H100, A100:8, 24GB..80GB. An indicative price is marked with ~ and never rented.
    """
    from skyward.cli.prices import around, counted, footer, nothing, opened, question

    wants = requirements_of(with_spec(given))
    fields = query_fields(given) | {
        "include_indicative": True,
        "sort": _names(sort) or ("usd_per_hour",),
        "group_by": _names(given["group_by"]),
        "columns": _names(given["columns"]),
        "limit": default_limit(limit, format),
    }
    with opened(shell) as catalog:
        query = question(catalog, wants, **fields)
        result, matched = catalog.rows(query), catalog.matched(query)
        document = {"catalog": around(catalog, matched, query.as_of), "matched": matched.total}
        view = columns(catalog, query, result, matched)
        if result.rows or format != "table":
            show(Answer(schema="skyward.offers/1", result=result, columns=view, around=document), format)
        if not result.rows and not ok_empty:
            raise nothing(catalog, wants, query)
        shown = counted(len(result), matched.total)
        footer(
            shell,
            catalog,
            matched,
            f"{len(result):,} groups of {matched.total:,} offers" if query.group_by else shown,
            result,
        )


def columns(catalog: Catalog, query: OfferQuery, result: Result, matched: Matched) -> list[Column]:
    """The view of people: the usual columns, or exactly those that were asked for."""
    from skyward.cli.prices import View, generic

    if query.columns or query.group_by:
        return generic(result)
    return View.of(matched).columns()


def default_limit(limit: int | None, format: str) -> int:
    if limit is not None:
        return limit
    return TERMINAL_ROWS if format == "table" and console.is_terminal(sys.stdout) else 0


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
