"""Prices: what can be rented, for how much, and how old that knowledge is.

`query` asks (pure SQL building), `store` answers (DuckDB over Parquet), `layers` decides which file speaks for a
provider (user > live > bundled), `refresh` fetches, `history` remembers, `compile` makes the bundled snapshot.
Names are loaded when first used; importing this package imports no DuckDB. Imports `contracts`, `model`,
`config` and `errors`.

    with open_catalog() as catalog:
        result = catalog.rows(OfferQuery(accelerators=("H100-SXM",), limit=4))
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "OfferQuery": "query",
    "OFFER_COLUMNS": "query",
    "GROUP_AGGREGATES": "query",
    "build_funnel_sql": "query",
    "build_provenance_sql": "query",
    "build_sql": "query",
    "canonical_names": "query",
    "clauses": "query",
    "column_name": "query",
    "of_requirements": "query",
    "pricing_of": "query",
    "Catalog": "store",
    "CatalogInfo": "store",
    "Finding": "store",
    "Matched": "store",
    "open_catalog": "store",
    "Diff": "history",
    "Provenance": "result",
    "Result": "result",
    "RefreshResult": "refresh",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605 - names are loaded on use


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skyward.catalog' has no attribute {name!r}")
    value = getattr(import_module(f"skyward.catalog.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
