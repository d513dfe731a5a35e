"""What a user asks for when asking for an accelerator: one frozen value, however it is spelled.

    A100   A100:8   A100-80GB   A100:40GB:2   8xA100   H100-SXM   H100:4..8   H100:1g.10gb   L4:0.25
    nvidia   nvidia:24GB..   gpu:2   24GB..80GB

The name comes first, then count, memory, form factor and MIG profile in any order. A bare family name means any
member ("A100" is either memory size), a bare memory means any GPU that has it. A count is a lower bound; a
fraction of a device is only ever given to those who ask for one.

Imports only `errors`, `model.sizes` and `model.accelerator_model`: instances build these values too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Final, overload

from skyward.errors import AcceleratorError
from skyward.model.accelerator_model import AcceleratorModel, Group, Registry, split_count, take_apart
from skyward.model.sizes import (
    Range,
    format_count,
    format_memory,
    parse_count,
    parse_count_range,
    parse_memory,
    parse_memory_range,
)

__all__ = [
    "AMD",
    "AWS",
    "NVIDIA",
    "Accelerator",
    "AcceleratorSpec",
    "Names",
    "Registry",
    "accelerators",
    "default_registry",
    "set_registry",
]

Count = float | str | Range
Memory = float | str | Range

_CALLED_MEMORY: Final = {"A100": 80.0, "H100": 80.0}
"""GiB that `NVIDIA.A100()` means, where the string "A100" means any."""

_SHAPES: Final = {"SXM": "SXM", "PCIE": "PCIe", "NVL": "NVL", "OAM": "OAM"}
_PLURALS: Final = {
    "counts": "counts",
    "memory": "memory sizes",
    "form_factor": "form factors",
    "mig": "MIG profiles",
}
_EXAMPLES: Final = {"name": "A100:8", "form_factor": "SXM", "mig": "1g.10gb"}
_END: Final = r"(?:[0-9]+(?:\.[0-9]+)?\s*(?:[mgt]i?b?)?)?"
_SIZE: Final = re.compile(rf"(?=.*[0-9]\s*[mgt]){_END}\s*(?:\.\.\s*{_END})?", re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9.\s]+")
_SHAPE: Final = re.compile(r"(sxm|pcie|nvl|oam)([0-9]?)", re.IGNORECASE)
_PROFILE: Final = re.compile(r"[0-9]+g\.[0-9]+gb(?:\+[a-z0-9.]+)?", re.IGNORECASE)
_PROFILE_INSIDE: Final = re.compile(rf"(?<![a-z0-9.]){_PROFILE.pattern}(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Accelerator:
    """So many accelerators of one kind, per node.

    Equal meanings are equal values: "A100-80GB", "a100:80GB", `Accelerator("A100", memory=80)` and
    `NVIDIA.A100()`. A constraint that the name already implies is left out of the value.

    Raises:
        AcceleratorError: no accelerator of this name, or none with this memory, form factor or MIG profile.
        SizeError: a count or a memory is not in the grammar of sizes.
    """

    name: str
    """A model ("H100-SXM"), a family ("H100"), a vendor ("nvidia") or a kind ("gpu")."""
    count: float
    """Least number per node; below 1 only where a fraction was asked for."""
    max_count: float | None
    """Greatest number per node; None is no limit."""
    memory: Range | None
    """GiB of one device, where the name does not say it; a range of one size means that size within 7 %."""
    form_factor: str | None
    mig: str | None
    """Profile that every device is partitioned into ("1g.10gb")."""

    def __init__(
        self,
        name: str,
        count: Count | None = None,
        memory: Memory | None = None,
        form_factor: str | None = None,
        mig: str | None = None,
        *,
        max_count: float | None = None,
        registry: Registry | None = None,
    ) -> None:
        given = _Wish(
            name=_string("name", name),
            counts=_counts(count, max_count),
            memory=None if memory is None else _memory(memory),
            form_factor=None if form_factor is None else _shape(form_factor),
            mig=None if mig is None else _string("mig", mig).lower(),
        )
        wish = _meant(_read(given), registry)
        counts = wish.counts or Range(1, None)
        values = (wish.name, _whole(counts.low), _whole(counts.high), wish.memory, wish.form_factor, wish.mig)
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @overload
    @classmethod
    def parse(cls, value: str | Accelerator, registry: Registry | None = None) -> Accelerator: ...
    @overload
    @classmethod
    def parse(cls, value: None, registry: Registry | None = None) -> None: ...
    @classmethod
    def parse(cls, value: str | Accelerator | None, registry: Registry | None = None) -> Accelerator | None:
        """Any spelling as a value; None stays None."""
        if value is None or isinstance(value, Accelerator):
            return value
        return cls(value, registry=registry)

    def __call__(
        self,
        count: Count | None = None,
        memory: Memory | None = None,
        form_factor: str | None = None,
        mig: str | None = None,
    ) -> Accelerator:
        """The same accelerator, asked for more precisely: `NVIDIA.A100(count=8, memory="40GB")`.

        What is given replaces what was. Another memory or form factor means another member of the family.
        """
        counts = self.counts if count is None else count
        shape = form_factor or self.form_factor
        profile = mig or self.mig
        if memory is not None:
            return Accelerator(self.family, counts, memory, shape, profile)
        try:
            return Accelerator(self.name, counts, self.memory, shape, profile)
        except AcceleratorError:
            if form_factor is None:
                raise
            return Accelerator(self.family, counts, None, shape, profile)

    @property
    def counts(self) -> Range:
        return Range(self.count, self.max_count)

    @property
    def family(self) -> str:
        """What the name is one of: "A100" for "A100-80GB"; a name without a family is its own."""
        group = default_registry().family(self.name)
        return self.name if group is None else group.name

    def allows(self, count: float) -> bool:
        """Whether so many devices on one node are enough, and not too many."""
        return count in self.counts

    def __str__(self) -> str:
        """The shortest spelling that means this value."""
        memory = self.memory and self.memory.spelled(format_memory)
        number = None if self.counts == Range(1) else self._number()
        return ":".join(part for part in (self.name, memory, self.form_factor, self.mig, number) if part)

    def _number(self) -> str:
        ends = [self.count] if self.max_count is None else [self.count, self.max_count]
        return "..".join(map(format_count, ends))

    def __repr__(self) -> str:
        return f"Accelerator({str(self)!r})"


# -- where the names come from -----------------------------------------------------------------------------------

_source: Callable[[], Registry] | None = None


def set_registry(source: Callable[[], Registry] | None) -> None:
    """Names are looked up in `source()` from now on; None goes back to the shipped table.

    Asked on every use and never at import, so that building a value loads no plugin before it must.
    """
    global _source
    _source = source


_ask: Callable[[], object] | None = None


def ask_when_unknown(ask: Callable[[], object] | None) -> None:
    """`ask()` is called when the shipped table lacks a name: plugins may know it, and `set_registry` says so."""
    global _ask
    _ask = ask


def default_registry() -> Registry:
    """What `set_registry` says, else the shipped table."""
    return _shipped() if _source is None else _source()


@cache
def _shipped() -> Registry:
    import csv
    import pkgutil

    try:
        table = pkgutil.get_data("skyward", "builtin/accelerators.csv") or b""
    except OSError:
        if _is_instance():
            return Registry(())
        raise
    return Registry(AcceleratorModel.from_row(row) for row in csv.DictReader(table.decode().splitlines()))


def _is_instance() -> bool:
    """Whether this is a task on an instance, where plugins and the accelerators they know are absent."""
    return "SKYWARD_INSTANCE_INFO" in os.environ


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What was said so far; None is unsaid."""

    name: str
    counts: Range | None = None
    memory: Range | None = None
    form_factor: str | None = None
    mig: str | None = None

    def plus(self, field: str, value: object) -> _Wish:
        """With one thing more; saying one thing twice is refused."""
        if getattr(self, field) is not None:
            raise AcceleratorError(f"{self.name!r} has two {_PLURALS[field]}: leave one out", name=self.name)
        return replace(self, **{field: value})  # type: ignore[arg-type]


