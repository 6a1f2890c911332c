"""The guest's evidence: the primary TEE and the devices beside it (attesters.md 15)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from agent import variant
from agent.config import limits
from agent.config.device_kinds import expected_device
from agent.errors import AgentError, ErrorCode
from agent.tee.attesters import MODULES, DeviceAttester
from agent.tee.devices import Collected, DeviceResult, Family, failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings
    from agent.observe.metrics import Metrics
    from agent.tee.base import Attester
    from agent.tee.platform import Detection

_log = logging.getLogger(__name__)


class GuestEvidence:
    """Satisfies ``agent.tee.base.EvidenceSource``. What it asks is fixed when it is built (SR-10).

    Args:
        primary: the attester of the primary TEE; None when there is none.
        devices: attesters of additional devices, each with another wire string.
        missing: why there is no primary attester; NO_TEE if not given.
        expected: wire strings of devices that must give evidence, with how many of them; None is any number
            from 1. Of others, what fails is left out.
        metrics: counts what each device answers.

    Raises:
        ValueError: two devices with one wire string.
    """

    def __init__(
        self,
        primary: Attester | None,
        devices: tuple[Attester, ...],
        missing: AgentError | None,
        *,
        expected: Mapping[str, int | None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        if len({device.tee for device in devices}) != len(devices):
            raise ValueError("two devices have the same wire string: one would hide the other's evidence")
        self._primary = primary
        self._devices = devices
        self._missing = missing
        self._metrics = metrics
        self._expected = {
            tee: count
            for tee, count in (expected or {}).items()
            if primary is None or tee != primary.tee  # the primary's evidence is always there
        }

    @property
    def tee(self) -> str:
        """Wire string of the primary TEE.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED.
        """
        return self._required().tee

    @property
    def attester(self) -> Attester | None:
        """Of the primary TEE; None when there is none."""
        return self._primary

    @property
    def devices(self) -> tuple[str, ...]:
        """Wire strings of additional devices."""
        return tuple(device.tee for device in self._devices)

    @property
    def problem(self) -> ErrorCode | None:
        """Why no evidence can be had in this guest, as far as is known without asking the hardware."""
        if self._primary is None:
            return self._reason().code
        return ErrorCode.DEVICE_MISSING if self._undetected() else None

    async def primary(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON evidence of the primary TEE over ``report_data``, which is passed on as it is.

        Raises:
            AgentError: NO_TEE, SAMPLE_REFUSED, TEE_NOT_SUPPORTED, EVIDENCE_FAILED, EVIDENCE_TIMEOUT, or what
                the TEE's module raises.
        """
        attester = self._required()
        limited = deadline.within(limits.EVIDENCE_DEADLINE)
        return (await _collect(attester, report_data, limited)).evidence

    async def additional(self, report_data: bytes, deadline: Deadline) -> bytes:
        """Compact JSON object of wire string to evidence, members sorted; ``b""`` without any.

        The families are asked at the same time, and have a share of the time only. What fails is left out
        with a warning, unless the configuration expects it.

        Raises:
            AgentError: DEVICE_MISSING, an expected device was not found or gives no evidence.
        """
        if undetected := self._undetected():
            # T-TEE-48: a guest with fewer devices than its owner paid for proves nothing (SR-21).
            raise AgentError(ErrorCode.DEVICE_MISSING, f"expected, and not found: {', '.join(undetected)}")
        if not self._devices:
            return b""
        share = deadline.within(limits.DEVICES_SHARE * deadline.remaining()).within(limits.EVIDENCE_DEADLINE)
        asked = [asyncio.ensure_future(self._answer(device, report_data, share)) for device in self._devices]
        try:
            answers = await asyncio.gather(*asked)
        finally:
            await _end(asked)
        # Sorted and re-encoded, so that equal evidence gives equal bytes: the broker's side hashes them.
        found = {tee: answer.evidence for tee, answer in answers if answer is not None}
        return msgspec.json.encode(found, order="sorted") if found else b""

    async def _answer(
        self, device: Attester, report_data: bytes, deadline: Deadline
    ) -> tuple[str, _Answer | None]:
        """A family's evidence; None when it has none and may be left out."""
        tee = device.tee
        answer: _Answer | None = None
        try:
            collected = await _collect(device, report_data, deadline)
            results = collected.results or (DeviceResult(tee),)
            answer = _Answer(_value(tee, collected.evidence))
        except AgentError as error:
            results = (failed(tee, error),)
        self._tell(tee, results)
        self._judge(tee, results)
        return tee, answer

    def _tell(self, tee: str, results: tuple[DeviceResult, ...]) -> None:
        for each in results:
            if self._metrics is not None:
                self._metrics.device(tee, each.result)
            if not each.fine:
                _log.warning(
                    "no evidence of a device",
                    extra={"tee": tee, "device": each.name, "code": each.result, "detail": each.detail},
                )

    def _judge(self, tee: str, results: tuple[DeviceResult, ...]) -> None:
        if tee not in self._expected:
            return  # T-TEE-49: the CPU's evidence does not depend on a device nobody counts on (SR-28)
        count, fine = self._expected[tee], sum(each.fine for each in results)
        wanted = 1 if count is None else count
        if fine < wanted:
            said = "; ".join(str(each) for each in results if not each.fine) or "the others are not there"
            raise AgentError(ErrorCode.DEVICE_MISSING, f"{tee}: {fine} of {wanted} give evidence: {said}")

    def _undetected(self) -> list[str]:
        return sorted(set(self._expected) - set(self.devices))

    def _required(self) -> Attester:
        if self._primary is None:
            reason = self._reason()
            raise AgentError(reason.code, reason.detail)  # a fresh one: raised exceptions collect tracebacks
        return self._primary

    def _reason(self) -> AgentError:
        return self._missing or AgentError(ErrorCode.NO_TEE, "no TEE was found")


