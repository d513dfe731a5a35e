"""The base class of every provider."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from skyward.model.instance import Endpoint, Instance, LaunchRequest
from skyward.model.offer import Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a cloud can do; differences are declared here, never as a name in an `if`."""

    spot: bool = False
    """The provider sells interruptible machines at a price it sets."""
    bids: bool = False
    """We name the price of interruptible machines."""
    regions: bool = False
    user_data: bool = False
    private_network: bool = False
    off_means: Literal["gone", "billed", "storage-billed", "nothing"] = "gone"
    """What a machine costs that powers itself off. `nothing` is for machines the user owns."""
    trusted: bool = True
    """Whether results may be unpickled without an allow-list; False on marketplaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at to see whether machines can be rented."""

    subject: str
    is_ok: bool | None
    """None where nobody can say."""
    detail: str = ""
    hints: tuple[str, ...] = ()


class Provider(ABC):
    """One source of machines.

    `config` is the frozen value the user wrote (`sky.AWS(region=...)`); its class is `Config`, whose
    name is what `sky.<Name>` finds. Construction touches no network.
    """

    name: ClassVar[str]
    """How users spell it: lower case, an identifier."""
    Config: ClassVar[type]
    capabilities: ClassVar[Capabilities] = Capabilities()
    unanswered: Collection[str] = ()
    """Regions that could not be asked when `offers()` was read last: what was known of them stays, with its date."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> Provider:
        """A provider ready to call its cloud.

        Raises:
            CredentialsError: none found; names what was looked for and where.
        """
        return cls(cls.Config() if config is None else config)

    @abstractmethod
    def offers(self) -> Iterable[Offer]:
        """Everything priced. Filtering is not its job."""

    def past_offers(self, since: datetime) -> Iterable[Offer]:
        """What prices were since then, where the cloud itself remembers; `observed_at` says when each began to hold."""
        return ()

    @abstractmethod
    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        """The machines that were launched; fewer than asked for is said by returning fewer.

        Raises:
            CapacityError: no machine of this offer is to be had.
            QuotaError: the account may not have it.
            AmbiguousLaunchError: the answer never came. Any other error says that this call launched nothing. It may
                say more: `covers(offer)`, whether another offer cannot be had either; `made_nothing=True`, that
                nothing was made for the pool, so that `release` need not be called; `reason`, why, without who was
                asked for what.
        """

    def warm_up(self, request: LaunchRequest) -> None:  # noqa: B027 - most clouds have nothing to do
        """Does of a launch what comes before machines are asked for: looks things up, and makes what is `release`d with
        the pool. Called with the request of the launch that follows, in another thread, while other things are made
        ready. Rents nothing; what goes wrong is `launch`'s to tell."""

    @abstractmethod
    def instances(self, pool: str | None) -> Sequence[Instance]:
        """The machines of one pool, as the cloud sees them now; every page.

        None asks for every machine of the account that carries our tag, whichever pool it belongs to. Ended ones may
        be listed or missing.
        """

    @abstractmethod
    def terminate(self, ids: Iterable[str]) -> None:
        """Ends machines. May be repeated; unknown ids are fine."""

    def connect(self, instance: Instance) -> Endpoint:
        """How to reach an instance: its public address, else its private one, with its own port and user."""
        return Endpoint(
            host=instance.public_address or instance.private_address or "",
            port=instance.port,
            user=instance.user,
        )

    def release(self, pool: str) -> None:  # noqa: B027 - most clouds have nothing to release
        """Deletes what a pool made besides its machines (firewall rules, keys, templates, disks). May be repeated;
        called when its machines are gone, perhaps by another process than the one that launched them."""

    def check(self) -> Iterable[Finding]:
        """What stands in the way of renting here, found out without renting: permissions, quota, region."""
        return ()
