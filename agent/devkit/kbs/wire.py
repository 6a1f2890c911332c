"""What clients send, as typed as Trustee's own structs: members that are not here are dropped.

Written apart from ``agent.kbs`` on purpose: a client that is tested against its own code agrees with
itself and proves nothing. Source: kbs_protocol.md 1.2 to 1.7.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL: Final = "0.4.0"

TEES: Final = frozenset(
    {"az-snp-vtpm", "az-tdx-vtpm", "snp", "tdx", "sgx", "cca", "csv", "se", "tpm", "sample"}
    | {"sampledevice", "nvidia", "hygondcu", "nvidiadpu"}
)
"""kbs-types 0.18; any other string does not deserialise."""

_SEMVER: Final = re.compile(
    r"(?P<core>(?:0|[1-9][0-9]{0,18})(?:\.(?:0|[1-9][0-9]{0,18})){2})"
    r"(?P<pre>-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
    r"(?P<build>\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)

T = TypeVar("T")


class MalformedError(Exception):
    """The bytes are not what they should be; the text says why, for the server's log."""


class Request(msgspec.Struct, frozen=True, rename="kebab"):
    """Body of POST /auth."""

    version: str
    tee: str
    extra_params: msgspec.Raw


class EcKey(msgspec.Struct, frozen=True, tag_field="kty", tag="EC"):
    """``tee-pubkey`` of an EC key; coordinates are base64url without padding."""

    alg: str
    crv: str
    x: str
    y: str


class RsaKey(msgspec.Struct, frozen=True, tag_field="kty", tag="RSA"):
    """``tee-pubkey`` of an RSA key; members are base64url without padding."""

    alg: str
    n: str
    e: str


TeePubKey: TypeAlias = EcKey | RsaKey


class RuntimeData(msgspec.Struct, frozen=True, rename="kebab"):
    """What the evidence is bound to."""

    nonce: str
    tee_pubkey: TeePubKey


class TeeEvidence(msgspec.Struct, frozen=True):
    """Evidence of the primary TEE as any JSON value, and of devices as JSON inside a string."""

    primary_evidence: msgspec.Raw
    additional_evidence: str


class InitData(msgspec.Struct, frozen=True):
    """The measured configuration in plaintext."""

    format: str
    body: str


class Attestation(msgspec.Struct, frozen=True, rename="kebab"):
    """Body of POST /attest."""

    runtime_data: RuntimeData
    tee_evidence: TeeEvidence
    init_data: InitData | None = None


class HashOffer(msgspec.Struct, frozen=True, rename="kebab"):
    """``extra-params`` of a request, as far as anyone reads it."""

    supported_hash_algorithms: list[str] | None = None


def decode(body: bytes, form: type[T]) -> T:
    """Parse JSON.

    Raises:
        MalformedError: not JSON, not UTF-8, nested too deep, or not of this form.
    """
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(f"not a {form.__name__}: {type(error).__name__}") from error


def convert(value: object, form: type[T]) -> T:
    """Give a parsed JSON value its form.

    Raises:
        MalformedError: it has another.
    """
    try:
        return msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise MalformedError(f"not a {form.__name__}") from error


def parse_version(text: str) -> tuple[str, bool]:
    """A semantic version: its text, and whether ``=0.4.0`` matches it (build metadata is ignored).

    Raises:
        MalformedError: not a semantic version.
    """
    match = _SEMVER.fullmatch(text)
    if match is None:
        raise MalformedError("not a semantic version")
    return text, match["core"] == PROTOCOL and match["pre"] is None


def key_members(key: TeePubKey) -> dict[str, str]:
    """The members of a key that are hashed: those the form knows, no others."""
    members: dict[str, str] = msgspec.to_builtins(key)
    return members


def canonical(value: Mapping[str, object]) -> bytes:
    """RFC 8785 for objects of strings with ASCII names, which is all that is hashed here."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def runtime_claims(runtime: RuntimeData, additional: str | None) -> dict[str, object]:
    """The object that is hashed: with ``additional-evidence`` for the primary TEE, without for devices."""
    claims: dict[str, object] = {} if additional is None else {"additional-evidence": additional}
    return claims | {"nonce": runtime.nonce, "tee-pubkey": key_members(runtime.tee_pubkey)}


def report_data(claims: Mapping[str, object], hash_name: str) -> bytes:
    """The digest an attester was given, unpadded."""
    return hashlib.new(hash_name, canonical(claims)).digest()


def b64url(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Undo :func:`b64url`, strictly.

    Raises:
        MalformedError: padding, or a character or length that does not belong.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        raise MalformedError("not base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def unb64(text: str) -> bytes:
    """Decode standard base64 with padding.

    Raises:
        MalformedError: anything else.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("not base64") from error
