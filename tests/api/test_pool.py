"""Pools: how they start and end, what they do with work, and what they refuse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import skyward as sky
from skyward.api import target
from skyward.api.bus import EventBus
from skyward.testing.engines import ThreadEngine

MakePool = Callable[..., sky.ComputePool]


@sky.compute
def double(x: int) -> int:
    return 2 * x


@sky.compute
def fail(x: int, when: int = 3) -> int:
    if x == when:
        raise ValueError(f"{x} is bad")
    return x


@sky.compute
def rank() -> int:
    info = sky.instance_info()
    assert info is not None
    return info.rank


class Gate:
    """Tasks wait here until the test opens it, and count themselves."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.lock = threading.Lock()
        self.started: list[Any] = []

    def wait(self, x: Any = None) -> Any:
        with self.lock:
            self.started.append(x)
        assert self.opened.wait(20)
        return x

    def until(self, count: int) -> None:
        deadline = time.monotonic() + 10
        while len(self.started) < count:
            assert time.monotonic() < deadline, f"{len(self.started)} of {count} tasks have started"
            time.sleep(0.002)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


# -- work ----------------------------------------------------------------------------------------------------------


def test_one_call_gives_what_it_returns(pool: sky.ComputePool) -> None:
    assert double(3) >> pool == 6
    assert pool.run(double(4)) == 8


def test_sky_means_the_active_pool(pool: sky.ComputePool) -> None:
    assert double(3) >> sky == 6
    assert rank() @ sky == (0, 1)


def test_every_worker_runs_a_broadcast_once_and_results_come_by_rank(pool: sky.ComputePool) -> None:
    assert rank() @ pool == (0, 1)
    assert pool.broadcast(rank()) == (0, 1)


def test_a_call_that_has_not_been_run_is_no_argument(pool: sky.ComputePool) -> None:
    with pytest.raises(sky.ArgumentError, match="an argument of double is a call that has not been run"):
        double(double(1)) >> pool  # type: ignore[arg-type]


def test_a_group_gives_a_tuple_in_order(pool: sky.ComputePool) -> None:
    assert (double(1) & double(2) & fail(5)) >> pool == (2, 4, 5)


def test_a_call_may_be_sent_again(pool: sky.ComputePool) -> None:
    pending = double(1)

    assert [pending >> pool, pending >> pool] == [2, 2]


def test_gather_gives_results_in_order_whatever_it_is_made_of(pool: sky.ComputePool) -> None:
    expected = tuple(2 * x for x in range(200))

    assert sky.gather(*[double(x) for x in range(200)]) >> pool == expected
    assert sky.gather([double(x) for x in range(200)]) >> pool == expected
    assert sky.gather(double(x) for x in range(200)) >> pool == expected
    assert sky.gather() >> pool == ()
    assert sky.gather([]) >> pool == ()


def test_a_stream_gives_results_as_they_finish(pool: sky.ComputePool, gate: Gate) -> None:
    hold = sky.compute(gate.wait)

    results = sky.gather([hold("slow"), double(1), double(2)], stream=True) >> pool

    assert [next(results), next(results)] == [2, 4]
    gate.opened.set()
    assert list(results) == ["slow"]


def test_a_stream_starts_before_it_is_read(pool: sky.ComputePool, gate: Gate) -> None:
    results = sky.gather([sky.compute(gate.wait)(1)], stream=True) >> pool

    gate.until(1)
    gate.opened.set()
    assert list(results) == [1]


def test_the_first_failure_is_raised_and_what_has_not_started_is_cancelled(make_pool: MakePool) -> None:
    ran: list[int] = []

    @sky.compute
    def task(x: int) -> None:
        ran.append(x)
        if x == 3:
            raise ValueError("three")
        time.sleep(0.01)

    with make_pool() as pool, pytest.raises(ValueError, match="three"):
        sky.gather(task(x) for x in range(1000)) >> pool

    assert len(ran) < 20


def test_with_return_exceptions_every_call_runs_and_errors_are_results(pool: sky.ComputePool) -> None:
    results = sky.gather((fail(x) for x in range(6)), return_exceptions=True) >> pool

    assert results[:3] == (0, 1, 2)
    assert repr(results[3]) == "ValueError('3 is bad')"
    assert results[4:] == (4, 5)


