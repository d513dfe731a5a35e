"""Finding, naming, blocking and refusing plugins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from skyward import ExitCode, PluginError
from skyward.entry_points import EntryPoint
from skyward.plugin_loading import find_skyfile
from skyward.plugins import Plugins

Load = Callable[..., Plugins]

PROVIDER = """
import skyward as sky

class Config: ...
Config.__name__ = {config!r}

class Cloud(sky.Provider):
    name = {name!r}
    Config = Config
    def offers(self): return []
    def launch(self, request): return []
    def instances(self, pool): return []
    def terminate(self, ids): ...
    def connect(self, instance): return sky.Endpoint(kind="local")

@sky.hookimpl
def skyward_providers():
    return [Cloud]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty project that is the current directory; modules imported from it are forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(directory)
    yield directory
    for name in set(sys.modules) - before:
        if str(directory) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.path[:] = path


@pytest.fixture
def load(project: Path) -> Load:
    """`load("acme", ...)`: plugins with no installed ones but those given as `points`."""

    def load_plugins(*names: str, points: tuple[EntryPoint, ...] = (), **environ: str) -> Plugins:
        quiet = Plugins(on_problem=lambda problem: None)
        return quiet.load(names=names, start=project, environ=environ, points=points)

    return load_plugins


def module(project: Path, name: str, text: str) -> str:
    (project / f"{name}.py").write_text(text)
    return name


def point(name: str, value: str, distribution: str = "acme-clouds", version: str = "2.0") -> EntryPoint:
    return EntryPoint(group="skyward", name=name, value=value, distribution=distribution, version=version)


def state(plugins: Plugins, name: str) -> str:
    return next(info.state for info in plugins.listing() if info.name == name)


# -- where plugins come from ---------------------------------------------------------------------------------------


def test_built_in_plugins_come_first_and_belong_to_skyward(load: Load) -> None:
    infos = load().listing()

    assert [info.name for info in infos] == [
        "local",
        "ssh",
        "strategies",
        "accelerators",
        "engines",
        "terminal",
    ]
    assert {info.distribution for info in infos} == {"skyward"}
    assert {info.state for info in infos} == {"loaded"}


def test_an_installed_plugin_is_listed_with_its_distribution_hooks_and_file(
    load: Load, project: Path
) -> None:
    module(project, "acme", PROVIDER.format(name="acme", config="Acme"))

    info = load(points=(point("acme", "acme"),)).listing()[-1]

    assert (info.name, info.distribution, info.version) == ("acme", "acme-clouds", "2.0")
    assert info.hooks == ("skyward_providers",)
    assert info.origin == str(project / "acme.py")
    assert info.load_ms > 0


def test_an_entry_point_may_name_an_object_in_a_module(load: Load, project: Path) -> None:
    module(
        project,
        "acme",
        "import skyward\nclass Hooks:\n  @skyward.hookimpl\n  def skyward_event(self, event): ...\nhooks = Hooks()\n",
    )

    assert load(points=(point("acme", "acme:hooks"),)).listing()[-1].hooks == ("skyward_event",)


def test_a_module_of_the_project_is_a_plugin_when_it_is_named(load: Load, project: Path) -> None:
    module(project, "mine", PROVIDER.format(name="mine", config="Mine"))

    assert "mine" in load("mine").providers()


def test_plugins_named_in_the_environment_are_loaded(load: Load, project: Path) -> None:
    module(project, "one", "")
    module(project, "two", "")

    listed = [info.name for info in load(SKYWARD_PLUGINS="one, two,no:terminal").listing()]

    assert listed[-2:] == ["one", "two"]


def test_without_autoload_only_named_entry_points_are_loaded(load: Load, project: Path) -> None:
    module(project, "one", "")
    module(project, "two", "")
    points = (point("one", "one"), point("two", "two"))

    listed = [info.name for info in load("two", points=points, SKYWARD_DISABLE_PLUGIN_AUTOLOAD="1").listing()]

    assert "two" in listed
    assert "one" not in listed


def test_a_name_that_is_no_plugin_and_no_module_is_a_usage_error(load: Load) -> None:
    with pytest.raises(PluginError, match="no plugin and no module is called 'terminl'") as caught:
        load("terminl")

    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hints == ("did you mean 'terminal'?",)


# -- blocking --------------------------------------------------------------------------------------------------------


def test_a_blocked_plugin_is_not_imported(load: Load, project: Path) -> None:
    module(project, "acme", "raise SystemExit('imported')")

    plugins = load("no:acme", points=(point("acme", "acme"),))

    assert state(plugins, "acme") == "blocked"
    assert not plugins.problems


def test_a_built_in_plugin_can_be_blocked(load: Load) -> None:
    plugins = load("no:strategies")

    assert state(plugins, "strategies") == "blocked"
    assert plugins.strategies() == {}


