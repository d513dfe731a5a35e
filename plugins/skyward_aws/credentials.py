"""Where AWS credentials are on this machine. Reads variables and files, asks nobody, keeps no secret.

The order is that of boto3, which signs with what is found here:
https://boto3.amazonaws.com/v1/documentation/api/latest/guide/credentials.html (2026-11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from skyward import CredentialsError

DEFAULT_REGION: Final = "us-east-1"

_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_WEB_IDENTITY: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")
_CONTAINER: Final = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_SIGNING_OPTIONS: Final = {
    "aws_access_key_id",
    "role_arn",
    "sso_session",
    "sso_start_url",
    "login_session",
    "credential_process",
    "web_identity_token_file",
}
"""A profile that has one of these can sign; one that has only a region cannot."""
_ASSET_TAG: Final = Path("/sys/devices/virtual/dmi/id/board_asset_tag")
"""On EC2 the id of the instance: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
(2026-11)."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A named part of the shared files, without its secrets."""

    name: str
    files: tuple[Path, ...]
    found_in: Path | None = None
    """The file that has credentials for it."""
    region: str | None = None


def find_credentials(environ: Mapping[str, str], asset_tag: Path = _ASSET_TAG) -> str:
    """Which credentials boto3 will find: the first of variables, profile, container, instance role.

    Raises:
        CredentialsError: none; names everything that was looked at.
    """
    places = (_variables(environ), _profile(environ), _container(environ), _instance_role(environ, asset_tag))
    looked_at = []
    for place in places:
        for found, what in place:
            if found:
                return what
            looked_at.append(what)
    raise CredentialsError(
        "aws: credentials not found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`",
        facts=looked_at,
        hints=["aws configure", "skyward check aws"],
        provider="aws",
    )


def find_region(environ: Mapping[str, str]) -> str:
    """The region where none is configured: AWS_REGION, AWS_DEFAULT_REGION, the profile's, or us-east-1.

    boto3 itself ignores AWS_REGION, so it must be told.
    """
    named = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    return named or read_profile(environ).region or DEFAULT_REGION


def read_profile(environ: Mapping[str, str]) -> Profile:
    """The profile that AWS_PROFILE names, or `default`."""
    name = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or "default"
    home = Path(environ.get("HOME") or Path.home())
    credentials = environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"
    config = environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    files = tuple(home / path[2:] if path.startswith("~/") else Path(path) for path in (credentials, config))
    found_in, region = None, None
    for file, section in zip(files, (name, name if name == "default" else f"profile {name}"), strict=True):
        options = _section(file, section)
        region = region or options.get("region")
        if found_in is None and _SIGNING_OPTIONS & options.keys():
            found_in = file
    return Profile(name, files, found_in, region)


def expires_in_s(environ: Mapping[str, str]) -> float | None:
    """Seconds until the credentials of the environment end for good; None where they do not, or nobody knows.

    Those of profiles, containers and roles are fetched anew by boto3.
    """
    from datetime import UTC, datetime

    if not environ.get("AWS_SESSION_TOKEN"):
        return None
    try:
        end = datetime.fromisoformat(environ.get("AWS_CREDENTIAL_EXPIRATION", ""))
    except ValueError:
        return None
    return (end.astimezone(UTC) - datetime.now(UTC)).total_seconds()


def _section(file: Path, name: str) -> Mapping[str, str]:
    from configparser import Error as UnreadableFile
    from configparser import RawConfigParser

    parser = RawConfigParser(strict=False)
    try:
        parser.read(file, encoding="utf-8")
    except (UnreadableFile, UnicodeDecodeError, OSError) as error:
        raise CredentialsError(
            f"aws: cannot read {str(file)!r}: {_first_line(error)}", provider="aws"
        ) from None
    return parser[name] if parser.has_section(name) else {}


def _first_line(error: Exception) -> str:
    """What is wrong, without the lines of the file: they may be secrets."""
    return type(error).__name__


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    given = [name for name in _KEYS if environ.get(name)]
    if len(given) == 1:
        missing = next(name for name in _KEYS if name not in given)
        raise CredentialsError(
            f"aws: {given[0]} is set and {missing} is not: set both or neither", provider="aws"
        )
    yield (True, " and ".join(_KEYS)) if given else (False, f"{' and '.join(_KEYS)} are not set")
    if all(environ.get(name) for name in _WEB_IDENTITY):
        yield True, "AWS_WEB_IDENTITY_TOKEN_FILE"


def _profile(environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    profile = read_profile(environ)
    files = " and ".join(map(str, profile.files))
    if profile.found_in is not None:
        yield True, f"profile {profile.name!r} in {profile.found_in}"
    elif environ.get("AWS_PROFILE"):
        raise CredentialsError(
            f"aws: AWS_PROFILE names {profile.name!r}, which has no credentials in {files}",
            hints=[
                f"aws configure --profile {profile.name}" if profile.name.isidentifier() else "aws configure"
            ],
            provider="aws",
        )
    yield False, f"no credentials for profile {profile.name!r} in {files}"


def _container(environ: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    given = next((name for name in _CONTAINER if environ.get(name)), None)
    yield (True, given) if given else (False, f"{' and '.join(_CONTAINER)} are not set")


def _instance_role(environ: Mapping[str, str], asset_tag: Path) -> Iterator[tuple[bool, str]]:
    """On EC2 boto3 asks the metadata service; whether the instance has a role shows with the first call."""
    try:
        is_ec2 = asset_tag.read_text().startswith("i-")
    except OSError:
        is_ec2 = False
    is_barred = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
    yield (
        (True, "the role of this EC2 instance")
        if is_ec2 and not is_barred
        else (False, "this is no EC2 instance")
    )
