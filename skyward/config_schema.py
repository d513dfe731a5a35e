"""What may stand in the configuration, as types. Imported only when there is something to check."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType

Size = float | str
Count = int | float | str
Names = str | list[str]
Price = Annotated[float, Meta(ge=0)]


def _doc(text: str) -> Meta:
    return Meta(description=text)


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One table of the configuration; every key may be left out."""


class ImageTable(Table):
    python: Annotated[str, _doc("Python version of the environment, `3.12`.")] | UnsetType = UNSET
    pip: Annotated[list[str], _doc("Packages to install.")] | UnsetType = UNSET
    apt: Annotated[list[str], _doc("System packages to install.")] | UnsetType = UNSET
    env: Annotated[dict[str, str], _doc("Environment variables of tasks.")] | UnsetType = UNSET
    indexes: Annotated[list[str], _doc("Package indexes, first one first.")] | UnsetType = UNSET
    requirements: Annotated[str, _doc("A requirements file.")] | UnsetType = UNSET
    project: Annotated[bool, _doc("Whether the project's modules travel along.")] | UnsetType = UNSET
    setup: Annotated[list[str], _doc("Shell commands, run after the packages are installed.")] | UnsetType = (
        UNSET
    )


class PoolTable(Table):
    """Keyword arguments of `ComputePool`, by the same names."""

    provider: Annotated[Names, _doc("Provider, or several to fall back on.")] | UnsetType = UNSET
    selection: (
        Annotated[str, _doc("Strategy that ranks offers: `first`, `cheapest`, `available`.")] | UnsetType
    ) = UNSET
    nodes: Annotated[int, Meta(ge=1, description="Instances to rent.")] | UnsetType = UNSET
    min_nodes: Annotated[int, Meta(ge=1, description="Instances to be content with.")] | UnsetType = UNSET
    accelerator: Annotated[str, _doc("Accelerator per node, `H100:8`.")] | UnsetType = UNSET
    cpu: Annotated[Count, _doc("vCPUs per node, a count or a range.")] | UnsetType = UNSET
    memory: Annotated[Size, _doc("Memory per node, a size or a range.")] | UnsetType = UNSET
    disk: Annotated[Size, _doc("Disk per node, a size or a range.")] | UnsetType = UNSET
    architecture: Annotated[str, _doc("`x86_64` or `arm64`.")] | UnsetType = UNSET
    machine: Annotated[str, _doc("Instance type, by its provider's name.")] | UnsetType = UNSET
    region: Annotated[Names, _doc("Region, or several, as the provider names them.")] | UnsetType = UNSET
    allocation: (
        Annotated[
            float | str, _doc("`spot`, `spot-if-available`, `on-demand`, `cheapest`, or a share of spot.")
        ]
        | UnsetType
    ) = UNSET
    image: ImageTable | UnsetType = UNSET
    pip: Annotated[list[str], _doc("Packages to install.")] | UnsetType = UNSET
    env: Annotated[dict[str, str], _doc("Environment variables of tasks.")] | UnsetType = UNSET
    concurrency: Annotated[int, Meta(ge=1, description="Tasks at once per worker.")] | UnsetType = UNSET
    retries: Annotated[int, Meta(ge=0, description="How often a lost task is run again.")] | UnsetType = UNSET
    timeout: Annotated[Size, _doc("Deadline of the work.")] | UnsetType = UNSET
    max_lifetime: Annotated[Size, _doc("How long a machine may live, whatever happens.")] | UnsetType = UNSET
    lease: Annotated[Size, _doc("How long a machine lives without a word from here.")] | UnsetType = UNSET
    bootstrap_timeout: Annotated[Size, _doc("Deadline of preparing a machine.")] | UnsetType = UNSET
    max_price: Annotated[Price, _doc("USD per hour for one node.")] | UnsetType = UNSET
    max_cost: Annotated[Price, _doc("USD for the whole pool.")] | UnsetType = UNSET
    preemption: Annotated[str, _doc("What follows the loss of a spot machine: `replace`.")] | UnsetType = (
        UNSET
    )
    results: Annotated[Literal["any", "safe"], _doc("Which results may be unpickled.")] | UnsetType = UNSET
    engine: Annotated[str, _doc("Who schedules tasks.")] | UnsetType = UNSET
    display: (
        Annotated[Literal["auto", "rich", "log", "quiet"], _doc("How progress is shown.")] | UnsetType
    ) = UNSET


