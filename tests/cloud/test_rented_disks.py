"""Disks and buckets of machines of EC2, as tasks find them."""

from __future__ import annotations

import shutil
from typing import Any

import boto3
import pytest

import skyward as sky
from skyward.testing.ec2 import SimulatedEC2


@pytest.mark.skipif(shutil.which("aws") is None, reason="machines have the programs of this computer: no aws")
def test_disks_and_buckets_are_there_when_tasks_run(make_aws: Any, ec2: SimulatedEC2) -> None:
    bucket = boto3.client("s3", endpoint_url=ec2.endpoint, region_name=ec2.region)
    bucket.create_bucket(Bucket="my-set")
    bucket.put_object(Bucket="my-set", Key="small/one.txt", Body=b"1")
    volumes = [sky.Volume(size_gb=1, mount_path="/data"), sky.S3Volume("/set", "my-set", prefix="small/")]

    def work() -> tuple[str, bool]:
        import os

        with open("/data/kept", "w") as file:
            file.write("2")
        with open("/set/one.txt") as file:
            return file.read(), os.path.ismount("/data")

    with make_aws(nodes=1, volumes=volumes) as pool:
        assert pool.submit(work).result(60) == ("1", True)

    assert ec2.running() == []
    assert ec2.resources() == {}
