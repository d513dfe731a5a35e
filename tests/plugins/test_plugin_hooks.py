"""Calling hooks: order, merging, and what happens when a plugin raises."""

from __future__ import annotations

import ast
import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import skyward
from skyward import (
    Capabilities,
    ConfigError,
    Endpoint,
    Instance,
    Offer,
    PluginError,
    Provider,
    Requirements,
    RunReport,
    SkywardError,
    Step,
    TaskReport,
    UnknownProviderError,
    UsageError,
    events,
    hookimpl,
)
from skyward.config import Config, Places
from skyward.errors import SkywardWarning
from skyward.plugin_loading import HOOKS
from skyward.plugins import Plugins

OFFER = Offer(provider="p", region="r", instance_type="t", usd_per_hour=1.0, vcpus=1, memory_gib=1)
INSTANCE = Instance(id="i-1", provider="p", offer=OFFER)
REPORT = TaskReport(task="f", index=0, attempt=1, verdict="lost", node=0, worker=0, duration_s=1.0)


@pytest.fixture
def told() -> list[PluginError]:
    return []


@pytest.fixture
def plugins(told: list[PluginError]) -> Plugins:
    """No plugins at all."""
    return Plugins(on_problem=told.append)


def hooks(**functions: Callable[..., Any]) -> object:
    """A plugin of these hooks."""
    return SimpleNamespace(**{name: hookimpl(function) for name, function in functions.items()})


# -- every hook ----------------------------------------------------------------------------------------------------

SOURCES = Path(skyward.__file__).parent
DOOR = {
    "skyward_providers": ("providers", "provider", "provider_config"),
    "skyward_accelerators": ("accelerators",),
    "skyward_strategies": ("strategies", "strategy"),
    "skyward_engines": ("engines", "engine"),
    "skyward_configure": ("configure",),
    "skyward_collect": ("collect",),
    "skyward_modify_items": ("modify_items",),
    "skyward_modify_offers": ("modify_offers",),
    "skyward_bootstrap": ("bootstrap_steps",),
    "skyward_instance_ready": ("instance_ready",),
    "skyward_task_env": ("task_env",),
    "skyward_retry_task": ("retry_task",),
    "skyward_event": ("event",),
    "skyward_run_finished": ("run_finished",),
}
"""Hook -> the methods through which it is called."""


@functools.cache
def methods_of_plugins_used() -> frozenset[str]:
    """Names `x` in every `plugins.x` and `get_plugins().x` of the package, and where loading ends."""
    nodes = [node for file in SOURCES.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))]
    attributes = (node for node in nodes if isinstance(node, ast.Attribute))
    receivers = re.compile(r"(^|[._])(get_|shell\.)?plugins(\(.*\))?$|^_current$")
    return frozenset(node.attr for node in attributes if receivers.search(ast.unparse(node.value)))


def test_every_hook_has_a_method() -> None:
    assert set(DOOR) == set(HOOKS)
    assert all(callable(getattr(Plugins, method)) for methods in DOOR.values() for method in methods)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    from skyward.contracts import hookspecs

    text = " ".join((getattr(hookspecs, hook).__doc__ or "").split())

    assert len(text) > 60
    assert "alled " in text or "Every event" in text, "a hook says when it is called"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_called(hook: str) -> None:
    assert methods_of_plugins_used() & {*DOOR[hook]}


# -- events ----------------------------------------------------------------------------------------------------------


def test_every_listener_gets_every_event_in_order(plugins: Plugins) -> None:
    seen: list[tuple[str, object]] = []
    plugins.register(hooks(skyward_event=lambda event: seen.append(("a", event))), "a")
    plugins.register(hooks(skyward_event=lambda event: seen.append(("b", event))), "b")
    first, second = events.NodeSuspected(node=0, silent_s=1), events.NodeReattached(node=0, duration_s=1)

    plugins.event(first)
    plugins.event(second)

    assert [event for name, event in seen if name == "a"] == [first, second]
    assert [event for name, event in seen if name == "b"] == [first, second]


def test_a_listener_that_raises_is_told_of_once_and_hides_nothing(
    plugins: Plugins, told: list[PluginError]
) -> None:
    def broken(event: object) -> None:
        raise RuntimeError("boom")

    seen: list[object] = []
    plugins.register(hooks(skyward_event=broken), "broken")
    plugins.register(hooks(skyward_event=lambda event: seen.append(event)), "fine")

    for _ in range(3):
        plugins.event(events.NodeSuspected(node=0, silent_s=1))

    assert len(seen) == 3
    assert len(told) == 1
    assert told[0].message == "plugin 'broken' failed in skyward_event: RuntimeError: boom"
    assert told[0].facts[0].startswith(f"at {__file__}:")
    assert plugins.failures == told
    assert not plugins.problems


