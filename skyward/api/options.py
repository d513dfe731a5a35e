"""The arguments of a pool, checked all at once. Standard library only; plugins are asked only on the client."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skyward.api.target import Target
from skyward.errors import ConfigError, SizeError, SkywardError
from skyward.model.image import Image
from skyward.model.requirements import Requirements
from skyward.model.sizes import parse_count_range, parse_duration, parse_memory_range
from skyward.model.volume import S3Volume, Volume

Choose = Callable[..., Any]
"""A selection function: `(providers, spec) -> provider`."""

DEFAULTS: Mapping[str, Any] = {
    "provider": None,
    "selection": "first",
    "nodes": 1,
    "accelerator": None,
    "cpu": None,
    "memory": None,
    "disk": None,
    "architecture": None,
    "machine": None,
    "region": None,
    "zone": None,
    "allocation": "spot-if-available",
    "image": None,
    "pip": None,
    "env": None,
    "volumes": (),
    "volume": None,
    "concurrency": 1,
    "retries": 1,
    "timeout": None,
    "max_lifetime": "24h",
    "lease": "15m",
    "bootstrap_timeout": "10m",
    "instance_timeout": None,
    "max_price": None,
    "max_cost": None,
    "min_nodes": None,
    "preemption": "replace",
    "results": None,
    "engine": "ssh",
    "display": "auto",
    "on_event": None,
    "name": None,
}
ALLOCATIONS = ("spot-if-available", "spot", "always-spot", "on-demand", "cheapest")
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "arm64": "arm64", "aarch64": "arm64"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """What a pool was asked to be."""

    providers: tuple[object, ...]
    """Names and config values, in order of preference; empty where nothing was named."""
    selection: object
    """A strategy's name, its class, a strategy, or a function."""
    requirements: Requirements
    """Without the names of providers, which only plugins know."""
    says_nodes: bool
    """Whether the pool said how many machines; if not, machines of the user's own are all meant."""
    image: Image
    volumes: tuple[Volume | S3Volume, ...]
    concurrency: int
    retries: int
    timeout_s: float | None
    lease_s: float | None
    bootstrap_timeout_s: float | None
    """None where the pool does not say: then each provider's own `instance_timeout` counts."""
    preemption: str
    results: str | None
    """None: what the provider's machines are trusted with."""
    engine: object
    """An engine's name or its class."""
    display: str
    on_event: Callable[[Any], object] | None
    name: str | None

    @property
    def wants_hardware(self) -> bool:
        """Whether anything was said about machines; if not, this one will do."""
        wish = self.requirements
        said = (wish.accelerator, wish.cpu, wish.memory_gib, wish.disk_gb, wish.architecture, wish.machine)
        return any(said) or bool(wish.regions or wish.zones or wish.max_price)


def parse_options(given: Mapping[str, Any]) -> PoolOptions:
    """The options of a pool out of its keyword arguments; what is left out has its default.

    Raises:
        ConfigError: arguments that are unknown or contradict each other, or values that cannot be meant. Where
            there are several, all are told at once.
    """
    checks = _Checks()
    for name in given:
        if name not in DEFAULTS:
            checks.problems.append(_unknown(name))
    value = {name: checks.get(name, given.get(name, default), default) for name, default in DEFAULTS.items()}
    if "nodes" not in given:
        value["nodes"] = nodes_meant(value["provider"], value["nodes"])
    checks.also(_contradictions, value)
    checks.end()
    return PoolOptions(
        providers=value["provider"],
        selection=value["selection"],
        requirements=_requirements(value),
        says_nodes="nodes" in given,
        image=_image(value["image"], value["pip"], value["env"]),
        volumes=value["volumes"] + value["volume"],
        concurrency=value["concurrency"],
        retries=value["retries"],
        timeout_s=value["timeout"],
        lease_s=value["lease"],
        bootstrap_timeout_s=value["instance_timeout"]
        or (value["bootstrap_timeout"] if "bootstrap_timeout" in given else None),
        preemption=value["preemption"],
        results=value["results"],
        engine=value["engine"],
        display=value["display"],
        on_event=value["on_event"],
        name=value["name"],
    )


def nodes_meant(configs: Sequence[Any], otherwise: int) -> int:
    """How many machines a pool has that does not say: as many as its only provider lends, where that is known."""
    return int(getattr(configs[0], "default_nodes", otherwise)) if len(configs) == 1 else otherwise


