"""The generated halves of the reference pages, as Markdown made of the code: signatures, docstrings, tables.

Everything is read from the objects themselves and from the source beside them; nothing is said here that the code
does not say, but for the meanings of catalog columns and the order of things.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec

import skyward
from skyward import config_schema, errors, explanations
from skyward.catalog import schema
from skyward.cli import COMMANDS
from skyward.contracts import hookspecs
from skyward.model import event
from skyward.plugins import get_plugins

# -- the Python API ------------------------------------------------------------------------------------------------

SECTIONS = (
    ("Tasks", ("skyward.api.compute",)),
    ("Pools", ("skyward.api.pool", "skyward.api.multipool", "skyward.api.executor")),
    (
        "Inside a task",
        ("skyward.api.instance", "skyward.api.shards", "skyward.api.output", "skyward.api.devices"),
    ),
    ("Environment and storage", ("skyward.model.image", "skyward.model.volume")),
    ("Accelerators and sizes", ("skyward.model.accelerator", "skyward.model.sizes")),
    ("Prices and plans", ("skyward.api.prices", "skyward.model.plan")),
    ("What comes back", ("skyward.model.report", "skyward.model.outcome", "skyward.remote.codec")),
    (
        "For plugins",
        (
            "skyward.contracts.hookspecs",
            "skyward.contracts.provider",
            "skyward.contracts.strategy",
            "skyward.contracts.engine",
            "skyward.contracts.step",
            "skyward.contracts.accelerator",
            "skyward.model.instance",
            "skyward.model.offer",
            "skyward.model.requirements",
            "skyward.model.task",
        ),
    ),
)
"""Heading, and the modules whose public names stand below it. A module that is in none is an error."""

WORDS = {
    "AMD": 'AMD\'s accelerators: `AMD.MI("300X")`.',
    "accelerators": "Every accelerator of every vendor as an attribute: `accelerators.H100()`.",
    "hookimpl": "Marks a function of a plugin as one of the [hooks](hooks.md): `@sky.hookimpl`.",
}
"""What values are whose class says nothing of them."""
NOT_MADE_BY_USERS = frozenset({"AcceleratorSpec", "Compute", "PendingCompute", "PendingGroup"})
"""Classes whose constructor is nobody's business."""


def api() -> str:
    """Every public name: sections in the order of `SECTIONS`, then providers, events and errors."""
    homes: dict[str, str] = vars(skyward)["_MODULES"]
    known = {module for _, modules in SECTIONS for module in modules} | {"skyward.errors"}
    if unknown := set(homes) - known:
        raise SystemExit(f"docs/pages.py: no section for {', '.join(sorted(unknown))}")
    parts = []
    for title, modules in SECTIONS:
        parts.append(f"## {title}")
        names = [name for module in modules for name in homes[module].split()]
        parts += [_name(name, getattr(skyward, name)) for name in names]
        if title == "Pools":
            parts.append(_module("conc", skyward.conc))
    parts += ["## Providers", *map(_provider, get_plugins().providers().values())]
    parts += [_events(), _error_names()]
    return "\n\n".join(parts)


def _provider(kind: Any) -> str:
    text = _name(kind.Config.__name__, kind.Config)
    return f'{text}\n\nThe provider is called `"{kind.name}"`.'


def _module(name: str, module: ModuleType) -> str:
    own = [
        (key, value)
        for key, value in vars(module).items()
        if getattr(value, "__module__", "") == module.__name__
    ]
    functions = [
        _callable(f"{name}.{key}", value, 4)
        for key, value in own
        if inspect.isfunction(value) and key[0] != "_"
    ]
    return "\n\n".join([f"### `sky.{name}`", _line(module.__doc__), *functions])


def _name(name: str, value: Any) -> str:
    if inspect.isclass(value):
        return _class(name, value)
    if inspect.isfunction(value):
        return _callable(name, value, 3)
    return f"### `{name}`\n\n{WORDS.get(name) or _doc_beside(name) or _prose(type(value).__doc__)}"


def _callable(name: str, value: Any, level: int, signature: str = "") -> str:
    shown = signature or f"{name}{_signature(value)}"
    return f"{'#' * level} `{name}`\n\n```python\n{_folded(shown)}\n```\n\n{_prose(inspect.getdoc(value))}".rstrip()


def _folded(call: str) -> str:
    """A call on one line, or one argument to a line where it is long."""
    if len(call) <= 100:
        return call
    name, _, rest = call.partition("(")
    depth, parts, result = 0, [""], ""
    for index, letter in enumerate(rest):
        depth += (letter in "([{") - (letter in ")]}")
        if depth < 0:
            result = rest[index:]
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return "\n".join([f"{name}(", *(f"    {part.strip()}," for part in parts), result])


