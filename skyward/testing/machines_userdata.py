"""What user data asks of a machine, as the two scripts that do it. Reads text, runs nothing.

The part of cloud-init that is understood: `#cloud-config` with `ssh_keys`, `ssh_deletekeys`, `ssh_genkeytypes`,
`ssh_authorized_keys`, `write_files`, `bootcmd` and `runcmd`, and scripts that begin with `#!`. The order is cloud-init's:
https://cloudinit.readthedocs.io/en/latest/explanation/boot.html (2026-11).
"""

from __future__ import annotations

import base64
import gzip
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KEY_TYPES = ("ed25519", "ecdsa", "rsa")
_DEFAULT_TYPES = ("ed25519",)
"""cloud-init also makes RSA and ECDSA keys; an RSA key takes longer than a machine may."""


@dataclass(frozen=True, kw_only=True)
class UserData:
    """What a machine does with its user data."""

    early: str
    """Shell text to run as root before sshd starts."""
    late: str = ""
    """Shell text to run as root beside sshd."""
    authorized_keys: tuple[str, ...] = ()
    """Keys that may log in as the user of the image."""


def parse_user_data(
    text: str, *, ssh: str = "/etc/ssh", scripts: str = "/var/lib/cloud/instance"
) -> UserData:
    """Nothing, a script, or a cloud-config; anything else is ignored, as cloud-init does.

    Raises:
        ValueError: a cloud-config that is no mapping, or a key that cannot be understood.
    """
    if text.startswith("#!"):
        return UserData(early=_generate(_DEFAULT_TYPES, ssh), late=_script(text, scripts))
    if text.startswith("#cloud-config"):
        return _cloud_config(text, ssh)
    return UserData(early=_generate(_DEFAULT_TYPES, ssh))


def _cloud_config(text: str, ssh: str) -> UserData:
    import yaml  # JSON is YAML

    config = (
        yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
    )  # the one in C takes a tenth
    if not isinstance(config, dict):
        raise ValueError("user data: a cloud-config is a mapping")
    return UserData(
        early="\n".join(
            [
                *_commands(config.get("bootcmd")),
                *(line for file in config.get("write_files") or () for line in _write_file(file)),
                _host_keys(config, ssh),
            ]
        ),
        late="\n".join(_commands(config.get("runcmd"))),
        authorized_keys=tuple(config.get("ssh_authorized_keys") or ()),
    )


def _commands(commands: Iterable[Any] | None) -> list[str]:
    """One line each; a failure is reported and does not stop the next, as with cloud-init."""
    lines = [
        command if isinstance(command, str) else shlex.join(map(str, command)) for command in commands or ()
    ]
    return [_in_a_shell(line) for line in lines]


def _in_a_shell(command: str) -> str:
    return f'sh -c {shlex.quote(command)} </dev/null || echo "failed with $?" >&2'


def _script(text: str, directory: str) -> str:
    place = f"{directory}/part-001"
    return "\n".join([*_put(place, text.encode(), "0700", "root:root"), f"{place} </dev/null"])


def _write_file(file: Mapping[str, Any]) -> list[str]:
    content = file.get("content", "")
    data = content if isinstance(content, bytes) else str(content).encode()
    encoding = str(file.get("encoding", "text/plain")).lower()
    if "b64" in encoding or "base64" in encoding:
        data = base64.b64decode(data)
    if encoding.startswith(("gz", "gzip")):
        data = gzip.decompress(data)
    mode = file.get("permissions", "0644")
    mode = format(mode, "o") if isinstance(mode, int) else str(mode)
    return _put(
        str(file["path"]), data, mode, str(file.get("owner", "root:root")), append=bool(file.get("append"))
    )


def _put(path: str, data: bytes, mode: str, owner: str, *, append: bool = False) -> list[str]:
    place, encoded = shlex.quote(path), base64.b64encode(data).decode()
    return [
        f'mkdir -p "$(dirname {place})"',
        f"base64 -d >{'>' if append else ''}{place} <<'END'\n{encoded}\nEND",
        f"chmod {shlex.quote(mode)} {place}; chown {shlex.quote(owner)} {place}",
    ]


def _host_keys(config: Mapping[str, Any], ssh: str) -> str:
    """Given keys are written and no others made; without any they are made here."""
    given = config.get("ssh_keys")
    if given is None:
        types = config.get("ssh_genkeytypes", _DEFAULT_TYPES)
        kinds = [kind for kind in types if kind in KEY_TYPES and (kind != "rsa" or types == ["rsa"])]
        return _generate(kinds, ssh)
    lines = []
    for name, text in given.items():
        kind, _, part = str(name).partition("_")
        if kind not in KEY_TYPES or part not in ("private", "public", "certificate"):
            raise ValueError(f"user data: ssh_keys has no {name!r}")
        end, mode = {
            "private": ("", "0600"),
            "public": (".pub", "0644"),
            "certificate": ("-cert.pub", "0644"),
        }[part]
        lines += _put(
            f"{ssh}/ssh_host_{kind}_key{end}", (text.rstrip("\n") + "\n").encode(), mode, "root:root"
        )
    return "\n".join(lines)


def _generate(types: Iterable[str], ssh: str) -> str:
    return "\n".join(
        f"ssh-keygen -q -t {kind} -N '' -f {shlex.quote(ssh)}/ssh_host_{kind}_key" for kind in types
    )