def _requirements(value: Mapping[str, Any]) -> Requirements:
    return Requirements(
        nodes=value["nodes"],
        min_nodes=value["min_nodes"],
        accelerator=value["accelerator"],
        cpu=value["cpu"],
        memory_gib=value["memory"],
        disk_gb=value["disk"],
        architecture=value["architecture"],
        machine=value["machine"],
        regions=value["region"],
        zones=value["zone"],
        allocation=value["allocation"],
        max_price=value["max_price"],
        max_cost=value["max_cost"],
        max_lifetime_s=value["max_lifetime"],
    )


def _image(image: Image | None, pip: Any, env: Any) -> Image:
    """The image with the packages and variables that were given beside it."""
    base = image or Image()
    if pip is None and env is None:
        return base
    return Image(
        python=base.python,
        pip=(*base.pip, *((pip,) if isinstance(pip, str) else pip or ())),
        apt=base.apt,
        env={**base.env, **(env or {})},
        indexes=base.indexes,
        requirements=base.requirements,
        project=base.project,
        setup=base.setup,
    )


class _Checks:
    """Collects what is wrong, so that the user hears of everything in one go."""

    def __init__(self) -> None:
        self.problems: list[SkywardError] = []

    def get(self, name: str, value: Any, default: Any) -> Any:
        """The value in its one form; the default's where it cannot be meant."""
        parse = _PARSERS[name]
        try:
            return parse(name, value)
        except SizeError as problem:
            self.problems.append(SizeError(f"pool: {name}: {problem.message}", **problem.values))
        except SkywardError as problem:
            self.problems.append(problem)
        return parse(name, default)

    def also(
        self, check: Callable[[Mapping[str, Any]], Iterable[SkywardError]], value: Mapping[str, Any]
    ) -> None:
        if not self.problems:
            self.problems += check(value)

    def end(self) -> None:
        if len(self.problems) == 1:
            raise self.problems[0]
        if self.problems:
            raise ConfigError(
                f"{len(self.problems)} arguments of the pool cannot be meant",
                facts=[str(problem) for problem in self.problems],
                hints=[hint for problem in self.problems for hint in problem.hints],
                problems=tuple(self.problems),
            )


def _unknown(name: str) -> ConfigError:
    near = difflib.get_close_matches(name, DEFAULTS, n=1)
    return ConfigError(
        f"pool: unknown argument {name!r}",
        facts=[f"known: {', '.join(DEFAULTS)}"],
        hints=[f"did you mean {near[0]!r}?"] if near else (),
        asked=name,
    )


def _contradictions(value: Mapping[str, Any]) -> Iterable[SkywardError]:
    if value["min_nodes"] is not None and value["min_nodes"] > value["nodes"]:
        yield ConfigError(f"pool: min_nodes={value['min_nodes']} is more than nodes={value['nodes']}")
    paths = [volume.mount_path for volume in value["volumes"] + value["volume"]]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield ConfigError(f"pool: two volumes are mounted at {path!r}")
    if value["lease"] is None and value["max_cost"] is None:
        yield ConfigError(
            "pool: without a lease nothing but max_cost limits what lost machines cost",
            hints=["lease='15m'", "max_cost=20"],
        )


# -- one function for each kind of value -----------------------------------------------------------------------


def _refuse(name: str, value: object, wanted: str, *hints: str) -> ConfigError:
    return ConfigError(f"pool: {name} takes {wanted}, not {value!r}", hints=hints, argument=name, value=value)


