"""Prices: what can be rented, for how much, and how old that knowledge is.

`query` asks (pure SQL), `store` answers (DuckDB over Parquet), `layers` finds the file that speaks for a provider
(user > live > bundled), `belief` checks its rows, `refresh` fetches, `history` remembers, `compile` writes.
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
    "accelerator_fields": "query",
    "clauses": "query",
    "column_name": "query",
    "of_requirements": "query",
    "pricing_of": "query",
    "Catalog": "store",
    "CatalogInfo": "store",
    "Finding": "audit",
    "Matched": "store",
    "open_catalog": "store",
    "BuildReport": "compile",
    "build": "compile",
    "Diff": "history",
    "Provenance": "result",
    "Result": "result",
    "RefreshResult": "refresh",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skyward.catalog' has no attribute {name!r}")
    value = getattr(import_module(f"skyward.catalog.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
