"""Azure Key Vault: secrets, and keys that unwrap with RSA-OAEP-256.

Formats: Key Vault REST API 7.4 (``GET secrets/{name}/{version}``, ``POST keys/{name}/{version}/decrypt``);
tokens by client secret (RFC 6749 section 4.4) at login.microsoftonline.com, or of the virtual machine's
managed identity at its metadata service.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import url_decode, url_encode
from agent.hub.kms.answers import bad_answer, bearer, parse_answer, parse_refusal, refused
from agent.hub.kms.base import Backend, Context, read_annotations
from agent.hub.kms.credentials import Hidden, parse_credentials
from agent.hub.kms.leases import Lease, Leases
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.http import KmsAnswer

LOGIN: Final = "https://login.microsoftonline.com"
METADATA: Final = "http://169.254.169.254/metadata/identity/oauth2/token"
RESOURCE: Final = "https://vault.azure.net"
API: Final = "api-version=7.4"
ALGORITHM: Final = "RSA-OAEP-256"

_SERVICE: Final = "Azure Key Vault"
_CREDENTIAL: Final = "credential.json"
_VAULT: Final = re.compile(r"https://[A-Za-z](?:-?[A-Za-z0-9]){2,23}\.vault\.azure\.net/?", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,127}", re.ASCII)
_VERSION: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_TENANT: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]|\.(?=[A-Za-z0-9])){0,127}", re.ASCII)
_CLIENT: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", re.ASCII)
_KID: Final = re.compile(r"https://[!-~]{1,512}/keys/[A-Za-z0-9-]{1,127}/[0-9a-f]{32}", re.ASCII)
_CODES: Final = {
    "Unauthorized": ErrorCode.KMS_DENIED,
    "Forbidden": ErrorCode.KMS_DENIED,
    "AccessDenied": ErrorCode.KMS_DENIED,
    "ForbiddenByPolicy": ErrorCode.KMS_DENIED,
    "ForbiddenByRbac": ErrorCode.KMS_DENIED,
    "ForbiddenByFirewall": ErrorCode.KMS_DENIED,
    "ForbiddenByConnection": ErrorCode.KMS_DENIED,
    "SecretDisabled": ErrorCode.KMS_DENIED,
    "KeyDisabled": ErrorCode.KMS_DENIED,
    # What was encrypted with another key, or a key that must not decrypt.
    "BadParameter": ErrorCode.KMS_DENIED,
    "KeyOperationForbidden": ErrorCode.KMS_DENIED,
    "SecretNotFound": ErrorCode.KMS_NOT_FOUND,
    "KeyNotFound": ErrorCode.KMS_NOT_FOUND,
    "VaultNotFound": ErrorCode.KMS_NOT_FOUND,
    "Throttled": ErrorCode.KMS_BUSY,
    "TooManyRequests": ErrorCode.KMS_BUSY,
    "InternalError": ErrorCode.KMS_BUSY,
    "ServiceUnavailable": ErrorCode.KMS_BUSY,
}
_TOKEN_CODES: Final = {
    "invalid_client": ErrorCode.KMS_DENIED,
    "invalid_grant": ErrorCode.KMS_DENIED,
    "invalid_request": ErrorCode.KMS_DENIED,
    "invalid_resource": ErrorCode.KMS_DENIED,
    "invalid_scope": ErrorCode.KMS_DENIED,
    "unauthorized_client": ErrorCode.KMS_DENIED,
    "access_denied": ErrorCode.KMS_DENIED,
    "temporarily_unavailable": ErrorCode.KMS_BUSY,
    "server_error": ErrorCode.KMS_BUSY,
}
"""RFC 6749 section 5.2, and what Microsoft adds."""


class AzureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``provider_settings``.

    Attributes:
        vault_url: ``https://<vault>.vault.azure.net``, or an address of ``kms.endpoints``.
        auth: ``client_secret`` or ``managed_identity``.
        client_id: which one of several managed identities.
    """

    vault_url: str
    auth: str = "client_secret"
    client_id: str = ""