def _whole(least: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _refuse(name, value, f"a whole number from {least}")
        return value

    return parse


def _price(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise _refuse(name, value, "US dollars as a number above 0")
    return float(value)


def _duration(name: str, value: Any) -> float:
    seconds = parse_duration(value)
    if seconds <= 0:
        raise _refuse(name, value, "a duration above 0")
    return seconds


def _one_of(*words: str) -> Callable[[str, Any], str]:
    def parse(name: str, value: Any) -> str:
        if value not in words:
            raise _refuse(name, value, f"one of {', '.join(words)}")
        return str(value)

    return parse


def _optional(parse: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else parse(name, value)


def _names(name: str, value: Any) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(one, str) and one.strip() for one in names):
        raise _refuse(name, value, "a name, or a list of names")
    return names


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _refuse(name, value, "a name")
    return value


def _pool_name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise _refuse(name, value, "letters, digits, '.', '_' and '-', at most 63")
    return value


def _architecture(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in ARCHITECTURES:
        raise _refuse(name, value, f"one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[value]


def _accelerator(name: str, value: Any) -> Any:
    if _on_instance():
        return value
    from skyward import Accelerator  # the public one asks plugins for names that are not in the shipped table

    if not isinstance(value, str | Accelerator):
        raise _refuse(
            name, value, "an accelerator", 'accelerator="A100:8"', "accelerator=sky.NVIDIA.A100(count=8)"
        )
    return Accelerator.parse(value)


def _allocation(name: str, value: Any) -> str | float:
    if value == "always-spot":
        return "spot"
    if isinstance(value, str) and value in ALLOCATIONS:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise _refuse(name, value, f"one of {', '.join(ALLOCATIONS)}, or a share of spot from 0 to 1")
    return float(value)


def _image_value(name: str, value: Any) -> Image:
    if not isinstance(value, Image):
        raise _refuse(name, value, "a sky.Image", 'image=sky.Image(pip=["numpy"])')
    return value


def _pip(name: str, value: Any) -> Any:
    return Image(pip=value).pip


def _env(name: str, value: Any) -> Any:
    return Image(env=value).env


def _volumes(name: str, value: Any) -> tuple[Volume | S3Volume, ...]:
    volumes = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(one, Volume | S3Volume) for one in volumes):
        raise _refuse(name, value, "volumes", 'volumes=[sky.Volume(size_gb=500, mount_path="/data")]')
    return volumes


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise _refuse(name, value, "a function of one event")
    return value


def _providers(name: str, value: Any) -> tuple[object, ...]:
    providers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not providers:
        raise _refuse(name, value, "a provider, or a list of them")
    for provider in providers:
        if isinstance(provider, type):
            raise _refuse(name, provider, "a value", f"provider=sky.{provider.__name__}()")
        if isinstance(provider, Target):
            raise ConfigError(
                f"pool: {name}: {provider!r} is a pool, not a provider of machines",
                hints=["pool.submit(f, x) and pool.map(f, xs) run on the machines it has"],
            )
        if not _on_instance():
            from skyward.plugins import get_plugins

            get_plugins().provider(provider)
    return providers


def _selection(name: str, value: Any) -> object:
    if isinstance(value, str) and value != DEFAULTS["selection"] and not _on_instance():
        from skyward.plugins import get_plugins

        get_plugins().strategy(value)
    if not isinstance(value, str) and not callable(value) and not callable(getattr(value, "rank", None)):
        raise _refuse(name, value, "a strategy's name, or a function of providers and requirements")
    return value


def _engine(name: str, value: Any) -> object:
    if isinstance(value, str) and value != DEFAULTS["engine"] and not _on_instance():
        from skyward.plugins import get_plugins

        get_plugins().engine(value)
    if not isinstance(value, str | type):
        raise _refuse(name, value, "an engine's name or its class")
    return value


def _on_instance() -> bool:
    """Whether this process runs tasks: pools are declared there, never entered, and no plugin is installed."""
    return "SKYWARD_INSTANCE_INFO" in os.environ


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "provider": lambda name, value: () if value is None else _providers(name, value),
    "selection": _selection,
    "nodes": _whole(1),
    "accelerator": _optional(_accelerator),
    "cpu": _optional(lambda name, value: parse_count_range(value)),
    "memory": _optional(lambda name, value: parse_memory_range(value)),
    "disk": _optional(lambda name, value: parse_memory_range(value)),
    "architecture": _optional(_architecture),
    "machine": _optional(_text),
    "region": lambda name, value: () if value is None else _names(name, value),
    "zone": lambda name, value: () if value is None else _names(name, value),
    "allocation": _allocation,
    "image": _optional(_image_value),
    "pip": _optional(_pip),
    "env": _optional(_env),
    "volumes": _volumes,
    "volume": lambda name, value: () if value is None else _volumes(name, value),
    "concurrency": _whole(1),
    "retries": _whole(0),
    "timeout": _optional(_duration),
    "max_lifetime": _optional(_duration),
    "lease": _optional(_duration),
    "bootstrap_timeout": _duration,
    "instance_timeout": _optional(_duration),
    "max_price": _optional(_price),
    "max_cost": _optional(_price),
    "min_nodes": _optional(_whole(1)),
    "preemption": _one_of("replace", "shrink", "fail"),
    "results": _optional(_one_of("any", "safe")),
    "engine": _engine,
    "display": _one_of("auto", "rich", "log", "quiet"),
    "on_event": _optional(_callable),
    "name": _optional(_pool_name),
}
