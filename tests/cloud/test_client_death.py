"""Clients of a simulated EC2 that are killed, interrupted or cut off, in each phase of their life.

The client is `skyward run` in a process of its own; the cloud's own bill says what it left behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import skyward as sky
from skyward.plugins import get_plugins
from skyward.testing.ec2 import SimulatedEC2

Start = Callable[..., "Client"]
NODES = 2
PROMPT_S = 1.0
"""From the signal to the end of the process, and that is all that is waited for: nothing of it depends on an answer of
a cloud or of a machine."""

SKYFILE = """
    import os, sys, time
    import skyward as sky

    PHASE = os.environ.get("PHASE", "")

    def wait():
        print("phase:", PHASE, file=sys.stderr, flush=True)
        time.sleep(60)

    @sky.hookimpl
    def skyward_modify_offers(offers, requirements):
        if PHASE == "plan":
            wait()

    @sky.hookimpl
    def skyward_bootstrap(instance, image):
        if PHASE == "bootstrap":
            print("phase:", PHASE, file=sys.stderr, flush=True)
            return [sky.Step(name="long", script="sleep 60")]

    @sky.hookimpl
    def skyward_instance_ready(instance, connection):
        if PHASE == "ready":
            wait()
"""
WORK = """
    import os, socket, time
    import skyward as sky

    def tell(word):
        # machines share the clock and the loopback network of the test
        if "HEARER" in os.environ:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                out.sendto(f"{word} {time.time()}".encode(), ("127.0.0.1", int(os.environ["HEARER"])))

    @sky.compute
    def nap(seconds: float = 60) -> float:
        tell("started")
        print("napping", flush=True)
        time.sleep(seconds)
        return seconds

    def many():
        for number in range(200):
            yield nap(60)

    def idle():
        nap(0) >> sky
        print("nothing to do", flush=True)
        while True:
            time.sleep(0.05)

    def short():
        return nap(2) >> sky
"""


@dataclass
class Client:
    """`skyward run` in a process of its own, and all it has said so far."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def waits(self, is_true: Callable[[], Any], within_s: float = 40.0) -> None:
        deadline = time.monotonic() + within_s
        while not is_true():
            assert self.process.poll() is None, f"it ended: {self.said}"
            assert time.monotonic() < deadline, f"it never came so far: {self.said}"
            time.sleep(0.02)

    def says(self, word: str) -> None:
        self.waits(lambda: word in self.said)

    def ends(self, within_s: float) -> float:
        """Seconds until the prompt is back."""
        began = time.monotonic()
        self.process.wait(within_s)
        return time.monotonic() - began


@dataclass
class Hearer:
    """Hears tasks start, whether or not their client lives."""

    socket: socket.socket
    _heard: list[float] = field(default_factory=list)

    @property
    def option(self) -> tuple[str, str]:
        return "--env", f"HEARER={self.socket.getsockname()[1]}"

    @property
    def starts(self) -> list[float]:
        with suppress(BlockingIOError):
            while True:
                self._heard.append(float(self.socket.recv(100).split()[1]))
        return self._heard


@pytest.fixture
def hearer() -> Iterator[Hearer]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
        yield Hearer(one)


