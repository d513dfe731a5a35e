"""A census of the standard library: every node reads the sources of its own Python and counts what is there.

    skyward run examples/census.py --nodes 2          on this machine, as two nodes
    skyward run examples/census.py --host me@box      on a machine you have
    python examples/census.py                         without the command line

One task reads one package, so the nodes share about 150 of them as they become free.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import skyward as sky

LIBRARY = Path(sysconfig.get_path("stdlib"))
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "lib2to3",
    "__pycache__",
    "this",
    "antigravity",
}


@dataclass
class Survey:
    """What one package holds."""

    package: str
    files: int = 0
    lines: int = 0
    classes: int = 0
    functions: int = 0
    documented: int = 0
    longest: tuple[int, str] = (0, "")
    imports: Counter[str] = field(default_factory=Counter)
    node: int = 0
    seconds: float = 0.0


@sky.compute
def survey(package: str) -> Survey:
    """Reads one package of the standard library of the machine this runs on."""
    began = time.perf_counter()
    found = Survey(package)
    for file in sources(package):
        read(file, found)
    info = sky.instance_info()
    found.node = info.node if info else 0
    found.seconds = time.perf_counter() - began
    return found


def read(file: Path, found: Survey) -> None:
    text = file.read_bytes()
    found.files += 1
    found.lines += text.count(b"\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            found.classes += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.functions += 1
            found.documented += ast.get_docstring(node, clean=False) is not None
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            found.longest = max(found.longest, (length, f"{file.stem}.{node.name}"))
        elif isinstance(node, ast.Import):
            found.imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.imports[node.module.partition(".")[0]] += 1


def sources(package: str) -> list[Path]:
    if (file := LIBRARY / f"{package}.py").is_file():
        return [file]
    return sorted(file for file in (LIBRARY / package).rglob("*.py") if not LEFT_OUT & {*file.parts})


def packages() -> list[str]:
    """Names of the modules and packages there are to read, longest to read first."""
    names = {file.stem for file in LIBRARY.glob("*.py")} | {
        file.parent.name for file in LIBRARY.glob("*/__init__.py")
    }
    sizes = {name: sum(os.path.getsize(file) for file in sources(name)) for name in names - LEFT_OUT}
    return sorted(sizes, key=lambda name: (-sizes[name], name))


@sky.pool(nodes=2)
def main(top: int = 10) -> str:
    """The census, as a table of the `top` largest packages and a few records."""
    surveys = sky.gather(survey(name) for name in packages()) >> sky
    return "\n".join([*table(surveys, top), "", *records(surveys), "", *work(surveys)])


def table(surveys: tuple[Survey, ...], top: int) -> list[str]:
    whole = Survey("all of it")
    for one in surveys:
        whole.files += one.files
        whole.lines += one.lines
        whole.classes += one.classes
        whole.functions += one.functions
        whole.documented += one.documented
    largest = sorted(surveys, key=lambda one: -one.lines)[:top]
    rows = [f"{'PACKAGE':<16}{'FILES':>7}{'LINES':>10}{'CLASSES':>9}{'FUNCTIONS':>11}{'DOCUMENTED':>12}"]
    for one in [*largest, whole]:
        share = one.documented / one.functions if one.functions else 0.0
        rows.append(
            f"{one.package:<16}{one.files:>7,}{one.lines:>10,}{one.classes:>9,}{one.functions:>11,}{share:>12.0%}"
        )
    return rows


def records(surveys: tuple[Survey, ...]) -> list[str]:
    imports: Counter[str] = sum((one.imports for one in surveys), Counter())
    length, name = max(one.longest for one in surveys)
    most = ", ".join(f"{module} ({count})" for module, count in imports.most_common(6))
    return [f"longest function   {name}, {length} lines", f"most imported      {most}"]


def work(surveys: tuple[Survey, ...]) -> list[str]:
    rows = []
    for node in sorted({one.node for one in surveys}):
        mine = [one for one in surveys if one.node == node]
        lines, seconds = sum(one.lines for one in mine), sum(one.seconds for one in mine)
        rows.append(f"node {node}   {len(mine):>4} packages   {lines:>9,} lines   {seconds:5.2f} s of work")
    return rows


if __name__ == "__main__":
    print(main())
