"""TDX quotes straight from a quote generation service; a socket pair stands for vsock."""

from __future__ import annotations

import base64
import errno
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.clock import Deadline, SystemClock
from agent.config.model import Attester
from agent.errors import AgentError, ErrorCode
from agent.tee import tdx, tdx_qgs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration

DATA = bytes(range(48))
PADDED = DATA + bytes(16)


def td_quote(report_data: bytes) -> bytes:
    return struct.pack("<HHI", 4, 2, 0x81).ljust(568, b"\0") + report_data + bytes(70)


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(SystemClock(), seconds)


def fails(act: Callable[[], object]) -> AgentError:
    with pytest.raises(AgentError) as error:
        act()
    return error.value


class Qgs:
    """One connection: the request is kept, the answer is given as told."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self.request = b""

    def connect(self, address: tuple[int, int], seconds: float) -> socket.socket:
        assert address == (2, 4050)
        ours, theirs = socket.socketpair()
        threading.Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, stream: socket.socket) -> None:
        with suppress(OSError), stream, stream.makefile("rb") as file:
            size = int.from_bytes(file.read(4), "big")
            self.request = file.read(size)
            stream.sendall(self._answer(self.request[24:]))


def framed(quote: bytes) -> bytes:
    message = struct.pack("<HHIIIII", 1, 1, 1, 24 + len(quote), 0, 0, len(quote)) + quote
    return len(message).to_bytes(4, "big") + message


def tdreport(opened: int, command: int, exchange: bytearray) -> None:
    exchange[64] = 0x81
    exchange[64 + 128 : 64 + 192] = exchange[:64]


@pytest.fixture
def direct(tmp_path: Path) -> Attester:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "tdx_guest").symlink_to("/dev/null")
    return Attester(sysroot=str(tmp_path), tdx_quote_vsock="2:4050", eventlog_dir=str(tmp_path / "log"))


def collect(direct: Attester, qgs: Qgs, deadline: Deadline | None = None) -> bytes:
    return tdx.collect(direct, DATA, deadline or soon(), ioctl=tdreport, connect=qgs.connect)


def test_a_direct_quote(direct: Attester) -> None:
    qgs = Qgs(lambda got: framed(td_quote(got[128:192])))
    evidence = msgspec.json.decode(collect(direct, qgs))
    assert base64.b64decode(evidence["quote"]) == td_quote(PADDED)
    assert qgs.request[:24] == struct.pack("<HHIIIII", 1, 1, 0, 1048, 0, 1024, 0)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        (b"\x00\x00", ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        (framed(b"Q" * 100)[:-1], ErrorCode.QUOTE_SERVICE_UNREACHABLE),
        (b"\xff\xff\xff\xff", ErrorCode.EVIDENCE_MALFORMED),
        (b"\x00\x00\x00\x04abcd", ErrorCode.EVIDENCE_MALFORMED),
        (framed(td_quote(bytes(64))), ErrorCode.EVIDENCE_FAILED),
    ],
)
def test_a_service_that_does_not_deliver(direct: Attester, said: bytes, code: ErrorCode) -> None:
    assert fails(lambda: collect(direct, Qgs(lambda _: said))).code is code


def test_a_service_that_is_silent_costs_the_deadline(direct: Attester) -> None:
    held = threading.Event()

    def silent(got: bytes) -> bytes:
        held.wait(20)
        return b""

    error = fails(lambda: collect(direct, Qgs(silent), soon(0.2)))
    held.set()
    assert error.code is ErrorCode.EVIDENCE_TIMEOUT


def test_no_service_and_no_vsock(direct: Attester) -> None:
    def refused(address: tuple[int, int], seconds: float) -> socket.socket:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    error = fails(lambda: tdx.collect(direct, DATA, soon(), ioctl=tdreport, connect=refused))
    assert error.code is ErrorCode.QUOTE_SERVICE_UNREACHABLE
    assert "vsock 2:4050" in error.detail


def test_the_real_vsock_has_nobody_here() -> None:
    # CID 1 is this machine itself; without the loopback transport, or without a listener, it is an OSError.
    with pytest.raises(OSError, match=r"."):
        tdx_qgs.connect((1, 4050), 5.0).close()
