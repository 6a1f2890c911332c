from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.tpm import (
    bound_init_data,
    parse_attest,
    parse_signature,
    rsa_key,
    verify_init_data,
    verify_quote,
)
from agent.tee.evidence.verdict import holds
from tests.unit.tee.evidence import azure
from tests.unit.tee.evidence.azure import NONCE, PCRS


def failed(message: bytes, pcrs: tuple[bytes, ...] = PCRS, nonce: bytes | None = NONCE) -> set[str]:
    signature = azure.sign(message)
    checks = verify_quote(message, signature, pcrs, azure.key().public_key(), nonce)
    return {check.name for check in checks if check.passed is False}


def test_a_quote_says_what_it_is_about() -> None:
    found = parse_attest(azure.attest())
    assert found.extra_data == NONCE
    assert found.pcr_selection == ((0x000B, frozenset(range(24))),)
    assert found.pcr_digest == hashlib.sha256(b"".join(PCRS)).digest()
    assert (found.clock, found.reset_count, found.restart_count, found.safe) == (12345, 1, 2, True)


def test_a_good_quote_holds_and_each_flipped_bit_of_it_does_not() -> None:
    message = azure.attest()
    signature, key = azure.sign(message), azure.key().public_key()
    assert holds(verify_quote(message, signature, PCRS, key, NONCE))
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    assert not holds(verify_quote(message, flipped, PCRS, key, NONCE))
    assert not holds(verify_quote(message, signature, PCRS, key, NONCE[:-1] + b"m"))
    assert not holds(verify_quote(message, signature, (PCRS[1], *PCRS[1:]), key, NONCE))


def test_a_nonce_is_not_a_prefix() -> None:
    assert failed(azure.attest(NONCE + b"\0" * 16)) == {"TPM quote nonce"}
    assert failed(azure.attest(NONCE[:32])) == {"TPM quote nonce"}


def test_a_nonce_nobody_asks_for_is_shown_and_proves_nothing() -> None:
    message = azure.attest()
    checks = verify_quote(message, azure.sign(message), PCRS, azure.key().public_key(), None)
    assert [check.passed for check in checks if check.name == "TPM quote nonce"] == [None]
    assert not holds(checks)


def test_a_selection_without_pcr_8_cannot_put_another_in_its_place() -> None:
    # 24 values and a right digest, but they are PCR 0-7, 9-23 and once more something else.
    chosen = b"\xff\xfe\xff"
    assert failed(azure.attest(select=chosen)) == {"PCR selection"}
    assert "PCR selection" in failed(azure.attest(bank=0x0004))
    assert "PCR selection" in failed(azure.attest(pcrs=PCRS[:23]), PCRS[:23])


def test_values_cut_elsewhere_are_not_pcrs() -> None:
    whole = b"".join(PCRS)
    moved = (whole[:16], whole[16:48], *(whole[48 + 32 * i : 80 + 32 * i] for i in range(21)), whole[720:])
    assert b"".join(moved) == whole
    assert failed(azure.attest(), moved) == {"PCR selection"}


@pytest.mark.parametrize(
    "message",
    [
        azure.attest(magic=0x00544347),
        azure.attest(kind=0x8017),
        azure.attest() + b"\0",
        azure.attest()[:-1],
        azure.attest(extra=bytes(200)),
        b"",
    ],
)
def test_what_is_no_quote_is_refused(message: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        parse_attest(message)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


def test_only_rsassa_with_sha256_is_a_signature() -> None:
    raw = azure.sign(b"x")
    assert parse_signature(struct.pack(">HHH", 0x14, 0x0B, 256) + raw) == raw
    for scheme, algorithm, tail in ((0x16, 0x0B, b""), (0x14, 0x04, b""), (0x14, 0x0B, b"\0")):
        with pytest.raises(AgentError):
            parse_signature(struct.pack(">HHH", scheme, algorithm, 256) + raw + tail)


def test_weak_or_absurd_keys_are_refused() -> None:
    modulus = azure.numbers()[0]
    for n, e in ((modulus >> 1024, 65537), (modulus, 1), (modulus, 4), (0, 3), (1 << 9000, 65537)):
        with pytest.raises(AgentError):
            rsa_key(n, e, "key")


def test_init_data_is_one_extension_of_pcr_8() -> None:
    # attesters.md 16.3
    digest = bytes.fromhex("8505e4e25e50a27c5dc8147af88efbece627fbea55291911eff832d9ee127781")
    expected = "bddaccb9c52249e97a31baea61b7d91be8221a16e703d92148d04fb8e9c1dfdd"
    bound = bound_init_data(digest)
    assert bound is not None
    assert bound.hex() == expected
    pcrs = (*PCRS[:8], bound, *PCRS[9:])
    assert verify_init_data(pcrs, digest).passed
    twice = hashlib.sha256(bound + digest).digest()
    assert verify_init_data((*PCRS[:8], twice, *PCRS[9:]), digest).passed is False
    assert verify_init_data(pcrs, bytes(32)).passed is False
    assert verify_init_data(pcrs, digest + bytes(16)).passed is False
    assert verify_init_data(pcrs[:8], digest).passed is False
    assert verify_init_data(pcrs, None).passed is None


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_noise_is_refused_politely(data: bytes) -> None:
    for parse in (parse_attest, parse_signature):
        with pytest.raises(AgentError):
            parse(data)


@settings(max_examples=200)
@given(st.integers(0, 300), st.integers(0, 255), st.integers(0, 300))
def test_a_changed_quote_parses_or_is_refused(at: int, value: int, end: int) -> None:
    data = bytearray(azure.attest())
    data[at % len(data)] = value
    with azure.parsed_or_malformed():
        parse_attest(bytes(data[:end]))
