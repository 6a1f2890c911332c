"""The roles as seen from another process: over ttrpc, to our agent or to the Rust one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from agent.config import limits
from agent.errors import AgentError, ErrorCode, RpcCode
from agent.flight import SingleFlight
from agent.kbs.token import decode_token, token_digest
from agent.protos import attestation_agent_pb2 as aa
from agent.protos import confidential_data_hub_pb2 as cdh
from agent.protos import keyprovider_pb2 as kp
from agent.roles import Fetched, Freshness, MeasurementResult
from agent.secret import Secret
from agent.serve.ttrpc.client import TtrpcClient
from agent.serve.ttrpc.codec import StatusError
from agent.serve.ttrpc.services import (
    AA_SERVICE,
    KEY_SERVICE,
    RESOURCE_SERVICE,
    SEALED_SERVICE,
)

if TYPE_CHECKING:
    from agent.clock import Clock, Deadline
    from agent.kbs.token import KbsToken

Res = TypeVar("Res", bound=Message)

_OURS: Final = re.compile(r"\(([A-Z_]{1,40}), request ([0-9a-f]{16})\)\Z")
_BY_STATUS: Final = {
    RpcCode.CANCELLED: ErrorCode.CANCELLED,
    RpcCode.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_EXCEEDED,
    RpcCode.PERMISSION_DENIED: ErrorCode.RESOURCE_DENIED,
    RpcCode.RESOURCE_EXHAUSTED: ErrorCode.TOO_MANY_REQUESTS,
    RpcCode.UNIMPLEMENTED: ErrorCode.NOT_SUPPORTED,
    RpcCode.UNAUTHENTICATED: ErrorCode.ATTESTATION_REJECTED,
}


def remote_error(status: StatusError, what: str, fallback: ErrorCode) -> AgentError:
    """The error a peer meant.

    Our agent writes its code at the end of the message. The Rust one says INTERNAL for nearly everything
    and keeps the cause in its own log (cdh.md 2.6).

    Args:
        status: the peer's answer.
        what: the method, for the operator.
        fallback: for a status that says nothing.
    """
    ours = _OURS.search(status.message)
    if ours is not None and ours[1] in ErrorCode.__members__:
        return AgentError(ErrorCode[ours[1]], f"{what}: the other role's log has request {ours[2]}")
    # T-TTRPC-18: a peer's free text is never shown to callers, and only as a plain short line to operators.
    said = ascii(status.message[:160])
    return AgentError(_by_status(status.code, fallback), f"{what}: status {status.code}, {said}")


def _by_status(code: int, fallback: ErrorCode) -> ErrorCode:
    if code == RpcCode.NOT_FOUND:
        # The Rust attestation agent says so for a method it lacks, a hub for a resource.
        return ErrorCode.NOT_SUPPORTED if fallback is not ErrorCode.ROLE_FAILED else fallback
    try:
        return _BY_STATUS.get(RpcCode(code), fallback)
    except ValueError:
        return fallback


class Remote:
    """One peer's services."""

    def __init__(self, address: str) -> None:
        """Connect nothing yet.

        Raises:
            AgentError: CONFIG_INVALID (the address).
        """
        self._client = TtrpcClient(address)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def _ask(
        self,
        service: str,
        request: Message,
        answer: type[Res],
        deadline: Deadline,
        *,
        method: str,
        fallback: ErrorCode = ErrorCode.ROLE_FAILED,
        repeatable: bool = True,
    ) -> Res:
        try:
            payload = await self._client.call(
                service, method, request.SerializeToString(), deadline, repeatable=repeatable
            )
        except StatusError as status:
            raise remote_error(status, method, fallback) from None
        try:
            return answer.FromString(payload)
        except DecodeError:
            raise AgentError(
                ErrorCode.ROLE_FAILED, f"{method}: the answer is not a {answer.__name__}"
            ) from None


class RemoteHub(Remote):
    """A ``HubRole`` behind ``cdh.sock``."""

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        """See ``agent.roles.HubRole``. A Rust hub does not say how fresh it is: it always asks its broker."""
        request = cdh.GetResourceRequest(ResourcePath=uri, TellFreshness=True, Refresh=refresh)
        answer = await self._ask(
            RESOURCE_SERVICE, request, cdh.GetResourceResponse, deadline, method="GetResource"
        )
        freshness = Freshness.__members__.get(answer.Freshness, Freshness.MISS)
        return Fetched(Secret(answer.Resource), freshness, _age(answer.Age))

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        """See ``agent.roles.HubRole``."""
        request = cdh.UnsealSecretInput(secret=sealed)
        answer = await self._ask(
            SEALED_SERVICE, request, cdh.UnsealSecretOutput, deadline, method="UnsealSecret"
        )
        return Secret(answer.plaintext)

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        """See ``agent.roles.HubRole``."""
        request = kp.KeyProviderKeyWrapProtocolInput(KeyProviderKeyWrapProtocolInput=protocol_input)
        answer = await self._ask(
            KEY_SERVICE, request, kp.KeyProviderKeyWrapProtocolOutput, deadline, method="UnWrapKey"
        )
        return Secret(answer.KeyProviderKeyWrapProtocolOutput)


def _age(seconds: float) -> float:
    # T-TTRPC-19: a peer's number becomes a header; infinity and NaN are no ages.
    return seconds if 0 <= seconds < limits.TOKEN_MAX_LIFE * 365 else 0.0


