"""`skyward run` on this machine, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Skyward = Callable[..., Any]
Runs = Callable[[], list[Path]]
Read = Callable[[Path], list[dict[str, Any]]]


# -- targets and values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        (["train.py:hello"], "hello world\n"),
        (["train:hello", "--", "--name", "you", "--mode=loud"], "HELLO YOU\n"),
        (["train.py::hello", "name=you"], "hello you\n"),
        (["train.py:plain", "--", "3"], "{'sum': 5}\n"),
        (["train.py:nothing"], ""),
        (["math:hypot", "--", "3", "4"], "5.0\n"),
        (["train.py:folds", "--", "-n", "3"], "0.0\n1.0\n2.0\n"),
        (["train.py:driver"], "printed here\n3.0\n"),
        (["train.py:listing"], "0.0\n1.0\n2.0\n"),
        (["train.py:later"], "4.0\n"),
        (["train.py:pooled"], "([0, 1], (0,))\n"),
    ],
)
def test_values_come_on_standard_output(run: Skyward, arguments: list[str], out: str) -> None:
    done = run(*arguments)

    assert (done.code, done.out) == (0, out), done.err


def test_several_values_are_a_line_each_in_order_and_failed_ones_leave_theirs_empty(run: Skyward) -> None:
    done = run("train.py:folds", "--nodes", "2")

    assert done.code == 1
    assert done.out == "0.0\n1.0\n2.0\n\n4.0\n"
    assert "FAILED fold[3] - ValueError: fold 3 is bad" in done.err
    assert re.fullmatch(r"1 failed, 4 passed in .* on 2 nodes . \$0\.00", done.last_line)


def test_where_no_item_has_a_value_standard_output_stays_empty(run: Skyward) -> None:
    done = run("train.py:folds", "--provider", "ssh", SKYWARD_SSH_HOSTS="127.9.9.9:9")

    assert (done.code, done.out) == (4, ""), done.err


def test_strings_among_several_values_are_json(run: Skyward, project: Path) -> None:
    (project / "rows.jsonl").write_text('{"name": "a\\nb"}\n\n["c", "loud"]\n"d"\n')

    done = run("train.py:hello", "--map", "rows.jsonl")

    assert [json.loads(line) for line in done.out.splitlines()] == ["hello a\nb", "HELLO C", "hello d"]


def test_rows_may_come_on_standard_input_and_share_the_arguments_of_the_shell(run: Skyward) -> None:
    done = run("train.py:fold", "--map", "-", "--", "--scale", "10", stdin='{"index": 1}\n2\n')

    assert done.out == "10.0\n20.0\n"


def test_output_is_tagged_by_node_and_stamped_without_a_terminal(run: Skyward) -> None:
    done = run("train.py:folds", "--nodes", "2")

    assert re.search(r"^\d\d:\d\d:\d\d  n[01] \| fold 4 begins$", done.err, re.MULTILINE)
    assert re.search(r"^\d\d:\d\d:\d\d  bootstrap  2/2  ok ", done.err, re.MULTILINE)
    assert "\x1b" not in done.err


def test_all_that_was_printed_is_in_the_directory_of_the_run(run: Skyward, runs: Runs) -> None:
    done = run("train.py:talkative", "--nodes", "2", "--env", "API_KEY=hush-hush-hush", "--", "30000")
    logs = runs()[0] / "logs"
    text = "".join(file.read_text() for file in sorted(logs.iterdir()))

    assert (done.code, done.out) == (0, "30000\n")
    assert text == "".join(f"line {i} {'x' * 80}\n" for i in range(30_000)) + "key ***\n"
    assert re.search(r"\[[\d,]+ more bytes are not shown\]", done.err)
    assert "bytes of output were not shown; all of it is in the directory of this run" in done.err
    assert re.search(rf"^  hint: less .*{logs}/n[01]-worker-0\.log", done.err, re.MULTILINE)


@pytest.mark.parametrize("target", ["train.py:nap", "train.py:napping_driver"])
def test_a_run_that_a_guard_ends_keeps_what_was_printed(run: Skyward, runs: Runs, target: str) -> None:
    done = run(target, "--timeout", "3s")

    assert done.code == 6
    assert (runs()[0] / "logs" / "n0-worker-0.log").read_text() == "napping\n"


def test_a_line_of_ten_megabytes_holds_up_nothing(run: Skyward, runs: Runs) -> None:
    done = run("train.py:one_line", "--", "10000000")

    assert (done.code, done.out) == (0, "10000000\n")
    assert (runs()[0] / "logs" / "n0-worker-0.log").stat().st_size == 10_000_001


def test_a_short_output_is_kept_without_a_word(run: Skyward, runs: Runs) -> None:
    done = run("train.py:folds", "--", "-n", "2")

    assert (runs()[0] / "logs" / "n0-worker-0.log").read_text() == "fold 0 begins\nfold 1 begins\n"
    assert "not shown" not in done.err


def test_each_runs_once_on_every_worker_by_rank(run: Skyward) -> None:
    done = run("train.py:node", "--each", "--nodes", "3", "--json")

    assert [(item["task"], item["value"]) for item in done.document["items"]] == [
        ("train.py::node[w0]", 0),
        ("train.py::node[w1]", 1),
        ("train.py::node[w2]", 2),
    ]


def test_variables_travel_and_one_without_a_value_is_taken_from_here(run: Skyward) -> None:
    done = run("train.py:variable", "--env", "COLOUR=blue", "--", "COLOUR")
    taken = run("train.py:variable", "--env", "HUE", "--", "HUE", HUE="green")

    assert (done.out, taken.out) == ("blue\n", "green\n")


def test_failed_tasks_run_again_as_often_as_retries_says(run: Skyward, project: Path) -> None:
    short = run("train.py:attempts", "--retries", "1", "--", str(project / "a"), "3")
    enough = run("train.py:attempts", "--retries", "2", "--", str(project / "b"), "3")

    assert short.code == 1
    assert "n0 | attempts again, attempt 1 failed: OSError: not yet" in short.err
    assert (enough.code, enough.out) == (0, "3\n")


def test_x_stops_at_the_first_failure_and_maxfail_later(run: Skyward, project: Path) -> None:
    (project / "bad.py").write_text(
        "import skyward as sky, time\n"
        "@sky.compute\n"
        "def bad(i):\n    time.sleep(0.05 + i / 50)\n    raise ValueError(i)\n"
        "def main():\n    for i in range(12): yield bad(i)\n"
    )

    first, third = run("bad.py:main", "-x", "--json"), run("bad.py:main", "--maxfail", "3", "--json")

    assert first.document["tasks"] == {"succeeded": 0, "failed": 1, "lost": 0, "cancelled": 11}
    assert third.document["tasks"]["failed"] == 3
    assert first.code == third.code == 1


def test_k_selects_and_names_stay_what_they_were(run: Skyward) -> None:
    done = run("train.py:folds", "-k", "fold[3] or fold[4]", "--json")

    assert [item["task"] for item in done.document["items"]] == ["train.py::fold[3]", "train.py::fold[4]"]
    assert "FAILED fold[3] - ValueError" in done.err


def test_co_lists_the_tasks_and_starts_nothing(run: Skyward, runs: Runs) -> None:
    done = run("train.py:folds", "--co", "-k", "not 3")

    assert (done.code, done.out) == (0, "".join(f"train.py::fold[{i}]\n" for i in (0, 1, 2, 4)))
    assert done.err == ""
    assert runs() == []


def test_nothing_selected_exits_5(run: Skyward) -> None:
    done = run("train.py:folds", "-k", "nothing")

    assert done.code == 5
    assert done.err.startswith("error: no task of train.py:folds matches -k 'nothing'")


def test_durations_show_the_slowest(run: Skyward) -> None:
    done = run("train.py:folds", "--durations", "2", "-k", "not 3")

    assert "slowest 2 durations" in done.err
    rows = done.err.split("slowest 2 durations")[1].splitlines()[1:3]
    assert all(re.fullmatch(r" *\S+ (task +fold\[\d\]|bootstrap|provision)", row) for row in rows)


# -- documents -----------------------------------------------------------------------------------------------------


def test_json_is_one_document_with_numbers_and_utc_times(run: Skyward) -> None:
    done = run("train.py:folds", "--nodes", "2", "--json")
    document = done.document

    assert document["schema"] == "skyward.run/1"
    assert document["exit_code"] == done.code == 1
    assert document["tasks"] == {"succeeded": 4, "failed": 1, "lost": 0, "cancelled": 0}
    assert document["cost"] == {"currency": "USD", "usd": 0.0, "usd_per_hour": 0.0}
    assert [node["node"] for node in document["nodes"]] == [0, 1]
    assert document["nodes"][0]["provider"] == "local"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document["nodes"][1]["ready_at"])
    good, bad = document["items"][2], document["items"][3]
    assert good["task"] == "train.py::fold[2]"
    assert (good["arguments"], good["verdict"], good["value"], good["error"]) == (
        {"index": 2},
        "succeeded",
        2.0,
        None,
    )
    assert isinstance(good["duration_s"], float)
    assert bad["error"]["type"] == "ValueError"
    assert "in fold" in bad["error"]["traceback"]


def test_what_users_code_prints_here_does_not_touch_the_document(run: Skyward, project: Path) -> None:
    (project / "noisy.py").write_text("print('imported')\n" + (project / "train.py").read_text())

    done = run("noisy.py:driver", "--json")

    assert done.document["items"][0]["value"] == 3.0
    assert "printed here" in done.err
    assert "imported" in done.err


def test_a_value_without_a_form_in_json_is_a_repr(run: Skyward) -> None:
    item = run("decimal:Decimal.from_float", "--json", "--", "0.5").document["items"][0]

    assert (item["value"], item["repr"]) == (None, "Decimal('0.5')")


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_failure_shows_the_users_frames_of_the_other_side(run: Skyward) -> None:
    done = run("train.py:fold", "--", "3")

    assert done.code == 1
    assert (
        'train.py:11: in fold\n    raise ValueError("fold 3 is bad")\nE   ValueError: fold 3 is bad\n'
        in done.err
    )
    assert "skyward/" not in done.err


def test_a_drivers_own_failure_is_told_apart_from_one_of_its_tasks(run: Skyward) -> None:
    own, passed = run("train.py:own_failure"), run("train.py:passed_on")

    assert own.code == passed.code == 1
    assert "FAILED own_failure - KeyError: 'the driver itself'" in own.err
    assert re.match("1 failed, 1 passed", own.last_line)
    assert "FAILED fold - ValueError: fold 3 is bad" in passed.err
    assert re.match("1 failed in", passed.last_line)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(9)", "WorkerDied: odd: its worker ended with exit code 9"),
        ("os.kill(os.getpid(), 11)", "WorkerDied: odd: its worker was killed by SIGSEGV"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return threading.Lock()", "result of odd -> _thread.lock"),
    ],
)
def test_odd_ends_fail_their_task_and_no_other(run: Skyward, project: Path, body: str, said: str) -> None:
    (project / "odd.py").write_text(
        f"import os, threading\nimport skyward as sky\n@sky.compute\ndef odd():\n    {body}\n"
        "@sky.compute\ndef fine(): return 'fine'\n"
    )

    done = run("odd.py")

    assert done.code == 1
    assert done.out == '\n"fine"\n'
    assert said in done.err
    assert re.match("1 failed, 1 passed", done.last_line)


def test_a_closure_that_cannot_travel_is_named_with_the_path_to_the_culprit(
    run: Skyward, project: Path
) -> None:
    (project / "closure.py").write_text(
        "import threading\nimport skyward as sky\n"
        "def make(lock):\n    def f(): return lock\n    return f\n"
        "locked = make(threading.Lock())\n"
    )

    done = run("closure.py:locked")

    assert done.code == 1
    assert re.search(r"SerializationError: .*'lock' -> _thread\.lock", done.err)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["trian:fold"], 2, "error: cannot import 'trian'  [SKW101]"),
        (["train:fodl"], 2, "did you mean `skyward run train:fold`?"),
        (["train:fold", "--", "--index", "x"], 2, "error: train:fold: index='x' is not an int  [SKW102]"),
        (
            ["train:fold", "--index", "1"],
            2,
            "arguments of the task go behind --: skyward run TARGET -- --index ...",
        ),
        (["train:fold", "--nodes", "none"], 2, "'--nodes'"),
        (["train:fold", "--memory", "3XB"], 2, "error: --memory '3XB' is not a range of sizes"),
        (["train:fold", "--timeout", "soon"], 2, "error: --timeout 'soon' is not a duration"),
        (["train:fold", "--gpu", "H1000"], 2, "unknown accelerator 'H1000'"),
        (["train:fold", "--provider", "locl"], 2, "no provider 'locl' is installed"),
        (["train:fold", "--selection", "best"], 2, "unknown selection 'best'"),
        (["train:fold", "--env", "=1"], 2, "error: "),
        (["train:fold", "--host", "bad host"], 2, "'bad host'"),
        (["train:fold", "--key", "x"], 2, "--key says how to reach a --host, and there is none"),
        (["train:fold", "--host", "h", "--provider", "local"], 2, "contradict each other"),
        (["train:fold", "--map", "nowhere.jsonl"], 2, "--map nowhere.jsonl: "),
        (["train:fold", "--pool", "nowhere"], 2, "no pool 'nowhere' is configured"),
        (["train:driver", "--each"], 2, "--each is for tasks, and train:driver is a driver"),
        (["train.py", "--map", "-"], 2, "--map needs one task"),
        (["train:folds", "-k", "a and"], 2, "cannot read -k 'a and': a name is missing at the end"),
        (["train:fold", "--memory", "9TB", "--provider", "local"], 4, "memory"),
    ],
)
def test_what_cannot_be_meant_is_one_error_before_anything_starts(
    run: Skyward, runs: Runs, arguments: list[str], code: int, said: str
) -> None:
    done = run(*arguments, stdin="")

    assert done.code == code, done.err
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert runs() == []


def test_a_module_that_fails_to_import_shows_the_users_traceback_and_no_frame_of_ours(
    run: Skyward, project: Path
) -> None:
    (project / "broken.py").write_text("def f():\n    return 1 / 0\nf()\n")

    done = run("broken.py:f")

    assert done.code == 2
    assert done.err.startswith(
        f'Traceback (most recent call last):\n  File "{project}/broken.py", line 3, in <module>'
    )
    assert (
        "error: broken.py failed while it was imported: ZeroDivisionError: division by zero  [SKW101]"
        in done.err
    )
    assert "skyward/" not in done.err.replace(str(project), "")


def test_a_row_that_is_no_json_is_named_by_its_line(run: Skyward) -> None:
    done = run("train.py:fold", "--map", "-", stdin="1\n{oops\n")

    assert done.code == 2
    assert "error: --map -: line 2 is no JSON" in done.err
    assert "cause: {oops" in done.err


# -- plans and guards ------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_the_plan_and_starts_nothing(run: Skyward, runs: Runs) -> None:
    done = run("train.py:folds", "--nodes", "2", "--dry-run")

    assert done.code == 0
    assert "plan  train.py:folds  2 nodes" in done.out
    assert "chosen" in done.out
    assert "costs nothing · nothing has been started" in done.out
    assert "tasks 5: train.py::fold[0], train.py::fold[1], train.py::fold[2] and 2 more" in done.out
    assert runs() == []


def test_a_dry_run_says_what_would_travel(run: Skyward) -> None:
    done = run("train.py:hello", "--dry-run", "--host", "me@nowhere", "--pip", "numpy>=2", "--json")

    environment = done.document["environment"]
    assert done.document["schema"] == "skyward.plan/1"
    assert done.document["tasks"] == ["train.py::hello"]
    assert environment["packages"] == ["numpy>=2"]
    assert environment["code"]["files"] == 1
    assert environment["code"]["bytes"] > 0
    assert environment["code"]["left_here"] == []


def test_a_deadline_stops_the_work_and_exits_6(run: Skyward) -> None:
    done = run("train.py:nap", "--timeout", "1s")

    assert done.code == 6
    assert "stopped by a guard: 1 cancelled" in done.err
    assert "error: the work took longer than timeout=1s  [SKW601]" in done.err


def test_a_deadline_also_stops_a_driver_that_is_busy_here(run: Skyward, project: Path) -> None:
    (project / "busy.py").write_text(
        "import time\nimport skyward as sky\n@sky.pool\ndef main(): time.sleep(60)\n"
    )

    done = run("busy.py:main", "--timeout", "1s")

    assert done.code == 6
    assert "error: the work took longer than" in done.err


# -- configuration and plugins ---------------------------------------------------------------------------------------


def test_the_configuration_gives_defaults_and_the_command_line_wins(run: Skyward, project: Path) -> None:
    (project / "skyward.toml").write_text(
        '[defaults]\nnodes = 2\nenv = {COLOUR = "red"}\n[run]\naddopts = "-k fold[1]"\n[pools.three]\nnodes = 3\n'
    )

    assert len(run("train.py:folds", "--json").document["nodes"]) == 2
    assert len(run("train.py:folds", "--json", "--nodes", "1").document["nodes"]) == 1
    assert len(run("train.py:folds", "--json", "--pool", "three").document["nodes"]) == 3
    assert run("train.py:folds", "--co").out == "train.py::fold[1]\n"


def test_variables_of_the_command_line_are_added_to_those_of_the_configuration(
    run: Skyward, project: Path
) -> None:
    (project / "skyward.toml").write_text(
        '[defaults]\nenv = {COLOUR = "red", SHAPE = "round"}\n[pools.three]\nenv = {SIZE = "3"}\n'
    )
    (project / "seen.py").write_text(
        "import os\ndef seen():\n    return [os.environ.get(name) for name in ('COLOUR', 'SHAPE', 'SIZE')]\n"
    )

    plain = run("seen.py:seen", "--env", "COLOUR=blue")
    named = run("seen.py:seen", "--pool", "three", "--env", "COLOUR=blue")

    assert plain.out == "['blue', 'round', None]\n", plain.err
    assert named.out == "['blue', 'round', '3']\n", named.err


def test_a_skyfile_sees_and_changes_the_run(run: Skyward, project: Path, read_lines: Read) -> None:
    (project / "skyfile.py").write_text(
        "import json, skyward as sky\n"
        "def note(what, **more):\n"
        "    with open('hooks.jsonl', 'a') as log: log.write(json.dumps({'hook': what, **more}) + '\\n')\n"
        "@sky.hookimpl\n"
        "def skyward_configure(config): note('configure', nodes=config.defaults.get('nodes'))\n"
        "@sky.hookimpl\n"
        "def skyward_collect(session):\n"
        "    note('collect', target=session.request.target, run=session.id)\n"
        "    return [sky.Task(abs, (-7,))]\n"
        "@sky.hookimpl\n"
        "def skyward_modify_items(session, items):\n"
        "    note('modify_items', names=[item.name for item in items])\n"
        "    items.reverse()\n"
        "@sky.hookimpl\n"
        "def skyward_event(event): note('event', kind=type(event).__name__)\n"
        "@sky.hookimpl\n"
        "def skyward_run_finished(report): note('run_finished', succeeded=report.succeeded, code=report.exit_code)\n"
    )

    done = run("train.py:hello", "-o", "nodes=2")

    assert done.out == '7\n"hello world"\n'
    notes = read_lines(project / "hooks.jsonl")
    hooks = [each["hook"] for each in notes]
    kinds = [each["kind"] for each in notes if each["hook"] == "event"]
    assert hooks[:3] == ["configure", "collect", "modify_items"]
    assert notes[2]["names"] == ["hello", "abs"]
    assert hooks[-1] == "run_finished"
    assert (notes[-1]["succeeded"], notes[-1]["code"]) == (2, 0)
    assert (kinds[0], kinds[-1]) == ("RunStarted", "RunFinished")
    assert {"PoolStarting", "PoolReady", "TaskFinished", "InstanceTerminated", "PoolStopped"} <= set(kinds)


def test_without_the_terminal_plugin_only_the_answer_is_left(run: Skyward) -> None:
    done = run("train.py:hello", "-p", "no:terminal")

    assert (done.code, done.out, done.err) == (0, "hello world\n", "")


def test_a_broken_plugin_stops_a_run_with_3(run: Skyward, project: Path) -> None:
    (project / "skyfile.py").write_text("raise RuntimeError('no')\n")

    done = run("train.py:hello")

    assert done.code == 3
    assert "skyfile" in done.err


@pytest.mark.parametrize(("flags", "lines"), [(["-q"], 1), (["-qq"], 0)])
def test_q_leaves_the_last_line_and_qq_nothing(run: Skyward, flags: list[str], lines: int) -> None:
    done = run("train.py:hello", *flags)

    assert len(done.err.splitlines()) == lines
    assert done.out == "hello world\n"


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_a_run_is_kept_with_its_items_outcomes_events_plan_and_report(
    run: Skyward, runs: Runs, read_lines: Read
) -> None:
    run("train.py:folds", "--nodes", "2")
    run("train.py:driver")
    first, second = runs()

    assert sorted(file.name for file in first.iterdir()) == [
        "events.jsonl", "items.jsonl", "logs", "outcomes.jsonl", "plan.json", "report.json", "run.json",
    ]  # fmt: skip
    assert [item["id"] for item in read_lines(first / "items.jsonl")] == [
        f"train.py::fold[{i}]" for i in range(5)
    ]
    outcomes = {each["id"]: each["verdict"] for each in read_lines(first / "outcomes.jsonl")}
    assert outcomes["train.py::fold[3]"] == "failed"
    assert sorted(outcomes.values()) == ["failed", *["succeeded"] * 4]
    kinds = [each["event"] for each in read_lines(first / "events.jsonl")]
    assert (kinds[0], kinds[-1]) == ("RunStarted", "RunFinished")
    assert kinds.count("TaskFinished") == 5
    report = json.loads((first / "report.json").read_text())
    assert report["tasks"]["failed"] == 1
    assert json.loads((first / "run.json").read_text())["target"] == "train.py:folds"
    assert read_lines(second / "outcomes.jsonl")[0]["value"] == 3.0


def test_old_runs_make_room_as_the_configuration_says(run: Skyward, runs: Runs) -> None:
    run("train.py:hello")
    (first,) = runs()
    week_ago = time.time() - 7 * 86_400
    for path in (*first.iterdir(), first):
        os.utime(path, (week_ago, week_ago))

    run("train.py:hello")
    assert len(runs()) == 2
    run("train.py:hello", SKYWARD_RUN__KEEP="6d")

    assert first not in runs()
    assert len(runs()) == 2


def test_no_secret_of_the_environment_is_kept(run: Skyward, empty_home: Path) -> None:
    done = run("train.py:variable", "--env", "API_TOKEN=s3cr3t-value-9", "--", "API_TOKEN")

    assert done.out == "s3cr3t-value-9\n"
    assert not any(b"s3cr3t" in file.read_bytes() for file in empty_home.rglob("*") if file.is_file())


def test_a_home_that_cannot_be_written_to_costs_the_record_and_not_the_run(
    run: Skyward, tmp_path: Path
) -> None:
    done = run("train.py:hello", SKYWARD_HOME="/proc/nowhere")

    assert (done.code, done.out) == (0, "hello world\n")
    assert "this run is not kept" in done.err


def test_a_reader_that_leaves_changes_nothing(start: Callable[..., Any]) -> None:
    process = start("run", "train.py:folds", "-k", "not 3")
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert "4 passed" in err
