"""Asks for machines: written down first, repeatable, tagged. The only caller of `Provider.launch`.

What an answer means is decided here: machines, a refusal, or nobody knows. Imports `journal` and below.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from skyward.cloud.account import Account, Desk
from skyward.cloud.client import Client, owner
from skyward.cloud.desks import Desks, config_fields, plugin_fields
from skyward.cloud.journal import Journal, machine_fields
from skyward.cloud.reaper import Reaper
from skyward.contracts.provider import Provider
from skyward.errors import (
    AmbiguousLaunchError,
    CapacityError,
    CredentialsError,
    GuardError,
    ProviderError,
    QuotaError,
    RateLimitError,
    TaskCancelled,
)
from skyward.model.instance import Instance, InstanceState, LaunchRequest
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.model.requirements import Requirements
from skyward.model.volume import S3Volume, Volume
from skyward.plugins import Plugins

_log = logging.getLogger("skyward.cloud")

REPEATS = (0.2, 1.0, 3.0)
"""Pauses before a launch that was not answered is asked for again, seconds."""
LISTED_S = 10.0
"""How long a launch that nobody answers is looked for among the machines of the pool, seconds."""
THROTTLED_S = 60.0
"""How long a cloud that answers "too many calls" is asked again, seconds."""
MINIMUM_BILLED_S = 60.0
"""What a machine costs at least: EC2 bills a minute, https://aws.amazon.com/ec2/pricing/on-demand/ (2026-11-20)."""
EVER = 4
"""Machines a pool may launch in its life, for each node it was asked for."""
MOST_HINTS = 6
"""Hints of an error that tells of many offers."""
MOST_NAMED = 4
"""Causes, machines and places in a warning, which is one line."""
MAX_TOKEN = 64
"""Characters of a token: EC2's ClientToken, API reference of RunInstances (2026-11-20)."""

