"""Google's token service, Secret Manager and KMS as recorded; the JWT is verified with the account's key."""

from __future__ import annotations

import base64
import hmac
import json
import re
from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwcrypto import jwk, jws  # type: ignore[import-untyped]

from agent.devkit.web import web
from tests.integration.kms.stand import PLAINTEXT, Fake

EMAIL = "guest@some-project.iam.gserviceaccount.com"
KEY = "projects/some-project/locations/europe-west3/keyRings/ring_1/cryptoKeys/wrap-1"
TOKENS, KMS, SECRETS = "oauth2.googleapis.com", "cloudkms.googleapis.com", "secretmanager.googleapis.com"
REGIONAL = "secretmanager.europe-west3.rep.googleapis.com"
TOKEN = "ya29.c4n4ry-token"
SECRET = "projects/123456789012/secrets/db_password"


@cache
def account_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def account_pem() -> str:
    return (
        account_key()
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        .decode()
    )


def crc32c(data: bytes) -> int:
    """Bit by bit, from the polynomial (RFC 3720, 12.1)."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF


def problem(status: int, name: str) -> web.Response:
    error = {"code": status, "message": f"{TOKEN} may be echoed by nobody", "status": name}
    return web.json_response({"error": error}, status=status)


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """Status and name."""


class GcpFake(Fake):
    title = "gcp"
    provider = "gcp"
    hosts = (TOKENS, KMS, SECRETS)
    gets = decrypts = encrypts = True
    name = f"{SECRET}/versions/7"
    key_id = KEY
    secret_host = SECRETS
    secret_path = f"/v1/{SECRET}/versions/7:access"

    def __init__(self) -> None:
        super().__init__()
        self.tokens = 0

    def settings(self) -> dict[str, Any]:
        return {}

    def credentials(self) -> dict[str, bytes]:
        account = {
            "type": "service_account",
            "project_id": "some-project",
            "private_key_id": "key-1",
            "private_key": account_pem(),
            "client_email": EMAIL,
            "token_uri": "https://oauth2.googleapis.com/token",
        }
        return {"credential.json": json.dumps(account).encode()}

    def secrets(self) -> tuple[str, ...]:
        return TOKEN, account_pem().splitlines()[3]

    def denied(self) -> web.Response:
        return problem(403, "PERMISSION_DENIED")

    def missing(self) -> web.Response:
        return problem(404, "NOT_FOUND")

    def busy(self) -> web.Response:
        return problem(429, "RESOURCE_EXHAUSTED")

    def logs_in(self, request: web.Request) -> bool:
        return request.host == TOKENS

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        masked = bytes(byte ^ 0x5A for byte in plaintext)
        return hmac.digest(b"gcp", masked, "sha256") + masked, {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.host == TOKENS:
            return self._token(request, body)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}{self.tokens}":
            return problem(401, "UNAUTHENTICATED")
        try:
            return web.json_response(self._serve(request, body))
        except Refused as error:
            return problem(*error.args)

    def _serve(self, request: web.Request, body: bytes) -> dict[str, Any]:
        if request.host == self.secret_host:
            if (request.method, request.raw_path) != ("GET", self.secret_path):
                raise Refused(404, "NOT_FOUND")
            data = base64.b64encode(PLAINTEXT).decode()
            return {
                "name": self.secret_path[4:-7],
                "payload": {"data": data, "dataCrc32c": str(crc32c(PLAINTEXT))},
            }
        told = json.loads(body)
        match re.fullmatch(r"/v1/(.+):(encrypt|decrypt)", request.raw_path):
            case re.Match() as found if found[1] == KEY and request.host == KMS:
                return self._encrypt(told) if found[2] == "encrypt" else self._decrypt(told)
        raise Refused(404, "NOT_FOUND")

    def _encrypt(self, told: dict[str, Any]) -> dict[str, Any]:
        plaintext = base64.b64decode(told["plaintext"])
        if told["plaintextCrc32c"] != str(crc32c(plaintext)):
            self.complaints.append("checksum of the plaintext")
        ciphertext = self.wrap(plaintext)[0]
        return {
            "name": f"{KEY}/cryptoKeyVersions/1",
            "ciphertext": base64.b64encode(ciphertext).decode(),
            "ciphertextCrc32c": str(crc32c(ciphertext)),
            "verifiedPlaintextCrc32c": True,
            "protectionLevel": "SOFTWARE",
        }

    def _decrypt(self, told: dict[str, Any]) -> dict[str, Any]:
        ciphertext = base64.b64decode(told["ciphertext"])
        if told["ciphertextCrc32c"] != str(crc32c(ciphertext)):
            self.complaints.append("checksum of the ciphertext")
        plaintext = bytes(byte ^ 0x5A for byte in ciphertext[32:])
        if self.wrap(plaintext)[0] != ciphertext:
            raise Refused(400, "INVALID_ARGUMENT")
        return {
            "plaintext": base64.b64encode(plaintext).decode(),
            "plaintextCrc32c": str(crc32c(plaintext)),
            "usedPrimary": True,
        }

    def _token(self, request: web.Request, body: bytes) -> web.Response:
        form = parse_qs(body.decode(), strict_parsing=True)
        told = jws.JWS()
        try:
            told.deserialize(form["assertion"][0])
            told.verify(jwk.JWK.from_pyca(account_key().public_key()), alg="RS256")
        except jws.InvalidJWSSignature:
            return web.json_response(
                {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, status=400
            )
        claims, head = json.loads(told.payload), told.jose_header
        now = int(self.clock.wall())
        for wrong, what in (
            ((request.method, request.raw_path) != ("POST", "/token"), "address of the token service"),
            (form["grant_type"] != ["urn:ietf:params:oauth:grant-type:jwt-bearer"], "grant type"),
            (head.get("kid") != "key-1", "key id"),
            (claims["iss"] != EMAIL or claims["aud"] != "https://oauth2.googleapis.com/token", "claims"),
            (claims["scope"] != "https://www.googleapis.com/auth/cloud-platform", "scope"),
            (claims["iat"] != now or not 0 < claims["exp"] - now <= 3600, "times"),
        ):
            if wrong:
                self.complaints.append(what)
        self.tokens += 1
        return web.json_response(
            {"access_token": f"{TOKEN}{self.tokens}", "expires_in": 3599, "token_type": "Bearer"}
        )


class GcpRegionalFake(GcpFake):
    """A regional secret, its version in the annotations, with a key file of the older form."""

    title = "gcp-regional"
    hosts = (TOKENS, KMS, REGIONAL)
    name = "projects/example.com:some-project/locations/europe-west3/secrets/db_password"
    get_annotations: ClassVar = {"version": "prod"}
    secret_host = REGIONAL
    secret_path = f"/v1/{name}/versions/prod:access"

    def credentials(self) -> dict[str, bytes]:
        account = json.loads(super().credentials()["credential.json"])
        account["token_uri"] = "https://accounts.google.com/o/oauth2/token"
        return {"credential.json": json.dumps(account).encode()}


FAKES = (GcpFake, GcpRegionalFake)
