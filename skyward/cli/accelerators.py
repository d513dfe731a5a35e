"""`skyward accelerators`: what accelerators there are, what they are called, and who sells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from skyward.cli import console
from skyward.cli.render import Answer, Column, column_of, format_option, show, show_json, show_table
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import ExitCode, NoOfferError
from skyward.model.accelerator import default_registry
from skyward.model.money import format_usd
from skyward.model.sizes import format_count, format_memory

if TYPE_CHECKING:
    from skyward.catalog.result import Result
    from skyward.catalog.store import Catalog
    from skyward.model.accelerator_model import AcceleratorModel


@click.command()
@click.argument("name", required=False)
@click.option("--vendor", metavar="NAME", help="Only of this vendor: nvidia, amd, aws, google, intel.")
@click.option("--mig", is_flag=True, help="Only those that can be partitioned.")
@click.option("--sold", is_flag=True, help="Only those that somebody sells.")
@format_option
@pass_shell
def accelerators(
    shell: Shell, /, name: str | None, vendor: str | None, mig: bool, sold: bool, format: str
) -> None:
    """List accelerators and who sells them; with NAME, all about one: aliases, MIG profiles, sellers, prices."""
    from skyward.cli.prices import opened

    models = _chosen(name, vendor, mig)
    with opened(shell) as catalog:
        prices = {row["name"]: row for row in catalog.accelerators().dicts()}
        rows = [_row(model, prices.get(model.name, {})) for model in models]
        rows = [row for row in rows if row["providers"] or not sold]
        if not rows:
            raise _nothing(vendor)
        if name is None or format not in ("table", "json"):
            show(
                Answer(schema="skyward.accelerators/1", result=_result(rows), columns=_columns(), around={}),
                format,
            )
        elif format == "json":
            items = [{**row, "sellers": catalog.sellers(row["name"]).dicts()} for row in rows]
            show_json("skyward.accelerators/1", {"items": items})
        else:
            _show_each(catalog, models, rows)


def _chosen(name: str | None, vendor: str | None, mig: bool) -> list[AcceleratorModel]:
    """The models that are meant.

    Raises:
        AcceleratorError: nobody knows the name; names the nearest ones.
    """
    from skyward.cli.requirements import parse_accelerator

    wish = parse_accelerator(name)
    if wish is None or vendor is not None:
        from skyward.plugins import get_plugins

        get_plugins()
    registry = default_registry()
    models = registry.models if wish is None else registry.select(wish)
    return [
        model
        for model in models
        if (vendor is None or model.vendor == vendor.lower()) and (model.mig or not mig)
    ]


def _nothing(vendor: str | None) -> NoOfferError:
    vendors = sorted({model.vendor for model in default_registry().models})
    return NoOfferError(
        "no accelerator is of this kind",
        facts=[f"vendors: {', '.join(vendors)}"] if vendor else [],
        hints=["skyward accelerators"],
        exit_code=ExitCode.NOTHING_SELECTED,
    )


def _row(model: AcceleratorModel, price: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": model.name,
        "family": model.family,
        "vendor": model.vendor,
        "kind": model.kind,
        "architecture": model.architecture or None,
        "memory_gib": model.memory_gib,
        "memory_type": model.memory_type or None,
        "form_factor": model.form_factor or None,
        "interconnect": model.interconnect or None,
        "fp16_tflops_dense": model.fp16_tflops_dense,
        "mig_max": model.mig_max,
        "mig_profiles": [f"{profile.name} x{profile.fits}" for profile in model.mig],
        "aliases": list(model.aliases),
        "confidence": model.confidence,
        "source": model.source or None,
        "observed_on": model.observed_on or None,
        "notes": model.notes or None,
        "providers": list(price.get("providers") or ()),
        "min_usd_per_gpu_hour": price.get("min_usd_per_gpu_hour"),
    }


def _result(rows: Sequence[Mapping[str, Any]]) -> Result:
    from skyward.catalog.result import Result

    columns = tuple(rows[0])
    return Result(columns, tuple(tuple(row[name] for name in columns) for row in rows))


def _columns() -> list[Column]:
    return [
        Column(title="NAME", text=lambda row: row["name"], weight=9),
        Column(title="VENDOR", text=lambda row: row["vendor"], weight=5),
        Column(title="ARCHITECTURE", text=lambda row: row["architecture"] or "-", weight=3),
        Column(title="MEMORY", text=lambda row: _memory(row["memory_gib"]), right=True, weight=8),
        Column(title="FP16", text=lambda row: _tflops(row["fp16_tflops_dense"]), right=True, weight=4),
        Column(title="FORM", text=lambda row: row["form_factor"] or "-", weight=2),
        Column(title="MIG", text=lambda row: _mig(row["mig_max"]), right=True, weight=4),
        Column(
            title="FROM $/GPU-H",
            text=lambda row: format_usd(row["min_usd_per_gpu_hour"]),
            right=True,
            weight=7,
        ),
        Column(title="SOLD BY", text=lambda row: ", ".join(row["providers"]) or "-", weight=8),
        Column(title="CONFIDENCE", text=_unsure, weight=1),
    ]


def _unsure(row: Mapping[str, Any]) -> str:
    """Only what is not beyond doubt."""
    return "-" if row["confidence"] == "high" else str(row["confidence"])


def _memory(value: float | None) -> str:
    return format_memory(value) if value else "-"


def _mig(most: int) -> str:
    """How many partitions one device takes."""
    return f"{most}x" if most else "-"


def _tflops(value: float | None) -> str:
    return f"{value:,.0f} TF" if value else "-"


# -- one of them -----------------------------------------------------------------------------------------------------


def _show_each(
    catalog: Catalog, models: Sequence[AcceleratorModel], rows: Sequence[Mapping[str, Any]]
) -> None:
    by_name = {model.name: model for model in models}
    for number, row in enumerate(rows):
        console.write("\n" if number else "")
        for line in _facts(by_name[row["name"]]):
            console.write(f"{line}\n")
        sellers = catalog.sellers(row["name"])
        if sellers.rows:
            show_table(_seller_columns(), sellers.dicts())
        else:
            console.write("sold by  nobody the catalog knows\n")


def _facts(model: AcceleratorModel) -> list[str]:
    link = (
        f"{model.interconnect} {model.interconnect_gbps:g} GB/s"
        if model.interconnect_gbps
        else model.interconnect
    )
    speed = f"{_tflops(model.fp16_tflops_dense)} fp16" if model.fp16_tflops_dense else ""
    memory = f"{_memory(model.memory_gib)} {model.memory_type}".strip()
    facts = [model.vendor, model.architecture, memory, model.form_factor, link, speed]
    lines = [f"{model.name}  {' · '.join(fact for fact in facts if fact and fact != '-')}"]
    if model.aliases:
        lines.append(f"also     {', '.join(model.aliases)}")
    if model.mig:
        profiles = ", ".join(f"{profile.name} x{profile.fits}" for profile in model.mig)
        lines.append(f"MIG      {profiles}")
    told = "; ".join(part for part in (model.source, model.observed_on) if part)
    sure = "" if model.confidence == "high" else f"{model.confidence} confidence · "
    lines.append(
        f"facts    {sure}{' · '.join(part for part in (model.notes, told) if part) or 'from a plugin'}"
    )
    return lines


def _seller_columns() -> list[Column]:
    seen = column_of("oldest_observed_at")
    return [
        Column(title="SOLD BY", text=lambda row: row["provider"], weight=9),
        Column(title="AS", text=_sold_as, weight=9),
        Column(title="GPUS", text=lambda row: ", ".join(map(format_count, row["counts"])), weight=8),
        Column(title="OFFERS", text=lambda row: f"{row['offers']:,}", right=True, weight=5),
        Column(
            title="FROM $/GPU-H",
            text=lambda row: format_usd(row["min_usd_per_gpu_hour"]),
            right=True,
            weight=9,
        ),
        Column(title="SEEN", text=seen.text, right=True, weight=7),
        Column(title="REGIONS", text=lambda row: _some(row["regions"]), weight=4),
    ]


def _sold_as(row: Mapping[str, Any]) -> str:
    return f"~{row['pricing']} (indicative)" if row["quality"] == "indicative" else str(row["pricing"])


def _some(words: Sequence[str], limit: int = 4) -> str:
    rest = f" and {len(words) - limit} more" if len(words) > limit else ""
    return ", ".join(words[:limit]) + rest