@pytest.fixture
def start(empty_home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts clients; each leads a process group, as a shell makes them."""
    project = tmp_path / "project"
    (project / ".git").mkdir(parents=True)
    (project / "skyfile.py").write_text(dedent(SKYFILE))
    (project / "work.py").write_text(dedent(WORK))
    clients: list[Client] = []

    def begin(target: str = "many", *options: str, phase: str = "", lease: str = "") -> Client:
        log = tmp_path / f"client-{len(clients)}.log"
        words = [
            "run",
            f"work.py:{target}",
            "--provider",
            "aws",
            "--machine",
            "m7i.large",
            "--nodes",
            str(NODES),
        ]
        words += [
            "--allocation",
            "on-demand",
            "--yes",
            *options,
            *(["-o", f"defaults.lease={lease}"] if lease else []),
        ]
        with open(log, "wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "skyward", *words],
                cwd=project,
                env={**os.environ, "PHASE": phase},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        clients.append(Client(process, log))
        return clients[-1]

    yield begin
    for client in clients:
        client.process.kill()
        client.process.wait()


def empty(ec2: SimulatedEC2, within_s: float) -> float:
    """Seconds until the bill shows nothing that goes on."""
    began = time.monotonic()
    while ec2.running():
        assert time.monotonic() - began < within_s, f"still billed: {ec2.running()}"
        time.sleep(0.02)
    return time.monotonic() - began


def clean(ec2: SimulatedEC2, within_s: float = 10.0) -> None:
    """Until nothing at all is left: machines, groups, keys, templates."""
    deadline = time.monotonic() + within_s
    while ec2.running() or ec2.resources():
        assert time.monotonic() < deadline, f"left: {ec2.running()} {ec2.resources()}"
        time.sleep(0.05)


def launched(ec2: SimulatedEC2) -> bool:
    return len(ec2.running()) == NODES


PHASES = ("plan", "launch", "boot", "bootstrap", "ready", "work", "idle", "teardown")


def bring_to(
    phase: str, start: Start, ec2: SimulatedEC2, *options: str, boot_s: float = 60, **how: Any
) -> Client:
    """A client in the midst of a phase."""
    if phase == "launch":
        ec2.fault("CreateFleet", "hang", executed=True, seconds=60)
    elif phase == "boot":
        ec2.fault("CreateFleet", "slow-boot", seconds=boot_s)
    elif phase == "teardown":
        ec2.fault("TerminateInstances", "hang", seconds=60)
    client = start({"idle": "idle", "teardown": "short"}.get(phase, "many"), *options, phase=phase, **how)
    match phase:
        case "launch" | "boot":
            client.waits(lambda: launched(ec2))
        case "work":
            client.says("napping")
        case "idle":
            client.says("nothing to do")
        case "teardown":
            client.waits(lambda: ec2.count("TerminateInstances"))
        case _:
            client.says(f"phase: {phase}")
    return client


# -- SIGKILL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_that_is_killed_leaves_nothing_within_ten_seconds(
    phase: str, start: Start, ec2: SimulatedEC2
) -> None:
    client = bring_to(phase, start, ec2)

    client.process.kill()

    assert empty(ec2, 10) < 10
    assert len(ec2.bill) == (0 if phase == "plan" else NODES)
    clean(ec2)


def kill_reapers(reapers: Callable[[], list[int]]) -> None:
    assert reapers()
    for pid in reapers():
        os.kill(pid, signal.SIGKILL)


LEASE_S, BOOT_S = 6, 3
"""Long enough for a machine of a busy test box to boot, be reached and hear of its client for the first time."""


@pytest.mark.parametrize("phase", PHASES)
def test_without_its_reaper_the_machines_end_themselves_when_the_lease_is_over(
    phase: str, start: Start, ec2: SimulatedEC2, reapers: Any, skyward: Any
) -> None:
    client = bring_to(phase, start, ec2, lease=f"{LEASE_S}s", boot_s=BOOT_S)
    if phase != "plan":
        assert launched(ec2)
        kill_reapers(reapers)

    client.process.kill()

    empty(ec2, LEASE_S + 5 + (BOOT_S if phase == "boot" else 0))
    assert len(ec2.bill) == (0 if phase == "plan" else NODES)
    assert not reapers()
    skyward("config", "path")  # whichever command comes next removes the rest
    clean(ec2)


def test_a_lease_is_renewed_as_long_as_the_client_lives(start: Start, ec2: SimulatedEC2) -> None:
    bring_to("work", start, ec2, lease=f"{LEASE_S}s")

    time.sleep(2 * LEASE_S)

    assert launched(ec2)


def test_a_machine_that_never_hears_of_its_client_ends_itself(start: Start, ec2: SimulatedEC2) -> None:
    bring_to("work", start, ec2, lease=f"{LEASE_S}s")

    for id in ec2.running():
        ec2.machine(id).partition()

    empty(ec2, 12)


def test_the_next_command_ends_what_client_and_reaper_left(
    start: Start, ec2: SimulatedEC2, reapers: Any, skyward: Any, accounts: Any
) -> None:
    client = bring_to("boot", start, ec2)
    client.waits(lambda: [one for one in accounts().values() if one.owed])
    kill_reapers(reapers)
    client.process.kill()
    client.process.wait()
    time.sleep(0.3)
    assert launched(ec2)

    (item,) = skyward("ps", "--json").document["items"]
    done = skyward("plugins")

    assert item["state"] == "orphaned"
    assert 900 - 10 < item["lease_left_s"] < item["lease_s"] == 900

    assert "its client is gone; 2 machines at $0.20/h are ended in the background" in done.err
    assert empty(ec2, 10) < 10
    clean(ec2)


# -- signals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_prompt_is_back_within_a_second_and_nothing_is_left(
    phase: str, signum: signal.Signals, code: int, start: Start, ec2: SimulatedEC2, hearer: Hearer
) -> None:
    client = bring_to(phase, start, ec2, *hearer.option)
    if phase == "work":
        client.waits(lambda: len(hearer.starts) == NODES)
    signalled_at = time.time()

    os.killpg(client.process.pid, signum)

    assert client.ends(10) < PROMPT_S, client.said
    assert client.process.returncode == code
    assert "Traceback" not in client.said
    assert empty(ec2, 10) < 10
    clean(ec2)
    assert [at for at in hearer.starts if at > signalled_at] == []
    assert bool(hearer.starts) == (phase in ("work", "idle", "teardown"))


def test_a_closed_terminal_ends_the_client_and_not_its_reaper(start: Start, ec2: SimulatedEC2) -> None:
    client = bring_to("work", start, ec2)

    os.killpg(client.process.pid, signal.SIGHUP)

    assert client.ends(10) < PROMPT_S
    assert client.process.returncode == 129
    assert empty(ec2, 10) < 10


def test_a_third_ctrl_c_changes_nothing_for_the_machines(start: Start, ec2: SimulatedEC2) -> None:
    client = bring_to("work", start, ec2)

    for _ in range(3):
        if client.process.poll() is None:
            os.killpg(client.process.pid, signal.SIGINT)
        time.sleep(0.05)

    assert client.ends(5) < PROMPT_S
    assert empty(ec2, 10) < 10
    clean(ec2)


def test_a_client_that_slept_for_longer_than_its_lease_goes_on_with_other_machines(
    start: Start, ec2: SimulatedEC2
) -> None:
    client = bring_to("work", start, ec2, lease=f"{LEASE_S}s")

    client.process.send_signal(signal.SIGSTOP)
    empty(ec2, 20)
    client.process.send_signal(signal.SIGCONT)

    client.says("was ended: Client.InstanceInitiatedShutdown")
    client.waits(lambda: launched(ec2), 60)
    assert len(ec2.bill) == 2 * NODES
    os.killpg(client.process.pid, signal.SIGINT)
    client.ends(5)
    empty(ec2, 10)


def test_a_client_whose_pool_is_ended_from_another_terminal_ends_and_says_so(
    start: Start, ec2: SimulatedEC2, skyward: Any
) -> None:
    client = bring_to("work", start, ec2)
    (pool,) = (item["pool"] for item in skyward("ps", "--json").document["items"])

    done = skyward("down", pool, "--yes")

    assert (done.code, ec2.running()) == (0, [])
    client.ends(60)
    assert "was ended by `skyward down`" in client.said
    assert client.process.returncode == 1
    assert len(ec2.bill) == NODES
    clean(ec2)


# -- answers that are lost, late, or no ----------------------------------------------------------------------------


@pytest.fixture
def more_offers() -> Iterator[None]:
    """Six types of machine that will do, the cheapest first."""

    class Types:
        @sky.hookimpl
        def skyward_modify_offers(self, offers: list[sky.Offer], requirements: sky.Requirements) -> None:
            wanted = ("m7i.large", "m7a.large", "m6i.large", "m6a.large", "c7i.large", "c6i.large")
            offers[:] = [one for one in offers if one.instance_type in wanted and one.pricing == "on-demand"]

    plugin = Types()
    get_plugins().register(plugin, "types")
    yield
    get_plugins().unregister(plugin)


@pytest.mark.parametrize("times", [1, 9])
@pytest.mark.parametrize("kind", ["lost", "5xx"])
def test_a_launch_whose_answer_is_lost_is_made_once(
    make_aws: Any, ec2: SimulatedEC2, kind: str, times: int
) -> None:
    ec2.fault("CreateFleet", kind, times=times)

    try:
        with make_aws() as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
    except sky.ProviderError:
        assert (kind, times) == ("5xx", 9)  # EC2 never did anything, and we gave up

    assert len(ec2.bill) in (0, NODES)
    assert ec2.running() == []
    clean(ec2, 20)


@pytest.mark.usefixtures("more_offers")
@pytest.mark.parametrize("full", [1, 5])
def test_the_next_offer_in_plan_order_is_launched(make_aws: Any, ec2: SimulatedEC2, full: int) -> None:
    pool = make_aws(machine=None, cpu=2, region="us-east-1")
    ranked = [offer.instance_type for offer in pool.plan().ranked]
    ec2.fault("CreateFleet", "capacity", times=full)

    with pool:
        assert {one.offer.instance_type for one in pool.instances} == {ranked[full]}

    assert {charge.instance_type for charge in ec2.bill} == {ranked[full]}
    clean(ec2)


@pytest.mark.usefixtures("more_offers")
def test_where_nothing_is_to_be_had_every_offer_and_reason_is_told(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "capacity", times=None)
    pool = make_aws(machine=None, cpu=2, region="us-east-1")
    ranked = pool.plan().ranked

    with pytest.raises(sky.CapacityError) as caught:
        pool.start()

    assert len(caught.value.facts) == len(ranked) == 6
    assert ec2.bill == []
    clean(ec2)


@pytest.mark.parametrize(("min_nodes", "is_enough"), [(None, False), (3, True)])
def test_part_of_a_fleet_is_kept_or_given_back(
    make_aws: Any, ec2: SimulatedEC2, min_nodes: int | None, is_enough: bool
) -> None:
    for zone in "abcdef":
        ec2.set_capacity(3 if zone == "a" else 0, zone=f"us-east-1{zone}")
    pool = make_aws(nodes=4, min_nodes=min_nodes)

    if is_enough:
        with pool:
            assert len(pool.instances) == 3
            assert len(ec2.running()) == 3
    else:
        with pytest.raises(sky.CapacityError, match="3 of 4 machines could be had"):
            pool.start()

    assert ec2.running() == []
    clean(ec2)


def test_a_quota_is_told_with_what_to_do(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "quota", times=None)

    with pytest.raises(sky.QuotaError) as caught:
        make_aws().start()

    assert caught.value.hints
    assert ec2.bill == []
    clean(ec2)


def test_throttled_calls_are_repeated(make_aws: Any, ec2: SimulatedEC2) -> None:
    for action in ("CreateFleet", "DescribeInstances", "TerminateInstances", "DeleteSecurityGroup"):
        ec2.fault(action, "throttle", times=2)

    with make_aws():
        assert launched(ec2)

    assert len(ec2.bill) == NODES
    clean(ec2)


def test_a_call_that_hangs_is_bounded_by_our_deadline(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "hang", executed=True)
    began = time.monotonic()

    with make_aws():
        assert time.monotonic() - began < 45
        assert launched(ec2)

    assert len(ec2.bill) == NODES
    clean(ec2)


def test_a_machine_that_is_not_found_just_after_its_launch_is_not_dropped(
    make_aws: Any, ec2: SimulatedEC2
) -> None:
    ec2.fault("CreateFleet", "missing", seconds=3)

    with make_aws():
        assert launched(ec2)

    assert len(ec2.bill) == NODES
    clean(ec2)


def test_a_machine_that_ec2_ends_at_once_is_replaced(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "dies", seconds=0.3)
    told: list[str] = []
    pool = make_aws(nodes=1)
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with pool:
        assert len(ec2.running()) == 1

    assert "Server.InternalError" in "; ".join(told)
    assert any("another machine is launched" in one for one in told), told
    assert len(ec2.bill) == 2
    clean(ec2)


def test_a_machine_that_ends_before_it_is_reached_is_not_waited_for(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "no-sshd")
    told: list[str] = []
    pool = make_aws(nodes=1, bootstrap_timeout=100)
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    def take_away() -> None:
        while not ec2.running():
            time.sleep(0.05)
        time.sleep(0.5)  # it runs, as far as EC2 knows, and nobody answers there
        ec2.interrupt(ec2.running()[0], 0)

    thread = threading.Thread(target=take_away, daemon=True)
    thread.start()
    began = time.monotonic()
    with pool:
        took = time.monotonic() - began

    thread.join()
    assert took < 50
    assert "Server.SpotInstanceTermination" in "; ".join(told)
    assert len(ec2.bill) == 2
    clean(ec2)


def test_a_wrong_host_key_is_refused_and_the_machine_replaced(make_aws: Any, ec2: SimulatedEC2) -> None:
    ec2.fault("CreateFleet", "wrong-host-key")
    told: list[str] = []
    pool = make_aws(nodes=1, bootstrap_timeout=10)
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with pool:
        assert pool.map(abs, [-1]) == [1]

    assert any("another machine is launched" in one for one in told), told
    assert len(ec2.bill) == 2
    clean(ec2)


# -- the end -------------------------------------------------------------------------------------------------------


def test_a_terminate_that_fails_twice_is_repeated(make_aws: Any, ec2: SimulatedEC2) -> None:
    with make_aws():
        ec2.fault("TerminateInstances", "5xx", times=2)

    assert ec2.running() == []
    clean(ec2)


def test_a_terminate_that_always_fails_is_exit_7_and_the_next_command_says_so(
    start: Start, ec2: SimulatedEC2, skyward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2.fault("TerminateInstances", "5xx", times=None)
    client = start("short")
    client.ends(90)

    done = skyward("plugins")

    assert client.process.returncode == 7
    assert "2 machines of pool" in client.said
    assert "hint: skyward down pool-" in client.said
    assert "may still be billed" in done.err
    assert launched(ec2)
    ec2.heal()
    assert empty(ec2, 75) < 75  # the reaper has not given up
    clean(ec2, 20)


def test_expired_credentials_are_tried_again_until_they_are_good(start: Start, ec2: SimulatedEC2) -> None:
    client = bring_to("work", start, ec2)
    ec2.fault("*", "expired", times=6)

    client.process.kill()

    assert empty(ec2, 30) < 30
    clean(ec2, 20)


def test_a_machine_that_is_stuck_in_shutting_down_is_seen_to_in_the_background(
    make_aws: Any, ec2: SimulatedEC2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.cloud.fleet.PATIENCE_S", 1.0)
    ec2.fault("TerminateInstances", "stuck", times=None)
    told: list[str] = []
    pool = make_aws()
    pool.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with pool:
        pass

    assert "still shutting down; it is seen to in the background" in told[-1]
    ec2.heal()
    clean(ec2, 20)


def test_a_machine_that_stays_in_shutting_down_is_told_again(
    make_aws: Any, ec2: SimulatedEC2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyward.cloud.teardown.STUCK_S", 1.0)
    ec2.fault("TerminateInstances", "stuck", times=None)
    pool = make_aws()
    pool.start()
    stopping = threading.Thread(target=pool.stop)

    stopping.start()
    deadline = time.monotonic() + 20
    while ec2.count("TerminateInstances") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    ec2.heal()
    stopping.join(20)

    assert ec2.running() == []
    clean(ec2)


@pytest.mark.parametrize("keys", ["unknown", "expired"])
def test_keys_that_are_good_for_nothing_are_exit_4_and_nobody_goes_on_trying(
    start: Start, ec2: SimulatedEC2, reapers: Any, skyward: Any, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    if keys == "unknown":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAWRONG")
    else:
        ec2.fault("*", "expired", times=None)

    client = start("short")
    client.ends(30)

    assert client.process.returncode == 4, client.said
    assert "hint: aws configure" in client.said
    assert skyward("ps", "--json").document["items"] == []
    deadline = time.monotonic() + 5
    while reapers():
        assert time.monotonic() < deadline, "its reaper still tries"
        time.sleep(0.05)
    assert ec2.bill == []


# -- secrets -------------------------------------------------------------------------------------------------------


def test_a_secret_is_found_nowhere_but_where_it_belongs(
    make_aws: Any, ec2: SimulatedEC2, empty_home: Path
) -> None:
    canary = "canary-4f1c-do-not-tell"

    def variable(name: str) -> str | None:
        import os

        return os.environ.get(name)

    with make_aws(nodes=1, env={"API_TOKEN": canary}) as pool:
        (value,) = pool.map(variable, ["API_TOKEN"])
        arguments = [
            Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in os.listdir("/proc")
            if pid.isdigit() and _is_there(pid)
        ]
        places = [path for path in (empty_home / "skyward").rglob("*") if path.is_file()]
        texts = [path.read_bytes() for path in places if "cache" not in path.parts]

    assert value == canary
    assert not [text for text in (*arguments, *texts) if canary.encode() in text]
    assert not [one for one in ec2.requests if canary in repr(one)]


def _is_there(pid: str) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_what_a_refusal_of_ec2_speaks_of() -> None:
    from dataclasses import replace

    from skyward_aws.reach import quota_of, reaching

    def offer(kind: str, pricing: Any = "on-demand", region: str = "us-east-1") -> sky.Offer:
        return sky.Offer(
            provider="aws", region=region, instance_type=kind, pricing=pricing, usd_per_hour=1, vcpus=1, memory_gib=1
        )  # fmt: skip

    zones = [replace(offer("g6.xlarge"), zone=f"us-east-1{zone}") for zone in "ab"]
    with pytest.raises(sky.QuotaError) as quota, reaching([offer("m7i.large")]):
        raise sky.QuotaError("quota")
    with pytest.raises(sky.CapacityError) as capacity, reaching(zones):
        raise sky.CapacityError("full")

    covers: Any = quota.value.covers  # type: ignore[attr-defined]
    assert covers(offer("c7i.4xlarge"))
    assert not covers(offer("g6.xlarge"))
    assert not covers(offer("m7i.large", "spot"))
    assert not covers(offer("m7i.large", region="eu-west-1"))
    assert capacity.value.tried == tuple(zones)  # type: ignore[attr-defined]
    assert quota_of(offer("p5.48xlarge", "spot")) != quota_of(offer("p4d.24xlarge", "spot"))
    assert quota_of(offer("p5.48xlarge")) == quota_of(offer("p4d.24xlarge"))
    assert quota_of(offer("gr6.4xlarge")) == quota_of(offer("g6.xlarge"))
    assert [quota_of(offer(kind))[2] for kind in ("r8g.large", "hpc7a.x", "p5.48xlarge", "trn1.2xlarge", "inf2.x")] == [
        "standard", "hpc", "p", "trn", "inf",
    ]  # fmt: skip
