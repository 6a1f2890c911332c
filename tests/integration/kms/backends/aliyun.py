"""Alibaba Cloud KMS as recorded: a dedicated instance, the shared service, and the metadata service.

Protobuf is read and written by hand here, from the field numbers of the vendor's interface; signatures are
verified from what came in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from email.utils import formatdate
from functools import cache
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from agent.devkit.pki import Authority
from agent.devkit.web import web
from tests.integration.kms.stand import TEXT, Fake

INSTANCE = "kst-hzz62ee817bvyyr5x"
CLIENT_KEY = "KAAP.f4c8-4b1e.x1"
PASSWORD = "c4n4ry-of-the-password"
KMS_KEY = "key-hzz62f1cb66fa42qo"
INSTANCE_HOST = f"{INSTANCE}.cryptoservice.kms.aliyuncs.com"
REGION_HOST = "kms.cn-hangzhou.aliyuncs.com"
METADATA = "100.100.100.200"
ACCESS_KEY, ACCESS_SECRET = "STS.NUgYrLnoC37mZZCNn", "s3ssion+s3cret/c4n4ry"
SECURITY_TOKEN = "CAIS+c4n4ry/t0ken=="
METADATA_TOKEN = "m3tadata-c4n4ry=="

Fields = dict[int, bytes | int]


@cache
def client_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def client_key_file() -> bytes:
    """Encrypted as the console does it: PBES1 with SHA-1 and 3DES."""
    locked = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(2048)
        .key_cert_algorithm(pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC)
        .hmac_hash(hashes.SHA1())  # noqa: S303  # the format's
        .build(PASSWORD.encode())
    )
    data = pkcs12.serialize_key_and_certificates(b"client", client_key(), None, None, locked)
    return json.dumps({"KeyId": CLIENT_KEY, "PrivateKeyData": base64.b64encode(data).decode()}).encode()


@cache
def instance_ca() -> str:
    return Authority("the instance's own CA").pem


# --- protobuf, proto3, by hand --------------------------------------------------------------------
def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def write(fields: Fields) -> bytes:
    out = b""
    for number, value in fields.items():
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def read(data: bytes) -> Fields:
    fields: Fields = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            fields[key >> 3] = number()
        else:
            assert key & 7 == 2
            size = number()
            fields[key >> 3] = data[at : at + size]
            at += size
    return fields


def problem(status: int, code: str) -> web.Response:
    fields: Fields = {1: status, 2: code.encode(), 3: f"{PASSWORD} may be echoed by nobody".encode(), 4: b"r"}
    return web.Response(body=write(fields), status=status, content_type="application/x-protobuf")


class AliyunClientKeyFake(Fake):
    title = "aliyun-client-key"
    provider = "aliyun"
    hosts = (INSTANCE_HOST,)
    gets = decrypts = encrypts = True
    name = "db/password@prod"
    key_id = KMS_KEY

    def settings(self) -> dict[str, Any]:
        return {"client_type": "client_key", "client_key_id": CLIENT_KEY, "kms_instance_id": INSTANCE}

    def credentials(self) -> dict[str, bytes]:
        return {
            f"clientKey_{CLIENT_KEY}.json": client_key_file(),
            f"password_{CLIENT_KEY}.json": f"{PASSWORD}\n".encode(),
            f"PrivateKmsCA_{INSTANCE}.pem": instance_ca().encode(),
        }

    def secrets(self) -> tuple[str, ...]:
        return (PASSWORD,)

    def denied(self) -> web.Response:
        return problem(403, "Forbidden.NoPermission")

    def missing(self) -> web.Response:
        return problem(404, "Forbidden.ResourceNotFound")

    def busy(self) -> web.Response:
        return problem(429, "Rejected.Throttling")

    def value(self) -> bytes:
        return TEXT.encode()

    def wrap(self, plaintext: bytes) -> tuple[bytes, dict[str, object]]:
        iv = b"twelve bytes"
        return self._seal(plaintext, iv), {"iv": base64.b64encode(iv).decode()}

    def _seal(self, plaintext: bytes, iv: bytes) -> bytes:
        masked = bytes(byte ^ 0x5A for byte in plaintext)
        return hmac.digest(b"aliyun", iv + masked, "sha256") + masked

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if not self._authentic(request, body):
            return problem(403, "SignatureDoesNotMatch")
        told = read(body)
        match request.headers["x-kms-apiname"]:
            case "GetSecretValue":
                return self._secret(told)
            case "Encrypt":
                return self._encrypt(told)
            case "Decrypt":
                return self._decrypt(told)
        return problem(404, "UnsupportedOperation")

    def _secret(self, told: Fields) -> web.Response:
        if told != {1: self.name.encode(), 4: 1}:
            return problem(404, "Forbidden.ResourceNotFound")
        return self._good({1: self.name.encode(), 2: b"Generic", 3: TEXT.encode(), 4: b"text", 8: b"r"})

    def _encrypt(self, told: Fields) -> web.Response:
        if set(told) != {1, 2, 3} or told[1] != KMS_KEY.encode() or told[3] != b"AES_GCM":
            return problem(404, "Forbidden.KeyNotFound")
        iv, plaintext = b"another iv..", told[2]
        assert isinstance(plaintext, bytes)
        return self._good({1: KMS_KEY.encode(), 2: self._seal(plaintext, iv), 3: iv, 4: b"r", 5: b"AES_GCM"})

    def _decrypt(self, told: Fields) -> web.Response:
        if set(told) != {1, 2, 3, 5} or told[2] != KMS_KEY.encode() or told[3] != b"AES_GCM":
            return problem(404, "Forbidden.KeyNotFound")
        blob, iv = told[1], told[5]
        assert isinstance(blob, bytes)
        assert isinstance(iv, bytes)
        plaintext = bytes(byte ^ 0x5A for byte in blob[32:])
        if self._seal(plaintext, iv) != blob:
            return problem(400, "InvalidParameter")
        return self._good({1: KMS_KEY.encode(), 2: plaintext, 3: b"r", 4: b"AES_GCM"})

    def _good(self, fields: Fields) -> web.Response:
        return web.Response(body=write(fields), content_type="application/x-protobuf")

    def _authentic(self, request: web.Request, body: bytes) -> bool:
        head = request.headers
        digest = hashlib.sha256(body).hexdigest().upper()
        for wrong, what in (
            ((request.method, request.raw_path) != ("POST", "/"), f"{request.method} {request.raw_path}"),
            (head["date"] != formatdate(self.clock.wall(), usegmt=True), f"date {head['date']}"),
            (head["Content-Sha256"] != digest, "digest"),
            (head["Content-Type"] != "application/x-protobuf", "content type"),
            (head["Accept"] != "application/x-protobuf", "accept"),
            (head["x-kms-acccesskeyid"] != CLIENT_KEY, "client key id"),
            (head["x-kms-apiversion"] != "dkms-gcs-0.2", "version"),
        ):
            if wrong:
                self.complaints.append(what)
        ours = sorted(
            (name.lower(), value) for name, value in head.items() if name.lower().startswith("x-kms-")
        )
        lines = "".join(f"{name}:{value}\n" for name, value in ours)
        signed = f"POST\n{digest}\napplication/x-protobuf\n{head['date']}\n{lines}/"
        signature = base64.b64decode(head["Authorization"].removeprefix("Bearer "), validate=True)
        try:
            client_key().public_key().verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            self.complaints.append("signature")
            return False
        return True


# --- the shared service ---------------------------------------------------------------------------
def refusal(status: int, code: str) -> web.Response:
    body = {"Code": code, "Message": f"{ACCESS_SECRET} may be echoed by nobody", "RequestId": "r"}
    return web.json_response(body, status=status)


class AliyunStsFake(Fake):
    title = "aliyun-sts"
    provider = "aliyun"
    hosts = (REGION_HOST,)
    gets = True
    name = "db/password+prod"
    get_annotations: ClassVar = {"version_stage": "ACSPrevious", "version_id": ""}

    def __init__(self) -> None:
        super().__init__()
        self.nonces: set[str] = set()

    def settings(self) -> dict[str, Any]:
        return {
            "client_type": "sts_token",
            "token_path": "/run/confidential-containers/cdh/kbs/kms-credential/aliyun/sts-token",
            "region_id": "cn-hangzhou",
        }

    def credentials(self) -> dict[str, bytes]:
        return {"sts-token": f"{ACCESS_KEY}:{ACCESS_SECRET}:{SECURITY_TOKEN}\n".encode()}

    def secrets(self) -> tuple[str, ...]:
        return ACCESS_SECRET, SECURITY_TOKEN, quote(SECURITY_TOKEN, safe=""), METADATA_TOKEN

    def denied(self) -> web.Response:
        return refusal(400, "InvalidSecurityToken.Expired")

    def missing(self) -> web.Response:
        return refusal(404, "Forbidden.ResourceNotFound")

    def busy(self) -> web.Response:
        return refusal(503, "SerivceUnavailableTemporary")

    def value(self) -> bytes:
        return TEXT.encode()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST" or request.path != "/" or await request.read():
            self.complaints.append(f"{request.method} {request.path}")
        told = dict(
            parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True, strict_parsing=True)
        )
        signature = told.pop("Signature")
        text = "&".join(f"{escape(key)}={escape(told[key])}" for key in sorted(told))
        key = ACCESS_SECRET.encode() + b"&"
        wanted = hmac.digest(key, f"POST&%2F&{escape(text)}".encode(), "sha1")
        if base64.b64decode(signature) != wanted:
            self.complaints.append("signature")
            return refusal(400, "SignatureDoesNotMatch")
        if (nonce := told.pop("SignatureNonce")) in self.nonces or len(nonce) < 16:
            self.complaints.append("nonce")
        self.nonces.add(nonce)
        expected = {
            "Action": "GetSecretValue",
            "Version": "2016-01-20",
            "Format": "json",
            "RegionId": "cn-hangzhou",
            "VersionId": "",
            "FetchExtendedConfig": "true",
            "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock.wall())),
            "SignatureMethod": "HMAC-SHA1",
            "SignatureType": "",
            "SignatureVersion": "1.0",
            "AccessKeyId": ACCESS_KEY,
            "SecurityToken": SECURITY_TOKEN,
        }
        asked, stage = told.pop("SecretName"), told.pop("VersionStage")
        if told != expected:
            self.complaints.append(f"parameters {sorted(set(told.items()) ^ set(expected.items()))}")
        if asked != self.name or stage != self.get_annotations.get("version_stage", ""):
            return refusal(404, "Forbidden.ResourceNotFound")
        return web.json_response({"SecretName": asked, "SecretData": TEXT, "SecretDataType": "text"})


def escape(text: str) -> str:
    """As the vendor describes it: what a form has, with three exceptions."""
    kept = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in text.encode())


class AliyunRoleFake(AliyunStsFake):
    """The role of the machine; its metadata service is hardened."""

    title = "aliyun-ecs-role"
    plain_hosts = (METADATA,)
    get_annotations: ClassVar = {}
    hardened = True

    def settings(self) -> dict[str, Any]:
        return {"client_type": "ecs_ram_role"}

    def credentials(self) -> dict[str, bytes]:
        role = {"ecs_ram_role_name": "guest-role", "region_id": "cn-hangzhou"}
        return {"ecsRamRole.json": json.dumps(role).encode()}

    def logs_in(self, request: web.Request) -> bool:
        return request.host == METADATA

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.host != METADATA:
            return await super().handle(request)
        head = request.headers
        match request.method, request.raw_path:
            case "PUT", "/latest/api/token":
                if not self.hardened:
                    return web.Response(status=404)
                if not 1 <= int(head["X-aliyun-ecs-metadata-token-ttl-seconds"]) <= 21600:
                    self.complaints.append("life of the metadata token")
                return web.Response(text=METADATA_TOKEN)
            case "GET", "/latest/meta-data/ram/security-credentials/guest-role":
                if self.hardened and head.get("X-aliyun-ecs-metadata-token") != METADATA_TOKEN:
                    return web.Response(status=403)
                return web.json_response(
                    {
                        "AccessKeyId": ACCESS_KEY,
                        "AccessKeySecret": ACCESS_SECRET,
                        "Expiration": time.strftime(
                            "%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.clock.wall() + 6 * 3600)
                        ),
                        "SecurityToken": SECURITY_TOKEN,
                        "Code": "Success",
                    }
                )
        return web.Response(status=404)


class AliyunOldRoleFake(AliyunRoleFake):
    """A metadata service that knows no tokens."""

    title = "aliyun-ecs-role-v1"
    hardened = False


FAKES = (AliyunClientKeyFake, AliyunStsFake, AliyunRoleFake, AliyunOldRoleFake)
