"""The calls of the simulated AWS that moto answers wrongly or not at all; every other one is moto's.

Launches are decided here (tokens, templates, fleets, capacity, quotas, prices) and carried out by moto as RunInstances.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from skyward.testing import ec2_moto
from skyward.testing.ec2_launch import (
    UNLIMITED,
    USER_DATA_LIMIT,
    Choice,
    Refusal,
    allocate,
    fleet_item,
    fleet_targets,
    merge_template,
)
from skyward.testing.ec2_market import (
    QUOTAS,
    Market,
    bid_too_low,
    no_capacity,
    not_in_zone,
    over_quota,
)
from skyward.testing.ec2_wire import (
    Call,
    Reply,
    ec2_reply,
    environ_of,
    error_reply,
    inside,
    json_reply,
    members,
    structures,
)
from skyward.testing.simcloud import Fault

FLEET_KINDS = ("capacity", "quota", "refused", "partial")
"""Faults that a fleet tells in `Errors`, with HTTP 200; RunInstances fails with them."""
LAUNCH_KINDS = ("missing", "slow-boot", "dies", "interrupt", "wrong-host-key", "no-sshd")
"""Faults of what a launch yields."""
_LOOKING = ("DescribeInstances", "DescribeInstanceStatus", "TerminateInstances", "DescribeInstanceAttribute")


class Cloud(Protocol):
    """What calls need of the cloud they are made to."""

    region: str
    failures: list[str]

    def next_fault(
        self, action: str, parameters: Mapping[str, str], kinds: Sequence[str]
    ) -> Fault | None: ...

    def types_running(self, region: str, market: str) -> list[str]: ...

    def groups_in_use(self, region: str) -> set[str]: ...

    def fleet_id(self) -> str: ...

    def attached(self, region: str, volume_id: str, instance_id: str, device: str) -> None: ...

    def detached(self, volume_id: str) -> None: ...

    def rules_changed(self) -> None: ...


@dataclass
class _Token:
    """One client token: what was asked with it, and the answer once there is one."""

    digest: str
    reply: Reply | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Calls:
    """Answers calls; `launching` and `is_looking` tell moto's hooks what the current call is about."""

    def __init__(self, cloud: Cloud, app: Callable[[Mapping[str, Any], Any], Any]) -> None:
        self.market = Market(
            ec2_moto.vcpus,
            lambda region: [zone.name for zone in ec2_moto.backend(region).describe_availability_zones()],
        )
        self._cloud, self._app = cloud, app
        self._templates: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._tokens: dict[tuple[str, str, str], _Token] = {}
        self._fleets: dict[str, tuple[str, str, list[str]]] = {}
        self._lock = threading.RLock()
        self._now = threading.local()

    @property
    def launching(self) -> tuple[str, tuple[Fault, ...]]:
        """Market and faults of the launch that this thread is at."""
        return getattr(self._now, "launching", ("on-demand", ()))

    @property
    def is_looking(self) -> bool:
        """Whether this thread serves a client that looks for instances."""
        return getattr(self._now, "is_looking", False)

    def answer(self, call: Call) -> Reply:
        ec2_moto.backend(call.region or self._cloud.region)
        ours = getattr(self, f"_{call.service.replace('-', '_')}_{call.action}", None)
        self._now.is_looking = call.action in _LOOKING
        try:
            reply: Reply = ours(call) if ours is not None else self.forward(call)
            return reply
        finally:
            self._now.is_looking = False

    def forward(self, call: Call, parameters: Mapping[str, str] | None = None) -> Reply:
        """moto's answer; where moto breaks, so does the test."""
        started: list[Any] = []

        def start(status: str, headers: Any, _: Any = None) -> None:
            started.extend((status, headers))

        is_looking = call.service == "ec2" and call.action.startswith("Describe")
        try:
            with ec2_moto.whole_answers if is_looking else nullcontext():
                body = b"".join(self._app(environ_of(call, parameters), start))
        except Exception as error:
            return self._broken(call, f"{type(error).__name__}: {error}")
        status = int(str(started[0]).split()[0])
        if status >= 500 and b"<Code>" not in body and b"__type" not in body:
            return self._broken(call, body[:2000].decode(errors="replace"))
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        if call.environ.get("REQUEST_METHOD") == "HEAD":
            headers = list(started[1])
        return Reply(status=status, body=body, headers=headers)

    def _broken(self, call: Call, why: str) -> Reply:
        self._cloud.failures.append(f"moto cannot answer {call.service} {call.action}: {why}")
        return error_reply(call, 501, "NotSimulated", f"the simulated cloud cannot {call.action}")

    # -- launching --------------------------------------------------------------------------------------------

    def _ec2_RunInstances(self, call: Call) -> Reply:
        return self._once(call, self._run_instances)

    def _ec2_CreateFleet(self, call: Call) -> Reply:
        return self._once(call, self._create_fleet)

    def _once(self, call: Call, launch: Callable[[Call], Reply]) -> Reply:
        """A call with a token is executed once: a repetition gets the first answer, another question an error."""
        token = call.parameters.get("ClientToken")
        if not token or _is_dry(call):
            return launch(call)
        asked = {name: value for name, value in call.parameters.items() if name != "ClientToken"}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        key = (call.region, call.action, token)
        with self._lock:
            known = self._tokens.setdefault(key, _Token(digest))
        with known.lock:
            if known.digest != digest:
                message = (
                    "Arguments on this idempotent request are inconsistent with arguments used in previous request(s) "
                    f"with client token {token}"
                )
                return error_reply(call, 400, "IdempotentParameterMismatch", message)
            if known.reply is not None:
                return known.reply
            reply = launch(call)
            if reply.status == 200:
                known.reply = reply
            else:
                with self._lock:
                    self._tokens.pop(key, None)
            return reply

    def _run_instances(self, call: Call) -> Reply:
        template = self._template(call.region, inside(call.parameters, "LaunchTemplate"))
        parameters = merge_template(template, call.parameters)
        choice = self._choice(call, parameters, 0, {}, {})
        problem = self._problem(call, parameters, choice)
        if problem is not None:
            return error_reply(call, 400, problem.code, problem.message)
        if _is_dry(call):
            return self.forward(call, parameters)
        low, high = int(parameters.get("MinCount", 1)), int(parameters.get("MaxCount", 1))
        count = min(high, choice.free)
        partial = self._cloud.next_fault(call.action, call.parameters, ("partial",))
        if partial is not None:
            count = min(count, int(partial.details.get("count", 0)))
        refused = self._cloud.next_fault(call.action, call.parameters, ("refused",))
        if refused is not None:
            refusal = _refusal_of(refused, (choice.instance_type, choice.zone, choice.market))
            return error_reply(call, 400, refusal.code, refusal.message)
        if count < low:
            refusal = choice.refusal or no_capacity(choice.instance_type, choice.zone)
            status = 500 if refusal.code == "InsufficientInstanceCapacity" else 400
            return error_reply(call, status, refusal.code, refusal.message)
        return self._launch(call, parameters, count, choice)

    def _launch(self, call: Call, parameters: Mapping[str, str], count: int, choice: Choice) -> Reply:
        """`count` instances at once, or an error of moto's."""
        faults = []
        for kind in LAUNCH_KINDS:
            fault = self._cloud.next_fault(call.action, call.parameters, (kind,))
            if fault is not None:
                faults.append(fault)
        self._now.launching = (choice.market, tuple(faults))
        whole = {**parameters, "Action": "RunInstances", "MinCount": str(count), "MaxCount": str(count)}
        try:
            reply = self.forward(call, whole)
        finally:
            del self._now.launching
        if reply.status == 200:
            self.market.take((choice.instance_type, choice.zone, choice.market), count)
            profile = parameters.get("IamInstanceProfile.Arn") or parameters.get("IamInstanceProfile.Name")
            if profile:
                ec2_moto.give_profile(call.region, _all_between(reply.body, "instanceId"), profile)
        return reply

    def _problem(self, call: Call, parameters: Mapping[str, str], choice: Choice) -> Refusal | None:
        """What is wrong with a launch whatever there is to be had."""
        text = parameters.get("UserData", "")
        if text and len(base64.b64decode(text)) > USER_DATA_LIMIT:
            return Refusal("InvalidParameterValue", f"User data is limited to {USER_DATA_LIMIT} bytes")
        if not ec2_moto.vcpus(choice.instance_type):
            return Refusal(
                "InvalidParameterValue", f"Invalid value '{choice.instance_type}' for InstanceType."
            )
        image = parameters.get("ImageId", "")
        known = ec2_moto.backend(call.region).amis.get(image)
        if known is None:
            return Refusal("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
        fitting = ec2_moto.architectures(choice.instance_type)
        if known.architecture not in fitting:
            return Refusal(
                "InvalidParameterValue",
                f"The architecture '{','.join(fitting)}' of the specified instance type does not match the architecture "
                f"'{known.architecture}' of the specified AMI. Specify an instance type and an AMI that have matching "
                "architectures, and try again.",
            )
        key = parameters.get("KeyName")
        if key and key not in ec2_moto.backend(call.region).key_pairs:
            return Refusal("InvalidKeyPair.NotFound", f"The key pair '{key}' does not exist")
        return None

    # -- fleets -----------------------------------------------------------------------------------------------

    def _create_fleet(self, call: Call) -> Reply:
        if call.parameters.get("Type") != "instant":
            return error_reply(call, 400, "InvalidParameterValue", "only instant fleets are simulated")
        if _is_dry(call):
            return self.forward(call)
        for config in structures(call.parameters, "LaunchTemplateConfigs"):
            named = inside(config, "LaunchTemplateSpecification")
            if not self._template(call.region, named):
                name = named.get("LaunchTemplateId") or named.get("LaunchTemplateName")
                code = "InvalidLaunchTemplateId.NotFound"
                return error_reply(
                    call,
                    400,
                    code,
                    f"The specified launch template, with template ID {name}, does not exist.",
                )
        launched: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        targets = {market: wanted for market, wanted in fleet_targets(call.parameters).items() if wanted}
        faults = self._fleet_faults(call, targets)
        for market, wanted in targets.items():
            self._fill(call, market, wanted, faults, launched, errors)
        fleet = self._cloud.fleet_id()
        ids = [id for item in launched for id in item["instanceIds"]]
        with self._lock:
            self._fleets[fleet] = (call.region, "active", ids)
        return ec2_reply("CreateFleet", {"fleetId": fleet, "errorSet": errors, "fleetInstanceSet": launched})

    def _fleet_faults(self, call: Call, targets: Mapping[str, int]) -> list[Fault]:
        """One of each kind at most; they may wait for a zone or a market, of which the call itself says nothing."""
        seen = dict(call.parameters)
        for market in targets:
            for choice in self._choices(call, market, ()):
                seen[f"{market}.{choice.number}.Market"] = market
                seen[f"{market}.{choice.number}.AvailabilityZone"] = choice.zone
        found = (self._cloud.next_fault(call.action, seen, (kind,)) for kind in FLEET_KINDS)
        return [fault for fault in found if fault is not None]

    def _fill(
        self,
        call: Call,
        market: str,
        wanted: int,
        faults: Sequence[Fault],
        launched: list[dict[str, Any]],
        errors: list[dict[str, Any]],
    ) -> None:
        """Adds what was launched of one market, and why no more was."""
        options = inside(call.parameters, "SpotOptions" if market == "spot" else "OnDemandOptions")
        choices = self._choices(call, market, faults)
        limit = min((int(f.details.get("count", 0)) for f in faults if f.kind == "partial"), default=wanted)
        got = allocate(choices, min(wanted, limit), options)
        count = 0
        for choice, number in got:
            parameters = self._fleet_parameters(call, choice)
            problem = self._problem(call, parameters, choice)
            reply = None if problem else self._launch(call, parameters, number, choice)
            if reply is not None and reply.status == 200:
                ids = _all_between(reply.body, "instanceId")
                launched.append(fleet_item(choice, instanceIds=ids, instanceType=choice.instance_type))
                count += number
            else:
                refusal = problem or _refusal_in(reply)
                errors.append(fleet_item(choice, errorCode=refusal.code, errorMessage=refusal.message))
        if count < wanted:
            for choice in choices:
                if choice.free < wanted or limit < wanted:
                    known = choice.refusal if choice.free < wanted else None
                    refusal = known or no_capacity(choice.instance_type, choice.zone)
                    errors.append(fleet_item(choice, errorCode=refusal.code, errorMessage=refusal.message))

    def _choices(self, call: Call, market: str, faults: Sequence[Fault]) -> list[Choice]:
        choices: list[Choice] = []
        for config in structures(call.parameters, "LaunchTemplateConfigs"):
            named = inside(config, "LaunchTemplateSpecification")
            template = self._template(call.region, named)
            for override in structures(config, "Overrides") or [{}]:
                more = {"InstanceMarketOptions.MarketType": market} if market == "spot" else {}
                parameters = {**template, **override, **more}
                choices.append(self._choice(call, parameters, len(choices), named, override, faults))
        return choices

    def _choice(
        self,
        call: Call,
        parameters: Mapping[str, str],
        number: int,
        named: Mapping[str, str],
        override: Mapping[str, str],
        faults: Sequence[Fault] = (),
    ) -> Choice:
        """One pool of machines: what it costs, and how many of it this account gets now."""
        instance_type = parameters.get("InstanceType", "m1.small")
        zone = ec2_moto.zone_of(call.region, parameters)
        market = parameters.get("InstanceMarketOptions.MarketType") or "on-demand"
        pool = (instance_type, zone, market)
        price = self.market.price(pool)
        free, refusal = self._availability(call.region, pool, _bid(parameters, override), price)
        seen = {**parameters, "AvailabilityZone": zone, "Market": market}
        for fault in faults:
            if fault.kind != "partial" and fault.suits(seen):
                free, refusal = 0, _refusal_of(fault, pool)
        return Choice(
            number=number,
            template=named,
            override=override,
            instance_type=instance_type,
            zone=zone,
            market=market,
            subnet=parameters.get("SubnetId", ""),
            price=price,
            free=free,
            refusal=refusal,
        )

    def _availability(
        self, region: str, pool: tuple[str, str, str], bid: float | None, price: float
    ) -> tuple[int, Refusal | None]:
        instance_type, zone, market = pool
        if not ec2_moto.is_offered(region, instance_type, zone):
            return 0, not_in_zone(instance_type, zone)
        if market == "spot" and bid is not None and bid < price:
            return 0, bid_too_low(bid, price)
        free = self.market.free(pool)
        allowed = self.market.allowed(instance_type, market, self._cloud.types_running(region, market))
        if allowed < free:
            return allowed, over_quota(instance_type, market)
        return free, None if free >= UNLIMITED else no_capacity(instance_type, zone)

    def _fleet_parameters(self, call: Call, choice: Choice) -> dict[str, str]:
        given = {
            name: value for name, value in choice.override.items() if name not in ("Priority", "MaxPrice")
        }
        if "AvailabilityZone" in given:
            given["Placement.AvailabilityZone"] = given.pop("AvailabilityZone")
        tags = {
            name: value for name, value in call.parameters.items() if name.startswith("TagSpecification.")
        }
        parameters = merge_template(self._template(call.region, choice.template), {**given, **tags})
        if choice.market == "spot":
            parameters["InstanceMarketOptions.MarketType"] = "spot"
        return parameters

    def _ec2_DeleteFleets(self, call: Call) -> Reply:
        deleted = []
        for id in members(call.parameters, "FleetId"):
            region, state, ids = self._fleets.get(id, ("", "", []))
            if region != call.region:
                continue
            self._fleets[id] = (region, "deleted_terminating", ids)
            for instance in ids:
                ec2_moto.terminate(region, instance)
            item = {"currentFleetState": "deleted_terminating", "previousFleetState": state, "fleetId": id}
            deleted.append(item)
        return ec2_reply(
            "DeleteFleets", {"successfulFleetDeletionSet": deleted, "unsuccessfulFleetDeletionSet": []}
        )

    def _ec2_DescribeFleets(self, call: Call) -> Reply:
        wanted = set(members(call.parameters, "FleetId"))
        found = [
            {
                "fleetId": id,
                "fleetState": state,
                "type": "instant",
                "fleetInstanceSet": [{"instanceIds": ids}],
            }
            for id, (region, state, ids) in self._fleets.items()
            if region == call.region and (id in wanted if wanted else state == "active")
        ]
        return ec2_reply("DescribeFleets", {"fleetSet": found})

    # -- templates --------------------------------------------------------------------------------------------

    def _ec2_CreateLaunchTemplate(self, call: Call) -> Reply:
        reply = self.forward(call)
        if reply.status == 200:
            data = [inside(call.parameters, "LaunchTemplateData")]
            for name in (_between(reply.body, "launchTemplateId"), call.parameters["LaunchTemplateName"]):
                self._templates[call.region, name] = data
        return reply

    def _ec2_CreateLaunchTemplateVersion(self, call: Call) -> Reply:
        reply = self.forward(call)
        if reply.status == 200:
            versions = self._templates.get((call.region, _between(reply.body, "launchTemplateId")), [])
            versions.append(inside(call.parameters, "LaunchTemplateData"))
        return reply

    def _ec2_DeleteLaunchTemplate(self, call: Call) -> Reply:
        reply = self.forward(call)
        if reply.status == 200:
            for tag in ("launchTemplateId", "launchTemplateName"):
                self._templates.pop((call.region, _between(reply.body, tag)), None)
        return reply

    def _template(self, region: str, named: Mapping[str, str]) -> dict[str, str]:
        name = named.get("LaunchTemplateId") or named.get("LaunchTemplateName", "")
        versions = self._templates.get((region, name), [])
        version = named.get("Version", "$Default")
        number = int(version) if version.isdigit() else len(versions) if version == "$Latest" else 1
        return versions[number - 1] if 0 < number <= len(versions) else {}

    # -- disks ------------------------------------------------------------------------------------------------

    def _ec2_AttachVolume(self, call: Call) -> Reply:
        reply = self.forward(call)
        if reply.status == 200:
            volume, instance, device = (
                call.parameters[name] for name in ("VolumeId", "InstanceId", "Device")
            )
            self._cloud.attached(call.region, volume, instance, device)
        return reply

    def _ec2_DetachVolume(self, call: Call) -> Reply:
        reply = self.forward(call)
        if reply.status == 200:
            self._cloud.detached(call.parameters["VolumeId"])
        return reply

    # -- groups -----------------------------------------------------------------------------------------------

    def _ec2_AuthorizeSecurityGroupIngress(self, call: Call) -> Reply:
        return self._with_new_rules(call)

    def _ec2_RevokeSecurityGroupIngress(self, call: Call) -> Reply:
        return self._with_new_rules(call)

    def _ec2_ModifyInstanceAttribute(self, call: Call) -> Reply:
        return self._with_new_rules(call)

    def _with_new_rules(self, call: Call) -> Reply:
        reply = self.forward(call)
        self._cloud.rules_changed()
        return reply

    # -- what depends on what ---------------------------------------------------------------------------------

    def _ec2_DeleteSecurityGroup(self, call: Call) -> Reply:
        wanted = call.parameters.get("GroupId") or call.parameters.get("GroupName", "")
        if not _is_dry(call) and wanted in self._cloud.groups_in_use(call.region):
            return error_reply(call, 400, "DependencyViolation", f"resource {wanted} has a dependent object")
        return self.forward(call)

    def _ec2_DeleteVolume(self, call: Call) -> Reply:
        volume = ec2_moto.backend(call.region).volumes.get(call.parameters.get("VolumeId", ""))
        if volume is not None and volume.attachment is not None and not _is_dry(call):
            message = f"Volume {volume.id} is currently attached to {volume.attachment.instance.id}"
            return error_reply(call, 400, "VolumeInUse", message)
        return self.forward(call)

    # -- prices and quotas --------------------------------------------------------------------------------------

    def _ec2_DescribeSpotPriceHistory(self, call: Call) -> Reply:
        products = members(call.parameters, "ProductDescription")
        types = members(call.parameters, "InstanceType") or ec2_moto.types_offered(call.region)
        now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        zone = call.parameters.get("AvailabilityZone")
        rows = self.market.spot_history(call.region, types, now)
        if products and not any("Linux/UNIX" in product for product in products):
            rows = []
        kept = [row for row in rows if zone in (None, row["availabilityZone"])]
        return ec2_reply("DescribeSpotPriceHistory", {"nextToken": "", "spotPriceHistorySet": kept})

    def _pricing_GetProducts(self, call: Call) -> Reply:
        filters = {
            row.get("Field", ""): row.get("Value", "") for row in structures(call.parameters, "Filters")
        }
        region = filters.get("regionCode", call.region)
        wanted = filters.get("instanceType")
        types = [wanted] if wanted else ec2_moto.types_offered(region)
        return json_reply({"FormatVersion": "aws_v1", "PriceList": self.market.products(region, types)})

    def _servicequotas_GetServiceQuota(self, call: Call) -> Reply:
        code = call.parameters.get("QuotaCode", "")
        if call.parameters.get("ServiceCode") != "ec2" or code not in QUOTAS:
            return error_reply(call, 400, "NoSuchResourceException", f"no quota {code}")
        return json_reply({"Quota": self._quota(code)})

    def _servicequotas_ListServiceQuotas(self, call: Call) -> Reply:
        codes = QUOTAS if call.parameters.get("ServiceCode") == "ec2" else ()
        return json_reply({"Quotas": [self._quota(code) for code in codes]})

    def _quota(self, code: str) -> dict[str, Any]:
        value = self.market.quotas[code]
        return {
            "ServiceCode": "ec2",
            "QuotaCode": code,
            "QuotaName": QUOTAS[code][0],
            "Value": value,
            "Unit": "None",
            "Adjustable": True,
            "GlobalQuota": False,
        }


def _is_dry(call: Call) -> bool:
    return call.parameters.get("DryRun") == "true"


def _bid(parameters: Mapping[str, str], override: Mapping[str, str]) -> float | None:
    text = override.get("MaxPrice") or parameters.get("InstanceMarketOptions.SpotOptions.MaxPrice")
    return float(text) if text else None


def _refusal_of(fault: Fault, pool: tuple[str, str, str]) -> Refusal:
    instance_type, zone, market = pool
    if fault.kind == "refused":
        return Refusal(
            fault.details.get("code", "InvalidParameterValue"), fault.details.get("message", "refused")
        )
    return over_quota(instance_type, market) if fault.kind == "quota" else no_capacity(instance_type, zone)


def _refusal_in(reply: Reply | None) -> Refusal:
    body = reply.body if reply is not None else b""
    return Refusal(_between(body, "Code"), _between(body, "Message"))


def _between(body: bytes, tag: str) -> str:
    return next(iter(_all_between(body, tag)), "")


def _all_between(body: bytes, tag: str) -> list[str]:
    return re.findall(rf"<{tag}>([^<]*)</{tag}>", body.decode())
