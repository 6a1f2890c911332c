"""WrapKey: what an image owner's key provider is asked, and what it answers (cdh.md 2.7, 6.3).

No IO. Which key is used, and who registers it, is decided in :mod:`agent.hub.image_owner`.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from agent.config import limits
from agent.config.uri import parse_uri
from agent.errors import AgentError, ErrorCode
from agent.hub.encoding import read_json, standard_decode
from agent.hub.image_packets import WrappedKey, WrapType, build_packet
from agent.secret import Secret

NAME: Final = "attestation-agent"
"""What confidential containers call the key provider; part of the layer's annotation."""

KEK_SIZE: Final = 32
SAMPLE_KID: Final = "kbs:///default/test-key/1"

_PARAMETERS: Final = frozenset({"keyid", "keypath", "algorithm", "sample"})
_BOOLEANS: Final = {"true": True, "false": False}


class _EncryptConfig(msgspec.Struct, frozen=True):
    # `DecryptConfig` is of no use here; Rust's library sends it as null.
    Parameters: dict[str, list[msgspec.Raw]]


class _WrapParams(msgspec.Struct, frozen=True):
    ec: _EncryptConfig
    optsdata: msgspec.Raw


class _ProtocolInput(msgspec.Struct, frozen=True):
    op: str
    keywrapparams: _WrapParams


class _Operation(msgspec.Struct, frozen=True):
    op: str


class Parameters(msgspec.Struct, frozen=True):
    """What the owner asked for with ``--encryption-key provider:attestation-agent:<here>``.

    Attributes:
        kid: canonical resource URI of the key encryption key.
        keypath: file with the 32 raw bytes; empty for a random key.
        wrap_type: cipher of the packet.
        sample: the published key; it protects nothing.
    """

    kid: str
    keypath: str = ""
    wrap_type: WrapType = WrapType.A256GCM
    sample: bool = False


class WrapRequest(msgspec.Struct, frozen=True):
    """One layer's private options, to be wrapped.

    Attributes:
        parameters: with which key, and how.
        private_options: JSON with the layer key.
    """

    parameters: Parameters
    private_options: Secret


def operation(protocol_input: bytes) -> str:
    """``op`` of a key provider request: ``keywrap`` or ``keyunwrap``, or anything else.

    Raises:
        AgentError: PAYLOAD_TOO_LARGE, INVALID_REQUEST.
    """
    _bound(protocol_input)
    return read_json(protocol_input, _Operation, ErrorCode.INVALID_REQUEST, "key provider request").op


def parse_wrap_input(protocol_input: bytes) -> WrapRequest:
    """Read a WrapKey request of Go's or Rust's ocicrypt library.

    Parameters and ``optsdata`` may be base64, an array of integers, or, as Rust writes them, plain text.

    Args:
        protocol_input: JSON, at most ``limits.KEY_PROVIDER_MAX`` bytes.

    Raises:
        AgentError: PAYLOAD_TOO_LARGE, INVALID_REQUEST, INVALID_URI.
    """
    _bound(protocol_input)
    what = "key provider request"
    request = read_json(protocol_input, _ProtocolInput, ErrorCode.INVALID_REQUEST, what)
    if request.op != "keywrap":
        raise _invalid("op is not keywrap")
    given = request.keywrapparams.ec.Parameters.get(NAME, [])
    # T-IMGKEY-40: upstream takes the first and says nothing; the image would be for another key than meant.
    if len(given) != 1:
        raise _invalid(f"one set of parameters for {NAME} is needed, there are {len(given)}")
    options = _octets(request.keywrapparams.optsdata, "optsdata")
    read_json(options, dict[str, msgspec.Raw], ErrorCode.INVALID_REQUEST, "optsdata")
    try:
        text = _octets(given[0], "parameters").decode()
    except UnicodeDecodeError:
        raise _invalid("the parameters are not UTF-8") from None
    return WrapRequest(parse_parameters(text), Secret(options))


