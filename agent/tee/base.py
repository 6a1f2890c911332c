"""What every attester is, and evidence of several devices put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.clock import Deadline


class Attester(Protocol):
    """One TEE or device that can produce evidence."""

    @property
    def tee(self) -> str:
        """Wire string of kbs-types 0.18, e.g. ``snp`` (kbs_protocol.md 1.3)."""

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Evidence bound to ``report_data`` as one compact JSON value (UTF-8).

        Args:
            report_data: the digest as computed, unpadded; padding or truncating to the hardware's
                field is this attester's job.
            deadline: when the caller stops waiting.

        Raises:
            AgentError: EVIDENCE_FAILED, TEE_NOT_SUPPORTED, INVALID_REQUEST (too long).
        """


class EvidenceSource(Protocol):
    """The guest's evidence as the handshake needs it."""

    @property
    def tee(self) -> str:
        """Wire string of the primary TEE.

        Raises:
            AgentError: NO_TEE, TEE_NOT_SUPPORTED, SAMPLE_REFUSED.
        """

    @property
    def devices(self) -> tuple[str, ...]:
        """Wire strings of additional devices."""

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON evidence of the primary TEE."""

    async def additional(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON object of wire string to evidence; ``b""`` when there are no devices."""
