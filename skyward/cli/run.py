"""`skyward run`: collects tasks, rents machines, runs, reports, and leaves no machine behind."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.requirements import MACHINE, POOL, requirement_options, requirements_of, sized
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ConfigError, ExitCode, UsageError

if TYPE_CHECKING:
    from skyward.cli.plan import Bound
    from skyward.model.plan import Plan
    from skyward.session.session import Request, Session

_REQUIREMENTS = (*MACHINE, "allocation", "max_price", *(name for name in POOL if name != "total"))
_FIELDS = {
    "accelerator": "accelerator",
    "cpu": "cpu",
    "memory": "memory_gib",
    "disk": "disk_gb",
    "architecture": "architecture",
    "machine": "machine",
    "region": "regions",
    "zone": "zones",
    "allocation": "allocation",
    "max_price": "max_price",
    "max_cost": "max_cost",
    "max_lifetime": "max_lifetime_s",
    "nodes": "nodes",
    "min_nodes": "min_nodes",
}
"""Argument of a pool -> the field of Requirements an option was read into."""


class _RunCommand(click.Command):
    """Says where the arguments of a task go when one is taken for an option of ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            hint = f"arguments of the task go behind --: skyward run TARGET -- {error.option_name} ..."
            error.hints = [hint]  # type: ignore[attr-defined]
            raise


