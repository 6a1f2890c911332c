"""Wire formats of the ocicrypt key provider, before any key is involved (cdh.md 2.7, 6.1)."""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from agent.config import limits
from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode, standard_encode
from agent.secret import without

VERSION: Final = "0.1.0"
PROVIDER: Final = "kbs"
TAG_SIZE: Final = 16


class WrapType(enum.Enum):
    """How the private options are encrypted with the key encryption key.

    Values are the wire names.
    """

    A256GCM = "A256GCM"
    A256CTR = "A256CTR"

    @property
    def iv_size(self) -> int:
        """Bytes of IV: 12 for GCM; for CTR 16, the initial big-endian counter block."""
        return 12 if self is WrapType.A256GCM else 16


class _UnwrapParams(msgspec.Struct, frozen=True):
    # `dc` differs between the Go and the Rust libraries and is of no use here.
    annotation: str
    dc: dict[str, msgspec.Raw] | None = None


class _ProtocolInput(msgspec.Struct, frozen=True):
    op: str
    keywrapparams: dict[str, msgspec.Raw]
    keyunwrapparams: _UnwrapParams


class _Packet(msgspec.Struct, frozen=True):
    kid: str
    wrapped_data: str
    iv: str | None = None
    wrap_type: str | None = None
    version: str = VERSION
    provider: str = PROVIDER
    provider_settings: dict[str, msgspec.Raw] = {}
    annotations: dict[str, msgspec.Raw] = {}


class WrappedKey(msgspec.Struct, frozen=True):
    """An annotation packet that can be unwrapped, once its key encryption key is there.

    Attributes:
        kid: canonical resource URI of the key encryption key.
        wrap_type: cipher.
        iv: ``wrap_type.iv_size`` bytes.
        data: encrypted private options; for GCM the 16-byte tag is the last part.
    """

    kid: str
    wrap_type: WrapType
    iv: bytes
    data: bytes


class ServiceKey(msgspec.Struct, frozen=True):
    """An annotation packet that a key management service unwraps; its plaintext is the private options.

    Attributes:
        provider: as written, and not exactly ``kbs``: ``KBS`` names a service that there is not (cdh.md 6.1).
        settings: ``provider_settings``.
        key_id: ``kid``, as the service names its keys.
        data: ciphertext for the service.
        annotations: for the service; version, ``iv`` and ``wrap_type`` of the packet are not looked at.
    """

    provider: str
    settings: dict[str, msgspec.Raw]
    key_id: str
    data: bytes
    annotations: dict[str, msgspec.Raw]

    def __repr__(self) -> str:
        return without(self, "settings", "data", "annotations")


def parse_protocol_input(protocol_input: bytes) -> WrappedKey | ServiceKey:
    """Read a key provider request and the annotation packet in it.

    Args:
        protocol_input: JSON, at most ``limits.KEY_PROVIDER_MAX`` bytes. The value of ``op`` is ignored, as
            upstream; ``dc`` may be null, absent, or have any members.

    Raises:
        AgentError: PAYLOAD_TOO_LARGE, IMAGE_KEY_MALFORMED, IMAGE_KEY_UNSUPPORTED.
    """
    # T-IMGKEY-1: bounded before it is parsed.
    if len(protocol_input) > limits.KEY_PROVIDER_MAX:
        raise AgentError(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"a key provider request of {len(protocol_input)} bytes; limit {limits.KEY_PROVIDER_MAX}",
        )
    request = read_json(protocol_input, _ProtocolInput, ErrorCode.IMAGE_KEY_MALFORMED, "key provider request")
    return parse_packet(_decoded(request.keyunwrapparams.annotation, "annotation"))


def parse_packet(packet: bytes) -> WrappedKey | ServiceKey:
    """Read and check an annotation packet, version 1 or 2, without asking anybody for a key.

    Args:
        packet: JSON, bounded by the caller.

    Raises:
        AgentError: IMAGE_KEY_MALFORMED, IMAGE_KEY_UNSUPPORTED (version).
    """
    fields = read_json(packet, _Packet, ErrorCode.IMAGE_KEY_MALFORMED, "annotation packet")
    # T-IMGKEY-2: everything that can be refused is refused before the broker is asked for a key.
    if fields.provider != PROVIDER:
        return _service_key(fields)
    if fields.version != VERSION:
        raise AgentError(ErrorCode.IMAGE_KEY_UNSUPPORTED, "only packet version 0.1.0 is supported")
    if fields.iv is None or fields.wrap_type is None:
        raise _malformed("iv and wrap_type are needed for provider 'kbs'")
    try:
        wrap_type = WrapType(fields.wrap_type)
    except ValueError:
        raise _malformed("Unknown WrapType: A256GCM or A256CTR is needed") from None
    iv = _decoded(fields.iv, "iv")
    if len(iv) != wrap_type.iv_size:
        raise _malformed(f"iv has {len(iv)} bytes, {wrap_type.value} needs {wrap_type.iv_size}")
    data = _decoded(fields.wrapped_data, "wrapped_data")
    if len(data) < (TAG_SIZE if wrap_type is WrapType.A256GCM else 1):
        raise _malformed("wrapped_data is too short")
    return WrappedKey(_key_uri(fields.kid), wrap_type, iv, data)


def build_packet(key: WrappedKey) -> bytes:
    """A version 1 annotation packet: JSON with exactly ``kid, wrapped_data, iv, wrap_type`` (cdh.md 6.3)."""
    return msgspec.json.encode(
        {
            "kid": key.kid,
            "wrapped_data": standard_encode(key.data),
            "iv": standard_encode(key.iv),
            "wrap_type": key.wrap_type.value,
        }
    )


def build_protocol_input(packet: bytes) -> bytes:
    """The key provider request for an annotation packet, byte for byte as ocicrypt-rs sends it (cdh.md A.5).

    Args:
        packet: annotation packet JSON, that is one entry of the layer's annotation, base64-decoded.
    """
    return msgspec.json.encode(
        {
            "op": "keyunwrap",
            "keywrapparams": {"ec": None, "optsdata": None},
            "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": standard_encode(packet)},
        }
    )


def build_protocol_output(private_options: bytes) -> bytes:
    """The key provider answer; bytes become an array of integers, the only form ocicrypt-rs reads."""
    return msgspec.json.encode({"keyunwrapresults": {"optsdata": list(private_options)}})


def _service_key(fields: _Packet) -> ServiceKey:
    data = _decoded(fields.wrapped_data, "wrapped_data")
    if not data or not fields.kid:
        raise _malformed("wrapped_data or kid is empty")
    return ServiceKey(fields.provider, fields.provider_settings, fields.kid, data, fields.annotations)


def _decoded(text: str, member: str) -> bytes:
    try:
        return standard_decode(text)
    except ValueError:
        raise _malformed(f"{member} is not standard base64") from None


def _key_uri(kid: str) -> str:
    try:
        return str(parse_uri(kid))
    except AgentError as error:
        raise _malformed(f"kid: {error.detail}") from error


def _malformed(reason: str) -> AgentError:
    return AgentError(ErrorCode.IMAGE_KEY_MALFORMED, reason)