Failure = tuple[Offer, ProviderError]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What every launch of one pool has in common."""

    pool: str
    name: str
    requirements: Requirements
    volumes: tuple[Volume | S3Volume, ...] = ()
    lease_s: float | None = None
    nodes: int = 1


class Launcher:
    """Launches machines for one pool, one call at a time."""

    def __init__(
        self,
        terms: Terms,
        desks: Desks,
        journal: Journal,
        reaper: Reaper | None,
        plugins: Plugins,
        *,
        prepare: Callable[[Provider, float | None], Mapping[str, Any]],
        is_stopping: Callable[[], bool],
    ) -> None:
        """`prepare` gives the keys and the user data of a launch, for a provider and a lifetime in seconds."""
        self._terms = terms
        self._desks = desks
        self._journal = journal
        self._reaper = reaper
        self._plugins = plugins
        self._prepare = prepare
        self._is_stopping = is_stopping
        self._began = time.monotonic()

    def launch(self, offer: Offer, count: int, alternatives: Sequence[Offer] = ()) -> list[Instance]:
        """Up to `count` machines of an offer, or of `alternatives` in other zones.

        Raises:
            ProviderError: there are none, and why.
            GuardError: they would cost more than the pool may.
            JournalError: they could not be written down.
            TaskCancelled: the pool is being stopped.
        """
        self._check_wanted()
        desk, provider = self._desks.of(offer)
        lifetime_s = self._allowance(offer, count)
        is_billed = provider.capabilities.off_means != "nothing"
        token = token_of(self._terms.pool, len(self._journal.account.intents))
        expires = None if lifetime_s is None else time.time() + lifetime_s
        self._journal.intend(
            token=token,
            provider=desk.provider,
            region=desk.region,
            name=self._terms.name,
            owner=owner(),
            client=Client.current().plain(),
            offer=brief(offer),
            count=count,
            usd_per_hour=offer.price,
            expires=expires,
            lease_s=self._terms.lease_s,
            config=config_fields(provider.config),
            plugin=plugin_fields(self._plugins, desk.provider) if is_billed else {},
            is_verifiable=is_billed,
        )
        try:
            request = self._request(offer, count, alternatives, provider, token, lifetime_s, expires)
            if is_billed and self._reaper is not None:
                threading.Thread(
                    target=_warm_up, args=(provider, request), name="skyward-warm-up", daemon=True
                ).start()
                self._reaper.ensure()
            self._check_wanted()
        except BaseException:
            self._journal.record("refused", token=token, error="it was never asked for")
            raise
        instances = self._ask(provider, request)
        self._note(desk, token, instances)
        return instances

    def _check_wanted(self) -> None:
        if self._is_stopping():
            raise TaskCancelled("the pool was stopped while it was starting")
        if self._journal.is_condemned():
            raise TaskCancelled(f"pool {self._terms.pool} was ended by `skyward down`")

    def _request(
        self,
        offer: Offer,
        count: int,
        alternatives: Sequence[Offer],
        provider: Provider,
        token: str,
        lifetime_s: float | None,
        expires: float | None,
    ) -> LaunchRequest:
        terms = self._terms
        tags = {
            "skyward:managed": "true",
            "skyward:pool": terms.pool,
            "skyward:name": terms.name,
            "skyward:token": token,
            "skyward:owner": owner(),
            "skyward:created": moment(time.time()),
            "skyward:expires": moment(expires) if expires is not None else "",
        }
        request = LaunchRequest(
            offer=offer,
            count=count,
            pool=terms.pool,
            token=token,
            tags={name: value for name, value in tags.items() if value},
            alternatives=tuple(alternatives),
            volumes=terms.volumes,
            lifetime_s=lifetime_s,
            disk_gb=terms.requirements.disk_gb.low if terms.requirements.disk_gb else None,
            max_price=terms.requirements.max_price,
        )
        return replace(request, **self._prepare(provider, lifetime_s))

    # -- asking ----------------------------------------------------------------------------------------------------

    def _ask(self, provider: Provider, request: LaunchRequest) -> list[Instance]:
        """The machines of one request, however often it takes to learn of them."""
        repeats: Iterator[float] = iter(REPEATS)
        lost: AmbiguousLaunchError | None = None
        backoff = Backoff(THROTTLED_S)
        while True:
            try:
                return list(provider.launch(request))
            except AmbiguousLaunchError as error:
                lost, pause = error, next(repeats, None)
            except RateLimitError as error:
                pause = backoff.next()
                if pause is None and lost is None:
                    raise self._refused(request, error) from None
            except ProviderError as error:
                if lost is None:
                    raise self._refused(request, error) from None
                if found := self._look_for(provider, request):
                    return found
                raise  # the first call was not answered: the journal keeps its doubt
            if pause is None:
                assert lost is not None
                return self._look_for(provider, request) or _nobody_knows(request, lost)
            time.sleep(pause)
            self._check_wanted()

    def _refused(self, request: LaunchRequest, error: ProviderError) -> ProviderError:
        """A refusal that is known to be one: nothing was launched; and perhaps nothing made, either."""
        self._journal.record("refused", token=request.token, error=error.message)
        desk = Desk(request.offer.provider, request.offer.region)
        is_first = [one.desk for one in self._journal.account.intents.values()].count(desk) == 1
        if is_first and getattr(error, "made_nothing", False):
            self._journal.record("released", provider=desk.provider, region=desk.region)
        return error

    def _look_for(self, provider: Provider, request: LaunchRequest) -> list[Instance]:
        """What the cloud shows of a launch that it never answered."""
        deadline, pause = time.monotonic() + LISTED_S, 0.2
        while True:
            try:
                shown = provider.instances(request.pool)
            except ProviderError:
                shown = ()
            mine = [one for one in shown if one.tags.get("skyward:token") == request.token]
            alive = [one for one in mine if one.state is not InstanceState.TERMINATED]
            if alive or time.monotonic() + pause > deadline or self._is_stopping():
                return alive
            time.sleep(pause)
            pause = min(2.0, pause * 1.6)

    def _note(self, desk: Desk, token: str, instances: Sequence[Instance]) -> None:
        self._journal.record(
            "launched",
            token=token,
            provider=desk.provider,
            region=desk.region,
            machines=[machine_fields(one) for one in instances],
        )

    # -- limits ----------------------------------------------------------------------------------------------------

    def _allowance(self, offer: Offer, count: int) -> float | None:
        """How long machines launched now may live, seconds; None is for ever.

        Raises:
            GuardError, ProviderError: not long enough to be worth a launch.
        """
        account, wish = self._journal.account, self._terms.requirements
        refusal = over_limit(account, wish, offer, count, most=EVER * self._terms.nodes, now=time.time())
        if refusal is not None:
            raise refusal
        left = [] if wish.max_lifetime_s is None else [wish.max_lifetime_s - (time.monotonic() - self._began)]
        if wish.max_cost is not None and offer.price:
            rate = (account.usd_per_hour or 0.0) + count * offer.price
            left.append((wish.max_cost - (account.usd(time.time()) or 0.0)) / rate * 3600)
        if not left:
            return None
        return max(MINIMUM_BILLED_S, min(left)) if offer.price else max(1.0, min(left))


class Backoff:
    """Pauses that grow, with some chance in them so that many clients do not come back at once."""

    def __init__(self, longest_s: float) -> None:
        self._end = time.monotonic() + longest_s
        self._pause = 0.5

    def next(self) -> float | None:
        """Seconds to wait; None when patience is over."""
        pause, self._pause = self._pause * random.uniform(0.7, 1.3), min(8.0, self._pause * 2)
        return pause if time.monotonic() + pause < self._end else None


# -- decisions -----------------------------------------------------------------------------------------------------


def _warm_up(provider: Provider, request: LaunchRequest) -> None:
    try:
        provider.warm_up(request)
    except Exception:  # whatever it is, the launch meets it again, and says it
        _log.debug("%s: getting ready for a launch", provider.name, exc_info=True)


def over_limit(
    account: Account, wish: Requirements, offer: Offer, count: int, *, most: int, now: float
) -> GuardError | ProviderError | None:
    """Why `count` more machines must not be launched, or None.

    What the pool has cost and the least that the new ones cost must stay within `max_cost`; a price that nobody
    knows cannot be kept within anything.
    """
    if account.launched + count > most:
        return ProviderError(
            f"pool {account.pool} has launched {account.launched} machines, and may launch {most} in its life",
            launched=account.launched,
        )
    if wish.max_cost is None or offer.price == 0:
        return None
    spent = account.usd(now)
    if offer.price is None or spent is None:
        return GuardError(
            f"max_cost={wish.max_cost:g} cannot be kept: nobody knows the price of {offer.instance_type!r}",
            max_cost=wish.max_cost,
        )
    owed = sum((one.usd_per_hour or 0.0) for one in account.owed)
    least = (owed + count * offer.price) * MINIMUM_BILLED_S / 3600
    if spent + least <= wish.max_cost:
        return None
    return GuardError(
        f"{count} x {offer.instance_type!r} would cost at least ${spent + least:.2f}, over max_cost={wish.max_cost:g} USD",
        facts=[f"${spent:.2f} is spent, and a machine costs ${offer.price:.2f}/h, for a minute at least"],
        hints=[f"max_cost={math.ceil((spent + least) * 100) / 100:g}"],
        max_cost=wish.max_cost,
    )


def alternatives(plan: Plan, offer: Offer, failures: Iterable[Failure]) -> list[Offer]:
    """The same machine, sold the same way in the same region, in zones that have not refused yet; in plan order."""
    what = _kind(offer)
    return [
        other
        for other in plan.ranked
        if not _is_same(other, offer)
        and _kind(other) == what
        and other.zone
        and not is_ruled_out(other, failures)
    ]


def _kind(offer: Offer) -> tuple[str, str, str, str]:
    return (offer.provider, offer.region, offer.pricing, offer.instance_type)


def is_ruled_out(offer: Offer, failures: Iterable[Failure]) -> bool:
    """Whether an earlier failure says that this offer cannot be had either."""
    return any(_covers(error, failed, offer) for failed, error in failures)


def _covers(error: ProviderError, failed: Offer, offer: Offer) -> bool:
    """What an error says that it `covers`; else bad credentials and quotas cover a provider, other refusals the offers
    that were asked for."""
    if _is_same(offer, failed) or offer in getattr(error, "tried", ()):
        return True
    if offer.provider != failed.provider:
        return False
    covers = getattr(error, "covers", None)
    return bool(covers(offer)) if covers is not None else isinstance(error, CredentialsError | QuotaError)


def _is_same(one: Offer, other: Offer) -> bool:
    """Also where one of them comes with a machine and the other from a plan; `details` tell apart what is equal in all
    that can be compared."""
    return one is other or (one == other and one.details == other.details)


def no_machines(failures: Sequence[Failure], launched: int, needed: int) -> ProviderError:
    """One error that tells of every offer that was tried."""
    if not failures:
        return CapacityError(
            f"{launched} of {needed} machines could be had", launched=launched, needed=needed
        )
    if len({str(error) for _, error in failures}) == 1 and not launched:
        return failures[0][1]
    kinds = {type(error) for _, error in failures}
    kind = kinds.pop() if len(kinds) == 1 else CapacityError
    hints = dict.fromkeys(hint for _, error in failures for hint in error.hints)
    return kind(
        f"{launched} of {needed} machines could be had",
        facts=_tried(failures),
        hints=list(hints)[:MOST_HINTS],
        launched=launched,
        needed=needed,
    )


def _tried(failures: Iterable[Failure]) -> list[str]:
    """Every offer and its reason. What one machine was refused for in many places is one line."""
    places: dict[tuple[str, str], list[str]] = {}
    for offer, error in failures:
        places.setdefault((_sold(offer), because(error)), []).append(_where(offer))
    return [f"{sold} in {', '.join(dict.fromkeys(where))}: {why}" for (sold, why), where in places.items()]


def causes(failures: Sequence[Failure]) -> str:
    """Why none of some offers could be had, in one line: each cause once with what it met, the last one first."""
    met: dict[str, dict[str, list[str]]] = {}
    for offer, error in reversed(failures):
        met.setdefault(because(error), {}).setdefault(_sold(offer), []).append(_where(offer))
    told = [
        f"{why} ({_few(f'{sold} in {_few(dict.fromkeys(where))}' for sold, where in offers.items())})"
        for why, offers in met.items()
    ]
    return _few(told, "; ")


def _few(items: Iterable[str], comma: str = ", ") -> str:
    first = list(items)
    more = len(first) - MOST_NAMED
    return comma.join([*first[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def because(error: ProviderError) -> str:
    """Why an offer was refused; without who was asked for what, where the provider told that apart."""
    return str(getattr(error, "reason", None) or error.message)


def words(offer: Offer) -> str:
    """An offer as messages name it."""
    return f"{_sold(offer)} in {_where(offer)}"


def _sold(offer: Offer) -> str:
    sold = "" if offer.pricing == "on-demand" else f" {offer.pricing}"
    return f"{offer.provider} {offer.instance_type}{sold}"


def _where(offer: Offer) -> str:
    return offer.zone or offer.region


def token_of(pool: str, number: int) -> str:
    """The name of a launch: always the same for the same one, and short enough for every cloud."""
    plain = f"{pool}-{number}"
    if len(plain) <= MAX_TOKEN:
        return plain
    return "sky-" + base64.b32encode(hashlib.sha256(plain.encode()).digest()).decode().rstrip("=").lower()


def brief(offer: Offer) -> dict[str, Any]:
    """What the journal keeps of an offer."""
    return {
        "instance_type": offer.instance_type,
        "zone": offer.zone,
        "pricing": offer.pricing,
        "usd_per_hour": offer.price,
    }


def moment(seconds: float) -> str:
    """UTC, as in tags: "2026-11-21T10:31:10Z"."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nobody_knows(request: LaunchRequest, lost: AmbiguousLaunchError) -> list[Instance]:
    raise AmbiguousLaunchError(
        f"{words(request.offer)}: {lost.message}",
        facts=[
            "the machines of the pool were listed, and none of this launch was there; clean-up looks again"
        ],
        token=request.token,
    ) from lost
