"""The attestation document of AWS Nitro (AWS Nitro Enclaves user guide, "Verifying the root of trust").

A COSE_Sign1 (RFC 9052) with ES384 around a map. No Trustee verifier takes it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import AgentError
from agent.tee.evidence import certs
from agent.tee.evidence.cbor import Tagged, Value, decode
from agent.tee.evidence.reader import malformed
from agent.tee.evidence.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Mapping

ES384: Final = b"\xa1\x01\x38\x22"
"""The protected header: algorithm -35."""

MAX_BUNDLE: Final = 16
_WHAT: Final = "Nitro document"
_SIGN1: Final = 18


class NitroDocument(msgspec.Struct, frozen=True):
    """What the Nitro Security Module says.

    Attributes:
        module_id: of the instance or enclave.
        timestamp: milliseconds since 1970.
        digest: name of the registers' hash, e.g. ``SHA384``.
        pcrs: register to value, 48 bytes for SHA384.
        certificate: DER; its key signed the document.
        bundle: DER, root first.
        public_key: of the caller, or None.
        user_data: of the caller, the report data; or None.
        nonce: of the caller, or None.
        signed: the bytes under ``signature``.
        signature: 96 bytes, r and s big-endian.
    """

    module_id: str
    timestamp: int
    digest: str
    pcrs: Mapping[int, bytes]
    certificate: bytes
    bundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    signed: bytes
    signature: bytes


def parse_nitro(data: bytes) -> NitroDocument:
    """An attestation document.

    Raises:
        AgentError: EVIDENCE_MALFORMED.
    """
    outer = decode(data, _WHAT)
    if isinstance(outer, Tagged) and outer.tag == _SIGN1:
        outer = outer.value
    if not isinstance(outer, list) or len(outer) != 4:
        raise malformed(_WHAT, "no COSE_Sign1")
    protected, payload, signature = _bytes(outer[0]), _bytes(outer[2]), _bytes(outer[3])
    if protected != ES384 or len(signature) != 96:
        raise malformed(_WHAT, "not signed with ES384")
    claims = decode(payload, _WHAT)
    if not isinstance(claims, dict):
        raise malformed(_WHAT, "its payload is no map")
    bundle = claims.get("cabundle")
    if not isinstance(bundle, list) or len(bundle) > MAX_BUNDLE:
        raise malformed(_WHAT, "cabundle is no list, or too long")
    timestamp = claims.get("timestamp")
    if not isinstance(timestamp, int):
        raise malformed(_WHAT, "timestamp is no number")
    return NitroDocument(
        module_id=_text(claims.get("module_id")),
        timestamp=timestamp,
        digest=_text(claims.get("digest")),
        pcrs=_pcrs(claims.get("pcrs")),
        certificate=_bytes(claims.get("certificate")),
        bundle=tuple(_bytes(each) for each in bundle),
        public_key=_optional(claims.get("public_key")),
        user_data=_optional(claims.get("user_data")),
        nonce=_optional(claims.get("nonce")),
        signed=b"\x84" + _item(3, b"Signature1") + _item(2, protected) + b"\x40" + _item(2, payload),
        signature=signature,
    )


def verify(document: NitroDocument) -> tuple[Check, ...]:
    """The signature, and whether the bundle leads from its certificate to a root that somebody has to know.

    Returns:
        ``document signature``, ``certificate bundle`` and ``root``, whose detail is its SHA-256.
    """
    try:
        leaf = certs.load_der(document.certificate)
        bundle = [certs.load_der(each) for each in document.bundle]
    except AgentError as error:
        return (Check("document signature", passed=False, detail=error.detail),)
    signed = certs.signed_by(
        leaf.public_key(), document.signature, document.signed, ec.SECP384R1, hashes.SHA384()
    )
    found = certs.path(leaf, bundle, frozenset({certs.key_pin(bundle[0])})) if bundle else None
    root = hashlib.sha256(document.bundle[0]).hexdigest() if bundle else "none"
    return (
        Check("document signature", signed, f"{'by' if signed else 'not by'} {certs.name(leaf)}"),
        Check(
            "certificate bundle",
            found is not None,
            " < ".join(map(certs.name, found)) if found else "does not lead to its first certificate",
        ),
        Check("root", passed=None, detail=f"compare with AWS's published SHA-256: {root}"),
    )


def _item(major: int, content: bytes) -> bytes:
    size = len(content)
    if size < 24:
        return bytes([major << 5 | size]) + content
    width, low = (1, 24) if size < 0x100 else (2, 25) if size < 0x10000 else (4, 26)
    return bytes([major << 5 | low]) + size.to_bytes(width, "big") + content


def _pcrs(value: Value) -> dict[int, bytes]:
    if not isinstance(value, dict):
        raise malformed(_WHAT, "pcrs is no map")
    return {index: _bytes(each) for index, each in value.items() if isinstance(index, int)}


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise malformed(_WHAT, "something else where bytes belong")
    return value


def _optional(value: Value) -> bytes | None:
    return None if value is None else _bytes(value)


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise malformed(_WHAT, "something else where text belongs")
    return value
