"""The shell around every command: help, errors, exit codes, streams, signals and colours."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import skyward
from skyward.cli import COMMANDS, console
from skyward.cli.shell import render
from skyward.errors import BootstrapError, ExitCode

ROOT = Path(skyward.__file__).parent.parent
Skyward = Callable[..., "subprocess.CompletedProcess[str]"]

OTHERS = """
import click, os, sys, time
import skyward as sky
from skyward.errors import SkywardWarning

@click.group()
def acme(): ...

@acme.command()
@click.argument("what")
def fail(what):
    print("some output", flush=True)
    if what == "ours": raise sky.CapacityError("acme: \\x1b[31mno\\nmachine", facts=["f" * 5000], hints=["wait"], tail="a\\nb")
    if what == "interrupt": raise KeyboardInterrupt
    if what == "abort": raise click.Abort
    if what == "exit": sys.exit(41)
    if what == "text": sys.exit("bye")
    if what == "number": return 6
    if what == "socket":
        import socket
        one, other = socket.socketpair()
        other.close()
        one.sendall(b"x")
    if what == "memory": raise MemoryError
    if what == "recursion": fail.callback("recursion")
    raise RuntimeError("nobody foresaw this")

@acme.command()
def wait():
    print("waiting", flush=True)
    time.sleep(30)

@acme.command()
@click.argument("lines", type=int)
def flood(lines):
    for number in range(lines): print("x" * 100)

@acme.command()
def warn():
    import warnings
    warnings.warn(SkywardWarning("mind the gap", hints=["step over it"]))
    warnings.warn("not ours")
    sys.stdout.write("\\udcff \\N{SNOWMAN}\\n")

@acme.command()
def table():
    from skyward.cli.console import make_table, show_table
    table = make_table("name", "value", right=("value",))
    table.add_row("n" * 300, "1")
    table.add_row("short [red]markup[/red] :smile:", "22")
    show_table(table)