def test_blocking_wins_over_naming(load: Load, project: Path) -> None:
    module(project, "acme", "")

    assert state(load("acme", "no:acme"), "acme") == "blocked"


def test_blocking_what_is_not_installed_is_fine_and_listed(load: Load) -> None:
    assert state(load("no:whatever"), "whatever") == "blocked"


@pytest.mark.parametrize("name", ["acme", "acme_module"])
def test_a_plugin_is_meant_by_its_name_and_by_its_module(load: Load, project: Path, name: str) -> None:
    module(project, "acme_module", "")
    points = (point("acme", "acme_module"),)

    for environ in ({}, {"SKYWARD_DISABLE_PLUGIN_AUTOLOAD": "1"}):
        plugins = load(name, points=points, **environ)
        assert [info.name for info in plugins.listing()][6:] == ["acme"]
        assert not plugins.problems

    blocked = load(f"no:{name}", points=points)
    assert [(info.name, info.state) for info in blocked.listing()][6:] == [("acme", "blocked")]


def test_one_module_under_two_names_is_told_shortly(load: Load, project: Path) -> None:
    module(project, "acme", "")

    (problem,) = load(points=(point("acme", "acme"), point("twin", "acme", "other", "0.1"))).problems

    assert (
        problem.message == "plugin 'twin' (other 0.1) is the same object as plugin 'acme' (acme-clouds 2.0)"
    )


# -- the skyfile -----------------------------------------------------------------------------------------------------


def test_a_skyfile_beside_the_project_file_is_loaded_from_below(project: Path) -> None:
    (project / "pyproject.toml").write_text("")
    (project / "skyfile.py").write_text(PROVIDER.format(name="mine", config="Mine"))
    below = project / "src" / "deep"
    below.mkdir(parents=True)

    plugins = Plugins().load(start=below, environ={}, points=())

    assert plugins.listing()[-1].name == "skyfile"
    assert "mine" in plugins.providers()


def test_a_skyfile_may_import_its_neighbours(load: Load, project: Path) -> None:
    module(project, "neighbour", "VALUE = 1")
    (project / "skyfile.py").write_text("from neighbour import VALUE")

    assert not load().problems


def test_a_skyfile_without_a_project_counts_in_the_current_directory_only(project: Path) -> None:
    (project / "skyfile.py").write_text("")
    below = project / "below"
    below.mkdir()

    assert find_skyfile(project) == project / "skyfile.py"
    assert find_skyfile(below) is None


def test_the_search_for_a_skyfile_ends_at_the_repository(project: Path) -> None:
    (project / "pyproject.toml").write_text("")
    (project / "skyfile.py").write_text("")
    repository = project / "vendored"
    (repository / ".git").mkdir(parents=True)

    assert find_skyfile(repository) is None


@pytest.mark.skipif(os.getuid() != 0, reason="needs to give a directory away")
def test_a_skyfile_in_a_directory_of_everybody_is_passed_over(project: Path) -> None:
    (project / "skyfile.py").write_text("")
    project.chmod(0o777)
    assert find_skyfile(project) is not None

    os.chown(project, 65534, 65534)
    assert find_skyfile(project) is None


def test_errors_of_a_skyfile_name_the_file_and_the_line(load: Load, project: Path) -> None:
    (project / "skyfile.py").write_text("\n\nprices = undefined_name\n")

    (problem,) = load().problems

    assert "'skyfile'" in problem.message
    assert "NameError: name 'undefined_name' is not defined" in problem.message
    assert problem.facts == (f"at {project / 'skyfile.py'}:3",)


def test_a_syntax_error_in_a_skyfile_names_its_line(load: Load, project: Path) -> None:
    (project / "skyfile.py").write_text("x = 1\ny = (\n")

    (problem,) = load().problems

    assert problem.facts == (f"at {project / 'skyfile.py'}:2",)


# -- broken plugins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("raise SystemExit(4)", "SystemExit: 4"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("1/0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_to_import_is_left_out_and_named(
    load: Load, project: Path, text: str, says: str
) -> None:
    module(project, "acme", text)

    plugins = load(points=(point("acme", "acme"),))

    (problem,) = plugins.problems
    assert "'acme' (acme-clouds 2.0)" in problem.message
    assert says in problem.message
    assert problem.hints == ("to leave it out: -p no:acme",)
    assert state(plugins, "acme") == "broken"
    assert "first" in plugins.strategies()


