"""The machines of the account, in every region we launch in. What `AWSProvider` does, loaded when it is first done."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import RLock

from skyward import (
    AmbiguousLaunchError,
    CredentialsError,
    Endpoint,
    Instance,
    InstanceState,
    LaunchRequest,
    ProviderError,
    SkywardWarning,
)
from skyward_aws.calls import DESCRIBE_INSTANCES, TERMINATE
from skyward_aws.cloud import Patience
from skyward_aws.config import AWS
from skyward_aws.credentials import expires_in_s
from skyward_aws.machines import read_instance
from skyward_aws.network import CHECK_IP, CHECK_IP_VARIABLE
from skyward_aws.reach import reaching
from skyward_aws.regions import ALWAYS_OPEN, closed_region, is_closed
from skyward_aws.site import Site

PER_CALL = 1000
"""Instances one TerminateInstances takes: EC2 API reference (2026-11)."""
_MISMATCH = "IdempotentParameterMismatch"
"""Another request with this token was heard before; what it launched is not told."""


class Account:
    """An account as one configuration sees it: its own region, and those it has launched in. Thread-safe.

    `environ` are variables to sign with instead of this process's own.
    """

    def __init__(
        self,
        config: AWS,
        region: str,
        *,
        environ: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.config = config
        self.region = region
        self.patience = patience or Patience()
        self.check_ip = (os.environ if environ is None else environ).get(CHECK_IP_VARIABLE) or CHECK_IP
        """A URL that answers with the address of who asks."""
        self.per_call = PER_CALL
        """Machines per page, and per request to end some."""
        self._environ = environ
        self._sites: dict[str, Site] = {}
        self._whereabouts: dict[str, str] = {}
        """The region of each instance we have seen."""
        self._lock = RLock()

    def warm_up(self, request: LaunchRequest) -> None:
        """Everything a launch needs but the machines; see `Site.order`."""
        from skyward_aws.shapes import aliases

        if request.offer.instance_type not in aliases():  # whose launch has something to say first
            self.site(request.offer.region).order(request)

    def launch(self, request: LaunchRequest) -> Sequence[Instance]:
        """Machines of one type out of the zones of the offer and its alternatives, by one request to EC2 Fleet.

        Everything that can be refused is looked at first; then the machines are asked for, with a token that makes
        the request repeatable.

        Raises:
            CapacityError, QuotaError, CredentialsError, ProviderError: nothing was launched.
            AmbiguousLaunchError: something may have been.
        """
        asked, request = (request.offer, *request.alternatives), with_real_type(request)
        site = self.site(request.offer.region)
        self._warn_of_expiry(request)
        with (
            _saying_what_is_left(site, request.pool),
            reaching(asked, request.count),
            self._in_open_region(site),
            site.believed(),
        ):
            order = site.order(request)
            try:
                machines = site.launch(order)
            except ProviderError as error:
                if getattr(error, "was_sent", False) or error.values.get("aws_code") == _MISMATCH:
                    raise _ambiguous(error, request) from error
                raise
        with self._lock:
            self._whereabouts.update((machine.id, site.region) for machine in machines)
        return [
            Instance(
                id=machine.id,
                provider="aws",
                offer=machine.offer,
                state=InstanceState.PENDING,
                region=site.region,
                zone=machine.zone,
                port=self.config.ssh_port,
                user=order.user,
                spot=machine.offer.pricing == "spot",
                tags=dict(request.tags),
            )
            for machine in machines
        ]

    def instances(self, pool: str | None) -> Sequence[Instance]:
        """One paginated describe by tag per region that was launched in, or that is configured."""
        wanted = ("tag:skyward:pool", pool) if pool is not None else ("tag:skyward:managed", "true")
        filters = [{"Name": wanted[0], "Values": [wanted[1]]}]
        found: list[Instance] = []
        for site in self._places():
            found += [
                read_instance(
                    described,
                    site.region,
                    site.known_offers(pool),
                    port=self.config.ssh_port,
                    user=self.config.username,
                    endpoint=self.config.endpoint,
                )
                for reservation in site.cloud.pages(
                    DESCRIBE_INSTANCES, "Reservations", Filters=filters, MaxResults=self.per_call
                )
                for described in reservation["Instances"]
            ]
        with self._lock:
            self._whereabouts.update((instance.id, instance.region) for instance in found)
        return found

    def terminate(self, ids: Iterable[str]) -> None:
        """Ends machines: one call for all of a region. Ids that EC2 does not know are left out, those that are no
        ids of EC2 at all are not asked for."""
        by_region: dict[str, list[str]] = {}
        with self._lock:
            for id in dict.fromkeys(ids):
                if id.startswith("i-") and id.isascii():
                    by_region.setdefault(self._whereabouts.get(id, self.region), []).append(id)
        for region, known in by_region.items():
            for start in range(0, len(known), self.per_call):
                _terminate(self.site(region), known[start : start + self.per_call])

    def connect(self, instance: Instance) -> Endpoint:
        """SSH to its public address, or through Session Manager. A client whose address has changed since the launch
        is let in anew."""
        user, port = self.config.username or instance.user, instance.port
        if self.config.connection == "ssm":
            from skyward_aws.tunnel import check_tools, proxy_command

            check_tools()
            command = proxy_command(instance.id, port, instance.region or self.region, self.config.endpoint)
            return Endpoint(host=instance.id, port=port, user=user, proxy_command=command)
        pool = instance.tags.get("skyward:pool")
        if pool is not None:
            self.site(instance.region or self.region).let_in(pool)
        address = instance.public_address or instance.private_address or ""
        return Endpoint(host=address, port=port, user=user)

    def release(self, pool: str) -> None:
        """Deletes the security group, key pair, launch templates and left disks of a pool."""
        for site in self._places():
            site.release(pool)

    def site(self, region: str) -> Site:
        """One region; the same object each time."""
        with self._lock:
            if region not in self._sites:
                self._sites[region] = Site(
                    region,
                    self.config,
                    environ=self._environ,
                    patience=self.patience,
                    check_ip=self.check_ip,
                )
            return self._sites[region]

    def _places(self) -> list[Site]:
        """The regions this object has launched in; else the one it is configured for."""
        with self._lock:
            used = [site for site in self._sites.values() if site.has_launched]
        return used or [self.site(self.region)]

    @contextmanager
    def _in_open_region(self, site: Site) -> Iterator[None]:
        """In a region that the account has not enabled EC2 knows nobody: that is the region's fault, and not that of
        credentials that are good elsewhere."""
        try:
            yield
        except CredentialsError as error:
            if site.region == ALWAYS_OPEN or not is_closed(self.site(ALWAYS_OPEN).cloud, site.region):
                raise
            raise closed_region(site.region) from error

    def _warn_of_expiry(self, request: LaunchRequest) -> None:
        """Credentials that end before the machines do cannot end them; the machines' own switch then has to."""
        left = expires_in_s(os.environ if self._environ is None else self._environ)
        if left is not None and request.lifetime_s is not None and left < request.lifetime_s:
            warnings.warn(
                SkywardWarning(
                    f"aws: these credentials expire in {left / 60:.0f} minutes, before the pool's lifetime is over: "
                    "without fresh ones nobody but the machines themselves can end them",
                    hints=["aws sso login", "max_lifetime=..."],
                ),
                stacklevel=3,
            )


