"""`skyward ps`, `down` and `ssh`: what is rented is seen, ended and reached from another terminal."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toycloud

import skyward as sky
from skyward.cloud import journal as journals
from skyward.cloud import reaper
from skyward.cloud.journal import Journal
from skyward.cloud.reaper import note_life

Skyward = Callable[..., Any]
MakePool = Callable[..., sky.ComputePool]
MakeOrphan = Callable[..., str]


# -- ps ------------------------------------------------------------------------------------------------------------


def test_ps_shows_what_is_rented_and_asks_nobody(
    skyward: Skyward, make_pool: MakePool, toy: toycloud.Toy
) -> None:
    with make_pool(nodes=2, name="train", max_lifetime="2h") as pool:
        id, before = pool.id, toy.calls
        done = skyward("ps")
        row = done.out.splitlines()[1].split()
        assert toy.calls == before

    assert done.code == 0
    assert row[:4] == [id, "toy", "2", "running"]
    assert row[5] == "$2.00"
    assert "in 1h59m, or 15m after its client" in done.out
    assert f"pid {os.getpid()}" in done.out
    assert "1 pool, 2 machines, $2.00/h" in done.err


def test_ps_as_json(skyward: Skyward, make_pool: MakePool) -> None:
    with make_pool(name="train", lease="1m"):
        time.sleep(0.1)
        (item,) = skyward("ps", "--json").document["items"]

    assert item["name"] == "train"
    assert item["state"] == "running"
    assert item["usd_per_hour"] == 1.0
    assert 0 < item["usd"] < 0.01
    assert item["lease_s"] == item["lease_left_s"] == 60
    assert [one["provider"] for one in item["machines"]] == ["toy"]


def test_ps_without_pools_is_no_error(skyward: Skyward) -> None:
    done = skyward("ps")

    assert (done.code, done.out) == (0, "")
    assert "0 pools" in done.err


def test_ps_of_a_pool_that_is_not_there_exits_5(skyward: Skyward, make_orphan: MakeOrphan) -> None:
    make_orphan("left-1")

    done = skyward("ps", "laft-1")

    assert done.code == 5
    assert "did you mean 'left-1'?" in done.err


def test_ps_tells_pools_without_a_client(skyward: Skyward, make_orphan: MakeOrphan) -> None:
    make_orphan("left-1", machines=2)

    done = skyward("ps")

    assert " orphaned " in done.out
    assert "(gone)" in done.out


def test_ps_tells_what_is_left_of_a_lease_that_nobody_renews(
    skyward: Skyward, make_orphan: MakeOrphan
) -> None:
    make_orphan("left-1", lease_s=900, expires=time.time() + 7200)
    journal = journals.directory() / "left-1.jsonl"
    reaper.place_of(journal).mkdir()
    note_life(journal)
    seen = reaper.place_of(journal) / reaper.SEEN

    os.utime(seen, (time.time() - 600,) * 2)
    (item,) = skyward("ps", "--json").document["items"]
    soon = skyward("ps").out
    os.utime(seen, (time.time() - 1000,) * 2)
    now = skyward("ps").out

    assert 295 <= item["lease_left_s"] <= 300
    assert "in 1h59m, or in 4m5" in soon
    assert "or any moment by its lease" in now


@pytest.mark.usefixtures("configured")
def test_ps_live_shows_what_is_in_no_journal(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy
) -> None:
    make_orphan("left-1")
    toy.add("far-1", managed="true", pool="theirs", created="2026-01-01T00:00:00Z", owner="them@there")

    document = skyward("ps", "--live", "--json").document
    done = skyward("ps", "--live")

    assert [one["state"] for one in document["items"][0]["machines"]] == ["running"]
    assert [(one["id"], one["owner"]) for one in document["elsewhere"]] == [("far-1", "them@there")]
    assert "them@there" in done.out


# -- down ----------------------------------------------------------------------------------------------------------


def test_down_ends_a_pool_and_sees_that_it_is_gone(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy, closed: Any
) -> None:
    make_orphan("left-1", machines=2)
    make_orphan("left-2")

    done = skyward("down", "left-1", "--yes")

    assert done.code == 0, done.err
    assert "gone: left-1-m0, left-1-m1" in done.err
    assert toy.running == ["left-2-m0"]
    assert [account.pool for account in closed()] == ["left-1"]


@pytest.mark.parametrize("asked", ["left-1", "left-", "nightly"])
def test_down_takes_an_id_its_beginning_or_a_name(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy, asked: str
) -> None:
    make_orphan("left-1", name="nightly")

    assert skyward("down", asked, "--yes").code == 0
    assert toy.running == []


def test_down_of_several_that_may_be_meant_ends_none(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy
) -> None:
    make_orphan("left-1")
    make_orphan("left-2")

    done = skyward("down", "left", "--yes")

    assert done.code == 2
    assert "is more than one pool: left-1, left-2" in done.err
    assert len(toy.running) == 2


def test_down_all_ends_every_pool(skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy) -> None:
    make_orphan("left-1")
    make_orphan("left-2", machines=3)

    assert skyward("down", "--all", "--yes").code == 0
    assert toy.running == []


def test_down_without_a_pool_and_without_all_is_refused(skyward: Skyward, make_orphan: MakeOrphan) -> None:
    make_orphan("left-1")

    done = skyward("down", "--yes")

    assert done.code == 2
    assert "hint: skyward down left-1" in done.err


def test_down_asks(skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy) -> None:
    make_orphan("left-1", machines=2)

    done = skyward("down", "left-1")

    assert done.code == 2
    assert "End left-1: 2 machines, $2.00/h? Nobody can be asked: pass --yes" in done.err
    assert len(toy.running) == 2


def test_down_of_a_living_pool_ends_it_for_good(
    skyward: Skyward, make_pool: MakePool, toy: toycloud.Toy
) -> None:
    with make_pool(nodes=2) as pool:
        assert pool.id
        done = skyward("down", pool.id, "--yes")
        assert done.code == 0, done.err
        assert toy.running == []
        with pytest.raises(sky.TaskCancelled, match="was ended by `skyward down`"):
            pool._need().fleet._launcher.launch(toycloud.toy_offers()[0], 1)

    assert toy.running == []


@pytest.mark.usefixtures("configured")
def test_down_ends_a_pool_that_only_the_cloud_knows(skyward: Skyward, toy: toycloud.Toy) -> None:
    for number in range(2):
        toy.add(
            f"m{number}", managed="true", pool="lost-7", created="2026-01-01T00:00:00Z", owner="me@old-laptop"
        )
    toy.add("other", managed="true", pool="lost-8", created="2026-01-01T00:00:00Z")

    asked = skyward("down", "lost-7")
    done = skyward("down", "lost-7", "--yes")

    assert "launched by me@old-laptop" in asked.err
    assert done.code == 0, done.err
    assert toy.running == ["other"]


def test_down_of_a_pool_nobody_knows_exits_5(skyward: Skyward) -> None:
    done = skyward("down", "nothing", "--yes")

    assert done.code == 5
    assert "no pool 'nothing'" in done.err


def test_what_down_cannot_end_is_exit_7_and_stays_on_the_books(
    skyward: Skyward, make_orphan: MakeOrphan, toy: toycloud.Toy, accounts: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("skyward.cloud.teardown.TROUBLE_S", 0.3)
    make_orphan("left-1")
    toy.fault("terminate", "error", times=-1)

    done = skyward("down", "left-1", "--yes")

    assert done.code == 7
    assert "error: 1 machine of pool left-1 may still be running at $1.00/h: left-1-m0" in done.err
    assert "cause: toy r1: toy: 503 three times" in done.err
    assert accounts()["left-1"].is_debt


# -- ssh -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reachable(make_orphan: MakeOrphan) -> Journal:
    """A pool with two nodes that ssh could reach."""
    make_orphan("left-1", machines=2)
    journal = Journal.open(journals.directory() / "left-1.jsonl")
    end = {"kind": "ssh", "host": "192.0.2.7", "port": 2222, "user": "ubuntu"}
    journal.record("ready", id="left-1-m0", node=0, endpoint={**end, "port": 22})
    journal.record("ready", id="left-1-m1", node=1, endpoint=end)
    journal.leave()
    return journal


@pytest.mark.usefixtures("reachable")
def test_ssh_is_plain_ssh_with_our_key_and_the_pinned_host(skyward: Skyward, empty_home: Path) -> None:
    import shlex

    words = shlex.split(skyward("ssh", "--print", "left-1", "1", "--", "echo", "a b; rm -rf /").out)

    place = empty_home / "skyward" / "state" / "pools" / "left-1"
    assert words[0] == "ssh"
    assert f'IdentityFile="{place / "id_ed25519"}"' in words
    assert f'UserKnownHostsFile="{place / "known_hosts"}"' in words
    assert "StrictHostKeyChecking=yes" in words
    assert words[words.index("-p") + 1] == "2222"
    assert words[-3:] == ["--", "192.0.2.7", "echo 'a b; rm -rf /'"]


@pytest.mark.usefixtures("reachable")
def test_ssh_to_a_node_that_is_not_there_says_which_are(skyward: Skyward) -> None:
    done = skyward("ssh", "left-1", "7")

    assert done.code == 5
    assert "nodes: 0, 1" in done.err


def test_ssh_really_logs_in(
    skyward: Skyward, make_orphan: MakeOrphan, make_sshd: Any, empty_home: Path
) -> None:
    import subprocess

    from skyward.cloud.keys import PoolKeys

    pool = make_orphan("left-1")
    keys = PoolKeys(journals.directory() / pool, pool)
    sshd = make_sshd()
    sshd.authorize(keys.public)
    keys.pin("left-1-m0", sshd.endpoint)
    journal = Journal.open(journals.directory() / f"{pool}.jsonl")
    end = {"kind": "ssh", "host": sshd.address, "port": sshd.port, "user": sshd.user}
    journal.record("ready", id="left-1-m0", node=0, endpoint=end)
    journal.leave()

    line = skyward("ssh", "--print", pool, "--", "echo", "hello there").out
    said = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)

    assert said.stdout == "hello there\n", said.stderr
    assert stat.S_IMODE(keys.identity.stat().st_mode) == 0o600


def test_the_keys_of_a_pool_are_its_owners_alone(tmp_path: Path) -> None:
    from skyward.cloud.keys import PoolKeys, own_public_keys

    before = os.umask(0)
    try:
        keys = PoolKeys(tmp_path / "p", "p")
    finally:
        os.umask(before)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA me@here\n")
    (tmp_path / ".ssh" / "id_rsa.pub").write_text("-----BEGIN PRIVATE KEY-----\n")

    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "p").iterdir()} == {0o600}
    assert keys.public.startswith("ssh-ed25519 ")
    assert own_public_keys(tmp_path) == ["ssh-ed25519 AAAA me@here"]


def test_commands_that_hints_name_exist() -> None:
    from skyward.cli import COMMANDS

    assert {"ps", "down", "gc", "ssh"} <= {name for name, entry in COMMANDS.items() if entry.exists}
