"""Every exception of Skyward, in one tree. Imports nothing of Skyward.

    SkywardError
    ├── UsageError                 what was asked for cannot be meant (exit 2)
    │   ├── TargetError                no such module, file or function
    │   ├── ArgumentError              the arguments do not fit the task's signature
    │   ├── AcceleratorError           no accelerator of this name
    │   ├── UnknownProviderError       no provider plugin of this name
    │   ├── SizeError                  not a size, a duration or a range
    │   ├── OutputError                standard output cannot be written to
    │   ├── ConfigError                unknown or misplaced option
    │   ├── QueryError                 a question the catalog cannot be asked
    │   └── PluginError                a plugin is broken, doubled (exit 3) or unknown (exit 2)
    ├── CatalogError               prices could not be read or trusted (exit 4)
    │   ├── NoOfferError               nothing on sale fits the requirements
    │   ├── StalePricesError           prices older than the user allows
    │   ├── DamagedCatalogError        a file of prices is broken, foreign, newer or poisoned
    │   └── ImplausiblePricesError     a refresh brought prices nobody should believe
    ├── ProviderError              a cloud said no (exit 4)
    │   ├── CredentialsError           none found, or refused
    │   ├── CapacityError              no machine to be had: the next offer is tried
    │   ├── QuotaError                 the account may not: what the quota covers is skipped
    │   ├── RateLimitError             too many calls: wait and repeat
    │   └── AmbiguousLaunchError       a launch was asked for and the answer never came
    ├── TransportError             the way to a machine (exit 4)
    │   ├── HostUnreachable            no answer, refused, or silent in the handshake
    │   ├── HostKeyError               the machine is not the one we know
    │   ├── AuthenticationError        the machine does not know us
    │   ├── ConnectionLost             the stream ended without a farewell
    │   └── ProtocolError              the other side speaks nonsense
    ├── BootstrapError             a machine could not be prepared (exit 4)
    │   ├── PythonMismatchError        no Python of the client's minor version
    │   └── InstanceDiskFull           no space or inodes left on the instance
    ├── SerializationError         a value cannot travel (exit 1)
    ├── TaskError                  a task did not succeed (exit 1)
    │   ├── RemoteError                the user's code raised what cannot be raised here
    │   ├── WorkerDied                 the worker process died under the task
    │   ├── TaskTimeout                the task ran longer than its `timeout`
    │   ├── ResultTooLarge             the result is over the cap
    │   ├── TaskLost                   our side broke, more often than `retries` allows
    │   └── TaskCancelled              never started: a failure or the user stopped the group
    ├── GuardError                 a limit the user set stopped the run (exit 6)
    ├── JournalError               a launch cannot be written down, so it is not made (exit 4)
    └── CleanupError               something may still be billed (exit 7)

An error carries its `code` (`skyward explain CODE` tells more), the `facts` that show the cause, and `hints`
with commands that can be pasted. Values it speaks of are attributes, so that nobody parses its text.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What `skyward` tells the shell."""

    OK = 0
    TASK_FAILED = 1
    USAGE = 2
    INTERNAL = 3
    NO_COMPUTE = 4
    NOTHING_SELECTED = 5
    GUARD = 6
    CLEANUP = 7
    """Clean-up is incomplete and something may still be billed; wins over every other code."""
    INTERRUPTED = 130
    TERMINATED = 143


class SkywardError(Exception):
    """Root of all errors of Skyward.

    `message` is one line in lower case without a full stop. Keyword values become attributes.
    """

    code: ClassVar[str] = "SKW300"
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL

    def __init__(
        self, message: str, *, facts: Iterable[str] = (), hints: Iterable[str] = (), **values: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.facts = tuple(facts)
        self.hints = tuple(hints)
        self.values = values
        for name, value in values.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.facts, self.hints, self.values)


def _rebuild(
    kind: type[SkywardError],
    message: str,
    facts: tuple[str, ...],
    hints: tuple[str, ...],
    values: dict[str, Any],
) -> SkywardError:
    return kind(message, facts=facts, hints=hints, **values)


class UsageError(SkywardError):
    code, exit_code = "SKW100", ExitCode.USAGE


class TargetError(UsageError):
    code = "SKW101"


class ArgumentError(UsageError, TypeError):
    """A TypeError too, as for any other call."""

    code = "SKW102"


class SizeError(UsageError):
    code = "SKW103"


class OutputError(UsageError):
    code = "SKW104"


class AcceleratorError(UsageError):
    code = "SKW110"


class UnknownProviderError(UsageError):
    code = "SKW120"


