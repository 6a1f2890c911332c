"""What the hub and the attester offer over ttrpc (cdh.md 2.1-2.3, 2.6; attesters.md 22).

Every message of a failed call begins with upstream's prefix and first-level text, because kata-agent and
Kata's tests look for them. Then come our caller-safe sentence, the error code and the request id, which
leads to the cause in the guest's log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from agent.config import limits
from agent.errors import AgentError, ErrorCode, RpcCode
from agent.protos import attestation_agent_pb2 as aa
from agent.protos import confidential_data_hub_pb2 as cdh
from agent.protos import keyprovider_pb2 as kp
from agent.serve.ttrpc.codec import StatusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.serve.access import Call
    from agent.serve.front import Front
    from agent.serve.ttrpc.server import Context, Handler, Services

API: Final = "ttrpc"
CDH_PREFIX: Final = "[CDH] [ERROR]: "
AA_PREFIX: Final = "[ERROR:attestation-agent] "
UNWRAP_PARSE: Final = "[ERROR] UnwrapKey Parse request failed"
WRAP_KEY: Final = "/keyprovider.KeyProviderService/WrapKey is not supported"

SEALED_SERVICE: Final = "api.SealedSecretService"
RESOURCE_SERVICE: Final = "api.GetResourceService"
MOUNT_SERVICE: Final = "api.SecureMountService"
IMAGE_SERVICE: Final = "api.ImagePullService"
KEY_SERVICE: Final = "keyprovider.KeyProviderService"
AA_SERVICE: Final = "attestation_agent.AttestationAgentService"

_FRAMING: Final = limits.KIB
"""Room for the other fields and the tags of a request message."""

Req = TypeVar("Req", bound=Message)


class Dialect(msgspec.Struct, frozen=True):
    """Where upstream's two protocols differ.

    Attributes:
        api: see :attr:`agent.serve.access.Caller.api`.
        unparsed: first-level text of a key provider request that cannot be read.
        wrap_key: answers WrapKey.
    """

    api: str
    unparsed: str
    wrap_key: Handler


class _Unary(msgspec.Struct, Generic[Req], frozen=True):
    """One method: its message, its largest payload in bytes, its first-level text, its work."""

    request: type[Req]
    limit: int
    text: str
    work: Callable[[Call, Req], Awaitable[Message]]

    def bind(self, front: Front, dialect: Dialect) -> Handler:
        async def handle(payload: bytes, context: Context) -> bytes:
            call = front.call(dialect.api, context.peer, context.timeout, largest=limits.TTRPC_MAX_ANSWER)
            try:
                return (await self.work(call, self._parse(payload))).SerializeToString()
            except AgentError as error:
                raise failure(self._first(error, dialect), error, call.request_id) from error

        return handle

    def _parse(self, payload: bytes) -> Req:
        # T-TTRPC-17: bounded per method before parsing; small fields become large objects.
        if len(payload) > self.limit:
            raise AgentError(ErrorCode.PAYLOAD_TOO_LARGE, f"{len(payload)} bytes, at most {self.limit}")
        try:
            return self.request.FromString(payload)
        except DecodeError:
            raise AgentError(ErrorCode.INVALID_REQUEST, f"not a {self.request.__name__}") from None

    def _first(self, error: AgentError, dialect: Dialect) -> str:
        if self.request is kp.KeyProviderKeyWrapProtocolInput and error.code in {
            ErrorCode.IMAGE_KEY_MALFORMED,
            ErrorCode.INVALID_REQUEST,
        }:
            return dialect.unparsed
        return self.text


def failure(first_level: str, error: AgentError, request_id: str) -> StatusError:
    """The status for an error: ``<first level>: <sentence> (CODE, request <id>)``.

    The operator's detail is not in it: the text can reach the untrusted host's console.
    """
    text = f"{first_level}: {error.message} ({error.code.name}, request {request_id})"
    return StatusError(error.code.meaning.rpc, text)


async def _wrap_key(payload: bytes, context: Context) -> bytes:  # noqa: ARG001  (a Handler)
    raise StatusError(RpcCode.NOT_FOUND, WRAP_KEY)


TTRPC: Final = Dialect(API, UNWRAP_PARSE, _wrap_key)


def cdh_services(front: Front, dialect: Dialect = TTRPC) -> Services:
    """The five services of the hub."""
    hub = _Hub(front)
    key = kp.KeyProviderKeyWrapProtocolInput
    secret, resource = cdh.UnsealSecretInput, cdh.GetResourceRequest
    mount, pull = cdh.SecureMountRequest, cdh.ImagePullRequest
    return {
        SEALED_SERVICE: {
            "UnsealSecret": _Unary(
                secret, limits.SEALED_MAX + _FRAMING, f"{CDH_PREFIX}Unseal Secret failed", hub.unseal
            ).bind(front, dialect)
        },
        RESOURCE_SERVICE: {
            "GetResource": _Unary(
                resource, limits.URI_MAX + _FRAMING, f"{CDH_PREFIX}Get Resource failed", hub.get_resource
            ).bind(front, dialect)
        },
        MOUNT_SERVICE: {
            "SecureMount": _Unary(
                mount, limits.SEALED_MAX, f"{CDH_PREFIX}Secure Mount failed", hub.secure_mount
            ).bind(front, dialect)
        },
        IMAGE_SERVICE: {
            "PullImage": _Unary(
                pull, limits.SEALED_MAX, f"{CDH_PREFIX}Image Pull error", hub.pull_image
            ).bind(front, dialect)
        },
        KEY_SERVICE: {
            "UnWrapKey": _Unary(
                key,
                limits.KEY_PROVIDER_MAX + _FRAMING,
                f"{CDH_PREFIX}Decrypt Image (UnwrapKey) failed",
                hub.unwrap_key,
            ).bind(front, dialect),
            "WrapKey": dialect.wrap_key,
        },
    }


def aa_services(front: Front, dialect: Dialect = TTRPC) -> Services:
    """The attestation agent's service."""
    attester = _Attester(front)
    data = limits.MAX_RUNTIME_DATA + _FRAMING
    small = 16 * limits.KIB
    return {
        AA_SERVICE: {
            "GetEvidence": _Unary(
                aa.GetEvidenceRequest, data, f"{AA_PREFIX}AA-KBC get evidence failed", attester.evidence
            ).bind(front, dialect),
            "GetAdditionalEvidence": _Unary(
                aa.GetAdditionalEvidenceRequest,
                data,
                f"{AA_PREFIX}AA-KBC get additional evidence failed",
                attester.additional_evidence,
            ).bind(front, dialect),
            "GetToken": _Unary(
                aa.GetTokenRequest, small, f"{AA_PREFIX}AA-KBC get token failed", attester.token
            ).bind(front, dialect),
            "ExtendRuntimeMeasurement": _Unary(
                aa.ExtendRuntimeMeasurementRequest,
                limits.REST_MAX_BODY,
                f"{AA_PREFIX}AA extend runtime measurement failed",
                attester.extend,
            ).bind(front, dialect),
            "BindInitData": _Unary(
                aa.BindInitDataRequest, small, f"{AA_PREFIX}AA binding init data failed", attester.bind
            ).bind(front, dialect),
            "GetTeeType": _Unary(
                aa.GetTeeTypeRequest, small, f"{AA_PREFIX}AA-KBC get tee type failed", attester.tee_type
            ).bind(front, dialect),
            "GetAdditionalTees": _Unary(
                aa.GetAdditionalTeesRequest,
                small,
                f"{AA_PREFIX}AA-KBC get additional tees failed",
                attester.additional_tees,
            ).bind(front, dialect),
        }
    }


