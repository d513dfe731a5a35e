"""One region of the account: what was found there, and what pools make there besides machines."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, Final, TypeVar

from skyward import CapacityError, LaunchRequest, Offer, ProviderError, SkywardWarning
from skyward_aws import calls
from skyward_aws.calls import PROFILE, Call
from skyward_aws.cloud import Cloud, Patience
from skyward_aws.config import AWS
from skyward_aws.errors import is_stranger
from skyward_aws.fleet import (
    Got,
    Order,
    buckets_of,
    client_token,
    fleet_request,
    is_profile_unknown,
    name_of,
    pool_tags,
    read_machines,
    template_data,
    template_name,
    why_not,
)
from skyward_aws.images import MachineImage, check_image, find_image, kind_of_image
from skyward_aws.kept import FRESH_S, forget, kept
from skyward_aws.network import (
    Place,
    describe_group,
    find_groups,
    find_places,
    make_group,
    move_in,
    own_network,
    places_for,
    tag_specification,
    zones_with,
)
from skyward_aws.storage import check_buckets, make_profile

T = TypeVar("T")

PROFILE_S: Final = 45.0
"""How long EC2 may take to hear of an instance profile that was just made, seconds."""
RELEASE_S: Final = 120.0
"""How long a security group may still be in use after its machines are gone, seconds."""
ADDRESS_S: Final = 3.0
"""How long this client's address is believed, seconds: it is asked for when machines are launched, and when one does not
answer any more."""
EVERYONE: Final = ("0.0.0.0/0", "::/0")


class Site:
    """One region. What it finds out it keeps: images, subnets and zones do not change while a pool lives."""

    def __init__(
        self,
        region: str,
        config: AWS,
        *,
        environ: Mapping[str, str] | None,
        patience: Patience,
        check_ip: str,
    ) -> None:
        self.region = region
        self.config = config
        self.cloud = Cloud(region, endpoint=config.endpoint, environ=environ, patience=patience)
        self.environ = environ
        """What to sign with instead of this process's own variables."""
        self.has_launched = False
        self.makers: set[str] = set()
        """Pools for which something was made here, or may have been."""
        self._check_ip = check_ip
        self._found: dict[object, Future[Any]] = {}
        self._offers: dict[str, list[Offer]] = {}
        self._admitted: dict[str, str] = {}
        """The network each pool's group is open to, where this object opened it."""
        self._address: tuple[float, str] | None = None
        self._lock = Lock()
        self._entering = Lock()

    # -- before a launch -----------------------------------------------------------------------------------------

    def order(self, request: LaunchRequest) -> Order:
        """Everything the machines will need, made or found; refuses whatever cannot work. Rents nothing. A launch that is
        repeated, as its token says, gets what it got before."""
        order = self._once(("order", request.pool, request.token), lambda: self._prepare(request))
        return replace(order, request=request)

    def _prepare(self, request: LaunchRequest) -> Order:
        offer, config = request.offer, self.config
        if offer.pricing == "capacity-block":
            raise CapacityError(
                f"aws: {offer.instance_type} as a capacity block is bought in advance, in the console of EC2",
                provider="aws",
                aws_code="",
            )
        if config.connection == "ssm":
            from skyward_aws.tunnel import check_tools

            check_tools()
        self.cloud.client("ec2")
        with ThreadPoolExecutor(4, thread_name_prefix="skyward-aws") as threads:
            image = threads.submit(self.image, offer)
            sold_in = threads.submit(self.zones, offer.instance_type)
            places = threads.submit(self.places)
            profile = threads.submit(self._profile, request)
            offers = (offer, *request.alternatives)
            found = places_for(offers, places.result(), sold_in.result())
            machine = image.result()
            group = threads.submit(self._made, self._group, request, found[0][0].vpc)
            key = threads.submit(self._made, self._key, request)
            order = Order(
                request=request,
                image=machine,
                places=tuple(found),
                group=str(group.result()),
                user=config.username or machine.user,
                strategy=config.allocation_strategy,
                key_name=key.result(),
                profile=profile.result(),
            )
        self._make_template(order)
        return order

    def _made(self, make: Callable[..., str | None], request: LaunchRequest, *more: str) -> str | None:
        """What `make` makes. From then on something of the pool is there, or may be; unless AWS does not even know who
        asked."""
        try:
            made = make(request, *more)
        except ProviderError as error:
            if not is_stranger(error):
                self.makers.add(request.pool)
            raise
        if made is not None:
            self.makers.add(request.pool)
        return made

    def image(self, offer: Offer) -> MachineImage:
        """What the machines boot."""
        ami = self.config.ami
        if ami is not None:
            return self._once(("ami", offer.architecture), lambda: check_image(self.cloud, ami, offer))
        kind, architecture = kind_of_image(offer), offer.architecture
        return self._lately(
            ("image", kind, architecture),
            lambda: find_image(self.cloud, kind=kind, architecture=architecture),
        )

    def places(self) -> tuple[Place, ...]:
        """Subnets machines may stand in."""
        needs_public = self.config.connection == "ssh"
        return self._lately(
            ("places", self.config.subnet_id, needs_public),
            lambda: find_places(self.cloud, self.config.subnet_id, needs_public=needs_public),
        )

    def zones(self, instance_type: str) -> frozenset[str]:
        """Zones that sell a type."""
        return self._lately(("zones", instance_type), lambda: zones_with(self.cloud, instance_type))

    def _lately(self, key: tuple[object, ...], find: Callable[[], T]) -> T:
        """What was found for this pool, or for another one of this program a while ago."""
        mine = self.cloud.signature
        return self._once(key, lambda: kept(mine and (mine, *key), find, FRESH_S))

    @contextmanager
    def believed(self) -> Iterator[None]:
        """What was looked up for earlier pools is not believed any more when something is refused."""
        try:
            yield
        except ProviderError:
            forget(self.cloud.signature)
            raise

    def _once(self, key: object, find: Callable[[], T]) -> T:
        """What `find` found, once. Who asks while it is looked for hears the same; a failure is not kept."""
        with self._lock:
            is_first = key not in self._found
            found: Future[T] = self._found.setdefault(key, Future())
        if is_first:
            try:
                found.set_result(find())
            except BaseException as error:
                with self._lock:
                    self._found.pop(key, None)
                found.set_exception(error)
        return found.result()

    def _group(self, request: LaunchRequest, vpc: str) -> str:
        if self.config.security_group_id is not None:
            return self._own_group(self.config.security_group_id, vpc)
        network = self._network()
        tags = pool_tags(request)
        group = self._once(
            ("group", request.pool),
            lambda: make_group(
                self.cloud,
                name_of(request.pool),
                describe_group(request.pool, tags.get("skyward:expires", "")),
                vpc,
                tags,
                network,
                self.config.ssh_port,
            ),
        )
        if network is not None:
            with self._lock:
                self._admitted.setdefault(request.pool, network)
        return group

    def _own_group(self, group: str, vpc: str) -> str:
        """The group the user named, if it is of the network the machines will be in."""

        def look() -> str:
            try:
                found = self.cloud.ask(calls.DESCRIBE_GROUPS, GroupIds=[group])["SecurityGroups"][0]
            except ProviderError as error:
                if not str(getattr(error, "aws_code", "")).startswith("InvalidGroup"):
                    raise
                raise ProviderError(
                    f"aws: no security group {group!r} in {self.region}: groups belong to one region",
                    hints=[f"aws ec2 describe-security-groups --region {self.region}"],
                    provider="aws",
                ) from error
            if found.get("VpcId") != vpc:
                raise ProviderError(
                    f"aws: security group {group!r} is of {found.get('VpcId')} and the subnets are of {vpc}: "
                    "name a subnet of the same VPC, sky.AWS(subnet_id=..., security_group_id=...)",
                    provider="aws",
                )
            return group

        return self._once(("group", group, vpc), look)

    def _network(self) -> str | None:
        """Who may reach SSH. Through Session Manager nobody has to: the machines call out."""
        if self.config.connection == "ssm":
            return None
        if self.config.ssh_cidr is None:
            return self._own_network()
        if self.config.ssh_cidr in EVERYONE:
            self._once("everyone", _warn_of_everyone)
        return str(self.config.ssh_cidr)

    def _own_network(self) -> str:
        with self._lock:
            if self._address is not None and time.monotonic() - self._address[0] < ADDRESS_S:
                return self._address[1]
        network = own_network(self.cloud, self._check_ip)
        with self._lock:
            self._address = (time.monotonic(), network)
        return network

    def _key(self, request: LaunchRequest) -> str | None:
        if not request.public_key:
            return None
        name = name_of(request.pool)

        def import_key() -> str:
            self._tolerating(
                "InvalidKeyPair.Duplicate",
                calls.IMPORT_KEY,
                KeyName=name,
                PublicKeyMaterial=request.public_key.encode(),
                TagSpecifications=[tag_specification("key-pair", pool_tags(request))],
            )
            return name

        return self._once(("key", request.pool), import_key)

    def _profile(self, request: LaunchRequest) -> dict[str, str] | None:
        """The instance profile, where the machines need one."""
        volumes, needs_ssm = buckets_of(request), self.config.connection == "ssm"
        if volumes:
            self._once(("buckets", tuple(volumes)), lambda: check_buckets(self.cloud, volumes))
        if self.config.instance_profile_arn is not None:
            return {"Arn": self.config.instance_profile_arn}
        if not volumes and not needs_ssm:
            return None
        self._once(
            ("profile", tuple(volumes)), lambda: make_profile(self.cloud, volumes, needs_ssm=needs_ssm)
        )
        return {"Name": PROFILE}

    # -- launching -----------------------------------------------------------------------------------------------

    def launch(self, order: Order) -> list[Got]:
        """Asks for the machines; fewer than asked for is logged with its reasons.

        Raises:
            ProviderError: none was launched; `was_sent` where nobody knows.
        """
        request = order.request
        self.has_launched = True
        with self._lock:
            self._offers.setdefault(request.pool, []).extend((request.offer, *request.alternatives))
        answer = self._ask_for_machines(order)
        machines = read_machines(answer, order)
        if not machines:
            raise why_not(answer, order)
        if len(machines) < request.count:
            _log.warning(
                "%d of %d: %s", len(machines), request.count, "; ".join(why_not(answer, order).facts)
            )
        return machines

    def _make_template(self, order: Order) -> None:
        tags = pool_tags(order.request)
        self._tolerating(
            "InvalidLaunchTemplateName.AlreadyExistsException",
            calls.CREATE_TEMPLATE,
            LaunchTemplateName=template_name(order.request),
            LaunchTemplateData=template_data(order),
            TagSpecifications=[tag_specification("launch-template", tags)],
        )

    def _ask_for_machines(self, order: Order) -> dict[str, Any]:
        """The fleet's answer. While EC2 has not heard of a new profile it refuses all; that answer would come again
        with the same token, so each further attempt has its own, which a repeated launch runs through again."""
        began = time.monotonic()
        for attempt in range(1000):
            token = client_token(order.request.token, attempt)
            answer = self.cloud.ask(calls.CREATE_FLEET, **fleet_request(order, token))
            if not is_profile_unknown(answer) or time.monotonic() - began > PROFILE_S:
                return answer
            time.sleep(self.cloud.patience.pause(attempt, lambda: 1.0))
        raise AssertionError("unreachable")

    def known_offers(self, pool: str | None) -> Sequence[Offer]:
        """What this object has launched: the price of a machine is not in EC2's description."""
        with self._lock:
            if pool is not None:
                return list(self._offers.get(pool, ()))
            return [offer for offers in self._offers.values() for offer in offers]

    # -- while machines live -------------------------------------------------------------------------------------

    def let_in(self, pool: str) -> None:
        """Opens the pool's group to this client, where it is not open to it already. What another process of the
        pool's client opened stays; what this object opened for an address it no longer has is closed."""
        if self.config.ssh_cidr is not None or self.config.security_group_id is not None:
            return
        try:
            with self._entering:
                network = self._own_network()
                before = self._admitted.get(pool)
                if before == network:
                    return
                for group in find_groups(self.cloud, pool):
                    move_in(self.cloud, group, network, self.config.ssh_port, instead_of=before)
                self._admitted[pool] = network
        except ProviderError as error:  # the connection itself will tell whether it mattered
            _log.warning("the group of pool %s is as it was: %s", pool, error)

    # -- afterwards ----------------------------------------------------------------------------------------------

    def release(self, pool: str) -> None:
        """Deletes what a pool made besides machines. What is gone already is fine.

        Raises:
            ProviderError: something is still in use after two minutes; the others are gone.
        """
        mine = [{"Name": "tag:skyward:pool", "Values": [pool]}]
        for template in self.cloud.pages(calls.DESCRIBE_TEMPLATES, "LaunchTemplates", Filters=mine):
            self._delete(calls.DELETE_TEMPLATE, LaunchTemplateId=template["LaunchTemplateId"])
        for key in self.cloud.ask(calls.DESCRIBE_KEYS, Filters=mine).get("KeyPairs", ()):
            self._delete(calls.DELETE_KEY, KeyName=key["KeyName"])
        idle = [*mine, {"Name": "status", "Values": ["available", "error"]}]
        for volume in self.cloud.pages(calls.DESCRIBE_VOLUMES, "Volumes", Filters=idle):
            self._delete(calls.DELETE_VOLUME, VolumeId=volume["VolumeId"])
        for group in find_groups(self.cloud, pool):
            self._delete_group(group)
        with self._lock:
            self.makers.discard(pool)
            self._admitted.pop(pool, None)
            self._offers.pop(pool, None)
            for key in [key for key in self._found if isinstance(key, tuple) and pool in key[1:]]:
                del self._found[key]

    def _delete_group(self, group: str) -> None:
        """A group is in use until the network cards of its machines are gone, some seconds after them."""
        began = time.monotonic()
        for attempt in range(1000):
            try:
                self._delete(calls.DELETE_GROUP, GroupId=group)
                return
            except ProviderError as error:
                in_use = getattr(error, "aws_code", "") in ("DependencyViolation", "InvalidGroup.InUse")
                if not in_use or time.monotonic() - began > RELEASE_S:
                    raise
            time.sleep(self.cloud.patience.pause(attempt, lambda: 1.0))

    def _delete(self, call: Call, **parameters: Any) -> None:
        """Deletes one thing; that it is not there is fine."""
        try:
            self.cloud.ask(call, **parameters)
        except ProviderError as error:
            if "NotFound" not in str(getattr(error, "aws_code", "")):
                raise

    def _tolerating(self, code: str, call: Call, **parameters: Any) -> None:
        try:
            self.cloud.ask(call, **parameters)
        except ProviderError as error:
            if getattr(error, "aws_code", "") != code:
                raise


def _warn_of_everyone() -> bool:
    warnings.warn(
        SkywardWarning(
            "aws: SSH of these machines is open to the whole internet: ssh_cidr covers every address",
            hints=['sky.AWS(ssh_cidr="203.0.113.7/32")'],
        ),
        stacklevel=2,
    )
    return True


_log = logging.getLogger("skyward_aws")
