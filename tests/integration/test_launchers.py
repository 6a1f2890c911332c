"""The hand-over over a real socket: two launchers, one daemon (``agent/serve/launchers.py``)."""

from __future__ import annotations

import array
import asyncio
import logging
import socket
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent import handover
from agent.cli import launch
from agent.serve.launchers import AloneError, Launchers, Plan, RefusedError
from agent.serve.sockets import listen_unix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

pytestmark = pytest.mark.integration


class Roles:
    """Opens nothing; remembers what was asked."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.listeners: Sequence[socket.socket] = ()
        self.bind = ("127.0.0.1", 0)
        self.refuse: Exception | None = None
        self.where = "here"
        self.launchers: Launchers | None = None

    def plan(self, wanted: handover.Wanted) -> Plan:
        if self.refuse is not None:
            raise self.refuse
        bind = self.bind if wanted.program == "api-server-rest" else None
        name = f"{wanted.program} {' '.join(wanted.arguments)}"
        return Plan(wanted.program, self.where, bind, partial(self._open, name), partial(self._close, name))

    async def _open(self, name: str, listeners: Sequence[socket.socket]) -> None:
        self.events.append(f"open {name}")
        self.listeners = listeners

    async def _close(self, name: str) -> None:
        self.events.append(f"close {name}")

    async def until(self, count: int) -> list[str]:
        for _ in range(1000):
            if len(self.events) >= count:
                return self.events
            await asyncio.sleep(0.01)
        raise AssertionError(self.events)


@pytest.fixture
async def roles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Roles]:
    """Served at a path of the test's own."""
    monkeypatch.setattr(handover, "PATH", str(tmp_path / "launchers.sock"))
    made = Roles()
    made.launchers = Launchers(made.plan, listen_unix(f"unix://{handover.PATH}", kind=socket.SOCK_SEQPACKET))
    made.launchers.start()
    yield made
    await made.launchers.stop()


