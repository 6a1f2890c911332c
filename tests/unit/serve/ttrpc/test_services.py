from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.protos import attestation_agent_pb2 as aa
from agent.protos import confidential_data_hub_pb2 as cdh
from agent.protos import keyprovider_pb2 as kp
from agent.roles import Freshness
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.server import Context
from agent.serve.ttrpc.services import aa_services, cdh_services
from tests.unit.serve.ttrpc.roles import Role, front_of

ASKED = Context("pid=1 uid=0", 50.0)
KEY_INPUT = kp.KeyProviderKeyWrapProtocolInput
KEY_OUTPUT = kp.KeyProviderKeyWrapProtocolOutput
SUFFIX = re.compile(r" \(([A-Z_]+), request [0-9a-f]{16}\)$")

FIRST_LEVEL = {
    "api.SealedSecretService/UnsealSecret": "[CDH] [ERROR]: Unseal Secret failed",
    "api.GetResourceService/GetResource": "[CDH] [ERROR]: Get Resource failed",
    "keyprovider.KeyProviderService/UnWrapKey": "[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed",
    "attestation_agent.AttestationAgentService/GetEvidence": (
        "[ERROR:attestation-agent] AA-KBC get evidence failed"
    ),
    "attestation_agent.AttestationAgentService/GetAdditionalEvidence": (
        "[ERROR:attestation-agent] AA-KBC get additional evidence failed"
    ),
    "attestation_agent.AttestationAgentService/GetToken": (
        "[ERROR:attestation-agent] AA-KBC get token failed"
    ),
    "attestation_agent.AttestationAgentService/ExtendRuntimeMeasurement": (
        "[ERROR:attestation-agent] AA extend runtime measurement failed"
    ),
    "attestation_agent.AttestationAgentService/BindInitData": (
        "[ERROR:attestation-agent] AA binding init data failed"
    ),
    "attestation_agent.AttestationAgentService/GetTeeType": (
        "[ERROR:attestation-agent] AA-KBC get tee type failed"
    ),
    "attestation_agent.AttestationAgentService/GetAdditionalTees": (
        "[ERROR:attestation-agent] AA-KBC get additional tees failed"
    ),
}


async def ask(role: Role, path: str, payload: bytes) -> bytes:
    service, method = path.split("/")
    front = front_of(role)
    return await {**cdh_services(front), **aa_services(front)}[service][method](payload, ASKED)


class TestAnswers:
    async def test_unseal(self) -> None:
        role = Role()
        body = cdh.UnsealSecretInput(secret=b"sealed.x").SerializeToString()
        answer = await ask(role, "api.SealedSecretService/UnsealSecret", body)
        assert cdh.UnsealSecretOutput.FromString(answer).plaintext == b"plaintext"
        assert role.asked == [("unseal", b"sealed.x")]

    async def test_get_resource(self) -> None:
        role = Role()
        body = cdh.GetResourceRequest(ResourcePath="kbs:///default/key/1").SerializeToString()
        answer = await ask(role, "api.GetResourceService/GetResource", body)
        assert answer == b"\n\tplaintext"  # nothing that upstream's clients do not know
        assert role.asked == [("get_resource", "kbs:///default/key/1")]
        assert not role.refreshed

    async def test_get_resource_tells_its_freshness_to_who_asks(self) -> None:
        role = Role(freshness=Freshness.STALE, age=61.5)
        request = cdh.GetResourceRequest(ResourcePath="kbs:///a/b/c", TellFreshness=True, Refresh=True)
        answer = await ask(role, "api.GetResourceService/GetResource", request.SerializeToString())
        parsed = cdh.GetResourceResponse.FromString(answer)
        assert (parsed.Resource, parsed.Freshness, parsed.Age) == (b"plaintext", "STALE", 61.5)
        assert role.refreshed

    async def test_unwrap_key(self) -> None:
        role = Role()
        body = KEY_INPUT(KeyProviderKeyWrapProtocolInput=b"{}").SerializeToString()
        answer = await ask(role, "keyprovider.KeyProviderService/UnWrapKey", body)
        assert KEY_OUTPUT.FromString(answer).KeyProviderKeyWrapProtocolOutput == b"plaintext"
        assert role.asked == [("unwrap_key", b"{}")]

    @pytest.mark.parametrize(
        ("method", "verb"), [("GetEvidence", "evidence"), ("GetAdditionalEvidence", "additional_evidence")]
    )
    async def test_evidence(self, method: str, verb: str) -> None:
        role = Role()
        body = aa.GetEvidenceRequest(RuntimeData=b"\0\xff").SerializeToString()
        answer = await ask(role, f"attestation_agent.AttestationAgentService/{method}", body)
        assert aa.GetEvidenceResponse.FromString(answer).Evidence == b"plaintext"
        assert role.asked == [(verb, b"\0\xff")]

    async def test_token(self) -> None:
        role = Role()
        body = aa.GetTokenRequest(TokenType="kbs").SerializeToString()
        answer = await ask(role, "attestation_agent.AttestationAgentService/GetToken", body)
        assert aa.GetTokenResponse.FromString(answer).Token == b"plaintext"
        assert role.asked == [("token", "kbs")]

    async def test_tees(self) -> None:
        answer = await ask(Role(), "attestation_agent.AttestationAgentService/GetTeeType", b"")
        assert aa.GetTeeTypeResponse.FromString(answer).tee == "sample"
        answer = await ask(Role(), "attestation_agent.AttestationAgentService/GetAdditionalTees", b"")
        assert list(aa.GetAdditionalTeesResponse.FromString(answer).additional_tees) == ["sampledevice"]

    @pytest.mark.parametrize("register", [None, 0, 17])
    async def test_extend_tells_register_0_from_no_register(self, register: int | None) -> None:
        role = Role()
        request = aa.ExtendRuntimeMeasurementRequest(
            Domain="d", Operation="o", Content="c", RegisterIndex=register
        )
        path = "attestation_agent.AttestationAgentService/ExtendRuntimeMeasurement"
        answer = await ask(role, path, request.SerializeToString())
        result = aa.ExtendRuntimeMeasurementResponse.FromString(answer).Result
        assert result == aa.RuntimeMeasurementResult.NOT_ENABLED
        assert role.asked == [("extend", "d", "o", "c", register)]

    async def test_extend_once(self) -> None:
        role = Role()
        request = aa.ExtendRuntimeMeasurementRequest(Domain="d", Operation="o", Content="c", Once=True)
        path = "attestation_agent.AttestationAgentService/ExtendRuntimeMeasurement"
        await ask(role, path, request.SerializeToString())
        assert role.asked == [("extend", "d", "o", "c", None, "once")]

    async def test_bind_init_data(self) -> None:
        role = Role()
        body = aa.BindInitDataRequest(Digest=b"\1" * 32).SerializeToString()
        assert await ask(role, "attestation_agent.AttestationAgentService/BindInitData", body) == b""
        assert role.asked == [("bind_init_data", b"\1" * 32)]


