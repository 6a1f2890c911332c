"""What both ways to Alibaba Cloud KMS share."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.kms.answers import bad_answer

SERVICE: Final = "Alibaba Cloud KMS"

_NAME: Final = re.compile(r"[!-~]{1,256}", re.ASCII)
_D: Final = ErrorCode.KMS_DENIED
_B: Final = ErrorCode.KMS_BUSY
_N: Final = ErrorCode.KMS_NOT_FOUND
CODES: Final = {
    "Forbidden.ResourceNotFound": _N,
    "Forbidden.KeyNotFound": _N,
    "Forbidden.AliasNotFound": _N,
    "Forbidden.NoPermission": _D,
    "Forbidden": _D,
    "IllegalTimestamp": _D,
    "IncompleteSignature": _D,
    "InvalidAccessKeyId": _D,
    "InvalidSecurityToken": _D,
    "InvalidTimeStamp": _D,
    "MissingSecurityToken": _D,
    "NoPermission": _D,
    "SignatureDoesNotMatch": _D,
    "SignatureNonceUsed": _D,
    "Unauthorized": _D,
    "UnauthorizedException": _D,
    # A key that is disabled or must not decrypt; what was encrypted with another key.
    "Rejected": _D,
    "InvalidParameter": _D,
    "Rejected.Throttling": _B,
    "Throttling": _B,
    "InternalFailure": _B,
    "InternalError": _B,
    "ServiceUnavailable": _B,
    "ServiceUnavailableTemporary": _B,
    "SerivceUnavailableTemporary": _B,  # as the service's documentation spells it
}
"""Error codes of both APIs."""

CLOCK: Final = frozenset({"IllegalTimestamp", "InvalidTimeStamp", "InvalidSecurityToken"})


class SecretAnnotations(msgspec.Struct, frozen=True):
    """What a request for a secret may say; empty is the current version.

    Attributes:
        version_stage: such as ``ACSCurrent``.
        version_id: of one version.
    """

    version_stage: str = ""
    version_id: str = ""


def bad_settings(reason: str) -> AgentError:
    """KMS_SETTINGS_INVALID."""
    return AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"aliyun: {reason}")


def bad_credentials(name: str, reason: str) -> AgentError:
    """KMS_CREDENTIALS_INVALID about a file."""
    return AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, f"aliyun/{name}: {reason}")


def check_name(name: str) -> None:
    """Whether this may be the name of a secret or key; the service knows more exactly.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    # T-KMS-11
    if not _NAME.fullmatch(name):
        raise bad_settings("a name has 1 to 256 printable characters")


def check_answer(found: str, name: str) -> None:
    """Whether the answer is about the secret that was asked for, by name or by ARN.

    Raises:
        AgentError: KMS_BAD_RESPONSE.
    """
    if not found or not (found == name or (name.startswith("acs:") and name.endswith(found))):
        raise bad_answer(SERVICE, "another secret, or none")
