"""AWS KMS and Secrets Manager as recorded; signatures are computed again from what came in."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from typing import Any, ClassVar

from agent.devkit.web import web
from tests.integration.kms.stand import PLAINTEXT, TEXT, Fake

REGION = "eu-central-1"
KEY_ID = "AKIDEXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22w=="
ARN = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KMS, SECRETS = f"kms.{REGION}.amazonaws.com", f"secretsmanager.{REGION}.amazonaws.com"


class Refused(Exception):  # noqa: N818  # an answer, not a defect
    """The service's error type."""


def problem(kind: str, status: int = 400) -> web.Response:
    body = {"__type": f"com.amazonaws.kms#{kind}", "message": f"{SECRET_KEY} may be echoed by nobody"}
    return web.json_response(body, status=status, content_type="application/x-amz-json-1.1")


class AwsFake(Fake):
    title = "aws"
    provider = "aws"
    hosts = (KMS, SECRETS)
    gets = decrypts = encrypts = True
    name = "prod/db-password"
    key_id = ARN
    binary = False
    region = REGION
    domain = "amazonaws.com"

    def settings(self) -> dict[str, Any]:
        return {"region": self.region}

    def credentials(self) -> dict[str, bytes]:
        return {
            "credential.json": json.dumps({"access_key_id": KEY_ID, "secret_access_key": SECRET_KEY}).encode()
        }

    def secrets(self) -> tuple[str, ...]:
        return SECRET_KEY, SESSION_TOKEN

    def denied(self) -> web.Response:
        return problem("AccessDeniedException")

    def missing(self) -> web.Response:
        return problem("ResourceNotFoundException")

    def busy(self) -> web.Response:
        return problem("ThrottlingException")

    def value(self) -> bytes:
        return PLAINTEXT if self.binary else TEXT.encode()

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        context = {"purpose": "unit"}
        return self._seal(plaintext, context), {"encryption_context": context}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            self._authenticate(request, body)
            target, told = request.headers["X-Amz-Target"], json.loads(body)
            actions = {
                "TrentService.Decrypt": self._decrypt,
                "TrentService.Encrypt": self._encrypt,
                "secretsmanager.GetSecretValue": self._secret,
            }
            answer = actions[target](told)
        except Refused as error:
            return problem(str(error))
        return web.json_response(answer, content_type="application/x-amz-json-1.1")

    # --- what it offers ---------------------------------------------------------------------------
    def _secret(self, told: dict[str, Any]) -> dict[str, Any]:
        if told.pop("SecretId") != self.name or any(value != "AWSPREVIOUS" for value in told.values()):
            raise Refused("ResourceNotFoundException")
        answer = {"ARN": "arn:aws:secretsmanager:x", "Name": self.name, "CreatedDate": 1.523477145713e9}
        if self.binary:
            return {**answer, "SecretBinary": base64.b64encode(PLAINTEXT).decode()}
        return {**answer, "SecretString": TEXT}

    def _encrypt(self, told: dict[str, Any]) -> dict[str, Any]:
        sealed = self._seal(base64.b64decode(told["Plaintext"]), told.get("EncryptionContext", {}))
        return {"KeyId": ARN, "CiphertextBlob": base64.b64encode(sealed).decode()}

    def _decrypt(self, told: dict[str, Any]) -> dict[str, Any]:
        if told["KeyId"] != ARN:
            raise Refused("NotFoundException")
        plaintext = self._unseal(base64.b64decode(told["CiphertextBlob"]), told.get("EncryptionContext", {}))
        return {
            "KeyId": ARN,
            "Plaintext": base64.b64encode(plaintext).decode(),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    def _seal(self, plaintext: bytes, context: dict[str, str]) -> bytes:
        masked = bytes(byte ^ 0x5A for byte in plaintext)
        return hmac.digest(b"kms", masked + json.dumps(context).encode(), "sha256") + masked

    def _unseal(self, blob: bytes, context: dict[str, str]) -> bytes:
        plaintext = bytes(byte ^ 0x5A for byte in blob[32:])
        if self._seal(plaintext, context) != blob:
            raise Refused("InvalidCiphertextException")
        return plaintext

    # --- who may ----------------------------------------------------------------------------------
    def _authenticate(self, request: web.Request, body: bytes) -> None:
        """Signature Version 4 from the other side, from the documentation and the raw head lines."""
        shape = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
            r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            request.headers.get("Authorization", ""),
        )
        if shape is None:
            raise Refused("MissingAuthenticationTokenException")
        who, day, region, service, names, signature = shape.groups()
        stamp = request.headers["X-Amz-Date"]
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.clock.wall()))
        for wrong, what in (
            (who != KEY_ID, "access key"),
            (stamp != now or not stamp.startswith(day), f"date {stamp}, {day}; now {now}"),
            (region != self.region, f"region {region}"),
            (request.host != f"{service}.{self.region}.{self.domain}", f"{service} at {request.host}"),
            (not {"host", "x-amz-date", "x-amz-target"} <= set(names.split(";")), f"signed headers {names}"),
            (request.raw_path != "/" or request.method != "POST", f"{request.method} {request.raw_path}"),
            (request.headers.get("X-Amz-Security-Token", "") != self.token(), "session token"),
            (bool(self.token()) and "x-amz-security-token" not in names, "session token is not signed"),
            (request.headers["Content-Type"] != "application/x-amz-json-1.1", "content type"),
        ):
            if wrong:
                self.complaints.append(what)
        head = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names.split(";"))
        canonical = f"POST\n/\n\n{head}\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/{region}/{service}/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + SECRET_KEY.encode()
        for part in (day, region, service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        wanted = hmac.new(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), hashlib.sha256)
        if wanted.hexdigest() != signature:
            self.complaints.append("signature")
            raise Refused("InvalidSignatureException")

    def token(self) -> str:
        """The session token of the credentials."""
        return ""


class AwsTemporaryFake(AwsFake):
    """Temporary credentials, a secret of bytes, and another version of it."""

    title = "aws-temporary"
    binary = True
    get_annotations: ClassVar = {"version_stage": "AWSPREVIOUS"}

    def credentials(self) -> dict[str, bytes]:
        content = {
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET_KEY,
            "session_token": SESSION_TOKEN,
            "comment": "unknown members are ignored",
        }
        return {"credential.json": json.dumps(content).encode()}

    def token(self) -> str:
        return SESSION_TOKEN


FAKES = (AwsFake, AwsTemporaryFake)
