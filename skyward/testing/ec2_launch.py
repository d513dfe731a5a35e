"""Which machines a launch gets: pure decisions over what is asked for and what is to be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyward.testing.ec2_wire import inside, structures

UNLIMITED = 1 << 30
USER_DATA_LIMIT = 16384
"""Bytes before encoding: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html (2026-11)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing can be had, in the words of the API."""

    code: str
    message: str


_REPLACED_WHOLE = (
    "NetworkInterface",
    "SecurityGroupId",
    "SecurityGroup",
    "BlockDeviceMapping",
    "IamInstanceProfile",
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to fill a fleet: a template with one override."""

    number: int
    template: Mapping[str, str]
    override: Mapping[str, str]
    instance_type: str
    zone: str
    market: str
    subnet: str
    price: float
    free: int
    """How many could be had."""
    refusal: Refusal | None = None
    """Why no more can be had."""

    @property
    def priority(self) -> float:
        return float(self.override.get("Priority", self.number))


def allocate(choices: Sequence[Choice], count: int, options: Mapping[str, str]) -> list[tuple[Choice, int]]:
    """How many of each, as far as there are any. `options` are SpotOptions or OnDemandOptions.

    The five strategies of CreateFleet as their documentation orders them; where EC2 forecasts interruptions, what is
    free stands for them: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-fleet-allocation-strategy.html (2026-11).
    """
    strategy = options.get("AllocationStrategy", "lowest-price")
    single = {
        name for name in ("SingleInstanceType", "SingleAvailabilityZone") if options.get(name) == "true"
    }
    if single:
        choices = _largest(choices, count, single)
    least = int(options.get("MinTargetCapacity", 0))
    order: Callable[[Choice], tuple[Any, ...]] = {
        "lowest-price": lambda each: (each.price, each.number),
        "diversified": lambda each: (each.number,),
        "capacity-optimized": lambda each: (-min(each.free, UNLIMITED), each.number),
        "capacity-optimized-prioritized": lambda each: (each.free < count, each.priority, each.number),
        "price-capacity-optimized": lambda each: (each.free < count, each.price, each.number),
        "prioritized": lambda each: (each.priority, each.number),
    }[strategy]
    ranked = sorted((choice for choice in choices if choice.free > 0), key=order)
    taken = _in_turns(ranked, count) if strategy == "diversified" else _one_after_another(ranked, count)
    return taken if sum(number for _, number in taken) >= least else []


def _largest(choices: Sequence[Choice], count: int, single: set[str]) -> Sequence[Choice]:
    """The choices of the one type or zone of which most can be had; the first where several are as good."""
    groups: dict[tuple[str, str], list[Choice]] = {}
    for choice in choices:
        key = (
            choice.instance_type if "SingleInstanceType" in single else "",
            choice.zone if "SingleAvailabilityZone" in single else "",
        )
        groups.setdefault(key, []).append(choice)
    return max(groups.values(), key=lambda group: min(count, sum(each.free for each in group)), default=[])


def _one_after_another(choices: Sequence[Choice], count: int) -> list[tuple[Choice, int]]:
    taken = []
    for choice in choices:
        if count > 0:
            taken.append((choice, min(choice.free, count)))
            count -= choice.free
    return taken


def _in_turns(choices: Sequence[Choice], count: int) -> list[tuple[Choice, int]]:
    got = dict.fromkeys(range(len(choices)), 0)
    while count > 0:
        open_ones = [index for index, choice in enumerate(choices) if got[index] < choice.free]
        if not open_ones:
            break
        for index in open_ones[:count]:
            got[index] += 1
        count -= min(count, len(open_ones))
    return [(choices[index], number) for index, number in got.items() if number]


def merge_template(template: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """RunInstances parameters of a launch template, as `given` overrules them; tags are joined."""
    heads = {name.partition(".")[0] for name in given}
    kept = {
        name: value
        for name, value in template.items()
        if not name.startswith("TagSpecification.")
        and not (name.partition(".")[0] in _REPLACED_WHOLE and name.partition(".")[0] in heads)
    }
    own = {
        name: value
        for name, value in given.items()
        if not name.startswith(("LaunchTemplate.", "TagSpecification."))
    }
    return {**kept, **own, **tags_as_parameters(tags_of(template, given))}


def tags_of(*sources: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Tags by the resource type they are for; later sources win."""
    found: dict[str, dict[str, str]] = {}
    for source in sources:
        for specification in structures(source, "TagSpecification"):
            tags = {tag.get("Key", ""): tag.get("Value", "") for tag in structures(specification, "Tag")}
            found.setdefault(specification.get("ResourceType", ""), {}).update(tags)
    return found


def tags_as_parameters(tags: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    parameters = {}
    for number, (resource, pairs) in enumerate(tags.items(), 1):
        parameters[f"TagSpecification.{number}.ResourceType"] = resource
        for index, (key, value) in enumerate(pairs.items(), 1):
            parameters[f"TagSpecification.{number}.Tag.{index}.Key"] = key
            parameters[f"TagSpecification.{number}.Tag.{index}.Value"] = value
    return parameters


def fleet_targets(parameters: Mapping[str, str]) -> dict[str, int]:
    """How many on-demand and spot machines a fleet wants."""
    target = inside(parameters, "TargetCapacitySpecification")
    total = int(target.get("TotalTargetCapacity", 0))
    spot = int(target.get("SpotTargetCapacity", 0))
    demand = int(target.get("OnDemandTargetCapacity", 0))
    if target.get("DefaultTargetCapacityType", "on-demand") == "spot":
        spot = max(spot, total - demand)
    else:
        demand = max(demand, total - spot)
    return {"on-demand": demand, "spot": spot}


def fleet_item(choice: Choice, **more: Any) -> dict[str, Any]:
    """What CreateFleet says of one choice, of its success or its failure."""
    template, override = choice.template, choice.override
    names = {
        "instanceType": choice.instance_type,
        "subnetId": choice.subnet,
        "availabilityZone": choice.zone,
        "maxPrice": override.get("MaxPrice"),
        "priority": override.get("Priority"),
    }
    specification = {
        "launchTemplateId": template.get("LaunchTemplateId"),
        "launchTemplateName": template.get("LaunchTemplateName"),
        "version": template.get("Version"),
    }
    return {
        "launchTemplateAndOverrides": {"launchTemplateSpecification": specification, "overrides": names},
        "lifecycle": choice.market,
        **more,
    }
