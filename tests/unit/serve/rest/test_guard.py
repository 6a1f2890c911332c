"""Who is served."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Gateway
from agent.serve.rest.guard import Peer, is_loopback, is_own_host, peer_of
from tests.unit.serve.rest.parts import Gate

OWN = [
    "127.0.0.1",
    "127.0.0.1:8006",
    "127.255.255.254:1",
    "localhost",
    "LocalHost:8006",
    "LOCALHOST",
    "localhost.",
    "LocalHost.:8006",
    "[::1]",
    "[::1]:8006",
    "[0:0:0:0:0:0:0:1]:65535",
]
FOREIGN = [
    "",
    "evil.com",
    "127.0.0.1.evil.com",
    "127.0.0.1.evil.com:8006",
    "localhost.evil",
    "evil.localhost",
    "localhost..",
    "localhost.evil.",
    ".",
    ".localhost",
    "127.0.0.1@evil",
    "evil@127.0.0.1",
    "127.0.0.1:8006@evil.com",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.1:",
    "localhost:",
    "localhost.:",
    "localhost%00",
    "localhost\\",
    "127.0.0.1:x",
    "127.0.0.1:65536",
    "127.0.0.1:8006:8006",
    "127.0.0.1 ",
    "127.0.0.1, evil.com",
    "127.0.0.1/evil.com",
    "0.0.0.0",
    "10.0.0.1",
    "128.0.0.1",
    "[::]",
    "[::2]",
    "::1",
    "[::1%lo]",
    "[::1%25lo]",
    "[::1].",
    "[::1",
    "[::ffff:127.0.0.1]",
    "[127.0.0.1]",
    "localhost\n",
    "\u0661\u0662\u0667.0.0.1",
    "loc\u0430lhost",
]


@pytest.mark.parametrize("host", OWN)
async def test_loopback_names_are_served(host: str) -> None:
    assert (await Gate().ask("GET", "/info", host=host)).status == 200


@pytest.mark.parametrize("host", FOREIGN)
async def test_other_names_and_look_alikes_are_refused(host: str) -> None:
    answer = await Gate().ask("GET", "/info", host=host)
    assert (answer.status, answer.body, answer.close) == (403, b"Forbidden", True)


async def test_extra_hosts_are_exact_but_for_case_and_port() -> None:
    made = Gate(Gateway(extra_hosts=("Agent.Pod", "[fd00::1]")))
    for host in ("agent.pod", "AGENT.POD:9", "agent.pod.", "[fd00::1]:8006"):
        assert (await made.ask("GET", "/info", host=host)).status == 200
    for host in ("x.agent.pod", "agent.pod.x", "agent-pod", "agent.pod..", "[fd00::2]"):
        assert (await made.ask("GET", "/info", host=host)).status == 403


async def test_exactly_one_host_header_also_in_http_1_0() -> None:
    made = Gate()
    for version in ((1, 0), (1, 1)):
        for target in ("/info", "http://127.0.0.1:8006/info"):
            assert (await made.ask("GET", target, host=None, version=version)).status == 400
    assert (await made.ask("GET", "/info", version=(1, 0))).status == 200
    assert (await made.ask("GET", "/info", host="evil.com", version=(1, 0))).status == 403
    for version in ((0, 9), (2, 0), (1, 2)):
        assert (await made.ask("GET", "/info", version=version)).status == 400
    twice = await made.ask("GET", "/info", [("Host", "127.0.0.1")])
    assert (twice.status, twice.body) == (400, b"BAD REQUEST")


@pytest.mark.parametrize("host", OWN)
async def test_a_target_may_name_this_guest(host: str) -> None:
    for scheme in ("http", "HTTP"):
        for rest in ("/info", "/info?x"):
            assert (await Gate().ask("GET", f"{scheme}://{host}{rest}")).status == 200


@pytest.mark.parametrize(
    "host", [*(host for host in FOREIGN if "/" not in host), "user@localhost", ":@[::1]"]
)
async def test_a_target_that_names_another_host_is_refused(host: str) -> None:
    answer = await Gate().ask("GET", f"http://{host}/info")
    assert (answer.status, answer.body, answer.close) == (403, b"Forbidden", True)


async def test_host_and_target_both_have_to_name_this_guest() -> None:
    made = Gate(Gateway(extra_hosts=("agent.pod",)))
    assert (await made.ask("GET", "http://agent.pod/info", host="localhost")).status == 200
    assert (await made.ask("GET", "http://localhost/info", host="evil.com")).status == 403
    assert (await made.ask("GET", "http://evil.com/info", host="localhost")).status == 403


async def test_a_target_without_a_path_is_the_root() -> None:
    for target in ("http://localhost", "http://localhost?x=1", "http://localhost/"):
        assert (await Gate().ask("GET", target)).body == b"URL NOT FOUND"


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "x-forwarded-host",
        "X-FORWARDED-PROTO",
        "X-Forwarded-Anything",
        "X_Forwarded_For",
        "Via",
        "X-Real-IP",
        "X-Client-IP",
        "x_client_ip",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Envoy-External-Address",
    ],
)
async def test_forwarded_requests_are_refused(name: str) -> None:
    for value in ("127.0.0.1", ""):
        answer = await Gate().ask("GET", "/info", [(name, value)])
        assert (answer.status, answer.body) == (403, b"Forbidden")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Origin", "http://localhost:3000")], 200),
        ([("Origin", "http://localhost.:3000")], 200),
        ([("Origin", "http://127.0.0.1:8006"), ("Sec-Fetch-Site", "same-origin")], 200),
        ([("Sec-Fetch-Site", "none")], 200),
        ([("Origin", "https://evil.com")], 403),
        ([("Origin", "http://localhost.evil.com")], 403),
        ([("Origin", "http://localhost..")], 403),
        ([("Origin", "http://user@localhost")], 403),
        ([("Origin", "null")], 403),
        ([("Origin", "")], 403),
        ([("Origin", "file://")], 403),
        ([("Origin", "http://localhost"), ("Origin", "http://evil.com")], 403),
        ([("Sec-Fetch-Site", "cross-site")], 403),
        ([("Sec-Fetch-Site", "Cross-Site")], 403),
        ([("Sec-Fetch-Site", "new-word")], 403),
    ],
)
async def test_pages_of_other_sites_are_refused(headers: list[tuple[str, str]], status: int) -> None:
    assert (await Gate().ask("GET", "/info", headers)).status == status


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.255.255.255", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:127.9.9.9", True),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("::127.0.0.1", False),
        ("", False),
        ("localhost", False),
    ],
)
def test_1_2_loopback_peers(address: str, local: bool) -> None:
    assert is_loopback(address) is local


class Transport:
    """What asyncio knows about a connection."""

    def __init__(self, family: int | None, peername: object) -> None:
        self.info = {"peername": peername, "socket": self if family is not None else None}
        self.family = family

    def get_extra_info(self, name: str) -> object:
        return self.info[name]


@pytest.mark.parametrize(
    ("family", "peername", "peer"),
    [
        (socket.AF_INET, ("127.0.0.1", 5), Peer(local=True, label="127.0.0.1:5")),
        (socket.AF_INET, ("10.0.0.1", 5), Peer(local=False, label="10.0.0.1:5")),
        (socket.AF_INET6, ("::1", 5, 0, 0), Peer(local=True, label="[::1]:5")),
        (socket.AF_INET6, ("fe80::1%eth0", 5, 0, 2), Peer(local=False, label="[fe80::1%eth0]:5")),
        (socket.AF_INET, None, Peer(local=False, label="unknown")),
        (socket.AF_INET, "127.0.0.1", Peer(local=False, label="unknown")),
        (None, None, Peer(local=False, label="unknown")),
    ],
)
def test_a_peer_that_cannot_be_named_is_not_local(family: int | None, peername: object, peer: Peer) -> None:
    assert peer_of(Transport(family, peername)) == peer  # type: ignore[arg-type]
    assert not peer_of(None).local


@given(st.text(max_size=80) | st.from_regex(r"[0-9a-fx.:\[\]@%a-z-]{0,40}", fullmatch=True))
def test_any_host_text_is_judged_and_suffixes_never_help(text: str) -> None:
    assert is_own_host(text, ()) in {True, False}
    assert not is_own_host(text + ".evil.com", ())
    assert not is_own_host("evil" + text, ())


@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_any_peer_text_is_judged(text: str) -> None:
    assert is_loopback(text) in {True, False}