@click.command(
    cls=_RunCommand,
    epilog="Arguments of the task follow --: `skyward run train.py:main -- --epochs 3` or `-- epochs=3`.",
)
@click.argument("target")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS]")
@requirement_options(_REQUIREMENTS)
@click.option("--pool", "pool_name", metavar="NAME", help="Use [pools.NAME] of the configuration.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Run on [user@]host[:port] over SSH; may be repeated.",
)
@click.option("--key", metavar="FILE", help="Private key for --host.")
@click.option("--known-hosts", metavar="FILE", help="Known hosts for --host, instead of yours.")
@click.option("--jump", metavar="HOST", help="Reach --host through this one.")
@click.option("--pip", "pip", multiple=True, metavar="PACKAGE", help="A package tasks need; may be repeated.")
@click.option(
    "--env",
    "env",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of the tasks' environment; may be repeated.",
)
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Tasks one worker runs at once.")
@click.option(
    "--retries",
    type=click.IntRange(min=0),
    metavar="N",
    help="Run a failed or lost task again, at most so often.",
)
@click.option("--each", is_flag=True, help="Run every task once on every worker.")
@click.option(
    "--map",
    "map_file",
    metavar="FILE",
    help="One call per line of JSON: an object, an array or a value; - is standard input.",
)
@click.option("-k", "keyword", metavar="EXPR", help="Only tasks whose names match: 'fold and not slow'.")
@click.option("-x", "--exitfirst", "maxfail", flag_value=1, type=int, help="Stop at the first failure.")
@click.option("--maxfail", "maxfail", type=click.IntRange(min=1), metavar="N", help="Stop after N failures.")
@click.option("--lf", "--last-failed", "last_failed", flag_value="only", help="Only tasks that failed last.")
@click.option(
    "--ff", "--failed-first", "last_failed", flag_value="first", help="First the tasks that failed last."
)
@click.option("--co", "--collect-only", "collect_only", is_flag=True, help="Only list the tasks.")
@click.option(
    "--durations", type=click.IntRange(min=0), metavar="N", help="Show the N slowest tasks; 0 is all."
)
@click.option("--junitxml", metavar="FILE", help="Write a report for continuous integration.")
@click.option("--report-log", metavar="FILE", help="Write every event, as it comes, as a line of JSON.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
@click.option("--dry-run", is_flag=True, help="Show what would be rented, and start nothing.")
@click.option("--yes", "-y", "is_agreed", is_flag=True, help="Spend without asking.")
@pass_shell
def run(
    shell: Shell,
    /,
    target: str,
    words: Sequence[str],
    collect_only: bool,
    durations: int | None,
    dry_run: bool,
    is_agreed: bool,
    **given: Any,
) -> int:
    """Run the tasks of TARGET, here or on rented machines, and print what they return.

    TARGET is pkg.mod:func, file.py:func, or file.py for all its tasks. A @sky.compute function or a plain one runs on
    a node; one that yields calls fans them out; one decorated with @sky.pool, or that sends calls with >> sky, runs
    here and its calls run on the nodes.
    """
    from skyward.api.planning import nothing_fits
    from skyward.session.session import Session

    plugins = shell.plugins(strict=True)
    session = Session(_request(shell, target, words, given), shell.config, plugins)
    try:
        session.prepare()
    except UsageError as error:
        _show_traceback(error)
        raise
    if not session.ids:
        raise _nothing_selected(session)
    if collect_only:
        _list(session, as_json=given["as_json"])
        return ExitCode.OK
    plan = session.plan()
    if dry_run:
        _show_plan(session, plan, shell, given)
    if plan.chosen is None:
        raise nothing_fits(plan, plugins)
    if dry_run:
        return ExitCode.OK
    session.check_credentials(plan)
    if not is_agreed and plan.usd_per_hour != 0:
        _agree(session, plan, shell, given)
    return _execute(session, plan, shell, durations, given["junitxml"])


@contextmanager
def _junit(session: Session, shell: Shell, file: str | None) -> Iterator[None]:
    """The report that was asked for, as a plugin for as long as the run lasts."""
    if file is None:
        yield
        return
    from pathlib import Path

    from skyward.builtin.junit import JUnitReport

    location = session.target.location if session.target else ""
    report = JUnitReport(
        Path(file),
        location=location,
        label=session.label,
        items=lambda: [item.id for item in session.items],
    )
    plugins = shell.plugins()
    plugins.register(report, "junit")
    try:
        yield
    finally:
        plugins.unregister(report)


def _execute(session: Session, plan: Plan, shell: Shell, durations: int | None, junitxml: str | None) -> int:
    from skyward.builtin import terminal

    header = _header(session, plan, shell)

    display = terminal.Display(
        session.config.defaults.get("display", "auto"),
        verbosity=shell.verbosity,
        color=console.has_color(sys.stderr),
        durations=durations,
        label=session.label,
        redact=session.hide_secrets,
    )
    with _junit(session, shell, junitxml), terminal.shown(display):
        return session.execute(plan, header=header)


# -- what was asked ------------------------------------------------------------------------------------------------


def _request(shell: Shell, target: str, words: Sequence[str], given: Mapping[str, Any]) -> Request:
    from pathlib import Path

    from skyward.session.collect import Wishes, read_rows
    from skyward.session.session import Request

    rows = None if given["map_file"] is None else read_rows(given["map_file"])
    wishes = Wishes(words=words, rows=rows, each=given["each"], retries=given["retries"])
    return Request(
        target=target,
        wishes=wishes,
        pool=_pool_arguments(shell, given),
        keyword=given["keyword"] or "",
        maxfail=given["maxfail"] or 0,
        last_failed=given["last_failed"] or "",
        report_log=None if given["report_log"] is None else Path(given["report_log"]),
        as_json=given["as_json"],
    )


def _pool_arguments(shell: Shell, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the pool, of which only what was said."""
    wants = requirements_of(given)
    if given["timeout"] is not None:
        sized("parse_duration")(given["timeout"], "--timeout")
    found = shell.config.pool(given["pool_name"]) if given["pool_name"] else {}
    for name, field in _FIELDS.items():
        if given.get(name) not in (None, ()):
            found[name] = getattr(wants, field)
    for name in ("selection", "timeout", "concurrency", "retries"):
        if given[name] is not None:
            found[name] = given[name]
    if given["pip"]:
        found["pip"] = list(given["pip"])
    if given["env"]:
        found["env"] = {**found.get("env", {}), **dict(_variable(text) for text in given["env"])}
    if provider := _provider(wants.providers, given):
        found["provider"] = provider
    return found


def _provider(names: Sequence[str], given: Mapping[str, Any]) -> list[Any]:
    """Providers by name, and the user's own hosts as the provider `ssh`."""
    if not given["hosts"]:
        for option in ("key", "known_hosts", "jump"):
            if given[option] is not None:
                raise UsageError(
                    f"--{option.replace('_', '-')} says how to reach a --host, and there is none"
                )
        return list(names)
    if others := [name for name in names if name != "ssh"]:
        raise UsageError(f"--host and --provider {others[0]} contradict each other: leave one out")
    import skyward as sky

    return [
        sky.SSH(
            hosts=list(given["hosts"]),
            key=given["key"],
            known_hosts=given["known_hosts"],
            jump=given["jump"],
        )
    ]


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        import os

        if name in os.environ:
            return name, os.environ[name]
        raise UsageError(
            f"--env {text!r} is not KEY=VALUE, and {text!r} is not set here", hints=[f"--env {text}=VALUE"]
        )
    return name, value


# -- answers without a run ---------------------------------------------------------------------------------------------


def _show_traceback(error: UsageError) -> None:
    """The user's own frames, before the line that says what they mean."""
    if text := error.values.get("traceback"):
        console.say(str(text).rstrip())


def _nothing_selected(session: Session) -> UsageError:
    error = UsageError(f"nothing to run in {session.request.target}")
    if session.request.keyword:
        error = UsageError(
            f"no task of {session.request.target} matches -k {session.request.keyword!r}",
            hints=[f"skyward run {session.request.target} --co"],
        )
    error.exit_code = ExitCode.NOTHING_SELECTED  # type: ignore[misc]
    return error


def _list(session: Session, *, as_json: bool) -> None:
    if as_json:
        from skyward.session.store import plain

        items: list[dict[str, Any]] = [
            {"task": item.id, "index": i, "arguments": plain(item.arguments)}
            for i, item in enumerate(session.items)
        ]
        if session.driver:
            arguments = plain(session.driver.call.named)
            items.append({"task": session.driver.id, "index": len(items), "arguments": arguments})
        console.write_json("skyward.tasks/1", target=session.request.target, items=items)
        return
    console.write("".join(f"{name}\n" for name in session.ids))


def _show_plan(session: Session, plan: Plan, shell: Shell, given: Mapping[str, Any]) -> None:
    """The plan, and what would travel, on standard output."""
    from skyward.cli.plan import Bound, PlanReport
    from skyward.cli.render import show_json

    bound = Bound.of(plan, None, given["timeout"], shell.config.defaults)
    report = PlanReport(plan=plan, bound=bound, target=session.request.target)
    environment = session.environment(plan)
    if given["as_json"]:
        document = {**report.document(), "tasks": session.ids, "environment": environment}
        show_json("skyward.plan/1", document)
    else:
        report.show("table")
        console.write(f"{_environment_line(environment)}\n")
        console.write(f"tasks {_tasks_in_short(session)}\n")


def _environment_line(environment: Mapping[str, Any]) -> str:
    parts = [f"python {environment['python']}"]
    if packages := environment["packages"]:
        parts.append(f"{len(packages)} package{'s' if len(packages) > 1 else ''} ({', '.join(packages[:4])})")
    code = environment["code"]
    if code is None:
        parts.append("code stays where it is")
    else:
        files = "1 file" if code["files"] == 1 else f"{code['files']} files"
        parts.append(f"code {_size(code['bytes'])} ({files} of {code['directory']})")
        parts += [f"left here: {', '.join(code['left_here'])}"] if code["left_here"] else []
    return f"env   {' · '.join(parts)}"


def _tasks_in_short(session: Session) -> str:
    names = session.ids
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)}: {', '.join(names[:3])}{more}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(count / 1e3, 1):.0f} kB"


