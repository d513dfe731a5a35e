"""The report that continuous integration reads: one XML file in the form of JUnit, as pytest writes it.

A plugin on events, for as long as a run lasts that was asked for it with `--junitxml`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree as xml

from skyward import RunReport, TaskReport, UsageError, events, hookimpl
from skyward.builtin.terminal import explain, first_line

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document can hold, in whatever spelling: https://www.w3.org/TR/xml/#charsets (read 2026-11)."""


class JUnitReport:
    """Writes `path` when the run is over. `label` and `items` say what tasks are called, `location` what file they are of."""

    def __init__(
        self,
        path: Path,
        *,
        location: str,
        label: Callable[[str, int], str],
        items: Callable[[], Sequence[str]],
    ) -> None:
        """Raises:
        UsageError: the file cannot be written; said before anything has started.
        """
        self._path = path
        self._location = location
        self._label = label
        self._items = items
        self._began = time.time()
        self._ended: dict[tuple[str, int], TaskReport] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise UsageError(f"--junitxml {str(path)!r} cannot be written: {error.strerror}") from error

    @hookimpl
    def skyward_event(self, event: events.Event) -> None:
        if isinstance(event, events.TaskFinished) and event.final:
            self._ended[event.report.task, event.report.index] = event.report

    @hookimpl
    def skyward_run_finished(self, report: RunReport) -> None:
        for failure in report.failures:  # that of a driver, too, which no event has told of
            self._ended.setdefault((failure.task, failure.index), failure)
        text = xml.tostring(self._document(report), encoding="unicode", xml_declaration=False)
        beside = self._path.with_name(f".{self._path.name}.new")
        beside.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', encoding="utf-8")
        os.replace(beside, self._path)

    def _document(self, report: RunReport) -> xml.Element:
        root = xml.Element("testsuites", name="skyward")
        suite = xml.SubElement(root, "testsuite", name="skyward", hostname=os.uname().nodename)
        cases = [self._case(one) for one in self._ended.values()]
        cases += [_skipped(self._element(name, 0.0), "it did not start") for name in self._not_started()]
        suite.extend(cases)
        counts = {
            kind: sum(case.find(kind) is not None for case in cases)
            for kind in ("failure", "error", "skipped")
        }
        suite.attrib |= {
            "tests": str(len(cases)), "failures": str(counts["failure"]), "errors": str(counts["error"]),
            "skipped": str(counts["skipped"]), "time": f"{report.duration_s:.3f}",
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(self._began)),
        }  # fmt: skip
        return root

    def _not_started(self) -> list[str]:
        known = {self._name(one) for one in self._ended.values()}
        return [name for item in self._items() if (name := item.rpartition("::")[2]) not in known]

    def _name(self, report: TaskReport) -> str:
        if given := self._label(report.task, report.index):
            return given
        is_one_of_many = report.index > 0 or (report.task, 1) in self._ended
        return f"{report.task}[{report.index}]" if is_one_of_many and report.index >= 0 else report.task

    def _element(self, name: str, duration_s: float) -> xml.Element:
        return xml.Element(
            "testcase", classname=_clean(self._location), name=_clean(name), time=f"{duration_s:.3f}"
        )

    def _case(self, report: TaskReport) -> xml.Element:
        case = self._element(self._name(report), report.duration_s)
        if report.verdict == "cancelled":
            return _skipped(case, "it was cancelled")
        if report.verdict != "succeeded":
            kind = "failure" if report.verdict == "failed" else "error"
            told = xml.SubElement(case, kind, message=_clean(first_line(report.error)))
            told.text = _clean("\n".join(explain(report.error)))
        return case


def _skipped(case: xml.Element, why: str) -> xml.Element:
    xml.SubElement(case, "skipped", message=why)
    return case


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
