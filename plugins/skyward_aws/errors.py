"""What AWS's errors mean to Skyward. The one door through which botocore's exceptions leave this plugin."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from skyward import CapacityError, CredentialsError, ProviderError, QuotaError, RateLimitError

# Codes of the EC2, Price List and STS APIs: their reference pages and the retry tables of parallelcluster (2026-11).
_KINDS: Final[Mapping[str, type[ProviderError]]] = {
    **dict.fromkeys(
        (
            "InsufficientInstanceCapacity",
            "InsufficientCapacity",
            "InsufficientHostCapacity",
            "UnfulfillableCapacity",
            "SpotMaxPriceTooLow",
            "InsufficientFreeAddressesInSubnet",
            "InsufficientReservedInstanceCapacity",
            "Unsupported",
            "InvalidFleetConfiguration",  # the type is not sold in the zone of this subnet
        ),
        CapacityError,
    ),
    **dict.fromkeys(
        ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "VolumeLimitExceeded"),
        QuotaError,
    ),
    **dict.fromkeys(
        (
            "AuthFailure",
            "UnauthorizedOperation",
            "UnauthorizedAccess",
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "AccessDenied",
            "AccessDeniedException",
            "OptInRequired",
            "PendingVerification",
            "Blocked",
        ),
        CredentialsError,
    ),
    **dict.fromkeys(
        (
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "EC2ThrottledException",
            "TooManyRequestsException",
            "SlowDown",
        ),
        RateLimitError,
    ),
}
TRANSIENT: Final = {"InternalError", "InternalFailure", "Unavailable", "ServiceUnavailable", "ServerInternal"}
"""AWS itself broke; whether it did what it was asked is not known."""

_EXPIRED: Final = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_UNKNOWN_KEY: Final = {"InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch"}
_ENCODED: Final = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)

_HINTS: Final[Mapping[type[ProviderError], tuple[str, ...]]] = {
    CapacityError: (
        'another region may have some: sky.AWS(region="us-west-2")',
        'allocation="spot-if-available" falls back to on-demand',
        "skyward offers --provider aws --region us-west-2",
    ),
    QuotaError: ("skyward check aws",),
    CredentialsError: ("skyward check aws --policy", "skyward check aws"),
    RateLimitError: ("wait a minute: the account makes too many calls",),
    ProviderError: ("skyward check aws",),
}


@contextmanager
def aws_errors() -> Iterator[None]:
    """Raises what botocore raises as the ProviderError it means.

    `aws_code` is AWS's own word, "" where AWS said none; `was_sent` whether it may have done what it was asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _refused(error) from error
    except (BotoCoreError, ResponseParserError) as error:
        raise _unheard(error) from error


def kind_of(code: str) -> type[ProviderError]:
    """What a code means; "AuthFailure.ServiceLinkedRoleCreationNotPermitted" means what "AuthFailure" does."""
    return _KINDS.get(code) or _KINDS.get(code.split(".")[0]) or ProviderError


def is_stranger(error: ProviderError) -> bool:
    """Whether AWS does not know who asks, or not any more: whatever was asked, nothing came of it."""
    code = getattr(error, "aws_code", "")
    return (code in _EXPIRED | _UNKNOWN_KEY or code == "AuthFailure") and not getattr(
        error, "was_sent", False
    )


def make_error(
    code: str, said: str, *, doing: str = "", facts: Iterable[str] = (), **values: Any
) -> ProviderError:
    """The error for what AWS said, with what one can do about it; `reason` is what it said, without what was asked."""
    text = _ENCODED.sub("", said).strip().rstrip(".") or code
    prefix = f"{doing}: " if doing else ""
    return kind_of(code)(
        f"aws: {prefix}{text}",
        facts=(*((f"AWS calls this {code}",) if code and code not in text else ()), *facts),
        hints=_hints(code, text),
        provider="aws",
        aws_code=code,
        reason=text,
        **values,
    )


def _hints(code: str, text: str) -> tuple[str, ...]:
    if code in _EXPIRED:
        return ("aws sso login", "aws configure", "skyward check aws")
    if code in _UNKNOWN_KEY or code == "AuthFailure":
        return ("aws configure", "skyward check aws")
    if "iam:PassRole" in text:
        return (
            "skyward check aws --policy",
            'sky.AWS(instance_profile_arn="arn:aws:iam::123456789012:instance-profile/NAME") uses one that may be passed',
        )
    if "ServiceLinkedRole" in code:
        return (
            "aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
            "skyward check aws",
        )
    if code == "VcpuLimitExceeded":
        return ("aws service-quotas list-service-quotas --service-code ec2", "skyward check aws")
    if code == "OperationNotPermitted":
        return ("aws ec2 modify-instance-attribute --no-disable-api-termination --instance-id INSTANCE",)
    return _HINTS[kind_of(code)]


def _refused(error: Any) -> ProviderError:
    detail = error.response.get("Error", {})
    code, said = str(detail.get("Code", "")), str(detail.get("Message", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    is_broken = code in TRANSIENT or (kind_of(code) is ProviderError and status >= 500)
    return make_error(code, said, doing=error.operation_name, was_sent=is_broken, is_broken=is_broken)


def _unheard(error: Exception) -> ProviderError:
    """Nothing came back, or nothing was sent."""
    from botocore import exceptions as aws
    from botocore.parsers import ResponseParserError

    missing = (
        aws.NoCredentialsError,
        aws.PartialCredentialsError,
        aws.CredentialRetrievalError,
        aws.TokenRetrievalError,
        aws.SSOError,
        aws.ProfileNotFound,
    )
    said = str(error).rstrip(".")
    if isinstance(error, missing):
        return CredentialsError(
            f"aws: {said}",
            hints=("aws sso login", "aws configure", "skyward check aws"),
            provider="aws",
            aws_code="",
            was_sent=False,
        )
    unsent = (aws.ConnectTimeoutError, aws.EndpointConnectionError, aws.ProxyConnectionError, aws.SSLError)
    is_network = isinstance(error, aws.HTTPClientError | ResponseParserError)
    return ProviderError(
        f"aws: {said[:1].lower()}{said[1:]}",
        hints=("skyward check aws",),
        provider="aws",
        aws_code="",
        was_sent=is_network and not isinstance(error, unsent),
        is_network=is_network,
    )
