"""What travels of a project, what never does, and that equal sources are equal bytes."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skyward.errors import ConfigError
from skyward.remote.bundle import (
    LIMIT_VARIABLE,
    Archive,
    find_project,
    import_paths,
    project_archive,
    runtime_archive,
)


def names(archive: Archive) -> set[str]:
    return set(zipfile.ZipFile(io.BytesIO(archive.data)).namelist())


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(
        tmp_path / "fold",
        {"pyproject.toml": "", "pkg/__init__.py": "", "pkg/a.py": "a = 1\n", "data.csv": "1\n"},
    )


# -- finding it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", ["pyproject.toml", "skyward.toml", "setup.py", ".git/HEAD"])
def test_the_nearest_directory_with_a_marker_is_the_project(tmp_path: Path, marker: str) -> None:
    write(tmp_path, {"pyproject.toml": "", f"inner/{marker}": "", "inner/a/b/script.py": ""})

    assert find_project(tmp_path / "inner" / "a" / "b" / "script.py") == tmp_path / "inner"
    assert find_project(tmp_path / "inner") == tmp_path / "inner"


def test_the_home_directory_is_never_a_project(empty_home: Path) -> None:
    write(empty_home, {".git/HEAD": "", "pyproject.toml": "", "notes/script.py": ""})

    assert find_project(empty_home / "notes" / "script.py") is None
    assert find_project("/") is None


def test_of_a_lone_script_only_python_files_and_packages_travel(empty_home: Path) -> None:
    write(
        empty_home,
        {
            "script.py": "",
            "other.py": "",
            "taxes.pdf": "",
            "pkg/__init__.py": "",
            "pkg/table.csv": "",
            "photos/a.py": "",
            ".env": "SECRET=1",
        },
    )

    assert names(project_archive(empty_home)) == {"script.py", "other.py", "pkg/__init__.py", "pkg/table.csv"}


def test_a_directory_inside_a_project_is_taken_whole(project: Path) -> None:
    assert names(project_archive(project / "pkg")) == {"__init__.py", "a.py"}


# -- what travels ----------------------------------------------------------------------------------------------


def test_contents_and_the_executable_bit_travel(project: Path) -> None:
    write(project, {"run.sh": "#!/bin/sh\n"})
    (project / "run.sh").chmod(0o755)

    archive = zipfile.ZipFile(io.BytesIO(project_archive(project).data))

    assert archive.read("pkg/a.py") == b"a = 1\n"
    assert archive.getinfo("run.sh").external_attr >> 16 & 0o777 == 0o755
    assert archive.getinfo("data.csv").external_attr >> 16 & 0o777 == 0o644


@pytest.mark.parametrize(
    "secret",
    [
        ".env", ".env.production", "prod.env", "id_rsa", "id_ed25519", "deploy.pem", "server.key", "x.p12", ".netrc",
        ".pypirc", ".npmrc", "credentials.json", "credentials", "client_secret_1.json", "service-account.json",
        "secrets.toml", ".aws/credentials", ".aws/config", ".ssh/config", ".git/config", "terraform.tfstate",
        "kubeconfig", ".kube/config", "pkg/.env", "deep/er/id_rsa",
    ],
)  # fmt: skip
def test_secrets_never_travel_whatever_the_ignore_files_say(project: Path, secret: str) -> None:
    write(project, {secret: "canary", ".skywardignore": f"!{secret}\n!*\n"})

    archive = project_archive(project)

    assert secret not in names(archive)
    assert "pkg/a.py" in names(archive)


def test_a_private_key_under_any_name_stays_here_and_is_said(project: Path) -> None:
    write(
        project,
        {
            "deploy": "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            "pkg/x.txt": "\n-----BEGIN PRIVATE KEY-----",
        },
    )

    archive = project_archive(project)

    assert names(archive) == {"pyproject.toml", "pkg/__init__.py", "pkg/a.py", "data.csv"}
    assert set(archive.skipped) == {"deploy: holds a private key", "pkg/x.txt: holds a private key"}


@pytest.mark.parametrize(
    "innocent",
    [
        "id_mapping.py",
        "keys.py",
        "credentials.py",
        "environment.yml",
        "env/settings.py",
        "secrets.py",
        "tokenizer.json",
    ],
)
def test_sources_that_only_sound_secret_travel(project: Path, innocent: str) -> None:
    write(project, {innocent: ""})

    assert innocent in names(project_archive(project))


@pytest.mark.parametrize(
    "litter",
    [".venv/lib/x.py", "env/pyvenv.cfg", "env/lib/x.py", "conda/conda-meta/h", "node_modules/x.js", "pkg/__pycache__/a.pyc",
     "pkg/a.pyc", ".pytest_cache/x", ".mypy_cache/x", ".git/HEAD", ".DS_Store", ".tox/x"],
)  # fmt: skip
def test_environments_and_caches_do_not_travel(project: Path, litter: str) -> None:
    write(project, {"env/pyvenv.cfg": "", "conda/conda-meta/history": "", litter: ""})

    assert litter not in names(project_archive(project))


def test_gitignore_rules_as_git_reads_them(project: Path) -> None:
    files = {
        ".gitignore": "*.log\n/build\ndata/*\n!data/keep.csv\n",
        "a.log": "", "pkg/b.log": "", "build/x": "", "pkg/build/x": "", "data/big.bin": "", "data/keep.csv": "",
        "pkg/.gitignore": "!b.log\nlocal.py\n", "pkg/local.py": "", "local.py": "",
    }  # fmt: skip
    write(project, files)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "-A"], cwd=project, check=True)
    listed = subprocess.run(["git", "ls-files"], cwd=project, capture_output=True, text=True, check=True)

    assert names(project_archive(project)) == set(listed.stdout.split())


_PATTERNS = st.lists(
    st.sampled_from(
        [
            "*.txt",
            "!a.txt",
            "/a.txt",
            "d/",
            "d/*",
            "!d/b.txt",
            "**/b.txt",
            "e/**",
            "d/e",
            "!*.txt",
            "# c",
            "[ab].txt",
            "?.py",
        ]
    ),
    max_size=4,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(top=_PATTERNS, inner=_PATTERNS)
def test_the_same_files_travel_as_git_would_add(
    tmp_path_factory: pytest.TempPathFactory, top: list[str], inner: list[str]
) -> None:
    root = tmp_path_factory.mktemp("p")
    files = dict.fromkeys(
        ["a.txt", "b.txt", "a.py", "d/a.txt", "d/b.txt", "d/e/b.txt", "d/e/c.py", "e/a.txt", "e/d/b.txt"], ""
    )
    write(root, {**files, ".gitignore": "\n".join(top), "d/.gitignore": "\n".join(inner)})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()

    assert names(project_archive(root)) == set(listed)
    shutil.rmtree(root)


def test_a_repository_around_the_project_has_its_say(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".git/info/exclude": "notes.md\n",
            ".gitignore": "*.bin\n",
            "p/pyproject.toml": "",
            "p/a.bin": "",
            "p/a.py": "",
            "p/notes.md": "",
        },
    )

    assert names(project_archive(tmp_path / "p")) == {"pyproject.toml", "a.py"}


def test_skywardignore_leaves_out_more_and_brings_back(project: Path) -> None:
    write(
        project,
        {
            ".gitignore": "*.bin\n",
            ".skywardignore": "!model.bin\nnotebooks/\n",
            "model.bin": "",
            "x.bin": "",
            "notebooks/a.ipynb": "",
        },
    )

    found = names(project_archive(project))

    assert "model.bin" in found
    assert not found & {"x.bin", "notebooks/a.ipynb"}


# -- odd files -------------------------------------------------------------------------------------------------


def test_links_inside_the_project_become_what_they_point_to(project: Path) -> None:
    (project / "link.py").symlink_to("pkg/a.py")
    (project / "also").symlink_to("pkg", target_is_directory=True)

    archive = zipfile.ZipFile(io.BytesIO(project_archive(project).data))

    assert archive.read("link.py") == b"a = 1\n"
    assert archive.read("also/a.py") == b"a = 1\n"


def test_links_that_lead_out_to_secrets_or_in_circles_do_not_travel(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"outside/secret.txt": "canary"})
    write(project, {".env": "canary"})
    (project / "out.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    (project / "outdir").symlink_to(tmp_path / "outside")
    (project / "env.txt").symlink_to(".env")
    (project / "pkg" / "round").symlink_to("..", target_is_directory=True)
    (project / "pkg" / "again").symlink_to("../pkg", target_is_directory=True)
    (project / "dangling").symlink_to("nowhere")

    archive = project_archive(project)

    assert names(archive) == {"pyproject.toml", "pkg/__init__.py", "pkg/a.py", "data.csv"}
    assert "out.txt: links out of the project" in archive.skipped


def test_a_link_that_is_ignored_is_not_missed(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"outside/large.bin": "x"})
    (project / "data").symlink_to(tmp_path / "outside")
    (project / "large").symlink_to(tmp_path / "outside" / "large.bin")
    assert len(project_archive(project).skipped) == 2

    write(project, {".skywardignore": "data/\n/large\n"})

    assert project_archive(project).skipped == ()


def test_sockets_and_pipes_are_passed_over(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

        assert names(project_archive(project)) == {
            "pyproject.toml",
            "pkg/__init__.py",
            "pkg/a.py",
            "data.csv",
        }


def test_a_name_that_is_no_text_is_left_here_and_said(project: Path) -> None:
    os.close(os.open(os.fsencode(project) + b"/caf\xe9.txt", os.O_CREAT))
    write(project, {"naïve 名.txt": ""})

    archive = project_archive(project)

    assert "naïve 名.txt" in names(archive)
    assert archive.skipped == ("caf\\udce9.txt: its name is not UTF-8",)


# -- bytes -----------------------------------------------------------------------------------------------------


def test_equal_sources_are_equal_bytes_wherever_and_whenever(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "fold"
    shutil.copytree(project, copy)
    for path in copy.rglob("*"):
        os.utime(path, (random.random() * 1e9,) * 2)

    assert project_archive(copy).data == project_archive(project).data


def test_a_second_call_reads_no_file(project: Path) -> None:
    first = project_archive(project)
    (project / "data.csv").chmod(0)

    assert project_archive(project) is first


def test_a_changed_added_or_removed_file_makes_another_archive(project: Path) -> None:
    seen = [project_archive(project).digest]
    (project / "pkg" / "a.py").write_text("a = 2\n")
    seen.append(project_archive(project).digest)
    (project / "new.py").write_text("")
    seen.append(project_archive(project).digest)
    (project / "data.csv").unlink()
    seen.append(project_archive(project).digest)

    assert len(set(seen)) == 4


def test_a_project_that_is_too_heavy_names_its_largest_files(project: Path) -> None:
    for number in range(7):
        with (project / f"big{number}.bin").open("wb") as file:
            file.truncate((number + 1) * 2**20)

    with pytest.raises(ConfigError) as caught:
        project_archive(project, limit_bytes=20 * 2**20)

    error = caught.value
    assert "28.0 MiB" in str(error)
    assert "20.0 MiB" in str(error)
    assert [fact.split()[-1] for fact in error.facts] == [f"big{n}.bin" for n in (6, 5, 4, 3, 2)]
    assert ".skywardignore" in error.hints[0]
    write(project, {".skywardignore": "big*\n"})
    assert "big6.bin" not in names(project_archive(project, limit_bytes=20 * 2**20))


def test_the_limit_can_be_raised_by_a_variable(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "big.bin").write_bytes(bytes(2 * 2**20))
    monkeypatch.setenv(LIMIT_VARIABLE, "1MB")
    with pytest.raises(ConfigError):
        project_archive(project)

    monkeypatch.setenv(LIMIT_VARIABLE, "3MB")

    assert "big.bin" in names(project_archive(project))


def test_modules_are_imported_from_where_they_are_here(project: Path, tmp_path: Path) -> None:
    write(project, {"src/q/__init__.py": "", "tools/x.py": "", ".venv/pyvenv.cfg": "", ".venv/lib/y.py": ""})
    path = [str(project / "tools"), str(tmp_path), str(project / ".venv" / "lib"), "/usr/lib"]

    assert import_paths(project, path) == ("tools", "src", ".")


# -- the runtime -----------------------------------------------------------------------------------------------


def test_the_runtime_is_small_and_pure() -> None:
    archive = runtime_archive()

    assert runtime_archive() is archive
    assert len(archive.data) < 512 * 2**10
    found = names(archive)
    assert {
        "skyward/__init__.py",
        "skyward/errors.py",
        "skyward/model/image.py",
        "cloudpickle/cloudpickle.py",
    } <= found
    assert not [name for name in found if name.endswith((".so", ".pyc", ".parquet"))]
    assert not [
        name for name in found if name.startswith(("skyward/cli/", "skyward/catalog/", "skyward/cloud/"))
    ]


def test_on_an_instance_with_python_alone_tasks_can_use_skyward(tmp_path: Path) -> None:
    (tmp_path / "runtime.zip").write_bytes(runtime_archive().data)
    shutil.unpack_archive(tmp_path / "runtime.zip", tmp_path / "runtime")
    program = """
import sys
sys.path.insert(0, "runtime")
import skyward as sky, cloudpickle

@sky.compute(retries=2)
def double(x):
    return 2 * x

assert double.local(4) == 8
pending = double(4)
pool = sky.ComputePool(provider=sky.AWS(region="eu-west-1"), accelerator="A100:8", image=sky.Image(pip="numpy"), memory="80GB")
assert list(sky.shard([1, 2, 3])) == [1, 2, 3]
assert sky.Accelerator("H100", count=2)
assert sky.instance_info is not None
assert cloudpickle.loads(cloudpickle.dumps(lambda: 3))() == 3
pending.local() if hasattr(pending, "local") else None
foreign = {m.partition(".")[0] for m in sys.modules} - set(sys.stdlib_module_names) - {"__main__", "skyward", "cloudpickle"}
assert not foreign, foreign
"""
    info = {
        "node": 0,
        "total_nodes": 1,
        "worker": 0,
        "workers_per_node": 1,
        "job_id": "j",
        "head_addr": "",
        "head_port": 0,
    }
    env = {"SKYWARD_INSTANCE_INFO": json.dumps(info)}

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
