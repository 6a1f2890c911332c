"""Layer keys wrapped for holders of private keys: JWE in JSON (cdh.md 6.6; RFC 7516 7.2, RFC 7518 4.3, 4.6).

Reads the general form and the flattened one, which Go writes for a single recipient. ``enc`` is A256GCM.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from agent.config import pem
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, url_decode, url_encode
from agent.kbs.jwe import concat_kdf
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Sequence

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_ENC: Final = "A256GCM"
_RSA: Final[dict[str, type[HashAlgorithm]]] = {"RSA-OAEP": SHA1, "RSA-OAEP-256": SHA256}
_EC: Final = "ECDH-ES+A256KW"
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
_KEY_SIZE: Final = 32
_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16
_RECIPIENTS_MAX: Final = 64
_RSA_MIN: Final = 2048


class _Epk(msgspec.Struct, frozen=True):
    kty: str
    crv: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True):
    """Any of the three headers. The last four change the meaning of the rest; they are read to be refused."""

    alg: str | None = None
    enc: str | None = None
    epk: _Epk | None = None
    apu: msgspec.Raw | None = None
    apv: msgspec.Raw | None = None
    zip: msgspec.Raw | None = None
    crit: msgspec.Raw | None = None


class _Recipient(msgspec.Struct, frozen=True):
    encrypted_key: str = ""
    header: _Header | None = None


class _Jwe(msgspec.Struct, frozen=True):
    protected: str
    iv: str
    ciphertext: str
    tag: str
    unprotected: _Header | None = None
    recipients: list[_Recipient] | None = None
    encrypted_key: str | None = None
    header: _Header | None = None
    aad: str | None = None


def read_private_key(content: bytes) -> PrivateKey:
    """An RSA or EC (P-256, P-384, P-521) private key: PEM or DER, not encrypted.

    Raises:
        AgentError: INVALID_REQUEST.
    """
    try:
        found = pem.key(content, "PRIVATE KEY")
        key = (load_pem_private_key if pem.is_pem(found) else load_der_private_key)(found, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad_key("not a private key in PEM or DER without a passphrase") from None
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        _check_key(key)
        return key
    raise _bad_key("neither RSA nor EC")


def read_public_key(content: bytes) -> PublicKey:
    """An RSA or EC (P-256, P-384, P-521) public key: PEM or DER.

    Raises:
        AgentError: INVALID_REQUEST.
    """
    try:
        found = pem.key(content, "PUBLIC KEY")
        key = (load_pem_public_key if pem.is_pem(found) else load_der_public_key)(found)
    except (ValueError, UnsupportedAlgorithm):
        raise _bad_key("not a public key in PEM or DER") from None
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        _check_key(key)
        return key
    raise _bad_key("neither RSA nor EC")


def _check_key(key: PrivateKey | PublicKey) -> None:
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        if key.key_size < _RSA_MIN:
            raise _bad_key(f"RSA with less than {_RSA_MIN} bits")
    elif _curve_name(key.curve) is None:
        raise _bad_key("the curve is not P-256, P-384 or P-521")


def _curve_name(curve: ec.EllipticCurve) -> str | None:
    return next((name for name, known in _CURVES.items() if isinstance(curve, known)), None)


def encrypt(plaintext: Secret, recipients: Sequence[PublicKey]) -> bytes:
    """A JWE, general form, for all ``recipients``: RSA-OAEP, which every reader knows, or ECDH-ES+A256KW."""
    content_key, iv = os.urandom(_KEY_SIZE), os.urandom(_IV_SIZE)
    protected = url_encode(msgspec.json.encode({"enc": _ENC}))
    sealed = AESGCM(content_key).encrypt(iv, plaintext.reveal(), protected.encode())
    return msgspec.json.encode(
        {
            "protected": protected,
            "recipients": [_wrap(content_key, key) for key in recipients],
            "iv": url_encode(iv),
            "ciphertext": url_encode(sealed[:-_TAG_SIZE]),
            "tag": url_encode(sealed[-_TAG_SIZE:]),
        }
    )


def _wrap(content_key: bytes, key: PublicKey) -> dict[str, object]:
    if isinstance(key, rsa.RSAPublicKey):
        wrapped = key.encrypt(content_key, _oaep(SHA1))
        return {"header": {"alg": "RSA-OAEP"}, "encrypted_key": url_encode(wrapped)}
    mine = ec.generate_private_key(key.curve)
    point, size = mine.public_key().public_numbers(), (key.curve.key_size + 7) // 8
    epk = {
        "kty": "EC",
        "crv": _curve_name(key.curve),
        "x": url_encode(point.x.to_bytes(size)),
        "y": url_encode(point.y.to_bytes(size)),
    }
    wrapped = aes_key_wrap(concat_kdf(mine.exchange(ec.ECDH(), key), _EC), content_key)
    return {"header": {"alg": _EC, "epk": epk}, "encrypted_key": url_encode(wrapped)}


def decrypt(content: bytes, key: PrivateKey) -> Secret:
    """The plaintext, if one of the recipients is ``key``.

    Args:
        content: JSON, general or flattened; bounded by the caller.
        key: from :func:`read_private_key`.

    Raises:
        AgentError: IMAGE_KEY_MALFORMED, IMAGE_KEY_UNWRAP_FAILED.
    """
    message = read_json(content, _Jwe, ErrorCode.IMAGE_KEY_MALFORMED, "JWE")
    try:
        recipients = _recipients(message)
        iv, tag = url_decode(message.iv), url_decode(message.tag)
        # T-IMGKEY-24: a short tag would be a weak one.
        if len(iv) != _IV_SIZE or len(tag) != _TAG_SIZE:
            raise ValueError("iv or tag has the wrong length")
        sealed = url_decode(message.ciphertext) + tag
        wrapped = [(header, url_decode(encrypted)) for header, encrypted in recipients]
    except ValueError as error:
        raise AgentError(ErrorCode.IMAGE_KEY_MALFORMED, f"JWE: {error}") from None
    additional = message.protected + ("" if message.aad is None else f".{message.aad}")
    for header, encrypted in wrapped:
        content_key = _content_key(header, encrypted, key)
        if content_key is None:
            continue
        try:
            return Secret(AESGCM(content_key).decrypt(iv, sealed, additional.encode()))
        except InvalidTag:
            continue
    # T-IMGKEY-25: one text for every way to fail, so that nobody learns which step it was.
    raise AgentError(ErrorCode.IMAGE_KEY_UNWRAP_FAILED, "no recipient of the JWE is this private key")


def algorithms(content: bytes) -> tuple[str, ...]:
    """``alg`` of each recipient, without any key.

    Raises:
        AgentError: IMAGE_KEY_MALFORMED.
    """
    message = read_json(content, _Jwe, ErrorCode.IMAGE_KEY_MALFORMED, "JWE")
    try:
        return tuple(ascii(header.alg)[1:-1][:32] for header, _ in _recipients(message))
    except ValueError as error:
        raise AgentError(ErrorCode.IMAGE_KEY_MALFORMED, f"JWE: {error}") from None


def _recipients(message: _Jwe) -> list[tuple[_Header, str]]:
    """Each recipient's header, joined of the three places, with its encrypted key."""
    protected = read_json(url_decode(message.protected), _Header, ErrorCode.IMAGE_KEY_MALFORMED, "JWE header")
    listed = message.recipients
    if listed is None:
        listed = [_Recipient(message.encrypted_key or "", message.header)]
    elif message.encrypted_key is not None or message.header is not None:
        raise ValueError("it is general and flattened at once")
    # T-IMGKEY-26: each one costs a private key operation.
    if not 0 < len(listed) <= _RECIPIENTS_MAX:
        raise ValueError(f"it does not have 1 to {_RECIPIENTS_MAX} recipients")
    shared = [header for header in (protected, message.unprotected) if header is not None]
    return [(_joined([*shared, *([one.header] if one.header else [])]), one.encrypted_key) for one in listed]


