"""A simulated EC2 whose instances are real machines behind SSH: unmodified boto3 and paramiko run against it.

    with SimulatedEC2() as ec2:
        client = boto3.client("ec2", endpoint_url=ec2.endpoint, ...)     # or set the variables of ec2.environ

The API is moto's, in this process, with what moto lacks: an instance is `pending` until its sshd answers, client tokens
are idempotent, fleets run out of capacity, terminating takes a moment, groups in use cannot be deleted. One at a time
in a process, because moto keeps one account per process.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

from skyward.testing import ec2_launch, ec2_moto
from skyward.testing.ec2_front import Front
from skyward.testing.ec2_moto import ACCOUNT
from skyward.testing.ec2_wire import (
    Call,
    Reply,
    ec2_reply,
    environ_of,
    error_reply,
    inside,
    structures,
)
from skyward.testing.machines import Machine, MachineSpec
from skyward.testing.simcloud import METADATA_PORT, Addresses, Charge, Fault, Request, SimulatedCloud
from skyward.testing.simcloud_metadata import Answer

ACCESS_KEY = "AKIASIMULATEDCLOUD00"
SECRET_KEY = "simulated/secret/of/no/account/000000000"
LAUNCH_KINDS = ("missing", "slow-boot", "dies", "interrupt", "wrong-host-key", "no-sshd", "partial")
"""Faults of what a launch yields; the others meet the call itself."""
TERMINATION_KINDS = ("stuck",)

SPOT_TERMINATION = (
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceTermination: Spot instance termination",
)
BY_ITSELF = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)


@dataclass(kw_only=True)
class _Instance:
    """What we know of an instance beside moto."""

    moto: Any
    region: str
    addresses: Addresses
    market: str
    visible_at: float
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    notice: dict[str, str] | None = None
    faults: tuple[Fault, ...] = ()


class EC2Machine(Machine):
    """The machine of an instance."""

    cloud: SimulatedEC2
    id: str

    @property
    def address(self) -> str:
        return self.spec.address

    def interrupt(self, after_s: float = 120.0) -> None:
        """EC2 wants it back: a notice now, and the end after a while."""
        self.cloud._interrupt(self.id, after_s)


class SimulatedEC2(SimulatedCloud):
    """EC2, SSM, IAM, STS and S3 at one endpoint. A context manager; leaving it leaves nothing behind.

    Machines belong to the region their launch was signed for; `region` is what `environ` and `config` name.
    """

    account: ClassVar[str] = ACCOUNT
    ssh_port: ClassVar[int] = 22

    def __init__(self, *, seed: int = 0, boot_s: float = 0.0, region: str = "us-east-1") -> None:
        super().__init__(seed=seed, boot_s=boot_s)
        self.region = region
        self.endpoint = ""
        """The URL of every service."""
        self._instances: dict[str, _Instance] = {}
        self._templates: dict[tuple[str, str], list[dict[str, str]]] = {}
        self._tokens: dict[tuple[str, str, str], _Launch] = {}
        self._fleets: dict[str, list[str]] = {}
        self._capacity: dict[tuple[str | None, str | None, str | None], int] = {}
        self._here = threading.local()

    # -- life ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._stack = ExitStack()
        self._app = self._stack.enter_context(ec2_moto.moto_for(self))
        self._front = Front(
            answer=self._answer,
            log=self._log,
            next_fault=lambda call: self._next_fault(call.action, call.parameters, _call_kinds()),
            access_key=ACCESS_KEY,
        )
        self._stack.callback(self._front.stop)
        self.endpoint = self._front.start()

    def _close(self) -> None:
        if hasattr(self, "_stack"):
            self._stack.close()

    # -- what tests ask ---------------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        """Variables with which any client of AWS finds this one."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def config(self, **more: Any) -> dict[str, Any]:
        """Fields of `sky.AWS(...)` that lead here."""
        return {"region": self.region, "endpoint": self.endpoint, "ssh_cidr": "127.0.0.1/32", **more}

    def resources(self) -> dict[str, list[str]]:
        """What is left beside machines, by kind: groups, key pairs, templates, volumes. Empty when all is clean."""
        found: dict[str, list[str]] = {}
        for region in ec2_moto.regions_in_use():
            backend = ec2_moto.backend(region)
            groups = [
                group for vpc in backend.groups.values() for group in vpc.values() if group.name != "default"
            ]
            kinds = {
                "security-group": [f"{group.id} {group.name}" for group in groups],
                "key-pair": list(backend.key_pairs),
                "launch-template": [template.name for template in backend.launch_templates.values()],
                "volume": [volume.id for volume in backend.volumes.values()],
            }
            for kind, names in kinds.items():
                found.setdefault(kind, []).extend(names)
        return {kind: names for kind, names in found.items() if names}

    def set_capacity(
        self,
        count: int,
        *,
        instance_type: str | None = None,
        zone: str | None = None,
        market: str | None = None,
    ) -> None:
        """How many more machines there are; None means whichever. What was never set is without end."""
        with self._lock:
            self._capacity[instance_type, zone, market] = count

    # -- calls ------------------------------------------------------------------------------------------------

    def _log(self, call: Call, fault: str | None) -> None:
        self.requests.append(
            Request(
                at=time.monotonic(),
                service=call.service,
                action=call.action,
                parameters=call.parameters,
                region=call.region,
                fault=fault,
            )
        )

    def _answer(self, call: Call) -> Reply:
        ec2_moto.backend(call.region or self.region)
        ours = getattr(self, f"_call_{call.service}_{call.action}", None)
        self._here.is_client = call.action in (
            "DescribeInstances",
            "DescribeInstanceStatus",
            "TerminateInstances",
        )
        try:
            return ours(call) if ours is not None else self._moto(call)
        finally:
            self._here.is_client = False

    def _moto(self, call: Call, parameters: Mapping[str, str] | None = None) -> Reply:
        """moto's answer; when moto breaks, so does the test."""
        started: list[Any] = []
        try:
            chunks = self._app(
                environ_of(call, parameters),
                lambda status, headers, _=None: started.extend((status, headers)),
            )
            body = b"".join(chunks)
        except Exception as error:
            return self._broken(call, f"{type(error).__name__}: {error}")
        status = int(str(started[0]).split()[0])
        if status >= 500 and b"<Code>" not in body and b"__type" not in body:
            return self._broken(call, body[:2000].decode(errors="replace"))
        headers = [(name, value) for name, value in started[1] if name.lower() != "content-length"]
        return Reply(status=status, body=body, headers=headers)

    def _broken(self, call: Call, why: str) -> Reply:
        self.failures.append(f"moto cannot answer {call.service} {call.action}: {why}")
        return error_reply(call, 501, "NotSimulated", f"the simulated cloud cannot {call.action}")

    def _call_ec2_CreateLaunchTemplate(self, call: Call) -> Reply:
        reply = self._moto(call)
        if reply.status == 200:
            id = _between(reply.body, "launchTemplateId")
            data = inside(call.parameters, "LaunchTemplateData")
            for name in (id, call.parameters["LaunchTemplateName"]):
                self._templates[call.region, name] = [data]
        return reply

    def _call_ec2_DeleteSecurityGroup(self, call: Call) -> Reply:
        wanted = call.parameters.get("GroupId") or call.parameters.get("GroupName", "")
        for known in list(self._instances.values()):
            groups = [group for nic in known.moto.nics.values() for group in nic.group_set]
            is_alive = known.moto._state.name != "terminated" and known.region == call.region
            if is_alive and any(wanted in (group.id, group.name) for group in groups):
                return error_reply(
                    call, 400, "DependencyViolation", f"resource {wanted} has a dependent object"
                )
        return self._moto(call)

    # -- launching --------------------------------------------------------------------------------------------

    def _call_ec2_RunInstances(self, call: Call) -> Reply:
        return self._once(call, self._run_instances)

    def _call_ec2_CreateFleet(self, call: Call) -> Reply:
        return self._once(call, self._create_fleet)

    def _once(self, call: Call, launch: Any) -> Reply:
        """A call with a token is executed once: a repetition gets the first answer, another question an error."""
        token = call.parameters.get("ClientToken")
        if not token or call.parameters.get("DryRun") == "true":
            return launch(call)  # type: ignore[no-any-return]
        asked = {name: value for name, value in call.parameters.items() if name != "ClientToken"}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        with self._lock:
            known = self._tokens.setdefault((call.region, call.action, token), _Launch(digest))
        with known.lock:
            if known.digest != digest:
                return error_reply(
                    call,
                    400,
                    "IdempotentParameterMismatch",
                    f"Arguments on this idempotent request are inconsistent with arguments used in previous request(s) "
                    f"with client token {token}",
                )
            if known.reply is None:
                reply = launch(call)
                if reply.status != 200:
                    with self._lock:
                        self._tokens.pop((call.region, call.action, token), None)
                    return reply
                known.reply = reply
            return known.reply

    def _run_instances(self, call: Call) -> Reply:
        parameters = self._with_template(call)
        market = parameters.get("InstanceMarketOptions.MarketType") or "on-demand"
        low, high = int(parameters.get("MinCount", 1)), int(parameters.get("MaxCount", 1))
        if parameters.get("DryRun") == "true":
            return self._moto(call, parameters)
        instance_type = parameters.get("InstanceType", "m1.small")
        zone = self._zone(call.region, parameters)
        free = min(high, self._free(instance_type, zone, market))
        if free < low:
            return error_reply(call, 500, *_no_capacity(instance_type, zone))
        return self._launch(call, parameters, free, market, zone)

    def _launch(self, call: Call, parameters: Mapping[str, str], count: int, market: str, zone: str) -> Reply:
        """`count` instances at once, or an error of moto's."""
        faults = []
        while fault := self._next_fault(call.action, call.parameters, LAUNCH_KINDS):
            faults.append(fault)
            if fault.left is None:
                break
        self._here.market, self._here.faults = market, tuple(faults)
        whole = {**parameters, "Action": "RunInstances", "MinCount": str(count), "MaxCount": str(count)}
        reply = self._moto(call, whole)
        if reply.status == 200:
            self._take(parameters.get("InstanceType", "m1.small"), zone, market, count)
        return reply

    def _create_fleet(self, call: Call) -> Reply:
        if call.parameters.get("Type") != "instant":
            return error_reply(call, 400, "InvalidParameterValue", "only instant fleets are simulated")
        launched: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for market, wanted in ec2_launch.fleet_targets(call.parameters).items():
            if wanted:
                self._fill(call, market, wanted, launched, errors)
        fleet = f"fleet-{self.random.getrandbits(128):032x}"
        self._fleets[fleet] = [id for item in launched for id in item["instanceIds"]]
        return ec2_reply("CreateFleet", {"fleetId": fleet, "errorSet": errors, "fleetInstanceSet": launched})

    def _fill(
        self,
        call: Call,
        market: str,
        wanted: int,
        launched: list[dict[str, Any]],
        errors: list[dict[str, Any]],
    ) -> None:
        options = inside(call.parameters, "SpotOptions" if market == "spot" else "OnDemandOptions")
        strategy = options.get("AllocationStrategy", "lowest-price")
        choices = self._choices(call, market)
        got = ec2_launch.allocate(choices, wanted, strategy)
        for choice, count in got:
            parameters = self._fleet_parameters(call, choice, market)
            reply = self._launch(call, parameters, count, market, choice.zone)
            if reply.status != 200:
                code, message = _between(reply.body, "Code"), _between(reply.body, "Message")
                errors.append(ec2_launch.fleet_item(choice, market, errorCode=code, errorMessage=message))
                continue
            ids = _all_between(reply.body, "instanceId")
            launched.append(
                ec2_launch.fleet_item(choice, market, instanceIds=ids, instanceType=choice.instance_type)
            )
        if sum(count for _, count in got) < wanted:
            for choice in choices:
                code, message = choice.refusal or _no_capacity(choice.instance_type, choice.zone)
                if choice.free < wanted:
                    errors.append(ec2_launch.fleet_item(choice, market, errorCode=code, errorMessage=message))

    def _choices(self, call: Call, market: str) -> list[ec2_launch.Choice]:
        choices = []
        for config in structures(call.parameters, "LaunchTemplateConfigs"):
            template = inside(config, "LaunchTemplateSpecification")
            for override in structures(config, "Overrides") or [{}]:
                parameters = {**self._template(call.region, template), **override}
                instance_type = parameters.get("InstanceType", "m1.small")
                zone = self._zone(call.region, parameters)
                choices.append(
                    ec2_launch.Choice(
                        number=len(choices),
                        template=template,
                        override=override,
                        instance_type=instance_type,
                        zone=zone,
                        subnet=parameters.get("SubnetId", ""),
                        price=1.0,
                        free=self._free(instance_type, zone, market),
                    )
                )
        return choices

    def _fleet_parameters(self, call: Call, choice: ec2_launch.Choice, market: str) -> dict[str, str]:
        given = {
            name: value for name, value in choice.override.items() if name not in ("Priority", "MaxPrice")
        }
        if "AvailabilityZone" in given:
            given["Placement.AvailabilityZone"] = given.pop("AvailabilityZone")
        tags = {
            name: value for name, value in call.parameters.items() if name.startswith("TagSpecification.")
        }
        parameters = ec2_launch.merge_template(
            self._template(call.region, choice.template), {**given, **tags}
        )
        if market == "spot":
            parameters["InstanceMarketOptions.MarketType"] = "spot"
        return parameters

    def _with_template(self, call: Call) -> dict[str, str]:
        named = inside(call.parameters, "LaunchTemplate")
        template = self._template(call.region, named) if named else {}
        return (
            {**call.parameters, **ec2_launch.merge_template(template, call.parameters)}
            if named
            else dict(call.parameters)
        )

    def _template(self, region: str, named: Mapping[str, str]) -> dict[str, str]:
        name = named.get("LaunchTemplateId") or named.get("LaunchTemplateName", "")
        versions = self._templates.get((region, name))
        return versions[-1] if versions else {}

    def _zone(self, region: str, parameters: Mapping[str, str]) -> str:
        subnet = parameters.get("SubnetId")
        for name, value in parameters.items():
            if name.startswith("NetworkInterface.") and name.endswith(".SubnetId"):
                subnet = value
        if subnet:
            for zone, subnets in ec2_moto.backend(region).subnets.items():
                if subnet in subnets:
                    return str(zone)
        return (
            parameters.get("Placement.AvailabilityZone") or parameters.get("AvailabilityZone") or f"{region}a"
        )

    def _free(self, instance_type: str, zone: str, market: str) -> int:
        with self._lock:
            return min(
                (left for key, left in self._capacity.items() if _covers(key, instance_type, zone, market)),
                default=ec2_launch.UNLIMITED,
            )

    def _take(self, instance_type: str, zone: str, market: str, count: int) -> None:
        with self._lock:
            for key in self._capacity:
                if _covers(key, instance_type, zone, market):
                    self._capacity[key] -= count

    # -- what moto asks ---------------------------------------------------------------------------------------

    def launched(self, instance: Any) -> None:
        """A new instance: it gets addresses, a line on the bill, and a machine."""
        faults: tuple[Fault, ...] = getattr(self._here, "faults", ())
        addresses = self._claim_addresses(instance.id)
        nic = instance.nics[0]
        nic.private_ip_address = addresses.private
        nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": addresses.private}]
        if nic.public_ip:
            nic.public_ip = addresses.public
        market = getattr(self._here, "market", "on-demand")
        missing = sum(fault.seconds for fault in faults if fault.kind == "missing")
        known = _Instance(
            moto=instance,
            region=instance.region_name,
            addresses=addresses,
            market=market,
            visible_at=time.monotonic() + missing,
            faults=faults,
        )
        charge = Charge(
            id=instance.id,
            instance_type=instance.instance_type,
            region=instance.region_name,
            zone=str(instance.availability_zone),
            market=market,
            launched_at=time.monotonic(),
        )
        with self._lock:
            self._instances[instance.id] = known
        self._rent(charge)
        delay = sum(fault.seconds for fault in faults if fault.kind == "slow-boot")
        self._boot(instance.id, lambda: self._make(known), lambda: self._ready(known), delay_s=delay)

    def end(self, instance: Any, reason: tuple[str, str]) -> None:
        """Ends an instance: shutting down now, terminated when its machine is gone."""
        ec2_moto.set_state(instance, ec2_moto.SHUTTING_DOWN, reason)
        if self._next_fault("TerminateInstances", {"InstanceId.1": instance.id}, TERMINATION_KINDS):
            return
        self._enders.submit(self._end, instance)

    def stop(self, instance: Any) -> None:
        ec2_moto.set_state(instance, ec2_moto.STOPPING, ec2_moto.BY_USER)
        self._enders.submit(self._end, instance, ec2_moto.STOPPED)

    def start(self, instance: Any) -> None:
        known = self._instances[instance.id]
        ec2_moto.set_state(instance, ec2_moto.PENDING)
        self._boot(instance.id, lambda: self._make(known), lambda: self._ready(known))

    def is_visible(self, instance: Any) -> bool:
        """Just after a launch other parts of EC2 may not have heard of it."""
        if not getattr(self._here, "is_client", False):
            return True
        known = self._instances.get(instance.id)
        return known is None or time.monotonic() >= known.visible_at

    # -- machines ---------------------------------------------------------------------------------------------

    def _make(self, known: _Instance) -> Machine:
        instance = known.moto
        directory = self.directory / f"{instance.id}-{secrets.token_hex(2)}"
        directory.mkdir()
        key = ec2_moto.backend(known.region).key_pairs.get(instance.key_name)
        addresses = known.addresses
        machine = EC2Machine(
            MachineSpec(
                name=f"ip-{addresses.private.replace('.', '-')}",
                address=instance.public_ip or addresses.private,
                private_address=addresses.private,
                port=self.ssh_port,
                user_data=ec2_moto.user_data_of(instance),
                authorized_keys=(key.material_public.decode(),) if key else (),
                environment={
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{addresses.metadata}:{METADATA_PORT}/",
                },
            ),
            directory=directory,
            image=self._image,
        )
        machine.cloud, machine.id = self, instance.id
        machine.on_end = self._ended_by_itself
        return machine

    def _ready(self, known: _Instance) -> None:
        with self._lock:
            if known.moto._state.name == "pending":
                ec2_moto.set_state(known.moto, ec2_moto.RUNNING)

    def _ended_by_itself(self, machine: Machine) -> None:
        assert isinstance(machine, EC2Machine)
        instance = self._instances[machine.id].moto
        if instance._state.name not in ("pending", "running"):
            return
        if instance.instance_initiated_shutdown_behavior == "terminate":
            self.end(instance, BY_ITSELF)
        else:
            ec2_moto.set_state(instance, ec2_moto.STOPPED, BY_ITSELF)

    def _end(self, instance: Any, state: ec2_moto.State = ec2_moto.TERMINATED) -> None:
        machine = self._machines.get(instance.id)
        if machine is not None:
            machine.end()
        if state is ec2_moto.TERMINATED:
            ec2_moto.dispose(instance)
            self._metadata.forget(instance.id)
            self._gone(instance.id)
        ec2_moto.set_state(instance, state)

    def _interrupt(self, id: str, after_s: float) -> None:
        known = self._instances[id]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + after_s))
        known.notice = {"action": "terminate", "time": when}
        self._later(after_s, lambda: self._take_back(known))

    def _take_back(self, known: _Instance) -> None:
        if known.moto._state.name in ("pending", "running"):
            self.end(known.moto, SPOT_TERMINATION)

    # -- metadata ---------------------------------------------------------------------------------------------

    def _answer_metadata(self, id: str, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        known = self._instances.get(id)
        if known is None:
            return Answer(404)
        if path == "/latest/api/token":
            if method != "PUT" or not headers.get("x-aws-ec2-metadata-token-ttl-seconds", "").isdigit():
                return Answer(400)
            return Answer(200, known.token)
        if headers.get("x-aws-ec2-metadata-token") != known.token:
            return Answer(401)
        texts = self._metadata_of(known)
        return Answer(200, texts[path]) if path in texts else Answer(404)

    def _metadata_of(self, known: _Instance) -> dict[str, str]:
        instance = known.moto
        data = {
            "ami-id": instance.image_id,
            "hostname": instance.private_dns_name,
            "instance-id": instance.id,
            "instance-life-cycle": known.market,
            "instance-type": instance.instance_type,
            "local-ipv4": known.addresses.private,
            "placement/availability-zone": str(instance.availability_zone),
            "placement/region": known.region,
        }
        if instance.public_ip:
            data["public-ipv4"] = instance.public_ip
        if known.notice:
            data["spot/instance-action"] = json.dumps(known.notice)
            data["spot/termination-time"] = known.notice["time"]
        identity = {"accountId": ACCOUNT, "instanceId": instance.id, "region": known.region}
        return {
            **{f"/latest/meta-data/{name}": text for name, text in data.items()},
            "/latest/user-data": ec2_moto.user_data_of(instance),
            "/latest/dynamic/instance-identity/document": json.dumps(identity),
        }


class _Launch:
    """One client token: what was asked with it, and the answer once there is one."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.reply: Reply | None = None
        self.lock = threading.Lock()


def _call_kinds() -> tuple[str, ...]:
    from skyward.testing.ec2_front import ERROR_KINDS, NETWORK_KINDS

    return (*ERROR_KINDS, *NETWORK_KINDS)


def _covers(key: tuple[str | None, str | None, str | None], *pool: str) -> bool:
    return all(wanted is None or wanted == given for wanted, given in zip(key, pool, strict=True))


def _no_capacity(instance_type: str, zone: str) -> tuple[str, str]:
    return (
        "InsufficientInstanceCapacity",
        f"We currently do not have sufficient {instance_type} capacity in the Availability Zone you requested ({zone}). "
        "Our system will be working on provisioning additional capacity.",
    )


def _between(body: bytes, tag: str) -> str:
    return next(iter(_all_between(body, tag)), "")


def _all_between(body: bytes, tag: str) -> list[str]:
    import re

    return re.findall(rf"<{tag}>([^<]*)</{tag}>", body.decode())
