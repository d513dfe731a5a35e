"""`skyward history`: how a price moved."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.chart import Series, line_chart
from skyward.cli.render import Answer, Column, devices, format_option, show
from skyward.cli.requirements import MACHINE, MONEY, requirement_options, requirements_of
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import AcceleratorError, ExitCode, NoOfferError, QueryError, UsageError
from skyward.model.money import format_usd

if TYPE_CHECKING:
    from skyward.catalog.result import Result
    from skyward.catalog.store import Catalog

LINES = 8
"""So many lines can be told apart; of more offers the cheapest of each kind is drawn."""


@click.command()
@click.argument("spec", required=False)
@requirement_options((*MACHINE, *MONEY))
@click.option("--since", default="90d", show_default=True, metavar="DATE", help="From when: 30d, 2026-10-01.")
@click.option("--until", metavar="DATE", help="Until when.")
@click.option(
    "--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw the prices into this file."
)
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with picture and table."
)
@click.option(
    "--limit", type=click.IntRange(min=0), default=0, metavar="N", help="The last N changes; 0 is all."
)
@format_option
@pass_shell
def history(
    shell: Shell,
    /,
    spec: str | None,
    since: str,
    until: str | None,
    svg: Path | None,
    html: Path | None,
    limit: int,
    format: str,
    **given: Any,
) -> None:
    """Show how prices moved, oldest first. Each price holds until the next line of the same offer.

    SPEC is an accelerator (H100, A100:8) or an instance type. Prices are remembered at every refresh.
    """
    from skyward.cli.moments import parse_moment
    from skyward.cli.prices import opened, question

    start = parse_moment(since, "--since")
    end = parse_moment(until, "--until") if until else datetime.now(UTC)
    if end <= start:
        raise UsageError(f"--until {until!r} is not after --since {since!r}: turn them around")
    with opened(shell) as catalog:
        wants = requirements_of(_with_spec(catalog, spec, given))
        query = question(catalog, wants, pricing=_pricing(given), include_indicative=True)
        found = with_change(catalog.history(query, since=start, until=end))
    if not found.rows:
        raise _no_history(spec, since)
    if svg is not None:
        _write(shell, svg, picture(found, spec or "prices", start, end))
    if html is not None:
        _write(shell, html, page(found, spec or "prices", start, end))
    if svg is None and html is None:
        shown = type(found)(found.columns, found.rows[-limit:])
        around = {"since": start, "until": end, "currency": "USD", "changes": len(found)}
        show(Answer(schema="skyward.history/1", result=shown, columns=columns(), around=around), format)
        _footer(shell, found, len(shown))


def _with_spec(catalog: Catalog, spec: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """SPEC as an accelerator or, when it is none, as an instance type.

    Raises:
        AcceleratorError: it is neither.
    """
    from skyward.cli.filters import with_spec
    from skyward.cli.requirements import parse_accelerator

    if spec is None:
        return given
    try:
        parse_accelerator(spec)
    except AcceleratorError as error:
        if given.get("machine"):
            raise
        return {**given, "machine": _machine(catalog, spec, error)}
    return with_spec({**given, "spec": spec})


def _machine(catalog: Catalog, name: str, unknown: AcceleratorError) -> str:
    try:
        return catalog.machine(name)[0]
    except QueryError as error:
        raise (error if "." in name else unknown) from None


def _pricing(given: Mapping[str, Any]) -> tuple[str, ...]:
    from skyward.catalog.query import pricing_of
    from skyward.planner import parse_allocation

    return pricing_of(parse_allocation(given["allocation"])) if given["allocation"] else ()


def _no_history(spec: str | None, since: str) -> NoOfferError:
    return NoOfferError(
        f"no price of {spec or 'anything'} is known since {since}",
        facts=["prices are remembered from the first `skyward catalog refresh` on"],
        hints=["skyward catalog info", "skyward history ... --since 365d"],
        exit_code=ExitCode.NOTHING_SELECTED,
    )


def _write(shell: Shell, file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {str(file)!r}: {error.strerror}") from error
    shell.say(f"wrote {file}")


def _footer(shell: Shell, found: Result, shown: int) -> None:
    from skyward.cli import console
    from skyward.cli.prices import EXCLUDED, counted, legend

    if console.is_terminal(sys.stdout):
        offers = len({_key(row) for row in found.dicts()})
        of = f"{offers:,} offer{'' if offers == 1 else 's'}"
        shell.say(
            f"{counted(shown, len(found), 'prices')} of {of} · {EXCLUDED}{legend(found)} · a picture: --svg FILE, --html FILE"
        )


# -- rows ----------------------------------------------------------------------------------------------------------


def columns() -> list[Column]:
    from skyward.cli.prices import marked

    return [
        Column(title="SEEN", text=lambda row: f"{row['observed_at']:%Y-%m-%d %H:%M}", weight=9),
        Column(title="PROVIDER", text=lambda row: row["provider"], weight=9),
        Column(title="INSTANCE", text=lambda row: row["instance_type"], weight=9),
        Column(title="REGION", text=lambda row: row["zone"] or row["region"] or "-", weight=6),
        Column(title="GPU", text=devices, weight=5),
        Column(title="SOLD AS", text=lambda row: row["pricing"], weight=6),
        Column(title="PRICE/H", text=marked, right=True, weight=9),
        Column(title="$/GPU-H", text=lambda row: format_usd(row["usd_per_gpu_hour"]), right=True, weight=4),
        Column(title="CHANGE", text=_change, right=True, weight=8),
    ]


def _change(row: Mapping[str, Any]) -> str:
    percent = row["percent"]
    return row["change"] if percent is None else f"{percent:+.1f} %"


def with_change(found: Result) -> Result:
    """The rows with `percent`: against the price before of the same offer, None where there is none."""
    before: dict[tuple[Any, ...], float] = {}
    rows = []
    for row in found.dicts():
        key, price = _key(row), row["usd_per_hour"]
        last = before.get(key)
        rows.append((*row.values(), round(100 * (price / last - 1), 2) if price and last else None))
        if price:
            before[key] = price
    return type(found)((*found.columns, "percent"), tuple(rows))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = ("provider", "region", "zone", "instance_type", "pricing", "accelerator_count")
    return tuple(row[name] for name in names)


# -- pictures --------------------------------------------------------------------------------------------------------


def picture(found: Result, what: str, start: datetime, end: datetime) -> str:
    """The prices as an SVG: each offer, or the cheapest of each kind where there are too many to tell apart."""
    rows = found.dicts()
    per_gpu = all(row["usd_per_gpu_hour"] is not None or row["usd_per_hour"] is None for row in rows)
    column = "usd_per_gpu_hour" if per_gpu else "usd_per_hour"
    series = lines(rows, column)
    first = min(row["observed_at"] for row in rows)
    count = len({_key(row) for row in rows})
    which = f"{count} offers" if count <= LINES else f"the cheapest of {count} offers"
    return line_chart(
        series,
        title=f"{what}: price per {'GPU and hour' if per_gpu else 'hour'}",
        subtitle=f"{which}, {_day(max(first, start))} to {_day(end)}; US dollars before tax; dashed is spot",
        unit="USD",
        start=max(first, start) - timedelta(hours=1) if first > start else start,
        end=end,
    )


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%b %Y}"


def lines(rows: Sequence[Mapping[str, Any]], column: str) -> list[Series]:
    """One series per offer; where that is more than `LINES`, the lowest price per provider and way of paying."""
    if len({_key(row) for row in rows}) <= LINES:
        return _lowest(rows, column, _key, _offer_label)
    return _lowest(rows, column, lambda row: (row["provider"], row["pricing"]), _kind_label)


def _lowest(rows: Sequence[Mapping[str, Any]], column: str, group: Any, label: Any) -> list[Series]:
    """Of each group, the lowest of the prices that hold at each moment."""
    held: dict[Any, dict[Any, float]] = {}
    points: dict[Any, dict[datetime, float | None]] = {}
    labels: dict[Any, tuple[str, bool]] = {}
    for row in rows:
        key = group(row)
        labels.setdefault(key, (label(row), row["pricing"] in ("spot", "interruptible")))
        prices = held.setdefault(key, {})
        if row["usd_per_hour"] is None:
            prices.pop(_key(row), None)
        else:
            prices[_key(row)] = row[column]
        points.setdefault(key, {})[row["observed_at"]] = min(prices.values(), default=None)
    return [Series(labels[key][0], tuple(points[key].items()), labels[key][1]) for key in points]


def _offer_label(row: Mapping[str, Any]) -> str:
    return f"{row['provider']} {row['instance_type']} {row['zone'] or row['region'] or ''}".strip()


def _kind_label(row: Mapping[str, Any]) -> str:
    return f"{row['provider']} {row['pricing']}"


def page(found: Result, what: str, start: datetime, end: datetime) -> str:
    """A self-contained page: the picture, and the table below it."""
    from html import escape

    header, *body = (
        [column.title for column in columns()],
        *([column.text(row) for column in columns()] for row in found.dicts()),
    )
    head = "".join(f"<th>{escape(title)}</th>" for title in header)
    table = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body)
    return _PAGE.format(
        title=escape(f"{what}: prices"), svg=picture(found, what, start, end), head=head, body=table
    )


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 960px; margin: 24px auto; padding: 0 16px }}
svg {{ width: 100%; height: auto }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th {{ text-align: left; border-bottom: 2px solid #999; font-size: 12px }}
td, th {{ padding: 3px 10px 3px 0; white-space: nowrap }}
td {{ border-bottom: 1px solid #eee }}
td:nth-last-child(-n+3), th:nth-last-child(-n+3) {{ text-align: right }}
</style>
</head>
<body>
{svg}
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""
