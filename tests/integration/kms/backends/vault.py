"""Vault as recorded from OpenBao 2.7.2: KV version 2 and transit, with a token and with a certificate."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.devkit.pki import Authority
from agent.devkit.web import web
from tests.integration.kms.openbao import client_pem
from tests.integration.kms.stand import PLAINTEXT, TEXT, Fake

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = bytes(range(32))
CREATED = "2026-09-21T14:00:00.040038055Z"


def good(data: Any = None, auth: Any = None) -> web.Response:
    return web.json_response(
        {
            "request_id": "6309f12b-654d-f7a3-66d4-c0ad304610bf",
            "lease_id": "",
            "renewable": False,
            "lease_duration": 0,
            "data": data,
            "wrap_info": None,
            "warnings": None,
            "auth": auth,
        }
    )


def bad(status: int, *errors: str) -> web.Response:
    return web.json_response({"errors": list(errors)}, status=status)


class VaultFake(Fake):
    """What both ways in share.

    Attributes:
        derived: whether the key is, so that a context is needed.
        namespace: the only one there is.
        token: the one that is good.
        lookup: the lease that it has.
        logins: how often somebody logged in.
        lookups: how often a token's lease was looked at.
        renewals: how often a token was renewed.
    """

    provider = "vault"
    gets = decrypts = encrypts = True
    name = "secret/app/db#password"
    key_id = "transit/app"
    derived: ClassVar[bool] = False
    namespace: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.token = f"s.{os.urandom(12).hex()}"
        self.lookup: dict[str, Any] = {"ttl": 0, "expire_time": None}
        self.logins = 0
        self.lookups = 0
        self.renewals = 0

    def settings(self) -> dict[str, Any]:
        return {"address": self.url}

    def denied(self) -> web.Response:
        return bad(403, "1 error occurred:\n\t* permission denied\n\n")

    def missing(self) -> web.Response:
        return bad(404)

    def busy(self) -> web.Response:
        return bad(503, "Vault is sealed")

    def secrets(self) -> tuple[str, ...]:
        return (self.token,)

    def logs_in(self, request: web.Request) -> bool:
        return request.path.startswith("/v1/auth/")

    def stored(self) -> str:
        """The field's text."""
        return self.value().decode()

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        annotations: dict[str, object] = {"context": "Y29udGV4dA=="} if self.derived else {}
        nonce = os.urandom(12)
        sealed = nonce + self._cipher(annotations).encrypt(nonce, plaintext, None)
        return b"vault:v1:" + base64.b64encode(sealed), annotations

    def _cipher(self, body: Mapping[str, object]) -> AESGCM:
        context = base64.b64decode(str(body["context"])) if self.derived else b""
        return AESGCM(hashlib.sha256(KEY + context).digest())

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("X-Vault-Request") != "true":
            self.complaints.append("no X-Vault-Request: true")
        if request.headers.get("X-Vault-Namespace", "") != self.namespace:
            self.complaints.append("another namespace")
            return bad(404, "namespace not found")
        body = await request.json() if request.method == "POST" else {}
        if request.path == "/v1/auth/cert/login":
            return self.login(request, body)
        if request.headers.get("X-Vault-Token") != self.token:
            return bad(403, "permission denied")
        answer = self._answer(f"{request.method} {request.path}", request, body)
        if answer is None:
            self.complaints.append(f"{request.method} {request.path} is nothing")
        return answer or bad(404)

    def _answer(self, line: str, request: web.Request, body: Mapping[str, Any]) -> web.Response | None:
        answer: web.Response | None = None
        match line:
            case "GET /v1/auth/token/lookup-self":
                self.lookups += 1
                answer = good({"accessor": "jduheo9CzJ0JTE6PIuFY2RoQ", "id": self.token, **self.lookup})
            case "POST /v1/auth/token/renew-self":
                self.renewals += 1
                answer = good(auth=self.made(self.lookup["ttl"]))
            case "GET /v1/secret/data/app/db":
                answer = self._kv(request)
            case "GET /v1/transit/keys/app":
                answer = good({"name": "app", "derived": self.derived, "type": "aes256-gcm96"})
            case "POST /v1/transit/encrypt/app":
                answer = self._encrypt(body)
            case "POST /v1/transit/decrypt/app":
                answer = self._decrypt(body)
        return answer

    def login(self, request: web.Request, body: Mapping[str, Any]) -> web.Response:
        return bad(403, "permission denied")

    def made(self, life: float) -> dict[str, Any]:
        return {
            "client_token": self.token,
            "accessor": "R54S9nI8mBSRVlwZmESswvaZ",
            "policies": ["default"],
            "metadata": None,
            "lease_duration": life,
            "renewable": True,
            "token_type": "service",
        }

    def _kv(self, request: web.Request) -> web.Response:
        metadata = {
            "created_time": CREATED,
            "custom_metadata": None,
            "deletion_time": CREATED,
            "destroyed": False,
            "version": 1,
        }
        match request.query.get("version", "2"):
            case "2":
                metadata |= {"deletion_time": "", "version": 2}
                return good({"data": {"password": self.stored(), "port": 5432}, "metadata": metadata})
            case "1":
                deleted = good({"data": None, "metadata": metadata})
                deleted.set_status(404)
                return deleted
        return bad(404)

    def _encrypt(self, body: Mapping[str, Any]) -> web.Response:
        if self.derived and "context" not in body:
            return bad(400, "missing 'context' for key derivation; the key was created using a derived key")
        nonce = os.urandom(12)
        sealed = nonce + self._cipher(body).encrypt(nonce, base64.b64decode(body["plaintext"]), None)
        return good({"ciphertext": f"vault:v1:{base64.b64encode(sealed).decode()}", "key_version": 1})

    def _decrypt(self, body: Mapping[str, Any]) -> web.Response:
        if self.derived and "context" not in body:
            return bad(400, "missing 'context' for key derivation; the key was created using a derived key")
        sealed = base64.b64decode(body["ciphertext"].removeprefix("vault:v1:"))
        try:
            plaintext = self._cipher(body).decrypt(sealed[:12], sealed[12:], None)
        except InvalidTag:
            return bad(400, "cipher: message authentication failed")
        return good({"plaintext": base64.b64encode(plaintext).decode()})


