from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee import chardev, nitro
from agent.tee.attesters import MODULES
from agent.tee.evidence import cbor

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = b"\x84" + bytes(300)
ANSWER = b"\xa1\x6bAttestation\xa1\x68document\x59" + struct.pack(">H", len(DOCUMENT)) + DOCUMENT
REFUSAL = b"\xa1\x65Error\x6dInputTooLarge"


def test_the_request_is_the_modules_own() -> None:
    request = nitro.build_request(b"u" * 64, None, b"k" * 300)
    assert cbor.decode(request) == {
        "Attestation": {"user_data": b"u" * 64, "nonce": None, "public_key": b"k" * 300}
    }
    # RFC 8949: a map of one pair, whose key is a text of eleven bytes.
    assert request.startswith(b"\xa1\x6bAttestation\xa3\x69user_data\x58\x40uuu")


@pytest.mark.parametrize("member", ["user_data", "nonce", "public_key"])
def test_more_than_fits_is_refused(member: str) -> None:
    values: dict[str, bytes | None] = {"user_data": None, "nonce": None, "public_key": None}
    with pytest.raises(AgentError) as caught:
        nitro.build_request(**(values | {member: bytes(1025)}))
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert member in caught.value.detail


def ask(root: Path, answer: bytes) -> bytes:
    (root / "dev").mkdir()
    (root / "dev" / "nsm").touch()

    def module(descriptor: int, request: int, argument: bytearray) -> None:
        assert request == 0xC0200A00
        asked, length, room, size = struct.unpack("=QQQQ", argument)
        assert size == 0x3000
        body = cbor.decode(chardev.at(asked, length))
        assert body == {"Attestation": {"user_data": b"data", "nonce": None, "public_key": None}}
        chardev.put(room, answer)
        argument[24:] = struct.pack("=Q", len(answer))

    return nitro.attestation_document(str(root), user_data=b"data", ioctl=module)


def test_the_document_comes_as_it_was_signed(tmp_path: Path) -> None:
    assert ask(tmp_path, ANSWER) == DOCUMENT


def test_the_modules_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        ask(tmp_path, REFUSAL)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert "InputTooLarge" in caught.value.detail


def test_no_device_is_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(AgentError) as caught:
        nitro.attestation_document(str(tmp_path))
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING


def test_it_is_no_tee_of_a_handshake() -> None:
    assert not [module for module in MODULES.values() if "nitro" in module]


@settings(max_examples=150)
@given(st.binary(max_size=64) | st.integers(0, len(ANSWER)).map(lambda cut: ANSWER[:cut] + b"\xf6"))
def test_only_declared_errors_escape(data: bytes) -> None:
    with suppress(AgentError):
        nitro.parse_response(data)
