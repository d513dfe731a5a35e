"""Requirements as options, spelled the same by every command that takes them, and the values they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from skyward.errors import UsageError

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator
    from skyward.model.requirements import Requirements

Command = TypeVar("Command", bound=Callable[..., Any])

_MANY = {"multiple": True}
_OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "provider": (
        ("--provider",),
        {**_MANY, "metavar": "NAME", "help": "Only this provider; may be repeated."},
    ),
    "accelerator": (
        ("--accelerator", "--gpu"),
        {"metavar": "SPEC", "help": "H100, A100:8, A100-80GB, H100:4..8, 24GB.., nvidia."},
    ),
    "total": (
        ("--total",),
        {"metavar": "N", "help": "Accelerators over all nodes together, instead of --nodes."},
    ),
    "nodes": (("--nodes",), {"type": click.IntRange(min=1), "metavar": "N", "help": "How many machines."}),
    "cpu": (("--cpu", "--vcpus"), {"metavar": "RANGE", "help": "vCPUs per node: 8, 4..16."}),
    "memory": (("--memory",), {"metavar": "RANGE", "help": "Memory per node: 32GB, 64GB..256GB."}),
    "disk": (("--disk",), {"metavar": "RANGE", "help": "Disk per node: 200GB."}),
    "architecture": (
        ("--architecture", "--arch"),
        {"metavar": "NAME", "help": "x86_64 or arm64."},
    ),
    "region": (("--region",), {**_MANY, "metavar": "NAME", "help": "Only this region; may be repeated."}),
    "zone": (("--zone",), {**_MANY, "metavar": "NAME", "help": "Only this zone; may be repeated."}),
    "machine": (("--machine",), {"metavar": "TYPE", "help": "An instance type by its provider's own name."}),
    "allocation": (
        ("--allocation",),
        {"metavar": "HOW", "help": "spot, spot-if-available, on-demand, cheapest, or a share of spot (0.5)."},
    ),
    "selection": (
        ("--selection",),
        {"metavar": "NAME", "help": "first, cheapest, available, or a plugin's."},
    ),
    "max_price": (("--max-price",), {"metavar": "USD", "help": "At most so much per hour and node."}),
    "max_cost": (("--max-cost",), {"metavar": "USD", "help": "At most so much for everything."}),
    "max_lifetime": (("--max-lifetime",), {"metavar": "TIME", "help": "No machine lives longer: 4h, 90m."}),
    "timeout": (("--timeout",), {"metavar": "TIME", "help": "Deadline of the work: 2h30m."}),
    "min_reliability": (
        ("--min-reliability",),
        {"metavar": "SHARE", "help": "Of marketplace machines: 0.95."},
    ),
    "min_nodes": (
        ("--min-nodes",),
        {"type": click.IntRange(min=1), "metavar": "N", "help": "Start with so many machines."},
    ),
}

MACHINE = ("provider", "accelerator", "cpu", "memory", "disk", "architecture", "region", "zone", "machine")
"""What a machine is and where it is."""
MONEY = ("allocation", "max_price", "min_reliability")
POOL = ("nodes", "total", "min_nodes", "selection", "max_cost", "max_lifetime", "timeout")
"""What only a pool has."""


def requirement_options(names: Iterable[str]) -> Callable[[Command], Command]:
    """Adds requirement options to a click command, in this order; None is what was not given."""

    def add(command: Command) -> Command:
        for name in reversed(tuple(names)):
            spellings, settings = _OPTIONS[name]
            command = click.option(name, *spellings, **settings)(command)
        return command

    return add


def requirements_of(given: Mapping[str, Any]) -> Requirements:
    """Requirements out of option values (strings as typed, or the values of a configuration file).

    Keys that are not requirements are ignored, and so are empty values.

    Raises:
        UsageError: a value is not in its grammar, or two of them contradict each other.
    """
    from skyward.model.requirements import Requirements

    read = {
        field: reader(given[key], f"--{key.replace('_', '-')}")
        for key, (field, reader) in _READERS.items()
        if given.get(key) not in (None, (), [], "")
    }
    if "allocation" in read:
        from skyward.planner import parse_allocation

        read["allocation"] = parse_allocation(read["allocation"])
    wants = Requirements(**read)
    for problem in _contradictions(wants, given):
        raise UsageError(problem)
    return wants


def parse_accelerator(value: Any) -> Accelerator | None:
    """Any spelling; what the shipped table does not know is asked of the plugins before it is refused.

    Raises:
        AcceleratorError: nobody knows it; names the nearest ones.
    """
    from skyward.errors import AcceleratorError
    from skyward.model.accelerator import Accelerator

    found: Accelerator | None
    try:
        found = Accelerator.parse(value)
    except AcceleratorError:
        from skyward.plugins import get_plugins

        get_plugins()  # from now on plugins name accelerators, too
        found = Accelerator.parse(value)
    return found


def _contradictions(wants: Requirements, given: Mapping[str, Any]) -> Iterable[str]:
    if wants.min_nodes is not None and wants.min_nodes > wants.nodes:
        yield f"--min-nodes {wants.min_nodes} is more than --nodes {wants.nodes}"
    if wants.total_accelerators is not None and given.get("nodes"):
        yield "--total and --nodes contradict each other: --total says how many nodes it takes; leave one out"


def _text(value: Any, _option: str) -> str:
    return str(value).strip()


def _names(value: Any, _option: str) -> tuple[str, ...]:
    """Repeated, or parted by commas."""
    values = [value] if isinstance(value, str) else value
    parts = (part.strip() for item in values for part in str(item).split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


def _whole(value: Any, _option: str) -> int:
    return int(value)


def _amount(value: Any, option: str) -> float:
    """US dollars; a leading $ is fine."""
    import math

    try:
        number = float(str(value).strip().removeprefix("$"))
    except ValueError:
        number = math.nan
    if not (number > 0 and math.isfinite(number)):
        raise UsageError(f"{option} {value!r} is not an amount of US dollars above 0: write it like 2.50")
    return number


def _share(value: Any, option: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= 1:
        raise UsageError(f"{option} {value!r} is not a share from 0 to 1: write it like 0.95")
    return number


def sized(parser: str) -> Callable[[Any, str], Any]:
    """Reads with one of the functions of `model.sizes`; its error says which option it is about."""

    def read(value: Any, option: str) -> Any:
        from skyward.errors import SizeError
        from skyward.model import sizes

        try:
            return getattr(sizes, parser)(value)
        except SizeError as error:
            raise SizeError(f"{option} {error.message}", **error.values) from None

    return read


_ARCHITECTURES = {"amd64": "x86_64", "x64": "x86_64", "aarch64": "arm64"}


def _architecture(value: Any, option: str) -> str:
    name = str(value).strip().lower().replace("-", "_")
    name = _ARCHITECTURES.get(name, name)
    if name not in ("x86_64", "arm64"):
        raise UsageError(f"unknown architecture {value!r}: {option} is x86_64 or arm64")
    return name


_READERS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "provider": ("providers", _names),
    "accelerator": ("accelerator", lambda value, _option: parse_accelerator(value)),
    "total": ("total_accelerators", sized("parse_count")),
    "nodes": ("nodes", _whole),
    "min_nodes": ("min_nodes", _whole),
    "cpu": ("cpu", sized("parse_count_range")),
    "memory": ("memory_gib", sized("parse_memory_range")),
    "disk": ("disk_gb", sized("parse_memory_range")),
    "architecture": ("architecture", _architecture),
    "machine": ("machine", _text),
    "region": ("regions", _names),
    "zone": ("zones", _names),
    "allocation": ("allocation", lambda value, _option: value),
    "max_price": ("max_price", _amount),
    "max_cost": ("max_cost", _amount),
    "max_lifetime": ("max_lifetime_s", sized("parse_duration")),
    "min_reliability": ("min_reliability", _share),
}
"""Option -> the field of Requirements it fills, and how it is read."""