class TestFailures:
    @pytest.mark.parametrize("path", FIRST_LEVEL)
    async def test_the_message_begins_as_upstream_s_and_ends_with_code_and_request(self, path: str) -> None:
        error = AgentError(ErrorCode.RESOURCE_DENIED, "operator detail")
        with pytest.raises(StatusError) as caught:
            await ask(Role(error=error), path, b"")
        text = caught.value.message
        assert text.startswith(f"{FIRST_LEVEL[path]}: {error.message}")
        ending = SUFFIX.search(text)
        assert ending is not None
        assert ending[1] == "RESOURCE_DENIED"
        assert "operator detail" not in text
        assert caught.value.code == 7

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("api.SecureMountService/SecureMount", "[CDH] [ERROR]: Secure Mount failed: "),
            ("api.ImagePullService/PullImage", "[CDH] [ERROR]: Image Pull error: "),
        ],
    )
    async def test_what_is_not_there_says_so(self, path: str, text: str) -> None:
        with pytest.raises(StatusError) as caught:
            await ask(Role(), path, b"")
        assert caught.value.code == 12
        assert caught.value.message.startswith(text)
        assert "(NOT_SUPPORTED, request " in caught.value.message

    async def test_wrap_key_answers_as_upstream(self) -> None:
        with pytest.raises(StatusError) as caught:
            await ask(Role(), "keyprovider.KeyProviderService/WrapKey", b"")
        assert caught.value.code == 5
        assert caught.value.message == "/keyprovider.KeyProviderService/WrapKey is not supported"

    async def test_a_key_request_that_cannot_be_parsed_keeps_its_own_text(self) -> None:
        error = AgentError(ErrorCode.IMAGE_KEY_MALFORMED)
        with pytest.raises(StatusError) as caught:
            await ask(Role(error=error), "keyprovider.KeyProviderService/UnWrapKey", b"")
        assert caught.value.message.startswith("[ERROR] UnwrapKey Parse request failed: ")

    @pytest.mark.parametrize("path", FIRST_LEVEL)
    async def test_a_payload_that_is_no_message_is_the_caller_s_fault(self, path: str) -> None:
        with pytest.raises(StatusError) as caught:
            await ask(Role(), path, b"\xff")
        assert caught.value.code == 3
        assert "(INVALID_REQUEST, request " in caught.value.message

    @pytest.mark.parametrize("path", FIRST_LEVEL)
    async def test_a_payload_beyond_the_method_s_limit_is_not_parsed(self, path: str) -> None:
        role = Role()
        with pytest.raises(StatusError) as caught:
            await ask(role, path, b"\xff" * (limits.TTRPC_MAX_BODY - 100))
        assert caught.value.code == 3
        assert "(PAYLOAD_TOO_LARGE, request " in caught.value.message
        assert role.asked == []

    async def test_the_largest_allowed_inputs_fit(self) -> None:
        body = cdh.UnsealSecretInput(secret=bytes(limits.SEALED_MAX)).SerializeToString()
        await ask(Role(), "api.SealedSecretService/UnsealSecret", body)
        body = KEY_INPUT(KeyProviderKeyWrapProtocolInput=bytes(limits.KEY_PROVIDER_MAX)).SerializeToString()
        await ask(Role(), "keyprovider.KeyProviderService/UnWrapKey", body)
        body = cdh.GetResourceRequest(ResourcePath="k" * limits.URI_MAX).SerializeToString()
        await ask(Role(), "api.GetResourceService/GetResource", body)
        body = aa.GetEvidenceRequest(RuntimeData=bytes(limits.MAX_RUNTIME_DATA)).SerializeToString()
        await ask(Role(), "attestation_agent.AttestationAgentService/GetEvidence", body)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(sorted(FIRST_LEVEL)), payload=st.binary(max_size=100))
async def test_only_statuses_leave_a_handler(path: str, payload: bytes) -> None:
    with contextlib.suppress(StatusError):
        await ask(Role(), path, payload)
