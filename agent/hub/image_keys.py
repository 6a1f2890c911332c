"""Image layer keys: unwrapping and wrapping with a key of the broker (cdh.md 6.2, 6.3)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json
from agent.hub.image_packets import (
    ServiceKey,
    WrappedKey,
    WrapType,
    build_packet,
    build_protocol_input,
    build_protocol_output,
    parse_protocol_input,
)
from agent.hub.kms.registry import plain
from agent.secret import Secret

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.hub.kms.registry import Backends
    from agent.hub.resources import Resources

__all__ = ["build_protocol_input", "unwrap", "unwrap_key", "wrap"]

KEK_SIZE: Final = 32


async def unwrap_key(
    protocol_input: bytes, resources: Resources, deadline: Deadline, backends: Backends | None = None
) -> Secret:
    """Answer one key provider request.

    Args:
        protocol_input: key provider JSON, at most ``limits.KEY_PROVIDER_MAX`` bytes.
        resources: where the key encryption key comes from.
        deadline: when the caller stops waiting.
        backends: key management services, for packets that name one; None: there are none.

    Returns:
        ``{"keyunwrapresults":{"optsdata":[...]}}``, compact JSON.

    Raises:
        AgentError: PAYLOAD_TOO_LARGE, IMAGE_KEY_MALFORMED, IMAGE_KEY_UNSUPPORTED, IMAGE_KEY_UNWRAP_FAILED,
            KMS_UNKNOWN, KMS_SETTINGS_INVALID, or why the broker did not hand out the key or the service did
            not decrypt it.
    """
    key = parse_protocol_input(protocol_input)
    if isinstance(key, ServiceKey):
        private_options = await _decrypted(key, backends, deadline)
    else:
        private_options = await _unwrapped(key, resources, deadline)
    try:
        return Secret(build_protocol_output(private_options.reveal()))
    finally:
        private_options.wipe()


async def _decrypted(key: ServiceKey, backends: Backends | None, deadline: Deadline) -> Secret:
    if backends is None:
        raise AgentError(ErrorCode.KMS_UNKNOWN, "there are no key management services here")
    decrypter = backends.decrypter(key.provider, key.settings)
    return await decrypter.decrypt(key.data, key.key_id, plain(key.annotations), deadline)


async def _unwrapped(key: WrappedKey, resources: Resources, deadline: Deadline) -> Secret:
    kek = await resources.get(key.kid, deadline)
    try:
        return unwrap(key, kek)
    finally:
        kek.wipe()


def unwrap(key: WrappedKey, kek: Secret) -> Secret:
    """The private options of a layer: JSON with the layer key (cdh.md 6.4).

    Args:
        key: a checked annotation packet.
        kek: key encryption key, 32 raw bytes.

    Raises:
        AgentError: IMAGE_KEY_UNWRAP_FAILED.
    """
    # T-IMGKEY-3: no shorter key is stretched, no longer one cut, and no encoding of one guessed.
    if len(kek) != KEK_SIZE:
        raise _failed(f"the key encryption key has {len(kek)} bytes, {KEK_SIZE} are needed")
    if key.wrap_type is WrapType.A256CTR:
        return _unwrap_ctr(key, kek)
    try:
        return Secret(AESGCM(kek.reveal()).decrypt(key.iv, key.data, None))
    except InvalidTag:
        raise _failed("A256GCM authentication failed") from None


def _unwrap_ctr(key: WrappedKey, kek: Secret) -> Secret:
    decryptor = Cipher(AES(kek.reveal()), CTR(key.iv)).decryptor()
    plaintext = decryptor.update(key.data) + decryptor.finalize()
    # T-IMGKEY-4: counter mode authenticates nothing. A wrong key gives noise, which must not pass as an
    # answer; a changed layer key is caught by the layer's HMAC later. The reason says no more than that:
    # whoever may change the packet would learn the plaintext from positions of parse errors.
    try:
        read_json(plaintext, dict[str, msgspec.Raw], ErrorCode.IMAGE_KEY_UNWRAP_FAILED, "A256CTR result")
    except AgentError:
        raise _failed("the A256CTR result is not a JSON object") from None
    return Secret(plaintext)


def wrap(private_options: bytes, kek: bytes, kid: str) -> bytes:
    """Wrap private options with A256GCM and a random IV.

    Args:
        private_options: JSON with the layer key (cdh.md 6.4).
        kek: key encryption key, 32 raw bytes.
        kid: resource URI of ``kek``; guests accept no other form.

    Returns:
        A version 1 annotation packet, JSON. Its base64 goes into the layer's annotation.

    Raises:
        AgentError: INVALID_URI.
        ValueError: ``kek`` is not 32 bytes.
    """
    if len(kek) != KEK_SIZE:
        raise ValueError(f"a key encryption key has {KEK_SIZE} bytes")
    iv = os.urandom(WrapType.A256GCM.iv_size)
    data = AESGCM(kek).encrypt(iv, private_options, None)
    return build_packet(WrappedKey(str(parse_uri(kid)), WrapType.A256GCM, iv, data))


def _failed(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_KEY_UNWRAP_FAILED, reason)