"""


@pytest.fixture
def home(empty_home: Path, tmp_path: Path) -> Path:
    """A home with a distribution that brings the command `acme`."""
    site = tmp_path / "site"
    metadata = site / "acme_clouds-2.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-clouds\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text(
        "[skyward.commands]\nacme = acme_commands:acme\nbroken = acme_commands:nothing\nodd = acme_commands:OTHERS\noffers = acme_commands:acme\n"
    )
    (site / "acme_commands.py").write_text(OTHERS + "\nOTHERS = 3\n")
    return site


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Skyward:
    """Runs `skyward` in a process of its own, without a terminal."""

    def run_skyward(
        *arguments: str, env: Mapping[str, str | None] | None = None, **options: object
    ) -> subprocess.CompletedProcess[str]:
        settings: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60, "cwd": tmp_path}
        return subprocess.run(command(arguments), env=environment(home, env), **{**settings, **options})  # type: ignore[call-overload,no-any-return]

    return run_skyward


def command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "skyward", *arguments]


def environment(home: Path, changes: Mapping[str, str | None] | None = None) -> dict[str, str]:
    dropped = ("NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED")
    base = {name: value for name, value in os.environ.items() if name not in dropped}
    base |= {"PYTHONPATH": f"{ROOT}:{home}", "TERM": "xterm-256color", "COLUMNS": "80"}
    for name, value in (changes or {}).items():
        base.pop(name, None)
        if value is not None:
            base[name] = value
    return base


# -- help, version, completion -----------------------------------------------------------------------------------


def test_version(run: Skyward) -> None:
    result = run("--version")

    assert result.stdout == f"skyward {skyward.__version__}\n"
    assert result.returncode == 0


def test_help_lists_what_exists_and_what_plugins_bring(run: Skyward) -> None:
    result = run("--help")

    listed = re.findall(r"^  ([a-z]+)  +[A-Z]", result.stdout, re.M)
    assert listed == [*(name for name, entry in COMMANDS.items() if entry.exists), "acme", "broken", "odd"]
    assert "From acme-clouds 2.0." in result.stdout


def test_a_bare_call_shows_help_and_is_a_usage_error(run: Skyward) -> None:
    result = run()

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: skyward")


@pytest.mark.parametrize("name", [name for name, entry in COMMANDS.items() if entry.exists])
def test_every_command_has_a_help_page(run: Skyward, name: str) -> None:
    result = run(name, "--help")

    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: skyward {name}")
    assert len(result.stdout.splitlines()) > 4


def test_every_entry_of_the_table_that_exists_loads() -> None:
    for name, entry in COMMANDS.items():
        if entry.exists:
            assert entry.load().name == name


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_us_back(run: Skyward, shell: str) -> None:
    script = run("completion", shell).stdout

    assert f"_SKYWARD_COMPLETE={shell}_complete" in script


def test_completion_offers_commands_without_importing_them(run: Skyward) -> None:
    env = {"_SKYWARD_COMPLETE": "bash_complete", "COMP_WORDS": "skyward p", "COMP_CWORD": "1"}

    result = run(env={**env, "PYTHONPROFILEIMPORTTIME": "1"})

    assert {"plain,providers", "plain,plugins"} <= set(result.stdout.split())
    assert not re.search(r"skyward\.cli\.(plugins|providers)$", result.stderr, re.M)


def test_completion_knows_error_codes(run: Skyward) -> None:
    env = {"_SKYWARD_COMPLETE": "bash_complete", "COMP_WORDS": "skyward explain skw14", "COMP_CWORD": "2"}

    assert run(env=env).stdout == "plain,SKW140\n"


def test_the_bash_script_completes_in_a_real_bash(run: Skyward, home: Path, tmp_path: Path) -> None:
    binary = tmp_path / "bin" / "skyward"
    binary.parent.mkdir()
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m skyward "$@"\n')
    binary.chmod(0o755)
    script = run("completion", "bash").stdout
    ask = 'COMP_WORDS=(skyward expl); COMP_CWORD=1; _skyward_completion skyward; echo "${COMPREPLY[@]}"'
    env = environment(home, {"PATH": f"{binary.parent}:{os.environ['PATH']}"})

    result = subprocess.run(
        ["bash", "-c", f"complete() {{ :; }}; {script}\n{ask}"],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert result.stdout.strip() == "explain"


# -- errors and exit codes -----------------------------------------------------------------------------------------


def test_an_error_of_ours_is_a_line_its_causes_and_hints(run: Skyward) -> None:
    result = run("acme", "fail", "ours")

    assert result.returncode == ExitCode.NO_COMPUTE
    assert result.stdout == "some output\n"
    first, cause, a, b, hint = result.stderr.splitlines()
    assert first == r"error: acme: \x1b[31mno machine  [SKW202]"
    assert cause.startswith("  cause: ffff")
    assert len(cause) < 2100
    assert (a, b, hint) == ("  | a", "  | b", "  hint: wait")


def test_what_the_causes_tell_is_not_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    render(BootstrapError("n0: it failed", facts=["one", "two"], tail="one\n\ntwo\n"))
    render(BootstrapError("n0: it failed", facts=["two"], tail="one\ntwo\n"))

    assert capsys.readouterr().err.count("one") == 2


def test_a_mistyped_command_names_the_nearest(run: Skyward) -> None:
    result = run("provders")

    assert result.returncode == 2
    assert (
        result.stderr
        == "error: no such command 'provders'  [SKW100]\n  hint: did you mean `skyward providers`?\n"
    )


def test_a_mistyped_option_names_the_nearest(run: Skyward) -> None:
    assert (
        run("plugins", "--jsno").stderr
        == "error: no such option '--jsno'  [SKW100]\n  hint: did you mean --json?\n"
    )
    assert run("--colr", "x").stderr.endswith("hint: did you mean --color?\n")


def test_what_nobody_foresaw_is_an_internal_error_with_a_log(run: Skyward) -> None:
    result = run("acme", "fail", "x")

    assert result.returncode == ExitCode.INTERNAL
    error, hint = result.stderr.splitlines()
    assert error == "error: internal error: RuntimeError: nobody foresaw this  [SKW300]"
    log = Path(hint.rpartition(" ")[2])
    assert "RuntimeError: nobody foresaw this" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Traceback" not in result.stderr


def test_without_a_place_for_the_log_the_error_is_told_all_the_same(run: Skyward) -> None:
    result = run("acme", "fail", "x", env={"SKYWARD_HOME": "/dev/null/x"})

    assert result.stderr.splitlines() == [
        "error: internal error: RuntimeError: nobody foresaw this  [SKW300]",
        "  hint: run it again with -vv to see where",
    ]


@pytest.mark.parametrize(
    "arguments",
    [["-vv", "acme", "fail", "x"], ["acme", "fail", "x", "-vv"], ["-v", "acme", "fail", "-v", "x"]],
)
def test_tracebacks_are_shown_with_vv(run: Skyward, arguments: list[str]) -> None:
    result = run(*arguments)

    assert "Traceback (most recent call last)" in result.stderr
    assert "in fail" in result.stderr
    assert "error: internal error: RuntimeError: nobody foresaw this" in result.stderr


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("interrupt", 130, "interrupted\n"),
        ("abort", 130, "interrupted\n"),
        ("exit", 41, ""),
        ("text", 1, "bye\n"),
        ("socket", 3, "error: internal error: BrokenPipeError: [Errno 32] Broken pipe"),
        ("number", 6, ""),
        ("memory", 3, "error: internal error: MemoryError  [SKW300]"),
        ("recursion", 3, "error: internal error: RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_exit_codes(run: Skyward, what: str, code: int, says: str) -> None:
    result = run("acme", "fail", what)

    assert result.returncode == code
    assert result.stderr.startswith(says)


def test_our_warnings_are_lines_and_others_stay_as_they_are(run: Skyward) -> None:
    result = run("acme", "warn")

    assert result.stderr.startswith("warning: mind the gap\n  hint: step over it\n")
    assert "UserWarning: not ours" in result.stderr
    assert run("acme", "warn", "-qq").stderr.startswith("/")


def test_a_broken_configuration_does_not_keep_help_away(run: Skyward, tmp_path: Path) -> None:
    (tmp_path / "skyward.toml").write_text("[run]\naddopts = 3")

    assert run("run", "--help").returncode == 0
    assert run("run", "x:y").stderr.startswith("error: ")


# -- commands of plugins -------------------------------------------------------------------------------------------


def test_a_command_of_a_plugin_that_does_not_load_is_that_plugins_error(run: Skyward) -> None:
    broken, odd = run("broken"), run("odd")

    assert broken.returncode == odd.returncode == ExitCode.INTERNAL
    assert "'broken' of acme-clouds 2.0 cannot be loaded: AttributeError" in broken.stderr
    assert "command 'odd' of acme-clouds 2.0 is 3, not a click command" in odd.stderr


def test_a_plugin_cannot_replace_a_command_of_ours(run: Skyward) -> None:
    assert "acme" not in run("offers", "--help").stdout


def test_commands_of_plugins_are_not_looked_up_without_autoload(run: Skyward) -> None:
    env = {"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"}

    assert "acme" not in run("--help", env=env).stdout
    assert run("acme", env=env).returncode == 2


# -- streams and signals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [2, 20000])
def test_a_reader_that_leaves_is_no_error(home: Path, lines: int) -> None:
    script = f"{sys.executable} -m skyward acme flood {lines} | head -n 1; echo ${{PIPESTATUS[0]}}"

    result = subprocess.run(
        ["bash", "-c", script], env=environment(home), capture_output=True, text=True, timeout=60
    )

    assert result.stdout == "x" * 100 + "\n0\n"
    assert result.stderr == ""


@pytest.mark.parametrize("unbuffered", [None, "1"])
@pytest.mark.parametrize("lines", ["1", "20000"])
def test_a_full_disk_is_one_clear_error(run: Skyward, lines: str, unbuffered: str | None) -> None:
    env = {"PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        result = run(
            "acme", "flood", lines, env=env, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )

    assert result.returncode == 2
    assert result.stderr.splitlines()[0].endswith("No space left on device  [SKW104]")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", ">&- 2>/dev/full", "2>/dev/full"]
)
def test_closed_streams_do_not_change_the_outcome(home: Path, redirection: str, tmp_path: Path) -> None:
    for arguments, code in (("explain", 0), ("nonsense", 2), ("acme flood 3", 0), ("config path", 0)):
        script = f"{sys.executable} -m skyward {arguments} {redirection}"

        result = subprocess.run(
            ["bash", "-c", script],
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )

        assert result.returncode == code, (arguments, result.stderr)
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"HOME": "/nonexistent", "SKYWARD_HOME": None},
        {"HOME": None, "SKYWARD_HOME": None},
        {"HOME": "", "SKYWARD_HOME": None},
        {"SKYWARD_HOME": "/dev/null"},
        {"SKYWARD_HOME": "/proc/nothing"},
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb"},
        {"TERM": None},
        {"COLUMNS": "1"},
        {"COLUMNS": "nonsense"},
    ],
    ids=str,
)
@pytest.mark.parametrize("arguments", ["plugins", "acme warn"])
def test_poor_surroundings_do_not_change_the_outcome(
    run: Skyward, env: Mapping[str, str | None], arguments: str
) -> None:
    result = run(*arguments.split(), env=env)

    assert result.returncode == 0, result.stderr
    assert result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("signum", "code", "says"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_signals_end_a_command_with_their_code(home: Path, signum: int, code: int, says: str) -> None:
    with subprocess.Popen(
        command(["acme", "wait"]),
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signum)
        _, errors = process.communicate(timeout=20)

    assert process.returncode == code
    assert errors.strip() == says


def test_nohup_stays_nohup(home: Path) -> None:
    script = f"trap '' HUP; exec {sys.executable} -m skyward acme wait"
    with subprocess.Popen(
        ["bash", "-c", script],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=20)


# -- colours and widths ----------------------------------------------------------------------------------------------


class Terminal:
    """Something that says it is a terminal."""

    def __init__(self, is_terminal: bool) -> None:
        self.isatty = lambda: is_terminal


@pytest.mark.parametrize(
    ("choice", "environ", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, True, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("always", {"TERM": "dumb"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_who_decides_on_colour(
    choice: console.ColorChoice, environ: dict[str, str], terminal: bool, expected: bool
) -> None:
    assert console.has_color(Terminal(terminal), choice, environ) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [["--color", "always"], []])
@pytest.mark.parametrize(
    "env", [{"NO_COLOR": "1", "FORCE_COLOR": None}, {"NO_COLOR": None, "FORCE_COLOR": None}]
)
def test_without_colour_not_one_escape_byte_is_written(
    run: Skyward, arguments: list[str], env: dict[str, str | None]
) -> None:
    for line in (
        ["plugins"],
        ["explain"],
        ["nonsense"],
        ["acme", "table"],
        ["acme", "warn"],
        ["config", "path"],
        ["plugins", "--hooks"],
    ):
        result = run(*arguments, *line, env=env)

        has_escape = "\x1b" in result.stdout + result.stderr
        assert has_escape is bool(arguments), line


def test_piped_tables_are_neither_cut_nor_folded_nor_padded(run: Skyward) -> None:
    result = run("acme", "table", env={"COLUMNS": "40"})

    header, wide, short = result.stdout.splitlines()
    assert wide.split() == ["n" * 300, "1"]
    assert short.startswith("short [red]markup[/red] :smile:  ")
    assert all(line == line.rstrip() for line in (header, wide, short))


def in_terminal(arguments: Sequence[str], home: Path, cwd: Path, *, columns: int, **env: str | None) -> str:
    """What a terminal of that width is sent."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
            os.chdir(cwd)
            os.execve(sys.executable, command(arguments), environment(home, {"COLUMNS": None, **env}))
        finally:
            os._exit(99)
    sent = b""
    try:
        while chunk := os.read(terminal, 65536):
            sent += chunk
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return sent.decode().replace("\r\n", "\n")