def _class(name: str, kind: Any) -> str:
    own = kind.__doc__ if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(") else ""
    parts = [f"### `{name}`"]
    if not (
        _is_abstract(kind)
        or dataclasses.is_dataclass(kind)
        or issubclass(kind, Enum)
        or name in NOT_MADE_BY_USERS
    ):
        parts.append(
            f"```python\n{_folded(name + _signature(kind, bound=True).removesuffix(' -> None'))}\n```"
        )
    parts.append(_prose(own))
    if issubclass(kind, Enum):
        parts.append(", ".join(f"`{one.name}`" for one in kind))
    if fields := _fields(kind):
        parts.append(_table(("field", "type", "default", "meaning"), fields))
    parts += _members(name, kind)
    return "\n\n".join(part for part in parts if part)


def _is_abstract(kind: Any) -> bool:
    return inspect.isabstract(kind) or getattr(kind, "_is_protocol", False)


def _fields(kind: Any) -> list[tuple[str, ...]]:
    if not dataclasses.is_dataclass(kind):
        return []
    notes = _notes(kind)
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)
    return [
        (f"`{field.name}`", _code(field.type), _default(field), notes.get(field.name, ""))
        for field in fields
        if not field.name.startswith("_")
    ]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return _code(repr(field.default))
    if field.default_factory is not dataclasses.MISSING:
        made = getattr(field.default_factory, "__name__", "")
        return {"dict": "`{}`", "tuple": "`()`", "list": "`[]`"}.get(made, "")
    return "required"


_OPERATORS = {"__rshift__": ">>", "__matmul__": "@", "__and__": "&"}


def _members(name: str, kind: Any) -> Iterator[str]:
    """Operators, then public properties and methods of a class."""
    for key, value in _own(kind).items():
        target = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if key in _OPERATORS and inspect.isfunction(target) and target.__doc__:
            yield f"#### `{name} {_OPERATORS[key]} ...`\n\n{_prose(target.__doc__)}"
        elif key == "__call__" and target.__doc__ and not _is_abstract(kind):
            yield f"#### calling it\n\n{_prose(target.__doc__)}"
        elif key.startswith("_"):
            continue
        elif isinstance(value, property):
            yield f"#### `{name}.{key}`\n\n{_prose(inspect.getdoc(value.fget))}".rstrip()
        elif (
            inspect.isfunction(target) and target.__doc__ and "NoReturn" not in str(inspect.signature(target))
        ):
            is_bound = not isinstance(value, staticmethod)
            yield _callable(f"{name}.{key}", target, 4, f"{name}.{key}{_signature(target, bound=is_bound)}")


def _own(kind: Any) -> dict[str, Any]:
    public = {id(getattr(skyward, name, None)) for name in skyward.__all__}
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        is_ours = base.__module__.startswith("skyward") and (base is kind or id(base) not in public)
        if is_ours and not issubclass(base, BaseException):
            found.update(vars(base))
    return found


def _signature(value: Any, *, bound: bool = False) -> str:
    """Arguments and what comes back, with annotations as the source spells them."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        one.replace(annotation=_Spelled.of(one.annotation))
        for one in signature.parameters.values()
        if one.name != "self"
    ]
    if bound and parameters and parameters[0].name == "cls":
        del parameters[0]
    returned = _Spelled.of(signature.return_annotation)
    return str(signature.replace(parameters=parameters, return_annotation=returned))


class _Spelled:
    """An annotation that shows as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    @classmethod
    def of(cls, annotation: Any) -> Any:
        return cls(annotation) if isinstance(annotation, str) else annotation


def _events() -> str:
    kinds: list[Any] = [
        kind for kind in vars(event).values() if inspect.isclass(kind) and kind.__module__ == event.__name__
    ]
    rows = []
    for kind in kinds:
        own = [field.name for field in dataclasses.fields(kind) if field.name != "at"]
        about = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else _line(kind.__doc__)
        rows.append((f"`{kind.__name__}`", " ".join(f"`{name}`" for name in own), about))
    return f"## `sky.events`\n\n{_prose(event.__doc__)}\n\n{_table(('event', 'fields', 'meaning'), rows)}"


def _error_names() -> str:
    names = [f"`{name}`" for name in sorted(vars(skyward)["_MODULES"]["skyward.errors"].split())]
    return f"## Errors and warnings\n\n{', '.join(names)}: see [errors](errors.md) and [exit codes](exit-codes.md)."


# -- hooks ---------------------------------------------------------------------------------------------------------


