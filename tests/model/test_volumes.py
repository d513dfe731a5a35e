"""Volumes: what can be mounted where."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyward.errors import ConfigError, SizeError
from skyward.model.volume import S3Volume, Volume


def test_equal_places_are_equal_values() -> None:
    assert Volume(size_gb=500, mount_path="/data/") == Volume(size_gb="500GB", mount_path="/data")
    assert Volume(size_gb="2TB", mount_path="/a b/ü").size_gb == 2048
    assert S3Volume("/data", "my-bucket") == S3Volume("/data", "my-bucket", prefix="", read_only=True)
    assert len({S3Volume("/d", "abc"), S3Volume("/d/", "abc")}) == 1
    assert pickle.loads(pickle.dumps(Volume(size_gb=1, mount_path="/d"))) == Volume(
        size_gb=1, mount_path="/d"
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data", "is not absolute"),
        ("", "is not absolute"),
        ("~/data", "is not absolute"),
        (None, "is not absolute"),
        ("/a/../etc", "is not plain"),
        ("/a/./b", "is not plain"),
        ("/a//b", "is not plain"),
        ("//host/share", "is not plain"),
        ("/a\0b", "is not plain"),
        ("/a\nb", "is not plain"),
        ("/", "belongs to the system"),
        ("/etc", "belongs to the system"),
        ("/usr/", "belongs to the system"),
        ("/home", "belongs to the system"),
    ],
)
def test_a_path_that_would_break_the_machine_is_refused(path: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Volume(size_gb=1, mount_path=path)
    with pytest.raises(ConfigError, match=said):
        S3Volume(path, "bucket")


@pytest.mark.parametrize("path", ["/data", "/mnt/scratch", "/home/me/data", "/opt", "/data set"])
def test_an_ordinary_path_is_taken(path: str) -> None:
    assert Volume(size_gb=1, mount_path=path).mount_path == path


@pytest.mark.parametrize("size", [0, -1, "lots", None, True, float("nan"), float("inf")])
def test_a_disk_has_a_size_above_zero(size: Any) -> None:
    with pytest.raises(SizeError):
        Volume(size_gb=size, mount_path="/data")


@pytest.mark.parametrize("bucket", ["abc", "my-bucket", "a.b.c", "123", "x" * 63, "0-0"])
def test_names_that_buckets_have(bucket: str) -> None:
    assert S3Volume("/d", bucket).bucket == bucket


@pytest.mark.parametrize(
    "bucket",
    [
        "ab",
        "x" * 64,
        "Upper",
        "under_score",
        "-a-",
        "abc-",
        "a..b",
        ".abc",
        "abc.",
        "a-.b",
        "10.0.0.1",
        "a b",
        "ü-x",
        "",
        7,
    ],
)
def test_names_that_no_bucket_has_are_refused(bucket: Any) -> None:
    with pytest.raises(ConfigError, match="cannot exist"):
        S3Volume("/d", bucket)


@pytest.mark.parametrize("prefix", ["/abs", "a\0b", 3])
def test_a_prefix_is_the_beginning_of_a_key(prefix: Any) -> None:
    with pytest.raises(ConfigError, match="is no key of a bucket"):
        S3Volume("/d", "bucket", prefix=prefix)


@given(st.text(max_size=30))
def test_any_path_is_taken_as_it_is_or_refused(path: str) -> None:
    try:
        volume = Volume(size_gb=1, mount_path=path)
    except ConfigError:
        return
    assert volume.mount_path == path.rstrip("/")
    assert ".." not in volume.mount_path.split("/")
