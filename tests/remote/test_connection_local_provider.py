"""This machine as a provider."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import skyward as sky
from skyward import LaunchRequest, Offer
from skyward.builtin.local import Local, LocalProvider, read_smi
from skyward.remote.connection import connect


@pytest.fixture
def provider() -> LocalProvider:
    return LocalProvider(Local())


def offer(provider: LocalProvider) -> Offer:
    (only,) = provider.offers()
    return only


def test_it_offers_itself_for_nothing(provider: LocalProvider) -> None:
    machine = offer(provider)

    assert machine.usd_per_hour == 0.0
    assert machine.vcpus == len(os.sched_getaffinity(0))
    assert machine.memory_gib > 0.1
    assert sky.Local is Local


@pytest.mark.parametrize(
    ("said", "architecture"),
    [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("aarch64", "arm64"), ("arm64", "arm64")],
)
def test_its_architecture_has_the_catalogs_name(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, said: str, architecture: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: said)

    assert offer(provider).architecture == architecture


def test_nodes_share_it_and_are_told_apart(provider: LocalProvider) -> None:
    request = LaunchRequest(offer=offer(provider), count=3, pool="shared", token="abc")

    nodes = provider.launch(request)

    assert len({node.id for node in nodes}) == 3
    assert provider.launch(request) == nodes
    assert list(provider.instances("shared")) == nodes
    provider.terminate(node.id for node in nodes)
    provider.terminate(["unknown"])
    assert provider.instances("shared") == []


def test_a_node_runs_commands_here(provider: LocalProvider) -> None:
    request = LaunchRequest(offer=offer(provider), count=1, pool="here", token="here")
    (node,) = provider.launch(request)

    connection = connect(provider.connect(node))

    assert connection.run("echo $PPID").stdout == b"%d\n" % os.getpid()
    connection.close()
    provider.terminate([node.id])


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("", (None, 0, None)),
        ("NVIDIA-SMI has failed because it couldn't communicate\n", (None, 0, None)),
        ("NVIDIA A100-SXM4-80GB, 81920\n", ("NVIDIA A100-SXM4-80GB", 1, 80.0)),
        ("Tesla T4, 15360\nTesla T4, 15360\n", ("Tesla T4", 2, 15.0)),
        ("Quadro P400, 2048\nTesla T4, 15360\nTesla T4, 15360\n", ("Tesla T4", 2, 15.0)),
        ("NVIDIA GB10, [N/A]\n", ("NVIDIA GB10", 1, None)),
    ],
)
def test_cards_are_read_from_the_driver(said: str, card: tuple[str | None, int, float | None]) -> None:
    assert read_smi(said) == card


@pytest.mark.parametrize(
    ("script", "count"),
    [("echo 'Tesla T4, 15360'", 1), ("exit 9", 0), ("echo oops >&2; exit 0", 0)],
)
def test_a_driver_that_fails_is_no_card(
    provider: LocalProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, count: int
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    assert offer(provider).accelerator_count == count
