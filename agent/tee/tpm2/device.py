"""The way to the TPM: a character device, or a unix socket in its place (simulators)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.tpm2.codes import AGAIN, TpmRefusal
from agent.tee.tpm2.commands import Answer, Command, parse_answer

if TYPE_CHECKING:
    from types import TracebackType

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

DEVICES: Final = ("dev/tpmrm0", "dev/tpm0")
"""Where a TPM is looked for. The first one shares it with other programs, the second one does not."""

_FIRST_PAUSE: Final = 0.01
_LONGEST_PAUSE: Final = 0.25


class Pauses:
    """Small growing pauses that never go beyond a deadline.

    Args:
        deadline: when the caller stops waiting.
        first: seconds of the first pause; each is half as long again as the one before.
        longest: seconds of the longest pause.
        reserve: seconds before the deadline in which there are no more pauses.
    """

    def __init__(
        self,
        deadline: Deadline,
        first: float = _FIRST_PAUSE,
        longest: float = _LONGEST_PAUSE,
        *,
        reserve: float = 0.0,
    ) -> None:
        self._deadline = deadline
        self._reserve = reserve
        self._next = first
        self._longest = longest

    def pause(self) -> bool:
        """Wait a little; False, at once, when no time would be left for another try."""
        if self._deadline.remaining() - self._reserve <= self._next:
            return False
        time.sleep(self._next)
        self._next = min(self._next * 1.5, self._longest)
        return True


def find(sysroot: str, device: str = "") -> Path | None:
    """The path of the TPM, or None.

    Args:
        sysroot: prefix of ``/dev``.
        device: configured path below it; nothing else is looked for then.
    """
    root = Path(sysroot)
    names = (device.lstrip("/"),) if device else DEVICES
    return next((root / name for name in names if os.path.exists(root / name)), None)  # noqa: PTH110 - never raises


class Tpm:
    """An open TPM. While it is open no other process of this agent uses it.

    The hold is an advisory lock on the device: report, quote and registers belong together, and Azure's user
    data would be overwritten by whoever comes between. A single thread uses an object of this class.

    Attributes:
        name: path, for errors.
        deadline: until when answers are waited for.
    """

    def __init__(self, settings: Settings, deadline: Deadline) -> None:
        """Open the TPM.

        Raises:
            AgentError: QUOTE_PATH_MISSING (there is none), DEVICE_FORBIDDEN, DEVICE_BUSY, EVIDENCE_FAILED.
        """
        path = find(settings.sysroot, settings.tpm_device)
        if path is None:
            wanted = settings.tpm_device or " or ".join(f"/{name}" for name in DEVICES)
            raise AgentError(ErrorCode.QUOTE_PATH_MISSING, f"no TPM: {wanted} does not exist")
        self.name = f"/{path.relative_to(settings.sysroot)}"
        self.deadline = deadline
        self._pauses = Pauses(deadline.within(limits.TPM_PATIENCE))
        self._cleanup = ExitStack()
        try:
            with self._cleanup:
                socketed = stat.S_ISSOCK(path.stat().st_mode)
                self._file = self._connect(path) if socketed else self._open(path)
                self._cleanup = self._cleanup.pop_all()
        except OSError as error:
            raise _why_not_opened(self.name, path, error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the TPM; also of an answer that has not come yet."""
        self._file = -1
        self._cleanup.close()

    def transact(self, command: Command) -> Answer:
        """Send a command and wait for its answer; one the TPM wants to see again is sent again.

        Raises:
            TpmRefusal: the TPM refused.
            AgentError: EVIDENCE_TIMEOUT, DEVICE_BUSY (it said "again" until the deadline), EVIDENCE_FAILED,
                EVIDENCE_MALFORMED.
        """
        pauses = Pauses(self.deadline)
        while True:
            try:
                return parse_answer(command, self._exchange(command))
            except TpmRefusal as refusal:
                if refusal.rc not in AGAIN:
                    raise
                if not pauses.pause():
                    raise AgentError(ErrorCode.DEVICE_BUSY, refusal.detail) from None

    def _open(self, path: Path) -> int:
        while True:
            try:
                # Not blocking: an answer is waited for with poll, so that the deadline holds (Linux 5.0).
                file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
                break
            except OSError as error:
                # /dev/tpm0 takes one user at a time.
                if error.errno not in {errno.EBUSY, errno.EINTR} or not self._pauses.pause():
                    raise
        self._cleanup.callback(os.close, file)
        # T-TEE-27: what lies there must be a device; commands are not written into a planted file.
        if not stat.S_ISCHR(os.fstat(file).st_mode):
            raise OSError(errno.ENODEV, "not a character device")
        self._hold(file)
        return file

    def _connect(self, path: Path) -> int:
        # A socket cannot be locked, so its folder is.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._cleanup.callback(os.close, folder)
        self._hold(folder)
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._cleanup.callback(opened.close)
        # By the folder's descriptor: paths of sockets have to be short, those of tests are not.
        opened.connect(f"/proc/self/fd/{folder}/{path.name}")
        opened.setblocking(False)  # noqa: FBT003 - that is its signature
        return opened.fileno()

    def _hold(self, file: int) -> None:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not self._pauses.pause():
                    raise AgentError(
                        ErrorCode.DEVICE_BUSY, f"{self.name} is held by another process of this agent"
                    ) from None
            else:
                return

    def _exchange(self, command: Command) -> bytes:
        if self._file < 0:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{self.name} is closed")
        data = command.encode()
        try:
            if os.write(self._file, data) != len(data):
                raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{self.name} took a part of {command.name} only")
            return self._receive(command)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO)
            code = ErrorCode.DEVICE_BUSY if error.errno == errno.EBUSY else ErrorCode.EVIDENCE_FAILED
            raise AgentError(code, f"{self.name}, {command.name}: {reason}") from None

    def _receive(self, command: Command) -> bytes:
        answer = b""
        size = 10
        while len(answer) < size:
            self._wait(command)
            # T-TEE-28: one byte more than the largest answer is enough to see that it is too long.
            try:
                got = os.read(self._file, limits.TPM_MAX_REPLY + 1 - len(answer))
            except BlockingIOError:
                continue
            if not got:
                raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{self.name} gave no answer to {command.name}")
            answer += got
            if len(answer) >= 10:
                size = int.from_bytes(answer[2:6], "big")
            if len(answer) > limits.TPM_MAX_REPLY:
                break
        return answer

    def _wait(self, command: Command) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        left = self.deadline.remaining()
        if not poll.poll(None if left == float("inf") else left * 1000):
            raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"{self.name} did not answer {command.name} in time")


def _why_not_opened(name: str, path: Path, error: OSError) -> AgentError:
    reason = os.strerror(error.errno or errno.EIO)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return AgentError(ErrorCode.DEVICE_FORBIDDEN, f"{name}: {reason}{_mode(path)}")
    if error.errno in {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ECONNREFUSED}:
        return AgentError(ErrorCode.QUOTE_PATH_MISSING, f"{name}: {reason}")
    if error.errno == errno.EBUSY:
        return AgentError(ErrorCode.DEVICE_BUSY, f"{name}: another program has it open; use /dev/tpmrm0")
    return AgentError(ErrorCode.EVIDENCE_FAILED, f"{name}: {reason}")


def _mode(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f" (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}:{status.st_gid})"
