"""``localhost`` is two addresses, and both are the agent's: other users, no IPv6, systemd, launchers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent import handover
from agent.cli.launch import _bind
from agent.daemon import gateway
from agent.devkit.playground import playground
from agent.errors import AgentError, ErrorCode
from agent.serve.rest import listen
from agent.serve.rest.address import bind_tcp, with_twins
from tests.integration.support import BIN, CLEAN_ENVIRONMENT, http, program, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.serve.rest.app import App
    from agent.serve.rest.listen import Running

pytestmark = pytest.mark.integration

NOBODY = 65534
PROJECT = Path(__file__).resolve().parents[2]

BIND = """
import errno, socket, sys
port = int(sys.argv[1])
for host in ("127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"):
    for only in (0, 1) if host == "::" else (0,):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as mine:
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if ":" in host:
                mine.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
            try:
                mine.bind((host, port))
                mine.listen()
                print(host, "taken")
            except OSError as error:
                print(host, errno.errorcode[error.errno])
"""
"""Every way to become ``localhost`` at a port; one that listens is closed again."""

SERVE = """
import asyncio
from agent.config.model import Config
from agent.devkit.playground import playground
from agent.observe.logs import setup
from tests.integration.support import http

async def main():
    async with playground() as place:
        print((await http(f"{place.rest}/healthz")).status, *place.daemon.addresses().rest)

setup(Config().observe)
asyncio.run(main())
"""

ACTIVATE = """
import fcntl, os, sys
passed = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, 50) for number in sys.argv[1].split(",")]
for at, number in enumerate(passed, 3):
    os.dup2(number, at, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(passed)))
os.environ["LISTEN_FDNAMES"] = ":".join(["api-server-rest"] * len(passed))
os.execv(sys.argv[2], sys.argv[2:])
"""


def names(listeners: Sequence[socket.socket]) -> list[str]:
    return [listener.getsockname()[0] for listener in listeners]


def closing(stack: ExitStack, listeners: Sequence[socket.socket]) -> list[socket.socket]:
    return [stack.enter_context(listener) for listener in listeners]


@pytest.mark.parametrize(
    ("address", "held"),
    [
        ("127.0.0.1:0", ["127.0.0.1", "::1"]),
        ("[::1]:0", ["::1", "127.0.0.1"]),
        ("0.0.0.0:0", ["0.0.0.0", "::1"]),
        ("[::ffff:127.0.0.1]:0", ["127.0.0.1", "::1"]),
        ("[::]:0", ["::"]),
        ("127.0.0.2:0", ["127.0.0.2"]),
    ],
)
async def test_nobody_else_can_be_localhost_at_the_port(address: str, held: list[str]) -> None:
    with ExitStack() as stack:
        listeners = closing(stack, bind_tcp(address))
        assert names(listeners) == held
        [port] = {listener.getsockname()[1] for listener in listeners}
        # Another user where tests may become one; to the kernel it makes no difference here.
        user = NOBODY if os.geteuid() == 0 else None
        other = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-Ic", BIND, str(port), user=user, stdout=asyncio.subprocess.PIPE
        )
        said = (await other.communicate())[0].decode().split("\n")[:-1]
    assert len(said) == 6
    if held != ["127.0.0.2"]:
        assert {line.split()[1] for line in said} == {"EADDRINUSE"}
    else:
        assert "127.0.0.1 taken" in said  # the test can fail


@pytest.mark.parametrize("address", ["127.0.0.1", "[::1]", "0.0.0.0"])
def test_somebody_elses_localhost_ends_the_start_and_leaves_nothing(address: str) -> None:
    family, theirs = (socket.AF_INET, "127.0.0.1") if ":" in address else (socket.AF_INET6, "::1")
    with socket.socket(family) as other:
        other.bind((theirs, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AgentError) as raised:
            bind_tcp(f"{address}:{port}")
        assert raised.value.code is ErrorCode.CONFIG_INVALID
        shown = f"[{theirs}]" if ":" in theirs else theirs
        assert f"{shown}:{port}: Address already in use; 'ss -ltnp'" in raised.value.detail
    with ExitStack() as stack:
        assert len(closing(stack, bind_tcp(f"{address}:{port}"))) == 2


def test_a_free_port_is_free_at_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that the kernel gives is another program's at [::1]."""
    real = handover._listen
    ports: list[int] = []

    def listen(host: str, port: int, backlog: int) -> socket.socket:
        if host == "::1" and len(ports) < 3:
            ports.append(port)
            raise OSError(errno.EADDRINUSE, "in use", f"[::1]:{port}")
        return real(host, port, backlog)

    monkeypatch.setattr(handover, "_listen", listen)
    with ExitStack() as stack:
        listeners = closing(stack, bind_tcp("127.0.0.1:0"))
        assert names(listeners) == ["127.0.0.1", "::1"]
    assert len(ports) == 3


