"""The seams between the three roles.

In one process the roles are Python objects; a role that runs alone reaches the others by ttrpc. Both
sides of each seam satisfy the protocols below, so nothing above them knows the difference.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.secret import Secret


class Role(enum.Enum):
    """What one process serves."""

    ATTESTER = "attester"
    HUB = "hub"
    GATEWAY = "gateway"


ALL_ROLES = frozenset(Role)


class MeasurementResult(enum.IntEnum):
    """Answer to ExtendRuntimeMeasurement (attestation_agent.proto, RuntimeMeasurementResult)."""

    OK = 0
    NOT_SUPPORTED = 1
    NOT_ENABLED = 2


class Freshness(enum.Enum):
    """Where a resource came from; the value is what ``X-Cache`` says."""

    HIT = "HIT"
    """Kept from an earlier answer of the broker, within its time."""
    MISS = "MISS"
    """Asked for just now."""
    STALE = "STALE"
    """Kept, past its time; the broker cannot be reached."""


class Fetched(msgspec.Struct, frozen=True):
    """A resource and how fresh it is.

    Attributes:
        secret: the plaintext; the caller's own copy.
        freshness: where it came from.
        age: seconds since the broker was asked for it; 0 for MISS.
    """

    secret: Secret
    freshness: Freshness = Freshness.MISS
    age: float = 0.0


class AttesterRole(Protocol):
    """Evidence, tokens and measurements of this guest."""

    async def evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """Evidence of the primary TEE as compact JSON; ``runtime_data`` is used as given."""

    async def additional_evidence(self, runtime_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON object of tee string to evidence, or ``b""`` when there are no devices."""

    async def token(
        self, token_type: str, deadline: Deadline, *, refused: bytes = b"", session: bool = False
    ) -> Secret:
        """For ``kbs``: JSON ``{"token": JWT, "tee_keypair": PEM}``.

        Args:
            token_type: ``kbs``.
            deadline: when the caller stops waiting.
            refused: SHA-256 of the JWT that the broker refused, which must not be given again; or empty.
            session: also tell the broker's session, for a role of ours that may need it.
        """

    async def tee_type(self, deadline: Deadline) -> str:
        """The primary TEE's string, e.g. ``snp``."""

    async def additional_tees(self, deadline: Deadline) -> tuple[str, ...]:
        """Tee strings of additional devices."""

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
        """Extend a runtime measurement register and log the event.

        With ``once``, an event that the log has already is not measured again.
        """

    async def bind_init_data(self, digest: bytes, deadline: Deadline) -> None:
        """Bind an init-data digest to the TEE."""


class HubRole(Protocol):
    """What the guest hands out after attestation."""

    async def get_resource(self, uri: str, deadline: Deadline, *, refresh: bool = False) -> Fetched:
        """The resource at a ``kbs://`` URI.

        Args:
            uri: which.
            deadline: when the caller stops waiting.
            refresh: ask the broker, whatever is kept; never STALE.
        """

    async def unseal(self, sealed: bytes, deadline: Deadline) -> Secret:
        """Plaintext of a sealed secret."""

    async def unwrap_key(self, protocol_input: bytes, deadline: Deadline) -> Secret:
        """Key provider protocol JSON in, key provider protocol JSON out (specs: ocicrypt)."""
