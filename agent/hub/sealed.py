"""Sealed secrets: ``sealed.`` and a compact JWS whose payload says where the plaintext is (cdh.md 4)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.config.uri import ResourceUri, parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub import jwk, jws, key_ids
from agent.hub.encoding import read_json, url_decode
from agent.hub.envelope import ENVELOPE, Envelope, parse_envelope
from agent.hub.kms.registry import KBS, plain

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config import model
    from agent.hub.kms.registry import Backends
    from agent.hub.resources import Resources
    from agent.secret import Secret

log = logging.getLogger("coco.hub")

PREFIX: Final = "sealed."
VERSION: Final = "0.1.0"
VAULT: Final = "vault"
WHITE_SPACE: Final = b" \t\r\n"


class _Kind(msgspec.Struct, frozen=True):
    version: str
    type: str


class VaultPayload(msgspec.Struct, frozen=True):
    """Payload of a vault secret in the order the ``secret`` tool writes it; all members are required.

    Attributes:
        version: ``0.1.0``.
        type: ``vault``.
        name: of the plaintext, as the provider names it; a resource URI for ``kbs``.
        provider: ASCII case-insensitive.
        provider_settings: an object for the provider; ``kbs`` ignores it.
        annotations: an object for the provider; ``kbs`` ignores it.
    """

    version: str
    type: str
    name: str
    provider: str
    provider_settings: dict[str, msgspec.Raw]
    annotations: dict[str, msgspec.Raw]


class Unsealer:
    """Turns sealed secrets into plaintext, and nothing else into anything."""

    def __init__(self, settings: model.SealedSecrets, resources: Resources, backends: Backends) -> None:
        self._settings = settings
        self._resources = resources
        self._backends = backends

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        """The plaintext a sealed secret stands for.

        Args:
            sealed: at most ``limits.SEALED_MAX`` bytes of ASCII. White space at the end is dropped:
                kata-agent sends whole files, with their last newline (kata_integration.md 2.3).
            deadline: for the signing key and the plaintext together.

        Raises:
            AgentError: PAYLOAD_TOO_LARGE, SEALED_MALFORMED, SEALED_UNSUPPORTED, SEALED_KEY_UNTRUSTED,
                SEALED_KEY_UNKNOWN, SEALED_KEY_INVALID, SEALED_SIGNATURE_INVALID, SEALED_DECRYPT_FAILED,
                FILE_UNSAFE, or why the broker or a key management service (KMS_*) did not hand out the
                signing key, the plaintext or the data key.
        """
        text = _text(sealed)
        signed = not self._settings.skip_verification
        payload = await self._verified(text, deadline) if signed else _unverified(text)
        content = parse_payload(payload, signed=signed)
        if isinstance(content, Envelope):
            plaintext = await self._open(content, deadline)
        else:
            plaintext = await self._fetch(content, deadline)
        # T-SEAL-1: a caller cannot tell an unsealed value from its own input by looking at it, so the
        # input is never an answer. A resource that is *another* sealed secret is what its owner put
        # there, and is handed out like any other.
        if plaintext.reveal().rstrip(WHITE_SPACE) == text.encode():
            plaintext.wipe()
            raise _malformed("the secret leads to itself")
        return plaintext

    async def _fetch(self, vault: VaultPayload, deadline: Deadline) -> Secret:
        getter = self._backends.getter(vault.provider, vault.provider_settings)
        return await getter.get(vault.name, plain(vault.annotations), deadline)

    async def _open(self, envelope: Envelope, deadline: Deadline) -> Secret:
        payload = envelope.payload
        decrypter = self._backends.decrypter(payload.provider, payload.provider_settings)
        annotations = plain(payload.annotations)
        key = await decrypter.decrypt(envelope.encrypted_key, payload.key_id, annotations, deadline)
        try:
            return envelope.open(key)
        finally:
            key.wipe()

    async def _verified(self, text: str, deadline: Deadline) -> bytes:
        signed = jws.parse_compact(_without_prefix(text))
        location = key_ids.resolve(signed.kid)
        key_ids.check_trusted(location, self._settings.trusted_kids)
        key = jwk.verifying_key(jwk.read(await self._key_text(location, deadline)))
        # T-SEAL-3: the payload is parsed only once its signature is good.
        return signed.verify(key)

    async def _key_text(self, location: ResourceUri | str, deadline: Deadline) -> bytes:
        if not isinstance(location, ResourceUri):
            return key_ids.read_local_key(self._settings.key_dir, location)
        try:
            # T-CACHE-8: whose signature counts is never settled by a copy past its time.
            return (await self._resources.get(str(location), deadline, stale=False)).reveal()
        except AgentError as error:
            if error.code is not ErrorCode.RESOURCE_NOT_FOUND:
                raise
            # The same words about the plaintext would send the operator to the wrong resource.
            raise AgentError(ErrorCode.SEALED_KEY_UNKNOWN, "the broker has no such resource") from error


def _text(sealed: bytes) -> str:
    # T-SEAL-2: bounded before anything else looks at it.
    if len(sealed) > limits.SEALED_MAX:
        raise AgentError(
            ErrorCode.PAYLOAD_TOO_LARGE, f"a sealed secret of {len(sealed)} bytes; limit {limits.SEALED_MAX}"
        )
    try:
        return sealed.rstrip(WHITE_SPACE).decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("not ASCII") from None


def _without_prefix(text: str) -> str:
    # T-SEAL-10: exactly one prefix. Upstream takes none or many, so one secret has many spellings
    # there; kata-agent sends only values with the prefix.
    if not text.startswith(PREFIX):
        raise _malformed("the prefix 'sealed.' is missing")
    rest = text.removeprefix(PREFIX)
    if rest.startswith(PREFIX):
        raise _malformed("the prefix 'sealed.' is repeated")
    return rest


def _unverified(text: str) -> bytes:
    """The payload of a secret nobody signed; only that section is looked at (cdh.md 4.2)."""
    # T-SEAL-11: accepting unsigned secrets is a configured weakness, so each use leaves a trace.
    log.warning("sealed secret accepted without verification (skip_sealed_secret_verification)")
    sections = text.split(".")
    if len(sections) != 4:
        raise _malformed(f"{len(sections)} sections, 4 are needed")
    try:
        return url_decode(sections[2])
    except ValueError:
        raise _malformed("the payload is not base64url without padding") from None


def parse_payload(payload: bytes, *, signed: bool) -> VaultPayload | Envelope:
    """What a payload says; nothing is asked yet.

    Args:
        payload: JSON, bounded by the caller.
        signed: whether its signature was verified.

    Returns:
        For provider ``kbs`` with the resource URI in its canonical spelling.

    Raises:
        AgentError: SEALED_MALFORMED, SEALED_UNSUPPORTED (version, type, wrap type).
    """
    kind = read_json(payload, _Kind, ErrorCode.SEALED_MALFORMED, "payload")
    if kind.version != VERSION:
        raise AgentError(ErrorCode.SEALED_UNSUPPORTED, "version not supported, only 0.1.0 supported")
    if kind.type == ENVELOPE:
        return parse_envelope(payload, signed=signed)
    if kind.type != VAULT:
        raise AgentError(ErrorCode.SEALED_UNSUPPORTED, f"the type is neither {VAULT!r} nor {ENVELOPE!r}")
    vault = read_json(payload, VaultPayload, ErrorCode.SEALED_MALFORMED, "payload")
    if not vault.name:
        raise _malformed("the name is empty")
    # ASCII first: lower() maps letters such as U+212A (Kelvin sign) to ASCII ones.
    if not vault.provider.isascii() or vault.provider.lower() != KBS:
        return vault
    try:
        return msgspec.structs.replace(vault, name=str(parse_uri(vault.name)))
    except AgentError as error:
        raise _malformed(f"name: {error.detail}") from error


def _malformed(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_MALFORMED, reason)
