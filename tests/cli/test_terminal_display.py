from __future__ import annotations

import io
import os
import pty
import re
import threading
import time
from typing import Any

import pytest

from skyward import Instance, Offer, RunReport, TaskReport, events
from skyward.builtin import terminal
from skyward.builtin.screen import Screen, cells, clean, clip
from skyward.builtin.terminal import Display, explain, first_line, money, seconds
from skyward.errors import RemoteError, RemoteTraceback, WorkerDied

REMOTE = """Traceback (most recent call last):
  File "/srv/train.py", line 31, in fold
    model.fit(x[idx], y[idx])
    ~~~~~~~~~^^^^^^^^^^^^^^^
  File "/srv/model.py", line 7, in fit
    raise MemoryError("Unable to allocate 12.4 GiB")
MemoryError: Unable to allocate 12.4 GiB
"""


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def failed(error: BaseException, **more: Any) -> TaskReport:
    return TaskReport(
        **{
            "task": "fold",
            "index": 3,
            "attempt": 2,
            "verdict": "failed",
            "node": 1,
            "worker": 0,
            "duration_s": 1.0,
        }
        | more,
        error=error,
    )


def passed(index: int, seconds: float = 0.5) -> events.TaskFinished:
    return events.TaskFinished(
        report=TaskReport(
            task="fold",
            index=index,
            attempt=1,
            verdict="succeeded",
            node=index % 2,
            worker=0,
            duration_s=seconds,
        )
    )


def machine(node: int, usd: float | None = 0.71) -> events.InstanceLaunched:
    offer = Offer(
        provider="verda", region="FIN-01", instance_type="1A100", usd_per_hour=usd, vcpus=8, memory_gib=64
    )
    instance = Instance(id=f"i-{node}", provider="verda", offer=offer, public_address=f"95.0.0.{10 + node}")
    return events.InstanceLaunched(instance=instance, node=node)


def remote_error() -> BaseException:
    error = MemoryError("Unable to allocate 12.4 GiB")
    error.__cause__ = RemoteTraceback(REMOTE)
    return error


def whole_run() -> list[events.Event]:
    report = failed(remote_error())
    return [
        events.RunStarted(
            run="r-1", target="train.py:main", tasks=4, header=("skyward 0.1.0, python 3.12.1",)
        ),
        events.PoolStarting(pool="p", nodes=2, provider="verda"),
        machine(0),
        machine(1),
        events.StepFinished(node=0, step="packages", duration_s=3.2, detail="uv cache hit: 6 of 7 packages"),
        events.PoolReady(pool="p", nodes=2, slots=2, duration_s=60.0),
        events.TaskStarted(task="fold", index=3, attempt=2, node=1, worker=0),
        events.TaskOutput(task="fold", index=3, node=1, stream="stdout", text="epoch 3/10 loss 0.412\n"),
        passed(0),
        passed(1, 2.5),
        passed(2),
        events.TaskFinished(report=report),
        events.PoolStopped(pool="p", duration_s=192.0, usd=0.08),
        events.RunFinished(
            report=RunReport(
                run="r-1",
                succeeded=3,
                failed=1,
                duration_s=192.0,
                nodes=2,
                usd=0.08,
                exit_code=1,
                failures=(report,),
            )
        ),
    ]


def shown(story: list[events.Event], **options: Any) -> str:
    stream = io.StringIO()
    display = Display(options.pop("mode", "log"), stream, **options)
    for event in story:
        display(event)
    display.close()
    return stream.getvalue()


def without_stamps(text: str) -> list[str]:
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in text.splitlines()]


def test_a_run_reads_from_top_to_bottom() -> None:
    lines = without_stamps(shown(whole_run(), durations=2))

    for expected in (
        "skyward 0.1.0, python 3.12.1",
        "run r-1: collected 4 tasks from train.py:main",
        "provision  2 nodes on verda",
        "n1 | epoch 3/10 loss 0.412",
        "n1 | fold[1]  ok  2.50s  [ 50%]",
        "n1 | fold[3]  FAILED  MemoryError: Unable to allocate 12.4 GiB  [100%]",
        "/srv/train.py:31: in fold",
        "    model.fit(x[idx], y[idx])",
        "E   MemoryError: Unable to allocate 12.4 GiB",
        "   2.50s task      fold[1]",
        "FAILED fold[3] - MemoryError: Unable to allocate 12.4 GiB",
    ):
        assert expected in lines
    assert lines[-1].strip("= ") == "1 failed, 3 passed in 3m12s on 2 nodes - $0.08"
    assert any(re.fullmatch(r"_+ fold\[3\] on n1 \(attempt 2\) _+", line) for line in lines)
    assert any(
        line.startswith("provision  2/2  ok") and line.endswith("n0 95.0.0.10  n1 95.0.0.11")
        for line in lines
    )
    assert any(line.endswith("(uv cache hit: 6 of 7 packages)") for line in lines)


