from __future__ import annotations

import logging
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.observe.sd_notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="coco") as name:
        yield Path(name)


@pytest.fixture
def manager(folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "notify"))
        listener.settimeout(5)
        yield listener


def taken(environ: dict[str, str], pid: int = 7) -> Notifier:
    return Notifier.from_environment(environ, pid)


def test_the_manager_hears_every_word(manager: socket.socket) -> None:
    notifier = taken({"NOTIFY_SOCKET": manager.getsockname()})
    assert notifier.ready("serving: attester, hub")
    assert notifier.status("still here")
    assert notifier.alive()
    assert notifier.stopping()
    heard = [manager.recv(4096).decode() for _ in range(4)]
    assert heard == [
        "READY=1\nSTATUS=serving: attester, hub",
        "STATUS=still here",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


def test_an_abstract_socket_is_reached() -> None:
    name = f"coco-{os.urandom(6).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        assert taken({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listener.recv(64) == b"READY=1"


def test_a_line_break_in_a_status_is_no_second_assignment(manager: socket.socket) -> None:
    assert taken({"NOTIFY_SOCKET": manager.getsockname()}).status("up\nMAINPID=1")
    assert manager.recv(64) == b"STATUS=up MAINPID=1"


def test_children_inherit_nothing_of_it() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    notifier = taken(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog == 3.0


def test_without_a_manager_nothing_is_needed_and_nobody_waits() -> None:
    notifier = taken({"WATCHDOG_USEC": "3000000"})
    assert notifier.watchdog is None
    assert not notifier.ready()


@pytest.mark.parametrize(("owner", "seconds"), [("7", 0.25), ("", 0.25), ("8", None), ("x", None)])
def test_the_watchdog_is_for_whom_it_names(owner: str, seconds: float | None) -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "250000", "WATCHDOG_PID": owner}
    assert taken(environ).watchdog == seconds


@pytest.mark.parametrize("period", ["0", "-1", "soon", "1e9", "9" * 30, "٣"])
def test_a_period_that_is_no_number_is_said_and_left_out(
    period: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert taken({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": period}).watchdog is None
    assert "WATCHDOG_USEC" in caplog.text


@pytest.mark.parametrize("address", ["vsock:2:1", "relative", "@", "/", "/" + "x" * 200, "/a\0b"])
def test_an_address_of_another_kind_is_said_and_left_out(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not taken({"NOTIFY_SOCKET": address}).ready()
    assert "NOTIFY_SOCKET" in caplog.text


def test_a_manager_that_is_gone_is_no_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    assert not taken({"NOTIFY_SOCKET": str(folder / "gone")}).ready()
    assert "not told" in caplog.text


def test_a_manager_that_does_not_read_holds_nobody_up(manager: socket.socket) -> None:
    notifier = taken({"NOTIFY_SOCKET": manager.getsockname()})
    told = [notifier.alive() for _ in range(2)]
    while told[-1]:
        told.append(notifier.alive())
        assert len(told) < 10_000
    manager.recv(64)
    assert notifier.alive()
