"""Attesters without hardware: their evidence proves nothing (attesters.md 14)."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode

if TYPE_CHECKING:
    from agent.clock import Deadline


class SampleEvidence(msgspec.Struct, frozen=True):
    """The evidence object of both samples, members in the order of the wire.

    Attributes:
        svn: a number as text.
        report_data: standard base64 of the exact bytes given, never padded to a field size.
    """

    svn: str
    report_data: str


def _evidence(svn: str, report_data: bytes) -> bytes:
    if len(report_data) > limits.MAX_RUNTIME_DATA:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"report data of {len(report_data)} bytes")
    return msgspec.json.encode(SampleEvidence(svn, base64.b64encode(report_data).decode("ascii")))


class SampleAttester:
    """The fake CPU TEE ``sample``. Satisfies ``agent.tee.base.Attester``."""

    tee: Final = "sample"

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:  # noqa: ARG002 - takes no time
        """``{"svn":"1","report_data":...}``.

        Raises:
            AgentError: INVALID_REQUEST, longer than ``limits.MAX_RUNTIME_DATA``.
        """
        return _evidence("1", report_data)


class SampleDevice:
    """The fake device ``sampledevice``. Satisfies ``agent.tee.base.Attester``."""

    tee: Final = "sampledevice"

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:  # noqa: ARG002 - takes no time
        """``{"svn":"2","report_data":...}``.

        Raises:
            AgentError: INVALID_REQUEST, longer than ``limits.MAX_RUNTIME_DATA``.
        """
        return _evidence("2", report_data)
