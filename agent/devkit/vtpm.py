"""A TPM for development: swtpm behind a socket at ``dev/tpmrm0``, plain or with what Azure's paravisor adds.

The socket is a proxy's. It passes commands on, one at a time as Linux's resource manager does, and plays
the paravisor: it answers for the NV index of Azure's report, which is larger than any that swtpm has. A
read that begins at offset 0 renews the report first, unless the last renewal is younger than ``renew_every``
(2 s on Azure).
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from agent.devkit import hcl
from agent.devkit.tpm_keys import make_attestation_key
from agent.errors import AgentError, ErrorCode
from agent.tee.evidence.hcl import ReportType
from agent.tee.tpm2 import client, commands
from agent.tee.tpm2.commands import Answer, Command, parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

REPORT_INDEX: Final = 0x01400001
USER_DATA_INDEX: Final = 0x01400002
AZURE_AK: Final = 0x81000003
PLAIN_AK: Final = 0x81010002
REPORT_SIZE: Final = 2600
"""Bytes of the report's NV index on current Azure images."""

_NV_READ: Final = 0x14E
_NV_READ_PUBLIC: Final = 0x169
_PCR_READ: Final = 0x17E
_LARGEST: Final = 4096


class Faults(msgspec.Struct):
    """What goes wrong from now on.

    Attributes:
        moves: so many times, somebody extends PCR 16 just before PCRs are read.
        frozen: the report is never renewed.
        hang: commands get no answer.
        again: so many commands are answered with TPM_RC_RETRY first.
    """

    moves: int = 0
    frozen: bool = False
    hang: bool = False
    again: int = 0


