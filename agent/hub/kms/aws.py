"""AWS: secrets of Secrets Manager, and keys of its Key Management Service (cdh.md 5.5).

JSON 1.1 over HTTPS, signed by :mod:`agent.hub.kms.sigv4`; no SDK. Credentials are static ones, from
``credential.json``; instance roles and web identities are those of the host, so they are not asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import standard_encode
from agent.hub.kms.answers import bad_answer, decoded, parse_answer, parse_refusal, refused
from agent.hub.kms.base import Backend, Context, read_annotations
from agent.hub.kms.credentials import Hidden, parse_credentials
from agent.hub.kms.http import cloud_host
from agent.hub.kms.sigv4 import Key, Scope, sign
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.http import KmsAnswer

CREDENTIALS: Final = "credential.json"

_REGION: Final = re.compile(r"[a-z]{2,5}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}", re.ASCII)
_DOMAINS: Final = {"cn": "amazonaws.com.cn", "eusc": "amazonaws.eu"}
"""By first part of the region; elsewhere ``amazonaws.com``."""

_KMS: Final = "kms"
_SECRETS: Final = "secretsmanager"
"""Services, as in host names and signatures."""

_D: Final = ErrorCode.KMS_DENIED
_B: Final = ErrorCode.KMS_BUSY
_S: Final = ErrorCode.KMS_SETTINGS_INVALID
_CODES: Final = {
    "AccessDenied": _D,
    "AccessDeniedException": _D,
    "ExpiredTokenException": _D,
    "IncompleteSignature": _D,
    "IncompleteSignatureException": _D,
    "InvalidClientTokenId": _D,
    "InvalidSignatureException": _D,
    "MissingAuthenticationToken": _D,
    "MissingAuthenticationTokenException": _D,
    "NotAuthorized": _D,
    "OptInRequired": _D,
    "RequestExpired": _D,
    "UnrecognizedClientException": _D,
    "DecryptionFailure": _D,
    "DisabledException": _D,
    "IncorrectKeyException": _D,
    "InvalidCiphertextException": _D,
    "InvalidKeyUsageException": _D,
    "KMSInvalidStateException": _D,
    "NotFoundException": ErrorCode.KMS_NOT_FOUND,
    "ResourceNotFoundException": ErrorCode.KMS_NOT_FOUND,
    "DependencyTimeoutException": _B,
    "InternalFailure": _B,
    "InternalServiceError": _B,
    "KMSInternalException": _B,
    "KeyUnavailableException": _B,
    "LimitExceededException": _B,
    "RequestLimitExceeded": _B,
    "ServiceUnavailable": _B,
    "ServiceUnavailableException": _B,
    "ThrottlingException": _B,
    "TooManyRequestsException": _B,
    "InvalidParameterException": _S,
    "InvalidRequestException": _S,
    "ValidationError": _S,
    "ValidationException": _S,
}
"""Error types of both services and those common to all of AWS. Only names of this table are ever shown."""

_CLOCK: Final = frozenset({"InvalidSignatureException", "RequestExpired"})


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``provider_settings``.

    Attributes:
        region: ``us-east-1``.
    """

    region: str


class _Credential(Hidden, frozen=True):
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


class _GetAnnotations(msgspec.Struct, frozen=True):
    version_id: str = ""
    version_stage: str = ""


class _DecryptAnnotations(msgspec.Struct, frozen=True):
    encryption_context: dict[str, str] = {}


class _SecretValue(msgspec.Struct, frozen=True, rename="pascal"):
    secret_string: str | None = None
    secret_binary: str | None = None


class _Plaintext(msgspec.Struct, frozen=True, rename="pascal"):
    plaintext: str


class _Ciphertext(msgspec.Struct, frozen=True, rename="pascal"):
    ciphertext_blob: str


class _Problem(msgspec.Struct, frozen=True):
    type: str = msgspec.field(name="__type", default="")


