"""Reports from the kernel's configfs-tsm (attesters.md 4; Linux ABI/testing/configfs-tsm-report).

One folder is one request. Binary attributes are applied when they are closed, and an error is dropped there:
only ``generation``, which counts writes, tells whether ours arrived and whether nobody else's did.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.clock import Deadline

REPORTS: Final = "sys/kernel/config/tsm/report"
"""The folder of requests, below the root of the system."""

_TRIES: Final = 4
"""One, and three more with a new folder each (attesters.md 4, step 5)."""

_ENTRY: Final = re.compile(r"coco-agent-([0-9]{1,10})-[0-9a-f]{16}")
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NAMES: Final = {"tdx_guest": "tdx-guest", "sev_guest": "sev-guest", "arm_cca_guest": "arm-cca-guest"}
_CHUNK: Final = 64 * limits.KIB


class TsmReport(msgspec.Struct, frozen=True):
    """What the kernel gave.

    Attributes:
        outblob: the report or quote, not empty.
        auxblob: the certificate table of SEV-SNP; None when there is none or nobody asked for it.
    """

    outblob: bytes
    auxblob: bytes | None


class _Conflict(Exception):  # noqa: N818 - not an error until the tries are used up
    """This folder's answer is not for our request; another folder's may be."""


def request(
    sysroot: str,
    provider: str,
    inblob: bytes,
    deadline: Deadline,
    *,
    privlevel: int | None = None,
    aux: bool = False,
    pause: Callable[[float], None] = time.sleep,
) -> TsmReport:
    """One report over ``inblob``. Blocks in the kernel while the hardware works.

    Args:
        sysroot: prefix of ``/sys``; ``/`` outside of tests.
        provider: the driver that must answer: ``tdx_guest``, ``sev_guest`` or ``arm_cca_guest``.
        inblob: what the report is over, at most 64 bytes; tdx and sev take exactly 64.
        deadline: looked at between the steps; a step under way is ended only by the end of the process.
        privlevel: SEV-SNP's VMPL, 0 to 3; None leaves it to the kernel.
        aux: also read ``auxblob``.
        pause: sleeps; tests advance a clock.

    Raises:
        AgentError: QUOTE_PATH_MISSING, DEVICE_FORBIDDEN, DEVICE_BUSY, DEVICE_KEY_WIPED,
            QUOTE_SERVICE_UNREACHABLE, CONFIG_INVALID (privlevel), INVALID_REQUEST (inblob too long),
            EVIDENCE_TIMEOUT, EVIDENCE_FAILED.
    """
    base = Path(sysroot, REPORTS)
    _sweep(base)
    backoff = Backoff(deadline, pause)
    reason = ""
    for _ in range(_TRIES):
        backoff.check("asking configfs-tsm")
        entry = _Entry(_make(base), provider, backoff)
        try:
            return entry.transact(inblob, privlevel, aux=aux)
        except _Conflict as conflict:
            reason = str(conflict)
        finally:
            entry.remove()
    raise AgentError(ErrorCode.EVIDENCE_FAILED, f"configfs-tsm, {_TRIES} times with a new entry: {reason}")


def absent(sysroot: str) -> str | None:
    """Why there is no configfs-tsm, in words for the operator; None when there is."""
    for path, reason in (
        (REPORTS, ""),
        (
            "sys/kernel/config/tsm",
            "configfs-tsm has no reports: this kernel's tsm module has another interface",
        ),
        (
            "sys/kernel/config",
            "no configfs-tsm: mount configfs, load the TEE's guest driver, or use Linux 6.7 or newer",
        ),
    ):
        if os.path.isdir(Path(sysroot, path)):  # noqa: PTH112 - never raises, unlike Path.is_dir
            return f"no /{REPORTS}: {reason}" if reason else None
    return f"no /{REPORTS}: the kernel has no configfs (CONFIG_CONFIGFS_FS)"


def _make(base: Path) -> Path:
    # T-TEE-36: a name of our own that nobody guesses, made by us: another's entry is never used.
    folder = base / f"coco-agent-{os.getpid()}-{os.urandom(8).hex()}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise _no_entry(base, error) from None
    return folder


def _no_entry(base: Path, error: OSError) -> AgentError:
    code = error.errno or errno.EIO
    if code in _FORBIDDEN:
        return _forbidden(base, code)
    sysroot = str(base)[: -len(REPORTS)] or "/"
    if code == errno.ENOENT:
        return AgentError(ErrorCode.QUOTE_PATH_MISSING, absent(sysroot) or f"/{REPORTS} vanished")
    if code == errno.ENXIO:
        return _no_provider()
    return AgentError(ErrorCode.EVIDENCE_FAILED, f"no entry in /{REPORTS}: {os.strerror(code)}")


def _no_provider() -> AgentError:
    return AgentError(
        ErrorCode.QUOTE_PATH_MISSING,
        "configfs-tsm has no provider: no TEE's guest driver (tdx-guest, sev-guest, arm-cca-guest) is loaded",
    )


def _forbidden(path: Path, code: int) -> AgentError:
    try:
        mode = f"mode {path.stat().st_mode & 0o7777:04o}"
    except OSError:
        mode = "which cannot be looked at"
    return AgentError(ErrorCode.DEVICE_FORBIDDEN, f"{path}, {mode}: {os.strerror(code)}")


def _sweep(base: Path) -> None:
    """Remove entries of ours whose process was killed while the kernel was at work."""
    # T-TEE-41: killing a request that hangs must not leave the kernel's memory behind, once per try. Seen
    # from another PID namespace a process may look dead: it then finds its entry gone and makes a new one.
    try:
        names = os.listdir(base)  # noqa: PTH208 - names
    except OSError:
        return
    for name in names:
        match = _ENTRY.fullmatch(name)
        if match is not None and not _alive(int(match[1])):
            with contextlib.suppress(OSError):
                (base / name).rmdir()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class _Entry:
    """One folder, and the count of what we wrote into it."""

    def __init__(self, folder: Path, provider: str, backoff: Backoff) -> None:
        self._folder = folder
        self._provider = provider
        self._backoff = backoff
        self._written = 0

    def remove(self) -> None:
        # rmdir only: the kernel's files go with it, and unlink of one is refused.
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def transact(self, inblob: bytes, privlevel: int | None, *, aux: bool) -> TsmReport:
        self._expect_provider()
        if privlevel is not None:
            self._set_privlevel(privlevel)
        self._write_inblob(inblob)
        outblob = self._generate()
        auxblob = self._auxblob() if aux else None
        # T-TEE-36: read last. Whoever else wrote, even between our two reads, is counted here.
        written = self._generation()
        if written != self._written:
            raise _Conflict(f"inblob write conflict: generation {written}, {self._written} writes were ours")
        if not outblob:
            raise self._nothing()
        return TsmReport(outblob, auxblob or None)

    def _expect_provider(self) -> None:
        try:
            seen = self._read("provider", limits.KIB)
        except OSError as error:
            raise self._failed("provider", error) from None
        if seen != f"{self._provider}\n".encode():
            raise AgentError(
                ErrorCode.QUOTE_PATH_MISSING,
                f"configfs-tsm's provider is {ascii(seen[:40])[1:]}, not '{self._provider}': the driver "
                f"{_NAMES.get(self._provider, self._provider)} did not come first",
            )

    def _set_privlevel(self, level: int) -> None:
        try:
            self._write("privlevel", str(level).encode())
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise self._failed("privlevel", error) from None
            raise AgentError(
                ErrorCode.CONFIG_INVALID,
                f"attester.snp_vmpl is {level}, and the kernel takes levels from {self._floor()} to 3",
            ) from None

    def _floor(self) -> str:
        try:
            text = self._read("privlevel_floor", 64).strip()
        except (OSError, AgentError):
            return "an unknown one"
        return text.decode() if text.isdigit() else "an unknown one"

    def _write_inblob(self, inblob: bytes) -> None:
        try:
            self._write("inblob", inblob)
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise self._failed("inblob", error) from None
            raise AgentError(
                ErrorCode.INVALID_REQUEST, f"{len(inblob)} bytes are more than configfs-tsm takes"
            ) from None

    def _generate(self) -> bytes:
        while True:
            self._backoff.check(f"{self._provider} made a report")
            try:
                return self._read("outblob", limits.TSM_MAX_BLOB)
            except OSError as error:
                if error.errno not in {errno.EBUSY, errno.EINTR}:
                    raise self._failed("outblob", error) from None
            # A quote that timed out or was interrupted is still with the host.
            self._backoff.wait(f"{self._provider}: an earlier request is still in flight")

    def _auxblob(self) -> bytes | None:
        try:
            return self._read("auxblob", limits.TSM_MAX_BLOB)
        except OSError as error:
            # Not there on this platform (ENOENT), or the host gave none (EINVAL, or empty).
            if error.errno in {errno.ENOENT, errno.EINVAL}:
                return None
            raise self._failed("auxblob", error) from None

    def _generation(self) -> int:
        try:
            text = self._read("generation", 64).strip()
        except OSError as error:
            raise self._failed("generation", error) from None
        if not text.isdigit():
            raise AgentError(ErrorCode.EVIDENCE_FAILED, "configfs-tsm's generation is no number")
        return int(text)

    def _read(self, name: str, limit: int) -> bytes:
        opened = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        content = bytearray()
        try:
            while piece := os.read(opened, min(_CHUNK, limit + 1 - len(content))):
                content += piece
                # T-TEE-35: what the host's service wrote is bounded before it is kept.
                if len(content) > limit:
                    raise AgentError(
                        ErrorCode.EVIDENCE_MALFORMED, f"configfs-tsm's {name} is larger than {limit} bytes"
                    )
        finally:
            os.close(opened)
        return bytes(content)

    def _write(self, name: str, content: bytes) -> None:
        opened = os.open(self._folder / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(opened, content)
        finally:
            os.close(opened)
        if written != len(content):
            raise _Conflict(f"{name} took {written} of {len(content)} bytes")
        self._written += 1

    def _failed(self, name: str, error: OSError) -> AgentError:
        code = error.errno or errno.EIO
        if code in _FORBIDDEN:
            return _forbidden(self._folder / name, code)
        if code == errno.ENOENT:
            raise _Conflict(f"no {name}: the entry was removed, or {self._provider} has no such attribute")
        if code == errno.EAGAIN:
            raise _Conflict(f"{name}: the kernel wants the request again")
        if name != "outblob":
            if code == errno.ENXIO:
                return _no_provider()
            return AgentError(ErrorCode.EVIDENCE_FAILED, f"configfs-tsm's {name}: {os.strerror(code)}")
        if code == errno.EINVAL and self._generation() != self._written:
            raise _Conflict("inblob did not arrive")
        return _refused(self._provider, code)

    def _nothing(self) -> AgentError:
        if self._provider == "tdx_guest":
            # Kernels do not look at the host's status: a quoting service that is down shows as no quote.
            return AgentError(
                ErrorCode.QUOTE_SERVICE_UNREACHABLE,
                "the host answered without a quote: its quote generation service (QGS) is down, "
                "not configured for this guest, or refused",
            )
        return AgentError(ErrorCode.EVIDENCE_FAILED, f"{self._provider} gave an empty report")


_ANY: Final = "*"
_REFUSALS: Final[dict[tuple[str, int], tuple[ErrorCode, str]]] = {
    ("tdx_guest", errno.ETIMEDOUT): (
        ErrorCode.QUOTE_SERVICE_UNREACHABLE,
        "the host sent no quote for 30 s: its quote generation service (QGS) hangs or is not connected",
    ),
    ("tdx_guest", errno.EIO): (
        ErrorCode.EVIDENCE_FAILED,
        "the hypervisor refused the request: this host offers its guests no quotes",
    ),
    ("sev_guest", errno.ETIMEDOUT): (
        ErrorCode.DEVICE_BUSY,
        "the host throttled the request for 60 s; the driver has wiped its key after that",
    ),
    ("sev_guest", errno.EIO): (
        ErrorCode.EVIDENCE_FAILED,
        "the security processor or the host refused (the kernel log says why); the driver wiped its key",
    ),
    ("sev_guest", errno.EINVAL): (
        ErrorCode.CONFIG_INVALID,
        "the security processor refuses this privilege level (attester.snp_vmpl) or signing key",
    ),
    ("sev_guest", errno.ENXIO): (
        ErrorCode.EVIDENCE_FAILED,
        "the security processor answered with an error, or the driver was unloaded",
    ),
    ("sev_guest", errno.ENOTTY): (
        ErrorCode.DEVICE_KEY_WIPED,
        "the driver has no key for this privilege level (VMPCK disabled)",
    ),
    (_ANY, errno.ETIMEDOUT): (ErrorCode.EVIDENCE_TIMEOUT, "the hardware did not answer the kernel in time"),
    (_ANY, errno.ENXIO): (ErrorCode.QUOTE_PATH_MISSING, "its driver was unloaded"),
    (_ANY, errno.EINVAL): (ErrorCode.EVIDENCE_FAILED, "it refuses an inblob of this size"),
    (_ANY, errno.EFBIG): (ErrorCode.EVIDENCE_FAILED, "its report is larger than the kernel's limit"),
}


def _refused(provider: str, code: int) -> AgentError:
    found = _REFUSALS.get((provider, code)) or _REFUSALS.get((_ANY, code))
    meaning, text = found or (ErrorCode.EVIDENCE_FAILED, "no report")
    return AgentError(meaning, f"{provider}: {text} ({errno.errorcode.get(code, code)})")
