"""What every attester is, and the rules for report data (attesters.md 15)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings


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


class Collects(Protocol):
    """What the module of each TEE offers: blocking, run in a process of its own that can be killed."""

    def collect(self, settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
        """See :meth:`Attester.collect`; blocks."""


class Binds(Protocol):
    """What the module of a TEE with a place for init-data offers besides. Blocking, run in a thread."""

    def bind_init_data(self, settings: Settings, digest: bytes) -> None:
        """Compare the digest (32, 48 or 64 bytes) with the hardware's register, or extend it.

        Done twice with the same digest, the second time changes nothing (attesters.md 16.3).

        Raises:
            AgentError: INIT_DATA_MISMATCH, CONFIG_INVALID (the algorithm does not fit the register; nothing
                was extended), or why the register cannot be read.
        """


class Measures(Protocol):
    """What the module of a TEE with runtime measurement registers offers besides. Blocking, run in a thread.

    Attributes:
        ALGORITHM: hashlib's name of the registers' algorithm, e.g. ``sha384``.
    """

    ALGORITHM: str

    def measurement_problem(self, settings: Settings) -> str | None:
        """Why registers cannot be read and extended in this guest; None when they can."""

    def register_of(self, pcr: int) -> int:
        """The register number that the event log records for a PCR number (attesters.md 17.4).

        Raises:
            AgentError: INVALID_REQUEST, no such register, or one that software may not extend.
        """

    def read_register(self, settings: Settings, register: int) -> bytes:
        """The value of a register, as long as a digest."""

    def extend_register(self, settings: Settings, register: int, digest: bytes) -> None:
        """Make the register H(register || digest)."""


def pad(report_data: bytes, size: int) -> bytes:
    """Report data with zeros up to the size of the hardware's field (attesters.md 15.2).

    Raises:
        AgentError: INVALID_REQUEST, longer than the field.
    """
    # T-TEE-8: longer report data is refused, not cut: what was cut would be bound to nothing.
    if len(report_data) > size:
        raise AgentError(
            ErrorCode.INVALID_REQUEST, f"report data of {len(report_data)} bytes; the field has {size}"
        )
    return report_data.ljust(size, b"\0")


def regularize(data: bytes, size: int) -> bytes:
    """Data cut or padded with zeros to ``size``, where the wire contract cuts (attesters.md 21)."""
    return data[:size].ljust(size, b"\0")