class Aws:
    """A getter, decrypter and encrypter for one region."""

    def __init__(self, settings: Settings, context: Context) -> None:
        self._region = settings.region
        self._context = context
        domain = _DOMAINS.get(settings.region.partition("-")[0], "amazonaws.com")
        self._hosts = {
            service: cloud_host(f"{service}.{{}}.{domain}", settings.region, _REGION, "region")
            for service in (_KMS, _SECRETS)
        }

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """The secret ``name`` of Secrets Manager: its string in UTF-8, or else its bytes.

        Args:
            name: or its ARN.
            annotations: ``version_id`` and ``version_stage``, both optional.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*, or why the credentials cannot be had.
        """
        told = read_annotations(annotations, _GetAnnotations, "aws")
        asked = {"SecretId": name, "VersionId": told.version_id, "VersionStage": told.version_stage}
        request = {member: value for member, value in asked.items() if value}
        answer = await self._call(_SECRETS, "secretsmanager.GetSecretValue", request, deadline)
        value = parse_answer(answer, _SecretValue, _SECRETS)
        if value.secret_string is not None:
            return Secret(value.secret_string.encode())
        if value.secret_binary is not None:
            return decoded(value.secret_binary, _SECRETS, "SecretBinary")
        raise bad_answer(_SECRETS, "neither SecretString nor SecretBinary is there")

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`.

        Args:
            ciphertext: ``CiphertextBlob``.
            key_id: ID, alias or ARN of the key.
            annotations: ``encryption_context``, a map of strings, if it was encrypted with one.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*, or why the credentials cannot be had.
        """
        told = read_annotations(annotations, _DecryptAnnotations, "aws")
        request: dict[str, object] = {"KeyId": key_id, "CiphertextBlob": standard_encode(ciphertext)}
        if told.encryption_context:
            request["EncryptionContext"] = told.encryption_context
        answer = await self._call(_KMS, "TrentService.Decrypt", request, deadline)
        return decoded(parse_answer(answer, _Plaintext, _KMS).plaintext, _KMS, "Plaintext")

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`; at most 4096 bytes, with no context.

        Raises:
            AgentError: KMS_*, or why the credentials cannot be had.
        """
        request = {"KeyId": key_id, "Plaintext": standard_encode(plaintext.reveal())}
        answer = await self._call(_KMS, "TrentService.Encrypt", request, deadline)
        blob = parse_answer(answer, _Ciphertext, _KMS).ciphertext_blob
        return decoded(blob, _KMS, "CiphertextBlob").reveal(), {}

    async def _call(
        self, service: str, target: str, request: Mapping[str, object], deadline: Deadline
    ) -> KmsAnswer:
        body = msgspec.json.encode(request)
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        url = f"{self._hosts[service]}/"
        scope = Scope(self._region, service, self._context.clock.wall())
        signed = sign("POST", url, headers, body, key=await self._key(deadline), scope=scope)
        answer = await self._context.http.send("POST", url, signed, body, deadline)
        if answer.status != 200:
            raise _problem(answer, service)
        return answer

    async def _key(self, deadline: Deadline) -> Key:
        content = await self._context.credentials.read("aws", CREDENTIALS, deadline)
        try:
            found = parse_credentials(content, _Credential, f"aws/{CREDENTIALS}")
        finally:
            content.wipe()
        if not found.access_key_id or not found.secret_access_key:
            raise AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, f"aws/{CREDENTIALS}: a key is empty")
        return Key(found.access_key_id, found.secret_access_key, found.session_token or "")


def _problem(answer: KmsAnswer, service: str) -> AgentError:
    told = parse_refusal(answer, _Problem)
    # "com.amazonaws.kms#NotFoundException", in some services with ":http://..." behind it.
    name = told.type.rpartition("#")[2].partition(":")[0] if told else ""
    error = refused(answer, service, (name,), _CODES)
    if name in _CLOCK:
        error.detail += " (is the guest's clock right?)"
    return error


BACKEND: Final = Backend("aws", Settings, Aws)