class RemoteAttester(Remote):
    """An ``AttesterRole`` behind ``attestation-agent.sock``."""

    async def evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """See ``agent.roles.AttesterRole``."""
        answer = await self._ask(
            AA_SERVICE,
            aa.GetEvidenceRequest(RuntimeData=runtime_data),
            aa.GetEvidenceResponse,
            deadline,
            method="GetEvidence",
            fallback=ErrorCode.EVIDENCE_FAILED,
        )
        return answer.Evidence

    async def additional_evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """See ``agent.roles.AttesterRole``."""
        answer = await self._ask(
            AA_SERVICE,
            aa.GetAdditionalEvidenceRequest(RuntimeData=runtime_data),
            aa.GetEvidenceResponse,
            deadline,
            method="GetAdditionalEvidence",
            fallback=ErrorCode.EVIDENCE_FAILED,
        )
        return answer.Evidence

    async def token(
        self, token_type: str, deadline: Deadline, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        """See ``agent.roles.AttesterRole``. The Rust agent ignores ``refused``: it attests every time."""
        request = aa.GetTokenRequest(TokenType=token_type, RefusedToken=refused, TellSession=session)
        answer = await self._ask(AA_SERVICE, request, aa.GetTokenResponse, deadline, method="GetToken")
        return Secret(answer.Token)

    async def tee_type(self, deadline: Deadline) -> str:
        """See ``agent.roles.AttesterRole``."""
        answer = await self._ask(
            AA_SERVICE, aa.GetTeeTypeRequest(), aa.GetTeeTypeResponse, deadline, method="GetTeeType"
        )
        return answer.tee

    async def additional_tees(self, deadline: Deadline) -> tuple[str, ...]:
        """See ``agent.roles.AttesterRole``."""
        answer = await self._ask(
            AA_SERVICE,
            aa.GetAdditionalTeesRequest(),
            aa.GetAdditionalTeesResponse,
            deadline,
            method="GetAdditionalTees",
        )
        return tuple(answer.additional_tees)

    async def extend(
        self,
        domain: str,
        operation: str,
        content: str,
        register: int | None,
        deadline: Deadline,
        *,
        once: bool = False,
    ) -> MeasurementResult:
        """See ``agent.roles.AttesterRole``. Never sent twice: a register cannot be taken back.

        A Rust attestation agent does not know ``once`` and measures again.
        """
        request = aa.ExtendRuntimeMeasurementRequest(
            Domain=domain, Operation=operation, Content=content, RegisterIndex=register, Once=once
        )
        answer = await self._ask(
            AA_SERVICE,
            request,
            aa.ExtendRuntimeMeasurementResponse,
            deadline.within(limits.EXTEND_DEADLINE),
            method="ExtendRuntimeMeasurement",
            repeatable=False,
        )
        try:
            return MeasurementResult(answer.Result)
        except ValueError:
            raise AgentError(
                ErrorCode.ROLE_UNREACHABLE, f"measurement result {answer.Result} is unknown"
            ) from None

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        """See ``agent.roles.AttesterRole``."""
        await self._ask(
            AA_SERVICE,
            aa.BindInitDataRequest(Digest=digest),
            aa.BindInitDataResponse,
            deadline,
            method="BindInitData",
            fallback=ErrorCode.NOT_SUPPORTED,
            repeatable=False,
        )


class RemoteTokens:
    """A ``TokenSource`` that asks an attestation agent, and keeps what it got."""

    def __init__(self, address: str, clock: Clock) -> None:
        """Connect nothing yet.

        Raises:
            AgentError: CONFIG_INVALID (the address).
        """
        self._attester = RemoteAttester(address)
        self._clock = clock
        self._flight: SingleFlight[str, KbsToken] = SingleFlight()
        self._held: KbsToken | None = None
        self._refused: Secret | None = None
        self._until = 0.0

    async def token(self, deadline: Deadline, *, refused: KbsToken | None = None) -> KbsToken:
        """The held token until ``limits.TOKEN_MARGIN`` seconds before it expires, then a new one.

        Raises:
            AgentError: TOKEN_REJECTED when the agent has only the refused token to give, KBS_BAD_RESPONSE,
                ROLE_UNREACHABLE, DEADLINE_EXCEEDED, or what the agent answered.
        """
        if refused is not None:
            self._refuse(refused)
        held = self._held
        if held is not None and held.expires - limits.TOKEN_MARGIN > self._clock.boot():
            return held
        token = await self._join(deadline)
        # T-TOKEN-30: an agent that keeps tokens and does not understand `refused` gives it once more.
        if token.jwt == self._refused:
            raise AgentError(ErrorCode.TOKEN_REJECTED, "the attestation agent still gives the refused token")
        return token

    async def close(self) -> None:
        """Close the connection and forget the token."""
        self._held = None
        await self._attester.close()

    def _refuse(self, refused: KbsToken) -> None:
        self._refused = refused.jwt
        if self._held is not None and self._held.jwt == refused.jwt:
            self._held = None

    async def _join(self, deadline: Deadline) -> KbsToken:
        """The agent's next answer. It has the time of whoever asked; others may have more, and ask again."""
        while True:
            joined = self._flight.under_way("kbs")
            if not joined:
                self._until = deadline.at
            until = self._until
            try:
                return await self._flight.join(
                    "kbs", lambda: self._fetch(deadline), deadline, "waiting for a token"
                )
            except AgentError as error:
                more = joined and deadline.at > until + limits.FETCH_MARGIN
                if not (more and error.code.meaning.retry and deadline.remaining() > 0):
                    raise

    async def _fetch(self, deadline: Deadline) -> KbsToken:
        refused = b"" if self._refused is None else token_digest(self._refused)
        body = await self._attester.token("kbs", deadline, refused=refused, session=True)
        token = decode_token(body.reveal(), self._clock)
        if token.jwt != self._refused:
            self._held = token
        return token