class AzureAnnotations(msgspec.Struct, frozen=True):
    """What a request for a secret may say.

    Attributes:
        version: 32 hexadecimal digits, for a name without one; empty for the newest.
    """

    version: str = ""


class Application(Hidden, frozen=True):
    """``credential.json``: an application with a client secret.

    Attributes:
        tenant_id: UUID or domain.
        client_id: UUID.
        client_secret: its value, not its id.
    """

    tenant_id: str
    client_id: str
    client_secret: str


class _Token(Hidden, frozen=True):
    access_token: str
    expires_in: int | str  # the metadata service writes numbers as strings
    token_type: str = "Bearer"  # noqa: S105  # a word


class _TokenRefusal(msgspec.Struct, frozen=True):
    error: str = ""


class _Inner(msgspec.Struct, frozen=True):
    code: str = ""


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    innererror: _Inner | None = None


class _Refusal(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class _Secret(Hidden, frozen=True):
    value: str


class _Result(Hidden, frozen=True):
    kid: str
    value: str


class Azure:
    """A Getter (secrets), Decrypter and Encrypter (keys) of one vault."""

    def __init__(self, vault: str, settings: AzureSettings, context: Context) -> None:
        """Prepare.

        Args:
            vault: address that was checked, without slash at its end.
            settings: how to log in.
            context: credentials, way out, clock.
        """
        self._vault = vault
        self._settings = settings
        self._context = context
        self._tokens: Leases[Secret] = Leases(context.clock, Secret.wipe)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`.

        ``name`` is ``<secret>`` or ``<secret>/<version>``. The value is text; its UTF-8 bytes are returned.

        Raises:
            AgentError: KMS_*.
        """
        given = read_annotations(annotations, AzureAnnotations, "azure").version
        secret, slash, version = name.partition("/")
        path = _path("secrets", secret, version if slash else given, newest=not slash)
        answer = await self._call("GET", f"{self._vault}/{path}?{API}", b"", deadline)
        return Secret(parse_answer(answer, _Secret, _SERVICE).value.encode())

    async def decrypt(
        self,
        ciphertext: bytes,
        key_id: str,
        annotations: Mapping[str, object],  # noqa: ARG002  # the key's name has its version
        deadline: Deadline,
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`; ``key_id`` is ``<key>/<version>``."""
        return await self._operate("decrypt", ciphertext, key_id, deadline)

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`; there are no annotations."""
        return (await self._operate("encrypt", plaintext.reveal(), key_id, deadline)).reveal(), {}

    def close(self) -> None:
        """Forget the token."""
        self._tokens.close()

    async def _operate(self, what: str, value: bytes, key_id: str, deadline: Deadline) -> Secret:
        name, _, version = key_id.partition("/")
        # A secret outlives the newest version of its key, so the version is part of the name.
        path = _path("keys", name, version, newest=False)
        body = msgspec.json.encode({"alg": ALGORITHM, "value": url_encode(value)})
        answer = await self._call("POST", f"{self._vault}/{path}/{what}?{API}", body, deadline)
        result = parse_answer(answer, _Result, _SERVICE)
        if not _KID.fullmatch(result.kid) or not result.kid.endswith(f"/{path}"):
            raise bad_answer(_SERVICE, "another key was used")
        try:
            return Secret(url_decode(result.value.rstrip("=")))
        except ValueError:
            raise bad_answer(_SERVICE, "value is not base64url") from None

    async def _call(self, method: str, url: str, body: bytes, deadline: Deadline) -> KmsAnswer:
        token = await self._tokens.get(self._read, self._login, deadline)
        answer = await self._send(method, url, body, token, deadline)
        if answer.status == 401:
            token = await self._tokens.get(self._read, self._login, deadline, stale=token)
            answer = await self._send(method, url, body, token, deadline)
        if answer.status != 200:
            refusal = parse_refusal(answer, _Refusal)
            raise refused(answer, _SERVICE, _said(refusal.error) if refusal else (), _CODES)
        return answer

    async def _send(self, method: str, url: str, body: bytes, token: Secret, deadline: Deadline) -> KmsAnswer:
        headers = {"Authorization": f"Bearer {token.reveal().decode()}"}
        if body:
            headers["Content-Type"] = "application/json"
        return await self._context.http.send(method, url, headers, body, deadline)

    async def _read(self, deadline: Deadline) -> Secret:
        if self._settings.auth == "managed_identity":
            return Secret(b"")  # the machine's own
        return await self._context.credentials.read("azure", _CREDENTIAL, deadline)

    async def _login(self, content: Secret, deadline: Deadline) -> Lease[Secret]:
        if self._settings.auth == "managed_identity":
            query = {"api-version": "2018-02-01", "resource": RESOURCE}
            if self._settings.client_id:
                query["client_id"] = self._settings.client_id
            # T-KMS-13: the host plays this service. It gets nothing of ours, and what it gives only opens a
            # vault whose name and certificate it does not choose.
            url = f"{METADATA}?{urlencode(query)}"
            answer = await self._context.http.send("GET", url, {"Metadata": "true"}, b"", deadline)
            return _token(answer, "Azure's metadata service")
        application = parse_credentials(content, Application, f"azure/{_CREDENTIAL}")
        if not _TENANT.fullmatch(application.tenant_id):
            raise AgentError(
                ErrorCode.KMS_CREDENTIALS_INVALID,
                f"azure/{_CREDENTIAL}: tenant_id is neither UUID nor domain",
            )
        form = {
            "grant_type": "client_credentials",
            "client_id": application.client_id,
            "client_secret": application.client_secret,
            "scope": f"{RESOURCE}/.default",
        }
        url = f"{LOGIN}/{application.tenant_id}/oauth2/v2.0/token"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(form).encode()
        answer = await self._context.http.send("POST", url, headers, body, deadline)
        return _token(answer, "Azure's token service")


def _token(answer: KmsAnswer, service: str) -> Lease[Secret]:
    if answer.status != 200:
        refusal = parse_refusal(answer, _TokenRefusal)
        raise refused(answer, service, (refusal.error,) if refusal else (), _TOKEN_CODES)
    token = parse_answer(answer, _Token, service)
    value = bearer(token.access_token, token.token_type, service)
    text = str(token.expires_in)
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise bad_answer(service, "expires_in is no number of seconds")
    return Lease(value, float(text))


def _said(error: _Error) -> tuple[str, ...]:
    return (error.innererror.code, error.code) if error.innererror else (error.code,)


def _path(kind: str, name: str, version: str, *, newest: bool) -> str:
    # T-KMS-11
    if not _NAME.fullmatch(name):
        raise _settings(f"the name in {kind} has more than letters, digits and '-'")
    if not version and newest:
        return f"{kind}/{name}"
    if not _VERSION.fullmatch(version):
        raise _settings(f"{kind} are named <name>/<version>, the version with 32 hexadecimal digits")
    return f"{kind}/{name}/{version}"


def _settings(reason: str) -> AgentError:
    return AgentError(ErrorCode.KMS_SETTINGS_INVALID, f"azure: {reason}")


def _open(given: AzureSettings, context: Context) -> Azure:
    if given.auth not in {"client_secret", "managed_identity"}:
        raise _settings("auth is client_secret or managed_identity")
    if given.client_id and not _CLIENT.fullmatch(given.client_id):
        raise _settings("client_id is not a UUID")
    # T-KMS-14: a token for all vaults goes to Microsoft's hosts, or where measured configuration says.
    if _VAULT.fullmatch(given.vault_url):
        vault = given.vault_url.rstrip("/")
    else:
        vault = context.http.allowed(given.vault_url)
    return Azure(vault, given, context)


BACKEND: Final = Backend("azure", AzureSettings, _open)
