"""Proving who we are: identity files, and the user's agent only where the endpoint allows it."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm

from skyward.errors import AuthenticationError
from skyward.remote.ssh.config import Route
from skyward.remote.ssh.dial import Deadline, bounded, unreachable
from skyward.remote.ssh.packets import FastTransport

_AGENT_S = 5.0


def log_in(transport: FastTransport, route: Route, deadline: Deadline) -> None:
    """Tries each key once: identity files, then the agent's, then the user's defaults.

    Raises:
        AuthenticationError: none was accepted; `facts` tell of each.
        HostUnreachable: the machine fell silent or hung up; `phase` is "authentication".
    """
    facts: list[str] = []
    offered = 0
    agent = _Agent(route, deadline) if route.use_agent else None
    try:
        for name, key in _keys(route, agent, facts):
            offered += 1
            refusal = _try_key(transport, route, deadline, key)
            if refusal is None:
                return
            facts.append(f"{name}: {refusal}")
            if not transport.is_active():
                break
    finally:
        if agent is not None:
            agent.close()
    raise _refused(transport, route, offered, facts)


def _keys(route: Route, agent: _Agent | None, facts: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys with the names messages give them; why one cannot be used goes to `facts`."""
    for path in route.identity_files:
        yield from _load(path, facts)
    if agent is not None:
        for key in agent.list_keys():
            yield f"agent's {key.get_name()} {key.fingerprint}", key
    for path in route.default_identities:
        if path.exists():
            yield from _load(path, facts)


def _load(path: Path, facts: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    try:
        yield str(path), paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError):  # TypeError: cryptography's word for "encrypted"
        facts.append(f"{path}: encrypted, needs a passphrase")
    except OSError as error:
        facts.append(f"{path}: {error.strerror}")
    except (paramiko.SSHException, UnsupportedAlgorithm, ValueError) as error:
        facts.append(f"{path}: not a private key that can be used ({type(error).__name__})")


def _try_key(transport: FastTransport, route: Route, deadline: Deadline, key: paramiko.PKey) -> str | None:
    """None if the key was accepted, else why not."""
    done = threading.Event()
    seconds = deadline.left(route.timeout_s)
    try:
        transport.auth_publickey(route.user, key, event=done)
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise _hung_up(transport, route, error) from error
    if not done.wait(seconds):
        raise unreachable(route, "authentication", f"silent in the authentication for {seconds:.3g} s")
    if transport.is_authenticated():
        return None
    answer = transport.get_exception()
    if isinstance(answer, paramiko.BadAuthenticationType):
        return f"the machine takes no keys, only: {', '.join(answer.allowed_types)}"
    if isinstance(answer, paramiko.ssh_exception.PartialAuthentication):
        return f"accepted, but the machine wants more: {', '.join(answer.allowed_types)}"
    if not transport.is_active() and not transport.farewell:
        raise _hung_up(transport, route, answer)
    return "refused"


def _hung_up(transport: FastTransport, route: Route, error: BaseException | None) -> Exception:
    return unreachable(
        route,
        "authentication",
        f"hung up in the authentication: {transport.farewell or 'no reason given'}",
        error,
    )


def _refused(transport: FastTransport, route: Route, offered: int, facts: list[str]) -> AuthenticationError:
    if transport.farewell:
        facts = [*facts, f"the machine said: {transport.farewell}"]
    if offered:
        what = f"refused {'our key' if offered == 1 else f'all {offered} keys'} for user {route.user!r}"
    elif any("encrypted" in fact for fact in facts):
        what = "the key is encrypted, and no agent holds it"
    else:
        what = f"no key to offer for user {route.user!r}"
    return AuthenticationError(
        f"{route.label}: {what}", facts=facts, hints=_hints(route, facts), user=route.user, offered=offered
    )


def _hints(route: Route, facts: list[str]) -> list[str]:
    locked = [fact.partition(": ")[0] for fact in facts if "encrypted" in fact]
    if locked and route.use_agent:
        return [f"ssh-add {shlex.quote(locked[0])}"]
    if locked:
        return [f"ssh-keygen -p -f {shlex.quote(locked[0])}"]
    return [f"ssh -v -p {route.port} {shlex.quote(f'{route.user}@{route.host}')} true"]


class _Agent:
    """The user's ssh-agent, asked with a deadline because a hung one must not hang us."""

    def __init__(self, route: Route, deadline: Deadline) -> None:
        self._route = route
        self._deadline = deadline
        self._agent: paramiko.Agent | None = None

    def list_keys(self) -> list[paramiko.AgentKey]:
        if not os.environ.get("SSH_AUTH_SOCK"):
            return []
        try:
            self._agent = bounded(paramiko.Agent, self._deadline.left(min(_AGENT_S, self._route.timeout_s)))
        except (TimeoutError, paramiko.SSHException, OSError):
            return []
        listed = {_public(path) for path in self._route.identity_files} if self._route.only_listed else None
        return [key for key in self._agent.get_keys() if listed is None or key.get_base64() in listed]

    def close(self) -> None:
        if self._agent is not None:
            self._agent.close()


def _public(path: Path) -> str:
    """The base64 text of the public half that lies beside a private key, or ""."""
    try:
        return path.with_name(path.name + ".pub").read_text().split()[1]
    except (OSError, IndexError):
        return ""
