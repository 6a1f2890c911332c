"""The shared service by session tokens: RPC with signature version 1.0 (cdh.md 5.4).

``ecs_ram_role`` gets the token of the machine's metadata service, ``sts_token`` from a file. Both only hand
out secrets.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from agent.hub.encoding import standard_encode
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
from agent.hub.kms.answers import bad_answer, parse_answer, parse_refusal, refused
from agent.hub.kms.base import read_annotations
from agent.hub.kms.credentials import Hidden, parse_credentials
from agent.hub.kms.http import cloud_host
from agent.hub.kms.leases import Lease, Leases
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.base import Context

log = logging.getLogger("coco.hub")

HOST: Final = "kms.{}.aliyuncs.com"
METADATA: Final = "http://100.100.100.200/latest"
ROLE_FILE: Final = "ecsRamRole.json"
TOKEN_SECONDS: Final = 300
"""Life of a metadata token; one is used for one request."""

LONGEST: Final = 900.0
"""Seconds a session is used: its end is told by the wall clock, and that of a guest may be wrong."""

_METADATA_SERVICE: Final = "Alibaba Cloud's metadata service"
_REGION: Final = re.compile(r"[a-z]{2,20}(?:-[a-z0-9]{1,20}){1,4}", re.ASCII)
_ROLE: Final = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)
_PRINTABLE: Final = re.compile(r"[!-~]{1,8192}", re.ASCII)


class Session(Hidden, frozen=True, rename="pascal"):
    """Credentials for a while, as the metadata service writes them.

    Attributes:
        access_key_id: who.
        access_key_secret: signs.
        security_token: what it is good for; sent along.
        expiration: ISO 8601 in UTC; empty when nobody said.
    """

    access_key_id: str
    access_key_secret: str
    security_token: str
    expiration: str = ""


class RoleFile(msgspec.Struct, frozen=True):
    """``ecsRamRole.json``.

    Attributes:
        ecs_ram_role_name: role of the machine.
        region_id: where the secrets are.
    """

    ecs_ram_role_name: str
    region_id: str


class _Login(Hidden, frozen=True):
    session: Session
    region: str


class _Secret(Hidden, frozen=True, rename="pascal"):
    secret_name: str
    secret_data: str


class _Refusal(msgspec.Struct, frozen=True, rename="pascal"):
    code: str = ""


class StsToken:
    """A Getter with a session token from a file."""

    def __init__(self, token_path: str, region: str, context: Context) -> None:
        """Prepare.

        Args:
            token_path: only its last part counts.
            region: ``cn-shanghai``.
            context: credentials, way out, clock.

        Raises:
            AgentError: KMS_SETTINGS_INVALID.
        """
        # T-KMS-17: a secret's settings name a file of the credentials' folder, not any file of the guest.
        self._name = token_path.rpartition("/")[2]
        if not self._name:
            raise bad_settings("token_path names no file")
        self._service = SharedService(region, context)
        self._context = context
        self._told = False

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`."""
        told = read_annotations(annotations, SecretAnnotations, "aliyun")
        content = await self._context.credentials.read("aliyun", self._name, deadline)
        try:
            session = self._parse(content.reveal())
        finally:
            content.wipe()
        return await self._service.get(session, name, told, deadline)

    def _parse(self, content: bytes) -> Session:
        session, trimmed = parse_sts(content, self._name)
        if trimmed and not self._told:
            self._told = True
            log.warning(
                "white space at the end of an STS token file was left out; other agents send it along",
                extra={"file": f"aliyun/{self._name}"},
            )
        return session


