"""Writes the reference pages out of the code, and keeps the outputs that pages show true.

    python docs/generate.py                 writes docs/reference
    python docs/generate.py --check         fails if a page is not what it would write
    python docs/generate.py --outputs       runs the pages (or those named) and puts in what is really printed

A reference page is written by hand down to the marker, and generated below it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "docs")]

import blocks  # noqa: E402  the checkout's own modules, wherever this is started
import pages  # noqa: E402

PAGES: dict[str, Callable[[], str]] = {
    "accelerators": pages.accelerators,
    "api": pages.api,
    "catalog-schema": pages.catalog_schema,
    "cli": pages.cli,
    "config": pages.config,
    "errors": pages.errors_page,
    "exit-codes": pages.exit_codes,
    "hooks": pages.hooks,
}


def page_path(name: str) -> Path:
    return ROOT / "docs" / "reference" / f"{name}.md"


def rendered(name: str) -> str:
    """The whole page: what a person wrote, and what the code says."""
    path = page_path(name)
    above = path.read_text(encoding="utf-8").partition(blocks.MARKER)[0] if path.exists() else f"# {name}\n\n"
    return f"{above}{blocks.MARKER}\n{PAGES[name]().strip()}\n"


def stale() -> list[str]:
    """Names of pages that are not what the code says now."""
    return [name for name in PAGES if not _is_fresh(name)]


def _is_fresh(name: str) -> bool:
    path = page_path(name)
    return path.exists() and path.read_text(encoding="utf-8") == rendered(name)


def refresh_outputs(path: Path) -> list[str]:
    """Runs a page and corrects what it says is printed; tells what was wrong."""
    page = path.read_text(encoding="utf-8")
    with ExitStack() as stack:
        stage = blocks.Stage(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="skyward-page-"))))
        boot(blocks.machines_of(page), stage, stack)
        wrong = [said for said in blocks.play(page, stage) if not said.is_right]
    for said in reversed(wrong):
        if "..." not in said.expected and said.start:
            end = said.start + len(said.expected)
            page = page[: said.start] + _tidy(said.actual) + page[end:]
    path.write_text(page, encoding="utf-8")
    return [f"{path.name}:{said.line}: {said.what!r}: {said.problem}\n{said.actual}" for said in wrong]


def handwritten() -> list[Path]:
    """Every page that shows what commands print."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _tidy(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip("\n").splitlines())


def boot(names: Iterable[str], stage: blocks.Stage, stack: ExitStack) -> None:
    """Machines behind SSH under these names."""
    from skyward.testing.sshd import SSHServer

    for name in names:
        machine = stack.enter_context(SSHServer())
        stage.add_machine(
            name,
            address=machine.address,
            port=machine.port,
            user=machine.user,
            identity=machine.identity,
            known=machine.known_hosts_lines,
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is stale")
    parser.add_argument("--outputs", nargs="*", type=Path, metavar="PAGE", help="correct what pages show")
    asked = parser.parse_args()
    if asked.outputs is not None:
        for path in asked.outputs or handwritten():
            print("\n".join(refresh_outputs(path)) or f"{path.name}: all of it is right")
        return 0
    old = stale()
    if asked.check:
        for name in old:
            print(f"docs/reference/{name}.md is stale: run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for name in old:
        page_path(name).write_text(rendered(name), encoding="utf-8")
        print(f"wrote docs/reference/{name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