def hooks() -> str:
    """Every hook below the heading of its phase, as the source orders them."""
    source = Path(str(hookspecs.__file__)).read_text(encoding="utf-8")
    parts = []
    for line in source.splitlines():
        if found := re.match(r"# -- (.+?) -+$", line):
            title, _, when = found[1].partition(": ")
            parts.append(f"## {title.capitalize()}" + (f"\n\n{when[:1].upper()}{when[1:]}." if when else ""))
        elif found := re.match(r"def (skyward_\w+)", line):
            parts.append(_hook(found[1]))
    return "\n\n".join(parts)


def _hook(name: str) -> str:
    function = getattr(hookspecs, name)
    text = _prose(inspect.getdoc(function))
    return f"### `{name}`\n\n```python\n{_folded(name + _signature(function))}\n```\n\n{text}"


# -- errors and exit codes -------------------------------------------------------------------------------------------


def errors_of() -> dict[str, type[errors.SkywardError]]:
    """Every error class by its code."""
    found: dict[str, type[errors.SkywardError]] = {}
    todo: list[type[errors.SkywardError]] = [errors.SkywardError]
    while todo:
        kind = todo.pop()
        if kind.__module__ == errors.__name__:
            found[kind.code] = kind
        todo += kind.__subclasses__()
    return dict(sorted(found.items()))


def errors_page() -> str:
    """The tree, then one section per code."""
    doc = inspect.cleandoc(errors.__doc__ or "")
    tree = textwrap.dedent("\n".join(line for line in doc.splitlines() if line.startswith("    ")))
    parts = ["## The tree", f"```text\n{tree}\n```"]
    for code, kind in errors_of().items():
        page = explanations.PAGES[code]
        own = "" if kind is errors.SkywardError else _line(kind.__doc__) if "__doc__" in vars(kind) else ""
        parts.append(
            f"## {code}: {page.title}\n\n`{kind.__name__}`, exit {kind.exit_code.value}. {own}".rstrip()
            + f"\n\n{page.meaning}\n\n**What to do.** {page.remedy}"
        )
    return "\n\n".join(parts)


def exit_codes() -> str:
    rows = []
    for code, page in explanations.PAGES.items():
        if code.isdigit():
            names = [f"`{one.name}`" for one in errors.ExitCode if one.value == int(code)]
            rows.append(
                (code, " ".join(names), page.title, page.meaning, page.remedy.removeprefix("Nothing. "))
            )
    return _table(("exit", "`sky.ExitCode`", "says", "meaning", "what to do"), rows)


# -- the command line ------------------------------------------------------------------------------------------------


def cli() -> str:
    """Every command with its options; those all commands share come first."""
    from skyward.cli import cli as root

    with click.Context(root, info_name="skyward") as ctx:
        shared = _options(root, ctx)
        parts = ["## Options of every command", _table(("option", "meaning"), shared)]
        for name, entry in COMMANDS.items():
            parts += _command(entry.load(), name, ctx)
    return "\n\n".join(parts)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    with click.Context(command, info_name=name, parent=parent, max_content_width=100) as ctx:
        words = f"skyward {ctx.command_path.removeprefix('skyward ')}"
        pieces = [piece for piece in command.collect_usage_pieces(ctx) if piece]
        yield f"## `{words}`"
        yield f"```text\n{words} {' '.join(pieces)}\n```"
        yield inspect.cleandoc(command.help or "")
        if rows := _options(command, ctx):
            yield _table(("option", "meaning"), rows)
        if command.epilog:
            yield command.epilog
        if isinstance(command, click.Group):
            for key in command.list_commands(ctx):
                inner = command.get_command(ctx, key)
                assert inner is not None
                yield from _command(inner, key, ctx)


def _options(command: click.Command, ctx: click.Context) -> list[tuple[str, ...]]:
    records = [
        option.get_help_record(ctx)
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]
    return [(_code(spelled), about) for spelled, about in filter(None, records)]


# -- configuration ---------------------------------------------------------------------------------------------------

TABLES = (
    ("[defaults]", "PoolTable", "Keyword arguments of every pool."),
    (
        "[pools.NAME]",
        "PoolTable",
        "The same keys, for `skyward run --pool NAME`; they win over `[defaults]`.",
    ),
    (
        "[defaults.image]",
        "ImageTable",
        "Keyword arguments of `sky.Image`; `[pools.NAME.image]` takes the same.",
    ),
    ("[run]", "RunTable", ""),
    ("[catalog]", "CatalogTable", ""),
)


