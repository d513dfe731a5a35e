"""The declared environment: what it takes, what it refuses, and when two images mean the same."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from skyward.errors import ConfigError
from skyward.model.image import Image, Variables, requirement_name

NASTY = st.text(alphabet=" -;&|$`'\"\\\n\r\t\0()<>=!~,.[]@#*aZ09_é\u202e", max_size=20)


# -- what is taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "numpy",
        "numpy>=2",
        "numpy >= 2, < 3",
        "torch==2.5.1+cu124",
        "uvicorn[standard]",
        "a[x, y]~=1.0 ; python_version < '3.12' and sys_platform == 'linux'",
        "pip @ https://example.com/pip-1.0-py3-none-any.whl",
        "pip @ git+https://github.com/pypa/pip.git@22.0.2",
        "pip @ https://example.com/pip.zip ; os_name == 'posix'",
        "git+https://github.com/pypa/pip.git@22.0.2#egg=pip",
        "https://example.com/x-1.0-py3-none-any.whl",
        "x (>=1.0, <2)",
        "x==1.*",
        "x===weird",
    ],
)
def test_requirements_as_pip_spells_them_are_taken(line: str) -> None:
    assert Image(pip=line).pip == (line,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pip", "-e ."),
        ("pip", "--index-url=https://evil"),
        ("pip", "numpy; touch X #"),
        ("pip", "numpy\n--index-url https://evil"),
        ("pip", "numpy pandas"),
        ("pip", ""),
        ("pip", "./local"),
        ("pip", "x @ https://a b"),
        ("pip", 3),
        ("pip", ["ok", None]),
        ("apt", "-o=Dir::Etc=/tmp"),
        ("apt", "Git"),
        ("apt", "git; rm -rf /"),
        ("apt", "x"),
        ("env", {"A-B": "1"}),
        ("env", {"A": 1}),
        ("env", {"A": "\0"}),
        ("env", {"": "1"}),
        ("env", ["A=1"]),
        ("indexes", "ftp://x"),
        ("indexes", "https://a b"),
        ("indexes", "--extra-index-url"),
        ("python", "3"),
        ("python", 3.11),
        ("python", "3.11; ls"),
        ("python", "4.0"),
        ("requirements", ""),
        ("requirements", ["-r other.txt"]),
        ("setup", ""),
        ("setup", ["echo \0"]),
        ("project", "yes"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^image: {field}|^image: index "):
        Image(**{field: value})  # type: ignore[arg-type]


@given(NASTY)
def test_a_requirement_is_refused_or_one_line_that_is_no_option(text: str) -> None:
    try:
        (line,) = Image(pip=[text]).pip
    except ConfigError:
        return
    assert not line.startswith("-")
    assert line.isascii()
    assert line.isprintable()


@given(
    st.from_regex(
        r"[A-Za-z0-9]{1,3}( ?\[[a-z]{1,2}\])? ?((==|>=|<|~=)[0-9.]{1,4}\*?)?( ?; ?os_name == 'x')?",
        fullmatch=True,
    )
)
def test_what_the_standard_grammar_takes_is_taken(text: str) -> None:
    try:
        expected = Requirement(text)
    except InvalidRequirement:
        return
    assert requirement_name(Image(pip=text).pip[0]) == canonicalize_name(expected.name)


def test_several_requirements_in_one_string_get_the_list_as_a_hint() -> None:
    with pytest.raises(ConfigError) as caught:
        Image(pip="numpy, pandas")

    assert caught.value.hints == ("one requirement each: pip=['numpy', 'pandas']",)


def test_one_string_is_one_item_and_any_iterable_is_taken() -> None:
    image = Image(
        pip="numpy", apt=(name for name in ["git", "curl"]), setup="echo a b", indexes="https://x/simple"
    )

    assert (image.pip, image.apt, image.setup, image.indexes) == (
        ("numpy",),
        ("git", "curl"),
        ("echo a b",),
        ("https://x/simple",),
    )


# -- values ----------------------------------------------------------------------------------------------------


def test_an_image_is_a_value() -> None:
    image = Image(pip=["a", "b"], env={"X": "1"}, requirements=["c==1"])

    assert image == pickle.loads(pickle.dumps(image))
    assert len({image, pickle.loads(pickle.dumps(image))}) == 1
    assert image != Image(pip=["a", "b"], env={"X": "2"}, requirements=["c==1"])
    assert image.env == {"X": "1"}
    with pytest.raises(AttributeError):
        image.python = "3.11"  # type: ignore[misc]


def test_values_of_variables_are_not_shown() -> None:
    assert "hunter2" not in repr(Image(env={"PASSWORD": "hunter2"}))
    assert "PASSWORD" in repr(Image(env={"PASSWORD": "hunter2"}))


# -- hashes ----------------------------------------------------------------------------------------------------


@given(st.permutations(["numpy>=2", "Pandas", "scipy==1.0"]), st.permutations([("A", "1"), ("B", "2")]))
def test_orders_that_do_not_matter_give_one_hash(pip: list[str], env: list[tuple[str, str]]) -> None:
    expected = Image(pip=["numpy>=2", "pandas", "scipy==1.0"], env={"A": "1", "B": "2"})

    assert Image(pip=pip, env=dict(env)).content_hash() == expected.content_hash()


def test_orders_that_matter_give_other_hashes() -> None:
    assert Image(setup=["a", "b"]).content_hash() != Image(setup=["b", "a"]).content_hash()
    first, second = "https://a/simple", "https://b/simple"
    assert Image(indexes=[first, second]).content_hash() != Image(indexes=[second, first]).content_hash()


@pytest.mark.parametrize(
    "change",
    [
        {"python": "3.11"},
        {"pip": "numpy"},
        {"apt": "git"},
        {"env": {"A": "1"}},
        {"indexes": "https://x"},
        {"requirements": ["x"]},
        {"project": False},
        {"setup": "true"},
    ],
)
def test_every_field_counts(change: dict[str, object]) -> None:
    assert Image(**change).content_hash() != Image().content_hash()  # type: ignore[arg-type]


def test_another_process_computes_the_same_hash() -> None:
    program = "from skyward.model.image import Image as I; print(I(pip=['b','a'], env={'B':'1','A':'2'}).content_hash())"
    env = {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[2])}
    other = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True
    )

    assert other.stdout.strip() == Image(pip=["a", "b"], env={"A": "2", "B": "1"}).content_hash()


def test_variables_change_the_environment_only_where_setup_reads_them() -> None:
    assert Image(pip="x", env={"A": "1"}).environment_hash() == Image(pip="x").environment_hash()
    assert Image(setup="x", env={"A": "1"}).environment_hash() != Image(setup="x").environment_hash()


def test_a_new_password_of_an_index_is_the_same_image() -> None:
    one, two = Image(indexes="https://u:old@x/simple"), Image(indexes="https://u:new@x/simple")

    assert one.content_hash() == two.content_hash()


# -- requirements files ----------------------------------------------------------------------------------------


def test_a_requirements_file_is_read_when_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "requirements.txt"
    image = Image(requirements=file)
    file.write_text(
        "# comment\nnumpy>=2  # why\n\nscipy==1.0 \\\n  --hash=sha256:" + "a" * 64 + "\n-r more.txt\n"
    )
    (tmp_path / "more.txt").write_text("pandas ; python_version > '3'\n")

    assert image.requirement_lines() == (
        "numpy>=2",
        "scipy==1.0    --hash=sha256:" + "a" * 64,
        "pandas ; python_version > '3'",
    )
    before = image.content_hash()
    file.write_text("numpy>=1\n")
    assert image.content_hash() != before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("numpy\n--extra-index-url https://x\n", "line 2"),
        ("-e .\n", "line 1"),
        ("a \\\n b\n", "line 1"),
    ],
)
def test_a_bad_line_of_a_requirements_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "r.txt").write_text(text)

    with pytest.raises(ConfigError, match=f"{expected} of .*r.txt"):
        Image(requirements=str(tmp_path / "r.txt")).content_hash()


def test_a_requirements_file_that_is_missing_or_includes_itself_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read requirements '.*gone\.txt'"):
        Image(requirements=tmp_path / "gone.txt").content_hash()
    (tmp_path / "a.txt").write_text("-r a.txt\n")
    with pytest.raises(ConfigError, match="includes itself"):
        Image(requirements=tmp_path / "a.txt").content_hash()


def test_skyward_itself_is_never_installed_by_name() -> None:
    assert Image(pip=["Skyward[x]>=1", "numpy"]).requirement_lines() == ("numpy",)


# -- from a project --------------------------------------------------------------------------------------------


def test_a_project_without_lock_gets_the_versions_installed_here(tmp_path: Path) -> None:
    from importlib.metadata import version

    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname="p"\nversion="1"\ndependencies=["click>=1", "not-installed-anywhere<9", "skyward"]\n'
    )
    image = Image.from_project(tmp_path / "pyproject.toml", env={"A": "1"})

    assert image.requirements == (f"click=={version('click')}", "not-installed-anywhere<9")
    assert image.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert image.env == Variables({"A": "1"})


def test_a_requirements_file_wins_over_what_pyproject_says(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname="p"\nversion="1"\ndependencies=["click"]\n')
    (tmp_path / "requirements.txt").write_text("six==1.16.0\n")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)

    assert Image.from_project(inner).requirements == ("six==1.16.0",)


def test_a_lock_is_mirrored_with_versions_and_hashes(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname="p"\nversion="1"\nrequires-python=">=3.11"\ndependencies=["six"]\n'
    )
    digest = "e721fc1bbd5f1ae9b4b6b1a7e2a2b5e5d0c6b5d2f3a4b5c6d7e8f9a0b1c2d3e4"
    (tmp_path / "uv.lock").write_text(
        f"""version = 1
