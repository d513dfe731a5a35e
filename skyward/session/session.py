"""One `skyward run`, from the target to the exit code. Imports `api` and what is below it, and its neighbours.

`prepare` finds out what there is to do and costs nothing, `plan` says what would be rented, `execute` rents, runs,
ends and reports. What goes wrong in `execute` becomes part of the run's report; only then it is raised.
"""

from __future__ import annotations

import contextlib
import inspect
import platform
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from skyward.errors import CleanupError, ExitCode, GuardError, SkywardError
from skyward.model.event import RunFinished, RunStarted, WarningRaised
from skyward.model.outcome import Outcome
from skyward.model.report import RunReport, TaskReport
from skyward.model.sizes import parse_duration
from skyward.model.task import Task
from skyward.session import answer, collect
from skyward.session.interrupt import DeadlinePassed, Interrupted, Interrupts
from skyward.session.last import failed_last
from skyward.session.record import Recorder, ReportLog
from skyward.session.select import matcher
from skyward.session.store import KEEP, LOGS, Store, brief, new_id, prune, utc
from skyward.session.target import Target, load, pool_arguments

if TYPE_CHECKING:
    from skyward.api.pool import ComputePool
    from skyward.config import Config
    from skyward.model.plan import Plan
    from skyward.plugins import Plugins
    from skyward.remote.secrets import Redactor


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked on the command line."""

    target: str
    wishes: collect.Wishes = field(default_factory=collect.Wishes)
    pool: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pool; they win over those of `@sky.pool` and of the configuration."""
    keyword: str = ""
    """Expression of `-k`."""
    maxfail: int = 0
    last_failed: Literal["", "only", "first"] = ""
    """What to do with the items that failed last: run nothing else, or run them before everything else."""
    report_log: Path | None = None
    """Where every event goes as it comes, a line of JSON each."""
    as_json: bool = False


