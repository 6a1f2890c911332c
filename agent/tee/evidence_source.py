"""The guest's evidence: the primary TEE and the devices beside it (attesters.md 15)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.unsupported import UnsupportedAttester

if TYPE_CHECKING:
    from agent.clock import Deadline
    from agent.config.model import Attester as Settings
    from agent.tee.base import Attester
    from agent.tee.platform import Detection


class GuestEvidence:
    """Satisfies ``agent.tee.base.EvidenceSource``. What it asks is fixed when it is built (SR-10).

    Args:
        primary: the attester of the primary TEE; None when there is none.
        devices: attesters of additional devices, each with another wire string.
        missing: why there is no primary attester; NO_TEE if not given.

    Raises:
        ValueError: two devices with one wire string.
    """

    def __init__(
        self, primary: Attester | None, devices: tuple[Attester, ...], missing: AgentError | None
    ) -> None:
        if len({device.tee for device in devices}) != len(devices):
            raise ValueError("two devices have the same wire string: one would hide the other's evidence")
        self._primary = primary
        self._devices = devices
        self._missing = missing

    @property
    def tee(self) -> str:
        """Wire string of the primary TEE.

        A TEE without an attester in this release raises here already, so that no handshake is begun that
        cannot end well; the detail names it.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED.
        """
        attester = self._required()
        if isinstance(attester, UnsupportedAttester):
            raise attester.problem()
        return attester.tee

    @property
    def devices(self) -> tuple[str, ...]:
        """Wire strings of additional devices."""
        return tuple(device.tee for device in self._devices)

    @property
    def problem(self) -> ErrorCode | None:
        """Why no evidence can be had in this guest, as far as is known without asking the hardware."""
        if self._primary is None:
            return self._reason().code
        if any(isinstance(each, UnsupportedAttester) for each in (self._primary, *self._devices)):
            return ErrorCode.TEE_NOT_SUPPORTED
        return None

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON evidence of the primary TEE over ``report_data``, which is passed on as it is.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED, EVIDENCE_FAILED, EVIDENCE_TIMEOUT.
        """
        attester = self._required()
        return await _collect(attester, report_data, deadline.within(limits.EVIDENCE_DEADLINE))

    async def additional(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON object of wire string to evidence, members sorted; ``b""`` without devices.

        The devices are asked at the same time. One that fails makes the whole call fail: evidence with a
        device left out would look like a guest that has fewer (attesters.md 15.4, SR-21).

        Raises:
            AgentError: the failing device's.
        """
        if not self._devices:
            return b""
        limited = deadline.within(limits.EVIDENCE_DEADLINE)
        tasks = {
            device.tee: asyncio.ensure_future(_collect(device, report_data, limited))
            for device in self._devices
        }
        try:
            await asyncio.gather(*tasks.values())
        finally:
            await _end(tuple(tasks.values()))
        # Sorted and re-encoded, so that equal evidence gives equal bytes: the broker's side hashes them.
        return msgspec.json.encode(
            {tee: _value(tee, task.result()) for tee, task in tasks.items()}, order="sorted"
        )

    def _required(self) -> Attester:
        if self._primary is None:
            reason = self._reason()
            raise AgentError(reason.code, reason.detail)  # a fresh one: raised exceptions collect tracebacks
        return self._primary

    def _reason(self) -> AgentError:
        return self._missing or AgentError(ErrorCode.NO_TEE, "no TEE was found")


async def _collect(attester: Attester, report_data: bytes, deadline: Deadline) -> bytes:
    try:
        async with deadline.limit(f"collecting {attester.tee} evidence"):
            return await attester.collect(report_data, deadline)
    except AgentError as error:
        if error.code is not ErrorCode.DEADLINE_EXCEEDED:
            raise
        raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, error.detail) from None


async def _end(tasks: tuple[asyncio.Future[bytes], ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _value(tee: str, evidence: bytes) -> object:
    try:
        return msgspec.json.decode(evidence)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # T-TEE-4: one device's bytes must not break out of its member in the map.
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{tee}: its evidence is not JSON") from None


def select(detection: Detection, settings: Settings) -> GuestEvidence:
    """The evidence source for a platform.

    A real TEE, or the chance of one, always wins over ``allow_sample``; without either there is no evidence.

    Args:
        detection: what is there.
        settings: what is allowed.
    """
    devices: tuple[Attester, ...] = tuple(UnsupportedAttester(tee) for tee in detection.devices)
    if detection.tee is not None:
        return GuestEvidence(UnsupportedAttester(detection.tee), devices, None)
    # T-TEE-5: fail closed, each way out with its own code.
    if detection.possible:
        names = " or ".join(detection.possible)
        return GuestEvidence(
            None,
            devices,
            AgentError(ErrorCode.TEE_NOT_SUPPORTED, f"this may be {names}, which need TPM access"),
        )
    if not settings.allow_sample:
        return GuestEvidence(None, devices, AgentError(ErrorCode.NO_TEE, "no probe found a TEE"))
    return _sample(devices, with_device=settings.sample_device)


def _sample(devices: tuple[Attester, ...], *, with_device: bool) -> GuestEvidence:
    try:
        from agent.devkit.sample import SampleAttester, SampleDevice  # noqa: PLC0415 - not in the guest image
    except ModuleNotFoundError:
        return GuestEvidence(
            None, devices, AgentError(ErrorCode.SAMPLE_REFUSED, "the development kit is not in this image")
        )
    if with_device:
        devices = (*devices, SampleDevice())
    return GuestEvidence(SampleAttester(), devices, None)
