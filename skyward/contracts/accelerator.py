"""What a plugin says of one accelerator: the values live in `skyward.model.accelerator_model`."""

from __future__ import annotations

from skyward.model.accelerator_model import AcceleratorModel, MigProfile

__all__ = ["AcceleratorModel", "MigProfile"]
