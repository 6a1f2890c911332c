"""Uploading resources to a key broker, as its administrator (kbs_protocol.md 8.3). Not for guests."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.config import limits, pem
from agent.errors import AgentError, ErrorCode
from agent.kbs.endpoints import Breaker, Endpoint
from agent.kbs.messages import b64url_encode
from agent.kbs.problems import classify
from agent.kbs.progress import begin
from agent.kbs.transport import Call

if TYPE_CHECKING:
    from agent.clock import Clock, Deadline
    from agent.config.model import Kbs
    from agent.config.uri import ResourceUri
    from agent.secret import Secret

LIFE: Final = 900.0
"""Seconds an administrator's token is good for. Upstream's is for two hours; ours is made for each upload,
and only the clocks of two machines have to agree."""

_HEADER: Final = b'{"alg":"EdDSA","typ":"JWT"}'
_TYPE: Final = {"Content-Type": "application/octet-stream"}


class Claims(msgspec.Struct, frozen=True):
    """What an administrator's token says, besides its times (kbs_protocol.md 8.3).

    Attributes:
        role: matched against the broker's access list.
        issuer: empty for none.
        audience: empty for none: a broker that expects none refuses a token that names one.
    """

    role: str = "admin"
    issuer: str = ""
    audience: str = ""


def read_key(content: bytes) -> Ed25519PrivateKey:
    """The administrator's private key.

    Raises:
        AgentError: CONFIG_INVALID, not an unencrypted Ed25519 key in PEM.
    """
    try:
        key = load_pem_private_key(pem.key(content, "PRIVATE KEY"), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise AgentError(
            ErrorCode.CONFIG_INVALID, "the authentication key is not Ed25519 in PEM, unencrypted"
        )
    return key


def admin_token(key: Ed25519PrivateKey, claims: Claims, wall: float) -> str:
    """A JWT signed with EdDSA (RFC 8037), good for ``LIFE`` seconds from ``wall``, Unix time."""
    said: dict[str, object] = {"role": claims.role, "iat": int(wall), "exp": int(wall + LIFE)}
    if claims.issuer:
        said["iss"] = claims.issuer
    if claims.audience:
        said["aud"] = [claims.audience]
    signed = f"{b64url_encode(_HEADER)}.{b64url_encode(msgspec.json.encode(said))}"
    return f"{signed}.{b64url_encode(key.sign(signed.encode()))}"


class ResourceWriter:
    """Stores resources at one broker. Opens nothing before the first.

    Args:
        settings: of the broker.
        key: signs the tokens; None for a broker that asks for none.
        claims: of the tokens.
        clock: for the tokens' times.
    """

    def __init__(self, settings: Kbs, key: Ed25519PrivateKey | None, claims: Claims, clock: Clock) -> None:
        self._key = key
        self._claims = claims
        self._clock = clock
        self._settings = settings
        self._endpoint = Endpoint(0, settings, Breaker(clock, lambda: 1.0))

    async def put(self, uri: ResourceUri, value: Secret, deadline: Deadline) -> None:
        """Store; returns only when the broker said that it did.

        Raises:
            AgentError: CONFIG_INVALID, KBS_TLS_REQUIRED, KBS_ADMIN_REQUIRED (the token is not accepted),
                KBS_BAD_RESPONSE (not stored), or as :class:`agent.kbs.client.KbsClient` when it cannot be
                reached or does not answer.
        """
        url = self._endpoint.url(uri.request_target)
        headers = dict(_TYPE)
        if self._key is not None:
            token = admin_token(self._key, self._claims, self._clock.wall())
            headers["Authorization"] = f"Bearer {token}"
        call = Call(
            "resource", "POST", url, limits.KBS_MAX_PROBLEM, headers, value.reveal(), repeatable=False
        )
        progress = begin()
        left = min(deadline.remaining(), self._settings.request_timeout)
        try:
            async with asyncio.timeout(None if math.isinf(left) else left):
                answer = await self._endpoint.transport.send(call, progress)
        except TimeoutError:
            detail = f"time ran out while {progress.phase.value}"
            raise AgentError(progress.phase.timeout("resource"), detail) from None
        # T-IMGKEY-49: an upload counts when the broker said so; upstream does not look at the answer.
        if answer.status != 200:
            raise _refusal(answer.status, answer.body)

    async def close(self) -> None:
        """Drop the connections."""
        await self._endpoint.transport.close()


def _refusal(status: int, body: bytes) -> AgentError:
    error = classify("resource", status, body)
    if error.code is ErrorCode.RESOURCE_NOT_FOUND:  # what a broker calls any trouble of its storage
        return AgentError(ErrorCode.KBS_BAD_RESPONSE, f"not stored: {error.detail}", problem=error.problem)
    return error
