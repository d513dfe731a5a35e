"""What is sent to a machine to become an agent there, and how a python3 is found to run it. Nothing of ours is installed."""

from __future__ import annotations

import json
import marshal
import shlex
import sys
import zlib
from collections.abc import Mapping
from functools import cache
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

from skyward.model.instance import Endpoint
from skyward.remote.bundle import cloudpickle_codes

_LOADER = (
    "import os,sys\n"
    "if sys.version_info<(3,8):sys.exit('skyward: python3 is %d.%d here, the agent needs 3.8 or newer'%sys.version_info[:2])\n"
    "def r(n):\n"
    " b=b''\n"
    " while len(b)<n:\n"
    "  p=os.read(0,n-len(b))\n"
    "  if not p:sys.exit('skyward: the connection ended before the agent had come')\n"
    "  b+=p\n"
    " return b\n"
    "exec(r(int(r(8))))\n"
)
_AGENT = (
    "node", "node.lean", "wire", "node.unpack", "node.files", "node.leftovers", "node.facts", "node.descriptors",
    "node.process", "node.slot", "node.line", "node.queue", "node.output", "node.values", "node.crew",
    "node.configuration", "node.watching", "node.agent", "node.entry",
)  # fmt: skip
_WORKER = (
    "node", "node.lean", "wire", "node.unpack", "node.channel", "node.surroundings", "node.outcomes", "node.runtime",
    "node.inputs", "node.worker",
)  # fmt: skip
"""The modules each of them is made of, every module after those that it imports; the last one begins."""
_LOAD = """
import sys
from marshal import loads
from zlib import decompress

frozen = sys.modules.get("_frozen_importlib_external")
alike = sys.implementation.cache_tag == parts["tag"] and getattr(frozen, "MAGIC_NUMBER", b"") == parts["magic"]
sources = {} if alike else loads(decompress(parts["sources"]))

def load(names):
    ours = ["skyward", "skyward.remote", *("skyward.remote." + name for name in names)]
    for name in ours:
        module = sys.modules[name] = type(sys)(name)
        module.__path__ = []
        package, _, own = name.rpartition(".")
        if package:
            setattr(sys.modules[package], own, module)
    for name in names:
        module = sys.modules["skyward.remote." + name]
        code = loads(decompress(parts["codes"][name])) if alike else compile(sources[name], "<skyward " + name + ">", "exec")
        exec(code, module.__dict__)
    for name in ours:  # what a task imports is the real one
        del sys.modules[name]
    return module

def agent(settings, modules):
    load(parts["agent"]).start(settings, modules)

def worker():
    load(parts["worker"]).main(parts["tasks"] if alike else {})
"""
"""What makes our modules on a machine, without any file of ours; `parts` is what `modules` gives."""
_FIND = (
    'for p in "$1" python3 /usr/bin/python3 /usr/local/bin/python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python; do '
    'command -v "$p" >/dev/null 2>&1 && exec "$p" -I -S -u -c "$0"; done; '
    "echo 'skyward: no python3 on this machine' >&2; exit 127"
)


@cache
def modules() -> bytes:
    """Our modules for a machine: their bytecode for a Python like this one, which saves it the compiling, and their
    source for any other. Marshalled, to be read there and now: nothing of it outlives the run. An agent hands it on to
    its workers."""
    sources = {name: _source(name) for name in dict.fromkeys(_AGENT + _WORKER)}
    # Docstrings, which nobody reads there, would be a tenth of the whole.
    codes = {name: compile(text, f"<skyward {name}>", "exec", optimize=2) for name, text in sources.items()}

    def packed(code: Any) -> bytes:
        return zlib.compress(marshal.dumps(code), 9)

    parts = {
        "tag": sys.implementation.cache_tag, "magic": MAGIC_NUMBER, "agent": _AGENT, "worker": _WORKER, "load": _LOAD,
        "codes": {name: packed(code) for name, code in codes.items()},
        "sources": zlib.compress(marshal.dumps(sources, 2), 9),
        "tasks": {name: packed(code) for name, code in cloudpickle_codes()},
    }  # fmt: skip
    return marshal.dumps(parts, 2)  # what every Python reads


def _source(name: str) -> str:
    path = Path(__file__).parent.joinpath(*name.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


def agent_program(settings: Mapping[str, Any]) -> bytes:
    """The program that becomes the agent; read and executed by the one-liner that SSH starts."""
    ours = modules()
    program = (
        f"import marshal; text = r({len(ours)}); it = {{'parts': marshal.loads(text)}}; exec(it['parts']['load'], it)\n"
        f"it['agent']({json.dumps(dict(settings))!r}, text)\n"
    ).encode()
    return b"%08d" % len(program) + program + ours


def agent_command(endpoint: Endpoint) -> str:
    """The command that reads such a program from its standard input; on this machine it runs the client's own Python."""
    first = sys.executable if endpoint.kind == "local" else "python3"
    return f"exec sh -c {shlex.quote(_FIND)} {shlex.quote(_LOADER)} {shlex.quote(first)}"
