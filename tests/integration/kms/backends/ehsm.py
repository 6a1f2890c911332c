"""eHSM-KMS as its server's sources have it; the signature is computed again from what came in."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from agent.devkit.web import web
from tests.integration.kms.stand import PLAINTEXT, Fake

APP = "86f0e9fe-7f05-4110-9f65-a224ddee1233"
API_KEY = "jNev7QHpvJ55LRG6-c4n4ry"
KEY = "fe2d0d2c-5d5f-4a1c-9c8b-1d6d9d0d6f11"


def said(code: int, message: str, result: dict[str, str] | None = None) -> web.Response:
    """Always with status 200."""
    return web.json_response({"code": code, "message": message, "result": result or {}})


def flat(members: dict[str, Any]) -> str:
    """``k=v`` of all that is not empty, sorted, the payload in the same way."""
    parts = []
    for key in sorted(members):
        value = members[key]
        if value:
            parts.append(f"{key}={flat(value)}" if isinstance(value, dict) else f"{key}={value}")
    return "&".join(parts)


class EhsmFake(Fake):
    title = "ehsm"
    provider = "ehsm"
    decrypts = encrypts = True
    key_id = KEY

    def __init__(self) -> None:
        super().__init__()
        self.nonces: set[str] = set()

    def settings(self) -> dict[str, Any]:
        return {"app_id": APP, "endpoint": self.url}

    def credentials(self) -> dict[str, bytes]:
        return {f"credential_{APP}.json": json.dumps({"AppId": APP, "ApiKey": API_KEY}).encode()}

    def secrets(self) -> tuple[str, ...]:
        return (API_KEY,)

    def denied(self) -> web.Response:
        return said(400, "sign error")

    def missing(self) -> web.Response:
        return said(400, "keyid error")

    def busy(self) -> web.Response:
        return said(500, "Server internal error, please contact the administrator.")

    def garbage(self) -> tuple[bytes, ...]:
        return (*super().garbage(), b'{"code":200,"message":"","result":{}}', b'{"code":200,"result":null}')

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        return self._seal(base64.b64encode(plaintext).decode()).encode(), {}

    def _seal(self, text: str) -> str:
        masked = bytes(byte ^ 0x5A for byte in text.encode())
        return base64.b64encode(hmac.digest(b"ehsm", masked, "sha256") + masked).decode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        told = await request.json()
        sign = told.pop("sign")
        wanted = base64.b64encode(hmac.digest(API_KEY.encode(), flat(told).encode(), "sha256")).decode()
        if sign != wanted:
            self.complaints.append("signature")
            return said(400, "sign error")
        if set(told) != {"appid", "nonce", "payload", "timestamp"} or told["appid"] != APP:
            return said(400, "Missing required parameters")
        if told["nonce"] in self.nonces:
            self.complaints.append("a nonce twice")
        self.nonces.add(told["nonce"])
        if told["timestamp"] != str(int(self.clock.wall() * 1000)) or len(told["timestamp"]) != 13:
            return said(400, "Timestamp error")
        return self._act(request.raw_path, told["payload"])

    def _act(self, path: str, payload: dict[str, str]) -> web.Response:
        if payload.pop("keyid") != KEY:
            return said(400, "keyid error")
        match path, payload:
            case "/ehsm?Action=Encrypt", {"plaintext": text}:
                return said(200, "successful", {"ciphertext": self._seal(text)})
            case "/ehsm?Action=Decrypt", {"ciphertext": text}:
                try:
                    blob = base64.b64decode(text, validate=True)
                except ValueError:
                    return said(400, "The ciphertext's length or encoding is wrong")
                plain = bytes(byte ^ 0x5A for byte in blob[32:]).decode("latin-1")
                if self._seal(plain) != text:
                    return said(400, f"Decrypt failed for {PLAINTEXT!r}")
                return said(200, "successful", {"plaintext": plain})
        self.complaints.append(f"{path} with {sorted(payload)}")
        return said(404, "Not Found")


FAKES = (EhsmFake,)
