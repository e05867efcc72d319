"""What Google's SDK raises, and what its operations end with -> what the autoscaler does next (base.py).

A refusal may come as the answer to a call (HTTP status and a reason), or as the end of an operation that was accepted: then it
stands in `error`, or only in `http_error_status_code` with `error` empty. Codes: "Troubleshooting" of the Compute Engine API.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from google.api_core import exceptions as sdk
from google.auth import exceptions as auth
from google.protobuf import json_format

from providers.base import ProviderError, Reason, Rejected, Scope, Unknown

# The ends of an operation; each may go on with more words, such as _WITH_DETAILS.
CODES = {
    "ZONE_RESOURCE_POOL_EXHAUSTED": Reason.CAPACITY,
    "REGION_RESOURCE_POOL_EXHAUSTED": Reason.CAPACITY,
    "RESOURCE_POOL_EXHAUSTED": Reason.CAPACITY,
    "STOCKOUT": Reason.CAPACITY,
    "VM_MIN_COUNT_NOT_REACHED": Reason.CAPACITY,
    "INSUFFICIENT_CAPACITY": Reason.CAPACITY,
    "IP_SPACE_EXHAUSTED": Reason.CAPACITY,
    "INTERNAL_ERROR": Reason.CAPACITY,  # it ended, and started nothing: another offering may work
    "QUOTA_EXCEEDED": Reason.QUOTA,
    "LIMIT_EXCEEDED": Reason.QUOTA,
    "RATE_LIMIT_EXCEEDED": Reason.THROTTLE,
    "OPERATION_RATE_EXCEEDED": Reason.THROTTLE,
    "RESOURCE_OPERATION_RATE_EXCEEDED": Reason.THROTTLE,
    "PERMISSIONS_ERROR": Reason.AUTH,
    "FORBIDDEN": Reason.AUTH,
    "SERVICE_ACCOUNT_ACCESS_DENIED": Reason.AUTH,
}
REASONS = {  # of an answer with HTTP status 403
    "quotaExceeded": Reason.QUOTA,
    "limitExceeded": Reason.QUOTA,
    "rateLimitExceeded": Reason.THROTTLE,
    "userRateLimitExceeded": Reason.THROTTLE,
    "RATE_LIMIT_EXCEEDED": Reason.THROTTLE,
}
SCOPES = {Reason.QUOTA: Scope.REGION, Reason.THROTTLE: Scope.REGION, Reason.AUTH: Scope.PROVIDER}
NO_CREDENTIALS = (auth.DefaultCredentialsError, auth.RefreshError, auth.MalformedError)


def rejected(kind: Reason, words: str) -> Rejected:
    return Rejected(kind, words, SCOPES.get(kind, Scope.OFFERING))


@contextmanager
def translated(verb: str) -> Iterator[None]:
    """Nothing of the SDK gets out of here."""
    try:
        yield
    except sdk.GoogleAPICallError as error:
        raise answered(verb, error) from error
    except NO_CREDENTIALS as error:
        raise rejected(Reason.AUTH, f"gce {verb}: {error}") from error
    except requests.ConnectTimeout as error:
        raise rejected(Reason.THROTTLE, f"gce {verb}: nothing was sent: {error}") from error
    except (sdk.GoogleAPIError, auth.GoogleAuthError, requests.RequestException, json_format.Error) as error:
        raise Unknown(f"gce {verb}: {error}") from error
    except (ValueError, TypeError) as error:  # of the SDK, which does not send what is no request
        raise rejected(Reason.INVALID, f"gce {verb}: {error}") from error


def answered(verb: str, error: sdk.GoogleAPICallError) -> ProviderError:
    """The error for a refusal that came as an answer. A fault on their side says nothing about what was done."""
    status, words = int(error.code or 500), f"gce {verb}: {error.message}"
    if status >= 500:
        return Unknown(words)
    reasons = [str(one.get("reason", "")) for one in error.errors if isinstance(one, dict)]
    known = next((REASONS[reason] for reason in reasons if reason in REASONS), None)
    return rejected(known or _of_status(status), words)


def _of_status(status: int) -> Reason:
    return {401: Reason.AUTH, 403: Reason.AUTH, 429: Reason.THROTTLE}.get(status, Reason.INVALID)


def refusal_of(operation: Any) -> Rejected | None:
    """Why an operation that is done did not work; None if it did."""
    errors = list(operation.error.errors) if operation.error else []
    status = int(operation.http_error_status_code or 0)
    if not errors and status < 400:
        return None
    words = "; ".join(f"{one.code}: {one.message}" for one in errors) or f"{status} {operation.http_error_message}"
    kinds = [kind for one in errors for code, kind in CODES.items() if one.code.startswith(code)]
    if kinds:
        return rejected(kinds[0], f"gce {operation.operation_type}: {words}")
    return rejected(Reason.CAPACITY if status >= 500 else _of_status(status), f"gce {operation.operation_type}: {words}")
