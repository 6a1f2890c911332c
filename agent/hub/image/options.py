"""What describes one encrypted layer: the private and the public options of ocicrypt (cdh.md 6.4)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode, standard_encode
from agent.secret import Secret

CIPHER: Final = "AES_256_CTR_HMAC_SHA256"
KEY_SIZE: Final = 32
NONCE_SIZE: Final = 16
MAC_SIZE: Final = 32
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


class _Public(msgspec.Struct, frozen=True):
    cipher: str | None = None
    hmac: str | None = None
    cipheroptions: dict[str, str | None] | None = None


class _Private(msgspec.Struct, frozen=True):
    symkey: str
    digest: str | None = None
    cipheroptions: dict[str, str | None] | None = None


class LayerOptions(msgspec.Struct, frozen=True):
    """All that opens one layer.

    Attributes:
        key: 32 bytes, for the cipher and for the HMAC.
        nonce: 16 bytes, the initial big-endian counter block.
        mac: HMAC-SHA256 of the ciphertext.
        digest: ``sha256:<hex>`` of the layer before encryption; None when whoever encrypted it did not say.
        nonce_public: the nonce is from the half that nobody authenticates.
    """

    key: Secret
    nonce: bytes
    mac: bytes
    digest: str | None
    nonce_public: bool = False


def read_options(public: bytes, private: Secret) -> LayerOptions:
    """Put both halves together. Members may come in any order; ``cipheroptions`` may be null or missing.

    Args:
        public: JSON from the layer's annotation, bounded by the caller.
        private: JSON that was unwrapped.

    Raises:
        AgentError: IMAGE_LAYOUT_INVALID for the public half, IMAGE_KEY_MALFORMED for the private one.
    """
    clear = read_json(public, _Public, ErrorCode.IMAGE_LAYOUT_INVALID, "public layer options")
    # T-IMGKEY-10: the annotation is not authenticated: it cannot choose another cipher, nor none.
    if clear.cipher != CIPHER:
        raise _bad_public(f"the cipher is not {CIPHER}")
    wrapped = read_json(private.reveal(), _Private, ErrorCode.IMAGE_KEY_MALFORMED, "private layer options")
    if wrapped.digest and not _DIGEST.fullmatch(wrapped.digest):
        raise _bad_private("the digest is not sha256 in lower case")
    mac = _public_bytes(clear.hmac, "hmac", MAC_SIZE)
    key = _private_bytes(wrapped.symkey, "symkey", KEY_SIZE)
    nonce = (clear.cipheroptions or {}).get("nonce")
    if nonce:
        initial = _public_bytes(nonce, "nonce", NONCE_SIZE)
    else:
        initial = _private_bytes((wrapped.cipheroptions or {}).get("nonce"), "nonce", NONCE_SIZE)
    return LayerOptions(Secret(key), initial, mac, wrapped.digest or None, nonce_public=bool(nonce))


def build_private(key: bytes, nonce: bytes, digest: str) -> Secret:
    """Private options as Go writes them; every member, because Rust wants all of them."""
    return Secret(
        msgspec.json.encode(
            {
                "symkey": standard_encode(key),
                "digest": digest,
                "cipheroptions": {"nonce": standard_encode(nonce)},
            }
        )
    )


def build_public(mac: bytes) -> bytes:
    """Public options as Go writes them."""
    return msgspec.json.encode({"cipher": CIPHER, "hmac": standard_encode(mac), "cipheroptions": {}})


def _public_bytes(value: str | None, member: str, size: int) -> bytes:
    decoded = _decoded(value)
    # T-IMGKEY-11: no value is filled up or cut: a short HMAC or nonce would be a weaker one.
    if decoded is None or len(decoded) != size:
        raise _bad_public(f"{member} is not {size} bytes in base64")
    return decoded


def _private_bytes(value: str | None, member: str, size: int) -> bytes:
    decoded = _decoded(value)
    if decoded is None or len(decoded) != size:
        raise _bad_private(f"{member} is not {size} bytes in base64")
    return decoded


def _decoded(value: str | None) -> bytes | None:
    try:
        return None if value is None else standard_decode(value)
    except ValueError:
        return None


def _bad_public(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_LAYOUT_INVALID, f"public layer options: {reason}")


def _bad_private(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_KEY_MALFORMED, f"private layer options: {reason}")
