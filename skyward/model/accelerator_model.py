"""The accelerators that are on sale, and the one normaliser of their names. Imports only `model.sizes`.

Clouds spell one card in a dozen ways and sell different cards under one name. `Registry.resolve` turns what a
cloud says (a name and a memory) into one model; `Registry.group` turns what a user says into the models meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from skyward.model.sizes import Range

if TYPE_CHECKING:
    from skyward.model.accelerator import Accelerator

MEMORY_TOLERANCE: Final = 0.07
"""How far a reported size may be from a marketed one. EC2 reports 22888 MiB for cards of 24 GB (6.9 % less) and
275040 MiB for 288 GB (6.7 %); the nearest different cards of one name, 80 and 94 GB, are 15 % apart.
EC2 DescribeInstanceTypes, 2026-11."""

_VENDOR: Final = re.compile(
    r"^(?:(?:nvidia|amd|aws|amazon|intel|google|habana|instinct|geforce|tesla|radeon)[\s_-]*)+(?=[^\s_-])"
)
_FILLER: Final = re.compile(r"[\s_-]+(?:gpu|graphics|generation)\b")
_LOOKALIKES: Final = str.maketrans("oi", "01")
_NOISE: Final = re.compile(r"[^a-z0-9]+")
_QUALIFIER: Final = re.compile(r"\s*\([^()]*\)")
_COUNT: Final = re.compile(r"\s*([0-9]+)\s*x\s*(?=[a-z])", re.IGNORECASE)
_MEMORY: Final = re.compile(r"(?<![a-z0-9.])([0-9]+(?:\.[0-9]+)?)\s*(?:g|gb|gib)(?![a-z0-9])", re.IGNORECASE)
_FORM: Final = re.compile(r"(?:sxm[0-9]?|pcie|nvl|oam)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class MigProfile:
    """One way to cut a GPU: `1g.10gb` is one compute slice with 10 GB, `fits` of them per GPU."""

    name: str
    compute_slices: int
    memory_gb: float
    fits: int

    @classmethod
    def parse(cls, text: str) -> MigProfile:
        """From "1g.10gb:1:10:7": name, compute slices, GB, how many fit."""
        name, slices, memory, fits = text.split(":")
        return cls(name=name, compute_slices=int(slices), memory_gb=float(memory), fits=int(fits))


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceleratorModel:
    """One accelerator on sale somewhere; `name` is canonical and resolves to itself ("H100-SXM")."""

    name: str
    vendor: str
    """In lower case: "nvidia", "amd", "aws", "google", "intel" or another."""
    kind: str = "gpu"
    """"gpu", "tpu", "neuron" or "hpu"."""
    architecture: str = ""
    compute_capability: str | None = None
    memory_gib: float | None = None
    """Marketed memory of one device."""
    memory_reported_gib: float | None = None
    """What drivers and cloud APIs report for it."""
    memory_type: str = ""
    form_factor: str = ""
    interconnect: str = ""
    interconnect_gbps: float | None = None
    fp16_tflops_dense: float | None = None
    mig: tuple[MigProfile, ...] = ()
    mig_max: int = 0
    """How many partitions one device takes at most; 0 where it cannot be partitioned."""
    aliases: tuple[str, ...] = ()
    """Other spellings that mean this one, any cloud."""
    cloud_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """Provider name -> what that provider calls it. `~` starts a regular expression; a parenthesis at the end
    tells where the name is used and may be left out."""
    family: str = ""
    """What a bare name means ("H100" matches every member of the family)."""
    source: str = ""
    observed_on: str = ""
    confidence: str = "high"
    notes: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> AcceleratorModel:
        """From a table row with these fields as columns, and one `<provider>_names` per cloud; `|` parts lists.

        Raises:
            KeyError, ValueError: a column is missing, or a number is none.
        """
        clouds = {key.removesuffix("_names"): _listed(row[key]) for key in row if key.endswith("_names")}
        return cls(
            name=row["name"],
            vendor=row["vendor"],
            kind=row["kind"],
            architecture=row["architecture"],
            compute_capability=row["compute_capability"] or None,
            memory_gib=_number(row["memory_gib"]),
            memory_reported_gib=_number(row["memory_reported_gib"]),
            memory_type=row["memory_type"],
            form_factor=row["form_factor"],
            interconnect=row["interconnect"],
            interconnect_gbps=_number(row["interconnect_gbps"]),
            fp16_tflops_dense=_number(row["fp16_tflops_dense"]),
            mig=tuple(MigProfile.parse(text) for text in row["mig_profiles"].split(";") if text),
            mig_max=int(row["mig_max"] or 0),
            aliases=_listed(row["aliases"]),
            cloud_names={cloud: names for cloud, names in clouds.items() if names},
            family=row["family"],
            source=row["source"],
            observed_on=row["observed_on"],
            confidence=row["confidence"],
            notes=row["notes"],
        )

    @property
    def form_factors(self) -> tuple[str, ...]:
        """The shapes it is sold in, upper case ("SXM4", "PCIE"); the one in its name, where it has one."""
        sold = tuple(dict.fromkeys(shape.upper() for shape in _FORM.findall(self.form_factor)))
        own = next((shape.upper() for shape in _FORM.findall(self.name)), "")
        return tuple(shape for shape in sold if shape.startswith(own)) or ((own,) if own else ())

    def has_memory(self, memory: float | Range) -> bool:
        """Whether it is sold with, or reports, so many GiB: one size within 7 %, a range to the letter."""
        sizes = [size for size in (self.memory_gib, self.memory_reported_gib) if size]
        if isinstance(memory, Range) and memory.low != memory.high:
            return any(size in memory for size in sizes)
        asked = (memory.low or 0.0) if isinstance(memory, Range) else memory
        return any(abs(asked - size) <= MEMORY_TOLERANCE * size for size in sizes)

    def has_form_factor(self, form_factor: str) -> bool:
        """Whether it is sold in this shape; "SXM" means any SXM."""
        return any(shape.startswith(form_factor.upper()) for shape in self.form_factors)

    def profile(self, name: str) -> MigProfile | None:
        return next((profile for profile in self.mig if profile.name == name), None)

    def satisfies(self, wanted: Constraints) -> bool:
        """Whether it has the memory, the shape and the partition that a request asks for."""
        return (
            (wanted.memory is None or self.has_memory(wanted.memory))
            and (wanted.form_factor is None or self.has_form_factor(wanted.form_factor))
            and (wanted.mig is None or self.profile(wanted.mig) is not None)
        )


class Group(NamedTuple):
    """What a name means: its canonical spelling, and every model it stands for."""

    name: str
    models: tuple[AcceleratorModel, ...]
    is_open: bool = False
    """Whether it is a vendor or a kind, that other models may join."""


class Parts(NamedTuple):
    """A name taken apart: "NVIDIA A100-SXM4-80GB" is "NVIDIA A100", "80" and "SXM4"."""

    stem: str
    memory: str | None = None
    form_factor: str | None = None


class Constraints(Protocol):
    """What a request may ask of a model besides its name."""

    @property
    def memory(self) -> Range | None: ...
    @property
    def form_factor(self) -> str | None: ...
    @property
    def mig(self) -> str | None: ...


class Registry:
    """The accelerators somebody knows, in the order given, found by whatever name.

    Where several models share a name and nothing else decides, the first that lists it is meant.
    """

    def __init__(self, models: Iterable[AcceleratorModel]) -> None:
        self.models: Final = tuple(models)
        self._by_name = {model.name: model for model in self.models}
        self._by_squeezed = {squeeze(model.name): model for model in self.models}
        families = _grouped((model.family, model) for model in self.models if model.family)
        kinds = _grouped((model.kind, model) for model in self.models)
        vendors = _grouped((model.vendor, model) for model in self.models)
        self._families = {squeeze(name): Group(name, models) for name, models in families.items()}
        self._open = {squeeze(name): Group(name, models, True) for name, models in (kinds | vendors).items()}
        self._resolved: dict[tuple[str, float | None, str | None], AcceleratorModel | None] = {}

    def get(self, name: str) -> AcceleratorModel | None:
        """The model of exactly this canonical name."""
        return self._by_name.get(name)

    def resolve(
        self, raw: str, memory_gib: float | None = None, provider: str | None = None
    ) -> AcceleratorModel | None:
        """The model a cloud means by `raw`; None where no name fits, or a name fits and the memory does not.

        `memory_gib` is that of one device as the cloud reports it; it decides between cards of one name.
        """
        asked = (raw, memory_gib, provider)
        if asked not in self._resolved:
            self._resolved[asked] = self._resolve(*asked)
        return self._resolved[asked]

    def group(self, name: str) -> Group | None:
        """What a user means by a bare name: a family ("A100"), a model, a vendor ("nvidia") or a kind ("gpu")."""
        key = squeeze(name)
        found = self._open.get(key) or self._families.get(key)
        model = self._by_name.get(name) or self._by_squeezed.get(key)
        return found or (Group(model.name, (model,)) if model else None)

    def family(self, name: str) -> Group | None:
        """The family a name belongs to: "A100-80GB" and "A100" both give "A100" with all its models."""
        found = self.group(name)
        if found is None or len(found.models) > 1:
            return found
        return self._families.get(squeeze(found.models[0].family), found)

    def select(self, accelerator: Accelerator) -> tuple[AcceleratorModel, ...]:
        """The models that satisfy a request, whatever its count. Empty for a name nobody knows."""
        found = self.group(accelerator.name)
        return () if found is None else tuple(model for model in found.models if model.satisfies(accelerator))

    def matches(
        self, accelerator: Accelerator, offered: str | None, count: float, memory_gib: float | None = None
    ) -> bool:
        """Whether one machine with `count` devices called `offered` satisfies a request.

        A fraction of a device satisfies only who asked for a fraction. A form factor that the offered name
        does not tell gets the benefit of the doubt.
        """
        if offered is None or not accelerator.allows(count):
            return False
        model = self.get(offered) or self.resolve(offered, memory_gib)
        if model is None:
            return squeeze(offered) == squeeze(accelerator.name) and self.group(accelerator.name) is None
        return model in self.select(accelerator)

    def profile(self, accelerator: Accelerator) -> MigProfile | None:
        """The partition a request asks for; None where it asks for none."""
        if accelerator.mig is None:
            return None
        return next((model.profile(accelerator.mig) for model in self.select(accelerator)), None)

    def suggest(self, name: str, limit: int = 3) -> tuple[str, ...]:
        """The canonical names and families nearest to a wrong one, best first."""
        from difflib import get_close_matches

        spelled = {key: models[0].name for (_, key), models in self._by_key.items()}
        groups = (*self._families.values(), *self._open.values())
        spelled |= {squeeze(group.name): group.name for group in groups}
        wanted = squeeze(name).translate(_LOOKALIKES)
        inside = [key for key in spelled if len(wanted) > 2 and wanted in key]
        near = get_close_matches(wanted, spelled, n=3 * limit, cutoff=0.65)
        exact = [key for key in near if key == wanted]
        return tuple(dict.fromkeys(spelled[key] for key in (*exact, *inside, *near)))[:limit]

    # -- inside ------------------------------------------------------------------------------------------------
    # What clouds call things is learnt when a cloud's name is first asked for: what users write seldom needs it.

    @cached_property
    def _by_key(self) -> dict[tuple[str | None, str], list[AcceleratorModel]]:
        found: dict[tuple[str | None, str], list[AcceleratorModel]] = {}
        for model in self.models:
            for cloud, name in _names(model):
                keys = () if _is_pattern(cloud, name) else {squeeze(name), squeeze(_QUALIFIER.sub("", name))}
                for key in keys:
                    for place in {cloud, None}:
                        found.setdefault((place, key), []).append(model)
        return found

    @cached_property
    def _patterns(self) -> list[tuple[str | None, re.Pattern[str], AcceleratorModel]]:
        return [
            (cloud, re.compile(name[1:], re.IGNORECASE), model)
            for model in self.models
            for cloud, name in _names(model)
            if _is_pattern(cloud, name)
        ]

    def _resolve(self, raw: str, memory_gib: float | None, provider: str | None) -> AcceleratorModel | None:
        """By the name as it is, else by its parts."""
        known = self._named(raw, provider)
        if known:
            return next(
                (model for model in known if memory_gib is None or model.has_memory(memory_gib)), None
            )
        parts = take_apart(split_count(_QUALIFIER.sub("", raw))[1])
        sizes = [float(size) for size in (parts.memory, memory_gib) if size is not None]
        return next(
            (
                model
                for model in self._named(parts.stem, provider)
                if all(model.has_memory(size) for size in sizes)
                and (parts.form_factor is None or model.has_form_factor(parts.form_factor))
            ),
            None,
        )

    def _named(self, name: str, provider: str | None) -> list[AcceleratorModel]:
        """The models a name may mean: those its provider calls so, those anybody does, those of its family."""
        key = squeeze(name)
        found = [*self._by_key.get((provider, key), ()), *self._by_key.get((None, key), ())]
        if key in self._families:
            found += self._families[key].models
        return found or [
            model
            for cloud, pattern, model in self._patterns
            if provider in (None, cloud) and pattern.fullmatch(name.strip())
        ]


def _names(model: AcceleratorModel) -> Iterator[tuple[str | None, str]]:
    """Every spelling of a model, with the cloud that uses it, or None for all of them."""
    yield from ((None, name) for name in (model.name, *model.aliases))
    yield from ((cloud, name) for cloud, names in model.cloud_names.items() for name in names)


def _is_pattern(cloud: str | None, name: str) -> bool:
    return cloud is not None and name.startswith("~")


def squeeze(name: str) -> str:
    """What all spellings of a name have in common: no case, no separators, no vendor in front.

    "NVIDIA GeForce RTX 4090", "rtx_4090" and "RTX4090" are all "rtx4090".
    """
    text = _FILLER.sub("", name.lower().strip())
    return _NOISE.sub("", _VENDOR.sub("", text))


def split_count(name: str) -> tuple[str | None, str]:
    """The count in front of a name, and the name: "8x H100" is "8" and "H100"."""
    match = _COUNT.match(name)
    return (match[1], name[match.end() :]) if match else (None, name)


def take_apart(name: str) -> Parts:
    """The stem of a name, and the memory and the form factor written into it."""
    memory = _MEMORY.search(name)
    rest = _without(name, memory)
    shape = _FORM.search(rest)
    return Parts(_without(rest, shape).strip(" _-"), memory and memory[1], shape and shape[0])


def _without(text: str, match: re.Match[str] | None) -> str:
    return text if match is None else f"{text[: match.start()]} {text[match.end() :]}"


def _grouped(pairs: Iterable[tuple[str, AcceleratorModel]]) -> dict[str, tuple[AcceleratorModel, ...]]:
    groups: dict[str, tuple[AcceleratorModel, ...]] = {}
    for name, model in pairs:
        groups[name] = (*groups.get(name, ()), model)
    return groups


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


def _number(text: str) -> float | None:
    return float(text) if text else None
