"""Ends machines, and asks the cloud until it shows that they are gone. The only caller of `Provider.terminate`.

The client, the reaper, `skyward down` and `skyward gc` all end pools this way. Imports `journal` and below.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from skyward.cloud.account import Desk, Intent, Machine, is_settled, total, verdict
from skyward.cloud.desks import FindProvider, reason
from skyward.cloud.journal import Journal, machine_fields
from skyward.contracts.provider import Provider
from skyward.errors import CleanupError, RateLimitError
from skyward.model.instance import Instance, InstanceState
from skyward.model.money import format_usd

PATIENCE_S = 60.0
"""How long a client waits until every machine is seen to be gone, seconds. Whoever comes after it goes on."""
TROUBLE_S = 10.0
"""How long it repeats an order that a cloud does not take, seconds."""
OWN_S = 1.0
"""The same for machines of one's own, which cost nothing, seconds."""
DOUBT_S = 5.0
"""How long it looks for the machines of a launch that was never answered, seconds."""
KEEP = "skyward:keep"
"""A tag users set by hand: a machine that carries it is ended by those only who were told to: the client that rented it,
and `skyward down`."""
_ALIVE = (InstanceState.PENDING, InstanceState.RUNNING)
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
LONGEST_TROUBLE_S = 60.0
AGAIN_S = 10.0
"""A machine that still runs so long after it was told to end is told again, seconds."""
STUCK_S = 60.0
"""The same for one that is shutting down, and should be through, seconds."""