def test_a_stream_gives_what_finished_before_it_raises(make_pool: MakePool) -> None:
    with make_pool() as pool:
        results = sky.gather((fail(x) for x in range(6)), stream=True) >> pool
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="3 is bad"):
            list(results)


def test_a_stream_can_give_errors_as_results(make_pool: MakePool) -> None:
    with make_pool() as pool:
        results = list(sky.gather((fail(x) for x in range(5)), stream=True, return_exceptions=True) >> pool)

    assert [type(result).__name__ for result in results] == ["int", "int", "int", "ValueError", "int"]


def test_closing_a_stream_cancels_what_has_not_started(make_pool: MakePool) -> None:
    ran: list[int] = []

    @sky.compute
    def task(x: int) -> int:
        ran.append(x)
        time.sleep(0.01)
        return x

    with make_pool() as pool:
        for value in sky.gather((task(x) for x in range(1000)), stream=True) >> pool:
            if value == 2:
                break
        time.sleep(0.1)

    assert len(ran) < 20


def test_a_long_iterable_is_read_as_it_is_worked_on(make_pool: MakePool) -> None:
    ahead, done = [], [0]

    def numbers() -> Iterator[Any]:
        for x in range(100_000):
            if x % 1000 == 0:
                ahead.append(x - done[0])
            yield double(x)

    with make_pool(nodes=2) as pool:
        for value in sky.gather(numbers(), stream=True) >> pool:
            done[0] += 1
            assert value % 2 == 0

    assert done[0] == 100_000
    assert max(ahead) < 20_000


def test_a_slow_reader_keeps_workers_busy(pool: sky.ComputePool) -> None:
    read = [0]

    def numbers() -> Iterator[Any]:
        for x in range(40_000):
            read[0] = x
            yield double(x)

    results = sky.gather(numbers(), stream=True) >> pool
    assert double(1) >> pool == 2  # by now what was handed over is through
    first = read[0]
    assert first < 20_000
    for _ in range(first - 100):
        next(results)

    assert read[0] > first


def test_an_error_in_the_users_iterable_is_the_users(pool: sky.ComputePool) -> None:
    def numbers() -> Iterator[Any]:
        yield double(1)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        sky.gather(numbers()) >> pool
    assert double(1) >> pool == 2


def test_something_else_in_the_iterable_is_refused(pool: sky.ComputePool) -> None:
    with pytest.raises(sky.ArgumentError, match="pending calls of @compute functions, not 7"):
        sky.gather(iter([double(1), 7])) >> pool


def test_map_calls_with_one_item_of_each_iterable(pool: sky.ComputePool) -> None:
    assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]
    assert pool.map(pow, [2, 3, 4], [2, 3]) == [4, 27]
    assert pool.map(double, []) == []


def test_starmap_calls_with_rows(pool: sky.ComputePool) -> None:
    assert pool.starmap(pow, [(2, 3), [3, 2]]) == [8, 9]
    assert pool.starmap(fail, ((x, 100) for x in range(3))) == [0, 1, 2]


def test_map_checks_arguments_before_anything_is_sent(pool: sky.ComputePool) -> None:
    with pytest.raises(sky.ArgumentError, match=r"double\(\) takes 1 positional argument but 2 were given"):
        pool.map(double, [1], [2])
    with pytest.raises(sky.ArgumentError, match="decorates functions, not 3"):
        pool.map(3, [1])  # type: ignore[call-overload]


def test_a_function_that_yields_is_refused(pool: sky.ComputePool) -> None:
    def numbers(x: int) -> Iterator[int]:
        yield x

    with pytest.raises(sky.ArgumentError, match="yields"):
        pool.map(numbers, [1])


def test_map_keeps_the_options_of_the_function(pool: sky.ComputePool) -> None:
    tries: list[int] = []

    @sky.compute(retries=2)
    def flaky(x: int) -> int:
        tries.append(x)
        if len(tries) < 3:
            raise ValueError("not yet")
        return x

    assert pool.map(flaky, [7]) == [7]
    assert tries == [7, 7, 7]


def test_submit_gives_a_future(pool: sky.ComputePool) -> None:
    assert pool.submit(double(2)).result(10) == 4
    assert pool.submit(double, 2).result(10) == 4
    assert pool.submit(int, "ff", base=16).result(10) == 255
    error = pool.submit(fail, 3).exception(10)
    assert repr(error) == "ValueError('3 is bad')"


