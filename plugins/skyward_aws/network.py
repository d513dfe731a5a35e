"""Where machines stand, and who may reach them: subnets, the security group of a pool, and this client's address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from skyward import CapacityError, Offer, ProviderError
from skyward_aws.calls import (
    AUTHORIZE,
    CREATE_GROUP,
    DESCRIBE_GROUPS,
    DESCRIBE_OFFERINGS,
    DESCRIBE_SUBNETS,
    DESCRIBE_VPCS,
    REVOKE,
)
from skyward_aws.cloud import Cloud

CHECK_IP: Final = "https://checkip.amazonaws.com"
"""Answers with the address a request came from; run by Amazon."""
CHECK_IP_VARIABLE: Final = "AWS_ENDPOINT_URL_CHECKIP"
"""Another URL that does; spelled as boto3 spells those of services."""
_OUTSIDE_GRAMMAR: Final = re.compile(r"[^a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]")
"""What a description of a security group may not hold: EC2 API reference, CreateSecurityGroup (2026-11)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One subnet that machines can be launched into."""

    subnet: str
    zone: str
    zone_id: str
    vpc: str
    free: int = 0
    """Addresses that are left."""


# -- subnets ---------------------------------------------------------------------------------------------------


def find_places(cloud: Cloud, subnet_id: str | None, *, needs_public: bool) -> tuple[Place, ...]:
    """The named subnet, or one of the default VPC in each zone.

    Raises:
        ProviderError: there is none that machines could be reached in.
    """
    if subnet_id is not None:
        return (_named(cloud, subnet_id, needs_public),)
    vpcs = cloud.ask(DESCRIBE_VPCS, Filters=[{"Name": "is-default", "Values": ["true"]}]).get("Vpcs", ())
    if not vpcs:
        raise ProviderError(
            f"aws: {cloud.region} has no default VPC: name a subnet, "
            'sky.AWS(subnet_id="subnet-0123456789abcdef0")',
            hints=[
                f"aws ec2 create-default-vpc --region {cloud.region}",
                f"aws ec2 describe-subnets --region {cloud.region}",
            ],
            provider="aws",
            region=cloud.region,
        )
    filters = [{"Name": "vpc-id", "Values": [vpcs[0]["VpcId"]]}]
    found = list(cloud.pages(DESCRIBE_SUBNETS, "Subnets", Filters=filters))
    usable = [subnet for subnet in found if subnet.get("MapPublicIpOnLaunch") or not needs_public]
    if not usable:
        raise ProviderError(
            f"aws: no subnet of the default VPC {vpcs[0]['VpcId']} in {cloud.region} gives public addresses: "
            'name another, sky.AWS(subnet_id="subnet-0123456789abcdef0"), or use sky.AWS(connection="ssm")',
            facts=[f"{len(found)} subnets were looked at"],
            hints=["aws ec2 modify-subnet-attribute --map-public-ip-on-launch --subnet-id SUBNET"],
            provider="aws",
            region=cloud.region,
        )
    return one_per_zone(map(read_subnet, usable))


def read_subnet(described: Mapping[str, Any]) -> Place:
    """An entry of `Subnets`."""
    return Place(
        subnet=described["SubnetId"],
        zone=described.get("AvailabilityZone", ""),
        zone_id=described.get("AvailabilityZoneId", ""),
        vpc=described.get("VpcId", ""),
        free=described.get("AvailableIpAddressCount", 0),
    )


def one_per_zone(places: Iterable[Place]) -> tuple[Place, ...]:
    """The roomiest of each zone: a fleet refuses two subnets of one zone for one type (InvalidFleetConfig)."""
    best: dict[str, Place] = {}
    for place in places:
        if place.zone not in best or place.free > best[place.zone].free:
            best[place.zone] = place
    return tuple(best[zone] for zone in sorted(best))


def _named(cloud: Cloud, subnet_id: str, needs_public: bool) -> Place:
    try:
        described = cloud.ask(DESCRIBE_SUBNETS, SubnetIds=[subnet_id])["Subnets"][0]
    except ProviderError as error:
        if not str(getattr(error, "aws_code", "")).startswith("InvalidSubnetID"):
            raise
        raise ProviderError(
            f"aws: no subnet {subnet_id!r} in {cloud.region}: subnets belong to one region",
            hints=[f"aws ec2 describe-subnets --region {cloud.region}"],
            provider="aws",
        ) from error
    if needs_public and not described.get("MapPublicIpOnLaunch"):
        raise ProviderError(
            f"aws: subnet {subnet_id!r} gives no public addresses, so SSH cannot reach machines there: "
            'use sky.AWS(connection="ssm"), or name another subnet',
            hints=[f"aws ec2 modify-subnet-attribute --map-public-ip-on-launch --subnet-id {subnet_id}"],
            provider="aws",
        )
    return read_subnet(described)


def zones_with(cloud: Cloud, instance_type: str) -> frozenset[str]:
    """The zones of the region that sell a type. A fleet with another zone among its overrides is refused whole."""
    found = cloud.pages(
        DESCRIBE_OFFERINGS,
        "InstanceTypeOfferings",
        LocationType="availability-zone",
        Filters=[{"Name": "instance-type", "Values": [instance_type]}],
    )
    return frozenset(item["Location"] for item in found)


def places_for(
    offers: Sequence[Offer], places: Sequence[Place], sold_in: frozenset[str]
) -> list[tuple[Place, Offer]]:
    """Where each offer could stand, in the order of the plan; each place once, for the first offer it serves.

    Raises:
        CapacityError: no subnet is in a zone that sells it.
    """
    found: dict[str, tuple[Place, Offer]] = {}
    for offer in offers:
        for place in places:
            if place.zone in sold_in and _serves(place, offer):
                found.setdefault(place.subnet, (place, offer))
    if not found:
        wanted = offers[0].zone or ", ".join(sorted(sold_in)) or "no zone"
        here = ", ".join(sorted(place.zone for place in places))
        raise CapacityError(
            f"aws: {offers[0].instance_type} is sold in {wanted} of {offers[0].region}, and the subnets are in {here}",
            hints=['sky.AWS(subnet_id="subnet-0123456789abcdef0") names a subnet of another zone'],
            provider="aws",
            aws_code="",
        )
    return list(found.values())


def _serves(place: Place, offer: Offer) -> bool:
    """Zones are called by name (us-east-1a), or by the id all accounts share (use1-az4)."""
    wanted = {offer.zone} if offer.zone else set(offer.zones)
    return not wanted or not wanted.isdisjoint((place.zone, place.zone_id))


# -- this client -----------------------------------------------------------------------------------------------


def own_network(cloud: Cloud, url: str = CHECK_IP) -> str:
    """The network that is this client alone, as the internet sees it; 127.0.0.1 where AWS is simulated here, and
    nobody is named who would know better.

    Raises:
        ProviderError: nobody could tell.
    """
    if cloud.is_here and url == CHECK_IP:
        return "127.0.0.1/32"
    import urllib3

    try:
        reply = urllib3.request("GET", url, timeout=urllib3.Timeout(5, 5), retries=2)
        address = ip_address(reply.data.decode("ascii", "replace").strip())
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise ProviderError(
            "aws: the address this machine has on the internet could not be found out: name it, "
            'sky.AWS(ssh_cidr="203.0.113.7/32")',
            facts=[f"{url}: {error}"],
            hints=[f"curl {url}"],
            provider="aws",
        ) from error
    return str(ip_network(address))


# -- security groups -------------------------------------------------------------------------------------------


def describe_group(pool: str, expires: str) -> str:
    """What the console says of a pool's group."""
    text = f"Skyward pool {pool}, open to its client alone" + (f", expires {expires}" if expires else "")
    return _OUTSIDE_GRAMMAR.sub("-", text)[:255]


