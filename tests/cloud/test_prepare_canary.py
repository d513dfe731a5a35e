"""The canary is found wherever it is, and nothing of what prepares a machine lets it out."""

from __future__ import annotations

import base64
import gzip
import io
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward.cloud.bootstrap import core_steps
from skyward.cloud.hostkeys import make_key_pair, rotate
from skyward.cloud.userdata import render
from skyward.model.instance import Instance
from skyward.model.offer import Offer
from skyward.model.requirements import Requirements
from skyward.model.volume import S3Volume
from skyward.remote.connection import connect
from skyward.testing.canary import Canary
from skyward.testing.sshd import SSHServer


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", data)
    return buffer.getvalue()


def tarred(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("inner.txt")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


WAYS: dict[str, Callable[[str], bytes]] = {
    "as it is": str.encode,
    "in JSON": lambda text: json.dumps({"key": text}).encode(),
    "in JSON in JSON's clothes": lambda text: json.dumps({"key": text}, ensure_ascii=False).encode(),
    "in a Python literal": lambda text: repr({"key": text}).encode(),
    "in an address": lambda text: f"https://u:{quote(text, safe='')}@host/".encode(),
    "in hexadecimal": lambda text: text.encode().hex().encode(),
    "compressed": lambda text: gzip.compress(text.encode()),
    "in an archive": lambda text: zipped(text.encode()),
    "in a compressed archive in an archive": lambda text: zipped(gzip.compress(tarred(text.encode()))),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_found_however_it_is_written(way: str, tmp_path: Path) -> None:
    canary = Canary()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(WAYS[way](canary.secret))

    found = canary.find(places=[tmp_path])

    assert found
    assert all("deep/er/file" in line for line in found)
    assert canary.find(texts={"log": WAYS[way](canary.secret)})


@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
def test_it_is_found_in_base64_wherever_it_begins(before: bytes, after: bytes) -> None:
    canary = Canary()
    data = before + canary.secret.encode() + after

    assert canary.find(texts={"a": base64.b64encode(data), "b": base64.urlsafe_b64encode(data)}) != []
    assert len(canary.find(texts={"a": base64.b64encode(data), "b": base64.urlsafe_b64encode(data)})) == 2


def test_it_is_found_in_the_name_of_a_file(tmp_path: Path) -> None:
    canary = Canary("canary-plain-1234")
    (tmp_path / f"log-{canary.secret}").touch()

    assert canary.find(places=[tmp_path]) == [f"name of {tmp_path}/log-{canary.secret}: plain"]


def test_it_is_found_in_a_command_line_even_of_a_process_that_does_not_stay() -> None:
    canary = Canary()
    with canary.watching_processes() as found:
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)", canary.secret])
        process.wait(10)

    assert f"command line of process {process.pid}: plain" in found


def test_where_it_is_not_it_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(zipped(Canary().secret.encode()))

    assert Canary().find(places=[tmp_path, tmp_path / "none"], texts={"a": "b"}, processes=True) == []


def test_it_does_not_show_itself() -> None:
    canary = Canary()

    assert not canary.find(texts={"repr": repr(canary)})


# -- what prepares a machine -----------------------------------------------------------------------------------


def test_user_data_knows_nothing_but_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    canary = Canary()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary.secret)
    pair = make_key_pair("host")

    text = render(
        host_key=pair, authorized_keys=[pair.public], lifetime_s=60, lease_s=30, login_user="ubuntu"
    )

    assert canary.find(texts={"user data": text}) == []


def test_what_a_step_is_told_is_in_no_command_line_no_log_and_no_name(
    sshd: SSHServer, tmp_path: Path
) -> None:
    """A step over SSH that has everything to say and nothing to do yet."""
    canary = Canary()
    offer = Offer(
        provider="aws",
        region="us-east-1",
        instance_type="m5.large",
        usd_per_hour=0.1,
        vcpus=2.0,
        memory_gib=8.0,
    )
    instance = Instance(id="i-1", provider="aws", offer=offer, details={"s3_endpoint": canary.secret})
    steps = core_steps(
        instance,
        Requirements(),
        [S3Volume("/data", "bucket")],
        has_user_data=True,
        lifetime_s=None,
        lease_s=None,
    )
    step = steps[-1]
    connection = connect(sshd.endpoint)

    with canary.watching_processes() as found:
        stream = connection.open(step.script)
        stream.write(json.dumps({**step.input, "buckets": [], "secret": canary.secret}).encode())
        time.sleep(0.5)
        stream.close_write()
        assert stream.exit_status(20) == 0

    assert found == []
    assert canary.find(places=[sshd.directory], texts={"script": step.script, "log": sshd.log}) == []
    connection.close()


def test_the_key_a_machine_was_born_with_is_on_no_command_line_while_it_is_replaced(sshd: SSHServer) -> None:
    born_with = Canary((sshd.directory / "host_ed25519").read_text().splitlines()[2])
    connection = connect(sshd.endpoint)

    with born_with.watching_processes() as found:
        rotate(connection)

    assert found == []
    assert born_with.find(places=[sshd.directory]) == []
    connection.close()