Gone = Callable[[Sequence[str]], None]
Wants = Callable[[Instance], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What could not be ended at one desk."""

    desk: Desk
    machines: tuple[Machine, ...] = ()
    doubts: tuple[Intent, ...] = ()
    """Launches that may still turn out to have brought machines."""
    problem: str = ""
    is_ending: bool = False
    """Whether the cloud has taken the order, for each of the machines: it only has to carry it out."""

    @property
    def is_harmless(self) -> bool:
        """Whether nothing that is known to run is left: only confirmation is."""
        return not self.problem and (self.is_ending or not self.machines)


def settle(
    journal: Journal,
    find: FindProvider,
    *,
    patience_s: float = PATIENCE_S,
    on_gone: Gone = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
    wants: Wants | None = None,
) -> list[Left]:
    """Ends everything a journal knows of, and gives back what is left. An empty list means that the cloud has shown
    everything to be gone; the journal is closed then.

    With `wants`, machines are looked at before they are told to end, and those it refuses are let be.
    Several clouds are asked at once. Never raises what a provider raises.
    """
    account = journal.account
    ends = [
        _Ending(
            journal, desk, find, patience_s=patience_s, on_gone=on_gone, is_stopped=is_stopped, wants=wants
        )
        for desk in account.desks
        if _is_open(journal, desk)
    ]
    _side_by_side([one.run for one in ends])
    left = [one.left for one in ends if one.left is not None]
    if not left and not account.is_debt:
        journal.close()
    return left


def end_machines(
    journal: Journal,
    provider: Provider,
    desk: Desk,
    machines: Sequence[Machine],
    on_gone: Gone = lambda _: None,
) -> None:
    """Ends some machines of a pool that goes on; that they are gone is verified when the pool ends.

    Raises:
        ProviderError: the cloud did not take the order.
    """
    ids = [one.id for one in machines if one.gone_at is None]
    if not ids:
        return
    journal.record("terminating", ids=ids, provider=desk.provider, region=desk.region)
    provider.terminate(ids)
    if provider.capabilities.off_means == "nothing":
        journal.record("gone", ids=ids)
    on_gone(ids)


class _Ending:
    """The end of a pool at one desk."""

    def __init__(
        self,
        journal: Journal,
        desk: Desk,
        find: FindProvider,
        *,
        patience_s: float,
        on_gone: Gone,
        is_stopped: Callable[[], bool],
        wants: Wants | None,
    ) -> None:
        self._journal = journal
        self._desk = desk
        self._find = find
        self._patience_s = patience_s
        self._provider: Provider | None = None
        self._is_stale = False
        self._on_gone = on_gone
        self._is_stopped = is_stopped
        self._wants = wants
        self._has_kept = False
        """Whether some machine of the pool goes on, and with it what was made for them all."""
        self._told_at: dict[str, float] = {}
        self._ending: set[str] = set()
        self.left: Left | None = None
        """What could not be ended; None where all is done."""

    def run(self) -> None:
        """Until everything is gone, or time is over; then `left` says what is not."""
        began, pause = time.monotonic(), FIRST_PAUSE_S
        self.left = self._what_is_left("it was interrupted")  # whatever ends this loop but its own end
        while (problem := self._try()) is not None:
            patience_s = self._patience(problem)
            if problem and problem != self._journal.account.trouble:
                self._journal.record("trouble", error=problem, desk=str(self._desk))
            if time.monotonic() + pause > began + patience_s or self._is_stopped():
                self.left = self._what_is_left(problem)
                return
            time.sleep(pause)
            pause = min(LONGEST_TROUBLE_S if problem else LONGEST_PAUSE_S, pause * 1.6)
        self.left = None

    def _patience(self, problem: str) -> float:
        """How long it is worth to go on here; whoever has no end to it waits for everything."""
        if math.isinf(self._patience_s):
            return math.inf
        if self._provider is not None and self._provider.capabilities.off_means == "nothing":
            return min(self._patience_s, OWN_S)
        return min(self._patience_s, TROUBLE_S if problem else PATIENCE_S if self._owed else DOUBT_S)

    def _try(self) -> str | None:
        """One round. None: all is done. "": not yet. Otherwise what is in the way."""
        try:
            provider = self._provider
            if provider is None or self._is_stale:
                provider = self._provider = self._find(self._desk)
                self._is_stale = False
            if provider.capabilities.off_means == "nothing":
                self._let_go(provider)
            else:
                self._end(provider)
            if self._owed or self._doubts:
                return ""
            if not self._has_kept:
                provider.release(self._journal.account.pool)
        except RateLimitError:
            return ""
        except Exception as error:  # a stranger's code, and nothing may keep us from trying again
            self._is_stale = True  # it is made anew: credentials may have been renewed
            return reason(error)
        self._journal.record("released", provider=self._desk.provider, region=self._desk.region)
        return None

    @property
    def _owed(self) -> list[Machine]:
        return [one for one in self._journal.account.owed if one.desk == self._desk]

    @property
    def _doubts(self) -> list[Intent]:
        return [one for one in self._journal.account.doubts if one.desk == self._desk]

    def _end(self, provider: Provider) -> None:
        """Told to end first, then looked at: each second counts, and the order may be repeated."""
        if self._wants is None:
            self._tell(provider)
        shown = {one.id: one for one in provider.instances(self._journal.account.pool)}
        if self._wants is not None:
            shown = self._let_be(shown, self._wants)
        adopt(self._journal, self._desk, shown.values())
        self._judge(shown)
        self._tell(provider)

    def _let_be(self, shown: dict[str, Instance], wants: Wants) -> dict[str, Instance]:
        """The machines that are to be ended; the others are owed no longer."""
        kept = [id for id, one in shown.items() if one.state in _ALIVE and not wants(one)]
        self._has_kept = self._has_kept or bool(kept)
        if owed := [one.id for one in self._owed if one.id in kept]:
            self._journal.record("kept", ids=owed)
        return {id: one for id, one in shown.items() if id not in kept}

    def _tell(self, provider: Provider) -> None:
        now = time.monotonic()
        ids = [
            one.id for one in self._owed if now - self._told_at.get(one.id, -math.inf) > self._again_s(one)
        ]
        if not ids:
            return
        if not self._told_at.keys() >= set(ids):
            self._journal.record(
                "terminating", ids=ids, provider=self._desk.provider, region=self._desk.region
            )
        provider.terminate(ids)
        self._told_at.update(dict.fromkeys(ids, now))

    def _again_s(self, machine: Machine) -> float:
        return STUCK_S if machine.id in self._ending else AGAIN_S

    def _judge(self, shown: dict[str, Instance]) -> None:
        """What this answer says of each machine, and of each launch that nobody answered."""
        now, account = time.time(), self._journal.account
        verdicts = {one.id: verdict(one, shown.get(one.id), now) for one in self._owed}
        for machine in self._owed:
            machine.was_seen = machine.was_seen or machine.id in shown
        self._ending = {id for id, what in verdicts.items() if what == "ending"}
        gone = [id for id, what in verdicts.items() if what == "gone"]
        if gone:
            self._journal.record("gone", ids=gone, verified_at=round(now, 3))
            self._on_gone(gone)
        back = [
            one.id
            for one in account.machines.values()
            if one.gone_at is not None and one.desk == self._desk and one.id not in gone
            and one.id in shown and verdict(one, shown[one.id], now) == "alive"
        ]  # fmt: skip
        if back:
            self._journal.record("back", ids=back)
        for intent in self._doubts:
            if is_settled(intent, shown.values(), now):
                self._journal.record("settled", token=intent.token)

    def _let_go(self, provider: Provider) -> None:
        """Machines of one's own: nobody has to be asked whether they are gone."""
        if self._doubts:
            adopt(self._journal, self._desk, provider.instances(self._journal.account.pool))
        if ids := [one.id for one in self._owed]:
            provider.terminate(ids)
            self._journal.record("gone", ids=ids)
            self._on_gone(ids)
        for intent in self._doubts:
            self._journal.record("settled", token=intent.token)

    def _what_is_left(self, problem: str) -> Left:
        owed = tuple(self._owed)
        return Left(
            desk=self._desk,
            machines=owed,
            doubts=tuple(self._doubts),
            problem=problem,
            is_ending=bool(owed) and all(one.id in self._ending for one in owed),
        )


def adopt(journal: Journal, desk: Desk, shown: Iterable[Instance]) -> None:
    """Machines the cloud shows for this pool and the journal does not know become ours to end."""
    unknown = [one for one in shown if one.id not in journal.account.machines]
    for token in dict.fromkeys(one.tags.get("skyward:token", "") for one in unknown):
        mine = [
            machine_fields(one, was_seen=True)
            for one in unknown
            if one.tags.get("skyward:token", "") == token
        ]
        journal.record(
            "launched", token=token, provider=desk.provider, region=desk.region, machines=mine, is_all=False
        )


def is_not_kept(instance: Instance) -> bool:
    """Whether a machine may be ended without its user being there."""
    return KEEP not in instance.tags


def _is_open(journal: Journal, desk: Desk) -> bool:
    account = journal.account
    is_owed = any(one.desk == desk for one in account.owed) or any(one.desk == desk for one in account.doubts)
    return is_owed or desk not in account.released


def _side_by_side(calls: Sequence[Callable[[], None]]) -> None:
    """All calls at once; one by one where no thread can be started, as at the end of the interpreter."""
    threads = []
    for call in calls[1:]:
        thread = threading.Thread(target=call, name="skyward-teardown", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            call()
        else:
            threads.append(thread)
    for call in calls[:1]:
        call()
    for thread in threads:
        thread.join()


def unclean(pool: str, left: Sequence[Left]) -> CleanupError:
    """The error that tells what may still be billed, at what rate, and what ends it."""
    from skyward.model.sizes import format_duration

    machines = [machine for one in left for machine in one.machines]
    rate = total(machine.usd_per_hour for machine in machines)
    ids = ", ".join(machine.id for machine in machines[:10]) + (" ..." if len(machines) > 10 else "")
    count = f"{len(machines)} machine{'s' * (len(machines) != 1)}"
    cost = f" at {format_usd(rate)}/h" if rate else ""
    what = f"{count} of pool {pool} may still be running{cost}: {ids}"
    if not machines:
        what = f"what was made for pool {pool} may still be there"
    now = time.time()
    return CleanupError(
        what,
        facts=[
            *(f"{one.desk}: {one.problem or 'not seen to be gone yet'}" for one in left),
            *(
                f"{one.desk}: a launch of {intent.count} was never answered, {format_duration(now - intent.at)} ago"
                for one in left
                for intent in one.doubts
            ),
        ],
        hints=[f"skyward down {pool}", "skyward ps"],
        ids=tuple(machine.id for machine in machines),
        usd_per_hour=rate,
        pool=pool,
    )