class _Answer(msgspec.Struct, frozen=True):
    evidence: object  # null is evidence too


async def _collect(attester: Attester, report_data: bytes, deadline: Deadline) -> Collected:
    try:
        # A little later than the attester's own limit, which can say more.
        async with deadline.backstop(f"collecting {attester.tee} evidence"):
            if isinstance(attester, Family):
                return await attester.collect_devices(report_data, deadline)
            return Collected(await attester.collect(report_data, deadline))
    except AgentError as error:
        if error.code is not ErrorCode.DEADLINE_EXCEEDED:
            raise
        raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, error.detail) from None


async def _end(tasks: Sequence[asyncio.Future[tuple[str, _Answer | None]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _value(tee: str, evidence: bytes) -> object:
    try:
        return msgspec.json.decode(evidence)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # T-TEE-4: one device's bytes must not break out of its member in the map.
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{tee}: its evidence is not JSON") from None


def select(detection: Detection, settings: Settings, metrics: Metrics | None = None) -> GuestEvidence:
    """The evidence source for a platform.

    A real TEE, or the chance of one, always wins over ``allow_sample`` and over a development image; without
    any of them there is no evidence.

    Args:
        detection: what is there.
        settings: what is allowed and expected.
        metrics: counts what devices answer.
    """
    devices: tuple[Attester, ...] = tuple(
        DeviceAttester(tee, settings) for tee in detection.devices if tee in MODULES
    )
    primary, missing = _primary(detection, settings)
    if primary is not None and primary.tee == "sample" and settings.sample_device:
        from agent.devkit.sample import SampleDevice  # noqa: PLC0415 - not in the guest image

        devices = (*devices, SampleDevice())
    expected = dict(expected_device(text) for text in settings.expected_devices)
    return GuestEvidence(primary, devices, missing, expected=expected, metrics=metrics)


def _primary(detection: Detection, settings: Settings) -> tuple[Attester | None, AgentError | None]:
    # T-TEE-5: fail closed, each way out with its own code.
    if detection.tee is not None:
        if detection.tee in MODULES:
            return DeviceAttester(detection.tee, settings), None
        return None, AgentError(ErrorCode.TEE_NOT_SUPPORTED, f"{detection.tee}: there is no attester for it")
    if detection.possible:
        names = " or ".join(detection.possible)
        return None, AgentError(ErrorCode.TEE_NOT_SUPPORTED, f"this may be {names}, which need TPM access")
    # T-KBS-114: in a production image neither does anything, since the sample attester is not in it.
    if not (settings.allow_sample or variant.DEVELOPMENT):
        return None, AgentError(ErrorCode.NO_TEE, "no probe found a TEE")
    try:
        from agent.devkit.sample import SampleAttester  # noqa: PLC0415 - not in the guest image
    except ModuleNotFoundError:
        return None, AgentError(ErrorCode.SAMPLE_REFUSED, "the development kit is not in this image")
    return SampleAttester(), None
