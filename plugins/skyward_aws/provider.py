"""The provider: what AWS can do, and who we are there. What it does is in `account`, which is loaded when it is done."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from skyward import Capabilities, Endpoint, Finding, Instance, LaunchRequest, Offer, Provider
from skyward_aws.config import AWS
from skyward_aws.credentials import find_credentials, find_region

if TYPE_CHECKING:
    from skyward_aws.account import Account


class AWSProvider(Provider):
    """EC2. It launches where an offer is, and lists and ends what is in the regions it knows of."""

    name: ClassVar[str] = "aws"
    Config: ClassVar[type] = AWS
    capabilities: ClassVar[Capabilities] = Capabilities(
        spot=True, regions=True, user_data=True, private_network=True, off_means="gone"
    )

    def __init__(
        self,
        config: AWS,
        *,
        region: str | None = None,
        credentials_from: str = "",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(config)
        self.region = region or config.region or "us-east-1"
        self.credentials_from = credentials_from
        """Where the credentials are; never they themselves."""
        self._environ = environ

    @classmethod
    def from_env(cls, config: Any = None, environ: Mapping[str, str] | None = None) -> AWSProvider:
        """Ready to call AWS in the region that is configured or that the environment names."""
        wanted = AWS() if config is None else config
        env = os.environ if environ is None else environ
        credentials_from = find_credentials(env)
        here = AWS(region=wanted.region or find_region(env))
        return cls(wanted, region=str(here.region), credentials_from=credentials_from, environ=environ)

    @cached_property
    def account(self) -> Account:
        from skyward_aws.account import Account

        return Account(self.config, self.region, environ=self._environ)

    # -- prices --------------------------------------------------------------------------------------------------

    def offers(self) -> Iterable[Offer]:
        """Every way to rent on EC2 in every enabled region, at today's prices; takes a minute or two."""
        from skyward_aws.fetch import client_for, fetch

        return fetch(client_for(self.config.endpoint), self.region)

    def past_offers(self, since: datetime) -> Iterable[Offer]:
        """Spot prices of types with accelerators; EC2 remembers 90 days."""
        from skyward_aws.fetch import client_for, fetch_past

        return fetch_past(client_for(self.config.endpoint), self.region, since)

    # -- machines ------------------------------------------------------------------------------------------------

    def warm_up(self, request: LaunchRequest) -> None:
        """Image, zones, subnets, profile, security group, key pair, launch template."""
        self.account.warm_up(request)

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        """Machines of one type out of the zones of the offer and its alternatives, by one request to EC2 Fleet.

        Everything that can be refused is looked at first; then the machines are asked for, with a token that makes
        the request repeatable.

        Raises:
            CapacityError, QuotaError, CredentialsError, ProviderError: nothing was launched.
            AmbiguousLaunchError: something may have been.
        """
        return self.account.launch(request)

    def instances(self, pool: str | None) -> Sequence[Instance]:
        """One paginated describe by tag per region that was launched in, or that is configured."""
        return self.account.instances(pool)

    def terminate(self, ids: Iterable[str]) -> None:
        """Ends machines: one call for all of a region. Ids that EC2 does not know are left out."""
        self.account.terminate(ids)

    def connect(self, instance: Instance) -> Endpoint:
        """SSH to its public address, or through Session Manager. A client whose address has changed since the launch
        is let in anew."""
        return self.account.connect(instance)

    def release(self, pool: str) -> None:
        """Deletes the security group, key pair, launch templates and left disks of a pool."""
        self.account.release(pool)

    # -- looking into it -----------------------------------------------------------------------------------------

    def check(self) -> Iterator[Finding]:
        """What stands in the way of renting here; rents nothing."""
        from skyward_aws.checks import findings

        return findings(self.account.site(self.region), self.config, self.credentials_from)

    def policy(self) -> dict[str, Any]:
        """The least-privilege IAM policy for what this plugin does."""
        from skyward_aws.policy import make_policy

        return make_policy(self.region)
