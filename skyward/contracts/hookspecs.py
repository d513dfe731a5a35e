"""Every hook, grouped by phase. A plugin implements any of them with `@skyward.hookimpl`.

The docstring of each hook is its reference page: when it is called, what may be returned, and whether the
first answer wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from skyward.contracts.accelerator import AcceleratorModel
    from skyward.contracts.engine import Engine
    from skyward.contracts.provider import Provider
    from skyward.contracts.step import Step
    from skyward.contracts.strategy import Strategy
    from skyward.model.event import Event
    from skyward.model.image import Image
    from skyward.model.instance import Instance
    from skyward.model.offer import Offer
    from skyward.model.report import RunReport, TaskReport
    from skyward.model.requirements import Requirements
    from skyward.model.task import Task

hookspec = pluggy.HookspecMarker("skyward")
hookimpl = pluggy.HookimplMarker("skyward")


# -- registration: called once, when plugins are loaded ------------------------------------------------------


@hookspec
def skyward_providers() -> Iterable[type[Provider]]:
    """Provider classes this plugin brings. Called at load; all answers are collected.

    Two providers with one name stop the program with a PluginError that names both plugins.
    """
    raise NotImplementedError


@hookspec
def skyward_accelerators() -> Iterable[AcceleratorModel]:
    """Accelerators this plugin knows. Called at load; all answers are collected.

    A name that is already taken stops the program with a PluginError that names both plugins.
    """
    raise NotImplementedError


@hookspec
def skyward_strategies() -> Iterable[type[Strategy]]:
    """Selection strategies this plugin brings. Called at load; all answers are collected."""
    raise NotImplementedError


@hookspec
def skyward_engines() -> Iterable[type[Engine]]:
    """Engines this plugin brings. Called at load; all answers are collected."""
    raise NotImplementedError


# -- configuration and collection ----------------------------------------------------------------------------


@hookspec
def skyward_configure(config: Any) -> None:
    """Called once, after all plugins are loaded and before anything is resolved.

    `config` is the effective `skyward.config.Config`. Raise ConfigError to refuse it.
    """


@hookspec
def skyward_collect(session: Any) -> Iterable[Task] | None:
    """More tasks for a run, besides those of its target. Called once per `skyward run`; all answers are added."""


@hookspec
def skyward_modify_items(session: Any, items: list[Task]) -> None:
    """Reorder, drop or replace the tasks of a run, in place. Called once, after all are collected."""


@hookspec
def skyward_modify_offers(offers: list[Offer], requirements: Requirements) -> None:
    """Forbid, tax or prefer offers, in place. Called after the query and before ranking."""


# -- instances -------------------------------------------------------------------------------------------------


@hookspec
def skyward_bootstrap(instance: Instance, image: Image) -> Iterable[Step] | None:
    """Steps to prepare an instance (drivers, partitions, mounts). Called once per instance, after it can be
    reached and before its environment is built; all answers are collected and run in `Step.order`."""


@hookspec
def skyward_instance_ready(instance: Instance, connection: Any) -> None:
    """Called once per instance, before its first task; `connection` runs commands on it.

    Raising refuses the instance: it is terminated and the pool goes on without it.
    """


# -- tasks -----------------------------------------------------------------------------------------------------


@hookspec
def skyward_task_env(task: Task | None, instance: Instance) -> dict[str, str] | None:
    """Environment variables of the workers of an instance. Called once per worker, before it starts; answers
    are merged, later plugins win. `task` is None: a worker lives longer than one task."""


@hookspec(firstresult=True)
def skyward_retry_task(report: TaskReport) -> bool | None:
    """Whether to run a failed or lost task again. Called once per attempt, before it is reported.

    The first answer that is not None wins; without one, lost tasks are retried `retries` times and failed ones
    are not.
    """


# -- events ------------------------------------------------------------------------------------------------------


@hookspec
def skyward_event(event: Event) -> None:
    """Every event, in order. Reports are plugins on this hook. What it raises is shown as an error of the
    plugin and stops nothing."""


@hookspec
def skyward_run_finished(report: RunReport) -> None:
    """Called last in a run, also after an interrupt, when nothing is left running."""
