"""A simulated EC2 whose instances are real machines behind SSH: unmodified boto3 and paramiko run against it.

    with SimulatedEC2() as ec2:
        client = boto3.client("ec2", endpoint_url=ec2.endpoint, ...)     # or set the variables of ec2.environ

The API is moto's, in this process, with what moto lacks: an instance is `pending` until its sshd answers, client tokens
are idempotent, fleets run out of capacity, terminating takes a moment, groups in use cannot be deleted. One at a time
in a process, because moto keeps one account per process.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from skyward.testing import ec2_moto
from skyward.testing.ec2_calls import FLEET_KINDS, LAUNCH_KINDS, Calls
from skyward.testing.ec2_front import CHECK_IP, ERROR_KINDS, NETWORK_KINDS, Front
from skyward.testing.ec2_market import Market
from skyward.testing.ec2_moto import ACCOUNT
from skyward.testing.ec2_wire import Call
from skyward.testing.machines import Machine, MachineSpec
from skyward.testing.machines_disks import Disks
from skyward.testing.simcloud import (
    METADATA_PORT,
    Addresses,
    Charge,
    Fault,
    Request,
    SimulatedCloud,
    make_directory,
)
from skyward.testing.simcloud_metadata import Answer

ACCESS_KEY = "AKIASIMULATEDCLOUD00"
SECRET_KEY = "simulated/secret/of/no/account/000000000"
KINDS = (*dict.fromkeys((*ERROR_KINDS, *NETWORK_KINDS, *FLEET_KINDS, *LAUNCH_KINDS, "stuck")),)
"""Every kind of fault."""

SPOT_TERMINATION = (
    "Server.SpotInstanceTermination",
    "Server.SpotInstanceTermination: Spot instance termination",
)
BY_ITSELF = (
    "Client.InstanceInitiatedShutdown",
    "Client.InstanceInitiatedShutdown: Instance initiated shutdown",
)
"""State reasons: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html (2026-11)."""
_RUNNING_AFTER_S = 10.0
"""A machine whose user data hangs is running all the same."""


@dataclass(kw_only=True)
class _Rented:
    """What is known of an instance beside what moto knows."""

    moto: Any
    region: str
    addresses: Addresses
    market: str
    visible_at: float
    faults: tuple[Fault, ...]
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    notice: dict[str, str] | None = None
    ending: threading.Lock = field(default_factory=threading.Lock)
    """A machine that ends by itself may be terminated in the same moment."""

    def has(self, kind: str) -> bool:
        return any(fault.kind == kind for fault in self.faults)

    def seconds(self, kind: str) -> float:
        return sum(fault.seconds for fault in self.faults if fault.kind == kind)


class EC2Machine(Machine):
    """The machine of an instance."""

    cloud: SimulatedEC2
    id: str

    def interrupt(self, after_s: float = 120.0) -> None:
        """EC2 wants it back: the notice is in its metadata now, the end comes after a while."""
        self.cloud.interrupt(self.id, after_s)


class SimulatedEC2(SimulatedCloud):
    """EC2, SSM, IAM, STS, S3, service quotas and prices at one endpoint. Leaving the context leaves nothing behind.

    Instances belong to the region their launch was signed for; `region` is what `environ` and `config` name.
    """

    account: ClassVar[str] = ACCOUNT
    kinds = KINDS

    def __init__(
        self,
        *,
        seed: int = 0,
        boot_s: float = 0.0,
        region: str = "us-east-1",
        isolated: bool | None = None,
        firewall: bool = False,
    ) -> None:
        super().__init__(seed=seed, boot_s=boot_s, isolated=isolated)
        self.firewall = firewall
        """Whether groups decide who reaches an instance: only those that allow `client_address` let anybody in."""
        self.client_address = "127.0.0.1"
        """The address of whoever comes from here, as the internet sees it."""
        self.region = region
        self.endpoint = ""
        """The URL of every service."""
        self._secret_key = (
            f"{SECRET_KEY[:-8]}{os.urandom(4).hex()}"  # what is kept for one is not for the next
        )
        self._rented: dict[str, _Rented] = {}
        self._stuck: list[Any] = []

    # -- life ------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not _only_one.acquire(blocking=False):
            raise RuntimeError(
                "another SimulatedEC2 is open in this process, and moto keeps only one account"
            )
        self._stack = ExitStack()
        self._stack.callback(_only_one.release)
        app = self._stack.enter_context(ec2_moto.moto_for(self))
        self._calls = Calls(self, app)
        self._disks = self._stack.enter_context(Disks(lambda: make_directory(in_memory=False)))
        self._front = Front(
            answer=self._calls.answer,
            log=self._log,
            next_fault=self._fault_of_call,
            access_key=ACCESS_KEY,
            client_address=lambda: self.client_address,
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
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ENDPOINT_URL_CHECKIP": f"{self.endpoint}{CHECK_IP}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def config(self, **more: Any) -> dict[str, Any]:
        """Fields of `sky.AWS(...)` that lead here."""
        plain = {} if self.isolated else {"ssh_port": self.ssh_port, "username": self.user}
        return {"region": self.region, "endpoint": self.endpoint, "ssh_cidr": "127.0.0.1/32", **plain, **more}

    def resources(self) -> dict[str, list[str]]:
        """What is left beside machines, by kind: groups, key pairs, templates, volumes. Empty when all is clean."""
        found: dict[str, list[str]] = {}
        for region in ec2_moto.regions_in_use():
            for kind, names in ec2_moto.leftovers(region).items():
                found.setdefault(kind, []).extend(names)
        return {kind: names for kind, names in found.items() if names}

    @property
    def market(self) -> Market:
        """Prices, capacity and quotas, to be read and set."""
        return self._calls.market

    def set_capacity(
        self,
        count: int | None,
        *,
        instance_type: str | None = None,
        zone: str | None = None,
        market: str | None = None,
    ) -> None:
        """How many more machines of this type, zone and market there are; None is without end. What is not named
        is whichever, and all of them together."""
        self.market.set_capacity(count, (instance_type, zone, market))

    def set_price(
        self,
        usd_per_hour: float,
        *,
        instance_type: str | None = None,
        zone: str | None = None,
        market: str | None = None,
    ) -> None:
        """What such machines cost from now on."""
        self.market.set_price(usd_per_hour, (instance_type, zone, market))

    def move_client(self, address: str) -> None:
        """Whoever comes from here has another address from now on. With `firewall`, packets from it vanish until a
        group lets it in."""
        self.client_address = address
        self.rules_changed()

    def interrupt(self, id: str, after_s: float = 120.0) -> None:
        """EC2 wants an instance back: the notice is in its metadata now, the end comes after a while."""
        known = self._rented[id]
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + after_s))
        known.notice = {"action": "terminate", "time": when}
        self._later(after_s, lambda: self._end_alive(known, SPOT_TERMINATION))

    def heal(self) -> None:
        """No fault is left: hanging calls are dropped, networks whole, and what was stuck ends."""
        super().heal()
        self._front.release()
        with self._lock:
            stuck, self._stuck = self._stuck, []
        for instance in stuck:
            self._enders.submit(self._end, instance)

    # -- what calls ask ---------------------------------------------------------------------------------------

    def types_running(self, region: str, market: str) -> list[str]:
        """The types of an account's instances, for its quotas."""
        return [
            charge.instance_type
            for charge in self.bill
            if charge.gone_at is None and charge.region == region and charge.market == market
        ]

    def groups_in_use(self, region: str) -> set[str]:
        """Ids and names of groups that some instance is in."""
        found = set()
        for known in list(self._rented.values()):
            if known.region == region and known.moto._state.name != "terminated":
                for group in ec2_moto.groups_of(known.moto):
                    found |= {group.id, group.name}
        return found

    def fleet_id(self) -> str:
        return f"fleet-{self.random.getrandbits(128):032x}"

    def _fault_of_call(self, call: Call) -> Fault | None:
        kinds: tuple[str, ...] = (*ERROR_KINDS, *NETWORK_KINDS)
        parameters = call.parameters
        if call.action == "CreateFleet":
            kinds = tuple(kind for kind in kinds if kind not in FLEET_KINDS)
        if call.action == "RunInstances":
            market = parameters.get("InstanceMarketOptions.MarketType", "on-demand")
            zone = ec2_moto.zone_of(call.region, parameters)
            parameters = {**parameters, "Market": market, "AvailabilityZone": zone}
        return self.next_fault(call.action, parameters, kinds)

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

    # -- what moto asks ---------------------------------------------------------------------------------------

    def launched(self, instance: Any) -> None:
        """A new instance: it gets addresses, a line on the bill, and a machine."""
        market, faults = self._calls.launching
        addresses = self._claim_addresses(instance.id)
        ec2_moto.set_addresses(instance, public=addresses.public, private=addresses.private)
        known = _Rented(
            moto=instance,
            region=instance.region_name,
            addresses=addresses,
            market=market,
            visible_at=0.0,
            faults=faults,
        )
        known.visible_at = time.monotonic() + known.seconds("missing")
        with self._lock:
            self._rented[instance.id] = known
        self._rent(
            Charge(
                id=instance.id,
                instance_type=instance.instance_type,
                region=instance.region_name,
                zone=str(instance.availability_zone),
                market=market,
                launched_at=time.monotonic(),
            )
        )
        for fault in faults:
            if fault.kind == "dies":
                code = fault.details.get("code", "Server.InternalError")
                reason = (code, fault.details.get("message", f"{code}: Internal error on launch"))
                self._later(fault.seconds, partial(self._end_alive, known, reason))
            if fault.kind == "interrupt":
                self.interrupt(instance.id, fault.seconds)
        self._start(known)

    def end(self, instance: Any, reason: tuple[str, str]) -> None:
        """Shutting down now, terminated when its machine is gone."""
        ec2_moto.set_state(instance, ec2_moto.SHUTTING_DOWN, reason)
        if self.next_fault("TerminateInstances", {"InstanceId": instance.id}, ("stuck",)):
            with self._lock:
                self._stuck.append(instance)
            return
        self._enders.submit(self._end, instance)

    def stop(self, instance: Any) -> None:
        ec2_moto.set_state(instance, ec2_moto.STOPPING, ec2_moto.BY_USER)
        self._enders.submit(self._end, instance, ec2_moto.STOPPED)

    def start(self, instance: Any) -> None:
        """A stopped instance again, with an empty disk."""
        ec2_moto.set_state(instance, ec2_moto.PENDING)
        self._start(self._rented[instance.id])

    def is_visible(self, instance: Any) -> bool:
        """Just after a launch other parts of EC2 may not have heard of it."""
        known = self._rented.get(instance.id)
        return known is None or not self._calls.is_looking or time.monotonic() >= known.visible_at

    # -- machines ---------------------------------------------------------------------------------------------

    def _start(self, known: _Rented) -> None:
        delay = known.seconds("slow-boot")
        self._boot(
            known.moto.id,
            lambda: self._make(known),
            lambda: self._ready(known),
            delay_s=delay,
            patience_s=_RUNNING_AFTER_S,
        )

    def _make(self, known: _Rented) -> Machine:
        self._guard(known)
        instance, addresses = known.moto, known.addresses
        directory = self.directory / f"{instance.id}-{secrets.token_hex(2)}"
        directory.mkdir()
        key = ec2_moto.backend(known.region).key_pairs.get(instance.key_name)
        machine = EC2Machine(
            MachineSpec(
                name=f"ip-{addresses.private.replace('.', '-')}",
                address=instance.public_ip or addresses.private,
                private_address=addresses.private,
                port=self.ssh_port,
                listen=self._listen(addresses),
                user_data=ec2_moto.user_data_of(instance),
                authorized_keys=(key.material_public.decode(),) if key else (),
                environment={
                    "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{addresses.metadata}:{METADATA_PORT}/"
                },
                has_sshd=not known.has("no-sshd"),
                has_own_host_key=known.has("wrong-host-key"),
            ),
            directory=directory,
            image=self._image,
            network=self._network,
        )
        machine.cloud, machine.id = self, instance.id
        machine.on_end = self._ended_by_itself
        return machine

    def _ready(self, known: _Rented) -> None:
        machine = self._machines[known.moto.id]
        for volume, device in ec2_moto.disks_of(known.moto):
            self._disks.attach(machine, volume.id, int(volume.size), device)
        with self._lock:
            if known.moto._state.name == "pending":
                ec2_moto.set_state(known.moto, ec2_moto.RUNNING)

    def attached(self, region: str, volume_id: str, instance_id: str, device: str) -> None:
        """A volume was attached to an instance that runs."""
        machine = self._machines.get(instance_id)
        if machine is not None:
            volume = ec2_moto.backend(region).volumes[volume_id]
            self._disks.attach(machine, volume_id, int(volume.size), device)

    def rules_changed(self) -> None:
        for known in list(self._rented.values()):
            self._guard(known)

    def _guard(self, known: _Rented) -> None:
        """Closes the public address to those whom no group lets in, silently, as EC2 does."""
        if not self.firewall or known.moto._state.name == "terminated":
            return
        if ec2_moto.lets_in(known.moto, self.client_address, self.ssh_port):
            self._network.join(known.addresses.public, "firewall")
        else:
            self._network.cut(known.addresses.public, "in", "firewall")

    def detached(self, volume_id: str) -> None:
        self._disks.detach(volume_id)

    def _ended_by_itself(self, machine: Machine) -> None:
        assert isinstance(machine, EC2Machine)
        known = self._rented[machine.id]
        if known.moto.instance_initiated_shutdown_behavior == "terminate":
            self._end_alive(known, BY_ITSELF)
        elif known.moto._state.name in ("pending", "running"):
            ec2_moto.set_state(known.moto, ec2_moto.STOPPED, BY_ITSELF)

    def _end_alive(self, known: _Rented, reason: tuple[str, str]) -> None:
        if known.moto._state.name in ("pending", "running"):
            self.end(known.moto, reason)

    def _end(self, instance: Any, state: ec2_moto.State = ec2_moto.TERMINATED) -> None:
        try:
            with self._rented[instance.id].ending:
                if instance._state.name == "terminated":
                    return
                self._end_machine(instance.id)
                for volume, _ in ec2_moto.disks_of(instance):
                    self._disks.detach(volume.id)
                if state is ec2_moto.TERMINATED:
                    self._forget_addresses(instance.id, self._rented[instance.id].addresses)
                    self._gone(instance.id)
                    ec2_moto.dispose(instance)
                else:
                    ec2_moto.set_state(instance, state)
        except Exception as error:
            self.failures.append(f"{instance.id} does not end: {error!r}")

    # -- metadata ---------------------------------------------------------------------------------------------

    def _answer_metadata(self, id: str, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """IMDSv2: a token first, then everything else.

        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html (2026-11)
        """
        known = self._rented.get(id)
        if known is None:
            return Answer(404)
        if path == "/latest/api/token":
            if method != "PUT":
                return Answer(405)
            ttl = headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            is_good = ttl.isdigit() and 1 <= int(ttl) <= 21600
            return (
                Answer(200, known.token, {"X-Aws-Ec2-Metadata-Token-Ttl-Seconds": ttl})
                if is_good
                else Answer(400)
            )
        if headers.get("x-aws-ec2-metadata-token") != known.token:
            return Answer(401)
        texts = self._metadata_of(known)
        if path in texts:
            return Answer(200, texts[path])
        below = sorted({_next_word(name, path) for name in texts if name.startswith(path.rstrip("/") + "/")})
        return Answer(200, "\n".join(below)) if below else Answer(404)

    def _metadata_of(self, known: _Rented) -> dict[str, str]:
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
            "security-groups": "\n".join(group.name for group in ec2_moto.groups_of(instance)),
        }
        if instance.public_ip:
            data["public-ipv4"] = instance.public_ip
        if instance.key_name:
            key = ec2_moto.backend(known.region).key_pairs.get(instance.key_name)
            data["public-keys/0/openssh-key"] = key.material_public.decode() if key else ""
        if known.notice:
            data["spot/instance-action"] = json.dumps(known.notice)
            data["spot/termination-time"] = known.notice["time"]
        if role := ec2_moto.role_of(instance):
            data["iam/security-credentials/" + role] = json.dumps(_role_credentials())
        identity = {"accountId": ACCOUNT, "instanceId": instance.id, "region": known.region}
        texts = {f"/latest/meta-data/{name}": text for name, text in data.items()}
        texts["/latest/dynamic/instance-identity/document"] = json.dumps(identity)
        if user_data := ec2_moto.user_data_of(instance):
            texts["/latest/user-data"] = user_data
        return texts


_only_one = threading.Lock()


def _next_word(name: str, path: str) -> str:
    word, slash, _ = name[len(path.rstrip("/")) + 1 :].partition("/")
    return word + slash


def _role_credentials() -> dict[str, str]:
    """Those of the role are those of everybody here."""
    return {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY,
        "Token": "simulated-session",
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600)),
    }
