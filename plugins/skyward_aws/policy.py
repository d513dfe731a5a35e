"""The least-privilege policy: what `calls` says, merged into statements. Pure."""

from __future__ import annotations

import json
from typing import Any

from skyward_aws.calls import Call, Grant, all_calls

PARTS = {
    "launch": "Launch",
    "clean-up": "CleanUp",
    "volumes": "Volumes",
    "ssm": "SessionManager",
    "prices": "Prices",
    "check": "Check",
}


def partition_of(region: str) -> str:
    """The part of AWS a region is in, as its names (ARNs) begin."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def make_policy(region: str) -> dict[str, Any]:
    """An IAM policy that allows what this plugin does and no more; a statement per part, resource and condition."""
    merged: dict[str, tuple[str, Grant, set[str]]] = {}
    for call in all_calls():
        for grant in call.grants:
            place = json.dumps([call.part, grant.resources, grant.condition], sort_keys=True)
            merged.setdefault(place, (call.part, grant, set()))[2].update(grant.actions)
    numbers: dict[str, int] = {}
    statements = []
    for part in PARTS:
        for owner, grant, actions in merged.values():
            if owner == part:
                numbers[part] = numbers.get(part, 0) + 1
                statements.append(_statement(f"{PARTS[part]}{numbers[part]}", grant, actions))
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    filled: dict[str, Any] = json.loads(text.replace("{partition}", partition_of(region)))
    return filled


def _statement(name: str, grant: Grant, actions: set[str]) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": name,
        "Effect": "Allow",
        "Action": sorted(actions),
        "Resource": "*" if grant.resources == ("*",) else list(grant.resources),
    }
    return statement | ({"Condition": grant.condition} if grant.condition else {})


def call_of(service: str, operation: str) -> Call | None:
    """The entry of the table for an operation as the service names it."""
    return next(
        (call for call in all_calls() if (call.service, call.operation) == (service, operation)), None
    )
