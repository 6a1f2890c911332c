"""A guest written for these tests only: its crypto comes from jwcrypto, its hashing from rfc8785."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import rfc8785
from jwcrypto import jwe, jwk, jws  # type: ignore[import-untyped]

from agent.devkit.kbs.answers import Answer, Call

if TYPE_CHECKING:
    from agent.devkit.kbs.broker import Broker

REQUEST = {"version": "0.4.0", "tee": "sample", "extra-params": ""}
RFC7515_KEY = {
    "alg": "ECDH-ES+A256KW",
    "crv": "P-256",
    "kty": "EC",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


def digest(value: Any, algorithm: str = "sha384") -> bytes:
    return hashlib.new(algorithm, rfc8785.dumps(value)).digest()


def evidence(data: bytes, svn: str = "1") -> dict[str, str]:
    return {"svn": svn, "report_data": base64.b64encode(data).decode()}


@dataclass
class Guest:
    """One TEE key and the bodies a guest sends."""

    curve: str = "P-256"
    key: jwk.JWK = field(init=False)

    def __post_init__(self) -> None:
        self.key = jwk.JWK.generate(kty="EC", crv=self.curve)

    @property
    def public(self) -> dict[str, str]:
        members = json.loads(self.key.export_public())
        return {name: members[name] for name in ("kty", "crv", "x", "y")} | {"alg": "ECDH-ES+A256KW"}

    def attestation(
        self,
        nonce: str,
        *,
        device: bool = False,
        init_data: dict[str, str] | None = None,
        algorithm: str = "sha384",
    ) -> dict[str, Any]:
        runtime = {"nonce": nonce, "tee-pubkey": self.public}
        additional = ""
        if device:
            additional = json.dumps({"sampledevice": evidence(digest(runtime, algorithm), "2")})
        primary = digest({"additional-evidence": additional, **runtime}, algorithm)
        return {
            "init-data": init_data,
            "runtime-data": runtime,
            "tee-evidence": {"primary_evidence": evidence(primary), "additional_evidence": additional},
        }

    def decrypt(self, body: bytes) -> bytes:
        box = jwe.JWE(algs=["ECDH-ES+A256KW", "A256GCM", "RSA-OAEP-256"])
        box.deserialize(body.decode(), self.key)
        plaintext: bytes = box.payload
        return plaintext


def post(path: str, body: Any, cookie: str = "") -> Call:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call("POST", tuple(path.split("/")), cookie=cookie, body=raw)


def get(path: str, *, cookie: str = "", bearer: str = "") -> Call:
    return Call("GET", tuple(path.split("/")), cookie=cookie, bearer=bearer)


def cookie_of(answer: Answer) -> str:
    return answer.cookie.partition(";")[0].partition("=")[2]


def attest(broker: Broker, guest: Guest, **options: Any) -> tuple[str, str]:
    """A whole handshake; the token and the cookie."""
    challenge = broker.answer(post("auth", REQUEST))
    cookie = cookie_of(challenge)
    body = guest.attestation(json.loads(challenge.body)["nonce"], **options)
    reply = broker.answer(post("attest", body, cookie))
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["token"], cookie


def claims_of(jwt: str) -> dict[str, Any]:
    """The claims, after jwcrypto has verified them with the key in the header."""
    signed = jws.JWS()
    signed.deserialize(jwt)
    key = jwk.JWK(**signed.jose_header["jwk"])
    signed.verify(key, alg="ES256")
    claims: dict[str, Any] = json.loads(signed.payload)
    return claims


def problem(answer: Answer) -> tuple[int, str, str]:
    """Status, last part of the type, detail."""
    body = json.loads(answer.body)
    base, _, kind = body["type"].rpartition("/")
    assert base == "https://github.com/confidential-containers/kbs/errors"
    assert set(body) == {"type", "detail"}
    return answer.status, kind, body["detail"]
