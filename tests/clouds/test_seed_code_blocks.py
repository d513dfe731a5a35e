"""What users are promised to be able to write: small programs that construct, each in a namespace of its own.

None of them touches a network; those that would rent machines stop before `with`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

import skyward as sky
from skyward import Accelerator, Range

POOLS: Mapping[str, str] = MappingProxyType(
    {
        "a card on AWS": """
            pool = sky.ComputePool(provider=sky.AWS(region="us-east-1"), accelerator="H100")
        """,
        "an image of one's own": """
            cloud = sky.AWS(region="eu-central-1", ami="ami-00112233445566778")
            pool = sky.ComputePool(provider=cloud, accelerator="A100")
        """,
        "spot only, by a strategy": """
            cloud = sky.AWS(region="us-east-1", allocation_strategy="price-capacity-optimized")
            pool = sky.ComputePool(provider=cloud, accelerator="A100", allocation="spot")
        """,
        "spot, else on demand": """
            pool = sky.ComputePool(
                provider=sky.AWS(region="us-west-2"), accelerator="A100", allocation="spot-if-available"
            )
        """,
        "a disk": """
            pool = sky.ComputePool(
                provider=sky.AWS(region="us-east-1"),
                accelerator="A100",
                volumes=[sky.Volume(size_gb=500, mount_path="/data")],
            )
        """,
        "a disk and a bucket": """
            data = sky.S3Volume("/data", "my-datasets", prefix="images/", read_only=True)
            pool = sky.ComputePool(provider="aws", volumes=[data, sky.Volume(size_gb=50, mount_path="/scratch")])
        """,
        "one volume": """
            pool = sky.ComputePool(provider="aws", volume=sky.Volume(size_gb=1, mount_path="/v"))
        """,
        "more patience": """
            cloud = sky.AWS(region="us-east-1", instance_timeout=600)
            pool = sky.ComputePool(provider=cloud, accelerator="T4")
        """,
        "a network that exists": """
            cloud = sky.AWS(
                region="us-east-1",
                subnet_id="subnet-0fedcba9876543210",
                security_group_id="sg-0fedcba9876543210",
            )
            pool = sky.ComputePool(provider=cloud)
        """,
        "a private network, and everything else AWS takes": """
            cloud = sky.AWS(
                connection="ssm",
                username="ec2-user",
                instance_profile_arn="arn:aws:iam::123456789012:instance-profile/mine",
                ssh_cidr="198.51.100.0/24",
                endpoint="http://127.0.0.1:5000",
            )
            pool = sky.ComputePool(provider=cloud, architecture="arm64", machine="g5g.xlarge")
        """,
        "processors on DigitalOcean": """
            pool = sky.ComputePool(provider=sky.DigitalOcean(region="nyc1"), cpu=4, memory="8GB")
        """,
        "wherever Verda has it": """
            pool = sky.ComputePool(provider=sky.Verda(), accelerator="H100")
        """,
        "a country of the marketplace": """
            pool = sky.ComputePool(provider=sky.VastAI(geolocation="US"), accelerator="RTX 4090")
        """,
        "four reliable strangers": """
            market = sky.VastAI(geolocation="US", min_reliability=0.95, bid_multiplier=1.5, auto_shutdown=7200)
            pool = sky.ComputePool(provider=market, accelerator="RTX 4090", nodes=4)
        """,
        "one cloud after the other": """
            pool = sky.ComputePool(provider=[sky.AWS(), sky.Verda()], selection="first", accelerator="H100")
        """,
        "names instead of values": """
            pool = sky.ComputePool(provider=["aws", "verda"], selection="cheapest", accelerator="A100")
        """,
        "whoever has one": """
            pool = sky.ComputePool(provider=["vastai", "digitalocean"], selection="available", accelerator="L40S")
        """,
        "a choice of one's own": """
            def prefer_virginia(providers, spec):
                for provider in providers:
                    if "us-east" in (getattr(provider.config, "region", None) or ""):
                        return provider
                return providers[0]

            clouds = [sky.AWS(), sky.Verda(), sky.DigitalOcean()]
            pool = sky.ComputePool(provider=clouds, selection=prefer_virginia, accelerator="A100")
        """,
        "a pool for each stage": """
            prepare = sky.ComputePool(provider=sky.DigitalOcean(), cpu=4)
            train = sky.ComputePool(provider=sky.AWS(), accelerator="H100")
            pool = sky.ComputePool(provider=sky.Verda(), accelerator="A100")
        """,
        "several pools at once": """
            pool = sky.MultiPool(sky.ComputePool(provider="aws", cpu=2), sky.ComputePool(provider="verda", cpu=4))
        """,
        "an accelerator value": """
            pool = sky.ComputePool(provider="aws", accelerator=sky.AcceleratorSpec.NVIDIA.H100(mig="3g.40gb"))
        """,
        "an accelerator that was not called": """
            pool = sky.ComputePool(provider="aws", accelerator=sky.NVIDIA.A100)
        """,
        "bounds of money and time": """
            pool = sky.ComputePool(
                provider="aws", accelerator="A100:8", nodes=4, min_nodes=2, max_price=20, max_cost=100,
                max_lifetime="2h30m", lease="10m", timeout="90m", bootstrap_timeout=300,
            )
        """,
        "ranges": """
            pool = sky.ComputePool(provider="aws", accelerator="24GB..80GB", cpu="4..16", memory="32GB..", disk=100)
        """,
    }
)


def run(program: str) -> dict[str, Any]:
    """What a program has defined at its end."""
    names: dict[str, Any] = {"sky": sky}
    exec(textwrap.dedent(program), names)
    return names


@pytest.mark.parametrize("program", POOLS.values(), ids=POOLS.keys())
def test_a_pool_can_be_written_so(program: str) -> None:
    assert isinstance(run(program)["pool"], sky.ComputePool | sky.MultiPool)


@pytest.mark.parametrize(
    "allocation", ["spot", "always-spot", "spot-if-available", "on-demand", "cheapest", 0.5, 0, 1]
)
def test_ways_of_paying(allocation: str | float) -> None:
    sky.ComputePool(provider="aws", accelerator="A100", allocation=allocation)


@pytest.mark.parametrize("allocation", ["sport", "free", 1.5, -0.1, True, "2"])
def test_other_ways_of_paying_are_refused(allocation: Any) -> None:
    with pytest.raises(sky.UsageError, match="allocation"):
        sky.ComputePool(provider="aws", accelerator="A100", allocation=allocation)


def test_a_function_that_rents_when_it_is_called() -> None:
    names = run(
        """
        @sky.compute
        def train():
            return 1

        @sky.pool(provider=[sky.AWS(), sky.Verda(), sky.VastAI()], selection="cheapest", accelerator="A100")
        def main():
            return train() >> sky
        """
    )

    assert callable(names["main"])


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("NVIDIA.H100()", "H100:80GB"),
        ("NVIDIA.H100(count=8)", "H100:80GB:8"),
        ('NVIDIA.H100(form_factor="SXM")', "H100-SXM"),
        ('NVIDIA.H100(form_factor="PCIe")', "H100-PCIe"),
        ('NVIDIA.H100(form_factor="NVL")', "H100-NVL"),
        ("NVIDIA.A100()", "A100-80GB"),
        ('NVIDIA.A100(memory="40GB")', "A100-40GB"),
        ("NVIDIA.A100(count=8)", "A100-80GB:8"),
        ("NVIDIA.L4()", "L4"),
        ("NVIDIA.L40S()", "L40S"),
        ("NVIDIA.T4()", "T4"),
        ("NVIDIA.V100()", "V100"),
        ('NVIDIA.H100(mig="1g.10gb")', "H100:80GB:1g.10gb"),
        ('NVIDIA.H100(mig="3g.40gb")', "H100:80GB:3g.40gb"),
        ('NVIDIA.H100(mig="7g.80gb")', "H100:80GB:7g.80gb"),
        ('NVIDIA.A100(mig="1g.10gb")', "A100-80GB:1g.10gb"),
        ('NVIDIA.A100(mig="2g.20gb")', "A100-80GB:2g.20gb"),
        ('NVIDIA.A100(mig="3g.40gb")', "A100-80GB:3g.40gb"),
        ('NVIDIA.A100(mig="7g.80gb")', "A100-80GB:7g.80gb"),
        ('NVIDIA.A100(memory="40GB", mig="1g.5gb")', "A100-40GB:1g.5gb"),
        ('NVIDIA.A100(memory="40GB", mig="3g.20gb")', "A100-40GB:3g.20gb"),
        ("AWS.Trainium(version=1)", "Trainium1"),
        ("AWS.Trainium(version=2)", "Trainium2"),
        ("AWS.Inferentia(version=2)", "Inferentia2"),
        ('AMD.MI("300X")', "MI300X"),
    ],
)
def test_an_accelerator_can_be_written_so(expression: str, value: str) -> None:
    made = run(f"made = sky.AcceleratorSpec.{expression}")["made"]

    assert made == Accelerator(value)
    assert str(made) == value


@pytest.mark.parametrize(
    "expression",
    [
        'sky.Accelerator("RTX 4090", count=2)',
        "sky.accelerators.RTX_4090(count=2)",
        "sky.NVIDIA.RTX_4090(2)",
        'sky.Accelerator.parse("RTX4090:2")',
        'sky.Accelerator("2x NVIDIA GeForce RTX 4090")',
    ],
)
def test_two_cards_can_be_asked_for_in_any_way(expression: str) -> None:
    made = run(f"made = {expression}")["made"]

    assert (made.name, made.count, made.max_count) == ("RTX-4090", 2, None)
    assert made.counts == Range(2, None)


@pytest.mark.parametrize(
    "program",
    [
        'sky.ComputePool(provider="aws", accelerator="Z900")',
        'sky.ComputePool(provider="aws", memory="lots")',
        'sky.ComputePool(provider="aws", max_lifetime="soon")',
        'sky.ComputePool(provider=sky.AWS(region="us-esat-1"))',
        'sky.ComputePool(provider="aws", accelerater="A100")',
        'sky.ComputePool(provider="aws", nodes=0)',
        'sky.ComputePool(provider="aws", volumes=[sky.Volume(size_gb=1, mount_path="data")])',
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(program: str) -> None:
    with pytest.raises(sky.UsageError) as caught:
        run(program)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", ["AWS", "DigitalOcean", "Verda", "VastAI"])
def test_the_value_of_a_cloud_is_that_of_its_plugin(name: str) -> None:
    config = getattr(sky, name)

    assert config.__name__ == name
    assert config.__module__.startswith("skyward_")
