"""Sealed secrets as kata-agent, the workload and an attacker send them."""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.hub.sealed import parse_payload
from agent.secret import Secret
from tests.unit.hub import support
from tests.unit.hub.support import (
    KEY_URI,
    PLAINTEXT,
    SECOND_KEY_PRIVATE,
    TARGET_URI,
    TEST_KEY,
    TEST_KEY_PRIVATE,
    VAULT,
    VECTOR_A,
    VECTOR_B,
    VECTOR_C,
    VECTOR_D,
    VECTOR_E,
    StoredGetter,
    failure,
    jwk,
    refusal,
    signed,
    soon,
    unhurried,
    unsealer,
    url64,
)

if TYPE_CHECKING:
    from pathlib import Path


# --- vectors A.1 -----------------------------------------------------------------------------------
async def test_a_local_key_opens_vector_a_whose_s_is_high(getter: StoredGetter, key_dir: Path) -> None:
    assert await unsealer(getter, key_dir).unseal(VECTOR_A.encode(), soon()) == Secret(PLAINTEXT)
    assert getter.asked == [TARGET_URI]


async def test_a_broker_key_opens_vector_b(getter: StoredGetter) -> None:
    assert await unsealer(getter).unseal(VECTOR_B.encode(), soon()) == Secret(PLAINTEXT)
    assert getter.asked == [KEY_URI, TARGET_URI]


async def test_a_private_part_in_the_key_file_is_ignored(getter: StoredGetter, key_dir: Path) -> None:
    support.write(key_dir / "test-key", jwk(TEST_KEY_PRIVATE))
    assert await unsealer(getter, key_dir).unseal(VECTOR_A.encode(), soon()) == Secret(PLAINTEXT)


async def test_another_signer_is_refused_and_nothing_is_fetched(getter: StoredGetter, key_dir: Path) -> None:
    error = await refusal(unsealer(getter, key_dir), VECTOR_C)
    assert error.code is ErrorCode.SEALED_SIGNATURE_INVALID
    assert getter.asked == []


async def test_the_legacy_form_needs_verification_switched_off(getter: StoredGetter, key_dir: Path) -> None:
    error = await refusal(unsealer(getter, key_dir), VECTOR_D)
    assert error.code is ErrorCode.SEALED_MALFORMED
    skipping = unsealer(getter, key_dir, skip_verification=True)
    assert await skipping.unseal(VECTOR_D.encode(), soon()) == Secret(PLAINTEXT)


@pytest.mark.parametrize("offset", [50, 200, 250])
async def test_tampering_is_noticed(getter: StoredGetter, key_dir: Path, offset: int) -> None:
    changed = "Y" if VECTOR_A[offset] == "X" else "X"
    error = await refusal(unsealer(getter, key_dir), VECTOR_A[:offset] + changed + VECTOR_A[offset + 1 :])
    assert error.code in {
        ErrorCode.SEALED_MALFORMED,
        ErrorCode.SEALED_SIGNATURE_INVALID,
        ErrorCode.SEALED_KEY_INVALID,
    }
    assert TARGET_URI not in getter.asked


@unhurried
@given(st.integers(0, len(VECTOR_B) - 1), st.sampled_from("AXq9-_."))
async def test_no_changed_character_ever_passes(offset: int, changed: str) -> None:
    if VECTOR_B[offset] == changed:
        return
    getter = StoredGetter({KEY_URI: jwk(TEST_KEY), TARGET_URI: PLAINTEXT})
    await refusal(unsealer(getter), VECTOR_B[:offset] + changed + VECTOR_B[offset + 1 :])
    assert TARGET_URI not in getter.asked


# --- the container ---------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["\n", "\r\n", " \n\t", "\n\n"])
async def test_the_last_newline_of_a_file_is_dropped(getter: StoredGetter, end: str) -> None:
    assert await unsealer(getter).unseal((VECTOR_B + end).encode(), soon()) == Secret(PLAINTEXT)


