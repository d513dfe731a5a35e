"""Archives that travel: the user's project, and the part of Skyward that tasks need.

An archive is a zip whose bytes depend on nothing but names, contents and modes, so equal sources have equal
digests and cross each link once. Nothing here talks to an instance.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import re
import stat
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from skyward.errors import ConfigError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

LIMIT_BYTES = 64 * 2**20
"""What a project may weigh, unpacked, unless the user says otherwise."""
LIMIT_VARIABLE = "SKYWARD_PROJECT_LIMIT"
IGNORE_FILES = (".gitignore", ".skywardignore")
"""Later ones win within one directory, deeper directories win over shallower ones."""

_MARKERS = ("pyproject.toml", "skyward.toml", "setup.py", ".git")

# Never sent, whatever the ignore files say.
_SECRET_FILES = re.compile(
    r"""
      \.env.* | .*\.env
    | id_[^.]* | .*\.(?:pem|key|p12|pfx|jks|keystore|ppk|kdbx|ovpn|gpg|tfstate|tfvars)(?:\.backup)?
    | \.netrc | _netrc | \.pypirc | \.npmrc | \.git-credentials | \.htpasswd | \.dockercfg | \.pgpass | \.my\.cnf | \.boto
    | kubeconfig | (?:application_default_)?credentials(?:\.(?:json|toml|ya?ml|ini|cfg|csv|xml|db))?
    | client_secrets?.*\.json | service[-_]account.*\.json | secrets?\.(?:json|toml|ya?ml|ini|cfg)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_DIRECTORIES = frozenset(
    {".aws", ".ssh", ".azure", ".gcloud", ".kube", ".docker", ".gnupg", ".terraform"}
)
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File-")

# Never worth sending.
_LITTER_FILES = re.compile(r".*\.py[co]|\.DS_Store|\.coverage(?:\..*)?|.*\.sw[op]", re.IGNORECASE)
_LITTER_DIRECTORIES = frozenset(
    {
        ".git",
        ".hg",
        ".svn",
        "__pycache__",
        "node_modules",
        ".venv",
        ".tox",
        ".nox",
        ".eggs",
        ".cache",
        ".idea",
        ".vscode",
    }
    | {".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", ".ipynb_checkpoints", "__pypackages__"}
)
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")

# To git `e/**` is about what lies in `e`, never about `e`; pathspec (1.1) takes `e/` for a match, and we would not
# look inside. This spelling means the same to both.
_ABOUT_CONTENT = re.compile(r"/\*\*\s*$")

_EPOCH = (1980, 1, 1, 0, 0, 0)

