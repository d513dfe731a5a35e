"""What tasks import of Skyward and what comes with it. Standard library only: it runs in the user's environment."""

from __future__ import annotations

import marshal
import sys
import zlib

from skyward.remote.node.outcomes import NoRoom
from skyward.remote.node.unpack import unpack

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any


class Runtime:
    """Where tasks find the parts of Skyward, and cloudpickle: the latter came with us, and the rest is unpacked when it
    is asked for, or could be by processes that a task starts. One of the importers of `sys.meta_path`."""

    ASKING = ("skyward", "multiprocessing.spawn")

    def __init__(self, directory: str, codes: dict[str, bytes]) -> None:
        self._directory = directory
        self._codes = codes

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in self._codes:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, self, is_package=name == "cloudpickle", origin=f"<skyward {name}>")  # type: ignore[arg-type]
        if name in self.ASKING:
            try:
                unpack(f"{self._directory}.zip", self._directory)
            except OSError as error:
                raise NoRoom(f"the runtime cannot be unpacked to {self._directory}: {error}") from None
            sys.path_importer_cache.pop(self._directory, None)  # it may have been looked for in vain
        return None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(marshal.loads(zlib.decompress(self._codes[module.__name__])), module.__dict__)