def test_submit_refuses_arguments_that_do_not_fit(pool: sky.ComputePool) -> None:
    with pytest.raises(sky.ArgumentError, match="missing 1 required"):
        pool.submit(double)  # type: ignore[call-overload]
    with pytest.raises(sky.ArgumentError, match="pending call alone"):
        pool.submit(double(1), 2)  # type: ignore[call-overload]


def test_a_future_is_cancelled_before_it_starts_and_not_after(make_pool: MakePool, gate: Gate) -> None:
    with make_pool() as pool:
        running = pool.submit(gate.wait, 1)
        gate.until(1)
        waiting = pool.submit(gate.wait, 2)

        assert waiting.cancel()
        assert waiting.cancelled()
        assert not running.cancel()
        gate.opened.set()
        assert running.result(10) == 1
    assert gate.started == [1]


def test_a_task_that_exits_or_interrupts_does_neither_here(pool: sky.ComputePool) -> None:
    def leave() -> None:
        raise SystemExit(3)

    def interrupt() -> None:
        raise KeyboardInterrupt

    for fn in (leave, interrupt):
        with pytest.raises(sky.RemoteError):
            pool.submit(fn).result(10)


# -- starting and ending -------------------------------------------------------------------------------------------


def test_machines_are_there_in_the_block_and_gone_after_it(make_pool: MakePool, cloud: Any) -> None:
    with make_pool(nodes=3) as pool:
        assert len(cloud.alive) == 3
        assert [instance.id for instance in pool.instances] == list(cloud.alive)
        assert pool.total_slots == 3
        assert pool.is_running
        assert pool.id

    assert cloud.alive == {}
    assert cloud.log == ["launch 3 type0", "terminate 3"]
    assert (pool.instances, pool.total_slots, pool.is_running, pool.id) == ((), 0, False, None)


def test_construction_costs_nothing(make_pool: MakePool, cloud: Any) -> None:
    make_pool(nodes=100)

    assert cloud.log == []


def test_start_and_stop_are_idempotent(make_pool: MakePool, cloud: Any) -> None:
    pool = make_pool()
    pool.stop()
    assert pool.start() is pool
    pool.start()
    assert double(1) >> pool == 2
    pool.stop()
    pool.stop()

    assert cloud.log == ["launch 1 type0", "terminate 1"]


def test_a_pool_can_be_started_again(make_pool: MakePool, cloud: Any) -> None:
    pool = make_pool()
    with pool:
        first = pool.id
    with pool:
        assert pool.id != first
        assert double(1) >> pool == 2

    assert len(cloud.log) == 4


def test_sky_means_the_pool_that_was_started_by_hand(make_pool: MakePool) -> None:
    pool = make_pool().start()
    try:
        assert double(2) >> sky == 4
        other = make_pool().start()
        try:
            with pytest.raises(sky.UsageError, match="2 pools are started: say which"):
                double(2) >> sky
        finally:
            other.stop()
        assert double(2) >> sky == 4
    finally:
        pool.stop()


def test_entering_twice_ends_once(make_pool: MakePool, cloud: Any) -> None:
    pool = make_pool()
    with pool:
        with pool:
            assert double(1) >> sky == 2
        assert double(1) >> sky == 2

    assert cloud.log == ["launch 1 type0", "terminate 1"]


def test_the_innermost_pool_is_active(make_pool: MakePool) -> None:
    with make_pool(nodes=1), make_pool(nodes=2):
        assert rank() @ sky == (0, 1)


def test_a_pool_that_is_not_running_says_so() -> None:
    pool = sky.ComputePool(name="idle")

    with pytest.raises(sky.UsageError, match="<ComputePool idle, not started> is not running"):
        double(1) >> pool


def test_an_exception_in_the_block_is_kept_and_the_machines_are_gone(make_pool: MakePool, cloud: Any) -> None:
    with pytest.raises(LookupError, match="the user's"), make_pool():
        raise LookupError("the user's")

    assert cloud.alive == {}


def test_an_exception_survives_a_clean_up_that_fails(make_pool: MakePool, cloud: Any) -> None:
    broken = [True]

    def refuse() -> None:
        if broken:
            raise sky.ProviderError("scripted: no")

    object.__setattr__(cloud, "on_terminate", refuse)
    pool = make_pool()

    with pytest.warns(sky.SkywardWarning, match="may still be running"):  # noqa: SIM117
        with pytest.raises(LookupError, match="the user's") as caught, pool:
            raise LookupError("the user's")

    assert "clean-up is incomplete" in caught.value.__notes__[0]
    broken.clear()
    pool.stop()
    assert cloud.alive == {}


