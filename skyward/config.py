"""Settings and where they come from, and the directories we may write to. Imports `errors` and `model`.

From strong to weak: what a call or a flag says, `-o key=value`, `SKYWARD_*`, `--config FILE` or the nearest
`skyward.toml`, `[tool.skyward]` of `pyproject.toml`, the user's own `config.toml`. Tables merge key by key, arrays
replace. Nothing is imported for checking when nothing is configured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from skyward.errors import ConfigError, SkywardError, SkywardWarning

KeyPath = tuple[str, ...]

_SECRET = re.compile(
    r"(^|_)(secret|token|password|passwd|passphrase|api_?key|private_?key|access_?key|credentials?)($|_)",
    re.I,
)
_OUR_TABLE = re.compile(rb"""^\s*\[\s*tool\s*\.\s*["']?skyward["']?\s*[.\]]""", re.M)
_FLAT = {"SKYWARD_MAX_AGE": ("catalog", "max_age")}
"""Short variables that are no pool keyword."""
_NOT_SETTINGS = frozenset(
    {
        "SKYWARD_CONFIG",
        "SKYWARD_HOME",
        "SKYWARD_PLUGINS",
        "SKYWARD_DISABLE_PLUGIN_AUTOLOAD",
        "SKYWARD_INSTANCE_INFO",
    }
)


# -- places ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The four directories Skyward writes to on the client. None is created before something is written."""

    config: Path
    """`config.toml`, written by the user."""
    cache: Path
    """What can be made again: scans, refreshed prices, wheels."""
    data: Path
    """What cannot: price history."""
    state: Path
    """Runs, the journal, known hosts, logs."""

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Places:
        """Below $SKYWARD_HOME when it is set, otherwise where the platform keeps such things."""
        home = environ.get("SKYWARD_HOME")
        if home:
            root = Path(home).expanduser().absolute()
            return cls(config=root / "config", cache=root / "cache", data=root / "data", state=root / "state")
        import platformdirs

        return cls(
            config=platformdirs.user_config_path("skyward"),
            cache=platformdirs.user_cache_path("skyward"),
            data=platformdirs.user_data_path("skyward"),
            state=platformdirs.user_state_path("skyward"),
        )


def make_private(directory: Path) -> Path:
    """The directory, created with its parents for its owner only. An existing one keeps its mode."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    return directory


# -- settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """One value and where it was said: `-o nodes=2`, `$SKYWARD_NODES`, `/proj/skyward.toml:7`."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The effective settings. Keys are dotted: `defaults.nodes`, `pools.train.accelerator`."""

    settings: Mapping[KeyPath, Setting] = field(default_factory=dict)
    places: Places
    files: tuple[Path, ...] = ()
    """The files that were read, strong before weak."""

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the table below it as nested dicts, or `default`."""
        path = split_key(key)
        if path in self.settings:
            return self.settings[path].value
        table = self.table(*path)
        return table or default

    def origin(self, key: str) -> str | None:
        """Where the value of a key was said, or None."""
        setting = self.settings.get(split_key(key))
        return setting.origin if setting else None

    def table(self, *path: str) -> dict[str, Any]:
        """Everything below `path`, as nested dicts; empty where nothing is set."""
        found: dict[str, Any] = {}
        for key, setting in self.settings.items():
            if key[: len(path)] == path and len(key) > len(path):
                _put(found, key[len(path) :], setting.value)
        return found

    @property
    def defaults(self) -> dict[str, Any]:
        """Keyword arguments for every `ComputePool`, out of `[defaults]`."""
        return _pool_arguments(self.table("defaults"))

    def pool(self, name: str) -> dict[str, Any]:
        """Keyword arguments for the pool `[pools.<name>]`, over those of `[defaults]`.

        Raises:
            ConfigError: there is no such pool; names the nearest.
        """
        pools = self.table("pools")
        if name not in pools:
            near = get_close_matches(name, pools, n=1)
            raise ConfigError(
                f"no pool {name!r} is configured",
                facts=[f"configured: {', '.join(pools) or 'none'}"],
                hints=[f"did you mean {near[0]!r}?"] if near else ["skyward config show"],
                asked=name,
                known=tuple(pools),
            )
        return _pool_arguments({**merged(self.table("defaults"), pools[name]), "name": name})

    def provider(self, name: str) -> dict[str, Any]:
        """Arguments for the config class of a provider, out of `[providers.<name>]`."""
        return self.table("providers", name)


def _pool_arguments(table: dict[str, Any]) -> dict[str, Any]:
    if isinstance(table.get("image"), dict):
        from skyward.model.image import Image

        table["image"] = Image(**table["image"])
    return table


def merged(weak: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
    """What both say; where they differ, `strong`. Tables are merged key by key, everything else is replaced."""
    both = {
        key: merged(weak[key], strong[key])
        for key in weak.keys() & strong.keys()
        if _are_tables(weak[key], strong[key])
    }
    return {**weak, **strong, **both}


def _are_tables(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def _put(table: dict[str, Any], path: KeyPath, value: Any) -> None:
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value


# -- loading ---------------------------------------------------------------------------------------------------------

_options: dict[str, str] = {}
_file: Path | None = None


def choose(*, options: Iterable[str] = (), file: Path | None = None) -> None:
    """What the command line says: `-o key=value` and `--config FILE`. Every `load_config` after it obeys.

    Raises:
        ConfigError: an option has no `=`.
    """
    global _file
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"-o takes key=value, not {option!r}", hints=["skyward config show"])
        _options[key.strip()] = value
    _file = file or _file


def load_config(
    options: Mapping[str, Any] | None = None,
    *,
    start: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    file: Path | None = None,
) -> Config:
    """The effective settings for a project at or above `start` (the current directory).

    `options` are the strongest: dotted keys, values as they are or as text; None takes what the command line
    said. `file` replaces the nearest `skyward.toml`; so does $SKYWARD_CONFIG.

    Raises:
        ConfigError: a file cannot be read, a key is unknown or misplaced, a value is of the wrong kind. Says
            where, as `file:line`.
    """
    options = _options if options is None else options
    file = file or _file or _path_in(environ, "SKYWARD_CONFIG")
    places = Places.find(environ)
    files = [*_project_files(Path.cwd() if start is None else start, file), places.config / "config.toml"]
    read = [
        (path, document) for path in files if (document := _read(path, required=path == file)) is not None
    ]
    _warn_of_rivals([path for path, document in read])
    settings: dict[KeyPath, Setting] = {}
    for path, document in reversed(read):
        settings |= dict(_from_file(path, document, is_project=path.parent != places.config))
    settings |= dict(_from_environment(environ))
    settings |= dict(_from_options(options))
    return Config(settings=settings, places=places, files=tuple(path for path, _ in read))


def _path_in(environ: Mapping[str, str], name: str) -> Path | None:
    return Path(environ[name]) if environ.get(name) else None


def _project_files(start: Path, file: Path | None) -> list[Path]:
    """The files of a project, strong before weak; the search ends at the root of the repository."""
    start = start.absolute()
    for directory in (start, *start.parents):
        toml, pyproject = directory / "skyward.toml", directory / "pyproject.toml"
        if _is_file(toml) or _OUR_TABLE.search(_bytes(pyproject)):
            return [file or toml, pyproject]
        if (directory / ".git").exists():
            break
    return [file] if file else []


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read(path: Path, *, required: bool) -> dict[str, Any] | None:
    """The document of a file; None where there is no such file, or no `[tool.skyward]` in it."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        problem = f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}"
        if required:
            raise ConfigError(problem) from error
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            _warn(problem)
        return None
    import tomllib

    is_pyproject = path.name == "pyproject.toml"
    if is_pyproject and not _OUR_TABLE.search(data):
        return None
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from error
    if not is_pyproject:
        return document
    tool = document.get("tool", {})
    found = tool.get("skyward") if isinstance(tool, dict) else None
    return found if isinstance(found, dict) else None


def _warn_of_rivals(paths: list[Path]) -> None:
    rivals = [path for path in paths if path.name in ("skyward.toml", "pyproject.toml")]
    if len(rivals) > 1 and rivals[0].parent == rivals[1].parent:
        _warn(
            f"{rivals[0].parent} holds both skyward.toml and [tool.skyward]; where they disagree, skyward.toml wins"
        )


def _warn(message: str, *hints: str) -> None:
    import warnings

    warnings.warn(SkywardWarning(message, hints=hints), stacklevel=1)


# -- one layer each ----------------------------------------------------------------------------------------------------


def _from_file(
    path: Path, document: Mapping[str, Any], *, is_project: bool
) -> Iterator[tuple[KeyPath, Setting]]:
    text = path.read_text(errors="replace")
    root = ("tool", "skyward") if path.name == "pyproject.toml" else ()

    def origin(key: KeyPath) -> str:
        line = _line(text, (*root, *key))
        return f"{path}:{line}" if line else str(path)

    for key, value in _leaves(document):
        if is_project:
            _refuse_secret(key, origin(key), "in a project file")
        yield key, Setting(_checked(key, value, origin, from_text=False), origin(key))


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[KeyPath, Setting]]:
    for name in sorted(name for name in environ if name.startswith("SKYWARD_") and name not in _NOT_SETTINGS):
        value, key = environ[name], _key_of_variable(name)
        if key is None or not value:
            continue
        yield key, Setting(_checked(key, value, f"${name}", from_text=True), f"${name}")


def _key_of_variable(name: str) -> KeyPath | None:
    """`SKYWARD_POOLS__TRAIN__NODES` is `pools.train.nodes`, `SKYWARD_NODES` is `defaults.nodes`, others are not ours."""
    if name in _FLAT:
        return _FLAT[name]
    rest = name.removeprefix("SKYWARD_")
    if "__" in rest:
        parts = rest.split("__")
        above = [part.lower() for part in parts[:-1]]
        return (*above, parts[-1] if above[-1] == "env" else parts[-1].lower())
    from skyward.config_schema import pool_keys

    if rest.lower() in pool_keys():
        return ("defaults", rest.lower())
    known = [f"SKYWARD_{key.upper()}" for key in pool_keys()] + sorted({*_FLAT, *_NOT_SETTINGS})
    if near := get_close_matches(name, known, n=1, cutoff=0.85):
        _warn(f"the variable {name} means nothing; did you mean {near[0]}?")
    return None


def _from_options(options: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Setting]]:
    for name, given in options.items():
        above = _key_of_option(name)
        value = _toml_value(given) if isinstance(given, str) else given
        for below, leaf in _leaves(value) if isinstance(value, dict) else [((), value)]:
            key, origin = (*above, *below), f"-o {name}"
            _refuse_secret(key, origin, "on the command line")
            checked = _checked(key, leaf, origin, from_text=isinstance(leaf, str))
            yield key, Setting(checked, f"{origin}={given}")


