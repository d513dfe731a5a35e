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
}
ORDER = ("Look", *PARTS.values(), "Tag")
"""Names of statements, in the order in which they are written."""


def partition_of(region: str) -> str:
    """The part of AWS a region is in, as its names (ARNs) begin."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def make_policy(region: str) -> dict[str, Any]:
    """An IAM policy that allows what this plugin does and no more, in one managed policy's 6,144 characters.

    What is allowed everywhere, and tagging, is one statement each; everything else is a statement per part, resource
    and condition.
    """
    merged: dict[str, tuple[str, set[str], list[str], Any]] = {}
    for call in all_calls():
        for grant in call.grants:
            name, place = _place(call, grant)
            _, actions, resources, _ = merged.setdefault(place, (name, set(), [], grant.condition))
            actions.update(grant.actions)
            resources += [one for one in grant.resources if one not in resources]
    numbers: dict[str, int] = {}
    statements = []
    for name, actions, resources, condition in sorted(merged.values(), key=lambda one: ORDER.index(one[0])):
        numbers[name] = numbers.get(name, 0) + 1
        statement: dict[str, Any] = {
            "Sid": f"{name}{numbers[name]}",
            "Effect": "Allow",
            "Action": sorted(actions),
            "Resource": resources,
        }
        statements.append(statement | ({"Condition": condition} if condition else {}))
    text = json.dumps({"Version": "2012-10-17", "Statement": statements})
    filled: dict[str, Any] = json.loads(text.replace("{partition}", partition_of(region)))
    return filled


def _place(call: Call, grant: Grant) -> tuple[str, str]:
    """The name of the statement a grant belongs in, and what tells it from others of that name."""
    if grant.resources == ("*",):
        return "Look", "look"
    if grant.actions == ("ec2:CreateTags",):
        return "Tag", "tag"
    return PARTS[call.part], json.dumps([call.part, grant.resources, grant.condition], sort_keys=True)
