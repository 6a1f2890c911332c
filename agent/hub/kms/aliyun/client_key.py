"""A dedicated KMS instance: protobuf bodies, signed with a client key (cdh.md 5.4, ``client_key``)."""

from __future__ import annotations

import asyncio
import hashlib
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from google.protobuf.message import DecodeError

from agent.hub.encoding import standard_decode, standard_encode
from agent.hub.kms.aliyun.common import (
    CLOCK,
    CODES,
    SERVICE,
    SecretAnnotations,
    bad_credentials,
    bad_settings,
    check_answer,
    check_name,
)
from agent.hub.kms.answers import bad_answer, refused
from agent.hub.kms.base import read_annotations
from agent.hub.kms.credentials import Hidden, parse_credentials
from agent.hub.kms.http import cloud_host
from agent.protos import aliyun_kms_pb2 as pb
from agent.secret import Secret, without

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from agent.clock import Deadline
    from agent.http.tls import Trust
    from agent.hub.kms.base import Context

M = TypeVar("M", bound="Message")

HOST: Final = "{}.cryptoservice.kms.aliyuncs.com"
CONTENT: Final = "application/x-protobuf"
ALGORITHM: Final = "AES_GCM"

_INSTANCE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_KEY_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class ClientKey(Hidden, frozen=True, rename="pascal"):
    """``clientKey_<id>.json``, as the console hands it out.

    Attributes:
        key_id: ``KAAP...``.
        private_key_data: standard base64 of PKCS#12; its password is in another file.
    """

    key_id: str
    private_key_data: str


class CryptAnnotations(msgspec.Struct, frozen=True):
    """What :meth:`ClientKeyClient.encrypt` leaves for :meth:`ClientKeyClient.decrypt`.

    Attributes:
        iv: standard base64 of 12 bytes.
    """

    iv: str


class _Identity(msgspec.Struct, frozen=True):
    digest: bytes
    key_id: str
    key: rsa.RSAPrivateKey
    trust: Trust

    def __repr__(self) -> str:
        return without(self, "digest", "key")