def config() -> str:
    """One table per table of the configuration file."""
    parts = [
        "## Top level",
        "`plugins`: " + _key_rows(config_schema.Document)[0][2],
        "`[providers.NAME]`: keyword arguments of the provider's config class, such as "
        "`region` of `sky.AWS`; see [the API](api.md#providers).",
    ]
    seen: set[str] = set()
    for title, name, about in TABLES:
        parts.append(f"## `{title}`" + (f"\n\n{about}" if about else ""))
        if name not in seen:
            parts.append(_table(("key", "type", "meaning"), _key_rows(getattr(config_schema, name))))
        seen.add(name)
    return "\n\n".join(parts)


def _key_rows(table: type[msgspec.Struct]) -> list[tuple[str, ...]]:
    schemas = msgspec.json.schema(table)
    own = schemas["$defs"][table.__name__]["properties"]
    return [
        (f"`{name}`", _json_type(value), value.get("description", "See below."))
        for name, value in own.items()
    ]


def _json_type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        return "table"
    if "anyOf" in value:
        return " or ".join(_json_type(one) for one in value["anyOf"])
    if "enum" in value:
        return " or ".join(f'`"{one}"`' for one in value["enum"])
    kind = str(value.get("type", "anything"))
    return {"array": "list", "object": "table"}.get(kind, kind)


# -- the catalog -----------------------------------------------------------------------------------------------------

MEANINGS = {
    "provider": "Name of the provider, as `--provider` takes it.",
    "region": "As the provider names it; `worldwide` where a marketplace does not say.",
    "zone": "The one zone a price is of, or null.",
    "instance_type": "The machine, by its provider's own name.",
    "pricing": "`on-demand`, `spot` (the provider sets the price), `interruptible` (we bid), `capacity-block`.",
    "usd_per_hour": "One whole machine, before tax, storage and traffic. Null is unknown; never 0.",
    "usd_per_gpu_hour": "The same divided by `accelerator_count`.",
    "price_floor": "What a bid must at least be, or null.",
    "vcpus": "Hardware threads.",
    "memory_gib": "Memory: of the machine in `offers`, of one device in `accelerators`, GiB.",
    "disk_gb": "Disk that is part of the price, GB; null where it is sized on request.",
    "architecture": "`x86_64` or `arm64` of a machine; the generation (`Hopper`) of an accelerator.",
    "accelerator": "Canonical name (`H100-SXM`), or null for a CPU machine.",
    "accelerator_count": "Devices per machine; fractions exist (0.125 of an L4).",
    "accelerator_memory_gib": "Memory of one device, GiB.",
    "interconnect": "How devices of one machine are joined.",
    "availability": "`available`, `listed`, `none`, `unknown`, when it was seen.",
    "reliability": "Share of time a marketplace host was up; null where nobody measures it.",
    "observed_at": "When the price was seen, UTC.",
    "source": "Who said so.",
    "quality": "`exact`, `estimated`, or `indicative`: shown, never chosen.",
    "accelerator_raw": "What the provider called it, before it was normalised.",
    "zones": "Zones of the region that have it.",
    "details": "A small JSON object of the provider's own.",
    "change": "`new`, `price`, `availability` or `gone`.",
    "alias_of": "The machine that is meant, where people use a name the provider does not know.",
    "accelerator_memory_raw_gib": "What the provider's API reports for it.",
    "local_disk_gb": "Disks inside the machine, GB.",
    "network": "Network speed in the provider's words.",
    "efa_interfaces": "Elastic fabric adapters.",
    "bare_metal": "Whether there is no hypervisor.",
    "markets": "Ways it is sold.",
    "note": "Where a table that is often copied disagrees with the provider's API.",
    "name": "Canonical name.",
    "family": "What matches every member: `H100`.",
    "vendor": "In lower case.",
    "kind": "`gpu`, `tpu`, `neuron` or `hpu`.",
    "compute_capability": "CUDA's, or null.",
    "memory_reported_gib": "What drivers and APIs report for it.",
    "memory_type": "`HBM3`, `GDDR6`.",
    "form_factor": "`SXM5`, `PCIe`.",
    "interconnect_gbps": "Of one device, GB/s.",
    "fp16_tflops_dense": "Without sparsity.",
    "mig_profiles": "How it can be partitioned: name, compute slices, GB, how many fit.",
    "aliases": "Other spellings.",
    "usd_low": "An hour of one device that costs less is not believed.",
    "usd_high": "Nor one that costs more.",
    "confidence": "How sure the table is of the row.",
    "notes": "What to know about it.",
    "file": "The reviewable table the rows were compiled from.",
    "sha256": "Its digest.",
    "oldest": "Oldest observation among the rows.",
    "newest": "Newest observation.",
    "rows": "How many rows.",
    "priced": "How many of them have a price.",
    "schema_version": "Version of this page.",
}
"""What the columns of the catalog mean; one word means one thing in every table."""


