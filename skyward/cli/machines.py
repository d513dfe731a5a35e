"""What `ps`, `down`, `gc` and `ssh` share: naming pools, asking before something ends, telling how it ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.shell import Shell
from skyward.errors import CleanupError, ConfigError, ExitCode, UsageError

if TYPE_CHECKING:
    from skyward.cloud.gc import Judgement
    from skyward.cloud.survey import Answer, Place, Pool
    from skyward.cloud.teardown import Left


def pick(pools: Sequence[Pool], asked: str) -> Pool | None:
    """The pool of this id, of this name, or whose id begins so; None where there is none.

    Raises:
        UsageError: several are meant.
    """
    for found in (
        [one for one in pools if one.id == asked],
        [one for one in pools if one.account.name == asked],
        [one for one in pools if one.id.startswith(asked)],
    ):
        if len(found) > 1:
            raise UsageError(
                f"{asked!r} is more than one pool: {', '.join(one.id for one in found)}",
                hints=[f"skyward ps {found[0].id}"],
            )
        if found:
            return found[0]
    return None


def unknown_pool(asked: str, known: Iterable[str]) -> UsageError:
    """The error for a pool that nobody knows; exits with 5."""
    names = list(known)
    near = get_close_matches(asked, names, n=1)
    hints = [f"did you mean {near[0]!r}?"] if near else ["skyward ps --live"]
    return UsageError(
        f"no pool {asked!r}",
        facts=[f"pools: {', '.join(names)}"] if names else ["there are no pools"],
        hints=hints,
        exit_code=ExitCode.NOTHING_SELECTED,
    )


def agree(shell: Shell, question: str, command: str, *, is_agreed: bool) -> None:
    """Asks the person at the terminal.

    Raises:
        ConfigError: nobody can be asked.
        Exit: the answer was no.
    """
    if is_agreed:
        return
    if not (console.is_terminal(sys.stdin) and console.is_terminal(sys.stderr)):
        raise ConfigError(f"{question} Nobody can be asked: pass --yes", hints=[f"{command} --yes"])
    if not click.confirm(question, err=True):
        shell.say("nothing was ended")
        raise click.exceptions.Exit(ExitCode.INTERRUPTED)


def places(
    shell: Shell, pools: Iterable[Pool], *, names: Sequence[str] = (), regions: Sequence[str] = ()
) -> list[Place]:
    """Every cloud machines of this user may be in."""
    from skyward.cloud import survey

    plugins = shell.plugins()
    for name in names:
        plugins.provider(name)
    accounts = [pool.account for pool in pools]
    return survey.places(plugins, accounts, shell.config.provider, names=names, regions=regions)


def tell_of_silence(shell: Shell, answers: Iterable[Answer]) -> bool:
    """Names the clouds that did not answer; whether there were any."""
    silent = [answer for answer in answers if answer.problem is not None]
    for answer in silent:
        assert answer.problem is not None
        shell.warn(f"{answer.desk}: {answer.problem.message}", answer.problem.hints)
    return bool(silent)


def told(shell: Shell) -> Callable[[Sequence[str]], None]:
    """Says of machines that they are gone, as they go."""
    return lambda ids: shell.say(f"gone: {', '.join(ids)}")


def finish(left: Mapping[str, Sequence[Left]]) -> int:
    """The exit code; raises what could not be ended.

    Raises:
        CleanupError: something may still be billed.
    """
    from skyward.cloud.teardown import unclean

    errors = [unclean(pool, rest) for pool, rest in left.items() if rest]
    if not errors:
        return ExitCode.OK
    if len(errors) == 1:
        raise errors[0]
    raise CleanupError(
        f"{len(errors)} pools could not be ended",
        facts=[error.message for error in errors],
        hints=["skyward ps", "skyward down --all"],
        ids=tuple(id for error in errors for id in error.values["ids"]),
    )


def row_of_machine(judged: Judgement) -> dict[str, Any]:
    """One machine of a cloud, for JSON."""
    instance = judged.instance
    return {
        "id": instance.id,
        "provider": judged.desk.provider,
        "region": instance.region or judged.desk.region,
        "instance_type": instance.offer.instance_type,
        "state": str(instance.state),
        "pool": judged.pool or None,
        "owner": instance.tags.get("skyward:owner"),
        "created_at": instance.tags.get("skyward:created"),
        "expires_at": instance.tags.get("skyward:expires"),
        "is_orphan": judged.is_orphan,
        "why": judged.why,
    }


def short_age(seconds: float) -> str:
    """ "3h20m", to the minute from an hour up."""
    from skyward.model.sizes import format_duration

    whole = int(seconds)
    if whole >= 86400:
        whole -= whole % 3600
    elif whole >= 3600:
        whole -= whole % 60
    return format_duration(whole)


def since(moment: float) -> float:
    return max(0.0, time.time() - moment)