class VaultToken(VaultFake):
    title = "vault-token"

    def credentials(self) -> dict[str, bytes]:
        return {"token": self.token.encode() + b"\n"}

    def value(self) -> bytes:
        return TEXT.encode()


class VaultCert(VaultFake):
    title = "vault-cert"
    namespace = "team/a"
    derived = True
    get_annotations: ClassVar[Mapping[str, object]] = {"version": 2, "encoding": "base64"}

    def __init__(self) -> None:
        super().__init__()
        self.clients = Authority("clients")
        self.identity = client_pem(self.clients)
        self.life = 3600

    def settings(self) -> dict[str, Any]:
        auth = {"method": "cert", "role": "guest"}
        return {"address": self.url, "namespace": self.namespace, "auth": auth}

    def credentials(self) -> dict[str, bytes]:
        return {"client.pem": self.identity}

    def secrets(self) -> tuple[str, ...]:
        key = self.identity.decode().partition("BEGIN PRIVATE KEY-----\n")[2]
        return (self.token, *key.splitlines()[:2])

    def stored(self) -> str:
        return base64.b64encode(PLAINTEXT).decode()

    def listens(self, context: ssl.SSLContext) -> None:
        context.load_verify_locations(cadata=self.clients.pem)
        context.verify_mode = ssl.CERT_OPTIONAL

    def login(self, request: web.Request, body: Mapping[str, Any]) -> web.Response:
        self.logins += 1
        if not request.get_extra_info("peercert"):
            return bad(400, "no client certificate found")
        if body.get("name", "guest") != "guest":
            return bad(400, "invalid certificate or no client certificate supplied")
        return good(auth=self.made(self.life))


FAKES = (VaultToken, VaultCert)
