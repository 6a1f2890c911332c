"""The attester role of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.errors import AgentError, ErrorCode
from agent.kbs.token import encode_token, token_digest
from agent.roles import MeasurementResult

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.kbs.token import TokenSource
    from agent.secret import Secret
    from agent.tee.base import EvidenceSource
    from agent.tee.eventlog import Measurer


class LocalAttester:
    """Satisfies ``agent.roles.AttesterRole`` (kbs_protocol.md 5.1, attesters.md 22).

    Args:
        evidence: the guest's TEE and devices.
        tokens: the session with the broker; None when no broker is configured.
        measurer: the runtime event log; None when nothing can be measured.
    """

    def __init__(
        self, evidence: EvidenceSource, tokens: TokenSource | None, measurer: Measurer | None = None
    ) -> None:
        self._evidence = evidence
        self._tokens = tokens
        self._measurer = measurer

    async def evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """Evidence of the primary TEE; ``runtime_data`` is neither hashed nor padded here.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED, EVIDENCE_FAILED, INVALID_REQUEST (too long
                for the TEE), EVIDENCE_TIMEOUT.
        """
        return await self._evidence.primary(runtime_data, deadline)

    async def additional_evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON object of wire string to evidence; ``b""`` when there are no devices.

        Raises:
            AgentError: as for :meth:`evidence`.
        """
        return await self._evidence.additional(runtime_data, deadline)

    async def token(
        self, token_type: str, deadline: Deadline, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        """JSON ``{"token": JWT, "tee_keypair": PEM}`` for the type ``kbs``, the only one.

        A caller in another process whose token the broker refused says so with ``refused``, the JWT's
        SHA-256; the held token is then given up if it is that one.

        Raises:
            AgentError: UNKNOWN_TOKEN_TYPE, KBS_NOT_CONFIGURED, or why the handshake failed.
        """
        if token_type != "kbs":  # noqa: S105 - a type, not a token
            # The type is the caller's text: it is not repeated.
            raise AgentError(ErrorCode.UNKNOWN_TOKEN_TYPE, "the only token type is kbs")
        if self._tokens is None:
            raise AgentError(ErrorCode.KBS_NOT_CONFIGURED, "token_configs.kbs.url is empty")
        held = await self._tokens.token(deadline)
        if refused and token_digest(held.jwt) == refused:
            held = await self._tokens.token(deadline, refused=held)
        return encode_token(held, deadline.clock if session else None)

    async def tee_type(self, deadline: Deadline) -> str:
        """Wire string of the primary TEE; never one that is not there.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED.
        """
        del deadline
        return self._evidence.tee

    async def additional_tees(self, deadline: Deadline) -> tuple[str, ...]:
        """Wire strings of additional devices."""
        del deadline
        return self._evidence.devices

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
        """Measure an event: NOT_ENABLED without an event log, NOT_SUPPORTED without registers, else OK.

        Raises:
            AgentError: INVALID_REQUEST, PAYLOAD_TOO_LARGE, CONFIG_INVALID, EVENT_LOG_CORRUPT,
                GUEST_EXHAUSTED, FILE_UNSAFE, DEVICE_BUSY, EVIDENCE_TIMEOUT, or what the register raised.
        """
        if self._measurer is None:
            return MeasurementResult.NOT_SUPPORTED
        return await self._measurer.extend(domain, operation, content, register, deadline, once=once)

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        """Refuse: init-data is bound before the socket opens (``agent/tee/binding.py``), and once.

        Raises:
            AgentError: NOT_SUPPORTED.
        """
        del digest, deadline
        raise AgentError(ErrorCode.NOT_SUPPORTED, "init-data is bound when the attester starts, not later")