def connected(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(5)
    client.connect(path)
    return client


async def asked(client: socket.socket, message: bytes) -> list[bytes]:
    """What comes of it, in the end."""
    client.sendall(message)
    answer = await heard(client)
    return await heard(client) if answer == [b"opening"] else answer


async def heard(client: socket.socket) -> list[bytes]:
    return handover.decode(await asyncio.to_thread(client.recv, handover.MESSAGE_MAX))


def wish(program: str, *arguments: str) -> bytes:
    return handover.Wanted.of_this_process(program, arguments).encode()


async def test_a_role_is_open_for_as_long_as_its_launcher_is_there(roles: Roles) -> None:
    assert stat.S_IMODE(Path(handover.PATH).stat().st_mode) == 0o600
    with connected(handover.PATH) as client:
        assert await asked(client, wish("confidential-data-hub", "-c", "x")) == [b"done"]
        assert roles.events == ["open confidential-data-hub -c x"]
    assert (await roles.until(2))[1] == "close confidential-data-hub -c x"
    assert roles.launchers is not None
    await roles.launchers.stop()
    assert not Path(handover.PATH).exists()


async def test_the_gateways_sockets_are_made_by_its_launcher(roles: Roles) -> None:
    with connected(handover.PATH) as client:
        answer = await asked(client, wish("api-server-rest"))
        assert answer[:3] == [b"bind", b"127.0.0.1", b"0"]
        assert await asyncio.to_thread(launch._bind, client, answer) == [b"opening"]
        assert await heard(client) == [b"done"]
        assert [listener.getsockname()[0] for listener in roles.listeners] == ["127.0.0.1", "::1"]
        for listener in roles.listeners:
            with listener, socket.create_connection(listener.getsockname()[:2]):
                assert not listener.getblocking()


async def test_one_socket_is_enough_where_there_is_no_ipv6(roles: Roles) -> None:
    with connected(handover.PATH) as client, socket.create_server(("127.0.0.1", 0)) as only:
        assert (await asked(client, wish("api-server-rest")))[0] == b"bind"
        passed(client, only.fileno())
        assert [await heard(client), await heard(client)] == [[b"opening"], [b"done"]]
        assert [one.getsockname() for one in roles.listeners] == [only.getsockname()]
        roles.listeners[0].close()


async def test_a_second_launcher_of_a_role_takes_over(roles: Roles) -> None:
    """systemd starts a program anew before the old one is gone, and Kata deletes the socket file."""
    with connected(handover.PATH) as first, connected(handover.PATH) as second:
        await asked(first, wish("confidential-data-hub", "first"))
        assert await asked(second, wish("confidential-data-hub", "second")) == [b"done"]
        assert await heard(first) == [b"end"]
        first.close()
        await asyncio.sleep(0.05)
        assert roles.events == ["open confidential-data-hub first", "open confidential-data-hub second"]
    assert (await roles.until(3))[2] == "close confidential-data-hub second"


async def test_a_launcher_of_the_same_role_elsewhere_runs_beside_the_first(roles: Roles) -> None:
    with connected(handover.PATH) as first, connected(handover.PATH) as second:
        await asked(first, wish("confidential-data-hub", "first"))
        roles.where = "there"
        assert (await asked(second, wish("confidential-data-hub", "second")))[0] == b"alone"
        assert roles.events == ["open confidential-data-hub first"]


async def test_a_launcher_that_gave_up_keeps_its_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs it alone by now: a daemon that wakes up late must not take the socket away."""
    roles = Roles()
    monkeypatch.setattr(handover, "PATH", str(tmp_path / "launchers.sock"))
    monkeypatch.setattr(handover, "WAIT", 0.1)
    listener = listen_unix(f"unix://{handover.PATH}", kind=socket.SOCK_SEQPACKET)
    assert await asyncio.to_thread(launch._hand_over, "confidential-data-hub", []) is None
    launchers = Launchers(roles.plan, listener)
    launchers.start()
    with connected(handover.PATH) as later:
        assert await asked(later, wish("confidential-data-hub", "later")) == [b"done"]
    assert (await roles.until(2))[0] == "open confidential-data-hub later"
    await launchers.stop()


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (RefusedError(1, "error: NAME\n"), [b"fail", b"1", b"error: NAME\n"]),
        (AloneError("not here"), [b"alone", b"not here"]),
    ],
)
async def test_what_cannot_be_opened_is_said(error: Exception, answer: list[bytes], roles: Roles) -> None:
    roles.refuse = error
    with connected(handover.PATH) as client:
        assert await asked(client, wish("confidential-data-hub")) == answer
        assert await heard(client) == []
    assert roles.events == []


def passed(client: socket.socket, *numbers: int) -> None:
    client.sendmsg([b"bound"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))])


def no_socket(client: socket.socket) -> None:
    client.sendall(b"bound")


def a_file(client: socket.socket) -> None:
    with Path("/dev/null").open() as file:
        passed(client, file.fileno())


def one_that_does_not_listen(client: socket.socket) -> None:
    with socket.socket() as other:
        passed(client, other.fileno())


def one_that_is_not_tcp(client: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("\0coco-test")
        other.listen()
        passed(client, other.fileno())


def too_many(client: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        passed(client, *[other.fileno()] * 30)


def a_file_and_a_socket(client: socket.socket) -> None:
    with Path("/dev/null").open() as file, socket.create_server(("127.0.0.1", 0)) as other:
        passed(client, other.fileno(), file.fileno())


def one_elsewhere(client: socket.socket) -> None:
    with socket.create_server(("127.0.0.2", 0)) as other:
        passed(client, other.fileno())


def a_twin_elsewhere(client: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)) as other:
            passed(client, first.fileno(), other.fileno())


def a_twin_at_another_port(client: socket.socket) -> None:
    family = socket.AF_INET6
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        socket.create_server(("::1", 0), family=family) as other,
    ):
        passed(client, first.fileno(), other.fileno())


def twice_the_same(client: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        passed(client, other.fileno(), other.fileno())


async def test_another_port_than_the_one_asked_for_is_not_served(roles: Roles) -> None:
    roles.bind = ("127.0.0.1", 1)
    with connected(handover.PATH) as client, socket.create_server(("127.0.0.1", 0)) as other:
        assert (await asked(client, wish("api-server-rest")))[0] == b"bind"
        passed(client, other.fileno())
        assert await heard(client) == []
    assert roles.events == []


@pytest.mark.parametrize(
    "answer",
    [
        no_socket,
        a_file,
        a_file_and_a_socket,
        one_that_does_not_listen,
        one_that_is_not_tcp,
        one_elsewhere,
        a_twin_elsewhere,
        a_twin_at_another_port,
        twice_the_same,
        too_many,
    ],
)
async def test_only_a_listening_tcp_socket_is_served(
    answer: Callable[[socket.socket], None], roles: Roles
) -> None:
    with connected(handover.PATH) as client:
        assert (await asked(client, wish("api-server-rest")))[0] == b"bind"
        answer(client)
        assert await heard(client) == []
    assert roles.events == []
    # Others are served all the same.
    with connected(handover.PATH) as client:
        assert await asked(client, wish("confidential-data-hub")) == [b"done"]


async def logged_then(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the daemon says of a launcher that came to nothing."""
    for _ in range(1000):
        if caplog.records:
            break
        await asyncio.sleep(0.01)
    return caplog.records


async def test_an_address_that_is_taken_is_named_where_the_log_is(
    roles: Roles, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        roles.bind = taken.getsockname()
        assert await asyncio.to_thread(launch._hand_over, "api-server-rest", []) == 1
    address = f"127.0.0.1:{roles.bind[1]}"
    assert f"CONFIG_INVALID: the REST address cannot be bound: {address}:" in capsys.readouterr().err
    (record,) = await logged_then(caplog)
    assert record.getMessage() == "the REST address cannot be bound"
    assert f"{address} or [::1]:{roles.bind[1]}: Address already in use" in vars(record)["reason"]
    assert "'ss -ltnp' shows" in vars(record)["reason"]
    assert record.levelno == logging.WARNING
    assert roles.events == []


@pytest.mark.parametrize("text", [b"", b"98\0x", b"x", b"-1", b"9" * 40, b"127.0.0.1 is taken"])
async def test_nothing_a_launcher_writes_gets_into_the_log(
    roles: Roles, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    with connected(handover.PATH) as client:
        assert (await asked(client, wish("api-server-rest")))[0] == b"bind"
        client.sendall(b"unbound\0" + text)
        assert await heard(client) == []
    (record,) = await logged_then(caplog)
    assert "is taken" not in str(vars(record))
    with connected(handover.PATH) as client:
        assert await asked(client, wish("confidential-data-hub")) == [b"done"]


@pytest.mark.parametrize("program", ["", "api-server-rest"])
async def test_a_launcher_that_ends_early_is_said_to_have_ended(
    roles: Roles, caplog: pytest.LogCaptureFixture, program: str
) -> None:
    caplog.set_level(logging.INFO)
    with connected(handover.PATH) as client:
        if program:
            assert (await asked(client, wish(program)))[0] == b"bind"
    (record,) = await logged_then(caplog)
    assert record.getMessage() == "a launcher ended before its role was open"


@pytest.mark.parametrize("message", [b"", b"open", b"\0" * 40, b"x" * (handover.MESSAGE_MAX + 1)])
async def test_nonsense_ends_the_connection_and_nothing_else(message: bytes, roles: Roles) -> None:
    with connected(handover.PATH) as client:
        assert await asked(client, message) == []
    with connected(handover.PATH) as client:
        assert await asked(client, wish("confidential-data-hub")) == [b"done"]


async def test_one_that_says_nothing_holds_up_nobody(roles: Roles) -> None:
    with connected(handover.PATH), connected(handover.PATH) as other:
        assert await asked(other, wish("confidential-data-hub")) == [b"done"]


async def test_launchers_are_counted(roles: Roles) -> None:
    idle = [connected(handover.PATH) for _ in range(8)]
    await asyncio.sleep(0.1)
    with connected(handover.PATH) as late:
        assert await heard(late) == []
    for one in idle:
        one.close()


async def test_an_orderly_end_is_told(roles: Roles) -> None:
    with connected(handover.PATH) as client:
        await asked(client, wish("confidential-data-hub"))
        assert roles.launchers is not None
        await roles.launchers.stop()
        assert await heard(client) == [b"end"]


async def test_a_launcher_runs_alone_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PATH", str(tmp_path / "nobody"))
    assert launch._hand_over("confidential-data-hub", []) is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(handover.PATH)
    assert launch._hand_over("confidential-data-hub", []) is None


async def test_a_launcher_runs_alone_where_the_daemon_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "PATH", str(tmp_path / "hangs"))
    monkeypatch.setattr(handover, "WAIT", 0.1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(handover.PATH)
        silent.listen()
        assert await asyncio.to_thread(launch._hand_over, "confidential-data-hub", []) is None