# What tasks on an instance may import of Skyward; the rest stays with the client.
_RUNTIME_ROOMS = ("api", "builtin", "contracts", "model", "remote")
_RUNTIME_SUFFIXES = (".py", ".csv", ".typed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A deterministic zip. Two archives with one digest are the same."""

    digest: str
    """SHA-256 of `data`, hexadecimal."""
    data: bytes
    files: int
    label: str
    """What it is, for people: "project 'fold'", "skyward runtime"."""
    skipped: tuple[str, ...] = ()
    """Files that should have travelled and cannot, each with the reason."""

    def __repr__(self) -> str:
        return f"<Archive {self.label}: {self.files} files, {len(self.data)} bytes, {self.digest[:12]}>"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file to send: where it lies, what it is called in the archive, and what tells that it changed."""

    name: str
    path: str
    size: int
    mtime_ns: int
    executable: bool


# -- the user's project ----------------------------------------------------------------------------------------


def find_project(start: str | os.PathLike[str]) -> Path | None:
    """The directory of the project that `start` (a file or a directory) belongs to.

    The nearest directory upwards with a pyproject.toml, skyward.toml, setup.py or .git. The home directory and
    the root of the file system are never projects; None without any.
    """
    path = Path(os.path.abspath(start))
    if not path.is_dir():
        path = path.parent
    for directory in (path, *path.parents):
        if _is_everything(directory):
            return None
        if any((directory / marker).exists() for marker in _MARKERS):
            return directory
    return None


def project_archive(root: str | os.PathLike[str], *, limit_bytes: int | None = None) -> Archive:
    """The files of the project at `root`, as an archive.

    Left out: what .gitignore and .skywardignore files name (`!name` in a .skywardignore brings it back),
    environments, caches, and whatever looks like a secret, which nothing brings back. Of a directory that is no
    project only Python files and packages are taken. A second call costs stat calls while nothing changed.

    Raises:
        ConfigError: the files weigh more than `limit_bytes` (default: SKYWARD_PROJECT_LIMIT, else 64 MiB).
    """
    path = Path(os.path.realpath(root))
    skipped: list[str] = []
    entries = _entries(path, skipped)
    _check_weight(path, entries, _limit() if limit_bytes is None else limit_bytes)
    with _projects_lock:
        known = _projects.get(path)
    if known and known[0] == entries:
        return known[1]
    archive = _pack(entries, f"project {path.name!r}", skipped)
    with _projects_lock:
        _projects[path] = (entries, archive)
    return archive


def import_paths(root: str | os.PathLike[str], path: Sequence[str] | None = None) -> tuple[str, ...]:
    """Directories of the project that modules are imported from, relative to `root`, in order of search.

    Those of `path` (default: sys.path) that lie in the project, then `src` and the root itself.
    """
    base = Path(os.path.realpath(root))
    found: list[str] = []
    for entry in sys.path if path is None else path:
        directory = Path(os.path.realpath(entry or os.getcwd()))
        if directory.is_dir() and directory.is_relative_to(base) and not _is_environment(directory, base):
            found.append(directory.relative_to(base).as_posix())
    if (base / "src").is_dir() and not (base / "src" / "__init__.py").exists():
        found.append("src")
    return tuple(dict.fromkeys([*found, "."]))


_projects: dict[Path, tuple[list[_Entry], Archive]] = {}
_projects_lock = threading.Lock()


def _is_everything(directory: Path) -> bool:
    return directory.parent == directory or directory == Path(os.path.expanduser("~"))


def _is_environment(directory: Path, base: Path) -> bool:
    between = [directory, *directory.parents]
    return any((d / mark).exists() for d in between[: between.index(base)] for mark in _ENVIRONMENT_MARKS)


def _limit() -> int:
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return LIMIT_BYTES
    from skyward.model.sizes import parse_memory

    return int(parse_memory(text) * 2**30)


def _check_weight(root: Path, entries: Sequence[_Entry], limit: int) -> None:
    total = sum(entry.size for entry in entries)
    if total <= limit:
        return
    largest = sorted(entries, key=lambda entry: -entry.size)[:5]
    raise ConfigError(
        f"project {str(root)!r} weighs {_mib(total)}, more than the {_mib(limit)} that are sent",
        facts=[f"{_mib(entry.size)}  {entry.name}" for entry in largest],
        hints=[
            f"echo '{largest[0].name}' >> {root / '.skywardignore'}",
            f"export {LIMIT_VARIABLE}={-(-total // 2**20)}MB",
        ],
        root=str(root),
        size_bytes=total,
        limit_bytes=limit,
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def _entries(root: Path, skipped: list[str]) -> list[_Entry]:
    """What travels of `root`, sorted by name."""
    is_project = not _is_everything(root) and any((root / marker).exists() for marker in _MARKERS)
    walk = _Walk(root, python_only=not is_project and find_project(root) is None, skipped=skipped)
    return sorted(walk.files(), key=lambda entry: entry.name)


class _Walk:
    """One pass over a project: which files travel."""

    def __init__(self, root: Path, *, python_only: bool, skipped: list[str]) -> None:
        self.root = root
        self.python_only = python_only
        self.skipped = skipped

    def files(self) -> Iterator[_Entry]:
        yield from self._directory(
            str(self.root), "", () if self.python_only else _outer_rules(self.root), ()
        )

    def _directory(
        self, path: str, prefix: str, rules: tuple[_Rules, ...], above: tuple[str, ...]
    ) -> Iterator[_Entry]:
        real = os.path.realpath(path)
        if real in above:
            return
        try:
            found = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            self.skipped.append(f"{prefix or '.'}: {error.strerror}")
            return
        rules = rules + tuple(_own_rules(path, {entry.name for entry in found}))
        for entry in found:
            yield from self._entry(entry, prefix + entry.name, rules, (*above, real))

    def _entry(
        self, entry: os.DirEntry[str], name: str, rules: tuple[_Rules, ...], above: tuple[str, ...]
    ) -> Iterator[_Entry]:
        try:
            status = entry.stat()
        except OSError:
            return  # a dangling link, or gone since it was listed
        if entry.is_symlink() and not self._stays_inside(entry.path):
            if not _is_ignored(entry.path + "/" * stat.S_ISDIR(status.st_mode), rules):
                self.skipped.append(f"{_printable(name)}: links out of the project")
        elif stat.S_ISDIR(status.st_mode):
            if self._takes_directory(entry, name, rules):
                yield from self._directory(entry.path, name + "/", rules, above)
        elif stat.S_ISREG(status.st_mode) and self._takes_file(entry, name, rules):
            executable = bool(status.st_mode & 0o100)
            yield _Entry(name, entry.path, status.st_size, status.st_mtime_ns, executable)

    def _stays_inside(self, path: str) -> bool:
        """Whether a link leads to a place in the project that would travel under its own name, too."""
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(self.root) or real == self.root:
            return False
        parts = real.relative_to(self.root).parts
        return not any(part in _SECRET_DIRECTORIES or part in _LITTER_DIRECTORIES for part in parts) and not (
            _SECRET_FILES.fullmatch(parts[-1])
        )

    def _takes_directory(self, entry: os.DirEntry[str], name: str, rules: tuple[_Rules, ...]) -> bool:
        if entry.name in _LITTER_DIRECTORIES or entry.name in _SECRET_DIRECTORIES:
            return False
        if any(os.path.exists(os.path.join(entry.path, mark)) for mark in _ENVIRONMENT_MARKS):
            return False
        if self.python_only:
            return os.path.exists(os.path.join(entry.path, "__init__.py"))
        return not _is_ignored(entry.path + "/", rules)

    def _takes_file(self, entry: os.DirEntry[str], name: str, rules: tuple[_Rules, ...]) -> bool:
        if _SECRET_FILES.fullmatch(entry.name) or _LITTER_FILES.fullmatch(entry.name):
            return False
        if self.python_only and "/" not in name and not entry.name.endswith(".py"):
            return False
        if _is_ignored(entry.path, rules):
            return False
        if not _is_text(name):
            self.skipped.append(f"{_printable(name)}: its name is not UTF-8")
            return False
        return True


@dataclass(frozen=True, slots=True)
class _Rules:
    """One ignore file: its patterns count below `base`."""

    base: str
    spec: GitIgnoreSpec

    def verdict(self, path: str) -> bool | None:
        """True ignores, False takes back, None has no opinion."""
        if not path.startswith(self.base):
            return None
        return self.spec.check_file(path[len(self.base) :]).include


def _is_ignored(path: str, rules: Sequence[_Rules]) -> bool:
    for rule in reversed(rules):
        verdict = rule.verdict(path)
        if verdict is not None:
            return verdict
    return False


def _own_rules(directory: str, names: Iterable[str]) -> Iterator[_Rules]:
    for file in IGNORE_FILES:
        if file in names:
            yield from _read_rules(os.path.join(directory, file), directory)


def _outer_rules(root: Path) -> tuple[_Rules, ...]:
    """Rules of the repository around `root`, outermost first."""
    repository = next((d for d in (root, *root.parents) if (d / ".git").exists()), root)
    rules = list(_read_rules(str(repository / ".git" / "info" / "exclude"), str(repository)))
    outside = [d for d in reversed(root.parents) if d.is_relative_to(repository)]
    for directory in outside:
        rules += _own_rules(str(directory), IGNORE_FILES)
    return tuple(rules)


def _read_rules(file: str, base: str) -> Iterator[_Rules]:
    from pathspec import GitIgnoreSpec

    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            lines = [_ABOUT_CONTENT.sub("/**/*", line) for line in stream.read().splitlines()]
            yield _Rules(os.path.join(base, ""), GitIgnoreSpec.from_lines(lines))
    except OSError:
        return


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


# -- the part of Skyward that tasks need ------------------------------------------------------------------------


@cache
def runtime_archive() -> Archive:
    """What a task on an instance imports of Skyward, and cloudpickle. Pure Python; needs Python >= 3.11."""
    package = Path(__file__).resolve().parent.parent
    entries = [
        *_module_entries(package, "skyward", _of_runtime),
        *_module_entries(_home_of("cloudpickle"), "cloudpickle"),
    ]
    return _pack(sorted(entries, key=lambda entry: entry.name), "skyward runtime", [])


def cloudpickle_codes() -> Iterator[tuple[str, CodeType]]:
    """cloudpickle's modules, compiled; a worker that has them need not unpack it."""
    for path in sorted(_home_of("cloudpickle").glob("*.py")):
        name = "cloudpickle" if path.stem == "__init__" else f"cloudpickle.{path.stem}"
        yield name, compile(path.read_bytes(), f"<skyward {name}>", "exec")


def _of_runtime(name: str) -> bool:
    room, _, rest = name.partition("/")
    return room in _RUNTIME_ROOMS if rest else True


def _module_entries(
    root: Path, prefix: str, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[_Entry]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.suffix in _RUNTIME_SUFFIXES and wanted(name) and path.is_file():
            status = path.stat()
            yield _Entry(f"{prefix}/{name}", str(path), status.st_size, status.st_mtime_ns, False)


def _home_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(
            f"package {package!r} is not installed beside skyward", hints=[f"pip install {package}"]
        )
    return Path(found.origin).parent


# -- the zip ----------------------------------------------------------------------------------------------------


def _pack(entries: Iterable[_Entry], label: str, skipped: list[str]) -> Archive:
    buffer, files = io.BytesIO(), 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for entry in entries:
            data = _read(entry, skipped)
            if data is not None:
                archive.writestr(_header(entry), data)
                files += 1
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return Archive(digest=digest, data=data, files=files, label=label, skipped=tuple(skipped))


def _read(entry: _Entry, skipped: list[str]) -> bytes | None:
    try:
        with open(entry.path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        skipped.append(f"{entry.name}: {error.strerror}")
        return None
    if _PRIVATE_KEY.match(data.lstrip()[:64]):
        skipped.append(f"{entry.name}: holds a private key")
        return None
    return data


def _header(entry: _Entry) -> zipfile.ZipInfo:
    header = zipfile.ZipInfo(entry.name, _EPOCH)
    header.create_system = 3  # Unix, wherever it is made: the modes below mean something
    header.compress_type = zipfile.ZIP_DEFLATED
    header.external_attr = (stat.S_IFREG | (0o755 if entry.executable else 0o644)) << 16
    return header
