"""Compact JWS with the algorithms of :mod:`agent.hub.jwk` (RFC 7515, RFC 7518 section 3.4, RFC 8037).

Only what sealed secrets use: the key is named by ``kid``. The header members ``jwk``, ``jku`` and ``x5c``
are never looked at: a message does not bring its own key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, url_decode, url_encode
from agent.hub.jwk import ALGORITHMS, Algorithm

if TYPE_CHECKING:
    from agent.hub.jwk import SigningKey, VerifyingKey


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str
    crit: object = msgspec.UNSET
    b64: object = msgspec.UNSET


class Jws(msgspec.Struct, frozen=True):
    """A compact JWS whose header was checked and whose signature was **not**.

    Attributes:
        algorithm: as in the header; one of ours.
        kid: as in the header, not checked.
        signed: the ASCII bytes under the signature, ``<header>.<payload>``.
        payload: decoded; not to be parsed before :meth:`verify`.
        signature: ``algorithm.signature_size`` bytes.
    """

    algorithm: Algorithm
    kid: str
    signed: bytes
    payload: bytes
    signature: bytes

    def verify(self, key: VerifyingKey) -> bytes:
        """The payload, once the signature is good.

        Raises:
            AgentError: SEALED_KEY_INVALID (a key for another algorithm), SEALED_SIGNATURE_INVALID.
        """
        # T-SEAL-13: the key says what it verifies; a header cannot choose another algorithm for it.
        if key.algorithm is not self.algorithm:
            raise AgentError(
                ErrorCode.SEALED_KEY_INVALID,
                f"the JWS says {self.algorithm.name}, its key is for {key.algorithm.name}",
            )
        key.verify(self.signature, self.signed)
        return self.payload


def parse_compact(text: str) -> Jws:
    """Take a compact JWS apart and check its header, before any key is looked for.

    Args:
        text: bounded by the caller.

    Raises:
        AgentError: SEALED_MALFORMED, SEALED_UNSUPPORTED (algorithm, critical header, unencoded payload).
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise _malformed(f"{len(parts)} parts in the JWS, 3 are needed")
    try:
        header, payload, signature = (url_decode(part) for part in parts)
    except ValueError:
        raise _malformed("a part of the JWS is not base64url without padding") from None
    read = read_json(header, _Header, ErrorCode.SEALED_MALFORMED, "JWS header")
    algorithm = _checked(read)
    if len(signature) != algorithm.signature_size:
        raise _malformed(
            f"the signature has {len(signature)} bytes, {algorithm.name} has {algorithm.signature_size}"
        )
    return Jws(algorithm, read.kid, f"{parts[0]}.{parts[1]}".encode(), payload, signature)


def _checked(header: _Header) -> Algorithm:
    # T-SEAL-4: settled before a key is fetched; `none` and HMAC never reach a key.
    algorithm = ALGORITHMS.get(header.alg)
    if algorithm is None:
        raise _unsupported(f"the JWS algorithm is none of {', '.join(ALGORITHMS)}")
    # T-SEAL-5: an extension we do not know must not be taken for its absence (RFC 7515, 4.1.11).
    if header.crit is not msgspec.UNSET:
        raise _unsupported("the JWS header has critical members")
    if header.b64 is not msgspec.UNSET and header.b64 is not True:
        raise _unsupported("the JWS payload is not encoded (RFC 7797)")
    return algorithm


def sign_compact(kid: str, payload: bytes, key: SigningKey) -> str:
    """A compact JWS with header ``{"alg":...,"kid":...}``; the same arguments give the same text."""
    header = msgspec.json.encode({"alg": key.algorithm.name, "kid": kid})
    signed = f"{url_encode(header)}.{url_encode(payload)}"
    return f"{signed}.{url_encode(key.sign(signed.encode()))}"


def _malformed(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_MALFORMED, reason)


def _unsupported(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_UNSUPPORTED, reason)