class Session:
    """One run. Plugins see it in `skyward_collect` and `skyward_modify_items`."""

    def __init__(self, request: Request, config: Config, plugins: Plugins) -> None:
        self.id = new_id()
        self.request = request
        self.config = config
        self.target: Target | None = None
        self.items: list[collect.Item] = []
        """What is selected, in order."""
        self.notes: list[str] = []
        """What to tell people about the selection."""
        self.driver: collect.Driver | None = None
        """The function that sends calls of its own making, where the target is one."""
        self.report: RunReport | None = None
        self._plugins = plugins
        self._pool: ComputePool | None = None
        self._store: Store | None = None
        self._hidden: Redactor | None = None
        self._outcomes: dict[int, Outcome] = {}
        self._failures: list[TaskReport] = []
        self._logs: list[Path] = []
        """Where the output of the nodes is, in full."""
        self._driver_error: Exception | None = None
        """What the driver raised, its tasks' errors included."""

    # -- before anything starts --------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Imports the target, checks its arguments, and collects and selects its items.

        Raises:
            UsageError: the target, its arguments, an option or the selection cannot be meant.
        """
        from skyward.api.pool import ComputePool
        from skyward.config import merged

        self._plugins.configure(self.config)
        with self._answer_kept_clean():
            self.target = load(self.request.target)
            self.driver = collect.driver_of(self.target, self.request.wishes)
            tasks = [] if self.driver else collect.collect(self.target, self.request.wishes)
        own = pool_arguments(self.target.functions[0])
        self._pool = ComputePool(**merged(own, dict(self.request.pool)))
        tasks += self._plugins.collect(self)
        self._plugins.modify_items(self, tasks)
        self._select(tasks)

    def _select(self, tasks: Sequence[Task]) -> None:
        matches = matcher(self.request.keyword)
        self.items = [item for item in self._named(tasks) if matches(item.id)]
        if self.driver is not None and not matches(self.driver.id):
            self.driver = None
        if self.request.last_failed and self.items:
            self._select_failed()

    def _select_failed(self) -> None:
        """Leaves the items that failed last, or puts them first; all of them where there are none, as pytest does."""
        failed = failed_last(self.config.places.state, self.request.target, Path.cwd())
        bad = [item for item in self.items if item.id in (failed or ())]
        if not bad:
            why = "was run before" if failed is None else "failed last"
            self.notes.append(f"nothing of this {why}: all of it is run")
        elif self.request.last_failed == "only":
            self.notes.append(f"{len(bad)} of {len(self.items)} tasks failed last: only those are run")
            self.items = bad
        else:
            self.notes.append(f"{len(bad)} of {len(self.items)} tasks failed last: those are run first")
            self.items = [*bad, *(item for item in self.items if item not in bad)]

    def _named(self, tasks: Sequence[Task]) -> list[collect.Item]:
        assert self.target is not None
        return collect.named(collect.with_retries(tasks, self.request.wishes.retries), self.target.location)

    @property
    def ids(self) -> list[str]:
        """Names of everything that is selected, in order."""
        return [item.id for item in self.items] + ([self.driver.id] if self.driver else [])

    def label(self, task: str, index: int) -> str:
        """What people call a task of the run that events call `task` and `index`; "" for those of a driver."""
        if self.driver is not None or not 0 <= index < len(self.items):
            return ""
        return self.items[index].name

    def plan(self) -> Plan:
        """What would be rented; the pool launches from this very plan."""
        return self._prepared_pool().plan()

    def check_credentials(self, plan: Plan) -> None:
        """Before anybody is asked to spend.

        Raises:
            CredentialsError: the provider that is chosen finds none.
        """
        from skyward.api.planning import sources

        for source in sources(self._prepared_pool()._effective(), self._plugins):
            if plan.chosen is not None and source.name == plan.chosen.provider:
                source.ready()

    def environment(self, plan: Plan) -> dict[str, Any]:
        """What tasks would find on the nodes: Python, packages, and the code that would travel there."""
        image = self._prepared_pool()._effective().image
        stays = plan.chosen is not None and plan.chosen.provider == "local"
        return {
            "python": image.python or f"{sys.version_info.major}.{sys.version_info.minor}",
            "packages": [*image.pip, *image.apt],
            "variables": sorted(image.env),
            "code": None if stays or not image.project else _travelling_code(),
        }

    def _prepared_pool(self) -> ComputePool:
        assert self._pool is not None, "prepare() comes first"
        return self._pool

    # -- the run -----------------------------------------------------------------------------------------------

    def execute(self, plan: Plan, header: Sequence[str] = ()) -> int:
        """Rents, runs, ends, reports and answers; gives the exit code. `header` begins the report.

        Raises:
            SkywardError: what ended the run, where it was more than a task that failed; everything is reported.
        """
        started_at, began = time.time(), time.monotonic()
        report_log = self._open_report_log()
        self._store = self._open_store(plan, started_at)
        recorder = Recorder(store=self._store)
        self._plugins.register(recorder, "skyward-run")
        error: BaseException | None = None
        try:
            with Interrupts(self._hurry) as interrupts:
                try:
                    self._tell_start(header)
                    self._work(interrupts)
                except BaseException as caught:
                    error = caught.error if isinstance(caught, DeadlinePassed) else caught
                interrupts.stopping()
                error = self._ensure_stopped(error)
                if error is None and interrupts.heard:
                    error = Interrupted(interrupts.heard)
                self.report = self._make_report(recorder, time.monotonic() - began, error)
                self._tell_of_logs(recorder.dropped)
                self._answer(self.report, recorder, plan, started_at, error)
                self._plugins.event(RunFinished(report=self.report))
                self._plugins.run_finished(self.report)
        finally:
            self._plugins.unregister(recorder)
            if report_log is not None:
                self._plugins.unregister(report_log)
                report_log.close()
            if self._store is not None:
                self._store.close()
        return self._conclude(self.report, error)

    def _tell_start(self, header: Sequence[str]) -> None:
        tasks = 0 if self.driver else len(self.items)
        event = RunStarted(run=self.id, target=self.request.target, tasks=tasks, header=tuple(header))
        self._plugins.event(event)

    def _work(self, interrupts: Interrupts) -> None:
        """Everything that happens while there are machines."""
        with self._prepared_pool() as pool:
            if self._store is not None:
                pool._need().logs_directory = self._store.directory / LOGS
            try:
                if self.driver is not None:
                    self._drive(self.driver, interrupts)
                if self.items:
                    self._fly()
            finally:
                if interrupts.heard is None:
                    self._keep_logs()
                interrupts.stopping()

    def _keep_logs(self) -> None:
        """Brings here what was printed on the nodes, in full, before it goes with them."""
        running = self._prepared_pool()._running
        if running is None:
            return
        try:
            self._logs = running.keep_logs()
        except OSError as error:
            self._plugins.event(WarningRaised(message=f"the output of the nodes is not kept: {error}"))

    def _tell_of_logs(self, dropped: int) -> None:
        """Where to find what was printed and not shown."""
        if dropped and self._logs:
            places = " ".join(shlex.quote(str(path)) for path in self._logs[:4])
            message = f"{dropped:,} bytes of output were not shown; all of it is in the directory of this run"
            self._plugins.event(WarningRaised(message=message, hint=f"less {places}"))

    def _fly(self) -> None:
        """Sends the items and takes their outcomes as they come."""
        from skyward.session.flight import RunFlight

        running = self._prepared_pool()._need()
        tasks = [item.task for item in self.items]
        flight = RunFlight(running._ready_engine(), tasks, maxfail=self.request.maxfail)
        running._launch(flight)
        each = self.request.wishes.each
        if each:
            self.items = collect.per_worker(self.items, running.engine.workers)
        for index, outcome in flight.outcomes(each=each):
            self._outcomes[index] = outcome
            self._keep(index, self.items[index].id, outcome)
            if outcome.verdict in ("failed", "lost"):
                self._failures.append(self._failure(index, outcome))

    def _failure(self, index: int, outcome: Outcome) -> TaskReport:
        """The last attempt at an item, as the event of its end told it."""
        return TaskReport(
            task=self.items[index].task.name,
            index=index,
            attempt=outcome.attempt,
            verdict=outcome.verdict,
            node=outcome.node,
            worker=outcome.worker,
            duration_s=outcome.duration_s,
            error=outcome.error,
        )

    def _drive(self, driver: collect.Driver, interrupts: Interrupts) -> None:
        """Calls the user's function here. Calls it gives back become the items; any other value is its answer."""
        if (seconds := self._timeout_s()) is not None:
            error = GuardError(f"the work took longer than --timeout {self.request.pool['timeout']}")
            interrupts.deadline(seconds, error)
        began = time.monotonic()
        try:
            with self._answer_kept_clean():
                value = _finished(driver.function(*driver.call.args, **driver.call.kwargs))
                tasks = collect.pending_calls(value, driver.name)
        except Exception as error:  # the user's own code
            self._driver_error = error
            raise
        if tasks is not None:
            self.driver, self.items = None, [*self._named(tasks), *self.items]
            return
        self._outcomes[-1] = outcome = Outcome("succeeded", value, duration_s=time.monotonic() - began)
        self._keep(-1, driver.id, outcome)

    def _hurry(self) -> bool:
        """The end of the machines is left to the reaper; called by a signal handler."""
        running = self._prepared_pool()._running
        return running is not None and running.fleet.hurry()

    def _timeout_s(self) -> float | None:
        timeout = self.request.pool.get("timeout")
        return None if timeout is None else parse_duration(timeout)

    def _ensure_stopped(self, error: BaseException | None) -> BaseException | None:
        """Machines that an interrupted clean-up left are ended now; what cannot be ended wins over all."""
        try:
            self._prepared_pool().stop()
        except CleanupError as problem:
            return problem
        return error

    # -- what became of it -------------------------------------------------------------------------------------

    def _make_report(self, recorder: Recorder, duration_s: float, error: BaseException | None) -> RunReport:
        verdicts, failures = self._verdicts(recorder)
        if (own := self._own_failure(recorder, duration_s)) is not None:
            failures.append(own)
            verdicts["failed"] += 1
        return RunReport(
            run=self.id,
            succeeded=verdicts["succeeded"],
            failed=verdicts["failed"],
            lost=verdicts["lost"],
            cancelled=verdicts["cancelled"],
            duration_s=duration_s,
            nodes=len(recorder.nodes),
            usd=self._prepared_pool().cost if recorder.nodes else 0.0,
            exit_code=_exit_code(verdicts, error),
            failures=tuple(failures),
        )

    def _verdicts(self, recorder: Recorder) -> tuple[Counter[str], list[TaskReport]]:
        """How many tasks ended how, and the failed ones: of the items by their outcomes; what a driver sent is known
        by its events only."""
        if self.driver is not None:
            return recorder.verdicts.copy(), list(recorder.failures)
        verdicts: Counter[str] = Counter(outcome.verdict for outcome in self._outcomes.values())
        verdicts["cancelled"] += len(self.items) - len(self._outcomes)
        return verdicts, list(self._failures)

    def _own_failure(self, recorder: Recorder, duration_s: float) -> TaskReport | None:
        """The failure of the driver itself; none where it passed on that of one of its tasks."""
        error = self._driver_error
        if self.driver is None or error is None or isinstance(error, GuardError):
            return None
        if any(report.error is error for report in recorder.failures):
            return None
        return TaskReport(
            task=self.driver.name,
            index=-1,
            attempt=1,
            verdict="failed",
            node=-1,
            worker=-1,
            duration_s=duration_s,
            error=error,
        )

    def _answer(
        self,
        report: RunReport,
        recorder: Recorder,
        plan: Plan,
        started_at: float,
        error: BaseException | None,
    ) -> None:
        """Writes the values to standard output, and the end of the run to disk."""
        about = answer.document(
            report=report,
            target=self.request.target,
            started_at=started_at,
            recorder=recorder,
            usd_per_hour=plan.usd_per_hour,
            error=error,
        )
        answers = self._answers()
        if self.request.as_json:
            answer.write_json(about, answers)
        else:
            answer.write_lines(answers)
        if self._store is not None:
            with contextlib.suppress(OSError):
                self._store.write("report.json", about)

    def _answers(self) -> list[answer.Answer]:
        found = [
            answer.Answer(id=item.id, index=i, arguments=item.arguments, outcome=self._outcomes.get(i))
            for i, item in enumerate(self.items)
        ]
        if self.driver is None:
            return found
        outcome = self._outcomes.get(-1)
        if outcome is None and self._driver_error is not None:
            outcome = Outcome("failed", error=self._driver_error)
        named = self.driver.call.named
        own = answer.Answer(id=self.driver.id, index=len(found), arguments=named, outcome=outcome)
        return [*found, own]

    def _conclude(self, report: RunReport, error: BaseException | None) -> int:
        is_told = error is self._driver_error and not isinstance(error, GuardError)
        if isinstance(error, Exception) and not is_told:
            raise error
        return int(report.exit_code)

    # -- on disk -----------------------------------------------------------------------------------------------

    def hide_secrets(self, text: str) -> str:
        """The text without the secrets of the tasks' environment, as it is shown."""
        from skyward.remote.secrets import of_display

        if self._hidden is None:
            self._hidden = of_display(self._prepared_pool()._effective().image.env)
        return self._hidden.redact_known(text)

    def _open_store(self, plan: Plan, started_at: float) -> Store | None:
        """The directory of the run; a run that cannot be kept is still a run."""
        from skyward.remote.secrets import Redactor

        redactor = Redactor(env=self._prepared_pool()._effective().image.env)
        prune(self.config.places.state, parse_duration(self.config.get("run.keep", KEEP)))
        try:
            store = Store.create(self.config.places.state, self.id, redactor.redact)
            store.write("run.json", self._asked(started_at))
            chosen = {"chosen": plan.chosen, "usd_per_hour": plan.usd_per_hour}
            store.write("plan.json", {"requirements": plan.requirements, **chosen})
            for index, item in enumerate(self.items):
                arguments = brief(item.arguments)
                store.append("items.jsonl", {"index": index, "id": item.id, "arguments": arguments})
        except OSError as error:
            self._plugins.event(WarningRaised(message=f"this run is not kept: {error}"))
            return None
        return store

    def _open_report_log(self) -> ReportLog | None:
        """Listens from now on.

        Raises:
            UsageError: the file cannot be written.
        """
        if self.request.report_log is None:
            return None
        from skyward.remote.secrets import Redactor

        redactor = Redactor(env=self._prepared_pool()._effective().image.env)
        log = ReportLog(self.request.report_log, redactor.redact)
        self._plugins.register(log, "report-log")
        return log

    def _asked(self, started_at: float) -> dict[str, Any]:
        from skyward import __version__

        return {
            "schema": "skyward.run-request/1",
            "run": self.id,
            "target": self.request.target,
            "arguments": list(self.request.wishes.words),
            "pool": {**self.request.pool, "env": sorted(self.request.pool.get("env", ()))},
            "keyword": self.request.keyword,
            "directory": str(Path.cwd()),
            "started_at": utc(started_at),
            "skyward": __version__,
            "python": platform.python_version(),
        }

    def _keep(self, index: int, name: str, outcome: Outcome) -> None:
        if self._store is not None:
            with contextlib.suppress(OSError):
                self._store.outcome(index, name, outcome)

    @contextlib.contextmanager
    def _answer_kept_clean(self) -> Iterator[None]:
        """With `--json`, what the user's code prints here goes to standard error: stdout is one document."""
        if not self.request.as_json:
            yield
            return
        with contextlib.redirect_stdout(sys.stderr):
            yield


def _exit_code(verdicts: Mapping[str, int], error: BaseException | None) -> int:
    if isinstance(error, Interrupted):
        return error.exit_code
    if isinstance(error, SkywardError):
        return int(error.exit_code)
    is_short = any(verdicts.get(verdict) for verdict in ("failed", "lost", "cancelled"))
    return ExitCode.TASK_FAILED if error is not None or is_short else ExitCode.OK


def _travelling_code() -> dict[str, Any]:
    from skyward.cloud.project import project_root
    from skyward.remote.bundle import project_archive

    root = project_root()
    archive = project_archive(root)
    return {
        "directory": str(root),
        "files": archive.files,
        "bytes": len(archive.data),
        "left_here": list(archive.skipped),
    }


def _finished(value: Any) -> Any:
    """What a function gave; a coroutine is run to its end first."""
    if not inspect.iscoroutine(value):
        return value
    import asyncio

    return asyncio.run(value)
