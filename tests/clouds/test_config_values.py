"""The values that name a cloud: what may be said, where credentials are looked for, and what is still refused."""

from __future__ import annotations

import ast
import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

import skyward_aws
import skyward_digitalocean
import skyward_vastai
import skyward_verda
from skyward import (
    ConfigError,
    CredentialsError,
    Endpoint,
    ExitCode,
    Instance,
    LaunchRequest,
    Offer,
    Provider,
    ProviderError,
)
from skyward_aws import AWS, AWSProvider
from skyward_aws.credentials import find_credentials, find_region
from skyward_digitalocean import DigitalOcean, DigitalOceanProvider
from skyward_vastai import VastAI, VastAIProvider
from skyward_verda import Verda, VerdaProvider

PLUGINS = (skyward_aws, skyward_digitalocean, skyward_verda, skyward_vastai)
PROVIDERS: tuple[type[Provider], ...] = (AWSProvider, DigitalOceanProvider, VerdaProvider, VastAIProvider)
SECRET = "c4n4ry-5ecret"
READY: dict[str, dict[str, str]] = {
    "aws": {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET},
    "digitalocean": {"DIGITALOCEAN_TOKEN": SECRET},
    "verda": {"VERDA_CLIENT_ID": "me", "VERDA_CLIENT_SECRET": SECRET},
    "vastai": {"VAST_API_KEY": SECRET},
}


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nobody has ever configured anything."""
    return {"HOME": str(tmp_path)}


# -- values --------------------------------------------------------------------------------------------------------


def test_defaults_are_those_that_are_documented() -> None:
    assert dataclasses.asdict(AWS()) == {
        "region": None,
        "ami": None,
        "subnet_id": None,
        "security_group_id": None,
        "instance_profile_arn": None,
        "username": None,
        "instance_timeout": 300,
        "allocation_strategy": "price-capacity-optimized",
        "endpoint": None,
        "ssh_cidr": None,
        "connection": "ssh",
        "ssh_port": 22,
    }
    assert dataclasses.asdict(DigitalOcean()) == {
        "region": "nyc3",
        "endpoint": None,
        "instance_timeout": None,
    }
    assert dataclasses.asdict(Verda()) == {"region": None, "endpoint": None, "instance_timeout": None}
    assert dataclasses.asdict(VastAI()) == {
        "geolocation": None,
        "min_reliability": 0.95,
        "bid_multiplier": 1.2,
        "auto_shutdown": None,
        "endpoint": None,
        "instance_timeout": None,
    }


@pytest.mark.parametrize(
    "value",
    [
        AWS(
            region="eu-west-1",
            ami="ami-0123456789abcdef0",
            subnet_id="subnet-0123456789abcdef0",
            security_group_id="sg-01234567",
            instance_profile_arn="arn:aws:iam::123456789012:instance-profile/skyward",
            username="ubuntu",
            instance_timeout=600,
            allocation_strategy="diversified",
            endpoint="http://127.0.0.1:5566",
            ssh_cidr="203.0.113.0/24",
            connection="ssm",
            ssh_port=2222,
        ),
        DigitalOcean(region="sfo3", endpoint="https://example.com/api"),
        Verda(region="FIN-01"),
        VastAI(geolocation="US, CA", min_reliability=1, bid_multiplier=1, auto_shutdown=3600),
    ],
)
def test_values_are_frozen_equal_by_content_and_can_travel(value: Any) -> None:
    field = dataclasses.fields(value)[0].name

    assert pickle.loads(pickle.dumps(value)) == value
    assert len({value, dataclasses.replace(value)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)


@pytest.mark.parametrize("config", [AWS, DigitalOcean, Verda, VastAI])
def test_values_are_given_by_keyword(config: type[Any]) -> None:
    with pytest.raises(TypeError):
        config("somewhere")


@pytest.mark.parametrize(
    ("config", "field", "value", "said"),
    [
        (AWS, "region", "us-esat-1", "did you mean"),
        (AWS, "region", "us-east-1a", "is a zone: write region='us-east-1'"),
        (AWS, "region", "Virginia", "known are af-south-1"),
        (AWS, "region", "", "unknown region ''"),
        (AWS, "region", 1, "unknown region 1"),
        (AWS, "allocation_strategy", "capacity-optimised", "did you mean 'capacity-optimized'"),
        (AWS, "allocation_strategy", "cheap", "known are price-capacity-optimized"),
        (AWS, "connection", "telnet", "unknown connection 'telnet'"),
        (AWS, "ami", "ubuntu", "write it like 'ami-0123456789abcdef0'"),
        (AWS, "subnet_id", "sg-01234567", "write it like 'subnet-"),
        (AWS, "security_group_id", "sg-01234567; rm -rf /", "write it like 'sg-"),
        (AWS, "instance_profile_arn", "skyward", "write it like 'arn:aws:iam::"),
        (AWS, "username", "Robert'); DROP", "write it like 'ubuntu'"),
        (AWS, "instance_timeout", -1, "is not above zero"),
        (AWS, "instance_timeout", True, "is not above zero"),
        (AWS, "endpoint", "localhost:5566", "write it like 'https://"),
        (AWS, "endpoint", "https://user:pw@host/", "write it like 'https://"),
        (AWS, "ssh_cidr", "10.0.0.0/33", "is no network"),
        (AWS, "ssh_cidr", "10.0.0.1/24", "is no network"),
        (AWS, "ssh_port", 0, "is no port"),
        (AWS, "ssh_port", 65536, "is no port"),
        (AWS, "ssh_port", True, "is no port"),
        (DigitalOcean, "region", "nyc33", "did you mean 'nyc3'"),
        (DigitalOcean, "region", None, "unknown region None"),
        (DigitalOcean, "endpoint", "ftp://x", "is no URL"),
        (DigitalOcean, "instance_timeout", 0, "is not above zero"),
        (Verda, "region", "FIN01", "did you mean 'FIN-01'"),
        (Verda, "region", "Finland", "or leave it out"),
        (Verda, "instance_timeout", float("inf"), "is not above zero"),
        (VastAI, "min_reliability", 1.5, "is not from 0 to 1"),
        (VastAI, "min_reliability", -0.1, "is not from 0 to 1"),
        (VastAI, "min_reliability", "95%", "is not from 0 to 1"),
        (VastAI, "bid_multiplier", 0.9, "would never win"),
        (VastAI, "bid_multiplier", float("nan"), "would never win"),
        (VastAI, "auto_shutdown", -5, "is not above zero"),
        (VastAI, "geolocation", "US;DROP", "is no place"),
    ],
)
def test_what_a_cloud_cannot_mean_is_refused_when_it_is_written(
    config: type[Any], field: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**{field: value})

    assert said in caught.value.message
    assert repr(value) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code is ExitCode.USAGE


def test_names_are_taken_in_any_case_and_under_old_names() -> None:
    assert AWS(region=" US-East-1 ").region == "us-east-1"
    assert DigitalOcean(region="NYC3") == DigitalOcean(region="nyc3")
    assert Verda(region="fin-01").region == "FIN-01"
    assert Verda(region="ICL-01") == Verda(region="ICE-01")


def test_regions_that_opened_since_are_believed() -> None:
    assert AWS(region="eu-west-9").region == "eu-west-9"
    assert DigitalOcean(region="ber1").region == "ber1"
    assert Verda(region="SWE-01").region == "SWE-01"


# -- credentials ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_without_credentials_the_error_names_every_place_and_a_way_to_get_some(
    provider: type[Provider], home: dict[str, str]
) -> None:
    with pytest.raises(CredentialsError) as caught:
        provider.from_env(environ=home)

    error = caught.value
    assert error.message.startswith(f"{provider.name}: credentials not found: set ")
    assert all(name in " ".join(error.facts) for name in READY[provider.name])
    assert provider is AWSProvider or "cannot launch machines there yet" in error.facts[-1]
    assert error.hints
    assert error.exit_code is ExitCode.NO_COMPUTE


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_with_credentials_it_tells_where_they_are_and_never_shows_them(
    provider: type[Provider], home: dict[str, str]
) -> None:
    ready = provider.from_env(environ=home | READY[provider.name])

    assert getattr(ready, "credentials_from") == " and ".join(READY[provider.name])  # noqa: B009 - not of the base
    assert SECRET not in repr(ready)
    assert SECRET not in repr(ready.config)


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"DIGITALOCEAN_ACCESS_TOKEN": "t"}, "DIGITALOCEAN_ACCESS_TOKEN"),
        ({"DIGITALOCEAN_TOKEN": " t\n", "DIGITALOCEAN_ACCESS_TOKEN": "u"}, "DIGITALOCEAN_TOKEN"),
        ({"DIGITALOCEAN_TOKEN": "", "DIGITALOCEAN_ACCESS_TOKEN": "u"}, "DIGITALOCEAN_ACCESS_TOKEN"),
    ],
)
def test_digitalocean_reads_doctls_variable_too(environ: dict[str, str], where: str) -> None:
    assert DigitalOceanProvider.from_env(environ=environ).credentials_from == where


def test_verda_reads_a_pair_in_one_variable() -> None:
    ready = VerdaProvider.from_env(environ={"VERDA_API_KEY": "id:se:cret"})

    assert (ready.credentials_from, ready._client_id, ready._client_secret) == (
        "VERDA_API_KEY",
        "id",
        "se:cret",
    )


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"VERDA_CLIENT_ID": "me"}, "VERDA_CLIENT_ID is set and VERDA_CLIENT_SECRET is not"),
        ({"VERDA_CLIENT_SECRET": SECRET}, "VERDA_CLIENT_SECRET is set and VERDA_CLIENT_ID is not"),
        ({"VERDA_API_KEY": SECRET}, "VERDA_API_KEY is not of the form id:secret"),
        ({"VERDA_API_KEY": f":{SECRET}"}, "VERDA_API_KEY is not of the form id:secret"),
    ],
)
def test_half_of_verdas_credentials_is_said_to_be_half(environ: dict[str, str], said: str) -> None:
    with pytest.raises(CredentialsError, match=said) as caught:
        VerdaProvider.from_env(environ=environ)

    assert SECRET not in str(caught.value.values) + caught.value.message


@pytest.mark.parametrize(
    ("provider", "name"), [(DigitalOceanProvider, "DIGITALOCEAN_TOKEN"), (VastAIProvider, "VAST_API_KEY")]
)
def test_a_key_that_would_break_a_header_is_refused_unseen(
    provider: type[Provider], name: str, home: dict[str, str]
) -> None:
    with pytest.raises(CredentialsError, match="spaces or control characters") as caught:
        provider.from_env(environ=home | {name: f"{SECRET}\nX-Evil: 1"})

    assert SECRET not in caught.value.message


@pytest.mark.parametrize("place", [".config/vastai/vast_api_key", ".vast_api_key"])
def test_vast_reads_the_files_of_its_command_line(place: str, tmp_path: Path, home: dict[str, str]) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{SECRET}\n")

    ready = VastAIProvider.from_env(environ=home)

    assert ready.credentials_from == str(file)
    assert ready._key == SECRET


def test_vasts_variable_wins_over_its_file(tmp_path: Path, home: dict[str, str]) -> None:
    (tmp_path / ".vast_api_key").write_text("old")

    assert VastAIProvider.from_env(environ=home | {"VAST_API_KEY": "new"})._key == "new"


def test_endpoints_come_from_the_value_then_the_environment_then_the_vendor() -> None:
    environ = {"VAST_API_KEY": "k", "VAST_URL": "https://vast.example/"}

    assert (
        VastAIProvider.from_env(VastAI(endpoint="http://127.0.0.1:1"), environ).endpoint
        == "http://127.0.0.1:1"
    )
    assert VastAIProvider.from_env(environ=environ).endpoint == "https://vast.example"
    assert VastAIProvider.from_env(environ={"VAST_API_KEY": "k"}).endpoint == "https://console.vast.ai"
    assert VerdaProvider(Verda()).endpoint == "https://api.verda.com/v1"
    assert DigitalOceanProvider(DigitalOcean()).endpoint == "https://api.digitalocean.com"


# -- AWS, whose chain is longer ------------------------------------------------------------------------------------


def write_aws(home: Path, credentials: str = "", config: str = "") -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(credentials)
    (home / ".aws" / "config").write_text(config)


KEYS = f"aws_access_key_id = AKIA\naws_secret_access_key = {SECRET}\n"


@pytest.mark.parametrize(
    ("credentials", "config", "environ", "where"),
    [
        (f"[default]\n{KEYS}", "", {}, "profile 'default' in {home}/.aws/credentials"),
        ("", f"[default]\n{KEYS}", {}, "profile 'default' in {home}/.aws/config"),
        (f"[work]\n{KEYS}", "", {"AWS_PROFILE": "work"}, "profile 'work' in {home}/.aws/credentials"),
        (
            "",
            "[profile sso]\nsso_session = x\n",
            {"AWS_PROFILE": "sso"},
            "profile 'sso' in {home}/.aws/config",
        ),
        (
            "",
            "[profile r]\nrole_arn = x\n",
            {"AWS_DEFAULT_PROFILE": "r"},
            "profile 'r' in {home}/.aws/config",
        ),
        (f"[default]\n{KEYS}", "", READY["aws"], "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("", "", {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": "a"}, "AWS_WEB_IDENTITY_TOKEN_FILE"),
        ("", "", {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x"}, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    ],
)
def test_aws_credentials_are_found_where_boto3_finds_them(
    credentials: str, config: str, environ: dict[str, str], where: str, tmp_path: Path, home: dict[str, str]
) -> None:
    write_aws(tmp_path, credentials, config)

    found = find_credentials(home | environ)

    assert found == where.format(home=tmp_path)


@pytest.mark.parametrize(
    ("credentials", "config", "environ"),
    [
        (f"[default]\n{KEYS}", "", {}),
        ("", f"[default]\n{KEYS}", {}),
        (f"[work]\n{KEYS}", "", {"AWS_PROFILE": "work"}),
        ("", f"[profile work]\n{KEYS}", {"AWS_PROFILE": "work"}),
        ("", "", READY["aws"]),
        (f"[default]\nregion = eu-west-1\n[other]\n{KEYS}", "", {}),
        ("", "", {}),
    ],
)
def test_boto3_agrees_on_whether_there_are_credentials(
    credentials: str, config: str, environ: dict[str, str], tmp_path: Path, home: dict[str, str]
) -> None:
    write_aws(tmp_path, credentials, config)
    code = "import boto3; print(boto3.Session().get_credentials() is not None)"
    env = home | environ | {"AWS_EC2_METADATA_DISABLED": "true"}
    theirs = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()

    try:
        find_credentials(env)
        ours = "True"
    except CredentialsError:
        ours = "False"

    assert ours == theirs


def test_an_ec2_instance_has_a_role_unless_its_metadata_is_barred(
    tmp_path: Path, home: dict[str, str]
) -> None:
    tag = tmp_path / "board_asset_tag"
    tag.write_text("i-0123456789abcdef0\n")

    assert find_credentials(home, tag) == "the role of this EC2 instance"
    with pytest.raises(CredentialsError):
        find_credentials(home | {"AWS_EC2_METADATA_DISABLED": "true"}, tag)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "AKIA"}, "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
        ({"AWS_SECRET_ACCESS_KEY": SECRET}, "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE names 'nobody', which has no credentials in"),
    ],
)
def test_half_set_aws_credentials_are_said_to_be_half(
    environ: dict[str, str], said: str, home: dict[str, str]
) -> None:
    with pytest.raises(CredentialsError, match=said) as caught:
        AWSProvider.from_env(environ=home | environ)

    assert SECRET not in caught.value.message


def test_a_broken_file_is_named_and_never_quoted(tmp_path: Path, home: dict[str, str]) -> None:
    write_aws(tmp_path, f"aws_secret_access_key = {SECRET}\n")

    with pytest.raises(CredentialsError, match=r"cannot read '.*/\.aws/credentials'") as caught:
        AWSProvider.from_env(environ=home)

    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("config", "environ", "profile", "region"),
    [
        (None, {}, "", "us-east-1"),
        (None, {}, "[default]\nregion = eu-north-1\n", "eu-north-1"),
        (None, {"AWS_DEFAULT_REGION": "eu-west-1"}, "[default]\nregion = eu-north-1\n", "eu-west-1"),
        (None, {"AWS_DEFAULT_REGION": "eu-west-1", "AWS_REGION": "eu-west-2"}, "", "eu-west-2"),
        (AWS(region="us-west-2"), {"AWS_REGION": "eu-west-2"}, "", "us-west-2"),
    ],
)
def test_the_region_is_the_parameter_then_the_variables_then_the_profile(
    config: AWS | None,
    environ: dict[str, str],
    profile: str,
    region: str,
    tmp_path: Path,
    home: dict[str, str],
) -> None:
    write_aws(tmp_path, config=profile)

    ready = AWSProvider.from_env(config, home | READY["aws"] | environ)

    assert ready.region == region
    assert ready.config == (config or AWS())
    assert config is not None or find_region(home | environ) == region


def test_a_region_of_the_environment_is_checked_like_any_other(home: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unknown region 'mars-1'"):
        AWSProvider.from_env(environ=home | READY["aws"] | {"AWS_REGION": "mars-1"})


# -- providers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda module: module.__name__)
def test_each_plugin_brings_one_provider_with_its_value(plugin: Any) -> None:
    (provider,) = plugin.skyward_providers()

    assert issubclass(provider, Provider)
    assert provider.Config.__name__ in plugin.__all__
    assert plugin.__name__ == f"skyward_{provider.name}"
    assert provider.Config.__name__.lower() == provider.name


@pytest.mark.parametrize("provider", PROVIDERS[1:], ids=lambda p: p.name)
def test_what_cannot_be_launched_yet_says_so_and_what_can_be_used_instead(provider: type[Provider]) -> None:
    ready = provider.from_env(environ=READY[provider.name])
    offer = Offer(
        provider=provider.name, region="x", instance_type="y", usd_per_hour=1.0, vcpus=1, memory_gib=1
    )

    with pytest.raises(ProviderError) as caught:
        ready.launch(LaunchRequest(offer=offer, count=1, pool="p", token="t"))

    assert caught.value.message.startswith(f"{provider.name}: this version cannot launch machines there yet")
    assert "sky.Local()" in caught.value.message
    assert "sky.SSH(" in caught.value.message
    assert caught.value.code == "SKW200"
    with pytest.raises(ProviderError, match="cannot list machines there yet"):
        ready.instances("p")
    with pytest.raises(ProviderError, match="cannot end i-1 there yet"):
        ready.terminate(["i-1"])
    ready.terminate([])


REPLIES: Mapping[str, Any] = {
    "/v2/sizes": {"sizes": [], "links": {}, "meta": {"total": 0}},
    "/oauth2/token": {"access_token": "of-an-hour"},
    "/instance-types": [],
    "/locations": [],
    "/instance-availability": [],
    "/api/v0/bundles/": {"offers": []},
}


@pytest.fixture
def cloud() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The address of three clouds that sell nothing, and what they were asked with which authorisation."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path).path
            asked.append((path, self.headers.get("Authorization")))
            body = json.dumps(REPLIES[path]).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("provider", "asks"),
    [
        (DigitalOceanProvider, [("/v2/sizes", f"Bearer {SECRET}")]),
        (VerdaProvider, [("/oauth2/token", None), ("/instance-types", "Bearer of-an-hour")]),
        (VastAIProvider, [("/api/v0/bundles/", f"Bearer {SECRET}")]),
    ],
)
def test_prices_are_asked_where_the_value_says_and_with_the_credentials_found(
    provider: type[Provider],
    asks: list[tuple[str, str | None]],
    cloud: tuple[str, list[tuple[str, str | None]]],
) -> None:
    endpoint, asked = cloud
    ready = provider.from_env(provider.Config(endpoint=endpoint), READY[provider.name])
    assert not asked

    assert list(ready.offers()) == []

    assert asked[: len(asks)] == asks


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda p: p.name)
def test_an_instance_is_reached_at_its_public_address_and_its_own_port(provider: type[Provider]) -> None:
    ready = provider.from_env(environ=READY[provider.name])
    offer = Offer(
        provider=provider.name, region="x", instance_type="y", usd_per_hour=1.0, vcpus=1, memory_gib=1
    )
    instance = Instance(id="1", provider=provider.name, offer=offer, public_address="203.0.113.9", port=40022)

    assert ready.connect(instance) == Endpoint(host="203.0.113.9", port=40022, user="root")


def test_machines_of_strangers_are_not_trusted() -> None:
    assert not VastAIProvider.capabilities.trusted
    assert all(provider.capabilities.trusted for provider in PROVIDERS if provider is not VastAIProvider)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda module: module.__name__)
def test_plugins_are_written_as_a_stranger_would_write_them(plugin: Any) -> None:
    """They import public names of skyward alone, and load no vendor's SDK with themselves."""
    (folder,) = plugin.__path__
    for file in Path(folder).glob("*.py"):
        tree = ast.parse(file.read_text())
        everywhere = {name for node in ast.walk(tree) for name in imported(node)}
        at_load = {name.partition(".")[0] for node in tree.body for name in imported(node)}
        assert {name for name in everywhere if name.startswith("skyward.")} <= {"skyward.http"}, file
        assert not at_load & {"boto3", "botocore", "urllib3", "duckdb", "pyarrow"}, file


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