def catalog_schema() -> str:
    """Every compiled table with its columns."""
    tables = {**schema.TABLES, "history": (*schema.OFFERS, ("change", "VARCHAR"))}
    parts = []
    for name, columns in tables.items():
        about = _doc_beside(name.upper(), Path(str(schema.__file__)))
        if name == "history":
            shown = [(column, kind) for column, kind in columns if column == "change"]
            about = f"{about} Its other columns are those of `offers`."
        else:
            shown = list(columns)
        rows = [(f"`{column}`", f"`{kind}`", MEANINGS[column]) for column, kind in shown]
        parts += [f"## `{name}`", about, _table(("column", "type", "meaning"), rows)]
    order = ", ".join(f"`{name}`" for name in schema.OFFER_ORDER)
    parts.append(f"`offers` is sorted by {order}. The schema is version {schema.SCHEMA_VERSION}.")
    return "\n\n".join(parts)


def accelerators() -> str:
    """Every accelerator that can be asked for, by family."""
    rows = []
    for model in sorted(
        get_plugins().accelerators().models, key=lambda one: (one.vendor, one.family, one.name)
    ):
        memory = f"{model.memory_gib:g}" if model.memory_gib else "-"
        mig = ", ".join(f"{one.name} x{one.fits}" for one in model.mig)
        also = ", ".join(model.aliases)
        rows.append(
            (f"`{model.name}`", model.family, model.vendor, memory, model.form_factor or "-", also, mig)
        )
    return _table(("name", "family", "vendor", "GB", "form", "also", "MIG profiles"), rows)


# -- Markdown --------------------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line in which a bar is no border; inside code too, as the tables of GitHub want it."""
    return " ".join(text.split()).replace("|", "\\|")


def _code(text: object) -> str:
    words = " ".join(str(text).split())
    return f"`{words}`" if words else ""


def _line(doc: str | None) -> str:
    return " ".join(inspect.cleandoc(doc or "").partition("\n\n")[0].split())


_ARGS = re.compile(r"^(Args|Raises):$")


def _prose(doc: str | None) -> str:
    """A docstring as Markdown: `Args:` and `Raises:` become lists, indented code becomes a block."""
    lines = inspect.cleandoc(doc or "").splitlines()
    parts: list[str] = []
    index = 0
    while index < len(lines):
        if found := _ARGS.match(lines[index]):
            body, index = _indented(lines, index + 1)
            title = {"Args": "Arguments", "Raises": "Raises"}[found[1]]
            parts.append(f"\n{title}:\n\n" + "\n".join(f"- {one}" for one in _items(body)))
        elif lines[index].startswith("    "):
            body, index = _indented(lines, index)
            parts.append("```text\n" + "\n".join(body).rstrip() + "\n```\n")
        else:
            parts.append(lines[index])
            index += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).strip()


def _indented(lines: list[str], index: int) -> tuple[list[str], int]:
    body = []
    while index < len(lines) and (not lines[index].strip() or lines[index].startswith("    ")):
        body.append(lines[index][4:])
        index += 1
    return body, index


def _items(body: list[str]) -> Iterator[str]:
    """`name, other: text` entries, continued on deeper lines."""
    items: list[str] = []
    for line in filter(str.strip, body):
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    for item in items:
        names, colon, text = item.partition(": ")
        marked = ", ".join(f"`{name.strip()}`" for name in names.split(","))
        yield f"{marked}: {text}" if colon else item


# -- the source beside an object --------------------------------------------------------------------------------------


def _notes(kind: Any) -> dict[str, str]:
    """The strings below the fields of a class, over its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("skyward"):
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
            body = tree.body[0]
            assert isinstance(body, ast.ClassDef)
            found.update(_strings_below(body.body))
    return found


def _doc_beside(name: str, path: Path | None = None) -> str:
    """The string below a constant in its module."""
    if path is None:
        module = import_module(vars(skyward)["_HOMES"][name])
        path = Path(str(module.__file__))
    return _module_strings(path).get(name, "")


@cache
def _module_strings(path: Path) -> dict[str, str]:
    return _strings_below(ast.parse(path.read_text(encoding="utf-8")).body)


def _strings_below(body: list[ast.stmt]) -> dict[str, str]:
    found = {}
    for above, below in pairwise(body):
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            targets = (
                above.targets
                if isinstance(above, ast.Assign)
                else [above.target]
                if isinstance(above, ast.AnnAssign)
                else []
            )
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found.update({name: " ".join(str(below.value.value).split()) for name in names})
    return found
