"""The filters that every price query takes, and the fields of an OfferQuery they set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from skyward.errors import UsageError


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
    from skyward.cli.moments import parse_moment
    from skyward.cli.requirements import sized

    fields: dict[str, Any] = {"pricing": pricing(given), "max_age_s": None}
    if given["gpus"]:
        fields["accelerator_count"] = sized("parse_count_range")(given["gpus"], "--gpus")
        fields["fractions"] = (fields["accelerator_count"].low or 1) < 1
    if given["vram"]:
        fields["accelerator_memory_gib"] = sized("parse_memory_range")(given["vram"], "--vram")
    if given["available"]:
        fields["availability"] = ("available",)
    if given["as_of"]:
        fields["as_of"] = parse_moment(given["as_of"], "--as-of")
    if given["max_age"]:
        fields["max_age_s"] = sized("parse_duration")(given["max_age"], "--max-age")
    return fields


def pricing(given: dict[str, Any]) -> tuple[str, ...]:
    """Ways of paying; without an option, all of them."""
    chosen = [
        name for name, is_chosen in (("spot", given["spot"]), ("on-demand", given["on_demand"])) if is_chosen
    ]
    if given.get("allocation"):
        chosen.append(given["allocation"])
    if len(chosen) > 1:
        raise UsageError(
            f"contradictory ways of paying: {' and '.join(chosen)}; give one, or --allocation cheapest"
        )
    if not chosen:
        return ()
    from skyward.catalog.query import pricing_of
    from skyward.planner import parse_allocation

    return pricing_of(parse_allocation(chosen[0]))
