"""Attesters without hardware: their evidence proves nothing (attesters.md 14)."""

from __future__ import annotations

import asyncio
import base64
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from agent import variant
from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.threaded import OneAtATime

if TYPE_CHECKING:
    from agent.clock import Deadline


class SampleEvidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The evidence object of both samples, members in the order of the wire.

    Attributes:
        svn: a number as text.
        report_data: standard base64 of the exact bytes given, never padded to a field size.
        image: ``development`` for one from an image that was built so; verifiers do not look at it.
    """

    svn: str
    report_data: str
    image: str = ""


def _evidence(svn: str, report_data: bytes) -> bytes:
    if len(report_data) > limits.MAX_RUNTIME_DATA:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"report data of {len(report_data)} bytes")
    image = "development" if variant.DEVELOPMENT else ""
    return msgspec.json.encode(SampleEvidence(svn, base64.b64encode(report_data).decode("ascii"), image))


class SampleAttester:
    """The fake CPU TEE ``sample``. Satisfies ``agent.tee.base.Attester``.

    Args:
        latency: seconds each quote takes, as hardware does. No configuration file can set it.
        blocking: spend them in a blocking call, as drivers do, in a thread of the device's own.
    """

    tee: Final = "sample"
    _latency = 0.0
    _thread: OneAtATime | None = None

    def __init__(self, latency: float = 0.0, *, blocking: bool = False) -> None:
        self._latency = latency
        if blocking:
            self._thread = OneAtATime()

    async def collect(self, report_data: bytes, deadline: Deadline) -> bytes:  # noqa: ARG002 - GuestEvidence's
        """``{"svn":"1","report_data":...}``.

        Raises:
            AgentError: INVALID_REQUEST, longer than ``limits.MAX_RUNTIME_DATA``.
        """
        if self._thread is not None:
            await self._thread.run(partial(time.sleep, self._latency))
        elif self._latency:
            await asyncio.sleep(self._latency)
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
