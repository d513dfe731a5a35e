"""From the arguments of a pool to a plan: which providers are meant, what they sell, and what fits best."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skyward.api.options import PoolOptions, nodes_meant
from skyward.contracts.provider import Provider
from skyward.errors import CredentialsError, NoOfferError, SkywardWarning
from skyward.model.offer import Offer
from skyward.model.plan import Plan
from skyward.plugins import Plugins

HOME = "local"
"""The provider that is meant when nothing is named."""


@dataclass(frozen=True, slots=True)
class Source:
    """A provider that may be asked: its class and the config the user wrote."""

    kind: type[Provider]
    config: Any

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def is_owned(self) -> bool:
        """Whether its machines are the user's own: nothing is rented, so no catalog knows them."""
        return self.kind.capabilities.off_means == "nothing"

    def ready(self) -> Provider:
        """The provider, with its credentials found."""
        return self.kind.from_env(self.config)


def sources(options: PoolOptions, plugins: Plugins) -> tuple[Source, ...]:
    """The providers that are meant, in order of preference.

    Nothing named and nothing said of machines is this machine; with wishes it is every installed provider that
    rents machines and whose credentials are found.

    Raises:
        UnknownProviderError: a name is no installed provider's.
        CredentialsError: nothing was named, and no provider has credentials.
    """
    if options.providers:
        return tuple(_source(provider, plugins) for provider in options.providers)
    if not options.wants_hardware:
        return (_source(HOME, plugins),)
    rented = [source for name in plugins.providers() if not (source := _source(name, plugins)).is_owned]
    return _with_credentials(rented)


def _source(provider: object, plugins: Plugins) -> Source:
    kind = plugins.provider(provider)
    if not isinstance(provider, str):
        return Source(kind, provider)
    from skyward.config import load_config

    return Source(kind, kind.Config(**load_config().provider(provider)))


def _with_credentials(rented: Iterable[Source]) -> tuple[Source, ...]:
    found, missing = [], []
    for source in rented:
        try:
            source.ready()
        except CredentialsError as error:
            missing.append(error)
        else:
            found.append(source)
    if found:
        return tuple(found)
    raise CredentialsError(
        "no provider that rents machines has credentials",
        facts=[str(error) for error in missing],
        hints=[
            "`skyward plan` with the same options needs none",
            "skyward providers",
            'provider="local" runs on this machine',
        ],
    )


def plan_pool(options: PoolOptions, asked: Sequence[Source], plugins: Plugins) -> Plan:
    """What the pool would rent, and why nothing else. Reads the catalog, unless all machines are the user's own;
    rents nothing."""
    from skyward.api.prices import plan_from_catalog, regions_of, strategy_of
    from skyward.planner import make_plan

    pairs = [(source.name, source.config) for source in asked]
    configs = dict(reversed(pairs))  # where a provider is given twice, its first config counts
    nodes = options.requirements.nodes
    requirements = replace(
        options.requirements,
        nodes=nodes if options.says_nodes else nodes_meant([source.config for source in asked], nodes),
        providers=tuple(dict.fromkeys(name for name, _ in pairs)),
        provider_regions=regions_of(pairs),
    )
    owned = owned_offers(asked)
    if not all(source.is_owned for source in asked):
        return plan_from_catalog(
            requirements, options.selection, plugins=plugins, configs=configs, also=owned
        )
    plugins.modify_offers(owned, requirements)
    strategy = strategy_of(options.selection, plugins, configs)
    return make_plan(requirements, owned, strategy, registry=plugins.accelerators())


def owned_offers(asked: Iterable[Source]) -> list[Offer]:
    """The user's own machines; no catalog knows them. Sources that cannot be asked are passed over.

    Raises:
        CredentialsError: there is nobody else to fall back on.
    """
    offers: list[Offer] = []
    problems: list[CredentialsError] = []
    others = 0
    for source in asked:
        try:
            found = source.ready().offers() if source.is_owned else ()
        except CredentialsError as error:
            problems.append(error)
        else:
            others += 1
            offers += [replace(offer, is_owned=True) for offer in found]
    if problems and not others:
        raise problems[0]
    for problem in problems:
        warnings.warn(SkywardWarning(f"{problem}; the next provider is tried"), stacklevel=3)
    return offers


def nothing_fits(plan: Plan, plugins: Plugins) -> NoOfferError:
    """The error for a plan that chose nothing."""
    from skyward.advice import no_offer

    return no_offer(plan, registry=plugins.accelerators())
