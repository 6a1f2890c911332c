"""Evidence of a family of devices, and what each of them answered."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import msgspec

from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

OK: Final = "ok"

_NAME: Final = 96
_DETAIL: Final = 400


class DeviceResult(msgspec.Struct, frozen=True):
    """What one device of a family answered.

    Attributes:
        name: for people and unique in its family, e.g. ``GPU 3 (GPU-5d6c...)``.
        result: ``ok``, or the name of an :class:`agent.errors.ErrorCode`.
        detail: the operator's, when it is not ``ok``.
    """

    name: str
    result: str = OK
    detail: str = ""

    def __str__(self) -> str:
        return self.name if self.result == OK else f"{self.name}: {self.detail or self.result}"

    @property
    def fine(self) -> bool:
        """Whether its evidence is there."""
        return self.result == OK


class Collected(msgspec.Struct, frozen=True):
    """Evidence of one TEE or family.

    Attributes:
        evidence: one compact JSON value.
        results: of each device; empty where a TEE is one piece.
    """

    evidence: bytes
    results: tuple[DeviceResult, ...] = ()


@runtime_checkable
class Family(Protocol):
    """An ``agent.tee.base.Attester`` that is several devices."""

    async def collect_devices(self, report_data: bytes, deadline: Deadline) -> Collected:
        """As ``collect``, with each device's result; some may have failed."""


class CollectsDevices(Protocol):
    """What the module of a family of devices offers besides ``agent.tee.base.Collects``."""

    def collect_devices(self, settings: Settings, report_data: bytes, deadline: Deadline) -> Collected:
        """As ``collect``; fails only when no device gave evidence."""


def failed(name: str, error: AgentError) -> DeviceResult:
    """The result of a device that raised ``error``."""
    return DeviceResult(shown(name, _NAME), error.code.name, shown(error.detail, _DETAIL))


def none_answered(results: tuple[DeviceResult, ...], family: str) -> AgentError:
    """The error of a family in which no device gave evidence; of the first one's kind."""
    if not results:
        return AgentError(ErrorCode.QUOTE_PATH_MISSING, f"{family}: there is no device")
    return AgentError(code(results[0].result), "; ".join(str(result) for result in results))


def code(name: str) -> ErrorCode:
    """An error code by its name; EVIDENCE_FAILED for one there is not."""
    return ErrorCode.__members__.get(name, ErrorCode.EVIDENCE_FAILED)


def shown(text: str, size: int = _DETAIL) -> str:
    """Text of a library or of another process as it may be logged."""
    # T-TEE-46: a vendor's library chooses these bytes: short, printable ASCII.
    clean = "".join(c if c.isascii() and c.isprintable() else "?" for c in text[:size])
    return clean if len(text) <= size else f"{clean}..."


def signal_name(number: int) -> str:
    """A signal for people."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