def test_the_slowest_are_shown_longest_first_and_machines_count_too() -> None:
    lines = shown(whole_run(), durations=0).splitlines()
    start = next(i for i, line in enumerate(lines) if "slowest 6 durations" in line)

    rows = [line.split()[1:] for line in lines[start + 1 : start + 7]]
    assert rows[:4] == [["task", f"fold[{index}]"] for index in (1, 3, 2, 0)]
    assert sorted(rows[4:]) == [["bootstrap"], ["provision"]]  # both take microseconds here


def test_lines_of_the_conversation_tell_the_time_and_the_report_does_not() -> None:
    lines = shown(whole_run()).splitlines()

    assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in lines if "n1 |" in line or "provision" in line)
    assert not any(re.match(r"\d\d:\d\d:\d\d", line) for line in lines if line.startswith(("E ", "=", "_")))


def test_no_escape_byte_is_written_where_nobody_can_see_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in shown(whole_run())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in shown(whole_run())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(whole_run())
    assert "\x1b" not in shown(whole_run(), mode="rich")


def test_a_node_that_is_silent_or_out_of_reach_is_told_of_before_it_is_lost() -> None:
    silent = events.NodeSuspected(node=1, silent_s=3.2)
    broken = events.NodeSuspected(node=0, silent_s=0.1, reason="gpu1: connection refused")

    text = shown([silent, broken])

    assert "n1 | nothing heard for 3.20s" in text
    assert "n0 | out of reach: gpu1: connection refused\n" in text


def test_a_worker_that_hangs_is_told_of_with_what_can_be_done() -> None:
    idle = events.TaskStalled(task="fold", index=3, node=1, pid=4711, idle_s=60.2, is_stopped=False)
    stopped = events.TaskStalled(task="fold", index=3, node=1, pid=4711, idle_s=3.0, is_stopped=True)

    text = shown([idle, stopped])

    assert "n1 | fold[3] has neither computed nor printed anything for 1m00s" in text
    assert "n1 | fold[3]: a signal has stopped its worker; there, `kill -CONT 4711` lets it go on" in text


def test_quiet_says_only_what_went_wrong_with_machines() -> None:
    lost = events.NodeLost(node=1, reason="silent for 10 s", tasks=3)
    lines = without_stamps(shown([*whole_run(), lost], mode="quiet"))

    assert lines == ["n1 | lost: silent for 10 s; 3 tasks go elsewhere"]


def test_q_leaves_failures_and_the_last_line() -> None:
    text = shown(whole_run(), verbosity=-1)

    assert "epoch 3/10" in text  # as the failed task's last output
    assert "provision" not in text
    assert "E   MemoryError: Unable to allocate 12.4 GiB" in text
    assert shown(whole_run(), verbosity=-2) == ""


def test_v_adds_steps_and_the_task_behind_each_line() -> None:
    lines = without_stamps(shown(whole_run(), verbosity=1))

    assert "n0 | packages  3.20s  (uv cache hit: 6 of 7 packages)" in lines
    assert "n1 fold[3] | epoch 3/10 loss 0.412" in lines


def test_many_tasks_get_a_line_only_when_they_fail() -> None:
    story = [events.RunStarted(run="r", target="t", tasks=1000), *(passed(i) for i in range(999))]
    story.append(events.TaskFinished(report=failed(ValueError("no"), index=999)))

    lines = without_stamps(shown(story))

    assert [line for line in lines if "fold" in line] == ["n1 | fold[999]  FAILED  ValueError: no  [100%]"]


def test_an_attempt_that_is_repeated_is_told_as_such() -> None:
    event = events.TaskFinished(report=failed(OSError("gone"), attempt=1, verdict="lost"), final=False)

    assert without_stamps(shown([event])) == ["n1 | fold[3] again, attempt 1 lost: OSError: gone"]


def test_the_session_may_name_tasks_itself() -> None:
    story = [events.TaskFinished(report=failed(ValueError("no")))]

    text = shown(story, label=lambda task, index: f"train.py::{task}[{index + 4}]")

    assert "train.py::fold[7]  FAILED" in text


