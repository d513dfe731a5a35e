"""The constant scripts that run on instances, and how they become root there. Imports nothing of Skyward."""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

# `$0` names the script in messages; SSH_CONNECTION is what sudo would forget.
_AS_ROOT = """script={script}
if [ "$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then exec sudo -n sh -c "$script" {name} {arguments}; fi
exec sh -c "$script" {name} {arguments}
"""


@cache
def read(name: str) -> str:
    """The text of a script that lies beside this module, or below."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def as_root(script: str, *arguments: str, name: str = "skyward") -> str:
    """A command line for `sh` that runs a script as root, with `sudo -n` where it must; as the user where neither
    is possible, and the script has to say what that means.

    Arguments are ours: words, or shell expressions in double quotes. Strings of the user do not belong here but on
    standard input, which the script inherits.
    """
    return _AS_ROOT.format(script=shlex.quote(script), name=name, arguments=" ".join(arguments))
