"""What the client wants of this instance before it runs tasks: archives in their place, workers. Any Python >= 3.8."""

from __future__ import annotations

import os

from skyward.remote import wire
from skyward.remote.node.files import make_directory
from skyward.remote.node.leftovers import below, hold, touch
from skyward.remote.node.unpack import check, unpack

TYPE_CHECKING = False  # see `lean`
if TYPE_CHECKING:
    from typing import Any, Dict, Iterator, List, Optional, Tuple

    from skyward.remote.node.crew import Crew
    from skyward.remote.node.line import Line
    from skyward.remote.node.values import Values


class Archives:
    """Archives, which stay on the machine for later runs, and which of them this one uses."""

    def __init__(self, directory: str, run_directory: str, values: Values) -> None:
        self._root = directory
        self._directory = make_directory(directory, "archives")
        self._run_directory = run_directory
        self._values = values
        self._used: List[str] = []

    @property
    def names(self) -> List[str]:
        return [name[:-4] for name in os.listdir(self._directory) if name.endswith(".zip")]

    def have(self, digest: str) -> bool:
        """Whether this one is here; one that has just come as a long value is put into its place."""
        path = self._zip(digest)
        if digest in self._values.have and not os.path.exists(path):
            os.rename(os.path.join(self._values.blobs, digest), path)
        return os.path.exists(path)

    def hold(self, names: List[str]) -> None:
        """Says that this run may be about to use these, so they may not be removed."""
        hold(self._run_directory, ["archives/" + name for name in names])

    def use(self, names: List[str], python: str) -> None:
        """Says that it uses these, and the environment and the Python that its workers run in."""
        self._used = ["archives/" + name for name in names] + below(self._root, python)
        hold(self._run_directory, self._used)
        self.touch()

    def touch(self) -> None:
        """Says that what this run uses is used now."""
        touch(self._root, self._used)

    def place(self, digest: str, role: str) -> str:
        """Where an archive lies unpacked: private to this run for the user's project; shared for our own runtime, which
        the first worker that gets a task unpacks.

        Raises:
            OSError, ValueError: see `check` and `unpack`.
        """
        target = os.path.join(self._directory, digest)
        if role != "runtime":
            target = os.path.join(self._run_directory, role)
        if not os.path.isdir(target):
            check(self._zip(digest), digest)
        if role != "runtime":
            unpack(self._zip(digest), target)
        return target

    def _zip(self, digest: str) -> str:
        return os.path.join(self._directory, digest + ".zip")


class Configuration:
    """What was asked for last, and who makes it so once everything that it takes has come."""

    def __init__(
        self,
        run_directory: str,
        modules: bytes,
        *,
        archives: Archives,
        values: Values,
        crew: Crew,
        line: Line,
    ) -> None:
        self._wanted: Optional[Dict[str, Any]] = None
        self._run_directory = run_directory
        self._modules = modules
        self._archives = archives
        self._values = values
        self._crew = crew
        self._line = line

    @property
    def is_known(self) -> bool:
        """Whether the client has said what it wants."""
        return self._wanted is not None

    def take(self, wanted: Dict[str, Any]) -> None:
        self._wanted = wanted
        self.apply()

    def apply(self) -> None:
        """Starts the workers once every archive they need has come."""
        wanted = self._wanted
        if wanted is None or self._crew.slots:
            return
        if not all(self._archives.have(one["digest"]) for one in wanted["archives"]):
            return
        self._archives.use([one["digest"] for one in wanted["archives"]], wanted["python"])
        try:
            places = {
                one["role"]: self._archives.place(one["digest"], one["role"]) for one in wanted["archives"]
            }
            for worker, spawn in self._spawns(wanted, places):
                self._crew.add(worker, spawn)
        except (OSError, ValueError) as error:
            self._line.say(
                wire.NOTICE, {"what": "cannot-configure", "error": "%s: %s" % (type(error).__name__, error)}
            )
            self._wanted = None

    def _spawns(self, wanted: Dict[str, Any], places: Dict[str, str]) -> Iterator[Tuple[int, Dict[str, Any]]]:
        """For each slot: its worker, and how a process for that is started."""
        environment = dict(os.environ)
        environment.update(wanted["env"])
        cwd = wanted.get("cwd") or places.get("project") or make_directory(self._run_directory, "work")
        settings = {
            "sys_path": search_path(places, wanted["sys_path"], cwd),
            "runtime": places.get("runtime"),
            "blobs": self._values.blobs,
            "spool": self._values.spool,
            "result_cap": wanted.get("result_cap"),
        }
        modules = os.path.join(self._run_directory, "modules")
        with open(modules, "wb") as file:
            file.write(self._modules)
        for worker, extra in enumerate(wanted["workers"]):
            for _ in range(wanted["concurrency"]):
                yield worker, {
                    "python": wanted["python"], "modules": modules, "env": dict(environment, **extra), "cwd": cwd,
                    "settings": settings,
                }  # fmt: skip


def search_path(places: Dict[str, str], wanted: List[str], cwd: str) -> List[str]:
    """Where workers look for modules: the project's own places, then the project, our runtime, and the rest.

    Relative places are meant inside the project; made absolute here, so that a task may change its directory.
    """
    project = places.get("project", cwd)
    own = [os.path.normpath(os.path.join(project, place)) for place in wanted if not os.path.isabs(place)]
    shared = [places[role] for role in ("project", "runtime") if role in places]
    path = own + shared + [place for place in wanted if os.path.isabs(place)]
    return list(dict.fromkeys(path))