def pieces(*texts: str, index: int = 0) -> list[events.Event]:
    return [events.TaskOutput(task="fold", index=index, node=0, stream="err", text=text) for text in texts]


def test_a_line_that_is_printed_piece_by_piece_is_one_line() -> None:
    story = pieces("Fatal error: ", "Segmentation fault\nFile ", '"a.py"')
    lines = without_stamps(shown([*story, *pieces("other\n", index=1), passed(0)]))

    assert [line for line in lines if line.startswith("n0 | ")] == [
        "n0 | Fatal error: Segmentation fault",
        "n0 | other",
        'n0 | File "a.py"',
    ]


def test_a_line_without_an_end_is_shown_when_it_has_waited_or_all_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert without_stamps(shown(pieces("Password: "))) == ["n0 | Password: "]
    assert len(without_stamps(shown(pieces("x" * 5000, "y\n")))[0]) > 5000

    monkeypatch.setattr(terminal, "HELD_S", -1.0)
    assert without_stamps(shown(pieces("a", "b"))) == ["n0 | a", "n0 | b"]


def test_control_sequences_of_a_task_never_reach_the_terminal() -> None:
    text = "\x1b]0;owned\x07\x1b[2Jred\x1b[31m alert\x9b5n\x00\n50%\r100%\n"
    lines = without_stamps(shown([events.TaskOutput(task="t", index=0, node=0, stream="stdout", text=text)]))

    assert lines == ["n0 | red alert�5n", "n0 | 100%"]


def test_a_stream_that_cannot_hold_a_character_gets_a_substitute() -> None:
    raw = io.BytesIO()
    display = Display("log", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    display(events.TaskOutput(task="t", index=0, node=0, stream="stdout", text="naïve ☃\n"))

    assert raw.getvalue().endswith(b"n0 | na?ve ?\n")


def test_a_broken_stream_silences_the_display_and_stops_nothing() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    display = Display("log", Broken())

    for event in whole_run():
        display(event)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0ms"),
        (0.0854, "85ms"),
        (0.9996, "1.00s"),
        (4.214, "4.21s"),
        (41.24, "41.2s"),
        (192, "3m12s"),
        (7500, "2h05m"),
    ],
)
def test_durations_have_the_precision_people_need(value: float, text: str) -> None:
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(None, "cost unknown"), (0.0, "$0.00"), (0.001, "<$0.01"), (1.425, "$1.43"), (1234.5, "$1,234.50")],
)
def test_money_is_never_shown_as_less_than_it_is_known_to_be(usd: float | None, text: str) -> None:
    assert money(usd) == text


def test_an_error_without_a_traceback_shows_its_lines_and_facts() -> None:
    error = WorkerDied(
        "fold: its worker was killed by SIGSEGV", facts=["Fatal Python error"], hints=["skyward logs r-1"]
    )

    assert explain(error) == [
        "E   WorkerDied: fold: its worker was killed by SIGSEGV  [SKW312]",
        "    Fatal Python error",
        "  hint: skyward logs r-1",
    ]


@pytest.mark.parametrize(
    ("message", "type_name", "line"),
    [
        ("SystemExit: 3", "SystemExit", "SystemExit: 3"),
        ("KeyboardInterrupt", "KeyboardInterrupt", "KeyboardInterrupt"),
        ("TwoArgs: 1 and 2", "train.TwoArgs", "train.TwoArgs: 1 and 2"),
        ("the result cannot be read here", "ImportError", "ImportError: the result cannot be read here"),
    ],
)
def test_what_cannot_be_raised_here_is_named_once(message: str, type_name: str, line: str) -> None:
    assert first_line(RemoteError(message, type_name=type_name)) == line


def test_a_file_of_the_project_is_called_as_at_home() -> None:
    error = ValueError("x")
    error.__cause__ = RemoteTraceback(
        'Traceback (most recent call last):\n  File "/home/u/.cache/skyward/runs/pool-28f756-n1/project/lib/bad.py",'
        " line 37, in fold\n    raise ValueError\nValueError: x\n"
    )

    assert explain(error)[0] == "lib/bad.py:37: in fold"


def test_an_error_raised_here_shows_where() -> None:
    try:
        int("x")
    except ValueError as caught:
        lines = explain(caught)

    assert any(line.endswith("in test_an_error_raised_here_shows_where") for line in lines)
    assert lines[-1].startswith("E   ValueError: invalid literal")