class EcsRamRole:
    """A Getter with the role of the machine it runs on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._logins: Leases[_Login] = Leases(context.clock, _forget)

    async def get(self, name: str, annotations: Mapping[str, object], deadline: Deadline) -> Secret:
        """See :meth:`agent.hub.kms.base.Getter.get`."""
        told = read_annotations(annotations, SecretAnnotations, "aliyun")
        login = await self._logins.get(self._read, self._login, deadline)
        return await SharedService(login.region, self._context).get(login.session, name, told, deadline)

    def close(self) -> None:
        """Forget the session."""
        self._logins.close()

    async def _read(self, deadline: Deadline) -> Secret:
        return await self._context.credentials.read("aliyun", ROLE_FILE, deadline)

    async def _login(self, content: Secret, deadline: Deadline) -> Lease[_Login]:
        role = parse_credentials(content, RoleFile, f"aliyun/{ROLE_FILE}")
        if not (_ROLE.fullmatch(role.ecs_ram_role_name) and _REGION.fullmatch(role.region_id)):
            raise bad_credentials(ROLE_FILE, "ecs_ram_role_name or region_id is not written as one is")
        session = await self._session(role.ecs_ram_role_name, deadline)
        left = _seconds_left(session.expiration, self._context.clock.wall())
        return Lease(_Login(session, role.region_id), min(left, LONGEST))

    async def _session(self, role: str, deadline: Deadline) -> Session:
        # T-KMS-13: the host plays this service; see there. Instances that are hardened answer only with a
        # token, older ones know none (their token address is 404): then without.
        headers = {}
        wanted = {"X-aliyun-ecs-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        token = await self._context.http.send("PUT", f"{METADATA}/api/token", wanted, b"", deadline)
        if token.status == 200:
            text = token.body.decode("latin-1").strip()
            if not _PRINTABLE.fullmatch(text):
                raise bad_answer(_METADATA_SERVICE, "its token is none")
            headers["X-aliyun-ecs-metadata-token"] = text
        url = f"{METADATA}/meta-data/ram/security-credentials/{role}"
        answer = await self._context.http.send("GET", url, headers, b"", deadline)
        if answer.status in {401, 403, 404}:
            raise bad_credentials(ROLE_FILE, f"the metadata service answered {answer.status} for this role")
        if answer.status != 200:
            raise refused(answer, _METADATA_SERVICE, (), {})
        return parse_answer(answer, Session, _METADATA_SERVICE)


class SharedService:
    """The shared service of one region."""

    def __init__(self, region: str, context: Context) -> None:
        """Prepare.

        Args:
            region: ``cn-shanghai``.
            context: way out and clock.

        Raises:
            AgentError: KMS_SETTINGS_INVALID.
        """
        self._region = region
        self._host = cloud_host(HOST, region, _REGION, "region_id")
        self._context = context

    async def get(self, session: Session, name: str, told: SecretAnnotations, deadline: Deadline) -> Secret:
        """``GetSecretValue``: the UTF-8 bytes of the text, whatever its type.

        Args:
            session: signs.
            name: of the secret, or its ARN.
            told: which version.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: KMS_*.
        """
        check_name(name)
        parameters = self._parameters(session, name, told)
        signature = sign("POST", parameters, session.access_key_secret)
        url = f"{self._host}/?{canonical(parameters)}&Signature={encode(signature)}"
        answer = await self._context.http.send("POST", url, {}, b"", deadline)
        if answer.status != 200:
            refusal = parse_refusal(answer, _Refusal)
            raise refused(answer, SERVICE, (refusal.code,) if refusal else (), CODES, clock=CLOCK)
        found = parse_answer(answer, _Secret, SERVICE)
        check_answer(found.secret_name, name)
        return Secret(found.secret_data.encode())

    def _parameters(self, session: Session, name: str, told: SecretAnnotations) -> dict[str, str]:
        return {
            "Action": "GetSecretValue",
            "Version": "2016-01-20",
            "Format": "json",
            "RegionId": self._region,
            "SecretName": name,
            "VersionStage": told.version_stage,
            "VersionId": told.version_id,
            "FetchExtendedConfig": "true",
            "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._context.clock.wall())),
            "SignatureMethod": "HMAC-SHA1",
            "SignatureType": "",
            "SignatureVersion": "1.0",
            "SignatureNonce": secrets.token_hex(16),
            "AccessKeyId": session.access_key_id,
            "SecurityToken": session.security_token,
        }


def encode(text: str) -> str:
    """Percent-encoding of RFC 3986, unreserved characters only, as the RPC signature wants it."""
    return quote(text, safe="-_.~")


def canonical(parameters: Mapping[str, str]) -> str:
    """Parameters as they are sent and signed: sorted by name, both sides encoded."""
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in sorted(parameters.items()))


def sign(method: str, parameters: Mapping[str, str], secret: str) -> str:
    """Signature version 1.0: HMAC-SHA1 of method, path and parameters, in base64.

    SHA-1 is the service's choice; as HMAC it still holds.
    """
    text = f"{method}&{encode('/')}&{encode(canonical(parameters))}"
    return standard_encode(hmac.digest(f"{secret}&".encode(), text.encode(), hashlib.sha1))


def parse_sts(content: bytes, name: str) -> tuple[Session, bool]:
    """A file with ``AccessKeyId:AccessKeySecret:StsToken``.

    Args:
        content: white space at its end does not count; upstream takes it for part of the token.
        name: of the file, for the error.

    Returns:
        The session, and whether there was white space.

    Raises:
        AgentError: KMS_CREDENTIALS_INVALID.
    """
    trimmed = content.rstrip()
    parts = trimmed.decode("latin-1").split(":")
    if len(parts) != 3 or not all(_PRINTABLE.fullmatch(part) for part in parts):
        raise bad_credentials(name, "it is not AccessKeyId:AccessKeySecret:StsToken")
    return Session(parts[0], parts[1], parts[2]), trimmed != content


def _seconds_left(expiration: str, now: float) -> float:
    if not expiration:
        return 0.0
    try:
        return datetime.fromisoformat(expiration).timestamp() - now
    except ValueError:
        raise bad_answer(_METADATA_SERVICE, "Expiration is not a time") from None


def _forget(login: _Login) -> None:
    """Strings cannot be overwritten; docs/security.md says what that means."""
