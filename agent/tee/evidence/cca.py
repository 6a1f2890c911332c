"""The Arm CCA attestation token, to be shown; its signatures are the verifier's (attesters.md 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.tee.evidence.cbor import Tagged, Value, decode
from agent.tee.evidence.reader import malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

TAG: Final = 399
_PLATFORM: Final = 44234
_REALM: Final = 44241
_WHAT: Final = "CCA token"


class CcaToken(msgspec.Struct, frozen=True):
    """What realm and platform claim.

    Attributes:
        challenge: 64 bytes, the report data.
        personalization: 64 bytes, the init-data.
        hash_algorithm: of the measurements, e.g. ``sha-256``.
        initial_measurement: 32 to 64 bytes.
        extensible_measurements: four of them.
        public_key: of the realm attestation key.
        public_key_hash_algorithm: e.g. ``sha-256``.
        platform: the platform's claims by key, bytes as hex.
    """

    challenge: bytes
    personalization: bytes
    hash_algorithm: str
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    public_key: bytes
    public_key_hash_algorithm: str
    platform: Mapping[str, str]


def parse_cca(token: bytes) -> CcaToken:
    """A CCA token: tag 399 around a map of two COSE_Sign1.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    outer = decode(token, _WHAT)
    if not isinstance(outer, Tagged) or outer.tag != TAG or not isinstance(outer.value, dict):
        raise malformed(_WHAT, f"not a map in tag {TAG}")
    realm = _claims(outer.value.get(_REALM), "realm token")
    platform = _claims(outer.value.get(_PLATFORM), "platform token")
    extensible = realm.get(44239)
    if not isinstance(extensible, list):
        raise malformed(_WHAT, "no extensible measurements")
    return CcaToken(
        challenge=_bytes(realm.get(10), "challenge", 64),
        personalization=_bytes(realm.get(44235), "personalization", 64),
        hash_algorithm=_text(realm.get(44236), "hash algorithm"),
        initial_measurement=_bytes(realm.get(44238), "initial measurement"),
        extensible_measurements=tuple(_bytes(each, "extensible measurement") for each in extensible),
        public_key=_bytes(realm.get(44237), "public key"),
        public_key_hash_algorithm=_text(realm.get(44240), "public key hash algorithm"),
        platform={str(key): shown(value) for key, value in platform.items()},
    )


def _claims(cose: Value, what: str) -> dict[int | str, Value]:
    """The payload of a COSE_Sign1, which may be tagged (18) and may be wrapped in a byte string."""
    if isinstance(cose, bytes):
        cose = decode(cose, what)
    if isinstance(cose, Tagged):
        cose = cose.value
    if not isinstance(cose, list) or len(cose) != 4 or not isinstance(cose[2], bytes):
        raise malformed(_WHAT, f"the {what} is no COSE_Sign1")
    claims = decode(cose[2], what)
    if not isinstance(claims, dict):
        raise malformed(_WHAT, f"the {what} is no map of claims")
    return claims


def _bytes(value: Value, what: str, size: int | None = None) -> bytes:
    if not isinstance(value, bytes) or (size is not None and len(value) != size):
        raise malformed(_WHAT, f"the {what} is missing or not bytes of its size")
    return value


def _text(value: Value, what: str) -> str:
    if not isinstance(value, str):
        raise malformed(_WHAT, f"the {what} is missing or no text")
    return value


def shown(value: Value) -> str:
    """A claim as text: bytes as hex, a list or map with its members."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return "; ".join(map(shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={shown(each)}" for key, each in value.items())
    return shown(value.value) if isinstance(value, Tagged) else str(value)