@contextmanager
def _saying_what_is_left(site: Site, pool: str) -> Iterator[None]:
    """A refusal that comes before anything was made for the pool says so: there is nothing to clean up."""
    try:
        yield
    except ProviderError as error:
        if pool not in site.makers:
            error.made_nothing = True  # type: ignore[attr-defined]
        raise


def with_real_type(request: LaunchRequest) -> LaunchRequest:
    """The request with a type EC2 knows: `p5n.48xlarge` is what people call `p5en.48xlarge`."""
    from skyward_aws.shapes import aliases

    fact = aliases().get(request.offer.instance_type)
    if fact is None:
        return request
    warnings.warn(
        SkywardWarning(
            f"aws: {fact.instance_type} is taken as {fact.value}: {fact.reason}",
            hints=[f"--machine {fact.value}"],
        ),
        stacklevel=3,
    )
    offers = (request.offer, *request.alternatives)
    first, *others = (replace(offer, instance_type=fact.value) for offer in offers)
    return replace(request, offer=first, alternatives=tuple(others))


def _terminate(site: Site, ids: Sequence[str]) -> None:
    """One call for all. EC2 refuses all of them for one it does not know, and says which."""
    left = list(ids)
    while left:
        try:
            site.cloud.ask(TERMINATE, InstanceIds=left)
            return
        except ProviderError as error:
            if not str(getattr(error, "aws_code", "")).startswith("InvalidInstanceID"):
                raise
            named = [id for id in left if id in error.message]
            if not named and len(left) > 1:
                for id in left:
                    _terminate(site, [id])
                return
            left = [id for id in left if id not in named] if named else []


def _ambiguous(error: ProviderError, request: LaunchRequest) -> AmbiguousLaunchError:
    return AmbiguousLaunchError(
        f"aws: nobody answered whether {request.count} x {request.offer.instance_type} were launched: "
        "repeat the request with the same token, or list the pool's machines",
        facts=[error.message, *error.facts],
        hints=["skyward ps"],
        provider="aws",
        aws_code=getattr(error, "aws_code", ""),
        token=request.token,
    )