def test_a_listener_may_take_no_argument(plugins: Plugins) -> None:
    count: list[int] = []
    plugins.register(hooks(skyward_event=lambda: count.append(1)), "counter")

    plugins.event(events.NodeSuspected(node=0, silent_s=1))

    assert count == [1]


def test_a_listener_may_name_the_kinds_it_wants(plugins: Plugins) -> None:
    seen: list[object] = []
    plugin = hooks(skyward_event=lambda event: seen.append(event))
    plugin.skyward_event_types = (events.NodeLost,)  # type: ignore[attr-defined]
    plugins.register(plugin, "picky")

    plugins.event(events.NodeSuspected(node=0, silent_s=1))

    assert seen == []
    assert plugins.wants(events.NodeLost)
    assert not plugins.wants(events.TaskFinished)


def test_nobody_wants_events_when_nobody_listens(plugins: Plugins) -> None:
    assert not plugins.wants(events.TaskFinished)

    name = plugins.register(hooks(skyward_event=lambda event: None), "ear")
    assert plugins.wants(events.TaskFinished)
    assert name == "ear"


def test_a_plugin_can_be_taken_out_while_events_arrive(plugins: Plugins) -> None:
    seen: list[object] = []
    plugin = hooks(skyward_event=lambda event: plugins.unregister(plugin))
    plugins.register(plugin, "fleeting")
    plugins.register(hooks(skyward_event=lambda event: seen.append(event)), "lasting")

    plugins.event(events.NodeSuspected(node=0, silent_s=1))
    plugins.event(events.NodeSuspected(node=1, silent_s=1))

    assert len(seen) == 2
    assert [info.name for info in plugins.listing()] == ["lasting"]


def test_run_finished_reaches_everybody(plugins: Plugins, told: list[PluginError]) -> None:
    seen: list[object] = []
    plugins.register(hooks(skyward_run_finished=lambda report: seen.append(report)), "a")
    plugins.register(hooks(skyward_run_finished=lambda report: 1 / 0), "b")

    plugins.run_finished(RunReport(run="r-1"))

    assert seen == [RunReport(run="r-1")]
    assert len(told) == 1


# -- collected answers -------------------------------------------------------------------------------------------------


def test_later_plugins_win_in_the_environment_of_tasks(plugins: Plugins) -> None:
    plugins.register(hooks(skyward_task_env=lambda task, instance: {"A": "1", "B": "1"}), "first")
    plugins.register(hooks(skyward_task_env=lambda instance: {"B": 2}), "second")
    plugins.register(hooks(skyward_task_env=lambda: None), "third")

    assert plugins.task_env(None, INSTANCE) == {"A": "1", "B": "2"}


def test_bootstrap_steps_come_in_their_order(plugins: Plugins) -> None:
    late, early, middle = (
        Step(name=name, script="", order=order) for name, order in (("z", 90), ("y", 10), ("a", 90))
    )
    plugins.register(hooks(skyward_bootstrap=lambda instance, image: [late, early]), "one")
    plugins.register(hooks(skyward_bootstrap=lambda: [middle]), "two")

    assert plugins.bootstrap_steps(INSTANCE, skyward.Image()) == [early, middle, late]


def test_tasks_of_plugins_are_added_in_the_order_of_loading(plugins: Plugins) -> None:
    tasks = [skyward.Task(print, (number,)) for number in range(3)]
    plugins.register(hooks(skyward_collect=lambda session: tasks[:1]), "one")
    plugins.register(hooks(skyward_collect=lambda session: None), "none")
    plugins.register(hooks(skyward_collect=lambda session: iter(tasks[1:])), "two")

    assert plugins.collect(None) == tasks


def test_offers_and_items_are_changed_in_place(plugins: Plugins) -> None:
    plugins.register(
        hooks(
            skyward_modify_offers=lambda offers: offers.clear(),
            skyward_modify_items=lambda items: items.reverse(),
        ),
        "m",
    )
    offers, items = [OFFER], [skyward.Task(print, (1,)), skyward.Task(print, (2,))]
    first, second = items

    plugins.modify_offers(offers, Requirements())
    plugins.modify_items(None, items)

    assert offers == []
    assert items == [second, first]