# -- before anything is spent ------------------------------------------------------------------------------------------


def _agree(session: Session, plan: Plan, shell: Shell, given: Mapping[str, Any]) -> None:
    """Asks the person at the terminal whether the money may be spent.

    Raises:
        ConfigError: nobody can be asked.
        Exit: the answer was no.
    """
    from skyward.cli.plan import Bound as _Bound

    price = _price(plan, _Bound.of(plan, None, given["timeout"], shell.config.defaults))
    if not (console.is_terminal(sys.stdin) and console.is_terminal(sys.stderr)):
        raise ConfigError(
            f"this rents {_machines(plan)} for {price}, and nobody can be asked: pass --yes",
            hints=[f"skyward run {session.request.target} ... {option}" for option in ("--dry-run", "--yes")],
        )
    if not click.confirm(f"Rent {_machines(plan)} for {price}?", err=True):
        shell.say("nothing was rented")
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)


def _price(plan: Plan, bound: Bound) -> str:
    from skyward.model.money import format_usd

    rate = plan.usd_per_hour
    return "an unknown price" if rate is None else f"{format_usd(rate)}/h, {bound}"


def _machines(plan: Plan) -> str:
    """`2x verda 1A100.80S.22V FIN-01 spot`, `2x ssh gpu1, gpu2`."""
    assert plan.chosen is not None
    offer = plan.chosen
    own = dict.fromkeys(one.instance_type for one in plan.ranked if one.provider == offer.provider)
    if offer.usd_per_hour == 0 and min(plan.nodes, len(own)) > 1:  # machines one has are one of a kind
        names, more = list(own)[: plan.nodes], f" and {plan.nodes - 4} more" if plan.nodes > 4 else ""
        return f"{plan.nodes}x {offer.provider} {', '.join(names[:4])}{more}"
    words = [offer.provider, offer.instance_type, offer.zone or offer.region]
    if offer.usd_per_hour != 0:
        words.append(offer.pricing)
    return f"{plan.nodes}x " + " ".join(dict.fromkeys(word for word in words if word))


def _header(session: Session, plan: Plan, shell: Shell) -> tuple[str, ...]:
    """Versions, configuration, and what is going to be rented."""
    from skyward import __version__
    from skyward.model.money import format_usd

    others = [
        info
        for info in shell.plugins().listing()
        if info.state == "loaded" and info.distribution != "skyward"
    ]
    plugins = ", ".join(f"{info.name}-{info.version}" if info.version else info.name for info in others)
    first = f"skyward {__version__}, python {platform.python_version()}"
    lines = [first + (f", plugins: {plugins}" if plugins else "")]
    if files := session.config.files:
        lines.append(f"config: {', '.join(_near(file) for file in files)}")
    rate = plan.usd_per_hour
    price = "price unknown" if rate is None else f"{format_usd(rate)}/h" if rate else "costs nothing"
    lines.append(f"plan: {_machines(plan)}, {price}")
    return (*lines, *session.notes)


def _near(file: Any) -> str:
    import os

    path = os.path.relpath(file)
    return str(file) if path.startswith("..") else path
