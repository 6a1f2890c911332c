from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError, ErrorCode
from agent.tee.tpm2 import client, codes, commands
from agent.tee.tpm2.commands import Answer, Command
from agent.tee.tpm2.quoting import quote_with_pcrs
from agent.tee.tpm2.registers import register_of
from tests.unit.tee.evidence import azure
from tests.unit.tee.evidence.azure import sized

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD = "00000009 40000009 0000 00 0000"


def ok(body: bytes, tag: int = 0x8001) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), 0) + body


def refusal(rc: int) -> bytes:
    return struct.pack(">HII", 0x8001, 10, rc)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (commands.nv_read_public(0x01400001), "8001 0000000e 00000169 01400001"),
        (
            commands.nv_read(0x01400001, 1024, 2048),
            "8002 00000023 0000014e 40000001 01400001 00000009 40000009 0000 00 0000 0400 0800",
        ),
        (
            commands.nv_write(0x01400002, b"\xaa\xbb", 0),
            "8002 00000025 00000137 40000001 01400002 00000009 40000009 0000 00 0000 0002 aabb 0000",
        ),
        (
            commands.nv_define(0x01400002, 48),
            "8002 0000002d 0000012a 40000001" + PASSWORD + "0000 000e 01400002 000b 00020002 0000 0030",
        ),
        (
            commands.nv_undefine(0x01400002),
            "8002 0000001f 00000122 40000001 01400002 00000009 40000009 0000 00 0000",
        ),
        (commands.read_public(0x81000003), "8001 0000000e 00000173 81000003"),
        (
            commands.quote(0x81000003, b"\x01\x02", rsassa=False),
            "8002 0000002b 00000158 81000003" + PASSWORD + "0002 0102 0010 00000001 000b 03 ffffff",
        ),
        (
            commands.quote(0x81010002, b"", rsassa=True),
            "8002 0000002b 00000158 81010002" + PASSWORD + "0000 0014 000b 00000001 000b 03 ffffff",
        ),
        (commands.pcr_read({8, 23}), "8001 00000014 0000017e 00000001 000b 03 000180"),
        (
            commands.pcr_extend(8, bytes(32)),
            "8002 00000041 00000182 00000008 00000009 40000009 0000 00 0000 00000001 000b" + "00" * 32,
        ),
        (commands.pcr_properties(), "8001 00000016 0000017a 00000007 00000000 00000020"),
    ],
    ids=lambda value: value.name if isinstance(value, Command) else "",
)
def test_commands_are_written_as_the_sheet_says(command: Command, expected: str) -> None:
    assert command.encode().hex() == expected.replace(" ", "")


@pytest.mark.parametrize(
    ("rc", "words"),
    [
        (0x18B, "TPM_RC_HANDLE (handle 1, 0x18b)"),
        (0x28B, "TPM_RC_HANDLE (handle 2, 0x28b)"),
        (0x2D5, "TPM_RC_SIZE (parameter 2, 0x2d5)"),
        (0x98E, "TPM_RC_AUTH_FAIL (session 1, 0x98e)"),
        (0x14A, "TPM_RC_NV_UNINITIALIZED (0x14a)"),
        (0x907, "TPM_RC_LOCALITY (0x907)"),
        (0x922, "TPM_RC_RETRY (0x922)"),
        (0x000B0143, "TPM_RC_COMMAND_CODE (0xb0143 from layer 11)"),
        (0x7F, "response code 0x07f"),
        (0x1BF, "response code 0x1bf"),
    ],
)
def test_refusals_are_named(rc: int, words: str) -> None:
    with pytest.raises(codes.TpmRefusal) as caught:
        commands.parse_answer(commands.read_public(1), refusal(rc))
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert caught.value.detail == f"TPM2_ReadPublic: {words}"
    assert caught.value.missing == (rc in {0x18B, 0x28B})


def test_every_response_code_can_be_described() -> None:
    assert all(codes.describe(rc) for rc in range(0x1000))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        refusal(0)[:9],
        struct.pack(">HII", 0x8001, 11, 0),
        struct.pack(">HII", 0x8001, 9, 0),
        struct.pack(">HII", 0x00C4, 10, 0),
        ok(b"\xff\xff\xff\xff", tag=0x8002),
        ok(bytes(5000)),
    ],
)
def test_answers_that_do_not_fit_are_refused(data: bytes) -> None:
    with pytest.raises(AgentError) as caught:
        commands.parse_answer(commands.pcr_read({0}), data)
    assert caught.value.code is ErrorCode.EVIDENCE_MALFORMED


def public(scheme: bytes = b"\x00\x14\x00\x0b", kind: int = 1, exponent: int = 0) -> bytes:
    area = (
        struct.pack(">HHIH", kind, 0x0B, 0x50072, 0)
        + b"\x00\x10"
        + scheme
        + struct.pack(">HI", 2048, exponent)
        + sized(b"\x80" + bytes(254) + b"\x01")
    )
    return sized(area) + sized(b"name") + sized(b"qualified")


def test_rsa_keys_are_read_and_others_refused() -> None:
    modulus = (0x80 << 2040) + 1
    assert commands.parse_rsa_public(public()) == (modulus, 65537)
    assert commands.parse_rsa_public(public(b"\x00\x10", exponent=3)) == (modulus, 3)
    with pytest.raises(AgentError, match="not RSA"):
        commands.parse_rsa_public(public(kind=0x23))