def test_an_interrupt_during_loading_is_not_swallowed(load: Load, project: Path) -> None:
    module(project, "acme", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        load("acme")


def test_an_unknown_hook_names_the_nearest(load: Load, project: Path) -> None:
    module(project, "acme", "import skyward\n@skyward.hookimpl\ndef skyward_provider(): ...\n")

    (problem,) = load("acme").problems

    assert "unknown hook 'skyward_provider'; did you mean 'skyward_providers'?" in problem.message


def test_an_optional_unknown_hook_is_fine(load: Load, project: Path) -> None:
    module(
        project,
        "acme",
        "import skyward\n@skyward.hookimpl(optionalhook=True)\ndef skyward_of_others(): ...\n",
    )

    assert not load("acme").problems


def test_a_hook_with_an_unknown_argument_is_refused(load: Load, project: Path) -> None:
    module(project, "acme", "import skyward\n@skyward.hookimpl\ndef skyward_event(evnt): ...\n")

    plugins = load("acme")

    assert "evnt" in plugins.problems[0].message
    assert state(plugins, "acme") == "broken"
    plugins.event(object())  # type: ignore[arg-type]  # must not reach the refused hook


def test_a_hook_without_its_marker_is_refused(load: Load, project: Path) -> None:
    module(project, "acme", "def skyward_event(event): ...\n")

    assert "without @skyward.hookimpl" in load("acme").problems[0].message


def test_a_wrapper_around_a_hook_that_is_called_plugin_by_plugin_is_refused(
    load: Load, project: Path
) -> None:
    module(
        project,
        "acme",
        "import skyward\n@skyward.hookimpl(wrapper=True)\ndef skyward_event(event):\n  yield\n",
    )

    assert "wraps 'skyward_event'" in load("acme").problems[0].message


def test_two_plugins_of_one_name_are_both_named(load: Load, project: Path) -> None:
    module(project, "acme", "")
    points = (point("acme", "acme"), point("acme", "acme", "other", "0.1"))

    (problem,) = load(points=points).problems

    assert (
        problem.message
        == "plugin name 'acme' is registered twice: by 'acme' (acme-clouds 2.0) and by 'acme' (other 0.1)"
    )


def test_what_a_plugin_prints_while_it_is_imported_is_not_part_of_the_answer(
    load: Load, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module(project, "acme", "print('hello from acme')")

    load("acme")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello from acme" in captured.err


def test_a_plugin_that_hangs_is_named(
    load: Load, project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.plugin_loading.SLOW_LOAD_S", 0.05)
    module(project, "acme", "import time; time.sleep(0.4)")

    load("acme")

    assert "plugin 'acme' has been loading for 0.05 s; to leave it out: -p no:acme" in capsys.readouterr().err


# -- what plugins bring ----------------------------------------------------------------------------------------------------


def test_one_provider_name_from_two_plugins_names_both(load: Load, project: Path) -> None:
    module(project, "one", PROVIDER.format(name="acme", config="Acme"))
    module(project, "two", PROVIDER.format(name="acme", config="Acme"))
    plugins = load(points=(point("one", "one"), point("two", "two", "other", "0.1")))

    providers = plugins.providers()

    assert providers["acme"].__module__ == "one"
    assert [problem.message for problem in plugins.problems] == [
        "provider name 'acme' is registered twice: by 'one' (acme-clouds 2.0) and by 'two' (other 0.1)"
    ]


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("[int]", "is no subclass of skyward.Provider"),
        ("[sky.Provider]", "does not define instances, launch, offers, terminate"),
        ("[type('P', (Good,), {'name': 'Not Good'})]", "'Not Good', not a lower-case identifier"),
        ("[type('P', (Good,), {'name': 'p', 'Config': None})]", "has no Config class"),
        ("1/0", "failed in skyward_providers: ZeroDivisionError"),
        ("3", "failed in skyward_providers: TypeError"),
        ("exit(3)", "failed in skyward_providers: SystemExit: 3"),
    ],
)
def test_a_provider_that_is_none_is_told_and_the_others_stay(
    load: Load, project: Path, returned: str, says: str
) -> None:
    good = PROVIDER.format(name="good", config="Good")
    module(project, "good", good)
    module(
        project,
        "bad",
        f"import skyward as sky\nfrom good import Cloud as Good\n@sky.hookimpl\ndef skyward_providers(): return {returned}\n",
    )
    plugins = load("good", "bad")

    assert "good" in plugins.providers()
    assert says in plugins.problems[0].message
    assert "'bad'" in plugins.problems[0].message


def test_check_raises_what_a_query_would_only_warn_of(load: Load, project: Path) -> None:
    module(project, "acme", "raise ImportError('no')")
    plugins = load("acme")

    with pytest.raises(PluginError, match="'acme'") as caught:
        plugins.check()
    assert caught.value.exit_code is ExitCode.INTERNAL


def test_a_sound_set_of_plugins_passes_the_check(load: Load) -> None:
    load().check()