def parse_parameters(text: str) -> Parameters:
    """Read ``key=value`` pairs joined by ``::``.

    Raises:
        AgentError: INVALID_REQUEST, INVALID_URI. The values of unknown keys are not repeated.
    """
    found: dict[str, str] = {}
    for pair in text.split("::"):
        key, separator, value = pair.partition("=")
        # T-IMGKEY-41: a misspelled parameter must not end in another key or cipher than the owner asked for.
        if not separator or key not in _PARAMETERS:
            raise _invalid(f"parameters are {', '.join(sorted(_PARAMETERS))}, as key=value joined by '::'")
        if key in found or not value:
            raise _invalid(f"{key} is empty, or there twice")
        found[key] = value
    sample = _BOOLEANS.get(found.get("sample", "false"))
    if sample is None:
        raise _invalid("sample is true or false")
    wrap_type = _wrap_type(found.get("algorithm", WrapType.A256GCM.value))
    if sample:
        if found.keys() & {"keyid", "keypath"}:
            raise _invalid("sample=true names a key of its own: no keyid, no keypath")
        return Parameters(SAMPLE_KID, "", wrap_type, sample=True)
    # T-IMGKEY-42: upstream makes up a name that no guest accepts, and the image can never be decrypted.
    if "keyid" not in found:
        raise _invalid("keyid is needed: keyid=kbs:///<repository>/<type>/<tag>")
    return Parameters(canonical_kid(found["keyid"]), found.get("keypath", ""), wrap_type)


def canonical_kid(text: str) -> str:
    """The resource URI for any spelling of ``keyid``.

    Args:
        text: ``kbs://[addr]/r/t/tag``, ``kbs+plugin://…``, ``addr/r/t/tag`` or ``/r/t/tag``. The address is
            dropped: guests ask the broker they are configured for.

    Raises:
        AgentError: INVALID_URI.
    """
    return str(parse_uri(text if "://" in text else f"kbs://{text}"))


def wrap(request: WrapRequest, kek: Secret) -> bytes:
    """The annotation packet, version 1, with a random IV.

    Raises:
        AgentError: INVALID_REQUEST, the key has not exactly 32 bytes.
    """
    # T-IMGKEY-43: guests refuse any other length, so the owner hears it now and not the pod.
    if len(kek) != KEK_SIZE:
        raise _invalid(f"the key has {len(kek)} bytes, {KEK_SIZE} raw ones are needed")
    parameters, plain = request.parameters, request.private_options.reveal()
    iv = os.urandom(parameters.wrap_type.iv_size)
    if parameters.wrap_type is WrapType.A256CTR:
        cipher = Cipher(AES(kek.reveal()), CTR(iv)).encryptor()
        data = cipher.update(plain) + cipher.finalize()
    else:
        data = AESGCM(kek.reveal()).encrypt(iv, plain, None)
    return build_packet(WrappedKey(parameters.kid, parameters.wrap_type, iv, data))


def build_wrap_output(packet: bytes) -> bytes:
    """The key provider's answer; an array of integers, as upstream's, which Go and Rust both read."""
    return msgspec.json.encode({"keywrapresults": {"annotation": list(packet)}})


def _bound(protocol_input: bytes) -> None:
    # T-IMGKEY-44: bounded before it is parsed.
    if len(protocol_input) > limits.KEY_PROVIDER_MAX:
        size = len(protocol_input)
        raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{size} bytes; limit {limits.KEY_PROVIDER_MAX}")


def _octets(value: msgspec.Raw, member: str) -> bytes:
    """Bytes in any of the three forms; strict base64 is never a pair ``key=value`` nor a JSON object."""
    code = ErrorCode.INVALID_REQUEST
    if bytes(value).lstrip()[:1] == b"[":
        numbers = read_json(bytes(value), list[int], code, member)
        try:
            return bytes(numbers)
        except ValueError:
            raise _invalid(f"{member} holds a number that is no byte") from None
    text = read_json(bytes(value), str, code, member)
    try:
        return standard_decode(text)
    except ValueError:
        return text.encode()


def _wrap_type(name: str) -> WrapType:
    try:
        return WrapType(name)
    except ValueError:
        raise _invalid("algorithm is A256GCM or A256CTR") from None


def _invalid(reason: str) -> AgentError:
    return AgentError(ErrorCode.INVALID_REQUEST, reason)
