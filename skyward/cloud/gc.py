"""Finds machines that nobody holds any more, and ends them; never one that somebody might.

`sweep` is what every command does first: it looks at the journals alone, and leaves what is to be done to a reaper. What
a machine's tags and our journals say of it is judged by `judge`, a pure function. Imports `survey` and below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from skyward.cloud import journal as journals
from skyward.cloud import reaper, survey
from skyward.cloud.account import Account, Desk
from skyward.cloud.desks import Registered
from skyward.cloud.journal import Journal
from skyward.cloud.keys import forget
from skyward.cloud.survey import Answer, Pool
from skyward.cloud.teardown import KEEP, PATIENCE_S, Gone, Left, adopt, is_not_kept, settle
from skyward.contracts.provider import Provider
from skyward.errors import JournalError
from skyward.model.instance import Instance, InstanceState
from skyward.model.money import format_usd

GRACE_S = 30.0
"""Machines that young are left alone: whoever launches one may not have told anybody yet, seconds."""

# -- on every entry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A pool whose client is gone."""

    pool: Pool
    is_taken: bool
    """Whether a process ends it now."""

    @property
    def words(self) -> tuple[str, tuple[str, ...]]:
        """What its user should know, and the commands that help."""
        account = self.pool.account
        count, rate = len(account.owed), account.usd_per_hour
        cost = f" at {format_usd(rate)}/h" if rate else ""
        rest = "what it may have launched" if account.doubts else "what was made for it"
        machines = f"{count} machine{'s' * (count != 1)}{cost}" if count else rest
        if account.trouble or not self.is_taken:
            why = account.trouble or "nobody ends it"
            return f"pool {self.pool.id}: {machines} may still be billed: {why}", (
                f"skyward down {self.pool.id}",
            )
        verb = "are" if count > 1 else "is"
        message = f"pool {self.pool.id}: its client is gone; {machines} {verb} ended in the background"
        return message, ("skyward ps",)


_told: set[str] = set()


def sweep(place: Path | None = None) -> list[Orphan]:
    """Sees to it that every pool whose client is gone is being ended, and gives those this process has not heard of
    yet. Without such a pool it reads one directory, and asks no cloud."""
    place = place or journals.directory()
    found = []
    for pool in survey.pools(place) if journals.paths(place) else ():
        if pool.state not in ("orphaned", "ending"):
            continue
        is_taken = pool.state == "ending" or _take(pool)
        if pool.account.is_debt and pool.id not in _told:
            _told.add(pool.id)
            found.append(Orphan(pool=pool, is_taken=is_taken))
    return found


def _take(pool: Pool) -> bool:
    """Puts a pool to which nothing is owed aside, and starts a reaper for any other one."""
    if not pool.account.is_debt:
        journal = _open(pool.path)
        if journal is not None and journal.take():
            journal.close()
            forget(reaper.place_of(pool.path))
        return True
    try:
        pipe, _ = reaper.start(pool.path, now=True)
    except (OSError, RuntimeError, ValueError):
        return survey.is_taken(pool.path)
    pipe.close()
    return True


def _open(path: Path) -> Journal | None:
    try:
        return Journal.open(path)
    except JournalError:
        return None


# -- judging a machine ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Whether one machine is to be ended, and why."""

    instance: Instance
    desk: Desk
    provider: Provider
    is_orphan: bool
    why: str

    @property
    def pool(self) -> str:
        return self.instance.tags.get("skyward:pool", "")


def judge(
    instance: Instance, known: Mapping[str, Pool], closed: Iterable[str], now: float
) -> tuple[bool, str]:
    """Whether a machine is an orphan, and why, or why not.

    Only what carries our tag is ever one; not what a user keeps, what is young, what has a living client, and what
    belongs to somebody else's pool and has not expired.
    """
    tags = instance.tags
    pool = tags.get("skyward:pool", "")
    if instance.state in (InstanceState.TERMINATED, InstanceState.TERMINATING):
        return False, "it is gone, or about to be"
    if tags.get("skyward:managed") != "true" or not pool:
        return False, "it does not carry our tags"
    if KEEP in tags:
        return False, f"it is kept: it carries {KEEP}"
    created = read_moment(tags.get("skyward:created"))
    if created is None or now - created < GRACE_S:
        return False, "it is young, or does not say how old it is"
    if pool in known:
        one = known[pool]
        return one.state in ("orphaned", "ending"), one.words
    if pool in closed:
        return True, "its pool is over"
    expires = read_moment(tags.get("skyward:expires"))
    who = tags.get("skyward:owner") or "somebody"
    if expires is None or expires > now:
        return False, f"it belongs to a pool of {who} that is not in these journals, and has not expired"
    return True, f"it has expired, and nobody has ended it ({who})"


def judgements(answers: Iterable[Answer], place: Path, now: float) -> list[Judgement]:
    """What is to be done with each machine that the clouds list. The journals are read after the clouds were asked: a
    machine whose launch we do not know of yet was not launched before they were."""
    known = {one.id: one for one in survey.pools(place)}
    closed = {path.stem for path in journals.paths(place / journals.CLOSED)}
    found = []
    for answer in answers:
        for instance in answer.alive:
            is_orphan, why = judge(instance, known, closed, now)
            assert answer.provider is not None
            found.append(
                Judgement(
                    instance=instance,
                    desk=answer.desk,
                    provider=answer.provider,
                    is_orphan=is_orphan,
                    why=why,
                )
            )
    return found


def read_moment(text: str | None) -> float | None:
    """Seconds since the epoch, out of a tag; None where it is none."""
    try:
        return datetime.fromisoformat((text or "").replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


# -- ending --------------------------------------------------------------------------------------------------------


def end_pool(
    pool: Pool, *, spares_kept: bool, patience_s: float = PATIENCE_S, on_gone: Gone = lambda _: None
) -> list[Left]:
    """Ends everything a journal knows of, and gives back what is left. Its client, if it lives, launches nothing any
    more. `spares_kept`: machines that carry `KEEP` go on."""
    journal = _open(pool.path)
    if journal is None:
        return []
    journal.take()  # a reaper that waits, or is at it, does the same and minds nothing
    journal.record("condemned")
    left = settle(
        journal,
        Registered(journal.account),
        patience_s=patience_s,
        on_gone=on_gone,
        wants=is_not_kept if spares_kept else None,
    )
    if not left:
        forget(reaper.place_of(pool.path))
    journal.leave()
    return left


def end_strangers(
    found: Sequence[Judgement], *, patience_s: float = PATIENCE_S, on_gone: Gone = lambda _: None
) -> dict[str, list[Left]]:
    """Ends machines of pools without a journal here; what is left, by pool."""
    left: dict[str, list[Left]] = {}
    for pool in dict.fromkeys(one.pool for one in found):
        mine = [one for one in found if one.pool == pool]
        providers = {one.desk: one.provider for one in mine}
        journal = Journal(None, Account(pool))
        for desk in providers:
            adopt(journal, desk, [one.instance for one in mine if one.desk == desk])
        find: Callable[[Desk], Provider] = providers.__getitem__
        wanted = partial(_is_one_of, frozenset(one.instance.id for one in mine))
        if rest := settle(journal, find, patience_s=patience_s, on_gone=on_gone, wants=wanted):
            left[pool] = rest
    return left


def _is_one_of(ids: frozenset[str], instance: Instance) -> bool:
    return instance.id in ids
