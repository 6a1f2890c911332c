"""Decrypt the broker's answer: a flattened JWE (kbs_protocol.md 4, RFC 7516 7.2.2, RFC 7518 4.3 and 4.6).

Own code over the primitives of ``cryptography``: general JOSE libraries fail on an empty resource and
choose the algorithm from the message. Here the own key fixes the algorithm.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from msgspec import UNSET, UnsetType

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.kbs.keys import RSA_ALG, TeeKey
from agent.kbs.messages import JweBody, b64url_decode, parse
from agent.secret import Secret

_ENC: Final = "A256GCM"
_CEK_SIZE: Final = 32
_WRAPPED_SIZE: Final = _CEK_SIZE + 8
_IV_SIZE: Final = 12
_TAG_SIZE: Final = 16
_HEADER_MAX: Final = 16 * limits.KIB  # a P-521 header takes 350 bytes


class _Epk(msgspec.Struct, frozen=True):
    kty: str
    crv: str
    x: str
    y: str


class _Header(msgspec.Struct, frozen=True):
    """Protected header. The last four change the meaning of the rest; they are read to be refused."""

    alg: str
    enc: str
    epk: _Epk | UnsetType = UNSET
    apu: msgspec.Raw | UnsetType = UNSET
    apv: msgspec.Raw | UnsetType = UNSET
    zip: msgspec.Raw | UnsetType = UNSET
    crit: msgspec.Raw | UnsetType = UNSET


def decrypt(body: bytes, key: TeeKey) -> Secret:
    """Plaintext of one answer; it may be empty.

    Args:
        body: JSON as received, at most ``limits.KBS_MAX_RESOURCE`` bytes.
        key: the key pair that went with the token of the request.

    Raises:
        AgentError: JWE_INVALID, and nothing else. The detail holds no part of the body.
    """
    try:
        # T-KBS-28: bounded before parsing.
        message = parse(body, JweBody, limits.KBS_MAX_RESOURCE)
        header = _header(message, key)
        iv, tag = b64url_decode(message.iv), b64url_decode(message.tag)
        # T-KBS-29: a short tag would be a weak one, and short input must not reach the primitives.
        if len(iv) != _IV_SIZE or len(tag) != _TAG_SIZE:
            raise ValueError("iv or tag has the wrong length")
        sealed = b64url_decode(message.ciphertext) + tag
        content_key = _content_key(header, b64url_decode(message.encrypted_key), key)
        return Secret(AESGCM(content_key).decrypt(iv, sealed, _additional_data(message)))
    except (InvalidTag, InvalidUnwrap):
        raise AgentError(ErrorCode.JWE_INVALID, "it does not decrypt with this guest's key") from None
    except ValueError as error:
        raise AgentError(ErrorCode.JWE_INVALID, str(error)) from None


def _header(message: JweBody, key: TeeKey) -> _Header:
    # T-KBS-30: an unprotected header or several recipients could override what is authenticated.
    if not message.header is message.unprotected is message.recipients is UNSET:
        raise ValueError("unprotected headers and several recipients are refused")
    header = parse(b64url_decode(message.protected), _Header, _HEADER_MAX)
    # T-KBS-31: the own key says which algorithm; the message cannot choose a weaker one (RSA1_5).
    if header.alg != key.alg or header.enc != _ENC:
        raise ValueError(f"alg must be {key.alg} and enc {_ENC}")
    if not header.apu is header.apv is header.zip is header.crit is UNSET:
        raise ValueError("apu, apv, zip and crit are refused")
    return header


def _additional_data(message: JweBody) -> bytes:
    # The string as received, not the header written again: RFC 7516 5.2 step 15.
    protected = message.protected.encode("ascii")
    if message.aad is None:
        return protected
    if not b64url_decode(message.aad):
        raise ValueError("aad is empty")  # RFC 7516 7.2.1: then it must be absent
    return protected + b"." + message.aad.encode("ascii")


def _content_key(header: _Header, wrapped: bytes, key: TeeKey) -> bytes:
    if header.alg == RSA_ALG:
        content_key = _rsa_content_key(wrapped, key)
    else:
        if len(wrapped) != _WRAPPED_SIZE:
            raise ValueError("the encrypted key has the wrong length")
        if header.epk is UNSET or header.epk.kty != "EC":
            raise ValueError("there is no EC ephemeral key")
        epk = header.epk
        shared = key.agree(epk.crv, b64url_decode(epk.x), b64url_decode(epk.y))
        content_key = aes_key_unwrap(concat_kdf(shared, header.alg), wrapped)
    if len(content_key) != _CEK_SIZE:
        raise InvalidUnwrap
    return content_key


def _rsa_content_key(wrapped: bytes, key: TeeKey) -> bytes:
    try:
        return key.rsa_unwrap(wrapped)
    except ValueError:
        # T-KBS-38: one text for every way to fail, so that the log is no padding oracle.
        raise InvalidUnwrap from None


def concat_kdf(shared: bytes, alg: str) -> bytes:
    """Key-encryption key of 256 bits: RFC 7518 4.6.2 with empty party info, one round."""
    name = alg.encode("ascii")
    digest = Hash(SHA256())
    digest.update((1).to_bytes(4, "big") + shared)
    digest.update(len(name).to_bytes(4, "big") + name + bytes(4) + bytes(4) + (256).to_bytes(4, "big"))
    return digest.finalize()
