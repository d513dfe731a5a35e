"""The journal of a pool: what is on disk before anything is rented, and what is still readable after anything."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import toycloud
from hypothesis import given
from hypothesis import strategies as st

import skyward as sky
from skyward.cloud import journal as journals
from skyward.cloud.account import LAG_S, Account, Desk, Machine, verdict
from skyward.cloud.client import Client
from skyward.cloud.journal import Journal, decode, encode

MakePool = Callable[..., sky.ComputePool]
DESK = {"provider": "toy", "region": "r1"}


def intend(journal: Journal, token: str = "p-0", count: int = 1, **more: Any) -> None:
    journal.intend(token=token, count=count, client=Client.current().plain(), **DESK, **more)


def launch(journal: Journal, *ids: str, token: str = "p-0") -> None:
    machines = [{"id": id, "usd_per_hour": 1.5} for id in ids]
    journal.record("launched", token=token, machines=machines, **DESK)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.of(tmp_path / "pools", "p")
    yield journal
    journal.leave()


# -- on disk -------------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_there_is_something_to_owe(tmp_path: Path) -> None:
    Journal.of(tmp_path / "pools", "p")

    assert not (tmp_path / "pools").exists()


def test_it_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal.of(tmp_path / "state" / "pools", "p")
        intend(journal)
        journal.leave()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "state" / "pools" / "p.jsonl").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state" / "pools").stat().st_mode) == 0o700


def test_a_directory_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pools").mkdir()
    (tmp_path / "pools").chmod(0o777)

    with pytest.raises(sky.JournalError, match="others may write to it"):
        intend(Journal.of(tmp_path / "pools", "p"))


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pools").mkdir(mode=0o700)
    (tmp_path / "pools" / "p.jsonl").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(sky.JournalError):
        intend(Journal.of(tmp_path / "pools", "p"))

    assert not (tmp_path / "elsewhere").exists()


def test_every_line_is_json_that_anybody_can_read(journal: Journal) -> None:
    intend(journal)
    launch(journal, "i-1")

    assert journal.path is not None
    events = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [event["event"] for event in events] == ["intent", "launched"]


def test_a_torn_last_line_is_ignored_and_the_next_one_begins_anew(journal: Journal) -> None:
    intend(journal)
    launch(journal, "i-1")
    assert journal.path is not None
    journal.leave()
    whole = journal.path.read_bytes()
    with open(journal.path, "ab") as file:
        file.write(encode({"event": "gone", "ids": ["i-1"], "at": 1})[:-9])

    assert [one.id for one in journals.read(journal.path).owed] == ["i-1"]

    again = Journal.open(journal.path)
    again.record("gone", ids=["i-1"])
    again.leave()
    assert journals.read(journal.path).owed == []
    assert journal.path.read_bytes().startswith(whole)


@given(
    st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=4), max_size=6),
    st.integers(min_value=0, max_value=2000),
    st.integers(min_value=1, max_value=255),
)
def test_a_damaged_byte_costs_its_own_line_at_most(events: list[Any], at: int, flip: int) -> None:
    lines = [encode({"event": "x", **event}) for event in events]
    data = bytearray(b"".join(lines))
    if data:
        data[at % len(data)] ^= flip

    kept = list(decode(bytes(data)))

    assert len(kept) >= len(events) - 2  # a newline that was hit joins two lines
    assert all({"crc", "event"} <= event.keys() for event in kept)


def test_a_full_disk_stops_a_launch_and_not_the_end_of_what_runs(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    program = (
        "import os, sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path\n"
        "from test_journal import Journal, intend, launch, journals\n"
        "import skyward as sky\n"
        "place = Path(sys.argv[1])\n"
        "os.chmod(place, 0o700)\n"
        "journal = Journal.of(place, 'p')\n"
        "intend(journal); launch(journal, 'i-1')\n"
        "with open(place / 'ballast', 'wb', buffering=0) as file:\n"
        "    try:\n"
        "        while True: file.write(bytes(4096))\n"
        "    except OSError: pass\n"
        "try:\n"
        "    intend(Journal.of(place, 'q'))\n"
        "    print('launched')\n"
        "except sky.JournalError as error: print(error.message)\n"
        "journal.record('gone', ids=['i-1'])\n"
        "print(journals.read(place / 'p.jsonl').owed)\n"
    )
    command = f'mount -t tmpfs -o size=512k none {disk} && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", sys.executable, "-c", program, str(disk), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
    )  # fmt: skip

    assert "No space left on device" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_forked_child_writes_nothing(journal: Journal) -> None:
    intend(journal)
    assert journal.path is not None
    before = journal.path.read_bytes()

    pid = os.fork()
    if pid == 0:
        journal.record("gone", ids=["i-1"])
        os._exit(0)
    os.waitpid(pid, 0)

    assert journal.path.read_bytes() == before


def test_one_process_at_a_time_finishes_a_pool(journal: Journal) -> None:
    intend(journal)
    assert journal.path is not None
    one, other = Journal.open(journal.path), Journal.open(journal.path)

    assert one.take()
    assert not other.take()
    one.leave()
    assert other.take()
    other.leave()


def test_what_is_through_is_put_aside(journal: Journal) -> None:
    intend(journal)
    launch(journal)
    journal.record("released", **DESK)
    journal.close()

    assert journal.path is not None
    assert journals.paths(journal.path.parent) == []
    assert (journal.path.parent / "closed" / "p.jsonl").exists()


# -- what it adds up to --------------------------------------------------------------------------------------------


def test_an_intent_is_debt_until_its_machines_are_seen_to_be_gone(journal: Journal) -> None:
    account = journal.account
    assert not account.is_debt

    intend(journal, count=2)
    assert (account.is_debt, len(account.doubts), account.launched) == (True, 1, 2)
    launch(journal, "i-1", "i-2")
    assert (account.doubts, [one.id for one in account.owed]) == ([], ["i-1", "i-2"])
    assert account.usd_per_hour == 3.0
    journal.record("gone", ids=["i-1"])
    assert account.is_debt
    journal.record("gone", ids=["i-2"])
    assert account.is_debt  # what was made for it is still there
    journal.record("released", **DESK)
    assert not account.is_debt


def test_a_refused_launch_owes_nothing_but_what_was_made_for_it(journal: Journal) -> None:
    intend(journal)
    journal.record("refused", token="p-0", error="full")

    assert journal.account.doubts == []
    assert journal.account.launched == 0
    assert journal.account.desks == [Desk("toy", "r1")]


def test_events_of_a_later_version_are_passed_over(journal: Journal) -> None:
    intend(journal, colour="blue")
    journal.record("painted", ids=["i-1"], colour="blue")

    assert journal.account.is_debt


def machine(**more: Any) -> Machine:
    return Machine(**{"id": "i-1", "desk": Desk("toy", "r1"), "token": "p-0", "launched_at": 1000.0, **more})


def instance(state: str) -> sky.Instance:
    return sky.Instance(
        id="i-1", provider="toy", offer=toycloud.toy_offers()[0], state=sky.InstanceState(state)
    )


@pytest.mark.parametrize(
    ("state", "was_seen", "age_s", "expected"),
    [
        ("running", False, 1, "alive"),
        ("pending", True, 9999, "alive"),
        ("terminating", True, 1, "ending"),
        ("terminated", False, 1, "gone"),
        (None, True, 1, "gone"),
        (None, False, 1, "unseen"),  # a cloud does not know its newest machines yet
        (None, False, LAG_S - 1, "unseen"),
        (None, False, LAG_S + 1, "gone"),
    ],
)
def test_not_found_counts_only_after_having_been_seen_or_long_enough(
    state: str | None, was_seen: bool, age_s: float, expected: str
) -> None:
    shown = None if state is None else instance(state)

    assert verdict(machine(was_seen=was_seen), shown, 1000.0 + age_s) == expected


def test_a_client_is_told_apart_from_whoever_has_its_number_later() -> None:
    me = Client.current()

    assert me.is_alive is True
    assert Client.read({**me.plain(), "pid_start": "1"}).is_alive is False
    assert Client.read({**me.plain(), "boot_id": "another boot"}).is_alive is False
    assert Client.read({**me.plain(), "host": "another host"}).is_alive is None
    assert Client.read({**me.plain(), "space": "another container"}).is_alive is None
    assert Client.read({}).is_alive is None


def test_a_dead_client_and_one_that_nobody_has_waited_for_are_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    client = Client.of(process.pid)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    assert client.is_alive is False
    process.wait()
    assert client.is_alive is False


def test_who_is_not_seen_from_here_is_no_orphan() -> None:
    account = Account("p")
    client = {**Client.current().plain(), "host": "another host"}
    account.apply({"event": "intent", "at": 1.0, "token": "t", "count": 1, "client": client, **DESK})

    assert not account.is_orphan
    account.apply({"event": "handed_over", "at": 2.0})
    assert account.is_orphan


# -- no journal, no launch -----------------------------------------------------------------------------------------


def test_no_journal_no_launch(make_pool: MakePool, toy: toycloud.Toy, empty_home: Path) -> None:
    place = empty_home / "skyward" / "state"
    place.parent.mkdir(parents=True)
    place.write_text("not a directory")

    with pytest.raises(sky.JournalError, match="a launch that cannot be written down is not made") as caught:
        make_pool().start()

    assert caught.value.exit_code == 4
    assert toy.calls == []


def test_machines_of_ones_own_need_no_journal(empty_home: Path) -> None:
    place = empty_home / "skyward" / "state"
    place.parent.mkdir(parents=True)
    place.write_text("not a directory")

    with sky.ComputePool(display="quiet") as pool:
        assert len(pool.instances) == 1


def test_a_journal_holds_no_secret(make_pool: MakePool, closed: Callable[[], list[Account]]) -> None:
    with make_pool(env={"TOKEN": "canary-4711"}):
        pass

    text = "".join(path.read_text() for path in journals.directory().rglob("*.jsonl"))
    assert "intent" in text
    assert "canary-4711" not in text
