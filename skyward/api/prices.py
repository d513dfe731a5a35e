"""The catalog and the plan from Python: `sky.offers`, `sky.cheapest`, `sky.plan`. Loads DuckDB when called.

sky.offers(accelerator="H100", max_price=3)        # rows, best price first; a table in a notebook
sky.cheapest(accelerator="A100:8")[0].usd_per_hour
sky.plan(accelerator="A100", nodes=2).chosen
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from skyward.cloud.refusals import last
from skyward.errors import ConfigError, SkywardWarning

if TYPE_CHECKING:
    from skyward.catalog.query import OfferQuery
    from skyward.catalog.result import Result
    from skyward.catalog.store import Catalog
    from skyward.contracts.strategy import Strategy
    from skyward.model.accelerator_model import Registry
    from skyward.model.offer import Offer
    from skyward.model.plan import Plan
    from skyward.model.requirements import Requirements
    from skyward.plugins import Plugins

PER = {"node": "usd_per_hour", "gpu": "usd_per_gpu_hour", "vram": "usd_per_vram_gib_hour"}
"""What `cheapest` compares -> the column that holds it."""


class Offers(Sequence["Offer"]):
    """Offers in order, with all the columns of the catalog. A table in a notebook."""

    def __init__(self, result: Result, total: int) -> None:
        self.result = result
        self.total = total
        """How many offers matched before the limit."""
        self._offers: list[Offer] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return self.result.columns

    def dicts(self) -> list[dict[str, Any]]:
        """One mapping per offer, column -> value; times are UTC."""
        return self.result.dicts()

    def to_arrow(self) -> Any:
        """The same as a `pyarrow.Table`."""
        return self.result.to_arrow()

    def df(self) -> Any:
        """The same as a `pandas.DataFrame`; pandas must be installed."""
        return self.result.df()

    def __len__(self) -> int:
        return len(self.result)

    @overload
    def __getitem__(self, index: int) -> Offer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Offer]: ...
    def __getitem__(self, index: int | slice) -> Offer | Sequence[Offer]:
        if self._offers is None:
            from skyward.catalog.store import offer_of

            self._offers = [offer_of(row) for row in self.result.rows]
        return self._offers[index]

    def __repr__(self) -> str:
        if not len(self):
            return "<no offers>"
        best = self[0]
        price = "price unknown" if best.usd_per_hour is None else f"${best.usd_per_hour:.4g}/h"
        return f"<{len(self)} of {self.total} offers, first {best.provider} {best.instance_type} {best.region} {price}>"

    def _repr_html_(self) -> str:
        shown = [
            name for name in self.columns if name not in ("details", "zones", "accelerator_raw", "source")
        ]
        return _selected(self.result, shown)._repr_html_()


def offers(
    accelerator: Any = None, *, sort: str | Sequence[str] = "usd_per_hour", limit: int = 0, **wishes: Any
) -> Offers:
    """What is on sale, indicative prices included; nothing is an empty sequence.

    `wishes` are those of `ComputePool` that concern machines and prices (`provider`, `region`, `zone`, `cpu`,
    `memory`, `disk`, `architecture`, `machine`, `allocation`, `max_price`); `sort` takes columns, a leading `-`
    turns one around; `limit=0` is all.

    Raises:
        UsageError: a name, size, column or region nobody knows.
    """
    with _opened() as catalog:
        query = _query(accelerator, wishes, sort=_names(sort), limit=limit, include_indicative=True)
        return Offers(catalog.rows(query), catalog.matched(query).total)


def cheapest(accelerator: Any = None, *, n: int = 1, per: str = "node", **wishes: Any) -> Offers:
    """The `n` offers of the lowest price; compared per node, `gpu`, or GB of its memory (`vram`).

    Unknown and indicative prices never win. Without `allocation` every way of paying is considered.

    Raises:
        NoOfferError: nothing fits.
        UsageError: a name, size or region nobody knows.
    """
    if per not in PER:
        raise ConfigError(f"unknown per={per!r}: say one of {', '.join(PER)}")
    with _opened() as catalog:
        query = _query(
            accelerator, wishes, sort=(PER[per],), limit=n, include_indicative=False, include_unpriced=False
        )
        found = Offers(catalog.rows(query), catalog.matched(query).total)
    if not found:
        raise _nothing(accelerator, wishes)
    return found


def plan(**wishes: Any) -> Plan:
    """What a pool with these arguments would rent, in which order, and why nothing else.

    Takes the arguments of `ComputePool`. Nothing is rented and no credentials are needed. A plan without a
    choice is returned, not raised: `plan.chosen` is None then.

    Raises:
        UsageError: arguments nobody can mean.
    """
    from skyward.api.options import parse_options
    from skyward.api.planning import owned_offers, plan_pool, sources
    from skyward.plugins import get_plugins

    options = parse_options(wishes)
    plugins = get_plugins()
    asked = sources(options, plugins) if options.providers else ()
    if asked and all(source.is_owned for source in asked):
        return plan_pool(options, asked, plugins)
    pairs = [(source.name, source.config) for source in asked]
    names = tuple(dict.fromkeys(name for name, _ in pairs))
    wants = replace(options.requirements, providers=names, provider_regions=regions_of(pairs))
    return plan_from_catalog(
        wants,
        options.selection,
        plugins=plugins,
        configs=dict(pairs),
        also=owned_offers(asked),
        explain=True,
    )


def plan_from_catalog(
    requirements: Requirements,
    selection: Any = "first",
    *,
    plugins: Plugins | None = None,
    catalog: Catalog | None = None,
    configs: Mapping[str, Any] | None = None,
    also: Sequence[Offer] = (),
    max_age_s: float | None = None,
    explain: bool = False,
    everything: bool = False,
) -> Plan:
    """The plan for `requirements` over the catalog as it is, after `skyward_modify_offers`.

    `also` are offers that no catalog knows: the user's own machines. `selection` is a strategy, its class or
    name, or a function `(providers, spec) -> provider` that is given `configs` by provider name; under "available"
    what a cloud had none of a while ago comes last. What is refused
    is told with `explain`, or when nothing fits: near misses one by one, the rest counted; with `everything`,
    all of it one by one. The ranking is the same in every case.

    Raises:
        QueryError: a region or machine nobody has.
        StalePricesError: the prices are older than `max_age_s`.
    """
    from skyward.planner import make_plan
    from skyward.plugins import get_plugins

    plugins = plugins or get_plugins()
    strategy = strategy_of(selection, plugins, configs)
    registry = plugins.accelerators()
    owned = [replace(offer, is_owned=True) for offer in also]
    with _opened(catalog) as store:
        wants = _meant(store, requirements)
        for on_sale, unlisted in _widening(store, wants, registry, max_age_s, explain, everything):
            found = [*owned, *on_sale]
            plugins.modify_offers(found, wants)
            made = replace(make_plan(wants, found, strategy, registry=registry), unlisted=unlisted)
            if made.chosen is not None:
                break
    return replace(made, ranked=last(made.ranked)) if strategy.name == "available" else made


def strategy_of(selection: Any, plugins: Plugins, configs: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy that `selection=` means.

    Raises:
        UsageError: no plugin brings a strategy of this name.
    """
    from skyward.contracts.strategy import Strategy
    from skyward.planner import ChosenBy

    if isinstance(selection, Strategy):
        return selection
    if isinstance(selection, type) and issubclass(selection, Strategy):
        return selection()
    if callable(selection):
        return ChosenBy(selection, configs)
    return plugins.strategy(selection)()


