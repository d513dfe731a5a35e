"""`skyward check`: what stands in the way of renting at a provider, and the policy it takes. Rents nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import click

from skyward.cli.console import make_table, show_table, write, write_json
from skyward.cli.shell import Shell, pass_shell
from skyward.errors import CredentialsError, ExitCode, SkywardError, UsageError

if TYPE_CHECKING:
    from skyward.contracts.provider import Finding, Provider

_WORDS = {True: "ok", False: "no", None: "?"}


@dataclass(frozen=True, slots=True)
class Checked:
    """One provider and what was found."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def is_ready(self) -> bool:
        """Whether nothing stands in the way, as far as anybody can say."""
        return all(finding.is_ok is not False for finding in self.findings)


@click.command()
@click.argument("names", nargs=-1, metavar="[PROVIDER]...")
@click.option("--region", help="Look into this region instead of the configured one.")
@click.option(
    "--policy", is_flag=True, help="Print the permissions that renting takes, as the cloud's own document."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@pass_shell
def check(shell: Shell, names: tuple[str, ...], region: str | None, policy: bool, as_json: bool) -> int:
    """Look into whether machines can be rented: credentials, permissions, quotas, network. Rents nothing.

    Asks the clouds. Without PROVIDER every one that rents machines is checked. Exits with 4 if something stands in the
    way of a named one, or of all of them.
    """
    if policy:
        return _print_policy(shell, names, region)
    checked = [Checked(name, tuple(_findings(shell, name, region))) for name in names or _rented(shell)]
    if as_json:
        items = [_row(one.name, finding) for one in checked for finding in one.findings]
        write_json("skyward.check/1", items=items)
    else:
        _show(shell, checked)
    enough = all if names else any
    return ExitCode.OK if enough(one.is_ready for one in checked) else ExitCode.NO_COMPUTE


def _rented(shell: Shell) -> list[str]:
    found = shell.plugins().providers()
    return [name for name, provider in found.items() if provider.capabilities.off_means != "nothing"]


def _findings(shell: Shell, name: str, region: str | None) -> Iterator[Finding]:
    """What the provider found, and what kept it from looking further."""
    from skyward.contracts.provider import Finding

    kind = shell.plugins().provider(name)
    config = _config(shell, kind, region)
    try:
        provider = kind.from_env(config)
        told = [*provider.check()]
    except SkywardError as error:
        subject = "credentials" if isinstance(error, CredentialsError) else "provider"
        detail = "; ".join((error.message.removeprefix(f"{name}: "), *error.facts))
        hints = tuple(hint for hint in error.hints if hint != f"skyward check {name}")
        yield Finding(subject=subject, is_ok=False, detail=detail, hints=hints)
        return
    except Exception as problem:  # a plugin's code
        yield Finding(subject="provider", is_ok=False, detail=f"{type(problem).__name__}: {problem}")
        return
    if not told:
        source = getattr(provider, "credentials_from", None) or "found, or not needed"
        told = [Finding(subject="credentials", is_ok=True, detail=source)]
    yield from told


def _config(shell: Shell, kind: type[Provider], region: str | None) -> Any:
    config = kind.Config(**shell.config.provider(kind.name))
    if region is None:
        return config
    if "region" not in {field.name for field in fields(config)}:
        raise UsageError(f"{kind.name} has no regions: leave out --region", value=region)
    return replace(config, region=region)


def _print_policy(shell: Shell, names: Sequence[str], region: str | None) -> int:
    """The document of one provider; made of what its code does, so no credentials are needed."""
    import json

    if len(names) != 1:
        raise UsageError(
            f"--policy takes one provider, not {len(names)}", hints=["skyward check aws --policy"]
        )
    kind = shell.plugins().provider(names[0])
    make = getattr(kind(_config(shell, kind, region)), "policy", None)
    if make is None:
        raise UsageError(f"{kind.name} has no policies to print", hints=[f"skyward check {kind.name}"])
    write(json.dumps(make(), indent=2) + "\n")
    return ExitCode.OK


def _row(name: str, finding: Finding) -> dict[str, Any]:
    return {
        "provider": name,
        "subject": finding.subject,
        "ok": finding.is_ok,
        "detail": finding.detail,
        "hints": list(finding.hints),
    }


def _show(shell: Shell, checked: Sequence[Checked]) -> None:
    table = make_table("provider", "subject", "ok", "detail")
    for one in checked:
        for finding in one.findings:
            table.add_row(one.name, finding.subject, _WORDS[finding.is_ok], finding.detail)
    show_table(table)
    for hint in dict.fromkeys(
        hint
        for one in checked
        for finding in one.findings
        if finding.is_ok is not True
        for hint in finding.hints
    ):
        shell.hint(hint)
    for one in checked:
        obstacles = sum(finding.is_ok is False for finding in one.findings)
        unknown = sum(finding.is_ok is None for finding in one.findings)
        verdict = "nothing stands in the way" if one.is_ready else f"{_count(obstacles, 'thing')} in the way"
        shell.say(f"{one.name}: {verdict}{f', {unknown} cannot be told' if unknown else ''}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
