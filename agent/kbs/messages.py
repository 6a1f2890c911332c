"""Wire types of KBS protocol 0.4.0, with member names exactly as on the wire (kbs_protocol.md 1.2-1.8, 4.1).

Unknown members are ignored: the broker may add some. :func:`parse` is the only way in.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64encode
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

T = TypeVar("T")

PROTOCOL_VERSION: Final = "0.4.0"
"""The only version this agent and the broker agree on; there is no negotiation."""


class RequestParams(msgspec.Struct, frozen=True, rename="kebab"):
    """``extra-params`` of :class:`Request`."""

    supported_hash_algorithms: tuple[str, ...]


class Request(msgspec.Struct, frozen=True, rename="kebab"):
    """Body of ``POST /auth``."""

    version: str
    tee: str
    extra_params: RequestParams


class Challenge(msgspec.Struct, frozen=True, rename="kebab"):
    """Answer to ``POST /auth``.

    ``extra-params`` may be a string, null, missing or an object, so it stays raw here.
    """

    nonce: str
    extra_params: msgspec.Raw | UnsetType = UNSET


class InitData(msgspec.Struct, frozen=True):
    """Init-data in plaintext, as it was measured."""

    body: str
    format: str = "toml"


class RuntimeData(msgspec.Struct, frozen=True, rename="kebab"):
    """What the evidence is bound to."""

    nonce: str
    tee_pubkey: dict[str, str]


class TeeEvidence(msgspec.Struct, frozen=True):
    """Composite evidence; these two members have underscores on the wire."""

    primary_evidence: msgspec.Raw
    additional_evidence: str


class Attestation(msgspec.Struct, frozen=True, rename="kebab"):
    """Body of ``POST /attest``."""

    init_data: InitData | None
    runtime_data: RuntimeData
    tee_evidence: TeeEvidence


class TokenReply(msgspec.Struct, frozen=True):
    """Answer to ``POST /attest``."""

    token: str


class Problem(msgspec.Struct, frozen=True):
    """Error body; ``type`` is a URL whose last part names the problem."""

    type: str
    detail: str | None = None


class JweBody(msgspec.Struct, frozen=True):
    """Flattened JWE JSON serialisation (RFC 7516 7.2.2); every member is base64url without padding.

    The last three are not part of the protocol. They are read to be refused.
    """

    protected: str
    encrypted_key: str
    iv: str
    ciphertext: str
    tag: str
    aad: str | None = None
    header: msgspec.Raw | UnsetType = UNSET
    unprotected: msgspec.Raw | UnsetType = UNSET
    recipients: msgspec.Raw | UnsetType = UNSET


def parse(body: bytes, kind: type[T], limit: int) -> T:
    """Read one JSON document.

    Args:
        body: JSON as received.
        kind: a type of this module, or another msgspec type.
        limit: largest accepted size in bytes.

    Raises:
        ValueError: too large, not JSON, or of another shape. The text names members, never values.
    """
    # T-KBS-26: size first, then syntax, then shape (user_pains.md SR-13).
    if len(body) > limit:
        raise ValueError(f"longer than {limit} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def b64url_encode(value: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def b64url_decode(text: str) -> bytes:
    """Strict base64url without padding.

    Raises:
        ValueError: padding, whitespace, a character outside the alphabet, a length that cannot occur, or
            bits set behind the last byte (two spellings of one value).
    """
    if not text.isascii() or len(text) % 4 == 1 or "+" in text or "/" in text or "=" in text:
        raise ValueError("not base64url without padding")
    raw = text.encode("ascii")
    standard = raw.translate(_TO_STANDARD) + b"=" * (-len(raw) % 4)
    value = binascii.a2b_base64(standard, strict_mode=True)
    tail = len(raw) % 4
    if tail and not text.endswith(b64url_encode(value[-(tail - 1) :])):
        raise ValueError("base64url with loose bits")
    return value


_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def jwt_payload(token: str) -> bytes:
    """Decoded payload of a compact JWT.

    Nothing is verified: the broker that reads the token does that (kbs_protocol.md 5.5).

    Raises:
        ValueError: not three non-empty base64url parts without padding.
    """
    parts = token.split(".", 3)
    if len(parts) != 3 or not all(parts):
        raise ValueError("not three parts")
    _, payload, _ = [b64url_decode(part) for part in parts]
    return payload
