from __future__ import annotations

import contextlib
import os
import socket
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from agent.errors import AgentError, ErrorCode
from agent.serve.activation import take_listeners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NAMES = "attestation-agent:confidential-data-hub:api-server-rest"
PID = 42

Pass = "Callable[..., Mapping[str, Sequence[socket.socket]]]"


def unix_listener() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0coco-{os.urandom(6).hex()}")
    sock.listen()
    return sock


def tcp_listener(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.listen()  # a free port of its own
    return sock


@pytest.fixture
def hand_over() -> Iterator[Callable[..., Mapping[str, Sequence[socket.socket]]]]:
    """Play systemd: sockets at consecutive numbers, inheritable. What nobody took is closed at the end."""
    first = 200
    results: list[Mapping[str, Sequence[socket.socket]]] = []

    def give(
        *sockets: socket.socket | int, names: str, count: str | None = None, pid: str = str(PID)
    ) -> Mapping[str, Sequence[socket.socket]]:
        for number, given in enumerate(sockets, first):
            os.dup2(given if isinstance(given, int) else given.fileno(), number, inheritable=True)
            if not isinstance(given, int):
                given.close()
        environ = {
            "LISTEN_PID": pid,
            "LISTEN_FDS": str(len(sockets)) if count is None else count,
            "LISTEN_FDNAMES": names,
            "PATH": "/bin",
        }
        try:
            results.append(take_listeners(environ, PID, first=first))
        finally:
            assert environ == {"PATH": "/bin"}
        return results[-1]

    yield give
    for result in results:
        for sock in chain(*result.values()):
            sock.close()
    for number in range(first, first + 8):
        with contextlib.suppress(OSError):
            os.close(number)


def refusal(given: Callable[[], object]) -> str:
    with pytest.raises(AgentError) as caught:
        given()
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    return caught.value.detail


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_three_sockets_come_with_their_names(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    taken = hand_over(unix_listener(), unix_listener(), tcp_listener(socket.AF_INET6), names=NAMES)
    assert list(taken) == NAMES.split(":")
    assert [[sock.fileno() for sock in each] for each in taken.values()] == [[200], [201], [202]]
    assert taken["api-server-rest"][0].family is socket.AF_INET6
    for sock in chain(*taken.values()):
        assert not sock.get_inheritable()
        assert not sock.getblocking()


def test_they_accept(hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]]) -> None:
    taken = hand_over(tcp_listener(), names="api-server-rest")
    [listener] = taken["api-server-rest"]
    with socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client:
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"x")
            assert client.recv(1) == b"x"


def test_the_mapping_cannot_be_changed(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    taken = hand_over(unix_listener(), names="attestation-agent")
    with pytest.raises(TypeError):
        taken["confidential-data-hub"] = taken["attestation-agent"]  # type: ignore[index]


def test_without_activation_there_is_nothing() -> None:
    assert take_listeners({"PATH": "/bin"}, PID) == {}


@pytest.mark.parametrize("pid", ["43", "", "x"])
def test_sockets_of_another_process_are_not_touched(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]], pid: str
) -> None:
    assert hand_over(unix_listener(), names="attestation-agent", pid=pid) == {}
    assert is_open(200)
    assert os.get_inheritable(200)


@pytest.mark.parametrize("count", ["5", "1000000000", "99999999999999999999", "-1", "two", "٢", "1 "])
def test_the_number_is_bounded_before_anything_is_touched(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]], count: str
) -> None:
    assert "LISTEN_FDS" in refusal(lambda: hand_over(unix_listener(), names=NAMES, count=count))
    assert os.get_inheritable(200)


def test_an_unknown_name_is_refused(hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]]) -> None:
    detail = refusal(lambda: hand_over(unix_listener(), names="x\x1b[31m"))
    assert "FileDescriptorName=" in detail
    assert "\x1b" not in detail
    assert not is_open(200)


def test_two_of_a_name_are_refused(hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]]) -> None:
    both = "api-server-rest:api-server-rest"
    assert "two sockets" in refusal(lambda: hand_over(tcp_listener(), tcp_listener(), names=both))
    assert not is_open(200)
    assert not is_open(201)
    hubs = "confidential-data-hub:confidential-data-hub"
    assert "two sockets" in refusal(lambda: hand_over(unix_listener(), unix_listener(), names=hubs))


def test_rest_may_have_one_of_each_family(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    names = f"{NAMES}:api-server-rest"
    sockets = [unix_listener(), unix_listener(), tcp_listener(), tcp_listener(socket.AF_INET6)]
    taken = hand_over(*sockets, names=names)
    assert [sock.fileno() for sock in taken["api-server-rest"]] == [202, 203]
    assert [sock.family for sock in taken["api-server-rest"]] == [socket.AF_INET, socket.AF_INET6]


@pytest.mark.parametrize("names", ["", NAMES])
def test_every_socket_needs_its_name(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]], names: str
) -> None:
    assert "FileDescriptorName=" in refusal(lambda: hand_over(unix_listener(), names=names))


def test_another_family_is_refused(hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]]) -> None:
    # The hub's secrets on a TCP port would be for everybody in the pod.
    assert "AF_UNIX" in refusal(lambda: hand_over(tcp_listener(), names="confidential-data-hub"))
    assert "AF_INET" in refusal(lambda: hand_over(unix_listener(), names="api-server-rest"))


def test_a_socket_that_does_not_listen_is_refused(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    connected, other = socket.socketpair()
    with other:
        detail = refusal(lambda: hand_over(connected, names="attestation-agent"))
    assert "Accept=no" in detail


def test_a_datagram_socket_is_refused(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    assert "stream" in refusal(lambda: hand_over(datagrams, names="attestation-agent"))


def test_a_file_is_refused(hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]]) -> None:
    with open(os.devnull) as file:  # noqa: PTH123
        number = file.fileno()
        assert "not a socket" in refusal(lambda: hand_over(number, names="attestation-agent"))


def test_a_number_without_a_descriptor_is_refused(
    hand_over: Callable[..., Mapping[str, Sequence[socket.socket]]],
) -> None:
    assert "not a socket" in refusal(lambda: hand_over(names="attestation-agent", count="1"))