class _Hub:
    def __init__(self, front: Front) -> None:
        self._front = front

    async def unseal(self, call: Call, request: cdh.UnsealSecretInput) -> Message:
        plaintext = await self._front.unseal(call, request.secret)
        return cdh.UnsealSecretOutput(plaintext=plaintext.reveal())

    async def get_resource(self, call: Call, request: cdh.GetResourceRequest) -> Message:
        fetched = await self._front.get_resource(call, request.ResourcePath, refresh=request.Refresh)
        answer = cdh.GetResourceResponse(Resource=fetched.secret.reveal())
        fetched.secret.wipe()
        if request.TellFreshness:
            answer.Freshness, answer.Age = fetched.freshness.value, fetched.age
        return answer

    async def unwrap_key(self, call: Call, request: kp.KeyProviderKeyWrapProtocolInput) -> Message:
        output = await self._front.unwrap_key(call, request.KeyProviderKeyWrapProtocolInput)
        return kp.KeyProviderKeyWrapProtocolOutput(KeyProviderKeyWrapProtocolOutput=output.reveal())

    async def secure_mount(self, call: Call, request: cdh.SecureMountRequest) -> Message:  # noqa: ARG002
        raise AgentError(ErrorCode.NOT_SUPPORTED, "SecureMount")

    async def pull_image(self, call: Call, request: cdh.ImagePullRequest) -> Message:  # noqa: ARG002
        raise AgentError(ErrorCode.NOT_SUPPORTED, "PullImage")


class _Attester:
    def __init__(self, front: Front) -> None:
        self._front = front

    async def evidence(self, call: Call, request: aa.GetEvidenceRequest) -> Message:
        return aa.GetEvidenceResponse(Evidence=await self._front.evidence(call, request.RuntimeData))

    async def additional_evidence(self, call: Call, request: aa.GetAdditionalEvidenceRequest) -> Message:
        evidence = await self._front.additional_evidence(call, request.RuntimeData)
        return aa.GetEvidenceResponse(Evidence=evidence)

    async def token(self, call: Call, request: aa.GetTokenRequest) -> Message:
        token = await self._front.token(
            call, request.TokenType, refused=request.RefusedToken, session=request.TellSession
        )
        return aa.GetTokenResponse(Token=token.reveal())

    async def extend(self, call: Call, request: aa.ExtendRuntimeMeasurementRequest) -> Message:
        register = request.RegisterIndex if request.HasField("RegisterIndex") else None
        result = await self._front.extend(
            call, request.Domain, request.Operation, request.Content, register, once=request.Once
        )
        return aa.ExtendRuntimeMeasurementResponse(Result=aa.RuntimeMeasurementResult.Value(result.name))

    async def bind(self, call: Call, request: aa.BindInitDataRequest) -> Message:
        await self._front.bind_init_data(call, request.Digest)
        return aa.BindInitDataResponse()

    async def tee_type(self, call: Call, request: aa.GetTeeTypeRequest) -> Message:  # noqa: ARG002
        return aa.GetTeeTypeResponse(tee=await self._front.tee_type(call))

    async def additional_tees(self, call: Call, request: aa.GetAdditionalTeesRequest) -> Message:  # noqa: ARG002
        return aa.GetAdditionalTeesResponse(additional_tees=await self._front.additional_tees(call))
