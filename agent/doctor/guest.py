"""The guest itself: platform, devices, kernel, init-data, clock. Reads only."""

from __future__ import annotations

import gzip
import os
import re
import stat
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent import variant
from agent.config import limits
from agent.config.cmdline import parameters
from agent.config.keys import KERNEL_KBC
from agent.config.model import INIT_DATA_FILE
from agent.config.rules import makes_samples
from agent.doctor.finding import Finding, Patient, Verdict, failed
from agent.errors import AgentError
from agent.files import read_beneath
from agent.tee.initdata import parse
from agent.tee.initdata_transport import expected
from agent.tee.tsm import REPORTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.tee.initdata import InitData

INIT_DATA: Final = INIT_DATA_FILE.lstrip("/")
"""Where kata-agent leaves it (kata_integration.md 3.2)."""

_CONFIGFS: Final = "/sys/kernel/config"
_DEVICES: Final = {
    "tdx": ("dev/tdx_guest",),
    "snp": ("dev/sev-guest",),
    "az-snp-vtpm": ("dev/tpmrm0", "dev/tpm0"),
    "az-tdx-vtpm": ("dev/tpmrm0", "dev/tpm0"),
    "tpm": ("dev/tpmrm0", "dev/tpm0"),
    "csv": ("dev/csv-guest",),
    "se": ("dev/uv",),
    "hygondcu": ("dev/mkfd",),
    "nvidia": ("dev/nvidiactl", "dev/nvidia0"),
}
_OPTIONS: Final = {
    "tdx": ("TDX_GUEST_DRIVER", "TSM_REPORTS", "CONFIGFS_FS"),
    "snp": ("SEV_GUEST", "TSM_REPORTS", "CONFIGFS_FS"),
    "cca": ("ARM_CCA_GUEST", "TSM_REPORTS", "CONFIGFS_FS"),
    "az-snp-vtpm": ("TCG_TPM",),
    "az-tdx-vtpm": ("TCG_TPM",),
    "tpm": ("TCG_TPM",),
}
_TSM_TEES: Final = frozenset({"tdx", "snp", "cca"})
_CPU_FLAGS: Final = {"tdx_guest": "tdx", "sev_snp": "snp"}
_CONFIG_MAX: Final = 1024 * 1024
_RTMR_SINCE: Final = (6, 16)


def platform(patient: Patient) -> Iterator[Finding]:
    """Every probe, then what they add up to."""
    found = patient.detection
    for probe in found.trail:
        yield Finding("probe", probe.tee, Verdict.GOOD if probe.found else Verdict.UNKNOWN, probe.reason)
    if found.tee is not None:
        wrong = patient.wanted not in {"", found.tee}
        yield Finding(
            "platform",
            "TEE",
            Verdict.BAD if wrong else Verdict.GOOD,
            f"{found.tee}, but {patient.wanted} is wanted" if wrong else found.tee,
            "The pod runs on another kind of machine: look at its runtime class and node." if wrong else "",
        )
    elif found.possible:
        yield Finding(
            "platform",
            "TEE",
            Verdict.BAD,
            f"perhaps {' or '.join(found.possible)}, but the vTPM does not say",
            "Give the agent the TPM device (/dev/tpmrm0), and load its driver.",
        )
    else:
        yield _no_tee(patient)


def _no_tee(patient: Patient) -> Finding:
    signs = list(_signs(patient))
    if signs:
        return Finding(
            "platform",
            "TEE",
            Verdict.BAD,
            f"CONFIDENTIAL BY NAME ONLY: {', '.join(signs)}, but this machine has no TEE interface",
            "The virtual machine was started without its TEE, or the guest kernel lacks the driver. Look at "
            "the runtime class's configuration (confidential_guest) and at the node's firmware settings.",
        )
    if variant.DEVELOPMENT:
        return Finding("platform", "TEE", Verdict.WARNING, f"none; {variant.WARNING}", "Never in production.")
    if patient.config.attester.allow_sample and makes_samples():
        return Finding(
            "platform",
            "TEE",
            Verdict.WARNING,
            "none; SAMPLE EVIDENCE is allowed, which proves nothing",
            "Never run production pods so.",
        )
    return Finding("platform", "TEE", Verdict.BAD, "none", "Run the pod with a confidential runtime class.")


def _signs(patient: Patient) -> Iterator[str]:
    """What says that somebody wanted a TEE here."""
    if patient.wanted:
        yield f"{patient.wanted} is wanted"
    flags = set(_text(patient, "proc/cpuinfo").split())
    yield from (f"the CPU has the flag {flag}" for flag in _CPU_FLAGS if flag in flags)
    if KERNEL_KBC in parameters(patient.cmdline):
        yield "the kernel command line names a key broker"
    if (Path(patient.sysroot) / INIT_DATA).exists():
        yield "the pod has init-data"