def test_an_error_whose_text_cannot_be_made_is_still_named() -> None:
    class Sulky(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert explain(Sulky()) == ["E   Sulky"]


def test_the_status_line_fits_every_width() -> None:
    display = Display("log", io.StringIO())
    for event in whole_run()[:-2]:
        display(event)

    for width in range(1, 200):
        assert cells(clip(display._status(width), width)) <= width
    assert "4/4" in display._status(80)
    assert "so far" in display._status(120)


class Terminal:
    """A pseudo-terminal, and what was written to it."""

    def __init__(self) -> None:
        self._leader, follower = pty.openpty()
        self.stream = os.fdopen(follower, "w", encoding="utf-8", buffering=1)
        self._bytes = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._leader, 65536):
                self._bytes += data
        except OSError:
            pass

    def text(self) -> str:
        self.stream.close()
        self._reader.join(5)
        os.close(self._leader)
        return self._bytes.decode()


def screen_of(text: str) -> list[str]:
    """What a terminal shows after `text`: carriage returns and wiped lines are obeyed, colours dropped."""
    lines = [""]
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")
    for piece in re.split(r"(\n|\r\x1b\[K|\r)", text):
        if piece == "\n":
            lines.append("")
        elif piece == "\r\x1b[K":
            lines[-1] = ""
        elif piece == "\r":
            continue
        elif piece:
            lines[-1] = piece if not piece.strip() or not lines[-1].strip() else lines[-1] + piece
    return [line.rstrip() for line in lines]


def test_the_status_line_is_wiped_before_each_line_and_gone_at_the_end() -> None:
    tty = Terminal()
    display = Display("auto", tty.stream)
    story = whole_run()
    for event in story[:9]:
        display(event)
    time.sleep(0.5)
    for event in story[9:]:
        display(event)
    display.close()
    text = tty.text()

    assert "[##" in text  # the bar was there
    lines = screen_of(text)
    assert not any("[##" in line for line in lines)
    assert "n1 | epoch 3/10 loss 0.412" in lines
    assert not any(re.match(r"\d\d:\d\d", line) for line in lines)


def test_without_colours_a_terminal_gets_its_status_line_without_one_escape_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    tty = Terminal()
    display = Display("auto", tty.stream)
    for event in whole_run()[:9]:
        display(event)
    time.sleep(0.4)
    display.close()
    text = tty.text()

    assert "\x1b" not in text
    assert "[##" in text


def test_a_dumb_terminal_gets_lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    tty = Terminal()
    display = Display("auto", tty.stream)

    assert not display.screen.is_live
    tty.text()


def test_what_the_program_prints_itself_does_not_touch_the_status_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tty = Terminal()
    monkeypatch.setattr("sys.stdout", tty.stream)
    screen = Screen(tty.stream, "auto")
    screen.follow(lambda room: "working")
    time.sleep(0.3)
    with screen.beside("stdout"):
        print("a line of the user")
        print("half", end="")
        time.sleep(0.3)
        print(" and half")
    screen.unfollow()
    text = tty.text()

    assert "working" in text
    assert [line for line in screen_of(text) if line] == ["a line of the user", "half and half"]


def test_one_terminal_has_one_status_line() -> None:
    tty = Terminal()
    first, second = Screen(tty.stream, "auto"), Screen(tty.stream, "auto")
    first.follow(lambda room: "first")
    second.follow(lambda room: "second")
    time.sleep(0.4)
    second.unfollow()
    first.unfollow()
    text = tty.text()

    assert "first" in text
    assert "second" not in text


def test_the_plugin_listens_only_while_a_display_is_shown() -> None:
    stream = io.StringIO()
    warning = events.WarningRaised(message="odd")

    terminal.skyward_event(warning)
    assert terminal.skyward_event_types == ()
    with terminal.shown(Display("log", stream)):
        assert events.WarningRaised in terminal.skyward_event_types
        terminal.skyward_event(warning)
    terminal.skyward_event(warning)

    assert without_stamps(stream.getvalue()) == ["warning: odd"]


def test_wide_characters_count_twice_and_combining_ones_not_at_all() -> None:
    assert cells("日本") == 4
    assert cells("e\u0301") == 1
    assert clip("日本語テキスト", 7) == "日本.."
    assert clip("short", 80) == "short"


def test_clean_keeps_printable_text_as_it_is() -> None:
    assert clean("naïve ☃ 日本\n") == "naïve ☃ 日本"
