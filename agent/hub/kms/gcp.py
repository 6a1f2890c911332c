"""Google Cloud: Secret Manager and KMS, with the JSON key of a service account.

Formats: RFC 7515 and RFC 7523 (the signed request for a token); ``projects.secrets.versions.access`` of
Secret Manager v1; ``cryptoKeys.encrypt`` and ``decrypt`` of Cloud KMS v1. The hosts are fixed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from agent.config import pem
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import standard_encode, url_encode
from agent.hub.kms.answers import bad_answer, bearer, decoded, parse_answer, parse_refusal, refused
from agent.hub.kms.base import Backend, Context, read_annotations
from agent.hub.kms.credentials import Hidden, parse_credentials
from agent.hub.kms.http import cloud_host
from agent.hub.kms.leases import Lease, Leases
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.http import KmsAnswer

TOKEN_URL: Final = "https://oauth2.googleapis.com/token"  # noqa: S105  # an address
KMS: Final = "https://cloudkms.googleapis.com"
SECRETS: Final = "https://secretmanager.googleapis.com"
REGIONAL_SECRETS: Final = "secretmanager.{}.rep.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFE: Final = 3600
"""Seconds that the request for a token is good for: the most that is allowed."""

MAX_DATA: Final = 64 * 1024
"""Bytes of a secret, of a plaintext; both services' own limit."""

MAX_CIPHERTEXT: Final = MAX_DATA + 4096

_SERVICE: Final = "Google Cloud"
_CREDENTIAL: Final = "credential.json"
# Older keys name the first one; the service is the same.
_TOKEN_URIS: Final = frozenset({"", "https://accounts.google.com/o/oauth2/token", TOKEN_URL})
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# An id, a number, or the id of a project of a domain (example.com:my-project); these are old, maybe short.
_PROJECT: Final = (
    rf"projects/(?:[a-z][a-z0-9-]{{4,28}}[a-z0-9]|[0-9]{{1,20}}|(?:{_LABEL}\.){{1,8}}{_LABEL}:{_LABEL})"
)
_REGION: Final = re.compile(r"[a-z]{2,20}(?:-[a-z0-9]{1,20}){0,3}", re.ASCII)
_SECRET: Final = re.compile(
    _PROJECT + r"(?:/locations/(?P<region>[a-z0-9-]{2,40}))?/secrets/[A-Za-z0-9_-]{1,255}"
    r"(?P<version>/versions/[A-Za-z0-9_-]{1,63})?",
    re.ASCII,
)
_VERSION: Final = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_KEY: Final = re.compile(
    _PROJECT + r"/locations/[a-z0-9-]{2,40}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}",
    re.ASCII,
)
_CODES: Final = {
    "UNAUTHENTICATED": ErrorCode.KMS_DENIED,
    "PERMISSION_DENIED": ErrorCode.KMS_DENIED,
    # A version that is disabled or destroyed; a key that is.
    "FAILED_PRECONDITION": ErrorCode.KMS_DENIED,
    # What was encrypted with another key.
    "INVALID_ARGUMENT": ErrorCode.KMS_DENIED,
    "NOT_FOUND": ErrorCode.KMS_NOT_FOUND,
    "RESOURCE_EXHAUSTED": ErrorCode.KMS_BUSY,
    "UNAVAILABLE": ErrorCode.KMS_BUSY,
    "INTERNAL": ErrorCode.KMS_BUSY,
    "ABORTED": ErrorCode.KMS_BUSY,
    "DEADLINE_EXCEEDED": ErrorCode.KMS_BUSY,
}
"""``google.rpc.Code`` by name."""

_TOKEN_CODES: Final = {
    # Also when the guest's clock is wrong, or the key was deleted.
    "invalid_grant": ErrorCode.KMS_DENIED,
    "invalid_client": ErrorCode.KMS_DENIED,
    "unauthorized_client": ErrorCode.KMS_DENIED,
    "invalid_scope": ErrorCode.KMS_DENIED,
    "access_denied": ErrorCode.KMS_DENIED,
    "temporarily_unavailable": ErrorCode.KMS_BUSY,
    "server_error": ErrorCode.KMS_BUSY,
    "internal_failure": ErrorCode.KMS_BUSY,
}
"""RFC 6749 section 5.2, and what Google adds."""

_CLOCK: Final = frozenset({"invalid_grant"})


class GcpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """There are none: names of secrets and keys are complete."""


class GcpAnnotations(msgspec.Struct, frozen=True):
    """What a request for a secret may say.

    Attributes:
        version: number or alias, for a name without one.
    """

    version: str = "latest"


