"""What machines of EC2 are prepared with: drivers for fractions of GPUs and for Neuron, and a watch for spot notices.

The scripts are the files beside this module: constant, and told what varies on their standard input.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from skyward import Instance, Step
from skyward_aws.images import kind_of_image

POLL_S: Final = 5.0
"""How often the metadata service is asked for a notice, as AWS recommends."""
POLL_VARIABLE: Final = "SKYWARD_AWS_NOTICE_POLL_S"
"""Another interval, for tests."""


def steps_for(instance: Instance, environ: Mapping[str, str] = os.environ) -> list[Step]:
    """The steps one instance needs."""
    steps = []
    if instance.spot:
        interval_s = float(environ.get(POLL_VARIABLE) or POLL_S)
        asked: dict[str, object] = {"interval_s": interval_s, "program": _text("watch.py")}
        steps.append(Step(name="spot notices", script=_text("watch.sh"), input=asked, order=20, timeout_s=60))
    kind = kind_of_image(instance.offer)
    if kind == "fractional":
        steps.append(Step(name="grid driver", script=_text("grid.sh"), order=25, timeout_s=900))
    if kind == "neuron":
        steps.append(Step(name="neuron", script=_text("neuron.sh"), order=25, timeout_s=600))
    return steps


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
