"""What stands in the way of renting on AWS, found out without renting: `skyward check aws`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from skyward import CredentialsError, Finding, ProviderError
from skyward_aws import calls
from skyward_aws.calls import Call
from skyward_aws.cloud import Cloud
from skyward_aws.config import AWS
from skyward_aws.credentials import expires_in_s
from skyward_aws.images import SOURCES, find_image
from skyward_aws.reach import QUOTAS, Quota
from skyward_aws.regions import is_open, status_of

if TYPE_CHECKING:
    from skyward_aws.site import Site

_NOBODY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA skyward-check"
)
"""A key that nobody holds, for a request that is never carried out."""
_TAGS: Final = {"skyward:managed": "true", "skyward:pool": "check"}


def findings(site: Site, config: AWS, credentials_from: str) -> Iterator[Finding]:
    """Every finding, in the order in which one would look; nothing more once nobody knows us."""
    yield Finding(subject="credentials", is_ok=True, detail=credentials_from or "found")
    identity = _identity(site.cloud)
    yield identity
    if not identity.is_ok:
        return
    yield _expiry(os.environ if site.environ is None else site.environ)
    region = _region(site.cloud)
    yield region
    if region.is_ok is False:
        return
    if config.connection == "ssm":
        yield _tools()
    yield _network(site)
    yield from _images(site, config)
    yield from _permissions(site.cloud)
    yield from _quotas(site.cloud)


def _identity(cloud: Cloud) -> Finding:
    try:
        who = cloud.ask(calls.GET_IDENTITY)
    except ProviderError as error:
        return _bad("identity", error)
    return Finding(subject="identity", is_ok=True, detail=f"{who['Arn']} of account {who['Account']}")


def _expiry(environ: Mapping[str, str]) -> Finding:
    left = expires_in_s(environ)
    if left is not None:
        detail = f"these credentials expire in {left / 60:.0f} minutes"
        return Finding(subject="expiry", is_ok=left > 0, detail=detail, hints=("aws sso login",))
    if environ.get("AWS_SESSION_TOKEN"):
        return Finding(subject="expiry", is_ok=None, detail="temporary, and nobody says until when")
    return Finding(subject="expiry", is_ok=True, detail="not temporary, or renewed by themselves")


def _region(cloud: Cloud) -> Finding:
    subject = f"region {cloud.region}"
    try:
        status = status_of(cloud, cloud.region)
    except ProviderError as error:
        return _bad(subject, error)
    if is_open(status):
        return Finding(subject=subject, is_ok=True, detail="enabled")
    return Finding(
        subject=subject,
        is_ok=False,
        detail=f"EC2 says {status}: enable it, or take another",
        hints=(f"aws account enable-region --region-name {cloud.region}",),
    )


def _tools() -> Finding:
    from skyward_aws.tunnel import check_tools

    try:
        check_tools()
    except ProviderError as error:
        return _bad("session manager", error)
    return Finding(
        subject="session manager", is_ok=True, detail="aws and session-manager-plugin are installed"
    )


def _network(site: Site) -> Finding:
    try:
        places = site.places()
    except ProviderError as error:
        return _bad("network", error)
    zones = ", ".join(place.zone for place in places)
    return Finding(subject="network", is_ok=True, detail=f"{places[0].vpc}: subnets in {zones}")


def _images(site: Site, config: AWS) -> Iterator[Finding]:
    if config.ami is not None:
        return  # whether it fits depends on the machine
    for kind, architecture in SOURCES:
        subject = f"image for {kind}, {architecture}"
        try:
            image = find_image(site.cloud, kind=kind, architecture=architecture)
        except ProviderError as error:
            yield Finding(subject=subject, is_ok=None, detail=_said(error), hints=_others(error))
        else:
            yield Finding(subject=subject, is_ok=True, detail=image.id)


# -- permissions -----------------------------------------------------------------------------------------------


def _permissions(cloud: Cloud) -> Iterator[Finding]:
    """One request per call of EC2 that only asks whether it would be allowed (`DryRun`)."""
    for call, parameters in _dry_runs():
        subject = f"ec2:{call.operation}"
        try:
            cloud.ask(call, DryRun=True, **parameters)
        except ProviderError as error:
            yield _permission(subject, call, error)
        else:
            yield Finding(subject=subject, is_ok=True, detail="allowed")


def _permission(subject: str, call: Call, refusal: ProviderError) -> Finding:
    """What a refusal says. A call that is allowed for our own things only is refused for everything else, and there
    is nothing of ours yet."""
    code = str(getattr(refusal, "aws_code", ""))
    is_for_ours = (
        any("ResourceTag" in str(grant.condition) for grant in call.grants) and len(call.grants) == 1
    )
    if code == "DryRunOperation" or ("NotFound" in code and not is_for_ours):
        return Finding(subject=subject, is_ok=True, detail="allowed")
    if isinstance(refusal, CredentialsError) and not is_for_ours:
        hints = ("skyward check aws --policy",)
        return Finding(subject=subject, is_ok=False, detail=_said(refusal), hints=hints)
    detail = f"shows when there is something of ours to do it to ({code or _said(refusal)})"
    return Finding(subject=subject, is_ok=None, detail=detail)


def _dry_runs() -> tuple[tuple[Call, dict[str, Any]], ...]:
    """The calls that can be tried, each with arguments that would be good."""
    from skyward_aws.network import tag_specification

    nothing = {"i": "i-" + "0" * 17, "sg": "sg-" + "0" * 17, "vol": "vol-" + "0" * 17, "lt": "lt-" + "0" * 17}
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "127.0.0.1/32"}]}

    def tagged(kind: str) -> list[dict[str, Any]]:
        return [tag_specification(kind, _TAGS)]

    return (
        (calls.DESCRIBE_IMAGES, {"Owners": ["self"]}),
        (calls.DESCRIBE_VPCS, {}),
        (calls.DESCRIBE_SUBNETS, {}),
        (calls.DESCRIBE_OFFERINGS, {}),
        (calls.DESCRIBE_GROUPS, {}),
        (calls.DESCRIBE_INSTANCES, {}),
        (calls.DESCRIBE_KEYS, {}),
        (calls.DESCRIBE_TEMPLATES, {}),
        (calls.DESCRIBE_VOLUMES, {}),
        (
            calls.CREATE_GROUP,
            {
                "GroupName": "skyward-check",
                "Description": "only asked for",
                "TagSpecifications": tagged("security-group"),
            },
        ),
        (
            calls.IMPORT_KEY,
            {
                "KeyName": "skyward-check",
                "PublicKeyMaterial": _NOBODY.encode(),
                "TagSpecifications": tagged("key-pair"),
            },
        ),
        (
            calls.CREATE_TEMPLATE,
            {
                "LaunchTemplateName": "skyward-check",
                "LaunchTemplateData": {"InstanceType": "t3.micro"},
                "TagSpecifications": tagged("launch-template"),
            },
        ),
        (
            calls.CREATE_FLEET,
            {
                "Type": "instant",
                "LaunchTemplateConfigs": [
                    {"LaunchTemplateSpecification": {"LaunchTemplateName": "skyward-check", "Version": "1"}}
                ],
                "TargetCapacitySpecification": {
                    "TotalTargetCapacity": 1,
                    "DefaultTargetCapacityType": "on-demand",
                },
                "TagSpecifications": [*tagged("fleet"), *tagged("instance")],
            },
        ),
        (calls.AUTHORIZE, {"GroupId": nothing["sg"], "IpPermissions": [rule]}),
        (calls.REVOKE, {"GroupId": nothing["sg"], "IpPermissions": [rule]}),
        (calls.DELETE_GROUP, {"GroupId": nothing["sg"]}),
        (calls.DELETE_KEY, {"KeyName": "skyward-check"}),
        (calls.DELETE_TEMPLATE, {"LaunchTemplateId": nothing["lt"]}),
        (calls.DELETE_VOLUME, {"VolumeId": nothing["vol"]}),
        (calls.TERMINATE, {"InstanceIds": [nothing["i"]]}),
    )


def _quotas(cloud: Cloud) -> Iterator[Finding]:
    for quota in QUOTAS.values():
        subject = f"quota of {quota.what}"
        try:
            found = cloud.ask(calls.GET_QUOTA, ServiceCode="ec2", QuotaCode=quota.code)["Quota"]
        except ProviderError as error:
            if "NoSuchResource" in str(getattr(error, "aws_code", "")):
                continue  # not every region has every family
            yield Finding(subject="quotas", is_ok=None, detail=_said(error))
            return  # it will be no different for the others
        yield _quota(cloud.region, subject, quota, float(found.get("Value", 0)))


def _quota(region: str, subject: str, quota: Quota, vcpus: float) -> Finding:
    """None of a family is only in the way of who wants it; without CPU machines there is nothing."""
    if vcpus > 0:
        return Finding(subject=subject, is_ok=True, detail=f"{vcpus:,.0f} vCPUs")
    return Finding(
        subject=subject,
        is_ok=False if quota is QUOTAS["standard", "on-demand"] else None,
        detail="0 vCPUs: none of them can be rented before AWS grants more",
        hints=(quota.increase(region, 32),),
    )


def _bad(subject: str, error: ProviderError) -> Finding:
    return Finding(subject=subject, is_ok=False, detail=_said(error), hints=_others(error))


def _said(error: ProviderError) -> str:
    return error.message.removeprefix("aws: ")


def _others(error: ProviderError) -> tuple[str, ...]:
    """What can be done, other than what is being done."""
    return tuple(hint for hint in error.hints if hint != "skyward check aws")