def _key_of_option(name: str) -> KeyPath:
    """A bare key is one of `[defaults]`."""
    key = split_key(name)
    if not key or not all(key):
        raise ConfigError(f"-o takes key=value, and {name!r} is no key", hints=["skyward config show"])
    return key if len(key) > 1 or key == ("plugins",) else ("defaults", *key)


def _toml_value(text: str) -> Any:
    """Text that is written as a TOML array, table or string means that; any other text is itself."""
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        return text
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _plain_value(text: str) -> Any:
    """Text that reads like a number or a boolean of TOML means that; any other text is itself."""
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    if re.fullmatch(r"[+-]?\d+\.\d+", text):
        return float(text)
    return {"true": True, "false": False}.get(text, text)


def split_key(key: str) -> KeyPath:
    """`pools."my pool".nodes` as a path."""
    parts = re.findall(r'"([^"]*)"|\'([^\']*)\'|([^.]+)', key)
    return tuple(next((part for part in groups if part), "").strip() for groups in parts)


def join_key(path: KeyPath) -> str:
    """A path as a dotted key, quoted where TOML needs it."""
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else f'"{key}"' for key in path)


def _leaves(table: Mapping[str, Any], above: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


def is_secret(key: KeyPath) -> bool:
    """Whether the name of a key says that its value is a secret."""
    return bool(_SECRET.search(key[-1]))


def _refuse_secret(key: KeyPath, origin: str, where: str) -> None:
    if not is_secret(key):
        return
    raise ConfigError(
        f"{origin}: {join_key(key)!r} looks like a secret; secrets do not belong {where}",
        hints=[
            "set the provider's own environment variable (`skyward providers` says which)",
            "or put it into your own config.toml (`skyward config path` says where)",
        ],
        key=join_key(key),
    )


def _checked(key: KeyPath, value: Any, origin: str | Callable[[KeyPath], str], *, from_text: bool) -> Any:
    """The value as its key wants it. `origin` says where it was said, or where any key was."""
    from skyward import config_schema as schema

    def at(where: KeyPath) -> str:
        return origin if isinstance(origin, str) else origin(where)

    name = join_key(key)
    try:
        kind = schema.type_of(key)
        if kind is not Any:
            value = schema.converted(value, kind, from_text=from_text)
        elif from_text and key[0] == "providers":  # only the provider knows its kinds
            value = _plain_value(value)
        _check_grammar(key, value)
    except schema.UnknownKey as error:
        raise unknown_option(error.table, error.key, error.known, at((*error.table, error.key))) from None
    except schema.IsTable:
        raise ConfigError(f"{at(key)}: {name!r} is a table, not a value", key=name) from None
    except ValueError as error:
        raise ConfigError(f"{at(key)}: {name!r} is {value!r}, not {error}", key=name, value=value) from None
    except SkywardError as error:
        message = f"{at(key)}: {name!r}: {error.message}"
        raise ConfigError(message, facts=error.facts, hints=error.hints, key=name) from None
    return value


def _check_grammar(key: KeyPath, value: Any) -> None:
    """Sizes and durations are read once, so that a misspelt one is told with its file and line."""
    from skyward.model import sizes

    parsers = {
        "cpu": sizes.parse_count_range,
        "memory": sizes.parse_memory_range,
        "disk": sizes.parse_memory_range,
        **dict.fromkeys(
            ("timeout", "max_lifetime", "lease", "bootstrap_timeout", "max_age", "keep"), sizes.parse_duration
        ),
    }
    if key[0] != "providers" and len(key) in (2, 3) and key[-1] in parsers:
        parsers[key[-1]](value)


def unknown_option(table: KeyPath, key: str, known: tuple[str, ...], origin: str) -> ConfigError:
    """The error for a key that its table does not have; names the nearest."""
    where = f"[{join_key(table)}]" if table else "the configuration"
    near = get_close_matches(key, known, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(
        f"{origin}: unknown option {key!r} in {where}{meant}",
        facts=[f"known: {', '.join(sorted(known))}"] if known else (),
        hints=["skyward config show"],
        key=join_key((*table, key)),
        known=known,
    )


# -- lines -------------------------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(
    r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)


def _line(text: str, path: KeyPath) -> int | None:
    """The line a key was written on: its own, or that of the nearest table around it. tomllib does not tell."""
    best: tuple[int, int] | None = None
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            here = table = split_key(match[1])
        elif match := _ASSIGNMENT.match(line):
            here = (*table, *split_key(match[1]))
        else:
            continue
        if here == path[: len(here)] and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None