def _joined(headers: Sequence[_Header]) -> _Header:
    found: dict[str, object] = {}
    for header in headers:
        for member in _Header.__struct_fields__:
            value = getattr(header, member)
            if value is not None:
                # RFC 7516 7.2.1: the names in the three places are disjoint.
                if member in found:
                    raise ValueError(f"{member} is there twice")
                found[member] = value
    if found.keys() & {"apu", "apv", "zip", "crit"}:
        raise ValueError("apu, apv, zip and crit are refused")
    if found.get("enc") != _ENC:
        raise ValueError(f"enc is not {_ENC}")
    return msgspec.convert(found, _Header)


def _content_key(header: _Header, wrapped: bytes, key: PrivateKey) -> bytes | None:
    """None when this recipient is not ``key``."""
    # T-IMGKEY-27: the own key says which algorithms there are; RSA1_5 and "dir" are none of them.
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            if header.alg not in _RSA:
                return None
            content_key = key.decrypt(wrapped, _oaep(_RSA[header.alg]))
        else:
            if header.alg != _EC or header.epk is None:
                return None
            content_key = aes_key_unwrap(concat_kdf(_agree(header.epk, key), _EC), wrapped)
    except (ValueError, InvalidUnwrap):
        return None
    return content_key if len(content_key) == _KEY_SIZE else None


def _agree(epk: _Epk, key: ec.EllipticCurvePrivateKey) -> bytes:
    # T-IMGKEY-28: another curve, or a point off the curve, would give the private key away bit by bit.
    if epk.kty != "EC" or epk.crv != _curve_name(key.curve):
        raise ValueError("another curve")
    point = ec.EllipticCurvePublicNumbers(
        int.from_bytes(url_decode(epk.x)), int.from_bytes(url_decode(epk.y)), key.curve
    )
    return key.exchange(ec.ECDH(), point.public_key())


def _oaep(algorithm: type[HashAlgorithm]) -> padding.OAEP:
    # RSA-OAEP is defined with SHA-1 (RFC 7518 4.3), where collisions do not matter.
    return padding.OAEP(padding.MGF1(algorithm()), algorithm(), None)


def _bad_key(reason: str) -> AgentError:
    return AgentError(ErrorCode.INVALID_REQUEST, f"JWE key: {reason}")