def test_the_first_opinion_on_a_retry_wins(plugins: Plugins) -> None:
    assert plugins.retry_task(REPORT) is None

    plugins.register(hooks(skyward_retry_task=lambda report: True), "yes")
    plugins.register(hooks(skyward_retry_task=lambda report: None), "none")
    assert plugins.retry_task(REPORT) is True


def test_a_plugin_that_fails_over_a_retry_has_no_opinion(plugins: Plugins, told: list[PluginError]) -> None:
    plugins.register(hooks(skyward_retry_task=lambda report: 1 / 0), "bad")

    assert plugins.retry_task(REPORT) is None
    assert plugins.retry_task(REPORT) is None
    assert [error.message for error in told] == [
        "plugin 'bad' failed in skyward_retry_task: ZeroDivisionError: division by zero"
    ]


def test_a_configuration_is_shown_once(plugins: Plugins) -> None:
    seen: list[object] = []
    plugins.register(hooks(skyward_configure=lambda config: seen.append(config)), "curious")
    places = Places.find({"SKYWARD_HOME": "/nowhere"})

    plugins.configure(Config(places=places))
    plugins.configure(Config(places=places))

    assert seen == [Config(places=places)]


def test_a_plugin_may_refuse_the_configuration_but_not_crash_over_it(
    plugins: Plugins, told: list[PluginError]
) -> None:
    places = Places.find({"SKYWARD_HOME": "/nowhere"})
    plugins.register(hooks(skyward_configure=lambda config: 1 / 0), "clumsy")

    plugins.configure(Config(places=places))
    assert [error.message for error in told] == [
        "plugin 'clumsy' failed in skyward_configure: ZeroDivisionError: division by zero"
    ]

    def refuse(config: object) -> None:
        raise ConfigError("the budget is spent")

    plugins.register(hooks(skyward_configure=refuse), "accountant")
    with pytest.raises(ConfigError, match="the budget is spent"):
        plugins.configure(Config(places=places, files=(Path("x"),)))


# -- raising ---------------------------------------------------------------------------------------------------------------


def test_what_a_plugin_raises_becomes_an_error_that_names_it(plugins: Plugins) -> None:
    plugins.register(hooks(skyward_modify_offers=lambda offers: None), "innocent")
    plugins.register(hooks(skyward_modify_offers=lambda offers: offers.no_such_thing), "guilty")

    with pytest.raises(PluginError, match="plugin 'guilty' failed in skyward_modify_offers: AttributeError"):
        plugins.modify_offers([], Requirements())


@pytest.mark.parametrize(
    ("hook", "answer", "call"),
    [
        ("skyward_collect", [3], lambda plugins: plugins.collect(None)),
        ("skyward_collect", 3, lambda plugins: plugins.collect(None)),
        ("skyward_bootstrap", ["echo"], lambda plugins: plugins.bootstrap_steps(INSTANCE, skyward.Image())),
        ("skyward_task_env", ["A=1"], lambda plugins: plugins.task_env(None, INSTANCE)),
    ],
)
def test_an_answer_that_is_none_is_refused(
    plugins: Plugins, hook: str, answer: object, call: Callable[[Plugins], object]
) -> None:
    plugins.register(hooks(**{hook: lambda: answer}), "odd")

    with pytest.raises(PluginError, match=f"a plugin answered .* to {hook}, not a "):
        call(plugins)


def test_our_own_errors_pass_as_they_are(plugins: Plugins) -> None:
    def refuse(instance: object) -> None:
        raise SkywardError("the driver is too old")

    plugins.register(hooks(skyward_instance_ready=refuse), "doorman")

    with pytest.raises(SkywardError, match=r"^the driver is too old$"):
        plugins.instance_ready(INSTANCE, None)


def test_wrappers_work_where_hooks_are_called_together(plugins: Plugins) -> None:
    class Timer:
        @hookimpl(wrapper=True)
        def skyward_bootstrap(self) -> Any:
            answers = yield
            return [*answers, [Step(name="timer", script="")]]

    plugins.register(Timer(), "timer")

    assert [step.name for step in plugins.bootstrap_steps(INSTANCE, skyward.Image())] == ["timer"]


# -- registering by hand ---------------------------------------------------------------------------------------------------


