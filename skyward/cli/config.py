"""`skyward config`: the effective settings and where each was said, the places of files, and a check of it all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from inspect import Parameter, signature
from typing import Any

import click

from skyward.cli.console import make_table, short_path, show_table, write, write_json
from skyward.cli.shell import Shell, pass_shell
from skyward.config import Config, KeyPath, Setting, is_secret, join_key, unknown_option
from skyward.errors import ConfigError

BUILT_IN = "built-in"


@click.group(name="config")
def config() -> None:
    """Show, find and check the configuration."""


@config.command()
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def show(shell: Shell, origin: bool, as_json: bool) -> None:
    """Show the effective settings, as TOML. Secrets are masked."""
    settings = effective(shell.config)
    if as_json:
        items = [
            {"key": join_key(key), "value": setting.value, "origin": setting.origin}
            for key, setting in settings.items()
        ]
        write_json("skyward.config/1", files=[str(path) for path in shell.config.files], items=items)
    else:
        write("".join(f"{line}\n" for line in _toml(settings, origin)))


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def path(shell: Shell, as_json: bool) -> None:
    """Show which files are read and where Skyward keeps things."""
    settings = shell.config
    user = settings.places.config / "config.toml"
    files = dict.fromkeys([*settings.files, user])
    directories = ((name, getattr(settings.places, name)) for name in ("config", "cache", "data", "state"))
    rows = [*(("file", file) for file in files), *directories]
    if as_json:
        items = [{"what": what, "path": str(where), "exists": where.exists()} for what, where in rows]
        write_json("skyward.config-path/1", items=items)
        return
    table = make_table("what", "where", "")
    for what, where in rows:
        table.add_row(what, str(where), "" if where.exists() else "(not there)")
    show_table(table)


@config.command()
@pass_shell
def validate(shell: Shell) -> None:
    """Check every file, and that plugins, providers and pools mean something."""
    settings = shell.config
    plugins = shell.plugins(strict=True)
    for name in settings.table("providers"):
        _check_arguments(settings, name, plugins.provider(name).Config)
    for name in settings.table("pools"):
        _check_pool(settings, settings.pool(name))
    _check_pool(settings, settings.defaults)
    read = ", ".join(str(file) for file in settings.files) or "no file"
    shell.say(f"ok: {read}")


@config.command()
def schema() -> None:
    """Print the JSON Schema of skyward.toml, for editors."""
    import msgspec

    from skyward.config_schema import Document

    document = msgspec.json.schema(Document)
    write(
        json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **document}, indent=2) + "\n"
    )


def effective(settings: Config) -> dict[KeyPath, Setting]:
    """Everything that is set and every built-in default, by key; secrets are masked."""
    import skyward as sky

    parameters = signature(sky.ComputePool).parameters
    built_in: dict[KeyPath, Setting] = {
        ("defaults", name): Setting(_plain(parameter.default), BUILT_IN)
        for name, parameter in parameters.items()
        if parameter.default not in (Parameter.empty, None, ())
    }
    everything = {**built_in, **settings.settings}
    return {key: _masked(key, everything[key]) for key in sorted(everything)}


def _masked(key: KeyPath, setting: Setting) -> Setting:
    return Setting("***", setting.origin) if is_secret(key) else setting


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, list)) else str(value)


def _toml(settings: Mapping[KeyPath, Setting], with_origin: bool) -> Iterator[str]:
    """Top-level keys first, then one table after the other."""
    ordered = sorted(settings.items(), key=lambda item: (len(item[0]) > 1, item[0][:-1], item[0][-1]))
    lines = [
        (key[:-1], f"{join_key(key[-1:])} = {_toml_value(setting.value)}", setting.origin)
        for key, setting in ordered
    ]
    width = min(max((len(line) for _, line, _ in lines), default=0), 40)
    last: KeyPath = ()
    for table, line, origin in lines:
        if table != last:
            yield from [""] if last else []
            yield f"[{join_key(table)}]"
        last = table
        yield f"{line:<{width}}  # {short_path(origin)}" if with_origin else line


def _toml_value(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return re.sub("\x7f", r"\\u007f", json.dumps(value, ensure_ascii=False))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, dict):
        pairs = (f"{join_key((str(key),))} = {_toml_value(inner)}" for key, inner in value.items())
        return f"{{{', '.join(pairs)}}}"
    return str(value)


def _check_arguments(settings: Config, name: str, kind: type[Any]) -> None:
    """[providers.NAME] are arguments of its config class."""
    arguments = settings.provider(name)
    known = [field.name for field in fields(kind)] if is_dataclass(kind) else list(arguments)
    for key in arguments:
        if key not in known:
            origin = settings.origin(join_key(("providers", name, key))) or "configuration"
            raise unknown_option(("providers", name), key, tuple(known), origin)
    try:
        kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[providers.{name}]: {error}", hints=["skyward config show --origin"]) from error


def _check_pool(settings: Config, arguments: Mapping[str, Any]) -> None:
    import skyward as sky

    sky.ComputePool(**arguments)
