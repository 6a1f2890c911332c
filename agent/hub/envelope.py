"""Envelope secrets: data under its own key, which a key management service encrypted (cdh.md 4.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode, standard_encode
from agent.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVELOPE: Final = "envelope"
GCM: Final = "A256GCM"
CTR: Final = "A256CTR"
KEY_SIZE: Final = 32
IV_SIZES: Final = {GCM: 12, CTR: 16}
TAG_SIZE: Final = 16


class EnvelopePayload(msgspec.Struct, frozen=True):
    """Payload in the order the ``secret`` tool writes it; all members are required.

    Attributes:
        version: ``0.1.0``.
        type: ``envelope``.
        key_id: key of the service, as the service names it.
        encrypted_key: base64 of what the service made of the data key.
        encrypted_data: base64; with ``A256GCM`` the 16-byte tag is at the end.
        wrap_type: ``A256GCM`` or ``A256CTR``.
        iv: base64 of 12 bytes, or for ``A256CTR`` of the 16-byte initial counter, big endian.
        provider: the service, ASCII case-insensitive.
        provider_settings: an object for the provider.
        annotations: an object for the provider.
    """

    version: str
    type: str
    key_id: str
    encrypted_key: str
    encrypted_data: str
    wrap_type: str
    iv: str
    provider: str
    provider_settings: dict[str, msgspec.Raw]
    annotations: dict[str, msgspec.Raw]


class Envelope(msgspec.Struct, frozen=True):
    """A payload whose shape was checked; nothing was asked yet.

    Attributes:
        payload: for whom the encrypted key is.
        encrypted_key: for the service.
        encrypted_data: with its tag, if it has one.
        iv: of the size that ``payload.wrap_type`` needs.
    """

    payload: EnvelopePayload
    encrypted_key: bytes
    encrypted_data: bytes
    iv: bytes

    def open(self, key: Secret) -> Secret:
        """The plaintext.

        Args:
            key: the data key, which stays the caller's to wipe.

        Raises:
            AgentError: SEALED_DECRYPT_FAILED (a key of another size, or GCM finds the data changed).
        """
        if len(key) != KEY_SIZE:
            raise _failed(f"the data key has {len(key)} bytes, {KEY_SIZE} are needed")
        mode: modes.CTR | modes.GCM
        if self.payload.wrap_type == CTR:
            mode, data = modes.CTR(self.iv), memoryview(self.encrypted_data)
        else:
            mode = modes.GCM(self.iv, self.encrypted_data[-TAG_SIZE:])
            data = memoryview(self.encrypted_data)[:-TAG_SIZE]
        cipher = Cipher(algorithms.AES(key.reveal()), mode).decryptor()
        # One block more than the data: the library wants the room.
        plaintext = bytearray(len(data) + TAG_SIZE)
        try:
            size = cipher.update_into(data, plaintext)
            # T-SEAL-15: with GCM nothing leaves before its verdict; what was decrypted is wiped either way.
            cipher.finalize()
            return Secret(memoryview(plaintext)[:size])
        except InvalidTag:
            raise _failed("the data was changed, or the key is another one") from None
        finally:
            plaintext[:] = bytes(len(plaintext))


def parse_envelope(payload: bytes, *, signed: bool) -> Envelope:
    """Check all that can be checked before a key management service is asked.

    Args:
        payload: JSON, bounded by the caller.
        signed: whether its signature was verified.

    Raises:
        AgentError: SEALED_MALFORMED, SEALED_UNSUPPORTED (wrap type).
    """
    read = read_json(payload, EnvelopePayload, ErrorCode.SEALED_MALFORMED, "payload")
    size = IV_SIZES.get(read.wrap_type)
    if size is None:
        raise AgentError(ErrorCode.SEALED_UNSUPPORTED, f"the wrap type is none of {', '.join(IV_SIZES)}")
    # T-SEAL-14: CTR alone authenticates nothing. Signed, the signature does; unsigned, whoever is on the way
    # flips plaintext bits at will.
    if read.wrap_type == CTR and not signed:
        raise AgentError(ErrorCode.SEALED_UNSUPPORTED, f"{CTR} without a verified signature")
    envelope = Envelope(
        read,
        _decoded(read.encrypted_key, "encrypted_key"),
        _decoded(read.encrypted_data, "encrypted_data"),
        _decoded(read.iv, "iv"),
    )
    if not read.key_id or not envelope.encrypted_key:
        raise _malformed("key_id or encrypted_key is empty")
    if len(envelope.iv) != size:
        raise _malformed(f"the iv has {len(envelope.iv)} bytes, {read.wrap_type} takes {size}")
    if read.wrap_type == GCM and len(envelope.encrypted_data) < TAG_SIZE:
        raise _malformed(f"the data is shorter than its tag of {TAG_SIZE} bytes")
    return envelope


class Sealed(msgspec.Struct, frozen=True):
    """Data under a fresh key of its own.

    Attributes:
        key: 32 bytes, for the service to encrypt; the caller wipes it.
        data: ciphertext and 16-byte tag.
        iv: 12 bytes.
    """

    key: Secret
    data: bytes
    iv: bytes


def seal_data(plaintext: Secret) -> Sealed:
    """Encrypt with AES-256-GCM under a fresh key, as the ``secret`` tool does (cdh.md 4.6)."""
    key, iv = Secret(os.urandom(KEY_SIZE)), os.urandom(IV_SIZES[GCM])
    return Sealed(key, AESGCM(key.reveal()).encrypt(iv, plaintext.reveal(), None), iv)


def build_payload(  # noqa: PLR0917  # the members that make one
    version: str,
    provider: str,
    settings: Mapping[str, msgspec.Raw],
    key_id: str,
    wrapped: tuple[bytes, Mapping[str, object]],
    sealed: Sealed,
) -> bytes:
    """The payload's JSON.

    Args:
        version: of the format.
        provider: the service's name.
        settings: ``provider_settings``.
        key_id: key of the service.
        wrapped: what the service made of ``sealed.key``, and the annotations to decrypt it with.
        sealed: data, and the IV.
    """
    encrypted_key, annotations = wrapped
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in annotations.items()}
    return msgspec.json.encode(
        EnvelopePayload(
            version=version,
            type=ENVELOPE,
            key_id=key_id,
            encrypted_key=standard_encode(encrypted_key),
            encrypted_data=standard_encode(sealed.data),
            wrap_type=GCM,
            iv=standard_encode(sealed.iv),
            provider=provider,
            provider_settings=dict(settings),
            annotations=raw,
        )
    )


def _decoded(text: str, member: str) -> bytes:
    try:
        return standard_decode(text)
    except ValueError:
        raise _malformed(f"{member} is not standard base64") from None


def _malformed(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_MALFORMED, reason)


def _failed(reason: str) -> AgentError:
    return AgentError(ErrorCode.SEALED_DECRYPT_FAILED, reason)