def regions_of(configs: Iterable[tuple[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Regions that the users' own provider values name (`sky.AWS(region="us-east-1")`), by provider name.

    A provider that is also given without a region may be used anywhere, and is left out.
    """
    found: dict[str, list[Any]] = {}
    for name, config in configs:
        found.setdefault(name, []).append(getattr(config, "region", None))
    return {name: tuple(dict.fromkeys(regions)) for name, regions in found.items() if all(regions)}


# -- inside --------------------------------------------------------------------------------------------------------


def _widening(
    catalog: Catalog,
    wants: Requirements,
    registry: Registry,
    max_age_s: float | None,
    explain: bool,
    everything: bool,
) -> Iterator[tuple[list[Offer], dict[str, int]]]:
    """Offers to plan with, and how many were only counted: first those whose machine is right, then near misses."""
    from skyward.catalog.query import OfferQuery, of_requirements

    money = {"pricing": (), "max_price": None, "min_reliability": None, "include_indicative": True}
    machine = of_requirements(
        wants,
        registry,
        has_accelerator=True if wants.total_accelerators else None,
        fractions=wants.takes_fractions,
        **money,
    )
    checked = replace(machine, max_age_s=max_age_s)
    if everything:
        catalog.rows(replace(checked, limit=1))
        yield catalog.offers(OfferQuery()), {}
        return
    if explain:
        catalog.rows(replace(checked, limit=1))
    else:
        yield catalog.offers(checked), {}
    from skyward.advice import akin
    from skyward.api.misses import near_misses

    names = akin(wants.accelerator, registry) if wants.accelerator else ()
    yield near_misses(catalog, machine, frozenset().union(*names))


def _meant(catalog: Catalog, requirements: Requirements) -> Requirements:
    """With the machine's real name, where an alias was given."""
    if requirements.machine is None:
        return requirements
    name, note = catalog.machine(requirements.machine)
    if note is not None:
        warnings.warn(SkywardWarning(note), stacklevel=4)
    return replace(requirements, machine=name)


@contextmanager
def _opened(catalog: Catalog | None = None) -> Iterator[Catalog]:
    """The catalog given, or one of our own; what it refused to read becomes warnings."""
    if catalog is not None:
        yield catalog
        return
    from skyward.catalog.store import open_catalog

    with open_catalog() as own:
        yield own
        for message in own.warnings:
            warnings.warn(SkywardWarning(message), stacklevel=4)


def _query(accelerator: Any, wishes: Mapping[str, Any], **fields: Any) -> OfferQuery:
    from skyward.api.options import parse_options
    from skyward.catalog.query import of_requirements
    from skyward.plugins import get_plugins

    plugins = get_plugins()
    options = parse_options({**wishes, "accelerator": accelerator})
    names = tuple(plugins.provider(item).name for item in options.providers)
    if "allocation" not in wishes:
        fields["pricing"] = ()
    wants = replace(options.requirements, providers=names)
    return of_requirements(wants, plugins.accelerators(), **fields)


def _nothing(accelerator: Any, wishes: Mapping[str, Any]) -> Exception:
    from skyward.advice import no_offer
    from skyward.plugins import get_plugins

    made = plan(accelerator=accelerator, selection="cheapest", **wishes)
    return no_offer(made, registry=get_plugins().accelerators())


def _names(sort: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for part in sort.split(",")) if isinstance(sort, str) else tuple(sort)


def _selected(result: Result, names: Sequence[str]) -> Result:
    places = [result.columns.index(name) for name in names]
    return type(result)(tuple(names), tuple(tuple(row[place] for place in places) for row in result.rows))