def test_a_free_port_is_not_looked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    real = handover._listen
    tries: list[str] = []

    def listen(host: str, port: int, backlog: int) -> socket.socket:
        tries.append(host)
        if host == "::1":
            raise OSError(errno.EADDRINUSE, "in use", f"[::1]:{port}")
        return real(host, port, backlog)

    monkeypatch.setattr(handover, "_listen", listen)
    with pytest.raises(AgentError):
        bind_tcp("127.0.0.1:0")
    assert len(tries) == 2 * handover.FREE_PORT_TRIES


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_there_is_one(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = handover._listen

    def listen(host: str, port: int, backlog: int) -> socket.socket:
        if ":" in host:
            raise OSError(number, "no", host)
        return real(host, port, backlog)

    monkeypatch.setattr(handover, "_listen", listen)
    with ExitStack() as stack:
        listeners = closing(stack, bind_tcp("127.0.0.1:0"))
        assert names(listeners) == ["127.0.0.1"]
        assert handover.unheld(listeners) == [("::1", listeners[0].getsockname()[1])]


async def test_a_daemon_answers_at_both_and_asks_itself_at_both() -> None:
    async with playground() as place:
        first, second = place.daemon.addresses().rest
        assert first == place.rest
        assert second == first.replace("127.0.0.1", "[::1]")
        place.kbs.put("default/key/1", b"value")
        for url in (first, second, first.replace("127.0.0.1", "localhost")):
            assert (await http(f"{url}/cdh/resource/default/key/1")).body == b"value"
    for url in (first, second):
        with pytest.raises(OSError, match=r"refused|Connect call failed"):
            await http(f"{url}/healthz")


async def test_both_are_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they share bounds and request slots, and the time in which requests under way may end."""
    made: list[tuple[socket.socket, ...]] = []

    async def serve(app: App, *socks: socket.socket, **more: Any) -> Running:
        made.append(socks)
        return await listen.serve(app, *socks, **more)

    monkeypatch.setattr(gateway, "serve", serve)
    async with playground():
        assert [[sock.family for sock in socks] for socks in made] == [[socket.AF_INET, socket.AF_INET6]]
    assert all(sock.fileno() < 0 for socks in made for sock in socks)


async def in_a_network_of_its_own(prepare: str, code: str) -> tuple[str, str]:
    """What code says in a network namespace with no more than ``lo``."""
    try:
        script = f'ip link set lo up && {prepare} && exec "$@"'
        process = await asyncio.create_subprocess_exec(
            "unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",)),
            "sh", "-c", script, "sh", sys.executable, "-c", code,
            cwd=PROJECT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs unshare")
    output, errors = await process.communicate()
    if process.returncode and b"unshare: " in errors:
        pytest.skip("needs network namespaces")
    assert process.returncode == 0, errors
    return output.decode(), errors.decode()


@pytest.mark.parametrize(
    "prepare",
    ["echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6", "ip address del ::1/128 dev lo"],
)
async def test_where_ipv6_is_off_it_goes_on_with_a_line_in_the_log(prepare: str) -> None:
    output, errors = await in_a_network_of_its_own(prepare, SERVE)
    status, url = output.split()
    assert status == "200"
    [line] = [line for line in errors.splitlines() if "no such address" in line]
    assert url.replace("127.0.0.1", "[::1]") in line


async def test_where_ipv6_is_on_there_is_no_such_line() -> None:
    output, errors = await in_a_network_of_its_own("true", SERVE)
    assert len(output.split()) == 3
    assert "no such address" not in errors


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listening(host: str, *, only: bool = False) -> socket.socket:
    """As systemd makes one."""
    made = socket.socket(family_of(host))
    if ":" in host:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only))
    made.bind((host, 0))
    made.listen()
    return made


@pytest.mark.parametrize(
    ("host", "only", "twin"),
    [
        ("127.0.0.1", False, ["::1"]),
        ("0.0.0.0", False, ["::1"]),
        ("::1", False, ["127.0.0.1"]),
        ("::", True, ["127.0.0.1"]),
        ("::", False, []),
        ("127.0.0.9", False, []),
    ],
)
def test_what_systemd_opened_is_completed(host: str, only: bool, twin: list[str]) -> None:
    with ExitStack() as stack:
        given = stack.enter_context(listening(host, only=only))
        listeners = with_twins([given])
        closing(stack, listeners[1:])
        assert listeners[0] is given
        assert names(listeners[1:]) == twin
        assert handover.unheld(listeners) == []
        assert with_twins(listeners) == listeners
        if twin:
            with pytest.raises(AgentError, match="cannot be bound"):
                with_twins([given])


@pytest.mark.parametrize("both", [True, False])
async def test_a_program_serves_what_systemd_opened(tmp_path: Path, both: bool) -> None:
    with ExitStack() as stack:
        listeners = closing(stack, handover.listen_tcp("127.0.0.1", 0, 5))
        port = listeners[0].getsockname()[1]
        if not both:
            listeners.pop().close()
        numbers = [listener.fileno() for listener in listeners]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-Ic", ACTIVATE, ",".join(map(str, numbers)), str(BIN / "api-server-rest"),
            cwd=tmp_path, env=CLEAN_ENVIRONMENT, pass_fds=numbers, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for host in ("127.0.0.1", "[::1]"):
                assert (await until_answered(f"http://{host}:{port}/healthz")) == 200
        finally:
            process.terminate()
            assert await process.wait() == 0


async def until_answered(url: str) -> int:
    """The status; a socket of systemd's accepts at once, one of the program's when it is made."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await http(url)).status
            except OSError:
                await asyncio.sleep(0.02)


async def test_the_gateways_launcher_says_which_address_is_taken() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, _, errors = await run("api-server-rest", "--bind", f"127.0.0.1:{port}")
        assert status == 1
        assert f"[::1]:{port}: Address already in use" in errors
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, there:
            verb, code, text = _bind(here, [b"bind", b"127.0.0.1", str(port).encode(), b"5"])
    assert (verb, code) == (b"fail", b"1")
    assert f"[::1]:{port}: Address already in use; 'ss -ltnp'" in text.decode()


async def test_a_gateway_alone_holds_both(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with program(tmp_path.resolve(), "api-server-rest", "--bind", f"[::1]:{port}"):
        for host in ("127.0.0.1", "[::1]"):
            assert (await until_answered(f"http://{host}:{port}/healthz")) == 200
