"""`skyward offers`: what is on sale."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.render import Answer, Column, format_option, show
from skyward.cli.requirements import MACHINE, MONEY, requirement_options, requirements_of
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import UsageError

if TYPE_CHECKING:
    from skyward.catalog.query import OfferQuery
    from skyward.catalog.result import Matched, Result
    from skyward.catalog.store import Catalog

TERMINAL_ROWS = 20
"""Rows of a table on a terminal without `--limit`; what is piped is never cut."""


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that only queries have, shared with `cheapest`, `cost` and `history`."""
    for option in reversed(
        (
            click.option("--gpus", metavar="RANGE", help="Accelerators per node: 8, 4..8."),
            click.option("--vram", metavar="RANGE", help="Memory of one accelerator: 24GB..80GB."),
            click.option("--spot", is_flag=True, help="Only machines that may be taken back."),
            click.option("--on-demand", is_flag=True, help="Only machines that stay."),
            click.option("--available", is_flag=True, help="Only what was seen available."),
            click.option("--as-of", metavar="DATE", help="The catalog as it was: 2026-10-01, or 30d ago."),
            click.option("--max-age", metavar="TIME", help="Refuse to answer from older prices: 6h."),
            click.option("--ok-empty", is_flag=True, help="Exit with 0 when nothing matches."),
        )
    ):
        command = option(command)
    return command


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
    from skyward.cli.prices import around, footer, nothing, opened, question

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
        footer(shell, catalog, matched, len(result), "groups of offers" if query.group_by else "offers")


def columns(catalog: Catalog, query: OfferQuery, result: Result, matched: Matched) -> list[Column]:
    """The view of people: the usual columns, or exactly those that were asked for."""
    from skyward.cli.prices import View, generic

    if query.columns or query.group_by:
        return generic(result)
    return View.of(matched).columns()


def with_spec(given: dict[str, Any]) -> dict[str, Any]:
    """The options, with SPEC as the accelerator."""
    if given.get("spec") is None:
        return given
    if given.get("accelerator"):
        raise UsageError(
            f"an accelerator is given twice: {given['spec']!r} and --accelerator {given['accelerator']!r}"
        )
    return {**given, "accelerator": given["spec"]}


def query_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of an OfferQuery that `filter_options` set.

    Raises:
        UsageError: two of them contradict each other.
        SizeError: one is not in the grammar of sizes.
    """
    from skyward.cli.prices import parse_moment
    from skyward.model.sizes import parse_count_range, parse_duration, parse_memory_range

    fields: dict[str, Any] = {"pricing": pricing(given), "max_age_s": None}
    if given["gpus"]:
        fields["accelerator_count"] = parse_count_range(given["gpus"])
        fields["fractions"] = (fields["accelerator_count"].low or 1) < 1
    if given["vram"]:
        fields["accelerator_memory_gib"] = parse_memory_range(given["vram"])
    if given["available"]:
        fields["availability"] = ("available",)
    if given["as_of"]:
        fields["as_of"] = parse_moment(given["as_of"], "--as-of")
    if given["max_age"]:
        fields["max_age_s"] = parse_duration(given["max_age"])
    return fields


def pricing(given: dict[str, Any]) -> tuple[str, ...]:
    """Ways of paying; without an option, all of them."""
    from skyward.catalog.query import pricing_of
    from skyward.planner import parse_allocation

    chosen = [
        name for name, is_chosen in (("spot", given["spot"]), ("on-demand", given["on_demand"])) if is_chosen
    ]
    if given.get("allocation"):
        chosen.append(given["allocation"])
    if len(chosen) > 1:
        raise UsageError(
            f"contradictory ways of paying: {' and '.join(chosen)}; give one, or --allocation cheapest"
        )
    return pricing_of(parse_allocation(chosen[0])) if chosen else ()


def default_limit(limit: int | None, format: str) -> int:
    if limit is not None:
        return limit
    return TERMINAL_ROWS if format == "table" and console.is_terminal(sys.stdout) else 0


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
