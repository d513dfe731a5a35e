"""A secret that must be found nowhere: put it into every input, run everything, and look for it everywhere.

    canary = Canary()
    ... env={"API_KEY": canary.secret} ...
    assert not canary.find(places=[state, logs], texts={"requests": repr(cloud.requests)})

It is looked for as it is and as programs write it: in JSON, in addresses, in base64 at any offset, in hexadecimal,
backwards, inside archives and compressed files, and, where asked, in the command lines of all processes.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import secrets
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_DEEP = 4
_LARGEST = 256 << 20
_LOOK_S = 0.02


def _new_secret() -> str:
    """With a quote, a blank and signs that other notations escape: a notation that is missed shows in a test."""
    return f"canary {secrets.token_hex(8)}'\"\\<&%+/é={secrets.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Canary:
    """One secret. `find` says where it is; nowhere is an empty list."""

    secret: str = field(default_factory=_new_secret, repr=False)

    @property
    def forms(self) -> dict[str, bytes]:
        """What the secret may look like, by notation."""
        raw, text = self.secret.encode(), self.secret
        found = {
            "plain": raw,
            "json": json.dumps(text)[1:-1].encode(),
            "json, not ascii": json.dumps(text, ensure_ascii=False)[1:-1].encode(),
            "python": repr(text)[1:-1].encode(),
            "url": quote(text, safe="").encode(),
            "url path": quote(text).encode(),
            "form": quote_plus(text).encode(),
            "hexadecimal": raw.hex().encode(),
            "shell": text.replace("'", "'\"'\"'").encode(),
            "backwards": raw[::-1],
        }
        for offset in range(3):
            # The characters that depend on the neighbours are left out: three bytes are four characters.
            inner = base64.b64encode(b"\0" * offset + raw)[4 if offset else 0 : -4]
            found[f"base64 at {offset}"] = inner
            found[f"url-safe base64 at {offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
        return found

    def find(
        self,
        *,
        places: Iterable[str | os.PathLike[str]] = (),
        texts: Mapping[str, str | bytes] | None = None,
        processes: bool = False,
    ) -> list[str]:
        """Where the secret is, one line for each finding: place and notation.

        `places` are files and directories, with all below them and their names; `texts` are named texts. With
        `processes` the command lines of all processes that can be read are looked at.
        """
        return [
            *self._in_places(places),
            *self._in_texts(texts or {}),
            *(self._in_processes() if processes else ()),
        ]

    @contextmanager
    def watching_processes(self) -> Iterator[list[str]]:
        """Looks at the command lines of all processes as long as the block runs; findings appear in the list."""
        found: list[str] = []
        done = threading.Event()

        def look() -> None:
            while not done.wait(_LOOK_S):
                found.extend(line for line in self._in_processes() if line not in found)

        thread = threading.Thread(target=look, name="canary", daemon=True)
        thread.start()
        try:
            yield found
        finally:
            done.set()
            thread.join()

    def _in_places(self, places: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
        for place in map(Path, places):
            for path in [place, *(place.rglob("*") if place.is_dir() else ())]:
                yield from self._notations(os.fsencode(path.name), f"name of {path}")
                if path.is_file():
                    with suppress(OSError):
                        yield from self._in_content(path.read_bytes()[:_LARGEST], str(path))

    def _in_texts(self, texts: Mapping[str, str | bytes]) -> Iterator[str]:
        for name, text in texts.items():
            data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            yield from self._in_content(data, name)

    def _in_processes(self) -> Iterator[str]:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                yield from self._notations(path.read_bytes(), f"command line of process {path.parent.name}")

    def _in_content(self, data: bytes, name: str, depth: int = 0) -> Iterator[str]:
        yield from self._notations(data, name)
        if depth < _DEEP:
            for inside, content in _unpacked(data):
                yield from self._in_content(content, f"{name}, {inside}", depth + 1)

    def _notations(self, data: bytes, name: str) -> Iterator[str]:
        for notation, form in self.forms.items():
            if form in data:
                yield f"{name}: {notation}"
                return


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is inside of a compressed file or an archive; nothing for anything else."""
    for kind, begin, unpack in (
        ("gzip", b"\x1f\x8b", gzip.decompress),
        ("bzip2", b"BZh", bz2.decompress),
        ("xz", b"\xfd7zXZ", lzma.decompress),
        ("zlib", b"\x78", zlib.decompress),
    ):
        if data.startswith(begin):
            with suppress(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                yield kind, unpack(data)
    if data.startswith(b"PK"):
        with (
            suppress(zipfile.BadZipFile, RuntimeError, zlib.error),
            zipfile.ZipFile(io.BytesIO(data)) as archive,
        ):
            for name in archive.namelist():
                yield "name of a member", name.encode()
                yield name, archive.read(name)
    if data[257:262] == b"ustar":
        with suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                yield "name of a member", member.name.encode()
                yield member.name, file.read() if file else b""
