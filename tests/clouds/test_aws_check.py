"""`skyward check`: what stands in the way of renting, and the policy it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aws_cloud import client, order, without_machines
from aws_policy_judge import actions_of, not_allowed

from skyward import Finding
from skyward.testing.ec2 import SimulatedEC2
from skyward.testing.simcloud import Request
from skyward_aws import AWS, AWSProvider
from skyward_aws.calls import all_calls
from skyward_aws.credentials import expires_in_s

MakeAWS = Callable[..., AWSProvider]


def found(aws: AWSProvider, subject: str) -> Finding:
    return next(finding for finding in aws.check() if finding.subject == subject)


# -- findings ------------------------------------------------------------------------------------------------------


@without_machines
def test_a_good_account_has_nothing_in_its_way_and_nothing_is_made_by_looking(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    findings = list(aws.check())

    assert [finding for finding in findings if finding.is_ok is False] == []
    subjects = [finding.subject for finding in findings]
    assert subjects[:2] == ["credentials", "identity"]
    assert {"expiry", "region us-east-1", "network", "image for gpu, x86_64", "ec2:CreateFleet"} <= set(
        subjects
    )
    assert findings[0].detail == "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    assert ec2.account in findings[1].detail
    assert ec2.environ["AWS_SECRET_ACCESS_KEY"] not in repr(findings)
    assert ec2.resources() == {}
    assert not ec2.bill


@without_machines
def test_every_call_of_ec2_is_tried_without_being_made(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    list(aws.check())

    tried = {request.action for request in ec2.requests if request.parameters.get("DryRun") == "true"}
    known = {
        call.operation
        for call in all_calls()
        if call.service == "ec2" and call.part in ("launch", "clean-up")
    }
    assert tried == known


@without_machines
def test_a_call_that_is_denied_is_named_with_the_policy_that_allows_it(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.fault("CreateFleet", "unauthorized", times=None)

    finding = found(aws, "ec2:CreateFleet")

    assert finding.is_ok is False
    assert finding.hints == ("skyward check aws --policy",)


@without_machines
def test_what_may_only_be_done_to_our_own_cannot_be_tried_beforehand(
    aws: AWSProvider, ec2: SimulatedEC2
) -> None:
    ec2.fault("TerminateInstances", "unauthorized", times=None)

    assert found(aws, "ec2:TerminateInstances").is_ok is None


@without_machines
def test_nobody_knows_us_ends_the_check(ec2: SimulatedEC2) -> None:
    environ = {**ec2.environ, "AWS_ACCESS_KEY_ID": "AKIAWRONG"}
    aws = AWSProvider.from_env(AWS(**ec2.config()), environ)

    *_, last = findings = list(aws.check())

    assert [finding.subject for finding in findings] == ["credentials", "identity"]
    assert last.is_ok is False
    assert last.hints


@without_machines
def test_no_default_vpc_is_in_the_way(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    cloud = client(ec2)
    for subnet in cloud.describe_subnets()["Subnets"]:
        cloud.delete_subnet(SubnetId=subnet["SubnetId"])
    cloud.delete_vpc(VpcId=cloud.describe_vpcs()["Vpcs"][0]["VpcId"])

    finding = found(aws, "network")

    assert finding.is_ok is False
    assert "has no default VPC" in finding.detail


def answering(aws: AWSProvider, **answers: Any) -> AWSProvider:
    """The provider, with some calls answered as given: the simulated cloud does not know them."""
    cloud = aws.account.site("us-east-1").cloud
    ask = cloud.ask
    cloud.ask = lambda call, **given: (  # type: ignore[method-assign]
        answers[call.operation](given) if call.operation in answers else ask(call, **given)
    )
    return aws


@without_machines
def test_quotas_are_told_and_one_of_zero_says_how_to_get_more(aws: AWSProvider) -> None:
    values = {"L-1216C47A": 0.0, "L-34B43A08": 64.0, "L-417A185B": 0.0}
    answering(aws, GetServiceQuota=lambda given: {"Quota": {"Value": values.get(given["QuotaCode"], 8.0)}})

    findings = {one.subject: one for one in aws.check() if one.subject.startswith("quota")}

    cpu = findings["quota of on-demand CPU machines (A, C, D, H, I, M, R, T, Z)"]
    assert (cpu.is_ok, cpu.detail) == (False, "0 vCPUs: none of them can be rented before AWS grants more")
    assert (
        "request-service-quota-increase --region us-east-1 --service-code ec2 --quota-code L-1216C47A"
        in cpu.hints[0]
    )
    assert findings["quota of on-demand P machines"].is_ok is None
    assert findings["quota of on-demand P machines"].hints
    assert findings["quota of spot CPU machines (A, C, D, H, I, M, R, T, Z)"].detail == "64 vCPUs"


@without_machines
def test_quotas_that_cannot_be_read_are_one_line(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    ec2.fault("GetServiceQuota", "unauthorized", times=None)

    quotas = [one for one in aws.check() if one.subject.startswith("quota")]

    assert len(quotas) == 1
    assert quotas[0].is_ok is None


@without_machines
def test_a_region_that_is_not_enabled_ends_the_check(aws: AWSProvider) -> None:
    answering(aws, DescribeRegions=lambda _: {"Regions": [{"OptInStatus": "not-opted-in"}]})

    *_, last = aws.check()

    assert (last.subject, last.is_ok) == ("region us-east-1", False)
    assert last.hints == ("aws account enable-region --region-name us-east-1",)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"AWS_SESSION_TOKEN": "t"}, None),
        ({"AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": "soon"}, None),
        ({"AWS_CREDENTIAL_EXPIRATION": "2020-01-01T00:00:00Z"}, None),
    ],
)
def test_credentials_that_do_not_end_have_no_end(environ: dict[str, str], expected: float | None) -> None:
    assert expires_in_s(environ) is expected


@pytest.mark.parametrize("end", ["2020-01-01T00:00:00Z", "2020-01-01T00:00:00+00:00"])
def test_the_end_of_temporary_credentials_is_known_where_it_is_told(end: str) -> None:
    left = expires_in_s({"AWS_SESSION_TOKEN": "t", "AWS_CREDENTIAL_EXPIRATION": end})

    assert left is not None
    assert left < 0


@without_machines
def test_what_session_manager_lacks_is_found(
    make_aws: MakeAWS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert found(make_aws(connection="ssm"), "session manager").is_ok is False


# -- the policy ----------------------------------------------------------------------------------------------------


def test_the_judge_of_policies_can_say_no() -> None:
    policy = AWSProvider(AWS()).policy()
    tagged = {"TagSpecification.1.Tag.1.Key": "skyward:managed", "TagSpecification.1.Tag.1.Value": "true"}

    def asked(action: str, service: str = "ec2", **parameters: str) -> Request:
        return Request(at=0.0, service=service, action=action, parameters=parameters)

    assert not_allowed(policy, [asked("RebootInstances")]) == ["ec2:RebootInstances: no statement"]
    assert (
        not_allowed(
            policy, [Request(at=0.0, service="ec2", action="CreateLaunchTemplate", parameters=tagged)]
        )
        == []
    )
    assert not_allowed(policy, [asked("CreateLaunchTemplate")]) == [
        "ec2:CreateLaunchTemplate: its conditions do not hold"
    ]
    assert not_allowed(
        policy, [asked("AttachRolePolicy", "iam", PolicyArn="arn:aws:iam::aws:policy/AdministratorAccess")]
    )
    assert not_allowed(policy, [asked("GetCallerIdentity", "sts"), asked("HeadBucket", "s3")]) == []
    assert "ec2:RunInstances" in set(actions_of(asked("CreateFleet")))


@without_machines
def test_a_policy_without_one_permission_is_found_out(aws: AWSProvider, ec2: SimulatedEC2) -> None:
    aws.launch(order())
    policy = aws.policy()
    for statement in policy["Statement"]:
        statement["Action"] = [action for action in statement["Action"] if action != "ec2:DescribeSubnets"]

    assert not_allowed(policy, ec2.requests) == ["ec2:DescribeSubnets: no statement"]


# -- the command line ----------------------------------------------------------------------------------------------


def skyward(
    *arguments: str, environ: dict[str, str] | None = None, home: Path
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SKYWARD_"))}
    return subprocess.run(
        [sys.executable, "-m", "skyward", *arguments],
        env={**kept, "HOME": str(home), "SKYWARD_HOME": str(home / "skyward"), **(environ or {})},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@without_machines
def test_check_is_a_table_a_verdict_and_an_exit_code(ec2: SimulatedEC2, tmp_path: Path) -> None:
    done = skyward("check", "aws", environ=ec2.environ, home=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PROVIDER  SUBJECT")
    assert "aws: nothing stands in the way" in done.stderr
    ec2.fault("CreateFleet", "unauthorized", times=None)
    done = skyward("check", "aws", environ=ec2.environ, home=tmp_path)
    assert done.returncode == 4
    assert "aws: 1 thing in the way" in done.stderr
    assert "hint: skyward check aws --policy" in done.stderr


@without_machines
def test_check_is_one_json_document(ec2: SimulatedEC2, tmp_path: Path) -> None:
    done = skyward("check", "aws", "--json", environ=ec2.environ, home=tmp_path)

    document = json.loads(done.stdout)
    assert document["schema"] == "skyward.check/1"
    assert document["items"][0] == {
        "provider": "aws",
        "subject": "credentials",
        "ok": True,
        "detail": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "hints": [],
    }


@without_machines
def test_another_region_can_be_looked_into(ec2: SimulatedEC2, tmp_path: Path) -> None:
    done = skyward("check", "aws", "--region", "eu-west-1", environ=ec2.environ, home=tmp_path)

    assert "region eu-west-1" in done.stdout
    assert skyward("check", "aws", "--region", "mars-1", home=tmp_path).returncode == 2


def test_missing_credentials_are_a_finding_and_exit_4(tmp_path: Path) -> None:
    done = skyward("check", "aws", home=tmp_path)

    assert done.returncode == 4
    assert "credentials not found" in done.stdout
    assert "hint: aws configure" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_policy_is_printed_without_credentials(tmp_path: Path) -> None:
    done = skyward("check", "aws", "--policy", "--region", "cn-north-1", home=tmp_path)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == AWSProvider(AWS(region="cn-north-1")).policy()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "no provider 'nobody' is installed"),
        (["--policy"], "--policy takes one provider, not 0"),
        (["aws", "verda", "--policy"], "--policy takes one provider, not 2"),
        (["verda", "--policy"], "verda has no policies to print"),
        (["vastai", "--region", "x"], "vastai has no regions"),
        (["aws", "--region", ""], "--region is empty"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = skyward("check", *arguments, home=tmp_path)

    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_checking_everything_is_good_if_anything_is(tmp_path: Path) -> None:
    done = skyward("check", "--json", home=tmp_path)

    providers = {item["provider"] for item in json.loads(done.stdout)["items"]}
    assert {"aws", "digitalocean", "verda", "vastai"} <= providers
    assert not providers & {"local", "ssh"}
    assert done.returncode == 4