class ClientKeyClient:
    """A Getter, Decrypter and Encrypter of one instance."""

    def __init__(self, instance: str, client_key_id: str, context: Context) -> None:
        """Prepare.

        Args:
            instance: ``kst-...``.
            client_key_id: names the credentials' files.
            context: credentials, way out, clock.

        Raises:
            AgentError: KMS_SETTINGS_INVALID.
        """
        self._url = cloud_host(HOST, instance, _INSTANCE, "kms_instance_id")
        if not _KEY_ID.fullmatch(client_key_id):
            raise bad_settings("client_key_id is not written as one is")
        self._instance = instance
        self._client_key_id = client_key_id
        self._context = context
        self._identity: _Identity | None = None
        self._opening = asyncio.Lock()

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`; the UTF-8 bytes of the text, whatever its type."""
        check_name(name)
        told = read_annotations(annotations, SecretAnnotations, "aliyun")
        request = pb.GetSecretValueRequest(
            SecretName=name,
            VersionStage=told.version_stage,
            VersionId=told.version_id,
            FetchExtendedConfig=True,
        )
        answer = await self._call("GetSecretValue", request, pb.GetSecretValueResponse, deadline)
        check_answer(answer.SecretName, name)
        return Secret(answer.SecretData.encode())

    async def decrypt(
        self, ciphertext: bytes, key_id: str, annotations: Mapping[str, object], deadline: Deadline
    ) -> Secret:
        """See :meth:`agent.hub.kms.base.Decrypter.decrypt`; annotations are ``{"iv": "<base64>"}``."""
        check_name(key_id)
        try:
            iv = standard_decode(read_annotations(annotations, CryptAnnotations, "aliyun").iv)
        except ValueError:
            raise bad_settings("the annotation iv is not base64") from None
        request = pb.DecryptRequest(CiphertextBlob=ciphertext, KeyId=key_id, Algorithm=ALGORITHM, Iv=iv)
        answer = await self._call("Decrypt", request, pb.DecryptResponse, deadline)
        if not answer.KeyId:
            raise bad_answer(SERVICE, "no plaintext")
        return Secret(answer.Plaintext)

    async def encrypt(
        self, plaintext: Secret, key_id: str, deadline: Deadline
    ) -> tuple[bytes, dict[str, object]]:
        """See :meth:`agent.hub.kms.base.Encrypter.encrypt`."""
        check_name(key_id)
        request = pb.EncryptRequest(KeyId=key_id, Plaintext=plaintext.reveal(), Algorithm=ALGORITHM)
        answer = await self._call("Encrypt", request, pb.EncryptResponse, deadline)
        if not (answer.CiphertextBlob and answer.Iv):
            raise bad_answer(SERVICE, "no ciphertext")
        return answer.CiphertextBlob, {"iv": standard_encode(answer.Iv)}

    async def _call(self, api: str, request: Message, shape: type[M], deadline: Deadline) -> M:
        identity = await self._login(deadline)
        body = request.SerializeToString()
        date = formatdate(self._context.clock.wall(), usegmt=True)
        headers = signed_headers(api, body, date, identity.key_id, identity.key)
        answer = await self._context.http.send(
            "POST", f"{self._url}/", headers, body, deadline, trust=identity.trust
        )
        if answer.status != 200:
            said = _parse(pb.Error, answer.body)
            raise refused(answer, SERVICE, (said.ErrorCode,) if said else (), CODES, clock=CLOCK)
        found = _parse(shape, answer.body)
        if found is None:
            raise bad_answer(SERVICE, "it is not the message that was asked for")
        return found

    async def _login(self, deadline: Deadline) -> _Identity:
        names = (
            f"clientKey_{self._client_key_id}.json",
            f"password_{self._client_key_id}.json",
            f"PrivateKmsCA_{self._instance}.pem",
        )
        files: list[Secret] = []
        try:
            for name in names:
                files.append(await self._context.credentials.read("aliyun", name, deadline))  # noqa: PERF401  # wiped below, also when one of them cannot be read
            digest = hashlib.sha256(b"".join(hashlib.sha256(one.reveal()).digest() for one in files)).digest()
            # Connections hang on the TLS settings, and opening a PKCS#12 takes milliseconds.
            async with self._opening:
                if self._identity is None or self._identity.digest != digest:
                    self._identity = await self._open(digest, names, files)
                return self._identity
        finally:
            for one in files:
                one.wipe()

    async def _open(self, digest: bytes, names: tuple[str, ...], files: list[Secret]) -> _Identity:
        client_key = parse_credentials(files[0], ClientKey, f"aliyun/{names[0]}")
        if not _KEY_ID.fullmatch(client_key.key_id):
            raise bad_credentials(names[0], "KeyId is not written as one is")
        password = files[1].reveal().rstrip()
        if not password.isascii():
            raise bad_credentials(names[1], "it is not ASCII")
        key = await asyncio.to_thread(private_key, client_key.private_key_data, password, names[0])
        roots = files[2].reveal().decode("utf-8", "replace")  # comments, in any language
        # T-KMS-16: the instance's own CA counts for this instance only.
        trust = await self._context.http.trust(roots=roots)
        return _Identity(digest, client_key.key_id, key, trust)


def signed_headers(api: str, body: bytes, date: str, key_id: str, key: rsa.RSAPrivateKey) -> dict[str, str]:
    """The head of a request (cdh.md 5.4).

    Args:
        api: ``Encrypt``, ``Decrypt`` or ``GetSecretValue``.
        body: protobuf.
        date: RFC 1123, GMT.
        key_id: of the client key.
        key: signs, RSASSA-PKCS1-v1_5 with SHA-256.
    """
    digest = hashlib.sha256(body).hexdigest().upper()
    ours = {
        "x-kms-acccesskeyid": key_id,  # three times c: so the service has it
        "x-kms-apiname": api,
        "x-kms-apiversion": "dkms-gcs-0.2",
        "x-kms-signaturemethod": "RSA_PKCS1_SHA_256",
    }
    lines = "".join(f"{name}:{value}\n" for name, value in sorted(ours.items()))
    signed = f"POST\n{digest}\n{CONTENT}\n{date}\n{lines}/"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return {
        "Accept": CONTENT,
        "Content-Type": CONTENT,
        "date": date,
        "Content-Sha256": digest,
        "Authorization": f"Bearer {standard_encode(signature)}",
        **ours,
    }


def private_key(data: str, password: bytes, name: str) -> rsa.RSAPrivateKey:
    """The key in a PKCS#12.

    Args:
        data: standard base64; encrypted as consoles do, with RC2-40 and 3DES, too.
        password: ASCII, without the white space at the end of its file.
        name: of the file, for the error.

    Raises:
        AgentError: KMS_CREDENTIALS_INVALID.
    """
    try:
        key, _, _ = pkcs12.load_key_and_certificates(standard_decode(data), password)
    except (ValueError, UnsupportedAlgorithm):
        raise bad_credentials(name, "PrivateKeyData is not PKCS#12, or the password is another") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise bad_credentials(name, "PrivateKeyData has no RSA key")
    return key


def _parse(shape: type[M], body: bytes) -> M | None:
    message = shape()
    try:
        message.ParseFromString(body)
    except (DecodeError, UnicodeDecodeError):
        return None
    return message