@pytest.mark.parametrize(
    "start", ["", "sealed.sealed.", "sealed.sealed.sealed.", "Sealed.", " sealed.", "\nsealed."]
)
async def test_the_prefix_stands_there_exactly_once(getter: StoredGetter, start: str) -> None:
    error = await refusal(unsealer(getter), start + VECTOR_B.removeprefix("sealed."))
    assert error.code is ErrorCode.SEALED_MALFORMED
    assert "the prefix" in error.detail
    assert getter.asked == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sealed.",
        "sealed..",
        "sealed...",
        "sealed.a.b",
        VECTOR_B + ".x",
        VECTOR_B + "=",
        VECTOR_B.replace("-", "+"),
        VECTOR_B.replace(".uPKu", ".uP\nKu"),
        VECTOR_B[:-4],
        VECTOR_B + "AAAA",
        "sealed.\u00e9.b.c",
        b"sealed.\xff.b.c",
    ],
)
async def test_another_container_is_malformed(getter: StoredGetter, text: str | bytes) -> None:
    assert (await refusal(unsealer(getter), text)).code is ErrorCode.SEALED_MALFORMED
    assert getter.asked == []


async def test_a_second_spelling_of_the_signature_is_refused(getter: StoredGetter) -> None:
    # 64 bytes leave four unused bits in the last character; 'w' and 'x' would decode alike.
    assert VECTOR_B.endswith("w")
    assert (await refusal(unsealer(getter), VECTOR_B[:-1] + "x")).code is ErrorCode.SEALED_MALFORMED


@pytest.mark.parametrize("skip", [True, False])
async def test_size_comes_first(getter: StoredGetter, skip: bool) -> None:
    unsealing = unsealer(getter, skip_verification=skip)
    longest = await refusal(unsealing, b"\n" * limits.SEALED_MAX)
    assert longest.code is ErrorCode.SEALED_MALFORMED
    assert (await refusal(unsealing, b"\n" * (limits.SEALED_MAX + 1))).code is ErrorCode.PAYLOAD_TOO_LARGE


# --- the payload -----------------------------------------------------------------------------------
@pytest.mark.parametrize("provider", ["kbs", "KBS", "Kbs", "kBs"])
async def test_the_provider_is_compared_without_case(getter: StoredGetter, provider: str) -> None:
    text = signed({**VAULT, "provider": provider})
    assert await unsealer(getter).unseal(text.encode(), soon()) == Secret(PLAINTEXT)


async def test_settings_and_annotations_may_have_members(getter: StoredGetter) -> None:
    payload = {**VAULT, "provider_settings": {"a": [1]}, "annotations": {"b": {"c": None}}, "more": 1}
    assert await unsealer(getter).unseal(signed(payload).encode(), soon()) == Secret(PLAINTEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"version": "0.2.0"},
        {"version": "0.1"},
        {"type": "Vault"},
        {"type": "other"},
    ],
)
async def test_payloads_of_another_kind(getter: StoredGetter, change: dict[str, Any]) -> None:
    error = await refusal(unsealer(getter), signed({**VAULT, **change}))
    assert error.code is ErrorCode.SEALED_UNSUPPORTED
    assert getter.asked == [KEY_URI]


@pytest.mark.parametrize("provider", ["", "\u212abs", "kbs ", "other", "a" * 9999])
async def test_a_provider_that_does_not_exist(getter: StoredGetter, provider: str) -> None:
    error = await refusal(unsealer(getter), signed({**VAULT, "provider": provider}))
    assert error.code is ErrorCode.KMS_UNKNOWN
    assert getter.asked == [KEY_URI]


@pytest.mark.parametrize(
    "payload",
    [
        *({name: value for name, value in VAULT.items() if name != missing} for missing in VAULT),
        {**VAULT, "annotations": None},
        {**VAULT, "annotations": []},
        {**VAULT, "provider_settings": "{}"},
        {**VAULT, "name": 1},
        {**VAULT, "name": ""},
        {**VAULT, "name": "", "provider": "aws"},
        {**VAULT, "name": "one/2/trois"},
        {**VAULT, "name": "kbs:///one/../trois"},
        {**VAULT, "name": "https://host/one/2/trois"},
        b"",
        b"[]",
        b"{",
        b"\xff",
    ],
)
async def test_payloads_that_are_none(getter: StoredGetter, payload: Any) -> None:
    error = await refusal(unsealer(getter), signed(payload))
    assert error.code is ErrorCode.SEALED_MALFORMED
    assert getter.asked == [KEY_URI]


async def test_a_broken_payload_is_not_even_parsed_without_a_signature(getter: StoredGetter) -> None:
    error = await refusal(unsealer(getter), signed(b"{", key=SECOND_KEY_PRIVATE))
    assert error.code is ErrorCode.SEALED_SIGNATURE_INVALID