class ServiceAccount(Hidden, frozen=True):
    """The JSON key of a service account, as the console makes it.

    Attributes:
        client_email: who.
        private_key: PEM of an RSA key, PKCS#8.
        private_key_id: which key.
        token_uri: must be Google's.
    """

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = ""


class _Token(Hidden, frozen=True):
    access_token: str
    expires_in: int
    token_type: str = "Bearer"  # noqa: S105  # a word


class _TokenRefusal(msgspec.Struct, frozen=True):
    error: str = ""


class _Status(msgspec.Struct, frozen=True):
    status: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Status = _Status()


class _Payload(Hidden, frozen=True):
    data: str = ""
    data_crc32c: str | None = msgspec.field(default=None, name="dataCrc32c")


class _Accessed(Hidden, frozen=True):
    name: str
    payload: _Payload


class _Decrypted(Hidden, frozen=True):
    plaintext_crc32c: str = msgspec.field(name="plaintextCrc32c")
    plaintext: str = ""


class _Encrypted(msgspec.Struct, frozen=True):
    ciphertext: str
    ciphertext_crc32c: str = msgspec.field(name="ciphertextCrc32c")
    verified: bool = msgspec.field(default=False, name="verifiedPlaintextCrc32c")


class Gcp:
    """A Getter (Secret Manager), Decrypter and Encrypter (KMS)."""

    def __init__(self, settings: GcpSettings, context: Context) -> None:  # noqa: ARG002  # there are none
        self._context = context
        self._tokens: Leases[Secret] = Leases(context.clock, Secret.wipe)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`.

        ``name`` is ``projects/<project>[/locations/<region>]/secrets/<secret>[/versions/<version>]``.

        Raises:
            AgentError: KMS_*.
        """
        url = secret_url(name, read_annotations(annotations, GcpAnnotations, "gcp").version)
        answer = await self._call("GET", url, b"", deadline)
        payload = parse_answer(answer, _Accessed, _SERVICE).payload
        secret = decoded(payload.data, _SERVICE, "payload.data")
        if payload.data_crc32c is not None:
            _check(secret, payload.data_crc32c, "payload.data")
        return secret

    async def decrypt(
        self,
        ciphertext: bytes,
        key_id: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # the ciphertext names the key's version
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`.

        ``key_id`` is ``projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>``.
        """
        if len(ciphertext) > MAX_CIPHERTEXT:
            raise _settings(f"the ciphertext has more than {MAX_CIPHERTEXT} bytes")
        sent = {"ciphertext": standard_encode(ciphertext), "ciphertextCrc32c": str(crc32c(ciphertext))}
        body = msgspec.json.encode(sent)
        answer = await self._call("POST", f"{_key_url(key_id)}:decrypt", body, deadline)
        found = parse_answer(answer, _Decrypted, _SERVICE)
        plaintext = decoded(found.plaintext, _SERVICE, "plaintext")
        _check(plaintext, found.plaintext_crc32c, "plaintext")
        return plaintext

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`; there are no annotations."""
        if len(plaintext) > MAX_DATA:
            raise _settings(f"the plaintext has more than {MAX_DATA} bytes")
        value = plaintext.reveal()
        sent = {"plaintext": standard_encode(value), "plaintextCrc32c": str(crc32c(value))}
        body = msgspec.json.encode(sent)
        answer = await self._call("POST", f"{_key_url(key_id)}:encrypt", body, deadline)
        found = parse_answer(answer, _Encrypted, _SERVICE)
        if not found.verified:
            raise bad_answer(_SERVICE, "the plaintext's checksum was not looked at")
        ciphertext = decoded(found.ciphertext, _SERVICE, "ciphertext")
        _check(ciphertext, found.ciphertext_crc32c, "ciphertext")
        return ciphertext.reveal(), {}

    def close(self) -> None:
        """Forget the token."""
        self._tokens.close()

    async def _call(self, method: str, url: str, body: bytes, deadline: Deadline) -> KmsAnswer:
        token = await self._tokens.get(self._read, self._login, deadline)
        answer = await self._send(method, url, body, token, deadline)
        if answer.status == 401:
            token = await self._tokens.get(self._read, self._login, deadline, stale=token)
            answer = await self._send(method, url, body, token, deadline)
        if answer.status != 200:
            refusal = parse_refusal(answer, _Refusal)
            raise refused(answer, _SERVICE, (refusal.error.status,) if refusal else (), _CODES)
        return answer

    async def _send(self, method: str, url: str, body: bytes, token: Secret, deadline: Deadline) -> KmsAnswer:
        headers = {"Authorization": f"Bearer {token.reveal().decode()}"}
        if body:
            headers["Content-Type"] = "application/json"
        return await self._context.http.send(method, url, headers, body, deadline)

    async def _read(self, deadline: Deadline) -> Secret:
        return await self._context.credentials.read("gcp", _CREDENTIAL, deadline)

    async def _login(self, content: Secret, deadline: Deadline) -> Lease[Secret]:
        account = parse_credentials(content, ServiceAccount, f"gcp/{_CREDENTIAL}")
        assertion = sign_request(account, self._context.clock.wall())
        body = urlencode({"grant_type": GRANT, "assertion": assertion}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._context.http.send("POST", TOKEN_URL, headers, body, deadline)
        if answer.status != 200:
            refusal = parse_refusal(answer, _TokenRefusal)
            said = (refusal.error,) if refusal else ()
            raise refused(answer, f"{_SERVICE} (token)", said, _TOKEN_CODES, clock=_CLOCK)
        token = parse_answer(answer, _Token, f"{_SERVICE} (token)")
        value = bearer(token.access_token, token.token_type, f"{_SERVICE} (token)")
        return Lease(value, token.expires_in)


def secret_url(name: str, version: str) -> str:
    """Where a secret's version is read.

    Args:
        name: of the secret or of a version.
        version: used when the name has none.

    Raises:
        AgentError: KMS_SETTINGS_INVALID.
    """
    # T-KMS-11: names come from outside and become a path; nothing in them can leave it.
    found = _SECRET.fullmatch(name)
    if not found:
        raise _settings(
            "the secret's name is not projects/<project>/secrets/<secret>, with /locations/<region> or "
            "/versions/<version> or without"
        )
    if not found["version"]:
        if not _VERSION.fullmatch(version):
            raise _settings("the annotation version is not a number or alias")
        name = f"{name}/versions/{version}"
    region = found["region"]
    host = SECRETS if region is None else cloud_host(REGIONAL_SECRETS, region, _REGION, "the region")
    return f"{host}/v1/{name}:access"


def _key_url(key_id: str) -> str:
    # T-KMS-11
    if not _KEY.fullmatch(key_id):
        raise _settings(
            "the key is not named projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>"
        )
    return f"{KMS}/v1/{key_id}"


def sign_request(account: ServiceAccount, now: float) -> str:
    """A request for a token: a JWT with RS256 (RFC 7515 A.2, RFC 7523 section 2.1).

    Args:
        account: who asks.
        now: seconds since the Unix epoch.

    Raises:
        AgentError: KMS_CREDENTIALS_INVALID (the key, or a token service that is not Google's).
    """
    # T-KMS-12: the credentials name the token service too; a signed request goes to Google's only.
    if account.token_uri not in _TOKEN_URIS:
        raise _credentials("token_uri is not Google's")
    header = {"alg": "RS256", "typ": "JWT"}
    if account.private_key_id:
        header["kid"] = account.private_key_id
    claims = {
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": TOKEN_URL,
        "iat": int(now),
        "exp": int(now) + LIFE,
    }
    signed = ".".join(url_encode(msgspec.json.encode(part)) for part in (header, claims))
    return f"{signed}.{url_encode(rs256(_private_key(account.private_key), signed.encode()))}"


def rs256(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 7518 section 3.3)."""
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def _private_key(text: str) -> rsa.RSAPrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.key(text.encode(), "PRIVATE KEY"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _credentials("private_key is not a private key in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise _credentials("private_key is not an RSA key")
    return key


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901  # shifted in place
        table.append(value)
    return tuple(table)


_TABLE: Final = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli; RFC 3720 section 12.1), against damage on the way, not against anybody."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _check(value: Secret, checksum: str, what: str) -> None:
    if len(value) > MAX_CIPHERTEXT:
        raise bad_answer(_SERVICE, f"{what} has more than {MAX_CIPHERTEXT} bytes")
    if checksum != str(crc32c(value.reveal())):
        raise bad_answer(_SERVICE, f"the checksum of {what} does not fit")


def _settings(reason: str) -> AgentError:
    return AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"gcp: {reason}")


def _credentials(reason: str) -> AgentError:
    return AgentError(ErrorCode.KMS_CREDENTIALS_INVALID, f"gcp/{_CREDENTIAL}: {reason}")


BACKEND: Final = Backend("gcp", GcpSettings, Gcp)
