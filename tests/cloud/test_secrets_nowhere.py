"""A canary in every input of a run on EC2: it is found in no log, journal, command line, user data or request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from skyward.testing.canary import Canary
from skyward.testing.ec2 import SimulatedEC2

WORK = """
    import os
    import skyward as sky

    @sky.compute
    def use() -> bool:
        return len(os.environ["API_TOKEN"]) > 20 and len(os.environ["OTHER_PASSWORD"]) > 20

    @sky.compute
    def leak() -> None:
        print("my token is", os.environ["API_TOKEN"])
        raise ValueError(os.environ["OTHER_PASSWORD"])
"""
Run = Callable[..., "tuple[subprocess.CompletedProcess[str], list[str]]"]


@pytest.fixture
def canary() -> Canary:
    return Canary()


@pytest.fixture
def run(empty_home: Path, tmp_path: Path, ec2: SimulatedEC2, canary: Canary) -> Run:
    """`skyward run` in a project and a home that are full of it; gives what was said, and where it was found."""
    secret = canary.secret
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "work.py").write_text(dedent(WORK))
    (project / ".env").write_text(f"TOKEN={secret}\n")
    (project / "deploy.key").write_text(f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")
    for name in (".ssh/id_ed25519", ".aws/credentials", ".netrc", ".docker/config.json"):
        path = empty_home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(f"[other]\naws_secret_access_key = {secret}\n")
        path.chmod(0o600)
    config = empty_home / "skyward" / "config" / "config.toml"
    pool = f"\n[pools.own]\nenv = {{ OTHER_PASSWORD = {json.dumps(secret)} }}\n"
    config.write_text(config.read_text() + pool, encoding="utf-8")
    config.chmod(0o600)
    environ = {
        **os.environ,
        **dict.fromkeys(("API_TOKEN", "OTHER_PASSWORD", "AWS_SECRET_ACCESS_KEY"), secret),
    }

    def begin(target: str, *options: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        words = ["run", f"work.py:{target}", "--provider", "aws", "--machine", "m7i.large", "--yes", "-v"]
        words += ["--region", "us-east-1", "--env", "API_TOKEN", "--env", "OTHER_PASSWORD"]
        with canary.watching_processes() as found:
            done = subprocess.run(
                [sys.executable, "-m", "skyward", *words, *options],
                cwd=project,
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )  # fmt: skip
        kept = [path for path in (empty_home / "skyward").iterdir() if path.name != "config"]
        texts = {"stdout": done.stdout, "stderr": done.stderr, "requests": repr(ec2.requests)}
        for request in ec2.requests:  # user data is in base64, and each parameter by itself
            texts.update(
                {f"{request.action} {name}": str(value) for name, value in request.parameters.items()}
            )
        for charge in ec2.bill:
            machine = ec2.machine(charge.id)
            texts |= {f"log of {charge.id}": machine.log, f"output of {charge.id}": machine.output}
        return done, [*found, *canary.find(places=kept, texts=texts, processes=True)]

    return begin


def test_a_run_that_uses_secrets_writes_them_nowhere(run: Run, ec2: SimulatedEC2) -> None:
    done, found = run("use")

    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
    assert found == []
    assert ec2.bill
    assert ec2.running() == []


def test_a_task_that_prints_and_raises_them_shows_them_blanked(run: Run) -> None:
    done, found = run("leak")

    assert done.returncode == 1
    assert "my token is" in done.stdout + done.stderr
    assert found == []


def test_a_machine_that_cannot_be_prepared_tells_them_to_nobody(run: Run, canary: Canary) -> None:
    setup = "defaults.image.setup=['echo $API_TOKEN; echo $OTHER_PASSWORD >&2; false']"

    done, found = run("use", "-o", setup)

    assert done.returncode == 4, done.stderr
    assert "echo $API_TOKEN" in done.stderr or "exit status 1" in done.stderr
    assert found == []