def _read(given: _Wish) -> _Wish:
    """What a spelling says: the parts between its colons, and a count or a profile written into the name."""
    head, *parts = (part.strip() for part in given.name.split(":"))
    if _SIZE.fullmatch(head):
        head, parts = "gpu", [head, *parts]
    number, head = split_count(head)
    profile = _PROFILE_INSIDE.search(head)
    if profile is not None:
        head = head[: profile.start()] + head[profile.end() :]
    wish = given
    for part in (number, profile and profile[0], *parts):
        if part is not None:
            wish = wish.plus(*_part(part, given.name))
    return replace(wish, name=head.strip(" -_"))


def _part(text: str, whole: str) -> tuple[str, object]:
    """Which field a part between colons fills, and with what."""
    if _PROFILE.fullmatch(text):
        return "mig", text.lower()
    if _SHAPE.fullmatch(text):
        return "form_factor", _shape(text)
    if _COUNT.fullmatch(text):
        return "counts", _counts(text)
    if text[:1].isdigit() or text.startswith("."):
        return "memory", _memory(text)
    raise AcceleratorError(
        f"cannot read {text!r} in accelerator {whole!r}: after the name come a count ('8'), a memory ('80GB'), "
        "a form factor ('SXM') or a MIG profile ('1g.10gb')",
        name=whole,
    )


