"""The devices of one family, asked one after the other by a process that may hang or crash at any of them.

A call into a vendor's library cannot be interrupted. So it runs in a process forked from this one, which says
what it is about to do before it does it. When a device takes longer than its share of the time, that process
is killed, the device is named, and another process goes on with the next one.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from agent.config import limits
from agent.errors import AgentError, ErrorCode
from agent.tee.collector import expire
from agent.tee.devices import DeviceResult, code, failed, shown, signal_name

if TYPE_CHECKING:
    from agent.clock import Deadline

_REAP: Final = 0.2
_PARTS: Final = 3
_CHUNK: Final = 64 * 1024


class Vendor(Protocol):
    """One family's library or driver; only used in the forked process.

    Attributes:
        label: of one device, e.g. ``GPU``.
    """

    label: str

    def open(self) -> int:
        """Load what is needed; the number of devices."""

    def name(self, index: int) -> str:
        """What tells the device from others, e.g. its UUID."""

    def collect(self, index: int) -> bytes:
        """Its evidence, one JSON value.

        Raises:
            AgentError: why there is none.
        """


class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the forked process says: ``open``, ``at``, ``name``, ``ok``, ``failed`` or ``end``."""

    kind: str
    index: int = 0
    text: str = ""
    detail: str = ""
    evidence: msgspec.Raw = msgspec.Raw(b"null")


class _Hangs(Exception):  # noqa: N818 - an answer of its own, not an error
    """Nothing was said in time."""


def one_by_one(vendor: Vendor, deadline: Deadline) -> tuple[tuple[bytes, ...], tuple[DeviceResult, ...]]:
    """Evidence of the devices that gave some, and what each of them answered, in their order.

    Each device may use a part of the time that is left, so that one that hangs leaves enough to the others:
    those that work answer in about a second.

    Raises:
        AgentError: the library cannot be loaded, or hangs or dies before it tells how many devices there are.
    """
    family = _Family(vendor, deadline)
    while (start := family.next()) is not None:
        process = _Forked(vendor, start)
        try:
            family.follow(process)
        finally:
            process.end()
    return tuple(family.evidence.values()), family.results()


class _Family:
    def __init__(self, vendor: Vendor, deadline: Deadline) -> None:
        self._label = vendor.label
        self._deadline = deadline
        self._count: int | None = None
        self._opened = False
        self._at: int | None = None
        self._names: dict[int, str] = {}
        self._problems: dict[int, AgentError] = {}
        self.evidence: dict[int, bytes] = {}

    def next(self) -> int | None:
        """The first device that has no result; None when all have."""
        if self._count is None:
            return 0
        return next((i for i in range(self._count) if not self._done(i)), None)

    def _done(self, index: int) -> bool:
        return index in self.evidence or index in self._problems

    def follow(self, process: _Forked) -> None:
        """Listen to one process until it ends, or a device uses up its time."""
        self._opened, self._at = False, None
        try:
            while (note := process.note(share := self._share())) is not None and note.kind != "end":
                self._take(note)
        except _Hangs:
            self._stopped(ErrorCode.EVIDENCE_TIMEOUT, f"no answer in {share:.1f} s; its process was killed")
            return
        if note is None:
            self._stopped(ErrorCode.EVIDENCE_FAILED, f"its process was ended by {process.end()}")
        elif (left := self.next()) is not None:  # fewer devices than when the library was opened first
            self._problems[left] = AgentError(ErrorCode.DEVICE_MISSING, "it is gone")

    def _share(self) -> float:
        """Seconds for the next step: a third of what is left, or more when few are left."""
        left = 1 if self._count is None else sum(not self._done(i) for i in range(self._count))
        return self._deadline.remaining() / min(left + 1, _PARTS)

    def _take(self, note: _Note) -> None:
        match note.kind:
            case "open":
                self._opened = True
                self._count = min(note.index, limits.DEVICES_MAX) if self._count is None else self._count
            case "at":
                self._at = note.index
            case "name":
                self._names[note.index] = note.text
            case "ok":
                self._at = None
                self.evidence[note.index] = bytes(note.evidence)
            case _:
                self._failed(AgentError(code(note.text), note.detail))

    def _failed(self, error: AgentError) -> None:
        if self._count is None:
            raise error
        # Once the library is open, a process that ends without a word was on its way to the next device.
        index = self.next() if self._at is None and self._opened else self._at
        self._at = None
        if index is not None:
            self._problems[index] = error
            return
        for left in range(self._count):  # opening it again failed: nothing more will come
            if not self._done(left):
                self._problems[left] = error

    def _stopped(self, problem: ErrorCode, reason: str) -> None:
        where = "" if self._opened else "its library: "
        self._failed(AgentError(problem, f"{where}{reason}"))

    def results(self) -> tuple[DeviceResult, ...]:
        found = []
        for index in range(self._count or 0):
            name = self._names.get(index)
            full = f"{self._label} {index} ({shown(name, 64)})" if name else f"{self._label} {index}"
            problem = self._problems.get(index)
            found.append(DeviceResult(full) if problem is None else failed(full, problem))
        return tuple(found)


class _Forked:
    """A process that asks device after device, beginning with ``start``."""

    def __init__(self, vendor: Vendor, start: int) -> None:
        self._pipe, theirs = os.pipe()
        self._said = bytearray()
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._pipe)
                expire(limits.EVIDENCE_DEADLINE)
                _serve(vendor, start, theirs)
            finally:
                os._exit(0)  # nothing of the parent's clean-up belongs here
        os.close(theirs)

    def note(self, seconds: float) -> _Note | None:
        """The next thing it says; None when it ended without a word.

        Raises:
            _Hangs: it says nothing for so long.
        """
        until = time.monotonic() + seconds
        while b"\n" not in self._said:
            ready, _, _ = select.select([self._pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise _Hangs
            read = os.read(self._pipe, _CHUNK)
            if not read or len(self._said) > 2 * limits.DEVICE_ANSWER_MAX:
                return None
            self._said += read
        line, _, self._said = self._said.partition(b"\n")
        return msgspec.json.decode(line, type=_Note)

    def end(self) -> str:
        """Kill it, if it is still there; how it ended."""
        if self._status is None:
            os.close(self._pipe)
            self._status = self._reap()
        return signal_name(-self._status) if self._status < 0 else f"status {self._status}"

    def _reap(self) -> int:
        """Exit status, negative for a signal. One that the kernel holds is left to the daemon."""
        until = time.monotonic() + _REAP
        while time.monotonic() < until:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.002)
        return -signal.SIGKILL


def _serve(vendor: Vendor, start: int, pipe: int) -> None:
    """In the forked process: ask, and say what is done before it is done."""

    def say(note: _Note) -> None:
        data = msgspec.json.encode(note) + b"\n"
        while data:
            data = data[os.write(pipe, data) :]

    try:
        count = vendor.open()
    except AgentError as error:
        say(_Note("failed", 0, error.code.name, error.detail))
        return
    except Exception as error:  # noqa: BLE001 - a defect, told by its kind
        say(_Note("failed", 0, ErrorCode.INTERNAL.name, type(error).__name__))
        return
    say(_Note("open", count))
    for index in range(start, count):
        say(_Note("at", index))
        try:
            say(_Note("name", index, vendor.name(index)))
            say(_Note("ok", index, evidence=msgspec.Raw(vendor.collect(index))))
        except AgentError as error:
            say(_Note("failed", index, error.code.name, error.detail))
        except Exception as error:  # noqa: BLE001 - a defect, told by its kind
            say(_Note("failed", index, ErrorCode.INTERNAL.name, type(error).__name__))
    say(_Note("end"))
