"""Somebody with boto3 and paramiko, for tests of the simulated EC2."""

from __future__ import annotations

import base64
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import paramiko
import pytest
from botocore.config import Config

from skyward.testing.ec2 import ACCESS_KEY, SECRET_KEY, SimulatedEC2
from skyward.testing.ec2_images import IMAGES, image_id
from skyward.testing.machines import can_overlay

_session = boto3.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")

needs_namespaces = pytest.mark.skipif(not can_overlay(), reason="only root has namespaces and overlays")


class Desk:
    """Somebody with boto3 and paramiko and no idea that the cloud is simulated."""

    def __init__(self, cloud: SimulatedEC2, identity: Path) -> None:
        self.cloud, self.identity = cloud, identity
        self.ec2 = self.client("ec2")
        self.image = image_id(IMAGES[0], cloud.region)
        self.ec2.import_key_pair(KeyName="desk", PublicKeyMaterial=identity.with_suffix(".pub").read_bytes())
        self.subnets = {
            row["AvailabilityZone"]: row["SubnetId"] for row in self.ec2.describe_subnets()["Subnets"]
        }
        self._open = ExitStack()

    def client(self, service: str, *, attempts: int = 1, read_timeout: float = 10, **more: Any) -> Any:
        config = Config(
            retries={"total_max_attempts": attempts}, read_timeout=read_timeout, connect_timeout=5
        )
        return _session.client(service, endpoint_url=self.cloud.endpoint, config=config, **more)

    def launch(self, count: int = 1, **more: Any) -> list[str]:
        wanted = {
            "ImageId": self.image,
            "InstanceType": "g5.xlarge",
            "MinCount": count,
            "MaxCount": count,
            "KeyName": "desk",
            "SubnetId": self.subnets["us-east-1a"],
            **more,
        }
        return [row["InstanceId"] for row in self.ec2.run_instances(**wanted)["Instances"]]

    def template(self, name: str = "template", **data: Any) -> str:
        if "UserData" in data:
            data["UserData"] = base64.b64encode(data["UserData"].encode()).decode()
        data = {"ImageId": self.image, "KeyName": "desk", **data}
        self.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
        return name

    def fleet(
        self,
        count: int,
        *overrides: dict[str, Any],
        market: str = "spot",
        template: str = "template",
        **more: Any,
    ) -> tuple[list[str], list[tuple[str, str]]]:
        """Ids, and (code, zone) of every error."""
        configs = {
            "LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "$Latest"},
            "Overrides": list(overrides)
            or [{"InstanceType": "g5.xlarge", "SubnetId": self.subnets["us-east-1a"]}],
        }
        answer = self.ec2.create_fleet(
            Type="instant",
            LaunchTemplateConfigs=[configs],
            TargetCapacitySpecification={"TotalTargetCapacity": count, "DefaultTargetCapacityType": market},
            **more,
        )
        errors = [
            (error["ErrorCode"], error["LaunchTemplateAndOverrides"]["Overrides"]["AvailabilityZone"])
            for error in answer["Errors"]
        ]
        return [id for item in answer["Instances"] for id in item["InstanceIds"]], errors

    def describe(self, *ids: str) -> list[dict[str, Any]]:
        pages = self.ec2.get_paginator("describe_instances").paginate(
            **({"InstanceIds": list(ids)} if ids else {})
        )
        return [row for page in pages for group in page["Reservations"] for row in group["Instances"]]

    def state(self, id: str) -> str:
        return str(self.describe(id)[0]["State"]["Name"])

    def await_state(self, state: str, *ids: str, timeout_s: float = 20.0) -> list[dict[str, Any]]:
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self.describe(*ids)
            if {row["State"]["Name"] for row in rows} == {state}:
                return rows
            assert time.monotonic() < deadline, f"not {state}: {[row['State']['Name'] for row in rows]}"
            time.sleep(0.02)

    def connect(
        self, id: str, user: str | None = None, timeout_s: float = 10.0, **more: Any
    ) -> paramiko.SSHClient:
        address = self.describe(id)[0]["PublicIpAddress"]
        client = paramiko.SSHClient()
        self._open.callback(client.close)
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect(
            address,
            self.cloud.ssh_port,
            user or self.cloud.user,
            key_filename=str(self.identity),
            allow_agent=False,
            look_for_keys=False,
            timeout=timeout_s,
            banner_timeout=timeout_s,
            auth_timeout=timeout_s,
            **more,
        )
        return client

    def ask(self, client: paramiko.SSHClient, command: str, timeout_s: float = 20.0) -> str:
        """What a command prints; its errors come along."""
        _, out, err = client.exec_command(command, timeout=timeout_s)
        said = out.read().decode() + err.read().decode()
        return said.strip()

    def one(self, **more: Any) -> tuple[str, paramiko.SSHClient]:
        """An instance that runs, and a connection to it."""
        (id,) = self.launch(**more)
        self.await_state("running", id)
        return id, self.connect(id)

    def close(self) -> None:
        self._open.close()