def make_group(
    cloud: Cloud,
    name: str,
    description: str,
    vpc: str,
    tags: Mapping[str, str],
    network: str | None,
    port: int,
) -> str:
    """The group of a pool: its members reach each other, `network` reaches their SSH. May be repeated."""
    rules: list[dict[str, Any]] = [] if network is None else [_ssh_rule(network, port)]
    try:
        group: str = cloud.ask(
            CREATE_GROUP,
            GroupName=name,
            Description=description,
            VpcId=vpc,
            TagSpecifications=[tag_specification("security-group", tags)],
        )["GroupId"]
    except ProviderError as error:
        if getattr(error, "aws_code", "") != "InvalidGroup.Duplicate":
            raise
        group = _find_group(cloud, name, vpc)
    allow(cloud, group, _members_rule(group), *rules)
    return group


def allow(cloud: Cloud, group: str, *rules: Mapping[str, Any]) -> None:
    """Adds rules; those that are there are fine. One of them refuses all of a call, which is then made one by one."""
    try:
        cloud.ask(AUTHORIZE, GroupId=group, IpPermissions=list(rules))
    except ProviderError as error:
        if getattr(error, "aws_code", "") != "InvalidPermission.Duplicate":
            raise
        if len(rules) > 1:
            for rule in rules:
                allow(cloud, group, rule)


def move_in(cloud: Cloud, group: str, network: str, port: int, *, instead_of: str | None) -> None:
    """Opens SSH to the client's new address, and closes it to the old one."""
    allow(cloud, group, _ssh_rule(network, port))
    if instead_of is not None:
        try:
            cloud.ask(REVOKE, GroupId=group, IpPermissions=[_ssh_rule(instead_of, port)])
        except ProviderError as error:
            if getattr(error, "aws_code", "") != "InvalidPermission.NotFound":
                raise


def find_groups(cloud: Cloud, pool: str) -> list[str]:
    """Ids of the groups a pool made."""
    filters = [{"Name": "tag:skyward:pool", "Values": [pool]}]
    return [group["GroupId"] for group in cloud.pages(DESCRIBE_GROUPS, "SecurityGroups", Filters=filters)]


def tag_specification(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Tags that something gets as it is made."""
    return {
        "ResourceType": kind,
        "Tags": [{"Key": key[:128], "Value": value[:256]} for key, value in tags.items()],
    }


def _ssh_rule(network: str, port: int) -> dict[str, Any]:
    is_six = ip_network(network).version == 6
    ranges = {"CidrIpv6" if is_six else "CidrIp": network, "Description": "SSH of the client of this pool"}
    return {
        "IpProtocol": "tcp",
        "FromPort": port,
        "ToPort": port,
        "Ipv6Ranges" if is_six else "IpRanges": [ranges],
    }


def _members_rule(group: str) -> dict[str, Any]:
    return {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}


def _find_group(cloud: Cloud, name: str, vpc: str) -> str:
    filters = [{"Name": "group-name", "Values": [name]}, {"Name": "vpc-id", "Values": [vpc]}]
    group: str = cloud.ask(DESCRIBE_GROUPS, Filters=filters)["SecurityGroups"][0]["GroupId"]
    return group
