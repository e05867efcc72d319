"""What the SDK for AWS raises -> what the autoscaler does next (base.py). Codes: the EC2 API reference, "Error codes"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as sdk

from providers.base import ProviderError, Reason, Rejected, Scope, Unknown

CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacityOnOutpost",
    "InsufficientFreeAddressesInSubnet",
    "SpotMaxPriceTooLow",
}
QUOTA = {
    "VcpuLimitExceeded",
    "InstanceLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "VolumeLimitExceeded",
    "MaxIOPSLimitExceeded",
    "NetworkInterfaceLimitExceeded",
    "AddressLimitExceeded",
}
THROTTLE = {
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "EC2ThrottledException",
    "BandwidthLimitExceeded",
    "SlowDown",
}
AUTH = {
    "AuthFailure",
    "UnauthorizedOperation",
    "UnauthorizedAccess",
    "InvalidClientTokenId",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "IncompleteSignature",
    "MissingAuthenticationToken",
    "UnrecognizedClientException",
    "AccessDenied",
    "AccessDeniedException",
    "OptInRequired",
    "PendingVerification",
    "Blocked",
}
NO_CREDENTIALS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.ProfileNotFound,
    sdk.TokenRetrievalError,
    sdk.UnauthorizedSSOTokenError,
    sdk.SSOTokenLoadError,
)
NOT_SENT = (sdk.EndpointConnectionError, sdk.ConnectTimeoutError, sdk.ProxyConnectionError)
WRONG = (sdk.ParamValidationError, sdk.NoRegionError, sdk.InvalidRegionError, sdk.UnknownServiceError)
ALREADY_SENT = "IdempotentParameterMismatch"  # something was started with this token, by a request that said more or less
NO_INSTANCE = ("InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")
DRY_RUN = "DryRunOperation"  # not an error: it would have worked

# What a refusal is true for, where it is not only the offering.
SCOPES = {Reason.QUOTA: Scope.REGION, Reason.THROTTLE: Scope.REGION, Reason.AUTH: Scope.PROVIDER}


def code_of(error: BaseException | None) -> str:
    """The API's code of an error; empty if it did not come as an answer."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, sdk.ClientError) else ""


@contextmanager
def translated(verb: str) -> Iterator[None]:
    """Nothing of the SDK gets out of here."""
    try:
        yield
    except sdk.ClientError as error:
        raise answered(verb, error) from error
    except NO_CREDENTIALS as error:
        raise Rejected(Reason.AUTH, f"aws {verb}: {error}", Scope.PROVIDER) from error
    except NOT_SENT as error:
        raise Rejected(Reason.THROTTLE, f"aws {verb}: nothing was sent: {error}", Scope.REGION) from error
    except WRONG as error:
        raise Rejected(Reason.INVALID, f"aws {verb}: {error}") from error
    except (sdk.BotoCoreError, sdk.HTTPClientError) as error:
        raise Unknown(f"aws {verb}: {error}") from error


def answered(verb: str, error: sdk.ClientError) -> ProviderError:
    """The error for a refusal that came as an answer. A fault on their side says nothing about what was done."""
    code = code_of(error)
    words = f"aws {verb}: {code}: {error.response.get('Error', {}).get('Message', '')}".strip(": ")
    kinds = ((Reason.CAPACITY, CAPACITY), (Reason.QUOTA, QUOTA), (Reason.THROTTLE, THROTTLE), (Reason.AUTH, AUTH))
    kind = next((kind for kind, codes in kinds if code in codes), None)
    if kind is None:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:
            return Unknown(words)
        kind = Reason.INVALID
    return Rejected(kind, words, SCOPES.get(kind, Scope.OFFERING))
