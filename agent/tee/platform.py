"""Which TEE this guest runs in, and how we know (attesters.md section 1).

Detection reads files, looks whether paths exist, and asks a TPM, if there is one, what it holds; nothing is
changed. Every probe is made and leaves its result and reason, not only the winner's.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.config.model import Attester

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.tee.tpm2.probe import Seen

ORDER: Final = ("tdx", "sgx", "az-tdx-vtpm", "az-snp-vtpm", "snp", "csv", "cca", "se", "tpm", "sample")
"""Primary TEEs; the first one found is it (attesters.md 1.1)."""

DEVICES: Final = ("nvidia", "sampledevice", "hygondcu", "tpm", "nvidiadpu")
"""Additional devices; all that are found count (attesters.md 1.3)."""

_TSM_REPORTS: Final = "sys/kernel/config/tsm/report"
_AZURE_ASSET_TAG: Final = b"7783-7084-3265-9085-8269-3286-77"
_NO_DEVICE_BESIDE: Final = frozenset({"tdx", "az-tdx-vtpm", "az-snp-vtpm", "tpm"})
"""Primary TEEs beside which a TPM is no device: their own, or the host's (attesters.md 1.3)."""

_READ_LIMIT: Final = 256


class Probe(msgspec.Struct, frozen=True):
    """One question asked of the platform.

    Attributes:
        tee: wire string the question is about (attesters.md 1.4).
        found: the answer.
        reason: what was seen, in words; shows paths, and short file contents in quotes.
    """

    tee: str
    found: bool
    reason: str


class Detection(msgspec.Struct, frozen=True):
    """The outcome of :func:`detect`.

    Attributes:
        trail: every probe, primary TEEs in their order, then devices.
        tee: wire string of the primary TEE, or None.
        devices: wire strings of additional devices.
        possible: real TEEs that cannot be told from here, but may be there. While any is, sample evidence
            is refused: it must never stand in for a real TEE.
    """

    trail: tuple[Probe, ...]
    tee: str | None
    devices: tuple[str, ...]
    possible: tuple[str, ...] = ()


def detect(
    sysroot: str, environ: Mapping[str, str], machine: str, settings: Attester | None = None
) -> Detection:
    """Find the primary TEE and the devices.

    Args:
        sysroot: prefix of ``/sys``, ``/dev`` and ``/proc``; ``/`` outside of tests.
        environ: the process environment. ``OCCLUM`` selects sgx, as upstream; nothing in it selects a sample.
        machine: ``uname -m``, e.g. ``x86_64``.
        settings: which TPM and which key to ask for, and whether a TPM is expected as a device.
    """
    look = _Look(Path(sysroot), environ, machine, replace(settings or Attester(), sysroot=sysroot))
    probes: dict[str, Callable[[_Look], tuple[bool, str]]] = {
        "tdx": _tdx,
        "sgx": _sgx,
        "az-tdx-vtpm": partial(_azure, report_type=4),
        "az-snp-vtpm": partial(_azure, report_type=2),
        "snp": _snp,
        "csv": _csv,
        "cca": _cca,
        "se": _se,
        "tpm": _tpm,
        "sample": _sample,
    }
    devices: dict[str, Callable[[_Look], tuple[bool, str]]] = {
        "nvidia": _nvidia,
        "sampledevice": _sample_device,
        "hygondcu": _hygon_dcu,
        "tpm": _tpm_device,
        "nvidiadpu": _nvidia_dpu,
    }
    primary = [Probe(tee, *probes[tee](look)) for tee in ORDER]
    tee = next((probe.tee for probe in primary if probe.found), None)
    look.primary = tee
    additional = [Probe(tee, *devices[tee](look)) for tee in DEVICES]
    return Detection(
        trail=(*primary, *additional),
        tee=tee,
        devices=tuple(probe.tee for probe in additional if probe.found),
        # T-TEE-34: a TPM that cannot be read on Azure may be a TEE's; only its answer says that it is not.
        possible=("az-tdx-vtpm", "az-snp-vtpm") if tee is None and look.unread_on_azure else (),
    )