def test_a_name_can_be_taken_once(plugins: Plugins) -> None:
    plugins.register(hooks(), "mine")

    with pytest.raises(PluginError, match="'mine' is registered twice"):
        plugins.register(hooks(), "mine")


def test_a_refused_object_leaves_no_trace(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match="nonsense"):
        plugins.register(hooks(skyward_event=lambda nonsense: None), "mine")

    assert plugins.listing() == []
    plugins.register(hooks(skyward_event=lambda event: None), "mine")


def test_taking_out_what_is_not_in_is_fine(plugins: Plugins) -> None:
    plugins.unregister(object())


# -- names users give --------------------------------------------------------------------------------------------------------


class AcmeCloud:
    """A config."""


class Acme(Provider):
    name = "acme"
    Config = AcmeCloud
    capabilities = Capabilities(spot=True)

    def offers(self) -> list[Offer]:
        return []

    def launch(self, request: object) -> list[Instance]:
        return []

    def instances(self, pool: str) -> list[Instance]:
        return []

    def terminate(self, ids: object) -> None: ...

    def connect(self, instance: Instance) -> Endpoint:
        return Endpoint(kind="local")


@pytest.fixture
def acme(plugins: Plugins) -> Plugins:
    plugins.register(hooks(skyward_providers=lambda: [Acme]), "acme-plugin")
    return plugins


def test_a_provider_is_found_by_name_and_by_config(acme: Plugins) -> None:
    assert acme.provider("acme") is Acme
    assert acme.provider(AcmeCloud()) is Acme
    assert acme.provider_config("AcmeCloud") is AcmeCloud
    assert acme.owner("provider", "acme").name == "acme-plugin"  # type: ignore[union-attr]


@pytest.mark.parametrize("asked", ["acne", "ACME", "Acm"])
def test_an_unknown_provider_is_told_with_the_nearest(acme: Plugins, asked: str) -> None:
    with pytest.raises(UnknownProviderError, match=f"no provider {asked!r} is installed") as caught:
        acme.provider(asked)

    assert caught.value.facts == ("installed: acme",)
    assert caught.value.hints[0] == "did you mean 'acme'?"
    assert caught.value.known == ("acme",)  # type: ignore[attr-defined]


def test_a_value_that_is_no_config_is_an_unknown_provider(acme: Plugins) -> None:
    with pytest.raises(UnknownProviderError, match="no provider 'int' is installed"):
        acme.provider(3)


def test_a_config_name_that_nobody_has_is_none_or_a_hint(acme: Plugins) -> None:
    assert acme.provider_config("Zzz") is None
    with pytest.raises(AttributeError, match="did you mean 'AcmeCloud'"):
        acme.provider_config("AcmeClod")


def test_unknown_strategies_and_engines_name_the_nearest() -> None:
    plugins = Plugins().load(environ={}, points=(), start=Path("/"))

    with pytest.raises(UsageError, match="unknown selection 'cheapst'") as caught:
        plugins.strategy("cheapst")
    assert caught.value.hints == ("did you mean 'cheapest'?",)
    with pytest.raises(UsageError, match="unknown engine 'shh'"):
        plugins.engine("shh")


def test_what_is_registered_later_is_found(plugins: Plugins) -> None:
    assert plugins.providers() == {}

    plugins.register(hooks(skyward_providers=lambda: [Acme]), "late")
    assert list(plugins.providers()) == ["acme"]


# -- problems ----------------------------------------------------------------------------------------------------------------


def test_problems_are_warnings_unless_somebody_asks_for_them() -> None:
    plugins = Plugins()
    plugins.register(hooks(skyward_providers=lambda: 1 / 0), "bad")

    with pytest.warns(SkywardWarning, match="plugin 'bad' failed in skyward_providers: ZeroDivisionError"):
        plugins.providers()


@pytest.mark.filterwarnings("error")
def test_a_filter_that_makes_warnings_errors_does_not_reach_events() -> None:
    plugins = Plugins()
    plugins.register(hooks(skyward_event=lambda event: 1 / 0), "bad")

    plugins.event(events.NodeSuspected(node=0, silent_s=1))


def test_hooks_are_called_from_many_threads(plugins: Plugins) -> None:
    seen: list[object] = []
    plugins.register(
        hooks(skyward_event=lambda event: seen.append(event), skyward_providers=lambda: [Acme]), "a"
    )

    def work() -> None:
        for _ in range(200):
            plugins.event(events.NodeSuspected(node=0, silent_s=1))
            assert list(plugins.providers()) == ["acme"]

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 1600
