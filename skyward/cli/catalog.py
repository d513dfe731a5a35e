"""`skyward catalog`: what prices there are, newer ones, and questions in SQL."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.render import (
    Answer,
    Column,
    age,
    cell_text,
    column_of,
    devices,
    format_option,
    show,
    show_json,
    show_table,
)
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import CredentialsError, ExitCode, SkywardError, UsageError
from skyward.model.money import format_usd

if TYPE_CHECKING:
    from skyward.catalog.history import Diff
    from skyward.catalog.refresh import RefreshResult
    from skyward.catalog.result import Result
    from skyward.contracts.provider import Provider


@click.group()
def catalog() -> None:
    """Inspect, refresh, build and query the price catalog."""


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


# -- info ----------------------------------------------------------------------------------------------------------


@catalog.command()
@json_option
@pass_shell
def info(shell: Shell, /, as_json: bool) -> None:
    """Say which prices there are, how old they are, and in which files they lie."""
    from skyward.cli.prices import opened, provenance

    with opened(shell) as store:
        found = store.info()
    items = [provenance(item) for item in found.providers]
    if as_json:
        show_json(
            "skyward.catalog/1",
            {
                "version": found.version,
                "schema_version": found.schema_version,
                "history": str(found.history),
                "history_parts": found.history_parts,
                "files": [
                    {"layer": f.name, "provider": f.provider or None, "path": str(f.path)}
                    for f in found.files
                ],
                "warnings": list(found.warnings),
                "items": items,
            },
        )
        return
    now = datetime.now(UTC)
    show_table(
        [
            Column(title="PROVIDER", text=lambda row: row["provider"], weight=9),
            Column(title="LAYER", text=lambda row: row["layer"], weight=9),
            Column(title="OFFERS", text=lambda row: f"{row['offers']:,}", right=True, weight=8),
            Column(title="PRICED", text=lambda row: f"{row['priced']:,}", right=True, weight=8),
            Column(
                title="OLDEST", text=lambda row: _aged(row, "oldest_observed_at", now), right=True, weight=8
            ),
            Column(
                title="NEWEST", text=lambda row: age(row["newest_observed_at"], now), right=True, weight=7
            ),
            Column(title="SOURCE", text=lambda row: row["sources"], weight=3, least=24),
        ],
        items,
    )
    console.write(f"\ncatalog  {found.version} (schema {found.schema_version})\n")
    for layer in found.files:
        console.write(f"{layer.name:<8} {layer.path}\n")
    console.write(f"history  {found.history} ({found.history_parts} parts)\n")
    stale = [item["provider"] for item in items if item["is_stale"]]
    if stale:
        shell.hint(f"older than such prices hold: {', '.join(stale)}; `skyward catalog refresh`")


def _aged(row: Any, column: str, now: datetime) -> str:
    return f"{age(row[column], now)}{'!' if row['is_stale'] else ''}"


# -- refresh -------------------------------------------------------------------------------------------------------


@catalog.command()
@click.argument("names", metavar="[PROVIDER]...", nargs=-1)
@click.option("--provider", multiple=True, metavar="NAME", help="The same as naming it; may be repeated.")
@click.option("--force", is_flag=True, help="Believe prices that look implausible.")
@click.option("--offline-ok", is_flag=True, help="Exit with 0 even when a provider cannot be asked.")
@click.option(
    "--backfill", metavar="DATE", help="Also ask what prices were since then, where a cloud remembers: 90d."
)
@json_option
@pass_shell
def refresh(
    shell: Shell,
    /,
    names: tuple[str, ...],
    provider: tuple[str, ...],
    force: bool,
    offline_ok: bool,
    backfill: str | None,
    as_json: bool,
) -> int:
    """Ask providers for their prices now. One that fails keeps its old prices and their date.

    Without a name every provider is asked whose credentials are found.
    """
    from skyward.cli.moments import parse_moment
    from skyward.cli.prices import opened

    since = parse_moment(backfill, "--backfill") if backfill else None
    asked = tuple(dict.fromkeys((*names, *provider)))
    ready, failures = _ready(shell, asked)
    results: list[RefreshResult] = []
    if ready:
        with opened(shell) as store:
            results = store.refresh(
                ready,
                lambda name, message: shell.say(f"{name}: {message}"),
                registry=shell.plugins().accelerators(),
                force=force,
                since=since,
            )
    if not ready and failures:
        raise failures[0][1] if len(asked) == 1 else _nobody(failures)
    items = [*map(_refreshed, results), *(_unready(name, error) for name, error in failures)]
    _show_refresh(items, as_json)
    for result in results:
        for text in result.skipped:
            shell.warn(f"{result.provider}: left out: {text}")
        if result.error is not None:
            shell.warn(result.error.message, [*result.error.facts, *result.error.hints])
    for _, error in failures if asked else ():
        shell.warn(error.message, [*error.facts, *error.hints])
    has_failed = any(not result.ok for result in results) or bool(asked and failures)
    return ExitCode.NO_COMPUTE if has_failed and not offline_ok else ExitCode.OK


def _ready(shell: Shell, asked: Sequence[str]) -> tuple[list[Provider], list[tuple[str, SkywardError]]]:
    """Providers that can be asked, and why the others cannot.

    Raises:
        UsageError: one that is named has no prices.
    """
    plugins = shell.plugins()
    ready: list[Provider] = []
    failures: list[tuple[str, SkywardError]] = []
    for name in asked or plugins.providers():
        kind = plugins.provider(name)
        if kind.capabilities.off_means == "nothing":
            if asked:
                raise UsageError(f"provider {name!r} has no prices: its machines are your own")
            continue
        try:
            ready.append(kind.from_env(kind.Config(**shell.config.provider(name))))
        except SkywardError as error:
            failures.append((name, error))
    return ready, failures


def _refreshed(result: RefreshResult) -> dict[str, Any]:
    return {
        "provider": result.provider,
        "status": "refreshed" if result.ok else "failed",
        "offers": result.rows if result.ok else None,
        "priced": result.priced if result.ok else None,
        "changed": result.changed if result.ok else None,
        "past": result.past if result.ok else None,
        "seconds": round(result.seconds, 3),
        "left_out": list(result.skipped),
        "error": None if result.error is None else result.error.message,
    }


def _unready(name: str, error: SkywardError) -> dict[str, Any]:
    empty = dict.fromkeys(("offers", "priced", "changed", "past", "seconds"))
    status = "no credentials" if isinstance(error, CredentialsError) else "not asked"
    return {"provider": name, "status": status, **empty, "left_out": [], "error": error.message}


def _show_refresh(items: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json("skyward.refresh/1", {"items": list(items)})
    elif items:
        counts = ("offers", "priced", "changed")
        show_table(
            [
                Column(title="PROVIDER", text=lambda row: row["provider"], weight=9),
                Column(title="STATUS", text=lambda row: row["status"], weight=9),
                *(_count_column(name) for name in counts),
                Column(title="TOOK", text=lambda row: _seconds(row["seconds"]), right=True),
                Column(title="ERROR", text=lambda row: row["error"] or "", weight=9, least=30),
            ],
            items,
        )


def _count_column(name: str) -> Column:
    return Column(
        title=name.upper(),
        text=lambda row: "-" if row[name] is None else f"{row[name]:,}",
        right=True,
        weight=8,
    )


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}s"


def _nobody(failures: Sequence[tuple[str, SkywardError]]) -> CredentialsError:
    return CredentialsError(
        "no provider can be asked for prices: no credentials found",
        facts=[error.message for _, error in failures],
        hints=["skyward providers"],
    )


# -- build, verify -------------------------------------------------------------------------------------------------


@catalog.command()
@click.option(
    "--from",
    "sources",
    type=click.Path(path_type=Path),
    default=Path("catalog/sources"),
    show_default=True,
    metavar="DIR",
    help="Reviewed tables.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("catalog/snapshot"),
    show_default=True,
    metavar="DIR",
    help="Where the compiled tables go.",
)
@json_option
@pass_shell
def build(shell: Shell, /, sources: Path, out: Path, as_json: bool) -> int:
    """Compile the tables of a checkout into the snapshot that ships. The same inputs give the same bytes."""
    from skyward.catalog.compile import build as compile_catalog

    report = compile_catalog(sources, out)
    files = [
        {"table": name, "rows": entry.rows, "bytes": entry.bytes, "sha256": entry.sha256}
        for name, entry in report.files.items()
    ]
    if as_json:
        document = {"version": report.version, "out": str(report.out), "problems": list(report.problems)}
        show_json("skyward.build/1", {**document, "notes": list(report.notes), "items": files})
    elif files:
        show_table(
            [
                Column(title="TABLE", text=lambda row: row["table"], weight=9),
                Column(title="ROWS", text=lambda row: f"{row['rows']:,}", right=True, weight=9),
                Column(title="BYTES", text=lambda row: f"{row['bytes']:,}", right=True, weight=9),
                Column(title="SHA256", text=lambda row: row["sha256"][:16], weight=5),
            ],
            files,
        )
        shell.say(f"wrote catalog {report.version} to {report.out}")
    for note in report.notes:
        shell.say(f"note: {note}")
    for problem in report.problems:
        shell.warn(problem)
    if not report.ok:
        raise UsageError(f"{len(report.problems)} rows of the sources are wrong: nothing was written")
    return ExitCode.OK


@catalog.command()
@json_option
@pass_shell
def verify(shell: Shell, /, as_json: bool) -> int:
    """Check every file of the catalog: digests, columns, rows. Exits with 4 when one is refused."""
    from skyward.cli.prices import opened

    with opened(shell) as store:
        findings = store.verify()
    items = [
        {"path": str(f.path), "what": f.what, "ok": f.ok, "problem": f.problem or None} for f in findings
    ]
    if as_json:
        show_json("skyward.verify/1", {"items": items})
    else:
        show_table(
            [
                Column(title="STATUS", text=lambda row: "good" if row["ok"] else "refused", weight=9),
                Column(title="WHAT", text=lambda row: row["what"], weight=8),
                Column(title="PATH", text=lambda row: row["path"], weight=9),
                Column(title="PROBLEM", text=lambda row: row["problem"] or "", weight=9),
            ],
            items,
        )
    bad = sum(not item["ok"] for item in items)
    shell.say(f"{len(items) - bad} of {len(items)} files are good")
    return ExitCode.NO_COMPUTE if bad else ExitCode.OK


# -- diff ----------------------------------------------------------------------------------------------------------


@catalog.command()
@click.argument("before")
@click.argument("after", default="now")
@click.option("--provider", multiple=True, metavar="NAME", help="Only this provider; may be repeated.")
@click.option(
    "--limit", type=click.IntRange(min=0), metavar="N", help="At most N lines of each kind; 0 is all."
)
@format_option
@pass_shell
def diff(
    shell: Shell, /, before: str, after: str, provider: tuple[str, ...], limit: int | None, format: str
) -> None:
    """Show prices that are new, gone or moved between two states of the catalog.

    A state is `bundled`, `live`, `now`, a day (2026-10-01), or a file or directory of offers.
    """
    from skyward.catalog.query import OfferQuery
    from skyward.cli.prices import opened

    with opened(shell) as store:
        found = store.diff(_state(before), _state(after), OfferQuery(providers=provider))
    counts = {"new": len(found.new), "gone": len(found.gone), "moved": len(found.moved)}
    if limit is None:
        limit = 20 if format == "table" and console.is_terminal(sys.stdout) else 0
    rows = _changes(found, limit)
    document = {"before": found.before, "after": found.after, "currency": "USD", **counts}
    if rows.rows or format != "table":
        show(Answer(schema="skyward.diff/1", result=rows, columns=_diff_columns(), around=document), format)
    shell.say(
        f"{found.before} to {found.after}: {counts['new']:,} new, {counts['gone']:,} gone, {counts['moved']:,} moved"
    )


def _state(text: str) -> object:
    from skyward.cli.moments import parse_moment

    if text in ("bundled", "live", "now"):
        return text
    if Path(text).exists() or "/" in text or text.endswith(".parquet"):
        return Path(text)
    try:
        return parse_moment(text, "state")
    except UsageError:
        raise UsageError(
            f"no state of the catalog is called {text!r}: say bundled, live, now, a day, or a file"
        ) from None


def _changes(found: Diff, limit: int) -> Result:
    """All changes as rows: what moved first, then what is new, then what went."""
    parts = (("moved", found.moved), ("new", found.new), ("gone", found.gone))
    rows = [
        (change, *row) for change, result in parts for row in (result.rows[:limit] if limit else result.rows)
    ]
    return type(found.new)(("change", *found.new.columns), tuple(rows))


def _diff_columns() -> list[Column]:
    return [
        Column(title="CHANGE", text=lambda row: row["change"], weight=9),
        Column(title="PROVIDER", text=lambda row: row["provider"], weight=9),
        Column(title="INSTANCE", text=lambda row: row["instance_type"], weight=9),
        Column(title="REGION", text=lambda row: row["zone"] or row["region"] or "-", weight=6),
        Column(title="GPU", text=devices, weight=5),
        Column(title="SOLD AS", text=lambda row: row["pricing"], weight=6),
        Column(title="BEFORE", text=lambda row: format_usd(row["before"]), right=True, weight=8),
        Column(title="AFTER", text=lambda row: format_usd(row["after"]), right=True, weight=8),
        Column(
            title="BY",
            text=lambda row: "-" if row["percent"] is None else f"{row['percent']:+.1f} %",
            right=True,
            weight=8,
        ),
    ]


# -- sql -----------------------------------------------------------------------------------------------------------


@catalog.command()
@click.argument("text", metavar="SQL")
@format_option
@pass_shell
def sql(shell: Shell, /, text: str, format: str) -> None:
    """Answer one SELECT over offers, instance_types, accelerators, snapshots and history. Nothing can be changed.

    `-` reads the statement from standard input.
    """
    from skyward.cli.prices import opened

    statement = sys.stdin.read() if text == "-" else text
    with opened(shell) as store:
        found = store.sql(statement)
    now = datetime.now(UTC)
    columns = [_sql_column(name, now) for name in found.columns]
    show(Answer(schema="skyward.sql/1", result=found, columns=columns, around={}), format)


def _sql_column(name: str, now: datetime) -> Column:
    """As it is: what somebody selects is not rounded, and a moment stays a moment."""

    def text(row: Any) -> str:
        value = row[name]
        return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else cell_text("", value, now)

    return Column(title=name, text=text, right=column_of(name).right, weight=9)