# --- the answer ------------------------------------------------------------------------------------
@pytest.mark.parametrize("held", [VECTOR_B, VECTOR_B + "\n"])
@pytest.mark.parametrize("sent", [VECTOR_B, VECTOR_B + "\n"])
async def test_the_input_is_never_the_answer(getter: StoredGetter, held: str, sent: str) -> None:
    getter.held[TARGET_URI] = held.encode()
    assert (await refusal(unsealer(getter), sent)).code is ErrorCode.SEALED_MALFORMED


async def test_another_sealed_secret_is_a_plaintext_like_any_other(getter: StoredGetter) -> None:
    getter.held[TARGET_URI] = VECTOR_A.encode()
    assert await unsealer(getter).unseal(VECTOR_B.encode(), soon()) == Secret(VECTOR_A.encode())


async def test_plaintext_is_handed_out_byte_for_byte(getter: StoredGetter) -> None:
    getter.held[TARGET_URI] = b" \xff\x00 with space \n"
    assert await unsealer(getter).unseal(VECTOR_B.encode(), soon()) == Secret(b" \xff\x00 with space \n")


async def test_no_error_repeats_the_secret(getter: StoredGetter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    del getter.held[TARGET_URI]
    for text in (
        VECTOR_A,
        VECTOR_B,
        VECTOR_C,
        VECTOR_D,
        VECTOR_E,
        VECTOR_B + "x",
        signed({**VAULT, "name": "zz"}),
    ):
        for skip in (False, True):
            error = await refusal(unsealer(getter, skip_verification=skip), text)
            assert text[10:40] not in f"{error}{error.message}{caplog.text}"


# --- verification switched off ---------------------------------------------------------------------
async def test_each_skipped_verification_leaves_a_warning(
    getter: StoredGetter, caplog: pytest.LogCaptureFixture
) -> None:
    skipping = unsealer(getter, skip_verification=True)
    for _ in range(2):
        await skipping.unseal(VECTOR_C.encode() + b"\n", soon())
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert all(
        "sealed." not in record.getMessage() and TARGET_URI not in record.getMessage() for record in warnings
    )


@pytest.mark.parametrize(
    "text", ["", "sealed.a.b", "sealed." + VECTOR_D, VECTOR_D + ".x", VECTOR_D.replace(".fakes", "=.fakes")]
)
async def test_skipping_still_needs_four_sections(getter: StoredGetter, text: str) -> None:
    error = await refusal(unsealer(getter, skip_verification=True), text)
    assert error.code is ErrorCode.SEALED_MALFORMED


async def test_verification_leaves_no_warning(getter: StoredGetter, caplog: pytest.LogCaptureFixture) -> None:
    await unsealer(getter).unseal(VECTOR_B.encode(), soon())
    assert caplog.records == []


# --- anything at all -------------------------------------------------------------------------------
_near = st.builds(
    lambda parts, start: (start + ".".join(parts)).encode(),
    st.lists(
        st.sampled_from(VECTOR_B.split(".")[1:]) | st.binary(max_size=40).map(url64) | st.text(max_size=8),
        max_size=5,
    ),
    st.sampled_from(["sealed.", "", "sealed.sealed."]),
)


@unhurried
@given(st.binary(max_size=300) | _near, st.booleans())
async def test_only_typed_errors_leave(sealed: bytes, skip: bool) -> None:
    getter = StoredGetter({KEY_URI: jwk(TEST_KEY), TARGET_URI: PLAINTEXT})
    try:
        await unsealer(getter, skip_verification=skip).unseal(sealed, soon())
    except AgentError:
        return


@unhurried
@given(
    st.dictionaries(
        st.sampled_from([*VAULT, "x"]), st.none() | st.text(max_size=30) | st.just({}) | st.integers()
    )
)
def test_only_typed_errors_leave_the_payload_parser(change: dict[str, Any]) -> None:
    code = failure(lambda: parse_payload(json.dumps({**VAULT, **change}).encode(), signed=True))
    assert code in {None, ErrorCode.SEALED_MALFORMED, ErrorCode.SEALED_UNSUPPORTED}


def test_vectors_are_what_they_say() -> None:
    """Guards the vectors against this file: payload (a) is the minified vault of cdh.md 4.3."""
    payload = VECTOR_A.split(".")[2]
    assert json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) == VAULT