def _counts(count: Count | None, max_count: float | None = None) -> Range | None:
    """The number per node as a range; what has no lower end starts at one whole device."""
    if count is None and max_count is None:
        return None
    if max_count is not None:
        return Range(1.0 if count is None else parse_count(count), parse_count(max_count))
    counts = parse_count_range(count)
    return Range(counts.low or min(1.0, counts.high or 1.0), counts.high)


def _memory(memory: Memory) -> Range:
    """A bare size is exactly that size here: "A100:40GB" is not the 80 GB card."""
    if isinstance(memory, Range) or (isinstance(memory, str) and ".." in memory):
        return parse_memory_range(memory)
    size = parse_memory(memory)
    return Range(size, size)


def _shape(text: str) -> str:
    match = _SHAPE.fullmatch(_string("form_factor", text).strip())
    if match is None:
        raise AcceleratorError(
            f"unknown form factor {text!r}: one of {', '.join(_SHAPES.values())}", form_factor=text
        )
    return _SHAPES[match[1].upper()] + match[2]


def _string(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise AcceleratorError(
            f"the {field.replace('_', ' ')} of an accelerator is text like {_EXAMPLES[field]!r}, not {value!r}",
            value=value,
        )
    return value


def _whole(number: float | None) -> float | None:
    return int(number) if number is not None and number == int(number) else number


# -- meaning -------------------------------------------------------------------------------------------------------


def _meant(wish: _Wish, registry: Registry | None) -> _Wish:
    """The settled wish. Plugins are loaded only for a name that the shipped table lacks."""
    known = default_registry() if registry is None else registry
    try:
        return _settle(wish, known)
    except AcceleratorError:
        if registry is not None or _source is not None or _ask is None:
            raise
        _ask()
        if default_registry() is known:
            raise
    return _settle(wish, default_registry())


def _settle(wish: _Wish, registry: Registry) -> _Wish:
    """The one value of all spellings that mean the same.

    Raises:
        AcceleratorError: nobody knows the name, or nothing of that name is as wished.
    """
    refused: tuple[Group, _Wish] | None = None
    for group, reading in _readings(wish, registry):
        models = [model for model in group.models if model.satisfies(reading)]
        if models:
            return _canonical(reading, group, models)
        refused = refused or (group, reading)
    if refused is not None:
        raise _unsatisfied(*refused)
    if _is_instance():
        return wish
    raise _unknown(wish.name, registry)


def _readings(wish: _Wish, registry: Registry) -> Iterator[tuple[Group, _Wish]]:
    """What a name may mean, likeliest first: as it is, with memory and form factor taken out of it, and as
    clouds and drivers use it."""
    if group := registry.group(wish.name):
        yield group, wish
    parts = take_apart(wish.name)
    if parts.stem != wish.name and (group := registry.group(parts.stem)):
        reading = wish
        if parts.memory is not None:
            reading = reading.plus("memory", _memory(f"{parts.memory}GB"))
        if parts.form_factor is not None:
            reading = reading.plus("form_factor", _shape(parts.form_factor))
        yield group, reading
    if model := registry.resolve(wish.name, wish.memory.low if wish.memory else None):
        yield Group(model.name, (model,)), wish


def _canonical(wish: _Wish, group: Group, models: list[AcceleratorModel]) -> _Wish:
    """Without what the name implies; one model is called by its own name."""
    if group.is_open:
        return replace(wish, name=group.name)
    name = models[0].name if len(models) == 1 else group.name
    named = models if len(models) == 1 else group.models
    shape = wish.form_factor
    if shape and all(each.startswith(shape.upper()) for model in named for each in model.form_factors):
        shape = None
    return replace(wish, name=name, memory=_needed_memory(wish.memory, named, models), form_factor=shape)


def _needed_memory(
    memory: Range | None, named: Sequence[AcceleratorModel], models: Sequence[AcceleratorModel]
) -> Range | None:
    """None where the name says it; a single size is said as it is marketed."""
    if memory is None or all(model.has_memory(memory) for model in named):
        return None
    sizes = {model.memory_gib for model in models}
    return Range(*sizes, *sizes) if memory.low == memory.high and len(sizes) == 1 else memory


def _unsatisfied(group: Group, wish: _Wish) -> AcceleratorError:
    """Names the first wish that nothing of the group fulfils, and what would."""
    models: Sequence[AcceleratorModel] = group.models
    asked = group.name
    if wish.memory is not None:
        having = [model for model in models if model.has_memory(wish.memory)]
        asked = f"{asked} with {wish.memory.spelled(format_memory)}"
        if not having:
            sizes = sorted({model.memory_gib for model in models if model.memory_gib})
            return _refusal(f"no {asked}", map(format_memory, sizes), wish, group)
        models = having
    if wish.form_factor is not None:
        having = [model for model in models if model.has_form_factor(wish.form_factor)]
        if not having:
            shapes = {_shape(shape) for model in models for shape in model.form_factors}
            return _refusal(f"no {asked} as {wish.form_factor}", sorted(shapes), wish, group)
        models = having
    profiles = dict.fromkeys(profile.name for model in models for profile in model.mig)
    if not profiles:
        reason = (
            "has no known MIG profiles" if any(model.mig_max for model in models) else "cannot be partitioned"
        )
        return AcceleratorError(f"{asked} {reason}: leave out mig={wish.mig!r}", name=group.name)
    return _refusal(f"{asked} has no MIG profile {wish.mig!r}", profiles, wish, group)


def _refusal(message: str, known: Iterable[str], wish: _Wish, group: Group) -> AcceleratorError:
    choices = tuple(known)
    return AcceleratorError(
        f"{message}: known are {', '.join(choices) or 'none'}",
        hints=[f"skyward accelerators {group.name}"],
        name=wish.name,
        choices=choices,
    )


def _unknown(name: str, registry: Registry) -> AcceleratorError:
    near = registry.suggest(name)
    guess = (
        f"did you mean {' or '.join(map(repr, near))}?"
        if near
        else "see `skyward accelerators` for all names"
    )
    message = (
        f"unknown accelerator {name!r}: {guess}"
        if name
        else "an accelerator needs a name, like 'A100' or 'L4:2'"
    )
    return AcceleratorError(message, hints=["skyward accelerators"], name=name, nearest=near)


# -- names as attributes -------------------------------------------------------------------------------------------


class _NoSuchName(AcceleratorError, AttributeError):
    """An attribute that is no accelerator; also an AttributeError, so that `hasattr` answers."""


class Names:
    """Every accelerator as an attribute: `NVIDIA.H100`, `NVIDIA.RTX_4090`, `NVIDIA.A100(memory="40GB")`.

    `NVIDIA.A100` and `NVIDIA.A100()` are one value; a family of which one size is usually meant means that size.
    """

    __slots__ = ("_vendor",)

    def __init__(self, vendor: str = "") -> None:
        self._vendor = vendor

    def __getattr__(self, name: str) -> Accelerator:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            found = Accelerator(name.replace("_", "-"))
        except AcceleratorError as error:
            near = " or ".join(map(repr, error.values.get("nearest", ())))
            raise self._no_such(name, f"did you mean {near}?" if near else "") from None
        vendors = {model.vendor for model in default_registry().select(found)}
        if self._vendor and not vendors <= {self._vendor}:
            raise self._no_such(name, f"{found.name} is of {' and '.join(sorted(vendors))}")
        memory = _CALLED_MEMORY.get(found.name)
        return found if memory is None else Accelerator(found.name, memory=memory)

    def _no_such(self, name: str, reason: str) -> _NoSuchName:
        whose = f" of {self._vendor}" if self._vendor else ""
        message = f"no accelerator{whose} is called {name!r}"
        return _NoSuchName(f"{message}: {reason}" if reason else message, hints=["skyward accelerators"])

    def __dir__(self) -> list[str]:
        models = [model for model in default_registry().models if self._vendor in ("", model.vendor)]
        names = {name for model in models for name in (model.name, model.family) if name}
        return sorted({*super().__dir__(), *(name.replace("-", "_") for name in names)})

    def __repr__(self) -> str:
        return f"<accelerators of {self._vendor or 'every vendor'}>"


class _AMD(Names):
    __slots__ = ()

    def MI(self, model: str | int, count: Count | None = None) -> Accelerator:
        """`AMD.MI("300X")` is the MI300X."""
        return Accelerator(f"MI{model}", count)


class _AWS(Names):
    __slots__ = ()

    def Trainium(self, version: int = 2, count: Count | None = None) -> Accelerator:
        return Accelerator(f"Trainium{version}", count)

    def Inferentia(self, version: int = 2, count: Count | None = None) -> Accelerator:
        return Accelerator(f"Inferentia{version}", count)


NVIDIA: Final = Names("nvidia")
AMD: Final = _AMD("amd")
AWS: Final = _AWS("aws")
accelerators: Final = Names()


class AcceleratorSpec:
    """The vendors: `AcceleratorSpec.NVIDIA.H100(count=8)`."""

    NVIDIA: Final = NVIDIA
    AMD: Final = AMD
    AWS: Final = AWS
    Google: Final = Names("google")
    Intel: Final = Names("intel")
