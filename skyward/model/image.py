"""The environment tasks run in, declared."""

from __future__ import annotations
