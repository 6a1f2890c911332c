"""The Request-Challenge-Attestation-Response handshake as pure functions.

Sources: kbs_protocol.md 1.2 to 1.8 (bodies) and 2 (report data), attesters.md 15. JSON is hashed in its
canonical form (RFC 8785), as the broker rebuilds it from its own nonce and the key it was sent.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import msgspec
import rfc8785

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs import messages
from agent.kbs.messages import parse
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

HASHES: Final = ("sha256", "sha384", "sha512")
"""What this guest can hash with. SM3 is left out: a FIPS or trimmed OpenSSL lacks it."""

DEFAULT_HASH: Final = "sha384"
"""Used when the challenge selects none; also what the broker then assumes."""

_SELECTED: Final = "selected-hash-algorithm"


class Challenge(msgspec.Struct, frozen=True):
    """What the broker wants to see inside the evidence.

    Attributes:
        nonce: opaque text, echoed byte for byte; for ``se`` a JSON document.
        hash_name: one of :data:`HASHES`.
    """

    nonce: str
    hash_name: str = DEFAULT_HASH


def build_request(tee: str) -> bytes:
    """Body of ``POST /auth``.

    Args:
        tee: wire string of the primary TEE (kbs_protocol.md 1.3).
    """
    params = messages.RequestParams(HASHES)
    return msgspec.json.encode(messages.Request(messages.PROTOCOL_VERSION, tee, params))


def parse_challenge(body: bytes) -> Challenge:
    """Read the answer to ``POST /auth``.

    Args:
        body: JSON as received, at most ``limits.KBS_MAX_CHALLENGE`` bytes.

    Raises:
        AgentError: KBS_BAD_RESPONSE.
    """
    try:
        challenge = parse(body, messages.Challenge, limits.KBS_MAX_CHALLENGE)  # T-KBS-32: bounded.
        hash_name = _selected_hash(challenge)
    except ValueError as error:
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, f"the challenge cannot be read: {error}") from None
    if not challenge.nonce:  # T-KBS-33: evidence without a nonce could be replayed.
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the challenge has an empty nonce")
    return Challenge(challenge.nonce, hash_name)


def _selected_hash(challenge: messages.Challenge) -> str:
    params = challenge.extra_params
    if not isinstance(params, msgspec.Raw) or not bytes(params).startswith(b"{"):
        return DEFAULT_HASH
    members = parse(bytes(params), dict[str, msgspec.Raw], limits.KBS_MAX_CHALLENGE)
    if _SELECTED not in members:
        return DEFAULT_HASH
    name = parse(bytes(members[_SELECTED]), str, limits.KBS_MAX_CHALLENGE).lower()
    if name not in HASHES:  # T-KBS-34: the broker cannot select a hash that was not offered.
        raise ValueError("it selects a hash algorithm that was not offered")
    return name


def device_report_data(challenge: Challenge, jwk: Mapping[str, str]) -> bytes:
    """Digest every additional device binds its evidence to (kbs_protocol.md 2.1, step 1).

    Args:
        challenge: the broker's.
        jwk: exactly the members of :meth:`agent.kbs.keys.TeeKey.jwk`.

    Returns:
        32, 48 or 64 bytes, unpadded.
    """
    return _digest(challenge, {"nonce": challenge.nonce, "tee-pubkey": dict(jwk)})


def primary_report_data(challenge: Challenge, jwk: Mapping[str, str], additional: bytes) -> bytes:
    """Digest the primary TEE binds its evidence to (kbs_protocol.md 2.1, steps 2 and 3).

    Args:
        challenge: the broker's.
        jwk: as for :func:`device_report_data`.
        additional: the devices' evidence as it will be sent, UTF-8; empty without devices. It is hashed
            as a string, verbatim.

    Returns:
        32, 48 or 64 bytes, unpadded.

    Raises:
        AgentError: EVIDENCE_FAILED, when ``additional`` is not UTF-8.
    """
    bound: dict[str, str | dict[str, str]] = {
        "additional-evidence": _text(additional),
        "nonce": challenge.nonce,
        "tee-pubkey": dict(jwk),
    }
    return _digest(challenge, bound)


def _digest(challenge: Challenge, bound: dict[str, str | dict[str, str]]) -> bytes:
    return hashlib.new(challenge.hash_name, rfc8785.dumps(bound)).digest()


def attester_input(tee: str, challenge: Challenge, digest: bytes) -> bytes:
    """What the primary attester gets: the digest itself, except for ``se``.

    For ``se`` it is the JSON document from the nonce with ``runtime_data_digest`` (standard base64) put
    in (kbs_protocol.md 2.1, attesters.md 15.1).

    Raises:
        AgentError: KBS_BAD_RESPONSE, when an ``se`` nonce is not a JSON object.
    """
    if tee != "se":
        return digest
    try:
        document = parse(challenge.nonce.encode(), dict[str, msgspec.Raw], limits.KBS_MAX_CHALLENGE)
    except ValueError:
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the se nonce is not a JSON object") from None
    document["runtime_data_digest"] = msgspec.Raw(msgspec.json.encode(b64encode(digest).decode("ascii")))
    return msgspec.json.encode(document)


def build_attestation(
    challenge: Challenge,
    jwk: Mapping[str, str],
    primary: bytes,
    additional: bytes,
    init_data: str | None,
) -> bytes:
    """Body of ``POST /attest``.

    Args:
        challenge: the broker's.
        jwk: the members that were hashed.
        primary: the primary evidence, one JSON value.
        additional: the bytes that were hashed.
        init_data: plaintext TOML exactly as measured, or None.

    Raises:
        AgentError: EVIDENCE_FAILED, when the evidence is not JSON or not UTF-8.
    """
    try:
        primary.decode()
        evidence = msgspec.json.decode(primary, type=msgspec.Raw)  # checks the syntax, keeps the text
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "the primary evidence is not JSON") from None
    body = messages.Attestation(
        init_data=None if init_data is None else messages.InitData(init_data),
        runtime_data=messages.RuntimeData(challenge.nonce, dict(jwk)),
        tee_evidence=messages.TeeEvidence(evidence, _text(additional)),
    )
    return msgspec.json.encode(body)


def parse_token_reply(body: bytes) -> Secret:
    """The JWT in the answer to ``POST /attest``.

    Args:
        body: JSON as received, at most ``limits.KBS_MAX_TOKEN`` bytes.

    Raises:
        AgentError: KBS_BAD_RESPONSE; the detail repeats nothing.
    """
    try:
        token = parse(body, messages.TokenReply, limits.KBS_MAX_TOKEN).token  # T-KBS-35: bounded.
        messages.jwt_payload(token)
    except ValueError:
        raise AgentError(ErrorCode.KBS_BAD_RESPONSE, "the token answer holds no JWT") from None
    return Secret(token.encode("ascii"))


def _text(additional: bytes) -> str:
    try:
        return additional.decode()
    except UnicodeDecodeError:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, "the devices' evidence is not UTF-8") from None