class RunTable(Table):
    addopts: Annotated[Names, _doc("Options put before those of `skyward run`.")] | UnsetType = UNSET
    keep: (
        Annotated[Size, _doc("How long what is kept of a run stays on disk; `30d` where nothing is said.")]
        | UnsetType
    ) = UNSET


class CatalogTable(Table):
    max_age: Annotated[Size, _doc("Refuse to answer from prices older than this.")] | UnsetType = UNSET


class Document(Table):
    """A whole `skyward.toml`, or `[tool.skyward]`."""

    plugins: Annotated[list[str], _doc("Plugins to load, `no:NAME` to leave one out.")] | UnsetType = UNSET
    defaults: PoolTable | UnsetType = UNSET
    pools: dict[str, PoolTable] | UnsetType = UNSET
    providers: dict[str, dict[str, Any]] | UnsetType = UNSET
    run: RunTable | UnsetType = UNSET
    catalog: CatalogTable | UnsetType = UNSET


class UnknownKey(LookupError):
    """No key of this name: `table` does not have `key`, but has `known`."""

    def __init__(self, table: tuple[str, ...], key: str, known: tuple[str, ...]) -> None:
        super().__init__(key)
        self.table = table
        self.key = key
        self.known = known


class IsTable(LookupError):
    """The path ends at a table, where only keys have values."""


def type_of(path: tuple[str, ...]) -> Any:
    """The type of the value at `path`.

    Raises:
        UnknownKey: there is none.
        IsTable: the path names a table.
    """
    kind: Any = Document
    for depth, key in enumerate(path):
        here = _bare(kind)
        if get_origin(here) is dict:
            kind = get_args(here)[1]
        elif here is Any:
            return Any
        elif _is_table(here):
            fields = {field.name: field.type for field in msgspec.structs.fields(here)}
            if key not in fields:
                raise UnknownKey(path[:depth], key, tuple(fields))
            kind = _without_unset(fields[key])
        else:
            raise UnknownKey(path[:depth], key, ())
    if get_origin(_bare(kind)) is dict or _is_table(kind):
        raise IsTable(path)
    return kind


def converted(value: Any, kind: Any, *, from_text: bool) -> Any:
    """`value` as `kind`; `from_text` reads numbers, booleans and lists ("a,b") out of strings.

    Raises:
        ValueError: it is no such value; says what was expected.
    """
    for candidate in _readings(value, kind) if from_text else [value]:
        try:
            return msgspec.convert(candidate, kind, strict=not from_text)
        except msgspec.ValidationError:
            continue
    raise ValueError(expected(kind))


def _readings(value: Any, kind: Any) -> list[Any]:
    """What a string may mean, likeliest first."""
    parts = _parts(kind)
    readings: list[Any] = []
    if any(get_origin(part) is list for part in parts) and (str not in parts or "," in value):
        readings.append([part.strip() for part in value.split(",") if part.strip()])
    if float in parts and str in parts:
        try:
            readings.append(float(value))
        except ValueError:
            pass
    return [*readings, value]


def expected(kind: Any) -> str:
    """In words, what values of this type look like."""
    low = next((meta.ge for meta in getattr(kind, "__metadata__", ()) if meta.ge is not None), None)
    words = [_WORDS.get(part, "") or ", ".join(map(repr, get_args(part))) for part in _parts(kind)]
    words = list(dict.fromkeys(word for word in words if word))
    return " or ".join(words) + (f", {low} or more" if low is not None else "")


_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of texts",
}


def _parts(kind: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself if it is none."""
    bare = _bare(kind)
    if get_origin(bare) in (Union, UnionType):
        return tuple(inner for part in get_args(bare) for inner in _parts(part))
    return (bare,)


def pool_keys() -> tuple[str, ...]:
    """Keys of `[defaults]`; each may be given bare with `-o` and as `SKYWARD_<KEY>`."""
    return PoolTable.__struct_fields__


def _bare(kind: Any) -> Any:
    """Without annotations, also nested ones."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Table)


def _without_unset(kind: Any) -> Any:
    from functools import reduce
    from operator import or_

    parts = [part for part in get_args(kind) if part is not UnsetType]
    return reduce(or_, parts) if parts else kind
