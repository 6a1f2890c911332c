"""Making sealed secrets and the keys that sign them (cdh.md 4.1, 4.3, 4.6). For operators, not for guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub import envelope, jwk, jws, key_ids
from agent.hub.kms.registry import KBS
from agent.hub.sealed import PREFIX, VAULT, VERSION, VaultPayload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.clock import Deadline
    from agent.hub.kms.base import Encrypter
    from agent.secret import Secret


class Provider(msgspec.Struct, frozen=True):
    """Who will hand out the plaintext, or decrypt the data key.

    Attributes:
        name: as docs/backends.md has it.
        settings: ``provider_settings``.
        annotations: for getting a ``vault`` secret; those of an envelope come from its encrypter.
    """

    name: str = KBS
    settings: Mapping[str, msgspec.Raw] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, msgspec.Raw] = msgspec.field(default_factory=dict)


FROM_KBS = Provider()


def keygen(kid: str, algorithm: str = "ES256") -> tuple[Secret, bytes]:
    """A new key pair for signing sealed secrets.

    Args:
        kid: what sealed secrets will name: a resource URI, or a file name.
        algorithm: ``ES256``, ``ES384`` or ``EdDSA``.

    Returns:
        The private and the public JWK as indented JSON with a newline: members ``kty``, ``crv``, ``x``,
        ``y`` (not for EdDSA), ``alg``, ``use``, ``kid``, and ``d`` in the private one.

    Raises:
        AgentError: SEALED_KEY_INVALID, when no guest would accept the key id; SEALED_UNSUPPORTED.
    """
    key_ids.resolve(kid)
    known = jwk.ALGORITHMS.get(algorithm)
    if known is None:
        raise AgentError(ErrorCode.SEALED_UNSUPPORTED, f"there are {', '.join(jwk.ALGORITHMS)}")
    return jwk.generate(known, kid)


def key_id(text: bytes) -> str:
    """The key id written in a JWK.

    Raises:
        AgentError: SEALED_KEY_INVALID, also when there is none.
    """
    kid = jwk.read(text).kid
    if kid is None:
        raise AgentError(ErrorCode.SEALED_KEY_INVALID, "the JWK names no kid")
    return kid


def seal_vault(name: str, kid: str, private_jwk: bytes, provider: Provider = FROM_KBS) -> str:
    """A sealed secret that stands for what the provider has under a name.

    The same arguments give the same text. The plaintext itself is neither read nor uploaded.

    Args:
        name: for ``kbs`` a resource URI, of which the canonical spelling is sealed.
        kid: where guests find the public key: a resource URI, or a file name.
        private_jwk: JSON as made by :func:`keygen`.
        provider: who has it.

    Raises:
        AgentError: INVALID_URI, INVALID_REQUEST (an empty name), SEALED_KEY_INVALID.
    """
    key_ids.resolve(kid)
    if not name:
        raise AgentError(ErrorCode.INVALID_REQUEST, "the name is empty")
    payload = VaultPayload(
        version=VERSION,
        type=VAULT,
        name=str(parse_uri(name)) if provider.name == KBS else name,
        provider=provider.name,
        provider_settings=dict(provider.settings),
        annotations=dict(provider.annotations),
    )
    return _signed(kid, msgspec.json.encode(payload), private_jwk)


async def seal_envelope(
    plaintext: Secret,
    key: tuple[str, Encrypter],
    kid: str,
    private_jwk: bytes,
    *,
    provider: Provider,
    deadline: Deadline,
) -> str:
    """A sealed secret that carries its plaintext, encrypted under a fresh data key.

    Args:
        plaintext: stays the caller's to wipe.
        key: id of the key at the service, and what encrypts the data key with it.
        kid: where guests find the public key: a resource URI, or a file name.
        private_jwk: JSON as made by :func:`keygen`.
        provider: what guests decrypt the data key with.
        deadline: for the service.

    Raises:
        AgentError: SEALED_KEY_INVALID, KMS_*.
    """
    key_ids.resolve(kid)
    jwk.signing_key(jwk.read(private_jwk))  # before a service is asked
    name, encrypter = key
    sealed = envelope.seal_data(plaintext)
    try:
        wrapped = await encrypter.encrypt(sealed.key, name, deadline)
    finally:
        sealed.key.wipe()
    payload = envelope.build_payload(VERSION, provider.name, provider.settings, name, wrapped, sealed)
    return _signed(kid, payload, private_jwk)


def _signed(kid: str, payload: bytes, private_jwk: bytes) -> str:
    return PREFIX + jws.sign_compact(kid, payload, jwk.signing_key(jwk.read(private_jwk)))
