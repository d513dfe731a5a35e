"""The arguments of a pool: every one is checked, all problems are told at once, and nothing is asked of a network."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skyward as sky
from skyward.api.options import DEFAULTS, parse_options
from skyward.api.pool import PoolArguments
from skyward.testing.engines import ThreadEngine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes takes a whole number from 1, not 0"),
        ({"nodes": -3}, "not -3"),
        ({"nodes": 1.5}, "not 1.5"),
        ({"nodes": True}, "not True"),
        ({"nodes": "2"}, "not '2'"),
        ({"nodes": 2, "min_nodes": 3}, "min_nodes=3 is more than nodes=2"),
        ({"accelerator": "H1000"}, "unknown accelerator 'H1000'"),
        ({"accelerator": 8}, "accelerator takes an accelerator, not 8"),
        ({"cpu": "many"}, "pool: cpu: 'many' is not a range of counts"),
        ({"memory": "8XB"}, "pool: memory: '8XB' is not a range"),
        ({"memory": "80GB..24GB"}, "memory: '80GB..24GB'"),
        ({"disk": -1}, "disk"),
        ({"architecture": "sparc"}, "architecture takes one of x86_64, amd64, arm64, aarch64, not 'sparc'"),
        ({"machine": ""}, "machine takes a name"),
        ({"region": []}, "region takes a name, or a list of names"),
        ({"region": ""}, "region takes a name"),
        ({"zone": ["a", 3]}, "zone takes a name"),
        ({"allocation": "sometimes"}, "allocation takes one of spot-if-available"),
        ({"allocation": 1.5}, "share of spot from 0 to 1, not 1.5"),
        ({"allocation": True}, "not True"),
        ({"image": {"pip": []}}, "image takes a sky.Image"),
        ({"pip": "num py"}, "'num py' is not a requirement"),
        ({"env": {"1A": "x"}}, "env '1A' is not the name of a variable"),
        ({"env": ["A"]}, "env takes a mapping"),
        ({"volumes": ["/data"]}, "volumes takes volumes"),
        ({"volume": 3}, "volume takes volumes"),
        ({"concurrency": 0}, "concurrency takes a whole number from 1"),
        ({"retries": -1}, "retries takes a whole number from 0"),
        ({"timeout": "soon"}, "pool: timeout: 'soon' is not a duration"),
        ({"timeout": 0}, "timeout takes a duration above 0"),
        ({"max_lifetime": "1y"}, "max_lifetime"),
        ({"lease": -5}, "lease"),
        ({"lease": None}, "without a lease nothing but max_cost limits"),
        ({"bootstrap_timeout": None}, "bootstrap_timeout"),
        ({"max_price": 0}, "max_price takes US dollars as a number above 0"),
        ({"max_price": float("nan")}, "max_price"),
        ({"max_cost": "3"}, "max_cost takes US dollars"),
        ({"preemption": "ignore"}, "preemption takes one of replace, shrink, fail"),
        ({"results": "all"}, "results takes one of any, safe"),
        ({"engine": "dask9"}, "unknown engine 'dask9'"),
        ({"engine": 3}, "engine takes an engine's name"),
        ({"display": "loud"}, "display takes one of auto, rich, log, quiet"),
        ({"on_event": "print"}, "on_event takes a function of one event"),
        ({"name": "two words"}, "name takes letters, digits"),
        ({"name": "x" * 64}, "at most 63"),
        ({"selection": "cheapst"}, "unknown selection 'cheapst'"),
        ({"selection": 3}, "selection takes a strategy's name, or a function"),
        ({"provider": "awss9"}, "no provider 'awss9' is installed"),
        ({"provider": []}, "provider takes a provider, or a list of them"),
        ({"provider": sky.Local}, r"provider takes a value, not <class"),
        ({"provider": 3}, "no provider 'int'"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(sky.UsageError, match=message.replace("(", r"\(")) as caught:
        sky.ComputePool(**options)

    assert caught.value.exit_code == sky.ExitCode.USAGE
    assert "\n" not in caught.value.message


def test_an_unknown_argument_says_which_one_was_meant() -> None:
    with pytest.raises(sky.ConfigError, match="unknown argument 'memmory'") as caught:
        sky.ComputePool(memmory="8GB")  # type: ignore[call-arg]

    assert caught.value.hints == ("did you mean 'memory'?",)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(sky.ConfigError, match="4 arguments of the pool cannot be meant") as caught:
        sky.ComputePool(nodes=0, memory="8XB", gpus=3, accelerator="H1000")  # type: ignore[call-arg]

    told = "\n".join(caught.value.facts)
    assert all(word in told for word in ("nodes", "8XB", "gpus", "H1000"))


def test_the_signature_shows_every_argument_and_its_default() -> None:
    parameters = inspect.signature(sky.ComputePool).parameters

    assert {name: one.default for name, one in parameters.items()} == dict(DEFAULTS)
    assert [name for name, one in parameters.items() if one.kind is not one.KEYWORD_ONLY] == ["provider"]


def test_checkers_and_run_time_know_the_same_arguments() -> None:
    assert {"provider", *PoolArguments.__annotations__} == set(DEFAULTS)


def test_values_arrive_in_their_one_form() -> None:
    options = parse_options(
        {
            "nodes": 4,
            "min_nodes": 2,
            "accelerator": "A100-80GB:8",
            "cpu": "4..8",
            "memory": "64GB..",
            "disk": 100,
            "architecture": "amd64",
            "region": "us-east-1",
            "zone": ["a", "b"],
            "allocation": "always-spot",
            "max_lifetime": "2h30m",
            "timeout": timedelta(minutes=5),
            "max_price": 3,
        }
    )
    wish = options.requirements

    assert wish.accelerator == sky.NVIDIA.A100(count=8)
    assert wish.cpu == sky.Range(4, 8)
    assert wish.memory_gib == sky.Range(64)
    assert wish.disk_gb == sky.Range(100)
    assert (wish.nodes, wish.min_nodes, wish.architecture) == (4, 2, "x86_64")
    assert (wish.regions, wish.zones) == (("us-east-1",), ("a", "b"))
    assert (wish.allocation, wish.max_price, wish.max_lifetime_s) == ("spot", 3.0, 9000.0)
    assert options.timeout_s == 300.0


def test_packages_and_variables_add_to_the_image() -> None:
    image = sky.Image(pip=["numpy"], env={"A": "1", "B": "2"}, apt=["git"])

    options = parse_options({"image": image, "pip": "torch", "env": {"B": "3"}})

    assert options.image == sky.Image(pip=["numpy", "torch"], env={"A": "1", "B": "3"}, apt=["git"])


def test_one_volume_and_several_are_one_list() -> None:
    data, scratch = sky.Volume(size_gb=5, mount_path="/data"), sky.S3Volume("/models", "bucket")

    assert parse_options({"volume": data, "volumes": [scratch]}).volumes == (scratch, data)
    with pytest.raises(sky.ConfigError, match="two volumes are mounted at '/data'"):
        parse_options({"volumes": [data, data]})


def test_the_deadline_of_preparing_has_an_old_name_and_is_the_providers_where_nothing_is_said() -> None:
    assert parse_options({}).bootstrap_timeout_s is None
    assert parse_options({"bootstrap_timeout": "2m"}).bootstrap_timeout_s == 120
    assert parse_options({"instance_timeout": 300}).bootstrap_timeout_s == 300


def test_hosts_of_ones_own_are_all_used_unless_fewer_are_asked_for() -> None:
    hosts = sky.SSH(hosts=["me@one", "me@two", "me@three"])

    assert parse_options({"provider": hosts}).requirements.nodes == 3
    assert parse_options({"provider": hosts, "nodes": 1}).requirements.nodes == 1


@pytest.mark.parametrize("provider", ["local", sky.Local(), ["local"], (sky.Local(), "local")])
def test_providers_are_names_values_or_lists_of_them(provider: Any) -> None:
    assert sky.ComputePool(provider).plan().chosen is not None
    assert sky.ComputePool(provider=provider, engine=ThreadEngine).plan().requirements.providers == ("local",)


def test_a_pool_is_no_provider() -> None:
    with pytest.raises(sky.ConfigError, match="is a pool, not a provider") as caught:
        sky.Executor(sky.ComputePool())

    assert "pool.submit" in caught.value.hints[0]


def test_the_configuration_gives_defaults_and_arguments_win(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "skyward.toml").write_text('[defaults]\nprovider = "local"\nnodes = 3\nmemory = "1GB"\n')
    monkeypatch.chdir(tmp_path)

    assert sky.ComputePool().plan().requirements.nodes == 3
    assert sky.ComputePool(nodes=2).plan().requirements.nodes == 2
    assert sky.ComputePool(nodes=2).plan().requirements.memory_gib == sky.Range(1)


TEXT = st.text(max_size=20)
ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(TEXT, max_size=3) | st.tuples()
)


@given(
    st.dictionaries(st.sampled_from([name for name in DEFAULTS if name != "provider"]), ANYTHING, max_size=4)
)
def test_whatever_is_given_is_taken_or_refused_in_words(options: dict[str, Any]) -> None:
    try:
        sky.ComputePool(**options)
    except sky.UsageError:
        pass


def test_a_plan_can_be_had_without_a_pool() -> None:
    plan = sky.plan(provider="local", nodes=3)

    assert plan.chosen is not None
    assert (plan.chosen.provider, plan.nodes) == ("local", 3)
    assert {offer.provider for offer in sky.plan(provider=["local", "aws"], selection="cheapest").ranked} == {
        "aws",
        "local",
    }