def devices(patient: Patient) -> Iterator[Finding]:
    """Nodes of the TEE and its devices: there, and openable."""
    names = [name for name in (patient.detection.tee, *patient.detection.devices) if name]
    for path in dict.fromkeys(path for name in names for path in _DEVICES.get(name, ())):
        full = Path(patient.sysroot) / path
        try:
            mode = stat.S_IMODE(full.stat().st_mode)
        except OSError as error:
            yield Finding("device", f"/{path}", Verdict.UNKNOWN, f"{error.strerror}")
            continue
        usable = os.access(full, os.R_OK | os.W_OK)
        yield Finding(
            "device",
            f"/{path}",
            Verdict.GOOD if usable else Verdict.BAD,
            f"mode {mode:04o}, {'can' if usable else 'CANNOT'} be opened by uid {os.geteuid()}",
            "" if usable else "Run the agent as root, or give its user the device (udev rule, DeviceAllow=).",
        )
    if patient.detection.tee in _TSM_TEES:
        yield _configfs(patient)


def _configfs(patient: Patient) -> Finding:
    reports = Path(patient.sysroot) / REPORTS
    if not reports.is_dir():
        mounted = f" {_CONFIGFS} configfs " in _text(patient, "proc/mounts")
        return Finding(
            "device",
            "configfs-tsm",
            Verdict.BAD,
            "configfs is mounted, but has no tsm/report" if mounted else "configfs is not mounted",
            "modprobe tsm and the TEE's guest driver." if mounted else f"mount -t configfs none {_CONFIGFS}",
        )
    usable = os.access(reports, os.W_OK)
    return Finding(
        "device",
        "configfs-tsm",
        Verdict.GOOD if usable else Verdict.BAD,
        "entries can be made" if usable else f"entries cannot be made by uid {os.geteuid()}",
        "" if usable else "Run the agent as root.",
    )


def kernel(patient: Patient) -> Iterator[Finding]:
    """Options of the kernel that the TEE's way to a quote needs."""
    tee = patient.detection.tee or patient.wanted
    yield Finding("kernel", "release", Verdict.GOOD, patient.release)
    options = _OPTIONS.get(tee, ())
    config = _kernel_config(patient)
    for option in options:
        value = None if config is None else config.get(option, "n")
        yield Finding(
            "kernel",
            f"CONFIG_{option}",
            Verdict.UNKNOWN if value is None else Verdict.BAD if value == "n" else Verdict.GOOD,
            "the kernel's configuration cannot be read" if value is None else value,
            f"Use a guest kernel with CONFIG_{option}." if value == "n" else "",
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", patient.release)[:2])
    if tee == "tdx" and numbers < _RTMR_SINCE:
        yield Finding(
            "kernel",
            "RTMR",
            Verdict.WARNING if patient.config.attester.enable_eventlog else Verdict.GOOD,
            "runtime measurements need Linux 6.16 (sysfs)",
        )


def _kernel_config(patient: Patient) -> dict[str, str] | None:
    for path in ("proc/config.gz", f"boot/config-{patient.release}"):
        try:
            with (gzip.open if path.endswith(".gz") else open)(Path(patient.sysroot) / path, "rb") as file:
                content = file.read(_CONFIG_MAX)
        except (OSError, EOFError, zlib.error):
            continue
        pairs = re.findall(r"^CONFIG_(\w+)=(\w+)$", content.decode("ascii", "replace"), re.MULTILINE)
        return dict(pairs)
    return None


def init_data(patient: Patient) -> Iterator[Finding]:
    """The document kata-agent left, and what the hardware should hold for it."""
    try:
        document = read_init_data(patient)
    except AgentError as error:
        yield failed("init-data", "document", error)
        return
    if document is None:
        yield Finding("init-data", "document", Verdict.UNKNOWN, f"no /{INIT_DATA}: the pod has none")
        return
    yield Finding(
        "init-data", "document", Verdict.GOOD, f"{document.algorithm.value} {document.digest.hex()}"
    )
    if "vtpm" in (patient.detection.tee or "") and expected(document.digest).pcr8 is None:
        yield Finding(
            "init-data",
            "algorithm",
            Verdict.BAD,
            f"{document.algorithm.value} does not fit a vTPM",
            "Build the annotation with --algorithm sha256.",
        )


def read_init_data(patient: Patient) -> InitData | None:
    """The document; None where there is none.

    Raises:
        AgentError: CONFIG_INVALID, FILE_UNSAFE.
    """
    try:
        return parse(read_beneath(patient.sysroot, INIT_DATA, limits.CONFIG_MAX_FILE))
    except FileNotFoundError:
        return None


def clock(patient: Patient) -> Iterator[Finding]:
    """Whether the guest's clock can be right."""
    now = patient.clock.wall()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    late = now < limits.RELEASED
    yield Finding(
        "clock",
        "guest's clock",
        Verdict.BAD if late else Verdict.GOOD,
        f"{shown}, before this release was made" if late else shown,
        "Certificates will seem not yet valid. Set the clock (chrony with the PTP device of the host)."
        if late
        else "",
    )


def configuration(patient: Patient) -> Iterator[Finding]:
    """What reading the configuration warned of."""
    for warning in patient.config.warnings:
        yield Finding("configuration", "warning", Verdict.WARNING, warning)
    if not patient.config.warnings:
        yield Finding("configuration", "files", Verdict.GOOD, "no warnings")


def _text(patient: Patient, path: str) -> str:
    try:
        with (Path(patient.sysroot) / path).open("rb") as file:
            return file.read(_CONFIG_MAX).decode("ascii", "replace")
    except OSError:
        return ""
