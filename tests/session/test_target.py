from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from skyward.errors import TargetError
from skyward.session import target
from skyward.session.target import Target, is_driver, is_source, load, pool_arguments, undecorated


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten_modules: None) -> Path:
    """An empty directory one stands in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


TRAIN = """
    import skyward as sky

    @sky.compute
    def fold(index: int = 0): return index

    @sky.compute
    def evaluate(): return 1

    def plain(): return 2

    def main(): return sky.gather(map(fold, range(3))) >> sky

    def calls():
        for index in range(3):
            yield fold(index)

    class Model: pass

    limit = 3
"""


def names(found: Target) -> list[str]:
    return [target.name_of(function) for function in found.functions]


@pytest.mark.parametrize(
    "text", ["train:fold", "train.py:fold", "train.py::fold", "train::fold", "./train.py:fold"]
)
def test_every_spelling_means_the_same_function(project: Path, text: str) -> None:
    write(project / "train.py", TRAIN)

    found = load(text)

    assert names(found) == ["fold"]
    assert found.module.__name__ == "train"
    assert found.spelled(found.functions[0]) == text.replace("::", ":")


@pytest.mark.parametrize("text", ["train.py", "train"])
def test_a_file_alone_means_all_its_tasks_in_order(project: Path, text: str) -> None:
    write(project / "train.py", TRAIN)

    assert names(load(text)) == ["fold", "evaluate"]


def test_tasks_a_file_imports_are_not_its_own(project: Path) -> None:
    write(project / "train.py", TRAIN)
    write(
        project / "other.py", "import skyward as sky\nfrom train import fold\n@sky.compute\ndef mine(): ...\n"
    )

    assert names(load("other.py")) == ["mine"]


def test_a_file_is_imported_from_its_own_directory_and_then_from_here(project: Path) -> None:
    write(project / "jobs/near.py", "x = 1")
    write(project / "far.py", "y = 2")
    write(project / "jobs/job.py", "import near, far\ndef main(): return near.x + far.y\n")

    assert load("jobs/job.py:main").functions[0]() == 3
    assert sys.path[0] == str(project / "jobs")


def test_a_file_of_a_package_is_imported_as_part_of_it(project: Path) -> None:
    write(project / "pkg/__init__.py", "")
    write(project / "pkg/sub/__init__.py", "")
    write(project / "pkg/const.py", "x = 7")
    write(project / "pkg/sub/job.py", "from ..const import x\ndef main(): return x\n")

    for text in ("pkg/sub/job.py:main", "pkg.sub.job:main"):
        found = load(text)
        assert found.module.__name__ == "pkg.sub.job"
        assert found.functions[0]() == 7


def test_a_file_whose_name_is_no_identifier_is_imported_all_the_same(project: Path) -> None:
    write(project / "01-hello.py", "def main(): return 1\n")

    assert load("01-hello.py:main").module.__name__ == "01-hello"


def test_an_installed_module_is_found_too(project: Path) -> None:
    assert load("math:sqrt").functions[0](4) == 2
    assert load("os:path.join").functions[0]("a", "b") == "a/b"


@pytest.mark.parametrize(
    ("text", "message", "fact", "hint"),
    [
        (
            "trian:main",
            "cannot import 'trian'",
            "no module or file 'trian' in {here} (sys.path[0])",
            "found train.py - did you mean `skyward run train:main`?",
        ),
        (
            "trian.py:main",
            "no file 'trian.py'",
            "{here} holds train.py",
            "did you mean `skyward run train.py:main`?",
        ),
        (
            "train:mian",
            "train has no task 'mian'; it defines: fold, evaluate, plain, main, calls",
            None,
            "did you mean `skyward run train:main`?",
        ),
        (
            "train.py::fodl",
            "train.py has no task 'fodl'; it defines: fold, evaluate, plain, main, calls",
            None,
            "did you mean `skyward run train.py:fold`?",
        ),
        ("train:Model", "train:Model is a class, not a function", "it defines: fold,", None),
        ("train:limit", "train:limit is of type int, not a function", "it defines: fold,", None),
        (
            "pkg.trian:main",
            "cannot import 'pkg.trian'",
            "no module or file 'pkg.trian'",
            "found pkg/train.py - did you",
        ),
        ("nowhere/x.py", "no file 'nowhere/x.py'", "nowhere is no directory", None),
        ("./", "'.' is a directory, not a file", "it holds train.py", "skyward run train.py"),
        ("notes.txt.py", "no file 'notes.txt.py'", "{here} holds", None),
        (":main", "no module or file in ':main'", None, "skyward run FILE.py:FUNCTION"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(
    project: Path, text: str, message: str, fact: str | None, hint: str | None
) -> None:
    write(project / "train.py", TRAIN)
    write(project / "pkg/__init__.py", "")
    write(project / "pkg/train.py", "")

    with pytest.raises(TargetError) as caught:
        load(text)

    assert caught.value.message == message
    if fact:
        assert caught.value.facts[0].startswith(fact.format(here=project))
    if hint:
        assert caught.value.hints[0].startswith(hint)


def test_a_file_without_tasks_says_what_it_does_define(project: Path) -> None:
    write(project / "plain.py", "def helper(): ...\n")

    with pytest.raises(TargetError) as caught:
        load("plain.py")

    assert caught.value.message == "plain.py has no tasks: no function in it is decorated with @sky.compute"
    assert caught.value.facts == ("it defines: helper",)
    assert caught.value.hints == ("skyward run plain.py:helper",)


def test_a_module_that_raises_shows_the_users_frames_and_no_others(project: Path) -> None:
    write(project / "inner.py", "def f(): return 1 / 0\n")
    write(project / "train.py", "import inner\nvalue = inner.f()\n")

    with pytest.raises(TargetError) as caught:
        load("train.py:main")

    text = caught.value.values["traceback"]
    assert (
        caught.value.message == "train.py failed while it was imported: ZeroDivisionError: division by zero"
    )
    assert [line.split('"')[1] for line in text.splitlines() if line.startswith("  File")] == [
        str(project / "train.py"),
        str(project / "inner.py"),
    ]
    assert text.splitlines()[-1] == "ZeroDivisionError: division by zero"


def test_a_syntax_error_shows_the_line(project: Path) -> None:
    write(project / "train.py", "def main(:\n")

    with pytest.raises(TargetError) as caught:
        load("train.py:main")

    assert "def main(:" in caught.value.values["traceback"]


def test_a_module_that_exits_is_an_error_like_any_other(project: Path) -> None:
    write(project / "train.py", "raise SystemExit(3)\n")

    with pytest.raises(TargetError, match=r"train\.py failed while it was imported: SystemExit: 3"):
        load("train.py:main")


def test_a_missing_dependency_is_not_taken_for_a_missing_target(project: Path) -> None:
    write(project / "train.py", "import torchh_not_here\n")

    for text in ("train.py:main", "train:main"):
        with pytest.raises(TargetError) as caught:
            load(text)
        assert "No module named 'torchh_not_here'" in caught.value.message
        assert caught.value.hints == ("uv pip install torchh_not_here",)
        assert "train.py" in caught.value.values["traceback"]


def test_a_file_named_like_another_module_is_refused_because_workers_would_import_that(project: Path) -> None:
    write(project / "json.py", "def main(): ...\n")

    with pytest.raises(TargetError) as caught:
        load("json.py:main")

    assert caught.value.message == "'json.py' has the name of another module, 'json'"
    assert caught.value.hints == ("mv json.py my_json.py",)


def test_drivers_are_told_from_tasks(project: Path) -> None:
    write(project / "train.py", TRAIN + "\n    def indirect(): return main()\n")
    module = load("train.py:main").module

    drivers = [name for name, value in vars(module).items() if callable(value) and is_driver(value)]
    sources = [name for name, value in vars(module).items() if callable(value) and is_source(value)]

    assert drivers == ["main", "indirect"]
    assert sources == ["calls"]


def test_a_function_that_makes_its_tasks_itself_is_a_driver(project: Path) -> None:
    write(
        project / "train.py",
        """
        import skyward as sky
        from skyward import compute as task

        def inside():
            @sky.compute
            def part(x): return x
            return part(1) >> sky

        def by_name(): return task(len)("abc") >> sky

        def other(): return sky.instance_info()
        """,
    )
    module = load("train.py:inside").module

    assert [is_driver(one) for one in (module.inside, module.by_name, module.other)] == [True, True, False]


POOLED = """
    import skyward as sky

    @sky.compute
    def part(): return 1

    @sky.pool(nodes=2, memory="1GB")
    def main(): return 3

    @sky.pool
    async def later(): return 4

    @sky.pool(nodes=3)
    def calls(): yield part()
"""


def test_a_pooled_function_is_a_driver_that_brings_its_pools_arguments(project: Path) -> None:
    write(project / "train.py", POOLED)
    module = load("train.py").module

    assert is_driver(module.main)
    assert pool_arguments(module.main) == {"provider": None, "nodes": 2, "memory": "1GB"}
    assert undecorated(module.main)() == 3
    assert is_driver(module.later)
    assert pool_arguments(module.later) == {}
    assert is_source(module.calls)
    assert pool_arguments(module.calls)["nodes"] == 3
    assert pool_arguments(module.part) == {}


def test_a_file_whose_main_is_pooled_means_main(project: Path) -> None:
    write(project / "train.py", POOLED)

    assert names(load("train.py")) == ["main"]


def test_a_task_of_another_module_makes_a_driver_too(project: Path) -> None:
    write(project / "train.py", TRAIN)
    write(
        project / "drive.py",
        "import train\ndef main(): return train.fold(1)\ndef other(): return train.limit\n",
    )
    module = load("drive.py:main").module

    assert is_driver(module.main)
    assert not is_driver(module.other)
