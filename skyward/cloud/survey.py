"""What is rented now: by the journals of this user, and by the clouds themselves. Ends nothing.

Imports `journal` and below.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skyward.cloud import journal as journals
from skyward.cloud.account import Account, Desk
from skyward.cloud.desks import Registered, config_fields, make, reason
from skyward.cloud.reaper import last_life
from skyward.contracts.provider import Provider
from skyward.errors import CredentialsError, JournalError, SkywardError
from skyward.model.instance import Instance, InstanceState

if TYPE_CHECKING:
    from skyward.plugins import Plugins

State = Literal["running", "ending", "orphaned", "elsewhere"]
_WORDS: Mapping[State, str] = {
    "running": "its client runs",
    "ending": "its client is gone, and it is being ended",
    "orphaned": "its client is gone, and nobody ends it",
    "elsewhere": "its client is on another machine, or in another container",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool that is not through."""

    account: Account
    path: Path
    state: State

    @property
    def id(self) -> str:
        return self.account.pool

    @property
    def words(self) -> str:
        return _WORDS[self.state]

    def lease_left_s(self, now: float) -> float | None:
        """How long its machines go on without a word from their client; None is for ever. A client that lives renews
        the lease all the time, so that all of it is left."""
        lease_s = self.account.lease_s
        if lease_s is None or self.state == "running":
            return lease_s
        heard_at = last_life(self.path)
        return lease_s if heard_at is None else max(0.0, min(lease_s, heard_at + lease_s - now))


def pools(place: Path | None = None) -> list[Pool]:
    """Every pool with an open journal, the oldest first. Asks nobody but the disk."""
    found = []
    for path in journals.paths(place or journals.directory()):
        try:
            account = journals.read(path)
        except JournalError:
            continue  # it was closed meanwhile
        found.append(Pool(account=account, path=path, state=_state(account, path)))
    return found


def _state(account: Account, path: Path) -> State:
    if not account.is_orphan:
        return "running" if account.client is not None and account.client.is_alive else "elsewhere"
    return "ending" if is_taken(path) else "orphaned"


def is_taken(path: Path) -> bool:
    """Whether some process finishes this pool, or would."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


# -- asking the clouds ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to look: a provider in a region, and how to make it."""

    desk: Desk
    find: Callable[[], Provider] = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one cloud said."""

    desk: Desk
    provider: Provider | None = None
    instances: tuple[Instance, ...] = ()
    problem: SkywardError | None = None

    @property
    def alive(self) -> list[Instance]:
        """Machines that may cost something."""
        ended = (InstanceState.TERMINATED, InstanceState.TERMINATING)
        return [one for one in self.instances if one.state not in ended]


def places(
    plugins: Plugins,
    accounts: Iterable[Account],
    configured: Callable[[str], Mapping[str, Any]],
    *,
    names: Sequence[str] = (),
    regions: Sequence[str] = (),
) -> list[Place]:
    """Where machines of this user may be: at every desk of a journal, and at every installed provider that rents
    machines and whose credentials are found, in its own region and in `regions`.

    `configured` gives what the configuration says of a provider. `names` leaves only these providers.
    """
    found: dict[tuple[Desk, str], Place] = {}
    for account in accounts:
        for desk in account.desks:
            intent = account.intent_at(desk)
            if intent is not None and intent.is_verifiable and (not names or desk.provider in names):
                key = (desk, repr(sorted(_whereto(intent.config).items())))
                registered = Registered(account)
                found.setdefault(key, Place(desk=desk, find=partial(registered, desk)))
    for name, kind in plugins.providers().items():
        if kind.capabilities.off_means == "nothing" or (names and name not in names):
            continue
        for place in _own_places(kind, configured(name), regions):
            config = config_fields(place.find().config)
            found.setdefault((place.desk, repr(sorted(_whereto(config).items()))), place)
    return list(found.values())


def _own_places(kind: type[Provider], given: Mapping[str, Any], regions: Sequence[str]) -> list[Place]:
    try:
        provider = kind.from_env(kind.Config(**given))
    except (CredentialsError, TypeError):
        return []
    region = getattr(provider, "region", None) or getattr(provider.config, "region", None) or ""
    wanted = (region, *regions) if kind.capabilities.regions else (region,)
    fields = config_fields(provider.config)
    return [
        Place(
            desk=Desk(kind.name, one),
            find=partial(_made, provider, fields, one),
        )
        for one in dict.fromkeys(wanted)
    ]


def _made(provider: Provider, fields: Mapping[str, Any], region: str) -> Provider:
    own = getattr(provider, "region", None) or getattr(provider.config, "region", None) or ""
    return provider if region == own else make(type(provider), fields, region)


def _whereto(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config says which cloud is asked."""
    return {name: value for name, value in config.items() if name not in ("region", "instance_timeout")}


def ask(wanted: Sequence[Place]) -> list[Answer]:
    """Every machine of ours, as each cloud lists it; all are asked at once."""
    answers: dict[int, Answer] = {}

    def look(number: int, place: Place) -> None:
        answers[number] = _ask(place)

    threads = [
        threading.Thread(target=look, args=(number, place), name="skyward-survey", daemon=True)
        for number, place in enumerate(wanted)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _once(answers[number] for number in sorted(answers))


def _ask(place: Place) -> Answer:
    try:
        provider = place.find()
        return Answer(desk=place.desk, provider=provider, instances=tuple(provider.instances(None)))
    except SkywardError as error:
        return Answer(desk=place.desk, problem=error)
    except Exception as error:  # a plugin's code
        return Answer(desk=place.desk, problem=SkywardError(reason(error)))


def _once(answers: Iterable[Answer]) -> list[Answer]:
    """A cloud without regions lists the same machines whichever desk is asked; each is counted once."""
    seen: set[tuple[str, str]] = set()
    result = []
    for answer in answers:
        fresh = [one for one in answer.instances if (answer.desk.provider, one.id) not in seen]
        seen.update((answer.desk.provider, one.id) for one in fresh)
        result.append(dataclasses.replace(answer, instances=tuple(fresh)))
    return result