class Vtpm:
    """A running TPM. A context manager; the TPM's state ends with it.

    Args:
        sysroot: the socket is at ``dev/tpmrm0`` below it.
        kind: whose report Azure's index holds; None: a plain TPM, with its key at 0x81010002.
        hardware: makes the hardware report for 64 bytes of report data (SNP report or TDREPORT); by default
            one that is not signed.
        ak: whether there is an attestation key.
        renew_every: seconds between two renewals of the report at least.
        user_data: whether the report carries user data.

    Attributes:
        faults: see :class:`Faults`; change them at any time.
        ak: modulus and exponent of the attestation key, once it runs.
        renewals: how often the report was renewed.
    """

    def __init__(
        self,
        sysroot: Path,
        kind: ReportType | None = None,
        hardware: Callable[[bytes], bytes] | None = None,
        *,
        ak: bool = True,
        renew_every: float = 0.0,
        user_data: bool = True,
    ) -> None:
        self.faults = Faults()
        self.ak = (0, 0)
        self.renewals = 0
        self.path = sysroot / "dev" / "tpmrm0"
        self._kind = kind
        self._hardware = hardware or partial(hcl.unsigned_hardware, kind or ReportType.SNP)
        self._with_ak = ak
        self._renew_every = renew_every
        self._with_user_data = user_data
        self._renewed_at = -1e9
        self._report = b""
        self._lock = threading.Lock()
        self._cleanup = contextlib.ExitStack()
        self._clients: set[socket.socket] = set()
        self._end = threading.Event()

    def __enter__(self) -> Self:
        """Start swtpm, make keys and index, open the socket.

        Raises:
            AgentError: NOT_SUPPORTED, swtpm is not installed; EVIDENCE_FAILED, it does not work.
        """
        program = shutil.which("swtpm")
        if program is None:
            raise AgentError(ErrorCode.NOT_SUPPORTED, "swtpm is not installed (apt-get install swtpm)")
        try:
            self._engine = self._start(program)
            self._provision()
            self._listen()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._cleanup.close()

    def transact(self, command: Command) -> Answer:
        """Send a command past the proxy; for provisioning and for tests that play another program."""
        with self._lock:
            return self._own(command)

    def renew(self) -> None:
        """Write a new report now."""
        with self._lock:
            self._renew()

    # --- the engine -------------------------------------------------------------------------------
    def _start(self, program: str) -> socket.socket:
        state = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="coco-vtpm-"))
        ours, theirs = socket.socketpair()
        self._cleanup.callback(ours.close)
        ours.settimeout(30)
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - a program of the developer's own machine
                [
                    *(program, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--terminate"),
                    *("--fd", str(theirs.fileno())),
                    *("--flags", "not-need-init,startup-clear", "--log", f"file={state}/log"),
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._cleanup.callback(_stop, process)
        return ours

    def _raw(self, data: bytes) -> bytes:
        """One command and its answer; the lock is held."""
        try:
            self._engine.sendall(data)
            return _message(self._engine)
        except (OSError, EOFError) as error:
            raise AgentError(ErrorCode.EVIDENCE_FAILED, f"swtpm: {type(error).__name__}") from None

    def _own(self, command: Command) -> Answer:
        return parse_answer(command, self._raw(command.encode()))

    def _provision(self) -> None:
        if self._with_ak:
            self.ak = make_attestation_key(self, PLAIN_AK if self._kind is None else AZURE_AK)
        if self._kind is not None:
            self.renew()
            self._renewed_at = -1e9  # the firmware's own report does not count

    # --- the paravisor ----------------------------------------------------------------------------
    def _renew(self) -> None:
        inside = _Inside(self._own)
        size = client.nv_size(inside, USER_DATA_INDEX)
        user_data = b"" if size is None else client.nv_read(inside, USER_DATA_INDEX, min(size, 64))
        if self._kind is None:
            return
        ak = self.ak if self._with_ak else ((1 << 2047) + 1, 65537)
        variable = hcl.variable_data(ak, user_data if self._with_user_data else None)
        report = hcl.build(self._kind, self._hardware(hcl.report_data(variable)), variable)
        self._report = report.ljust(REPORT_SIZE, b"\0")
        self._renewed_at = time.monotonic()
        self.renewals += 1

    def _before(self, data: bytes) -> None:
        code = int.from_bytes(data[6:10], "big")
        if code == _PCR_READ and self.faults.moves > 0:
            self.faults.moves -= 1
            self._own(commands.pcr_extend(16, bytes(32)))

    def _for_report(self, data: bytes) -> bytes | None:
        """The answer to a command about the report's index; None for all other commands."""
        index = struct.pack(">I", REPORT_INDEX)
        code = int.from_bytes(data[6:10], "big")
        if self._kind is None or len(data) < 14:
            return None
        if code == _NV_READ_PUBLIC and data[10:14] == index:
            public = struct.pack(">IHIHH", REPORT_INDEX, commands.SHA256, 0x20020002, 0, REPORT_SIZE)
            body = commands.sized(public) + commands.sized(b"")
            return struct.pack(">HII", 0x8001, 10 + len(body), 0) + body
        if code != _NV_READ or data[14:18] != index:
            return None
        size, offset = struct.unpack(">HH", data[-4:])
        if offset + size > REPORT_SIZE:
            return struct.pack(">HII", 0x8001, 10, 0x146)  # TPM_RC_NV_RANGE
        due = time.monotonic() - self._renewed_at >= self._renew_every
        if offset == 0 and due and not self.faults.frozen:
            self._renew()
        part = commands.sized(self._report[offset : offset + size])
        body = struct.pack(">I", len(part)) + part + bytes(5)
        return struct.pack(">HII", 0x8002, 10 + len(body), 0) + body

    # --- the socket -------------------------------------------------------------------------------
    def _listen(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        # A short way to a long path: sun_path has 108 bytes.
        with tempfile.TemporaryDirectory(prefix="coco-") as short:
            link = Path(short) / "dev"
            link.symlink_to(self.path.parent.resolve())
            listener.bind(str(link / self.path.name))
        listener.listen(16)
        self._cleanup.callback(self.path.unlink, missing_ok=True)
        self._cleanup.callback(self._close_clients)
        thread = threading.Thread(target=self._accept, args=(listener,), name="vtpm", daemon=True)
        thread.start()
        self._cleanup.callback(thread.join, 5)
        self._cleanup.callback(listener.close)
        self._cleanup.callback(listener.shutdown, socket.SHUT_RDWR)

    def _close_clients(self) -> None:
        for each in tuple(self._clients):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while not self._end.is_set():
            try:
                opened, _ = listener.accept()
            except OSError:
                return
            self._clients.add(opened)
            threading.Thread(target=self._serve, args=(opened,), name="vtpm-client", daemon=True).start()

    def _serve(self, opened: socket.socket) -> None:
        with opened, contextlib.suppress(OSError, EOFError, AgentError):
            while not self._end.is_set():
                data = _message(opened)
                if self.faults.hang:
                    continue
                opened.sendall(self._answer(data))
        self._clients.discard(opened)

    def _answer(self, data: bytes) -> bytes:
        with self._lock:
            if self.faults.again > 0:
                self.faults.again -= 1
                return struct.pack(">HII", 0x8001, 10, 0x922)
            self._before(data)
            own = self._for_report(data)
            return self._raw(data) if own is None else own


class _Inside(msgspec.Struct, frozen=True):
    """A channel for whoever holds the lock already."""

    transact: Callable[[Command], Answer]


def _message(opened: socket.socket) -> bytes:
    data = _exactly(opened, 10)
    size = int.from_bytes(data[2:6], "big")
    if not 10 <= size <= _LARGEST:
        raise EOFError
    return data + _exactly(opened, size - 10)


def _exactly(opened: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = opened.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