def test_a_clean_up_that_fails_is_an_error_of_its_own_and_can_be_repeated(
    make_pool: MakePool, cloud: Any
) -> None:
    broken = [True]

    def refuse() -> None:
        if broken:
            raise sky.ProviderError("scripted: no")

    object.__setattr__(cloud, "on_terminate", refuse)
    pool = make_pool(nodes=2)

    with (
        pytest.raises(sky.CleanupError, match=r"2 machines of pool \S+ may still be running") as caught,
        pool,
    ):
        pass

    assert caught.value.exit_code == sky.ExitCode.CLEANUP
    assert len(cloud.alive) == 2
    broken.clear()
    pool.stop()
    assert cloud.alive == {}


def test_stop_from_another_thread_ends_a_start_that_waits(make_pool: MakePool, cloud: Any) -> None:
    connecting, go_on = threading.Event(), threading.Event()

    class Slow(ThreadEngine):
        name = "slow"

        def add_node(self, node: Any) -> None:
            connecting.set()
            go_on.wait(10)

    pool, errors = make_pool(engine=Slow), []

    def start() -> None:
        try:
            pool.start()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert connecting.wait(10)
    pool.stop()
    thread.join(10)
    go_on.set()

    assert [type(error) for error in errors] == [sky.TaskCancelled]
    assert cloud.alive == {}
    assert not pool.is_running


def test_stop_from_another_thread_ends_a_start_that_plans(make_pool: MakePool, cloud: Any) -> None:
    planning, go_on = threading.Event(), threading.Event()

    def choose(providers: Any, spec: Any) -> Any:
        planning.set()
        assert go_on.wait(10)
        return providers[0]

    pool, errors = make_pool(selection=choose), []

    def start() -> None:
        try:
            pool.start()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    assert planning.wait(10)
    stopper = threading.Thread(target=pool.stop)
    stopper.start()
    time.sleep(0.05)
    go_on.set()
    thread.join(10)
    stopper.join(10)

    assert [type(error) for error in errors] == [sky.TaskCancelled]
    assert cloud.log == []
    assert not pool.is_running


def test_stopping_ends_the_wait_of_other_threads(make_pool: MakePool, gate: Gate) -> None:
    pool, errors = make_pool().start(), []

    def work() -> None:
        try:
            pool.map(gate.wait, range(5))
        except sky.TaskCancelled as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    gate.until(1)
    future = pool.submit(gate.wait, 9)
    pool.stop()
    thread.join(10)

    assert len(errors) == 1
    assert isinstance(future.exception(10), sky.TaskCancelled)


# -- machines that cannot be had -----------------------------------------------------------------------------------


