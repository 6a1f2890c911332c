"""Evidence collected in a process of its own, which can be killed.

A driver or a vendor's library that hangs, crashes or prints nonsense does so in the child
(``agent.tee.collector``). The daemon gets an answer or an error that names the TEE, in time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from agent.clock import SystemClock
from agent.config import limits
from agent.config.model import Kbs
from agent.errors import AgentError, ErrorCode
from agent.tee.collector import Answer, Job
from agent.tee.devices import Collected, code, shown, signal_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.clock import Deadline
    from agent.config.model import Attester as Settings

_log = logging.getLogger(__name__)

PROGRAM: Final = (sys.executable, "-I", "-m", "agent.tee.collector")

# T-TEE-44: nothing of the daemon's environment reaches vendors' code but where to find its libraries; what
# stands there has loaded the daemon's own already.
_PASSED_ON: Final = ("LD_LIBRARY_PATH",)

_RESERVE_SHARE: Final = 0.05
_RESERVE_MAX: Final = 0.25
_REAP: Final = 0.1
_STDERR: Final = 2048

_stuck: dict[str, _Process] = {}


async def collect(
    module: str,
    settings: Settings,
    report_data: bytes,
    deadline: Deadline,
    *,
    tee: str = "",
    program: Sequence[str] = PROGRAM,
) -> Collected:
    """Run ``module.collect(settings, report_data, deadline)`` in a child process; kill it at the deadline.

    The child and all it starts are gone when this returns, also when the caller is cancelled; one that the
    kernel holds is waited for in the background, and its TEE is not asked again before it is gone.

    Args:
        module: of the TEE.
        settings: the attester's; what is about the broker stays here.
        report_data: as the module takes it.
        deadline: the answer comes a little before.
        tee: wire string for errors; the module's name by default.
        program: what to start; other programs only in tests.

    Raises:
        AgentError: what the module raises; EVIDENCE_TIMEOUT naming the TEE; EVIDENCE_FAILED when the process
            died or answers nonsense; GUEST_EXHAUSTED when it cannot be started.
    """
    name = tee or module.rpartition(".")[2]
    if name in _stuck:
        raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"{name}: the kernel still holds the last process")
    limited = deadline.within(limits.EVIDENCE_DEADLINE)
    left = limited.remaining()
    if left <= 0:
        raise AgentError(ErrorCode.EVIDENCE_TIMEOUT, f"{name}: no time was left to ask it")
    reserve = min(_RESERVE_MAX, _RESERVE_SHARE * left)
    # Half of the reserve is for the child to say itself what took the time, half to see it gone.
    seconds = left - 2 * reserve
    until = SystemClock().boot() + seconds
    job = Job(module, replace(settings, kbs=Kbs()), report_data, until)
    process = _start(program, msgspec.json.encode(job), name)
    try:
        await process.wait(left - reserve)
    finally:
        process.kill()
        await process.gone(max(reserve, _REAP))
    return _result(process, name, seconds)


def _start(program: Sequence[str], job: bytes, name: str) -> _Process:
    if len(job) > limits.COLLECT_JOB_MAX:
        raise AgentError(ErrorCode.INVALID_REQUEST, f"{name}: {len(job)} bytes to collect evidence over")
    try:
        return _Process(program, job, name)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise AgentError(ErrorCode.GUEST_EXHAUSTED, f"{name}: no process to ask it in: {reason}") from None


class _Process:
    """A child in a session of its own. The loop reaps it, whoever still waits."""

    def __init__(self, program: Sequence[str], job: bytes, name: str) -> None:
        self._name = name
        self.answer, self.printed = b"", b""
        # Files in memory and not pipes: nothing blocks, nothing has to be drained, and a process left behind
        # keeps no end open.
        self._files = [os.memfd_create(part, os.MFD_CLOEXEC) for part in ("job", "answer", "printed")]
        try:
            _write(self._files[0], job)
            self._child = subprocess.Popen(  # noqa: S603 - our own program
                program,
                stdin=self._files[0],
                stdout=self._files[1],
                stderr=self._files[2],
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        self.killed = False
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = loop.create_future()
        try:
            self._pidfd = os.pidfd_open(self._child.pid)
        except OSError:
            self._kill_group()
            self._child.wait()
            self._close()
            raise
        loop.add_reader(self._pidfd, self._reap, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Before it is waited for: until then its number is nobody else's.
        self._kill_group()
        status = self._child.wait()
        self.answer = os.pread(self._files[1], limits.COLLECT_ANSWER_MAX + 1, 0)
        self.printed = os.pread(self._files[2], _STDERR, 0)
        self._close()
        _stuck.pop(self._name, None)
        self._ended.set_result(status)

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it is there."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self, seconds: float) -> None:
        """Wait for its end, or ``seconds``."""
        await asyncio.wait((self._ended,), timeout=None if math.isinf(seconds) else seconds)

    def kill(self) -> None:
        """End it and all it started."""
        if not self._ended.done():
            self.killed = True
            self._kill_group()

    async def gone(self, seconds: float) -> None:
        """Wait for the kernel to let go of it; not for ever."""
        if not self._ended.done():
            await self.wait(seconds)
        if not self._ended.done():
            # T-TEE-45: a driver that hangs in the kernel keeps one process, not one for each try.
            _stuck[self._name] = self
            _log.warning("a process cannot be ended", extra={"tee": self._name, "pid": self._child.pid})

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
    os.lseek(file, 0, os.SEEK_SET)


def _result(process: _Process, name: str, seconds: float) -> Collected:
    status = process.status
    if status != 0:
        _log.debug(
            "what the collector printed",
            extra={"tee": name, "printed": shown(process.printed.decode("latin-1"), _STDERR)},
        )
        raise _timed_out(name, seconds) if process.killed else _died(status or 0, name, seconds)
    if len(process.answer) > limits.COLLECT_ANSWER_MAX:
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{name}: more than {limits.COLLECT_ANSWER_MAX} bytes")
    try:
        answer = msgspec.json.decode(process.answer, type=Answer)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise AgentError(ErrorCode.EVIDENCE_FAILED, f"{name}: its process answers nonsense") from None
    if answer.code:
        detail = shown(answer.detail)
        detail = detail if detail.startswith(name) else f"{name}: {detail}"
        raise AgentError(code(answer.code), detail, retry_after=answer.retry_after)
    return Collected(bytes(answer.evidence), answer.results)


def _timed_out(name: str, seconds: float) -> AgentError:
    detail = f"{name}: no answer in {seconds:.1f} s; its process was killed"
    return AgentError(ErrorCode.EVIDENCE_TIMEOUT, detail)


def _died(status: int, name: str, seconds: float) -> AgentError:
    if status == -signal.SIGALRM:  # its own clock, while nobody looked at ours
        return _timed_out(name, seconds)
    if status > 0:
        return AgentError(ErrorCode.EVIDENCE_FAILED, f"{name}: its process ended with status {status}")
    return AgentError(ErrorCode.EVIDENCE_FAILED, f"{name}: its process was ended by {signal_name(-status)}")
