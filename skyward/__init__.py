"""Run a Python function on rented machines: `import skyward as sky`.

Every public name is found here and loaded when it is first used, so that importing costs next to nothing on
the client and needs only the standard library on an instance. `sky.<Name>` is also the config class of every
installed provider plugin (`sky.AWS`, `sky.SSH`). Type checkers read `__init__.pyi` beside this file.
"""

from __future__ import annotations

import os as _os
from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.1.0"

_MODULES = {
    "skyward.api.compute": "Compute PendingCompute PendingGroup compute gather",
    "skyward.api.devices": "current_accelerator is_amd is_nvidia is_trainium",
    "skyward.api.executor": "Executor",
    "skyward.api.instance": "InstanceInfo Peer instance_info",
    "skyward.api.multipool": "MultiPool",
    "skyward.api.output": "is_head silent stderr stdout",
    "skyward.api.pool": "ComputePool pool",
    "skyward.api.prices": "cheapest offers plan",
    "skyward.api.shards": "DistributedSampler shard shard_iterator",
    "skyward.contracts.accelerator": "AcceleratorModel MigProfile",
    "skyward.contracts.engine": "Engine EngineContext Sink",
    "skyward.contracts.hookspecs": "hookimpl",
    "skyward.contracts.provider": "Capabilities Finding Provider",
    "skyward.contracts.step": "Step",
    "skyward.contracts.strategy": "Strategy",
    "skyward.errors": """
        AcceleratorError AmbiguousLaunchError ArgumentError AuthenticationError BootstrapError CapacityError CatalogError
        CleanupError ConfigError ConnectionLost CredentialsError DamagedCatalogError ExitCode GuardError
        HostKeyError HostUnreachable ImplausiblePricesError InstanceDiskFull JournalError NoOfferError OutputError
        PluginError ProtocolError ProviderError PythonMismatchError QueryError QuotaError RateLimitError
        RemoteError RemoteTraceback ResultTooLarge SerializationError SizeError SkywardError SkywardWarning
        StalePricesError TargetError TaskCancelled TaskError TaskLost TaskTimeout TransportError
        UnknownProviderError UsageError WorkerDied
    """,
    "skyward.model.accelerator": "AMD Accelerator AcceleratorSpec NVIDIA accelerators",
    "skyward.model.image": "Image",
    "skyward.model.instance": "Endpoint Instance InstanceState LaunchRequest",
    "skyward.model.offer": "Offer",
    "skyward.model.outcome": "Outcome",
    "skyward.model.plan": "Plan Refusal",
    "skyward.model.report": "RunReport TaskReport",
    "skyward.model.requirements": "Requirements",
    "skyward.model.sizes": "Range",
    "skyward.model.task": "Task TaskOptions",
    "skyward.model.volume": "S3Volume Volume",
    "skyward.remote.codec": "allow_results_of",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}
_WHOLE = {"conc": "skyward.api.conc", "events": "skyward.model.event"}
"""Public names that are modules."""

__all__ = sorted([*_HOMES, *_WHOLE])


def __getattr__(name: str) -> _Any:
    if name in _HOMES:
        module = _import_module(_HOMES[name])
        if module.__name__ == "skyward.model.accelerator":
            module.ask_when_unknown(_load_plugins)
        value = getattr(module, name)
    elif name in _WHOLE:
        value = _import_module(_WHOLE[name])
    elif name[:1].isupper():
        value = _provider_config(name)
    else:
        raise _unknown(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _load_plugins() -> None:
    """From then on they name accelerators, too; instances have none."""
    if "SKYWARD_INSTANCE_INFO" not in _os.environ:
        from skyward.plugins import get_plugins

        get_plugins()


def _provider_config(name: str) -> _Any:
    """The config class of the provider plugin called `name`.

    Instances carry no plugins, yet import the user's module with its `@sky.pool(provider=sky.AWS())`; there
    every such name is a class of inert values.
    """
    if "SKYWARD_INSTANCE_INFO" in _os.environ:
        from skyward.api.elsewhere import placeholder

        return placeholder(name)
    from skyward.errors import UnknownProviderError
    from skyward.plugins import get_plugins

    try:
        config = get_plugins().provider_config(name)
    except (AttributeError, KeyError, UnknownProviderError) as error:
        raise _unknown(name, str(error)) from error
    if config is None:
        raise _unknown(name)
    return config


def _unknown(name: str, reason: str = "") -> AttributeError:
    from difflib import get_close_matches

    near = get_close_matches(name, __all__, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f" ({reason})" if reason else ""
    return AttributeError(f"module 'skyward' has no attribute {name!r}{hint}", name=name)