def test_the_next_offer_is_tried_when_one_cannot_be_had(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append(sky.CapacityError("scripted: full"))
    object.__setattr__(cloud, "prices", (1.0, 2.0))

    with make_pool() as pool:
        assert pool.instances[0].offer.instance_type == "type1"

    assert cloud.log == ["launch 1 type0", "launch 1 type1", "terminate 1"]


def test_machines_of_several_offers_make_up_a_pool(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append(1)
    object.__setattr__(cloud, "prices", (1.0, 2.0))

    with make_pool(nodes=3) as pool:
        assert [one.offer.instance_type for one in pool.instances] == ["type0", "type1", "type1"]


def test_one_error_tells_of_every_offer_and_nothing_is_left(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.extend([sky.CapacityError("type0 is full"), 1, sky.CapacityError("type2 is full")])
    object.__setattr__(cloud, "prices", (1.0, 2.0, 3.0))

    with pytest.raises(sky.CapacityError, match="1 of 3 machines could be had") as caught, make_pool(nodes=3):
        pass

    assert [fact.rpartition(": ")[2] for fact in caught.value.facts] == ["type0 is full", "type2 is full"]
    assert cloud.alive == {}


def test_a_single_refusal_is_raised_as_it_is(make_pool: MakePool, cloud: Any) -> None:
    refusal = sky.QuotaError("scripted: quota 'vCPUs' is 0")
    cloud.launches.append(refusal)

    with pytest.raises(sky.QuotaError) as caught, make_pool():
        pass

    assert caught.value is refusal


def test_a_quota_rules_out_the_other_offers_of_the_provider(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append(sky.QuotaError("scripted: quota"))
    object.__setattr__(cloud, "prices", (1.0, 2.0, 3.0))

    with pytest.raises(sky.QuotaError), make_pool():
        pass

    assert cloud.log == ["launch 1 type0"]


def test_min_nodes_is_enough_to_start_with(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append(2)

    with make_pool(nodes=3, min_nodes=2) as pool:
        assert len(pool.instances) == 2
        assert double(1) >> pool == 2


def test_fewer_are_asked_for_where_all_at_once_cannot_be_had(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append(sky.CapacityError("not three"))

    with make_pool(nodes=3, min_nodes=2) as pool:
        assert len(pool.instances) == 2

    assert cloud.log == ["launch 3 type0", "launch 2 type0", "terminate 2"]


class Picky(ThreadEngine):
    """Refuses nodes, or keeps them waiting, by their number."""

    name = "picky"
    refused: frozenset[int] = frozenset()
    late: threading.Event | None = None

    def add_node(self, node: sky.Instance) -> None:
        number = int(node.id.rpartition("/")[2])
        if number in self.refused:
            raise sky.BootstrapError(f"node {number} has no python", step="python")
        if number and self.late is not None:
            assert self.late.wait(10)
        super().add_node(node)


def test_one_node_that_fails_fails_the_pool_with_its_cause(make_pool: MakePool, cloud: Any) -> None:
    class Engine(Picky):
        refused = frozenset({1})

    with pytest.raises(sky.BootstrapError, match="node 1 has no python"), make_pool(nodes=3, engine=Engine):
        pass

    assert cloud.alive == {}


def test_a_node_that_fails_is_given_back_when_the_others_are_enough(make_pool: MakePool, cloud: Any) -> None:
    class Engine(Picky):
        refused = frozenset({1})

    warnings: list[str] = []
    pool = make_pool(nodes=3, min_nodes=2, engine=Engine)
    pool.on(sky.events.WarningRaised, lambda event: warnings.append(event.message))
    with pool:
        assert double(1) >> pool == 2
        deadline = time.monotonic() + 10
        while len(cloud.alive) > 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert len(cloud.alive) == 2

    assert warnings == ["node 1 is given up: node 1 has no python"]
    assert cloud.alive == {}


def test_late_nodes_join_while_work_goes_on(make_pool: MakePool) -> None:
    late = threading.Event()
    Engine = type("Engine", (Picky,), {"late": late})

    with make_pool(nodes=3, min_nodes=1, engine=Engine) as pool:
        assert pool.total_slots == 1
        assert double(1) >> pool == 2
        late.set()
        deadline = time.monotonic() + 10
        while pool.total_slots < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert pool.total_slots == 3


def test_an_answer_that_was_lost_leaves_no_machine(make_pool: MakePool, cloud: Any) -> None:
    cloud.launches.append("lost")

    with pytest.raises(OSError, match="the answer was lost"), make_pool(nodes=2):
        pass

    assert cloud.log == ["launch 2 type0", "terminate 2"]
    assert cloud.alive == {}


def test_nothing_that_fits_is_an_error_before_anything_is_rented(make_pool: MakePool, cloud: Any) -> None:
    with pytest.raises(sky.NoOfferError), make_pool(cpu=64):
        pass

    assert cloud.log == []


def test_the_plan_is_what_the_pool_launches_from(make_pool: MakePool, cloud: Any) -> None:
    object.__setattr__(cloud, "prices", (3.0, 1.0))
    pool = make_pool(nodes=2)

    plan = pool.plan()
    assert cloud.log == []
    assert plan.chosen is not None
    with pool:
        assert pool.plan() is plan
        assert pool.instances[0].offer is plan.chosen
    object.__setattr__(cloud, "prices", (9.0,))
    with pool:
        assert pool.instances[0].offer.usd_per_hour == 9.0


def test_a_selection_function_chooses_among_candidates(cloud: Any) -> None:
    seen: list[Any] = []

    def choose(providers: Any, spec: Any) -> Any:
        seen.extend((one.name, one.config, len(one.offers(spec))) for one in providers)
        return providers[-1]

    with sky.ComputePool(
        provider=[sky.Local(), cloud], selection=choose, engine=ThreadEngine, display="quiet"
    ) as pool:
        assert pool.instances[0].provider == "scripted"

    assert seen == [("local", sky.Local(), 1), ("scripted", cloud, 1)]


def test_nothing_named_is_this_machine() -> None:
    plan = sky.ComputePool().plan()

    assert plan.chosen is not None
    assert plan.chosen.provider == "local"
    assert plan.chosen.is_owned


def test_wishes_without_a_provider_need_credentials() -> None:
    with pytest.raises(sky.CredentialsError, match="no provider that rents machines has credentials"):
        sky.ComputePool(accelerator="A100").plan()


def test_a_provider_without_credentials_is_passed_over(
    make_pool: MakePool, cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    market = sky.Market(has_credentials=False)  # type: ignore[attr-defined]
    told: list[str] = []
    rented = make_pool(provider=["aws", cloud])
    rented.on(sky.events.WarningRaised, lambda event: told.append(event.message))

    with rented as pool:
        assert pool.instances[0].provider == "scripted"
    assert told
    assert told[0].startswith("aws: credentials not found")
    with (
        pytest.warns(sky.SkywardWarning, match="set MARKET_KEY; the next provider is tried"),
        make_pool(provider=[market, cloud]) as pool,
    ):
        assert pool.instances[0].provider == "scripted"
    with pytest.raises(sky.CredentialsError, match="set MARKET_KEY"):
        make_pool(provider=[market]).start()


def test_results_of_machines_that_are_not_trusted_are_read_with_care(make_pool: MakePool, cloud: Any) -> None:
    contexts: list[str] = []

    class Asking(ThreadEngine):
        name = "asking"

        def __init__(self, context: sky.EngineContext) -> None:
            contexts.append(context.results)
            super().__init__(context)

    market = sky.Market()  # type: ignore[attr-defined]
    for provider, results in ((cloud, None), (market, None), (market, "any"), (cloud, "safe")):
        with make_pool(provider=provider, results=results, engine=Asking):
            pass

    assert contexts == ["any", "safe", "any", "safe"]


def test_nothing_more_is_launched_once_the_pool_is_stopped(make_pool: MakePool, cloud: Any) -> None:
    launching, go_on = threading.Event(), threading.Event()

    def one_of_two() -> int:
        launching.set()
        assert go_on.wait(10)
        return 1

    cloud.launches.append(one_of_two)
    object.__setattr__(cloud, "prices", (1.0, 2.0))
    pool, errors = make_pool(nodes=2), []

    def start() -> None:
        try:
            pool.start()
        except BaseException as error:
            errors.append(error)

    thread, stopper = threading.Thread(target=start), threading.Thread(target=pool.stop)
    thread.start()
    assert launching.wait(10)
    stopper.start()
    time.sleep(0.05)
    go_on.set()
    thread.join(10)
    stopper.join(10)

    assert [type(error) for error in errors] == [sky.TaskCancelled]
    assert cloud.log == ["launch 2 type0", "terminate 1"]
    assert cloud.alive == {}


# -- guards --------------------------------------------------------------------------------------------------------


def test_work_that_takes_longer_than_the_time_out_is_stopped(
    make_pool: MakePool, cloud: Any, gate: Gate
) -> None:
    with make_pool(timeout=0.2) as pool:
        with pytest.raises(sky.GuardError, match="longer than timeout=200ms") as caught:
            pool.map(gate.wait, range(3))
        with pytest.raises(sky.GuardError):
            double(1) >> pool
        deadline = time.monotonic() + 10
        while cloud.alive:  # machines do not wait for the block to end
            assert time.monotonic() < deadline
            time.sleep(0.005)

    assert caught.value.exit_code == sky.ExitCode.GUARD
    assert cloud.alive == {}


def test_a_future_hears_of_the_guard_too(make_pool: MakePool, gate: Gate) -> None:
    with make_pool(timeout=0.1) as pool:
        assert isinstance(pool.submit(gate.wait).exception(10), sky.GuardError)


def test_a_pool_ends_when_it_has_lived_long_enough(make_pool: MakePool, cloud: Any, gate: Gate) -> None:
    with (
        pytest.raises(sky.GuardError, match="older than max_lifetime=200ms"),
        make_pool(max_lifetime=0.2) as pool,
    ):
        pool.map(gate.wait, range(3))

    assert cloud.alive == {}


# -- events --------------------------------------------------------------------------------------------------------


def test_events_are_told_in_order(make_pool: MakePool) -> None:
    told: list[sky.events.Event] = []
    with make_pool(nodes=2, on_event=told.append) as pool:
        double(1) >> pool

    names = [type(event).__name__ for event in told]
    assert names[:3] == ["PoolStarting", "InstanceLaunched", "InstanceLaunched"]
    assert sorted(names[3:5]) == ["NodeReady", "NodeReady"]
    assert names[5:] == [
        "PoolReady",
        "TaskStarted",
        "TaskFinished",
        "InstanceTerminated",
        "InstanceTerminated",
        "PoolStopped",
    ]


def test_a_handler_hears_its_kind_only(make_pool: MakePool) -> None:
    ready: list[int] = []
    pool = make_pool(nodes=2)

    @pool.on(sky.events.NodeReady)
    def on_ready(event: sky.events.NodeReady) -> None:
        ready.append(event.node)

    with pool:
        double(1) >> pool

    assert sorted(ready) == [0, 1]


def test_a_handler_that_raises_is_shown_once_and_stops_nothing(make_pool: MakePool) -> None:
    def broken(event: sky.events.Event) -> None:
        raise LookupError("handler")

    told: list[sky.events.Event] = []
    pool = make_pool(on_event=broken)
    pool.on(sky.events.Event, told.append)
    with pytest.warns(sky.SkywardWarning, match="broken failed: LookupError: handler") as caught, pool:
        assert pool.map(double, range(5)) == [0, 2, 4, 6, 8]

    assert len(caught) == 1
    assert len(told) > 10


def test_what_is_said_after_the_end_is_not_told_in_the_next_life() -> None:
    told: list[sky.events.Event] = []
    bus = EventBus()
    bus.on(sky.events.Event, told.append)

    bus.emit(sky.events.WarningRaised(message="too early"))
    bus.start()
    bus.emit(sky.events.WarningRaised(message="now"))
    bus.close()
    bus.emit(sky.events.WarningRaised(message="too late"))
    bus.start()
    bus.close()
    bus.close()

    assert [getattr(event, "message", "") for event in told] == ["now"]


def test_a_handler_may_use_the_pool(make_pool: MakePool) -> None:
    got: list[int] = []
    done, pool = threading.Event(), make_pool()

    @pool.on(sky.events.PoolReady)
    def ready(event: sky.events.PoolReady) -> None:
        got.append(double(4) >> pool)
        done.set()

    with pool:
        assert done.wait(10)

    assert got == [8]


def test_nobody_makes_events_that_nobody_wants(make_pool: MakePool) -> None:
    wanted: list[bool] = []

    class Asking(ThreadEngine):
        name = "asking"

        def submit(self, *args: Any, **kwargs: Any) -> object:
            wanted.append(self.context.wants(sky.events.TaskStarted))
            return super().submit(*args, **kwargs)

    with make_pool(engine=Asking) as pool:
        double(1) >> pool
    with make_pool(engine=Asking) as pool:
        pool.on(sky.events.TaskStarted, print)
        double(1) >> pool

    assert wanted == [False, True]


def test_only_types_of_event_are_listened_to(make_pool: MakePool) -> None:
    with pytest.raises(sky.ArgumentError, match="takes a type of event"):
        make_pool().on(int, print)  # type: ignore[type-var]


# -- where it is used from -----------------------------------------------------------------------------------------


def test_a_new_thread_does_not_know_the_active_pool_and_is_told_what_to_do(pool: sky.ComputePool) -> None:
    errors: list[BaseException] = []

    def work() -> None:
        try:
            double(1) >> sky
        except sky.UsageError as error:
            errors.append(error)
        assert double(1) >> pool == 2

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)

    assert "a new thread has none" in errors[0].facts[0]  # type: ignore[attr-defined]


def test_many_threads_share_a_pool(pool: sky.ComputePool) -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        results[number] = pool.map(double, range(number, number + 200))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert results == {number: [2 * x for x in range(number, number + 200)] for number in range(8)}


def test_a_pool_works_inside_an_event_loop(make_pool: MakePool) -> None:
    async def main() -> list[Any]:
        with make_pool(nodes=2) as pool:
            direct = double(1) >> sky
            futures = [asyncio.wrap_future(pool.submit(double, x)) for x in range(5)]
            in_thread = await asyncio.to_thread(lambda: double(5) >> sky)
            return [direct, await asyncio.gather(*futures), in_thread]

    assert asyncio.run(main()) == [2, [0, 2, 4, 6, 8], 10]


def test_a_pool_does_not_travel(make_pool: MakePool) -> None:
    with pytest.raises(sky.SerializationError, match="holds machines and connections"):
        pickle.dumps(make_pool())


def test_a_forked_child_can_neither_use_nor_end_the_pool(make_pool: MakePool, cloud: Any) -> None:
    with make_pool() as pool:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                with contextlib.suppress(sky.UsageError):
                    double(1) >> pool
                    os._exit(2)
                pool.stop()
                pool.__exit__(None, None, None)
                code = 0 if cloud.alive else 3
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert double(1) >> pool == 2
        assert cloud.log == ["launch 1 type0"]


def test_a_forked_child_can_start_a_pool_that_its_parent_has_not(make_pool: MakePool) -> None:
    pool = make_pool()
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException), pool:
            code = 0 if double(1) >> pool == 2 else 2
        os._exit(code)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_an_interrupt_ends_a_wait_and_cancels_what_has_not_started(make_pool: MakePool, gate: Gate) -> None:
    with make_pool() as pool:
        timer = threading.Thread(
            target=lambda: (gate.until(1), os.kill(os.getpid(), signal.SIGINT)),
        )
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            pool.map(gate.wait, range(100))
        timer.join()
        gate.opened.set()
        assert double(3) >> pool == 6
    assert len(gate.started) <= 2


def test_an_interrupt_while_starting_leaves_no_machine(make_pool: MakePool, cloud: Any) -> None:
    hold = threading.Event()
    Engine = type("Engine", (Picky,), {"late": hold})

    def interrupt() -> None:
        while len(cloud.alive) < 2:
            time.sleep(0.005)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        make_pool(nodes=2, engine=Engine).start()
    hold.set()
    thread.join(10)

    assert cloud.alive == {}


def test_an_interrupted_stop_is_finished_by_the_next_one(make_pool: MakePool, cloud: Any) -> None:
    interrupts = [KeyboardInterrupt()]

    def interrupt() -> None:
        if interrupts:
            raise interrupts.pop()

    object.__setattr__(cloud, "on_terminate", interrupt)
    pool = make_pool(nodes=2).start()

    with pytest.raises(KeyboardInterrupt):
        pool.stop()
    assert len(cloud.alive) == 2
    pool.stop()

    assert cloud.alive == {}


# -- the decorator -------------------------------------------------------------------------------------------------


def test_each_call_of_a_decorated_function_has_a_pool_of_its_own(cloud: Any) -> None:
    @sky.pool(provider=cloud, engine=ThreadEngine, nodes=2, display="quiet")
    def main(x: int, *, y: int = 0) -> tuple[int, ...]:
        """The main thing."""
        return (double(x + y) >> sky, *(rank() @ sky))

    assert main.__name__ == "main"
    assert main.__doc__ == "The main thing."
    assert cloud.log == []
    assert main(1, y=2) == (6, 0, 1)
    assert main(2) == (4, 0, 1)
    assert cloud.log == ["launch 2 type0", "terminate 2"] * 2


def test_a_decorated_function_that_raises_leaves_no_machine(cloud: Any) -> None:
    @sky.pool(provider=cloud, engine=ThreadEngine, display="quiet")
    def main() -> None:
        raise LookupError("the user's")

    with pytest.raises(LookupError, match="the user's"):
        main()
    assert cloud.alive == {}


def test_a_coroutine_function_may_have_a_pool(cloud: Any) -> None:
    @sky.pool(provider=cloud, engine=ThreadEngine, display="quiet")
    async def main(x: int) -> int:
        await asyncio.sleep(0)
        return double(x) >> sky

    assert asyncio.run(main(4)) == 8
    assert cloud.log == ["launch 1 type0", "terminate 1"]


def test_arguments_of_the_decorator_are_checked_at_once() -> None:
    with pytest.raises(sky.ConfigError, match="'memmory'"):
        sky.pool(memmory="8GB")  # type: ignore[call-overload]


def test_the_decorator_works_bare() -> None:
    @sky.pool
    def main() -> str:
        assert isinstance(target.active.get(), sky.ComputePool)
        return "ran"

    assert main.__name__ == "main"
