"""Evidence of NVIDIA GPUs through NVML (attesters.md 12).

NVML is loaded only in a process that can be killed. It is found as the system's loader finds libraries, and
needs the extra ``nvidia`` of this package (nvidia-ml-py). Switches of a multi-GPU machine are attested by
libnvidia-nscq, for which there is no Python binding: they are named as missing.
"""

from __future__ import annotations

import re
from base64 import b64encode
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.errors import AgentError, ErrorCode
from agent.tee.base import regularize
from agent.tee.devices import Collected, DeviceResult, none_answered
from agent.tee.one_by_one import one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

NONCE: Final = 32
"""SPDM's nonce; report data is cut to it by the wire contract (attesters.md 15.2)."""

_REQUEST: Final = 37
"""Bytes of SPDM GET_MEASUREMENTS, which come before the response; its nonce is at offset 4."""

ARCHITECTURES: Final = {9: "HOPPER", 10: "BLACKWELL"}
"""NVML's architectures that verifiers know; evidence with another name is refused as a whole."""

_SWITCH: Final = re.compile(r"nvidia-nvswitch([0-9]{1,3})")

_MISSING: Final = ErrorCode.QUOTE_PATH_MISSING
_CODES: Final = {
    3: ErrorCode.NOT_SUPPORTED,
    4: ErrorCode.DEVICE_FORBIDDEN,
    9: _MISSING,  # driver not loaded
    10: ErrorCode.EVIDENCE_TIMEOUT,
    12: _MISSING,  # library not found
    13: _MISSING,  # function not found: an older driver
    19: ErrorCode.DEVICE_BUSY,
    27: ErrorCode.DEVICE_BUSY,
}
_HINTS: Final = {
    3: "not supported: confidential computing mode is off, or an old driver",
    9: "the driver is not loaded",
    12: "libnvidia-ml.so.1 cannot be loaded",
    13: "the driver is too old for attestation",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    27: "the GPU is not ready yet",
    18: "library and kernel module have different versions",
}


class GpuEvidence(msgspec.Struct, frozen=True):
    """One entry of ``device_evidence_list``.

    Attributes:
        arch: of :data:`ARCHITECTURES`.
        uuid: NVML's.
        evidence: standard base64 of SPDM request and response.
        certificate: standard base64 of the PEM chain, leaf first.
    """

    arch: str
    uuid: str
    evidence: str
    certificate: str


class _Evidence(msgspec.Struct, frozen=True):
    device_evidence_list: tuple[msgspec.Raw, ...]


def collect(settings: Settings, report_data: bytes, deadline: Deadline) -> bytes:
    """Evidence of the GPUs that give some; see :func:`collect_devices`."""
    return collect_devices(settings, report_data, deadline).evidence


def collect_devices(settings: Settings, report_data: bytes, deadline: Deadline) -> Collected:
    """Evidence over the first 32 bytes of ``report_data``, and what each GPU and switch answered.

    Raises:
        AgentError: QUOTE_PATH_MISSING (driver, library or extra not there), EVIDENCE_TIMEOUT,
            EVIDENCE_FAILED, NOT_SUPPORTED (confidential computing is off); only when no GPU gave evidence.
    """
    if not (Path(settings.sysroot) / "dev/nvidiactl").exists():
        raise AgentError(_MISSING, "nvidia: no /dev/nvidiactl: the driver is not loaded")
    evidence, results = one_by_one(Gpus(regularize(report_data, NONCE)), deadline)
    if not evidence:
        raise none_answered(results, "nvidia")
    listed = _Evidence(tuple(msgspec.Raw(each) for each in evidence))
    return Collected(msgspec.json.encode(listed), (*results, *switches(settings.sysroot)))


def switches(sysroot: str) -> tuple[DeviceResult, ...]:
    """A result for each NVSwitch of the guest: none of them can be attested."""
    try:
        names = [_SWITCH.fullmatch(path.name) for path in (Path(sysroot) / "dev").iterdir()]
    except OSError:
        return ()
    reason = "switch evidence needs libnvidia-nscq, which this release cannot use"
    numbers = sorted(int(name[1]) for name in names if name)
    return tuple(DeviceResult(f"NVSwitch {n}", ErrorCode.NOT_SUPPORTED.name, reason) for n in numbers)


class Gpus:
    """Satisfies ``agent.tee.one_by_one.Vendor``.

    Args:
        nonce: 32 bytes.
    """

    label = "GPU"

    def __init__(self, nonce: bytes) -> None:
        self._nonce = nonce
        self._uuids: dict[int, str] = {}
        self._nvml: Any = None

    def open(self) -> int:
        """Load NVML; the number of GPUs."""
        try:
            self._nvml = import_module("pynvml")
        except ModuleNotFoundError:
            raise AgentError(
                _MISSING, "nvidia: nvidia-ml-py is not in this image (the extra 'nvidia')"
            ) from None
        self._call("init", self._nvml.nvmlInit)
        return int(self._call("count", self._nvml.nvmlDeviceGetCount))

    def name(self, index: int) -> str:
        """The GPU's UUID."""
        uuid = str(self._call("UUID", self._nvml.nvmlDeviceGetUUID, self._handle(index)))
        self._uuids[index] = uuid
        return uuid

    def collect(self, index: int) -> bytes:
        """A report for our nonce and its chain, as one JSON object."""
        nvml, handle = self._nvml, self._handle(index)
        number = int(self._call("architecture", nvml.nvmlDeviceGetArchitecture, handle))
        if number not in ARCHITECTURES:
            raise AgentError(
                ErrorCode.NOT_SUPPORTED, f"architecture {number}; verifiers know Hopper, Blackwell"
            )
        report = self._call("report", nvml.nvmlDeviceGetConfComputeGpuAttestationReport, handle, self._nonce)
        spdm = _cut(report.attestationReport, report.attestationReportSize, "report")
        # T-TEE-47: a GPU that answers with an older report is named here, and not by the broker alone.
        if len(spdm) <= _REQUEST or spdm[4 : 4 + NONCE] != self._nonce:
            raise AgentError(
                ErrorCode.EVIDENCE_FAILED, f"a report of {len(spdm)} bytes that is not for our nonce"
            )
        chain = self._call("certificates", nvml.nvmlDeviceGetConfComputeGpuCertificate, handle)
        pem = _cut(chain.attestationCertChain, chain.attestationCertChainSize, "certificate chain")
        return msgspec.json.encode(
            GpuEvidence(
                ARCHITECTURES[number],
                self._uuids.get(index, "unknown"),
                b64encode(spdm).decode(),
                b64encode(pem.rstrip(b"\0")).decode(),
            )
        )

    def _handle(self, index: int) -> object:
        return self._call("handle", self._nvml.nvmlDeviceGetHandleByIndex, index)

    def _call(self, what: str, function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - NVML's own
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            number = int(getattr(error, "value", 999))
            reason = _HINTS.get(number, f"NVML error {number}")
            raise AgentError(_CODES.get(number, ErrorCode.EVIDENCE_FAILED), f"{what}: {reason}") from None


def _cut(field: Any, size: int, what: str) -> bytes:  # noqa: ANN401 - a ctypes array
    if not 0 < size <= len(field):
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"a {what} of {size} bytes")
    return bytes(field[:size])