class _Look:
    """Reads of one sysroot; what several probes need is read once."""

    def __init__(self, root: Path, environ: Mapping[str, str], machine: str, settings: Attester) -> None:
        self.root = root
        self.environ = environ
        self.machine = machine
        self.settings = settings
        self.primary: str | None = None

    def there(self, path: str) -> bool:
        """Whether a path exists; one that cannot be looked at counts as absent."""
        return os.path.exists(self.root / path)  # noqa: PTH110 - never raises, unlike Path.exists

    def folder(self, path: str) -> bool:
        """Whether a path is a folder."""
        return os.path.isdir(self.root / path)  # noqa: PTH112 - never raises, unlike Path.is_dir

    def names(self, path: str) -> list[str]:
        """What a folder holds, sorted; empty if it cannot be listed."""
        try:
            return sorted(os.listdir(self.root / path))  # noqa: PTH208 - names, as on the wire
        except OSError:
            return []

    def head(self, path: str) -> bytes | str:
        """The first bytes of a file, or why there are none."""
        try:
            # T-TEE-1: bounded, and never waiting for a planted FIFO.
            opened = os.open(self.root / path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                return os.read(opened, _READ_LIMIT)
            finally:
                os.close(opened)
        except OSError as error:
            return _why(error)

    @cached_property
    def tsm(self) -> bytes | str:
        """configfs-tsm's ``provider``, newline included, or why there is none (attesters.md 1.2).

        All entries have the same provider, so one that exists already is read; otherwise an entry is made
        and removed again, as upstream does.
        """
        if not self.folder(_TSM_REPORTS):
            return f"no /{_TSM_REPORTS}"
        for name in self.names(_TSM_REPORTS):
            content = self.head(f"{_TSM_REPORTS}/{name}/provider")
            if isinstance(content, bytes):
                return content
        entry = f"{_TSM_REPORTS}/coco-agent-{os.urandom(8).hex()}"
        try:
            (self.root / entry).mkdir(mode=0o700)
        except OSError as error:
            return f"no entry in /{_TSM_REPORTS}: {_why(error)}"
        try:
            content = self.head(f"{entry}/provider")
        finally:
            with contextlib.suppress(OSError):
                (self.root / entry).rmdir()
        return content if isinstance(content, bytes) else f"no provider in /{_TSM_REPORTS}: {content}"

    @cached_property
    def tpm(self) -> str | None:
        """Path of the TPM device, or None."""
        named = self.settings.tpm_device.lstrip("/")
        paths = (named,) if named else ("dev/tpmrm0", "dev/tpm0")
        return next((f"/{path}" for path in paths if self.there(path)), None)

    @cached_property
    def seen(self) -> Seen | None:
        """What the TPM says, or None without one."""
        if self.tpm is None:
            return None
        from agent.tee.tpm2.probe import look  # noqa: PLC0415 - only guests with a TPM

        return look(self.settings)

    @property
    def unread_on_azure(self) -> bool:
        """Whether this is an Azure guest with a TPM that could not be asked for the report."""
        return self.azure and self.seen is not None and not self.seen.answered

    @cached_property
    def azure(self) -> bool:
        """Whether DMI says so. The host writes DMI: believed only where it makes us refuse."""
        tag = self.head("sys/devices/virtual/dmi/id/chassis_asset_tag")
        return isinstance(tag, bytes) and tag.strip() == _AZURE_ASSET_TAG


def _why(error: OSError) -> str:
    return os.strerror(error.errno if error.errno is not None else errno.EIO)


def _shown(content: bytes) -> str:
    # T-TEE-2: files of the host's choosing reach a terminal; short, ASCII, escaped.
    text = repr(content[:40])[1:]
    return text if len(content) <= 40 else f"{text}..."


def _provider(look: _Look, wanted: bytes) -> tuple[bool, str]:
    seen = look.tsm
    if isinstance(seen, str):
        return False, seen
    return seen == wanted, f"the configfs-tsm provider is {_shown(seen)}"


def _exists(look: _Look, path: str) -> tuple[bool, str]:
    found = look.there(path)
    return found, f"/{path} exists" if found else f"no /{path}"


def _tdx(look: _Look) -> tuple[bool, str]:
    device, text = _exists(look, "dev/tdx_guest")
    if device:  # one of both is enough, and this one makes no entry in configfs
        return True, text
    found, reason = _provider(look, b"tdx_guest\n")
    return found, reason if found else f"{text}; {reason}"


def _sgx(look: _Look) -> tuple[bool, str]:
    if "OCCLUM" in look.environ:
        return True, "OCCLUM is set: an Occlum enclave"
    path = "dev/attestation/attestation_type"
    seen = look.head(path)
    if isinstance(seen, str):
        return False, f"OCCLUM is not set; /{path}: {seen}"
    return seen == b"dcap", f"/{path} is {_shown(seen)}"


def _azure(look: _Look, report_type: int) -> tuple[bool, str]:
    if look.seen is None:
        return False, "DMI says Azure, but there is no TPM" if look.azure else "no TPM device"
    asked = "" if look.seen.answered or not look.azure else "; DMI says Azure: it may be this"
    return look.seen.report_type == report_type, f"{look.tpm}: {look.seen.report}{asked}"


def _snp(look: _Look) -> tuple[bool, str]:
    path = "sys/devices/platform/sev-guest"
    found = look.folder(path)
    return found, f"/{path} exists" if found else f"no folder /{path}"


def _csv(look: _Look) -> tuple[bool, str]:
    return _exists(look, "dev/csv-guest")


def _cca(look: _Look) -> tuple[bool, str]:
    if look.machine not in {"aarch64", "arm64"}:
        return False, "only on aarch64"
    return _provider(look, b"arm_cca_guest\n")


def _se(look: _Look) -> tuple[bool, str]:
    path = "sys/firmware/uv/prot_virt_guest"
    if look.machine != "s390x":
        return False, "only on s390x"
    seen = look.head(path)
    if isinstance(seen, str):
        return False, f"/{path}: {seen}"
    return seen[:1] == b"1", f"/{path} is {_shown(seen)}"


def _tpm(look: _Look) -> tuple[bool, str]:
    if look.seen is None:
        return False, "no TPM device"
    return look.seen.has_key, f"{look.tpm}: {look.seen.key}"


def _sample(look: _Look) -> tuple[bool, str]:
    del look
    # T-TEE-3 (SR-10): upstream falls back to sample in silence; here detection never finds it.
    return False, "never detected; only attester.allow_sample in agent.toml permits it"


def _nvidia(look: _Look) -> tuple[bool, str]:
    if look.machine != "x86_64":
        return False, "only on x86_64"
    driver, text = _exists(look, "dev/nvidiactl")
    if not driver:
        return False, text
    # Nodes only: loading NVML belongs into a process that can be killed (attesters.md 1.3).
    count = sum(name.removeprefix("nvidia").isdecimal() for name in look.names("dev"))
    return count > 0, f"{text}; {count} GPUs in /dev; asked when there is a report to make"


def _sample_device(look: _Look) -> tuple[bool, str]:
    # T-TEE-3 (SR-10): the environment is not measured, so it selects nothing that proves nothing.
    told = (
        "ENABLE_SAMPLE_DEVICE is set, and ignored"
        if "ENABLE_SAMPLE_DEVICE" in look.environ
        else "never detected"
    )
    return False, f"{told}; only attester.sample_device in agent.toml permits it"


def _hygon_dcu(look: _Look) -> tuple[bool, str]:
    nodes = "sys/devices/virtual/kfd/kfd/topology/nodes"
    device, text = _exists(look, "dev/mkfd")
    if not device:
        return False, text
    count = len(look.names(nodes))
    return count > 0, f"{text}; {count} entries in /{nodes}"


def _tpm_device(look: _Look) -> tuple[bool, str]:
    found, reason = _tpm(look)
    if look.primary in _NO_DEVICE_BESIDE:
        return False, f"never beside {look.primary}; {reason}"
    # Upstream's usual builds never report it, and a broker need not know it: only who expects it gets it.
    if not any(name.partition(":")[0] == "tpm" for name in look.settings.expected_devices):
        return False, f"not in attester.expected_devices; {reason}"
    return found, reason


def _nvidia_dpu(look: _Look) -> tuple[bool, str]:
    for name in look.names("sys/bus/pci/devices"):
        vendor, device = (
            _pci(look.head(f"sys/bus/pci/devices/{name}/{part}")) for part in ("vendor", "device")
        )
        if vendor == "15b3" and device in {"a2dc", "a2da"}:
            return False, "a BlueField DPU is there; no release of any agent reports it"
    return False, "no BlueField DPU on the PCI bus"


def _pci(content: bytes | str) -> str:
    text = content.decode("ascii", "replace") if isinstance(content, bytes) else ""
    return text.strip().lower().removeprefix("0x")