class Scripted:
    """A TPM with 24 PCRs; what it does to them between commands is the test's."""

    def __init__(self) -> None:
        self.pcrs = list(azure.PCRS)
        self.bank = 0x0B
        self.before_reading: Callable[[], None] = lambda: None
        self.asked: list[str] = []
        self.index: bytes | None = None

    def transact(self, command: Command) -> Answer:
        self.asked.append(command.name)
        match command.name:
            case "Quote":
                extra = command.parameters[2 : 2 + int.from_bytes(command.parameters[:2], "big")]
                message = azure.attest(extra, tuple(self.pcrs))
                signature = struct.pack(">HHH", 0x14, 0x0B, 256) + azure.sign(message)
                return Answer(sized(message) + signature)
            case "PCR_Read":
                return self._pcr_read(command)
            case _:
                return self._nv(command)

    def _pcr_read(self, command: Command) -> Answer:
        bits = int.from_bytes(command.parameters[-3:], "little")
        if bits == 0xFFFFFF:
            self.before_reading()
        chosen = [n for n in range(24) if bits >> n & 1][:8] if self.bank == 0x0B else []
        select = sum(1 << n for n in chosen).to_bytes(3, "little")
        values = b"".join(sized(self.pcrs[n]) for n in chosen)
        head = struct.pack(">IIHB", 7, 1, self.bank, 3) + select
        return Answer(head + struct.pack(">I", len(chosen)) + values)

    def _nv(self, command: Command) -> Answer:
        if command.name == "NV_DefineSpace":
            self.index = bytes(int.from_bytes(command.parameters[-2:], "big"))
        elif command.name == "NV_UndefineSpace":
            self.index = None
        elif self.index is None:
            raise codes.TpmRefusal(ErrorCode.EVIDENCE_FAILED, "", 0x18B)
        elif command.name == "NV_ReadPublic":
            area = struct.pack(">IHIHH", 1, 0x0B, 0, 0, len(self.index))
            return Answer(sized(area) + sized(b""))
        elif command.name == "NV_Write":
            data, offset = command.parameters[2:-2], int.from_bytes(command.parameters[-2:], "big")
            self.index = self.index[:offset] + data + self.index[offset + len(data) :]
        elif command.name == "NV_Read":
            size, offset = struct.unpack(">HH", command.parameters)
            return Answer(sized(self.index[offset : offset + size]))
        return Answer(b"")


def test_all_pcrs_are_read_eight_at_a_time() -> None:
    tpm = Scripted()
    assert client.pcr_values(tpm) == dict(enumerate(azure.PCRS))
    assert tpm.asked == ["PCR_Read"] * 3
    assert client.pcr_values(tpm, {23}) == {23: azure.PCRS[23]}


def test_a_tpm_without_a_sha256_bank_is_named() -> None:
    tpm = Scripted()
    tpm.bank = 0x0C
    with pytest.raises(AgentError) as caught:
        client.pcr_values(tpm)
    assert caught.value.code is ErrorCode.QUOTE_PATH_MISSING


def test_an_index_is_defined_filled_and_defined_anew_for_another_size() -> None:
    tpm = Scripted()
    assert client.nv_size(tpm, 1) is None
    for data in (b"a" * 48, b"b" * 48, b"c" * 64, b"d" * 3000):
        client.nv_store(tpm, 1, data)
        assert client.nv_size(tpm, 1) == len(data)
        assert client.nv_read(tpm, 1, len(data)) == data
        assert client.nv_read(tpm, 1, 5, 7) == data[7:12]
    defined = [name for name in tpm.asked if "Space" in name]
    assert defined == ["NV_DefineSpace", *["NV_UndefineSpace", "NV_DefineSpace"] * 2]


def test_pcrs_that_move_once_are_asked_for_again() -> None:
    tpm = Scripted()
    moves = [1]

    def move() -> None:
        if moves:
            moves.pop()
            tpm.pcrs[16] = b"m" * 32

    tpm.before_reading = move
    message, _, pcrs = quote_with_pcrs(tpm, 1, b"nonce", rsassa=True)
    assert pcrs[16] == b"m" * 32
    assert hashlib.sha256(b"".join(pcrs)).digest() in message
    assert tpm.asked.count("Quote") == 2


def test_pcrs_that_never_rest_are_an_error() -> None:
    tpm = Scripted()

    def move() -> None:
        tpm.pcrs[16] = hashlib.sha256(tpm.pcrs[16]).digest()

    tpm.before_reading = move
    with pytest.raises(AgentError) as caught:
        quote_with_pcrs(tpm, 1, b"nonce", rsassa=True)
    assert caught.value.code is ErrorCode.EVIDENCE_FAILED
    assert "PCRs" in caught.value.detail


def test_registers_are_pcrs_by_their_own_number_save_one() -> None:
    assert [register_of(pcr) for pcr in (0, 7, 9, 16, 17, 23)] == [0, 7, 9, 16, 17, 23]
    for pcr in (8, 24, 256, 264, -1, 1 << 64):
        with pytest.raises(AgentError) as caught:
            register_of(pcr)
        assert caught.value.code is ErrorCode.INVALID_REQUEST


PARSERS = (
    commands.parse_nv_public,
    commands.parse_pcr_values,
    commands.parse_quote,
    commands.parse_pcr_properties,
    commands.parse_rsa_public,
    lambda data: commands.parse_answer(Command("CreatePrimary", 0x131, new_handle=True), data),
)


@settings(max_examples=150)
@given(st.binary(max_size=120))
def test_noise_is_parsed_or_refused(data: bytes) -> None:
    for parse in PARSERS:
        with azure.parsed_or_malformed():
            parse(data)
        with azure.parsed_or_malformed():
            parse(ok(data))


@settings(max_examples=100)
@given(st.integers(0, 400), st.integers(0, 255), st.integers(0, 400))
def test_changed_keys_are_parsed_or_refused(at: int, value: int, end: int) -> None:
    data = bytearray(public())
    data[at % len(data)] = value
    with azure.parsed_or_malformed():
        commands.parse_rsa_public(bytes(data[:end]))
