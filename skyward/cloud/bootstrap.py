"""The steps every rented machine goes through before the image's own: the switch, storage, partitions.

Scripts are constant; ids, paths, buckets and profiles travel as JSON on standard input.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from typing import Any

from skyward.cloud import scripts
from skyward.cloud.partitions import FILE, partitioning
from skyward.cloud.userdata import switch_arguments
from skyward.contracts.step import Step
from skyward.errors import BootstrapError
from skyward.model.instance import Instance
from skyward.model.requirements import Requirements
from skyward.model.volume import S3Volume, Volume

CLOUD_INIT_S = 300
ATTACH_S = 120
"""How long an attached disk may take to appear, seconds."""

_CLOUD_INIT = f"""if command -v cloud-init >/dev/null; then timeout {CLOUD_INIT_S} cloud-init status --wait; fi
exit 0
"""


def core_steps(
    instance: Instance,
    requirements: Requirements,
    volumes: Sequence[Volume | S3Volume],
    *,
    has_user_data: bool,
    lifetime_s: float | None,
    lease_s: float | None,
    is_armed: bool = False,
    has_booted: bool = False,
) -> list[Step]:
    """What to do on a machine once it can be reached, in order.

    `has_user_data` says that it was launched with what `userdata.render` gives: then its switch is looked for, else
    it is armed now. Where neither lifetime nor lease is wished for there is no switch. What the machine said itself when
    it was met (`is_armed`, `has_booted`) is not asked again.

    Disks are those of `instance.details["volumes"]`, which the provider filled when it attached them: id -> path, or
    id -> {"path": ..., "device": "/dev/sdf"} where only the device tells. `details["s3_endpoint"]` is another S3.

    Raises:
        BootstrapError: a volume was asked for that the provider did not attach.
    """
    steps = []
    if not has_booted:
        steps.append(Step(name="cloud-init", script=_CLOUD_INIT, order=0, timeout_s=CLOUD_INIT_S + 30))
    if (lifetime_s is not None or lease_s is not None) and not (has_user_data and is_armed):
        steps.append(_switch(instance, has_user_data, lifetime_s, lease_s))
    steps += _disks(instance, [one for one in volumes if isinstance(one, Volume)])
    steps += _buckets(instance, volumes, "open")
    if cut := partitioning(requirements.accelerator):
        given = {"profile": cut.profile, "gpus": cut.gpus, "per_gpu": cut.per_gpu, "file": FILE}
        steps.append(_program("partitions", given, order=30, timeout_s=180))
    return steps


def closing_steps(instance: Instance, volumes: Sequence[Volume | S3Volume]) -> list[Step]:
    """What to do on a machine before it is ended on purpose: writable buckets that could only be copied are sent
    back. Does nothing where they are mounted."""
    writable = [one for one in volumes if isinstance(one, S3Volume) and not one.read_only]
    return _buckets(instance, writable, "close")


def _switch(instance: Instance, has_user_data: bool, lifetime_s: float | None, lease_s: float | None) -> Step:
    name = hashlib.sha256(instance.id.encode()).hexdigest()[:12]
    lifetime, lease, _, name = switch_arguments(lifetime_s, lease_s, "", name)
    if has_user_data:
        script = f"sh -c {shlex.quote(scripts.read('verify.sh'))} skyward-verify {lease}"
    else:
        switch = shlex.quote(scripts.read("switch.sh"))
        script = scripts.as_root(
            scripts.read("arm.sh"), switch, lifetime, lease, '"$(id -un)"', name, name="skyward-arm"
        )
    return Step(name="switch", script=script, order=1, timeout_s=60)


def _disks(instance: Instance, wanted: Sequence[Volume]) -> list[Step]:
    attached: dict[str, Any] = instance.details.get("volumes") or {}
    disks = [{"id": id, **_place(place)} for id, place in attached.items()]
    missing = {one.mount_path for one in wanted} - {disk["path"] for disk in disks}
    if missing:
        raise BootstrapError(
            f"{instance.id}: {instance.provider} attached no volume for {', '.join(sorted(missing))}",
            step="disks",
        )
    return [_program("disks", {"disks": disks, "wait_s": ATTACH_S}, order=10, timeout_s=600)] if disks else []


def _place(place: Any) -> dict[str, Any]:
    return {"path": place} if isinstance(place, str) else dict(place)


def _buckets(instance: Instance, volumes: Sequence[Volume | S3Volume], action: str) -> list[Step]:
    buckets = [
        {"path": one.mount_path, "bucket": one.bucket, "prefix": one.prefix, "read_only": one.read_only}
        for one in volumes
        if isinstance(one, S3Volume)
    ]
    if not buckets:
        return []
    given = {"buckets": buckets, "endpoint": instance.details.get("s3_endpoint", ""), "action": action}
    return [_program("buckets", given, order=20, timeout_s=1800)]


def _program(name: str, given: dict[str, object], *, order: int, timeout_s: float) -> Step:
    """A step that is a Python program, run as root; its arguments are user and group of who logs in."""
    program = shlex.quote(scripts.read(f"steps/{name}.py"))
    script = scripts.as_root(
        f'exec python3 -c {program} "$@"', '"$(id -u)"', '"$(id -g)"', name=f"skyward-{name}"
    )
    return Step(name=name, script=script, input=given, order=order, timeout_s=timeout_s)
