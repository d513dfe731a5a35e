"""Long values on their way: pieces that come, pieces that go, files in between. Any Python >= 3.8."""

from __future__ import annotations

import os

from skyward.remote import wire
from skyward.remote.node.files import make_directory, unlink
from skyward.remote.node.lean import OrderedDict

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, Set, Tuple

    from skyward.remote.node.line import Line


class Values:
    """The values of one run: in `blobs` those that have come, by digest, in `spool` those that workers have written."""

    def __init__(self, run_directory: str, logs: str, line: Line) -> None:
        self.blobs = make_directory(run_directory, "blobs")
        self.spool = make_directory(run_directory, "spool")
        self.have: Set[str] = set()
        """What has come and is whole."""
        self.fetches: OrderedDict[str, Tuple[Any, int, int]] = OrderedDict()
        """What the client is being sent: file, from where on, how long it is."""
        self.is_starved = False
        """Whether all that has been written so far of one of those is sent."""
        self._receiving: Dict[str, Tuple[Any, int]] = {}
        self._logs = logs
        self._line = line

    def let_go(self) -> None:
        """The client has gone: it fetches nothing more, and begins anew with what it was sending."""
        self.fetches.clear()
        for digest, (file, _) in self._receiving.items():
            file.close()
            os.unlink(self._part(digest))
        self._receiving.clear()

    # -- values that come --

    def take(self, header: Dict[str, Any], payload: Any, begin: Callable[[str, int], None]) -> bool:
        """Writes a piece down; True when its value is whole now. `begin` is told of the first piece of a value."""
        digest, offset, total = header["digest"], header["offset"], header["total"]
        if digest not in self._receiving and offset:
            return False  # the rest of a value there was no room for; a file of it would have a hole
        try:
            if digest not in self._receiving:
                self._receiving[digest] = (open(self._part(digest), "wb", buffering=0), total)  # noqa: SIM115 - open until it is complete
                begin(digest, total)
            file = self._receiving[digest][0]
            file.seek(offset)
            view = memoryview(payload)
            while view:
                view = view[file.write(view) :]
            if offset + len(payload) < total:
                return False
            file.close()
            del self._receiving[digest]
            os.rename(self._part(digest), os.path.join(self.blobs, digest))
        except OSError as error:
            self._no_room(digest, error)
            return False
        self.have.add(digest)
        return True

    def _part(self, digest: str) -> str:
        return os.path.join(self.blobs, digest + ".part")

    def _no_room(self, digest: str, error: OSError) -> None:
        file, _ = self._receiving.pop(digest, (None, 0))
        if file is not None:
            file.close()
        unlink(self._part(digest))
        self._line.say(
            wire.NOTICE, {"what": "no-room", "digest": digest, "directory": self.blobs, "error": str(error)}
        )

    # -- values that go --

    def fetch(self, header: Dict[str, Any]) -> None:
        """From now on `send` sends this value, or the end of this log."""
        name = header["name"]
        folder = self._logs if name.endswith(".log") else self.spool
        try:
            file = open(os.path.join(folder, os.path.basename(name)), "rb", buffering=0)  # noqa: SIM115 - open as long as it is being sent
        except OSError as error:
            self._line.say(wire.NOTICE, {"what": "no-such-value", "name": name, "error": str(error)})
            return
        total = header.get("total", os.fstat(file.fileno()).st_size)
        offset = max(0, total - header["last"]) if "last" in header else header.get("offset", 0)
        self.fetches[name] = (file, offset, total)

    def send(self) -> None:
        """Queues further pieces of what the client fetches, a few at a time and in turn."""
        self.is_starved = False
        while self.fetches and not self._line.is_full:
            name, (file, offset, total) = self.fetches.popitem(last=False)
            file.seek(offset)
            piece = file.read(min(wire.CHUNK, total - offset))
            if piece or not total:
                self._line.say(wire.PIECE, {"name": name, "offset": offset, "total": total}, piece)
            if offset + len(piece) >= total:
                file.close()
                continue
            self.fetches[name] = (file, offset + len(piece), total)
            if not piece:
                self.is_starved = True
                return

    def drop(self, header: Dict[str, Any]) -> None:
        """Removes values that nobody needs any more."""
        for name in header.get("names", ()):
            file, _, _ = self.fetches.pop(name, (None, 0, 0))
            if file is not None:
                file.close()
            unlink(os.path.join(self.spool, os.path.basename(name)))
        for digest in header.get("digests", ()):
            self.have.discard(digest)
            unlink(os.path.join(self.blobs, os.path.basename(digest)))
