"""Making sealed secrets and the keys that sign them (cdh.md 4.1, 4.3, 4.6). For operators, not for guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import AgentError, ErrorCode
from agent.hub import jws, key_ids
from agent.hub.encoding import url_encode
from agent.hub.sealed import PREFIX, PROVIDER, VAULT, VERSION, VaultPayload
from agent.kbs.uri import parse_uri
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping


def keygen(kid: str) -> tuple[Secret, bytes]:
    """A new P-256 key pair for signing sealed secrets.

    Args:
        kid: what sealed secrets will name: a resource URI, or a file name.

    Returns:
        The private and the public JWK as indented JSON with a newline: members ``kty``, ``crv``, ``x``,
        ``y``, ``alg``, ``use``, ``kid``, and ``d`` in the private one.

    Raises:
        AgentError: SEALED_KEY_INVALID, when no guest would accept the key id.
    """
    key_ids.resolve(kid)
    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    point = numbers.public_numbers
    public = {
        "kty": "EC",
        "crv": "P-256",
        "x": _coordinate(point.x),
        "y": _coordinate(point.y),
        "alg": jws.ALGORITHM,
        "use": "sig",
        "kid": kid,
    }
    private = {**public, "d": _coordinate(numbers.private_value)}
    return Secret(_pretty(private)), _pretty(public)


def key_id(jwk: bytes) -> str:
    """The key id written in a JWK.

    Raises:
        AgentError: SEALED_KEY_INVALID, also when there is none.
    """
    kid = jws.read_jwk(jwk).kid
    if kid is None:
        raise AgentError(ErrorCode.SEALED_KEY_INVALID, "the JWK names no kid")
    return kid


def seal_vault(uri: str, kid: str, private_jwk: bytes) -> str:
    """A sealed secret that stands for the resource at ``uri``.

    The same arguments give the same text. The resource itself is neither read nor uploaded.

    Args:
        uri: resource URI; its canonical spelling is what is sealed.
        kid: where guests find the public key: a resource URI, or a file name.
        private_jwk: JSON as made by :func:`keygen`.

    Raises:
        AgentError: INVALID_URI, SEALED_KEY_INVALID.
    """
    key_ids.resolve(kid)
    payload = VaultPayload(
        version=VERSION,
        type=VAULT,
        name=str(parse_uri(uri)),
        provider=PROVIDER,
        provider_settings={},
        annotations={},
    )
    key = jws.private_key(jws.read_jwk(private_jwk))
    return PREFIX + jws.sign_compact(kid, msgspec.json.encode(payload), key)


def _coordinate(number: int) -> str:
    return url_encode(number.to_bytes(jws.COORDINATE_SIZE))


def _pretty(jwk: Mapping[str, str]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(jwk), indent=2) + b"\n"