requires-python = ">=3.11"

[[package]]
name = "p"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "six" }}]

[package.metadata]
requires-dist = [{{ name = "six" }}]

[[package]]
name = "six"
version = "1.16.0"
source = {{ registry = "https://wheels.example/simple" }}
wheels = [{{ url = "https://example.com/six-1.16.0-py2.py3-none-any.whl", hash = "sha256:{digest}" }}]
"""
    )

    image = Image.from_project(tmp_path)

    assert [line.split() for line in image.requirement_lines()] == [
        ["six==1.16.0", f"--hash=sha256:{digest}"]
    ]


def test_a_member_of_a_workspace_is_locked_by_the_workspace(tmp_path: Path) -> None:
    write = {
        "pyproject.toml": '[project]\nname="w"\nversion="1"\nrequires-python=">=3.11"\n[tool.uv.workspace]\nmembers=["m"]\n',
        "m/pyproject.toml": '[project]\nname="m"\nversion="1"\nrequires-python=">=3.11"\ndependencies=["six"]\n',
        "uv.lock": """version = 1
requires-python = ">=3.11"

[manifest]
members = ["m", "w"]

[[package]]
name = "m"
version = "1"
source = { virtual = "m" }
dependencies = [{ name = "six" }]

[package.metadata]
requires-dist = [{ name = "six" }]

