from __future__ import annotations

import base64

import msgspec
import pytest

from agent.attester import LocalAttester
from agent.clock import Clock, Deadline
from agent.config.model import KeyAlgorithm
from agent.devkit.clock import FakeClock
from agent.devkit.sample import SampleAttester, SampleDevice
from agent.errors import AgentError, ErrorCode
from agent.kbs.keys import TeeKey
from agent.kbs.token import KbsToken, decode_token
from agent.roles import AttesterRole, MeasurementResult
from agent.secret import Secret
from agent.tee.evidence_source import GuestEvidence

CLOCK: Clock = FakeClock()
DEADLINE = Deadline.after(CLOCK, 60)
PAYLOAD = base64.urlsafe_b64encode(b'{"iat":1790000000,"exp":1790000300}').rstrip(b"=")
JWT = b"eyJhbGciOiJFUzM4NCJ9." + PAYLOAD + b".c2ln"


class OneToken:
    """A token source that always has the same one."""

    def __init__(self) -> None:
        self.held = KbsToken(Secret(JWT), TeeKey.generate(KeyAlgorithm.EC_P256), 1300.0)

    async def token(self, deadline: Deadline, *, refused: KbsToken | None = None) -> KbsToken:
        return self.held


def sample(tokens: OneToken | None = None) -> AttesterRole:
    return LocalAttester(GuestEvidence(SampleAttester(), (SampleDevice(),), None), tokens)


async def code_of(attester: AttesterRole, token_type: str) -> ErrorCode:
    with pytest.raises(AgentError) as caught:
        await attester.token(token_type, DEADLINE)
    return caught.value.code


@pytest.mark.parametrize("data", [b"", b"short", bytes(64), bytes(200)])
async def test_runtime_data_is_used_as_given(data: bytes) -> None:
    evidence = msgspec.json.decode(await sample().evidence(data, DEADLINE))
    assert evidence == {"svn": "1", "report_data": base64.b64encode(data).decode()}
    additional = msgspec.json.decode(await sample().additional_evidence(data, DEADLINE))
    assert additional["sampledevice"]["report_data"] == base64.b64encode(data).decode()


async def test_a_kbs_token_comes_with_its_key() -> None:
    tokens = OneToken()
    answer = await sample(tokens).token("kbs", DEADLINE)
    assert set(msgspec.json.decode(answer.reveal())) == {"token", "tee_keypair"}
    read = decode_token(answer.reveal(), CLOCK)
    assert read.jwt.reveal() == JWT
    assert read.key.jwk() == tokens.held.key.jwk()


@pytest.mark.parametrize("token_type", ["coco_as", "", "KBS", "kbs ", "x" * 5000])
async def test_another_token_type_does_not_exist(token_type: str) -> None:
    assert await code_of(sample(OneToken()), token_type) is ErrorCode.UNKNOWN_TOKEN_TYPE


async def test_without_a_broker_there_is_no_token() -> None:
    assert await code_of(sample(), "kbs") is ErrorCode.KBS_NOT_CONFIGURED


async def test_a_guest_without_a_tee_says_so_everywhere() -> None:
    attester = LocalAttester(GuestEvidence(None, (), None), None)
    for asked in (attester.tee_type(DEADLINE), attester.evidence(b"x", DEADLINE)):
        with pytest.raises(AgentError) as caught:
            await asked
        assert caught.value.code is ErrorCode.NO_TEE
    assert await attester.additional_tees(DEADLINE) == ()
    assert await attester.additional_evidence(b"x", DEADLINE) == b""


async def test_a_tee_without_an_attester_is_named_to_the_operator() -> None:
    missing = AgentError(ErrorCode.TEE_NOT_SUPPORTED, "snp: there is no attester for it")
    attester = LocalAttester(GuestEvidence(None, (), missing), None)
    for asked in (attester.tee_type(DEADLINE), attester.evidence(b"x", DEADLINE)):
        with pytest.raises(AgentError) as caught:
            await asked
        assert caught.value.code is ErrorCode.TEE_NOT_SUPPORTED
        assert "snp" in caught.value.detail


async def test_sample_names_itself() -> None:
    assert await sample().tee_type(DEADLINE) == "sample"
    assert await sample().additional_tees(DEADLINE) == ("sampledevice",)


async def test_measurements_are_refused_honestly() -> None:
    result = await sample().extend("domain", "operation", "content", 17, DEADLINE)
    assert result is MeasurementResult.NOT_SUPPORTED
    with pytest.raises(AgentError) as caught:
        await sample().bind_init_data(bytes(32), DEADLINE)
    assert caught.value.code is ErrorCode.NOT_SUPPORTED
