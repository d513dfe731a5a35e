"""What the user's OpenSSH configuration says of a host: names, ports, keys, jumps. Reads files, opens no socket."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyward.errors import ConfigError
from skyward.model.instance import Endpoint

USER_CONFIG, SYSTEM_CONFIG = "~/.ssh/config", "/etc/ssh/ssh_config"
KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
DEFAULT_IDENTITIES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_DEFAULT_PORT = 22
_MOST_JUMPS = 8
_DEEPEST_INCLUDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to reach and enter one host, everything decided."""

    label: str
    """What messages call it."""
    host: str
    port: int = _DEFAULT_PORT
    user: str
    known_as: str
    """The name under which known_hosts files list it: HostKeyAlias, or the host."""
    host_keys: tuple[str, ...] = ()
    known_hosts: tuple[Path, ...] = ()
    identity_files: tuple[Path, ...] = ()
    default_identities: tuple[Path, ...] = ()
    """Tried last; absent ones are no error."""
    use_agent: bool = False
    only_listed: bool = False
    """Of the agent's keys only those of `identity_files` are offered (IdentitiesOnly)."""
    proxy_command: str | None = None
    jump: Route | None = None
    timeout_s: float = 10.0


def plan_route(endpoint: Endpoint) -> Route:
    """The route to an endpoint. The user's configuration is asked only for machines the user owns.

    Those are endpoints with `use_agent`; one that is pinned by a cloud means exactly what it says. What the endpoint
    says itself wins; its port 22 and its absent user count as not said.

    Raises:
        ConfigError: the configuration cannot be read, or jumps in a circle.
    """
    return _plan(endpoint, depth=0)


def _plan(endpoint: Endpoint, depth: int) -> Route:
    if depth > _MOST_JUMPS:
        raise ConfigError(
            f"{endpoint}: more than {_MOST_JUMPS} jump hosts in a row; does ProxyJump run in a circle?"
        )
    said = _read_settings(endpoint.host) if endpoint.use_agent else {}
    host = said.get("hostname") or endpoint.host
    jump, command = _way(endpoint, said)
    identities = endpoint.identity_files or tuple(said.get("identityfile", ()))
    port, user = _port(endpoint, said), endpoint.user or said.get("user") or getpass.getuser()
    return Route(
        label=_label(endpoint, host, port, user),
        host=host,
        port=port,
        user=user,
        known_as=said.get("hostkeyalias") or host,
        host_keys=endpoint.host_keys,
        known_hosts=_expand(
            endpoint.known_hosts or shlex.split(said.get("userknownhostsfile", "")) or KNOWN_HOSTS
        ),
        identity_files=_expand(identities),
        default_identities=_expand(DEFAULT_IDENTITIES) if endpoint.use_agent and not identities else (),
        use_agent=endpoint.use_agent and said.get("identityagent", "").lower() != "none",
        only_listed=said.get("identitiesonly", "").lower() == "yes",
        proxy_command=command,
        jump=_plan(jump, depth + 1) if jump else None,
        timeout_s=endpoint.connect_timeout_s,
    )


def _label(endpoint: Endpoint, host: str, port: int, user: str) -> str:
    """Where we really go, and what the user called it if that differs."""
    target = str(Endpoint(host=host, port=port, user=user))
    name = endpoint.alias or endpoint.host
    return target if name in (host, target) else f"{name} ({target})"


def _port(endpoint: Endpoint, said: Mapping[str, Any]) -> int:
    if endpoint.port != _DEFAULT_PORT or "port" not in said:
        return endpoint.port
    try:
        return int(said["port"])
    except ValueError:
        raise ConfigError(f"{endpoint}: not a port in the SSH configuration: {said['port']!r}") from None


def _way(endpoint: Endpoint, said: Mapping[str, Any]) -> tuple[Endpoint | None, str | None]:
    """The jump host or the proxy command, whichever was said first, as OpenSSH decides it."""
    if endpoint.jump or endpoint.proxy_command:
        return endpoint.jump, endpoint.proxy_command
    for key, value in said.items():
        if key == "proxyjump":
            return _jumps(value, endpoint), None
        if key == "proxycommand" and value:
            return None, value
    return None, None


def _jumps(text: str, endpoint: Endpoint) -> Endpoint | None:
    """`a,b` goes through a, then b."""
    through: Endpoint | None = None
    for part in text.split(",") if text.lower() != "none" else ():
        through = Endpoint.parse(
            part.strip().removeprefix("ssh://").rstrip("/"),
            use_agent=True,
            known_hosts=endpoint.known_hosts,
            connect_timeout_s=endpoint.connect_timeout_s,
            jump=through,
        )
    return through


def _expand(names: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(name).expanduser() for name in names if name.lower() != "none")


def _read_settings(host: str) -> Mapping[str, Any]:
    """What the configuration says of `host`, keys in lower case, in the order in which it was said."""
    import paramiko

    known = paramiko.SSHConfig()
    try:
        for name in (USER_CONFIG, SYSTEM_CONFIG):
            path = Path(name).expanduser()
            known.parse(_lines(path, path.parent))
        return dict(known.lookup(host))
    except (paramiko.SSHException, paramiko.ssh_exception.ConfigParseError, ValueError) as error:
        raise ConfigError(f"cannot read the SSH configuration: {error}") from error


def _lines(path: Path, base: Path, depth: int = 0) -> Iterator[str]:
    """The lines of a configuration with its Includes in their place.

    `Match exec` would run a command to answer a question, so such a block never matches here.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    block = "Host *"
    for line in text.splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() == "include" and depth < _DEEPEST_INCLUDE:
            for pattern in shlex.split(rest):
                for included in _glob(pattern, base):
                    yield from _lines(included, base, depth + 1)
            yield block  # an Include does not end the block it stands in
            continue
        if word.lower() == "match" and not {"exec", "!exec"}.isdisjoint(rest.lower().split()):
            line = "Host !*"
        if word.lower() in ("host", "match"):
            block = line
        yield line


def _glob(pattern: str, base: Path) -> list[Path]:
    path = Path(pattern).expanduser()
    root = Path(path.anchor) if path.is_absolute() else base
    return sorted(root.glob(str(path.relative_to(path.anchor))))