class ConfigError(UsageError):
    code = "SKW130"


class QueryError(UsageError):
    code = "SKW150"


class PluginError(UsageError):
    code, exit_code = "SKW140", ExitCode.INTERNAL


class ProviderError(SkywardError):
    code, exit_code = "SKW200", ExitCode.NO_COMPUTE


class CredentialsError(ProviderError):
    code = "SKW201"


class CapacityError(ProviderError):
    """`tried` may name other offers that were asked for by the same call, such as those of other zones: they are not
    tried again."""

    code = "SKW202"


class QuotaError(ProviderError):
    """`covers` may be a function that says of an offer whether the quota stands in its way, too; without one it stands
    in the way of all offers of the provider."""

    code = "SKW203"


class RateLimitError(ProviderError):
    code = "SKW204"


class AmbiguousLaunchError(ProviderError):
    """Machines may run that nobody has told us of. Repeating the same request with the same token, or listing the
    pool's machines, shows them. Any other error of a launch says that it launched nothing."""

    code = "SKW205"


class CatalogError(SkywardError):
    code, exit_code = "SKW220", ExitCode.NO_COMPUTE


class NoOfferError(CatalogError):
    code = "SKW210"


class StalePricesError(CatalogError):
    """`providers` maps each provider to the age of its oldest price in the answer, seconds."""

    code = "SKW221"


class DamagedCatalogError(CatalogError):
    """`path` is the file that is refused, `problem` why."""

    code = "SKW222"


class ImplausiblePricesError(CatalogError):
    """`provider` and the `problems` found; the old prices stay in use with their old date."""

    code = "SKW223"


class SerializationError(SkywardError):
    code, exit_code = "SKW301", ExitCode.TASK_FAILED


class RemoteTraceback(Exception):
    """The traceback of the other side, as text; the `__cause__` of an exception a task raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def remote_traceback(error: BaseException) -> str:
    """The traceback text of the machine an error comes from, or ""."""
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__.text
    return str(getattr(error, "remote_traceback", "") or "")


class TaskError(SkywardError):
    """A task did not succeed. `remote_traceback` is the text from the other side, or ''."""

    code, exit_code = "SKW310", ExitCode.TASK_FAILED
    remote_traceback: str = ""


class RemoteError(TaskError):
    """The user's code raised what cannot, or must not, be raised here. `type_name` says what it was."""

    code = "SKW311"
    type_name: str = ""


class WorkerDied(TaskError):
    """`exit_code_` or `signal` of the process, its `peak_rss_bytes`, and the last lines of `stderr_tail`."""

    code = "SKW312"
    signal: str | None = None
    exit_status: int | None = None
    peak_rss_bytes: int | None = None
    stderr_tail: str = ""


class TaskTimeout(TaskError):
    code = "SKW313"


class ResultTooLarge(TaskError):
    code = "SKW314"


class TaskLost(TaskError):
    code = "SKW315"


class TaskCancelled(TaskError):
    code = "SKW316"


class TransportError(SkywardError):
    code, exit_code = "SKW400", ExitCode.NO_COMPUTE


class BootstrapError(SkywardError):
    """`step` names what failed; `tail` holds the last lines it printed, redacted."""

    code, exit_code = "SKW401", ExitCode.NO_COMPUTE
    step: str = ""
    tail: str = ""


class HostUnreachable(TransportError):
    code = "SKW402"


class HostKeyError(TransportError):
    code = "SKW403"


class AuthenticationError(TransportError):
    code = "SKW404"


class ConnectionLost(TransportError):
    code = "SKW405"


class ProtocolError(TransportError):
    code = "SKW406"


class PythonMismatchError(BootstrapError):
    """`wanted` and `client` are Python versions ("3.11")."""

    code = "SKW407"
    wanted: str = ""
    client: str = ""


class InstanceDiskFull(BootstrapError):
    """`directory` is the place on the instance that takes no more."""

    code = "SKW408"
    directory: str = ""


class GuardError(SkywardError):
    code, exit_code = "SKW601", ExitCode.GUARD


class CleanupError(SkywardError):
    code, exit_code = "SKW701", ExitCode.CLEANUP


class JournalError(SkywardError):
    """`path` is the journal that cannot be written or read."""

    code, exit_code = "SKW702", ExitCode.NO_COMPUTE


class SkywardWarning(UserWarning):
    """Something the user should know that stops nothing; `skyward` shows it as a `warning:` line."""

    def __init__(self, message: str, *, hints: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.hints = tuple(hints)
