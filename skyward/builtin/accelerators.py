"""The accelerators Skyward knows by itself: `accelerators.csv` beside this file, one reviewable row each."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from importlib.resources import files

from skyward import AcceleratorModel, hookimpl


@hookimpl
def skyward_accelerators() -> Iterable[AcceleratorModel]:
    table = files("skyward.builtin").joinpath("accelerators.csv").read_text(encoding="utf-8")
    return [AcceleratorModel.from_row(row) for row in csv.DictReader(table.splitlines())]
