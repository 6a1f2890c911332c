"""Key Vault, Microsoft's token service and the metadata service as recorded; keys are real RSA-OAEP-256."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from agent.devkit.web import web
from tests.integration.kms.stand import TEXT, Fake

VAULT, LOGIN, METADATA = "contoso-kv1.vault.azure.net", "login.microsoftonline.com", "169.254.169.254"
TENANT = "11111111-2222-3333-4444-555555555555"
CLIENT = "66666666-7777-8888-9999-aaaaaaaaaaaa"
CLIENT_SECRET = "c1ient~s3cret.&+= %"
TOKEN = "eyJ0eXAi-c4n4ry"
VERSION = "0123456789abcdef0123456789abcdef"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@cache
def vault_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def problem(status: int, code: str, inner: str | None = None) -> web.Response:
    error: dict[str, Any] = {"code": code, "message": f"{TOKEN} may be echoed by nobody"}
    if inner:
        error["innererror"] = {"code": inner}
    return web.json_response({"error": error}, status=status)


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class AzureFake(Fake):
    title = "azure"
    provider = "azure"
    hosts: ClassVar[tuple[str, ...]] = (VAULT, LOGIN)
    gets = decrypts = encrypts = True
    name = "db-password"
    key_id = f"wrap-key/{VERSION}"
    secret_path = "/secrets/db-password?api-version=7.4"

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0

    def settings(self) -> dict[str, Any]:
        return {"vault_url": f"https://{VAULT}/"}

    def credentials(self) -> dict[str, bytes]:
        application = {"tenant_id": TENANT, "client_id": CLIENT, "client_secret": CLIENT_SECRET}
        return {"credential.json": json.dumps(application).encode()}

    def secrets(self) -> tuple[str, ...]:
        return TOKEN, CLIENT_SECRET

    def denied(self) -> web.Response:
        return problem(403, "Forbidden", "ForbiddenByRbac")

    def missing(self) -> web.Response:
        return problem(404, "SecretNotFound")

    def busy(self) -> web.Response:
        return problem(429, "Throttled")

    def value(self) -> bytes:
        return TEXT.encode()

    def logs_in(self, request: web.Request) -> bool:
        return request.host in {LOGIN, METADATA}

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        return vault_key().public_key().encrypt(plaintext, OAEP), {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if self.logs_in(request):
            return self._login(request, body)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}{self.tokens}":
            return problem(401, "Unauthorized")
        if (request.method, request.raw_path) == ("GET", self.secret_path):
            return web.json_response(
                {"value": TEXT, "id": f"https://{VAULT}/secrets/db-password/{VERSION}", "attributes": {}}
            )
        for operation in ("encrypt", "decrypt"):
            if (request.method, request.raw_path) == (
                "POST",
                f"/keys/{self.key_id}/{operation}?api-version=7.4",
            ):
                return self._operate(operation, json.loads(body))
        return problem(404, "KeyNotFound")

    def _operate(self, operation: str, told: dict[str, str]) -> web.Response:
        if set(told) != {"alg", "value"} or told["alg"] != "RSA-OAEP-256" or "=" in told["value"]:
            self.complaints.append(f"{operation} with members {sorted(told)}")
        given = unb64url(told["value"])
        try:
            result = (
                vault_key().decrypt(given, OAEP)
                if operation == "decrypt"
                else vault_key().public_key().encrypt(given, OAEP)
            )
        except ValueError:
            return problem(400, "BadParameter")
        return web.json_response({"kid": f"https://{VAULT}/keys/{self.key_id}", "value": b64url(result)})

    def _login(self, request: web.Request, body: bytes) -> web.Response:
        wanted = {
            "grant_type": ["client_credentials"],
            "client_id": [CLIENT],
            "client_secret": [CLIENT_SECRET],
            "scope": ["https://vault.azure.net/.default"],
        }
        if (request.method, request.raw_path) != ("POST", f"/{TENANT}/oauth2/v2.0/token"):
            self.complaints.append(f"{request.method} {request.raw_path}")
        if parse_qs(body.decode(), strict_parsing=True) != wanted:
            return web.json_response(
                {"error": "invalid_client", "error_description": f"AADSTS7000215: {CLIENT_SECRET}"},
                status=401,
            )
        return self._token(3599)

    def _token(self, seconds: int | str) -> web.Response:
        self.tokens += 1
        token = {"access_token": f"{TOKEN}{self.tokens}", "expires_in": seconds, "token_type": "Bearer"}
        return web.json_response(token)


class AzureIdentityFake(AzureFake):
    """The managed identity of the machine, chosen among several, and one version of a secret."""

    title = "azure-identity"
    hosts = (VAULT,)
    plain_hosts = (METADATA,)
    needs_credentials = False
    name = f"db-password/{VERSION}"
    secret_path = f"/secrets/db-password/{VERSION}?api-version=7.4"

    def settings(self) -> dict[str, Any]:
        return {"vault_url": f"https://{VAULT}", "auth": "managed_identity", "client_id": CLIENT}

    def credentials(self) -> dict[str, bytes]:
        return {}

    def _login(self, request: web.Request, body: bytes) -> web.Response:
        wanted = {
            "api-version": "2018-02-01",
            "resource": "https://vault.azure.net",
            "client_id": CLIENT,
        }
        if request.headers.get("Metadata") != "true" or "X-Forwarded-For" in request.headers:
            self.complaints.append("no header Metadata")
        if request.path != "/metadata/identity/oauth2/token" or dict(request.query) != wanted:
            self.complaints.append(f"{request.method} {request.raw_path}")
        if "Authorization" in request.headers or body:
            self.complaints.append("something of ours went to the metadata service")
        return self._token("86399")


FAKES = (AzureFake, AzureIdentityFake)
