"""Whether an IAM policy allows what was asked of a simulated AWS. Knows IAM, and nothing of the plugin's own table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

FREE = {"sts:GetCallerIdentity"}
"""Needs no permission: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html (2026-11)."""
OTHER_NAMES = {"s3:HeadBucket": "s3:ListBucket"}
TAGGING = {"CreateFleet", "CreateLaunchTemplate", "CreateSecurityGroup", "ImportKeyPair"}
"""Calls of EC2 that need CreateTags as well when they tag."""


def actions_of(request: Any) -> Iterator[str]:
    """The IAM actions that one request takes."""
    action = f"{request.service.replace('service-quotas', 'servicequotas')}:{request.action}"
    yield OTHER_NAMES.get(action, action)
    if request.action in TAGGING and "true" in request.parameters.values():
        yield "ec2:CreateTags"
    if request.action == "CreateFleet":
        yield "ec2:RunInstances"
    if request.action == "AddRoleToInstanceProfile":
        yield "iam:PassRole"


def not_allowed(policy: Mapping[str, Any], requests: Iterable[Any]) -> list[str]:
    """The actions some request takes that no statement allows, with the conditions that failed."""
    found = []
    for request in requests:
        for action in actions_of(request):
            if action in FREE:
                continue
            statements = [one for one in policy["Statement"] if _names(one, action)]
            if not any(_holds(one.get("Condition", {}), request) for one in statements):
                why = "its conditions do not hold" if statements else "no statement"
                found.append(f"{action}: {why}")
    return sorted(set(found))


def _names(statement: Mapping[str, Any], action: str) -> bool:
    return any(fnmatchcase(action, pattern) for pattern in statement["Action"])


def _holds(condition: Mapping[str, Mapping[str, Any]], request: Any) -> bool:
    return all(_is(key, wanted, request) for tests in condition.values() for key, wanted in tests.items())


def _is(key: str, wanted: Any, request: Any) -> bool:
    allowed = wanted if isinstance(wanted, list) else [wanted]
    if key.startswith("aws:RequestTag/"):
        return _tags(request.parameters).get(key.removeprefix("aws:RequestTag/")) in allowed
    if key == "ec2:CreateAction":
        return request.action in allowed
    if key == "iam:PolicyARN":
        return request.parameters.get("PolicyArn") in allowed
    return True  # of the thing itself: who made it is not in the request


def _tags(parameters: Mapping[str, str]) -> dict[str, str]:
    keys = {name.removesuffix(".Key"): value for name, value in parameters.items() if name.endswith(".Key")}
    return {key: parameters.get(f"{name}.Value", "") for name, key in keys.items()}