def letters(text: str) -> list[str]:
    """What is written, wherever lines are folded; load times, which differ from call to call, left out."""
    return sorted(re.sub(r"[\s\d.]", "", text))


@pytest.mark.parametrize(
    "arguments", ["plugins", "plugins -v", "providers", "explain", "explain SKW140", "acme table"]
)
def test_on_a_terminal_lines_fit_and_colours_obey(home: Path, tmp_path: Path, arguments: str) -> None:
    colored = in_terminal(arguments.split(), home, tmp_path, columns=70)
    plain = in_terminal(arguments.split(), home, tmp_path, columns=70, NO_COLOR="1")

    assert "\x1b[" in colored
    assert "\x1b" not in plain
    without = re.sub(r"\x1b\[[0-9;]*m", "", colored)
    assert letters(without) == letters(plain)
    hints = ("hint: ",)  # to be pasted: never folded by us
    assert [line for line in plain.splitlines() if len(line) > 70 and not line.startswith(hints)] == []


# -- one document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "schema"),
    [
        (["plugins", "--json"], "skyward.plugins/1"),
        (["providers", "--json"], "skyward.providers/1"),
        (["config", "show", "--json"], "skyward.config/1"),
        (["config", "path", "--json"], "skyward.config-path/1"),
        (["explain", "--json"], "skyward.explanations/1"),
    ],
)
def test_json_is_one_document_with_a_schema_and_nothing_else(
    run: Skyward, arguments: list[str], schema: str
) -> None:
    document = json.loads(run(*arguments).stdout)

    assert document["schema"] == schema
    assert document["items"]


def test_colours_do_not_reach_json(run: Skyward) -> None:
    json.loads(run("--color", "always", "plugins", "--json").stdout)