[[package]]
name = "six"
version = "1.16.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://example.com/six-1.16.0-py2.py3-none-any.whl", hash = "sha256:e721fc1bbd5f1ae9b4b6b1a7e2a2b5e5d0c6b5d2f3a4b5c6d7e8f9a0b1c2d3e4" }]

[[package]]
name = "w"
version = "1"
source = { virtual = "." }
""",
    }
    for name, text in write.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert [line.split()[0] for line in Image.from_project(tmp_path / "m").requirement_lines()] == [
        "six==1.16.0"
    ]


def test_a_broken_lock_and_a_missing_project_are_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname="p"\nversion="1"\n')
    (tmp_path / "uv.lock").write_text("version = ]")
    with pytest.raises(ConfigError, match=r"uv cannot read '.*uv\.lock'"):
        Image.from_project(tmp_path)
    (tmp_path / "uv.lock").unlink()
    (tmp_path / "pyproject.toml").write_text("= ]")
    with pytest.raises(ConfigError, match=r"cannot read '.*pyproject\.toml'"):
        Image.from_project(tmp_path)


def test_the_standard_library_is_enough(tmp_path: Path) -> None:
    program = (
        "import json, sys; from skyward.model.image import Image; Image(pip=['a>=1']).content_hash(); "
        "print(json.dumps(sorted(m for m in sys.modules if '.' not in m)))"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); {program}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name.lstrip("_") for name in json.loads(done.stdout)}

    assert names <= {name.lstrip("_") for name in sys.stdlib_module_names} | {"skyward", "main__"}
