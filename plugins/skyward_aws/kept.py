"""What outlives one pool, because the next one in this program would do it all again: clients, and what was looked up.

Only for keys that the environment names: those of a file, a session or a role may be others by then.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from threading import Lock
from typing import Any, Final, TypeVar

T = TypeVar("T")

FRESH_S: Final = 300.0
"""How long images, subnets and zones are believed, seconds."""
MOST: Final = 256

_kept: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
_lock = Lock()


def signature(environ: Mapping[str, str] | None, *more: Hashable) -> Hashable | None:
    """What tells these keys, this process and `more` from others; None where variables name no keys."""
    variables = os.environ if environ is None else environ
    if not variables.get("AWS_ACCESS_KEY_ID"):
        return None
    mine = tuple(sorted((name, value) for name, value in variables.items() if name.startswith("AWS_")))
    return (os.getpid(), mine, *more)


def kept(key: Hashable | None, make: Callable[[], T], fresh_s: float = float("inf")) -> T:
    """What `make` gave for that key lately, else what it gives now. A failure is not kept."""
    if key is None:
        return make()
    with _lock:
        at, value = _kept.get(key, (0.0, None))
        if at and time.monotonic() - at < fresh_s:
            found: T = value
            return found
    made = make()
    with _lock:
        _kept[key] = (time.monotonic(), made)
        _kept.move_to_end(key)
        while len(_kept) > MOST:
            _kept.popitem(last=False)
    return made


def forget(belongs: Hashable | None) -> None:
    """Nothing that was looked up under this signature is believed any more."""
    with _lock:
        for key in [key for key in _kept if isinstance(key, tuple) and key[0] == belongs]:
            del _kept[key]
