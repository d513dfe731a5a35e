"""What AWS's errors mean to Skyward. The one door through which botocore's exceptions leave this plugin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from skyward import CapacityError, CredentialsError, ProviderError, QuotaError, RateLimitError

# Codes of the EC2, Price List and STS APIs: their reference pages and the retry tables of parallelcluster (2026-11).
_KINDS: dict[str, type[ProviderError]] = {
    **dict.fromkeys(
        (
            "InsufficientInstanceCapacity",
            "InsufficientCapacity",
            "UnfulfillableCapacity",
            "SpotMaxPriceTooLow",
            "InsufficientFreeAddressesInSubnet",
            "InsufficientReservedInstanceCapacity",
            "Unsupported",
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
            "InvalidClientTokenId",
            "UnrecognizedClientException",
            "SignatureDoesNotMatch",
            "ExpiredToken",
            "ExpiredTokenException",
            "RequestExpired",
            "AccessDenied",
            "AccessDeniedException",
            "OptInRequired",
        ),
        CredentialsError,
    ),
    **dict.fromkeys(
        ("RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"),
        RateLimitError,
    ),
}


@contextmanager
def aws_errors() -> Iterator[None]:
    """Raises what botocore raises as the ProviderError it means; `aws_code` is AWS's own word."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        said = str(error.response.get("Error", {}).get("Message", "")) or code
        kind = _KINDS.get(code, ProviderError)
        raise kind(f"aws: {error.operation_name}: {said}", provider="aws", aws_code=code) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise CredentialsError(f"aws: {error}", provider="aws", hints=["aws configure"]) from error
    except BotoCoreError as error:
        raise ProviderError(f"aws: {error}", provider="aws", aws_code="") from error
