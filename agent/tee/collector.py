"""The process that asks the hardware: one job from standard input, one answer to standard output.

``agent.tee.worker`` starts it as ``python -I -m agent.tee.collector`` and kills it when it hangs. Vendors'
libraries are loaded here and never in the daemon.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agent.clock import Deadline, SystemClock
from agent.config import limits
from agent.config.model import Attester as Settings  # noqa: TC001  # decoded: its annotations are looked at
from agent.errors import AgentError, ErrorCode
from agent.tee.devices import Collected, DeviceResult

if TYPE_CHECKING:
    from agent.tee.base import Collects
    from agent.tee.devices import CollectsDevices

MODULES: Final = "agent.tee."

_SPARE: Final = 2.0


class Job(msgspec.Struct, frozen=True):
    """What to collect.

    Attributes:
        module: the TEE's module.
        settings: the attester's, without anything about the broker.
        report_data: as the module takes it.
        until: when the answer is of no use, in seconds of the kernel's boot clock, which all processes share.
    """

    module: str
    settings: Settings
    report_data: bytes
    until: float


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Evidence, or why there is none.

    Attributes:
        evidence: one JSON value.
        results: of each device of a family.
        code: name of an error code; empty for success.
        detail: the operator's.
        retry_after: seconds.
    """

    evidence: msgspec.Raw = msgspec.Raw(b"null")
    results: tuple[DeviceResult, ...] = ()
    code: str = ""
    detail: str = ""
    retry_after: float | None = None


def main(modules: str = MODULES) -> int:
    """Do one job.

    Args:
        modules: prefix of the module names that a job may have.

    Returns:
        The exit status; 0 also when the answer is an error.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # a vendor's library that prints must not write into the answer
    job = msgspec.json.decode(sys.stdin.buffer.read(limits.COLLECT_JOB_MAX), type=Job)
    # T-TEE-43: a job names a module, and only TEEs are asked.
    if not job.module.startswith(modules):
        return os.EX_USAGE
    deadline = Deadline(SystemClock(), job.until)
    _confine(deadline.remaining())
    data = msgspec.json.encode(_answer(job, deadline))
    while data:
        data = data[os.write(answers, data) :]
    return os.EX_OK


def _confine(seconds: float) -> None:
    """See that nothing of this process outlives its use, should the daemon be gone."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.COLLECT_ANSWER_MAX, limits.COLLECT_ANSWER_MAX))
    expire(seconds + _SPARE)


def expire(seconds: float) -> None:
    """End this process after ``seconds``, wherever it hangs, unless the kernel itself holds it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))


def _answer(job: Job, deadline: Deadline) -> Answer:
    try:
        done = _collect(job, deadline)
    except AgentError as error:
        return Answer(code=error.code.name, detail=error.detail, retry_after=error.retry_after)
    except MemoryError:
        return Answer(code=ErrorCode.GUEST_EXHAUSTED.name, detail="no memory for evidence")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        return Answer(code=ErrorCode.EVIDENCE_FAILED.name, detail=f"{reason}{_place(error)}")
    except Exception as error:  # noqa: BLE001 - a defect; its text can hold anything, its kind and place cannot
        return Answer(code=ErrorCode.INTERNAL.name, detail=f"{type(error).__name__}{_place(error)}")
    return Answer(msgspec.Raw(done.evidence), done.results)


def _collect(job: Job, deadline: Deadline) -> Collected:
    module = import_module(job.module)
    if hasattr(module, "collect_devices"):
        family = cast("CollectsDevices", module)
        return family.collect_devices(job.settings, job.report_data, deadline)
    tee = cast("Collects", module)
    return Collected(tee.collect(job.settings, job.report_data, deadline))


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""


if __name__ == "__main__":
    os._exit(main())  # a library's own clean-up could hang
